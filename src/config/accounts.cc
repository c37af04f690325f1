#include "posthouse/config/accounts.h"

#include <errno.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/text.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

using config_internal::Quoted;

// The look-up functions say that their buffer is too small until it is not; a group with more
// members than fit into this is refused.
constexpr size_t kFirstBuffer = 1 << 10;
constexpr size_t kLastBuffer = 1 << 20;

// `look_up(buffer, size)` returns an error number and leaves its result where it likes.
template <typename LookUp>
int WithGrowingBuffer(std::vector<char>* buffer, LookUp look_up) {
  int error = ERANGE;
  for (size_t size = kFirstBuffer; error == ERANGE && size <= kLastBuffer; size *= 2) {
    buffer->resize(size);
    error = look_up(buffer->data(), size);
  }
  return error;
}

absl::StatusOr<UserAccount> UserResult(int error, const passwd* found, absl::string_view what) {
  if (found != nullptr) return UserAccount{found->pw_name, found->pw_uid, found->pw_gid};
  // Several "not found" answers of look-up services come as error numbers; none of them is an
  // account.
  if (error == 0 || error == ENOENT || error == ESRCH) {
    return absl::NotFoundError(absl::StrCat(what, " does not exist"));
  }
  return absl::ErrnoToStatus(error, absl::StrCat("look-up of ", what));
}

absl::StatusOr<GroupAccount> GroupResult(int error, const group* found, absl::string_view what) {
  if (found != nullptr) return GroupAccount{found->gr_name, found->gr_gid};
  if (error == 0 || error == ENOENT || error == ESRCH) {
    return absl::NotFoundError(absl::StrCat(what, " does not exist"));
  }
  return absl::ErrnoToStatus(error, absl::StrCat("look-up of ", what));
}

class AccountCheck {
 public:
  // A user that may do nothing special. Both numbers stay 0 when it is not usable.
  UserAccount User(absl::string_view parameter, const std::string& name) {
    const absl::StatusOr<UserAccount> user = FindUser(name);
    if (!user.ok()) {
      Add(parameter, name, user.status().message());
      return {};
    }
    if (user->uid == 0) Add(parameter, name, "the user has privileged user id 0");
    if (user->gid == 0) Add(parameter, name, "the user has privileged group id 0");
    return *user;
  }

  GroupAccount Group(absl::string_view parameter, const std::string& name) {
    const absl::StatusOr<GroupAccount> group = FindGroup(name);
    if (!group.ok()) {
      Add(parameter, name, group.status().message());
      return {};
    }
    if (group->gid == 0) Add(parameter, name, "the group has privileged group id 0");
    return *group;
  }

  // No other account may be returned for the same number.
  void UserIsAlone(absl::string_view parameter, const UserAccount& user) {
    if (user.uid == 0) return;
    const absl::StatusOr<UserAccount> same = FindUserById(user.uid);
    if (!same.ok()) {
      Add(parameter, user.name, same.status().message());
    } else if (same->name != user.name) {
      Add(parameter, user.name,
          absl::StrCat("user ", Quoted(same->name), " has the same user id ", user.uid));
    }
  }

  void GroupIsAlone(absl::string_view parameter, const GroupAccount& group) {
    if (group.gid == 0) return;
    const absl::StatusOr<GroupAccount> same = FindGroupById(group.gid);
    if (!same.ok()) {
      Add(parameter, group.name, same.status().message());
    } else if (same->name != group.name) {
      Add(parameter, group.name,
          absl::StrCat("group ", Quoted(same->name), " has the same group id ", group.gid));
    }
  }

  void Differ(absl::string_view a, absl::string_view b, absl::string_view what, id_t first,
              id_t second) {
    if (first == 0 || first != second) return;
    problems_.push_back(
        absl::StrCat("parameters ", a, " and ", b, ": both have the same ", what, " ", first));
  }

  void Add(absl::string_view parameter, absl::string_view name, absl::string_view sentence) {
    problems_.push_back(
        absl::StrCat("parameter ", parameter, ": value ", Quoted(name), ": ", sentence));
  }

  std::vector<std::string> Take() { return std::move(problems_); }

 private:
  std::vector<std::string> problems_;
};

}  // namespace

absl::StatusOr<UserAccount> FindUser(const std::string& name) {
  std::vector<char> buffer;
  passwd entry = {};
  passwd* found = nullptr;
  const int error = WithGrowingBuffer(&buffer, [&](char* data, size_t size) {
    return os::GetpwnamR(name.c_str(), &entry, data, size, &found);
  });
  return UserResult(error, found, absl::StrCat("user ", Quoted(name)));
}

absl::StatusOr<UserAccount> FindUserById(uid_t uid) {
  std::vector<char> buffer;
  passwd entry = {};
  passwd* found = nullptr;
  const int error = WithGrowingBuffer(&buffer, [&](char* data, size_t size) {
    return os::GetpwuidR(uid, &entry, data, size, &found);
  });
  return UserResult(error, found, absl::StrCat("user id ", uid));
}

absl::StatusOr<GroupAccount> FindGroup(const std::string& name) {
  std::vector<char> buffer;
  group entry = {};
  group* found = nullptr;
  const int error = WithGrowingBuffer(&buffer, [&](char* data, size_t size) {
    return os::GetgrnamR(name.c_str(), &entry, data, size, &found);
  });
  return GroupResult(error, found, absl::StrCat("group ", Quoted(name)));
}

absl::StatusOr<GroupAccount> FindGroupById(gid_t gid) {
  std::vector<char> buffer;
  group entry = {};
  group* found = nullptr;
  const int error = WithGrowingBuffer(&buffer, [&](char* data, size_t size) {
    return os::GetgrgidR(gid, &entry, data, size, &found);
  });
  return GroupResult(error, found, absl::StrCat("group id ", gid));
}

std::vector<std::string> AccountProblems(const std::string& mail_owner,
                                         const std::string& default_privs,
                                         const std::string& setgid_group) {
  AccountCheck check;
  const UserAccount owner = check.User("mail_owner", mail_owner);
  check.UserIsAlone("mail_owner", owner);
  const UserAccount privs = check.User("default_privs", default_privs);
  const GroupAccount group = check.Group("setgid_group", setgid_group);
  check.GroupIsAlone("setgid_group", group);
  if (mail_owner == default_privs) {
    check.Add("default_privs", default_privs, "the same as parameter mail_owner");
  } else {
    check.Differ("mail_owner", "default_privs", "user id", owner.uid, privs.uid);
    check.Differ("mail_owner", "default_privs", "group id", owner.gid, privs.gid);
  }
  check.Differ("mail_owner", "setgid_group", "group id", owner.gid, group.gid);
  check.Differ("default_privs", "setgid_group", "group id", privs.gid, group.gid);
  return check.Take();
}

}  // namespace posthouse

#include "posthouse/master/effective_owner.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

absl::Status OwnerError(absl::string_view call, const FileOwner& owner) {
  return absl::ErrnoToStatus(
      errno, absl::StrCat(call, " to become user ", owner.uid, " group ", owner.gid));
}

// How far a change has come. The groups come first: with another effective user they could not be
// changed any more.
enum class Step { kNothing, kGroup, kGroupList, kUser };

absl::Status Change(const FileOwner& owner, Step* done) {
  if (os::Setegid(owner.gid) != 0) return OwnerError("setegid", owner);
  *done = Step::kGroup;
  if (os::Setgroups(1, &owner.gid) != 0) return OwnerError("setgroups", owner);
  *done = Step::kGroupList;
  if (os::Seteuid(owner.uid) != 0) return OwnerError("seteuid", owner);
  *done = Step::kUser;
  return absl::OkStatus();
}

void ComeBack(Step from) {
  const int error = errno;
  const gid_t gid = os::Getgid();
  if (from >= Step::kUser) {
    POSTHOUSE_CHECK(os::Seteuid(os::Getuid()) == 0, "a process may become its real user again");
  }
  if (from >= Step::kGroup) {
    POSTHOUSE_CHECK(os::Setegid(gid) == 0, "root may become its real group again");
  }
  if (from >= Step::kGroupList) {
    POSTHOUSE_CHECK(os::Setgroups(1, &gid) == 0, "root may set its list of groups");
  }
  errno = error;
}

}  // namespace

absl::Status EffectiveOwner::Become(const FileOwner& owner) {
  POSTHOUSE_CHECK(!changed_, "an EffectiveOwner becomes one owner");
  if (!owner.change) return absl::OkStatus();
  // Who is not root could not come back; it is refused before anything is changed.
  if (os::Geteuid() != 0 || os::Getuid() != 0) {
    errno = EPERM;
    return OwnerError("only root is able", owner);
  }
  Step done = Step::kNothing;
  absl::Status status = Change(owner, &done);
  changed_ = status.ok();
  if (!status.ok()) ComeBack(done);
  return status;
}

EffectiveOwner::~EffectiveOwner() {
  if (changed_) ComeBack(Step::kUser);
}

std::string WhyNotOwn(const struct stat& file) {
  if (!S_ISREG(file.st_mode)) return "it is no regular file";
  if (file.st_nlink > 1) return "it has more than one name";
  if (file.st_uid != os::Geteuid()) return absl::StrCat("it belongs to user ", file.st_uid);
  if ((file.st_mode & (S_IWGRP | S_IWOTH)) != 0) return "others can write to it";
  return "";
}

}  // namespace posthouse

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

// The groups first: with another effective user they could not be changed any more.
absl::Status Change(const FileOwner& owner) {
  if (os::Setegid(owner.gid) != 0) return OwnerError("setegid", owner);
  if (os::Setgroups(1, &owner.gid) != 0) return OwnerError("setgroups", owner);
  if (os::Seteuid(owner.uid) != 0) return OwnerError("seteuid", owner);
  return absl::OkStatus();
}

void ComeBack() {
  const int error = errno;
  const uid_t uid = os::Getuid();
  const gid_t gid = os::Getgid();
  POSTHOUSE_CHECK(os::Seteuid(uid) == 0, "a process may become its real user again");
  POSTHOUSE_CHECK(os::Setegid(gid) == 0, "root may become its real group again");
  POSTHOUSE_CHECK(os::Setgroups(1, &gid) == 0, "root may set its list of groups");
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
  absl::Status status = Change(owner);
  if (!status.ok()) {
    ComeBack();
    return status;
  }
  changed_ = true;
  return absl::OkStatus();
}

EffectiveOwner::~EffectiveOwner() {
  if (changed_) ComeBack();
}

}  // namespace posthouse

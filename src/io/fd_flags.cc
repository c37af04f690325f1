#include "posthouse/io/fd_flags.h"

#include <fcntl.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

absl::StatusOr<int> GetFlags(int fd, int command) {
  const int flags = os::Fcntl(fd, command, 0);
  if (flags < 0) return absl::ErrnoToStatus(errno, absl::StrCat("fcntl on descriptor ", fd));
  return flags;
}

// Changes one bit of the word that `get` reads and `set` writes, if it is not right already.
absl::Status ChangeFlag(int fd, int get, int set, int flag, bool wanted) {
  absl::StatusOr<int> flags = GetFlags(fd, get);
  if (!flags.ok()) return flags.status();
  const int changed = wanted ? *flags | flag : *flags & ~flag;
  if (changed == *flags) return absl::OkStatus();
  if (os::Fcntl(fd, set, changed) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("fcntl on descriptor ", fd));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SetBlocking(int fd) { return ChangeFlag(fd, F_GETFL, F_SETFL, O_NONBLOCK, false); }

absl::Status SetNonBlocking(int fd) { return ChangeFlag(fd, F_GETFL, F_SETFL, O_NONBLOCK, true); }

absl::StatusOr<bool> IsNonBlocking(int fd) {
  absl::StatusOr<int> flags = GetFlags(fd, F_GETFL);
  if (!flags.ok()) return flags.status();
  return (*flags & O_NONBLOCK) != 0;
}

absl::Status SetCloseOnExec(int fd, bool close_on_exec) {
  return ChangeFlag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, close_on_exec);
}

absl::StatusOr<bool> IsCloseOnExec(int fd) {
  absl::StatusOr<int> flags = GetFlags(fd, F_GETFD);
  if (!flags.ok()) return flags.status();
  return (*flags & FD_CLOEXEC) != 0;
}

}  // namespace posthouse

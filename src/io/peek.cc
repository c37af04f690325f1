#include "posthouse/io/peek.h"

#include <sys/ioctl.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {

absl::StatusOr<int> BytesReadable(int fd) {
  int count = 0;
  if (os::Ioctl(fd, FIONREAD, &count) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("ioctl FIONREAD on descriptor ", fd));
  }
  return count;
}

}  // namespace posthouse

#include "posthouse/io/unique_fd.h"

#include <cerrno>

namespace posthouse {

void UniqueFd::Reset(int fd) {
  const int old = fd_;
  fd_ = fd;
  if (old < 0) return;
  const int saved_errno = errno;
  os::Close(old);
  errno = saved_errno;
}

}  // namespace posthouse

#include "posthouse/io/fd_threshold.h"

#include <fcntl.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {

absl::Status RaiseDescriptor(const FdThreshold& threshold, UniqueFd& fd) {
  if (threshold.backend_is_select || fd.get() >= threshold.lowest) return absl::OkStatus();
  const int raised = os::Fcntl(fd.get(), F_DUPFD_CLOEXEC, threshold.lowest);
  if (raised < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("fcntl F_DUPFD_CLOEXEC of descriptor ", fd.get(),
                                                   " to ", threshold.lowest, " or above"));
  }
  fd.Reset(raised);
  return absl::OkStatus();
}

}  // namespace posthouse

// Keeps low descriptor numbers free for libraries that use select(2): a client's descriptor below
// the threshold is moved to the lowest free number that is not (S43).
//
//   absl::Status moved = RaiseDescriptor(FdThreshold{.backend_is_select = false}, client_fd);
//   if (!moved.ok()) log it; client_fd is as it was and still good (SO4, F35)
//
// Thread: any. Errors: EMFILE (no free number above) and EINVAL (the soft limit is not above the
// threshold) as the status of fcntl(2); the caller goes on with the low number.

#ifndef POSTHOUSE_IO_FD_THRESHOLD_H_
#define POSTHOUSE_IO_FD_THRESHOLD_H_

#include "absl/status/status.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

inline constexpr int kDefaultFdThreshold = 128;

struct FdThreshold {
  // 0 moves nothing.
  int lowest = kDefaultFdThreshold;
  // With the select backend nothing is moved: it needs the low numbers itself.
  bool backend_is_select = false;
};

// After OK `fd` holds the number to use and the only copy. The new one is close-on-exec from the
// start; the mode of the open file is the same. On failure nothing has changed.
absl::Status RaiseDescriptor(const FdThreshold& threshold, UniqueFd& fd);

}  // namespace posthouse

#endif  // POSTHOUSE_IO_FD_THRESHOLD_H_

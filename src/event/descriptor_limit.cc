#include "posthouse/event/descriptor_limit.h"

#include <errno.h>

#include <algorithm>
#include <climits>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// RLIM_INFINITY is the largest rlim_t on every system.
int Bounded(rlim_t limit) { return static_cast<int>(std::min<rlim_t>(limit, INT_MAX)); }

}  // namespace

absl::StatusOr<int> DescriptorLimit() {
  rlimit limit = {};
  if (os::Getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return absl::ErrnoToStatus(errno, "getrlimit RLIMIT_NOFILE");
  }
  return Bounded(limit.rlim_cur);
}

absl::StatusOr<int> RaiseDescriptorLimit(int64_t wanted) {
  rlimit limit = {};
  if (os::Getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return absl::ErrnoToStatus(errno, "getrlimit RLIMIT_NOFILE");
  }
  const rlim_t target = std::min(limit.rlim_max, static_cast<rlim_t>(std::max<int64_t>(wanted, 0)));
  if (target <= limit.rlim_cur) return Bounded(limit.rlim_cur);
  limit.rlim_cur = target;
  if (os::Setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return absl::ErrnoToStatus(errno, "setrlimit RLIMIT_NOFILE");
  }
  return Bounded(target);
}

}  // namespace posthouse

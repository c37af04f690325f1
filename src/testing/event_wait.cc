#include "posthouse/testing/event_wait.h"

#include <poll.h>
#include <sys/wait.h>
#include <time.h>

#include <cerrno>
#include <cstdint>

namespace posthouse {
namespace {

// The real clock, whatever the answerer of the seam tells the library.
int64_t NowNanos() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

}  // namespace

bool WaitUntil(absl::FunctionRef<bool()> condition, absl::Duration bound) {
  const int64_t end = NowNanos() + absl::ToInt64Nanoseconds(bound);
  while (!condition()) {
    if (NowNanos() >= end) return false;
    const timespec grain = {0, 1000000};
    nanosleep(&grain, nullptr);
  }
  return true;
}

absl::optional<int> WaitForExit(pid_t pid, absl::Duration bound) {
  int status = 0;
  const bool ended = WaitUntil([&] { return waitpid(pid, &status, WNOHANG) == pid; }, bound);
  if (!ended) return absl::nullopt;
  return status;
}

bool WaitForEvents(int fd, short events, absl::Duration bound) {
  return WaitUntil(
      [&] {
        pollfd entry = {fd, events, 0};
        return poll(&entry, 1, 0) == 1;
      },
      bound);
}

}  // namespace posthouse

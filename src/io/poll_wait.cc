#include "posthouse/io/poll_wait.h"

#include <algorithm>
#include <cerrno>
#include <climits>

#include "absl/strings/str_cat.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr int64_t kNoDeadline = INT64_MAX;

// What is left until the deadline as a limit for poll(2), rounded up so that a wait never ends
// early, clamped to what an int holds; the caller then asks again.
int LimitMs(int64_t deadline_ns) {
  if (deadline_ns == kNoDeadline) return -1;
  const int64_t left_ns = deadline_ns - os::SteadyNanos();
  if (left_ns <= 0) return 0;
  const int64_t left_ms = left_ns / 1000000 + (left_ns % 1000000 != 0 ? 1 : 0);
  return static_cast<int>(std::min<int64_t>(left_ms, INT_MAX));
}

absl::Status PollError(int fd, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat("poll on descriptor ", fd));
}

}  // namespace

absl::Status WaitForFdUntil(int fd, short events, int64_t deadline_ns) {
  while (true) {
    const int limit_ms = LimitMs(deadline_ns);
    pollfd entry = {fd, events, 0};
    const int ready = os::Poll(&entry, 1, limit_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return PollError(fd, errno);
    if (ready > 0) {
      return (entry.revents & POLLNVAL) ? PollError(fd, EBADF) : absl::OkStatus();
    }
    if (limit_ms == 0) {
      return absl::DeadlineExceededError(absl::StrCat("descriptor ", fd, " was not ready in time"));
    }
  }
}

absl::Status WaitForFd(int fd, short events, absl::Duration limit) {
  if (limit == absl::InfiniteDuration()) return WaitForFdUntil(fd, events, kNoDeadline);
  const int64_t limit_ns = std::max<int64_t>(0, absl::ToInt64Nanoseconds(limit));
  const int64_t now_ns = os::SteadyNanos();
  const bool overflows = limit_ns > kNoDeadline - now_ns;
  return WaitForFdUntil(fd, events, overflows ? kNoDeadline : now_ns + limit_ns);
}

absl::StatusOr<short> PollNow(int fd, short events) {
  pollfd entry = {fd, events, 0};
  int ready;
  do {
    ready = os::Poll(&entry, 1, 0);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return PollError(fd, errno);
  if (entry.revents & POLLNVAL) return PollError(fd, EBADF);
  return entry.revents;
}

}  // namespace posthouse

// Waiting for one descriptor outside the event loop, with poll(2): for stream time limits and for
// programs without a loop (E69).
//
//   if (absl::Status ready = WaitForFd(fd, POLLIN, absl::Seconds(100)); !ready.ok()) ...
//
// OK: one of `events`, an error or a hang-up is there; the next read or write tells which.
// kDeadlineExceeded: the limit has passed. kFailedPrecondition: `fd` is not open (EBADF). Others:
// poll(2) failed. Signals do not end the wait and do not lengthen it.
//
// Thread: any.

#ifndef POSTHOUSE_IO_POLL_WAIT_H_
#define POSTHOUSE_IO_POLL_WAIT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace posthouse {

// A zero or negative `limit` looks once; absl::InfiniteDuration() waits as long as it takes.
absl::Status WaitForFd(int fd, short events, absl::Duration limit);

// As above, until the steady clock (os::SteadyNanos()) shows `deadline_ns`; INT64_MAX is no limit.
absl::Status WaitForFdUntil(int fd, short events, int64_t deadline_ns);

// What is true right now: the subset of `events` (plus POLLERR, POLLHUP) that holds; 0 for none.
absl::StatusOr<short> PollNow(int fd, short events);

}  // namespace posthouse

#endif  // POSTHOUSE_IO_POLL_WAIT_H_

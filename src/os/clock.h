// The clocks of the library, read through the seam.
//
// SteadyNanos() drives timers, limits and deadlines: it never steps. WallSeconds() is for people
// and other programs: log lines, files, the compatibility interface's event_time().
// ThreadCpuNanos() is what work has cost.
//
// Thread: any. Errors: none; a system without CLOCK_MONOTONIC cannot run posthouse.

#ifndef POSTHOUSE_OS_CLOCK_H_
#define POSTHOUSE_OS_CLOCK_H_

#include <cstdint>

#include "posthouse/os/os.h"

namespace posthouse::os {

// Nanoseconds since an arbitrary fixed moment.
inline int64_t SteadyNanos() {
  timespec now = {};
  ClockGettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// The same clock as of the kernel's latest tick: several times cheaper to read, never ahead of
// SteadyNanos(), and behind it by as much as a tick is old (1 to 10 ms). Where a system has no such
// clock it is SteadyNanos().
#if defined(CLOCK_MONOTONIC_COARSE)
inline constexpr clockid_t kCoarseClock = CLOCK_MONOTONIC_COARSE;
#elif defined(CLOCK_MONOTONIC_FAST)
inline constexpr clockid_t kCoarseClock = CLOCK_MONOTONIC_FAST;
#else
inline constexpr clockid_t kCoarseClock = CLOCK_MONOTONIC;
#endif
inline constexpr bool kCoarseClockLags = kCoarseClock != CLOCK_MONOTONIC;

inline int64_t CoarseSteadyNanos() {
  timespec now = {};
  ClockGettime(kCoarseClock, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// Nanoseconds of processor time that this thread has used. A system call, unlike the others.
inline int64_t ThreadCpuNanos() {
  timespec now = {};
  ClockGettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// Nanoseconds since the Unix epoch.
inline int64_t WallNanos() {
  timespec now = {};
  ClockGettime(CLOCK_REALTIME, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

inline int64_t WallSeconds() { return WallNanos() / 1000000000; }

}  // namespace posthouse::os

#endif  // POSTHOUSE_OS_CLOCK_H_

#include "bench/micro/shifted_clock.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#include <cstdint>

namespace bench {
namespace {

constexpr int64_t kNsPerSecond = 1000 * 1000 * 1000;

using ClockGettime = int (*)(clockid_t, timespec*);

// At file scope because clock_gettime() has nobody to get a context from. Constant initialisation:
// it is called before main().
ClockGettime real_clock_gettime = nullptr;
time_t shift_seconds = 0;
long shift_ns = 0;

int ReadRealClock(clockid_t clock, timespec* out) {
  if (__builtin_expect(real_clock_gettime == nullptr, 0)) {
    real_clock_gettime = reinterpret_cast<ClockGettime>(dlsym(RTLD_NEXT, "clock_gettime"));
    if (real_clock_gettime == nullptr) abort();
  }
  return real_clock_gettime(clock, out);
}

bool Shifts(clockid_t clock) {
  return clock != CLOCK_THREAD_CPUTIME_ID && clock != CLOCK_PROCESS_CPUTIME_ID;
}

int64_t Nanoseconds(const timespec& time) {
  return static_cast<int64_t>(time.tv_sec) * kNsPerSecond + time.tv_nsec;
}

}  // namespace

void ShiftClock(int64_t ns) {
  const int64_t sum = shift_seconds * kNsPerSecond + shift_ns + ns;
  shift_seconds = static_cast<time_t>(sum / kNsPerSecond);
  shift_ns = static_cast<long>(sum % kNsPerSecond);
}

int64_t ShiftedSteadyNs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return Nanoseconds(now);
}

int64_t RealSteadyNs() {
  timespec now = {};
  ReadRealClock(CLOCK_MONOTONIC, &now);
  return Nanoseconds(now);
}

}  // namespace bench

extern "C" int clock_gettime(clockid_t clock, timespec* out) noexcept {
  const int result = bench::ReadRealClock(clock, out);
  if (result != 0 || !bench::Shifts(clock)) return result;
  out->tv_sec += bench::shift_seconds;
  out->tv_nsec += bench::shift_ns;
  if (out->tv_nsec >= bench::kNsPerSecond) {
    out->tv_nsec -= bench::kNsPerSecond;
    ++out->tv_sec;
  }
  return 0;
}

// For libev, which reads the wall clock with it. Nobody here asks for a time zone.
extern "C" int gettimeofday(timeval* out, void* /*zone*/) noexcept {
  timespec now = {};
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}

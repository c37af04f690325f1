// A clock that can be moved forward under every contender alike.
//
// shifted_clock.cc defines clock_gettime(2) and gettimeofday(2) in the program itself. The dynamic
// linker gives the program's definitions to the shared libraries too, so they all believe that the
// time has come when ShiftClock() says so; the kernel does not, so nothing may sleep for a shifted
// deadline. Linked into every program alike, it costs them the same one call.
//
// Thread: one.

#ifndef POSTHOUSE_BENCH_MICRO_SHIFTED_CLOCK_H_
#define POSTHOUSE_BENCH_MICRO_SHIFTED_CLOCK_H_

#include <cstdint>

namespace bench {

// Moves the steady and the wall clocks forward, for good. CPU time clocks stay as they are.
void ShiftClock(int64_t ns);

// The steady clock as the libraries see it, and as it is.
int64_t ShiftedSteadyNs();
int64_t RealSteadyNs();

}  // namespace bench

#endif  // POSTHOUSE_BENCH_MICRO_SHIFTED_CLOCK_H_

// TurnClock remembers what was read of the clocks in one turn of the loop.
//
// Internal to the event layer. Thread: one.

#ifndef POSTHOUSE_EVENT_TURN_CLOCK_H_
#define POSTHOUSE_EVENT_TURN_CLOCK_H_

#include <cstdint>

#include "absl/base/optimization.h"
#include "posthouse/os/clock.h"

namespace posthouse {

class TurnClock {
 public:
  // What the coarse clock may be behind the precise one: it moves with the kernel's tick, which
  // comes every 1 to 10 ms, and late at times.
  static constexpr int64_t kCoarseLagNs = os::kCoarseClockLags ? 50 * 1000 * 1000 : 0;

  // The steady time; read when it is first asked for.
  int64_t now_ns() {
    if (ABSL_PREDICT_FALSE(now_ns_ == 0)) now_ns_ = os::SteadyNanos();
    return now_ns_;
  }

  // Not before that, and at most kCoarseLagNs after it; by the coarse clock.
  int64_t coarse_now_ns() {
    if (ABSL_PREDICT_FALSE(coarse_now_ns_ == 0)) {
      coarse_now_ns_ = os::CoarseSteadyNanos() + kCoarseLagNs;
    }
    return coarse_now_ns_;
  }

  // A new turn begins.
  void Forget() { now_ns_ = coarse_now_ns_ = 0; }

 private:
  int64_t now_ns_ = 0;  // 0: not read yet
  int64_t coarse_now_ns_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_TURN_CLOCK_H_

// HandlerMeter calls handlers and, when asked to, measures the longest.
//
// Internal to the event layer. Thread: one.

#ifndef POSTHOUSE_EVENT_HANDLER_METER_H_
#define POSTHOUSE_EVENT_HANDLER_METER_H_

#include <algorithm>
#include <cstdint>

#include "absl/base/optimization.h"
#include "posthouse/event/event.h"
#include "posthouse/os/clock.h"

namespace posthouse {

class HandlerMeter {
 public:
  void Call(EventHandler handler, int event, void* context) {
    if (ABSL_PREDICT_TRUE(!on_)) {
      handler(event, context);
      return;
    }
    const int64_t start = os::SteadyNanos();
    handler(event, context);  // one that throws is not measured
    longest_ns_ = std::max(longest_ns_, os::SteadyNanos() - start);
  }

  void set_on(bool on) { on_ = on; }
  int64_t longest_ns() const { return longest_ns_; }

 private:
  bool on_ = false;
  int64_t longest_ns_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_HANDLER_METER_H_

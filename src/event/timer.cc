#include "posthouse/event/timer.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/time/time.h"
#include "posthouse/base/check.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/event_loop_impl.h"
#include "posthouse/os/clock.h"

namespace posthouse {

// What an idle connection with a limit costs beside its watch.
static_assert(sizeof(Timer) <= 56);

Timer::Timer(EventLoop* loop, EventHandler handler, void* context) : queue_(&loop->timers_) {
  POSTHOUSE_CHECK(handler != nullptr, "a timer needs a handler");
  node_.handler = handler;
  node_.context = context;
}

void Timer::Start(absl::Duration delay) {
  POSTHOUSE_CHECK(delay >= absl::ZeroDuration(), "a timer's delay is negative");
  const int64_t now = os::SteadyNanos();
  int64_t delay_ns = absl::ToInt64Nanoseconds(delay);  // saturates, truncates
  if (absl::Nanoseconds(delay_ns) < delay && delay_ns < TimerQueue::kNever) ++delay_ns;
  StartAt(delay_ns > TimerQueue::kNever - now ? TimerQueue::kNever : now + delay_ns);
}

absl::Duration Timer::TimeLeft() const {
  if (!pending()) return absl::ZeroDuration();
  return absl::Nanoseconds(std::max<int64_t>(node_.deadline - os::SteadyNanos(), 0));
}

}  // namespace posthouse

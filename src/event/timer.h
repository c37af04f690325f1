// Timer is a one-shot timer of an EventLoop, embedded in the object that it times.
//
//   Timer idle_timer_{loop, &OnIdle, this};
//   idle_timer_.Start(absl::Seconds(100));
//
// A timer never runs before its deadline on the steady clock, and at most one grain of the wait
// after it (1 ms where the kernel's timeout is in milliseconds) plus what handlers take (EO2).
// Within a turn due timers run in the order of (deadline, request), a repeated request counting as
// a new one (E38). A timer that a timer handler starts waits for the next turn, even with a zero
// delay (E39); it is not pending any more while its own handler runs (E42).
//
// Cost: Start() reads the clock, so that a slow handler does not shorten the delay; StartAt() with
// EventLoop::now_ns() counts from this turn's time and does not; EventLoop::PushBack() is the
// cheapest, for limits of seconds. None makes a system call or an allocation, and on a pending
// timer whose deadline moves back each is a store.
// Thread, fork: as its loop. Ownership: neither moves nor copies; destroying it cancels it.

#ifndef POSTHOUSE_EVENT_TIMER_H_
#define POSTHOUSE_EVENT_TIMER_H_

#include <cstdint>

#include "absl/time/time.h"
#include "posthouse/event/event.h"
#include "posthouse/event/timer_queue.h"

namespace posthouse {

class EventLoop;

class Timer {
 public:
  // `handler` is called with kEventTime and `context`.
  Timer(EventLoop* loop, EventHandler handler, void* context);
  ~Timer() { Cancel(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Requests a call after `delay`, instead of an earlier request if there is one. Any delay up to
  // absl::InfiniteDuration() is legal; beyond 292 years it saturates.
  // REQUIRES: delay >= 0 (E36).
  void Start(absl::Duration delay);

  // The same for a moment of the steady clock, as os::SteadyNanos() and EventLoop::now_ns() tell
  // it. A moment in the past is due at once.
  void StartAt(int64_t deadline_ns) { queue_->Request(&node_, deadline_ns); }

  // Returns whether the timer was pending. Harmless when it was not.
  bool Cancel() {
    if (!node_.pending()) return false;
    queue_->Cancel(&node_);
    return true;
  }

  bool pending() const { return node_.pending(); }

  // What is left until the deadline by a fresh reading of the clock, never negative (EO24); zero
  // when not pending.
  absl::Duration TimeLeft() const;

  // The moment it is due, or was due last, on the steady clock. REQUIRES: it has been started.
  int64_t deadline_ns() const { return node_.deadline; }

 private:
  friend class EventLoop;

  TimerQueue* queue_;
  TimerNode node_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_TIMER_H_

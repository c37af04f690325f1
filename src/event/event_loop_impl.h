// What an EventLoop is made of: the table of watches, the timers, the poller, and the turn.
//
// Internal to the event layer.
//
// Interest is kept three times per watch (watch_table.h): `wanted` follows the owner at once and
// costs nothing; ApplyChanges() looks at what has changed just before the wait and tells the kernel
// what it does not know yet. Interest that is not wanted any more is left in the kernel until an
// unwanted event shows, so that pausing and going on, or turning from reading to writing and back,
// costs nothing either; a watch to which that has happened is kept exact from then on. `armed` is
// what was wanted when the wait was entered, and nothing else is delivered in that turn (EO7),
// which also makes the backends agree whatever is left in their kernels.

#ifndef POSTHOUSE_EVENT_EVENT_LOOP_IMPL_H_
#define POSTHOUSE_EVENT_EVENT_LOOP_IMPL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "posthouse/event/event.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/event/fork_stamp.h"
#include "posthouse/event/handler_meter.h"
#include "posthouse/event/poller.h"
#include "posthouse/event/timer_queue.h"
#include "posthouse/event/turn_clock.h"
#include "posthouse/event/watch_table.h"

namespace posthouse {

class EventLoop::Impl {
 public:
  // Borrows the clock and the timers, which are the loop's so that its inline functions get at
  // them.
  Impl(const EventLoopOptions& options, std::unique_ptr<Poller> poller, TurnClock* clock,
       TimerQueue* timers);
  ~Impl();

  // For FdWatch.
  absl::Status Begin(int fd, const FdWatchOptions& options);
  void End(int fd);
  void Enable(int fd, uint8_t direction);
  void Disable(int fd, uint8_t direction);
  bool enabled(int fd, uint8_t direction) const { return (table_.Get(fd).wanted & direction) != 0; }
  void VerifyBeforeWait(int fd);
  void SetHandlers(int fd, EventHandler on_readable, EventHandler on_writable,
                   EventHandler on_error, void* context);

  // For EventLoop; see event_loop.h.
  absl::Status Turn(absl::Duration max_wait);
  absl::Status Drain(absl::Duration limit);
  absl::Status AfterFork();
  absl::Status TakeWatchError() { return std::exchange(watch_error_, absl::OkStatus()); }
  Backend backend() const { return poller_->backend(); }
  const EventLoopCounters& counters();
  std::vector<std::string> DescribeWatches() const;
  HandlerMeter& meter() { return meter_; }
  // Null: the backend has none.
  IoUringPort* io_uring_port() { return poller_->io_uring_port(); }

  // For the compatibility interface, whose clock is read right after each wait: called before any
  // handler of the turn.
  void SetAfterWait(void (*function)(void*), void* context) {
    after_wait_ = function;
    after_wait_context_ = context;
  }

  // For what shares more with the parent than a watch does: called by AfterFork() before the child
  // gets its own set, in which the watches then stand by their numbers. A failure is AfterFork()'s.
  using ForkFunction = absl::Status (*)(void* context);
  void AddForkFunction(ForkFunction function, void* context) {
    fork_functions_.emplace_back(function, context);
  }
  void RemoveForkFunctions(void* context);

 private:
  // Before the wait.
  void NoteChange(int fd, WatchSlot* slot);
  void ApplyChanges();
  void Apply(int fd, WatchSlot* slot);
  absl::Status Submit(int fd, WatchSlot* slot, uint8_t target);
  void Verify(int fd, WatchSlot* slot);
  void GiveUp(int fd, WatchSlot* slot, const absl::Status& reason);
  absl::Status Rebuild();
  void AddAllAgain();

  // The wait.
  bool Wait(absl::Duration max_wait);
  bool WaitByPlan(absl::Duration max_wait);
  bool BatchWasFull() const {
    return batch_.full || batch_.count == static_cast<int>(batch_.events.size());
  }
  void GrowBatch();
  bool HealFailedWait();
  enum class WaitEnd { kLimit, kGlance, kNap, kTimer };
  struct WaitPlan {
    int64_t timeout_ns;
    WaitEnd end;  // what ends it if nothing comes
  };
  WaitPlan PlanWait(absl::Duration max_wait);
  bool WaitOn(const WaitPlan& plan, absl::Duration* max_wait);
  bool SomethingIsReadyAnyway() const;

  // After it.
  void RunTimers();
  void Audit();
  void Dispatch(const ReadyEvent& event);
  uint32_t DispatchUnusual(const ReadyEvent& event, WatchSlot* slot);
  void OnStaleEvent(const ReadyEvent& event, WatchSlot* slot);
  void DispatchAlwaysReady();
  void RunCompletions();
  void DispatchGivenUp();
  void Call(EventHandler handler, int event, void* context);

  const EventLoopOptions options_;
  TurnClock& clock_;
  TimerQueue& timers_;
  std::unique_ptr<Poller> poller_;
  const bool changes_are_free_;
  WatchTable table_;
  ForkStamp stamp_;
  HandlerMeter meter_;
  EventLoopCounters counters_;
  ReadyBatch batch_;
  void (*after_wait_)(void*) = nullptr;
  void* after_wait_context_ = nullptr;
  std::vector<int> always_ready_;                   // files that cannot be polled (EO27)
  std::vector<std::pair<int, uint32_t>> given_up_;  // to be told, with their generations
  std::vector<std::pair<ForkFunction, void*>> fork_functions_;
  absl::Status watch_error_;
  int changed_ = WatchSlot::kEndOfList;  // head of the list in the slots
  int64_t latest_now_ = 0;               // the latest reading of the precise clock
  int turns_until_glance_ = 0;
  int turns_between_glances_ = 1;
  bool deadline_was_far_ = true;  // when timers were looked at last
  bool in_turn_ = false;
  bool busy_ = false;            // the latest turn called descriptor handlers
  bool rebuild_wanted_ = false;  // the kernel's set holds what we cannot remove
  bool retry_wanted_ = false;    // a change failed for lack of memory
  bool wait_failed_ = false;     // and the set was made anew since
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_EVENT_LOOP_IMPL_H_

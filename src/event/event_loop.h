// EventLoop waits for readiness on file descriptors and for timers, and calls handlers when either
// arrives.
//
//   absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create({});
//   absl::StatusOr<FdWatch> watch = (*loop)->Watch(fd, {.on_readable = &OnRequest, .context =
//   this}); while (!done) {
//     if (absl::Status status = (*loop)->RunOnce(absl::InfiniteDuration()); !status.ok()) ...
//   }
//
// Readiness is level-triggered: data left unread means another call in the next turn (E12, E64).
// One RunOnce() is one turn: due timers first, then one pass over what the kernel reported (E22,
// E25). For one descriptor the order is on_error, on_readable, on_writable, at most one call each
// per turn, and each is checked again before it is made (EO8, F15).
// A handler may destroy any watch or timer, its own included; once a destructor, a Disable…() or a
// Cancel() has returned, that handler is not called again, not even later in the same turn (E47,
// F1, F2, F20). A watch made during a turn receives nothing that the kernel reported before (EO6).
// Hang-up and errors reach the enabled directions, whose read or write then reports the cause
// (EO9); with no direction enabled they reach on_error once, if there is one, and the descriptor
// leaves the kernel's set until interest returns (F6).
//
// System calls: Watch() enters the descriptor into the kernel's set at once, so that its errors
// come back here; later interest changes are collected and their net effect is applied just before
// the next wait (EO21), so enabling and disabling in one turn costs none.
// Memory: 48 bytes per watched descriptor, handlers and context included, to which kqueue adds 8
// and poll 16; no allocation and no hash on the path of a ready event.
//
// Thread: one. Fork: the child calls AfterFork() before anything else on this loop; forgetting it
// is a broken contract that RunOnce() detects (EO16). Close-on-exec: all of its descriptors.
// Ownership: a watch borrows its descriptor, which must outlive the watch; watches and timers must
// not outlive the loop. Exceptions: one that leaves a handler leaves RunOnce(), and the loop stays
// usable (EO13, F57).

#ifndef POSTHOUSE_EVENT_EVENT_LOOP_H_
#define POSTHOUSE_EVENT_EVENT_LOOP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/event.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/event/timer.h"
#include "posthouse/event/timer_queue.h"
#include "posthouse/event/turn_clock.h"

namespace posthouse {

class Poller;

struct EventLoopOptions {
  Backend backend = Backend::kBest;
  // Ready descriptors fetched per turn: the first batch, doubled whenever a turn fills it, up to
  // the maximum (EO5).
  int initial_batch = 100;
  int max_batch = 4096;
  // Due timers run per turn; the rest run in the next turns in their order, with descriptors served
  // in between (EO23).
  int max_timers_per_turn = 10000;
};

// What a loop has done since it was created (EO29). Counts only grow, the gauges at the end move.
struct EventLoopCounters {
  int64_t turns = 0;
  int64_t waits = 0;              // wait calls to the kernel
  int64_t interrupted_waits = 0;  // ended by a signal
  int64_t deliveries = 0;         // descriptor handlers called
  int64_t timers_run = 0;
  int64_t stale_events = 0;        // dropped: the watch was gone, or another one (EO6, EO7)
  int64_t unexpected_events = 0;   // dropped: a number we never watched (EO26)
  int64_t interest_changes = 0;    // system calls that changed the kernel's set
  int64_t repaired_changes = 0;    // EEXIST, ENOENT, EBADF answered by repairing (EO14)
  int64_t rebuilds = 0;            // kernel sets made anew (fork, ghosts, a failed wait)
  int64_t longest_handler_ns = 0;  // 0 unless MeasureHandlers(true)
  int64_t watches = 0;             // gauge
  int64_t timers_pending = 0;      // gauge
};

class EventLoop {
 public:
  // Fails with kUnimplemented for a backend this system lacks, or with the error of the call that
  // makes the kernel's set.
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create(const EventLoopOptions& options);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Starts to watch `fd` (see FdWatchOptions for handlers and the initial interest).
  // kInvalidArgument: a negative number, or one the select backend cannot hold (EO20, F13).
  // kAlreadyExists: this loop watches the number already.
  // kFailedPrecondition: the kernel does not know the number (EBADF).
  // kResourceExhausted: no memory or too many watches; nothing has changed (F10).
  // Files that cannot be polled (regular files, /dev/null) are always ready (EO27).
  absl::StatusOr<FdWatch> Watch(int fd, const FdWatchOptions& options);

  // One turn: waits until a descriptor is ready, a timer is due, or `max_wait` is over, whichever
  // comes first, then runs due timers and handlers. A zero or negative `max_wait` polls;
  // absl::InfiniteDuration() waits as long as it takes. A signal ends the wait early; due timers
  // run all the same (EO10).
  // kFailedPrecondition: called from inside a handler; the outer turn goes on undamaged (F11).
  // Any other error: the wait failed for good (F9); it was tried once on a rebuilt set, and the
  // caller should end the process.
  absl::Status RunOnce(absl::Duration max_wait);

  // Runs turns until nothing but background watches is left and no timer is pending, or until
  // `limit` has passed (E55, EO22).
  absl::Status Drain(absl::Duration limit);

  // The child's first call after fork(2): gives it a kernel set of its own with the same watches
  // (E59). The parent is not affected. Timers need nothing.
  absl::Status AfterFork();

  // Why a watch was given up since the last call of this: the kernel refused its descriptor when
  // interest returned or in a check, because the number was closed behind our back. Its on_error is
  // called, if there is one; it stays out of the kernel's set until interest is enabled again. OK
  // if there was none. (A lack of memory is no reason: such a change is tried again.)
  absl::Status TakeWatchError();

  // The steady time of this turn; nanoseconds, the clock of os::SteadyNanos(). It is read at most
  // once per turn: after the wait if a timer may be due within a second, else when it is first
  // asked for. Outside a turn it is that of the latest one.
  int64_t now_ns() { return clock_.now_ns(); }

  // Starts the timer, or pushes it back, to `delay_ns` after this turn: Timer::Start() for limits
  // of seconds that begin anew with every event, where reading the clock would be most of the work.
  // Time is the kernel's coarse clock where there is one: not early, and at most 50 ms late. On a
  // timer that is pending it is a store.
  // REQUIRES: a timer of this loop; 0 <= delay_ns < 100 years.
  void PushBack(Timer* timer, int64_t delay_ns) {
    timers_.Request(&timer->node_, clock_.coarse_now_ns() + delay_ns);
  }

  // The backend in use.
  Backend backend() const;
  const EventLoopCounters& counters() const;
  // Measuring costs a clock reading per handler, so it is off until asked for.
  void MeasureHandlers(bool on);

  // One line per watch, "fd 7 read+write exclusive"; for tests and status pages.
  std::vector<std::string> DescribeWatches() const;

  class Impl;
  Impl& impl() { return *impl_; }

 private:
  friend class Timer;

  EventLoop(const EventLoopOptions& options, std::unique_ptr<Poller> poller);

  TurnClock clock_;
  TimerQueue timers_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_EVENT_LOOP_H_

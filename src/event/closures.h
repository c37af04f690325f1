// CallbackWatch and CallbackTimer hold closures where FdWatch and Timer take a function and a
// context: a convenience above the core.
//
//   absl::StatusOr<CallbackWatch> watch = CallbackWatch::Create(loop, fd, {.on_readable = [&] {
//     ...
//   }});
//   CallbackTimer retry(loop, [this] { Connect(); });
//   retry.Start(absl::Seconds(5));
//
// A closure has no identity, so the objects are it: they cancel and re-arm (EO25). A closure may
// destroy, move or restart its own object; it is itself destroyed when it has returned.
//
// Cost: one allocation when made, none later. Thread, fork, ownership: as FdWatch and Timer; both
// may be moved, from inside a closure too.

#ifndef POSTHOUSE_EVENT_CLOSURES_H_
#define POSTHOUSE_EVENT_CLOSURES_H_

#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/event/timer.h"

namespace posthouse {

// As FdWatchOptions, see there.
struct CallbackWatchOptions {
  absl::AnyInvocable<void()> on_readable;
  absl::AnyInvocable<void()> on_writable;
  absl::AnyInvocable<void()> on_error;
  bool read = true;
  bool write = false;
  bool background = false;
  bool exclusive = false;
  bool urgent = false;
  bool sole_owner = false;
};

class CallbackWatch {
 public:
  // An empty one.
  CallbackWatch();
  CallbackWatch(CallbackWatch&&) noexcept;
  CallbackWatch& operator=(CallbackWatch&&) noexcept;
  ~CallbackWatch();

  // Errors: as EventLoop::Watch().
  static absl::StatusOr<CallbackWatch> Create(EventLoop* loop, int fd,
                                              CallbackWatchOptions options);

  // Ends the registration, as FdWatch::Reset().
  void Reset();
  bool active() const { return state_ != nullptr; }

  // For the interest. REQUIRES: active().
  FdWatch& watch();

 private:
  struct State;
  struct EndState {
    void operator()(State* state) const;
  };
  std::unique_ptr<State, EndState> state_;
};

class CallbackTimer {
 public:
  CallbackTimer(EventLoop* loop, absl::AnyInvocable<void()> handler);
  CallbackTimer(CallbackTimer&&) noexcept;
  CallbackTimer& operator=(CallbackTimer&&) noexcept;
  ~CallbackTimer();

  // As Timer's. REQUIRES: not moved from.
  void Start(absl::Duration delay);
  bool Cancel();
  bool pending() const;
  absl::Duration TimeLeft() const;

 private:
  struct State;
  struct EndState {
    void operator()(State* state) const;
  };
  std::unique_ptr<State, EndState> state_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_CLOSURES_H_

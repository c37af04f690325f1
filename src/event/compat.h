// The event interface of Postfix, with its names and its contract, on top of EventLoop: for people
// who port code.
//
//   using namespace posthouse::compat;
//   event_enable_read(fd, &OnReadable, context);
//   event_request_timer(&OnTimeout, context, 100);
//   for (;;) event_loop(-1);
//
// A callback gets one event code and its context (E1). One slot per descriptor: a callback and one
// direction at a time (E13, E15). A timer is known by its callback and context (E34) and counts
// whole seconds. There is no need to initialise anything (E5).
//
// Errors come in the original's two classes. A broken contract is a panic: POSTHOUSE_CHECK. What
// fails in the environment (no kernel handle, a descriptor that cannot be watched, a wait that
// fails for good) is fatal: it goes to the fatal handler, which does not return.
//
// Differences, all of them on purpose:
//   - a direction is reported as ready when its read or write would tell of a hang-up or an error,
//     on every backend; EVENT_XCPT is never seen alone (EO9);
//   - an enable is told to the kernel just before the next wait, so a refusal is fatal there, and
//     enabling and disabling in one pass makes no system call (EO21); enabling again what is
//     enabled already is checked there with one call, so that a number that was closed and reused
//     without a disable is watched and not deaf (E20, EO14);
//   - timers run on the steady clock and never early (EO2, EO3); event_cancel_timer() reads it
//     anew, and rounds up. Requesting exactly what it returned goes on with the old deadline, so a
//     cancelled and resumed timer does not drift (F23);
//   - due timers run also when a signal ended the wait (EO10), and nesting panics before any wait
//     (EO12);
//   - files that cannot be polled are always ready (EO27);
//   - the limit of open files is left alone; RaiseDescriptorLimit() is in descriptor_limit.h
//   (EO15).
//
// Thread: one. Fork: event_fork() in the child; forgetting it panics in the next event_loop().

#ifndef POSTHOUSE_EVENT_COMPAT_H_
#define POSTHOUSE_EVENT_COMPAT_H_

#include <time.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "posthouse/event/event.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/event/timer.h"

namespace posthouse::compat {

inline constexpr int EVENT_READ = kEventRead;
inline constexpr int EVENT_WRITE = kEventWrite;
inline constexpr int EVENT_XCPT = kEventException;
inline constexpr int EVENT_ERROR = EVENT_XCPT;
inline constexpr int EVENT_TIME = kEventTime;
inline constexpr int EVENT_NULL_TYPE = 0;
inline constexpr int EVENT_NULL_DELAY = 0;
inline constexpr void* EVENT_NULL_CONTEXT = nullptr;

using EVENT_NOTIFY_FN = EventHandler;

// Reports that the process cannot go on. It must not return; if it does, the process exits with
// status 1 all the same.
using FatalHandler = void (*)(absl::string_view message);

struct CompatOptions {
  EventLoopOptions loop;
  // Null: the message goes to standard error and the process exits with status 1.
  FatalHandler fatal = nullptr;
};

// One instance of the interface. The free functions below use the default instance; tests make
// their own. The semantics of each member are those of the function of similar name.
class CompatEventLoop {
 public:
  explicit CompatEventLoop(const CompatOptions& options);
  ~CompatEventLoop();
  CompatEventLoop(const CompatEventLoop&) = delete;
  CompatEventLoop& operator=(const CompatEventLoop&) = delete;

  time_t Time();
  void EnableRead(int fd, EVENT_NOTIFY_FN callback, void* context);
  void EnableWrite(int fd, EVENT_NOTIFY_FN callback, void* context);
  void DisableReadWrite(int fd);
  time_t RequestTimer(EVENT_NOTIFY_FN callback, void* context, int delay);
  int CancelTimer(EVENT_NOTIFY_FN callback, void* context);
  void Loop(int delay);
  void Drain(int time_limit);
  void Fork();

  // The loop below, made if need be, for code that uses both interfaces.
  EventLoop& loop();

 private:
  using TimerKey = std::pair<EVENT_NOTIFY_FN, void*>;

  // A pending timer; in a map because callers name it by its key (E34, EO1).
  struct PendingTimer {
    PendingTimer(CompatEventLoop* owner, const TimerKey& key);
    static void Run(int event, void* context);

    CompatEventLoop* owner;
    TimerKey key;
    Timer timer;
  };

  // The timer that was cancelled last, and how many seconds its canceller was told.
  struct Cancelled {
    TimerKey key;
    int64_t deadline_ns = 0;
    int seconds_left = -1;
  };

  void Initialize();
  void Enable(int fd, EVENT_NOTIFY_FN callback, void* context, bool read);
  void CheckNumber(int fd) const;
  bool AnythingEnabled() const;
  void RefreshTime();
  [[noreturn]] void Fatal(absl::string_view message) const;

  const CompatOptions options_;
  std::unique_ptr<EventLoop> loop_;  // null until first used (E5)
  std::vector<FdWatch> watches_;     // by number
  absl::flat_hash_map<TimerKey, std::unique_ptr<PendingTimer>> timers_;
  Cancelled cancelled_;
  time_t now_ = 0;
  int descriptor_bound_ = 0;
  bool in_pass_ = false;
};

// The default instance, made when it is first asked for and never destroyed.
CompatEventLoop& DefaultEventLoop();
// Says how it is to be made. REQUIRES: it has not been used yet.
void ConfigureDefaultEventLoop(const CompatOptions& options);
// Puts another instance in its place and returns the one before (null: none had been made). For
// tests; `instance` is borrowed.
CompatEventLoop* ReplaceDefaultEventLoop(CompatEventLoop* instance);

// The cached wall-clock time in whole seconds, without a system call (E44): refreshed by every
// event_request_timer(), after every wait, and before it if a timer is pending.
time_t event_time();

// Calls `callback` in every pass in which `fd` can be read (written) without blocking, until
// disabled. Enabling again replaces callback and context (E14). Panics on a number that is negative
// or not below the limit of open files, or if the other direction is enabled.
void event_enable_read(int fd, EVENT_NOTIFY_FN callback, void* context);
void event_enable_write(int fd, EVENT_NOTIFY_FN callback, void* context);

// Ends whichever is enabled; nothing happens if none is (E17). To be called before `fd` is closed.
void event_disable_readwrite(int fd);

// Calls `callback` once, `delay` seconds from now at the earliest, instead of an earlier request
// with the same callback and context. Returns the time when it is due. Panics on a negative delay.
time_t event_request_timer(EVENT_NOTIFY_FN callback, void* context, int delay);

// Returns the seconds that were left, or -1 if there was no such timer (E43).
int event_cancel_timer(EVENT_NOTIFY_FN callback, void* context);

// Waits up to `delay` seconds (negative: however long) for a descriptor or a timer, and runs one
// pass. Panics when called from a callback.
void event_loop(int delay);

// Runs passes until nothing is enabled or pending, or until `time_limit` seconds are over (E55).
void event_drain(int time_limit);

// The child's first call after fork(2) (E59).
void event_fork();

}  // namespace posthouse::compat

#endif  // POSTHOUSE_EVENT_COMPAT_H_

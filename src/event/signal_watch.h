// SignalWatch delivers signals as events of a loop: no code runs in signal context, and no signal
// is missed between a test of a flag and the wait (EO11, F24, F26).
//
//   absl::StatusOr<std::unique_ptr<SignalWatch>> watch =
//       SignalWatch::Create(loop, {SIGTERM, SIGHUP}, &OnSignal, this);
//
// The signals are blocked and read from a descriptor of their own (signalfd(2)); any number of the
// same signal collapses into one call of the handler, and at least one (F25). Their dispositions
// become the default ones, so that an inherited "ignore" does not swallow them (F27). Destroying
// the watch gives back mask and dispositions as they were; a signal that is still pending then is
// answered by those.
//
// Thread: as the loop; make it before other threads, which must have the signals blocked too.
// Fork: the child's watch sees the child's signals once it has called EventLoop::AfterFork(). A
// child that executes another program calls RestoreInChild() before, because a mask survives
// execve(2). Ownership: as a FdWatch, it must not outlive its loop; the loop's Drain() does not
// wait for it. The handler may destroy the watch.
//
// Systems without signalfd are to get a twin that writes to a pipe from a signal handler; until
// then Create() answers kUnimplemented there.

#ifndef POSTHOUSE_EVENT_SIGNAL_WATCH_H_
#define POSTHOUSE_EVENT_SIGNAL_WATCH_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"

namespace posthouse {

// Called with the number of the signal.
using SignalHandler = void (*)(int signal, void* context);

class SignalWatch {
 public:
  // kInvalidArgument: not a signal, or one that cannot be caught.
  static absl::StatusOr<std::unique_ptr<SignalWatch>> Create(EventLoop* loop,
                                                             const std::vector<int>& signals,
                                                             SignalHandler handler, void* context);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  // Async-signal-safe: dispositions and mask as they were before Create(), for a child between
  // fork(2) and execve(2). The watch itself is left as it is.
  void RestoreInChild() const;

 private:
  SignalWatch(SignalHandler handler, void* context) : handler_(handler), context_(context) {}

  absl::Status TakeOver(const std::vector<int>& signals);
  absl::Status Open(EventLoop* loop);
  static void OnReadable(int event, void* context);
  void Deliver(uint64_t signals);

  SignalHandler handler_;
  void* context_;
  std::vector<std::pair<int, struct sigaction>> dispositions_;  // as they were
  sigset_t watched_;
  sigset_t blocked_here_;  // those of them that were not blocked before
  UniqueFd fd_;
  FdWatch watch_;
  bool* destroyed_ = nullptr;  // of the delivery under way
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_SIGNAL_WATCH_H_

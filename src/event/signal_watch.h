// SignalWatch delivers signals as events of a loop: no code runs in signal context, and no signal
// is missed between a test of a flag and the wait (EO11, F24, F26).
//
//   absl::StatusOr<std::unique_ptr<SignalWatch>> watch =
//       SignalWatch::Create(loop, {SIGTERM, SIGHUP}, &OnSignal, this);
//
// Any number of the same signal collapses into one call of the handler, and at least one (F25). An
// inherited "ignore" or block does not swallow a signal (F27). Destroying the watch gives back mask
// and dispositions as they were; a signal that came and was not handled is answered by those.
//
// There are two forms. Where the kernel has signalfd(2), the signals are blocked and read from a
// descriptor of their own, under the default disposition. Everywhere else, or when the kernel
// answers ENOSYS, a signal handler writes to a pipe (signal_pipe.h). What differs then: the signals
// are not blocked, so that one may end a system call of the service with EINTR; the handler is
// installed with SA_RESTART, which leaves waits (poll(2), nanosleep(2) and the like) and calls with
// a time limit. And other threads do not inherit a mask that blocks them.
//
// Thread: as the loop; make it before other threads, which must have the signals blocked too.
// Fork: the child's watch sees the child's signals once it has called EventLoop::AfterFork(). A
// child that executes another program calls RestoreInChild() before, because a mask survives
// execve(2). Ownership: as a FdWatch, it must not outlive its loop; the loop's Drain() does not
// wait for it. The handler may destroy the watch. Of two watches for the same signal one is called,
// and the newer has to go first.

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
#include "posthouse/event/signal_pipe.h"
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

  // Async-signal-safe: whether this process was sent the signal and the handler is not called yet.
  bool Pending(int signal) const;

 private:
  SignalWatch(EventLoop* loop, SignalHandler handler, void* context)
      : loop_(loop), handler_(handler), context_(context) {}

  absl::Status TakeOver(const std::vector<int>& signals);
  uint64_t HoldUnhandled() const;
  void GiveBack(uint64_t unhandled) const;
  void Deliver(uint64_t signals);

  // kUnimplemented: the kernel has no signalfd(2).
  absl::Status OpenDescriptor();
  static void OnDescriptor(int event, void* context);

  absl::Status OpenPipe(const std::vector<int>& signals);
  static void OnPipe(int event, void* context);
  static absl::Status AfterFork(void* context);

  EventLoop* loop_;
  SignalHandler handler_;
  void* context_;
  std::vector<std::pair<int, struct sigaction>> dispositions_;  // as they were
  sigset_t watched_;
  sigset_t unblocked_before_;         // those of them that were not blocked
  UniqueFd descriptor_;               // one form,
  std::unique_ptr<SignalPipe> pipe_;  // or the other
  FdWatch watch_;
  bool* destroyed_ = nullptr;  // of the delivery under way
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_SIGNAL_WATCH_H_

// SignalPipe is the twin of signalfd(2): a pipe whose reading end is readable while a signal that
// it watches has come and was not taken. A handler notes the signal and writes one byte, and
// nothing else is reachable from it (F24).
//
//   absl::StatusOr<std::unique_ptr<SignalPipe>> pipe = SignalPipe::Create({SIGTERM, SIGHUP});
//   sigaction(SIGTERM, an action whose handler is &SignalPipe::OnSignal, ...)
//   ... pipe->fd() is readable ...
//   uint64_t signals = pipe->Take();  // bit n stands for signal n
//
// Any number of the same signal between two calls of Take() is one (F25): a signal that is noted
// already writes nothing, so the pipe never fills.
//
// Internal to SignalWatch, which installs the handlers and minds the mask. State at file scope: the
// pipes that exist, newest first, because a handler has no object to ask. Of several pipes that
// watch the same signal the newest gets it.
//
// Thread: one; others must have the signals blocked. Fork: the child's signals are noted as its
// own, and those that came to its parent are forgotten; they wake it from AfterFork() on. Until
// then it does not touch the pipe, which is also its parent's.

#ifndef POSTHOUSE_EVENT_SIGNAL_PIPE_H_
#define POSTHOUSE_EVENT_SIGNAL_PIPE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"

namespace posthouse {

class SignalPipe {
 public:
  // REQUIRES: each signal is from 1 to 63.
  static absl::StatusOr<std::unique_ptr<SignalPipe>> Create(const std::vector<int>& signals);
  // REQUIRES: the signals are blocked, or have another handler.
  ~SignalPipe();
  SignalPipe(const SignalPipe&) = delete;
  SignalPipe& operator=(const SignalPipe&) = delete;

  // The handler of every watched signal.
  static void OnSignal(int signal);

  // The end to wait on.
  int fd() const { return read_.get(); }

  // What has come since the last call. None also when the pipe has nothing to say yet (F14).
  uint64_t Take();

  // Async-signal-safe: what has come to this process and was not taken.
  uint64_t noted() const;

  // Gives a forked child a pipe of its own under the same numbers.
  // REQUIRES: the signals are blocked.
  absl::Status AfterFork();

 private:
  explicit SignalPipe(uint64_t signals) : signals_(signals) {}
  void Note(uint64_t signal);
  void Wake() const;

  static std::atomic<SignalPipe*> newest_;

  const uint64_t signals_;
  std::atomic<SignalPipe*> older_{nullptr};
  UniqueFd read_;
  UniqueFd write_;
  std::atomic<pid_t> pipe_of_{0};   // the process that the pipe wakes
  std::atomic<pid_t> noted_of_{0};  // the process that noted_ is about
  std::atomic<uint64_t> noted_{0};
  static_assert(std::atomic<uint64_t>::is_always_lock_free, "a handler must not wait for a lock");
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_SIGNAL_PIPE_H_

// What both forms share: dispositions, the mask, and handing a set of signals to the handler. The
// descriptor that tells of them is made in signal_watch_signalfd.cc or signal_watch_pipe.cc.

#include "posthouse/event/signal_watch.h"

#include <errno.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/event/event_loop_impl.h"

namespace posthouse {
namespace {

// One more than the highest signal that can be watched; the real-time ones of Linux end there.
constexpr int kSignalsEnd = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<SignalWatch>> SignalWatch::Create(EventLoop* loop,
                                                                 const std::vector<int>& signals,
                                                                 SignalHandler handler,
                                                                 void* context) {
  POSTHOUSE_CHECK(handler != nullptr, "a signal watch needs a handler");
  std::unique_ptr<SignalWatch> made(new SignalWatch(loop, handler, context));
  if (absl::Status status = made->TakeOver(signals); !status.ok()) return status;
  absl::Status status = made->OpenDescriptor();
  if (absl::IsUnimplemented(status)) status = made->OpenPipe(signals);
  if (!status.ok()) return status;
  return made;
}

SignalWatch::~SignalWatch() {
  if (destroyed_ != nullptr) *destroyed_ = true;
  watch_.Reset();
  loop_->impl().RemoveForkFunctions(this);
  const uint64_t unhandled = HoldUnhandled();
  pipe_.reset();  // while its signals cannot come
  GiveBack(unhandled);
}

void SignalWatch::RestoreInChild() const { GiveBack(HoldUnhandled()); }

// Async-signal-safe: system calls and arithmetic. Blocks the signals; returns those that the pipe
// has noted. What was blocked all along waits in the kernel.
uint64_t SignalWatch::HoldUnhandled() const {
  if (pipe_ == nullptr) return 0;
  os::Sigmask(SIG_BLOCK, &watched_, nullptr);
  uint64_t unhandled = pipe_->noted();
  for (int signal = 1; signal < kSignalsEnd; ++signal) {
    struct sigaction now = {};
    // Whoever ignores a signal means also the one that waits; the kernel would drop it.
    if ((unhandled >> signal & 1) != 0 && os::Sigaction(signal, nullptr, &now) == 0 &&
        now.sa_handler == SIG_IGN) {
      unhandled &= ~(uint64_t{1} << signal);
    }
  }
  return unhandled;
}

// Async-signal-safe: system calls and arithmetic.
void SignalWatch::GiveBack(uint64_t unhandled) const {
  for (auto entry = dispositions_.rbegin(); entry != dispositions_.rend(); ++entry) {
    os::Sigaction(entry->first, &entry->second, nullptr);
  }
  for (int signal = 1; signal < kSignalsEnd; ++signal) {
    if ((unhandled >> signal & 1) != 0) os::Kill(os::Getpid(), signal);
  }
  os::Sigmask(SIG_UNBLOCK, &unblocked_before_, nullptr);
}

bool SignalWatch::Pending(int signal) const {
  sigset_t pending;
  sigemptyset(&pending);
  if (os::Sigpending(&pending) == 0 && sigismember(&pending, signal) == 1) return true;
  return pipe_ != nullptr && (pipe_->noted() >> signal & 1) != 0;
}

// Blocks first, so that no signal meets the default disposition.
absl::Status SignalWatch::TakeOver(const std::vector<int>& signals) {
  sigemptyset(&watched_);
  sigemptyset(&unblocked_before_);
  for (int signal : signals) {
    // Some systems' sigaddset(3) refuses nothing.
    if (signal <= 0 || signal >= kSignalsEnd || signal >= NSIG || signal == SIGKILL ||
        signal == SIGSTOP || sigaddset(&watched_, signal) != 0) {
      return absl::InvalidArgumentError(absl::StrCat("signal ", signal, " cannot be watched"));
    }
  }
  sigset_t before;
  if (const int error = os::Sigmask(SIG_BLOCK, &watched_, &before); error != 0) {
    return absl::ErrnoToStatus(error, "sigprocmask");
  }
  for (int signal : signals) {
    if (sigismember(&before, signal) == 0) sigaddset(&unblocked_before_, signal);
  }
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  for (int signal : signals) {
    struct sigaction old = {};
    if (os::Sigaction(signal, &action, &old) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("sigaction ", signal));
    }
    dispositions_.emplace_back(signal, old);
  }
  return absl::OkStatus();
}

// Bit n stands for signal n.
void SignalWatch::Deliver(uint64_t signals) {
  bool destroyed = false;
  destroyed_ = &destroyed;
  for (int signal = 1; signal < kSignalsEnd && !destroyed; ++signal) {
    if ((signals >> signal & 1) != 0) handler_(signal, context_);
  }
  if (!destroyed) destroyed_ = nullptr;
}

}  // namespace posthouse

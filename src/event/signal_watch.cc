// What every system shares: dispositions, the mask, and handing a set of signals to the handler.
// The descriptor that tells of them is made in signal_watch_linux.cc or its twins.

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

namespace posthouse {

absl::StatusOr<std::unique_ptr<SignalWatch>> SignalWatch::Create(EventLoop* loop,
                                                                 const std::vector<int>& signals,
                                                                 SignalHandler handler,
                                                                 void* context) {
  POSTHOUSE_CHECK(handler != nullptr, "a signal watch needs a handler");
  std::unique_ptr<SignalWatch> made(new SignalWatch(handler, context));
  if (absl::Status status = made->TakeOver(signals); !status.ok()) return status;
  if (absl::Status status = made->Open(loop); !status.ok()) return status;
  return made;
}

SignalWatch::~SignalWatch() {
  if (destroyed_ != nullptr) *destroyed_ = true;
  watch_.Reset();
  RestoreInChild();
}

void SignalWatch::RestoreInChild() const {
  for (const auto& [signal, action] : dispositions_) os::Sigaction(signal, &action, nullptr);
  os::Sigmask(SIG_UNBLOCK, &blocked_here_, nullptr);
}

// Blocks first, so that no signal meets the default disposition.
absl::Status SignalWatch::TakeOver(const std::vector<int>& signals) {
  sigemptyset(&watched_);
  sigemptyset(&blocked_here_);
  for (int signal : signals) {
    if (signal == SIGKILL || signal == SIGSTOP || signal >= 64 ||
        sigaddset(&watched_, signal) != 0) {
      return absl::InvalidArgumentError(absl::StrCat("signal ", signal, " cannot be watched"));
    }
  }
  sigset_t before;
  if (const int error = os::Sigmask(SIG_BLOCK, &watched_, &before); error != 0) {
    return absl::ErrnoToStatus(error, "sigprocmask");
  }
  for (int signal : signals) {
    if (sigismember(&before, signal) == 0) sigaddset(&blocked_here_, signal);
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
  for (int signal = 1; signal < 64 && !destroyed; ++signal) {
    if ((signals >> signal & 1) != 0) handler_(signal, context_);
  }
  if (!destroyed) destroyed_ = nullptr;
}

}  // namespace posthouse

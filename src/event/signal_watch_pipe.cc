// Signals through a handler and a pipe, for kernels without signalfd(2).

#include <errno.h>

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "posthouse/event/event_loop_impl.h"
#include "posthouse/event/signal_watch.h"

namespace posthouse {

// Everything stands before the first signal can come: they are blocked until the end.
absl::Status SignalWatch::OpenPipe(const std::vector<int>& signals) {
  absl::StatusOr<std::unique_ptr<SignalPipe>> pipe = SignalPipe::Create(signals);
  if (!pipe.ok()) return pipe.status();
  pipe_ = *std::move(pipe);
  absl::StatusOr<FdWatch> watch = loop_->Watch(
      pipe_->fd(), {.on_readable = &SignalWatch::OnPipe, .context = this, .background = true});
  if (!watch.ok()) return watch.status();
  watch_ = *std::move(watch);
  loop_->impl().AddForkFunction(&SignalWatch::AfterFork, this);
  struct sigaction action = {};
  action.sa_handler = &SignalPipe::OnSignal;
  action.sa_flags = SA_RESTART;
  action.sa_mask = watched_;
  for (const int signal : signals) {
    if (os::Sigaction(signal, &action, nullptr) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("sigaction ", signal));
    }
  }
  if (const int error = os::Sigmask(SIG_UNBLOCK, &watched_, nullptr); error != 0) {
    return absl::ErrnoToStatus(error, "sigprocmask");
  }
  return absl::OkStatus();
}

void SignalWatch::OnPipe(int event, void* context) {
  auto* self = static_cast<SignalWatch*>(context);
  self->Deliver(self->pipe_->Take());
}

absl::Status SignalWatch::AfterFork(void* context) {
  auto* self = static_cast<SignalWatch*>(context);
  sigset_t before;
  if (const int error = os::Sigmask(SIG_BLOCK, &self->watched_, &before); error != 0) {
    return absl::ErrnoToStatus(error, "sigprocmask");
  }
  absl::Status status = self->pipe_->AfterFork();
  os::Sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

}  // namespace posthouse

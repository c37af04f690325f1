// Signals through signalfd(2).

#include "posthouse/event/signal_watch.h"

#if defined(__linux__)

#include <errno.h>
#include <sys/signalfd.h>

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace posthouse {
namespace {

// Read per turn; the kernel keeps one of each ordinary signal, and the loop comes again.
constexpr int kSignalsPerTurn = 32;

}  // namespace

absl::Status SignalWatch::OpenDescriptor() {
  descriptor_.Reset(os::Signalfd(-1, &watched_, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!descriptor_.valid()) return absl::ErrnoToStatus(errno, "signalfd");
  absl::StatusOr<FdWatch> watch = loop_->Watch(
      descriptor_.get(),
      {.on_readable = &SignalWatch::OnDescriptor, .context = this, .background = true});
  if (!watch.ok()) return watch.status();
  watch_ = *std::move(watch);
  return absl::OkStatus();
}

void SignalWatch::OnDescriptor(int event, void* context) {
  auto* self = static_cast<SignalWatch*>(context);
  signalfd_siginfo infos[kSignalsPerTurn];
  const ssize_t got = os::Read(self->descriptor_.get(), infos, sizeof infos);
  if (got < 0) return;  // taken meanwhile, or interrupted: the loop comes again (F14)
  uint64_t signals = 0;
  for (size_t i = 0; i < static_cast<size_t>(got) / sizeof infos[0]; ++i) {
    signals |= uint64_t{1} << infos[i].ssi_signo;
  }
  self->Deliver(signals);
}

}  // namespace posthouse

#else  // no signalfd

#include "absl/status/status.h"

namespace posthouse {

absl::Status SignalWatch::OpenDescriptor() {
  return absl::UnimplementedError("signalfd: this system does not have it");
}

}  // namespace posthouse

#endif

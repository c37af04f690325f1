#include "posthouse/server/status_channel.h"

#include <utility>

namespace posthouse {

StatusChannel::StatusChannel(int fd, int32_t pid, uint32_t generation, Log* log)
    : status_(fd, pid, generation), log_(log) {}

absl::Status StatusChannel::Watch(EventLoop* loop) {
  FdWatchOptions options;
  options.on_readable = &StatusChannel::OnReadable;
  options.on_writable = &StatusChannel::OnWritable;
  options.context = this;
  options.background = true;
  absl::StatusOr<FdWatch> watch = loop->Watch(status_.fd(), options);
  if (!watch.ok()) return watch.status();
  watch_ = *std::move(watch);
  return absl::OkStatus();
}

void StatusChannel::WorkBegins() {
  if (taken_ || silent_) return;
  taken_ = true;
  log_->Verbose("status: taken");
  // Only kDeferred would matter, and then TurnEnds() sends the state that counts.
  static_cast<void>(status_.Report(Availability::kTaken));
}

void StatusChannel::TurnEnds() {
  if (!taken_) return;
  taken_ = false;
  if (silent_) return;
  log_->Verbose("status: available");
  Handle(status_.Report(Availability::kAvailable));
}

void StatusChannel::Handle(WorkerStatus::Result result) {
  if (result == WorkerStatus::Result::kDisconnected) return Disconnected();
  if (!watch_.active()) return;
  if (status_.owes()) {
    watch_.EnableWrite();
  } else {
    watch_.DisableWrite();
  }
}

void StatusChannel::Silence() {
  watch_.Reset();
  status_.Silence();
  silent_ = true;
}

void StatusChannel::Disconnected() {
  if (disconnected_ || silent_) return;
  disconnected_ = true;
  // The channel stays readable from now on: watching it further would spin (P45).
  watch_.Reset();
}

void StatusChannel::OnReadable(int /*event*/, void* context) {
  // Any event means the same; nothing is read (S88).
  static_cast<StatusChannel*>(context)->Disconnected();
}

void StatusChannel::OnWritable(int /*event*/, void* context) {
  StatusChannel* channel = static_cast<StatusChannel*>(context);
  channel->Handle(channel->status_.Flush());
}

}  // namespace posthouse

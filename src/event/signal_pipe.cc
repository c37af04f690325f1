#include "posthouse/event/signal_pipe.h"

#include <errno.h>
#include <fcntl.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace posthouse {
namespace {

// One byte per signal is the most that can be in the pipe.
constexpr size_t kMostBytes = 64;

}  // namespace

constinit std::atomic<SignalPipe*> SignalPipe::newest_{nullptr};

absl::StatusOr<std::unique_ptr<SignalPipe>> SignalPipe::Create(const std::vector<int>& signals) {
  uint64_t bits = 0;
  for (const int signal : signals) bits |= uint64_t{1} << signal;
  std::unique_ptr<SignalPipe> made(new SignalPipe(bits));
  int fds[2];
  if (os::Pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) {
    return absl::ErrnoToStatus(errno, "pipe for signals");
  }
  made->read_.Reset(fds[0]);
  made->write_.Reset(fds[1]);
  made->pipe_of_ = made->noted_of_ = os::Getpid();
  made->older_ = newest_.load();
  newest_ = made.get();
  return made;
}

SignalPipe::~SignalPipe() {
  if (newest_ == this) {
    newest_ = older_.load();
    return;
  }
  for (SignalPipe* pipe = newest_; pipe != nullptr; pipe = pipe->older_) {
    if (pipe->older_ == this) pipe->older_ = older_.load();
  }
}

// Async-signal-safe: it reads atomics; Note() is.
void SignalPipe::OnSignal(int signal) {
  const int saved_errno = errno;
  const uint64_t bit = uint64_t{1} << signal;
  for (SignalPipe* pipe = newest_; pipe != nullptr; pipe = pipe->older_) {
    if ((pipe->signals_ & bit) == 0) continue;
    pipe->Note(bit);
    break;
  }
  errno = saved_errno;
}

// Async-signal-safe: atomics, getpid(2) and write(2). The signals of one pipe do not interrupt each
// other here.
void SignalPipe::Note(uint64_t signal) {
  const pid_t process = os::Getpid();
  if (noted_of_ != process) {
    noted_ = 0;  // the parent's
    noted_of_ = process;
  }
  if ((noted_.fetch_or(signal) & signal) != 0) return;
  if (pipe_of_ == process) Wake();
}

// Async-signal-safe: one system call. A full pipe is readable, so that its refusal is no loss.
void SignalPipe::Wake() const {
  const char byte = 0;
  if (os::Write(write_.get(), &byte, sizeof(byte)) < 0) return;
}

// The pipe is emptied first: what comes in between is taken with the rest, and its byte wakes once
// too often.
uint64_t SignalPipe::Take() {
  char bytes[kMostBytes];
  if (os::Read(read_.get(), bytes, sizeof(bytes)) < 0) return 0;
  return noted_of_ == os::Getpid() ? noted_.exchange(0) : 0;
}

uint64_t SignalPipe::noted() const { return noted_of_ == os::Getpid() ? noted_.load() : 0; }

absl::Status SignalPipe::AfterFork() {
  int fds[2];
  if (os::Pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) {
    return absl::ErrnoToStatus(errno, "pipe for signals of a child");
  }
  const UniqueFd read(fds[0]);
  const UniqueFd write(fds[1]);
  if (os::Dup3(read.get(), read_.get(), O_CLOEXEC) < 0 ||
      os::Dup3(write.get(), write_.get(), O_CLOEXEC) < 0) {
    return absl::ErrnoToStatus(errno, "dup3 for signals of a child");
  }
  pipe_of_ = os::Getpid();
  if (noted() != 0) Wake();
  return absl::OkStatus();
}

}  // namespace posthouse

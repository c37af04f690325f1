#include "posthouse/io/stream.h"

#include <limits.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/io/poll_wait.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// A pipe that poll(2) calls writable takes this much without blocking (the kernel reports one free
// page), and POSIX promises it whole.
constexpr size_t kPipeWriteSize = PIPE_BUF;

// write(2) to something that may raise SIGPIPE and is no socket: the signal is held back for this
// thread and, if it came from this write, taken away again (F28). What was pending before stays
// pending.
ssize_t WriteWithoutSigpipe(int fd, const void* data, size_t size) {
  sigset_t sigpipe, old_mask, pending;
  sigemptyset(&sigpipe);
  sigaddset(&sigpipe, SIGPIPE);
  os::Sigpending(&pending);
  const bool was_pending = sigismember(&pending, SIGPIPE) == 1;
  os::Sigmask(SIG_BLOCK, &sigpipe, &old_mask);
  const ssize_t written = os::Write(fd, data, size);
  const int error = errno;
  if (written < 0 && error == EPIPE && !was_pending) {
    os::Sigpending(&pending);
    int signal = 0;
    if (sigismember(&pending, SIGPIPE) == 1) os::Sigwait(&sigpipe, &signal);
  }
  os::Sigmask(SIG_SETMASK, &old_mask, nullptr);
  errno = error;
  return written;
}

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

// For what is no socket: the mode of the open file is not ours to know or to change, so poll(2)
// says beforehand whether the call would block; the answer is EAGAIN if it would.
bool IsReady(int fd, short events) {
  absl::StatusOr<short> ready = PollNow(fd, events);
  if (!ready.ok()) {
    errno = EBADF;
    return false;
  }
  if (*ready == 0) errno = EAGAIN;
  return *ready != 0;
}

// One read that never blocks (F14).
ssize_t ReadNow(int fd, bool* is_socket, void* buffer, size_t size) {
  ssize_t count;
  do {
    if (*is_socket) {
      count = os::Recv(fd, buffer, size, MSG_DONTWAIT);
      if (count >= 0 || errno != ENOTSOCK) continue;
      *is_socket = false;
    }
    count = IsReady(fd, POLLIN) ? os::Read(fd, buffer, size) : -1;
  } while (count < 0 && errno == EINTR);
  return count;
}

// One write that never blocks and never raises SIGPIPE.
ssize_t WriteNow(int fd, bool* is_socket, const void* data, size_t size) {
  ssize_t count;
  do {
    if (*is_socket) {
      count = os::Send(fd, data, size, MSG_DONTWAIT | os::kMsgNosignal);
      if (count >= 0 || errno != ENOTSOCK) continue;
      *is_socket = false;
    }
    count =
        IsReady(fd, POLLOUT) ? WriteWithoutSigpipe(fd, data, std::min(size, kPipeWriteSize)) : -1;
  } while (count < 0 && errno == EINTR);
  return count;
}

}  // namespace

Stream::Stream(UniqueFd fd, std::string name) : input_fd_(std::move(fd)), name_(std::move(name)) {}

Stream::Stream(UniqueFd input, UniqueFd output, std::string name)
    : input_fd_(std::move(input)), output_fd_(std::move(output)), name_(std::move(name)) {}

Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;

void Stream::set_operation_timeout(absl::Duration timeout) {
  POSTHOUSE_CHECK(timeout > absl::ZeroDuration(), "the time limit of a stream is not positive");
  operation_timeout_ = timeout;
}

absl::string_view Stream::input() const { return absl::string_view(input_).substr(consumed_); }

size_t Stream::unsent() const { return output_.size() - sent_; }

size_t Stream::buffer_bytes() const {
  // A string that holds little keeps it inside itself.
  const size_t own = std::string().capacity();
  return (input_.capacity() > own ? input_.capacity() : 0) +
         (output_.capacity() > own ? output_.capacity() : 0);
}

absl::StatusOr<Stream::FillResult> Stream::Fill(size_t limit) {
  POSTHOUSE_CHECK(limit > 0, "a stream is asked to read nothing");
  if (!input_error_.ok()) return input_error_;
  if (at_end_) return FillResult::kEnd;
  const size_t held = input_.size() - consumed_;
  if (held >= max_input_) return FillResult::kFull;
  const size_t size = std::min({limit, max_input_ - held, kBufferSize});

  char buffer[kBufferSize];
  const ssize_t count = ReadNow(fd(), &input_is_socket_, buffer, size);
  if (count < 0 && WouldBlock(errno)) return FillResult::kWouldBlock;
  if (count < 0) {
    input_error_ = absl::ErrnoToStatus(errno, absl::StrCat("read from ", name_));
    return input_error_;
  }
  if (count == 0) {
    at_end_ = true;
    return FillResult::kEnd;
  }
  // What is used up goes when it is at least half, so that each byte moves once on average.
  if (consumed_ > 0 && consumed_ >= input_.size() / 2) {
    input_.erase(0, consumed_);
    consumed_ = 0;
  }
  input_.append(buffer, static_cast<size_t>(count));
  return FillResult::kData;
}

void Stream::Consume(size_t bytes) {
  POSTHOUSE_CHECK(bytes <= input_.size() - consumed_, "more is consumed than there is input");
  consumed_ += bytes;
  consumed_total_ += bytes;
  scanned_ -= std::min(scanned_, bytes);
  if (consumed_ < input_.size()) return;
  // An idle connection holds no buffer.
  std::string().swap(input_);
  consumed_ = 0;
}

bool Stream::TakeLine(std::string* line) {
  const absl::string_view text = input();
  const size_t end = text.find('\n', scanned_);
  if (end == absl::string_view::npos) {
    scanned_ = text.size();
    return false;
  }
  absl::string_view found = text.substr(0, end);
  if (!found.empty() && found.back() == '\r') found.remove_suffix(1);
  line->assign(found.data(), found.size());
  scanned_ = 0;
  Consume(end + 1);
  return true;
}

absl::Status Stream::Append(absl::string_view data) {
  if (!output_error_.ok()) return output_error_;
  if (data.size() > max_output_ - std::min(max_output_, unsent())) {
    return absl::ResourceExhaustedError(
        absl::StrCat("output to ", name_, " exceeds ", max_output_, " bytes"));
  }
  if (sent_ > 0 && sent_ >= output_.size() / 2) {
    output_.erase(0, sent_);
    sent_ = 0;
  }
  output_.append(data.data(), data.size());
  return absl::OkStatus();
}

absl::StatusOr<bool> Stream::TryFlush() {
  if (!output_error_.ok()) return output_error_;
  while (sent_ < output_.size()) {
    const ssize_t count =
        WriteNow(output_fd(), &output_is_socket_, output_.data() + sent_, output_.size() - sent_);
    if (count < 0 && WouldBlock(errno)) return false;
    if (count < 0) {
      output_error_ = absl::ErrnoToStatus(errno, absl::StrCat("write to ", name_));
      return output_error_;
    }
    sent_ += static_cast<size_t>(count);
  }
  std::string().swap(output_);
  sent_ = 0;
  return true;
}

absl::Status Stream::WaitFor(int fd, short events, absl::string_view operation) {
  int64_t limit_ns = INT64_MAX;
  if (operation_timeout_ != absl::InfiniteDuration()) {
    const int64_t now_ns = os::SteadyNanos();
    const int64_t timeout_ns = absl::ToInt64Nanoseconds(operation_timeout_);
    if (timeout_ns < INT64_MAX - now_ns) limit_ns = now_ns + timeout_ns;
  }
  if (deadline_ns_ != 0) limit_ns = std::min(limit_ns, deadline_ns_);
  absl::Status status = WaitForFdUntil(fd, events, limit_ns);
  if (status.ok()) return status;
  if (absl::IsDeadlineExceeded(status)) {
    return absl::DeadlineExceededError(
        absl::StrCat(operation, " ", name_, ": time limit exceeded"));
  }
  return absl::Status(status.code(), absl::StrCat(operation, " ", name_, ": ", status.message()));
}

absl::Status Stream::FillOrWait() {
  while (true) {
    absl::StatusOr<FillResult> filled = Fill();
    if (!filled.ok()) return filled.status();
    switch (*filled) {
      case FillResult::kData:
        return absl::OkStatus();
      case FillResult::kEnd:
        return absl::OutOfRangeError(absl::StrCat("read from ", name_, ": end of input"));
      case FillResult::kFull:
        return absl::ResourceExhaustedError(
            absl::StrCat("input from ", name_, " exceeds ", max_input_, " bytes"));
      case FillResult::kWouldBlock:
        break;
    }
    absl::Status ready = WaitFor(fd(), POLLIN, "read from");
    if (!ready.ok()) {
      input_error_ = ready;
      return ready;
    }
  }
}

absl::StatusOr<std::string> Stream::ReadLine(size_t max_length) {
  std::string line;
  while (true) {
    const bool found = TakeLine(&line);
    // A line terminator of two bytes may be on its way behind a line of just the length.
    const size_t length =
        found ? line.size() : input().size() - std::min<size_t>(input().size(), 1);
    if (length > max_length) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a line from ", name_, " is longer than ", max_length, " bytes"));
    }
    if (found) return line;
    absl::Status filled = FillOrWait();
    if (!filled.ok()) return filled;
  }
}

absl::StatusOr<std::string> Stream::ReadExactly(size_t bytes) {
  if (bytes > max_input_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(bytes, " bytes from ", name_, " exceed ", max_input_, " bytes"));
  }
  while (input().size() < bytes) {
    absl::Status filled = FillOrWait();
    if (!filled.ok()) return filled;
  }
  std::string data(input().substr(0, bytes));
  Consume(bytes);
  return data;
}

absl::Status Stream::WaitForInput() { return input().empty() ? FillOrWait() : absl::OkStatus(); }

absl::Status Stream::Write(absl::string_view data) {
  if (!output_error_.ok()) return output_error_;
  while (!data.empty()) {
    const size_t piece = std::min({data.size(), kBufferSize, max_output_});
    if (unsent() + piece > std::min(kBufferSize, max_output_)) {
      absl::Status flushed = Flush();
      if (!flushed.ok()) return flushed;
    }
    absl::Status appended = Append(data.substr(0, piece));
    if (!appended.ok()) return appended;
    data.remove_prefix(piece);
  }
  return absl::OkStatus();
}

absl::Status Stream::Flush() {
  while (true) {
    absl::StatusOr<bool> done = TryFlush();
    if (!done.ok()) return done.status();
    if (*done) return absl::OkStatus();
    absl::Status ready = WaitFor(output_fd(), POLLOUT, "write to");
    if (!ready.ok()) {
      output_error_ = ready;
      return ready;
    }
  }
}

void Stream::Close() {
  input_fd_.Reset();
  output_fd_.Reset();
  std::string().swap(input_);
  std::string().swap(output_);
  consumed_ = scanned_ = sent_ = 0;
}

}  // namespace posthouse

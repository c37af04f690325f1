#include "posthouse/log/stderr_sink.h"

#include <errno.h>
#include <limits.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "posthouse/log/buffered_sink.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

class StderrSink : public BufferedSink {
 public:
  explicit StderrSink(const StderrOptions& options)
      : fd_(options.fd),
        with_time_(options.with_time),
        head_(absl::StrCat(with_time_ ? " " : "", options.hostname,
                           options.hostname.empty() ? "" : " ")) {}

 protected:
  Line Format(const LogRecord& record) override {
    return {
        "", with_time_,
        absl::StrCat(head_, record.tag, "[", record.pid, "]: ", TextWithSeverity(record), "\n")};
  }

  Outcome Deliver(absl::string_view line, size_t* sent) override {
    while (*sent < line.size()) {
      const ssize_t count = SendOrWrite(line.substr(*sent));
      if (count > 0) {
        *sent += static_cast<size_t>(count);
        torn_.store(*sent < line.size());
      } else if (count == 0 || errno != EINTR) {
        return Outcome::kLater;
      }
    }
    return Outcome::kDelivered;
  }
  char separator() const override { return '\n'; }
  // Async-signal-safe: it reads an atomic.
  bool torn() const override { return torn_.load(); }
  // Async-signal-safe: three system calls at most.
  void SendEmergency(absl::string_view line) override { SendOrWrite(line); }

 private:
  // Async-signal-safe: system calls alone. Zero when nothing goes now.
  ssize_t SendOrWrite(absl::string_view data) {
    const ssize_t count = os::Send(fd_, data.data(), data.size(), MSG_DONTWAIT | os::kMsgNosignal);
    return count < 0 && errno == ENOTSOCK ? WriteIfReady(data) : count;
  }

  // Async-signal-safe: system calls alone.
  ssize_t WriteIfReady(absl::string_view data) {
    pollfd entry = {fd_, POLLOUT, 0};
    if (os::Poll(&entry, 1, 0) <= 0) return 0;
    // POLLERR is a pipe without a reader: a write would raise SIGPIPE.
    if ((entry.revents & POLLOUT) == 0 || (entry.revents & (POLLERR | POLLNVAL)) != 0) return 0;
    // A pipe that poll calls writable has room for this much, even in blocking mode.
    return os::Write(fd_, data.data(), std::min<size_t>(data.size(), PIPE_BUF));
  }

  int fd_;
  bool with_time_;
  std::string head_;               // between the time and the tag
  std::atomic<bool> torn_{false};  // a part of a line went out
};

}  // namespace

std::unique_ptr<LogSink> NewStderrSink(const StderrOptions& options) {
  return std::make_unique<StderrSink>(options);
}

}  // namespace posthouse

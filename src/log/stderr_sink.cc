#include "posthouse/log/stderr_sink.h"

#include <errno.h>
#include <limits.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "posthouse/log/buffered_sink.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

class StderrSink : public BufferedSink {
 public:
  explicit StderrSink(const StderrOptions& options)
      : fd_(options.fd), with_time_(options.with_time) {}

 protected:
  std::string Format(const LogRecord& record) override {
    return absl::StrCat(with_time_ ? LogTimestamp() + " " : "", record.tag, "[", record.pid,
                        "]: ", TextWithSeverity(record), "\n");
  }

  Outcome Deliver(absl::string_view line, size_t* sent) override {
    while (*sent < line.size()) {
      const absl::string_view rest = line.substr(*sent);
      ssize_t count = os::Send(fd_, rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (count < 0 && errno == ENOTSOCK) count = WriteIfReady(rest);
      if (count > 0) {
        *sent += static_cast<size_t>(count);
      } else if (count == 0 || errno != EINTR) {
        return Outcome::kLater;
      }
    }
    return Outcome::kDelivered;
  }

 private:
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
};

}  // namespace

std::unique_ptr<LogSink> NewStderrSink(const StderrOptions& options) {
  return std::make_unique<StderrSink>(options);
}

}  // namespace posthouse

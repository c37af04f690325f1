#include "posthouse/log/postlog_sink.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "posthouse/log/buffered_sink.h"
#include "posthouse/log/local_log_socket.h"

namespace posthouse {
namespace {

// "public/postlog" of "/var/spool/postfix/public/postlog".
std::string RelativePath(const std::string& path) {
  const size_t last = path.rfind('/');
  if (last == std::string::npos || last == 0) return path;
  const size_t before = path.rfind('/', last - 1);
  return before == std::string::npos ? path : path.substr(before + 1);
}

// The text becomes a field of the record, so that a blank or a control character would shift it.
std::string HostField(absl::string_view hostname) {
  std::string host(hostname.substr(0, hostname.find('.')).substr(0, 255));
  for (char& c : host) {
    if (c <= 0x20 || c > 0x7e) c = '?';
  }
  return host.empty() ? "localhost" : host;
}

class PostlogSink : public BufferedSink {
 public:
  explicit PostlogSink(const PostlogOptions& options)
      : hostname_(HostField(options.hostname)),
        socket_({options.path, RelativePath(options.path)}, /*stream_too=*/false) {}

 protected:
  Line Format(const LogRecord& record) override {
    return {"", /*with_time=*/true,
            absl::StrCat(" ", hostname_, " ", record.tag, "[", record.pid,
                         "]: ", TextWithSeverity(record))};
  }
  Outcome Deliver(absl::string_view line, size_t* sent) override {
    switch (socket_.Send(line, sent)) {
      case LocalLogSocket::Outcome::kSent:
        return Outcome::kDelivered;
      case LocalLogSocket::Outcome::kLater:
        return Outcome::kLater;
      case LocalLogSocket::Outcome::kRefused:
        return Outcome::kRefused;
    }
    return Outcome::kRefused;
  }
  char separator() const override { return LocalLogSocket::kSeparator; }
  // Async-signal-safe: as the socket's.
  bool torn() const override { return socket_.torn(); }
  // Async-signal-safe: as the socket's.
  void SendEmergency(absl::string_view line) override { socket_.SendEmergency(line); }

 private:
  std::string hostname_;
  LocalLogSocket socket_;
};

}  // namespace

std::unique_ptr<LogSink> NewPostlogSink(const PostlogOptions& options) {
  return std::make_unique<PostlogSink>(options);
}

std::string PostlogPath(absl::string_view queue_directory, absl::string_view service_name) {
  return absl::StrCat(queue_directory, "/public/", service_name);
}

absl::Status CheckMaillogFile(absl::string_view file, absl::string_view prefixes) {
  for (const absl::string_view prefix :
       absl::StrSplit(prefixes, absl::ByAnyChar(", \t\r\n"), absl::SkipEmpty())) {
    if (absl::StartsWith(file, prefix)) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("maillog_file \"", absl::CHexEscape(file.substr(0, 200)),
                   "\" does not begin with one of maillog_file_prefixes \"",
                   absl::CHexEscape(prefixes.substr(0, 200)), "\""));
}

}  // namespace posthouse

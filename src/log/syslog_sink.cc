#include "posthouse/log/syslog_sink.h"

#include <syslog.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "posthouse/log/buffered_sink.h"
#include "posthouse/log/local_log_socket.h"

namespace posthouse {
namespace {

// The levels that syslog(3) knows, and which of ours is which.
int SyslogLevel(LogSeverity severity) {
  switch (severity) {
    case LogSeverity::kInfo:
      return 6;
    case LogSeverity::kWarning:
      return 4;
    case LogSeverity::kError:
      return 3;
    case LogSeverity::kFatal:
    case LogSeverity::kPanic:
      return 2;
  }
  return 6;
}

class SyslogSink : public BufferedSink {
 public:
  explicit SyslogSink(const SyslogOptions& options)
      : facility_(options.facility), socket_({options.path}, /*stream_too=*/true) {}

 protected:
  Line Format(const LogRecord& record) override {
    return {absl::StrCat("<", facility_ | SyslogLevel(record.severity), ">"), /*with_time=*/true,
            absl::StrCat(" ", record.tag, "[", record.pid, "]: ", TextWithSeverity(record))};
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
  int facility_;
  LocalLogSocket socket_;
};

}  // namespace

absl::StatusOr<int> ParseSyslogFacility(absl::string_view name) {
  static constexpr struct {
    absl::string_view name;
    int number;
  } kFacilities[] = {
      {"auth", 4},    {"authpriv", 10}, {"cron", 9},    {"daemon", 3},  {"ftp", 11},
      {"kern", 0},    {"lpr", 6},       {"mail", 2},    {"news", 7},    {"syslog", 5},
      {"user", 1},    {"uucp", 8},      {"local0", 16}, {"local1", 17}, {"local2", 18},
      {"local3", 19}, {"local4", 20},   {"local5", 21}, {"local6", 22}, {"local7", 23},
  };
  for (const auto& facility : kFacilities) {
    if (facility.name == name) return facility.number << 3;
  }
#if defined(LOG_SECURITY)
  // Only some systems have it, and stock daemons know it only there.
  if (name == "security") return LOG_SECURITY;
#endif
  return absl::InvalidArgumentError(
      absl::StrCat("unknown syslog facility \"", absl::CHexEscape(name.substr(0, 40)), "\""));
}

std::string SyslogPath() {
#if defined(_PATH_LOG)
  return _PATH_LOG;
#else
  return "/dev/log";
#endif
}

std::unique_ptr<LogSink> NewSyslogSink(const SyslogOptions& options) {
  return std::make_unique<SyslogSink>(options);
}

}  // namespace posthouse

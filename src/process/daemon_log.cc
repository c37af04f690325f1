#include "posthouse/process/daemon_log.h"

#include "posthouse/log/postlog_sink.h"
#include "posthouse/log/syslog_sink.h"

namespace posthouse {
namespace {

constexpr char kLogTagVariable[] = "MAIL_LOGTAG";

}  // namespace

std::unique_ptr<LogSink> NewEarlyDaemonSink(const absl::optional<std::string>& postlog_service,
                                            const absl::optional<std::string>& postlog_hostname) {
  if (postlog_service.value_or("").empty()) return NewSyslogSink({});
  PostlogOptions options;
  options.path = *postlog_service;
  options.hostname = postlog_hostname.value_or("");
  return NewPostlogSink(options);
}

std::unique_ptr<LogSink> NewDaemonSink(const GenericParameters& generic) {
  if (generic.maillog_file.value().empty()) {
    SyslogOptions options;
    options.facility = generic.syslog_facility_code;
    return NewSyslogSink(options);
  }
  PostlogOptions options;
  options.path = generic.PostlogSocketPath();
  options.hostname = generic.myhostname.value();
  return NewPostlogSink(options);
}

std::vector<std::pair<std::string, absl::optional<std::string>>> LogVariables(
    const GenericParameters& generic) {
  absl::optional<std::string> service;
  absl::optional<std::string> hostname;
  if (!generic.maillog_file.value().empty()) {
    service = generic.PostlogSocketPath();
    hostname = generic.myhostname.value();
  }
  return {{kLogTagVariable, generic.syslog_name.value()},
          {kPostlogServiceVariable, service},
          {kPostlogHostnameVariable, hostname}};
}

}  // namespace posthouse

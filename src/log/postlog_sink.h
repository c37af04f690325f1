// The sink that writes to Postfix's postlogd, which owns the file of `maillog_file` (C73, D91).
//
// Stock daemons send `Mmm dd hh:mm:ss host tag[pid]: warning: text` as one datagram per record to
// <queue_directory>/public/<postlog_service_name>. Before main.cf is read, the presence of
// POSTLOG_SERVICE (that path) in the environment decides, and POSTLOG_HOSTNAME gives the host;
// afterwards `maillog_file` decides: set, the path and `myhostname` are used and exported under
// these names; unset, both variables are removed and the system's log daemon is used. They connect
// before a chroot and keep the connection.
//
// When nobody listens, stock daemons lose their records. Here they are kept as far as the bound
// goes, and the connection is tried again: by the absolute path, and by the path relative to the
// working directory, which for a worker is the queue directory inside and outside of a jail.

#ifndef POSTHOUSE_LOG_POSTLOG_SINK_H_
#define POSTHOUSE_LOG_POSTLOG_SINK_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "posthouse/log/log.h"

namespace posthouse {

inline constexpr char kPostlogServiceVariable[] = "POSTLOG_SERVICE";
inline constexpr char kPostlogHostnameVariable[] = "POSTLOG_HOSTNAME";

struct PostlogOptions {
  std::string path;      // POSTLOG_SERVICE, or PostlogPath()
  std::string hostname;  // POSTLOG_HOSTNAME, or myhostname; what follows its first dot is left out
};

std::unique_ptr<LogSink> NewPostlogSink(const PostlogOptions& options);

// <queue_directory>/public/<postlog_service_name>.
std::string PostlogPath(absl::string_view queue_directory, absl::string_view service_name);

// kInvalidArgument unless `file` starts with one of the blank or comma separated `prefixes` (C72).
absl::Status CheckMaillogFile(absl::string_view file, absl::string_view prefixes);

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_POSTLOG_SINK_H_

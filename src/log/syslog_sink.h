// The sink that writes to the system's log daemon, as syslog(3) would: the RFC 3164 form
// `<PRI>Mmm dd hh:mm:ss tag[pid]: warning: text` as a datagram to the daemon's socket, or over a
// stream where the daemon has one.
//
// It connects when it is made, so that it goes on working after a chroot(2). When the daemon was
// restarted it connects again by the same path; inside a jail that needs a socket of the log daemon
// there too (the usual <jail>/dev/log), since no path leads out of a jail.

#ifndef POSTHOUSE_LOG_SYSLOG_SINK_H_
#define POSTHOUSE_LOG_SYSLOG_SINK_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/log/log.h"

namespace posthouse {

// The number of a facility, ready for the priority: "mail" is 16. An unknown name is
// kInvalidArgument and names it (C65).
absl::StatusOr<int> ParseSyslogFacility(absl::string_view name);

// Where this system's daemon listens: /dev/log on Linux.
std::string SyslogPath();

struct SyslogOptions {
  int facility = 2 << 3;  // mail
  std::string path = SyslogPath();
};

std::unique_ptr<LogSink> NewSyslogSink(const SyslogOptions& options);

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_SYSLOG_SINK_H_

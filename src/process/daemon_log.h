// Where a daemon of Postfix logs: to postlogd when maillog_file is set, else to the system's log
// daemon (C73), and how the programs that it runs learn of it (C69).
//
//   log.AddSink(NewEarlyDaemonSink(getenv(kPostlogServiceVariable), getenv(...)));
//   ... main.cf has been read ...
//   log.AddSink(NewDaemonSink(generic));
//
// Thread: any. Errors: none; a sink keeps what it cannot deliver (postlog_sink.h, syslog_sink.h).

#ifndef POSTHOUSE_PROCESS_DAEMON_LOG_H_
#define POSTHOUSE_PROCESS_DAEMON_LOG_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "posthouse/config/generic_parameters.h"
#include "posthouse/log/log.h"

namespace posthouse {

// Before main.cf is read, the presence of POSTLOG_SERVICE in the environment decides.
std::unique_ptr<LogSink> NewEarlyDaemonSink(const absl::optional<std::string>& postlog_service,
                                            const absl::optional<std::string>& postlog_hostname);

// As the loaded parameters say.
std::unique_ptr<LogSink> NewDaemonSink(const GenericParameters& generic);

// The variables of the environment that tell other programs where to log, with their values;
// nothing for a variable that is to be absent.
std::vector<std::pair<std::string, absl::optional<std::string>>> LogVariables(
    const GenericParameters& generic);

}  // namespace posthouse

#endif  // POSTHOUSE_PROCESS_DAEMON_LOG_H_

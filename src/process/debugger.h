// Running `debugger_command` on oneself (S17, M3).
//
//   absl::StatusOr<absl::optional<std::string>> command = DebuggerCommand(store);
//   if (command.ok()) status = RunDebuggerCommand(command->value_or(""), &log);
//
// The command is run by the shell with the environment of this process, and waited for; what it
// starts in the background, such as a debugger that attaches to this process, goes on.
//
// Thread: one. Errors: kFailedPrecondition when there is no command; that of fork(2).

#ifndef POSTHOUSE_PROCESS_DEBUGGER_H_
#define POSTHOUSE_PROCESS_DEBUGGER_H_

#include <string>

#include "absl/status/status.h"
#include "posthouse/log/log.h"

namespace posthouse {

absl::Status RunDebuggerCommand(const std::string& command, Log* log);

}  // namespace posthouse

#endif  // POSTHOUSE_PROCESS_DEBUGGER_H_

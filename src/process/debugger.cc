#include "posthouse/process/debugger.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

extern "C" char** environ;

namespace posthouse {

absl::Status RunDebuggerCommand(const std::string& command, Log* log) {
  if (command.empty()) return absl::FailedPreconditionError("debugger_command is not set");
  log->Info(absl::StrCat("running: ", command));
  char shell[] = "/bin/sh", option[] = "-c";
  char* const arguments[] = {shell, option, const_cast<char*>(command.c_str()), nullptr};
  const pid_t child = os::Fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "fork for the debugger command");
  if (child == 0) {
    os::Execve(shell, arguments, environ);
    _exit(127);
  }
  int status = 0;
  while (os::Waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return absl::OkStatus();
}

}  // namespace posthouse

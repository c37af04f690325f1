// What /proc tells about processes, and the check that a test program leaves none behind.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_PROCESSES_H_
#define POSTHOUSE_TESTS_CONFORMANCE_PROCESSES_H_

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace posthouse::conformance {

struct ProcessInfo {
  pid_t pid = 0;
  pid_t parent = 0;
  char state = '?';
  std::string executable;  // the file, as seen from outside a chroot
  std::string root;
  std::string working_directory;
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment;
  std::map<int, std::string> descriptors;  // number to target
  std::map<int, int> descriptor_flags;     // number to open flags, O_CLOEXEC included
  // "Uid", "Gid", "Groups", "CapEff", ...: the fields of /proc/PID/status, blanks squeezed.
  std::map<std::string, std::string> status;

  std::string program() const;  // the last component of the executable
};

// Nothing when the process is gone or a zombie.
absl::optional<ProcessInfo> InspectProcess(pid_t pid);
std::vector<pid_t> AllProcesses();
// Faster than InspectProcess() when only this is wanted; empty when the process is gone.
std::string EnvironmentVariable(pid_t pid, absl::string_view name);
// Children of this process, or of another one, zombies included.
std::vector<pid_t> Children();
std::vector<pid_t> ChildrenOf(pid_t parent);
// The descriptors of this process.
std::map<int, std::string> OwnDescriptors();

// Makes this process the parent of its orphaned descendants, so that what a daemon leaves behind
// can be waited for (process 1 may not reap in a container).
void BecomeSubreaper();
// Waits without blocking for `pid` if it is a zombie child of this process.
void Reap(pid_t pid);

// Runs a command with a clean environment, standard input from `input` and standard output and
// error to `output` (appended to). Returns its exit status, or -1 when it was killed or took longer
// than `bound`.
int RunCommand(const std::vector<std::string>& command, const std::string& output,
               absl::Duration bound, const std::string& input = "/dev/null");

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_PROCESSES_H_

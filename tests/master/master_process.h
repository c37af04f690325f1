// MasterProcess runs posthouse-master for a test: in a scratch directory, with a configuration and
// with programs of the test's own.
//
//   MasterProcess master;
//   master.SetTable({"echo unix - n n - 3 echo"});
//   ASSERT_TRUE(master.Start()) << master.Log();
//   LineClient client = master.Connect("private/echo");
//
// It works for root, with accounts that every system has, and for anybody else. The master leads a
// session of its own and stays in the foreground, so that its log is read from its standard error.
// What it leaves behind when the object goes is killed and reaped; the test's process is the
// reaper of orphans from the first object on.

#ifndef POSTHOUSE_TESTS_MASTER_MASTER_PROCESS_H_
#define POSTHOUSE_TESTS_MASTER_MASTER_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/line_client.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {

// A program of the test's command line: "posthouse-master", "echo", "scripted_worker".
std::string TestProgram(absl::string_view name);

// A loopback port that nobody has now.
int FreeTcpPort();
// Empty when nobody listens.
LineClient ConnectTcp(int port);
LineClient ConnectUnix(const std::string& path);

// `full` under POSTHOUSE_FULL=1, which asks for the counts of the statements; else `brief`.
int64_t Times(int64_t brief, int64_t full);

// The answer to one line; "<refused>" from an empty client.
std::string AskOnce(LineClient client, absl::string_view line);

// How often `text` occurs in `all`.
int Occurrences(absl::string_view all, absl::string_view text);
// The process ids of the children of any process; zombies left out, or not.
std::set<pid_t> ChildrenOf(pid_t pid);
std::set<pid_t> AllChildrenOf(pid_t pid);

class MasterProcess {
 public:
  MasterProcess();
  ~MasterProcess();
  MasterProcess(const MasterProcess&) = delete;
  MasterProcess& operator=(const MasterProcess&) = delete;

  // A program for master.cf: a script, or a program of the test's command line.
  void AddScript(absl::string_view name, absl::string_view text);
  void AddProgram(absl::string_view name, absl::string_view program);
  // Runs a copy of the master that everybody can execute.
  void CopyMaster();
  // Runs another program of the test's command line in its place, with one more variable.
  void UseProgram(absl::string_view program, absl::string_view variable);
  const std::string& program() const { return program_; }
  // main.cf beyond what every test has; master.cf, one line per service. Takes effect with Start()
  // or Reload().
  void SetParameters(const std::vector<std::string>& lines);
  void SetTable(const std::vector<std::string>& lines);

  // In the foreground; until it says that it has started. False: it ended, or took too long.
  bool Start(const std::vector<std::string>& options = {"-d"});
  // Only makes the process. `before_exec` runs in it.
  void Launch(const std::vector<std::string>& options, void (*before_exec)() = nullptr);
  // Runs the program to its end, with this configuration; the exit status and what it wrote.
  struct Outcome {
    int exit_status = -1;
    std::string output;
  };
  Outcome Run(const std::vector<std::string>& options);
  // The same in two steps. One at a time.
  pid_t Begin(const std::vector<std::string>& options);
  Outcome Finish(pid_t pid);
  // SIGHUP, and until the log tells the outcome. False: it has failed or took too long.
  bool Reload();

  pid_t pid() const { return pid_; }
  // The number in the lock file.
  pid_t LockedBy() const;
  void Signal(int signal);
  // The wait status of the master, reaped.
  absl::optional<int> WaitForEnd(absl::Duration bound = kGenerousBound);
  // Kills it, which its workers then see.
  void Kill();

  std::set<pid_t> Workers() const { return ChildrenOf(pid_); }
  LineClient Connect(absl::string_view path) { return ConnectUnix(QueuePath(path)); }
  std::string Log() const;
  int LogCount(absl::string_view text) const { return Occurrences(Log(), text); }
  bool WaitForLog(absl::string_view text, int times = 1,
                  absl::Duration bound = kGenerousBound) const;

  std::string path(absl::string_view name) const { return dir_.Path(name); }
  std::string QueuePath(absl::string_view name) const;
  std::string EtcPath(absl::string_view name) const;

 private:
  void WriteQuietFile(absl::string_view name, const std::string& text);
  std::vector<std::string> Arguments(const std::vector<std::string>& options) const;

  TempDir dir_;
  std::string program_;
  std::string variable_ = "LD_LIBRARY_PATH=/nowhere";
  pid_t pid_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_MASTER_MASTER_PROCESS_H_

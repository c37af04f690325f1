// MasterInstance is a master under test in a scratch directory of its own, whose services are probe
// workers (probe_worker.cc).
//
//   MasterInstance master;
//   master.SetServices("a unix - n n - 2 probe\n");
//   ASSERT_EQ(master.Start(), "");
//   Connection client = master.Connect("private/a");
//   EXPECT_EQ(Ask(client, "echo hi"), "hi");
//   EXPECT_EQ(master.Reports("a").size(), 1u);
//
// The candidate is started as `master -c DIRECTORY -w` (M28, M120), with an environment that has
// more in it than children may see. The processes that it leaves become children of the suite.
//
// The destructor kills and reaps what is left. Thread: one. Fork: not in a child.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_SUITE_MASTER_INSTANCE_H_
#define POSTHOUSE_TESTS_CONFORMANCE_SUITE_MASTER_INSTANCE_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "posthouse/testing/log_collector.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/conformance/connection.h"

namespace posthouse::conformance {

inline constexpr absl::Duration kBound = absl::Seconds(30);

// What a probe worker found when it started (tests/master/worker_report.h).
struct Report {
  pid_t pid = 0;
  std::string service;
  uint32_t generation = 0;
  int64_t time_ns = 0;
  std::vector<std::string> arguments;
  std::map<std::string, std::string> environment;
  std::map<int, std::string> descriptors;         // "nonblocking pipe:[4711]"
  std::map<int, std::string> sockets;             // "type=1 listening=1 ..."
  std::multimap<std::string, std::string> lines;  // everything, by its first word

  // The only line of that kind; "" when there is none.
  std::string line(const std::string& kind) const;
  // "" for what is not there.
  std::string variable(const std::string& name) const;
  std::string descriptor(int fd) const;
  std::string socket(int fd) const;
};

class MasterInstance {
 public:
  MasterInstance();
  ~MasterInstance();
  MasterInstance(const MasterInstance&) = delete;
  MasterInstance& operator=(const MasterInstance&) = delete;

  // --- Configuration, written at once ---

  void SetServices(const std::string& master_cf);
  // Behind the lines that every instance has; later ones win.
  void SetParameters(const std::string& main_cf);
  // A second daemon directory with the probe in it; returns its path.
  std::string AnotherDaemonDirectory();
  // Takes the probe away from the daemon directory, or puts it back.
  void SetProbeInstalled(bool installed);

  // --- Life ---

  // Runs the candidate with these options and waits for its end: "exit 0", "signal 9",
  // "still running" (it is killed then).
  std::string Run(const std::vector<std::string>& options, absl::Duration bound = kBound);
  // "" when the master runs, otherwise what happened. `options` are added to -w.
  std::string Start(const std::vector<std::string>& options = {});
  // From the pid file.
  pid_t pid() const { return pid_; }
  bool Running();
  // Sends SIGHUP. The effect shows later; see the checks for how to wait for it.
  void Reload();
  // The end of the master as in Run().
  std::string End(absl::Duration bound = kBound);
  void Signal(int signal_number);
  // The master does nothing while it is stopped, so that several things happen at once for it.
  void Stop();
  void Continue();

  // --- Files ---

  const std::string& config_directory() const { return config_directory_; }
  const std::string& queue_directory() const { return queue_directory_; }
  std::string Queue(absl::string_view name) const;
  std::string pid_file() const { return Queue("pid/master.pid"); }
  std::string lock_file() const { return scratch_.Path("data/master.lock"); }
  const TempDir& scratch() const { return scratch_; }
  // The user that services' sockets belong to.
  static std::string MailOwner();

  // --- Watching ---

  // Of all probe workers that have started, or of one service, in the order of their generations.
  std::vector<Report> Reports(absl::string_view service = "") const;
  // What happened to a probe worker.
  std::vector<std::string> Events(pid_t pid) const;
  bool HasEvent(pid_t pid, absl::string_view event) const;
  int CountEvents(absl::string_view service, absl::string_view prefix) const;
  // Waits until that many workers of the service have started.
  bool WaitForStarts(absl::string_view service, size_t count) const;
  std::string Log();
  bool WaitForLog(const std::string& pattern);
  // What the candidate wrote to standard error.
  std::string Errors() const;

  // A client of a local socket below the queue directory, or of a port of 127.0.0.1.
  Connection Connect(absl::string_view name);
  Connection ConnectPort(int port);
  // Of a service of type pass: the client end of a pair whose other end was passed.
  Connection ConnectPass(absl::string_view name);
  // Whether a connection is refused now.
  bool Refuses(absl::string_view name) const;

 private:
  pid_t Launch(const std::vector<std::string>& options);
  void WriteMainCf();
  void WriteConfiguration(const std::string& name, const std::string& content);

  TempDir scratch_;
  std::string config_directory_;
  std::string queue_directory_;
  std::string parameters_;
  std::unique_ptr<LogCollector> log_;
  std::vector<UniqueFd> passing_;
  pid_t pid_ = 0;
  absl::optional<std::string> end_;
};

// The answer of a probe worker, or the error as text.
std::string Ask(Connection& client, absl::string_view line);

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_SUITE_MASTER_INSTANCE_H_

// What the fault tests share: a fixture that starts the fault service under a fake master, clients,
// and the five checks that hold after every fault, whatever it is about:
//
//  1. no crash, no sanitizer report, no death by a signal that the test did not send;
//  2. descriptors, timers, watches and children are those from before;
//  3. the master's accounting is the truth;
//  4. no client is lost that the fault does not concern;
//  5. the log explains what happened in at most ten lines a second (F124).

#ifndef POSTHOUSE_TESTS_FAULTS_HARNESS_H_
#define POSTHOUSE_TESTS_FAULTS_HARNESS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fake_master.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/line_client.h"

namespace posthouse {

// Whether POSTHOUSE_FULL asks for the counts and times as the statements have them.
bool Full();
// Whether a sanitizer is compiled in that changes how memory is given back.
bool Sanitized();
// `full` in the full form, else `brief`.
int64_t Times(int64_t brief, int64_t full);
// A bound from a statement, for two ordinary cores without sanitizers; other machines, loaded ones
// and sanitizers get ten times as long, except in the full form without a sanitizer.
absl::Duration Allow(absl::Duration bound);

std::string ServiceProgram();
// The library that shifts the calendar clock of whoever preloads it, see wall_shift.cc.
std::string WallShiftLibrary();

// Times of a series of requests.
class Latencies {
 public:
  void Add(absl::Duration time) { times_.push_back(time); }
  size_t size() const { return times_.size(); }
  // REQUIRES: something was added.
  absl::Duration Percentile(double percent);
  absl::Duration Worst() { return Percentile(100); }
  std::string ToString();

 private:
  std::vector<absl::Duration> times_;
};

struct Scenario {
  std::string options;                  // POSTHOUSE_FAULT_OPTIONS, see fault_service.cc
  std::string faults;                   // POSTHOUSE_FAULTS
  std::string main_cf;                  // lines for main.cf
  std::vector<std::string> configured;  // arguments from master.cf
  std::string transport = "unix";
  bool unprivileged = false;
  bool chroot = false;
  int listen_sockets = 1;
  // A leak check at exit needs to trace the process, which a tracer or a lost right forbids.
  bool leak_check = true;
  FakeMasterOptions master;  // the rest; `program` and what is above are filled in
};

std::unique_ptr<FakeMaster> MakeMaster(Scenario scenario);

// The exit status of a process that ended by exit(), -1 for one that did not end, minus the signal
// for one that was killed.
int ExitCode(const absl::optional<int>& wait_status);

// Seconds of processor time that a process has used.
double CpuSeconds(pid_t pid);
// Bytes of memory that belong to the process alone: resident without shared pages.
int64_t PrivateMemory(pid_t pid);
// A file of /proc/PID.
std::string ReadProcessFile(pid_t pid, absl::string_view name);
int Count(absl::string_view all, absl::string_view text);
// The most lines that carry the same second; lines without a time stamp count for no second. The
// time stamps of `log` are those of the system's log.
int MostLinesPerSecond(absl::string_view log);

class FaultTest : public testing::Test {
 protected:
  // Makes the master and starts one worker; what it has open and waits for is remembered once it
  // serves.
  void Start(Scenario scenario = Scenario());
  LineClient Connect(int listen_socket = 0);
  bool WaitForLog(absl::string_view text, absl::Duration bound = kGenerousBound);
  int WaitForEnd(absl::Duration bound = kGenerousBound) {
    return ExitCode(master_->WaitForExit(pid_, bound));
  }
  bool running() {
    master_->Pump();
    return master_->worker(pid_).running;
  }
  std::string log() { return master_->Log(); }
  std::string State();

  // The checks above, for a worker that is still alive; all clients are gone.
  void ExpectUnharmed();
  // Those that need no living worker. Called by TearDown() too.
  void ExpectQuietLog(int lines_per_second = 10);
  // At most ten waits and 1 % of a core in a second ("idle").
  void ExpectIdle();

  void TearDown() override;

  FdLeakCheck fds_;
  ChildCheck children_;
  std::unique_ptr<FakeMaster> master_;
  pid_t pid_ = 0;
  std::string state_before_;
  int allowed_lines_per_second_ = 10;
};

// A thread of the test that asks `ECHO` of quiet clients in turn, as fast as `pause` says, and
// measures. Stop() ends it; errors() says how many got something else than their echo.
class Prober {
 public:
  Prober(std::vector<LineClient> clients, absl::Duration pause);
  ~Prober();
  Prober(const Prober&) = delete;
  Prober& operator=(const Prober&) = delete;
  // Gives the clients back.
  std::vector<LineClient> Stop();
  Latencies& latencies() { return latencies_; }
  int errors() const { return errors_; }

 private:
  struct State;
  void Run();
  std::vector<LineClient> clients_;
  absl::Duration pause_;
  Latencies latencies_;
  int errors_ = 0;
  std::unique_ptr<State> state_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_FAULTS_HARNESS_H_

// What the black-box tests of a worker share: a fixture that starts the test service under a fake
// master, and a client that speaks its lines.

#ifndef POSTHOUSE_TESTS_SERVER_HARNESS_H_
#define POSTHOUSE_TESTS_SERVER_HARNESS_H_

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

// The path of the test service, from the command line of the test.
std::string ServiceProgram();

struct Scenario {
  std::string test;                     // POSTHOUSE_TEST, see test_service.cc
  std::string main_cf;                  // lines for main.cf
  std::vector<std::string> configured;  // arguments from master.cf
  WorkerArguments arguments = DefaultArguments();
  FakeMasterOptions master;  // the rest; `program` and what is above are filled in

  static WorkerArguments DefaultArguments() {
    WorkerArguments arguments;
    arguments.process_limit = 100;
    arguments.transport = "unix";
    return arguments;
  }
};

std::unique_ptr<FakeMaster> MakeMaster(Scenario scenario);

// The exit status of a process that ended by exit(), -1 for one that did not, -2 for a signal.
int ExitCode(const absl::optional<int>& wait_status);

// Seconds of processor time that a process has used.
double CpuSeconds(pid_t pid);

// How often `text` occurs in `all`.
int Count(absl::string_view all, absl::string_view text);

class WorkerTest : public testing::Test {
 protected:
  // Makes the master and starts one worker.
  void Start(Scenario scenario = Scenario());
  // One more client of the listen socket.
  LineClient Connect(int listen_socket = 0);
  bool WaitForLog(absl::string_view text, absl::Duration bound = kGenerousBound);
  // The exit code of the first worker; see ExitCode().
  int WaitForEnd(absl::Duration bound = kGenerousBound) {
    return ExitCode(master_->WaitForExit(pid_, bound));
  }
  bool running() {
    master_->Pump();
    return master_->worker(pid_).running;
  }
  std::string log() { return master_->Log(); }
  // Waits until the master has seen the end of `requests` requests, and checks their order.
  void ExpectAccounted(int requests);

  FdLeakCheck fds_;
  ChildCheck children_;
  std::unique_ptr<FakeMaster> master_;
  pid_t pid_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_SERVER_HARNESS_H_

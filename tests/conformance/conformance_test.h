// What the test programs of this folder share: one private Postfix per test, stopped and checked at
// its end. A log line with a warning or worse that the test did not announce fails it (D97).

#ifndef POSTHOUSE_TESTS_CONFORMANCE_CONFORMANCE_TEST_H_
#define POSTHOUSE_TESTS_CONFORMANCE_CONFORMANCE_TEST_H_

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/conformance/connection.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/smtp_client.h"
#include "tests/conformance/status_trace.h"
#include "tests/conformance/stock_instance.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {

// Nothing takes this long unless it is broken.
inline constexpr absl::Duration kBound = absl::Seconds(30);

// The counts and times of the long form are only wanted on request.
inline bool Full() { return getenv("POSTHOUSE_FULL") != nullptr; }

class ConformanceTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<StockInstance>> created = StockInstance::Create(Options());
    if (absl::IsUnavailable(created.status())) GTEST_SKIP() << created.status();
    ASSERT_TRUE(created.ok()) << created.status();
    instance_ = *std::move(created);
  }

  void TearDown() override {
    trace_.reset();
    if (instance_ == nullptr) return;
    if (instance_->MasterPid() > 0) {
      EXPECT_EQ(instance_->Stop(), absl::OkStatus());
    }
    EXPECT_EQ(instance_->Processes(), std::vector<pid_t>());
    EXPECT_EQ(instance_->Complaints(expected_), std::vector<std::string>());
    if (HasFailure()) std::cerr << "The log of the instance:\n" << instance_->Log();
    instance_.reset();
  }

  // What the instance is made of.
  virtual StockInstanceOptions Options() const { return {}; }

  void Install(const std::string& name, absl::string_view runfile) {
    ASSERT_EQ(instance_->AddProgram(name, Runfile(runfile)), absl::OkStatus());
  }
  void Start() { ASSERT_EQ(instance_->Start(), absl::OkStatus()); }
  void Reload() { ASSERT_EQ(instance_->Reload(), absl::OkStatus()); }

  // Complaints of the log that the test provokes.
  void Expect(const std::string& pattern) { expected_.push_back(pattern); }

  // After a reload the master may still be between bind and listen of a new service.
  Connection Connect(absl::string_view service) {
    absl::StatusOr<Connection> connection = absl::UnknownError("not tried");
    Eventually(kBound, [&] {
      connection = Connection::Unix(instance_->private_socket(service));
      return connection.ok();
    });
    EXPECT_EQ(connection.status(), absl::OkStatus());
    return connection.ok() ? *std::move(connection) : Connection(UniqueFd());
  }
  // The answer, or the error as text.
  static std::string Ask(Connection& connection, absl::string_view line) {
    const absl::StatusOr<std::string> answer = connection.Ask(line);
    return answer.ok() ? *answer : answer.status().ToString();
  }
  static pid_t AskPid(Connection& connection) { return std::atoi(Ask(connection, "pid").c_str()); }

  bool Gone(pid_t pid) {
    return Eventually(kBound, [&] { return !InspectProcess(pid).has_value(); });
  }
  // Waits until the instance runs exactly `count` processes of the program.
  bool Runs(absl::string_view program, size_t count) {
    return Eventually(kBound, [&] { return instance_->Processes(program).size() == count; });
  }

  // From here on AwaitMaster() works.
  void TraceMaster() {
    absl::StatusOr<std::unique_ptr<StatusTrace>> trace = StatusTrace::Start(instance_->MasterPid());
    if (trace.ok()) trace_ = *std::move(trace);
  }
  // Waits until the master has read that a request of `worker` has ended. The master takes one
  // message per turn of its loop and buries the dead between two turns: a worker that is killed
  // before that counts as one that never did anything, and throttles its service (P38).
  bool AwaitMaster(pid_t worker) {
    if (trace_ == nullptr) {
      absl::SleepFor(absl::Milliseconds(500));  // No tracing here; long enough on an idle machine.
      return true;
    }
    return Eventually(kBound, [&] {
      const std::vector<TracedStatus> messages = trace_->MessagesOf(worker);
      return !messages.empty() && messages.back().availability == 1;
    });
  }

  std::unique_ptr<StockInstance> instance_;
  std::unique_ptr<StatusTrace> trace_;  // after TraceMaster(), where tracing is allowed

 private:
  // What stock programs say about each other when the system is reloaded or stopped under load:
  // postsuper about files that cleanup is still writing, and clients of services that were cut off.
  std::vector<std::string> expected_ = {
      "postsuper\\[[0-9]+\\]: warning: bogus file name: incoming/",
      "(smtpd|cleanup|qmgr)\\[[0-9]+\\]: warning: problem talking to service (rewrite|cleanup)"};
};

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_CONFORMANCE_TEST_H_

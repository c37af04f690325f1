// What the checks of a master share.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_SUITE_MASTER_FIXTURE_H_
#define POSTHOUSE_TESTS_CONFORMANCE_SUITE_MASTER_FIXTURE_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/testing/fd_leak_check.h"
#include "tests/conformance/suite/master_instance.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {

// What does not happen within this time is taken not to happen at all.
inline constexpr absl::Duration kAWhile = absl::Milliseconds(400);
// For services whose failures must not throttle them: it would last longer than any bound here.
inline constexpr char kLongThrottle[] = "service_throttle_time = 1000s\n";

class MasterFixture : public testing::Test {
 protected:
  // Starts the candidate with these lines of master.cf and main.cf.
  void Start(const std::string& services, const std::string& parameters = "",
             const std::vector<std::string>& options = {}) {
    master_.SetParameters(parameters);
    master_.SetServices(services);
    ASSERT_EQ(master_.Start(options), "");
  }
  // Starts it, makes one probe worker run and gives its report. `name` is that of the service.
  Report StartOne(const std::string& services, const std::string& parameters = "",
                  const std::vector<std::string>& options = {}) {
    Start(services, parameters, options);
    if (HasFatalFailure()) return Report();
    Connection client = master_.Connect("private/a");
    EXPECT_EQ(Ask(client, "echo here"), "here");
    return OnlyReport("a");
  }
  Report OnlyReport(absl::string_view service) {
    const std::vector<Report> reports = master_.Reports(service);
    EXPECT_EQ(reports.size(), 1u) << "processes of service " << service;
    return reports.empty() ? Report() : reports.back();
  }
  // Of the process that started last.
  Report LastReport(absl::string_view service) {
    const std::vector<Report> reports = master_.Reports(service);
    EXPECT_FALSE(reports.empty()) << "no process of service " << service;
    return reports.empty() ? Report() : reports.back();
  }
  // A client that keeps its worker TAKEN until it writes another line.
  Connection Hold(absl::string_view service) {
    Connection client = master_.Connect(service);
    EXPECT_EQ(Ask(client, "hold"), "holding");
    return client;
  }
  static std::string Release(Connection& client) { return Ask(client, "go"); }
  // An answer comes before the AVAIL behind it: this waits until the master has read that.
  static std::string Settle(Connection& client) { return Ask(client, "!settle"); }
  size_t Starts(absl::string_view service) { return master_.Reports(service).size(); }
  bool StaysAt(absl::string_view service, size_t starts) {
    return Throughout(kAWhile, [&] { return Starts(service) == starts; });
  }
  // Whether a connection makes the master start one more worker, as it does when it believes that
  // all are taken. These workers are stopped meanwhile, so that none of them is faster.
  bool StartsAnother(absl::string_view service, const std::vector<pid_t>& stopped);
  // Whether a worker has ended and its parent has noticed.
  static bool Gone(pid_t pid);
  // Reloads with these services and a new one, and returns when that is there.
  void ReloadWith(const std::string& services, const std::string& parameters = "");

  FdLeakCheck fds_;
  MasterInstance master_;
};

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_SUITE_MASTER_FIXTURE_H_

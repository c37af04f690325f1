// What the checks of a worker share: the suite plays the master of one or more processes of the
// candidate, at descriptor level, and their clients.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_SUITE_WORKER_FIXTURE_H_
#define POSTHOUSE_TESTS_CONFORMANCE_SUITE_WORKER_FIXTURE_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fake_master.h"
#include "posthouse/testing/fd_leak_check.h"
#include "tests/conformance/suite/candidate.h"

namespace posthouse::conformance {

// A client of the candidate. Each function answers "" when all was as expected and otherwise what
// was wrong.
class ServiceClient {
 public:
  // `served` tells whether anybody is there to answer: nobody is waited for who has ended.
  explicit ServiceClient(UniqueFd fd, std::function<bool()> served = nullptr)
      : fd_(std::move(fd)), served_(std::move(served)) {}

  int fd() const { return fd_.get(); }
  bool Send(absl::string_view data);
  // Whether everything that was sent has been read. REQUIRES: a local socket.
  bool AllIsRead() const;
  // The greeting, where the candidate has one.
  std::string Greeting(absl::Duration bound = kGenerousBound);
  // The shortest that matches the pattern of a reply; what comes behind it is kept.
  std::string Reply(absl::Duration bound = kGenerousBound);
  // The greeting if it is still to come, one request, its reply.
  std::string Ask();
  bool ClosedWithin(absl::Duration bound);
  void CloseWrite();
  void Close() { fd_.Reset(); }

 private:
  std::string ReadUntil(const std::string& pattern, absl::Duration bound);
  bool Fill(absl::Time end);

  UniqueFd fd_;
  std::function<bool()> served_;
  std::string buffer_;
  bool greeted_ = false;
};

// Several requests of the candidate, one after the other.
std::string Requests(int count);

class WorkerFixture : public testing::Test {
 protected:
  // As the command line describes the candidate, under the transport unix.
  static FakeMasterOptions Options();
  static FakeMasterOptions OptionsWith(std::vector<std::string> configured);
  static bool HasRequest() { return !TheCandidate().request.empty(); }

  void Start(FakeMasterOptions options = Options());
  pid_t Spawn();
  ServiceClient Connect(int listen_socket = 0);

  // Whether everybody who waited at the listen socket has been accepted.
  bool AllAccepted(int listen_socket = 0);
  // A client gets the answer to a request; where none is known it is accepted and greeted.
  void ExpectServed(ServiceClient& client, int listen_socket = 0);
  // The same with a new client.
  void ExpectServes(int listen_socket = 0);
  // As the first client of a worker that has just started: it is through its start then.
  void ExpectStarts() { ExpectServes(); }

  bool Running(pid_t pid);
  // "exit N", "signal N", or "still running" after the bound.
  std::string End(pid_t pid, absl::Duration bound = kGenerousBound);
  std::string End() { return End(pid_); }
  // Descriptors of the worker.
  size_t DescriptorCount() { return FdSnapshot::TakeOf(pid_).size(); }
  // Whether the worker has as many descriptors as that within the bound.
  bool HasDescriptors(size_t count);
  // WaitUntil() of the master that gives up when the last worker has ended.
  bool WaitWhileRunning(const std::function<bool()>& condition);
  void Stop(pid_t pid);
  void Continue(pid_t pid);

  FdLeakCheck fds_;
  ChildCheck children_;
  std::unique_ptr<FakeMaster> master_;
  pid_t pid_ = 0;  // of the worker that was spawned last
};

// A check that has to know how to ask.
#define POSTHOUSE_NEEDS_REQUEST()                                               \
  if (TheCandidate().request.empty()) {                                         \
    GTEST_SKIP() << "no request is known (--request-text and --reply-pattern)"; \
  }

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_SUITE_WORKER_FIXTURE_H_

// What the fault tests of the running master share: a fixture with a master and workers, clients
// that never pause, and checks that hold whatever the fault is about: nobody is left behind, and
// the log tells what happened in at most ten lines a second on the average (F124).

#ifndef POSTHOUSE_TESTS_MASTER_MASTER_FAULT_FIXTURE_H_
#define POSTHOUSE_TESTS_MASTER_MASTER_FAULT_FIXTURE_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/line_client.h"
#include "tests/master/master_process.h"

namespace posthouse {

// Threads that connect, ask and close without end, at the targets in turn. A client that is
// refused, reset or not answered within the generous bound is a lost one.
class LoadClients {
 public:
  using Target = std::function<LineClient()>;
  LoadClients(std::vector<Target> targets, int threads);
  ~LoadClients();
  LoadClients(const LoadClients&) = delete;
  LoadClients& operator=(const LoadClients&) = delete;

  // Ends the threads.
  void Stop();
  int64_t served() const;
  int64_t lost() const;
  // Of what was served.
  absl::Duration worst() const;
  bool WaitForServed(int64_t count) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Names, types, modes and owners below a directory, one per line.
std::string Listing(const std::string& directory);
// The arguments of a process with blanks between and after them.
std::string ArgumentsOf(pid_t pid);
// Bytes of memory that are the process's alone.
int64_t PrivateMemoryOf(pid_t pid);
// A local connection that was made without waiting; empty when the queue is full.
LineClient ConnectAtOnce(const std::string& path);
bool IsRoot();

class MasterFaultFixture : public testing::Test {
 protected:
  MasterFaultFixture();

  std::string Ask(absl::string_view path) { return AskOnce(master_.Connect(path), "hello"); }
  LoadClients::Target TargetOf(const std::string& path) {
    return [path = master_.QueuePath(path)] { return ConnectUnix(path); };
  }
  // Whether a worker runs whose arguments contain the text.
  bool HasWorker(absl::string_view arguments) const;
  // Lines that belong to the scenario itself, such as a line for each worker that the test kills.
  void AllowLines(int64_t count) { allowed_lines_ += count; }

  void TearDown() override;

  FdLeakCheck fds_;
  ChildCheck children_;
  absl::Time begin_;
  int64_t allowed_lines_ = 20;
  MasterProcess master_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_MASTER_MASTER_FAULT_FIXTURE_H_

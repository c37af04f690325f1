// F125, F89: the manager with allocations that fail, one at a time, and with one that never
// returns. The real loop with real workers; the program differs by its operator new alone.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/line_client.h"
#include "tests/master/master_control.h"
#include "tests/master/master_fault_fixture.h"

namespace posthouse {
namespace {

using ::testing::HasSubstr;

class MasterMemoryTest : public MasterFaultFixture {
 protected:
  MasterMemoryTest() : control_(master_.path("control")) {
    control_->reload_interval_ms = 1;
    master_.UseProgram("controlled_master", control_.Variable());
    // Each failure may be a line, and there are many in a second.
    AllowLines(1'000'000);
  }

  // One round for each n for which the n-th allocation of `act` fails; all of the first ones, then
  // fewer. `act` returns when what it began is over, or has_failed(). Returns the rounds.
  int ForEachAllocation(std::function<void()> act, std::function<void()> check) {
    int rounds = 0;
    for (int64_t n = 1;; n += n < 20 ? 1 : Times(1 + n / 6, 1)) {
      SCOPED_TRACE(absl::StrCat("allocation ", n));
      control_.FailAllocation(n);
      act();
      const int64_t failed = control_.Disarm();
      check();
      if (HasFailure() || failed == 0) break;
      rounds++;
    }
    return rounds;
  }

  MasterControl control_;
};

// A client comes and no worker is there.
TEST_F(MasterMemoryTest, AFailedAllocationWhileAWorkerIsStartedDelaysItsClientAtMost) {
  constexpr size_t kServices = 20;
  std::vector<std::string> table;
  for (size_t i = 0; i < kServices; ++i)
    table.push_back(absl::StrCat("s", i, " unix - n n - 1 echo"));
  master_.SetTable(table);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  // A service that was throttled for it (M70) waits for a second; the others go on meanwhile.
  std::vector<LineClient> waiting;
  size_t next = 0;
  const auto finish = [&] {
    for (LineClient& client : waiting) EXPECT_EQ(client.ReadLine(), "hello") << master_.Log();
    waiting.clear();
    next = 0;
    for (const pid_t worker : master_.Workers()) kill(worker, SIGTERM);
    EXPECT_TRUE(WaitUntil([&] { return AllChildrenOf(master_.pid()).empty(); })) << master_.Log();
  };
  const int rounds = ForEachAllocation(
      [&] {
        waiting.push_back(master_.Connect(absl::StrCat("private/s", next++)));
        ASSERT_TRUE(waiting.back().Send("hello\n"));
        const int fd = waiting.back().fd();
        WaitUntil([&] {
          return control_.has_failed() || WaitForEvents(fd, POLLIN, absl::ZeroDuration());
        });
      },
      [&] {
        if (next == kServices) finish();
      });
  finish();
  EXPECT_GT(rounds, 10);
}

// A worker dies, and its service goes on.
TEST_F(MasterMemoryTest, AFailedAllocationWhileADeathIsNoticedLosesNoCount) {
  master_.SetTable({"one unix - n n - 1 echo", "two unix - n n - 1 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  ASSERT_EQ(Ask("private/one"), "hello");
  const int rounds = ForEachAllocation(
      [&] {
        const std::set<pid_t> workers = master_.Workers();
        const int before = master_.LogCount("killed by signal 9");
        for (const pid_t worker : workers) kill(worker, SIGKILL);
        WaitUntil([&] {
          return control_.has_failed() || master_.LogCount("killed by signal 9") > before;
        });
      },
      [&] {
        EXPECT_EQ(master_.Connect("private/one").Ask("hello"), "hello") << master_.Log();
        EXPECT_TRUE(WaitUntil([&] { return AllChildrenOf(master_.pid()).size() == 1; }))
            << master_.Log();
      });
  EXPECT_GT(rounds, 3);
  EXPECT_EQ(Ask("private/two"), "hello");
}

// The configuration changes: all of it or nothing, and the next reload does it.
TEST_F(MasterMemoryTest, AFailedAllocationInAReloadIsAllOrNothing) {
  const std::vector<std::string> odd = {"kept unix - n n - 3 echo", "odd unix - n n - 3 echo"};
  const std::vector<std::string> even = {"even unix - n n - 3 echo",
                                         "kept unix - n n - 2 echo -o max_use=9"};
  const auto is_there = [&](absl::string_view name) {
    return master_.Connect(absl::StrCat("private/", name)).valid();
  };
  master_.SetTable(odd);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  master_.SetTable(even);
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  master_.SetTable(odd);
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  const size_t fds = FdSnapshot::TakeOf(master_.pid()).size();
  const int rounds = ForEachAllocation(
      [&] {
        master_.SetTable(even);
        const int finished = master_.LogCount("reload finished");
        master_.Signal(SIGHUP);
        WaitUntil([&] {
          return control_.has_failed() || master_.LogCount("reload finished") > finished;
        });
      },
      [&] {
        EXPECT_TRUE(
            WaitUntil([&] { return is_there("odd") != is_there("even"); }, absl::Seconds(5)))
            << master_.Log();
        EXPECT_EQ(Ask("private/kept"), "hello");
        master_.SetTable(even);
        EXPECT_TRUE(master_.Reload()) << master_.Log();
        EXPECT_TRUE(WaitUntil([&] { return !is_there("odd") && is_there("even"); }));
        EXPECT_EQ(Ask("private/kept"), "hello");
        master_.SetTable(odd);
        EXPECT_TRUE(master_.Reload()) << master_.Log();
        EXPECT_TRUE(WaitUntil([&] {
          return AllChildrenOf(master_.pid()).empty() &&
                 FdSnapshot::TakeOf(master_.pid()).size() == fds;
        })) << FdSnapshot::TakeOf(master_.pid()).ToString();
      });
  EXPECT_GT(rounds, 30);
}

// It ends as it was told to, and leaves nothing.
TEST_F(MasterMemoryTest, AFailedAllocationInAStopDoesNotKeepTheMaster) {
  master_.SetTable({"one unix - n n - 1 echo", "two unix - n n - 1 echo"});
  int rounds = 0;
  for (bool failed = true; failed && !HasFailure(); ++rounds) {
    SCOPED_TRACE(absl::StrCat("allocation ", rounds + 1));
    ASSERT_TRUE(master_.Start()) << master_.Log();
    EXPECT_EQ(Ask("private/one"), "hello");
    control_.FailAllocation(rounds + 1);
    master_.Signal(SIGTERM);
    const absl::optional<int> status = master_.WaitForEnd();
    failed = control_.Disarm() > 0;
    ASSERT_TRUE(status.has_value()) << master_.Log();
    EXPECT_TRUE(WIFSIGNALED(*status) && WTERMSIG(*status) == SIGTERM) << *status;
    EXPECT_TRUE(WaitUntil([&] {
      while (waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      return AllChildrenOf(getpid()).empty();
    }));
  }
  EXPECT_GT(rounds, 3);
}

// The start ends with a reason, or goes on.
TEST_F(MasterMemoryTest, AFailedAllocationInTheStartIsAnOrderlyEnd) {
  struct Case {
    MasterProcess master;
    MasterControl control{master.path("control")};
    int64_t n = 0;
  };
  int ended = 0, served = 0;
  constexpr size_t kTogether = 20;
  bool done = false;
  for (int64_t n = 1; !done;) {
    std::vector<std::unique_ptr<Case>> cases;
    for (; cases.size() < kTogether; n += n < 10 ? 1 : Times(1 + n / 16, 1)) {
      auto one = std::make_unique<Case>();
      one->n = n;
      one->master.AddProgram("echo", "echo");
      one->master.SetTable({"one unix - n n - 1 echo"});
      one->master.UseProgram("controlled_master", one->control.Variable());
      one->control.FailAllocation(n);
      one->master.Launch({"-d"});
      cases.push_back(std::move(one));
    }
    for (const std::unique_ptr<Case>& one : cases) {
      SCOPED_TRACE(absl::StrCat("allocation ", one->n));
      std::string answer;
      absl::optional<int> status;
      EXPECT_TRUE(WaitUntil([&] {
        status = WaitForExit(one->master.pid(), absl::ZeroDuration());
        if (status.has_value()) return true;
        if (one->master.LogCount("daemon started") == 0) return false;
        answer = one->master.Connect("private/one").Ask("hello");
        return true;
      })) << one->master.Log();
      // The watchdog comes after the line that says that it has started.
      if (!status.has_value() && answer != "hello") status = WaitForExit(one->master.pid());
      if (status.has_value()) {
        ended++;
        EXPECT_TRUE(WIFEXITED(*status) && WEXITSTATUS(*status) == 1) << *status;
        EXPECT_THAT(one->master.Log(), HasSubstr("fatal: "));
        EXPECT_EQ(one->master.Run({"-t"}).exit_status, 0);
      } else {
        served++;
        EXPECT_EQ(answer, "hello") << one->master.Log();
        if (!one->control.has_failed()) done = true;
        kill(-one->master.pid(), SIGKILL);
        WaitForExit(one->master.pid());
      }
    }
  }
  std::printf("%d starts ended, %d went on\n", ended, served);
  EXPECT_GT(ended, 10);
  EXPECT_GT(served, 0);
}

// F89: the watchdog ends a master that hangs; its workers wind down and the next one starts at
// once.
TEST_F(MasterMemoryTest, AMasterThatHangsIsEndedByItsWatchdog) {
  master_.SetTable({"one unix - n n - 1 echo"});
  control_->watchdog_ms = 2000;
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  const std::set<pid_t> workers = master_.Workers();
  ASSERT_EQ(workers.size(), 1u);
  control_->hang = true;
  master_.Signal(SIGHUP);
  const absl::optional<int> status = master_.WaitForEnd();
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(WIFEXITED(*status) && WEXITSTATUS(*status) == 1) << *status;
  EXPECT_THAT(master_.Log(), HasSubstr("fatal: watchdog timeout"));
  EXPECT_EQ(WaitForExit(*workers.begin()), absl::optional<int>(0));
  control_->hang = false;
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
}

}  // namespace
}  // namespace posthouse

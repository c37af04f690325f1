// F108 and F109: stopping with workers of every kind, and what the waiting start promises.

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/line_client.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/master_fault_fixture.h"

namespace posthouse {
namespace {

using ::testing::HasSubstr;

class MasterStopTest : public MasterFaultFixture {};

// The limit is that of `postfix stop` (M120): three seconds, then KILL, then a moment for burials.
TEST_F(MasterStopTest, NothingIsLeftOfIdleBusyStubbornAndStoppedWorkers) {
  const int port = FreeTcpPort();
  master_.SetTable({"idle unix - n n - 3 echo", "busy unix - n n - 3 scripted single",
                    "stubborn unix - n n - 3 scripted stubborn single",
                    "stopped unix - n n - 3 echo",
                    absl::StrCat("127.0.0.1:", port, " inet n n n - 3 echo")});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/idle"), "hello");
  LineClient busy = master_.Connect("private/busy");
  EXPECT_EQ(busy.ReadLine(), "held");
  LineClient stubborn = master_.Connect("private/stubborn");
  EXPECT_EQ(Ask("private/stopped"), "hello");
  EXPECT_EQ(AskOnce(ConnectTcp(port), "hello"), "hello");
  EXPECT_EQ(stubborn.ReadLine(), "held");
  const std::set<pid_t> workers = master_.Workers();
  EXPECT_EQ(workers.size(), 5u);
  for (const pid_t worker : workers) {
    if (ArgumentsOf(worker).find("-n stopped ") != std::string::npos) kill(worker, SIGSTOP);
  }
  const pid_t session = master_.pid();
  master_.Signal(SIGTERM);
  // New clients are refused at once, while the workers are still ending.
  EXPECT_TRUE(WaitUntil([&] { return !master_.Connect("private/idle").valid(); }));
  const absl::optional<int> status = master_.WaitForEnd(absl::Seconds(20));
  ASSERT_TRUE(status.has_value()) << master_.Log();
  EXPECT_TRUE(WIFSIGNALED(*status) && WTERMSIG(*status) == SIGTERM) << *status;
  for (const pid_t worker : workers) EXPECT_NE(kill(worker, 0), 0) << ArgumentsOf(worker);
  // Orphans of the master are this process's to reap.
  EXPECT_TRUE(WaitUntil([&] {
    while (waitpid(-session, nullptr, WNOHANG) > 0) {
    }
    return kill(-session, 0) != 0;
  })) << "somebody of the session lives";
  EXPECT_FALSE(ConnectTcp(port).valid());
  EXPECT_EQ(master_.Run({"-t"}).exit_status, 0);
}

// A client may connect the moment that -w has returned.
TEST_F(MasterStopTest, AClientThatComesAtOnceAfterTheWaitingStartIsServed) {
  const int port = FreeTcpPort();
  master_.SetTable(
      {"echo unix - n n - 3 echo", absl::StrCat("127.0.0.1:", port, " inet n n n - 3 echo")});
  const int64_t rounds = Times(100, 1000);
  for (int64_t i = 0; i < rounds; ++i) {
    const MasterProcess::Outcome outcome = master_.Run({"-w"});
    LineClient client = i % 2 == 0 ? master_.Connect("private/echo") : ConnectTcp(port);
    ASSERT_EQ(outcome.exit_status, 0) << outcome.output;
    ASSERT_EQ(AskOnce(std::move(client), "hello"), "hello") << i;
    const pid_t pid = master_.LockedBy();
    ASSERT_GT(pid, 0);
    kill(-pid, SIGKILL);
    ASSERT_TRUE(WaitForExit(pid).has_value());
    ASSERT_TRUE(WaitUntil([&] {
      while (waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      return AllChildrenOf(getpid()).empty();
    }));
  }
}

// A master that dies while it initialises is a start that has failed.
TEST_F(MasterStopTest, TheWaitingStartTellsThatTheMasterWasKilledWhileItStarted) {
  // The debugger's command runs when the locks are taken, before the sockets are there.
  master_.SetParameters({absl::StrCat("debugger_command = until test -e ", master_.path("goon"),
                                      "; do sleep 0.1; done")});
  master_.SetTable({"echo unix - n n - 3 echo"});
  master_.Launch({"-w", "-D"});
  ASSERT_TRUE(WaitUntil([&] { return master_.LockedBy() > 0; }));
  kill(master_.LockedBy(), SIGKILL);
  const absl::optional<int> status = master_.WaitForEnd();
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(WIFEXITED(*status) && WEXITSTATUS(*status) != 0) << *status;
  EXPECT_THAT(master_.Log(), HasSubstr("fatal: "));
  // Where -w returned with failure, nothing runs, and the next start works.
  master_.AddScript("../goon", "");
  master_.SetParameters({});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/echo"), "hello");
}

}  // namespace
}  // namespace posthouse

// What the files of /proc say about a worker (F75).

#include "posthouse/master/worker_activity.h"

#include <signal.h>
#include <unistd.h>

#include <cstdint>

#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"

namespace posthouse {
namespace {

using State = ChildActivity::State;

// proc(5): the name may hold blanks and parentheses.
TEST(WorkerActivityTest, TheStateComesAfterTheLastParenthesisOfTheName) {
  const ChildActivity activity = ParseWorkerActivity(
      7, "7 (a) R (b c)) T 1 7 7 0 -1 4194304 1 0 0 0 30 12 0 0 20 0 1 0 5 6 7\n", "");
  EXPECT_EQ(activity.pid, 7);
  EXPECT_EQ(activity.state, State::kStopped);
  EXPECT_EQ(activity.cpu, 42u);  // ticks of user and system
}

TEST(WorkerActivityTest, NanosecondsAreTakenWhereTheKernelHasThem) {
  const ChildActivity activity = ParseWorkerActivity(
      7, "7 (smtpd) D 1 7 7 0 -1 4194304 1 0 0 0 30 12 0 0 20 0 1 0 5 6 7\n", "123456789 5 9\n");
  EXPECT_EQ(activity.state, State::kDiskWait);
  EXPECT_EQ(activity.cpu, 123456789u);
}

TEST(WorkerActivityTest, AnythingElseIsUnknown) {
  for (const char* text : {"", "7", "7 (smtpd", "7 (smtpd) ", "7 (smtpd) Sleeping 1", ") \n"}) {
    EXPECT_EQ(ParseWorkerActivity(7, text, "x").state, State::kUnknown) << text;
  }
  EXPECT_EQ(ParseWorkerActivity(7, "7 (smtpd) S 1 2", "").cpu, 0u);
}

TEST(WorkerActivityTest, TheTimeOfAProcessGrowsWhileItComputes) {
  const absl::optional<int64_t> before = ReadWorkerCpuNs(getpid());
  ASSERT_TRUE(before.has_value());
  EXPECT_TRUE(WaitUntil([&] { return ReadWorkerCpuNs(getpid()).value_or(0) > *before; }));
  EXPECT_FALSE(ReadWorkerCpuNs(0x7fffffff).has_value());
}

TEST(WorkerActivityTest, AStoppedProcessIsSeenAsSuch) {
  ChildCheck children;
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  EXPECT_TRUE(WaitUntil([&] { return ReadWorkerActivity(child).state == State::kAsleep; }));
  kill(child, SIGSTOP);
  EXPECT_TRUE(WaitUntil([&] { return ReadWorkerActivity(child).state == State::kStopped; }));
  kill(child, SIGKILL);
  EXPECT_TRUE(WaitForExit(child).has_value());
  EXPECT_EQ(ReadWorkerActivity(child).state, State::kUnknown);
}

}  // namespace
}  // namespace posthouse

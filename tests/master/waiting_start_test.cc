// The start in the background that somebody waits for (M28, M29, F109).

#include "posthouse/master/waiting_start.h"

#include <signal.h>
#include <unistd.h>

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"

namespace posthouse {
namespace {

using ::testing::HasSubstr;

class WaitingStartTest : public testing::Test {
 protected:
  // Splits; the new process does `master` and ends. What the one that waited has found out.
  WaitingStart Split(absl::Duration limit, absl::FunctionRef<void(WaitingStart*)> master) {
    absl::StatusOr<WaitingStart> start = WaitingStart::Split(limit);
    if (!start.ok()) {
      ADD_FAILURE() << start.status();
      return WaitingStart();
    }
    if (!start->exit_status().has_value()) {
      master(&*start);
      _exit(7);
    }
    return *std::move(start);
  }
  void ReapAll() {
    for (const pid_t child : Children()) WaitForExit(child);
  }

  FdLeakCheck fds_;
  ChildCheck children_;
};

TEST_F(WaitingStartTest, SuccessIsAByteOfValueZero) {
  const WaitingStart start =
      Split(absl::Seconds(30), [](WaitingStart* master) { master->Succeed(); });
  EXPECT_EQ(start.exit_status(), absl::optional<int>(0));
  ReapAll();
}

// MO10.
TEST_F(WaitingStartTest, TheReasonOfAFailureIsHandedOver) {
  const std::string reason = std::string(3000, 'x') + "\nsecond line";
  const WaitingStart start =
      Split(absl::Seconds(30), [&](WaitingStart* master) { master->Fail(reason); });
  EXPECT_EQ(start.exit_status(), absl::optional<int>(1));
  EXPECT_EQ(start.reason(), reason);
  ReapAll();
}

TEST_F(WaitingStartTest, AMasterThatEndsWithoutAWordHasFailed) {
  const WaitingStart ended = Split(absl::Seconds(30), [](WaitingStart*) {});
  EXPECT_EQ(ended.exit_status(), absl::optional<int>(1));
  EXPECT_THAT(ended.reason(), HasSubstr("exit status 7"));
  const WaitingStart killed =
      Split(absl::Seconds(30), [](WaitingStart*) { kill(getpid(), SIGKILL); });
  EXPECT_EQ(killed.exit_status(), absl::optional<int>(1));
  EXPECT_THAT(killed.reason(), HasSubstr("killed by signal 9"));
}

TEST_F(WaitingStartTest, AMasterThatTakesTooLongIsKilled) {
  const WaitingStart start = Split(absl::Milliseconds(50), [](WaitingStart*) {
    for (;;) pause();
  });
  EXPECT_EQ(start.exit_status(), absl::optional<int>(1));
  EXPECT_THAT(start.reason(), HasSubstr("took longer than 50ms"));
  ReapAll();
}

TEST_F(WaitingStartTest, WithoutAnybodyWhoWaitsTheAnswersGoNowhere) {
  WaitingStart start;
  EXPECT_FALSE(start.somebody_waits());
  start.Succeed();
  start.Fail("reason");
}

}  // namespace
}  // namespace posthouse

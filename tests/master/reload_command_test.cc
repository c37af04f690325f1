// F100: the command that waits for the outcome of a reload, against masters that are slow, silent
// or gone.

#include "posthouse/master/reload_command.h"

#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/master/lock_file.h"
#include "posthouse/os/clock.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using Kind = ReloadOutcome::Kind;
using testing::HasSubstr;

class ReloadCommandTest : public testing::Test {
 protected:
  ~ReloadCommandTest() override {
    if (master_ > 0) kill(master_, SIGKILL);
    if (master_ > 0) WaitForExit(master_);
  }

  // A process that holds the lock and does `answer` for each SIGHUP, which is counted from 1.
  void StartMaster(absl::FunctionRef<void(int)> answer) {
    master_ = fork();
    if (master_ == 0) {
      sigset_t hup;
      sigemptyset(&hup);
      sigaddset(&hup, SIGHUP);
      sigprocmask(SIG_BLOCK, &hup, nullptr);
      absl::StatusOr<LockFile> lock = LockFile::Acquire(options_.lock_file, FileOwner());
      if (!lock.ok() || !lock->WritePid(getpid()).ok()) _exit(1);
      int signal = 0;
      for (int n = 1; sigwait(&hup, &signal) == 0; ++n) answer(n);
      _exit(1);
    }
    ASSERT_TRUE(
        WaitUntil([&] { return ReadFileOrEmpty(options_.lock_file) == FormatLockFile(master_); }));
  }
  void Tell(pid_t master, int64_t begin_ns, Kind kind, const std::string& text = "") {
    ReloadOutcome outcome;
    outcome.pid = master;
    outcome.begin_ns = begin_ns;
    outcome.kind = kind;
    outcome.text = text;
    EXPECT_THAT(WriteReloadOutcome(options_.outcome_file, FileOwner(), outcome), IsOk());
  }
  absl::StatusOr<ReloadOutcome> Command() { return CommandReload(options_); }

  ChildCheck children_;
  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  const ReloadCommandOptions options_ = {.lock_file = dir_.Path("master.lock"),
                                         .outcome_file = dir_.Path("master.reload")};
  pid_t master_ = 0;
};

TEST_F(ReloadCommandTest, TheAnswerToTheSignalIsTheResult) {
  StartMaster([&](int) { Tell(getpid(), os::SteadyNanos(), Kind::kRefused, "line 2"); });
  Tell(master_, os::SteadyNanos(), Kind::kStarted);
  const absl::StatusOr<ReloadOutcome> outcome = Command();
  ASSERT_THAT(outcome, IsOk());
  EXPECT_EQ(outcome->kind, Kind::kRefused);
  EXPECT_EQ(outcome->text, "line 2\n");
}

// What is there already, and what began before, is not waited for; the next one is.
TEST_F(ReloadCommandTest, AnOutcomeFromBeforeTheSignalIsNoAnswer) {
  const int64_t before_ns = os::SteadyNanos();
  StartMaster([&](int) { Tell(getpid(), before_ns, Kind::kDone, "somebody else's"); });
  Tell(master_, before_ns, Kind::kDone, "old");
  int pauses = 0;
  system_->SetHook(SystemCall::kNanosleep, [&](int) {
    if (++pauses == 3) Tell(master_, os::SteadyNanos(), Kind::kDone, "new");
  });
  const absl::StatusOr<ReloadOutcome> outcome = Command();
  ASSERT_THAT(outcome, IsOk());
  EXPECT_EQ(outcome->text, "new\n");
  EXPECT_GE(pauses, 3);
}

TEST_F(ReloadCommandTest, WithoutAMasterThereIsNoReload) {
  EXPECT_THAT(Command(), StatusIs(absl::StatusCode::kNotFound, HasSubstr(options_.lock_file)));
  // A number alone is no master: another process may have it.
  StartMaster([](int) { _exit(2); });
  kill(master_, SIGKILL);
  WaitForExit(master_);
  master_ = fork();
  if (master_ == 0) {
    for (;;) pause();
  }
  dir_.WriteFile("master.lock", FormatLockFile(master_));
  EXPECT_EQ(chmod(options_.lock_file.c_str(), 0600), 0);
  EXPECT_THAT(Command(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no master runs")));
  EXPECT_EQ(kill(master_, 0), 0) << "it was sent no signal";
}

TEST_F(ReloadCommandTest, AMasterThatEndsMeanwhileIsNotWaitedFor) {
  StartMaster([](int) { _exit(0); });
  EXPECT_THAT(Command(), StatusIs(absl::StatusCode::kAborted, HasSubstr("has ended")));
}

// It ignores the signal until it has said that it has started.
TEST_F(ReloadCommandTest, AMasterThatStartsIsAskedAgain) {
  const int64_t began_ns = os::SteadyNanos();
  StartMaster([&](int n) {
    if (n == 1) return Tell(getpid(), began_ns, Kind::kStarted);
    Tell(getpid(), os::SteadyNanos(), Kind::kDone, n == 2 ? "second" : "more");
  });
  const absl::StatusOr<ReloadOutcome> outcome = Command();
  ASSERT_THAT(outcome, IsOk());
  EXPECT_EQ(outcome->text, "second\n");
}

// One that is stopped, or writes no such file; a minute of the test's clock.
TEST_F(ReloadCommandTest, AMasterThatSaysNothingIsWaitedForUntilTheLimit) {
  StartMaster([](int) {});
  system_->UseFakeClock();
  const int64_t begin_ns = os::SteadyNanos();
  EXPECT_THAT(Command(), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("within 1m")));
  EXPECT_GE(os::SteadyNanos() - begin_ns, absl::ToInt64Nanoseconds(absl::Seconds(60)));
  EXPECT_LT(os::SteadyNanos() - begin_ns, absl::ToInt64Nanoseconds(absl::Seconds(61)));
  EXPECT_LE(system_->Count(SystemCall::kNanosleep), 1201) << "twenty times a second";
  // What cannot be read is told.
  dir_.WriteFile("master.reload", "garbage");
  EXPECT_THAT(Command(),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("it is not complete")));
}

}  // namespace
}  // namespace posthouse

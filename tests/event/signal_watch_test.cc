#include "posthouse/event/signal_watch.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/event/event_fixture.h"

namespace posthouse {
namespace {

using testing::ElementsAre;

struct Heard {
  std::vector<int> signals;
  std::function<void(int)> then;
  static void On(int signal, void* context) {
    auto* self = static_cast<Heard*>(context);
    self->signals.push_back(signal);
    if (self->then) self->then(signal);
  }
};

sigset_t Mask() {
  sigset_t mask;
  os::Sigmask(SIG_SETMASK, nullptr, &mask);
  return mask;
}

class SignalWatchTest : public LoopTest {
 protected:
  std::unique_ptr<SignalWatch> Make(const std::vector<int>& signals) {
    absl::StatusOr<std::unique_ptr<SignalWatch>> watch =
        SignalWatch::Create(loop_.get(), signals, &Heard::On, &heard_);
    EXPECT_THAT(watch, IsOk());
    return watch.ok() ? *std::move(watch) : nullptr;
  }
  Heard heard_;
};

TEST_P(SignalWatchTest, EO11_ASignalIsAnEventOfTheLoop) {
  std::unique_ptr<SignalWatch> watch = Make({SIGTERM, SIGHUP});
  Turn();
  EXPECT_THAT(heard_.signals, ElementsAre());
  os::Kill(os::Getpid(), SIGHUP);
  EXPECT_THAT(heard_.signals, ElementsAre());  // no code runs in signal context
  Turn(absl::Seconds(10));
  EXPECT_THAT(heard_.signals, ElementsAre(SIGHUP));
  Turn();
  EXPECT_EQ(heard_.signals.size(), 1u);
}

// F26: whatever the moment, the wait does not sleep over it.
TEST_P(SignalWatchTest, F26_ASignalSentBeforeTheWaitEndsTheWait) {
  std::unique_ptr<SignalWatch> watch = Make({SIGTERM});
  system_->SetHook(WaitCall(), [](int) { os::Kill(os::Getpid(), SIGTERM); });
  Turn(absl::InfiniteDuration());
  EXPECT_THAT(heard_.signals, ElementsAre(SIGTERM));
}

TEST_P(SignalWatchTest, F25_AStormCollapsesIntoAtLeastOneOfEach) {
  std::unique_ptr<SignalWatch> watch = Make({SIGTERM, SIGHUP, SIGCHLD, SIGUSR1});
  const int count = FullRun() ? 1000000 : 10000;
  for (int i = 0; i < count; ++i) {
    for (const int signal : {SIGTERM, SIGHUP, SIGCHLD, SIGUSR1}) os::Kill(os::Getpid(), signal);
  }
  Turns(4);
  EXPECT_THAT(heard_.signals, testing::UnorderedElementsAre(SIGTERM, SIGHUP, SIGCHLD, SIGUSR1));
}

TEST_P(SignalWatchTest, F27_AnInheritedIgnoreDoesNotSwallowTheSignal) {
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  struct sigaction original = {};
  ASSERT_EQ(os::Sigaction(SIGHUP, &ignore, &original), 0);
  sigset_t inherited;
  sigemptyset(&inherited);
  sigaddset(&inherited, SIGHUP);
  ASSERT_EQ(os::Sigmask(SIG_BLOCK, &inherited, nullptr), 0);
  {
    std::unique_ptr<SignalWatch> watch = Make({SIGHUP});
    os::Kill(os::Getpid(), SIGHUP);
    Turn(absl::Seconds(10));
    EXPECT_THAT(heard_.signals, ElementsAre(SIGHUP));
  }
  // What was inherited is back: ignored, and blocked.
  struct sigaction now = {};
  ASSERT_EQ(os::Sigaction(SIGHUP, &original, &now), 0);
  EXPECT_EQ(now.sa_handler, SIG_IGN);
  const sigset_t mask = Mask();
  EXPECT_EQ(sigismember(&mask, SIGHUP), 1);
  ASSERT_EQ(os::Sigmask(SIG_UNBLOCK, &inherited, nullptr), 0);
}

TEST_P(SignalWatchTest, DestroyingTheWatchRestoresTheMask) {
  const sigset_t before = Mask();
  {
    std::unique_ptr<SignalWatch> watch = Make({SIGTERM, SIGUSR2});
    const sigset_t during = Mask();
    EXPECT_EQ(sigismember(&during, SIGTERM), 1);
    EXPECT_EQ(sigismember(&during, SIGUSR2), 1);
  }
  const sigset_t after = Mask();
  for (int signal = 1; signal < 64; ++signal) {
    EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal)) << signal;
  }
}

TEST_P(SignalWatchTest, TheHandlerMayDestroyTheWatch) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1, SIGUSR2});
  heard_.then = [&](int) { watch.reset(); };
  struct sigaction ignore = {};  // the other one meets what was there before
  ignore.sa_handler = SIG_IGN;
  watch.reset();
  struct sigaction old = {};
  os::Sigaction(SIGUSR2, &ignore, &old);
  watch = Make({SIGUSR1, SIGUSR2});
  os::Kill(os::Getpid(), SIGUSR1);
  os::Kill(os::Getpid(), SIGUSR2);
  Turn(absl::Seconds(10));
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1));
  Turn();
  os::Sigaction(SIGUSR2, &old, nullptr);
}

TEST_P(SignalWatchTest, F14_AReadinessWithoutASignalIsHarmless) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  os::Kill(os::Getpid(), SIGUSR1);
  system_->FailOnce(SystemCall::kRead, EAGAIN);
  Turn(absl::Seconds(10));
  EXPECT_THAT(heard_.signals, ElementsAre());
  Turn(absl::Seconds(10));
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1));
}

TEST_P(SignalWatchTest, EO22_DrainDoesNotWaitForSignals) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  const int64_t waits = Waits();
  EXPECT_THAT(loop_->Drain(absl::Hours(1)), IsOk());
  EXPECT_EQ(Waits(), waits);
}

TEST_P(SignalWatchTest, WhatIsNotASignalIsRefusedAndNothingChanges) {
  const sigset_t before = Mask();
  for (const int signal : {0, -1, SIGKILL, SIGSTOP, 64, 1000}) {
    EXPECT_THAT(SignalWatch::Create(loop_.get(), {SIGUSR1, signal}, &Heard::On, &heard_),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
  system_->FailOnce(SystemCall::kSignalfd, EMFILE);
  EXPECT_THAT(SignalWatch::Create(loop_.get(), {SIGUSR1}, &Heard::On, &heard_),
              StatusIs(absl::StatusCode::kResourceExhausted));
  const sigset_t after = Mask();
  EXPECT_EQ(sigismember(&after, SIGUSR1), sigismember(&before, SIGUSR1));
}

TEST_P(SignalWatchTest, AForkedChildHearsItsOwnSignalsAndMayRestoreTheMask) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  const pid_t child = os::Fork();
  if (child == 0) {
    bool right = loop_->AfterFork().ok();
    os::Kill(os::Getpid(), SIGUSR1);
    right = right && loop_->RunOnce(absl::Seconds(10)).ok() && heard_.signals.size() == 1;
    watch->RestoreInChild();
    const sigset_t mask = Mask();
    ::_exit(right && sigismember(&mask, SIGUSR1) == 0 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(os::Waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  Turn();
  EXPECT_THAT(heard_.signals, ElementsAre());
}

INSTANTIATE_TEST_SUITE_P(Backends, SignalWatchTest, testing::ValuesIn(TestedBackends()),
                         BackendTestName);

}  // namespace
}  // namespace posthouse

#include "posthouse/event/signal_watch.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/event/event_fixture.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::Not;

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

// Counts the calls of a handler that a program of its own might have had.
class ScopedOldHandler {
 public:
  explicit ScopedOldHandler(int signal) : signal_(signal) {
    calls_ = 0;
    struct sigaction action = {};
    action.sa_handler = [](int) { calls_ = calls_ + 1; };
    os::Sigaction(signal, &action, &before_);
  }
  ~ScopedOldHandler() { os::Sigaction(signal_, &before_, nullptr); }
  int calls() const { return calls_; }

 private:
  static volatile sig_atomic_t calls_;
  const int signal_;
  struct sigaction before_ = {};
};
volatile sig_atomic_t ScopedOldHandler::calls_ = 0;

// Every test runs over both forms of the watch: signalfd(2), and a kernel without it.
class SignalWatchTest : public LoopTest {
 protected:
  bool uses_pipe() const {
#if defined(__linux__)
    return traits().missing_call == SystemCall::kSignalfd;
#else
    return true;
#endif
  }

  std::unique_ptr<SignalWatch> Make(const std::vector<int>& signals) {
    return Make(signals, &heard_);
  }
  std::unique_ptr<SignalWatch> Make(const std::vector<int>& signals, Heard* heard) {
    absl::StatusOr<std::unique_ptr<SignalWatch>> watch =
        SignalWatch::Create(loop_.get(), signals, &Heard::On, heard);
    EXPECT_THAT(watch, IsOk());
    return watch.ok() ? *std::move(watch) : nullptr;
  }
  static void SendMyself(int signal) { os::Kill(os::Getpid(), signal); }

  // Runs `child` in a child whose wait status is returned; it ends with 0 for true.
  static int InChild(const std::function<bool()>& child) {
    const pid_t pid = os::Fork();
    if (pid == 0) ::_exit(child() ? 0 : 1);
    int status = -1;
    EXPECT_EQ(os::Waitpid(pid, &status, 0), pid);
    return status;
  }

  Heard heard_;
};

// What concerns the pipe alone.
class SignalPipeTest : public SignalWatchTest {};

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
    EXPECT_EQ(sigismember(&during, SIGTERM), uses_pipe() ? 0 : 1);
    EXPECT_EQ(sigismember(&during, SIGUSR2), uses_pipe() ? 0 : 1);
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
  const sigset_t after = Mask();
  EXPECT_EQ(sigismember(&after, SIGUSR1), sigismember(&before, SIGUSR1));
}

TEST_P(SignalWatchTest, AWatchThatCannotBeMadeChangesNothing) {
  ScopedOldHandler old(SIGUSR1);
  std::vector<std::pair<SystemCall, int>> refusals = {{SystemCall::kSigmask, EINVAL},
                                                      {SystemCall::kSigaction, EINVAL}};
  if (uses_pipe()) {
    refusals.push_back({SystemCall::kPipe2, EMFILE});
  } else {
#if defined(__linux__)
    refusals.push_back({SystemCall::kSignalfd, EMFILE});
#endif
  }
  for (const auto& [call, error] : refusals) {
    system_->FailOnce(call, error);
    EXPECT_THAT(SignalWatch::Create(loop_.get(), {SIGUSR1}, &Heard::On, &heard_), Not(IsOk()));
    const sigset_t mask = Mask();
    EXPECT_EQ(sigismember(&mask, SIGUSR1), 0);
  }
  SendMyself(SIGUSR1);
  EXPECT_EQ(old.calls(), 1);
  Turn();
  EXPECT_THAT(heard_.signals, ElementsAre());
}

TEST_P(SignalWatchTest, ASignalThatWasNotHandledIsAnsweredByWhatWasThereBefore) {
  ScopedOldHandler old(SIGUSR1);
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1, SIGUSR2});
  for (int i = 0; i < 3; ++i) SendMyself(SIGUSR1);
  EXPECT_EQ(old.calls(), 0);
  watch.reset();
  EXPECT_EQ(old.calls(), 1);
  EXPECT_THAT(heard_.signals, ElementsAre());
}

// As the kernel does with a signal that waits.
TEST_P(SignalWatchTest, IgnoringASignalDropsTheOneThatWaits) {
  ScopedOldHandler old(SIGUSR1);
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  SendMyself(SIGUSR1);
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  os::Sigaction(SIGUSR1, &ignore, nullptr);
  watch.reset();
  EXPECT_EQ(old.calls(), 0);
  SendMyself(SIGUSR1);
  EXPECT_EQ(old.calls(), 1);
}

TEST_P(SignalWatchTest, F54_ASignalIsPendingUntilItsHandlerIsCalled) {
  std::unique_ptr<SignalWatch> watch = Make({SIGTERM, SIGUSR1});
  EXPECT_FALSE(watch->Pending(SIGTERM));
  SendMyself(SIGTERM);
  EXPECT_TRUE(watch->Pending(SIGTERM));
  EXPECT_FALSE(watch->Pending(SIGUSR1));
  Turn(absl::Seconds(10));
  EXPECT_THAT(heard_.signals, ElementsAre(SIGTERM));
  EXPECT_FALSE(watch->Pending(SIGTERM));
}

TEST_P(SignalWatchTest, SeveralWatchesOfOneProcessHearTheirOwnSignals) {
  Heard other;
  std::unique_ptr<SignalWatch> first = Make({SIGUSR1, SIGHUP});
  std::unique_ptr<SignalWatch> second = Make({SIGUSR2}, &other);
  SendMyself(SIGUSR1);
  SendMyself(SIGUSR2);
  Turns(4);
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1));
  EXPECT_THAT(other.signals, ElementsAre(SIGUSR2));
  first.reset();
  SendMyself(SIGUSR2);
  Turns(4);
  EXPECT_THAT(other.signals, ElementsAre(SIGUSR2, SIGUSR2));
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1));
}

TEST_P(SignalWatchTest, OfTwoWatchesForOneSignalOneIsCalled) {
  Heard newer;
  std::unique_ptr<SignalWatch> first = Make({SIGUSR1});
  std::unique_ptr<SignalWatch> second = Make({SIGUSR1}, &newer);
  SendMyself(SIGUSR1);
  Turns(4);
  EXPECT_EQ(heard_.signals.size() + newer.signals.size(), 1u);
  heard_.signals.clear();
  second.reset();
  SendMyself(SIGUSR1);
  Turns(4);
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1));
}

// F26: at each step of taking the signals.
TEST_P(SignalWatchTest, F26_ASignalThatComesWhileOthersAreTakenIsHeardToo) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1, SIGUSR2});
  bool sent = false;
  system_->SetHook(SystemCall::kRead, [&](int) {
    if (!std::exchange(sent, true)) SendMyself(SIGUSR2);
  });
  heard_.then = [&](int) {
    heard_.then = nullptr;
    SendMyself(SIGUSR1);  // once more, from its own handler
  };
  SendMyself(SIGUSR1);
  while (heard_.signals.size() < 3) {
    Turn(absl::InfiniteDuration());  // a loss hangs here
  }
  EXPECT_THAT(heard_.signals, testing::UnorderedElementsAre(SIGUSR1, SIGUSR1, SIGUSR2));
  Turns(4);
  EXPECT_EQ(heard_.signals.size(), 3u);
}

TEST_P(SignalWatchTest, F24_TheHandlerLeavesErrnoAlone) {
  ScopedOldHandler old(SIGUSR1);  // for the signal that is never taken
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  const int fault = system_->FailFrom(SystemCall::kWrite, EAGAIN);
  errno = ENOTTY;
  SendMyself(SIGUSR1);
  const int after = errno;
  EXPECT_EQ(after, ENOTTY);
  EXPECT_EQ(system_->Hits(fault) > 0, uses_pipe());
}

// F25: whatever comes, the pipe holds one byte per signal, so that it cannot fill.
TEST_P(SignalPipeTest, F25_AStormWritesOneByteOfEach) {
  std::unique_ptr<SignalWatch> watch = Make({SIGTERM, SIGUSR1});
  const int64_t before = system_->Count(SystemCall::kWrite);
  for (int i = 0; i < 1000; ++i) {
    SendMyself(SIGTERM);
    SendMyself(SIGUSR1);
  }
  EXPECT_EQ(system_->Count(SystemCall::kWrite) - before, 2);
  Turns(2);
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1, SIGTERM));
  SendMyself(SIGTERM);
  Turns(2);
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1, SIGTERM, SIGTERM));
}

// The header: "SA_RESTART, which leaves waits".
TEST_P(SignalWatchTest, ACallThatWaitsForDataGoesOnAfterASignal) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  Pair go = MakePipe();
  Pair data = MakePipe();
  for (const UniqueFd* fd : {&go.a, &data.a}) {
    ASSERT_EQ(os::Fcntl(fd->get(), F_SETFL, 0), 0);  // the child's read and ours wait
  }
  constexpr int kRounds = 50;
  const pid_t parent = os::Getpid();
  const pid_t child = os::Fork();
  if (child == 0) {
    char byte = 0;
    for (int i = 0; i < kRounds; ++i) {
      if (::read(go.a.get(), &byte, 1) != 1) ::_exit(1);
      for (int k = 0; k < 10; ++k) ::kill(parent, SIGUSR1);
      if (::write(data.b.get(), "x", 1) != 1) ::_exit(1);
    }
    ::_exit(0);
  }
  for (int i = 0; i < kRounds; ++i) {
    go.Write();
    char byte = 0;
    ASSERT_EQ(os::Read(data.a.get(), &byte, 1), 1) << "round " << i;
  }
  int status = -1;
  while (os::Waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  EXPECT_EQ(status, 0);
  Turn(absl::Seconds(10));
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1));
}

// --- Fork ---

TEST_P(SignalWatchTest, AForkedChildHearsItsOwnSignalsAndMayRestoreTheMask) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  EXPECT_EQ(InChild([&] {
              bool right = loop_->AfterFork().ok();
              SendMyself(SIGUSR1);
              right = right && loop_->RunOnce(absl::Seconds(10)).ok() && heard_.signals.size() == 1;
              watch->RestoreInChild();
              const sigset_t mask = Mask();
              struct sigaction now = {};
              os::Sigaction(SIGUSR1, nullptr, &now);
              return right && sigismember(&mask, SIGUSR1) == 0 && now.sa_handler == SIG_DFL;
            }),
            0);
  Turn();
  EXPECT_THAT(heard_.signals, ElementsAre());
}

TEST_P(SignalWatchTest, AForkedChildHearsWhatCameBeforeItsFirstCall) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1, SIGUSR2});
  EXPECT_EQ(InChild([&] {
              SendMyself(SIGUSR2);
              const bool right = watch->Pending(SIGUSR2) && loop_->AfterFork().ok() &&
                                 loop_->RunOnce(absl::Seconds(10)).ok();
              return right && heard_.signals == std::vector<int>{SIGUSR2};
            }),
            0);
  const int64_t reads = system_->Count(SystemCall::kRead);
  Turn();
  EXPECT_THAT(heard_.signals, ElementsAre());
  EXPECT_EQ(system_->Count(SystemCall::kRead), reads) << "the child's signal woke the parent";
}

TEST_P(SignalWatchTest, AForkedChildDoesNotHearItsParentsSignals) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1, SIGUSR2});
  SendMyself(SIGUSR1);
  EXPECT_EQ(InChild([&] {
              bool right = !watch->Pending(SIGUSR1) && loop_->AfterFork().ok();
              for (int i = 0; i < 4; ++i) loop_->RunOnce(absl::ZeroDuration()).IgnoreError();
              right = right && heard_.signals.empty();
              SendMyself(SIGUSR2);
              loop_->RunOnce(absl::Seconds(10)).IgnoreError();
              return right && heard_.signals == std::vector<int>{SIGUSR2};
            }),
            0);
  Turn(absl::Seconds(10));
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1)) << "the child took what was its parent's";
}

// Both live on; neither wakes the other, nor takes what wakes it.
TEST_P(SignalWatchTest, AForkedChildAndItsParentDoNotMeetInThePipe) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  Pair ready = MakePipe();
  Pair go_on = MakePipe();
  ASSERT_EQ(os::Fcntl(ready.a.get(), F_SETFL, 0), 0);
  ASSERT_EQ(os::Fcntl(go_on.a.get(), F_SETFL, 0), 0);
  const pid_t child = os::Fork();
  if (child == 0) {
    bool right = loop_->AfterFork().ok();
    for (int i = 0; i < 20; ++i) {
      SendMyself(SIGUSR1);
      right = right && loop_->RunOnce(absl::Seconds(10)).ok();
    }
    SendMyself(SIGUSR1);  // stays for the end
    char byte = 0;
    right = right && ::write(ready.b.get(), "x", 1) == 1 && ::read(go_on.a.get(), &byte, 1) == 1;
    right = right && loop_->RunOnce(absl::Seconds(10)).ok();
    ::_exit(right && heard_.signals.size() == 21 ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(os::Read(ready.a.get(), &byte, 1), 1);
  Turns(4);
  EXPECT_THAT(heard_.signals, ElementsAre());
  for (int i = 0; i < 20; ++i) {
    SendMyself(SIGUSR1);
    Turn(absl::Seconds(10));
  }
  EXPECT_EQ(heard_.signals.size(), 20u);
  go_on.Write();
  int status = -1;
  ASSERT_EQ(os::Waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_P(SignalPipeTest, AForkedChildWithoutDescriptorsIsToldAndMayTryAgain) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  EXPECT_EQ(InChild([&] {
              Interposer::Get().FailOnce(SystemCall::kPipe2, EMFILE);
              const bool told = loop_->AfterFork().code() == absl::StatusCode::kResourceExhausted;
              const bool right = told && loop_->AfterFork().ok();
              SendMyself(SIGUSR1);
              loop_->RunOnce(absl::Seconds(10)).IgnoreError();
              return right && heard_.signals.size() == 1;
            }),
            0);
}

TEST_P(SignalWatchTest, AForkedChildKnowsNothingOfAWatchThatIsGone) {
  std::unique_ptr<SignalWatch> gone = Make({SIGUSR1});
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR2});
  gone.reset();
  EXPECT_EQ(InChild([&] {
              const int64_t before = Interposer::Get().Count(SystemCall::kPipe2);
              const bool right = loop_->AfterFork().ok();
              const int64_t made = Interposer::Get().Count(SystemCall::kPipe2) - before;
              return right && made == (uses_pipe() ? 1 : 0);
            }),
            0);
}

// What comes between fork and the restoration meets what was there before the watch.
TEST_P(SignalWatchTest, AForkedChildThatRestoresIsAnsweredByWhatWasThereBefore) {
  std::unique_ptr<SignalWatch> watch = Make({SIGUSR1});
  SendMyself(SIGUSR1);  // the parent's, which the child knows nothing of
  EXPECT_EQ(InChild([&] {
              watch->RestoreInChild();
              return true;
            }),
            0);
  const int status = InChild([&] {
    SendMyself(SIGUSR1);
    watch->RestoreInChild();
    return true;
  });
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGUSR1);
  Turn(absl::Seconds(10));
  EXPECT_THAT(heard_.signals, ElementsAre(SIGUSR1));
}

std::vector<BackendTraits> BackendsWithoutSignalfd() {
  std::vector<BackendTraits> backends = TestedBackends();
#if defined(__linux__)
  for (BackendTraits& backend : backends) backend.missing_call = SystemCall::kSignalfd;
#endif
  return backends;
}

INSTANTIATE_TEST_SUITE_P(BackendsWithoutSignalfd, SignalWatchTest,
                         testing::ValuesIn(BackendsWithoutSignalfd()), BackendTestName);
INSTANTIATE_TEST_SUITE_P(BackendsWithoutSignalfd, SignalPipeTest,
                         testing::ValuesIn(BackendsWithoutSignalfd()), BackendTestName);
#if defined(__linux__)
INSTANTIATE_TEST_SUITE_P(Backends, SignalWatchTest, testing::ValuesIn(TestedBackends()),
                         BackendTestName);
#endif

}  // namespace
}  // namespace posthouse

// The [K] statements of the original's event layer, against the interface with its names.

#include "posthouse/event/compat.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/descriptor_limit.h"
#include "posthouse/os/clock.h"
#include "posthouse/testing/event_wait.h"
#include "tests/event/event_fixture.h"

namespace posthouse::compat {
namespace {

using testing::ElementsAre;

// A second callback with the same behaviour, another identity.
void OtherCallback(int event, void* context) { Recorder::On(event, context); }

void FatalToStderrAndExit3(absl::string_view message) {
  ::dprintf(2, "fatal handler: %s\n", std::string(message).c_str());
  ::_exit(3);
}

class Compat : public LoopTest {
 protected:
  void SetUp() override { MakeInstance(); }
  void TearDown() override { Install(nullptr); }

  void MakeInstance() {
    Install(std::make_unique<CompatEventLoop>(
        CompatOptions{{.backend = traits().backend}, &FatalToStderrAndExit3}));
  }
  void Install(std::unique_ptr<CompatEventLoop> instance) {
    ReplaceDefaultEventLoop(instance.get());
    instance_ = std::move(instance);
  }
  void UseFakeClock(ClockMode mode = ClockMode::kAutoAdvance) {
    Install(nullptr);
    system_->UseFakeClock(mode);
    MakeInstance();
  }

  std::unique_ptr<CompatEventLoop> instance_;
};

TEST_P(Compat, E2_EventCodesAreDistinctBits) {
  EXPECT_EQ(EVENT_READ, 1);
  EXPECT_EQ(EVENT_WRITE, 2);
  EXPECT_EQ(EVENT_XCPT, 4);
  EXPECT_EQ(EVENT_ERROR, EVENT_XCPT);
  EXPECT_EQ(EVENT_TIME, 8);
  EXPECT_EQ(EVENT_NULL_TYPE, 0);
  EXPECT_EQ(EVENT_NULL_DELAY, 0);
  EXPECT_EQ(EVENT_NULL_CONTEXT, nullptr);
}

TEST_P(Compat, E5_DrainAndForkLeaveAnUnusedLayerUnused) {
  const CallCounts before = system_->Counts();
  event_drain(10);
  event_fork();
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
  EXPECT_GT(event_time(), 0);  // any other call initialises
}

TEST_P(Compat, EO15_InitialisationLeavesTheLimitOfOpenFilesAlone) {
  const int64_t before = system_->Count(SystemCall::kSetrlimit);
  event_time();
  EXPECT_EQ(system_->Count(SystemCall::kSetrlimit), before);
}

TEST_P(Compat, E11_NumbersOutOfRangePanic) {
  event_time();
  const int bound = traits().ends_at_fd_setsize ? FD_SETSIZE : *DescriptorLimit();
  Recorder recorder;
  for (const int fd : {-1, bound, bound + 1000}) {
    EXPECT_DEATH(event_enable_read(fd, &Recorder::On, &recorder), "limit of open files");
    EXPECT_DEATH(event_enable_write(fd, &Recorder::On, &recorder), "limit of open files");
    EXPECT_DEATH(event_disable_readwrite(fd), "limit of open files");
  }
  event_disable_readwrite(bound - 1);
}

TEST_P(Compat, E7_TheBoundIsReadOnce) {
  rlimit original = {};
  ASSERT_EQ(os::Getrlimit(RLIMIT_NOFILE, &original), 0);
  rlimit small = original;
  small.rlim_cur = 200;
  ASSERT_EQ(os::Setrlimit(RLIMIT_NOFILE, &small), 0);
  event_time();
  ASSERT_EQ(os::Setrlimit(RLIMIT_NOFILE, &original), 0);
  event_disable_readwrite(199);
  EXPECT_DEATH(event_disable_readwrite(200), "limit of open files");
}

TEST_P(Compat, E12_InterestIsPersistentAndLevelTriggered) {
  Pair pipe = MakePipe();
  Recorder recorder;
  event_enable_read(pipe.a.get(), &Recorder::On, &recorder);
  event_loop(0);
  EXPECT_EQ(recorder.reads, 0);
  pipe.Write();
  for (int i = 1; i <= 3; ++i) {
    event_loop(-1);
    EXPECT_EQ(recorder.reads, i);  // E46: exactly one per pass
  }
  event_disable_readwrite(pipe.a.get());
}

TEST_P(Compat, E14_EnablingAgainReplacesWithoutASystemCallAndHoldsAtOnce) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  one.Write();
  two.Write();
  Recorder first, second, replaced;
  event_enable_read(one.a.get(), &Recorder::On, &first);
  event_enable_read(two.a.get(), &Recorder::On, &second);
  event_loop(0);
  const CallCounts before = system_->Counts();
  event_enable_read(one.a.get(), &Recorder::On, &first);
  event_enable_read(two.a.get(), &OtherCallback, &second);
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
  // Later in the same pass.
  first.then = [&](int) { event_enable_read(two.a.get(), &Recorder::On, &replaced); };
  second.then = [&](int) { event_enable_read(one.a.get(), &Recorder::On, &replaced); };
  first.reads = second.reads = 0;
  event_loop(0);
  EXPECT_EQ(first.reads + second.reads, 1);
  EXPECT_EQ(replaced.reads, 1);
}

TEST_P(Compat, E15_TheOtherDirectionNeedsADisableInBetween) {
  Pair sockets = MakeSockets();
  Recorder recorder;
  event_enable_read(sockets.a.get(), &Recorder::On, &recorder);
  EXPECT_DEATH(event_enable_write(sockets.a.get(), &Recorder::On, &recorder), "other direction");
  event_disable_readwrite(sockets.a.get());
  event_enable_write(sockets.a.get(), &Recorder::On, &recorder);
  EXPECT_DEATH(event_enable_read(sockets.a.get(), &Recorder::On, &recorder), "other direction");
  event_loop(0);
  EXPECT_THAT(recorder.events, ElementsAre(EVENT_WRITE));
}

TEST_P(Compat, E17_DisablingWhatIsNotEnabledIsSilentAndMakesNoSystemCall) {
  event_time();
  const CallCounts before = system_->Counts();
  event_disable_readwrite(0);
  event_disable_readwrite(150);
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
}

TEST_P(Compat, EO21_EnableAndDisableInOnePassMakesNoSystemCall) {
  Pair pipe = MakePipe();
  Recorder recorder;
  event_time();
  const CallCounts before = system_->Counts();
  for (int i = 0; i < 10; ++i) {
    event_enable_read(pipe.a.get(), &Recorder::On, &recorder);
    event_disable_readwrite(pipe.a.get());
  }
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
  event_loop(0);
  EXPECT_EQ(Changes(), 0);
}

TEST_P(Compat, E18_ADisabledDescriptorGetsNoFetchedEvent) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  one.Write();
  two.Write();
  Recorder first, second;
  event_enable_read(one.a.get(), &Recorder::On, &first);
  event_enable_read(two.a.get(), &Recorder::On, &second);
  first.then = [&](int) { event_disable_readwrite(two.a.get()); };
  second.then = [&](int) { event_disable_readwrite(one.a.get()); };
  event_loop(0);
  event_loop(0);
  EXPECT_TRUE((first.reads == 0) != (second.reads == 0));
}

TEST_P(Compat, E47_ATimerOfThePassMayDisableADescriptor) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder reader, timed;
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  timed.then = [&](int) { event_disable_readwrite(pipe.a.get()); };
  event_request_timer(&Recorder::On, &timed, 0);
  event_loop(-1);
  EXPECT_EQ(timed.timers, 1);
  EXPECT_EQ(reader.reads, 0);
}

TEST_P(Compat, E48_EO6_NoStaleDeliveryToANewFileOfTheSameNumberOrToTheOtherDirection) {
  Pair one = MakeSockets();
  Pair two = MakeSockets();
  one.Write();
  two.Write();
  Recorder first, second, late;
  const auto turn = [&](Pair* victim) {
    const int number = victim->a.get();
    event_disable_readwrite(number);
    victim->a.Reset();
    Pair fresh = MakeSockets();
    ASSERT_EQ(fresh.a.get(), number);
    *victim = std::move(fresh);
    event_enable_read(number, &Recorder::On, &late);
  };
  first.then = [&](int) { turn(&two); };
  second.then = [&](int) { turn(&one); };
  event_enable_read(one.a.get(), &Recorder::On, &first);
  event_enable_read(two.a.get(), &Recorder::On, &second);
  event_loop(0);
  EXPECT_EQ(first.reads + second.reads, 1);
  EXPECT_EQ(late.reads, 0);
  // (b) switched from read to write by an earlier callback of the pass.
  Pair three = MakeSockets();
  Pair four = MakeSockets();
  three.Write();
  four.Write();
  Recorder third, fourth;
  first.then = second.then = nullptr;
  third.then = [&](int event) {
    if (event != EVENT_READ) return;
    event_disable_readwrite(four.a.get());
    event_enable_write(four.a.get(), &Recorder::On, &fourth);
  };
  fourth.then = [&](int event) {
    if (event != EVENT_READ) return;
    event_disable_readwrite(three.a.get());
    event_enable_write(three.a.get(), &Recorder::On, &third);
  };
  event_enable_read(three.a.get(), &Recorder::On, &third);
  event_enable_read(four.a.get(), &Recorder::On, &fourth);
  event_loop(0);
  EXPECT_EQ(third.reads + fourth.reads, 1);
  EXPECT_EQ(third.writes + fourth.writes, 0);
}

TEST_P(Compat, E19_ARefusalOfTheKernelIsFatalInTheNextLoop) {
  Pair pipe = MakePipe();
  const int number = pipe.a.get();
  pipe.a.Reset();
  Recorder recorder;
  event_enable_read(number, &Recorder::On, &recorder);
  // A death test runs its statement in a forked child.
  EXPECT_EXIT((event_fork(), event_loop(0)), testing::ExitedWithCode(3),
              "fatal handler: .*add fd " + std::to_string(number));
}

TEST_P(Compat, E19_TheDefaultFatalHandlerExitsWithStatus1) {
  Install(std::make_unique<CompatEventLoop>(CompatOptions{{.backend = traits().backend}}));
  system_->FailFrom(WaitCall(), EINVAL);
  EXPECT_EXIT(event_loop(0), testing::ExitedWithCode(1), "fatal: ");  // E28
}

TEST_P(Compat, E10_AFailureToMakeTheKernelsHandleIsFatal) {
  if (traits().make_call == SystemCall::kAny) GTEST_SKIP() << traits().name << " has none";
  system_->FailOnce(traits().make_call, EMFILE);
  EXPECT_EXIT(event_time(), testing::ExitedWithCode(3), traits().make_name);
}

TEST_P(Compat, E20_NumbersThatWereClosedAndReusedAreNotDeaf) {
  Pair pipe = MakePipe();
  Recorder recorder;
  event_enable_read(pipe.a.get(), &Recorder::On, &recorder);
  event_loop(0);
  const int number = pipe.a.get();
  pipe.a.Reset();
  pipe = MakePipe();
  ASSERT_EQ(pipe.a.get(), number);
  event_enable_read(number, &Recorder::On, &recorder);
  pipe.Write();
  event_loop(0);
  EXPECT_EQ(recorder.reads, 1);
}

TEST_P(Compat, EO14_CloseThenDisableIsHarmless) {
  Pair pipe = MakePipe();
  Recorder recorder;
  event_enable_read(pipe.a.get(), &Recorder::On, &recorder);
  event_loop(0);
  const int number = pipe.a.get();
  pipe.a.Reset();
  event_disable_readwrite(number);
  event_loop(0);
}

TEST_P(Compat, E21_EnableAndDisableLeaveNoResidue) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  const int fd = pipe.a.get();
  recorder.then = [&](int) {
    for (int i = 0; i < 5; ++i) {
      event_disable_readwrite(fd);
      event_enable_read(fd, &Recorder::On, &recorder);
    }
  };
  event_enable_read(fd, &Recorder::On, &recorder);
  for (int i = 1; i <= 3; ++i) {
    event_loop(0);
    EXPECT_EQ(recorder.reads, i);
  }
}

TEST_P(Compat, E22_OneLoopIsOneWaitAndOnePass) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  event_enable_read(pipe.a.get(), &Recorder::On, &recorder);
  const int64_t waits = Waits();
  for (int i = 0; i < 4; ++i) event_loop(5);
  EXPECT_EQ(Waits() - waits, 4);
  EXPECT_EQ(recorder.reads, 4);
}

TEST_P(Compat, E23_TheFourShapesOfDelay) {
  UseFakeClock();
  constexpr int64_t kSecond = 1000000000;
  Recorder timed;
  int64_t start = os::SteadyNanos();
  const auto passed = [&] { return os::SteadyNanos() - start; };
  event_loop(0);
  EXPECT_EQ(passed(), 0);
  event_loop(4);
  EXPECT_EQ(passed(), 4 * kSecond);
  event_request_timer(&Recorder::On, &timed, 3);
  start = os::SteadyNanos();
  event_loop(1);  // the shorter of the two
  EXPECT_EQ(passed(), 1 * kSecond);
  event_loop(-1);  // the first expiry
  EXPECT_EQ(passed(), 3 * kSecond);
  EXPECT_EQ(timed.timers, 1);
  event_request_timer(&Recorder::On, &timed, 2);
  system_->Advance(absl::Seconds(5));
  start = os::SteadyNanos();
  event_loop(-1);  // in the past already
  EXPECT_EQ(passed(), 0);
  EXPECT_EQ(timed.timers, 2);
}

TEST_P(Compat, E25_TimersComeBeforeDescriptors) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  event_enable_read(pipe.a.get(), &Recorder::On, &recorder);
  event_request_timer(&Recorder::On, &recorder, 0);
  event_loop(0);
  EXPECT_THAT(recorder.events, ElementsAre(EVENT_TIME, EVENT_READ));  // E3: one function for both
}

TEST_P(Compat, E26_E27_EO10_ASignalEndsTheWaitAndDueTimersRun) {
  UseFakeClock(ClockMode::kManual);
  Recorder timed;
  event_request_timer(&Recorder::On, &timed, 1);
  system_->FailOnce(WaitCall(), EINTR);
  event_loop(-1);
  EXPECT_EQ(timed.timers, 0);
  system_->Advance(absl::Seconds(1));
  system_->FailOnce(WaitCall(), EINTR);
  event_loop(-1);
  EXPECT_EQ(timed.timers, 1);
}

TEST_P(Compat, E28_AWaitThatFailsForGoodIsFatal) {
  for (const int error : {EBADF, ENOMEM, EINVAL, EFAULT}) {
    const int fault = system_->FailFrom(WaitCall(), error);
    EXPECT_EXIT(event_loop(-1), testing::ExitedWithCode(3),
                std::string("fatal handler: .*") + traits().wait_name);
    system_->Remove(fault);
  }
}

TEST_P(Compat, E29_NestingPanicsBeforeItWaits) {
  Recorder timed;
  timed.then = [](int) { event_loop(-1); };
  event_request_timer(&Recorder::On, &timed, 0);
  EXPECT_DEATH((event_fork(), event_loop(0)), "called from a callback");
  timed.then = [](int) {
    event_drain(0);  // would run no pass
    event_request_timer(&OtherCallback, nullptr, 100);
    event_drain(1);
  };
  EXPECT_DEATH((event_fork(), event_loop(0)), "called from a callback");
}

TEST_P(Compat, E31_EO13_AfterAnExceptionTheLoopGoesOn) {
  Recorder timed;
  timed.then = [](int) { throw std::runtime_error("from a callback"); };
  event_request_timer(&Recorder::On, &timed, 0);
  EXPECT_THROW(event_loop(0), std::runtime_error);
  timed.then = nullptr;
  event_request_timer(&Recorder::On, &timed, 0);
  event_loop(0);
  EXPECT_EQ(timed.timers, 2);
}

TEST_P(Compat, E34_ATimerIsItsCallbackAndItsContext) {
  Recorder a, b;
  event_request_timer(&Recorder::On, &a, 0);
  event_request_timer(&Recorder::On, &b, 0);
  event_request_timer(&OtherCallback, &a, 0);
  event_loop(0);
  EXPECT_EQ(a.timers, 2);
  EXPECT_EQ(b.timers, 1);
}

TEST_P(Compat, E35_RequestingAgainMovesTheTimer) {
  UseFakeClock();
  Recorder timed;
  const int64_t start = os::SteadyNanos();
  const time_t now = event_time();
  EXPECT_EQ(event_request_timer(&Recorder::On, &timed, 5), now + 5);
  EXPECT_EQ(event_request_timer(&Recorder::On, &timed, 9), now + 9);
  event_loop(-1);
  EXPECT_EQ(timed.timers, 1);
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{9} * 1000000000);
  EXPECT_EQ(event_cancel_timer(&Recorder::On, &timed), -1);
}

TEST_P(Compat, E36_ANegativeDelayPanics) {
  EXPECT_DEATH(event_request_timer(&Recorder::On, nullptr, -1), "delay is negative");
}

TEST_P(Compat, E38_EqualExpiriesRunInOrderOfRequest) {
  UseFakeClock(ClockMode::kManual);
  std::vector<int> order;
  Recorder recorders[3];
  for (int i = 0; i < 3; ++i) {
    recorders[i].then = [&order, i](int) { order.push_back(i); };
    event_request_timer(&Recorder::On, &recorders[i], 5);
  }
  event_request_timer(&Recorder::On, &recorders[0], 5);
  system_->Advance(absl::Seconds(5));
  event_loop(0);
  EXPECT_THAT(order, ElementsAre(1, 2, 0));
}

TEST_P(Compat, E39_ATimerRequestedByATimerRunsInTheNextPass) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder timed, reader;
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  timed.then = [&](int) { event_request_timer(&Recorder::On, &timed, 0); };
  event_request_timer(&Recorder::On, &timed, 0);
  for (int i = 1; i <= 10; ++i) {
    event_loop(-1);
    EXPECT_EQ(timed.timers, i);
    EXPECT_EQ(reader.reads, i);
  }
}

TEST_P(Compat, E40_FromATimerAnotherDueTimerIsPostponedOrPrevented) {
  Recorder a, b, c;
  a.then = [&](int) {
    event_request_timer(&Recorder::On, &b, 0);
    EXPECT_EQ(event_cancel_timer(&Recorder::On, &c), 0);  // was pending and due
  };
  event_request_timer(&Recorder::On, &a, 0);
  event_request_timer(&Recorder::On, &b, 0);
  event_request_timer(&Recorder::On, &c, 0);
  event_loop(0);
  EXPECT_EQ(a.timers, 1);
  EXPECT_EQ(b.timers, 0);
  event_loop(0);
  EXPECT_EQ(b.timers, 1);
  EXPECT_EQ(c.timers, 0);
}

TEST_P(Compat, E42_InsideItsCallbackATimerIsGone) {
  Recorder timed;
  timed.then = [&](int) {
    EXPECT_EQ(event_cancel_timer(&Recorder::On, &timed), -1);
    if (timed.timers == 1) event_request_timer(&Recorder::On, &timed, 0);
  };
  event_request_timer(&Recorder::On, &timed, 0);
  event_loop(0);
  event_loop(0);
  event_loop(0);
  EXPECT_EQ(timed.timers, 2);
}

TEST_P(Compat, E43_CancelTellsWhatWasLeft) {
  UseFakeClock(ClockMode::kManual);
  Recorder timed;
  EXPECT_EQ(event_cancel_timer(&Recorder::On, &timed), -1);
  event_request_timer(&Recorder::On, &timed, 10);
  EXPECT_EQ(event_cancel_timer(&Recorder::On, &timed), 10);
  event_request_timer(&Recorder::On, &timed, 10);
  system_->Advance(absl::Seconds(4));
  EXPECT_EQ(event_cancel_timer(&Recorder::On, &timed), 6);  // EO24: a fresh clock
  event_request_timer(&Recorder::On, &timed, 10);
  system_->Advance(absl::Seconds(100));
  EXPECT_EQ(event_cancel_timer(&Recorder::On, &timed), 0);
  EXPECT_EQ(event_cancel_timer(&Recorder::On, &timed), -1);
  event_loop(0);
  EXPECT_EQ(timed.timers, 0);
}

TEST_P(Compat, F23_CancelAndRequestWithWhatWasLeftDoesNotDrift) {
  UseFakeClock();
  Recorder timed;
  const int64_t start = os::SteadyNanos();
  event_request_timer(&Recorder::On, &timed, 10);
  for (int i = 0; i < 1000; ++i) {
    system_->Advance(absl::Microseconds(9990));
    const int left = event_cancel_timer(&Recorder::On, &timed);
    ASSERT_GE(left, 0);
    event_request_timer(&Recorder::On, &timed, left);
  }
  while (timed.timers == 0) event_loop(-1);
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{10} * 1000000000);
}

TEST_P(Compat, F23_AnotherRequestThanWhatWasLeftCountsFromNow) {
  UseFakeClock();
  Recorder timed;
  event_request_timer(&Recorder::On, &timed, 10);
  system_->Advance(absl::Milliseconds(500));
  EXPECT_EQ(event_cancel_timer(&Recorder::On, &timed), 10);
  const int64_t start = os::SteadyNanos();
  event_request_timer(&Recorder::On, &timed, 9);
  while (timed.timers == 0) event_loop(-1);
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{9} * 1000000000);
}

TEST_P(Compat, E44_TheTimeIsCachedAndRefreshedWhereThePromiseSays) {
  UseFakeClock(ClockMode::kManual);
  const time_t start = event_time();
  system_->Advance(absl::Seconds(10));
  const CallCounts before = system_->Counts();
  EXPECT_EQ(event_time(), start);
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
  Recorder timed;
  event_request_timer(&Recorder::On, &timed, 100);
  EXPECT_EQ(event_time(), start + 10);  // by each request
  system_->Advance(absl::Seconds(5));
  event_cancel_timer(&Recorder::On, &timed);
  EXPECT_EQ(event_time(), start + 10);  // not by a cancel
  event_loop(0);
  EXPECT_EQ(event_time(), start + 15);  // after each wait
  system_->Advance(absl::Seconds(5));
  event_drain(0);
  EXPECT_EQ(event_time(), start + 20);
  // In a descriptor callback it tells when the pass began.
  Pair one = MakePipe();
  Pair two = MakePipe();
  one.Write();
  two.Write();
  Recorder readers[2];
  for (Recorder& reader : readers) {
    reader.then = [&](int) {
      EXPECT_EQ(event_time(), start + 20);
      system_->Advance(absl::Seconds(30));
    };
  }
  event_enable_read(one.a.get(), &Recorder::On, &readers[0]);
  event_enable_read(two.a.get(), &Recorder::On, &readers[1]);
  event_loop(0);
  EXPECT_EQ(readers[0].reads + readers[1].reads, 2);
}

TEST_P(Compat, EO3_StepsOfTheWallClockMoveNoTimer) {
  for (const int hours : {-1, 1, -87600, 87600}) {
    UseFakeClock();
    Recorder timed;
    event_request_timer(&Recorder::On, &timed, 100);
    const int64_t start = os::SteadyNanos();
    system_->StepWall(absl::Hours(hours));
    while (timed.timers == 0) event_loop(-1);
    EXPECT_EQ(os::SteadyNanos() - start, int64_t{100} * 1000000000);
  }
}

TEST_P(Compat, E50_ADescriptorFirstEnabledInAPassIsNotReportedInIt) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  one.Write();
  two.Write();
  Recorder first, late;
  first.then = [&](int) {
    if (first.reads == 1) event_enable_read(two.a.get(), &Recorder::On, &late);
  };
  event_enable_read(one.a.get(), &Recorder::On, &first);
  event_loop(0);
  EXPECT_EQ(late.reads, 0);
  event_loop(0);
  EXPECT_EQ(late.reads, 1);
}

TEST_P(Compat, E55_DrainRunsWhileAnythingIsLeftUpToItsLimit) {
  UseFakeClock();
  Recorder timed;
  timed.then = [&](int) {
    if (timed.timers < 3) event_request_timer(&Recorder::On, &timed, 2);  // E56
  };
  event_request_timer(&Recorder::On, &timed, 2);
  int64_t start = os::SteadyNanos();
  event_drain(60);
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{6} * 1000000000);
  EXPECT_EQ(timed.timers, 3);
  Pair pipe = MakePipe();
  Recorder reader;
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  start = os::SteadyNanos();
  event_drain(5);
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{5} * 1000000000);
  const int64_t waits = Waits();
  event_drain(0);
  event_drain(-5);
  EXPECT_EQ(Waits(), waits);
}

TEST_P(Compat, E59_AfterForkTheChildHasItsOwnInterestsAndTimers) {
  Pair pipe = MakePipe();
  Recorder reader, timed;
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  event_request_timer(&Recorder::On, &timed, 0);
  const pid_t child = os::Fork();
  if (child == 0) {
    event_fork();
    pipe.Write();
    event_loop(10);
    const bool right = reader.reads == 1 && timed.timers == 1;
    ReadSome(pipe.a.get());
    event_disable_readwrite(pipe.a.get());
    ::_exit(right ? 0 : 1);
  }
  EXPECT_EQ(WaitForExit(child).value_or(-1), 0);
  pipe.Write();
  event_loop(10);
  EXPECT_EQ(reader.reads, 1);
  EXPECT_EQ(timed.timers, 1);
}

TEST_P(Compat, E61_WithoutTheCallAfterForkTheChildPanics) {
  Pair pipe = MakePipe();
  Recorder reader;
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  event_loop(0);
  // A death test runs its statement in a forked child.
  EXPECT_DEATH(event_loop(0), "must call AfterFork");
}

TEST_P(Compat, E71_GrowthBeyondTenAndManyDescriptors) {
  ASSERT_GT(*RaiseDescriptorLimit(), 3000);
  const int count = traits().ends_at_fd_setsize ? 400 : 1200;
  std::vector<Pair> pipes(count);
  std::vector<Recorder> recorders(count);
  for (int i = 0; i < count; ++i) {
    pipes[i] = MakePipe();
    recorders[i].then = [&, i](int) { ReadSome(pipes[i].a.get()); };
    event_enable_read(pipes[i].a.get(), &Recorder::On, &recorders[i]);
  }
  for (const Pair& pair : pipes) pair.Write();
  for (int i = 0; i < 20; ++i) event_loop(0);
  for (const Recorder& recorder : recorders) EXPECT_EQ(recorder.reads, 1);
}

// EO1: 10^5 timers; random re-requests and cancels against a model of E34, E35, E38 and E43.
TEST_P(Compat, EO1_ManyTimersRunAsTheModelSays) {
  UseFakeClock(ClockMode::kManual);
  const int count = FullRun() ? 100000 : 20000;
  std::mt19937 random(1);
  std::vector<Recorder> recorders(count);
  std::vector<int> order;
  std::map<int, std::pair<int64_t, int>> pending;  // index to (deadline, request)
  int requests = 0;
  const int64_t start = os::SteadyNanos();
  for (int i = 0; i < count; ++i) recorders[i].then = [&order, i](int) { order.push_back(i); };
  for (int i = 0; i < 3 * count; ++i) {
    const int index = static_cast<int>(random() % count);
    if (random() % 4 == 0) {
      const int left = event_cancel_timer(&Recorder::On, &recorders[index]);
      ASSERT_EQ(left >= 0, pending.erase(index) > 0);
      // What was cancelled last could be resumed; another request makes it forgotten.
      event_request_timer(&OtherCallback, nullptr, 1000000);
    } else {
      const int delay = static_cast<int>(random() % 100);
      event_request_timer(&Recorder::On, &recorders[index], delay);
      pending[index] = {delay, ++requests};
    }
  }
  std::set<std::tuple<int64_t, int, int>> expected;
  for (const auto& [index, key] : pending) expected.insert({key.first, key.second, index});
  while (os::SteadyNanos() - start < int64_t{100} * 1000000000) {
    system_->Advance(absl::Seconds(1));
    for (int i = 0; i < 3; ++i) event_loop(0);  // EO23: at most 10000 a pass
  }
  ASSERT_EQ(order.size(), expected.size());
  size_t i = 0;
  for (const auto& [deadline, request, index] : expected) ASSERT_EQ(order[i++], index);
}

TEST_P(Compat, E1_ACallbackTakesTheCodeAndTheContextAndNothingElse) {
  static_assert(std::is_same_v<EVENT_NOTIFY_FN, void (*)(int, void*)>);
  Pair sockets = MakeSockets();
  static std::pair<int, void*> seen;
  seen = {0, nullptr};
  const EVENT_NOTIFY_FN record = [](int event, void* context) { seen = {event, context}; };
  int first_context = 0, second_context = 0;
  event_enable_write(sockets.a.get(), record, &first_context);
  event_loop(-1);
  EXPECT_EQ(seen, (std::pair<int, void*>(EVENT_WRITE, &first_context)));
  event_disable_readwrite(sockets.a.get());
  sockets.Write();
  event_enable_read(sockets.a.get(), record, EVENT_NULL_CONTEXT);
  event_loop(-1);
  EXPECT_EQ(seen, (std::pair<int, void*>(EVENT_READ, nullptr)));
  event_disable_readwrite(sockets.a.get());
  event_request_timer(record, &second_context, 0);
  event_loop(-1);
  EXPECT_EQ(seen, (std::pair<int, void*>(EVENT_TIME, &second_context)));
}

TEST_P(Compat, E4_EO18_OneDefaultLoopPerProcessAndInstancesThatDoNotShareAnything) {
  EXPECT_EQ(&DefaultEventLoop(), instance_.get());
  CompatEventLoop other(CompatOptions{{.backend = traits().backend}, &FatalToStderrAndExit3});
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder ours, theirs;
  event_enable_read(pipe.a.get(), &Recorder::On, &ours);
  other.EnableRead(pipe.a.get(), &Recorder::On, &theirs);
  event_request_timer(&Recorder::On, &ours, 0);
  other.RequestTimer(&Recorder::On, &ours, 1000);  // the same pair: another timer here
  event_loop(-1);
  EXPECT_THAT(ours.events, ElementsAre(EVENT_TIME, EVENT_READ));
  EXPECT_THAT(theirs.events, ElementsAre());
  event_disable_readwrite(pipe.a.get());
  other.Loop(0);
  event_loop(0);
  EXPECT_THAT(ours.events, ElementsAre(EVENT_TIME, EVENT_READ));
  EXPECT_THAT(theirs.events, ElementsAre(EVENT_READ));
  EXPECT_EQ(event_cancel_timer(&Recorder::On, &ours), -1);
  EXPECT_GT(other.CancelTimer(&Recorder::On, &ours), 990);
}

TEST_P(Compat, E9_GrowthKeepsRegistrationsAndAddsNone) {
  ASSERT_GT(*RaiseDescriptorLimit(), 1000);
  std::vector<Pair> pipes(6);
  std::vector<Recorder> recorders(8);
  for (int i = 0; i < 6; ++i) {
    pipes[i] = MakePipe();
    event_enable_read(pipes[i].a.get(), &Recorder::On, &recorders[i]);
  }
  event_loop(0);
  // To little more than twice the size, then far beyond it: both from a callback.
  Pair source = MakePipe();
  source.Write();
  UniqueFd near(os::Fcntl(source.a.get(), F_DUPFD_CLOEXEC, 35));
  UniqueFd far(os::Fcntl(source.a.get(), F_DUPFD_CLOEXEC, 900));
  pipes[0].Write();
  recorders[0].then = [&](int) {
    event_enable_read(near.get(), &Recorder::On, &recorders[6]);
    event_enable_read(far.get(), &Recorder::On, &recorders[7]);
    recorders[0].then = nullptr;
  };
  event_loop(0);
  for (const Pair& pair : pipes) pair.Write();
  event_loop(0);
  EXPECT_EQ(recorders[0].reads, 2);
  for (int i = 1; i < 8; ++i) EXPECT_EQ(recorders[i].reads, 1) << i;
  // New slots are empty: disabling one costs nothing.
  const CallCounts before = system_->Counts();
  for (int fd = far.get() - 10; fd < far.get(); ++fd) event_disable_readwrite(fd);
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
  // And the table does not shrink: what is left of it still works.
  event_disable_readwrite(far.get());
  event_loop(0);
  EXPECT_EQ(recorders[7].reads, 1);
  for (int i = 1; i < 7; ++i) EXPECT_EQ(recorders[i].reads, 2) << i;
}

TEST_P(Compat, E13_OneSlotServesBothDirections) {
  Pair sockets = MakeSockets();
  sockets.Write();
  const int fd = sockets.a.get();
  Recorder reader, writer;
  event_enable_read(fd, &Recorder::On, &reader);
  event_loop(0);
  EXPECT_THAT(reader.events, ElementsAre(EVENT_READ));
  event_disable_readwrite(fd);
  event_enable_write(fd, &OtherCallback, &writer);
  event_loop(0);
  EXPECT_THAT(writer.events, ElementsAre(EVENT_WRITE));
  // Replaced while enabled for writing: what was there for reading does not come back.
  Recorder third;
  event_enable_write(fd, &Recorder::On, &third);
  event_disable_readwrite(fd);
  event_enable_read(fd, &OtherCallback, &third);
  event_loop(0);
  EXPECT_THAT(third.events, ElementsAre(EVENT_READ));
  EXPECT_EQ(reader.events.size(), 1u);
  EXPECT_EQ(writer.events.size(), 1u);
}

TEST_P(Compat, E16_ExceptionalConditionsNeedNoRegistration) {
  // All writers gone: HUP alone, nobody has asked for it.
  Pair empty = MakePipe();
  Recorder reader;
  event_enable_read(empty.a.get(), &Recorder::On, &reader);
  event_loop(0);
  EXPECT_EQ(reader.reads, 0);
  empty.b.Reset();
  event_loop(-1);
  EXPECT_THAT(reader.events, ElementsAre(EVENT_READ));  // EO9
  event_disable_readwrite(empty.a.get());
  // All readers gone from a full pipe: ERR alone.
  Pair full = MakePipe();
  const std::string page(4096, 'x');
  while (os::Write(full.b.get(), page.data(), page.size()) > 0) {
  }
  Recorder writer;
  event_enable_write(full.b.get(), &Recorder::On, &writer);
  event_loop(0);
  EXPECT_EQ(writer.writes, 0);
  full.a.Reset();
  if (!traits().tells_loss_of_reader_of_full_pipe) return;
  event_loop(-1);
  EXPECT_THAT(writer.events, ElementsAre(EVENT_WRITE));
}

TEST_P(Compat, E24_AWaitThatTimesOutRunsTheTimerPhase) {
  UseFakeClock();
  Pair pipe = MakePipe();
  Recorder reader, timed;
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  event_request_timer(&Recorder::On, &timed, 2);
  const int64_t waits = Waits();
  event_loop(1);  // too early
  EXPECT_EQ(timed.timers, 0);
  event_loop(1);  // the wait ends with nothing ready and the timer due
  EXPECT_EQ(timed.timers, 1);
  EXPECT_EQ(Waits() - waits, 2);
  EXPECT_EQ(reader.reads, 0);
}

TEST_P(Compat, E30_EO12_ANestedCallPanicsWithoutAWait) {
  // Nothing is ready and nothing is pending: a wait would not end.
  Recorder timed;
  timed.then = [&](int) {
    // One that is interrupted would return without a word.
    system_->FailFrom(WaitCall(), EINTR);
    event_loop(-1);
    ::_exit(0);
  };
  event_request_timer(&Recorder::On, &timed, 0);
  EXPECT_DEATH((event_fork(), event_loop(0)), "called from a callback");
}

TEST_P(Compat, E45_EO2_NeverEarlyWhateverTheFractionOfTheSecond) {
  UseFakeClock();
  for (const int milliseconds : {0, 1, 499, 500, 900, 999}) {
    system_->Advance(absl::Milliseconds(milliseconds));
    Recorder timed;
    const int64_t start = os::SteadyNanos();
    event_request_timer(&Recorder::On, &timed, 1);
    // Something else wakes the loop just before.
    Pair pipe = MakePipe();
    pipe.Write();
    Recorder reader;
    reader.then = [&](int) {
      ReadSome(pipe.a.get());
      system_->Advance(absl::Microseconds(999999));
    };
    event_enable_read(pipe.a.get(), &Recorder::On, &reader);
    event_loop(-1);
    event_disable_readwrite(pipe.a.get());
    event_loop(0);
    EXPECT_EQ(timed.timers, 0) << milliseconds;
    const int64_t waits = Waits();
    while (timed.timers == 0) event_loop(-1);
    // At most the grain of the kernel's clock late.
    EXPECT_GE(os::SteadyNanos() - start, 1000000000) << milliseconds;
    EXPECT_LE(os::SteadyNanos() - start, 1001000000) << milliseconds;
    EXPECT_LE(Waits() - waits, 2);  // no polling just before
  }
}

TEST_P(Compat, E53_ACauseThatStaysIsReportedInEveryPass) {
  // Errors and hang-ups as well as data.
  Pair data = MakePipe();
  data.Write();
  Pair hung_up = MakePipe();
  hung_up.b.Reset();
  Pair broken = MakePipe();
  broken.a.Reset();
  Recorder recorders[3];
  event_enable_read(data.a.get(), &Recorder::On, &recorders[0]);
  event_enable_read(hung_up.a.get(), &Recorder::On, &recorders[1]);
  event_enable_write(broken.b.get(), &Recorder::On, &recorders[2]);
  for (int pass = 1; pass <= 5; ++pass) {
    event_loop(-1);
    for (const Recorder& recorder : recorders) {
      EXPECT_EQ(recorder.events.size(), static_cast<size_t>(pass));
    }
  }
  event_disable_readwrite(data.a.get());
  event_disable_readwrite(hung_up.a.get());
  event_disable_readwrite(broken.b.get());
  event_loop(0);
  for (const Recorder& recorder : recorders) EXPECT_EQ(recorder.events.size(), 5u);
}

TEST_P(Compat, E58_DrainFromACallbackPanics) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder reader, timed;
  reader.then = [](int) { event_drain(1); };
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  EXPECT_DEATH((event_fork(), event_loop(0)), "called from a callback");
  event_disable_readwrite(pipe.a.get());
  event_request_timer(&OtherCallback, &reader, 100);
  timed.then = [](int) { event_drain(1); };
  event_request_timer(&Recorder::On, &timed, 0);
  EXPECT_DEATH((event_fork(), event_loop(0)), "called from a callback");
}

TEST_P(Compat, E60_AFailureToMakeTheChildsSetIsFatalAndWithoutOneNoCallIsNeeded) {
  Pair pipe = MakePipe();
  Recorder reader;
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  event_loop(0);
  if (traits().make_call == SystemCall::kAny) {
    const pid_t child = os::Fork();
    if (child == 0) {
      const CallCounts before = system_->Counts();
      event_fork();
      const int64_t changes = system_->Count(SystemCall::kClose) - before[SystemCall::kClose];
      pipe.Write();
      event_loop(10);
      ::_exit(changes == 0 && reader.reads == 1 ? 0 : 1);
    }
    EXPECT_EQ(WaitForExit(child).value_or(-1), 0);
  } else {
    system_->FailOnce(traits().make_call, EMFILE);
    // A death test runs its statement in a forked child.
    EXPECT_EXIT((event_fork(), event_loop(0)), testing::ExitedWithCode(3), traits().make_name);
  }
}

TEST_P(Compat, E62_WhatTheChildOpenedBeforeTheCallAfterForkStaysOpen) {
  Pair pipe = MakePipe();
  Recorder reader;
  event_enable_read(pipe.a.get(), &Recorder::On, &reader);
  event_loop(0);
  const pid_t child = os::Fork();
  if (child == 0) {
    std::vector<Pair> own(20);
    for (Pair& pair : own) pair = MakePipe();
    event_fork();
    bool right = true;
    for (const Pair& pair : own) {
      right = right && os::Write(pair.b.get(), "x", 1) == 1 && ReadSome(pair.a.get()) == "x";
    }
    pipe.Write();
    event_loop(10);
    ::_exit(right && reader.reads == 1 ? 0 : 1);
  }
  EXPECT_EQ(WaitForExit(child).value_or(-1), 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, Compat, testing::ValuesIn(TestedBackends()), BackendTestName);

}  // namespace
}  // namespace posthouse::compat

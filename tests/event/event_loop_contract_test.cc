// The contract of event_loop.h, fd_watch.h and timer.h, one test per statement, over every backend
// that this system has. Statement ids: E, EO of the event layer, F of the faults.

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/descriptor_limit.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/os/clock.h"
#include "posthouse/testing/event_wait.h"
#include "tests/event/event_fixture.h"

namespace posthouse {
namespace {

using testing::ElementsAre;

class EventLoopContract : public LoopTest {};

TEST_P(EventLoopContract, E12_ReadinessIsLevelTriggeredUntilDisabled) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  EXPECT_EQ(recorder.reads, 0);
  pipe.Write();
  Turns(3);
  EXPECT_EQ(recorder.reads, 3);
  watch.DisableRead();
  Turns(3);
  EXPECT_EQ(recorder.reads, 3);
  watch.EnableRead();
  Turn();
  EXPECT_EQ(recorder.reads, 4);
  ReadSome(pipe.a.get());
  Turn();
  EXPECT_EQ(recorder.reads, 4);
}

TEST_P(EventLoopContract, EO8_BothDirectionsOfOneDescriptorReadBeforeWrite) {
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, true);
  sockets.Write();
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventRead, kEventWrite));
  watch.DisableWrite();
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventRead, kEventWrite, kEventRead));
  watch.DisableRead();
  watch.EnableWrite();
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventRead, kEventWrite, kEventRead, kEventWrite));
}

TEST_P(EventLoopContract, E25_TimersRunBeforeDescriptors) {
  Pair pipe = MakePipe();
  pipe.Write();
  std::vector<int> order;
  Recorder recorder;
  recorder.then = [&](int event) { order.push_back(event); };
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  timer.StartAt(0);
  Turn();
  EXPECT_THAT(order, ElementsAre(kEventTime, kEventRead));
}

TEST_P(EventLoopContract, E47_AWatchEndedByAnEarlierHandlerIsNotCalled) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  one.Write();
  two.Write();
  Recorder first, second;
  FdWatch watch_one = WatchRead(one.a.get(), &first);
  FdWatch watch_two = WatchRead(two.a.get(), &second);
  first.then = [&](int) { watch_two.Reset(); };
  second.then = [&](int) { watch_one.Reset(); };
  Turns(3);
  // Whoever came first ended the other.
  EXPECT_TRUE((first.reads == 0) != (second.reads == 0));
}

TEST_P(EventLoopContract, F1_EO6_AStaleEventDoesNotReachTheNewOwnerOfTheNumber) {
  const int repetitions = FullRun() ? 100000 : 2000;
  for (int i = 0; i < repetitions; ++i) {
    Pair one = MakePipe();
    Pair two = MakePipe();
    one.Write();
    two.Write();
    Recorder first, second, late;
    FdWatch watches[3];
    Pair fresh;
    watches[0] = WatchRead(one.a.get(), &first);
    watches[1] = WatchRead(two.a.get(), &second);
    const auto take_over = [&](int other, Pair* victim) {
      if (watches[2].active()) return;
      const int number = victim->a.get();
      watches[other].Reset();
      victim->a.Reset();
      fresh = MakePipe();  // takes the lowest free number
      ASSERT_EQ(fresh.a.get(), number);
      watches[2] = WatchRead(number, &late);
    };
    first.then = [&](int) { take_over(1, &two); };
    second.then = [&](int) { take_over(0, &one); };
    Turn();
    ASSERT_EQ(first.reads + second.reads, 1) << i;
    ASSERT_EQ(late.reads, 0) << "in repetition " << i;
    fresh.Write();
    Turn();
    ASSERT_EQ(late.reads, 1);
  }
}

TEST_P(EventLoopContract, F11_RunningTheLoopFromAHandlerIsRefused) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  absl::Status nested;
  absl::Status drained;
  recorder.then = [&](int) {
    nested = loop_->RunOnce(absl::InfiniteDuration());
    drained = loop_->Drain(absl::InfiniteDuration());
  };
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn(absl::InfiniteDuration());
  EXPECT_THAT(nested, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(drained, StatusIs(absl::StatusCode::kFailedPrecondition));
  Turn();
  EXPECT_EQ(recorder.reads, 2);
}

TEST_P(EventLoopContract, E23_TheWaitEndsWithTheFirstDeadline) {
  UseFakeClock();
  Recorder recorder;
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  timer.Start(absl::Seconds(1000));
  const int64_t start = os::SteadyNanos();
  Turn(absl::Seconds(10));
  EXPECT_EQ(os::SteadyNanos() - start, 10 * int64_t{1000000000});
  EXPECT_EQ(recorder.timers, 0);
  Turn(absl::InfiniteDuration());
  EXPECT_EQ(recorder.timers, 1);
  EXPECT_EQ(os::SteadyNanos() - start, 1000 * int64_t{1000000000});
}

TEST_P(EventLoopContract, E14_NewHandlersHoldForTheVeryNextDeliveryWithoutASystemCall) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  one.Write();
  two.Write();
  Recorder first, second, replaced;
  FdWatch watches[2];
  watches[0] = WatchRead(one.a.get(), &first);
  watches[1] = WatchRead(two.a.get(), &second);
  first.then = [&](int) { watches[1].SetHandlers(&Recorder::On, nullptr, nullptr, &replaced); };
  second.then = [&](int) { watches[0].SetHandlers(&Recorder::On, nullptr, nullptr, &replaced); };
  const int64_t changes = Changes();
  Turn();
  EXPECT_EQ(first.reads + second.reads, 1);
  EXPECT_EQ(replaced.reads, 1);
  EXPECT_EQ(Changes(), changes);
}

TEST_P(EventLoopContract, E14_InterestOfADirectionThatLosesItsHandlerIsDropped) {
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, true);
  watch.SetHandlers(&Recorder::On, nullptr, nullptr, &recorder);
  EXPECT_TRUE(watch.read_enabled());
  EXPECT_FALSE(watch.write_enabled());
  Turns(3);
  EXPECT_EQ(recorder.writes, 0);
}

TEST_P(EventLoopContract, E22_OneTurnIsOneWaitAndOnePass) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  for (int turn = 1; turn <= 5; ++turn) {
    const int64_t waits = Waits();
    Turn(absl::InfiniteDuration());
    EXPECT_EQ(Waits() - waits, 1);
    EXPECT_EQ(recorder.reads, turn);
  }
}

TEST_P(EventLoopContract, E23_TheFourShapesOfWaiting) {
  UseFakeClock();
  constexpr int64_t kSecond = 1000000000;
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  int64_t start = os::SteadyNanos();
  const auto passed = [&] { return os::SteadyNanos() - start; };
  Turn(absl::ZeroDuration());
  EXPECT_EQ(passed(), 0);
  Turn(absl::Seconds(-5));
  EXPECT_EQ(passed(), 0);
  Turn(absl::Seconds(7));
  EXPECT_EQ(passed(), 7 * kSecond);
  // A timer shortens the wait; one that is due ends it.
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  timer.Start(absl::Seconds(3));
  start = os::SteadyNanos();
  Turn(absl::Seconds(7));
  EXPECT_EQ(passed(), 3 * kSecond);
  EXPECT_EQ(recorder.timers, 1);
  timer.StartAt(0);
  Turn(absl::InfiniteDuration());
  EXPECT_EQ(passed(), 3 * kSecond);
  EXPECT_EQ(recorder.timers, 2);
  // Without a timer, however long; a descriptor ends it.
  pipe.Write();
  Turn(absl::InfiniteDuration());
  EXPECT_EQ(recorder.reads, 1);
  EXPECT_EQ(passed(), 3 * kSecond);
}

// A timer that was pushed back or cancelled does not end the wait at its old deadline.
TEST_P(EventLoopContract, E23_TheWaitIsForTheDeadlineThatIsLeft) {
  UseFakeClock();
  constexpr int64_t kSecond = 1000000000;
  Recorder recorder;
  Timer pushed(loop_.get(), &Recorder::On, &recorder);
  Timer cancelled(loop_.get(), &Recorder::On, &recorder);
  const int64_t start = os::SteadyNanos();
  pushed.Start(absl::Seconds(5));
  cancelled.Start(absl::Seconds(3));
  Turn();
  pushed.Start(absl::Seconds(100));
  cancelled.Cancel();
  Turn(absl::Seconds(50));
  EXPECT_EQ(os::SteadyNanos() - start, 50 * kSecond);
  Turn(absl::InfiniteDuration());
  EXPECT_EQ(os::SteadyNanos() - start, 100 * kSecond);
  EXPECT_EQ(recorder.timers, 1);
}

TEST_P(EventLoopContract, E23_ABusyLoopMeetsAFarDeadlineExactly) {
  UseFakeClock();
  constexpr int64_t kSecond = 1000000000;
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  timer.Start(absl::Seconds(100));
  const int64_t start = os::SteadyNanos();
  pipe.Write();
  recorder.then = [&](int event) {
    if (event != kEventRead) return;
    ReadSome(pipe.a.get());
    system_->Advance(absl::Milliseconds(300));  // a slow handler
  };
  Turn(absl::InfiniteDuration());
  EXPECT_EQ(recorder.reads, 1);
  Turn(absl::InfiniteDuration());  // does not return from the nap with nothing
  EXPECT_EQ(recorder.timers, 1);
  EXPECT_EQ(os::SteadyNanos() - start, 100 * kSecond);
}

TEST_P(EventLoopContract, EO10_AnInterruptedWaitReturnsAndRunsDueTimers) {
  UseFakeClock(ClockMode::kManual);
  Recorder recorder;
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  timer.Start(absl::Seconds(1));
  system_->FailOnce(WaitCall(), EINTR);
  Turn(absl::InfiniteDuration());
  EXPECT_EQ(recorder.timers, 0);
  system_->Advance(absl::Seconds(1));
  system_->FailOnce(WaitCall(), EINTR);
  Turn(absl::InfiniteDuration());
  EXPECT_EQ(recorder.timers, 1);
  EXPECT_EQ(loop_->counters().interrupted_waits, 2);
}

TEST_P(EventLoopContract, F8_InterruptionsChangeNothing) {
  UseFakeClock();
  system_->FailEvery(WaitCall(), EINTR, 3);
  Pair pipe = MakePipe();
  Recorder recorder;
  recorder.then = [&](int) { ReadSome(pipe.a.get()); };
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  for (int i = 1; i <= 20; ++i) {
    pipe.Write();
    while (recorder.reads < i) Turn(absl::InfiniteDuration());
  }
  Recorder timed;
  Timer timer(loop_.get(), &Recorder::On, &timed);
  for (int i = 1; i <= 20; ++i) {
    const int64_t start = os::SteadyNanos();
    timer.Start(absl::Milliseconds(150));
    while (timed.timers < i) Turn(absl::InfiniteDuration());
    EXPECT_EQ(os::SteadyNanos() - start, 150000000);
  }
}

TEST_P(EventLoopContract, E38_EqualDeadlinesRunInOrderOfRequest) {
  std::vector<int> order;
  Recorder recorders[3];
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 3; ++i) {
    recorders[i].then = [&order, i](int) { order.push_back(i); };
    timers.push_back(std::make_unique<Timer>(loop_.get(), &Recorder::On, &recorders[i]));
    timers[i]->StartAt(1000);
  }
  timers[0]->StartAt(1000);
  Turn();
  EXPECT_THAT(order, ElementsAre(1, 2, 0));
}

TEST_P(EventLoopContract, F19_ATimerThatRestartsItselfWithoutDelayLetsDescriptorsBeServed) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder reader, timed;
  FdWatch watch = WatchRead(pipe.a.get(), &reader);
  Timer timer(loop_.get(), &Recorder::On, &timed);
  timed.then = [&](int) { timer.Start(absl::ZeroDuration()); };
  timer.Start(absl::ZeroDuration());
  for (int turn = 1; turn <= 100; ++turn) {
    Turn(absl::InfiniteDuration());
    ASSERT_EQ(timed.timers, turn);  // E39: once per turn
    ASSERT_EQ(reader.reads, turn);
  }
}

TEST_P(EventLoopContract, E40_ATimerHandlerMayPostponeOrCancelTimersThatAreDue) {
  Recorder first, second, third;
  Timer a(loop_.get(), &Recorder::On, &first);
  Timer b(loop_.get(), &Recorder::On, &second);
  Timer c(loop_.get(), &Recorder::On, &third);
  first.then = [&](int) {
    b.StartAt(0);
    EXPECT_TRUE(c.Cancel());
  };
  a.StartAt(1);
  b.StartAt(2);
  c.StartAt(3);
  Turn();
  EXPECT_EQ(first.timers, 1);
  EXPECT_EQ(second.timers, 0);
  Turn();
  EXPECT_EQ(second.timers, 1);
  EXPECT_EQ(third.timers, 0);
}

TEST_P(EventLoopContract, E40_ATimerFromADescriptorHandlerRunsInTheNextTurn) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder reader, timed;
  Timer timer(loop_.get(), &Recorder::On, &timed);
  reader.then = [&](int) { timer.Start(absl::ZeroDuration()); };
  FdWatch watch = WatchRead(pipe.a.get(), &reader);
  Turn();
  EXPECT_EQ(timed.timers, 0);
  Turn();
  EXPECT_EQ(timed.timers, 1);
}

TEST_P(EventLoopContract, E42_InItsOwnHandlerATimerIsNotPending) {
  Recorder recorder;
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  recorder.then = [&](int) {
    EXPECT_FALSE(timer.pending());
    EXPECT_FALSE(timer.Cancel());
    if (recorder.timers == 1) timer.StartAt(5);
  };
  timer.StartAt(5);
  Turns(3);
  EXPECT_EQ(recorder.timers, 2);
}

TEST_P(EventLoopContract, F20_ATimerHandlerMayDestroyItsTimer) {
  Recorder recorder;
  auto timer = std::make_unique<Timer>(loop_.get(), &Recorder::On, &recorder);
  recorder.then = [&](int) { timer.reset(); };
  timer->StartAt(5);
  Turns(2);
  EXPECT_EQ(recorder.timers, 1);
}

TEST_P(EventLoopContract, EO24_TimeLeftIsOfAFreshClock) {
  UseFakeClock(ClockMode::kManual);
  Recorder recorder;
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  EXPECT_EQ(timer.TimeLeft(), absl::ZeroDuration());
  timer.Start(absl::Seconds(10));
  system_->Advance(absl::Milliseconds(2500));
  EXPECT_EQ(timer.TimeLeft(), absl::Milliseconds(7500));
  system_->Advance(absl::Seconds(60));
  EXPECT_EQ(timer.TimeLeft(), absl::ZeroDuration());
  EXPECT_TRUE(timer.Cancel());
  EXPECT_FALSE(timer.Cancel());
}

TEST_P(EventLoopContract, F23_CancelAndRestartWithWhatWasLeftDoesNotDrift) {
  UseFakeClock(ClockMode::kAutoAdvance);
  Recorder recorder;
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  const int64_t start = os::SteadyNanos();
  timer.Start(absl::Seconds(10));
  for (int i = 0; i < 999; ++i) {
    system_->Advance(absl::Milliseconds(10));
    const absl::Duration left = timer.TimeLeft();
    timer.Cancel();
    timer.Start(left);
  }
  while (recorder.timers == 0) Turn(absl::InfiniteDuration());
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{10} * 1000000000);
}

TEST_P(EventLoopContract, EO2_ASlowHandlerDoesNotShortenTheDelay) {
  UseFakeClock();
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder reader, timed;
  Timer timer(loop_.get(), &Recorder::On, &timed);
  int64_t requested = 0;
  reader.then = [&](int) {
    ReadSome(pipe.a.get());
    system_->Advance(absl::Seconds(3));
    requested = os::SteadyNanos();
    timer.Start(absl::Seconds(1));
  };
  FdWatch watch = WatchRead(pipe.a.get(), &reader);
  while (timed.timers == 0) Turn(absl::InfiniteDuration());
  EXPECT_EQ(os::SteadyNanos() - requested, 1000000000);
}

TEST_P(EventLoopContract, F16_StepsOfTheWallClockMoveNoTimer) {
  for (const absl::Duration step : {absl::Seconds(1), absl::Hours(1), absl::Hours(24 * 3650)}) {
    for (const int sign : {-1, 1}) {
      UseFakeClock();
      Recorder recorder;
      Timer timer(loop_.get(), &Recorder::On, &recorder);
      const int64_t start = os::SteadyNanos();
      timer.Start(absl::Seconds(100));
      system_->StepWall(step * sign);
      while (recorder.timers == 0) Turn(absl::InfiniteDuration());
      EXPECT_EQ(os::SteadyNanos() - start, int64_t{100} * 1000000000);
    }
  }
}

TEST_P(EventLoopContract, F18_EO4_AnyDelayIsExactAndTheWaitIsNeverWithoutALimit) {
  const absl::Duration delays[] = {absl::Seconds(2147482), absl::Seconds(2147483),
                                   absl::Seconds(2147484), absl::Seconds(int64_t{1} << 31)};
  for (const absl::Duration delay : delays) {
    UseFakeClock();
    Recorder recorder;
    Timer timer(loop_.get(), &Recorder::On, &recorder);
    const int64_t start = os::SteadyNanos();
    timer.Start(delay);
    // A wait without a limit would hang, which the interposer turns into an abort.
    while (recorder.timers == 0) Turn(absl::InfiniteDuration());
    EXPECT_EQ(absl::Nanoseconds(os::SteadyNanos() - start), delay);
  }
  UseFakeClock();
  Recorder recorder;
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  for (const absl::Duration delay :
       {absl::InfiniteDuration(), absl::Nanoseconds(INT64_MAX), absl::Hours(24) * 365 * 291}) {
    timer.Start(delay);
    const int64_t start = os::SteadyNanos();
    Turn(absl::InfiniteDuration());
    EXPECT_EQ(recorder.timers, 0);
    EXPECT_GT(os::SteadyNanos(), start);
    EXPECT_TRUE(timer.pending());
  }
}

TEST_P(EventLoopContract, E36_ANegativeDelayPanics) {
  Recorder recorder;
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  EXPECT_DEATH(timer.Start(absl::Nanoseconds(-1)), "delay is negative");
}

TEST_P(EventLoopContract, F21_ALoneTimerCostsAtMostTwoWakeUpsAndIsNeverEarly) {
  Recorder recorder;
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  const int64_t start = os::SteadyNanos();
  const int64_t waits = Waits();
  timer.Start(absl::Microseconds(100400));
  while (recorder.timers == 0) Turn(absl::InfiniteDuration());
  EXPECT_GE(os::SteadyNanos() - start, 100400000);
  EXPECT_LE(Waits() - waits, 2);
}

TEST_P(EventLoopContract, F21_AThousandRandomTimersCostFewWaits) {
  UseFakeClock();
  std::mt19937 random(21);
  Recorder recorder;
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 1000; ++i) {
    timers.push_back(std::make_unique<Timer>(loop_.get(), &Recorder::On, &recorder));
    timers.back()->Start(absl::Microseconds(random() % 1000000));
  }
  const int64_t waits = Waits();
  while (recorder.timers < 1000) Turn(absl::InfiniteDuration());
  EXPECT_LE(Waits() - waits, 1200);
}

TEST_P(EventLoopContract, F22_ManyTimersInRandomOrderOfDeadlines) {
  UseFakeClock();
  const int count = FullRun() ? 1000000 : 100000;
  struct Item {
    static void Run(int event, void* context) {
      auto* self = static_cast<Item*>(context);
      EXPECT_GE(self->timer.deadline_ns(), *self->last);
      *self->last = self->timer.deadline_ns();
    }
    Item(EventLoop* loop, int64_t* last_in) : timer(loop, &Run, this), last(last_in) {}
    Timer timer;
    int64_t* last;
  };
  static_assert(sizeof(Timer) <= 200);
  std::mt19937_64 random(22);
  int64_t last = 0;
  std::vector<std::unique_ptr<Item>> items;
  for (int i = 0; i < count; ++i) {
    items.push_back(std::make_unique<Item>(loop_.get(), &last));
    items.back()->timer.Start(absl::Nanoseconds(random() % 100000000000));
  }
  for (int i = 0; i < count; ++i) {
    Timer& timer = items[random() % count]->timer;
    if (i % 4 == 0) {
      timer.Cancel();
    } else {
      timer.Start(absl::Nanoseconds(random() % 100000000000));
    }
  }
  const int64_t pending = loop_->counters().timers_pending;
  int64_t turns = 0;
  for (; loop_->counters().timers_pending > 0; ++turns) Turn(absl::InfiniteDuration());
  EXPECT_EQ(loop_->counters().timers_run, pending);
  EXPECT_LE(turns, pending + 1000);
}

TEST_P(EventLoopContract, E49_AHandlerMayEndItsOwnWatchAndCloseItsDescriptor) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  recorder.then = [&](int) {
    watch.Reset();
    pipe.a.Reset();
  };
  Turns(3);
  EXPECT_EQ(recorder.reads, 1);
}

TEST_P(EventLoopContract, F15_AHandlerThatEndsTheWatchSuppressesTheOtherDirection) {
  Pair sockets = MakeSockets();
  sockets.Write();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, true);
  recorder.then = [&](int) { watch.Reset(); };
  Turns(2);
  EXPECT_THAT(recorder.events, ElementsAre(kEventRead));
  // Also when the same number is watched again in between.
  recorder.events.clear();
  watch = WatchAll(sockets.a.get(), &recorder, true, true);
  Recorder other;
  recorder.then = [&](int) {
    watch.Reset();
    watch = WatchAll(sockets.a.get(), &other, true, true);
  };
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventRead));
  EXPECT_THAT(other.events, ElementsAre());
}

TEST_P(EventLoopContract, E50_AWatchMadeDuringATurnIsNotCalledInThatTurn) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  one.Write();
  two.Write();
  Recorder first, late;
  FdWatch second;
  first.then = [&](int) {
    if (!second.active()) second = WatchRead(two.a.get(), &late);
  };
  FdWatch watch = WatchRead(one.a.get(), &first);
  Turn();
  EXPECT_EQ(late.reads, 0);
  Turn();
  EXPECT_EQ(late.reads, 1);
}

TEST_P(EventLoopContract, EO7_OnlyADirectionThatIsStillEnabledIsDelivered) {
  Pair one = MakeSockets();
  Pair two = MakeSockets();
  Recorder first, second;
  FdWatch watches[2];
  watches[0] = WatchAll(one.a.get(), &first, true, false);
  watches[1] = WatchAll(two.a.get(), &second, true, false);
  const auto turn_to_writing = [](FdWatch* watch) {
    watch->DisableRead();
    watch->EnableWrite();
  };
  first.then = [&](int) { turn_to_writing(&watches[1]); };
  second.then = [&](int) { turn_to_writing(&watches[0]); };
  one.Write();
  two.Write();
  Turn();
  // The one that was called second had been turned to writing, which nobody had asked the kernel.
  EXPECT_EQ(first.reads + second.reads, 1);
  EXPECT_EQ(first.writes + second.writes, 0);
  Turn();
  EXPECT_EQ(first.writes + second.writes, 1);
}

// The kernel may still hold interest that was dropped; what it reports is not for whoever is
// interested since.
TEST_P(EventLoopContract, EO7_ADirectionEnabledDuringATurnIsServedFromTheNextTurnOn) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  Recorder first, second;
  FdWatch enabler = WatchRead(one.a.get(), &first);
  FdWatch paused = WatchRead(two.a.get(), &second);
  Turn();
  paused.DisableRead();
  one.Write();
  two.Write();
  first.then = [&](int) { paused.EnableRead(); };
  Turn();
  EXPECT_EQ(first.reads, 1);
  EXPECT_EQ(second.reads, 0);
  Turn();
  EXPECT_EQ(second.reads, 1);
}

TEST_P(EventLoopContract, F2_EachHandlerEndsARandomOtherAndFreesItsContext) {
  constexpr int kWatches = 200;
  struct Client {
    Pair pipe = MakePipe();
    FdWatch watch;
    Recorder recorder;
  };
  std::mt19937 random(2);
  std::vector<std::unique_ptr<Client>> clients(kWatches);
  int calls = 0;
  for (auto& client : clients) {
    client = std::make_unique<Client>();
    client->pipe.Write();
    client->watch = WatchRead(client->pipe.a.get(), &client->recorder);
    Client* self = client.get();
    client->recorder.then = [&, self](int) {
      ++calls;
      auto& victim = clients[random() % kWatches];
      if (victim.get() != self) victim.reset();
    };
  }
  Turns(10);
  EXPECT_GT(calls, 0);
  EXPECT_EQ(loop_->counters().watches,
            std::count_if(clients.begin(), clients.end(), [](auto& c) { return c != nullptr; }));
}

TEST_P(EventLoopContract, F3_TheTableGrowsDuringDispatch) {
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  pipe.Write();
  other.Write();
  std::vector<int> numbers = {10, 100, 1000};
  if (!traits().ends_at_fd_setsize) {
    numbers.push_back(1500);
    if (*RaiseDescriptorLimit() > 15000) numbers.push_back(15000);
    numbers.push_back(*DescriptorLimit() - 1);
  }
  Recorder recorder, later;
  std::vector<UniqueFd> copies;
  std::vector<FdWatch> grown;
  recorder.then = [&](int) {
    if (!grown.empty()) return;
    for (const int number : numbers) {
      copies.emplace_back(os::Fcntl(other.a.get(), F_DUPFD_CLOEXEC, number));
      ASSERT_GE(copies.back().get(), number);
      grown.push_back(WatchRead(copies.back().get(), &later));
    }
  };
  FdWatch one = WatchRead(pipe.a.get(), &recorder);
  Turn();
  EXPECT_EQ(later.reads, 0);
  Turn();
  EXPECT_EQ(later.reads, static_cast<int>(numbers.size()));
  grown.clear();
}

TEST_P(EventLoopContract, EO5_TheBatchGrowsWhenATurnFillsIt) {
  constexpr int kWatches = 300;
  std::vector<Pair> pipes(kWatches);
  std::vector<Recorder> recorders(kWatches);
  std::vector<FdWatch> watches;
  for (int i = 0; i < kWatches; ++i) {
    pipes[i] = MakePipe();
    pipes[i].Write();
    watches.push_back(WatchRead(pipes[i].a.get(), &recorders[i]));
  }
  int64_t before = 0;
  for (const int expected : {100, 200, 300, 300}) {
    Turn();
    EXPECT_EQ(loop_->counters().deliveries - before, std::min(expected, traits().longest_batch));
    before = loop_->counters().deliveries;
  }
}

TEST_P(EventLoopContract, F12_ASmallBatchServesAllInTurn) {
  MakeLoop({.initial_batch = 10, .max_batch = 10});
  constexpr int kWatches = 100;
  std::vector<Pair> pipes(kWatches);
  std::vector<Recorder> recorders(kWatches);
  std::vector<FdWatch> watches;
  for (int i = 0; i < kWatches; ++i) {
    pipes[i] = MakePipe();
    pipes[i].Write();
    watches.push_back(WatchRead(pipes[i].a.get(), &recorders[i]));
  }
  Turns(30);
  for (const Recorder& recorder : recorders) EXPECT_EQ(recorder.reads, 3);
}

// E54 with EO9: whatever the kernel says, the enabled direction is told.
TEST_P(EventLoopContract, EO9_HangUpsAndErrorsReachTheEnabledDirection) {
  const auto fill = [](int fd) {
    const std::string block(65536, 'x');
    while (os::Write(fd, block.data(), block.size()) > 0) {
    }
  };
  const auto told = [this](int fd, bool read) {
    Recorder recorder;
    FdWatch watch = WatchAll(fd, &recorder, read, !read);
    Turn(absl::Seconds(10));
    watch.Reset();
    return recorder.events;
  };
  {
    Pair sockets = MakeSockets();
    sockets.b.Reset();
    EXPECT_THAT(told(sockets.a.get(), true), ElementsAre(kEventRead));
    EXPECT_THAT(told(sockets.a.get(), false), ElementsAre(kEventWrite));
  }
  {
    Pair pipe = MakePipe();
    pipe.b.Reset();
    EXPECT_THAT(told(pipe.a.get(), true), ElementsAre(kEventRead));
  }
  {
    Pair pipe = MakePipe();
    pipe.Write();
    pipe.b.Reset();
    EXPECT_THAT(told(pipe.a.get(), true), ElementsAre(kEventRead));
  }
  {
    Pair pipe = MakePipe();
    pipe.a.Reset();
    EXPECT_THAT(told(pipe.b.get(), false), ElementsAre(kEventWrite));
    EXPECT_THAT(told(pipe.b.get(), true), ElementsAre(kEventRead));
  }
  {
    Pair pipe = MakePipe();
    fill(pipe.b.get());
    pipe.a.Reset();
    EXPECT_THAT(told(pipe.b.get(), false), ElementsAre(kEventWrite));
  }
  {
    UniqueFd fresh(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec, 0));
    EXPECT_THAT(told(fresh.get(), true), ElementsAre(kEventRead));
  }
  {
    // A port that nobody listens on: bound, then closed.
    UniqueFd listener(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    ASSERT_EQ(os::Bind(listener.get(), generic, length), 0);
    ASSERT_EQ(os::Getsockname(listener.get(), generic, &length), 0);
    UniqueFd client(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec | os::kSockNonblock, 0));
    os::Connect(client.get(), generic, length);
    EXPECT_THAT(told(client.get(), false), ElementsAre(kEventWrite));
  }
}

// F6: nobody is interested, and the peer is gone.
TEST_P(EventLoopContract, F6_AHangUpThatNobodyListensToDoesNotSpin) {
  UseFakeClock();
  for (const bool with_error_handler : {false, true}) {
    for (const bool data_left : {false, true}) {
      for (const bool write_before : {false, true}) {
        Pair sockets = MakeSockets();
        Recorder recorder;
        FdWatch watch =
            Watch(sockets.a.get(), {.on_readable = &Recorder::On,
                                    .on_writable = &Recorder::On,
                                    .on_error = with_error_handler ? &Recorder::On : nullptr,
                                    .context = &recorder,
                                    .read = !write_before,
                                    .write = write_before});
        Turn();
        recorder.events.clear();
        watch.DisableRead();
        watch.DisableWrite();
        if (data_left) sockets.Write();
        sockets.b.Reset();
        const int64_t waits = Waits();
        Recorder timed;
        Timer second(loop_.get(), &Recorder::On, &timed);
        second.Start(absl::Seconds(1));
        while (timed.timers == 0) Turn(absl::InfiniteDuration());
        EXPECT_LE(Waits() - waits, 10);
        EXPECT_LE(recorder.events.size(), 1u);
        if (with_error_handler && (traits().notices_hang_up_behind_data || !data_left)) {
          EXPECT_THAT(recorder.events, ElementsAre(kEventException));
        }
        // Interest brings it back, and what the peer left can be read.
        recorder.events.clear();
        watch.EnableRead();
        Turn();
        Turn();
        EXPECT_GE(recorder.reads, 1);
        EXPECT_EQ(ReadSome(sockets.a.get()), data_left ? "x" : "");
      }
    }
  }
}

TEST_P(EventLoopContract, F6_AnIdlePausedPeerThatHangsUpIsToldToOnError) {
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, false);
  Turn();
  watch.DisableRead();
  Turn();
  sockets.b.Reset();
  Turn(absl::Seconds(10));
  Turns(5);
  EXPECT_THAT(recorder.events, ElementsAre(kEventException));
}

TEST_P(EventLoopContract, F7_WhatCameBeforeTheHangUpIsRead) {
  for (const size_t size : {1, 4095, 65536, 1 << 20}) {
    Pair sockets = MakeSockets();
    std::string got;
    Recorder reader, writer;
    std::string left(size, 'x');
    FdWatch write_watch =
        Watch(sockets.b.get(), {.on_writable = &Recorder::On, .context = &writer, .write = true});
    writer.then = [&](int) {
      const ssize_t sent = os::Write(sockets.b.get(), left.data(), left.size());
      if (sent > 0) left.erase(0, sent);
      if (!left.empty()) return;
      write_watch.Reset();
      sockets.b.Reset();
    };
    bool ended = false;
    reader.then = [&](int) {
      const std::string piece = ReadSome(sockets.a.get(), 777);
      ended = piece.empty();
      got += piece;
    };
    FdWatch watch = WatchAll(sockets.a.get(), &reader, true, false);
    while (!ended) Turn(absl::Seconds(10));
    EXPECT_EQ(got.size(), size);
    EXPECT_EQ(reader.errors, 0);
  }
}

// Connected over loopback; `a` was accepted.
Pair MakeTcp() {
  UniqueFd listener(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  EXPECT_EQ(os::Bind(listener.get(), generic, length), 0);
  EXPECT_EQ(os::Listen(listener.get(), 1), 0);
  EXPECT_EQ(os::Getsockname(listener.get(), generic, &length), 0);
  UniqueFd client(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec, 0));
  EXPECT_EQ(os::Connect(client.get(), generic, length), 0);
  UniqueFd server(
      os::Accept4(listener.get(), nullptr, nullptr, os::kSockCloexec | os::kSockNonblock));
  return {std::move(server), std::move(client)};
}

// Until poll(2) says so.
void AwaitCondition(int fd, short condition) {
  pollfd one = {fd, condition, 0};
  ASSERT_EQ(os::Poll(&one, 1, 10000), 1);
}

TEST_P(EventLoopContract, F15_UrgentDataComesFirstAndOnlyOnRequest) {
  const auto [server, client] = MakeTcp();
  Recorder recorder;
  FdWatch watch = WatchAll(server.get(), &recorder, true, true);
  ASSERT_EQ(os::Send(client.get(), "u", 1, MSG_OOB), 1);
  AwaitCondition(server.get(), POLLPRI);
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventWrite));  // E65: invisible
  watch.Reset();
  recorder.events.clear();
  ASSERT_EQ(os::Send(client.get(), "n", 1, 0), 1);
  AwaitCondition(server.get(), POLLIN);
  watch = Watch(server.get(), {.on_readable = &Recorder::On,
                               .on_writable = &Recorder::On,
                               .on_error = &Recorder::On,
                               .context = &recorder,
                               .write = true,
                               .urgent = true});
  Turn();
  if (traits().tells_urgent) {
    EXPECT_THAT(recorder.events, ElementsAre(kEventException, kEventRead, kEventWrite));
  } else {
    EXPECT_THAT(recorder.events, ElementsAre(kEventRead, kEventWrite));
  }
}

// E65: whatever the direction, when it comes and not before.
TEST_P(EventLoopContract, F15_UrgentDataIsToldWhenItComesAndOtherDataIsNot) {
  if (!traits().tells_urgent) GTEST_SKIP() << traits().name << " does not see it";
  for (const bool reading : {false, true}) {
    const auto [server, client] = MakeTcp();
    Recorder recorder;
    FdWatch watch = Watch(server.get(), {.on_readable = &Recorder::On,
                                         .on_error = &Recorder::On,
                                         .context = &recorder,
                                         .read = reading,
                                         .urgent = true});
    Turns(2);
    EXPECT_THAT(recorder.events, ElementsAre());
    ASSERT_EQ(os::Send(client.get(), "n", 1, 0), 1);
    AwaitCondition(server.get(), POLLIN);
    Turn();
    EXPECT_EQ(recorder.errors, 0);
    EXPECT_EQ(recorder.reads, reading ? 1 : 0);
    ASSERT_EQ(os::Send(client.get(), "u", 1, MSG_OOB), 1);
    AwaitCondition(server.get(), POLLPRI);
    Turns(2);
    EXPECT_EQ(recorder.errors, 2);
    // It has been read past, and the rest has been read.
    char byte = 0;
    EXPECT_EQ(os::Recv(server.get(), &byte, 1, MSG_OOB), 1);
    EXPECT_EQ(byte, 'u');
    EXPECT_EQ(ReadSome(server.get()), "n");
    ReadSome(server.get());
    recorder.events.clear();
    Turns(2);
    EXPECT_THAT(recorder.events, ElementsAre());
  }
}

TEST_P(EventLoopContract, E55_DrainEndsWhenNothingIsLeft) {
  UseFakeClock();
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder, timed;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  recorder.then = [&](int) { watch.Reset(); };
  Timer timer(loop_.get(), &Recorder::On, &timed);
  timer.Start(absl::Seconds(5));
  timed.then = [&](int) {
    if (timed.timers < 3) timer.Start(absl::Seconds(5));  // E56: extends the drain
  };
  const int64_t start = os::SteadyNanos();
  EXPECT_THAT(loop_->Drain(absl::Seconds(60)), IsOk());
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{15} * 1000000000);
  EXPECT_EQ(recorder.reads, 1);
  EXPECT_EQ(timed.timers, 3);
}

TEST_P(EventLoopContract, E55_DrainLastsNoLongerThanItsLimit) {
  UseFakeClock();
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  const int64_t start = os::SteadyNanos();
  const int64_t waits = Waits();
  EXPECT_THAT(loop_->Drain(absl::ZeroDuration()), IsOk());
  EXPECT_THAT(loop_->Drain(absl::Seconds(-1)), IsOk());
  EXPECT_EQ(Waits(), waits);
  EXPECT_THAT(loop_->Drain(absl::Seconds(7)), IsOk());
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{7} * 1000000000);
}

TEST_P(EventLoopContract, EO22_DrainDoesNotWaitForBackgroundWatches) {
  UseFakeClock();
  Pair pipe = MakePipe();
  Pair paused = MakePipe();
  Recorder recorder;
  FdWatch helper =
      Watch(pipe.a.get(), {.on_readable = &Recorder::On, .context = &recorder, .background = true});
  FdWatch idle = WatchRead(paused.a.get(), &recorder);
  idle.DisableRead();
  const int64_t start = os::SteadyNanos();
  EXPECT_THAT(loop_->Drain(absl::Seconds(7)), IsOk());
  EXPECT_EQ(os::SteadyNanos(), start);
}

TEST_P(EventLoopContract, EO13_AnExceptionLeavesTheLoopUsable) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  one.Write();
  two.Write();
  Recorder first, second;
  FdWatch a = WatchRead(one.a.get(), &first);
  FdWatch b = WatchRead(two.a.get(), &second);
  first.then = second.then = [](int) { throw std::runtime_error("from a handler"); };
  EXPECT_THROW(loop_->RunOnce(absl::ZeroDuration()).IgnoreError(), std::runtime_error);
  first.then = second.then = nullptr;
  EXPECT_EQ(first.reads + second.reads, 1);
  Turn();  // what was not delivered is reported again
  EXPECT_EQ(first.reads + second.reads, 3);
}

TEST_P(EventLoopContract, EO14_ClosingBeforeEndingTheWatchHurtsNobody) {
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  Recorder recorder, late;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  const int number = pipe.a.get();
  pipe.a.Reset();
  watch.Reset();
  EXPECT_EQ(loop_->counters().repaired_changes, traits().refuses_to_remove_nothing ? 1 : 0);
  UniqueFd again(os::Fcntl(other.a.get(), F_DUPFD_CLOEXEC, number));
  ASSERT_EQ(again.get(), number);
  other.Write();
  FdWatch second = WatchRead(number, &late);
  Turn();
  EXPECT_EQ(late.reads, 1);
}

TEST_P(EventLoopContract, EO14_TheSameNumberTwiceIsRefused) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  EXPECT_THAT(loop_->Watch(pipe.a.get(), {.on_readable = &Recorder::On}),
              StatusIs(absl::StatusCode::kAlreadyExists));
  pipe.Write();
  Turn();
  EXPECT_EQ(recorder.reads, 1);
}

TEST_P(EventLoopContract, F10_ABadNumberIsRefusedAndNothingChanges) {
  EXPECT_THAT(loop_->Watch(-1, {.on_readable = &Recorder::On}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  Pair pipe = MakePipe();
  const int number = pipe.a.get();
  pipe.a.Reset();
  EXPECT_THAT(loop_->Watch(number, {.on_readable = &Recorder::On}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       testing::HasSubstr("fd " + std::to_string(number))));
  EXPECT_EQ(loop_->counters().watches, 0);
  EXPECT_THAT(loop_->DescribeWatches(), ElementsAre());
  Turn();
}

TEST_P(EventLoopContract, E20_AVerifiedWatchFollowsTheNumberToItsNewFile) {
  Pair old = MakePipe();
  Pair fresh = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(old.a.get(), &recorder);
  Turn();
  ASSERT_GE(os::Dup3(fresh.a.get(), old.a.get(), O_CLOEXEC), 0);  // closes and reuses
  watch.VerifyBeforeWait();
  fresh.Write();
  Turn();
  EXPECT_EQ(recorder.reads, 1);
  EXPECT_THAT(loop_->TakeWatchError(), IsOk());
}

TEST_P(EventLoopContract, EO17_EveryDescriptorOfTheLoopIsCloseOnExec) {
  const FdSnapshot before = FdSnapshot::Take();
  MakeLoop({});
  const FdSnapshot after = FdSnapshot::Take();
  for (const auto& [fd, target] : after.fds()) {
    if (before.fds().count(fd) > 0 && before.fds().at(fd) == target) continue;
    EXPECT_EQ(os::Fcntl(fd, F_GETFD, 0) & FD_CLOEXEC, FD_CLOEXEC) << target;
  }
}

TEST_P(EventLoopContract, F13_EO20_SelectRefusesNumbersBeyondItsSet) {
  ASSERT_GT(*RaiseDescriptorLimit(), FD_SETSIZE);
  Pair pipe = MakePipe();
  pipe.Write();
  UniqueFd last(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, FD_SETSIZE - 1));
  UniqueFd beyond(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, FD_SETSIZE));
  ASSERT_EQ(last.get(), FD_SETSIZE - 1);
  ASSERT_EQ(beyond.get(), FD_SETSIZE);
  Recorder recorder;
  FdWatch watch = WatchRead(last.get(), &recorder);
  absl::StatusOr<FdWatch> refused =
      loop_->Watch(beyond.get(), {.on_readable = &Recorder::On, .context = &recorder});
  if (traits().ends_at_fd_setsize) {
    EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(loop_->Watch(1 << 20, {.on_readable = &Recorder::On}),
                StatusIs(absl::StatusCode::kInvalidArgument));
  } else {
    EXPECT_THAT(refused, IsOk());
  }
  Turn();
  EXPECT_EQ(recorder.reads, refused.ok() ? 2 : 1);
}

TEST_P(EventLoopContract, EO23_ManyDueTimersAreServedInTurnsWithDescriptorsBetween) {
  MakeLoop({.max_timers_per_turn = 10});
  std::vector<int> order;
  std::vector<Recorder> recorders(35);
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 35; ++i) {
    recorders[i].then = [&order, i](int) { order.push_back(i); };
    timers.push_back(std::make_unique<Timer>(loop_.get(), &Recorder::On, &recorders[i]));
    timers[i]->StartAt(1000 + i);
  }
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder reader;
  FdWatch watch = WatchRead(pipe.a.get(), &reader);
  for (const size_t expected : {10, 20, 30, 35}) {
    Turn(absl::InfiniteDuration());
    EXPECT_EQ(order.size(), expected);
  }
  EXPECT_EQ(reader.reads, 4);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_P(EventLoopContract, EO27_FilesThatCannotBePolledAreAlwaysReady) {
  const char* temp = ::getenv("TEST_TMPDIR");
  const std::string path = std::string(temp != nullptr ? temp : "/tmp") + "/regular";
  UniqueFd files[] = {
      UniqueFd(os::Open("/dev/null", O_RDWR | O_CLOEXEC, 0)),
      UniqueFd(os::Open("/", O_RDONLY | O_CLOEXEC | O_DIRECTORY, 0)),
      UniqueFd(os::Open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
  };
  for (const UniqueFd& file : files) {
    ASSERT_TRUE(file.valid());
    Recorder recorder;
    FdWatch watch = WatchAll(file.get(), &recorder, true, false);
    EXPECT_EQ(recorder.reads, 0);
    Turn(absl::InfiniteDuration());  // does not wait
    EXPECT_EQ(recorder.reads, 1);
    watch.EnableWrite();
    Turn(absl::InfiniteDuration());
    EXPECT_THAT(recorder.events, ElementsAre(kEventRead, kEventRead, kEventWrite));
    watch.DisableRead();
    watch.DisableWrite();
    Turns(3);
    EXPECT_EQ(recorder.events.size(), 3u);
    watch.EnableRead();
    recorder.then = [&](int) { watch.Reset(); };
    Turns(3);
    EXPECT_EQ(recorder.reads, 3);
  }
}

TEST_P(EventLoopContract, EO29_CountersTellWhatTheLoopHasDone) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Timer timer(loop_.get(), &Recorder::On, &recorder);
  timer.Start(absl::Hours(1));
  loop_->MeasureHandlers(true);
  Turns(3);
  const EventLoopCounters& counters = loop_->counters();
  EXPECT_EQ(counters.turns, 3);
  EXPECT_EQ(counters.waits, 3);
  EXPECT_EQ(counters.deliveries, 3);
  EXPECT_EQ(counters.timers_run, 0);
  EXPECT_EQ(counters.watches, 1);
  EXPECT_EQ(counters.timers_pending, 1);
  EXPECT_GT(counters.longest_handler_ns, 0);
  EXPECT_THAT(loop_->DescribeWatches(),
              ElementsAre("fd " + std::to_string(pipe.a.get()) + " read"));
}

TEST_P(EventLoopContract, F9_AWaitThatFailsOnceIsHealedByRebuildingTheSet) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  system_->FailOnce(WaitCall(), EBADF);
  Turn();
  EXPECT_EQ(recorder.reads, 2);
  EXPECT_EQ(loop_->counters().rebuilds, 1);
}

TEST_P(EventLoopContract, F9_AWaitThatFailsForGoodIsReportedOnceWithoutSpinning) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  for (const int error : {EBADF, EINVAL, EFAULT, ENOMEM}) {
    const int fault = system_->FailFrom(WaitCall(), error);
    const int64_t waits = Waits();
    EXPECT_THAT(loop_->RunOnce(absl::InfiniteDuration()), testing::Not(IsOk()));
    EXPECT_LE(Waits() - waits, 2);
    system_->Remove(fault);
  }
  pipe.Write();
  Turn(absl::InfiniteDuration());
  EXPECT_EQ(recorder.reads, 1);
}

TEST_P(EventLoopContract, F9_ADescriptorClosedBehindOurBackCostsOnlyItsWatch) {
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  Recorder closed, healthy;
  FdWatch watch = WatchAll(pipe.a.get(), &closed, true, false);
  FdWatch second = WatchRead(other.a.get(), &healthy);
  Turn();
  pipe.a.Reset();
  other.Write();
  Turns(2);
  EXPECT_EQ(healthy.reads, 2);
  EXPECT_EQ(closed.reads, 0);
  if (traits().notices_closed_numbers) {
    EXPECT_EQ(closed.errors, 1);
    EXPECT_THAT(loop_->TakeWatchError(), StatusIs(absl::StatusCode::kFailedPrecondition));
  }
}

// The kernel's set of the process's only loop, as /proc tells it, sorted; empty where it does not.
std::vector<std::string> KernelSet(const BackendTraits& traits, pid_t pid) {
  std::vector<std::string> lines;
  if (traits.set_in_proc == nullptr) return lines;
  const FdSnapshot open = FdSnapshot::TakeOf(pid);
  for (const auto& [fd, target] : open.fds()) {
    if (target.find(traits.set_in_proc) == std::string::npos) continue;
    std::ifstream info("/proc/" + std::to_string(pid) + "/fdinfo/" + std::to_string(fd));
    for (std::string line; std::getline(info, line);) {
      if (line.compare(0, 4, "tfd:") == 0) lines.push_back(line);
    }
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

// Runs `body` in a forked child and returns its wait status.
int InChild(const std::function<void()>& body) {
  const pid_t child = os::Fork();
  if (child == 0) {
    body();
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  const absl::optional<int> status = WaitForExit(child);
  EXPECT_TRUE(status.has_value());
  return status.value_or(-1);
}

TEST_P(EventLoopContract, F5_AChildThatRenewsLeavesTheParentsSetAlone) {
  constexpr int kWatches = 300;
  std::vector<Pair> pipes(kWatches);
  std::vector<Recorder> recorders(kWatches);
  std::vector<FdWatch> watches;
  for (int i = 0; i < kWatches; ++i) {
    pipes[i] = MakePipe();
    watches.push_back(WatchRead(pipes[i].a.get(), &recorders[i]));
  }
  Recorder timed;
  Timer timer(loop_.get(), &Recorder::On, &timed);
  timer.Start(absl::Milliseconds(1));
  Turn();
  const std::vector<std::string> before = KernelSet(traits(), os::Getpid());
  EXPECT_EQ(before.size(), traits().set_in_proc != nullptr ? kWatches : 0u);
  const int status = InChild([&] {
    EXPECT_THAT(loop_->AfterFork(), IsOk());
    // E59: the parent's interests and timers are live in the child.
    pipes[7].Write();
    while (recorders[7].reads == 0 || timed.timers == 0) Turn(absl::Seconds(10));
    ReadSome(pipes[7].a.get());
    watches.clear();
    std::vector<Pair> own(50);
    std::vector<FdWatch> own_watches;
    for (Pair& pair : own) {
      pair = MakePipe();
      own_watches.push_back(WatchRead(pair.a.get(), &recorders[0]));
    }
    own[3].Write();
    Turn(absl::Seconds(10));
    EXPECT_EQ(recorders[0].reads, 1);
    own_watches.clear();
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(KernelSet(traits(), os::Getpid()), before);
  for (const Pair& pair : pipes) pair.Write();
  while (loop_->counters().deliveries < kWatches) Turn(absl::Seconds(10));
  for (const Recorder& recorder : recorders) EXPECT_GE(recorder.reads, 1);
}

// What the kernel's set holds of each number: "tfd: 7 events: 19".
std::vector<std::string> Interests(const BackendTraits& traits, pid_t pid) {
  std::vector<std::string> lines = KernelSet(traits, pid);
  for (std::string& line : lines) line.resize(line.find("data:"));
  return lines;
}

TEST_P(EventLoopContract, E60_TheChildHasANewSetWithEveryEnabledDescriptor) {
  Pair read_pipe = MakePipe();
  Pair sockets = MakeSockets();
  Pair paused = MakePipe();
  Recorder recorders[3];
  FdWatch reading = WatchRead(read_pipe.a.get(), &recorders[0]);
  FdWatch both = WatchAll(sockets.a.get(), &recorders[1], true, true);
  Turn();
  const std::vector<std::string> enabled = Interests(traits(), os::Getpid());
  const bool set_in_proc = traits().set_in_proc != nullptr;
  EXPECT_EQ(enabled.size(), set_in_proc ? 2u : 0u);
  FdWatch off = WatchRead(paused.a.get(), &recorders[2]);
  off.DisableRead();
  Turn();
  const std::vector<std::string> before = Interests(traits(), os::Getpid());
  const int status = InChild([&] {
    EXPECT_THAT(loop_->AfterFork(), IsOk());
    Turn();
    int sets = 0;
    const FdSnapshot open = FdSnapshot::Take();
    for (const auto& [fd, target] : open.fds()) {
      if (set_in_proc && target.find(traits().set_in_proc) != std::string::npos) ++sets;
    }
    // The inherited one is closed; one that is gone can only have been replaced.
    EXPECT_EQ(sets, set_in_proc ? 1 : 0);
    EXPECT_EQ(Interests(traits(), os::Getpid()), enabled);
    EXPECT_EQ(Interests(traits(), os::Getppid()), before);
    // Changes on this side stay on this side.
    both.DisableWrite();
    reading.Reset();
    Turn();
    EXPECT_EQ(Interests(traits(), os::Getppid()), before);
    if (set_in_proc) {
      EXPECT_NE(Interests(traits(), os::Getpid()), enabled);
    }
  });
  EXPECT_EQ(status, 0);
  // And the other way round.
  const int other = InChild([&] {
    EXPECT_THAT(loop_->AfterFork(), IsOk());
    read_pipe.Write();
    Turn(absl::Seconds(10));
    EXPECT_EQ(recorders[0].reads, 1);
  });
  EXPECT_EQ(other, 0);
  EXPECT_EQ(Interests(traits(), os::Getpid()), before);
}

TEST_P(EventLoopContract, E64_EveryBackendIsLevelTriggered) {
  Pair sockets = MakeSockets();
  sockets.Write("abc");
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, true);
  // No new data arrives, and part of the old is taken in each turn.
  for (int turn = 1; turn <= 3; ++turn) {
    Turn();
    EXPECT_EQ(recorder.reads, turn);
    EXPECT_EQ(recorder.writes, turn);
    EXPECT_EQ(ReadSome(sockets.a.get(), 1).size(), 1u);
  }
  Turns(2);
  EXPECT_EQ(recorder.reads, 3);
  EXPECT_EQ(recorder.writes, 5);
  for (const std::string& line : Interests(traits(), os::Getpid())) {
    const unsigned long events = std::stoul(line.substr(line.find("events:") + 7), nullptr, 16);
    EXPECT_EQ(events & ((1ul << 31) | (1ul << 30)), 0u) << line;  // EPOLLET, EPOLLONESHOT
  }
}

TEST_P(EventLoopContract, EO16_AForgottenAfterForkIsDetected) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  const int status = InChild([&] {
    ::freopen("/dev/null", "w", stderr);
    loop_->RunOnce(absl::ZeroDuration()).IgnoreError();
  });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGABRT);
}

TEST_P(EventLoopContract, E61_AChildThatEndsItsWatchesWithoutRenewingDeafensNobody) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  EXPECT_EQ(InChild([&] {
              watch.Reset();
              loop_.reset();
            }),
            0);
  pipe.Write();
  Turn(absl::Seconds(10));
  EXPECT_EQ(recorder.reads, 1);
}

TEST_P(EventLoopContract, E71_GrowthBeyondTenAndBeyond1024Descriptors) {
  const int count = traits().ends_at_fd_setsize ? 400 : 1600;
  ASSERT_GT(*RaiseDescriptorLimit(), 4000);
  std::vector<Pair> pipes(count);
  std::vector<Recorder> recorders(count);
  std::vector<FdWatch> watches;
  for (int i = 0; i < count; ++i) {
    pipes[i] = MakePipe();
    watches.push_back(WatchRead(pipes[i].a.get(), &recorders[i]));
    recorders[i].then = [&pipes, i](int) { ReadSome(pipes[i].a.get()); };
  }
  for (int i = 0; i < count; i += 7) pipes[i].Write();
  while (loop_->counters().deliveries < (count + 6) / 7) Turn(absl::Seconds(10));
  for (int i = 0; i < count; ++i) EXPECT_EQ(recorders[i].reads, i % 7 == 0 ? 1 : 0);
}

// E70: these tests run over every backend that can be made here; none is left out of the list.
TEST(EventLoopBackends, E70_EveryBackendThatCanBeMadeIsInTheListOfTheTests) {
  std::vector<Backend> tested;
  for (const BackendTraits& row : TestedBackends()) {
    if (row.on_double == nullptr) tested.push_back(row.backend);
  }
  int made = 0;
  for (const char* name : {"epoll", "kqueue", "poll", "select", "io_uring"}) {
    ScopedInterposer system;
    const absl::StatusOr<Backend> backend = ParseBackend(name);
    ASSERT_THAT(backend, IsOk());
    const absl::StatusOr<std::unique_ptr<EventLoop>> loop =
        EventLoop::Create({.backend = *backend});
    EXPECT_EQ(std::count(tested.begin(), tested.end(), *backend), loop.ok() ? 1 : 0) << name;
    if (loop.ok()) {
      ++made;
      EXPECT_EQ((*loop)->backend(), *backend);
    }
  }
  EXPECT_EQ(made, static_cast<int>(tested.size()));
  EXPECT_GE(made, 2);
}

INSTANTIATE_TEST_SUITE_P(Backends, EventLoopContract, testing::ValuesIn(TestedBackends()),
                         BackendTestName);

}  // namespace
}  // namespace posthouse

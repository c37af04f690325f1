// The contract of event_loop.h, fd_watch.h and timer.h, one test per statement, over every backend
// that this system has. Statement ids: E, EO of the event layer, F of the faults.

#include <errno.h>
#include <fcntl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/os/clock.h"
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

TEST_P(EventLoopContract, F1_AStaleEventDoesNotReachTheNewOwnerOfTheNumber) {
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

INSTANTIATE_TEST_SUITE_P(Backends, EventLoopContract, testing::ValuesIn(AvailableBackends()),
                         BackendTestName);

}  // namespace
}  // namespace posthouse

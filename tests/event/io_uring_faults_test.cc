// What can go wrong between an EventLoop and io_uring: refusals when it is made, calls that fail,
// requests that the kernel ends, files that a request keeps open, news that is old.

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

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
using testing::HasSubstr;

class IoUringFaults : public LoopTest {
 protected:
  static absl::Status Make() { return EventLoop::Create({.backend = Backend::kIoUring}).status(); }
};

TEST_P(IoUringFaults, WhatTheKernelOrASandboxRefusesIsNotThere) {
  for (const int error : {ENOSYS, EPERM, EACCES, ENOMEM, EINVAL}) {
    const int fault = system_->FailFrom(SystemCall::kIoUringSetup, error);
    EXPECT_THAT(Make(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("io_uring_setup")));
    system_->Remove(fault);
  }
  for (const int call : {2, 3}) {  // the rings, the entries; the first is the fork stamp's
    system_->FailOnce(SystemCall::kMmap, ENOMEM, call);
    EXPECT_THAT(Make(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("mmap")));
  }
  EXPECT_THAT(Make(), IsOk());
}

TEST_P(IoUringFaults, ALackOfDescriptorsIsNoReasonToTakeAnotherBackend) {
  system_->FailOnce(SystemCall::kIoUringSetup, EMFILE);
  EXPECT_THAT(Make(), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_P(IoUringFaults, AnOlderKernelGetsTheSubmissionRingItKnows) {
  system_->FailOnce(SystemCall::kIoUringSetup, EINVAL);
  MakeLoop({});
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  pipe.Write();
  Turns(2);
  EXPECT_EQ(recorder.reads, 2);
}

TEST_P(IoUringFaults, EO21_ChangesOfInterestMakeNoCall) {
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, false);
  Turn();
  const CallCounts before = system_->Counts();
  for (int i = 0; i < 10; ++i) {
    watch.DisableRead();
    watch.EnableWrite();
    Turn();
    watch.DisableWrite();
    watch.EnableRead();
    Turn();
  }
  const CallCounts calls = system_->Counts() - before;
  EXPECT_EQ(recorder.writes, 10);
  EXPECT_EQ(calls[SystemCall::kIoUringWait], 20);
  EXPECT_EQ(calls.Total() - calls[SystemCall::kPoll], 20) << calls.ToString();
}

TEST_P(IoUringFaults, EO21_MoreChangesThanTheRingHoldsAreSubmittedInParts) {
  constexpr int kWatches = 1500;
  Pair pipe = MakePipe();
  std::vector<UniqueFd> copies(kWatches);
  std::vector<Recorder> recorders(kWatches);
  std::vector<FdWatch> watches;
  for (int i = 0; i < kWatches; ++i) {
    copies[i] = UniqueFd(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 0));
    watches.push_back(WatchRead(copies[i].get(), &recorders[i]));
  }
  EXPECT_GE(Changes(), 1);
  pipe.Write();
  // The batch grows to hold them all.
  Turns(6);
  for (const Recorder& recorder : recorders) EXPECT_GE(recorder.reads, 1);
}

// A request holds the file: the peer would not learn of the close.
TEST_P(IoUringFaults, F4_TheFileIsLetGoWhenTheWatchEnds) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  watch.Reset();
  pipe.a.Reset();
  pollfd writer = {pipe.b.get(), 0, 0};
  ASSERT_EQ(os::Poll(&writer, 1, 10000), 1);
  EXPECT_EQ(writer.revents & POLLERR, POLLERR);
}

TEST_P(IoUringFaults, F4_TheFileOfASoleOwnerIsLetGoByTheNextWait) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch =
      Watch(pipe.a.get(), {.on_readable = &Recorder::On, .context = &recorder, .sole_owner = true});
  Turn();
  const CallCounts before = system_->Counts();
  watch.Reset();
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
  pipe.a.Reset();
  Turn();
  pollfd writer = {pipe.b.get(), 0, 0};
  ASSERT_EQ(os::Poll(&writer, 1, 10000), 1);
  EXPECT_EQ(writer.revents & POLLERR, POLLERR);
}

TEST_P(IoUringFaults, F4_AClosedNumberIsNotHeardUnderItsNextOwner) {
  Pair pipe = MakePipe();
  Recorder old, fresh;
  FdWatch watch =
      Watch(pipe.a.get(), {.on_readable = &Recorder::On, .context = &old, .sole_owner = true});
  Turn();
  UniqueFd copy(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 500));
  const int number = pipe.a.get();
  pipe.Write();  // its completion is under way
  watch.Reset();
  pipe.a.Reset();
  Pair next = MakePipe();
  ASSERT_EQ(next.a.get(), number);
  watch = WatchRead(number, &fresh);
  Turns(3);
  EXPECT_EQ(old.reads + fresh.reads, 0);
  next.Write();
  Turn();
  EXPECT_EQ(fresh.reads, 1);
  EXPECT_EQ(loop_->counters().rebuilds, 0);
}

TEST_P(IoUringFaults, F9_ANumberThatIsNotOpenIsFoundAndGivenUp) {
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  Recorder recorder, healthy;
  FdWatch second = WatchRead(other.a.get(), &healthy);
  Turn();
  // A promise that is false: the number is not checked, and the request fails.
  const int number = pipe.a.get();
  FdWatch watch = Watch(number, {.on_readable = &Recorder::On,
                                 .on_error = &Recorder::On,
                                 .context = &recorder,
                                 .sole_owner = true});
  pipe.a.Reset();
  other.Write();
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventException));
  EXPECT_THAT(loop_->TakeWatchError(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                HasSubstr("fd " + std::to_string(number))));
  EXPECT_EQ(healthy.reads, 1);
  EXPECT_EQ(loop_->counters().rebuilds, 1);
}

TEST_P(IoUringFaults, F9_ANumberClosedWhileItIsReadyIsFoundAndGivenUp) {
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  Recorder recorder, healthy;
  FdWatch watch = WatchAll(pipe.a.get(), &recorder, true, false);
  FdWatch second = WatchRead(other.a.get(), &healthy);
  pipe.Write();
  Turn();
  EXPECT_EQ(recorder.reads, 1);
  pipe.a.Reset();
  other.Write();
  Turn();
  EXPECT_EQ(recorder.errors, 1);
  EXPECT_EQ(recorder.reads, 1);
  EXPECT_EQ(healthy.reads, 1);
}

TEST_P(IoUringFaults, F10_ALackOfMemoryForRequestsIsWaitedOut) {
  UseFakeClock();
  Pair old = MakePipe();
  Recorder healthy;
  FdWatch first = WatchRead(old.a.get(), &healthy);
  Turn();
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  // The kernel takes no new request: each wait tries, and goes on without for 100 ms.
  const int fault = system_->Add(
      {.call = SystemCall::kIoUringWait, .error = EAGAIN, .every = 2, .times = Fault::kForever});
  const int64_t start = os::SteadyNanos();
  const int64_t waits = Waits();
  for (int i = 0; i < 10; ++i) Turn(absl::Hours(1));
  EXPECT_EQ(os::SteadyNanos() - start, 10 * 100000000);
  EXPECT_EQ(Waits() - waits, 20);
  EXPECT_EQ(recorder.reads, 0);
  old.Write();
  Turn(absl::Hours(1));
  EXPECT_EQ(healthy.reads, 1);  // the others are served
  system_->Remove(fault);
  Turn(absl::Hours(1));
  EXPECT_EQ(recorder.reads, 1);
}

TEST_P(IoUringFaults, F10_WithoutMemoryForAFullRingAWatchIsRefusedAndNothingChanges) {
  Pair pipe = MakePipe();
  std::vector<UniqueFd> copies(1200);
  std::vector<FdWatch> watches;
  Recorder recorder;
  const int fault = system_->FailFrom(SystemCall::kIoUringEnter, EAGAIN);
  for (UniqueFd& copy : copies) {
    copy = UniqueFd(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 0));
    absl::StatusOr<FdWatch> made =
        loop_->Watch(copy.get(), {.on_readable = &Recorder::On, .context = &recorder});
    if (!made.ok()) {
      EXPECT_THAT(made, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("fd ")));
      break;
    }
    watches.push_back(*std::move(made));
  }
  EXPECT_LT(watches.size(), copies.size());
  EXPECT_EQ(loop_->counters().watches, static_cast<int64_t>(watches.size()));
  system_->Remove(fault);
  pipe.Write();
  Turns(5);
  EXPECT_GE(recorder.reads, static_cast<int>(watches.size()));
}

TEST_P(IoUringFaults, ABusyRingIsEmptiedAndTheWaitGoesOn) {
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  Recorder recorder, late;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  pipe.Write();
  FdWatch second;
  // The call has handed out completions, and says that there are too many.
  recorder.then = [&](int) {
    if (second.active()) return;
    second = WatchRead(other.a.get(), &late);
    other.Write();
    system_->FailOnce(SystemCall::kIoUringWait, EBUSY);
  };
  Turn();
  EXPECT_THAT(loop_->RunOnce(absl::ZeroDuration()), IsOk());  // healed by a new ring
  EXPECT_EQ(recorder.reads, 2);
  EXPECT_EQ(late.reads, 1);
}

TEST_P(IoUringFaults, MoreCompletionsThanTheRingHoldsAreNotLost) {
  constexpr int kWatches = 6000;
  rlimit limit = {};
  ASSERT_EQ(os::Getrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_GE(limit.rlim_cur, 8000u);
  Pair pipe = MakePipe();
  std::vector<UniqueFd> copies(kWatches);
  std::vector<Recorder> recorders(kWatches);
  std::vector<FdWatch> watches;
  for (int i = 0; i < kWatches; ++i) {
    copies[i] = UniqueFd(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 0));
    watches.push_back(WatchRead(copies[i].get(), &recorders[i]));
  }
  Turn();
  pipe.Write();  // one wake-up for each
  for (int i = 0; i < 12; ++i) Turn();
  for (const Recorder& recorder : recorders) EXPECT_GE(recorder.reads, 1);
  EXPECT_EQ(loop_->counters().rebuilds, 0);
}

// The byte came while the handler was not done with the one before, and went with it.
TEST_P(IoUringFaults, F14_WhatAHandlerHasReadIsNotReportedAgain) {
  Pair pipe = MakePipe();
  Recorder recorder;
  recorder.then = [&](int) {
    pipe.Write();
    EXPECT_EQ(ReadSome(pipe.a.get()).size(), 2u);
  };
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  for (int i = 1; i <= 20; ++i) {
    pipe.Write();
    Turn(absl::Seconds(10));
    Turns(3);
    EXPECT_EQ(recorder.reads, i);
  }
}

TEST_P(IoUringFaults, E26_ASignalThatEndsAWaitWithChangesIsAnInterruption) {
  UseFakeClock(ClockMode::kManual);
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  // The kernel tells of the submission and not of the signal: nothing came, and time is left.
  Turn(absl::Seconds(1));
  EXPECT_EQ(loop_->counters().interrupted_waits, 1);
  Turn(absl::Seconds(1));  // without changes it says that the time is over
  EXPECT_EQ(loop_->counters().interrupted_waits, 1);
}

// Empty where the kernel or a sandbox refuses io_uring.
INSTANTIATE_TEST_SUITE_P(Backends, IoUringFaults,
                         testing::ValuesIn(TestedBackends(Backend::kIoUring)), BackendTestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(IoUringFaults);

}  // namespace
}  // namespace posthouse

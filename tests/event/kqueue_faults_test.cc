// What can go wrong between an EventLoop and kqueue, and the rules that our poller keeps because
// kernels differ; against the double, plain and with every quirk.

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/kqueue.h"
#include "posthouse/testing/event_wait.h"
#include "tests/event/event_fixture.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

void Fill(int fd) {
  const std::string block(65536, 'x');
  while (os::Write(fd, block.data(), block.size()) > 0) {
  }
}

class KqueueFaults : public LoopTest {
 protected:
  // The only one there is.
  int Queue() const {
    const std::vector<int> queues = kqueue_.Queues();
    EXPECT_EQ(queues.size(), 1u);
    return queues.empty() ? -1 : queues[0];
  }

  // Waits in the fake second from now.
  int64_t WaitsInASecond() {
    const int64_t waits = Waits();
    Recorder timed;
    Timer second(loop_.get(), &Recorder::On, &timed);
    second.Start(absl::Seconds(1));
    while (timed.timers == 0) Turn(absl::InfiniteDuration());
    return Waits() - waits;
  }
};

// Rules 1 and 2: errors come as errno, nothing depends on what adding a disabled filter means.
TEST_P(KqueueFaults, EachChangeIsACallOfItsOwnThatAddsAndEnablesOrDeletes) {
  int changes_seen = 0;
  kqueue_.set_observer([&](const struct kevent* changes, int change_count, int capacity,
                           const timespec* timeout) {
    if (change_count == 0) {
      EXPECT_GT(capacity, 0);
      EXPECT_TRUE(timeout == nullptr || (timeout->tv_nsec >= 0 && timeout->tv_nsec < 1000000000));
      return;
    }
    EXPECT_EQ(change_count, 1);
    EXPECT_EQ(capacity, 0);
    const auto flags = changes->flags;
    EXPECT_TRUE(flags == (EV_ADD | EV_ENABLE) || flags == EV_DELETE) << flags;
    ++changes_seen;
  });
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, true);
  Turn();
  watch.DisableWrite();
  Turn();
  watch.DisableRead();
  sockets.Write();
  Turns(2);
  watch.EnableWrite();
  Turn();
  watch.VerifyBeforeWait();
  Turn();
  watch.Reset();
  EXPECT_GT(changes_seen, 5);
  for (const absl::Duration wait : {absl::Nanoseconds(1), absl::Milliseconds(1)}) Turn(wait);
  UseFakeClock();
  const int64_t start = os::SteadyNanos();
  Turn(absl::Hours(1000));
  EXPECT_EQ(absl::Nanoseconds(os::SteadyNanos() - start), absl::Hours(24));  // F18
}

TEST_P(KqueueFaults, EO21_TheNetChangeOfATurnIsSubmittedOnceBeforeTheWait) {
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, false);
  EXPECT_EQ(Changes(), 1);  // the first one at once, for its errors
  for (int i = 0; i < 10; ++i) {
    watch.DisableRead();
    watch.EnableRead();
    watch.EnableWrite();
    watch.DisableWrite();
  }
  Turn();
  watch.DisableRead();
  Turn();
  watch.EnableRead();
  Turn();
  EXPECT_EQ(Changes(), 1);
  // The filter that is not wanted any more is kept, and renewed, until it shows.
  watch.DisableRead();
  watch.EnableWrite();
  Turn();
  EXPECT_EQ(Changes(), 3);
  EXPECT_EQ(recorder.writes, 1);
  EXPECT_EQ(loop_->counters().interest_changes, 3);
  EXPECT_EQ(kqueue_.CountKnotes(sockets.a.get()), 2);
  sockets.Write();
  Turn();
  Turn();
  EXPECT_EQ(recorder.reads, 0);
  EXPECT_EQ(kqueue_.CountKnotes(sockets.a.get()), 1);
}

// Rule 3.
TEST_P(KqueueFaults, APipeThatHasLostItsReaderIsWritableUntilNobodyAsks) {
  UseFakeClock();
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  pipe.a.Reset();
  Recorder recorder, healthy;
  FdWatch watch = WatchAll(pipe.b.get(), &recorder, false, true);
  FdWatch second = WatchRead(other.a.get(), &healthy);
  for (int turn = 1; turn <= 3; ++turn) {
    Turn(absl::Seconds(10));
    EXPECT_EQ(recorder.writes, turn);
  }
  other.Write();
  Turn(absl::Seconds(10));
  EXPECT_EQ(healthy.reads, 1);  // one does not starve the other
  ReadSome(other.a.get());
  watch.DisableWrite();
  Turns(3);
  EXPECT_THAT(recorder.events, ElementsAre(kEventWrite, kEventWrite, kEventWrite, kEventWrite,
                                           kEventException));  // F6
  recorder.events.clear();
  EXPECT_LE(WaitsInASecond(), 10);
  watch.EnableWrite();
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventWrite));
  watch.Reset();
  Turns(2);
  EXPECT_EQ(recorder.events.size(), 1u);
}

TEST_P(KqueueFaults, APipeThatHasLostItsReaderIsForgottenWithItsNumber) {
  UseFakeClock();
  Pair pipe = MakePipe();
  pipe.a.Reset();
  Recorder recorder, fresh;
  FdWatch watch = Watch(
      pipe.b.get(),
      {.on_writable = &Recorder::On, .context = &recorder, .write = true, .sole_owner = true});
  Turn();
  EXPECT_EQ(recorder.writes, 1);
  const int number = pipe.b.get();
  watch.Reset();  // without a call, as close(2) comes next
  pipe.b.Reset();
  Pair next = MakePipe();
  ASSERT_EQ(next.b.get(), number);
  Fill(number);
  watch = WatchAll(number, &fresh, false, true);
  Turns(3);
  EXPECT_THAT(fresh.events, IsEmpty());
  EXPECT_EQ(recorder.writes, 1);
  // And when nobody takes the number.
  pipe = MakePipe();
  pipe.a.Reset();
  FdWatch third = Watch(
      pipe.b.get(),
      {.on_writable = &Recorder::On, .context = &recorder, .write = true, .sole_owner = true});
  third.Reset();
  pipe.b.Reset();
  EXPECT_LE(WaitsInASecond(), 10);
}

// Rule 4.
TEST_P(KqueueFaults, AHalfThatIsShutDownTellsNothingOfTheOtherHalf) {
  Pair sockets = MakeSockets();
  Fill(sockets.a.get());
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, true);
  Turns(2);
  EXPECT_THAT(recorder.events, IsEmpty());
  ASSERT_EQ(os::Shutdown(sockets.b.get(), SHUT_WR), 0);
  Turns(2);
  EXPECT_THAT(recorder.events, ElementsAre(kEventRead, kEventRead));
  EXPECT_EQ(ReadSome(sockets.a.get()), "");
  while (!ReadSome(sockets.b.get()).empty()) {
  }
  watch.DisableRead();
  recorder.events.clear();
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventWrite));
}

TEST_P(KqueueFaults, F6_APausedPeerThatShutsDownAHalfHasNotHungUp) {
  UseFakeClock();
  for (const bool data_left : {false, true}) {
    Pair sockets = MakeSockets();
    Recorder recorder;
    FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, false);
    Turn();
    watch.DisableRead();
    Turn();
    if (data_left) sockets.Write();
    Turn();
    ASSERT_EQ(os::Shutdown(sockets.b.get(), SHUT_WR), 0);
    EXPECT_LE(WaitsInASecond(), 10);
    EXPECT_THAT(recorder.events, IsEmpty());
    sockets.b.Reset();
    EXPECT_LE(WaitsInASecond(), 10);
    Turns(2);
    EXPECT_THAT(recorder.events, ElementsAre(kEventException));
    watch.EnableRead();
    Turn();
    EXPECT_EQ(recorder.reads, 1);
  }
}

TEST_P(KqueueFaults, F6_DataInAPausedPipeDoesNotSpinAndItsEndIsTold) {
  UseFakeClock();
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchAll(pipe.a.get(), &recorder, true, false);
  Turn();
  watch.DisableRead();
  pipe.Write();
  EXPECT_LE(WaitsInASecond(), 10);
  EXPECT_THAT(recorder.events, IsEmpty());
  pipe.b.Reset();
  EXPECT_LE(WaitsInASecond(), 10);
  Turns(2);
  EXPECT_THAT(recorder.events, ElementsAre(kEventException));
  watch.EnableRead();
  Turn();
  EXPECT_EQ(ReadSome(pipe.a.get()), "x");
}

// What was found out by asking stays a level: it is told although the turn in which it was found
// ended early.
TEST_P(KqueueFaults, EO13_AHangUpThatWasFoundIsToldAfterAnException) {
  Pair pipe = MakePipe();
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, false);
  Turn();
  watch.DisableRead();
  sockets.Write();
  Turns(2);
  sockets.b.Reset();
  Recorder thrower;
  Timer timer(loop_.get(), &Recorder::On, &thrower);
  thrower.then = [](int) { throw std::runtime_error("from a handler"); };
  timer.Start(absl::ZeroDuration());
  EXPECT_THROW(loop_->RunOnce(absl::ZeroDuration()).IgnoreError(), std::runtime_error);
  Turn(absl::Seconds(10));
  EXPECT_THAT(recorder.events, ElementsAre(kEventException));
}

// Rule 5: the list is full of both filters of each descriptor.
TEST_P(KqueueFaults, EO5_TheListGrowsAlthoughItsEventsAreMerged) {
  constexpr int kWatches = 150;
  std::vector<Pair> pairs(kWatches);
  std::vector<Recorder> recorders(kWatches);
  std::vector<FdWatch> watches;
  for (int i = 0; i < kWatches; ++i) {
    pairs[i] = MakeSockets();
    pairs[i].Write();
    watches.push_back(WatchAll(pairs[i].a.get(), &recorders[i], true, true));
  }
  Turns(3);  // 100, 200, 400 events
  if (traits().longest_batch >= 2 * kWatches) {
    for (Recorder& recorder : recorders) recorder.events.clear();
    Turn();
    for (const Recorder& recorder : recorders) {
      EXPECT_THAT(recorder.events, ElementsAre(kEventRead, kEventWrite));
    }
  } else {
    Turns(20);
    for (const Recorder& recorder : recorders) {
      EXPECT_GE(recorder.reads, 1);
      EXPECT_GE(recorder.writes, 1);
    }
  }
}

TEST_P(KqueueFaults, F12_AListOfOneServesAllInTurn) {
  KqueueQuirks quirks = *traits().on_double;
  quirks.longest_list = 1;
  kqueue_.set_quirks(quirks);
  constexpr int kWatches = 10;
  std::vector<Pair> pairs(kWatches);
  std::vector<Recorder> recorders(kWatches);
  std::vector<FdWatch> watches;
  for (int i = 0; i < kWatches; ++i) {
    pairs[i] = MakeSockets();
    pairs[i].Write();
    watches.push_back(WatchAll(pairs[i].a.get(), &recorders[i], true, true));
  }
  Turns(2 * kWatches);
  for (const Recorder& recorder : recorders) {
    EXPECT_EQ(recorder.reads, 1);
    EXPECT_EQ(recorder.writes, 1);
  }
}

TEST_P(KqueueFaults, F12_ManyPipesWithoutReadersAndASmallBatchServeAllInTurn) {
  MakeLoop({.initial_batch = 4, .max_batch = 4});
  std::vector<Pair> pipes(12);
  std::vector<Recorder> recorders(pipes.size());
  std::vector<FdWatch> watches;
  for (size_t i = 0; i < pipes.size(); ++i) {
    pipes[i] = MakePipe();
    const bool broken = i % 2 == 0;
    if (broken) pipes[i].a.Reset();
    watches.push_back(WatchAll(pipes[i].b.get(), &recorders[i], false, true));
  }
  Turns(24);
  for (const Recorder& recorder : recorders) EXPECT_GE(recorder.writes, 4);
}

// Rule 6.
TEST_P(KqueueFaults, F4_ClosingANumberEndsItsEventsWhateverDuplicatesThereAre) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  UniqueFd copy(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 500));
  pipe.a.Reset();
  pipe.Write();
  Turns(3);
  EXPECT_EQ(recorder.reads, 0);
  watch.Reset();
  EXPECT_EQ(loop_->counters().repaired_changes, 1);
}

TEST_P(KqueueFaults, F4_AFalsePromiseOfSoleOwnershipIsCured) {
  UseFakeClock();
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = Watch(sockets.a.get(), {.on_readable = &Recorder::On,
                                          .on_writable = &Recorder::On,
                                          .context = &recorder,
                                          .write = true,
                                          .sole_owner = true});
  Turn();
  recorder.events.clear();
  watch.Reset();
  sockets.Write();  // still open: the kernel reports it
  EXPECT_LE(WaitsInASecond(), 10);
  EXPECT_THAT(recorder.events, IsEmpty());
  EXPECT_GE(loop_->counters().stale_events, 1);
  EXPECT_EQ(kqueue_.CountKnotes(sockets.a.get()), 0);
}

TEST_P(KqueueFaults, E52_EO26_AnEventOfANumberWeNeverWatchedIsCountedAndCured) {
  UseFakeClock();
  Pair pipe = MakePipe();
  pipe.Write();
  UniqueFd far(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 900));
  for (const int fd : {pipe.a.get(), far.get()}) {
    struct kevent foreign = {};
    foreign.ident = static_cast<uintptr_t>(fd);
    foreign.filter = EVFILT_READ;
    foreign.flags = EV_ADD | EV_ENABLE;
    ASSERT_EQ(os::Kevent(Queue(), &foreign, 1, nullptr, 0, nullptr), 0);
    const int64_t before = loop_->counters().unexpected_events;
    EXPECT_LE(WaitsInASecond(), 10);
    EXPECT_EQ(loop_->counters().unexpected_events, before + 1);
    EXPECT_EQ(kqueue_.CountKnotes(fd), 0);
  }
}

// Rule 7.
TEST_P(KqueueFaults, EO16_AChildClosesNoNumberThatItDidNotMake) {
  Pair pipe = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  const int queue = Queue();
  for (const bool renews : {false, true}) {
    const pid_t child = os::Fork();
    if (child == 0) {
      // Whatever is opened first has the number of the queue, which is not there.
      Pair own = MakePipe();
      bool right = own.a.get() == queue || own.b.get() == queue;
      if (renews) {
        right = right && loop_->AfterFork().ok();
        pipe.Write();
        right = right && loop_->RunOnce(absl::Seconds(10)).ok() && recorder.reads == 1;
        right = right && ReadSome(pipe.a.get()) == "x";
      }
      watch.Reset();
      loop_.reset();
      own.Write();
      ::_exit(right && ReadSome(own.a.get()) == "x" && !HasFailure() ? 0 : 1);
    }
    EXPECT_EQ(WaitForExit(child).value_or(-1), 0);
  }
  pipe.Write();
  Turn(absl::Seconds(10));
  EXPECT_EQ(recorder.reads, 1);
}

// Rule 8.
TEST_P(KqueueFaults, EO27_ADeviceThatTheKernelRefusesIsAlwaysReady) {
  for (const int error : {EINVAL, ENODEV, ENXIO, EOPNOTSUPP, EPERM}) {
    Pair pipe = MakePipe();
    Recorder recorder;
    system_->FailOnce(SystemCall::kKevent, error);
    FdWatch watch = WatchAll(pipe.a.get(), &recorder, true, false);
    Turn(absl::Seconds(10));
    EXPECT_EQ(recorder.reads, 1);
    EXPECT_THAT(loop_->DescribeWatches(), ElementsAre(HasSubstr("always-ready")));
  }
}

// Rule 10: whether a full pipe tells the loss of its reader depends on the kernel; a new watch
// finds it in any case.
TEST_P(KqueueFaults, AFullPipeThatHasLostItsReaderIsFoundByANewWatch) {
  Pair pipe = MakePipe();
  Fill(pipe.b.get());
  Recorder recorder;
  FdWatch watch = WatchAll(pipe.b.get(), &recorder, false, true);
  Turn();
  pipe.a.Reset();
  Turn();
  EXPECT_EQ(recorder.writes, traits().tells_loss_of_reader_of_full_pipe ? 1 : 0);
  watch.Reset();
  recorder.writes = 0;
  watch = WatchAll(pipe.b.get(), &recorder, false, true);
  Turns(3);
  EXPECT_EQ(recorder.writes, 3);
}

TEST_P(KqueueFaults, F10_ALackOfMemoryIsReturnedWithNothingChanged) {
  Pair sockets = MakeSockets();
  sockets.Write();
  Recorder recorder;
  const FdWatchOptions options = {.on_readable = &Recorder::On,
                                  .on_writable = &Recorder::On,
                                  .on_error = &Recorder::On,
                                  .context = &recorder,
                                  .write = true,
                                  .urgent = true};
  for (int call = 1; call <= 3; ++call) {
    system_->FailOnce(SystemCall::kKevent, ENOMEM, call);
    EXPECT_THAT(loop_->Watch(sockets.a.get(), options),
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("fd ")));
    system_->RemoveAllFaults();
    EXPECT_EQ(kqueue_.CountKnotes(sockets.a.get()), 0);
    EXPECT_EQ(loop_->counters().watches, 0);
    Turn();
  }
  FdWatch watch = Watch(sockets.a.get(), options);
  Turn();
  EXPECT_THAT(recorder.events, ElementsAre(kEventRead, kEventWrite));
}

TEST_P(KqueueFaults, F10_AFailedWatchOfAPipeWithoutReaderLeavesNothing) {
  Pair pipe = MakePipe();
  pipe.a.Reset();
  Recorder recorder;
  system_->FailOnce(SystemCall::kKevent, ENOMEM, 2);  // reading, after writing was refused
  EXPECT_THAT(loop_->Watch(pipe.b.get(), {.on_readable = &Recorder::On,
                                          .on_writable = &Recorder::On,
                                          .context = &recorder,
                                          .write = true}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  Turns(3);
  EXPECT_THAT(recorder.events, IsEmpty());
  EXPECT_EQ(loop_->counters().stale_events, 0);
  EXPECT_EQ(kqueue_.CountKnotes(pipe.b.get()), 0);
}

TEST_P(KqueueFaults, F10_ACollectedChangeWithoutMemoryIsTriedAgain) {
  UseFakeClock();
  // From every state to every other.
  for (int from = 0; from < 4; ++from) {
    for (int to = 0; to < 4; ++to) {
      Pair sockets = MakeSockets();
      Recorder recorder;
      FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, true);
      const auto set = [&watch](int directions) {
        (directions & 1) != 0 ? watch.EnableRead() : watch.DisableRead();
        (directions & 2) != 0 ? watch.EnableWrite() : watch.DisableWrite();
      };
      set(from);
      Turns(2);
      const int fault = system_->FailFrom(SystemCall::kKevent, ENOMEM);
      set(to);
      sockets.Write();
      const int64_t start = os::SteadyNanos();
      for (int i = 0; i < 10; ++i) {
        recorder.events.clear();
        Turn(absl::Milliseconds(100));
      }
      EXPECT_LE(os::SteadyNanos() - start, int64_t{1} * 1000000000);
      // What was wanted before and still is goes on.
      if ((from & to & 1) != 0) {
        EXPECT_GT(recorder.reads, 0) << from << " to " << to;
      }
      system_->Remove(fault);
      Turn(absl::Milliseconds(100));
      recorder.events.clear();
      Turn();
      std::vector<int> expected;
      if ((to & 1) != 0) expected.push_back(kEventRead);
      if ((to & 2) != 0) expected.push_back(kEventWrite);
      EXPECT_EQ(recorder.events, expected) << from << " to " << to;
      EXPECT_THAT(loop_->TakeWatchError(), IsOk());
    }
  }
}

// F10: each error on the n-th call; nothing ends the process, and healthy watches go on.
TEST_P(KqueueFaults, F10_AnyErrorOfAnyChangeLeavesTheLoopUsable) {
  for (const int error : {EINTR, ENOENT, EPERM, ENOMEM, EACCES, EBADF, EINVAL, EPIPE}) {
    for (int n = 1; n <= 60; ++n) {
      MakeLoop({});
      Pair healthy = MakePipe();
      Recorder recorder;
      FdWatch watch = WatchRead(healthy.a.get(), &recorder);
      const int fault = system_->FailOnce(SystemCall::kKevent, error, n);
      std::vector<Pair> sockets(5);
      std::vector<Recorder> recorders(5);
      std::vector<FdWatch> watches(5);
      for (int i = 0; i < 5; ++i) {
        sockets[i] = MakeSockets();
        absl::StatusOr<FdWatch> made = loop_->Watch(
            sockets[i].a.get(),
            {.on_readable = &Recorder::On, .on_writable = &Recorder::On, .context = &recorders[i]});
        if (made.ok()) watches[i] = *std::move(made);
      }
      for (int round = 0; round < 4; ++round) {
        for (FdWatch& one : watches) {
          if (!one.active()) continue;
          if (round % 2 == 0) {
            one.DisableRead();
            one.EnableWrite();
          } else {
            one.DisableWrite();
            one.EnableRead();
          }
        }
        Turn();
      }
      watches.clear();
      system_->Remove(fault);
      healthy.Write();
      const int reads = recorder.reads;
      Turns(2);
      ASSERT_GE(recorder.reads, reads + 1) << "error " << error << " at call " << n;
    }
  }
}

TEST_P(KqueueFaults, EO17_AFailureToMakeTheQueueIsAStatusAndLeaksNothing) {
  const size_t queues = kqueue_.Queues().size();
  system_->FailOnce(SystemCall::kKqueue, EMFILE);
  EXPECT_THAT(EventLoop::Create({.backend = Backend::kKqueue}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("kqueue")));
  system_->FailOnce(SystemCall::kFcntl, ENOMEM);
  EXPECT_THAT(EventLoop::Create({.backend = Backend::kKqueue}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("kqueue")));
  EXPECT_EQ(kqueue_.Queues().size(), queues);
}

TEST_P(KqueueFaults, E19_ItsOwnQueueCannotBeWatched) {
  EXPECT_THAT(loop_->Watch(Queue(), {.on_readable = &Recorder::On}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("fd ")));
}

INSTANTIATE_TEST_SUITE_P(Backends, KqueueFaults, testing::ValuesIn(kKqueueOnDoubleRows),
                         BackendTestName);

}  // namespace
}  // namespace posthouse

// What can go wrong between an EventLoop and epoll: events of files that cannot be removed any
// more, refused changes, promises that were not kept.

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>

#include <cstdint>
#include <fstream>
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

using testing::HasSubstr;

class EpollFaults : public LoopTest {
 protected:
  // The descriptor of the kernel's set: the only one of its kind in this process.
  static int SetOfTheLoop() {
    const FdSnapshot open = FdSnapshot::Take();
    for (const auto& [fd, target] : open.fds()) {
      if (target.find("eventpoll") != std::string::npos) return fd;
    }
    return -1;
  }
  // Its lines about descriptors.
  static std::string KernelSet() {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(SetOfTheLoop()));
    std::string all;
    for (std::string line; std::getline(info, line);) {
      if (line.compare(0, 4, "tfd:") == 0) all += line + "\n";
    }
    return all;
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

TEST_P(EpollFaults, EO21_TheNetChangeOfATurnIsSubmittedOnceBeforeTheWait) {
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, false);
  EXPECT_EQ(Changes(), 1);  // the first one at once, for its errors
  Turn();
  // Pausing and going on, now or later.
  for (int i = 0; i < 10; ++i) {
    watch.DisableRead();
    watch.EnableRead();
  }
  Turn();
  watch.DisableRead();
  Turn();
  watch.EnableRead();
  Turn();
  // Asking for more and taking it back.
  watch.EnableWrite();
  watch.DisableWrite();
  Turn();
  EXPECT_EQ(Changes(), 1);
  // A swap is one call.
  watch.DisableRead();
  watch.EnableWrite();
  EXPECT_EQ(Changes(), 1);
  Turn();
  EXPECT_EQ(Changes(), 2);
  EXPECT_EQ(recorder.writes, 1);
}

TEST_P(EpollFaults, EO21_InterestThatIsNotWantedIsDroppedWhenItShows) {
  Pair sockets = MakeSockets();
  sockets.Write();
  Recorder recorder;
  FdWatch watch = WatchAll(sockets.a.get(), &recorder, true, false);
  Turn();
  watch.DisableRead();
  Turns(20);
  EXPECT_EQ(recorder.reads, 1);
  EXPECT_EQ(Changes(), 2);
  EXPECT_EQ(loop_->counters().interest_changes, 2);
}

TEST_P(EpollFaults, E18_EndingAWatchRemovesItAtOnceUnlessItsOwnerIsAlone) {
  Pair one = MakePipe();
  Pair two = MakePipe();
  Recorder recorder;
  FdWatch watch = WatchRead(one.a.get(), &recorder);
  FdWatch alone =
      Watch(two.a.get(), {.on_readable = &Recorder::On, .context = &recorder, .sole_owner = true});
  EXPECT_EQ(Changes(), 2);
  watch.Reset();
  EXPECT_EQ(Changes(), 3);
  alone.Reset();
  EXPECT_EQ(Changes(), 3);
  two.a.Reset();
  EXPECT_EQ(KernelSet(), "");
}

TEST_P(EpollFaults, F4_AFalsePromiseOfSoleOwnershipIsCured) {
  UseFakeClock();
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  Recorder recorder, healthy;
  FdWatch second = WatchRead(other.a.get(), &healthy);
  FdWatch watch =
      Watch(pipe.a.get(), {.on_readable = &Recorder::On, .context = &recorder, .sole_owner = true});
  Turn();
  watch.Reset();
  pipe.Write();  // still open: the kernel reports it
  EXPECT_LE(WaitsInASecond(), 10);
  EXPECT_EQ(recorder.reads, 0);
  EXPECT_EQ(loop_->counters().stale_events, 1);
  // A duplicate keeps the file alive, and its number is gone.
  watch =
      Watch(pipe.a.get(), {.on_readable = &Recorder::On, .context = &recorder, .sole_owner = true});
  UniqueFd copy(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 500));
  watch.Reset();
  pipe.a.Reset();
  EXPECT_LE(WaitsInASecond(), 10);
  EXPECT_EQ(loop_->counters().rebuilds, 1);
  other.Write();
  Turn();
  EXPECT_EQ(healthy.reads, 1);
  EXPECT_EQ(recorder.reads, 0);
}

TEST_P(EpollFaults, F4_AGhostUnderANumberThatIsWatchedAgainIsCured) {
  UseFakeClock();
  Pair pipe = MakePipe();
  Recorder old, fresh;
  FdWatch watch =
      Watch(pipe.a.get(), {.on_readable = &Recorder::On, .context = &old, .sole_owner = true});
  UniqueFd copy(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 500));
  const int number = pipe.a.get();
  watch.Reset();
  pipe.a.Reset();
  Pair next = MakePipe();
  ASSERT_EQ(next.a.get(), number);
  watch = WatchRead(number, &fresh);
  pipe.Write();  // into the file that only the copy reads
  EXPECT_LE(WaitsInASecond(), 10);
  EXPECT_EQ(old.reads + fresh.reads, 0);
  EXPECT_EQ(loop_->counters().rebuilds, 1);
  next.Write();
  Turn();
  EXPECT_EQ(fresh.reads, 1);
}

TEST_P(EpollFaults, F4_ANumberClosedWhileItsWatchLivesEndsInIdleness) {
  UseFakeClock();
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  Recorder recorder, healthy;
  recorder.then = [&](int) { ReadSome(recorder.errors >= 0 ? 999 : 0); };  // EBADF for ever
  FdWatch watch = WatchAll(pipe.a.get(), &recorder, true, false);
  FdWatch second = WatchRead(other.a.get(), &healthy);
  Turn();
  UniqueFd copy(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 500));
  pipe.a.Reset();
  pipe.Write();
  for (int i = 0; i < 3000; ++i) Turn(absl::Milliseconds(1));
  EXPECT_EQ(recorder.errors, 1);
  EXPECT_LE(WaitsInASecond(), 10);
  EXPECT_THAT(loop_->TakeWatchError(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(loop_->DescribeWatches(), testing::Contains(HasSubstr("hung-up")));
  other.Write();
  Turn();
  EXPECT_EQ(healthy.reads, 1);
}

TEST_P(EpollFaults, E52_EO26_AnEventOfANumberWeNeverWatchedIsCountedAndCured) {
  UseFakeClock();
  Pair pipe = MakePipe();
  pipe.Write();
  const uint64_t negative = ~uint64_t{0};
  for (const uint64_t number : {static_cast<uint64_t>(pipe.a.get()), uint64_t{100000}, negative}) {
    epoll_event foreign = {};
    foreign.events = EPOLLIN;
    foreign.data.u64 = number;
    ASSERT_EQ(os::EpollCtl(SetOfTheLoop(), EPOLL_CTL_ADD, pipe.a.get(), &foreign), 0);
    const int64_t before = loop_->counters().unexpected_events;
    EXPECT_LE(WaitsInASecond(), 10);
    EXPECT_EQ(loop_->counters().unexpected_events, before + 1);
  }
}

TEST_P(EpollFaults, F10_EexistAndEnoentAreReconciled) {
  Pair pipe = MakePipe();
  pipe.Write();
  epoll_event foreign = {};
  foreign.events = EPOLLOUT;
  ASSERT_EQ(os::EpollCtl(SetOfTheLoop(), EPOLL_CTL_ADD, pipe.a.get(), &foreign), 0);
  Recorder recorder;
  FdWatch watch = WatchAll(pipe.a.get(), &recorder, true, false);
  Turn();
  EXPECT_EQ(recorder.reads, 1);
  EXPECT_EQ(loop_->counters().repaired_changes, 1);
  // Gone from the set behind our back; the next change puts it back.
  Pair sockets = MakeSockets();
  Recorder both;
  FdWatch second = WatchAll(sockets.a.get(), &both, true, false);
  Turn();
  ASSERT_EQ(os::EpollCtl(SetOfTheLoop(), EPOLL_CTL_DEL, sockets.a.get(), &foreign), 0);
  second.EnableWrite();
  Turn();
  EXPECT_EQ(both.writes, 1);
  EXPECT_EQ(loop_->counters().repaired_changes, 2);
  // Removing what is not there.
  ASSERT_EQ(os::EpollCtl(SetOfTheLoop(), EPOLL_CTL_DEL, sockets.a.get(), &foreign), 0);
  second.Reset();
  EXPECT_EQ(loop_->counters().repaired_changes, 3);
}

TEST_P(EpollFaults, F10_ALackOfMemoryIsReturnedWithNothingChanged) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  const std::string before = KernelSet();
  for (const int error : {ENOMEM, ENOSPC}) {
    system_->FailOnce(SystemCall::kEpollCtl, error);
    EXPECT_THAT(loop_->Watch(pipe.a.get(), {.on_readable = &Recorder::On, .context = &recorder}),
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("fd ")));
    EXPECT_EQ(KernelSet(), before);
    EXPECT_EQ(loop_->counters().watches, 0);
    Turn();
  }
  FdWatch watch = WatchRead(pipe.a.get(), &recorder);
  Turn();
  EXPECT_EQ(recorder.reads, 1);
}

TEST_P(EpollFaults, F10_ACollectedChangeWithoutMemoryIsTriedAgain) {
  UseFakeClock();
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  FdWatch watch = WatchAll(pipe.a.get(), &recorder, false, false);
  watch.EnableRead();
  const int fault = system_->FailFrom(SystemCall::kEpollCtl, ENOMEM);
  const int64_t start = os::SteadyNanos();
  for (int i = 0; i < 10; ++i) Turn(absl::Hours(1));
  EXPECT_LE(os::SteadyNanos() - start, int64_t{1} * 1000000000);
  EXPECT_EQ(recorder.reads, 0);
  system_->Remove(fault);
  Turn(absl::Hours(1));
  EXPECT_EQ(recorder.reads, 1);
  EXPECT_THAT(loop_->TakeWatchError(), IsOk());
}

// F10: each error on the n-th call; nothing ends the process, and healthy watches go on.
TEST_P(EpollFaults, F10_AnyErrorOfAnyChangeLeavesTheLoopUsable) {
  for (const int error : {EEXIST, ENOENT, EPERM, ENOMEM, ENOSPC, EBADF, EINVAL}) {
    for (int n = 1; n <= 40; ++n) {
      MakeLoop({});
      Pair healthy = MakePipe();
      Recorder recorder;
      FdWatch watch = WatchRead(healthy.a.get(), &recorder);
      const int fault = system_->FailOnce(SystemCall::kEpollCtl, error, n);
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

TEST_P(EpollFaults, EO28_AnExclusiveWatchIsMarkedSoInTheKernel) {
  Pair sockets = MakeSockets();
  Recorder recorder;
  FdWatch watch = Watch(sockets.a.get(), {.on_readable = &Recorder::On,
                                          .on_writable = &Recorder::On,
                                          .context = &recorder,
                                          .exclusive = true});
  EXPECT_THAT(KernelSet(), HasSubstr("events: 10000019"));  // EPOLLEXCLUSIVE, IN, ERR, HUP
  sockets.Write();
  Turn();
  EXPECT_EQ(recorder.reads, 1);
  // Changing such a watch works all the same.
  watch.DisableRead();
  watch.EnableWrite();
  Turn();
  EXPECT_EQ(recorder.writes, 1);
  EXPECT_EQ(recorder.reads, 1);
  watch.DisableWrite();
  watch.EnableRead();
  Turn();
  EXPECT_EQ(recorder.reads, 2);
  EXPECT_THAT(KernelSet(), HasSubstr("events: 10000019"));
}

TEST_P(EpollFaults, EO28_TheHintIsDroppedWhereItIsRefused) {
  Pair pipe = MakePipe();
  pipe.Write();
  Recorder recorder;
  system_->FailOnce(SystemCall::kEpollCtl, EINVAL);
  FdWatch watch =
      Watch(pipe.a.get(), {.on_readable = &Recorder::On, .context = &recorder, .exclusive = true});
  Turn();
  EXPECT_EQ(recorder.reads, 1);
}

TEST_P(EpollFaults, EO17_AFailureToMakeTheSetIsAStatus) {
  system_->FailOnce(SystemCall::kEpollCreate1, EMFILE);
  EXPECT_THAT(EventLoop::Create({.backend = Backend::kEpoll}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("epoll_create1")));
}

TEST_P(EpollFaults, EO16_TheForkStampWorksWithoutPagesThatAreWiped) {
  system_->FailOnce(SystemCall::kMadvise, EINVAL);
  MakeLoop({});
  const int64_t asked = system_->Count(SystemCall::kGetpid);
  Turn();
  EXPECT_GT(system_->Count(SystemCall::kGetpid), asked);
  MakeLoop({});
  const int64_t before = system_->Count(SystemCall::kGetpid);
  Turn();
  EXPECT_EQ(system_->Count(SystemCall::kGetpid), before);  // and costs nothing with them
}

INSTANTIATE_TEST_SUITE_P(Backends, EpollFaults, testing::Values(kBackendRows[0]), BackendTestName);

TEST(Backends, ParseBackendKnowsTheNamesAndRefusesOthers) {
  for (const Backend backend : {Backend::kBest, Backend::kEpoll, Backend::kKqueue, Backend::kPoll,
                                Backend::kSelect, Backend::kIoUring}) {
    EXPECT_THAT(ParseBackend(BackendName(backend)), IsOkAndHolds(backend));
  }
  EXPECT_THAT(ParseBackend("devpoll"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ParseBackend(""), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(Backends, OneThatThisSystemLacksSaysSo) {
  EXPECT_THAT(EventLoop::Create({.backend = Backend::kKqueue}),
              StatusIs(absl::StatusCode::kUnimplemented));
  // io_uring is there unless a sandbox or the administrator refuses it.
  const bool io_uring = EventLoop::Create({.backend = Backend::kIoUring}).ok();
  std::vector<Backend> available = {Backend::kEpoll, Backend::kPoll, Backend::kSelect};
  if (io_uring) available.push_back(Backend::kIoUring);
  EXPECT_EQ(AvailableBackends(), available);
  absl::StatusOr<std::unique_ptr<EventLoop>> best = EventLoop::Create({});
  ASSERT_THAT(best, IsOk());
  EXPECT_EQ((*best)->backend(), Backend::kEpoll);
}

}  // namespace
}  // namespace posthouse

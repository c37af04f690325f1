// KqueueDouble keeps what the manuals promise and what kernels were measured to do, and each switch
// of KqueueQuirks does what it says.

#include "tests/event/kqueue_double.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/kqueue.h"
#include "posthouse/testing/event_wait.h"
#include "tests/event/event_fixture.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

using Event = struct kevent;

Event Change(int fd, unsigned filter, unsigned flags, unsigned note = 0, int64_t data = 0,
             int tag = 0) {
  Event change = {};
  change.ident = static_cast<uintptr_t>(fd);
  change.filter = static_cast<decltype(change.filter)>(filter);
  change.flags = static_cast<decltype(change.flags)>(flags);
  change.fflags = note;
  change.data = data;
  change.udata = (decltype(change.udata))static_cast<uintptr_t>(tag);
  return change;
}

uintptr_t Tag(const Event& event) { return (uintptr_t)event.udata; }

void Fill(int fd) {
  const std::string block(65536, 'x');
  while (os::Write(fd, block.data(), block.size()) > 0) {
  }
}

class KqueueDoubleTest : public testing::Test {
 protected:
  void SetUp() override { UseQuirks({}); }

  void UseQuirks(const KqueueQuirks& quirks) {
    kernel_.set_quirks(quirks);
    system_->SetKqueue(&kernel_);
    queue_.Reset(os::Kqueue());
    ASSERT_TRUE(queue_.valid());
  }

  // Returns 0 or the error of one change without an event list.
  int Do(const Event& change) {
    return os::Kevent(queue_.get(), &change, 1, nullptr, 0, nullptr) == 0 ? 0 : errno;
  }

  // What is ready now, with room for so many.
  std::vector<Event> Ready(int capacity = 16) {
    std::vector<Event> events(capacity);
    const timespec now = {};
    const int found = os::Kevent(queue_.get(), nullptr, 0, events.data(), capacity, &now);
    EXPECT_GE(found, 0) << errno;
    events.resize(found > 0 ? found : 0);
    return events;
  }

  // The one event there is.
  Event One() {
    const std::vector<Event> events = Ready();
    EXPECT_EQ(events.size(), 1u);
    return events.empty() ? Event() : events[0];
  }

  FdLeakCheck descriptors_;
  ChildCheck children_;
  KqueueDouble kernel_;
  ScopedInterposer system_;
  UniqueFd queue_;
};

TEST_F(KqueueDoubleTest, ReadIsALevelThatCountsBytes) {
  Pair pipe = MakePipe();
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD, 0, 0, 7)), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  pipe.Write("abc");
  for (int i = 0; i < 2; ++i) {
    const Event event = One();
    EXPECT_EQ(event.ident, static_cast<uintptr_t>(pipe.a.get()));
    EXPECT_EQ(event.filter, EVFILT_READ);
    EXPECT_EQ(event.data, 3);
    EXPECT_EQ(event.flags & EV_EOF, 0u);
    EXPECT_EQ(Tag(event), 7u);
  }
  ReadSome(pipe.a.get());  // drained before the wait
  EXPECT_THAT(Ready(), IsEmpty());
}

TEST_F(KqueueDoubleTest, ClearIsSilentUntilThereIsNews) {
  Pair pipe = MakePipe();
  pipe.Write("abc");
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD | EV_CLEAR)), 0);
  EXPECT_EQ(One().data, 3);
  EXPECT_THAT(Ready(), IsEmpty());
  pipe.Write("d");
  EXPECT_EQ(One().data, 4);
  EXPECT_THAT(Ready(), IsEmpty());
  pipe.b.Reset();
  EXPECT_NE(One().flags & EV_EOF, 0u);
  EXPECT_THAT(Ready(), IsEmpty());  // once
}

TEST_F(KqueueDoubleTest, Quirk_ClearRepeats) {
  UseQuirks({.clear_repeats = true});
  Pair pipe = MakePipe();
  pipe.Write("abc");
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD | EV_CLEAR)), 0);
  EXPECT_EQ(One().data, 3);
  ReadSome(pipe.a.get(), 1);
  EXPECT_EQ(One().data, 2);
  EXPECT_THAT(Ready(), IsEmpty());
}

TEST_F(KqueueDoubleTest, WriteTellsRoomAndBothFiltersAreTwoEvents) {
  Pair sockets = MakeSockets();
  sockets.Write();
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_READ, EV_ADD)), 0);
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_WRITE, EV_ADD)), 0);
  std::vector<Event> events = Ready();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].filter, EVFILT_READ);
  EXPECT_EQ(events[1].filter, EVFILT_WRITE);
  EXPECT_GT(events[1].data, 0);
  Fill(sockets.a.get());
  EXPECT_EQ(One().filter, EVFILT_READ);
}

TEST_F(KqueueDoubleTest, Quirk_Reversed) {
  UseQuirks({.reversed = true});
  Pair sockets = MakeSockets();
  sockets.Write();
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_READ, EV_ADD)), 0);
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_WRITE, EV_ADD)), 0);
  const std::vector<Event> events = Ready();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].filter, EVFILT_WRITE);
  EXPECT_EQ(events[1].filter, EVFILT_READ);
}

TEST_F(KqueueDoubleTest, ADisabledFilterIsSilentAndEnablingKeepsTheOldUdata) {
  Pair pipe = MakePipe();
  pipe.Write();
  const int fd = pipe.a.get();
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD | EV_DISABLE, 0, 0, 1)), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ENABLE, 0, 0, 2)), 0);
  EXPECT_EQ(Tag(One()), 1u);
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_DISABLE)), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD, 0, 0, 3)), 0);  // the manual: it is enabled
  EXPECT_EQ(Tag(One()), 3u);
}

TEST_F(KqueueDoubleTest, Quirk_AddStaysDisabled) {
  UseQuirks({.add_stays_disabled = true});
  Pair pipe = MakePipe();
  pipe.Write();
  const int fd = pipe.a.get();
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD | EV_DISABLE)), 0);
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD)), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD | EV_ENABLE)), 0);
  EXPECT_THAT(Ready(), testing::SizeIs(1));
}

TEST_F(KqueueDoubleTest, OneShotGoesAndDispatchIsDisabledWhenTold) {
  Pair pipe = MakePipe();
  pipe.Write();
  const int fd = pipe.a.get();
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD | EV_ONESHOT)), 0);
  EXPECT_THAT(Ready(), testing::SizeIs(1));
  EXPECT_EQ(kernel_.CountKnotes(fd), 0);
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD | EV_DISPATCH)), 0);
  EXPECT_THAT(Ready(), testing::SizeIs(1));
  EXPECT_THAT(Ready(), IsEmpty());
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ENABLE)), 0);
  EXPECT_THAT(Ready(), testing::SizeIs(1));
}

TEST_F(KqueueDoubleTest, DeletingDropsWhatWouldHaveBeenTold) {
  Pair pipe = MakePipe();
  pipe.Write();
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD)), 0);
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_DELETE)), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  EXPECT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_DELETE)), ENOENT);
  EXPECT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ENABLE)), ENOENT);
}

TEST_F(KqueueDoubleTest, Quirk_DeleteSaysEnoent) {
  UseQuirks({.delete_says_enoent = true});
  Pair pipe = MakePipe();
  pipe.Write();
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD)), 0);
  EXPECT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_DELETE)), ENOENT);
  EXPECT_THAT(Ready(), IsEmpty());
}

TEST_F(KqueueDoubleTest, EndOfFileComesWithTheDataThatIsLeftAndStays) {
  for (const bool socket : {false, true}) {
    Pair pair = socket ? MakeSockets() : MakePipe();
    pair.Write("abc");
    pair.b.Reset();
    ASSERT_EQ(Do(Change(pair.a.get(), EVFILT_READ, EV_ADD)), 0);
    Event event = One();
    EXPECT_NE(event.flags & EV_EOF, 0u);
    EXPECT_EQ(event.data, 3);
    ReadSome(pair.a.get());
    for (int i = 0; i < 2; ++i) {
      event = One();
      EXPECT_NE(event.flags & EV_EOF, 0u);
      EXPECT_EQ(event.data, 0);
    }
  }
}

TEST_F(KqueueDoubleTest, AHalfThatIsShutDownEndsReadingAndLeavesWriting) {
  Pair sockets = MakeSockets();
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_READ, EV_ADD)), 0);
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_WRITE, EV_ADD)), 0);
  ASSERT_EQ(os::Shutdown(sockets.b.get(), SHUT_WR), 0);
  std::vector<Event> events = Ready();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_NE(events[0].flags & EV_EOF, 0u);
  EXPECT_EQ(events[1].flags & EV_EOF, 0u);
  sockets.b.Reset();  // the whole peer
  events = Ready();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_NE(events[1].flags & EV_EOF, 0u);
}

TEST_F(KqueueDoubleTest, APipeThatLosesItsReaderEndsWriting) {
  for (const bool full : {false, true}) {
    Pair pipe = MakePipe();
    if (full) Fill(pipe.b.get());
    ASSERT_EQ(Do(Change(pipe.b.get(), EVFILT_WRITE, EV_ADD)), 0);
    pipe.a.Reset();
    EXPECT_NE(One().flags & EV_EOF, 0u);
    EXPECT_EQ(Do(Change(pipe.b.get(), EVFILT_WRITE, EV_DELETE)), 0);
    EXPECT_EQ(Do(Change(pipe.b.get(), EVFILT_WRITE, EV_ADD)), EPIPE);
    EXPECT_EQ(kernel_.CountKnotes(pipe.b.get()), 0);
  }
}

TEST_F(KqueueDoubleTest, Quirk_AddWriteError) {
  UseQuirks({.add_write_error = EBADF});
  Pair pipe = MakePipe();
  pipe.a.Reset();
  EXPECT_EQ(Do(Change(pipe.b.get(), EVFILT_WRITE, EV_ADD)), EBADF);
  EXPECT_EQ(kernel_.CountKnotes(pipe.b.get()), 0);
}

TEST_F(KqueueDoubleTest, Quirk_FullPipeHidesLossOfReader) {
  UseQuirks({.full_pipe_hides_loss_of_reader = true});
  for (const bool full : {false, true}) {
    Pair pipe = MakePipe();
    if (full) Fill(pipe.b.get());
    ASSERT_EQ(Do(Change(pipe.b.get(), EVFILT_WRITE, EV_ADD)), 0);
    pipe.a.Reset();
    EXPECT_EQ(Ready().size(), full ? 0u : 1u);
  }
}

TEST_F(KqueueDoubleTest, AListenerIsReadable) {
  UniqueFd listener(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(os::Bind(listener.get(), generic, length), 0);
  ASSERT_EQ(os::Listen(listener.get(), 1), 0);
  ASSERT_EQ(os::Getsockname(listener.get(), generic, &length), 0);
  ASSERT_EQ(Do(Change(listener.get(), EVFILT_READ, EV_ADD)), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  UniqueFd client(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec, 0));
  ASSERT_EQ(os::Connect(client.get(), generic, length), 0);
  EXPECT_EQ(One().data, 1);
}

TEST_F(KqueueDoubleTest, ALowWaterMarkHoldsForSocketsAndNotForPipes) {
  Pair sockets = MakeSockets();
  Pair pipe = MakePipe();
  sockets.Write("ab");
  pipe.Write("ab");
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_READ, EV_ADD, NOTE_LOWAT, 3)), 0);
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD, NOTE_LOWAT, 3)), 0);
  EXPECT_EQ(One().ident, static_cast<uintptr_t>(pipe.a.get()));
  sockets.Write("c");
  EXPECT_THAT(Ready(), testing::SizeIs(2));
  // Another EV_ADD changes it.
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_READ, EV_ADD, NOTE_LOWAT, 4)), 0);
  EXPECT_THAT(Ready(), testing::SizeIs(1));
  sockets.b.Reset();  // the end of file is told whatever the mark
  EXPECT_THAT(Ready(), testing::SizeIs(2));
}

TEST_F(KqueueDoubleTest, Quirk_IgnoresLowWaterMark) {
  UseQuirks({.ignores_low_water_mark = true});
  Pair sockets = MakeSockets();
  sockets.Write("ab");
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_READ, EV_ADD, NOTE_LOWAT, 3)), 0);
  EXPECT_THAT(Ready(), testing::SizeIs(1));
}

#if defined(EVFILT_EXCEPT) && defined(NOTE_OOB)
TEST_F(KqueueDoubleTest, UrgentDataIsAnExceptEvent) {
  Pair sockets = MakeSockets();
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_EXCEPT, EV_ADD, NOTE_OOB)), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  EXPECT_EQ(Do(Change(sockets.a.get(), EVFILT_EXCEPT, EV_DELETE)), 0);
  EXPECT_EQ(Do(Change(sockets.a.get(), EVFILT_EXCEPT, EV_ADD, 0)), EINVAL);
  Pair pipe = MakePipe();
  EXPECT_EQ(Do(Change(pipe.a.get(), EVFILT_EXCEPT, EV_ADD, NOTE_OOB)), EINVAL);
}

TEST_F(KqueueDoubleTest, Quirk_LacksExceptFilter) {
  UseQuirks({.lacks_except_filter = true});
  Pair sockets = MakeSockets();
  EXPECT_EQ(Do(Change(sockets.a.get(), EVFILT_EXCEPT, EV_ADD, NOTE_OOB)), EINVAL);
}
#endif

TEST_F(KqueueDoubleTest, ClosingANumberTakesItsFiltersWhateverDuplicatesThereAre) {
  Pair pipe = MakePipe();
  pipe.Write();
  const int fd = pipe.a.get();
  UniqueFd copy(os::Fcntl(fd, F_DUPFD_CLOEXEC, 100));
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD)), 0);
  pipe.a.Reset();
  EXPECT_EQ(kernel_.CountKnotes(fd), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  EXPECT_EQ(Do(Change(fd, EVFILT_READ, EV_DELETE)), EBADF);
  EXPECT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD)), EBADF);
  // The number is another file now.
  ASSERT_EQ(os::Dup3(copy.get(), fd, O_CLOEXEC), fd);
  pipe.a.Reset(fd);
  EXPECT_EQ(Do(Change(fd, EVFILT_READ, EV_DELETE)), ENOENT);
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD)), 0);
  EXPECT_THAT(Ready(), testing::SizeIs(1));
  // Taking a number closes it.
  ASSERT_EQ(os::Dup2(copy.get(), fd), fd);
  EXPECT_EQ(kernel_.CountKnotes(fd), 0);
  ASSERT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD)), 0);
  ASSERT_EQ(os::Dup2(fd, fd), fd);  // closes nothing
  EXPECT_EQ(kernel_.CountKnotes(fd), 1);
#if defined(__linux__)
  ASSERT_EQ(os::CloseRange(copy.get(), copy.get(), 0), 0);
  copy.Release();
  EXPECT_EQ(kernel_.CountKnotes(fd), 1);
  ASSERT_EQ(os::CloseRange(fd, fd, 0), 0);
  pipe.a.Release();
  EXPECT_EQ(kernel_.CountKnotes(fd), 0);
#endif
}

TEST_F(KqueueDoubleTest, Quirk_DeleteClosedError) {
  UseQuirks({.delete_closed_error = ENOENT});
  Pair pipe = MakePipe();
  const int fd = pipe.a.get();
  pipe.a.Reset();
  EXPECT_EQ(Do(Change(fd, EVFILT_READ, EV_DELETE)), ENOENT);
  EXPECT_EQ(Do(Change(fd, EVFILT_READ, EV_ADD)), EBADF);
}

TEST_F(KqueueDoubleTest, AnErrorGoesToTheListIfThereIsRoomAndComesAlone) {
  Pair pipe = MakePipe();
  Pair other = MakePipe();
  pipe.Write();
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD)), 0);
  const Event changes[] = {Change(pipe.a.get(), EVFILT_WRITE, EV_DELETE),
                           Change(other.a.get(), EVFILT_READ, EV_ADD)};
  Event events[4] = {};
  const timespec now = {};
  ASSERT_EQ(os::Kevent(queue_.get(), changes, 2, events, 4, &now), 1);
  EXPECT_NE(events[0].flags & EV_ERROR, 0u);
  EXPECT_EQ(events[0].data, ENOENT);
  EXPECT_EQ(kernel_.CountKnotes(other.a.get()), 1);  // the rest is done
  EXPECT_THAT(Ready(), testing::SizeIs(1));          // what was pending comes next
}

TEST_F(KqueueDoubleTest, AnErrorWithoutRoomEndsTheCall) {
  Pair pipe = MakePipe();
  const Event changes[] = {Change(pipe.a.get(), EVFILT_READ, EV_DELETE),
                           Change(pipe.a.get(), EVFILT_READ, EV_ADD)};
  EXPECT_EQ(os::Kevent(queue_.get(), changes, 2, nullptr, 0, nullptr), -1);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(kernel_.CountKnotes(pipe.a.get()), 0);
}

TEST_F(KqueueDoubleTest, AReceiptIsAnErrorOfZeroAndTakesNoEvent) {
  Pair pipe = MakePipe();
  pipe.Write();
  const Event change = Change(pipe.a.get(), EVFILT_READ, EV_ADD | EV_RECEIPT);
  Event events[4] = {};
  ASSERT_EQ(os::Kevent(queue_.get(), &change, 1, events, 4, nullptr), 1);
  EXPECT_NE(events[0].flags & EV_ERROR, 0u);
  EXPECT_EQ(events[0].data, 0);
  EXPECT_THAT(Ready(), testing::SizeIs(1));
}

TEST_F(KqueueDoubleTest, WrongArgumentsAreRefused) {
  Event event = {};
  for (const timespec wrong : {timespec{0, 1000000000}, timespec{0, -1}, timespec{-1, 0}}) {
    EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, &wrong), -1);
    EXPECT_EQ(errno, EINVAL);
  }
  const timespec now = {};
  Pair pipe = MakePipe();
  for (const int fd : {pipe.a.get(), -1, 999}) {
    EXPECT_EQ(os::Kevent(fd, nullptr, 0, &event, 1, &now), -1);
    EXPECT_EQ(errno, EBADF);
  }
  EXPECT_EQ(Do(Change(pipe.a.get(), 77, EV_ADD)), EINVAL);
  EXPECT_EQ(Do(Change(-1, EVFILT_READ, EV_ADD)), EBADF);
  const int old = queue_.get();
  queue_.Reset();  // and one that is closed is none
  EXPECT_EQ(os::Kevent(old, nullptr, 0, &event, 1, &now), -1);
  EXPECT_EQ(errno, EBADF);
}

TEST_F(KqueueDoubleTest, AShortListServesAllInTurn) {
  for (const int longest : {0, 1}) {
    UseQuirks({.longest_list = longest});
    Pair pipes[3];
    std::set<uintptr_t> expected;
    for (Pair& pair : pipes) {
      pair = MakePipe();
      pair.Write();
      expected.insert(pair.a.get());
      ASSERT_EQ(Do(Change(pair.a.get(), EVFILT_READ, EV_ADD)), 0);
    }
    std::set<uintptr_t> told;
    for (int i = 0; i < 3; ++i) {
      const std::vector<Event> events = Ready(longest == 0 ? 1 : 16);
      ASSERT_EQ(events.size(), 1u);
      told.insert(events[0].ident);
    }
    EXPECT_EQ(told, expected);
  }
}

TEST_F(KqueueDoubleTest, AWaitSleepsUntilItsTimeOrAnEvent) {
  Pair pipe = MakePipe();
  Event event = {};
  ASSERT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD)), 0);
  const int64_t start = os::SteadyNanos();
  const timespec limit = {0, 20500000};
  EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, &limit), 0);
  EXPECT_GE(os::SteadyNanos() - start, 20500000);
  // Data below a mark is no event and does not end it either.
  Pair sockets = MakeSockets();
  sockets.Write();
  ASSERT_EQ(Do(Change(sockets.a.get(), EVFILT_READ, EV_ADD, NOTE_LOWAT, 3)), 0);
  EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, &limit), 0);
  const pid_t child = os::Fork();
  if (child == 0) {
    // Somebody else, whose moment is not ours.
    ::_exit(os::Write(sockets.b.get(), "bc", 2) == 2 ? 0 : 1);
  }
  EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, nullptr), 1);
  EXPECT_EQ(event.data, 3);
  EXPECT_EQ(WaitForExit(child).value_or(-1), 0);
}

TEST_F(KqueueDoubleTest, ASignalEndsTheSleep) {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  struct sigaction old = {};
  ASSERT_EQ(os::Sigaction(SIGALRM, &action, &old), 0);
  itimerval soon = {};
  soon.it_value.tv_usec = 1000;
  soon.it_interval.tv_usec = 1000;  // should the first come before the sleep
  ASSERT_EQ(os::Setitimer(ITIMER_REAL, &soon, nullptr), 0);
  Event event = {};
  EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, nullptr), -1);
  EXPECT_EQ(errno, EINTR);
  const itimerval none = {};
  os::Setitimer(ITIMER_REAL, &none, nullptr);
  os::Sigaction(SIGALRM, &old, nullptr);
}

TEST_F(KqueueDoubleTest, Quirk_InterruptedEvery) {
  UseQuirks({.interrupted_every = 2});
  Pair pipe = MakePipe();
  Event event = {};
  const timespec limit = {0, 1000000};
  const Event change = Change(pipe.a.get(), EVFILT_READ, EV_ADD);
  EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, &limit), 0);
  EXPECT_EQ(os::Kevent(queue_.get(), &change, 1, &event, 1, &limit), -1);
  EXPECT_EQ(errno, EINTR);
  EXPECT_EQ(kernel_.CountKnotes(pipe.a.get()), 1);  // the change was made
  pipe.Write();
  EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, nullptr), 1);  // no sleep, no signal
}

TEST_F(KqueueDoubleTest, AChildHasNoQueueAndItsNumberIsFree) {
  const pid_t child = os::Fork();
  if (child == 0) {
    const timespec now = {};
    Event event = {};
    const bool gone = os::Kevent(queue_.get(), nullptr, 0, &event, 1, &now) == -1 && errno == EBADF;
    const bool free = os::Fcntl(queue_.get(), F_GETFD, 0) < 0;
    ::_exit(gone && free ? 0 : 1);
  }
  EXPECT_EQ(WaitForExit(child).value_or(-1), 0);
  EXPECT_THAT(Ready(), IsEmpty());  // the parent's is as it was
}

TEST_F(KqueueDoubleTest, AQueueIsMadeWithoutCloseOnExec) {
  EXPECT_EQ(os::Fcntl(queue_.get(), F_GETFD, 0), 0);
  EXPECT_THAT(kernel_.Queues(), ElementsAre(queue_.get()));
}

TEST_F(KqueueDoubleTest, ARegularFileIsReadableUpToItsEndAndNotWritable) {
  const char* temp = ::getenv("TEST_TMPDIR");
  const std::string path = std::string(temp != nullptr ? temp : "/tmp") + "/regular";
  UniqueFd file(os::Open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  ASSERT_EQ(Do(Change(file.get(), EVFILT_READ, EV_ADD)), 0);
  EXPECT_THAT(Ready(), IsEmpty());
  ASSERT_EQ(os::Write(file.get(), "abc", 3), 3);
  EXPECT_THAT(Ready(), IsEmpty());
  UniqueFd again(os::Open(path.c_str(), O_RDONLY | O_CLOEXEC, 0));
  ASSERT_EQ(Do(Change(again.get(), EVFILT_READ, EV_ADD)), 0);
  EXPECT_EQ(One().data, 3);
  EXPECT_EQ(Do(Change(file.get(), EVFILT_WRITE, EV_ADD)), EINVAL);
}

TEST_F(KqueueDoubleTest, Quirk_DeviceError) {
  UniqueFd null(os::Open("/dev/null", O_RDWR | O_CLOEXEC, 0));
  EXPECT_EQ(Do(Change(null.get(), EVFILT_READ, EV_ADD)), EINVAL);
  UseQuirks({.device_error = ENODEV});
  EXPECT_EQ(Do(Change(null.get(), EVFILT_READ, EV_ADD)), ENODEV);
}

// Counts, faults and time are the interposer's, as for every other wait.
TEST_F(KqueueDoubleTest, TheInterposerCountsFailsAndTimesBothKindsOfCall) {
  Pair pipe = MakePipe();
  const CallCounts before = system_->Counts();
  system_->FailOnce(SystemCall::kKeventWait, EBADF);
  EXPECT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_ADD)), 0);
  Event event = {};
  EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, nullptr), -1);
  EXPECT_EQ(errno, EBADF);
  system_->FailOnce(SystemCall::kKevent, ENOMEM);
  EXPECT_EQ(Do(Change(pipe.a.get(), EVFILT_READ, EV_DELETE)), ENOMEM);
  EXPECT_EQ(kernel_.CountKnotes(pipe.a.get()), 1);
  system_->UseFakeClock();
  const int64_t start = os::SteadyNanos();
  const timespec day = {86400, 0};
  EXPECT_EQ(os::Kevent(queue_.get(), nullptr, 0, &event, 1, &day), 0);
  EXPECT_EQ(os::SteadyNanos() - start, int64_t{86400} * 1000000000);
  const CallCounts calls = system_->Counts() - before;
  EXPECT_EQ(calls[SystemCall::kKevent], 2);
  EXPECT_EQ(calls[SystemCall::kKeventWait], 2);
}

// The kernel that there is without a double; on Linux it has no such call.
#if defined(__linux__)
TEST(KqueueOfTheSystem, IsNotThere) {
  ScopedInterposer system;
  EXPECT_EQ(os::Kqueue(), -1);
  EXPECT_EQ(errno, ENOSYS);
  Event event = {};
  EXPECT_EQ(os::Kevent(0, nullptr, 0, &event, 1, nullptr), -1);
  EXPECT_EQ(errno, ENOSYS);
}
#endif

}  // namespace
}  // namespace posthouse

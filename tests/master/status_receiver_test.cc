// status_receiver.h: the master's side of the status channel, with real processes that write.

#include "posthouse/master/status_receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/master/protocol.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr int kTaken = 0;
constexpr int kAvail = 1;

// What a worker does: one write(2) of 12 bytes (P15). Async-signal-safe.
bool Say(int fd, int32_t pid, uint32_t generation, int32_t availability) {
  const StatusMessageBytes bytes = EncodeStatusMessage({pid, generation, availability});
  return write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
}

class StatusReceiverTest : public testing::Test {
 protected:
  StatusReceiverTest() {
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create({});
    EXPECT_THAT(loop, IsOk());
    loop_ = *std::move(loop);
    MakeReceiver();
  }

  void MakeReceiver() {
    StatusReceiver::Handlers handlers;
    handlers.on_batch = [this](const StatusBatch& batch) {
      EXPECT_FALSE(batch.empty());
      batches_++;
      messages_.insert(messages_.end(), batch.messages.begin(), batch.messages.end());
      gossip_.insert(gossip_.end(), batch.gossip.begin(), batch.gossip.end());
      for (const StatusWriter& writer : batch.writers) writers_[writer.pid] += writer.charge;
      cost_ns_ += batch.cost_ns;
      if (also_) std::exchange(also_, nullptr)();
    };
    handlers.on_broken = [this] { broken_++; };
    receiver_ = std::make_unique<StatusReceiver>(loop_.get(), std::move(handlers));
    EXPECT_THAT(receiver_->Open(), IsOk());
  }

  // A worker: `body` runs in a process of its own with the worker's end, and its result is the exit
  // status.
  pid_t Fork(const std::function<int(int fd)>& body) {
    const int fd = receiver_->worker_fd();
    const pid_t pid = fork();
    if (pid == 0) _exit(body(fd));
    EXPECT_GT(pid, 0);
    return pid;
  }
  int ForkAndWait(const std::function<int(int fd)>& body) {
    const pid_t pid = Fork(body);
    EXPECT_EQ(WaitForExit(pid).value_or(-1), 0);
    return pid;
  }

  void Turn() { EXPECT_THAT(loop_->RunOnce(absl::ZeroDuration()), IsOk()); }
  bool RunUntil(const std::function<bool()>& condition) {
    return WaitUntil([&] {
      EXPECT_THAT(loop_->RunOnce(absl::Milliseconds(5)), IsOk());
      return condition();
    });
  }

  // "pid.generation.availability" for messages of the named sender.
  std::vector<std::string> From(pid_t sender) const {
    std::vector<std::string> texts;
    for (const ReceivedStatus& received : messages_) {
      if (received.sender != sender) continue;
      EXPECT_EQ(received.message.pid, sender);
      texts.push_back(std::to_string(received.message.generation) +
                      (received.message.availability == kTaken ? " TAKEN" : " AVAIL"));
    }
    return texts;
  }

  FdLeakCheck fds_;
  ChildCheck children_;
  ScopedInterposer system_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<StatusReceiver> receiver_;
  int batches_ = 0;
  int broken_ = 0;
  std::map<pid_t, int64_t> writers_;  // what each was charged
  int64_t cost_ns_ = 0;
  std::vector<ReceivedStatus> messages_;
  std::vector<StatusGossip> gossip_;
  std::function<void()> also_;  // done once by the handler
};

// P4: "a local stream socket pair. Both ends are in blocking mode"; M69: close-on-exec.
TEST_F(StatusReceiverTest, TheChannelIsAStreamSocketPairInBlockingMode) {
  for (const int fd : {receiver_->master_fd(), receiver_->worker_fd()}) {
    int type = 0;
    socklen_t size = sizeof(type);
    ASSERT_EQ(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size), 0);
    EXPECT_EQ(type, SOCK_STREAM);
    EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  }
}

// P19, PO3: more than the 278 messages of a channel as the kernel makes it.
TEST_F(StatusReceiverTest, AChannelTakesHundredsOfMessagesThatNobodyReads) {
  const StatusMessageBytes bytes = EncodeStatusMessage({getpid(), 1, kTaken});
  int fitted = 0;
  while (send(receiver_->worker_fd(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) ++fitted;
  EXPECT_GT(fitted, 1000);
}

// "the kernel tells for each piece of bytes, and never merges those of two processes; a worker goes
// on using plain write(2)".
TEST_F(StatusReceiverTest, TheKernelSaysWhoWroteEachMessage) {
  const pid_t first = ForkAndWait(
      [](int fd) { return Say(fd, getpid(), 8, kTaken) && Say(fd, getpid(), 8, kAvail) ? 0 : 1; });
  const pid_t second = ForkAndWait([](int fd) { return Say(fd, getpid(), 9, kTaken) ? 0 : 1; });
  Say(receiver_->worker_fd(), getpid(), 10, kTaken);
  Turn();
  EXPECT_THAT(From(first), ElementsAre("8 TAKEN", "8 AVAIL"));
  EXPECT_THAT(From(second), ElementsAre("9 TAKEN"));
  EXPECT_THAT(From(getpid()), ElementsAre("10 TAKEN"));
  EXPECT_THAT(gossip_, IsEmpty());
}

// F70: guessed contents, in the name of a sibling, of the master, and of nobody.
TEST_F(StatusReceiverTest, AMessageInTheNameOfASiblingIsGossip) {
  const pid_t sibling = ForkAndWait([](int fd) { return Say(fd, getpid(), 1, kTaken) ? 0 : 1; });
  const pid_t master = getpid();
  const pid_t forger = ForkAndWait([sibling, master](int fd) {
    return Say(fd, sibling, 1, kAvail) && Say(fd, master, 1, kAvail) && Say(fd, -1, 1, kAvail) &&
                   Say(fd, getpid(), 2, kTaken)
               ? 0
               : 1;
  });
  Turn();
  EXPECT_THAT(From(sibling), ElementsAre("1 TAKEN"));
  EXPECT_THAT(From(forger), ElementsAre("2 TAKEN"));
  EXPECT_THAT(messages_, SizeIs(2));
  ASSERT_THAT(gossip_, SizeIs(3));
  for (const StatusGossip& one : gossip_) {
    EXPECT_EQ(one.kind, StatusGossip::Kind::kForged);
    EXPECT_EQ(one.sender, forger);
  }
}

// F71: short and oversized writes.
TEST_F(StatusReceiverTest, AShortAndAnOversizedWriteAffectTheirSenderAlone) {
  for (size_t size = 1; size < 40; ++size) {
    messages_.clear();
    const pid_t vandal = ForkAndWait([size](int fd) {
      return write(fd, std::string(size, '\xee').data(), size) == static_cast<ssize_t>(size) ? 0
                                                                                             : 1;
    });
    const pid_t good = ForkAndWait([](int fd) {
      return Say(fd, getpid(), 1, kTaken) && Say(fd, getpid(), 1, kAvail) ? 0 : 1;
    });
    receiver_->ReadNow();
    EXPECT_THAT(From(vandal), IsEmpty()) << size;
    EXPECT_THAT(From(good), ElementsAre("1 TAKEN", "1 AVAIL")) << size;
    receiver_->Forget(vandal);
    receiver_->Forget(good);
  }
}

// F43: what is attached is closed by the kernel; the message counts.
TEST_F(StatusReceiverTest, DescriptorsThatComeAlongAreNotKept) {
  const FdSnapshot before = FdSnapshot::Take();
  const pid_t sender = ForkAndWait([](int fd) {
    StatusMessageBytes bytes = EncodeStatusMessage({getpid(), 1, kTaken});
    iovec data = {bytes.data(), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(3 * sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const block = CMSG_FIRSTHDR(&message);
    block->cmsg_level = SOL_SOCKET;
    block->cmsg_type = SCM_RIGHTS;
    block->cmsg_len = CMSG_LEN(3 * sizeof(int));
    const int attached[3] = {fd, fd, fd};
    std::memcpy(CMSG_DATA(block), attached, sizeof(attached));
    return sendmsg(fd, &message, 0) == static_cast<ssize_t>(bytes.size()) ? 0 : 1;
  });
  Turn();
  EXPECT_THAT(From(sender), ElementsAre("1 TAKEN"));
  EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
}

// "reads it in bulk".
TEST_F(StatusReceiverTest, ManyMessagesOfOneSenderCostFewCalls) {
  for (int i = 0; i < 400; ++i) ASSERT_TRUE(Say(receiver_->worker_fd(), getpid(), 1, i % 2));
  const int64_t before = system_->Count(SystemCall::kRecvmsg);
  Turn();
  EXPECT_THAT(messages_, SizeIs(400));
  EXPECT_LE(system_->Count(SystemCall::kRecvmsg) - before, 2);
  EXPECT_EQ(batches_, 1);
}

// "read at once when something comes after a silence, and while it is busy once per
// kStatusReadInterval".
TEST_F(StatusReceiverTest, ABusyChannelIsReadOncePerInterval) {
  system_->UseFakeClock(ClockMode::kManual);
  MakeReceiver();
  const int fd = receiver_->worker_fd();
  Say(fd, getpid(), 1, kTaken);
  Turn();
  EXPECT_THAT(messages_, SizeIs(1)) << "at once after a silence";
  for (int round = 1; round <= 5; ++round) {
    for (int i = 0; i < 10; ++i) Say(fd, getpid(), 1, i % 2);
    const int64_t before = system_->Count(SystemCall::kRecvmsg);
    for (int i = 0; i < 5; ++i) Turn();
    EXPECT_EQ(system_->Count(SystemCall::kRecvmsg), before) << "not before its time";
    system_->Advance(kStatusReadInterval);
    Turn();
    EXPECT_THAT(messages_, SizeIs(1 + 10 * static_cast<size_t>(round)));
  }
  // It has become quiet: after one look that finds nothing, the kernel tells.
  system_->Advance(kStatusReadInterval);
  Turn();
  const int64_t before = system_->Count(SystemCall::kRecvmsg);
  system_->Advance(absl::Hours(1));
  for (int i = 0; i < 5; ++i) Turn();
  EXPECT_EQ(system_->Count(SystemCall::kRecvmsg), before) << "an idle channel costs nothing";
  Say(fd, getpid(), 1, kTaken);
  Turn();
  EXPECT_THAT(messages_, SizeIs(52));
}

// "all busy channels of a loop are read in the same turn".
TEST_F(StatusReceiverTest, AllBusyChannelsAreReadInTheSameTurn) {
  system_->UseFakeClock(ClockMode::kManual);
  MakeReceiver();
  int other_batches = 0;
  StatusReceiver other(loop_.get(), {[&](const StatusBatch&) { other_batches++; }, nullptr});
  ASSERT_THAT(other.Open(), IsOk());
  Say(receiver_->worker_fd(), getpid(), 1, kTaken);
  Turn();
  system_->Advance(absl::Microseconds(300));
  Say(other.worker_fd(), getpid(), 1, kTaken);
  Turn();
  Say(receiver_->worker_fd(), getpid(), 1, kAvail);
  Say(other.worker_fd(), getpid(), 1, kAvail);
  system_->Advance(absl::Microseconds(700));
  Turn();
  EXPECT_EQ(batches_, 2);
  EXPECT_EQ(other_batches, 2);
}

// "ReadNow() reads everything that was written before it was called", bounds or not.
TEST_F(StatusReceiverTest, ReadNowReadsAllThatIsThereWhateverTheTime) {
  system_->UseFakeClock(ClockMode::kManual);
  MakeReceiver();
  const int fd = receiver_->worker_fd();
  receiver_->ReadNow();
  EXPECT_EQ(batches_, 0);
  Say(fd, getpid(), 1, kTaken);
  Turn();
  size_t written = 1;
  const StatusMessageBytes bytes = EncodeStatusMessage({getpid(), 1, kTaken});
  while (send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) ++written;
  receiver_->ReadNow();
  EXPECT_THAT(messages_, SizeIs(written));
}

// F72: "Cost per worker is bounded".
class FloodTest : public StatusReceiverTest {
 protected:
  // A message is charged 1 and its piece 1 more.
  static constexpr size_t kFewest = kMinStatusCharge / 2;
  static constexpr size_t kMost = kMaxStatusCharge;

  void SetUp() override {
    system_->UseFakeClock(ClockMode::kManual);
    MakeReceiver();
    Turn();
  }
  // More than may be read in a turn; in one call, for the test's own time.
  void Fill() {
    const StatusMessageBytes bytes = EncodeStatusMessage({getpid(), 1, kTaken});
    int there = 0;
    ASSERT_EQ(ioctl(receiver_->master_fd(), FIONREAD, &there), 0);
    std::string burst;
    while (static_cast<size_t>(there) + burst.size() < 3 * kMaxStatusCharge * kStatusMessageSize) {
      burst.append(bytes.data(), bytes.size());
    }
    if (burst.empty()) return;
    send(receiver_->worker_fd(), burst.data(), burst.size(), MSG_DONTWAIT);
  }
  void FloodFor(absl::Duration time) {
    for (absl::Duration passed; passed < time; passed += absl::Milliseconds(1)) {
      Fill();
      system_->Advance(absl::Milliseconds(1));
      Turn();
    }
  }
  // How far the clock has to go for the next reading, and how much that takes.
  std::pair<absl::Duration, size_t> Next() {
    Fill();
    const size_t before = messages_.size();
    absl::Duration waited;
    while (messages_.size() == before && waited < absl::Seconds(1)) {
      system_->Advance(absl::Milliseconds(1));
      waited += absl::Milliseconds(1);
      Turn();
    }
    return {waited, messages_.size() - before};
  }
};

TEST_F(FloodTest, AFloodIsReadInBoundedPieces) {
  FloodFor(absl::Milliseconds(100));
  const auto [waited, count] = Next();
  EXPECT_EQ(waited, kStatusReadInterval);
  EXPECT_GE(count, kFewest);
  EXPECT_LE(count, kMost);
}

// A master that gets the processor only now and then does not make its workers wait.
TEST_F(FloodTest, AReadingThatIsLateTakesAsMuchMore) {
  FloodFor(absl::Milliseconds(100));
  const size_t in_time = Next().second;
  const size_t before = messages_.size();
  Fill();
  system_->Advance(4 * kStatusReadInterval);
  Turn();
  EXPECT_GT(messages_.size() - before, 2 * in_time);
}

TEST_F(FloodTest, WhatIsReadInBetweenCounts) {
  FloodFor(absl::Milliseconds(100));
  Fill();
  receiver_->ReadNow();
  Fill();
  const size_t before = messages_.size();
  system_->Advance(kStatusReadInterval);
  Turn();
  EXPECT_EQ(messages_.size(), before) << "the allowance of this turn is used up";
}

TEST_F(FloodTest, WhoeverIsHeldBackIsReadLessOftenUntilItIsCalm) {
  FloodFor(absl::Milliseconds(100));
  receiver_->HoldBack();
  Next();
  Next();  // from the short grid to the long one
  for (int i = 0; i < 3; ++i) {
    const auto [waited, count] = Next();
    EXPECT_EQ(waited, kHeldBackReadInterval);
    EXPECT_LE(count, kMost);
  }
  while (receiver_->ReadNow(), messages_.size() > 0) messages_.clear();
  for (int i = 0; i < 3; ++i) {
    system_->Advance(kHeldBackReadInterval);
    Turn();
  }
  Say(receiver_->worker_fd(), getpid(), 1, kTaken);
  Turn();
  EXPECT_THAT(messages_, SizeIs(1)) << "at once again";
}

TEST_F(FloodTest, TellsWhoWroteHowMuchAndWhatItCost) {
  Say(receiver_->worker_fd(), getpid(), 1, kTaken);
  Turn();
  EXPECT_EQ(writers_[getpid()], 2);
  EXPECT_EQ(cost_ns_, 0) << "a quiet channel is not measured";
  const pid_t other = ForkAndWait([](int fd) {
    for (int i = 0; i < 100; ++i) Say(fd, getpid(), 1, kTaken);
    return 0;
  });
  Fill();
  system_->Advance(8 * kStatusReadInterval);
  Turn();
  EXPECT_GE(writers_[other], 101);
  EXPECT_GT(writers_[getpid()], 1000);
  EXPECT_GT(cost_ns_, 0);
}

// P41, M104: "closes both ends and makes a new one"; what was written before is not read.
TEST_F(StatusReceiverTest, OpeningANewPairEndsTheOldOneForItsWorkers) {
  int told[2];
  ASSERT_EQ(pipe(told), 0);
  const pid_t worker = Fork([told](int fd) {
    signal(SIGPIPE, SIG_IGN);
    char byte;
    if (!Say(fd, getpid(), 1, kTaken) || write(told[1], "x", 1) != 1) return 1;
    // As a child of its own it has the master's end too, which an executed program has not.
    for (int other = 3; other < 100; ++other) {
      if (other != fd) close(other);
    }
    // P43: whatever it is that makes the channel readable. With messages unread it is an error.
    return read(fd, &byte, 1) <= 0 && !Say(fd, getpid(), 1, kAvail) ? 0 : 2;
  });
  char byte;
  ASSERT_EQ(read(told[0], &byte, 1), 1);
  const int old_fd = receiver_->worker_fd();
  ASSERT_THAT(receiver_->Open(), IsOk());
  EXPECT_EQ(WaitForExit(worker).value_or(-1), 0);
  EXPECT_GE(old_fd, 0);
  Turn();
  EXPECT_EQ(batches_, 0);
  const pid_t second = ForkAndWait([](int fd) { return Say(fd, getpid(), 2, kTaken) ? 0 : 1; });
  Turn();
  EXPECT_THAT(From(second), ElementsAre("2 TAKEN"));
  receiver_->Close();
  EXPECT_EQ(receiver_->worker_fd(), -1);
  receiver_->ReadNow();
  close(told[0]);
  close(told[1]);
}

TEST_F(StatusReceiverTest, TheHandlerMayReadOrOpenOrCloseTheChannel) {
  also_ = [this] {
    Say(receiver_->worker_fd(), getpid(), 2, kTaken);
    receiver_->ReadNow();
  };
  Say(receiver_->worker_fd(), getpid(), 1, kTaken);
  Turn();
  EXPECT_THAT(From(getpid()), ElementsAre("1 TAKEN", "2 TAKEN"));
  messages_.clear();
  also_ = [this] { EXPECT_THAT(receiver_->Open(), IsOk()); };
  Say(receiver_->worker_fd(), getpid(), 3, kTaken);
  receiver_->ReadNow();
  Say(receiver_->worker_fd(), getpid(), 4, kTaken);
  Turn();
  EXPECT_THAT(From(getpid()), ElementsAre("3 TAKEN", "4 TAKEN"));
  also_ = [this] { receiver_->Close(); };
  Say(receiver_->worker_fd(), getpid(), 5, kTaken);
  EXPECT_TRUE(RunUntil([this] { return receiver_->worker_fd() < 0; }));
}

// "A channel that a worker has shut down delivers end-of-file for ever": told once, no spin (P36).
TEST_F(StatusReceiverTest, AChannelThatAWorkerHasShutDownIsBrokenAndNotReadAnyMore) {
  const pid_t worker = ForkAndWait(
      [](int fd) { return Say(fd, getpid(), 1, kTaken) && shutdown(fd, SHUT_WR) == 0 ? 0 : 1; });
  EXPECT_TRUE(RunUntil([this] { return broken_ > 0; }));
  EXPECT_THAT(From(worker), ElementsAre("1 TAKEN"));
  const int64_t before = system_->Count(SystemCall::kRecvmsg);
  for (int i = 0; i < 10; ++i) Turn();
  receiver_->ReadNow();
  EXPECT_EQ(system_->Count(SystemCall::kRecvmsg), before);
  EXPECT_EQ(broken_, 1);
  ASSERT_THAT(receiver_->Open(), IsOk());
  Say(receiver_->worker_fd(), getpid(), 2, kTaken);
  Turn();
  EXPECT_THAT(From(getpid()), ElementsAre("2 TAKEN"));
}

TEST_F(StatusReceiverTest, AnEndThatAWorkerMadeForItsSiblingsIsSeen) {
  EXPECT_FALSE(receiver_->WorkersSeeEnd());
  ForkAndWait([](int fd) { return shutdown(fd, SHUT_RD) == 0 ? 0 : 1; });
  EXPECT_TRUE(receiver_->WorkersSeeEnd());
  ASSERT_THAT(receiver_->Open(), IsOk());
  EXPECT_FALSE(receiver_->WorkersSeeEnd());
}

// "After a failure the one before is as it was."
TEST_F(StatusReceiverTest, APairThatCannotBeMadeLeavesTheOldOneAtWork) {
  const FdSnapshot before = FdSnapshot::Take();
  system_->FailOnce(SystemCall::kSocketpair, EMFILE);
  EXPECT_THAT(receiver_->Open(),
              StatusIs(absl::ErrnoToStatusCode(EMFILE), HasSubstr("socketpair of a status")));
  system_->FailOnce(SystemCall::kSetsockopt, ENOPROTOOPT);
  EXPECT_THAT(receiver_->Open(),
              StatusIs(absl::ErrnoToStatusCode(ENOPROTOOPT), HasSubstr("SO_PASSCRED")));
  system_->FailOnce(SystemCall::kEpollCtl, ENOSPC);
  EXPECT_FALSE(receiver_->Open().ok());
  EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
  Say(receiver_->worker_fd(), getpid(), 1, kTaken);
  Turn();
  EXPECT_THAT(From(getpid()), ElementsAre("1 TAKEN"));
}

TEST_F(StatusReceiverTest, InterruptedReadingsGoOn) {
  system_->FailEvery(SystemCall::kRecvmsg, EINTR, 2);
  for (int i = 0; i < 10; ++i) {
    ForkAndWait([](int fd) { return Say(fd, getpid(), 1, kTaken) ? 0 : 1; });
  }
  receiver_->ReadNow();
  EXPECT_THAT(messages_, SizeIs(10));
}

// F74: "Worker writes and dies at once, with the two events delivered in both orders". Half of them
// leave a message unfinished. Process numbers come again when there are enough of them.
TEST_F(StatusReceiverTest, WorkersThatWriteAndDieAtOnceAreHeardInEitherOrder) {
#if defined(__SANITIZE_ADDRESS__)
  int races = 100;  // a fork copies much more
#else
  int races = 1000;
#endif
  if (const char* text = getenv("POSTHOUSE_RACES"); text != nullptr) {
    ASSERT_TRUE(absl::SimpleAtoi(text, &races));
  }
  for (int i = 0; i < races; ++i) {
    const uint32_t generation = static_cast<uint32_t>(i);
    const bool unfinished = i % 2 == 1;
    const bool reap_first = i % 4 < 2;
    messages_.clear();
    const pid_t pid = Fork([=](int fd) {
      const bool said = Say(fd, getpid(), generation, kTaken) &&
                        Say(fd, getpid(), generation, kAvail) &&
                        (!unfinished || write(fd, &generation, 3) == 3);
      return said ? 0 : 1;
    });
    siginfo_t info;
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
    if (!reap_first) receiver_->ReadNow();
    ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
    if (reap_first) receiver_->ReadNow();
    receiver_->Forget(pid);
    const std::string number = std::to_string(generation);
    ASSERT_THAT(From(pid), ElementsAre(number + " TAKEN", number + " AVAIL")) << i;
    ASSERT_THAT(messages_, SizeIs(2)) << i;
  }
  EXPECT_THAT(gossip_, IsEmpty());
}

// F72, with a real writer that blocks in write(2) as stock workers do: nothing is lost or changed,
// and a sibling is heard meanwhile.
TEST_F(StatusReceiverTest, AFloodOfARealWorkerArrivesCompleteAndASiblingIsHeardMeanwhile) {
  constexpr uint32_t kMessages = 60000;
  const pid_t flooder = Fork([](int fd) {
    for (uint32_t i = 0; i < kMessages; ++i) {
      if (!Say(fd, getpid(), i, static_cast<int32_t>(i % 2))) return 1;
    }
    return 0;
  });
  const pid_t sibling = Fork([](int fd) {
    for (uint32_t i = 0; i < 100; ++i) {
      if (!Say(fd, getpid(), i, kTaken)) return 1;
    }
    return 0;
  });
  EXPECT_TRUE(RunUntil([&] { return messages_.size() == kMessages + 100; })) << messages_.size();
  std::map<pid_t, uint32_t> next;
  for (const ReceivedStatus& received : messages_) {
    ASSERT_EQ(received.message.pid, received.sender);
    ASSERT_EQ(received.message.generation, next[received.sender]++);
  }
  EXPECT_EQ(next[flooder], kMessages);
  EXPECT_EQ(next[sibling], 100u);
  EXPECT_THAT(gossip_, IsEmpty());
  EXPECT_EQ(WaitForExit(flooder).value_or(-1), 0);
  EXPECT_EQ(WaitForExit(sibling).value_or(-1), 0);
}

}  // namespace
}  // namespace posthouse

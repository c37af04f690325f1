// What the protocol does when calls are interrupted, cut short or refused. This file is the
// answerer of the seam for its own program: a channel made of a script and a clock made of a
// number.

#include <errno.h>
#include <fcntl.h>

#include <cstring>
#include <deque>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/master/protocol.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// One answer to a send, write or read: a number of bytes, or -1 and an errno.
struct Answer {
  ssize_t result;
  int error = 0;
};

struct World {
  std::deque<Answer> answers;  // used up in turn; then every transfer takes everything
  std::string received;        // what send and write took
  int transfers = 0;
  int polls = 0;
  short poll_events = POLLOUT | POLLIN;
  bool poll_fails_with_eintr_once = false;
  bool is_socket = true;
  int flags = O_NONBLOCK;
  int64_t now_ns = 1000000000;
};

World* world = nullptr;

ssize_t Transfer(const void* data, size_t size) {
  ++world->transfers;
  ssize_t result = static_cast<ssize_t>(size);
  if (!world->answers.empty()) {
    const Answer answer = world->answers.front();
    world->answers.pop_front();
    if (answer.result < 0) {
      errno = answer.error;
      return -1;
    }
    result = std::min<ssize_t>(result, answer.result);
  }
  if (data != nullptr) world->received.append(static_cast<const char*>(data), result);
  return result;
}

}  // namespace

namespace os {

ssize_t Send(int fd, const void* data, size_t size, int flags) {
  EXPECT_EQ(flags, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (!world->is_socket) {
    errno = ENOTSOCK;
    return -1;
  }
  return Transfer(data, size);
}
ssize_t Write(int fd, const void* data, size_t size) { return Transfer(data, size); }
ssize_t Read(int fd, void* buffer, size_t size) { return Transfer(nullptr, size); }
int Poll(pollfd* fds, nfds_t count, int timeout_ms) {
  ++world->polls;
  if (world->poll_fails_with_eintr_once) {
    world->poll_fails_with_eintr_once = false;
    world->now_ns += 1000000;
    errno = EINTR;
    return -1;
  }
  fds[0].revents = world->poll_events & (fds[0].events | POLLERR | POLLHUP | POLLNVAL);
  if (fds[0].revents == 0) world->now_ns += int64_t{timeout_ms} * 1000000;
  return fds[0].revents != 0 ? 1 : 0;
}
int Fcntl(int fd, int command, int argument) { return command == F_GETFL ? world->flags : 0; }
int Ioctl(int fd, unsigned long request, void* argument) {
  errno = EBADF;
  return -1;
}
int ClockGettime(clockid_t clock, timespec* out) {
  EXPECT_EQ(clock, CLOCK_MONOTONIC);
  out->tv_sec = world->now_ns / 1000000000;
  out->tv_nsec = world->now_ns % 1000000000;
  return 0;
}

}  // namespace os

namespace {

using Result = WorkerStatus::Result;

class ProtocolFaults : public testing::Test {
 protected:
  ProtocolFaults() { world = &world_; }
  ~ProtocolFaults() override { world = nullptr; }

  static std::string Message(int availability) {
    const StatusMessageBytes bytes = EncodeStatusMessage({5, 1, availability});
    return std::string(bytes.data(), bytes.size());
  }

  World world_;
  WorkerStatus status_{5, 5, 1};
};

TEST_F(ProtocolFaults, PO2_AnInterruptedMessageIsSentAgain) {
  world_.answers = {{-1, EINTR}, {-1, EINTR}};
  EXPECT_EQ(status_.Report(Availability::kAvailable), Result::kSent);
  EXPECT_EQ(world_.received, Message(1));
}

TEST_F(ProtocolFaults, PO2_ACutMessageIsFinishedInTheSameReport) {
  world_.answers = {{5}, {-1, EINTR}, {3}};
  EXPECT_EQ(status_.Report(Availability::kTaken), Result::kSent);
  EXPECT_EQ(world_.received, Message(0));
  EXPECT_FALSE(status_.owes());
}

// At every split point: what was begun is finished before the newer state is sent.
TEST_F(ProtocolFaults, PO2_ACutMessageIsFinishedBeforeAnythingElse) {
  for (ssize_t cut = 1; cut < 12; ++cut) {
    world_ = World();
    WorkerStatus status(5, 5, 1);
    world_.answers = {{cut}, {-1, EAGAIN}};
    EXPECT_EQ(status.Report(Availability::kTaken), Result::kDeferred);
    EXPECT_TRUE(status.owes());
    world_.answers = {{-1, EAGAIN}};
    EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDeferred);
    EXPECT_EQ(world_.received, Message(0).substr(0, cut));
    EXPECT_EQ(status.Flush(), Result::kSent);
    EXPECT_EQ(world_.received, Message(0) + Message(1));
    EXPECT_FALSE(status.owes());
  }
}

TEST_F(ProtocolFaults, PO2_ABegunMessageIsNotSentTwice) {
  world_.answers = {{4}, {-1, EAGAIN}};
  EXPECT_EQ(status_.Report(Availability::kAvailable), Result::kDeferred);
  world_.answers = {{4}, {-1, EAGAIN}};
  EXPECT_EQ(status_.Flush(), Result::kDeferred);
  EXPECT_EQ(status_.Flush(), Result::kSent);
  EXPECT_EQ(world_.received, Message(1));
}

TEST_F(ProtocolFaults, PO3_LackOfMemoryIsNotADisconnect) {
  for (const int error : {EAGAIN, ENOBUFS, ENOMEM}) {
    world_.answers = {{-1, error}};
    EXPECT_EQ(status_.Report(Availability::kAvailable), Result::kDeferred) << strerror(error);
    EXPECT_TRUE(status_.owes());
  }
  EXPECT_EQ(status_.Flush(), Result::kSent);
  EXPECT_EQ(world_.received, Message(1));
}

TEST_F(ProtocolFaults, P16_AnyOtherErrorIsADisconnect) {
  for (const int error : {EPIPE, ECONNRESET, ECONNREFUSED, ENOTCONN, EBADF, EIO}) {
    world_.answers = {{-1, error}};
    EXPECT_EQ(status_.Report(Availability::kAvailable), Result::kDisconnected) << strerror(error);
  }
}

TEST_F(ProtocolFaults, PO3_APipeIsAskedBeforeItIsWritten) {
  world_.is_socket = false;
  EXPECT_EQ(status_.Report(Availability::kTaken), Result::kSent);
  EXPECT_EQ(world_.polls, 1);
  EXPECT_EQ(world_.received, Message(0));
  world_.poll_events = 0;
  EXPECT_EQ(status_.Report(Availability::kAvailable), Result::kDeferred);
  EXPECT_EQ(world_.transfers, 1);
  world_.poll_events = POLLOUT | POLLERR;  // the reader is gone: a write would raise SIGPIPE
  EXPECT_EQ(status_.Flush(), Result::kDisconnected);
  EXPECT_EQ(world_.transfers, 1);
}

TEST_F(ProtocolFaults, SO11_PatienceIsMeasuredOnTheSteadyClockAcrossInterruptions) {
  WorkerStatus status(5, 5, 1, absl::Milliseconds(100));
  world_.answers = {{-1, EAGAIN}};
  world_.poll_events = 0;
  world_.poll_fails_with_eintr_once = true;
  const int64_t start = world_.now_ns;
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDeferred);
  EXPECT_GE(world_.now_ns - start, 100000000);
  EXPECT_LE(world_.now_ns - start, 102000000);
}

TEST_F(ProtocolFaults, SO11_WithoutPatienceNothingWaits) {
  world_.answers = {{-1, EAGAIN}};
  EXPECT_EQ(status_.Report(Availability::kAvailable), Result::kDeferred);
  EXPECT_EQ(world_.polls, 0);
}

TEST_F(ProtocolFaults, PO2_InterruptedTokenCallsAreRepeated) {
  FlowTokens tokens(3, 4);
  world_.answers = {{-1, EINTR}, {2}};
  EXPECT_EQ(tokens.Take(2).value(), 2);
  world_.answers = {{-1, EINTR}, {2}, {-1, EINTR}};
  EXPECT_EQ(tokens.Put(3).value(), 3);
}

TEST_F(ProtocolFaults, PO10_TokensObtainedBeforeAnErrorAreReported) {
  FlowTokens tokens(3, 4);
  world_.answers = {{3}, {-1, EIO}};
  EXPECT_EQ(tokens.Take(10).value(), 3);
  world_.answers = {{-1, EIO}};
  EXPECT_FALSE(tokens.Take(10).ok());
  world_.answers = {{4}, {0}};
  EXPECT_EQ(tokens.Take(10).value(), 4);
  world_.answers = {{-1, EAGAIN}};
  EXPECT_EQ(tokens.Take(10).value(), 0);
}

TEST_F(ProtocolFaults, P47_ACallMovesAtMost1024Tokens) {
  FlowTokens tokens(3, 4);
  EXPECT_EQ(tokens.Take(2500).value(), 2500);
  EXPECT_EQ(world_.transfers, 3);
  world_.transfers = 0;
  EXPECT_EQ(tokens.Put(2049).value(), 2049);
  EXPECT_EQ(world_.transfers, 3);
}

TEST_F(ProtocolFaults, P49_AFullPipeEndsPuttingAfterAFewTries) {
  FlowTokens tokens(3, 4);
  for (int i = 0; i < 100; ++i) world_.answers.push_back({-1, EAGAIN});
  EXPECT_EQ(tokens.Put(1000000).value(), 0);
  EXPECT_LE(world_.transfers, 12);
}

}  // namespace
}  // namespace posthouse

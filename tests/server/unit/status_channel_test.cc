#include "posthouse/server/status_channel.h"

#include <sys/socket.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/log.h"
#include "posthouse/master/protocol.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/fd_leak_check.h"

namespace posthouse {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kPid = 4711;
constexpr uint32_t kGeneration = 8;
constexpr int kTaken = static_cast<int>(Availability::kTaken);
constexpr int kAvailable = static_cast<int>(Availability::kAvailable);

class StatusChannelTest : public ::testing::Test {
 protected:
  StatusChannelTest() : log_("status_channel_test") {
    int fds[2];
    EXPECT_EQ(os::Socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    master_.Reset(fds[0]);
    worker_.Reset(fds[1]);
    loop_ = EventLoop::Create({}).value();
    channel_ = std::make_unique<StatusChannel>(worker_.get(), kPid, kGeneration, &log_);
    EXPECT_TRUE(channel_->Watch(loop_.get()).ok());
  }

  void Turn() { EXPECT_TRUE(loop_->RunOnce(absl::ZeroDuration()).ok()); }

  // The states that have reached the master, in order.
  std::vector<int> Received() {
    std::vector<int> states;
    char bytes[kStatusMessageSize];
    while (os::Recv(master_.get(), bytes, sizeof(bytes), MSG_DONTWAIT) ==
           static_cast<ssize_t>(sizeof(bytes))) {
      const absl::StatusOr<StatusMessage> message =
          DecodeStatusMessage(absl::string_view(bytes, sizeof(bytes)));
      EXPECT_TRUE(message.ok()) << message.status();
      EXPECT_EQ(message->pid, kPid);
      EXPECT_EQ(message->generation, kGeneration);
      states.push_back(message->availability);
    }
    return states;
  }

  FdLeakCheck leaks_;
  Log log_;
  UniqueFd master_;
  UniqueFd worker_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<StatusChannel> channel_;
};

TEST_F(StatusChannelTest, PO11_ManyRequestsOfATurnAreOnePair) {
  channel_->WorkBegins();
  EXPECT_THAT(Received(), ElementsAre(kTaken));
  channel_->WorkBegins();
  channel_->WorkBegins();
  EXPECT_THAT(Received(), IsEmpty());
  channel_->TurnEnds();
  EXPECT_THAT(Received(), ElementsAre(kAvailable));
}

TEST_F(StatusChannelTest, P20_ATurnWithoutWorkSaysNothing) {
  channel_->TurnEnds();
  Turn();
  channel_->TurnEnds();
  EXPECT_THAT(Received(), IsEmpty());
}

TEST_F(StatusChannelTest, P43_TheMastersEndIsNoticed) {
  EXPECT_FALSE(channel_->disconnected());
  master_.Reset();
  Turn();
  EXPECT_TRUE(channel_->disconnected());
}

TEST_F(StatusChannelTest, S88_EvenADataByteMeansThatTheMasterWantsUsGone) {
  ASSERT_EQ(os::Send(master_.get(), "x", 1, 0), 1);
  Turn();
  EXPECT_TRUE(channel_->disconnected());
}

TEST_F(StatusChannelTest, P45_AClosedChannelDoesNotSpinTheLoop) {
  master_.Reset();
  Turn();
  const int64_t deliveries = loop_->counters().deliveries;
  for (int i = 0; i < 10; i++) Turn();
  EXPECT_EQ(loop_->counters().deliveries, deliveries);
}

TEST_F(StatusChannelTest, P44_AFailedTakenIsIgnoredAndAFailedAvailIsTheEnd) {
  master_.Reset();
  channel_->WorkBegins();
  EXPECT_FALSE(channel_->disconnected());
  channel_->TurnEnds();
  EXPECT_TRUE(channel_->disconnected());
}

TEST_F(StatusChannelTest, SO11_AMasterThatDoesNotReadLearnsTheLastStateOnceItDoes) {
  for (int i = 0; i < 5000; i++) {
    channel_->WorkBegins();
    channel_->TurnEnds();
  }
  EXPECT_FALSE(channel_->disconnected());
  std::vector<int> states = Received();
  ASSERT_FALSE(states.empty());
  EXPECT_LT(states.size(), 10000u);
  Turn();
  const std::vector<int> late = Received();
  states.insert(states.end(), late.begin(), late.end());
  EXPECT_EQ(states.back(), kAvailable);
  // Nothing is owed any more, so the channel's writability wakes nobody.
  const int64_t deliveries = loop_->counters().deliveries;
  Turn();
  EXPECT_EQ(loop_->counters().deliveries, deliveries);
}

TEST_F(StatusChannelTest, PO8_ASilencedChannelNeitherSendsNorWatches) {
  channel_->WorkBegins();
  EXPECT_THAT(Received(), ElementsAre(kTaken));
  channel_->Silence();
  channel_->TurnEnds();
  channel_->WorkBegins();
  channel_->TurnEnds();
  EXPECT_THAT(Received(), IsEmpty());
  master_.Reset();
  Turn();
  EXPECT_FALSE(channel_->disconnected());
}

}  // namespace
}  // namespace posthouse

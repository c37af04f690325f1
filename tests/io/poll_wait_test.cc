#include "posthouse/io/poll_wait.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/clock.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

class PollWaitTest : public testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    reader_.Reset(fds[0]);
    writer_.Reset(fds[1]);
    system_->UseFakeClock();
  }

  ScopedInterposer system_;
  UniqueFd reader_;
  UniqueFd writer_;
};

TEST_F(PollWaitTest, E69_AReadyDescriptorEndsTheWait) {
  const int64_t start = os::SteadyNanos();
  EXPECT_THAT(WaitForFd(writer_.get(), POLLOUT, absl::Seconds(5)), IsOk());
  ASSERT_EQ(write(writer_.get(), "x", 1), 1);
  EXPECT_THAT(WaitForFd(reader_.get(), POLLIN, absl::Seconds(5)), IsOk());
  EXPECT_THAT(WaitForFd(reader_.get(), POLLIN, absl::InfiniteDuration()), IsOk());
  EXPECT_EQ(os::SteadyNanos(), start);
}

TEST_F(PollWaitTest, E69_TheLimitIsKeptAndIsAnErrorOfItsOwn) {
  const int64_t start = os::SteadyNanos();
  EXPECT_THAT(WaitForFd(reader_.get(), POLLIN, absl::Milliseconds(1500)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(os::SteadyNanos() - start, kSecond * 3 / 2);
}

TEST_F(PollWaitTest, E69_AZeroLimitLooksOnce) {
  EXPECT_THAT(WaitForFd(reader_.get(), POLLIN, absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(WaitForFd(writer_.get(), POLLOUT, -absl::Seconds(1)), IsOk());
  EXPECT_EQ(system_->Count(SystemCall::kPoll), 2);
}

TEST_F(PollWaitTest, F8_SignalsNeitherEndNorLengthenTheWait) {
  const int64_t start = os::SteadyNanos();
  system_->FailEvery(SystemCall::kPoll, EINTR, 2);
  system_->SetHook(SystemCall::kPoll, [&](int) { system_->Advance(absl::Seconds(1)); });
  system_->UseFakeClock(ClockMode::kManual);
  EXPECT_THAT(WaitForFd(reader_.get(), POLLIN, absl::Seconds(10)),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_LE(os::SteadyNanos() - start, 12 * kSecond);
  EXPECT_GE(os::SteadyNanos() - start, 10 * kSecond);
}

TEST_F(PollWaitTest, ASubMillisecondLimitIsNeverCutShort) {
  const int64_t start = os::SteadyNanos();
  EXPECT_FALSE(WaitForFd(reader_.get(), POLLIN, absl::Microseconds(1100)).ok());
  EXPECT_GE(os::SteadyNanos() - start, 1100000);
  EXPECT_LE(os::SteadyNanos() - start, 2000000);
}

TEST_F(PollWaitTest, F18_ALimitBeyondAnIntOfMillisecondsIsExact) {
  const int64_t start = os::SteadyNanos();
  const absl::Duration limit = absl::Milliseconds(int64_t{INT_MAX} * 3 + 17);
  EXPECT_FALSE(WaitForFd(reader_.get(), POLLIN, limit).ok());
  EXPECT_EQ(os::SteadyNanos() - start, absl::ToInt64Nanoseconds(limit));
}

TEST_F(PollWaitTest, E69_AHangUpCountsAsReady) {
  writer_.Reset();
  EXPECT_THAT(WaitForFd(reader_.get(), POLLIN, absl::Seconds(5)), IsOk());
}

TEST_F(PollWaitTest, E69_AClosedNumberIsAnError) {
  const int fd = reader_.get();
  reader_.Reset();
  EXPECT_THAT(WaitForFd(fd, POLLIN, absl::Seconds(5)),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(PollNow(fd, POLLIN), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(PollWaitTest, PollNowTellsWhatHolds) {
  EXPECT_THAT(PollNow(reader_.get(), POLLIN), IsOkAndHolds(0));
  ASSERT_EQ(write(writer_.get(), "x", 1), 1);
  EXPECT_THAT(PollNow(reader_.get(), POLLIN), IsOkAndHolds(POLLIN));
  system_->FailOnce(SystemCall::kPoll, ENOMEM);
  EXPECT_THAT(PollNow(reader_.get(), POLLIN), StatusIs(absl::StatusCode::kResourceExhausted));
}

}  // namespace
}  // namespace posthouse

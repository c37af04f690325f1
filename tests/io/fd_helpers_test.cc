// fd_flags.h, fd_threshold.h, peek.h and unique_fd.h.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "gtest/gtest.h"
#include "posthouse/io/fd_flags.h"
#include "posthouse/io/fd_threshold.h"
#include "posthouse/io/peek.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) != -1; }

class FdHelpersTest : public testing::Test {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    fd_.Reset(pair[0]);
    peer_.Reset(pair[1]);
    ASSERT_LT(fd_.get(), kDefaultFdThreshold);
  }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  UniqueFd fd_;
  UniqueFd peer_;
};

TEST_F(FdHelpersTest, F36_AUniqueFdClosesExactlyOnce) {
  const int number = fd_.get();
  UniqueFd moved = std::move(fd_);
  EXPECT_FALSE(fd_.valid());
  EXPECT_TRUE(IsOpen(number));
  moved = UniqueFd();
  EXPECT_FALSE(IsOpen(number));
  moved.Reset();
  EXPECT_EQ(system_->Count(SystemCall::kClose), 1);
  EXPECT_EQ(system_->closes_of_unowned(), 0);
}

TEST_F(FdHelpersTest, F36_AnInterruptedCloseIsNotRepeated) {
  system_->FailOnce(SystemCall::kClose, EINTR);
  errno = E2BIG;
  fd_.Reset();
  EXPECT_EQ(errno, E2BIG) << "errno is left as it was";
  EXPECT_EQ(system_->Count(SystemCall::kClose), 1);
}

TEST_F(FdHelpersTest, ReleaseIsTheOnlyWayOut) {
  const int number = fd_.Release();
  fd_.Reset();
  EXPECT_TRUE(IsOpen(number));
  close(number);
}

TEST_F(FdHelpersTest, S45_BlockingModeIsSetAndCleared) {
  EXPECT_THAT(IsNonBlocking(fd_.get()), IsOkAndHolds(false));
  EXPECT_THAT(SetNonBlocking(fd_.get()), IsOk());
  EXPECT_THAT(IsNonBlocking(fd_.get()), IsOkAndHolds(true));
  const int copy = dup(fd_.get());
  EXPECT_THAT(SetBlocking(copy), IsOk());
  EXPECT_THAT(IsNonBlocking(fd_.get()), IsOkAndHolds(false)) << "the mode is the open file's";
  close(copy);
  const int64_t calls = system_->Count(SystemCall::kFcntl);
  EXPECT_THAT(SetBlocking(fd_.get()), IsOk());
  EXPECT_EQ(system_->Count(SystemCall::kFcntl) - calls, 1) << "nothing to change";
}

TEST_F(FdHelpersTest, S46_CloseOnExecIsSetAndCleared) {
  EXPECT_THAT(IsCloseOnExec(fd_.get()), IsOkAndHolds(true));
  EXPECT_THAT(SetCloseOnExec(fd_.get(), false), IsOk());
  EXPECT_THAT(IsCloseOnExec(fd_.get()), IsOkAndHolds(false));
  EXPECT_THAT(SetCloseOnExec(fd_.get(), true), IsOk());
  EXPECT_THAT(IsCloseOnExec(fd_.get()), IsOkAndHolds(true));
}

TEST_F(FdHelpersTest, FlagsOfAClosedNumberAreAnError) {
  const int number = fd_.get();
  fd_.Reset();
  EXPECT_THAT(SetNonBlocking(number), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(IsCloseOnExec(number), StatusIs(absl::StatusCode::kFailedPrecondition));
  system_->FailOnce(SystemCall::kFcntl, EBADF, 2, peer_.get());
  EXPECT_THAT(SetNonBlocking(peer_.get()), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(FdHelpersTest, S43_ALowNumberMovesToTheLowestFreeOneAboveTheThreshold) {
  const int low = fd_.get();
  ASSERT_THAT(SetNonBlocking(low), IsOk());
  EXPECT_THAT(RaiseDescriptor(FdThreshold(), fd_), IsOk());
  EXPECT_EQ(fd_.get(), 128);
  EXPECT_FALSE(IsOpen(low)) << "exactly one copy stays open (F35)";
  EXPECT_THAT(IsCloseOnExec(128), IsOkAndHolds(true));
  EXPECT_THAT(IsNonBlocking(128), IsOkAndHolds(true)) << "all flags (F35)";
  EXPECT_THAT(RaiseDescriptor(FdThreshold(), peer_), IsOk());
  EXPECT_EQ(peer_.get(), 129);
}

TEST_F(FdHelpersTest, S43_ANumberAboveTheThresholdIsLeftAlone) {
  ASSERT_THAT(RaiseDescriptor(FdThreshold(), fd_), IsOk());
  const int64_t calls = system_->Count(SystemCall::kFcntl);
  EXPECT_THAT(RaiseDescriptor(FdThreshold(), fd_), IsOk());
  EXPECT_EQ(fd_.get(), 128);
  EXPECT_EQ(system_->Count(SystemCall::kFcntl), calls);
}

TEST_F(FdHelpersTest, S43_TheSelectBackendMovesNothing) {
  const int low = fd_.get();
  EXPECT_THAT(RaiseDescriptor(FdThreshold{.backend_is_select = true}, fd_), IsOk());
  EXPECT_EQ(fd_.get(), low);
}

TEST_F(FdHelpersTest, S43_TheThresholdIsConfigurable) {
  const int low = fd_.get();
  EXPECT_THAT(RaiseDescriptor(FdThreshold{.lowest = 0}, fd_), IsOk());
  EXPECT_EQ(fd_.get(), low);
  EXPECT_THAT(RaiseDescriptor(FdThreshold{.lowest = 300}, fd_), IsOk());
  EXPECT_EQ(fd_.get(), 300);
}

TEST_F(FdHelpersTest, F35_SO4_AFailedMoveKeepsTheLowNumber) {
  const int low = fd_.get();
  for (int error : {EMFILE, EINVAL}) {
    system_->FailOnce(SystemCall::kFcntl, error);
    EXPECT_FALSE(RaiseDescriptor(FdThreshold(), fd_).ok());
    EXPECT_EQ(fd_.get(), low);
    EXPECT_TRUE(IsOpen(low));
  }
}

TEST_F(FdHelpersTest, F35_TheDescriptorLimitBelowTheThresholdKeepsTheLowNumber) {
  const int low = fd_.get();
  rlimit limit, lower;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  lower = limit;
  lower.rlim_cur = 100;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lower), 0);
  EXPECT_THAT(RaiseDescriptor(FdThreshold(), fd_),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("F_DUPFD_CLOEXEC")));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(fd_.get(), low);
}

TEST_F(FdHelpersTest, S55_PeekCountsWhatCanBeRead) {
  EXPECT_THAT(BytesReadable(fd_.get()), IsOkAndHolds(0));
  ASSERT_EQ(write(peer_.get(), "hello", 5), 5);
  EXPECT_THAT(BytesReadable(fd_.get()), IsOkAndHolds(5));
  peer_.Reset();
  EXPECT_THAT(BytesReadable(fd_.get()), IsOkAndHolds(5)) << "data first, then the close (S58)";
  char buffer[8];
  ASSERT_EQ(read(fd_.get(), buffer, sizeof(buffer)), 5);
  EXPECT_THAT(BytesReadable(fd_.get()), IsOkAndHolds(0));
}

TEST_F(FdHelpersTest, S55_PeekReportsWhatItCannotCount) {
  system_->FailOnce(SystemCall::kIoctl, ENOTCONN);
  EXPECT_FALSE(BytesReadable(fd_.get()).ok());
  const int number = fd_.get();
  fd_.Reset();
  EXPECT_THAT(BytesReadable(number), StatusIs(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace posthouse

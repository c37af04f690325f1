#include "posthouse/testing/interposer.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/os/clock.h"
#include "posthouse/testing/event_wait.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class InterposerTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(pipe2(pipe_, O_CLOEXEC | O_NONBLOCK), 0); }
  void TearDown() override {
    close(pipe_[0]);
    close(pipe_[1]);
  }

  ScopedInterposer system_;
  int pipe_[2];
};

TEST_F(InterposerTest, EveryCallIsCountedByName) {
  char byte = 'x';
  EXPECT_EQ(os::Write(pipe_[1], &byte, 1), 1);
  EXPECT_EQ(os::Read(pipe_[0], &byte, 1), 1);
  EXPECT_EQ(os::Read(pipe_[0], &byte, 1), -1);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(system_->Count(SystemCall::kRead), 2);
  EXPECT_EQ(system_->Counts().ToString(), "Read 2, Write 1");
  const CallCounts before = system_->Counts();
  os::Getpid();
  EXPECT_EQ((system_->Counts() - before).ToString(), "Getpid 1");
  EXPECT_EQ((system_->Counts() - before).Total(), 1);
}

TEST_F(InterposerTest, AFaultStrikesOnceOnTheChosenCall) {
  const int id = system_->FailOnce(SystemCall::kWrite, ENOSPC, 2);
  EXPECT_EQ(os::Write(pipe_[1], "a", 1), 1);
  EXPECT_EQ(os::Write(pipe_[1], "b", 1), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(os::Write(pipe_[1], "c", 1), 1);
  EXPECT_EQ(system_->Hits(id), 1);
  char text[8];
  EXPECT_EQ(os::Read(pipe_[0], text, sizeof(text)), 2);
  EXPECT_EQ(std::string(text, 2), "ac") << "a failed call does not reach the kernel";
}

TEST_F(InterposerTest, AFaultStrikesEachNthCallOrFromOneOn) {
  system_->FailEvery(SystemCall::kWrite, EINTR, 3);
  std::string pattern;
  for (int i = 0; i < 9; ++i) pattern += os::Write(pipe_[1], "a", 1) == 1 ? '.' : 'E';
  EXPECT_EQ(pattern, "..E..E..E");
  system_->RemoveAllFaults();
  system_->FailFrom(SystemCall::kWrite, EPIPE, 4);
  pattern.clear();
  for (int i = 0; i < 9; ++i) pattern += os::Write(pipe_[1], "a", 1) == 1 ? '.' : 'E';
  EXPECT_EQ(pattern, "...EEEEEE");
}

TEST_F(InterposerTest, AFaultMayConcernOneDescriptorOnly) {
  system_->FailFrom(SystemCall::kFcntl, EBADF, 1, pipe_[0]);
  EXPECT_EQ(os::Fcntl(pipe_[0], F_GETFD, 0), -1);
  EXPECT_NE(os::Fcntl(pipe_[1], F_GETFD, 0), -1);
}

TEST_F(InterposerTest, AFaultOfAnyKindCountsAllCallsThatCanFail) {
  const int id = system_->FailOnce(SystemCall::kAny, ENOMEM, 2);
  char byte;
  EXPECT_EQ(os::Write(pipe_[1], "a", 1), 1);
  EXPECT_GT(os::SteadyNanos(), 0);
  EXPECT_EQ(os::Read(pipe_[0], &byte, 1), -1);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(system_->Hits(id), 1);
}

TEST_F(InterposerTest, CallsThatReturnErrorNumbersDoSoWhenTheyAreFailed) {
  system_->FailOnce(SystemCall::kGetpwnamR, EIO);
  passwd entry;
  passwd* found = &entry;
  char buffer[1024];
  errno = 0;
  EXPECT_EQ(os::GetpwnamR("root", &entry, buffer, sizeof(buffer), &found), EIO);
  EXPECT_EQ(found, nullptr);
  EXPECT_EQ(errno, 0);
  system_->FailOnce(SystemCall::kMmap, ENOMEM);
  EXPECT_EQ(os::Mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), MAP_FAILED);
}

TEST_F(InterposerTest, AFailedCloseClosesAllTheSame) {
  const int copy = dup(pipe_[0]);
  system_->FailOnce(SystemCall::kClose, EINTR);
  EXPECT_EQ(os::Close(copy), -1);
  EXPECT_EQ(errno, EINTR);
  EXPECT_EQ(fcntl(copy, F_GETFD), -1);
  EXPECT_EQ(system_->closes_of_unowned(), 0);
  EXPECT_EQ(os::Close(copy), -1);
  EXPECT_EQ(system_->closes_of_unowned(), 1);
}

TEST_F(InterposerTest, TransfersCanBeCutShort) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  for (SystemCall call :
       {SystemCall::kWrite, SystemCall::kWritev, SystemCall::kSend, SystemCall::kSendmsg,
        SystemCall::kRead, SystemCall::kRecv, SystemCall::kRecvmsg}) {
    system_->LimitTransfers(call, 2);
  }
  char first[] = "abc";
  char second[] = "de";
  iovec parts[] = {{first, 1}, {second, 2}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  EXPECT_EQ(os::Write(pair[0], first, 3), 2);
  EXPECT_EQ(os::Writev(pair[0], parts, 2), 2);
  EXPECT_EQ(os::Send(pair[0], first, 3, 0), 2);
  EXPECT_EQ(os::Sendmsg(pair[0], &message, 0), 2);
  char in[16];
  EXPECT_EQ(os::Read(pair[1], in, sizeof(in)), 2);
  EXPECT_EQ(std::string(in, 2), "ab");
  EXPECT_EQ(os::Recv(pair[1], in, sizeof(in), 0), 2);
  EXPECT_EQ(std::string(in, 2), "ad");
  EXPECT_EQ(os::Recvmsg(pair[1], &message, 0), 2);
  EXPECT_EQ(std::string(1, first[0]) + second[0], "ab");
  close(pair[0]);
  close(pair[1]);
}

TEST_F(InterposerTest, AHookRunsBeforeItsCallAndItsOwnCallsRunNone) {
  int hooked = 0;
  system_->SetHook(SystemCall::kRead, [&](int fd) {
    ++hooked;
    EXPECT_EQ(fd, pipe_[0]);
    EXPECT_EQ(os::Write(pipe_[1], "h", 1), 1);
    char byte;
    EXPECT_EQ(os::Read(pipe_[0], &byte, 1), 1);
    EXPECT_EQ(os::Write(pipe_[1], "i", 1), 1);
  });
  char byte = 0;
  EXPECT_EQ(os::Read(pipe_[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'i');
  EXPECT_EQ(hooked, 1);
  system_->SetHook(SystemCall::kRead, nullptr);
  EXPECT_EQ(os::Read(pipe_[0], &byte, 1), -1);
  EXPECT_EQ(hooked, 1);
}

TEST_F(InterposerTest, RecordsKeepTheLastCallsInOrder) {
  system_->Record(3);
  system_->FailOnce(SystemCall::kRead, EIO);
  os::Getpid();
  char byte;
  os::Write(pipe_[1], "a", 1);
  os::Read(pipe_[0], &byte, 1);
  os::Read(pipe_[0], &byte, 1);
  std::vector<SystemCall> calls;
  for (const CallRecord& record : system_->Records()) calls.push_back(record.call);
  EXPECT_THAT(calls, ElementsAre(SystemCall::kWrite, SystemCall::kRead, SystemCall::kRead));
  EXPECT_THAT(system_->RecordsToString(), HasSubstr("= -1 EIO (injected)\n"));
}

TEST_F(InterposerTest, AnErrnoFromBeforeSurvivesASuccessfulCall) {
  system_->Record();
  errno = E2BIG;
  EXPECT_EQ(os::Write(pipe_[1], "a", 1), 1);
  EXPECT_EQ(errno, E2BIG);
}

TEST_F(InterposerTest, FakeTimePassesOnlyWhenTold) {
  system_->UseFakeClock(ClockMode::kManual);
  const int64_t steady = os::SteadyNanos();
  const int64_t wall = os::WallSeconds();
  EXPECT_EQ(wall, Interposer::kFakeWallStart);
  EXPECT_EQ(os::SteadyNanos(), steady);
  system_->Advance(absl::Milliseconds(1500));
  EXPECT_EQ(os::SteadyNanos() - steady, 1500000000);
  EXPECT_EQ(os::WallSeconds() - wall, 1);
  system_->StepWall(-absl::Hours(24 * 365 * 60));
  EXPECT_LT(os::WallSeconds(), 0);
  EXPECT_EQ(os::SteadyNanos() - steady, 1500000000);
}

TEST_F(InterposerTest, AWaitThatFindsNothingTakesFakeTimeOnly) {
  system_->UseFakeClock();
  const absl::Time real_start = absl::Now();
  const int64_t start = os::SteadyNanos();
  pollfd entry = {pipe_[0], POLLIN, 0};
  EXPECT_EQ(os::Poll(&entry, 1, 1000000), 0);
  EXPECT_EQ(os::SteadyNanos() - start, 1000000 * int64_t{1000000});
  fd_set set;
  FD_ZERO(&set);
  FD_SET(pipe_[0], &set);
  timeval limit = {2000, 1};
  EXPECT_EQ(os::Select(pipe_[0] + 1, &set, nullptr, nullptr, &limit), 0);
  EXPECT_FALSE(FD_ISSET(pipe_[0], &set));
  EXPECT_EQ(os::SteadyNanos() - start, 3000 * int64_t{1000000000} + 1000);
  const timespec nap = {500, 7};
  EXPECT_EQ(os::Nanosleep(&nap, nullptr), 0);
  EXPECT_EQ(os::SteadyNanos() - start, 3500 * int64_t{1000000000} + 1007);
  EXPECT_LT(absl::Now() - real_start, absl::Seconds(20));
}

TEST_F(InterposerTest, AWaitThatFindsSomethingTakesNoTime) {
  system_->UseFakeClock();
  const int64_t start = os::SteadyNanos();
  ASSERT_EQ(write(pipe_[1], "a", 1), 1);
  pollfd entry = {pipe_[0], POLLIN, 0};
  EXPECT_EQ(os::Poll(&entry, 1, 1000), 1);
  EXPECT_EQ(entry.revents, POLLIN);
  EXPECT_EQ(os::Poll(&entry, 1, -1), 1);
  fd_set set;
  FD_ZERO(&set);
  FD_SET(pipe_[0], &set);
  timeval limit = {2000, 1};
  EXPECT_EQ(os::Select(pipe_[0] + 1, &set, nullptr, nullptr, &limit), 1);
  EXPECT_TRUE(FD_ISSET(pipe_[0], &set));
  const int epoll = os::EpollCreate1(EPOLL_CLOEXEC);
  epoll_event event = {.events = EPOLLIN, .data = {.fd = pipe_[0]}};
  ASSERT_EQ(os::EpollCtl(epoll, EPOLL_CTL_ADD, pipe_[0], &event), 0);
  EXPECT_EQ(os::EpollWait(epoll, &event, 1, 5000), 1);
  EXPECT_EQ(os::SteadyNanos(), start);
  char byte;
  EXPECT_EQ(os::Read(pipe_[0], &byte, 1), 1);
  EXPECT_EQ(os::EpollWait(epoll, &event, 1, 5000), 0);
  EXPECT_EQ(os::SteadyNanos() - start, 5000 * int64_t{1000000});
  os::Close(epoll);
}

TEST_F(InterposerTest, RealGraceLetsAnotherProcessSpeakFirst) {
  system_->UseFakeClock();
  system_->set_real_grace(absl::Seconds(20));
  const int64_t start = os::SteadyNanos();
  const pid_t child = fork();
  if (child == 0) {
    usleep(20000);
    _exit(write(pipe_[1], "a", 1) == 1 ? 0 : 1);
  }
  pollfd entry = {pipe_[0], POLLIN, 0};
  EXPECT_EQ(os::Poll(&entry, 1, 100000), 1);
  EXPECT_EQ(os::SteadyNanos(), start);
  EXPECT_EQ(WaitForExit(child), 0);
}

TEST_F(InterposerTest, AHangingTestIsEndedLoudly) {
  EXPECT_DEATH(
      {
        system_->UseFakeClock();
        system_->set_hang_bound(absl::Milliseconds(50));
        pollfd entry = {.fd = pipe_[0]};
        os::Poll(&entry, 1, -1);
      },
      "the test hangs: Poll without a time limit found nothing in 50ms");
}

int alarms = 0;

TEST_F(InterposerTest, TheIntervalTimerIsRememberedAndFiresOnRequest) {
  system_->UseFakeClock();
  struct sigaction action = {};
  struct sigaction old = {};
  action.sa_handler = [](int) { ++alarms; };
  ASSERT_EQ(os::Sigaction(SIGALRM, &action, &old), 0);
  const itimerval value = {{0, 0}, {7, 0}};
  ASSERT_EQ(os::Setitimer(ITIMER_REAL, &value, nullptr), 0);
  EXPECT_EQ(system_->itimer().it_value.tv_sec, 7);
  system_->FireItimer();
  EXPECT_EQ(alarms, 1);
  EXPECT_EQ(system_->itimer().it_value.tv_sec, 0);
  os::Sigaction(SIGALRM, &old, nullptr);
}

TEST_F(InterposerTest, ASeedDeterminesRandomBytes) {
  char first[16], second[16], third[16];
  system_->SeedRandom(7);
  ASSERT_EQ(os::Getrandom(first, 16, 0), 16);
  system_->SeedRandom(7);
  ASSERT_EQ(os::Getrandom(second, 16, 0), 16);
  system_->SeedRandom(8);
  ASSERT_EQ(os::Getrandom(third, 16, 0), 16);
  EXPECT_EQ(memcmp(first, second, 16), 0);
  EXPECT_NE(memcmp(first, third, 16), 0);
}

TEST_F(InterposerTest, AForkedChildHasFaultsAndTimeOfItsOwn) {
  system_->UseFakeClock();
  system_->FailOnce(SystemCall::kWrite, EIO);
  const pid_t child = os::Fork();
  if (child == 0) {
    system_->Advance(absl::Hours(1));
    const bool failed = os::Write(pipe_[1], "a", 1) == -1 && errno == EIO;
    _exit(failed && system_->Count(SystemCall::kWrite) == 1 ? 0 : 1);
  }
  EXPECT_EQ(WaitForExit(child), 0);
  EXPECT_EQ(system_->Count(SystemCall::kWrite), 0);
  EXPECT_EQ(os::SteadyNanos(), Interposer::kFakeSteadyStart * 1000000000);
}

TEST_F(InterposerTest, ResetForgetsEverything) {
  system_->UseFakeClock();
  system_->FailFrom(SystemCall::kRead, EIO);
  system_->Record();
  system_->SetHook(SystemCall::kRead, [](int) { FAIL(); });
  system_->Reset();
  char byte;
  ASSERT_EQ(write(pipe_[1], "a", 1), 1);
  EXPECT_EQ(os::Read(pipe_[0], &byte, 1), 1);
  EXPECT_EQ(system_->Counts().ToString(), "Read 1");
  EXPECT_NE(os::WallSeconds(), Interposer::kFakeWallStart);
  EXPECT_TRUE(system_->Records().empty());
}

}  // namespace
}  // namespace posthouse

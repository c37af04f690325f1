// The watchdog in real processes: its alarms and its end need a process of their own.

#include "posthouse/process/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/signal_watch.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/log.h"
#include "posthouse/log/stderr_sink.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/interposer.h"

namespace posthouse {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A process that runs `body` with a log whose lines the test reads.
class Child {
 public:
  explicit Child(const std::function<void(Log&)>& body) {
    int fds[2];
    EXPECT_EQ(os::Pipe2(fds, O_CLOEXEC), 0);
    log_read_.Reset(fds[0]);
    started_ns_ = os::SteadyNanos();
    pid_ = os::Fork();
    if (pid_ == 0) {
      Log log("watchdog_test");
      log.AddSink(NewStderrSink({.fd = fds[1]}));
      body(log);
      _exit(7);
    }
    os::Close(fds[1]);
  }

  pid_t pid() const { return pid_; }
  // The wait status; also notes how long the process lived.
  int Wait() {
    const absl::optional<int> status = WaitForExit(pid_);
    lived_ = absl::Nanoseconds(os::SteadyNanos() - started_ns_);
    EXPECT_TRUE(status.has_value()) << "the child did not end";
    return status.value_or(0);
  }
  absl::Duration lived() const { return lived_; }
  std::string Logged() {
    std::string text;
    char buffer[512];
    ssize_t size;
    while ((size = os::Read(log_read_.get(), buffer, sizeof(buffer))) > 0) {
      text.append(buffer, static_cast<size_t>(size));
    }
    return text;
  }

 private:
  UniqueFd log_read_;
  pid_t pid_ = -1;
  int64_t started_ns_ = 0;
  absl::Duration lived_;
};

[[noreturn]] void Hang() {
  volatile unsigned turns = 0;
  while (true) turns = turns + 1;
}

TEST(WatchdogTest, F52_AHungProcessEndsBetweenTheLimitAndATenthMoreWithAClearLine) {
  ChildCheck children;
  Child child([](Log& log) {
    Watchdog watchdog(&log);
    if (!watchdog.Start(absl::Milliseconds(1200), "the test").ok()) _exit(9);
    Hang();
  });
  const int status = child.Wait();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_GE(child.lived(), absl::Milliseconds(1200));
  // A tenth, and what a loaded machine takes to start and reap a process.
  EXPECT_LE(child.lived(), absl::Milliseconds(1320) + absl::Milliseconds(700));
  EXPECT_EQ(child.Logged(),
            absl::StrCat("watchdog_test[", child.pid(),
                         "]: fatal: watchdog timeout: no progress in the test for 1.2s\n"));
}

TEST(WatchdogTest, F52_AProcessThatBlocksInASystemCallEndsToo) {
  ChildCheck children;
  Child child([](Log& log) {
    Watchdog watchdog(&log);
    if (!watchdog.Start(absl::Milliseconds(600), "the test").ok()) _exit(9);
    int fds[2];
    if (os::Pipe2(fds, O_CLOEXEC) != 0) _exit(9);
    char byte;
    // S74: SA_RESTART, so the read is not even interrupted.
    if (os::Read(fds[0], &byte, 1) < 0) _exit(8);
  });
  const int status = child.Wait();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

TEST(WatchdogTest, S75_PatsKeepLongWorkAlive) {
  ChildCheck children;
  Child child([](Log& log) {
    Watchdog watchdog(&log);
    if (!watchdog.Start(absl::Milliseconds(300), "the test").ok()) _exit(9);
    const int64_t end = os::SteadyNanos() + 1000000000;
    while (os::SteadyNanos() < end) watchdog.Pat();
    watchdog.Stop();
  });
  const int status = child.Wait();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_THAT(child.Logged(), IsEmpty());
}

TEST(WatchdogTest, F17_TimeInWhichTheProcessIsStoppedDoesNotCount) {
  ChildCheck children;
  Child child([](Log& log) {
    Watchdog watchdog(&log);
    if (!watchdog.Start(absl::Milliseconds(400), "the test").ok()) _exit(9);
    os::Kill(os::Getpid(), SIGSTOP);
    // One alarm is pending now; the process has not hung.
    const int64_t end = os::SteadyNanos() + 100000000;
    while (os::SteadyNanos() < end) {
    }
    watchdog.Stop();
  });
  int status = 0;
  ASSERT_EQ(os::Waitpid(child.pid(), &status, WUNTRACED), child.pid());
  ASSERT_TRUE(WIFSTOPPED(status));
  // The fault is real time that passes.
  absl::SleepFor(absl::Milliseconds(900));
  os::Kill(child.pid(), SIGCONT);
  status = child.Wait();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(WatchdogTest, F54_AHungProcessThatWasSentSigtermEndsBeforeItsLimit) {
  ChildCheck children;
  Child child([](Log& log) {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    os::Sigmask(SIG_BLOCK, &term, nullptr);
    Watchdog watchdog(&log);
    if (!watchdog.Start(absl::Seconds(6), "the test").ok()) _exit(9);
    os::Kill(os::Getpid(), SIGTERM);
    Hang();
  });
  const int status = child.Wait();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_LT(child.lived(), absl::Seconds(5));
  EXPECT_THAT(child.Logged(), HasSubstr("SIGTERM"));
}

// The signal came through a watch, whose second form has taken it out of the kernel's hands.
TEST(WatchdogTest, F54_SoDoesOneWhoseSigtermASignalWatchHasTaken) {
  ChildCheck children;
  for (const bool signalfd : {true, false}) {
    SCOPED_TRACE(signalfd);
    Child child([&](Log& log) {
      if (!signalfd) Interposer::Get().FailFrom(SystemCall::kSignalfd, ENOSYS);
      auto loop = EventLoop::Create({});
      auto signals = SignalWatch::Create(
          loop->get(), {SIGTERM}, [](int, void*) {}, nullptr);
      Watchdog watchdog(&log);
      watchdog.set_loop(loop->get());
      watchdog.set_signals(signals->get());
      if (!watchdog.Start(absl::Seconds(6), "the test").ok()) _exit(9);
      os::Kill(os::Getpid(), SIGTERM);
      Hang();
    });
    const int status = child.Wait();
    ASSERT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 1);
    EXPECT_LT(child.lived(), absl::Seconds(5));
    EXPECT_THAT(child.Logged(), HasSubstr("SIGTERM"));
  }
}

TEST(WatchdogTest, F54_AnEndThatHangsIsForcedByTheKernel) {
  ChildCheck children;
  Child child([](Log& log) {
    Watchdog watchdog(&log);
    watchdog.set_last_resort([](void*, const char*) { Hang(); }, nullptr);
    if (!watchdog.Start(absl::Milliseconds(120), "the test").ok()) _exit(9);
    Hang();
  });
  const int status = child.Wait();
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGALRM);
  EXPECT_GE(child.lived(), absl::Seconds(5));
  EXPECT_LE(child.lived(), absl::Seconds(8));
}

TEST(WatchdogTest, SO19_TheLastResortComesAfterTheLineAndIsToldWhy) {
  ChildCheck children;
  static volatile int report = -1;
  int fds[2];
  ASSERT_EQ(os::Pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  Child child([&](Log& log) {
    log.RemoveSinks();
    log.AddSink(NewStderrSink({.fd = write_end.get()}));
    report = write_end.get();
    Watchdog watchdog(&log);
    watchdog.set_last_resort(
        [](void* context, const char* reason) {
          os::Write(report, static_cast<const char*>(context), 6);
          os::Write(report, reason, std::strlen(reason));
        },
        const_cast<char*>("hook: "));
    if (!watchdog.Start(absl::Milliseconds(120), "the test").ok()) _exit(9);
    Hang();
  });
  write_end.Reset();
  const int status = child.Wait();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 1);
  char buffer[500];
  const ssize_t size = os::Read(read_end.get(), buffer, sizeof(buffer));
  ASSERT_GT(size, 0);
  const std::string reason = "watchdog timeout: no progress in the test for 120ms";
  EXPECT_EQ(std::string(buffer, static_cast<size_t>(size)),
            absl::StrCat("watchdog_test[", child.pid(), "]: fatal: ", reason, "\nhook: ", reason));
}

TEST(WatchdogTest, StopLeavesNoAlarm) {
  Log log("watchdog_test");
  Watchdog watchdog(&log);
  ASSERT_TRUE(watchdog.Start(absl::Seconds(100), "the test").ok());
  watchdog.Stop();
  itimerval left = {};
  const itimerval never = {};
  ASSERT_EQ(os::Setitimer(ITIMER_REAL, &never, &left), 0);
  EXPECT_EQ(left.it_value.tv_sec, 0);
  EXPECT_EQ(left.it_value.tv_usec, 0);
  struct sigaction action = {};
  ASSERT_EQ(os::Sigaction(SIGALRM, nullptr, &action), 0);
  EXPECT_EQ(action.sa_handler, SIG_DFL);
}

}  // namespace
}  // namespace posthouse

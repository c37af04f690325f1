// Signals and interrupted calls: F8, F24, F25, F26, F28, F16, F17.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/signal_watch.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/faults/harness.h"

namespace posthouse {
namespace {

class SignalFaults : public FaultTest {
 protected:
  // A dialogue that touches every call of the worker: many requests, a long reply, several clients.
  void Dialogue() {
    LineClient client = Connect();
    for (int i = 0; i < 50; ++i) {
      const std::string word = absl::StrCat("word ", i);
      ASSERT_EQ(client.Ask("ECHO " + word), word);
    }
    ASSERT_EQ(client.Ask("BIG 200000").size(), 200000u);
    std::vector<LineClient> others;
    for (int i = 0; i < 20; ++i) others.push_back(Connect());
    for (LineClient& other : others) ASSERT_TRUE(other.Send("ECHO a\nECHO b\nECHO c\n"));
    for (LineClient& other : others) {
      ASSERT_EQ(other.ReadLine(), "a");
      ASSERT_EQ(other.ReadLine(), "b");
      ASSERT_EQ(other.ReadLine(), "c");
    }
  }
};

// A second process that sends signals, so that the test's own timing does not matter.
class SignalSender {
 public:
  SignalSender(pid_t target, std::vector<int> signals, absl::Duration pause) {
    thread_ = std::thread([this, target, signals, pause] {
      std::mt19937 random(4711);
      while (!stop_) {
        if (kill(target, signals[random() % signals.size()]) != 0) return;
        ++sent_;
        if (pause > absl::ZeroDuration()) {
          absl::SleepFor(pause * (0.5 + static_cast<double>(random() % 1000) / 1000.0));
        }
      }
    });
  }
  ~SignalSender() { Stop(); }
  int64_t Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return sent_;
  }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> sent_{0};
  std::thread thread_;
};

TEST_F(SignalFaults, F8_AKilohertzTimerInTheProcessChangesNothing) {
  for (const char* transport : {"unix", "inet", "pass"}) {
    SCOPED_TRACE(transport);
    Scenario scenario;
    scenario.options = "interrupt=1000";
    scenario.transport = transport;
    master_ = nullptr;
    Start(std::move(scenario));
    Dialogue();
    ExpectUnharmed();
    EXPECT_EQ(Count(log(), "warning"), 0) << log();
  }
}

TEST_F(SignalFaults, F8_InterruptedCallsChangeNothing) {
  for (const char* call : {"EpollWait", "EpollCtl", "Poll", "Accept4", "Recv", "Send", "Read",
                           "Write", "Recvmsg", "Sendmsg", "Close", "Ioctl", "Connect", "Open"}) {
    // Interrupted calls of these kinds are errors by their nature: the kernel never interrupts
    // them.
    if (std::string(call) == "EpollCtl" || std::string(call) == "Ioctl") continue;
    for (const int every : {3, 7}) {
      for (const char* transport : {"unix", "pass"}) {
        SCOPED_TRACE(absl::StrCat(call, " every ", every, " ", transport));
        Scenario scenario;
        scenario.faults = absl::StrCat(call, ":", EINTR, ":", every, ":", every, ":0");
        scenario.transport = transport;
        master_ = nullptr;
        Start(std::move(scenario));
        Dialogue();
        if (HasFatalFailure()) return;
        ExpectUnharmed();
        EXPECT_EQ(Count(log(), "fatal"), 0) << log();
        EXPECT_EQ(Count(log(), "dropped"), 0) << log();
      }
    }
  }
}

TEST_F(SignalFaults, F8_TimersKeepTheirDeadlinesWhileEverythingIsInterrupted) {
  Scenario scenario;
  scenario.options = "interrupt=1000";
  Start(std::move(scenario));
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("RHYTHM 100"), "started");
  EXPECT_TRUE(client.IsQuiet(absl::Milliseconds(1050)));
  int beats = 0, latest = 0;
  ASSERT_EQ(sscanf(client.Ask("BEATS").c_str(), "%d %d", &beats, &latest), 2);
  EXPECT_GE(beats, 9);
  EXPECT_LE(beats, 10);
  EXPECT_LE(latest, absl::ToInt64Milliseconds(Allow(absl::Milliseconds(20))));
  ASSERT_EQ(client.Ask("RHYTHMOFF"), "stopped");
  client.Close();
  ExpectUnharmed();
}

TEST_F(SignalFaults, F24_SignalsWhileTheProcessAllocatesAndLogs) {
  Scenario scenario;
  scenario.options = "churn interrupt=0";
  Start(std::move(scenario));
  LineClient client = Connect();
  // HUP, INT and USR2 keep their default action in a worker, which is its end (S5).
  SignalSender sender(pid_, {SIGALRM, SIGCHLD, SIGUSR1, SIGWINCH, SIGURG}, absl::Microseconds(50));
  const absl::Time end = absl::Now() + absl::Seconds(Times(2, 600));
  int requests = 0;
  while (absl::Now() < end) {
    ASSERT_EQ(client.Ask("ECHO x"), "x") << log();
    ++requests;
  }
  EXPECT_GT(sender.Stop(), Times(2000, 1000000));
  EXPECT_GT(requests, 100);
  client.Close();
  ExpectUnharmed();
}

TEST_F(SignalFaults, F25_AStormWhileTheLoopIsBlockedIsNothing) {
  Scenario scenario;
  scenario.options = "interrupt=0";
  Start(std::move(scenario));
  LineClient client = Connect();
  const int64_t count = Times(100000, 1000000);
  ASSERT_TRUE(client.Send("SLEEP 2000\n"));
  // So that the storm meets the blocked loop.
  ASSERT_TRUE(master_->WaitUntil(
      [&] { return master_->worker(pid_).availability == Availability::kTaken; }));
  for (int64_t i = 0; i < count; ++i) {
    for (const int signal : {SIGALRM, SIGUSR1, SIGCHLD}) ASSERT_EQ(kill(pid_, signal), 0);
  }
  EXPECT_EQ(client.ReadLine(), "slept") << log();
  client.Close();
  ExpectUnharmed();
}

TEST_F(SignalFaults, F25_AStormOfTheStopSignalIsOneOrderlyEnd) {
  Start();
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("SLEEP 500\n"));
  ASSERT_TRUE(master_->WaitUntil(
      [&] { return master_->worker(pid_).availability == Availability::kTaken; }));
  for (int64_t i = 0; i < Times(100000, 1000000); ++i) {
    if (kill(pid_, SIGTERM) != 0) break;
  }
  EXPECT_EQ(client.ReadLine(), "slept");
  const absl::Time released = absl::Now();
  EXPECT_EQ(WaitForEnd(), 0) << log();
  EXPECT_LT(absl::Now() - released, Allow(absl::Milliseconds(100)));
}

// One signal at a time, at random moments, to a process that waits for events otherwise; the answer
// is a byte in a pipe.
TEST(SignalReaction, F26_ASignalIsActedUponWhenItComes) {
  FdLeakCheck fds;
  int answer[2], ready[2];
  ASSERT_EQ(pipe2(answer, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  UniqueFd answer_read(answer[0]), answer_write(answer[1]);
  UniqueFd ready_read(ready[0]), ready_write(ready[1]);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto loop = EventLoop::Create({});
    auto watch = SignalWatch::Create(
        loop->get(), {SIGUSR1},
        [](int, void* fd) {
          if (write(*static_cast<int*>(fd), "!", 1) != 1) _exit(1);
        },
        &answer[1]);
    if (!watch.ok() || write(ready[1], "r", 1) != 1) _exit(1);
    for (;;) {
      if (!(*loop)->RunOnce(absl::InfiniteDuration()).ok()) _exit(1);
    }
  }
  char byte;
  ASSERT_EQ(read(ready_read.get(), &byte, 1), 1);
  std::mt19937 random(26);
  Latencies reactions;
  for (int64_t i = 0; i < Times(3000, 100000); ++i) {
    // 0 to 300 microseconds: while the child still works, and when it waits again.
    const int64_t end = absl::GetCurrentTimeNanos() + static_cast<int64_t>(random() % 300000);
    while (absl::GetCurrentTimeNanos() < end) {
    }
    const absl::Time sent = absl::Now();
    ASSERT_EQ(kill(child, SIGUSR1), 0);
    ASSERT_TRUE(WaitForEvents(answer_read.get(), /*POLLIN*/ 1)) << "signal " << i << " was lost";
    ASSERT_EQ(read(answer_read.get(), &byte, 1), 1);
    reactions.Add(absl::Now() - sent);
  }
  EXPECT_LT(reactions.Worst(), Allow(absl::Milliseconds(100))) << reactions.ToString();
  RecordProperty("reactions", reactions.ToString());
  kill(child, SIGKILL);
  EXPECT_TRUE(WaitForExit(child).has_value());
}

TEST_F(SignalFaults, F26_AWorkerEndsWheneverTheStopSignalComes) {
  std::mt19937 random(26);
  Start();
  for (int64_t i = 0; i < Times(25, 1000); ++i) {
    const absl::StatusOr<pid_t> pid = master_->Spawn();
    ASSERT_TRUE(pid.ok());
    // From before exec to long after the first wait; before its dispositions are set, the signal
    // kills it.
    absl::SleepFor(absl::Microseconds(random() % 60000));
    kill(*pid, SIGTERM);
    const absl::Time sent = absl::Now();
    const int code = ExitCode(master_->WaitForExit(*pid));
    EXPECT_TRUE(code == 0 || code == -SIGTERM) << code << log();
    EXPECT_LT(absl::Now() - sent, Allow(absl::Milliseconds(300)));
  }
  ExpectUnharmed();
}

TEST_F(SignalFaults, F28_PeersThatLeaveDuringLongAnswersKillNobody) {
  std::mt19937 random(28);
  for (const char* transport : {"unix", "inet"}) {
    Scenario scenario;
    scenario.transport = transport;
    scenario.options = "max_output_bytes=2000000";
    master_ = nullptr;
    Start(std::move(scenario));
    for (int64_t i = 0; i < Times(200, 5000); ++i) {
      LineClient client = Connect();
      ASSERT_TRUE(client.Send("BIG 1048576\n"));
      char data[4096];
      const size_t reads = random() % 64;
      for (size_t r = 0; r < reads; ++r) {
        if (recv(client.fd(), data, 1 + random() % sizeof(data), 0) <= 0) break;
      }
      if (random() % 2 == 0) client.Abort();
    }
    ExpectUnharmed();
    EXPECT_EQ(Count(log(), "warning"), 0) << log();
  }
}

TEST_F(SignalFaults, F28_AStatusChannelAndALogSocketThatAreGoneKillNobody) {
  Scenario scenario;
  scenario.options = "slow_exit_limit=5000";
  Start(std::move(scenario));
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  // The log socket's path is gone and nobody listens; then the master's end of the channel.
  ASSERT_EQ(unlink((master_->queue_directory() + "/public/postlog").c_str()), 0);
  ASSERT_EQ(client.Ask("LOG 3"), "logged");
  master_->Vanish();
  EXPECT_EQ(client.Ask("ECHO y"), "y");
  EXPECT_EQ(client.Ask("LOG 3"), "logged");
  client.Close();
  EXPECT_EQ(WaitForEnd(), 0);
}

// Time in which the process cannot run is no time for its timers either: one expiry, then the
// rhythm goes on; the watchdog does not bark (F17, F53).
TEST_F(SignalFaults, F17_AfterAPauseAPeriodicTimerFiresOnceAndKeepsItsRhythm) {
  Scenario scenario;
  scenario.main_cf = "daemon_timeout = 3s\n";
  Start(std::move(scenario));
  LineClient client = Connect();
  std::vector<LineClient> quiet;
  for (int i = 0; i < 20; ++i) quiet.push_back(Connect());
  ASSERT_EQ(client.Ask("RHYTHM 200"), "started");
  ASSERT_EQ(client.Ask("BEATS").substr(0, 1), "0");
  ASSERT_EQ(kill(pid_, SIGSTOP), 0);
  // Longer than the watchdog's limit.
  absl::SleepFor(absl::Seconds(Times(5, 60)));
  ASSERT_EQ(kill(pid_, SIGCONT), 0);
  const absl::Time resumed = absl::Now();
  int beats = 0, latest = 0;
  ASSERT_EQ(sscanf(client.Ask("BEATS").c_str(), "%d %d", &beats, &latest), 2);
  EXPECT_LE(beats, 2);
  EXPECT_TRUE(client.IsQuiet(absl::Milliseconds(1100)));
  ASSERT_EQ(sscanf(client.Ask("BEATS").c_str(), "%d %d", &beats, &latest), 2);
  const int64_t passed = absl::ToInt64Milliseconds(absl::Now() - resumed);
  EXPECT_LE(beats, passed / 200 + 1);
  EXPECT_GE(beats, 3);
  for (LineClient& other : quiet) EXPECT_EQ(other.Ask("ECHO q"), "q");
  EXPECT_EQ(client.Ask("RHYTHMOFF"), "stopped");
  client.Close();
  quiet.clear();
  ExpectUnharmed();
}

// Somebody sets the calendar clock while timers, an idle limit and the watchdog run.
TEST_F(SignalFaults, F16_StepsOfTheCalendarClockMoveNothing) {
  if (Sanitized()) GTEST_SKIP() << "a sanitizer wants to be the first library";
  int64_t shift = 0;
  TempDir scratch;
  const std::string path =
      scratch.WriteFile("shift", absl::string_view(reinterpret_cast<char*>(&shift), sizeof(shift)));
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const auto step = [&](int64_t seconds) {
    shift += seconds;
    ASSERT_EQ(pwrite(file.get(), &shift, sizeof(shift), 0), static_cast<ssize_t>(sizeof(shift)));
  };
  Scenario scenario;
  scenario.main_cf = "daemon_timeout = 3s\n";
  scenario.options = "client_idle_limit=2000";
  scenario.master.environment = {"LD_PRELOAD=" + WallShiftLibrary(),
                                 "POSTHOUSE_WALL_SHIFT=" + path};
  allowed_lines_per_second_ = 100;
  Start(std::move(scenario));
  LineClient client = Connect(), silent = Connect();
  ASSERT_EQ(silent.Ask("ECHO x"), "x");
  const absl::Time begin = absl::Now();
  ASSERT_EQ(client.Ask("RHYTHM 50"), "started");
  constexpr int64_t kTenYears = 10LL * 365 * 24 * 3600;
  for (const int64_t seconds : {int64_t{1}, int64_t{-1}, int64_t{3600}, int64_t{-3600}, kTenYears,
                                -kTenYears, -kTenYears, kTenYears}) {
    step(seconds);
    ASSERT_EQ(client.Ask("LOG 1"), "logged");
    EXPECT_TRUE(client.IsQuiet(absl::Milliseconds(150)));
  }
  int beats = 0, latest = 0;
  ASSERT_EQ(sscanf(client.Ask("BEATS").c_str(), "%d %d", &beats, &latest), 2);
  const int64_t passed = absl::ToInt64Milliseconds(absl::Now() - begin);
  EXPECT_LE(beats, passed / 50 + 1);
  EXPECT_GE(beats, passed / 50 * 8 / 10);
  EXPECT_LT(latest, absl::ToInt64Milliseconds(Allow(absl::Milliseconds(100))));
  // The steps did reach the worker: the log shows another year.
  EXPECT_TRUE(silent.WaitClosed());
  const absl::Duration idle = absl::Now() - begin;
  EXPECT_GE(idle, absl::Milliseconds(1900));
  EXPECT_LE(idle, absl::Milliseconds(2000) + Allow(absl::Milliseconds(100)));
  ASSERT_EQ(client.Ask("RHYTHMOFF"), "stopped");
  // Two steps of an hour and more in the stamps show that the clock was really set.
  step(3600 * 24 * 40);
  ASSERT_EQ(client.Ask("LOG 1"), "logged");
  const std::string month =
      absl::FormatTime("%b", absl::Now() + absl::Seconds(shift), absl::UTCTimeZone());
  EXPECT_TRUE(WaitUntil([&] { return log().rfind("\n" + month) != std::string::npos; })) << log();
  client.Close();
  ExpectUnharmed();
}

}  // namespace
}  // namespace posthouse

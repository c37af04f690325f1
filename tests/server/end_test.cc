// The ways to end, and what becomes of clients then (S76 to S89, SO7, SO8, SO15, F54 to F56).

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "tests/server/harness.h"

namespace posthouse {
namespace {

class EndTest : public WorkerTest {
 protected:
  // As the original, unless the test says otherwise.
  void StartWith(const std::string& test) {
    Scenario scenario;
    scenario.test = test;
    Start(std::move(scenario));
  }
  // Waits until the drained worker's background process is all that is left.
  pid_t WaitForBackground() {
    EXPECT_EQ(WaitForEnd(), 0);
    EXPECT_TRUE(master_->WaitUntil([&] { return master_->Survivors().size() == 1; }));
    const std::vector<pid_t> survivors = master_->Survivors();
    return survivors.empty() ? 0 : survivors[0];
  }
  int WaitForBackgroundEnd(pid_t pid, absl::Duration bound = kGenerousBound) {
    if (!master_->WaitUntil([&] { return master_->strangers().count(pid) == 1; }, bound)) return -1;
    return ExitCode(master_->strangers().at(pid));
  }
};

// --- The master goes away ---

TEST_F(EndTest, S87_AReloadEndsAnIdleWorkerWithItsExitHook) {
  StartWith("");
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  ASSERT_TRUE(master_->WaitUntil([&] { return Count(log(), "hook pre_disconnect") == 1; }));
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog(absl::StrCat("hook on_exit ", pid_)));
  EXPECT_TRUE(master_->Survivors().empty());
}

TEST_F(EndTest, S87_WithoutSlowExitClientsAreDroppedAtOnce) {
  StartWith("slow_exit_limit=0");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(WaitForEnd(absl::Seconds(5)), 0);
  EXPECT_TRUE(client.WaitClosed());
  EXPECT_TRUE(WaitForLog("hook on_exit"));
  EXPECT_TRUE(master_->Survivors().empty());
}

TEST_F(EndTest, S88_EvenAByteOnTheStatusChannelMeansTheEnd) {
  StartWith("slow_exit_limit=0");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  ASSERT_EQ(send(master_->status_fd(), "x", 1, MSG_NOSIGNAL), 1);
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog("hook on_exit"));
}

TEST_F(EndTest, S57_ARequestUnderWayIsAnsweredAfterAReload) {
  StartWith("slow_exit_limit=0");
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("SLEEP 400\n"));
  ASSERT_TRUE(master_->WaitUntil(
      [&] { return master_->worker(pid_).availability == Availability::kTaken; }));
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(client.ReadLine(), "slept");
  EXPECT_EQ(WaitForEnd(), 0);
}

TEST_F(EndTest, SO7_RequestsThatAreReadableAreServedOnce) {
  StartWith("slow_exit_limit=0");
  LineClient busy = Connect();
  std::vector<LineClient> others;
  for (int i = 0; i < 10; ++i) {
    others.push_back(Connect());
    ASSERT_EQ(others.back().Ask("ECHO x"), "x");
  }
  ASSERT_TRUE(busy.Send("SLEEP 500\n"));
  absl::SleepFor(absl::Milliseconds(100));
  for (LineClient& client : others) ASSERT_TRUE(client.Send("ECHO last\n"));
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(busy.ReadLine(), "slept");
  for (LineClient& client : others) EXPECT_EQ(client.ReadLine(), "last");
  EXPECT_EQ(WaitForEnd(), 0);
}

TEST_F(EndTest, F56_AReloadCutsNoClientWithinTheSlowExitLimit) {
  StartWith("slow_exit_limit=20000");
  std::vector<LineClient> clients;
  for (int i = 0; i < 30; ++i) {
    clients.push_back(Connect());
    ASSERT_EQ(clients.back().Ask("COUNT"), "1");
  }
  ASSERT_TRUE(clients[0].Send("DEFER 500 deferred\n"));
  ASSERT_TRUE(clients[1].Send("COU"));
  ASSERT_TRUE(master_->Reload().ok());
  const pid_t background = WaitForBackground();
  EXPECT_EQ(clients[0].ReadLine(), "500 deferred");
  ASSERT_TRUE(clients[1].Send("NT\n"));
  EXPECT_EQ(clients[1].ReadLine(), "2");
  for (size_t i = 2; i < clients.size(); ++i) EXPECT_EQ(clients[i].Ask("COUNT"), "2");
  EXPECT_EQ(clients[3].Ask("PID"), absl::StrCat(background));
  // A new worker serves new clients; the old one does not compete for them.
  const pid_t young = master_->Spawn().value();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Connect().Ask("PID"), absl::StrCat(young));
  clients.clear();
  EXPECT_EQ(WaitForBackgroundEnd(background), 0);
  EXPECT_TRUE(master_->worker(young).running);
  EXPECT_TRUE(master_->problems().empty()) << master_->problems()[0];
}

TEST_F(EndTest, F55_ADeadMasterCutsNoClientAndTheListenerIsClosed) {
  StartWith("slow_exit_limit=20000");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  master_->Vanish();
  const pid_t background = WaitForBackground();
  EXPECT_EQ(client.Ask("ECHO y"), "y");
  EXPECT_TRUE(WaitUntil([&] { return !master_->ConnectRaw().ok(); }, absl::Seconds(1)));
  client.Close();
  EXPECT_EQ(WaitForBackgroundEnd(background), 0);
}

TEST_F(EndTest, F55_TheSlowExitLimitEndsWhoeverStays) {
  StartWith("slow_exit_limit=700");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  const absl::Time start = absl::Now();
  ASSERT_TRUE(master_->Reload().ok());
  const pid_t background = WaitForBackground();
  EXPECT_TRUE(client.WaitClosed(absl::Seconds(10)));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(650));
  EXPECT_EQ(WaitForBackgroundEnd(background), 0);
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
}

TEST_F(EndTest, F56_SlowExitIsTheDefault) {
  StartWith("");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(WaitForEnd(absl::Seconds(5)), 0);
  EXPECT_EQ(client.Ask("ECHO y"), "y");
}

TEST_F(EndTest, P44_AFailedMessageMeansTheSameAsTheNotice) {
  // The master closes while the worker is in a service call: TAKEN or AVAIL fails.
  StartWith("slow_exit_limit=0");
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("SLEEP 300\nSLEEP 1\n"));
  absl::SleepFor(absl::Milliseconds(100));
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(client.ReadLine(), "slept");
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog("hook on_exit"));
}

TEST_F(EndTest, SO11_AStalledMasterStallsNobody) {
  StartWith("");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  master_->Pump();
  master_->set_read_status(false);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(client.Ask("ECHO y", absl::Seconds(10)), "y") << i;
  EXPECT_TRUE(running());
  master_->set_read_status(true);
  // The last state is the true one in the end.
  EXPECT_TRUE(master_->WaitUntil([&] {
    return master_->worker(pid_).availability == Availability::kAvailable &&
           !master_->messages().empty() && master_->messages().back().availability == 1;
  }));
  master_->set_read_status(false);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(client.Ask("ECHO y", absl::Seconds(10)), "y") << i;
  ASSERT_TRUE(client.Send("SLEEP 600\n"));
  absl::SleepFor(absl::Milliseconds(100));
  master_->set_read_status(true);
  ASSERT_EQ(client.ReadLine(), "slept");
  ASSERT_EQ(client.Ask("ECHO z"), "z");
  EXPECT_TRUE(master_->WaitUntil(
      [&] { return master_->worker(pid_).availability == Availability::kAvailable; }));
  EXPECT_TRUE(master_->problems().empty()) << master_->problems()[0];
}

// --- Signals ---

TEST_F(EndTest, SO15_SigtermIsAnOrderlyEnd) {
  StartWith("");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog("hook on_exit"));
}

TEST_F(EndTest, SO15_SigtermLetsPresentClientsFinish) {
  StartWith("slow_exit_limit=20000");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  ASSERT_TRUE(client.Send("DEFER 300 y\n"));
  absl::SleepFor(absl::Milliseconds(50));
  kill(pid_, SIGTERM);
  EXPECT_EQ(client.ReadLine(), "300 y");
  client.Close();
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog("hook on_exit"));
}

TEST_F(EndTest, SO15_SigtermWithoutSlowExitEndsAtOnce) {
  StartWith("slow_exit_limit=0");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitForEnd(absl::Seconds(5)), 0);
  EXPECT_TRUE(client.WaitClosed());
}

TEST_F(EndTest, F54_AnExitHookThatHangsIsCutOff) {
  StartWith("hang_on_exit");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  const absl::Time start = absl::Now();
  kill(pid_, SIGTERM);
  const absl::optional<int> status = master_->WaitForExit(pid_);
  ASSERT_TRUE(status.has_value());
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(6500));
}

TEST_F(EndTest, F57_AnExceptionInTheExitHookDoesNotStopTheEnd) {
  StartWith("throw_on_exit");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog("thrown in on_exit"));
}

TEST_F(EndTest, RequestExitIsOrderly) {
  StartWith("");
  LineClient client = Connect();
  EXPECT_EQ(client.Ask("EXIT"), "exiting");
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog("hook on_exit"));
}

TEST_F(EndTest, S87_AServiceThatExitsByItselfHasItsOwnStatusAndNoHook) {
  StartWith("");
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("EXITCODE 3\n"));
  EXPECT_EQ(WaitForEnd(), 3);
  EXPECT_FALSE(master_->LogContains("hook on_exit"));
}

TEST_F(EndTest, S87_APreAcceptHookMayExitAndLosesNoClient) {
  StartWith("exit_in_pre_accept");
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("ECHO x\n"));
  EXPECT_EQ(WaitForEnd(), 0);
  master_->options().environment.pop_back();
  master_->options().environment.pop_back();
  master_->Spawn().value();
  EXPECT_EQ(client.ReadLine(), "x");
}

// --- Drain ---

TEST_F(EndTest, S79_DrainGoesOnInABackgroundProcessWithAllClients) {
  StartWith("");
  std::vector<LineClient> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(Connect());
    ASSERT_EQ(clients.back().Ask("COUNT"), "1");
  }
  const std::vector<std::string> answer = absl::StrSplit(clients[0].Ask("DRAIN"), ' ');
  ASSERT_EQ(answer.size(), 3u);
  EXPECT_EQ(answer[0], "drained");
  EXPECT_NE(answer[1], absl::StrCat(pid_));
  EXPECT_EQ(answer[2], "1");
  const pid_t background = WaitForBackground();
  EXPECT_EQ(answer[1], absl::StrCat(background));
  // S79: the parent ends without the exit hook.
  EXPECT_FALSE(master_->LogContains("hook on_exit"));
  for (size_t i = 1; i < clients.size(); ++i) EXPECT_EQ(clients[i].Ask("COUNT"), "2");
  // S93, SO8: a second drain returns at once and forks nothing.
  EXPECT_EQ(clients[1].Ask("DRAIN"), absl::StrCat("drained ", background, " 1"));
  // S80: no listener, nothing new.
  LineClient queued = Connect();
  ASSERT_TRUE(queued.Send("PID\n"));
  EXPECT_TRUE(queued.IsQuiet(absl::Milliseconds(200)));
  // SO8: a reload does not concern it.
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(clients[2].Ask("COUNT"), "3");
  const pid_t young = master_->Spawn().value();
  EXPECT_EQ(queued.ReadLine(), absl::StrCat(young));
  // SO8: its messages, if there were any, would be somebody else's.
  EXPECT_TRUE(master_->problems().empty()) << master_->problems()[0];
  clients.clear();
  EXPECT_EQ(WaitForBackgroundEnd(background), 0);
  EXPECT_TRUE(WaitForLog(absl::StrCat("hook on_exit ", background)));
}

TEST_F(EndTest, SO8_ADrainedWorkerLogsWithItsOwnProcessNumber) {
  StartWith("");
  LineClient client = Connect();
  ASSERT_TRUE(absl::StartsWith(client.Ask("DRAIN"), "drained"));
  const pid_t background = WaitForBackground();
  ASSERT_EQ(client.Ask("LOG from the child"), "logged");
  EXPECT_TRUE(WaitForLog(absl::StrCat("[", background, "]: from the child")));
}

TEST_F(EndTest, S80_TheListenerIsNotKeptOpenByADrainedWorker) {
  StartWith("");
  LineClient client = Connect();
  ASSERT_TRUE(absl::StartsWith(client.Ask("DRAIN"), "drained"));
  WaitForBackground();
  master_->Vanish();
  EXPECT_FALSE(master_->ConnectRaw().ok());
  EXPECT_EQ(client.Ask("ECHO x"), "x");
}

TEST_F(EndTest, SO8_ADrainWithDeferredRequestsFinishesThem) {
  StartWith("");
  LineClient slow = Connect();
  LineClient client = Connect();
  ASSERT_TRUE(slow.Send("DEFER 500 late\n"));
  ExpectAccounted(1);
  ASSERT_TRUE(absl::StartsWith(client.Ask("DRAIN"), "drained"));
  EXPECT_EQ(slow.ReadLine(), "500 late");
}

TEST_F(EndTest, S84_ADrainWithoutClientsEndsBothProcesses) {
  StartWith("drain_in_pre_accept");
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("ECHO x\n"));
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
  EXPECT_TRUE(master_->WaitUntil([&] { return master_->Survivors().empty(); }, absl::Seconds(10)));
  EXPECT_EQ(Count(log(), "error:"), 0) << log();
  // The client is still in the queue and reaches the next worker.
  master_->options().environment.pop_back();
  master_->options().environment.pop_back();
  master_->Spawn().value();
  EXPECT_EQ(client.ReadLine(), "x");
}

TEST_F(EndTest, SO8_SigtermEndsADrainedWorkerToo) {
  StartWith("slow_exit_limit=0");
  LineClient client = Connect();
  ASSERT_TRUE(absl::StartsWith(client.Ask("DRAIN"), "drained"));
  const pid_t background = WaitForBackground();
  kill(background, SIGTERM);
  EXPECT_EQ(WaitForBackgroundEnd(background), 0);
}

TEST_F(EndTest, SO2_PastTheUseLimitAWorkerMayDrainAfterAGracePeriod) {
  Scenario scenario;
  scenario.test = "use_limit_grace=300";
  scenario.configured = {"-m", "2"};
  Start(std::move(scenario));
  LineClient staying = Connect();
  ASSERT_EQ(staying.Ask("ECHO x"), "x");
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  const pid_t background = WaitForBackground();
  EXPECT_EQ(staying.Ask("ECHO y"), "y");
  staying.Close();
  EXPECT_EQ(WaitForBackgroundEnd(background), 0);
}

TEST_F(EndTest, P58_ADrainedWorkerSendsNothing) {
  StartWith("");
  LineClient client = Connect();
  LineClient other = Connect();
  ASSERT_EQ(other.Ask("ECHO x"), "x");
  ASSERT_TRUE(absl::StartsWith(client.Ask("DRAIN"), "drained"));
  WaitForBackground();
  master_->Pump();
  const size_t before = master_->messages().size();
  EXPECT_GE(before, 2u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(other.Ask("ECHO y"), "y");
  EXPECT_EQ(client.Ask("SLEEP 100"), "slept");
  master_->Pump();
  EXPECT_EQ(master_->messages().size(), before);
  EXPECT_TRUE(master_->problems().empty()) << master_->problems()[0];
}

// --- Exit statuses ---

TEST_F(EndTest, P54_EveryOrdinaryEndHasStatusZeroAndIsNotComplainedAbout) {
  const auto quiet = [this](const char* cause) {
    EXPECT_EQ(WaitForEnd(), 0) << cause;
    for (const char* word : {"warning", "error", "fatal", "panic"}) {
      EXPECT_FALSE(absl::StrContains(log(), word)) << cause << "\n" << log();
    }
  };
  Scenario scenario;
  scenario.configured = {"-m", "1"};
  Start(scenario);
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  quiet("use limit");
  scenario.configured = {"-i", "1"};
  Start(scenario);
  quiet("idle limit");
  StartWith("");
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  ASSERT_TRUE(master_->Reload().ok());
  quiet("master disconnect");
  StartWith("");
  {
    LineClient client = Connect();
    EXPECT_TRUE(absl::StartsWith(client.Ask("DRAIN"), "drained"));
    quiet("the parent of a drain");
  }
  StartWith("exit_in_pre_accept");
  {
    LineClient client = Connect();
    quiet("a table has changed");
  }
  StartWith("");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  kill(pid_, SIGTERM);
  quiet("SIGTERM");
}

TEST_F(EndTest, P55_AFatalErrorTheWatchdogAndTheThirteenthErrorAreStatusOne) {
  Scenario scenario;
  scenario.configured = {"-m", "0"};
  Start(scenario);
  EXPECT_EQ(WaitForEnd(), 1) << "a fatal error";
  StartWith("");
  {
    LineClient client = Connect();
    EXPECT_EQ(client.Ask("ERRORS 12"), "counted");
    EXPECT_EQ(client.Ask("ECHO x"), "x");
    EXPECT_TRUE(running());
    ASSERT_TRUE(client.Send("ERRORS 1\n"));
    EXPECT_EQ(WaitForEnd(), 1) << "the 13th error";
    EXPECT_FALSE(master_->LogContains("hook on_exit"));
  }
  scenario.configured = {};
  scenario.main_cf = "daemon_timeout = 3s\n";
  Start(scenario);
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("HANG\n"));
  EXPECT_EQ(WaitForEnd(absl::Seconds(20)), 1) << "the watchdog";
}

TEST_F(EndTest, P55_APanicIsSigabrt) {
  StartWith("");
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("PANIC\n"));
  const absl::optional<int> status = master_->WaitForExit(pid_);
  ASSERT_TRUE(status.has_value());
  ASSERT_TRUE(WIFSIGNALED(*status));
  EXPECT_EQ(WTERMSIG(*status), SIGABRT);
  EXPECT_TRUE(WaitForLog("panic"));
  EXPECT_FALSE(master_->LogContains("hook on_exit"));
}

// --- One-shot ---

class OneShotTest : public WorkerTest {
 protected:
  // Runs the service on standard input and output; the answer is what it wrote.
  std::string Run(const std::string& input, const std::string& test = "",
                  std::vector<std::string> more = {}) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) return "no pipe";
    UniqueFd in_read(in[0]), in_write(in[1]), out_read(out[0]), out_write(out[1]);
    Scenario scenario;
    scenario.test = test;
    scenario.configured = {"-S"};
    scenario.configured.insert(scenario.configured.end(), more.begin(), more.end());
    scenario.master.without_descriptors = {3, 4, 5, 6};
    scenario.master.more_descriptors = {{0, in_read.get()}, {1, out_write.get()}};
    Start(std::move(scenario));
    in_read.Reset();
    out_write.Reset();
    EXPECT_EQ(write(in_write.get(), input.data(), input.size()),
              static_cast<ssize_t>(input.size()));
    in_write.Reset();
    std::string all;
    char buffer[4096];
    ssize_t got;
    while ((got = read(out_read.get(), buffer, sizeof(buffer))) > 0) all.append(buffer, got);
    return all;
  }
};

TEST_F(OneShotTest, S77_OneSessionOnStandardInputAndOutput) {
  EXPECT_EQ(Run("ECHO hello\n"), "hello\n");
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog("hook on_exit"));
  EXPECT_EQ(master_->messages().size(), 0u);
}

TEST_F(OneShotTest, S77_AllRequestsOfTheSessionAreServed) {
  EXPECT_EQ(Run("ECHO one\nECHO two\nECHO three\n"), "one\ntwo\nthree\n");
  EXPECT_EQ(WaitForEnd(), 0);
}

TEST_F(OneShotTest, SO9_DisconnectMeansFlushAndFinish) {
  EXPECT_EQ(Run("ECHO x\nCLOSE\nECHO y\n"), "x\nbye\n");
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(WaitForLog("hook on_exit"));
}

TEST_F(OneShotTest, S76_RestrictionsAreNotEnforced) {
  EXPECT_EQ(Run("ECHO x\n", "solitary unlimited"), "x\n");
  EXPECT_EQ(WaitForEnd(), 0);
}

TEST_F(OneShotTest, S31_ThePrivilegedRestrictionIs) {
  EXPECT_EQ(Run("ECHO x\n", "privileged", {"-u"}), "");
  EXPECT_EQ(WaitForEnd(), 1);
}

TEST_F(OneShotTest, ADeferredReplyIsPartOfTheSession) {
  EXPECT_EQ(Run("DEFER 100 late\nECHO x\n"), "100 late\nx\n");
  EXPECT_EQ(WaitForEnd(), 0);
}

TEST_F(OneShotTest, F57_AnExceptionEndsTheSession) {
  EXPECT_EQ(Run("ECHO x\nTHROW\nECHO y\n"), "x\n");
  EXPECT_TRUE(WaitForLog("thrown on request"));
}

TEST_F(OneShotTest, AnEmptySessionIsFine) {
  EXPECT_EQ(Run(""), "");
  EXPECT_EQ(WaitForEnd(), 0);
}

}  // namespace
}  // namespace posthouse

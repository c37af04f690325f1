// Limits: use, idle, descriptors, flow tokens, the watchdog (S43 to S54, S63 to S75, SO4, F35, F45,
// F49, F52, F53).

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/os/os.h"
#include "tests/server/harness.h"

namespace posthouse {
namespace {

class LimitsTest : public WorkerTest {
 protected:
  void StartWith(const std::string& test, const std::string& main_cf,
                 std::vector<std::string> configured = {}) {
    Scenario scenario;
    scenario.test = test;
    scenario.main_cf = main_cf;
    scenario.configured = std::move(configured);
    Start(std::move(scenario));
  }
  // With a limit on descriptors; the hard one too, so that it cannot be raised again.
  void StartWithDescriptors(int limit, const std::string& test = "",
                            const std::string& transport = "unix") {
    Scenario scenario;
    scenario.test = test;
    scenario.arguments.transport = transport;
    scenario.master.in_child = [limit] {
      const rlimit both = {static_cast<rlim_t>(limit), static_cast<rlim_t>(limit)};
      os::Setrlimit(RLIMIT_NOFILE, &both);
    };
    Start(std::move(scenario));
  }
};

// --- Use limit ---

TEST_F(LimitsTest, S65_TheUseLimitEndsAWorkerWithoutClientsAtOnce) {
  StartWith("", "max_use = 3\n");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
  EXPECT_TRUE(WaitForLog("hook on_exit"));
}

TEST_F(LimitsTest, S64_TheUseCountCountsConnectionsAndNotRequests) {
  StartWith("", "max_use = 2\n");
  LineClient client = Connect();
  for (int i = 0; i < 20; ++i) ASSERT_EQ(client.Ask("ECHO x"), "x");
  client.Close();
  EXPECT_EQ(Connect().Ask("LIMITS"), "use_limit=2 idle_limit=1m40s clients=1 uses=1");
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
}

TEST_F(LimitsTest, S64_AConnectionWithoutARequestCountsToo) {
  StartWith("", "max_use = 2\n");
  for (int i = 0; i < 2; ++i) {
    LineClient client = Connect();
    ASSERT_TRUE(master_->WaitUntil([&] { return Count(log(), "hook post_accept") == i + 1; }));
  }
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
}

TEST_F(LimitsTest, S66_TheUseLimitIsSoftWhileAClientIsConnected) {
  StartWith("", "max_use = 1\n");
  LineClient staying = Connect();
  ASSERT_EQ(staying.Ask("ECHO x"), "x");
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  EXPECT_TRUE(running());
  EXPECT_EQ(staying.Ask("ECHO y"), "y");
  staying.Close();
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
}

TEST_F(LimitsTest, F48_NoClientIsLostAtTheUseLimit) {
  StartWith("", "max_use = 5\n");
  for (int i = 0; i < 60; ++i) {
    LineClient client = Connect();
    ASSERT_TRUE(client.Send("ECHO x\n"));
    // As the master does: a client waits and nobody is there.
    const absl::Time end = absl::Now() + kGenerousBound;
    std::string answer = "<timeout>";
    while (answer == "<timeout>" && absl::Now() < end) {
      master_->Pump();
      if (master_->running().empty()) master_->Spawn().value();
      answer = client.ReadLine(absl::Milliseconds(20));
    }
    ASSERT_EQ(answer, "x") << i;
  }
}

TEST_F(LimitsTest, S2_ZeroFromTheServiceMeansNoUseLimit) {
  StartWith("use_limit=0", "max_use = 1\n");
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  EXPECT_TRUE(running());
}

TEST_F(LimitsTest, S3_ANewUseLimitCountsFromTheNextTest) {
  StartWith("", "");
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  EXPECT_EQ(Connect().Ask("SETUSE 2"), "ok");
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
}

// --- Idle limit ---

TEST_F(LimitsTest, S67_TheIdleLimitRunsWhileNoClientIsConnected) {
  StartWith("", "max_idle = 1s\n");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  const absl::Time start = absl::Now();
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  // Connected but silent: no limit.
  EXPECT_TRUE(client.IsQuiet(absl::Milliseconds(1600)));
  EXPECT_TRUE(running());
  EXPECT_EQ(client.Ask("ECHO y"), "y");
  const absl::Time left = absl::Now();
  client.Close();
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
  EXPECT_GE(absl::Now() - left, absl::Milliseconds(950));
  EXPECT_LT(absl::Now() - left, absl::Seconds(3));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(2500));
  EXPECT_TRUE(WaitForLog("hook on_exit"));
}

TEST_F(LimitsTest, S22_AWorkerThatIsNeverUsedEndsAtItsIdleLimit) {
  StartWith("", "", {"-i", "1"});
  ASSERT_TRUE(WaitForLog("hook post_init"));
  const absl::Time start = absl::Now();
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(900));
}

TEST_F(LimitsTest, SO17_TheIdleLimitHasAFineResolution) {
  StartWith("idle_limit=300", "");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  const absl::Time start = absl::Now();
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(900));
}

TEST_F(LimitsTest, S2_ZeroFromTheServiceMeansNoIdleLimit) {
  StartWith("idle_limit=0", "max_idle = 1s\n");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  EXPECT_FALSE(master_->WaitForExit(pid_, absl::Milliseconds(1500)).has_value());
}

// F49: attempts that yield no client do not move the idle deadline.
TEST_F(LimitsTest, F49_RefusedAttemptsDoNotExtendTheIdleTime) {
  StartWith("not_now=100000", "max_idle = 1s\n");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  const absl::Time start = absl::Now();
  std::vector<LineClient> clients;
  for (int i = 0; i < 5; ++i) clients.push_back(Connect());
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(2500));
}

TEST_F(LimitsTest, S68_AClientThatCameTooLateReachesTheNextWorker) {
  StartWith("idle_limit=200 not_now=100000", "");
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("ECHO x\n"));
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
  // Without the switches of the first.
  master_->options().environment = {};
  master_->Spawn().value();
  EXPECT_EQ(client.ReadLine(), "x");
}

// --- Descriptors ---

TEST_F(LimitsTest, SO4_ALimitBelowTheThresholdKeepsTheLowNumbers) {
  StartWithDescriptors(64);
  std::vector<LineClient> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(Connect());
    ASSERT_EQ(clients.back().Ask("ECHO x"), "x") << i;
  }
  int fd = 1000;
  const std::string answer = clients[0].Ask("FD");
  ASSERT_TRUE(absl::SimpleAtoi(answer.substr(0, answer.find(' ')), &fd));
  EXPECT_LT(fd, 64);
  EXPECT_TRUE(absl::StrContains(answer, "cloexec"));
}

TEST_F(LimitsTest, F35_AFailedMoveCostsNobody) {
  StartWithDescriptors(132);
  std::vector<LineClient> clients;
  for (int i = 0; i < 30; ++i) {
    clients.push_back(Connect());
    ASSERT_EQ(clients.back().Ask("ECHO x"), "x") << i;
  }
  for (LineClient& client : clients) EXPECT_EQ(client.Ask("ECHO y"), "y");
  EXPECT_EQ(Count(log(), "fatal"), 0);
}

TEST_F(LimitsTest, F45_WithoutDescriptorsNothingSpinsAndNobodyDies) {
  for (const char* transport : {"unix", "inet", "pass"}) {
    StartWithDescriptors(30, "", transport);
    LineClient witness = Connect();
    ASSERT_EQ(witness.Ask("ECHO x"), "x");
    std::vector<LineClient> clients;
    for (int i = 0; i < 60; ++i) {
      clients.push_back(Connect());
      ASSERT_TRUE(clients.back().Send("ECHO x\n"));
    }
    // A descriptor that finds no room in its message is lost with its client (SO4).
    ASSERT_TRUE(WaitForLog(std::string(transport) == "pass" ? "was cut" : "open files"));
    const double cpu = CpuSeconds(pid_);
    const int lines = Count(log(), "\n");
    EXPECT_EQ(witness.Ask("ECHO y"), "y");
    EXPECT_FALSE(master_->WaitForExit(pid_, absl::Seconds(2)).has_value());
    EXPECT_EQ(witness.Ask("ECHO z"), "z");
    EXPECT_LT(CpuSeconds(pid_) - cpu, 0.5);
    // Hooks log an attempt each, at most 20 of them a second; the condition itself once a second.
    EXPECT_LT(Count(log(), "\n") - lines, 60) << log();
    // Room again: whoever waits is served.
    int served = 0;
    for (LineClient& client : clients) {
      const std::string answer = client.ReadLine(absl::Seconds(10));
      // One that got its place but not the descriptor passed with it may be dropped.
      if (answer == "x") ++served;
      client.Close();
    }
    EXPECT_GE(served, std::string(transport) == "pass" ? 10 : 60) << transport;
    EXPECT_EQ(Connect().Ask("ECHO end"), "end");
    EXPECT_TRUE(running());
  }
}

TEST_F(LimitsTest, F37_DescriptorsAreBackAfterClients) {
  for (const char* transport : {"unix", "inet", "pass"}) {
    Scenario scenario;
    scenario.arguments.transport = transport;
    Start(std::move(scenario));
    LineClient witness = Connect();
    const std::string before = witness.Ask("FDS");
    for (int i = 0; i < 30; ++i) EXPECT_EQ(Connect().Ask("ECHO x"), "x");
    EXPECT_TRUE(WaitUntil([&] { return witness.Ask("FDS") == before; })) << before << "\n"
                                                                         << witness.Ask("FDS");
  }
}

// --- Flow delay ---

TEST_F(LimitsTest, S51_WithATokenAClientIsServedAtOnce) {
  StartWith("in_flow_delay", "in_flow_delay = 5s\n");
  FlowTokens tokens = master_->flow_tokens();
  ASSERT_EQ(tokens.Put(2).value(), 2);
  const absl::Time start = absl::Now();
  LineClient client = Connect();
  EXPECT_EQ(client.Ask("ECHO x"), "x");
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  EXPECT_EQ(tokens.Count().value(), 1);
  // S53: per connection, not per request.
  EXPECT_EQ(client.Ask("ECHO y"), "y");
  EXPECT_EQ(tokens.Count().value(), 1);
}

TEST_F(LimitsTest, S52_WithoutATokenAClientWaitsAndIsServedAnyway) {
  StartWith("in_flow_delay", "in_flow_delay = 1s\n");
  LineClient client = Connect();
  const absl::Time start = absl::Now();
  EXPECT_EQ(client.Ask("ECHO x"), "x");
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(900));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_EQ(client.Ask("ECHO y", absl::Milliseconds(900)), "y");
}

TEST_F(LimitsTest, S53_TheDelayStopsNobodyElse) {
  StartWith("in_flow_delay", "in_flow_delay = 3s\n");
  FlowTokens tokens = master_->flow_tokens();
  ASSERT_EQ(tokens.Put(1).value(), 1);
  LineClient quick = Connect();
  ASSERT_EQ(quick.Ask("ECHO x"), "x");
  LineClient delayed = Connect();
  ASSERT_TRUE(delayed.Send("ECHO late\n"));
  EXPECT_EQ(quick.Ask("ECHO y", absl::Seconds(2)), "y");
  // It counts as connected meanwhile.
  EXPECT_TRUE(WaitUntil([&] { return absl::StrContains(quick.Ask("LIMITS"), "clients=2 "); }));
  EXPECT_EQ(delayed.ReadLine(), "late");
}

TEST_F(LimitsTest, S53_AClientMayLeaveDuringItsDelay) {
  StartWith("in_flow_delay", "in_flow_delay = 1s\n");
  for (int i = 0; i < 5; ++i) Connect().Close();
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  EXPECT_TRUE(master_->WaitUntil([&] { return Count(log(), "hook pre_disconnect") == 6; }))
      << log();
}

TEST_F(LimitsTest, S52_ADelayOfZeroIsLegal) {
  StartWith("in_flow_delay", "in_flow_delay = 0s\n");
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Connect().Ask("ECHO x", absl::Seconds(5)), "x");
}

TEST_F(LimitsTest, P53_WithoutProductionConsumersFindNothingAndServeAllTheSame) {
  StartWith("in_flow_delay", "in_flow_delay = 0\n");
  FlowTokens tokens = master_->flow_tokens();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Connect().Ask("ECHO x", absl::Seconds(5)), "x");
    EXPECT_EQ(tokens.Count().value(), 0);
  }
}

TEST_F(LimitsTest, SO10_ADisconnectDuringTheFlowDelayEndsTheDelayToo) {
  StartWith("in_flow_delay disconnect_in_post_accept=3", "in_flow_delay = 2s\n");
  const absl::Time start = absl::Now();
  for (int i = 0; i < 3; ++i) {
    LineClient client = Connect();
    (void)client.Send("ECHO x\n");  // the worker may have closed it by now
    EXPECT_TRUE(client.WaitClosed(absl::Milliseconds(1800)));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  // Served after its own delay, when those of the others would have ended.
  LineClient client = Connect();
  EXPECT_TRUE(absl::EndsWith(client.Ask("LIMITS"), "clients=1 uses=3"));
  EXPECT_GE(absl::Now() - start, absl::Seconds(2));
  EXPECT_EQ(Count(log(), "hook pre_disconnect"), 3) << log();
  client.Close();
  EXPECT_TRUE(master_->WaitUntil([&] { return Count(log(), "hook pre_disconnect") == 4; }));
  EXPECT_TRUE(running());
}

TEST_F(LimitsTest, S51_WithoutTheKeyNoTokenIsTaken) {
  StartWith("", "");
  FlowTokens tokens = master_->flow_tokens();
  ASSERT_EQ(tokens.Put(5).value(), 5);
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  EXPECT_EQ(tokens.Count().value(), 5);
}

// --- Watchdog ---

TEST_F(LimitsTest, F52_AServiceThatHangsIsEndedByTheWatchdog) {
  for (const char* command : {"HANG", "SPIN"}) {
    StartWith("", "daemon_timeout = 3s\n");
    LineClient client = Connect();
    ASSERT_EQ(client.Ask("ECHO x"), "x");
    const absl::Time start = absl::Now();
    ASSERT_TRUE(client.Send(absl::StrCat(command, "\n")));
    EXPECT_TRUE(client.WaitClosed(absl::Seconds(20)));
    EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 1) << command;
    const absl::Duration took = absl::Now() - start;
    // S73: between two and three thirds of the limit; then the pause of a fatal error.
    EXPECT_GE(took, absl::Milliseconds(1900));
    EXPECT_LT(took, absl::Milliseconds(3300 + 1500));
    EXPECT_TRUE(WaitForLog("watchdog"));
    EXPECT_FALSE(master_->LogContains("hook on_exit"));
    EXPECT_TRUE(master_->LogContains("hook last_resort"));
  }
}

TEST_F(LimitsTest, S24_TheWatchdogIsThereBeforeTheFirstTurn) {
  StartWith("loop=-1 hang_in_loop", "daemon_timeout = 3s\n");
  EXPECT_EQ(WaitForEnd(absl::Seconds(20)), 1);
  EXPECT_TRUE(WaitForLog("watchdog"));
  EXPECT_TRUE(master_->LogContains("hook loop first"));
}

TEST_F(LimitsTest, S75_PatsKeepTheWatchdogQuiet) {
  StartWith("", "daemon_timeout = 3s\n");
  LineClient client = Connect();
  EXPECT_EQ(client.Ask("PAT 9"), "patted");  // 4.5 s
  EXPECT_EQ(client.Ask("ECHO x"), "x");
}

TEST_F(LimitsTest, S71_WaitingNeverTripsTheWatchdog) {
  StartWith("", "daemon_timeout = 3s\n");
  LineClient client = Connect();
  EXPECT_TRUE(client.IsQuiet(absl::Milliseconds(4500)));
  EXPECT_EQ(client.Ask("ECHO x"), "x");
}

TEST_F(LimitsTest, F53_ManyModerateRequestsAreNotOneLongOne) {
  StartWith("requests_per_client_and_turn=1000", "daemon_timeout = 3s\n");
  LineClient client = Connect();
  std::string all;
  for (int i = 0; i < 45; ++i) all += "SLEEP 100\n";
  ASSERT_TRUE(client.Send(all));
  for (int i = 0; i < 45; ++i) ASSERT_EQ(client.ReadLine(), "slept") << i;
}

TEST_F(LimitsTest, F17_APauseOfTheProcessIsNotHeldAgainstIt) {
  StartWith("", "daemon_timeout = 3s\n");
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  kill(pid_, SIGSTOP);
  absl::SleepFor(absl::Milliseconds(4500));
  kill(pid_, SIGCONT);
  EXPECT_EQ(client.Ask("ECHO y"), "y");
  EXPECT_TRUE(running());
}

TEST_F(LimitsTest, S86_ADrainedWorkerHasAWatchdogToo) {
  StartWith("", "daemon_timeout = 3s\n");
  LineClient client = Connect();
  ASSERT_TRUE(absl::StartsWith(client.Ask("DRAIN"), "drained"));
  EXPECT_EQ(WaitForEnd(), 0);
  ASSERT_TRUE(client.Send("HANG\n"));
  EXPECT_TRUE(client.WaitClosed(absl::Seconds(20)));
  EXPECT_TRUE(WaitForLog("watchdog"));
  EXPECT_TRUE(master_->WaitUntil([&] { return master_->Survivors().empty(); }));
}

// --- The loop hook ---

TEST_F(LimitsTest, S69_TheLoopHookRunsBeforeEveryWaitAndTheFirst) {
  StartWith("loop=-1", "");
  ASSERT_TRUE(WaitForLog("hook loop first"));
  EXPECT_LT(log().find("hook post_init"), log().find("hook loop first"));
  LineClient client = Connect();
  for (int i = 0; i < 6; ++i) EXPECT_EQ(client.Ask("ECHO x"), "x");
  EXPECT_TRUE(WaitForLog("hook loop fifth"));
}

TEST_F(LimitsTest, S70_TheLoopHookBoundsTheWait) {
  StartWith("loop=50", "");
  EXPECT_TRUE(WaitForLog("hook loop fifth", absl::Seconds(10)));
  StartWith("loop=-1", "");
  ASSERT_TRUE(WaitForLog("hook loop first"));
  EXPECT_FALSE(master_->WaitUntil([&] { return master_->LogContains("hook loop fifth"); },
                                  absl::Milliseconds(500)));
}

TEST_F(LimitsTest, AnIdleWorkerUsesNoProcessor) {
  StartWith("", "");
  std::vector<LineClient> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(Connect());
    ASSERT_EQ(clients.back().Ask("ECHO x"), "x");
  }
  const double before = CpuSeconds(pid_);
  ASSERT_GE(before, 0);
  absl::SleepFor(absl::Seconds(1));
  EXPECT_LE(CpuSeconds(pid_) - before, 0.02);
}

}  // namespace
}  // namespace posthouse

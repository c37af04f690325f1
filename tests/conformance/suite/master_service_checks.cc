// The life of a service: when children are started, what their messages and deaths do, stress,
// wake-ups.

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/suite/master_fixture.h"

namespace posthouse::conformance {
namespace {

constexpr int64_t kNsPerSecond = 1000000000;

class MasterSpawning : public MasterFixture {};

TEST_F(MasterSpawning, P27_M59_NobodyIsStartedBeforeTheFirstConnection) {
  Start("a unix - n n - 2 probe\n");
  EXPECT_TRUE(StaysAt("a", 0));
}

TEST_F(MasterSpawning, P27_M61_AConnectionStartsOneChildThatTakesIt) {
  Start("a unix - n n - 5 probe\n");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_TRUE(StaysAt("a", 1));
}

TEST_F(MasterSpawning, P28_P30_ClientsThatDoNothingKeepNobodyBusy) {
  Start("a unix - n n - 5 probe\n");
  std::vector<Connection> silent;
  for (int i = 0; i < 30; ++i) silent.push_back(master_.Connect("private/a"));
  for (Connection& client : silent) EXPECT_EQ(Ask(client, "!pid"), Ask(silent[0], "!pid"));
  EXPECT_EQ(Starts("a"), 1u);
}

TEST_F(MasterSpawning, M61_SeveralConnectionsAtOnceStartOneChild) {
  Start("a unix - n n - 5 probe\n");
  master_.Stop();
  std::vector<Connection> clients;
  for (int i = 0; i < 10; ++i) clients.push_back(master_.Connect("private/a"));
  master_.Continue();
  for (Connection& client : clients) EXPECT_EQ(Ask(client, "!pid"), Ask(clients[0], "!pid"));
  EXPECT_TRUE(StaysAt("a", 1));
}

TEST_F(MasterSpawning, M61_TwoListenersThatAreReadyAtOnceStartOneChild) {
  if (access("/proc/net/if_inet6", R_OK) != 0) GTEST_SKIP() << "no IPv6 here";
  const int port = FreePort();
  Start(absl::StrCat(port, " inet n n n - 5 probe\n"),
        "inet_protocols = all\ninet_interfaces = ::1, 127.0.0.1\n");
  master_.Stop();
  Connection first = master_.ConnectPort(port);
  absl::StatusOr<Connection> second = Connection::Tcp6(port);
  ASSERT_TRUE(second.ok()) << second.status();
  master_.Continue();
  EXPECT_EQ(Ask(first, "echo x"), "x");
  EXPECT_EQ(Ask(*second, "echo y"), "y");
  EXPECT_TRUE(StaysAt("", 1));
}

TEST_F(MasterSpawning, P29_M60_WhileAllAreTakenAConnectionStartsAnother) {
  Start("a unix - n n - 5 probe\n");
  std::vector<Connection> busy;
  for (size_t i = 1; i <= 3; ++i) {
    busy.push_back(Hold("private/a"));
    EXPECT_EQ(Starts("a"), i);
  }
  // An available one is enough.
  EXPECT_EQ(Release(busy[1]), "done");
  EXPECT_EQ(Settle(busy[1]), "settled");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_TRUE(StaysAt("a", 3));
  for (size_t i : {0, 2}) EXPECT_EQ(Release(busy[i]), "done");
}

TEST_F(MasterSpawning, M60_BeyondTheLimitAClientWaitsForOneToBeFree) {
  Start("a unix - n n - 2 probe\n");
  Connection first = Hold("private/a");
  Connection second = Hold("private/a");
  Connection waits = master_.Connect("private/a");
  ASSERT_TRUE(waits.Write("echo x\n").ok());
  EXPECT_TRUE(StaysAt("a", 2));
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(waits.ReadLine().value_or("no answer"), "x");
  EXPECT_EQ(Release(second), "done");
  EXPECT_EQ(Starts("a"), 2u);
}

TEST_F(MasterSpawning, M37_LimitZeroIsNoLimit) {
  Start("a unix - n n - 0 probe\n", "default_process_limit = 2\n");
  std::vector<Connection> busy;
  for (int i = 0; i < 5; ++i) busy.push_back(Hold("private/a"));
  EXPECT_EQ(Starts("a"), 5u);
  for (Connection& client : busy) EXPECT_EQ(Release(client), "done");
}

TEST_F(MasterSpawning, M34_ADashIsTheDefaultProcessLimit) {
  Start("a unix - n n - - probe\n", "default_process_limit = 2\n");
  Connection first = Hold("private/a");
  Connection second = Hold("private/a");
  Connection waits = master_.Connect("private/a");
  EXPECT_TRUE(StaysAt("a", 2));
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(Release(second), "done");
}

// --- Status messages ---

class MasterMessages : public MasterFixture {
 protected:
  void SetUp() override {
    Start("a unix - n n - 2 probe\nb unix - n n - 2 probe\n", kLongThrottle);
    if (HasFatalFailure()) return;
    client_ = master_.Connect("private/a");
    pid_ = Ask(client_, "!pid");
    generation_ = absl::StrCat(OnlyReport("a").generation);
  }
  // Sends a message as the probe's own, without a request around it.
  void Say(const std::string& pid, const std::string& generation, int value) {
    ASSERT_EQ(Ask(client_, absl::StrCat("!say ", pid, " ", generation, " ", value)), "written");
  }
  void ExpectAvailable() {
    EXPECT_FALSE(StartsAnother("a", {std::atoi(pid_.c_str())}))
        << "a connection started another worker";
  }
  void ExpectTaken() {
    EXPECT_TRUE(StartsAnother("a", {std::atoi(pid_.c_str())}))
        << "a connection started no other worker";
  }

  Connection client_{UniqueFd()};
  std::string pid_;
  std::string generation_;
};

TEST_F(MasterMessages, P29_TAKENAndAVAILAreBelieved) {
  Say(pid_, generation_, 0);
  Say(pid_, generation_, 1);
  ExpectAvailable();
  Say(pid_, generation_, 0);
  ExpectTaken();
}

TEST_F(MasterMessages, P29_M70_AMessageThatRepeatsTheStateIsIgnored) {
  Say(pid_, generation_, 0);
  Say(pid_, generation_, 0);
  Say(pid_, generation_, 1);
  ExpectAvailable();
  Say(pid_, generation_, 1);
  Say(pid_, generation_, 1);
  Say(pid_, generation_, 0);
  ExpectTaken();
}

TEST_F(MasterMessages, P33_AnUnknownProcessIsIgnored) {
  Say("1", generation_, 0);
  Say("4194305", generation_, 0);
  ExpectAvailable();
  EXPECT_TRUE(master_.Running());
}

TEST_F(MasterMessages, P25_P34_AnotherGenerationIsIgnored) {
  Say(pid_, absl::StrCat(std::stoul(generation_) + 1), 0);
  Say(pid_, "0", 0);
  ExpectAvailable();
}

TEST_F(MasterMessages, P35_AnUnknownValueIsIgnored) {
  Say(pid_, generation_, 7);
  Say(pid_, generation_, -1);
  ExpectAvailable();
}

TEST_F(MasterMessages, P32_AShortMessageIsDroppedAndTheNextUnderstood) {
  ASSERT_EQ(Ask(client_, "!write 0102030405060708090a0b"), "written");
  ExpectAvailable();
  Say(pid_, generation_, 0);
  ExpectTaken();
}

TEST_F(MasterMessages, P21_NoneOfItTouchesAnotherService) {
  Connection other = master_.Connect("private/b");
  EXPECT_EQ(Ask(other, "echo x"), "x");
  ASSERT_EQ(Ask(client_, "!write ff"), "written");
  Say("1", "1", 0);
  Say(pid_, "4711", 9);
  EXPECT_EQ(Ask(other, "echo y"), "y");
  EXPECT_EQ(Starts("b"), 1u);
  EXPECT_TRUE(master_.Running());
}

// --- Deaths ---

class MasterDeaths : public MasterFixture {
 protected:
  // A service that must not be throttled is served within any bound of ours.
  void ExpectNotThrottled() {
    Connection next = master_.Connect("private/a");
    EXPECT_EQ(Ask(next, "echo next"), "next");
  }
  // The time between the starts of the first and the second process is the throttle's.
  void ExpectThrottled() {
    Connection next = master_.Connect("private/a");
    EXPECT_EQ(Ask(next, "echo next"), "next");
    const std::vector<Report> reports = master_.Reports("a");
    ASSERT_EQ(reports.size(), 2u);
    EXPECT_GE(reports[1].time_ns - reports[0].time_ns, 2 * kNsPerSecond - kNsPerSecond / 10);
  }
  static constexpr char kTwoSeconds[] = "service_throttle_time = 2s\n";
};

TEST_F(MasterDeaths, P54_M73_ExitStatus0IsSilentAndDoesNotThrottle) {
  Start("a unix - n n - 2 probe fail:1:exit:0\n", kLongThrottle);
  ExpectNotThrottled();
  EXPECT_EQ(Starts("a"), 2u);
  EXPECT_FALSE(absl::StrContains(master_.Log(), "warning")) << master_.Log();
}

TEST_F(MasterDeaths, P38_M75_M76_ExitStatus1AtItsStartThrottlesTheService) {
  Start("a unix - n n - 2 probe fail:1:exit:1\nb unix - n n - 2 probe\n", kTwoSeconds);
  Connection first = master_.Connect("private/a");
  ASSERT_TRUE(master_.WaitForStarts("a", 1));
  // Others are not affected.
  Connection other = master_.Connect("private/b");
  EXPECT_EQ(Ask(other, "echo x"), "x");
  ExpectThrottled();
  EXPECT_TRUE(master_.WaitForLog("warning: process .*probe pid [0-9]+ exit status 1"));
  EXPECT_TRUE(master_.WaitForLog("warning: .*probe: bad command startup -- throttling"));
  // Who waited is served too.
  EXPECT_EQ(Ask(first, "echo x"), "x");
}

TEST_F(MasterDeaths, P38_M74_M75_ASignalAtItsStartThrottlesTheService) {
  Start("a unix - n n - 2 probe fail:1:signal:6\n", kTwoSeconds);
  ExpectThrottled();
  EXPECT_TRUE(master_.WaitForLog("warning: process .*probe pid [0-9]+ killed by signal 6"));
}

TEST_F(MasterDeaths, P39_M75_DeathInTheFirstRequestThrottlesTheService) {
  Start("a unix - n n - 2 probe\n", kTwoSeconds);
  Connection client = master_.Connect("private/a");
  ASSERT_TRUE(client.Write("exit 3\n").ok());
  EXPECT_TRUE(client.ClosedWithin(kBound));
  ASSERT_TRUE(Gone(OnlyReport("a").pid));
  ExpectThrottled();
}

TEST_F(MasterDeaths, P39_M75_DeathAfterACompletedRequestDoesNotThrottle) {
  Start("a unix - n n - 2 probe\n", kLongThrottle);
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  // M78: a master may see a death before the messages that came before it.
  EXPECT_EQ(Settle(client), "settled");
  ASSERT_TRUE(client.Write("exit 3\n").ok());
  EXPECT_TRUE(client.ClosedWithin(kBound));
  ExpectNotThrottled();
  EXPECT_TRUE(master_.WaitForLog("warning: process .*probe pid [0-9]+ exit status 3"));
}

TEST_F(MasterDeaths, P29_M70_AVAILAloneIsNoCompletedRequest) {
  Start("a unix - n n - 2 probe\n", kTwoSeconds);
  Connection client = master_.Connect("private/a");
  const std::string pid = Ask(client, "!pid");
  const Report report = OnlyReport("a");
  EXPECT_EQ(Ask(client, absl::StrCat("!say ", pid, " ", report.generation, " 1")), "written");
  ASSERT_TRUE(client.Write("!exit 3\n").ok());
  EXPECT_TRUE(client.ClosedWithin(kBound));
  ASSERT_TRUE(Gone(report.pid));
  ExpectThrottled();
}

TEST_F(MasterDeaths, M76_IdleChildrenOfAThrottledServiceGoOnServing) {
  Start("a unix - n n - 5 probe\n", kLongThrottle);
  Connection first = Hold("private/a");
  Connection second = master_.Connect("private/a");
  ASSERT_TRUE(master_.WaitForStarts("a", 2));
  // The second one dies before its first completed request.
  ASSERT_TRUE(second.Write("!exit 1\n").ok());
  EXPECT_TRUE(second.ClosedWithin(kBound));
  EXPECT_TRUE(master_.WaitForLog("throttling"));
  Connection waits = master_.Connect("private/a");
  ASSERT_TRUE(waits.Write("echo x\n").ok());
  EXPECT_TRUE(StaysAt("a", 2));
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(waits.ReadLine().value_or("no answer"), "x");
}

TEST_F(MasterDeaths, P56_M64_AProgramThatIsNotThereThrottlesAndIsTriedAgain) {
  master_.SetProbeInstalled(false);
  Start("a unix - n n - 2 probe\n", kTwoSeconds);
  Connection client = master_.Connect("private/a");
  EXPECT_TRUE(master_.WaitForLog("throttling"));
  master_.SetProbeInstalled(true);
  EXPECT_EQ(Ask(client, "echo x"), "x");
  // P23: the failed attempt has a generation too.
  EXPECT_EQ(OnlyReport("a").generation, 2u);
}

TEST_F(MasterDeaths, P37_M77_ADeathLeavesRoomUnderTheLimit) {
  Start("a unix - n n - 2 probe\n", kLongThrottle);
  for (int i = 0; i < 6; ++i) {
    Connection client = master_.Connect("private/a");
    EXPECT_EQ(Ask(client, "echo x"), "x");
    ASSERT_TRUE(client.Write("exit 0\n").ok());
    EXPECT_TRUE(client.ClosedWithin(kBound));
  }
  // The counts are right: two and no more.
  Connection first = Hold("private/a");
  const size_t with_one = Starts("a");
  Connection second = Hold("private/a");
  EXPECT_EQ(Starts("a"), with_one + 1);
  Connection waits = master_.Connect("private/a");
  EXPECT_TRUE(StaysAt("a", with_one + 1));
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(Release(second), "done");
}

// --- Stress ---

class MasterStress : public MasterFixture {
 protected:
  static std::string StressOf(const Report& report) {
    for (const std::string& argument : report.arguments) {
      if (absl::StartsWith(argument, "stress=")) return argument;
    }
    return "no stress";
  }
  Connection HoldPassed() {
    Connection client = master_.ConnectPass("private/a");
    EXPECT_EQ(Ask(client, "hold"), "holding");
    return client;
  }
};

TEST_F(MasterStress, P42_M81_M82_TheStartThatReachesTheLimitIsToldAndEndsTheOthersWhenIdle) {
  Start("a pass - n n - 2 probe\n");
  Connection first = HoldPassed();
  const pid_t old_worker = OnlyReport("a").pid;
  Connection second = HoldPassed();
  const std::vector<Report> reports = master_.Reports("a");
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_EQ(StressOf(reports[0]), "stress=");
  EXPECT_EQ(StressOf(reports[1]), "stress=yes");
  EXPECT_NE(reports[0].descriptor(5), reports[1].descriptor(5));
  EXPECT_EQ(Release(first), "done");
  EXPECT_TRUE(Eventually(kBound, [&] {
    return master_.HasEvent(old_worker, "avail failed") ||
           master_.HasEvent(old_worker, "channel closed");
  }));
  // Its successor knows, and the one that was told first has not been asked to go.
  Connection third = HoldPassed();
  EXPECT_EQ(StressOf(LastReport("a")), "stress=yes");
  EXPECT_EQ(Release(second), "done");
  EXPECT_EQ(Ask(second, "echo x"), "x");
  EXPECT_EQ(Release(third), "done");
}

TEST_F(MasterStress, M83_StressSurvivesAReload) {
  Start("a pass - n n - 2 probe\n");
  Connection first = HoldPassed();
  Connection second = HoldPassed();
  ReloadWith("a pass - n n - 2 probe\n");
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(Release(second), "done");
  for (const Report& report : master_.Reports("a")) ASSERT_TRUE(Gone(report.pid));
  Connection third = HoldPassed();
  EXPECT_EQ(StressOf(LastReport("a")), "stress=yes");
  EXPECT_EQ(Release(third), "done");
}

TEST_F(MasterStress, M79_ALocalServiceAtItsLimitIsNotRestarted) {
  Start("a unix - n n - 2 probe\n");
  Connection first = Hold("private/a");
  Connection second = Hold("private/a");
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(Release(second), "done");
  EXPECT_EQ(Ask(first, "echo x"), "x");
  EXPECT_EQ(Ask(second, "echo x"), "x");
  EXPECT_EQ(Starts("a"), 2u);
}

// --- Wake-ups ---

class MasterWakeUps : public MasterFixture {
 protected:
  int WakeUps(const std::string& service) { return master_.CountEvents(service, "wake-up"); }
  void ExpectWakeUps(const std::string& service, int count) {
    EXPECT_TRUE(Eventually(kBound, [&] { return WakeUps(service) >= count; }))
        << WakeUps(service) << " wake-ups of " << service;
  }
};

TEST_F(MasterWakeUps, P66_M84_M86_ALocalServiceIsSentTwoBytesAtOnceAndEachPeriod) {
  Start("a unix - n n 1 1 probe\n");
  ExpectWakeUps("a", 2);
  const pid_t worker = OnlyReport("a").pid;
  EXPECT_TRUE(master_.HasEvent(worker, "wake-up 5700"));
}

TEST_F(MasterWakeUps, M86_AnInetServiceIsSentTwoBytesEachPeriod) {
  const int port = FreePort();
  Start(absl::StrCat("127.0.0.1:", port, " inet n n n 1 1 probe\n"));
  ExpectWakeUps("", 2);
  EXPECT_TRUE(master_.HasEvent(OnlyReport("").pid, "wake-up 5700"));
}

TEST_F(MasterWakeUps, M86_AFifoIsSentOneByte) {
  Start("f fifo n n n 1 1 probe\n");
  ExpectWakeUps("f", 2);
  EXPECT_TRUE(master_.HasEvent(OnlyReport("f").pid, "wake-up 57"));
}

TEST_F(MasterWakeUps, P66_APassServiceIsPassedAPipe) {
  Start("b pass - n n 1 1 probe\n");
  ExpectWakeUps("b", 2);
  EXPECT_TRUE(master_.HasEvent(OnlyReport("b").pid, "wake-up 5700"));
}

TEST_F(MasterWakeUps, M88_AConditionalOneWaitsForTheFirstStart) {
  Start("a unix - n n 1? 1 probe\nplain unix - n n 1 1 probe\n");
  // By then the other has had some.
  ExpectWakeUps("plain", 2);
  EXPECT_EQ(Starts("a"), 0u);
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  ExpectWakeUps("a", 2);
}

TEST_F(MasterWakeUps, M84_AReloadIsFollowedByAWakeUp) {
  const std::string services = "a unix - n n 1000 1 probe\n";
  Start(services);
  ExpectWakeUps("a", 1);
  ReloadWith(services);
  ExpectWakeUps("a", 2);
}

TEST_F(MasterWakeUps, M36_ZeroIsNone) {
  Start("a unix - n n 0 1 probe\nb unix - n n 0? 1 probe\n");
  EXPECT_TRUE(StaysAt("", 0));
}

}  // namespace
}  // namespace posthouse::conformance

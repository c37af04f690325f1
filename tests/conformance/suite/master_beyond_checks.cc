// What the original is known not to do: the improvements MO of the statements, and faults.

#include <signal.h>
#include <sys/socket.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/conformance/suite/master_fixture.h"

namespace posthouse::conformance {
namespace {

constexpr char kTwo[] = "a unix - n n - 2 probe\nb unix - n n - 2 probe\n";

class BeyondMaster : public MasterFixture {
 protected:
  // A connection of this service is answered within `bound`.
  void ExpectServes(const std::string& name, absl::Duration bound = kBound) {
    Connection client = master_.Connect(name);
    client.set_limit(bound);
    EXPECT_EQ(Ask(client, "echo served"), "served") << name;
    EXPECT_EQ(Settle(client), "settled");
  }
};

TEST_F(BeyondMaster, MO3_P36_M71_AMessageInTheNameOfAnotherServiceHarmsNobody) {
  Start(kTwo);
  Connection attacker = master_.Connect("private/a");
  EXPECT_EQ(Ask(attacker, "echo x"), "x");
  Connection victim = master_.Connect("private/b");
  EXPECT_EQ(Ask(victim, "echo x"), "x");
  const Report report = OnlyReport("b");
  Ask(attacker, absl::StrCat("!say ", report.pid, " ", report.generation, " 0"));
  ExpectServes("private/b");
  EXPECT_FALSE(StartsAnother("b", {report.pid})) << "the other service was believed to be taken";
  // A master that is about to abort does not do its work any more.
  Connection busy = Hold("private/b");
  ExpectServes("private/b", absl::Seconds(10));
  EXPECT_EQ(Release(busy), "done");
  EXPECT_TRUE(master_.Running());
}

TEST_F(BeyondMaster, F70_AMessageInTheNameOfASiblingIsIgnored) {
  Start("a unix - n n - 3 probe\n");
  Connection first = Hold("private/a");
  const Report report = OnlyReport("a");
  Connection sibling = master_.Connect("private/a");
  EXPECT_EQ(Ask(sibling, "echo x"), "x");
  EXPECT_EQ(Settle(sibling), "settled");
  // The first one is busy, whatever the second says.
  ASSERT_EQ(Ask(sibling, absl::StrCat("!say ", report.pid, " ", report.generation, " 1")),
            "written");
  Connection busy = Hold("private/a");
  ExpectServes("private/a", absl::Seconds(10));
  EXPECT_EQ(Starts("a"), 3u);
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(Release(busy), "done");
}

TEST_F(BeyondMaster, F71_ACutMessageOfOneWorkerDoesNotSpoilThoseOfAnother) {
  Start("a unix - n n - 5 probe\n", kLongThrottle);
  Connection first = Hold("private/a");
  const pid_t first_pid = OnlyReport("a").pid;
  Connection second = master_.Connect("private/a");
  ASSERT_TRUE(master_.WaitForStarts("a", 2));
  const Report report = master_.Reports("a")[1];
  ASSERT_EQ(Ask(second, absl::StrCat("!say ", report.pid, " ", report.generation, " 0")),
            "written");
  // All are taken. The master finds both in the channel: eleven bytes of one, AVAIL of the other.
  master_.Stop();
  ASSERT_TRUE(second.Write("!write 0102030405060708090a0b\n").ok());
  ASSERT_TRUE(Eventually(kBound, [&] { return master_.HasEvent(report.pid, "wrote 11"); }));
  ASSERT_EQ(Release(first), "done");
  // Behind this AVAIL is in the channel.
  ASSERT_EQ(Ask(first, "!echo x"), "x");
  master_.Continue();
  EXPECT_EQ(second.ReadLine().value_or("no answer"), "written");
  EXPECT_FALSE(StartsAnother("a", {first_pid, report.pid})) << "AVAIL was not understood";
}

TEST_F(BeyondMaster, MO2_M99_ABrokenLineLeavesTheOldServicesAtWork) {
  Start(kTwo);
  ExpectServes("private/a");
  master_.SetServices("a unix - n n - 2 probe\nb unix - n n broken\nc unix - n n - 1 probe\n");
  master_.Reload();
  EXPECT_TRUE(master_.WaitForLog("master\\.cf.*line 2"));
  ExpectServes("private/a");
  ExpectServes("private/b");
  EXPECT_TRUE(master_.Refuses("private/c"));
  EXPECT_TRUE(master_.Running());
  // And a good file is taken afterwards.
  ReloadWith("a unix - n n - 2 probe good\n");
  EXPECT_TRUE(Eventually(kBound, [&] { return master_.Refuses("private/b"); }));
}

TEST_F(BeyondMaster, MO2_M99_ABrokenParameterLeavesTheOldServicesAtWork) {
  Start(kTwo);
  master_.SetParameters("default_process_limit = many\n");
  master_.Reload();
  EXPECT_TRUE(master_.WaitForLog("default_process_limit"));
  ExpectServes("private/a");
  EXPECT_TRUE(master_.Running());
}

TEST_F(BeyondMaster, MO2_F90_AnAddressThatCannotBeBoundLeavesTheRestAtWork) {
  Start(kTwo);
  master_.SetServices(absl::StrCat(kTwo, "192.0.2.1:20029 inet n n n - 2 probe\n"));
  master_.Reload();
  EXPECT_TRUE(master_.WaitForLog("192\\.0\\.2\\.1"));
  ExpectServes("private/a");
  ExpectServes("private/b");
  EXPECT_TRUE(master_.Running());
}

TEST_F(BeyondMaster, F95_AFileInThePlaceOfASocketIsLeftAloneAndReported) {
  const std::string path = master_.scratch().WriteFile("spool/private/a", "somebody's");
  master_.SetServices(kTwo);
  EXPECT_EQ(master_.Run({"-w"}), "exit 1");
  EXPECT_EQ(ReadFileOrEmpty(path), "somebody's");
}

TEST_F(BeyondMaster, MO6_M106_ARemovedServiceThatDoesNotEndDelaysNobody) {
  Start("stubborn unix - n n - 2 probe stubborn\nb unix - n n - 2 probe\n");
  ExpectServes("private/stubborn");
  master_.SetServices("b unix - n n - 2 probe\n");
  master_.Reload();
  EXPECT_TRUE(Eventually(kBound, [&] { return master_.Refuses("private/stubborn"); }));
  ExpectServes("private/b", absl::Seconds(10));
  // It ends in the end, though it ignores what it is asked.
  EXPECT_TRUE(Gone(OnlyReport("stubborn").pid));
}

TEST_F(BeyondMaster, MO4_M73_AServiceThatExitsWith0AtOnceIsNotStartedWithoutPause) {
  Start("a unix - n n - 2 probe fail:1000000:exit:0\n");
  Connection client = master_.Connect("private/a");
  ASSERT_TRUE(master_.WaitForStarts("a", 3));
  const size_t before = Starts("a");
  absl::SleepFor(absl::Seconds(2));
  EXPECT_LT(Starts("a") - before, 20u) << "starts in two seconds";
}

TEST_F(BeyondMaster, F80_AKillFromOutsideDoesNotThrottle) {
  Start("a unix - n n - 1 probe\n", kLongThrottle);
  Connection client = master_.Connect("private/a");
  ASSERT_TRUE(Eventually(kBound, [&] {
    return Starts("a") == 1 && master_.HasEvent(OnlyReport("a").pid, "accepted");
  }));
  ASSERT_EQ(kill(OnlyReport("a").pid, SIGKILL), 0);
  ExpectServes("private/a", absl::Seconds(10));
}

TEST_F(BeyondMaster, F75_TheOnlyWorkerThatIsStoppedDoesNotSilenceTheService) {
  Start("a unix - n n - 1 probe\n");
  ExpectServes("private/a");
  ASSERT_EQ(kill(OnlyReport("a").pid, SIGSTOP), 0);
  // Within 6 s, and some for a busy machine.
  ExpectServes("private/a", absl::Seconds(15));
}

TEST_F(BeyondMaster, F65_AListenerThatAWorkerShutDownIsRestored) {
  const int port = FreePort();
  Start(absl::StrCat("127.0.0.1:", port, " inet n n n - 2 probe\n"));
  Connection client = master_.ConnectPort(port);
  EXPECT_EQ(Ask(client, "!shutdown"), "shut down");
  EXPECT_TRUE(Eventually(absl::Seconds(10), [&] {
    absl::StatusOr<Connection> next = Connection::Tcp(port);
    if (!next.ok()) return false;
    next->set_limit(absl::Seconds(2));
    return next->Ask("echo x").value_or("") == "x";
  }));
}

TEST_F(BeyondMaster, MO10_AWaitingStartThatFailsSaysWhyOnStandardError) {
  master_.SetServices("a unix - n n broken\n");
  EXPECT_EQ(master_.Run({"-w"}), "exit 1");
  EXPECT_NE(master_.Errors().find("master.cf"), std::string::npos) << master_.Errors();
}

}  // namespace
}  // namespace posthouse::conformance

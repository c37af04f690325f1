// Reload and the end of the master.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/suite/master_fixture.h"

namespace posthouse::conformance {
namespace {

constexpr char kOne[] = "a unix - n n - 2 probe\n";
constexpr char kTwo[] = "a unix - n n - 2 probe\nb unix - n n - 2 probe\n";

class MasterReload : public MasterFixture {
 protected:
  // Waits until a worker has recorded this as its last event.
  bool EndsBy(pid_t pid, const std::string& event) {
    return Eventually(kBound, [&] { return master_.HasEvent(pid, event); });
  }
  ino_t Inode(const std::string& name) {
    struct stat status = {};
    return stat(master_.Queue(name).c_str(), &status) == 0 ? status.st_ino : 0;
  }
  std::string LastArguments(const std::string& service) {
    return absl::StrJoin(LastReport(service).arguments, "|");
  }
};

TEST_F(MasterReload, P41_M103_M107_AnIdleChildSeesTheEndOfTheChannelAndNoSignal) {
  const Report old = StartOne(kOne);
  ReloadWith(kOne);
  EXPECT_TRUE(EndsBy(old.pid, "channel closed"));
  EXPECT_FALSE(master_.HasEvent(old.pid, "SIGTERM"));
  Connection next = master_.Connect("private/a");
  EXPECT_EQ(Ask(next, "echo x"), "x");
  EXPECT_EQ(Starts("a"), 2u);
}

TEST_F(MasterReload, M107_ABusyChildAnswersAndItsAVAILFails) {
  Start(kOne);
  Connection client = Hold("private/a");
  const pid_t old = OnlyReport("a").pid;
  ReloadWith(kOne);
  EXPECT_EQ(Release(client), "done");
  EXPECT_TRUE(EndsBy(old, "avail failed"));
  EXPECT_FALSE(master_.HasEvent(old, "SIGTERM"));
}

TEST_F(MasterReload, M107_AChildThatIsStillBusyStaysInTheCounts) {
  Start(kOne);
  Connection first = Hold("private/a");
  Connection second = Hold("private/a");
  ReloadWith(kOne);
  Connection waits = master_.Connect("private/a");
  ASSERT_TRUE(waits.Write("echo x\n").ok());
  EXPECT_TRUE(StaysAt("a", 2));
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(waits.ReadLine().value_or("no answer"), "x");
  EXPECT_EQ(Release(second), "done");
}

TEST_F(MasterReload, P40_M105_AChildOfARemovedServiceGetsSIGTERMAndClientsAreRefused) {
  Start(kTwo);
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  const pid_t old = OnlyReport("a").pid;
  ReloadWith("b unix - n n - 2 probe\n");
  // Its channel is closed too, and it may have gone by that.
  EXPECT_TRUE(Gone(old));
  EXPECT_TRUE(Eventually(kBound, [&] { return master_.Refuses("private/a"); }));
  // M74: nobody is warned about it.
  EXPECT_FALSE(absl::StrContains(master_.Log(), "killed by signal")) << master_.Log();
  Connection other = master_.Connect("private/b");
  EXPECT_EQ(Ask(other, "echo x"), "x");
}

TEST_F(MasterReload, P40_M105_ABusyChildOfARemovedServiceGetsSIGTERM) {
  Start(kTwo);
  Connection client = Hold("private/a");
  const pid_t old = OnlyReport("a").pid;
  ReloadWith("b unix - n n - 2 probe\n");
  EXPECT_TRUE(EndsBy(old, "SIGTERM"));
  EXPECT_TRUE(client.ClosedWithin(kBound));
}

TEST_F(MasterReload, M100_ANewServiceIsServed) {
  Start(kOne);
  ReloadWith(kTwo);
  Connection client = master_.Connect("private/b");
  EXPECT_EQ(Ask(client, "echo x"), "x");
}

TEST_F(MasterReload, M101_NewArgumentsAndANewLimitHold) {
  Start(kOne);
  ReloadWith("a unix - y n - 1 probe changed\n");
  Connection first = Hold("private/a");
  EXPECT_EQ(LastArguments("a"), "probe|-l|-n|a|-t|unix|-u|changed");
  Connection waits = master_.Connect("private/a");
  EXPECT_TRUE(StaysAt("a", 1));
  EXPECT_EQ(Release(first), "done");
}

TEST_F(MasterReload, M101_M111_TheListenerStaysAndWhoWaitsInItIsServed) {
  Start("a unix - n n - 1 probe\n");
  const ino_t before = Inode("private/a");
  Connection busy = Hold("private/a");
  Connection waits = master_.Connect("private/a");
  ASSERT_TRUE(waits.Write("echo x\n").ok());
  for (int i = 0; i < 3; ++i) ReloadWith("a unix - n n - 1 probe\n");
  EXPECT_EQ(Inode("private/a"), before);
  EXPECT_EQ(Release(busy), "done");
  EXPECT_EQ(waits.ReadLine().value_or("no answer"), "x");
}

TEST_F(MasterReload, M108_P23_TheGenerationGoesOn) {
  const Report old = StartOne(kOne);
  ReloadWith(kOne);
  ASSERT_TRUE(Gone(old.pid));
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_EQ(LastReport("a").generation, old.generation + 1);
}

TEST_F(MasterReload, P3_TheFlowPipeAndItsTokensStay) {
  Start(kOne);
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "put 7"), "7");
  const Report old = OnlyReport("a");
  ReloadWith(kOne);
  ASSERT_TRUE(Gone(old.pid));
  Connection next = master_.Connect("private/a");
  EXPECT_EQ(Ask(next, "tokens"), "7");
  EXPECT_EQ(LastReport("a").descriptor(3), old.descriptor(3));
}

TEST_F(MasterReload, M109_M110_AServiceThatChangesItsTypeEndsWithTheNewSocketOnDisk) {
  Start(kOne);
  ReloadWith("a pass - n n - 2 probe\n");
  // The old one has been removed when this works: a descriptor is taken as such.
  Connection client = master_.ConnectPass("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_TRUE(absl::StrContains(LastArguments("a"), "-t|pass"));
}

TEST_F(MasterReload, M109_M110_APortMayGetAHost) {
  const int port = FreePort();
  Start(absl::StrCat(port, " inet n n n - 2 probe\n"));
  ReloadWith(absl::StrCat("127.0.0.1:", port, " inet n n n - 2 probe\n"));
  // Both may be there for a moment, and a connection to the one that goes is lost with it.
  EXPECT_TRUE(Eventually(kBound, [&] {
    absl::StatusOr<Connection> client = Connection::Tcp(port);
    return client.ok() && client->Ask("echo x").value_or("") == "x" &&
           absl::StrContains(LastArguments(""), "127.0.0.1:");
  }));
}

TEST_F(MasterReload, M110_APublicServiceMayBecomePrivate) {
  Start("a unix n n n - 2 probe\n");
  ReloadWith(kOne);
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_TRUE(Eventually(kBound, [&] { return master_.Refuses("public/a"); }));
}

TEST_F(MasterReload, M95_ADeletedParameterIsAtItsDefaultAgain) {
  Start("a unix - n n - - probe\n", "default_process_limit = 1\n");
  ReloadWith("a unix - n n - - probe\n");
  Connection first = Hold("private/a");
  Connection second = Hold("private/a");
  EXPECT_EQ(LastArguments("a"), "probe|-n|a|-t|unix");
  EXPECT_EQ(Release(first), "done");
  EXPECT_EQ(Release(second), "done");
}

TEST_F(MasterReload, M112_AnotherDaemonDirectoryApplies) {
  Start(kOne);
  const std::string other = master_.AnotherDaemonDirectory();
  ReloadWith(kOne, absl::StrCat("daemon_directory = ", other, "\n"));
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  const absl::optional<ProcessInfo> worker = InspectProcess(LastReport("a").pid);
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->executable, other + "/probe");
}

TEST_F(MasterReload, M112_ADisabledServiceIsRemovedAndComesBack) {
  Start(kTwo);
  ReloadWith(kTwo, "master_service_disable = a/unix\n");
  EXPECT_TRUE(Eventually(kBound, [&] { return master_.Refuses("private/a"); }));
  ReloadWith(kTwo);
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
}

TEST_F(MasterReload, M112_TheEnvironmentOfChildrenIsThatOfTheStart) {
  Start(kOne);
  ReloadWith(kOne, "import_environment = MAIL_CONFIG COLOUR=green\n");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_FALSE(OnlyReport("a").environment.count("COLOUR"));
}

TEST_F(MasterReload, M112_ANewThrottleTimeApplies) {
  Start("a unix - n n - 2 probe fail:1:exit:1\n", kLongThrottle);
  ReloadWith("a unix - n n - 2 probe fail:1:exit:1\n", "service_throttle_time = 1s\n");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_EQ(Starts("a"), 2u);
}

TEST_F(MasterReload, M91_ManySignalsHarmNobody) {
  Start(kOne);
  Connection client = Hold("private/a");
  for (int i = 0; i < 200; ++i) master_.Reload();
  ReloadWith(kOne);
  EXPECT_EQ(Release(client), "done");
  Connection next = master_.Connect("private/a");
  EXPECT_EQ(Ask(next, "echo x"), "x");
  EXPECT_TRUE(master_.Running());
}

TEST_F(MasterReload, M94_SaysThatItReloads) {
  Start(kOne);
  master_.Reload();
  EXPECT_TRUE(master_.WaitForLog("reload"));
}

TEST_F(MasterReload, F99_NoClientIsRefusedDuringReloads) {
  Start("a unix - n n - 5 probe\n");
  for (int i = 0; i < 20; ++i) {
    master_.Reload();
    for (int j = 0; j < 10; ++j) {
      absl::StatusOr<Connection> client = Connection::Unix(master_.Queue("private/a"));
      ASSERT_TRUE(client.ok()) << client.status();
    }
  }
  Connection client = master_.Connect("private/a");
  EXPECT_TRUE(client.Write("echo x\n").ok());
}

// --- The end ---

class MasterEnd : public MasterFixture {};

TEST_F(MasterEnd, M114_SIGTERMEndsItByThatSignalAndItsChildrenWithIt) {
  Start(kTwo);
  Connection busy = Hold("private/a");
  const pid_t worker = OnlyReport("a").pid;
  master_.Signal(SIGTERM);
  EXPECT_EQ(master_.End(), "signal 15");
  EXPECT_TRUE(Eventually(kBound, [&] { return master_.HasEvent(worker, "SIGTERM"); }));
  EXPECT_TRUE(busy.ClosedWithin(kBound));
  EXPECT_TRUE(master_.Refuses("private/a"));
  EXPECT_TRUE(master_.WaitForLog("terminating on signal 15"));
}

TEST_F(MasterEnd, M114_SIGINTEndsItByThatSignal) {
  Start(kOne);
  master_.Signal(SIGINT);
  EXPECT_EQ(master_.End(), "signal 2");
}

TEST_F(MasterEnd, M117_AfterSIGKILLChildrenSeeTheEndOfTheChannel) {
  Start(kTwo);
  Connection idle = master_.Connect("private/a");
  EXPECT_EQ(Ask(idle, "echo x"), "x");
  Connection busy = Hold("private/b");
  master_.Signal(SIGKILL);
  EXPECT_EQ(master_.End(), "signal 9");
  EXPECT_TRUE(
      Eventually(kBound, [&] { return master_.HasEvent(OnlyReport("a").pid, "channel closed"); }));
  EXPECT_EQ(Release(busy), "done");
  EXPECT_TRUE(
      Eventually(kBound, [&] { return master_.HasEvent(OnlyReport("b").pid, "avail failed"); }));
}

TEST_F(MasterEnd, M58_M119_NothingOnDiskIsRemoved) {
  Start("a unix - n n - 2 probe\nf fifo n n n - 1 probe\n");
  master_.Signal(SIGTERM);
  EXPECT_EQ(master_.End(), "signal 15");
  for (const std::string& path : {master_.pid_file(), master_.lock_file(),
                                  master_.Queue("private/a"), master_.Queue("public/f")}) {
    EXPECT_TRUE(std::filesystem::exists(path)) << path;
  }
}

TEST_F(MasterEnd, M120_ANewMasterStartsOnWhatTheOldOneLeft) {
  Start(kOne);
  master_.Signal(SIGTERM);
  EXPECT_EQ(master_.End(), "signal 15");
  EXPECT_EQ(master_.Run({"-t"}), "exit 0");
  ASSERT_EQ(master_.Start(), "");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
}

}  // namespace
}  // namespace posthouse::conformance

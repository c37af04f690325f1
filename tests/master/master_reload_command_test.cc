// F100: `posthouse-master -r` asks the running master to reload and says how that went. The real
// program with real workers.

#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/master_control.h"
#include "tests/master/master_process.h"

namespace posthouse {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kOne[] = "one unix - n n - 3 echo";
constexpr char kTwo[] = "two unix - n n - 3 echo";

class MasterReloadCommandTest : public testing::Test {
 protected:
  MasterReloadCommandTest() { master_.AddProgram("echo", "echo"); }

  std::string Ask(absl::string_view path) { return AskOnce(master_.Connect(path), "hello"); }
  std::string OutcomeFile() const { return master_.path("data/master.reload"); }
  // Whether SIGHUP was sent to a master that is stopped.
  bool IsSignalPending() const {
    const std::string status = ReadFileOrEmpty(absl::StrCat("/proc/", master_.pid(), "/status"));
    for (const absl::string_view line : absl::StrSplit(status, '\n')) {
      uint64_t set = 0;
      if (absl::StartsWith(line, "ShdPnd:\t") && absl::SimpleHexAtoi(line.substr(8), &set)) {
        return (set >> (SIGHUP - 1) & 1) != 0;
      }
    }
    return false;
  }

  FdLeakCheck fds_;
  ChildCheck children_;
  MasterProcess master_;
};

// F100: "the reload command can learn of it".
TEST_F(MasterReloadCommandTest, F100_TheCommandSaysHowTheReloadWent) {
  master_.SetTable({kOne});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  master_.SetTable({kOne, kTwo});
  MasterProcess::Outcome outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 0);
  EXPECT_EQ(outcome.output,
            "posthouse-master: reload finished -- 1 services added, 0 removed, 1 kept\n");
  // It is in force by then.
  EXPECT_EQ(Ask("private/two"), "hello");
  const std::set<pid_t> workers = master_.Workers();

  master_.SetTable({kOne, kTwo, "three unix - n n", "four what - n n - 3 echo"});
  outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr(absl::StrCat("error: ", master_.EtcPath("master.cf"), ", line 3")),
                    HasSubstr(absl::StrCat("error: ", master_.EtcPath("master.cf"), ", line 4")),
                    HasSubstr("error: the reload has changed nothing")));
  EXPECT_EQ(master_.LockedBy(), master_.pid());
  EXPECT_EQ(master_.Workers(), workers);
  EXPECT_EQ(Ask("private/one"), "hello");
  EXPECT_EQ(Ask("private/two"), "hello");

  master_.SetTable({kTwo});
  outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 0);
  EXPECT_THAT(outcome.output, HasSubstr("0 services added, 1 removed, 1 kept"));
}

// Nothing is asked of the master then.
TEST_F(MasterReloadCommandTest, F100_AMainCfThatCannotBeReadIsToldWithFileAndLine) {
  master_.SetTable({kOne});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  master_.SetParameters({"default_process_limit 3"});
  const MasterProcess::Outcome outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr(absl::StrCat(master_.EtcPath("main.cf"), ", line 9")));
  EXPECT_EQ(Ask("private/one"), "hello") << "the worker from before is there";
  EXPECT_EQ(master_.LogCount("reload -- "), 0) << master_.Log();
}

// F90: what is not in force although the reload is done.
TEST_F(MasterReloadCommandTest, F90_WarningsAreTold) {
  master_.SetTable({kOne});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  master_.SetTable({kOne, "other unix - n n - 3 no-such-program"});
  const MasterProcess::Outcome outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 0);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("posthouse-master: warning: "), HasSubstr("no-such-program"),
                    HasSubstr("posthouse-master: reload finished -- 1 services added")));
}

// F105: a file that was changed a moment ago is read again; until then there is no outcome.
TEST_F(MasterReloadCommandTest, F105_AFileThatIsBeingWrittenIsWaitedFor) {
  master_.SetTable({kOne});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  const int fd = open(master_.EtcPath("master.cf").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  ASSERT_GT(write(fd, "two unix - n n - 3 echo\n", 24), 0);
  close(fd);
  const MasterProcess::Outcome outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 0);
  EXPECT_THAT(outcome.output, HasSubstr("1 services added, 0 removed, 1 kept"));
  EXPECT_EQ(Ask("private/two"), "hello");
}

TEST_F(MasterReloadCommandTest, WithoutAMasterTheCommandFails) {
  master_.SetTable({kOne});
  MasterProcess::Outcome outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, StartsWith("posthouse-master: fatal: no master runs"));
  EXPECT_NE(access(master_.path("data").c_str(), F_OK), 0) << "something was made";
  // The file of one that has ended says nothing.
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_TRUE(WaitUntil([&] { return access(OutcomeFile().c_str(), F_OK) == 0; }));
  master_.Kill();
  outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, StartsWith("posthouse-master: fatal: no master runs"));
}

// The outcome file is mail_owner's, as the lock beside it (M23).
TEST_F(MasterReloadCommandTest, TheOutcomeFileIsOfTheOwnerOfTheLock) {
  master_.SetTable({kOne});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  const std::string number = absl::StrCat(master_.pid(), " ");
  EXPECT_TRUE(WaitUntil([&] { return ReadFileOrEmpty(OutcomeFile()) != ""; })) << master_.Log();
  EXPECT_THAT(ReadFileOrEmpty(OutcomeFile()), AllOf(StartsWith(number), HasSubstr(" started\n")));
  struct stat file = {}, lock = {};
  ASSERT_EQ(lstat(OutcomeFile().c_str(), &file), 0);
  ASSERT_EQ(lstat(master_.path("data/master.lock").c_str(), &lock), 0);
  EXPECT_EQ(file.st_mode, S_IFREG | 0644u);
  EXPECT_EQ(file.st_uid, lock.st_uid);
  EXPECT_EQ(file.st_gid, lock.st_gid);
  const passwd* daemon = getpwnam("daemon");
  ASSERT_NE(daemon, nullptr);
  EXPECT_EQ(file.st_uid, geteuid() == 0 ? daemon->pw_uid : geteuid());
  // And root again afterwards, which reads what only root can.
  EXPECT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_THAT(ReadFileOrEmpty(OutcomeFile()),
              AllOf(StartsWith(number), HasSubstr(" done\n0 services added, 0 removed, 1 kept\n")));
}

// The master goes on, says so once in a while, and the command does not wait for ever.
TEST_F(MasterReloadCommandTest, AFileThatCannotBeWrittenHoldsNoReloadUp) {
  MasterControl control(master_.path("control"));
  control->reload_command_ms = 1000;
  master_.UseProgram("controlled_master", control.Variable());
  master_.SetTable({kOne});
  ASSERT_EQ(mkdir(master_.path("data").c_str(), 0700), 0);
  if (const passwd* daemon = getpwnam("daemon"); geteuid() == 0 && daemon != nullptr) {
    ASSERT_EQ(chown(master_.path("data").c_str(), daemon->pw_uid, daemon->pw_gid), 0);
  }
  ASSERT_EQ(mkdir(OutcomeFile().c_str(), 0755), 0);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  constexpr int kReloads = 5;
  for (int i = 0; i < kReloads; ++i) {
    master_.SetTable({kOne, absl::StrCat("extra", i, " unix - n n - 3 echo")});
    EXPECT_TRUE(master_.Reload()) << master_.Log();
  }
  EXPECT_EQ(Ask("private/extra4"), "hello");
  EXPECT_EQ(master_.LogCount("warning: nobody can learn how a reload went"), 1) << master_.Log();
  master_.SetTable({kOne, kTwo});
  const MasterProcess::Outcome outcome = master_.Run({"-r"});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("has not said how the reload went within 1s"));
  EXPECT_EQ(Ask("private/two"), "hello") << "it was sent the signal";
  // As soon as it can be written it is.
  ASSERT_EQ(rmdir(OutcomeFile().c_str()), 0);
  EXPECT_EQ(master_.Run({"-r"}).exit_status, 0) << master_.Log();
}

TEST_F(MasterReloadCommandTest, AMasterThatIsKilledMeanwhileIsNotWaitedFor) {
  master_.SetTable({kOne});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  master_.Signal(SIGSTOP);
  const pid_t command = master_.Begin({"-r"});
  EXPECT_TRUE(WaitUntil([&] { return IsSignalPending(); }));
  master_.Kill();
  const MasterProcess::Outcome outcome = master_.Finish(command);
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("has ended before it said"), Not(HasSubstr("reload finished"))));
}

}  // namespace
}  // namespace posthouse

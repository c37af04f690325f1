// Start: command line, lock files, configuration, what the master itself has open.

#include <fcntl.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "posthouse/io/unique_fd.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/suite/master_fixture.h"

namespace posthouse::conformance {
namespace {

constexpr char kOneService[] = "a unix - n n - 2 probe\n";

class MasterStart : public MasterFixture {
 protected:
  // How a start ends that must fail.
  std::string FailedStart(const std::string& services, const std::string& parameters = "") {
    master_.SetParameters(parameters);
    master_.SetServices(services);
    return master_.Run({"-w"});
  }
};

class MasterLocks : public MasterFixture {};

bool IsLocked(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  return fd.valid() && flock(fd.get(), LOCK_EX | LOCK_NB) != 0;
}

std::string ModeAndOwner(const std::string& path) {
  struct stat status = {};
  if (lstat(path.c_str(), &status) != 0) return "not there";
  const passwd* owner = getpwuid(status.st_uid);
  return absl::StrFormat("%04o %s", status.st_mode & 07777, owner ? owner->pw_name : "?");
}

TEST_F(MasterStart, M28_M29_AWaitingStartReturns0WhenTheMasterRuns) {
  Start(kOneService);
  EXPECT_TRUE(master_.Running());
  EXPECT_FALSE(master_.Refuses("private/a"));
}

TEST_F(MasterStart, M29_AWaitingStartThatFailsReturns1) {
  EXPECT_EQ(FailedStart("a unix - n n - 2\n"), "exit 1");
}

TEST_F(MasterStart, M1_AnUnknownOptionEndsItWithStatus1) {
  master_.SetServices(kOneService);
  EXPECT_EQ(master_.Run({"-X"}), "exit 1");
}

TEST_F(MasterStart, M1_AnOperandEndsItWithStatus1) {
  master_.SetServices(kOneService);
  EXPECT_EQ(master_.Run({"operand"}), "exit 1");
}

TEST_F(MasterStart, M7_TestModeAndWaitingStartExcludeEachOther) {
  master_.SetServices(kOneService);
  EXPECT_EQ(master_.Run({"-t", "-w"}), "exit 1");
}

TEST_F(MasterStart, M4_EndsWithStatus0AfterTheTimeOfOptionE) {
  Start(kOneService, "", {"-e", "2"});
  Connection client = master_.Connect("private/a");
  ASSERT_EQ(Ask(client, "echo x"), "x");
  const pid_t worker = OnlyReport("a").pid;
  EXPECT_EQ(master_.End(), "exit 0");
  EXPECT_TRUE(Eventually(kBound, [&] { return master_.HasEvent(worker, "channel closed"); }));
}

TEST_F(MasterStart, M12_M13_RunsDetachedInASessionOfItsOwn) {
  Start(kOneService);
  EXPECT_EQ(getsid(master_.pid()), master_.pid());
  EXPECT_EQ(getpgid(master_.pid()), master_.pid());
  const absl::optional<ProcessInfo> info = InspectProcess(master_.pid());
  ASSERT_TRUE(info.has_value());
  for (int fd : {0, 1, 2}) EXPECT_EQ(info->descriptors.at(fd), "/dev/null");
}

TEST_F(MasterStart, P2_M57_HasNothingOpenThatAProgramCouldInherit) {
  Start(kOneService);
  const absl::optional<ProcessInfo> info = InspectProcess(master_.pid());
  ASSERT_TRUE(info.has_value());
  for (const auto& [fd, flags] : info->descriptor_flags) {
    if (fd > 2) {
      EXPECT_TRUE(flags & O_CLOEXEC) << fd << " is " << info->descriptors.at(fd);
    }
  }
}

TEST_F(MasterStart, M17_WorksInTheQueueDirectory) {
  Start(kOneService);
  EXPECT_EQ(InspectProcess(master_.pid())->working_directory, master_.queue_directory());
}

TEST_F(MasterStart, M20_SaysThatItRuns) {
  Start(kOneService);
  EXPECT_TRUE(master_.WaitForLog("daemon started"));
}

TEST_F(MasterStart, M30_M32_LinesMayBeContinuedAroundComments) {
  Start(
      "# a comment\n\na unix -\n  # inside\n\n  n n - \t 2\n\tprobe\n   one\n# end\nb unix - n n - "
      "- probe\n");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_EQ(OnlyReport("a").arguments.back(), "one");
  EXPECT_FALSE(master_.Refuses("private/b"));
}

TEST_F(MasterStart, M39_ADisabledServiceIsNotStarted) {
  Start("a unix - n n - 2 probe\nb unix - n n - 2 probe\nc unix n n n - 2 probe\n",
        "master_service_disable = B/unix, c.unix\n");
  EXPECT_FALSE(master_.Refuses("private/a"));
  EXPECT_TRUE(master_.Refuses("private/b"));
  EXPECT_TRUE(master_.Refuses("public/c"));
}

TEST_F(MasterStart, M47_OfTwoEntriesForOneServiceTheLastCounts) {
  Start("a unix - n n - 2 probe first\na unix - n n - 2 probe last\n");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_EQ(OnlyReport("a").arguments.back(), "last");
}

// --- Entries that end the start; one check per statement, all of them at once each ---

struct BadEntry {
  const char* name;
  std::string line;
};

class MasterBadEntry : public MasterStart {
 protected:
  void ExpectFatal(const std::vector<BadEntry>& entries) {
    for (const BadEntry& entry : entries) {
      EXPECT_EQ(FailedStart("good unix - n n - 1 probe\n" + entry.line + "\n"), "exit 1")
          << entry.name << ": " << entry.line;
    }
  }
};

TEST_F(MasterBadEntry, M33_AMissingFieldEndsTheStart) {
  ExpectFatal({{"no command", "a unix - n n - 2"}, {"a name alone", "a"}});
}

TEST_F(MasterBadEntry, M34_ATypeThatIsNotKnownEndsTheStart) {
  ExpectFatal({{"unknown", "a tcp n n n - 2 probe"},
               {"upper case", "a UNIX - n n - 2 probe"},
               {"no default", "a - - n n - 2 probe"}});
}

TEST_F(MasterBadEntry, M35_AFieldThatIsNoBooleanOrNumberEndsTheStart) {
  ExpectFatal({{"private", "a unix x n n - 2 probe"},
               {"chroot", "a unix - n yes - 2 probe"},
               {"wake-up", "a unix - n n soon 2 probe"},
               {"limit", "a unix - n n - many probe"}});
}

TEST_F(MasterBadEntry, M42_ABraceThatIsNotClosedEndsTheStart) {
  ExpectFatal({{"open", "a unix - n n - 2 probe -o { x = y"},
               {"text behind", "a unix - n n - 2 probe { x }y"}});
}

TEST_F(MasterBadEntry, M45_APrivateInetServiceEndsTheStart) {
  ExpectFatal({{"said", "127.0.0.1:29 inet y n n - 2 probe"},
               {"by default", "127.0.0.1:29 inet - n n - 2 probe"}});
}

TEST_F(MasterBadEntry, M48_ABadInetNameEndsTheStart) {
  ExpectFatal({{"port", "127.0.0.1:2x inet n n n - 2 probe"},
               {"no port", "127.0.0.1: inet n n n - 2 probe"},
               {"bracket", "[127.0.0.1:25 inet n n n - 2 probe"}});
}

TEST_F(MasterBadEntry, M53_AnAddressThatIsNotHereEndsTheStart) {
  ExpectFatal({{"not local", "192.0.2.1:20029 inet n n n - 2 probe"}});
}

TEST_F(MasterBadEntry, M55_APathThatIsTooLongEndsTheStart) {
  ExpectFatal({{"long", std::string(200, 'x') + " unix - n n - 2 probe"}});
}

// --- Lock files ---

TEST_F(MasterLocks, M22_M26_ThePidFileHoldsTheProcessNumberInAFieldOf32Columns) {
  Start(kOneService);
  const std::string expected = absl::StrFormat("%32d\n", master_.pid());
  EXPECT_EQ(ReadFileOrEmpty(master_.pid_file()), expected);
  EXPECT_EQ(ModeAndOwner(master_.pid_file()),
            absl::StrCat("0600 ", geteuid() == 0 ? "root" : MasterInstance::MailOwner()));
}

TEST_F(MasterLocks, M23_M26_TheLockFileHoldsTheSameAndBelongsToTheMailOwner) {
  Start(kOneService);
  EXPECT_EQ(ReadFileOrEmpty(master_.lock_file()), ReadFileOrEmpty(master_.pid_file()));
  EXPECT_EQ(ModeAndOwner(master_.lock_file()), "0600 " + MasterInstance::MailOwner());
}

TEST_F(MasterLocks, M25_BothFilesAreLockedUntilDeath) {
  Start(kOneService);
  EXPECT_TRUE(IsLocked(master_.pid_file()));
  EXPECT_TRUE(IsLocked(master_.lock_file()));
  master_.Signal(SIGKILL);
  EXPECT_EQ(master_.End(), "signal 9");
  EXPECT_FALSE(IsLocked(master_.pid_file()));
  EXPECT_FALSE(IsLocked(master_.lock_file()));
}

TEST_F(MasterLocks, M25_ASecondMasterDoesNotStartAndTheFirstGoesOn) {
  Start(kOneService);
  const std::string before = ReadFileOrEmpty(master_.pid_file());
  EXPECT_EQ(master_.Run({"-w"}), "exit 1");
  EXPECT_EQ(ReadFileOrEmpty(master_.pid_file()), before);
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
}

TEST_F(MasterLocks, M25_TheLockOfTheDataDirectoryAloneIsEnough) {
  Start(kOneService);
  ASSERT_EQ(unlink(master_.pid_file().c_str()), 0);
  EXPECT_EQ(master_.Run({"-w"}), "exit 1");
}

TEST_F(MasterLocks, M24_ASymbolicLinkInThePlaceOfALockFileEndsTheStart) {
  master_.SetServices(kOneService);
  const std::string target = master_.scratch().WriteFile("target", "");
  // A directory that others may write to, so that the exception for links of root does not apply.
  chmod(master_.Queue("pid").c_str(), 0777);
  ASSERT_EQ(symlink(target.c_str(), master_.pid_file().c_str()), 0);
  EXPECT_EQ(master_.Run({"-w"}), "exit 1");
  EXPECT_EQ(ReadFileOrEmpty(target), "");
}

TEST_F(MasterLocks, M24_ASecondNameOfALockFileEndsTheStart) {
  master_.SetServices(kOneService);
  const std::string target = master_.scratch().WriteFile("target", "");
  ASSERT_EQ(link(target.c_str(), master_.pid_file().c_str()), 0);
  EXPECT_EQ(master_.Run({"-w"}), "exit 1");
}

TEST_F(MasterLocks, M27_TestModeReturns0WithoutPidFileAndMakesNone) {
  master_.SetServices(kOneService);
  EXPECT_EQ(master_.Run({"-t"}), "exit 0");
  EXPECT_FALSE(std::filesystem::exists(master_.pid_file()));
}

TEST_F(MasterLocks, M27_TestModeReturns1WhileAMasterRunsAnd0Afterwards) {
  Start(kOneService);
  EXPECT_EQ(master_.Run({"-t"}), "exit 1");
  master_.Signal(SIGTERM);
  EXPECT_EQ(master_.End(), "signal 15");
  EXPECT_EQ(master_.Run({"-t"}), "exit 0");
}

}  // namespace
}  // namespace posthouse::conformance

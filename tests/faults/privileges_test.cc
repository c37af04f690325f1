// Accounts, jails and what is needed inside them: F58, F59, F60, F61, F62, F63. Needs root.

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/faults/harness.h"

namespace posthouse {
namespace {

class PrivilegeFaults : public FaultTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "changing accounts needs root";
  }
  // Of /proc/PID/status, without blanks around it.
  static std::string Field(pid_t pid, const std::string& name) {
    for (absl::string_view line : absl::StrSplit(ReadProcessFile(pid, "status"), '\n')) {
      if (absl::StartsWith(line, name + ":")) {
        return std::string(absl::StripAsciiWhitespace(line.substr(name.size() + 1)));
      }
    }
    return "?";
  }
};

TEST_F(PrivilegeFaults, F58_F60_AWorkerIsItsAccountAndNothingElse) {
  const passwd* const mail = getpwnam("mail");
  ASSERT_NE(mail, nullptr);
  const uid_t uid = mail->pw_uid;
  const gid_t gid = mail->pw_gid;
  for (const bool chroot : {false, true}) {
    SCOPED_TRACE(chroot);
    Scenario scenario;
    scenario.unprivileged = true;
    scenario.leak_check = false;
    scenario.chroot = chroot;
    scenario.master.in_child = [] {
      // The starter has more groups than anybody should.
      const gid_t extra[] = {0, 4, 6, 27, 42, 4711};
      if (setgroups(6, extra) != 0) _exit(9);
    };
    master_ = nullptr;
    Start(std::move(scenario));
    LineClient client = Connect();
    const std::string ids = absl::StrCat(uid, "\t", uid, "\t", uid, "\t", uid);
    EXPECT_EQ(Field(pid_, "Uid"), ids);
    const std::string groups = absl::StrCat(gid, "\t", gid, "\t", gid, "\t", gid);
    EXPECT_EQ(Field(pid_, "Gid"), groups);
    // The account's own group, as initgroups() makes it.
    EXPECT_EQ(Field(pid_, "Groups"), absl::StrCat(gid));
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
      EXPECT_EQ(Field(pid_, set), "0000000000000000") << set;
    }
    EXPECT_EQ(Field(pid_, "NoNewPrivs"), "1");
    EXPECT_EQ(client.Ask("ROOT"), "[]");
    client.Close();
    ExpectUnharmed();
  }
}

// Without -u a worker stays root: the same questions have other answers, so they can tell.
TEST_F(PrivilegeFaults, F60_ThePrivilegedWorkerShowsThatTheQuestionsCanTell) {
  Start();
  EXPECT_EQ(Field(pid_, "Uid"), "0\t0\t0\t0");
  EXPECT_NE(Connect().Ask("ROOT"), "[]");
}

TEST_F(PrivilegeFaults, F59_EveryFailingCallEndsTheWorkerBeforeItsFirstClient) {
  for (const char* call : {"Setgid", "Initgroups", "Chroot", "Chdir", "Setuid", "Prctl"}) {
    for (const int error : {EPERM, EAGAIN, EINVAL, ENOMEM, EACCES, EIO}) {
      SCOPED_TRACE(absl::StrCat(call, " ", error));
      Scenario scenario;
      scenario.unprivileged = true;
      scenario.leak_check = false;
      scenario.chroot = true;
      scenario.faults = absl::StrCat(call, ":", error, ":1:1:0");
      // Setuid() is also called to prove that it fails.
      if (std::string(call) == "Setuid") scenario.faults = absl::StrCat("Setuid:", error, ":1:1:1");
      master_ = MakeMaster(std::move(scenario));
      LineClient client = Connect();
      ASSERT_TRUE(client.Send("ECHO x\n"));
      const absl::StatusOr<pid_t> pid = master_->Spawn();
      ASSERT_TRUE(pid.ok());
      // A second's pause before each end: the first errno waits for it, the others are killed
      // once the line is there.
      ASSERT_TRUE(master_->WaitUntil([&] { return Count(log(), "fatal: ") > 0; })) << log();
      if (error == EPERM || Full()) {
        EXPECT_EQ(ExitCode(master_->WaitForExit(*pid)), 1);
      }
      EXPECT_EQ(Count(log(), "fatal: "), 1) << log();
      EXPECT_TRUE(client.IsQuiet(absl::Milliseconds(5)));
      EXPECT_TRUE(master_->messages().empty());
    }
  }
}

TEST_F(PrivilegeFaults, F61_TheJailHasNoWayOut) {
  for (const bool unprivileged : {true, false}) {
    Scenario scenario;
    scenario.unprivileged = unprivileged;
    scenario.leak_check = false;
    scenario.chroot = true;
    master_ = nullptr;
    Start(std::move(scenario));
    LineClient client = Connect();
    EXPECT_TRUE(absl::StrContains(client.Ask("WHO"), "cwd=/")) << client.Ask("WHO");
    EXPECT_TRUE(absl::EndsWith(client.Ask("WHO"), "cwd=/"));
    const std::string fds = client.Ask("FDS");
    EXPECT_FALSE(absl::StrContains(fds, "(directory)")) << fds;
    // Root gets out of any jail by a second chroot (the kernel allows it); an account does not.
    EXPECT_EQ(client.Ask("ESCAPE"), unprivileged ? "[]" : "[chroot]");
  }
}

TEST_F(PrivilegeFaults, F62_InAnEmptyJailTheLogTheTimeZoneAndErrorTextsWork) {
  Scenario scenario;
  scenario.unprivileged = true;
  scenario.leak_check = false;
  scenario.chroot = true;
  scenario.master.environment = {"TZ=Asia/Kolkata"};
  Start(std::move(scenario));
  LineClient client = Connect();
  EXPECT_TRUE(absl::StartsWith(client.Ask("ERRORS"), "texts up to"));
  ASSERT_EQ(client.Ask("LOG 1"), "logged");
  ASSERT_TRUE(WaitForLog("line 0"));
  // The stamp is that of the zone, which has no file in the jail.
  absl::TimeZone zone;
  ASSERT_TRUE(absl::LoadTimeZone("Asia/Kolkata", &zone));
  const std::string line(log().substr(log().rfind('\n', log().find("line 0")) + 1, 15));
  bool right = false;
  for (int back = 0; back < 60; ++back) {
    right |= line == absl::FormatTime("%b %e %H:%M:%S", absl::Now() - absl::Seconds(back), zone);
  }
  EXPECT_TRUE(right) << line;

  // The log service restarts: the old socket is gone, another one is bound to its name.
  const std::string path = master_->queue_directory() + "/public/postlog";
  ASSERT_EQ(unlink(path.c_str()), 0);
  UniqueFd again(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(again.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(chmod(path.c_str(), 0666), 0);
  // The fake master's own socket is still open, so that the worker is not told; it goes on with it.
  ASSERT_EQ(client.Ask("LOG 2"), "logged");
  EXPECT_TRUE(WaitForLog("line 1"));
  client.Close();
  ExpectUnharmed();
}

TEST_F(PrivilegeFaults, F63_UnknownAndPrivilegedAccountsAreRefused) {
  for (const auto& [lines, word] : std::vector<std::pair<std::string, std::string>>{
           {"mail_owner = nobody-has-this-name\n", "nobody-has-this-name"},
           {"mail_owner = root\n", "root"},
           {"mail_owner = 0\n", "mail_owner"},
           {"mail_owner =\n", "mail_owner"}}) {
    SCOPED_TRACE(lines);
    Scenario scenario;
    scenario.unprivileged = true;
    scenario.leak_check = false;
    scenario.main_cf = lines;
    master_ = MakeMaster(std::move(scenario));
    const absl::StatusOr<pid_t> pid = master_->Spawn();
    ASSERT_TRUE(pid.ok());
    EXPECT_EQ(ExitCode(master_->WaitForExit(*pid)), 1);
    // A line for each mistake.
    EXPECT_GE(Count(log(), "fatal: "), 1) << log();
    EXPECT_TRUE(master_->LogContains(word)) << log();
    EXPECT_TRUE(master_->messages().empty());
  }
}

TEST_F(PrivilegeFaults, F63_ALookUpThatFailsIsAnOrderlyEnd) {
  for (const int error : {EIO, EMFILE, ENOMEM, EAGAIN}) {
    Scenario scenario;
    scenario.unprivileged = true;
    scenario.leak_check = false;
    scenario.faults = absl::StrCat("GetpwnamR:", error, ":1:1:0");
    master_ = MakeMaster(std::move(scenario));
    const absl::StatusOr<pid_t> pid = master_->Spawn();
    ASSERT_TRUE(pid.ok());
    EXPECT_EQ(ExitCode(master_->WaitForExit(*pid)), 1) << error;
    EXPECT_GE(Count(log(), "fatal: "), 1) << log();
  }
}

}  // namespace
}  // namespace posthouse

// Dropping privileges, in child processes: there is no way back.

#include "posthouse/server/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kAccount[] = "nobody";

#define SKIP_UNLESS_ROOT() \
  if (os::Geteuid() != 0) GTEST_SKIP() << "changing accounts needs root"

// What `body` returned in a child process.
std::string InChild(const std::function<std::string()>& body) {
  ChildCheck children;
  int fds[2];
  EXPECT_EQ(os::Pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]);
  const pid_t pid = os::Fork();
  if (pid == 0) {
    const std::string text = body();
    os::Write(fds[1], text.data(), text.size());
    _exit(0);
  }
  os::Close(fds[1]);
  std::string text;
  char buffer[4096];
  ssize_t size;
  while ((size = os::Read(read_end.get(), buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(size));
  }
  EXPECT_EQ(WaitForExit(pid).value_or(-1), 0);
  return text;
}

std::string DropInChild(const PrivilegePlan& plan) {
  return InChild([&] { return DropPrivileges(plan).ToString(); });
}

TEST(PrivilegesTest, F63_AnUnknownAccountIsRefusedByName) {
  EXPECT_THAT(FindUnprivilegedAccount("no-such-account-here"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no-such-account-here")));
}

TEST(PrivilegesTest, F63_AnAccountWithUserZeroIsRefused) {
  EXPECT_THAT(FindUnprivilegedAccount("root"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("root")));
}

TEST(PrivilegesTest, F63_AFailingLookUpIsNotAnUnknownAccount) {
  ScopedInterposer system;
  system->FailOnce(SystemCall::kGetpwnamR, EIO);
  const absl::StatusOr<Account> account = FindUnprivilegedAccount(kAccount);
  EXPECT_FALSE(account.ok());
  EXPECT_FALSE(absl::IsNotFound(account.status()));
  EXPECT_THAT(std::string(account.status().message()), HasSubstr(kAccount));
}

TEST(PrivilegesTest, S20_AnEmptyPlanChangesNothing) {
  ScopedInterposer system;
  EXPECT_THAT(DropPrivileges({}), IsOk());
  EXPECT_EQ(system->Count(SystemCall::kSetuid), 0);
  EXPECT_EQ(system->Count(SystemCall::kSetgid), 0);
  EXPECT_EQ(system->Count(SystemCall::kChroot), 0);
}

TEST(PrivilegesTest, F58F60_EveryIdIsTheAccountsAndNoCapabilityIsLeft) {
  SKIP_UNLESS_ROOT();
  const absl::StatusOr<Account> account = FindUnprivilegedAccount(kAccount);
  ASSERT_THAT(account.status(), IsOk());
  const std::string text = InChild([] {
    const absl::Status status = DropPrivileges({.account = kAccount});
    std::ifstream file("/proc/self/status");
    return status.ToString() + "\n" + std::string(std::istreambuf_iterator<char>(file), {});
  });
  const std::string uids =
      absl::StrCat(account->uid, "\t", account->uid, "\t", account->uid, "\t", account->uid, "\n");
  const std::string gids =
      absl::StrCat(account->gid, "\t", account->gid, "\t", account->gid, "\t", account->gid, "\n");
  EXPECT_THAT(text, AllOf(HasSubstr("OK\n"), HasSubstr("Uid:\t" + uids), HasSubstr("Gid:\t" + gids),
                          HasSubstr(absl::StrCat("Groups:\t", account->gid, " \n"))));
  for (const char* set : {"CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat(set, ":\t0000000000000000\n")));
  }
  EXPECT_THAT(text, HasSubstr("NoNewPrivs:\t1\n"));
}

TEST(PrivilegesTest, F61_InsideTheJailTheWorkingDirectoryIsItsRoot) {
  SKIP_UNLESS_ROOT();
  TempDir jail;
  const std::string text = InChild([&] {
    const absl::Status status = DropPrivileges({.root_directory = jail.path()});
    struct stat root = {}, here = {}, above = {};
    if (os::Stat("/", &root) != 0 || os::Stat(".", &here) != 0 || os::Stat("..", &above) != 0) {
      return std::string("stat failed");
    }
    const bool inside = root.st_ino == here.st_ino && root.st_ino == above.st_ino;
    return absl::StrCat(status.ToString(), inside ? " inside" : " outside");
  });
  EXPECT_EQ(text, "OK inside");
}

TEST(PrivilegesTest, F59_EachFailingCallEndsTheDropAndIsNamed) {
  SKIP_UNLESS_ROOT();
  TempDir jail;
  const struct {
    SystemCall call;
    const char* named;
  } kCases[] = {
      {SystemCall::kSetgid, "setgid("}, {SystemCall::kInitgroups, "initgroups(nobody"},
      {SystemCall::kChroot, "chroot("}, {SystemCall::kChdir, "chdir(/)"},
      {SystemCall::kSetuid, "setuid("},
  };
  for (const auto& test_case : kCases) {
    for (const int error : {EPERM, EAGAIN, ENOMEM, EINVAL}) {
      ScopedInterposer system;
      system->FailOnce(test_case.call, error);
      const std::string text = DropInChild({.root_directory = jail.path(), .account = kAccount});
      EXPECT_THAT(text, HasSubstr(test_case.named)) << error;
    }
  }
}

TEST(PrivilegesTest, F59_AUserWithoutRightsIsToldWhichCallFailed) {
  SKIP_UNLESS_ROOT();
  const std::string text = InChild([] {
    if (!DropPrivileges({.account = kAccount}).ok()) return std::string("first drop failed");
    return DropPrivileges({.account = "daemon"}).ToString();
  });
  EXPECT_THAT(text, HasSubstr("setgid("));
}

}  // namespace
}  // namespace posthouse

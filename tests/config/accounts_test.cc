// Accounts: accounts.h, C63. The account files of these tests are their own: each runs in a process
// with a mount namespace of its own, in which they lie over those of the system.

#include "posthouse/config/accounts.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

constexpr char kUsers[] =
    "root:x:0:0::/:/bin/sh\n"
    "owner:x:100:100::/:/bin/sh\n"
    "second:x:101:101::/:/bin/sh\n"
    "alias:x:101:105::/:/bin/sh\n"
    "gidzero:x:102:0::/:/bin/sh\n"
    "plain:x:103:103::/:/bin/sh\n"
    "likeowner:x:104:100::/:/bin/sh\n"
    "likedrop:x:105:200::/:/bin/sh\n";

class Accounts : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root can lay files over those of the system";
  }

  // Runs in a child that sees the given files; what it returns comes back.
  std::string InNamespace(const std::string& groups, const std::function<std::string()>& ask) {
    const std::string passwd = dir_.WriteFile("passwd", kUsers);
    const std::string group = dir_.WriteFile("group", groups);
    const std::string nsswitch = dir_.WriteFile("nsswitch.conf", "passwd: files\ngroup: files\n");
    int pipe_fds[2];
    EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) {
      std::string answer = "no namespace";
      if (unshare(CLONE_NEWNS) == 0 &&
          mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
          mount(passwd.c_str(), "/etc/passwd", nullptr, MS_BIND, nullptr) == 0 &&
          mount(group.c_str(), "/etc/group", nullptr, MS_BIND, nullptr) == 0 &&
          mount(nsswitch.c_str(), "/etc/nsswitch.conf", nullptr, MS_BIND, nullptr) == 0) {
        answer = ask();
      }
      _exit(write(pipe_fds[1], answer.data(), answer.size()) < 0);
    }
    close(pipe_fds[1]);
    std::string answer;
    char buffer[4096];
    for (ssize_t got; (got = read(pipe_fds[0], buffer, sizeof(buffer))) > 0;) {
      answer.append(buffer, got);
    }
    close(pipe_fds[0]);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    return answer;
  }

  std::string Problems(const std::string& owner, const std::string& privs,
                       const std::string& group) {
    return InNamespace("root:x:0:\ndrop:x:200:\nfirst:x:201:\nsame:x:201:\nownergroup:x:100:\n",
                       [&] { return absl::StrJoin(AccountProblems(owner, privs, group), "\n"); });
  }

  TempDir dir_;
};

TEST_F(Accounts, C63_ThreeUnprivilegedAccountsThatDifferAreFine) {
  EXPECT_EQ(Problems("owner", "plain", "drop"), "");
}

TEST_F(Accounts, C63_MailOwnerIsTheOnlyNameOfItsUser) {
  EXPECT_EQ(Problems("alias", "plain", "drop"),
            "parameter mail_owner: value \"alias\": user \"second\" has the same user id 101");
}

TEST_F(Accounts, C63_SetgidGroupIsTheOnlyNameOfItsGroup) {
  EXPECT_EQ(Problems("owner", "plain", "same"),
            "parameter setgid_group: value \"same\": group \"first\" has the same group id 201");
}

TEST_F(Accounts, C63_AUserWithGroup0IsRefused) {
  EXPECT_EQ(Problems("gidzero", "plain", "drop"),
            "parameter mail_owner: value \"gidzero\": the user has privileged group id 0");
  EXPECT_EQ(Problems("owner", "gidzero", "drop"),
            "parameter default_privs: value \"gidzero\": the user has privileged group id 0");
}

TEST_F(Accounts, C63_TheAccountsDifferInNameUserAndGroup) {
  EXPECT_EQ(Problems("owner", "owner", "drop"),
            "parameter default_privs: value \"owner\": the same as parameter mail_owner");
  EXPECT_EQ(Problems("owner", "likeowner", "drop"),
            "parameters mail_owner and default_privs: both have the same group id 100");
  EXPECT_EQ(Problems("second", "alias", "drop"),
            "parameters mail_owner and default_privs: both have the same user id 101");
  EXPECT_EQ(Problems("owner", "plain", "ownergroup"),
            "parameters mail_owner and setgid_group: both have the same group id 100");
  EXPECT_EQ(Problems("owner", "likedrop", "drop"),
            "parameters default_privs and setgid_group: both have the same group id 200");
}

TEST_F(Accounts, AGroupWithThousandsOfMembersIsFound) {
  std::string members = "root:x:0:\nbig:x:300:";
  for (int i = 0; i < 10000; ++i) absl::StrAppend(&members, i == 0 ? "" : ",", "member", i);
  EXPECT_EQ(InNamespace(members + "\n",
                        [] {
                          const absl::StatusOr<GroupAccount> group = FindGroup("big");
                          return group.ok() ? absl::StrCat(group->gid) : group.status().ToString();
                        }),
            "300");
}

TEST_F(Accounts, F63_AnUnknownAccountIsNotFound) {
  EXPECT_THAT(FindUser("no-such-user"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(FindGroup("no-such-group"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(FindUserById(4000000000), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(FindGroupById(4000000000), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace posthouse

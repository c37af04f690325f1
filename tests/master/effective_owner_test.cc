// Needs root: only root can become somebody else.

#include "posthouse/master/effective_owner.h"

#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr uid_t kUser = 12345;
constexpr gid_t kGroup = 23456;

FileOwner Somebody() { return {.change = true, .uid = kUser, .gid = kGroup}; }

std::vector<gid_t> Groups() {
  std::vector<gid_t> groups(64);
  groups.resize(static_cast<size_t>(getgroups(64, groups.data())));
  return groups;
}

class EffectiveOwnerTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(geteuid(), 0u) << "this test needs root";
    const gid_t many[] = {0, 4, 4711};
    ASSERT_EQ(setgroups(3, many), 0);
  }
  void ExpectRoot() {
    EXPECT_EQ(geteuid(), 0u);
    EXPECT_EQ(getegid(), 0u);
  }

  ScopedInterposer system_;
};

// M56: "supplementary groups: that group only; afterwards root with group list = {root's group}".
TEST_F(EffectiveOwnerTest, M56_UserGroupAndListChangeAndComeBack) {
  {
    EffectiveOwner owner;
    ASSERT_THAT(owner.Become(Somebody()), IsOk());
    EXPECT_EQ(geteuid(), kUser);
    EXPECT_EQ(getegid(), kGroup);
    EXPECT_THAT(Groups(), ElementsAre(kGroup));
    EXPECT_EQ(getuid(), 0u) << "the way back";
  }
  ExpectRoot();
  EXPECT_THAT(Groups(), ElementsAre(0));
}

TEST_F(EffectiveOwnerTest, WithoutChangeNothingIsCalled) {
  const CallCounts before = system_->Counts();
  {
    EffectiveOwner owner;
    ASSERT_THAT(owner.Become(FileOwner()), IsOk());
  }
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
}

// effective_owner.h: "Become() that fails undoes what it did".
TEST_F(EffectiveOwnerTest, EachStepThatFailsIsUndoneAndNamed) {
  const struct {
    SystemCall call;
    const char* name;
  } rows[] = {{SystemCall::kSetegid, "setegid"},
              {SystemCall::kSetgroups, "setgroups"},
              {SystemCall::kSeteuid, "seteuid"}};
  for (const auto& row : rows) {
    system_->FailOnce(row.call, EPERM);
    EffectiveOwner owner;
    EXPECT_THAT(owner.Become(Somebody()),
                StatusIs(absl::StatusCode::kPermissionDenied,
                         HasSubstr(std::string(row.name) + " to become user 12345 group 23456")));
    ExpectRoot();
  }
  EXPECT_THAT(Groups(), ElementsAre(0));
}

// The system may refuse the list of groups for good, as a user namespace does.
TEST_F(EffectiveOwnerTest, ASystemThatTakesNoListOfGroupsIsAnErrorAndNoPanic) {
  system_->FailFrom(SystemCall::kSetgroups, EPERM);
  EffectiveOwner owner;
  EXPECT_THAT(owner.Become(Somebody()), StatusIs(absl::StatusCode::kPermissionDenied));
  ExpectRoot();
}

using EffectiveOwnerDeathTest = EffectiveOwnerTest;

TEST_F(EffectiveOwnerDeathTest, AWayBackThatFailsEndsTheProcess) {
  for (SystemCall call : {SystemCall::kSeteuid, SystemCall::kSetegid, SystemCall::kSetgroups}) {
    EXPECT_DEATH(
        {
          EffectiveOwner owner;
          owner.Become(Somebody()).IgnoreError();
          system_->FailFrom(call, EPERM);
        },
        "again|list of groups");
  }
}

TEST_F(EffectiveOwnerDeathTest, OneObjectBecomesOneOwner) {
  EXPECT_DEATH(
      {
        EffectiveOwner owner;
        owner.Become(Somebody()).IgnoreError();
        owner.Become(Somebody()).IgnoreError();
      },
      "one owner");
}

TEST_F(EffectiveOwnerTest, WhoIsNotRootIsRefusedBeforeAnythingChanges) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (setgid(kGroup) != 0 || setuid(kUser) != 0) _exit(2);
    EffectiveOwner owner;
    const bool refused = absl::IsPermissionDenied(owner.Become(Somebody()));
    _exit(refused && geteuid() == kUser ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace posthouse

// The checks and helpers of //src/testing besides the interposer.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest-spi.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

// --- fd_leak_check.h ---

TEST(FdSnapshotTest, NothingOpenedIsNoDifference) {
  const FdSnapshot before = FdSnapshot::Take();
  EXPECT_GE(before.size(), 1u);
  EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
}

TEST(FdSnapshotTest, OpenedClosedAndReplacedDescriptorsAreNamedWithTheirTargets) {
  const int replaced = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int closed = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  const FdSnapshot before = FdSnapshot::Take();
  const int opened = open("/dev/full", O_WRONLY | O_CLOEXEC);
  dup2(opened, replaced);
  close(closed);
  EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before),
            absl::StrCat("fd ", replaced, " was /dev/null and is /dev/full\n", "fd ", opened,
                         " is open: /dev/full\n", "fd ", closed, " was closed: /dev/zero\n"));
  close(opened);
  close(replaced);
}

TEST(FdSnapshotTest, AnotherProcessCanBeLookedAt) {
  const FdSnapshot own = FdSnapshot::Take();
  EXPECT_EQ(FdSnapshot::TakeOf(getppid()).fds().empty(), false);
  for (const auto& [fd, target] : own.fds()) {
    EXPECT_EQ(FdSnapshot::TakeOf(getpid()).fds().at(fd), target);
  }
  EXPECT_TRUE(FdSnapshot::TakeOf(-1).fds().empty());
}

TEST(FdLeakCheckTest, ALeakFailsTheTest) {
  static int leaked = -1;
  EXPECT_NONFATAL_FAILURE(
      {
        FdLeakCheck check;
        leaked = open("/dev/null", O_RDONLY | O_CLOEXEC);
      },
      "is open: /dev/null");
  close(leaked);
}

// --- child_check.h ---

TEST(ChildCheckTest, RunningAndDeadChildrenAreFoundKilledAndReaped) {
  static pid_t running = -1, zombie = -1;
  EXPECT_NONFATAL_FAILURE(
      {
        ChildCheck check;
        running = fork();
        if (running == 0) {
          while (true) pause();
        }
      },
      "was left behind");
  EXPECT_EQ(kill(running, 0), -1);
  EXPECT_NONFATAL_FAILURE(
      {
        ChildCheck check;
        zombie = fork();
        if (zombie == 0) _exit(0);
      },
      "was left behind");
  EXPECT_EQ(kill(zombie, 0), -1);
}

TEST(ChildCheckTest, AReapedChildIsNone) {
  ChildCheck check;
  const pid_t child = fork();
  if (child == 0) _exit(7);
  EXPECT_THAT(Children(), Contains(child));
  const absl::optional<int> status = WaitForExit(child);
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(WEXITSTATUS(*status), 7);
  EXPECT_THAT(Children(), Not(Contains(child)));
}

// --- event_wait.h ---

TEST(WaitUntilTest, EndsWithTheConditionOrWithTheBound) {
  int asked = 0;
  EXPECT_TRUE(WaitUntil([&] { return ++asked == 3; }));
  EXPECT_EQ(asked, 3);
  EXPECT_FALSE(WaitUntil([] { return false; }, absl::Milliseconds(20)));
  EXPECT_TRUE(WaitUntil([] { return true; }, absl::ZeroDuration()));
}

TEST(WaitUntilTest, AChildThatDoesNotEndIsNotReaped) {
  const pid_t child = fork();
  if (child == 0) {
    while (true) pause();
  }
  EXPECT_EQ(WaitForExit(child, absl::Milliseconds(20)), absl::nullopt);
  kill(child, SIGKILL);
  const absl::optional<int> status = WaitForExit(child);
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(WTERMSIG(*status), SIGKILL);
}

TEST(WaitForEventsTest, SeesDataAndHangUp) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  EXPECT_FALSE(WaitForEvents(fds[0], POLLIN, absl::Milliseconds(5)));
  ASSERT_EQ(write(fds[1], "x", 1), 1);
  EXPECT_TRUE(WaitForEvents(fds[0], POLLIN));
  close(fds[1]);
  EXPECT_TRUE(WaitForEvents(fds[0], 0));
  close(fds[0]);
}

// --- temp_dir.h ---

TEST(TempDirTest, IsThereAndGoneAfterwardsWithItsContent) {
  std::string path;
  {
    TempDir dir;
    path = dir.path();
    EXPECT_LT(path.size(), 40u) << "room for a socket's name";
    EXPECT_EQ(ReadFileOrEmpty(dir.WriteFile("a", std::string("x\0y", 3))), std::string("x\0y", 3));
    ASSERT_EQ(mkdir(dir.Path("sub").c_str(), 0700), 0);
    dir.WriteFile("sub/b", "b");
    struct stat found = {};
    EXPECT_EQ(stat(path.c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777, 0700u);
    const pid_t child = fork();
    if (child == 0) {
      dir.~TempDir();
      _exit(0);
    }
    EXPECT_TRUE(WaitForExit(child).has_value());
    EXPECT_EQ(ReadFileOrEmpty(dir.Path("sub/b")), "b") << "a child leaves its parent's directory";
  }
  EXPECT_EQ(access(path.c_str(), F_OK), -1);
}

// --- status_matchers.h ---

TEST(StatusMatchersTest, LookAtStatusAndStatusOr) {
  const absl::Status bad = absl::NotFoundError("no such file");
  const absl::StatusOr<int> seven = 7;
  const absl::StatusOr<std::unique_ptr<int>> pointer = std::make_unique<int>(8);
  EXPECT_THAT(absl::OkStatus(), IsOk());
  EXPECT_THAT(seven, IsOk());
  EXPECT_THAT(bad, Not(IsOk()));
  EXPECT_THAT(bad, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(bad, StatusIs(absl::StatusCode::kNotFound, HasSubstr("such")));
  EXPECT_THAT(bad, Not(StatusIs(absl::StatusCode::kNotFound, HasSubstr("other"))));
  EXPECT_THAT(bad, Not(StatusIs(absl::StatusCode::kInternal)));
  EXPECT_THAT(absl::StatusOr<int>(bad), StatusIs(absl::StatusCode::kNotFound, "no such file"));
  EXPECT_THAT(seven, IsOkAndHolds(7));
  EXPECT_THAT(seven, Not(IsOkAndHolds(8)));
  EXPECT_THAT(seven, IsOkAndHolds(testing::Gt(6)));
  EXPECT_THAT(absl::StatusOr<int>(bad), Not(IsOkAndHolds(7)));
  EXPECT_THAT(pointer, IsOkAndHolds(testing::Pointee(8)));
}

TEST(StatusMatchersTest, AFailureTellsTheStatus) {
  EXPECT_NONFATAL_FAILURE(EXPECT_THAT(absl::NotFoundError("no such file"), IsOk()),
                          "NOT_FOUND: no such file");
  EXPECT_NONFATAL_FAILURE(EXPECT_THAT(absl::StatusOr<int>(7), IsOkAndHolds(8)), "which holds 7");
}

}  // namespace
}  // namespace posthouse

#include "posthouse/io/descriptor_sanity.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) != -1; }

// Which file a descriptor refers to; 0 for none.
ino_t InodeOf(int fd) {
  struct stat found = {};
  return fstat(fd, &found) == 0 ? found.st_ino : 0;
}

bool IsNullDevice(int fd) {
  struct stat found = {}, null = {};
  return fstat(fd, &found) == 0 && stat("/dev/null", &null) == 0 && S_ISCHR(found.st_mode) &&
         found.st_rdev == null.st_rdev;
}

// These tests rearrange the descriptors of a whole process, so each runs in a child. The body
// returns the number of the line that failed, or 0; standard error may be closed in there.
class DescriptorSanityTest : public testing::Test {
 protected:
  void InChild(const std::function<int()>& body) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const int line = body();
      _exit(line == 0 ? 0 : 1 + line % 250);
    }
    const absl::optional<int> status = WaitForExit(child);
    ASSERT_TRUE(status.has_value());
    EXPECT_TRUE(WIFEXITED(*status)) << "signal " << WTERMSIG(*status);
    EXPECT_EQ(WEXITSTATUS(*status), 0) << "not 0: the failing line modulo 250, plus 1";
  }

  ChildCheck children_;
  FdLeakCheck leaks_;
  ScopedInterposer system_;
};

#define REQUIRE(condition) \
  if (!(condition)) return __LINE__

TEST_F(DescriptorSanityTest, F33_StandardDescriptorsAreOpenedInAllEightCombinations) {
  for (int closed = 0; closed < 8; ++closed) {
    SCOPED_TRACE(closed);
    InChild([closed] {
      ino_t before[3];
      for (int fd = 0; fd < 3; ++fd) {
        if (!IsOpen(fd)) dup2(open("/dev/zero", O_RDWR), fd);
        before[fd] = InodeOf(fd);
      }
      for (int fd = 0; fd < 3; ++fd) {
        if (closed & (1 << fd)) close(fd);
      }
      REQUIRE(EnsureStandardDescriptors().ok());
      for (int fd = 0; fd < 3; ++fd) {
        if (closed & (1 << fd)) {
          REQUIRE(IsNullDevice(fd));
        } else {
          REQUIRE(InodeOf(fd) == before[fd]);
        }
        REQUIRE((fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0);
      }
      int pair[2];
      REQUIRE(pipe(pair) == 0 && pair[0] > 2);
      return 0;
    });
  }
}

TEST_F(DescriptorSanityTest, F33_WithoutANullDeviceThereIsAnError) {
  InChild([] {
    close(0);
    Interposer::Get().FailOnce(SystemCall::kOpen, ENOENT);
    REQUIRE(absl::IsNotFound(EnsureStandardDescriptors()));
    return 0;
  });
}

// 200 more descriptors, as a careless starter leaves them, and one pipe whose other end tells.
int OpenMany() {
  for (int i = 0; i < 100; ++i) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return __LINE__;
  }
  return 0;
}

int ClosesAllButTheChosen() {
  REQUIRE(OpenMany() == 0);
  const std::vector<int> keep = {90, 5, 6, 7, 90, 4711, 41, 1, -1};
  const ino_t kept = InodeOf(90);
  REQUIRE(CloseDescriptorsExcept(keep).ok());
  for (int fd = 3; fd < 300; ++fd) {
    const bool chosen = std::count(keep.begin(), keep.end(), fd) != 0;
    REQUIRE(IsOpen(fd) == chosen);
  }
  REQUIRE(InodeOf(90) == kept);
  for (int fd = 0; fd < 3; ++fd) REQUIRE(IsOpen(fd));
  REQUIRE(CloseDescriptorsExcept({}).ok());
  for (int fd = 3; fd < 300; ++fd) REQUIRE(!IsOpen(fd));
  REQUIRE(IsOpen(2));
  return 0;
}

TEST_F(DescriptorSanityTest, F32_EverythingAboveTwoIsClosedButTheChosen) {
  InChild(&ClosesAllButTheChosen);
}

TEST_F(DescriptorSanityTest, F32_AKernelWithoutCloseRangeDoesTheSame) {
  for (int error : {ENOSYS, EPERM}) {
    InChild([error] {
      Interposer::Get().FailFrom(SystemCall::kCloseRange, error);
      REQUIRE(ClosesAllButTheChosen() == 0);
      REQUIRE(Interposer::Get().closes_of_unowned() == 0);
      return 0;
    });
  }
}

TEST_F(DescriptorSanityTest, F32_AnotherErrorIsReported) {
  InChild([] {
    Interposer::Get().FailFrom(SystemCall::kCloseRange, ENOMEM);
    REQUIRE(!CloseDescriptorsExcept({}).ok());
    return 0;
  });
}

// Six pipes' reading ends at the numbers `from`, to be moved to `to`; checks who arrives where.
int MoveAndCheck(const std::vector<int>& from, const std::vector<int>& to, bool close_on_exec) {
  std::vector<DescriptorMove> moves;
  std::vector<ino_t> inodes;
  for (size_t i = 0; i < from.size(); ++i) {
    const int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);  // a file with an inode of its own
    REQUIRE(fd >= 0);
    REQUIRE(dup2(fd, from[i]) == from[i]);
    if (fd != from[i]) close(fd);
    inodes.push_back(InodeOf(from[i]));
    moves.push_back({from[i], to[i]});
  }
  REQUIRE(MoveDescriptors(absl::MakeSpan(moves), close_on_exec) == 0);
  for (size_t i = 0; i < from.size(); ++i) {
    REQUIRE(InodeOf(to[i]) == inodes[i]);
    REQUIRE(((fcntl(to[i], F_GETFD) & FD_CLOEXEC) != 0) == close_on_exec);
    REQUIRE(moves[i].from == to[i]);
    if (std::count(to.begin(), to.end(), from[i]) == 0) REQUIRE(!IsOpen(from[i]));
  }
  // Nothing else is open: no helper number was left behind.
  for (int fd = 3; fd < 100; ++fd) {
    REQUIRE(IsOpen(fd) == (std::count(to.begin(), to.end(), fd) != 0));
  }
  for (int fd : to) close(fd);
  return 0;
}

TEST_F(DescriptorSanityTest, F34_EveryPermutationOfSixIsMovedRight) {
  InChild([] {
    REQUIRE(CloseDescriptorsExcept({}).ok());
    std::vector<int> order = {0, 1, 2, 3, 4, 5};
    do {
      // Onto themselves, half overlapping, and not overlapping.
      for (int shift : {0, 1, 3, 6}) {
        std::vector<int> from, to;
        for (int i = 0; i < 6; ++i) {
          from.push_back(6 + i);
          to.push_back(6 + shift + order[i]);
        }
        const int line = MoveAndCheck(from, to, order[0] % 2 == 0);
        if (line != 0) return line;
      }
    } while (std::next_permutation(order.begin(), order.end()));
    REQUIRE(Interposer::Get().closes_of_unowned() == 0);
    return 0;
  });
}

TEST_F(DescriptorSanityTest, F34_AWorkersManyListenSocketsAreMovedRight) {
  InChild([] {
    REQUIRE(CloseDescriptorsExcept({}).ok());
    // One ring over 512 numbers, the worst order for one-at-a-time moving.
    std::vector<DescriptorMove> moves;
    std::vector<ino_t> inodes;
    for (int i = 0; i < 512; ++i) {
      const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
      REQUIRE(fd == 3 + i);
      inodes.push_back(InodeOf(fd));
      moves.push_back({fd, 3 + (i + 1) % 512});
    }
    REQUIRE(MoveDescriptors(absl::MakeSpan(moves), true) == 0);
    for (int i = 0; i < 512; ++i) REQUIRE(InodeOf(3 + (i + 1) % 512) == inodes[i]);
    REQUIRE(!IsOpen(3 + 512));
    return 0;
  });
}

TEST_F(DescriptorSanityTest, F34_ChainsAndRingsTogetherAreMovedRight) {
  InChild([] {
    REQUIRE(CloseDescriptorsExcept({}).ok());
    const int line = MoveAndCheck({21, 22, 20, 10}, {22, 21, 30, 20}, true);
    if (line != 0) return line;
    return MoveAndCheck({10, 11, 12, 13, 14}, {11, 12, 10, 14, 13}, true);
  });
}

TEST_F(DescriptorSanityTest, F34_ARingAtTheEndOfTheTableIsMovedRight) {
  InChild([] {
    REQUIRE(CloseDescriptorsExcept({}).ok());
    const rlimit limit = {20, 20};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    const int line = MoveAndCheck({18, 19, 5}, {19, 18, 3}, true);
    if (line != 0) return line;
    // No number is left for a ring to turn.
    for (int fd = 3; fd < 20; ++fd) REQUIRE(dup2(2, fd) == fd);
    DescriptorMove ring[] = {{18, 19}, {19, 18}};
    REQUIRE(MoveDescriptors(absl::MakeSpan(ring), true) == EMFILE);
    REQUIRE(ring[0].from == 18 && ring[1].from == 19 && IsOpen(18) && IsOpen(19));
    return 0;
  });
}

TEST_F(DescriptorSanityTest, F34_WhatIsInTheWayIsClosedAndWrongMovesChangeNothing) {
  InChild([] {
    REQUIRE(CloseDescriptorsExcept({}).ok());
    REQUIRE(dup2(2, 10) == 10 && dup2(2, 11) == 11);
    const int file = open("/dev/null", O_RDWR);
    DescriptorMove onto_occupied[] = {{file, 10}};
    REQUIRE(MoveDescriptors(absl::MakeSpan(onto_occupied), false) == 0);
    REQUIRE(IsNullDevice(10) && !IsOpen(file));
    DescriptorMove twice_to[] = {{10, 20}, {11, 20}};
    REQUIRE(MoveDescriptors(absl::MakeSpan(twice_to), false) == EINVAL);
    DescriptorMove twice_from[] = {{10, 20}, {10, 21}};
    REQUIRE(MoveDescriptors(absl::MakeSpan(twice_from), false) == EINVAL);
    DescriptorMove negative[] = {{10, -1}};
    REQUIRE(MoveDescriptors(absl::MakeSpan(negative), false) == EINVAL);
    DescriptorMove closed[] = {{10, 20}, {50, 21}};
    REQUIRE(MoveDescriptors(absl::MakeSpan(closed), false) == EBADF);
    REQUIRE(IsOpen(10) && IsOpen(11) && !IsOpen(20) && !IsOpen(21));
    return 0;
  });
}

TEST_F(DescriptorSanityTest, F34_F37_AFailedMoveLosesNoDescriptor) {
  InChild([] {
    REQUIRE(CloseDescriptorsExcept({}).ok());
    for (int64_t k = 1;; ++k) {
      DescriptorMove moves[] = {{10, 11}, {11, 10}, {12, 20}};
      ino_t inodes[3];
      for (int i = 0; i < 3; ++i) {
        const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        REQUIRE(dup2(fd, 10 + i) == 10 + i);
        close(fd);
        inodes[i] = InodeOf(10 + i);
      }
      const int id = Interposer::Get().FailOnce(SystemCall::kAny, EMFILE, k);
      const int error = MoveDescriptors(absl::MakeSpan(moves), true);
      const bool hit = Interposer::Get().Hits(id) != 0;
      Interposer::Get().RemoveAllFaults();
      // A failed call may have been one of several tries.
      if (error == 0) {
        for (int i = 0; i < 3; ++i) REQUIRE(moves[i].from == moves[i].to);
      }
      int open_numbers = 0;
      for (int fd = 3; fd < 60; ++fd) open_numbers += IsOpen(fd) ? 1 : 0;
      REQUIRE(open_numbers == 3);
      for (int i = 0; i < 3; ++i) REQUIRE(InodeOf(moves[i].from) == inodes[i]);
      REQUIRE(CloseDescriptorsExcept({}).ok());
      if (!hit) break;
      REQUIRE(k < 50);
    }
    return 0;
  });
}

}  // namespace
}  // namespace posthouse

// What only root can try: the lock of mail_owner, trusted links, full and read-only file systems.

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <thread>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/lock_file.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::HasSubstr;

constexpr absl::StatusCode kRefused = absl::StatusCode::kFailedPrecondition;
constexpr uid_t kOwner = 12345;
constexpr gid_t kOwnersGroup = 23456;

class LockFileRootTest : public testing::Test {
 protected:
  LockFileRootTest() {
    EXPECT_EQ(geteuid(), 0u) << "this test needs root";
    EXPECT_EQ(chmod(dir_.path().c_str(), 0755), 0);
    EXPECT_EQ(mkdir(data_.c_str(), 0700), 0);
    EXPECT_EQ(chown(data_.c_str(), kOwner, kOwnersGroup), 0);
  }
  absl::StatusOr<LockFile> Acquire() { return LockFile::Acquire(path_, FileOwner()); }
  absl::StatusOr<LockFile> AcquireData() {
    return LockFile::Acquire(data_path_, {.change = true, .uid = kOwner, .gid = kOwnersGroup});
  }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  const std::string path_ = dir_.Path("master.pid");
  const std::string data_ = dir_.Path("data");
  const std::string data_path_ = data_ + "/master.lock";
};

TEST_F(LockFileRootTest, M23_TheDataLockIsMadeAsMailOwner) {
  absl::StatusOr<LockFile> lock = AcquireData();
  ASSERT_THAT(lock, IsOk());
  EXPECT_EQ(geteuid(), 0u) << "root again";
  EXPECT_THAT(lock->WritePid(4711), IsOk());
  struct stat found = {};
  ASSERT_EQ(lstat(data_path_.c_str(), &found), 0);
  EXPECT_EQ(found.st_uid, kOwner);
  EXPECT_EQ(found.st_gid, kOwnersGroup);
  EXPECT_EQ(found.st_mode, S_IFREG | 0600u);
  EXPECT_EQ(ReadFileOrEmpty(data_path_), FormatLockFile(4711));
}

// mail_owner can put links into its directory; root does not follow them.
TEST_F(LockFileRootTest, F119_ALinkInTheDataDirectoryIsRefused) {
  const std::string victim = dir_.WriteFile("victim", FormatLockFile(1));
  ASSERT_EQ(chmod(victim.c_str(), 0666), 0);
  for (const uid_t uid : {kOwner, uid_t{0}}) {
    ASSERT_EQ(symlink(victim.c_str(), data_path_.c_str()), 0);
    ASSERT_EQ(lchown(data_path_.c_str(), uid, 0), 0);
    EXPECT_THAT(AcquireData(), StatusIs(kRefused, HasSubstr("it is a symbolic link")));
    unlink(data_path_.c_str());
  }
  EXPECT_EQ(ReadFileOrEmpty(victim), FormatLockFile(1));
}

// M24: "exception: link owned by root in a directory owned by root and not writable for group or
// others".
TEST_F(LockFileRootTest, M24_ALinkOfRootInADirectoryOfRootIsFollowedToALockFile) {
  for (const std::string& content : {std::string(), FormatLockFile(4711)}) {
    const std::string target = dir_.WriteFile("elsewhere.pid", content);
    ASSERT_EQ(chmod(target.c_str(), 0600), 0);
    ASSERT_EQ(symlink(target.c_str(), path_.c_str()), 0);
    absl::StatusOr<LockFile> lock = Acquire();
    ASSERT_THAT(lock, IsOk());
    EXPECT_THAT(lock->WritePid(22), IsOk());
    EXPECT_EQ(ReadFileOrEmpty(target), FormatLockFile(22));
    EXPECT_THAT(LockFile::IsHeld(path_, FileOwner()), IsOkAndHolds(true));
    unlink(path_.c_str());
  }
}

TEST_F(LockFileRootTest, F119_ALinkOfRootToAnythingElseIsRefused) {
  const std::string victim = dir_.WriteFile("victim", "precious");
  ASSERT_EQ(symlink(victim.c_str(), path_.c_str()), 0);
  EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("a file of another kind")));
  EXPECT_EQ(ReadFileOrEmpty(victim), "precious");
  // The same link of somebody else.
  dir_.WriteFile("victim", FormatLockFile(1));
  ASSERT_EQ(lchown(path_.c_str(), kOwner, 0), 0);
  EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("it is a symbolic link")));
  unlink(path_.c_str());

  ASSERT_EQ(mknod(path_.c_str(), S_IFCHR | 0600, makedev(1, 3)), 0);
  EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("no regular file")));
}

TEST_F(LockFileRootTest, F120_RootTrustsNoDirectoryThatOthersCanWriteTo) {
  for (const mode_t mode : {0775u, 0757u, 01777u}) {
    ASSERT_EQ(chmod(dir_.path().c_str(), mode), 0);
    EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("others than root can write")));
  }
  ASSERT_EQ(chmod(dir_.path().c_str(), 0755), 0);
  ASSERT_EQ(chown(dir_.path().c_str(), kOwner, 0), 0);
  EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("others than root can write")));
  struct stat found = {};
  EXPECT_NE(lstat(path_.c_str(), &found), 0) << "nothing was made";
  ASSERT_EQ(chown(dir_.path().c_str(), 0, 0), 0);
  EXPECT_THAT(Acquire(), IsOk());
}

TEST_F(LockFileRootTest, F120_AFileOfTheServiceAccountIsRefused) {
  dir_.WriteFile("master.pid", FormatLockFile(1));
  ASSERT_EQ(chmod(path_.c_str(), 0600), 0);
  ASSERT_EQ(chown(path_.c_str(), kOwner, kOwnersGroup), 0);
  EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("belongs to user 12345")));
  EXPECT_THAT(LockFile::IsHeld(path_, FileOwner()), StatusIs(kRefused));
}

// --- File systems that take nothing ---

// Runs `test` in a thread that sees a file system of its own in the directory.
void WithFileSystem(const std::string& directory, const std::string& options,
                    absl::FunctionRef<void()> test) {
  std::thread([&] {
    ASSERT_EQ(unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    ASSERT_EQ(mount("none", directory.c_str(), "tmpfs", 0, options.c_str()), 0);
    test();
  }).join();
}

// Takes all the space there is.
void Fill(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(fd.valid());
  char block[4096] = {};
  while (write(fd.get(), block, sizeof(block)) > 0) {
  }
  ASSERT_EQ(errno, ENOSPC);
}

TEST_F(LockFileRootTest, F121_OnAFullDiskTheNumberIsRefusedAndFitsWhenThereIsSpace) {
  WithFileSystem(dir_.path(), "size=64k,mode=0755", [&] {
    Fill(dir_.Path("filler"));
    absl::StatusOr<LockFile> lock = Acquire();
    ASSERT_THAT(lock, IsOk());
    EXPECT_THAT(lock->WritePid(4711), StatusIs(absl::StatusCode::kResourceExhausted,
                                               "write " + path_ + ": No space left on device"));
    EXPECT_EQ(ReadFileOrEmpty(path_), "");
    unlink(dir_.Path("filler").c_str());
    EXPECT_THAT(lock->WritePid(4711), IsOk());
    // A file that has its block can be written over on a full disk.
    Fill(dir_.Path("filler"));
    EXPECT_THAT(lock->WritePid(22), IsOk());
  });
}

TEST_F(LockFileRootTest, F122_WithoutInodesOrReadOnlyTheReasonIsGiven) {
  WithFileSystem(dir_.path(), "nr_inodes=1,mode=0755", [&] {
    EXPECT_THAT(Acquire(), StatusIs(absl::StatusCode::kResourceExhausted,
                                    "create " + path_ + ": No space left on device"));
  });
  WithFileSystem(dir_.path(), "mode=0755", [&] {
    ASSERT_EQ(mount("none", dir_.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
    EXPECT_THAT(Acquire().status().message(),
                HasSubstr("create " + path_ + ": Read-only file system"));
  });
}

}  // namespace
}  // namespace posthouse

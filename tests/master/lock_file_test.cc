#include "posthouse/master/lock_file.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

constexpr absl::StatusCode kRefused = absl::StatusCode::kFailedPrecondition;

struct stat StatOf(const std::string& path) {
  struct stat found = {};
  lstat(path.c_str(), &found);
  return found;
}

class LockFileTest : public testing::Test {
 protected:
  absl::StatusOr<LockFile> Acquire() { return LockFile::Acquire(path_, FileOwner()); }
  absl::StatusOr<bool> IsHeld() { return LockFile::IsHeld(path_, FileOwner()); }
  // The lock of another open file, as another process would have it.
  UniqueFd LockFromElsewhere(int kind = LOCK_EX) {
    UniqueFd fd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(flock(fd.get(), kind | LOCK_NB), 0);
    return fd;
  }

  ChildCheck children_;
  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  const std::string path_ = dir_.Path("master.pid");
};

// --- Content ---

TEST(LockFileFormatTest, M26_TheNumberIsRightAlignedIn33Bytes) {
  EXPECT_EQ(FormatLockFile(4711), std::string(28, ' ') + "4711\n");
  EXPECT_EQ(FormatLockFile(1).size(), 33u);
  EXPECT_EQ(FormatLockFile(4194304).size(), 33u);
}

TEST(LockFileFormatTest, OnlyANumberIsRead) {
  EXPECT_EQ(ParseLockFile(FormatLockFile(4711)), 4711);
  EXPECT_EQ(ParseLockFile("4711"), 4711);
  for (const char* text : {"", "\n", "x", "0", "-1", "12 34", "4711x", "99999999999"}) {
    EXPECT_EQ(ParseLockFile(text), 0) << text;
  }
}

TEST_F(LockFileTest, M22_TheFileIsMadeWithMode0600AndHoldsTheNumber) {
  for (const mode_t mask : {0u, 077u}) {
    const mode_t old_mask = umask(mask);
    absl::StatusOr<LockFile> lock = Acquire();
    umask(old_mask);
    ASSERT_THAT(lock, IsOk());
    EXPECT_EQ(ReadFileOrEmpty(path_), "") << "nothing is written before it is asked for";
    EXPECT_THAT(lock->WritePid(4711), IsOk());
    EXPECT_EQ(ReadFileOrEmpty(path_), FormatLockFile(4711));
    EXPECT_EQ(StatOf(path_).st_mode, S_IFREG | 0600u);
    EXPECT_EQ(StatOf(path_).st_uid, geteuid());
    EXPECT_NE(fcntl(lock->fd(), F_GETFD) & FD_CLOEXEC, 0) << "M25";
    unlink(path_.c_str());
  }
}

TEST_F(LockFileTest, M26_TheFileStaysAndIsWrittenOverWithoutBeingTruncated) {
  { ASSERT_THAT(Acquire()->WritePid(4711), IsOk()); }
  const ino_t inode = StatOf(path_).st_ino;
  absl::StatusOr<LockFile> lock = Acquire();
  ASSERT_THAT(lock, IsOk());
  EXPECT_EQ(ReadFileOrEmpty(path_), FormatLockFile(4711)) << "never empty in between";
  EXPECT_THAT(lock->WritePid(22), IsOk());
  EXPECT_THAT(lock->WritePid(7), IsOk()) << "and again";
  EXPECT_EQ(ReadFileOrEmpty(path_), FormatLockFile(7));
  EXPECT_EQ(StatOf(path_).st_ino, inode);
}

// --- The lock ---

// M25: "`flock` style"; the stock tools test it so.
TEST_F(LockFileTest, M25_TheLockIsOfFlockAndEndsWithItsObject) {
  UniqueFd other(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  {
    absl::StatusOr<LockFile> lock = Acquire();
    ASSERT_THAT(lock, IsOk());
    EXPECT_EQ(flock(other.get(), LOCK_EX | LOCK_NB), -1);
    EXPECT_EQ(errno, EWOULDBLOCK);
  }
  EXPECT_EQ(flock(other.get(), LOCK_EX | LOCK_NB), 0);
}

TEST_F(LockFileTest, F107_WhoComesSecondIsToldTheHoldersNumberAndChangesNothing) {
  const pid_t alive = getppid();
  UniqueFd holder = LockFromElsewhere();
  dir_.WriteFile("master.pid", FormatLockFile(alive));
  const struct stat before = StatOf(path_);
  EXPECT_THAT(Acquire(), StatusIs(absl::StatusCode::kUnavailable,
                                  absl::StrCat("lock file ", path_, ": process ", alive,
                                               " holds the lock: another master runs")));
  EXPECT_EQ(ReadFileOrEmpty(path_), FormatLockFile(alive));
  EXPECT_EQ(StatOf(path_).st_mtim.tv_nsec, before.st_mtim.tv_nsec);
  EXPECT_EQ(system_->Count(SystemCall::kNanosleep), 0) << "there is nothing to wait for";
}

// lock_file.h: "is tried again for half a second".
TEST_F(LockFileTest, AHolderWithoutALivingNumberIsWaitedForALittle) {
  system_->UseFakeClock();
  for (const std::string& content :
       {std::string(), std::string("nonsense"), FormatLockFile(getpid())}) {
    UniqueFd holder = LockFromElsewhere();
    dir_.WriteFile("master.pid", content);
    EXPECT_THAT(Acquire(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("another process holds")));
    int pauses = 0;
    system_->SetHook(SystemCall::kNanosleep, [&](int) {
      if (++pauses == 3) holder.Reset();
    });
    EXPECT_THAT(Acquire(), IsOk()) << "it only looked";
    EXPECT_EQ(pauses, 3);
    system_->SetHook(SystemCall::kNanosleep, nullptr);
  }
}

// F100.
TEST_F(LockFileTest, TheHolderIsKnownByItsNumber) {
  system_->UseFakeClock();
  const auto holder = [&] { return LockFile::Holder(path_, FileOwner()); };
  EXPECT_THAT(holder(), IsOkAndHolds(0)) << "no file";
  EXPECT_EQ(StatOf(path_).st_mode, 0u) << "and none is made";
  dir_.WriteFile("master.pid", FormatLockFile(getppid()));
  EXPECT_THAT(holder(), IsOkAndHolds(0)) << "the number says nothing, the lock does";
  UniqueFd lock = LockFromElsewhere();
  EXPECT_THAT(holder(), IsOkAndHolds(getppid()));
  EXPECT_EQ(system_->Count(SystemCall::kNanosleep), 0) << "there is nothing to wait for";
  // A master that has the lock and not yet written its number.
  dir_.WriteFile("master.pid", "");
  EXPECT_THAT(holder(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("another process")));
  system_->SetHook(SystemCall::kNanosleep,
                   [&](int) { dir_.WriteFile("master.pid", FormatLockFile(getppid())); });
  EXPECT_THAT(holder(), IsOkAndHolds(getppid()));
}

TEST_F(LockFileTest, ALockOnAFileThatLostItsNameIsWorthNothing) {
  int locks = 0;
  system_->SetHook(SystemCall::kFlock, [&](int) {
    if (++locks == 1) unlink(path_.c_str());
  });
  absl::StatusOr<LockFile> lock = Acquire();
  ASSERT_THAT(lock, IsOk());
  EXPECT_EQ(locks, 2);
  EXPECT_THAT(IsHeld(), IsOkAndHolds(true)) << "the file of that name is the one";
}

TEST_F(LockFileTest, M27_TestModeSaysWhetherSomebodyRunsAndWritesNothing) {
  EXPECT_THAT(IsHeld(), IsOkAndHolds(false)) << "no file";
  EXPECT_EQ(StatOf(path_).st_mode, 0u) << "and none is made";
  dir_.WriteFile("master.pid", FormatLockFile(getppid()));
  EXPECT_THAT(IsHeld(), IsOkAndHolds(false)) << "the number says nothing, the lock does";
  {
    UniqueFd tester = LockFromElsewhere(LOCK_SH);
    EXPECT_THAT(IsHeld(), IsOkAndHolds(false)) << "two that look do not see each other";
  }
  absl::StatusOr<LockFile> lock = Acquire();
  ASSERT_THAT(lock, IsOk());
  EXPECT_THAT(IsHeld(), IsOkAndHolds(true));
  EXPECT_EQ(ReadFileOrEmpty(path_), FormatLockFile(getppid()));
}

// --- F119, F120 ---

TEST_F(LockFileTest, F119_WhatIsNoRegularFileIsRefused) {
  ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
  EXPECT_THAT(Acquire(),
              StatusIs(kRefused, "lock file " + path_ + " is refused: it is no regular file"));
  EXPECT_THAT(IsHeld(), StatusIs(kRefused));
  ASSERT_EQ(rmdir(path_.c_str()), 0);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("no regular file")));
}

TEST_F(LockFileTest, F119_ASecondNameIsRefused) {
  const std::string victim = dir_.WriteFile("victim", "precious");
  ASSERT_EQ(link(victim.c_str(), path_.c_str()), 0);
  EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("more than one name")));
  EXPECT_EQ(ReadFileOrEmpty(victim), "precious");
}

TEST_F(LockFileTest, F119_ALinkToAVictimOrToNothingOrToADeviceIsRefused) {
  const std::string victim = dir_.WriteFile("victim", "precious");
  const std::string nowhere = dir_.Path("nowhere");
  for (const std::string& target : {victim, nowhere, std::string("/dev/null"), dir_.path()}) {
    ASSERT_EQ(symlink(target.c_str(), path_.c_str()), 0);
    EXPECT_FALSE(Acquire().ok()) << target;
    EXPECT_FALSE(absl::IsUnavailable(Acquire().status())) << target;
    unlink(path_.c_str());
  }
  EXPECT_EQ(ReadFileOrEmpty(victim), "precious");
  EXPECT_EQ(StatOf(nowhere).st_mode, 0u);
}

TEST_F(LockFileTest, F120_AFileThatOthersCanWriteToIsRefused) {
  dir_.WriteFile("master.pid", FormatLockFile(1));
  for (const mode_t mode : {0660u, 0602u}) {
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
    EXPECT_THAT(Acquire(), StatusIs(kRefused, HasSubstr("others can write to it")));
  }
  ASSERT_EQ(chmod(path_.c_str(), 0644), 0);
  EXPECT_THAT(Acquire(), IsOk());
}

// M24: "creation is exclusive; a race between the two is retried once".
TEST_F(LockFileTest, M24_AFileThatComesOrGoesMeanwhileIsTriedOnceMore) {
  int looks = 0;
  system_->SetHook(SystemCall::kOpen, [&](int) {
    if (++looks == 1) dir_.WriteFile("master.pid", FormatLockFile(1));
    chmod(path_.c_str(), 0600);
  });
  EXPECT_THAT(Acquire(), IsOk()) << "made by somebody else";
  looks = 0;
  system_->SetHook(SystemCall::kOpen, [&](int) {
    if (++looks == 1) unlink(path_.c_str());
  });
  EXPECT_THAT(Acquire(), IsOk()) << "removed";
  looks = 0;
  const std::string other = dir_.Path("other");
  system_->SetHook(SystemCall::kOpen, [&](int) {
    if (++looks != 1) return;
    dir_.WriteFile("other", "");
    chmod(other.c_str(), 0600);
    rename(other.c_str(), path_.c_str());
  });
  EXPECT_THAT(Acquire(), IsOk()) << "exchanged";
  system_->SetHook(SystemCall::kOpen, [&](int) {
    if (unlink(path_.c_str()) != 0) dir_.WriteFile("master.pid", "");
  });
  EXPECT_THAT(LockFile::Acquire(path_, FileOwner()),
              StatusIs(kRefused, HasSubstr("comes and goes")));
}

TEST_F(LockFileTest, F119_ALinkThatComesBetweenLookAndOpeningIsNotFollowed) {
  const std::string victim = dir_.WriteFile("victim", FormatLockFile(1));
  chmod(victim.c_str(), 0600);
  dir_.WriteFile("master.pid", "");
  chmod(path_.c_str(), 0600);
  system_->SetHook(SystemCall::kOpen, [&](int) {
    unlink(path_.c_str());
    EXPECT_EQ(symlink(victim.c_str(), path_.c_str()), 0);
  });
  EXPECT_THAT(Acquire().status().message(), HasSubstr("open " + path_ + ": Too many levels"));
}

// --- F121, F122 ---

TEST_F(LockFileTest, F122_EachCallThatFailsIsNamedWithTheFileAndNothingIsLeftOpen) {
  const FdSnapshot before = FdSnapshot::Take();
  for (const bool exists : {false, true}) {
    for (const int error : {EROFS, EDQUOT, EIO, ENOSPC, EMFILE, ENOLCK}) {
      int failures = 0;
      for (int64_t k = 1;; ++k) {
        ASSERT_LT(k, 50);
        unlink(path_.c_str());
        if (exists) dir_.WriteFile("master.pid", FormatLockFile(1));
        if (exists) chmod(path_.c_str(), 0600);
        const int id = system_->FailOnce(SystemCall::kAny, error, k);
        absl::StatusOr<LockFile> lock = Acquire();
        absl::Status status = lock.ok() ? lock->WritePid(4711) : lock.status();
        const bool hit = system_->Hits(id) != 0;
        system_->RemoveAllFaults();
        lock = absl::CancelledError();
        EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
        if (!hit) break;
        if (status.ok()) continue;  // close(2) of a descriptor
        ++failures;
        EXPECT_EQ(status.code(), absl::ErrnoToStatusCode(error));
        EXPECT_THAT(status.message(), HasSubstr(absl::StrCat(" ", dir_.path())));
      }
      EXPECT_GE(failures, 6);
    }
  }
}

TEST_F(LockFileTest, F121_AFullDiskIsTheReasonThatIsGiven) {
  absl::StatusOr<LockFile> lock = Acquire();
  ASSERT_THAT(lock, IsOk());
  system_->FailOnce(SystemCall::kPwrite, ENOSPC);
  EXPECT_THAT(lock->WritePid(4711), StatusIs(absl::StatusCode::kResourceExhausted,
                                             "write " + path_ + ": No space left on device"));
}

TEST_F(LockFileTest, ShortAndInterruptedCallsAreFinished) {
  system_->LimitTransfers(SystemCall::kPwrite, 5);
  system_->FailEvery(SystemCall::kPwrite, EINTR, 3);
  system_->FailOnce(SystemCall::kFlock, EINTR);
  absl::StatusOr<LockFile> lock = Acquire();
  ASSERT_THAT(lock, IsOk());
  EXPECT_THAT(lock->WritePid(4711), IsOk());
  EXPECT_EQ(ReadFileOrEmpty(path_), FormatLockFile(4711));
}

// --- F107: many at once ---

// What a process that starts does: it waits for the gun, takes the lock and keeps it for life, or
// tells why it could not and ends.
[[noreturn]] void Contend(const std::string& path, int gun, int reports) {
  char byte;
  while (read(gun, &byte, 1) < 0 && errno == EINTR) {
  }
  absl::StatusOr<LockFile> lock = LockFile::Acquire(path, FileOwner());
  absl::Status status = lock.ok() ? lock->WritePid(getpid()) : lock.status();
  const std::string line =
      absl::StrCat(getpid(), status.ok() ? " won" : absl::StrCat(" ", status.message()), "\n");
  if (write(reports, line.data(), line.size()) < 0) _exit(2);
  if (!status.ok()) _exit(1);
  for (;;) pause();
}

class Race {
 public:
  Race(const std::string& path, int count) {
    int gun[2];
    int reports[2];
    EXPECT_EQ(pipe2(gun, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(reports, O_CLOEXEC), 0);
    UniqueFd shot(gun[1]);
    UniqueFd line_ends(reports[1]);
    reports_.Reset(reports[0]);
    UniqueFd wait(gun[0]);
    for (int i = 0; i < count; ++i) {
      const pid_t pid = fork();
      EXPECT_GE(pid, 0);
      if (pid == 0) {
        shot.Reset();
        Contend(path, wait.get(), line_ends.get());
      }
      pids_.insert(pid);
    }
  }
  ~Race() {
    for (pid_t pid : pids_) kill(pid, SIGKILL);
    for (pid_t pid : pids_) WaitForExit(pid);
  }
  // One line of each of them: who it is, and what came of it.
  std::map<pid_t, std::string> Reports() {
    std::string text;
    std::map<pid_t, std::string> result;
    while (result.size() < pids_.size() && WaitForEvents(reports_.get(), POLLIN)) {
      char buffer[4096];
      const ssize_t size = read(reports_.get(), buffer, sizeof(buffer));
      if (size <= 0) break;
      text.append(buffer, static_cast<size_t>(size));
      for (size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
        const size_t blank = text.find(' ');
        result[atoi(text.c_str())] = text.substr(blank + 1, end - blank - 1);
      }
    }
    return result;
  }
  void KillAndReap(pid_t pid) {
    kill(pid, SIGKILL);
    EXPECT_TRUE(WaitForExit(pid).has_value());
    pids_.erase(pid);
  }

 private:
  std::set<pid_t> pids_;
  UniqueFd reports_;
};

TEST_F(LockFileTest, F107_OfAHundredThatStartAtOnceOneRunsAndTheOthersKnowWhich) {
  for (int round = 0; round < 3; ++round) {
    Race race(path_, 100);
    const std::map<pid_t, std::string> reports = race.Reports();
    ASSERT_EQ(reports.size(), 100u);
    std::vector<pid_t> winners;
    for (const auto& [pid, report] : reports) {
      if (report == "won") winners.push_back(pid);
    }
    ASSERT_EQ(winners.size(), 1u);
    // A loser that had no more patience than the winner needed to write its number, on a machine
    // with much else to do, names nobody; none names another.
    const std::string named = absl::StrCat("process ", winners[0], " holds the lock");
    int naming = 0;
    for (const auto& [pid, report] : reports) {
      if (pid == winners[0]) continue;
      if (absl::StrContains(report, named)) ++naming;
      EXPECT_THAT(report, AnyOf(HasSubstr(named), HasSubstr("another process holds the lock")));
    }
    EXPECT_GT(naming, 0);
    EXPECT_EQ(ReadFileOrEmpty(path_), FormatLockFile(winners[0]));
    // "the lock vanishes with its holder"
    race.KillAndReap(winners[0]);
    EXPECT_THAT(Acquire(), IsOk()) << "the next start works at once";
  }
}

}  // namespace
}  // namespace posthouse

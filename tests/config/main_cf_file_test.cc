// Reading main.cf itself: C5, C8, F104, F105, F116. The seam is answered by the interposer, so that
// a second passes when the test says so.

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class MainCfFile : public testing::Test {
 protected:
  MainCfFile() { system_->UseFakeClock(ClockMode::kManual); }

  // A file with a modification time relative to the clock.
  std::string Write(absl::string_view content, int64_t seconds_from_now = -1000) {
    const std::string path = dir_.WriteFile("main.cf", content);
    Touch(path, seconds_from_now);
    EXPECT_EQ(chmod(path.c_str(), 0644), 0);
    return path;
  }

  void Touch(const std::string& path, int64_t seconds_from_now) {
    const time_t when = Interposer::kFakeWallStart + MillisecondsPassed() / 1000 + seconds_from_now;
    const timespec times[2] = {{when, 0}, {when, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  }

  absl::Status Read(const std::string& path) {
    return ReadMainCf(path, options_, &store_, &warnings_);
  }

  int64_t MillisecondsPassed() {
    return (system_->fake_steady_ns() / 1000000) - Interposer::kFakeSteadyStart * 1000;
  }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  MainCfOptions options_;
  ParameterStore store_;
  std::vector<std::string> warnings_;
};

TEST_F(MainCfFile, IsReadWithItsPathAsOrigin) {
  const std::string path = Write("a = 1\n");
  ASSERT_THAT(Read(path), IsOk());
  EXPECT_EQ(store_.Find("a")->origin, absl::StrCat(path, ", line 1"));
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_EQ(MillisecondsPassed(), 0);
}

TEST_F(MainCfFile, C5_AMissingFileIsNotFoundAndNamed) {
  EXPECT_THAT(Read(dir_.Path("main.cf")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir_.Path("main.cf"))));
}

TEST_F(MainCfFile, C5_AnUnreadableFileIsRefusedAndNamed) {
  const std::string path = Write("a = 1\n");
  system_->FailOnce(SystemCall::kOpen, EACCES);
  EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(path)));
}

TEST_F(MainCfFile, F104_EverythingButARegularFileIsRefusedAtOnce) {
  const std::string fifo = dir_.Path("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {dir_.path(), fifo, std::string("/dev/zero")}) {
    EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kInvalidArgument,
                                     HasSubstr(absl::StrCat(path, ": not a regular file"))));
  }
  EXPECT_EQ(system_->Count(SystemCall::kOpen), 0);
}

TEST_F(MainCfFile, F104_AFifoThatTakesThePlaceOfTheFileAfterItWasLookedAtIsRefusedToo) {
  const std::string path = Write("a = 1\n");
  system_->SetHook(SystemCall::kOpen, [&](int) {
    unlink(path.c_str());
    mkfifo(path.c_str(), 0600);
  });
  EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("regular")));
}

TEST_F(MainCfFile, F104_ALargeFileIsRefusedBySizeWithoutReading) {
  const std::string path = Write("a = 1\n");
  ASSERT_EQ(truncate(path.c_str(), int64_t{10} << 30), 0);
  EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("10737418240")));
  EXPECT_EQ(system_->Count(SystemCall::kRead), 0);
}

TEST_F(MainCfFile, F104_AFileThatGrowsWhileItIsReadIsRefusedAtTheLimit) {
  const std::string path = Write("a = 1\n");
  options_.max_bytes = 100 << 10;
  system_->SetHook(SystemCall::kRead, [&](int) {
    std::ofstream(path, std::ios::app) << "# " << std::string(64 << 10, 'x') << "\n";
  });
  EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("more than")));
}

TEST_F(MainCfFile, AFileOfExactlyTheLimitIsRead) {
  const std::string text = absl::StrCat("a = ", std::string(1000, 'x'));
  const std::string path = Write(text);
  options_.max_bytes = text.size();
  EXPECT_THAT(Read(path), IsOk());
  options_.max_bytes = text.size() - 1;
  EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limit")));
}

TEST_F(MainCfFile, ShortAndInterruptedReadsAreContinued) {
  const std::string path = Write("a = 1\nb = two\n");
  system_->LimitTransfers(SystemCall::kRead, 1);
  ASSERT_THAT(Read(path), IsOk());
  EXPECT_EQ(store_.Find("b")->value, "two");
  system_->FailEvery(SystemCall::kRead, EINTR, 2);
  EXPECT_THAT(Read(path), IsOk());
}

TEST_F(MainCfFile, EachFailingCallIsReportedWithThePath) {
  const std::string path = Write("a = 1\n");
  for (SystemCall call :
       {SystemCall::kStat, SystemCall::kOpen, SystemCall::kFstat, SystemCall::kRead}) {
    const int fault = system_->FailOnce(call, EIO);
    EXPECT_THAT(std::string(Read(path).message()), HasSubstr(path)) << SystemCallName(call);
    EXPECT_EQ(system_->Hits(fault), 1);
    system_->RemoveAllFaults();
  }
  const int second_fstat = system_->FailOnce(SystemCall::kFstat, EIO, 2);
  EXPECT_FALSE(Read(path).ok());
  EXPECT_EQ(system_->Hits(second_fstat), 1);
}

TEST_F(MainCfFile, C8_AFileThatWasJustChangedIsReadAgainUntilItIsQuiet) {
  // Accepted when the time of change lies before the second before the reading began, where the
  // beginning of each reading is the end of the one before.
  struct {
    int64_t age;
    int64_t slept_ms;
  } const rows[] = {{0, 2400}, {1, 1500}, {2, 0}, {3, 0}, {1000, 0}};
  for (const auto& row : rows) {
    const std::string path = Write("a = 1\n", -row.age);
    const int64_t before = MillisecondsPassed();
    ASSERT_THAT(Read(path), IsOk());
    EXPECT_EQ(MillisecondsPassed() - before, row.slept_ms) << row.age;
    system_->Advance(absl::Milliseconds(1000 - MillisecondsPassed() % 1000));
  }
}

TEST_F(MainCfFile, C8_ATimeOfChangeInTheFutureDoesNotDelay) {
  ASSERT_THAT(Read(Write("a = 1\n", 1)), IsOk());
  ASSERT_THAT(Read(Write("a = 1\n", 100000)), IsOk());
  EXPECT_EQ(MillisecondsPassed(), 0);
}

TEST_F(MainCfFile, C8_WaitingCanBeTurnedOff) {
  options_.wait_until_quiet = false;
  ASSERT_THAT(Read(Write("a = 1\n", 0)), IsOk());
  EXPECT_EQ(MillisecondsPassed(), 0);
}

TEST_F(MainCfFile, C8_TheLatestContentIsTheOneThatCounts) {
  const std::string path = Write("a = old\nonly_in_old = 1\n", 0);
  system_->SetHook(SystemCall::kNanosleep, [&](int) {
    if (system_->Count(SystemCall::kNanosleep) == 1) Write("a = new\n", 0);
  });
  ASSERT_THAT(Read(path), IsOk());
  EXPECT_EQ(store_.Find("a")->value, "new");
  EXPECT_EQ(store_.Find("only_in_old"), nullptr);
}

TEST_F(MainCfFile, F105_AChangeWhileItIsReadIsDetectedAndTheReadingRepeated) {
  options_.wait_until_quiet = false;
  const std::string path = Write("a = old\n");
  int changes = 0;
  // Each reading makes two or three calls of read(2); the first three readings are disturbed.
  system_->SetHook(SystemCall::kRead, [&](int) {
    if (++changes <= 6) Write(absl::StrCat("a = ", std::string(changes, 'n'), "\n"), -changes);
  });
  ASSERT_THAT(Read(path), IsOk());
  EXPECT_EQ(store_.Find("a")->value, "nnnnnn");
  EXPECT_GT(system_->Count(SystemCall::kOpen), 1);
}

TEST_F(MainCfFile, F105_AFileThatNeverStopsChangingIsGivenUp) {
  const std::string path = Write("a = 1\n", 0);
  system_->SetHook(SystemCall::kNanosleep, [&](int) { Touch(path, 0); });
  EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(path)));
  EXPECT_EQ(system_->Count(SystemCall::kOpen), 100);
}

TEST_F(MainCfFile, F116_AFileOrDirectoryThatOthersCanWriteIsAWarning) {
  for (mode_t mode : {0664, 0666, 0646}) {
    const std::string path = Write("a = 1\n");
    ASSERT_EQ(chmod(path.c_str(), mode), 0);
    warnings_.clear();
    ASSERT_THAT(Read(path), IsOk());
    EXPECT_THAT(warnings_, ElementsAre(HasSubstr(absl::StrCat(path, ": writable by group"))));
  }
  const std::string path = Write("a = 1\n");
  ASSERT_EQ(chmod(dir_.path().c_str(), 0775), 0);
  warnings_.clear();
  ASSERT_THAT(Read(path), IsOk());
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr(absl::StrCat(dir_.path(), ": writable by group"))));
}

TEST_F(MainCfFile, F116_AStrictStoreRefusesIt) {
  store_.set_strict(true);
  const std::string path = Write("a = 1\n");
  ASSERT_THAT(Read(path), IsOk());
  ASSERT_EQ(chmod(path.c_str(), 0666), 0);
  EXPECT_THAT(Read(path), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("mode 0666")));
}

TEST_F(MainCfFile, F116_AFileOfAnotherAccountIsAWarning) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  const std::string path = Write("a = 1\n");
  ASSERT_EQ(chown(path.c_str(), 65534, 65534), 0);
  ASSERT_THAT(Read(path), IsOk());
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("owned by user 65534")));
}

}  // namespace
}  // namespace posthouse

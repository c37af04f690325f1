#include "posthouse/io/made_name.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::HasSubstr;

mode_t ModeOf(const std::string& path) {
  struct stat found = {};
  return lstat(path.c_str(), &found) == 0 ? found.st_mode : 0;
}

class MadeNameTest : public testing::Test {
 protected:
  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  const std::string path_ = dir_.Path("name");
};

TEST(UnixAddressTest, F94_APathHasTheLimitOfTheKernel) {
  EXPECT_THAT(CheckSocketPath(std::string(107, 'p')), IsOk());
  EXPECT_THAT(
      CheckSocketPath(std::string(108, 'p')),
      StatusIs(absl::StatusCode::kInvalidArgument, "the path has 108 bytes, the limit is 107"));
  EXPECT_THAT(CheckSocketPath(""), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(CheckSocketPath(absl::string_view("a\0b", 3)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(UnixAddressDeathTest, ALongerPathIsABrokenContract) {
  EXPECT_DEATH(UnixAddress(std::string(108, 'p')), "fits into its address");
}

TEST_F(MadeNameTest, F96_TheModeIsRightAtOnceUnderAnyUmask) {
  for (mode_t mask : {0u, 022u, 077u, 0777u}) {
    for (mode_t mode : {0622u, 0666u, 0600u}) {
      const mode_t old_mask = umask(mask);
      EXPECT_EQ(MakeFifoWithMode(path_, mode), 0);
      EXPECT_EQ(ModeOf(path_), S_IFIFO | mode);
      unlink(path_.c_str());
      UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      EXPECT_EQ(BindWithMode(fd.get(), path_, mode), 0);
      EXPECT_EQ(ModeOf(path_), S_IFSOCK | mode);
      unlink(path_.c_str());
      EXPECT_EQ(umask(old_mask), mask) << "the umask is as it was";
    }
  }
}

TEST_F(MadeNameTest, AFailureTellsItsErrnoAndPutsTheUmaskBack) {
  const mode_t old_mask = umask(0123);
  dir_.WriteFile("name", "");
  EXPECT_EQ(MakeFifoWithMode(path_, 0622), -1);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_EQ(umask(old_mask), 0123u);
}

// made_name.h: "The mode is set where it is not `mode` yet".
TEST_F(MadeNameTest, AModeThatCameOutDifferentIsSet) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(MadeName::Settle(path_, 0622), IsOk());
  EXPECT_EQ(ModeOf(path_), S_IFIFO | 0622u);
  const int64_t before = system_->Count(SystemCall::kChmod);
  EXPECT_THAT(MadeName::Settle(path_, 0622), IsOk());
  EXPECT_EQ(system_->Count(SystemCall::kChmod), before) << "a right one is left alone";
}

// made_name.h: "After an error the name is gone".
TEST_F(MadeNameTest, ANameThatCannotBeSettledIsRemoved) {
  for (SystemCall call : {SystemCall::kLstat, SystemCall::kChmod}) {
    ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
    system_->FailOnce(call, EIO);
    EXPECT_THAT(MadeName::Settle(path_, 0622).status().message(), HasSubstr(path_));
    EXPECT_EQ(ModeOf(path_), 0u);
  }
}

TEST_F(MadeNameTest, F97_OnlyTheFileThatWasMadeIsRemoved) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  absl::StatusOr<MadeName> name = MadeName::Settle(path_, 0600);
  ASSERT_THAT(name, IsOk());
  dir_.WriteFile("other", "somebody else's");
  ASSERT_EQ(rename(dir_.Path("other").c_str(), path_.c_str()), 0);
  EXPECT_THAT(name->Remove(), IsOk());
  EXPECT_EQ(ReadFileOrEmpty(path_), "somebody else's");
  unlink(path_.c_str());

  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  name = MadeName::Settle(path_, 0600);
  ASSERT_THAT(name, IsOk());
  system_->FailOnce(SystemCall::kUnlink, EROFS);
  EXPECT_THAT(name->Remove().message(), HasSubstr("unlink " + path_));
  EXPECT_THAT(name->Remove(), IsOk()) << "a failure may be tried again";
  EXPECT_EQ(ModeOf(path_), 0u);
  EXPECT_THAT(name->Remove(), IsOk()) << "again is harmless";
  EXPECT_THAT(MadeName().Remove(), IsOk()) << "no name";
}

}  // namespace
}  // namespace posthouse

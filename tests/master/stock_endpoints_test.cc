// The stock master as the oracle: what it makes of a service and of its lock files, and what we
// make of the same, side by side.

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/master/endpoint.h"
#include "posthouse/master/lock_file.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/conformance/stock_instance.h"

namespace posthouse {
namespace {

using conformance::StockInstance;
using testing::HasSubstr;

// Type, mode and owner.
std::string Look(const std::string& path) {
  struct stat found = {};
  if (lstat(path.c_str(), &found) != 0) return "nothing";
  return absl::StrFormat("mode %o user %d group %d", found.st_mode, found.st_uid, found.st_gid);
}

FileOwner MailOwner() {
  const passwd* const account = getpwnam(StockInstance::kMailOwner);
  if (account == nullptr) return {};
  return {.change = true, .uid = account->pw_uid, .gid = account->pw_gid};
}

class StockEndpointsTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<StockInstance>> instance = StockInstance::Create();
    ASSERT_THAT(instance, IsOk());
    stock_ = *std::move(instance);
  }
  // A directory like that of the stock instance, owner and mode included.
  void Imitate(const std::string& name) {
    struct stat found = {};
    ASSERT_EQ(lstat((stock_->queue_directory() + "/" + name).c_str(), &found), 0) << name;
    ASSERT_EQ(mkdir(ours_.Path(name).c_str(), 0700), 0);
    ASSERT_EQ(chown(ours_.Path(name).c_str(), found.st_uid, found.st_gid), 0);
    ASSERT_EQ(chmod(ours_.Path(name).c_str(), found.st_mode & 07777), 0);
  }

  std::unique_ptr<StockInstance> stock_;
  TempDir ours_;
};

TEST_F(StockEndpointsTest, M55_M56_FilesOfEachTypeAreThoseOfTheStockMaster) {
  const struct {
    const char* name;
    const char* type;
    EndpointKind kind;
  } rows[] = {{"oracle-stream", "unix", EndpointKind::kStream},
              {"oracle-pass", "pass", EndpointKind::kStream},
              {"oracle-datagram", "unix-dgram", EndpointKind::kDatagram},
              {"oracle-fifo", "fifo", EndpointKind::kFifo}};
  for (const auto& row : rows) {
    for (const char* is_private : {"y", "n"}) {
      // Nobody connects, so that the command is never run.
      stock_->SetService(
          absl::StrCat(row.name, is_private, " ", row.type, " ", is_private, " n n - 1 none"));
    }
  }
  ASSERT_THAT(stock_->Start(), IsOk());
  ASSERT_EQ(chmod(ours_.path().c_str(), 0755), 0);
  Imitate("private");
  Imitate("public");
  EndpointOptions options;
  options.owner = MailOwner();
  ASSERT_TRUE(options.owner.change);
  for (const auto& row : rows) {
    for (const char* is_private : {"y", "n"}) {
      const std::string name =
          absl::StrCat(*is_private == 'y' ? "private/" : "public/", row.name, is_private);
      absl::StatusOr<Endpoint> endpoint = Endpoint::OpenPath(row.kind, ours_.Path(name), options);
      ASSERT_THAT(endpoint, IsOk());
      EXPECT_EQ(Look(ours_.Path(name)), Look(stock_->queue_directory() + "/" + name)) << name;
      EXPECT_NE(Look(ours_.Path(name)), "nothing");
    }
  }
  EXPECT_THAT(stock_->Stop(), IsOk());
}

TEST_F(StockEndpointsTest, M22_M27_EachSeesTheLockOfTheOther) {
  const std::string pid_file = stock_->queue_directory() + "/pid/master.pid";
  const std::string data_lock = stock_->data_directory() + "/master.lock";
  EXPECT_THAT(LockFile::IsHeld(pid_file, FileOwner()), IsOkAndHolds(false)) << "no file yet";
  ASSERT_THAT(stock_->Start(), IsOk());
  const pid_t master = stock_->MasterPid();
  EXPECT_THAT(LockFile::IsHeld(pid_file, FileOwner()), IsOkAndHolds(true));
  EXPECT_EQ(ReadFileOrEmpty(pid_file), FormatLockFile(master));
  EXPECT_EQ(ReadFileOrEmpty(data_lock), FormatLockFile(master));
  const std::string holder = absl::StrCat("process ", master, " holds the lock");
  EXPECT_THAT(LockFile::Acquire(pid_file, FileOwner()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(holder)));
  EXPECT_THAT(LockFile::Acquire(data_lock, MailOwner()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(holder)));
  const std::string pid_look = Look(pid_file);
  const std::string data_look = Look(data_lock);
  ASSERT_THAT(stock_->Stop(), IsOk());
  EXPECT_THAT(LockFile::IsHeld(pid_file, FileOwner()), IsOkAndHolds(false));

  // The files that it left are taken over as they are, and ours are like them.
  EXPECT_THAT(LockFile::Acquire(pid_file, FileOwner()), IsOk());
  EXPECT_THAT(LockFile::Acquire(data_lock, MailOwner()), IsOk());
  unlink(pid_file.c_str());
  unlink(data_lock.c_str());
  {
    absl::StatusOr<LockFile> ours = LockFile::Acquire(pid_file, FileOwner());
    absl::StatusOr<LockFile> ours_data = LockFile::Acquire(data_lock, MailOwner());
    ASSERT_THAT(ours, IsOk());
    ASSERT_THAT(ours_data, IsOk());
    EXPECT_EQ(Look(pid_file), pid_look);
    EXPECT_EQ(Look(data_lock), data_look);
    EXPECT_THAT(ours->WritePid(getpid()), IsOk());
    EXPECT_FALSE(stock_->Start().ok()) << "the stock master is kept out by ours";
  }
  EXPECT_THAT(stock_->Start(), IsOk());
  EXPECT_THAT(stock_->Stop(), IsOk());
}

}  // namespace
}  // namespace posthouse

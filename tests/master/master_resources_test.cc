// Rights, files, disks and logs that are not as they should be: F69, F119 to F123.

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/line_client.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/master_fault_fixture.h"

namespace posthouse {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kNobody = 65534;

void BecomeNobody() {
  if (setgid(kNobody) != 0 || setuid(kNobody) != 0) _exit(124);
}

// A small file system of the test's own, in a mount namespace that nobody else sees.
class SmallDisk {
 public:
  SmallDisk(std::string path, const char* options) : path_(std::move(path)) {
    static const bool entered =
        unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    EXPECT_TRUE(entered);
    EXPECT_EQ(mount("none", path_.c_str(), "tmpfs", 0, options), 0) << strerror(errno);
  }
  ~SmallDisk() { umount2(path_.c_str(), MNT_DETACH); }

  // Until nothing more goes in.
  void Fill() {
    UniqueFd fd(open((path_ + "/filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    const std::string block(1024, 'x');
    while (write(fd.get(), block.data(), block.size()) > 0) {
    }
    EXPECT_EQ(errno, ENOSPC);
  }
  void Free() { unlink((path_ + "/filler").c_str()); }

 private:
  std::string path_;
};

class MasterResourcesTest : public MasterFaultFixture {
 protected:
  MasterResourcesTest() {
    master_.SetTable(
        {"one unix - n n - 50 scripted taken avail taken forever", "two unix - n n - 3 echo"});
  }

  void ExpectRefused(absl::string_view reason) {
    const MasterProcess::Outcome outcome = master_.Run({"-w"});
    EXPECT_EQ(outcome.exit_status, 1);
    EXPECT_THAT(outcome.output, HasSubstr(reason));
  }
  // As many lines of the log as there are deaths of workers.
  void MakeLines(size_t count) {
    std::set<pid_t> killed;
    while (killed.size() < count) {
      LineClient client = master_.Connect("private/one");
      std::set<pid_t> workers;
      ASSERT_TRUE(WaitUntil([&] {
        workers.clear();
        for (const pid_t worker : master_.Workers()) {
          // A killed one may take a moment to die.
          if (killed.count(worker) == 0 && absl::StrContains(ArgumentsOf(worker), "-n one ")) {
            workers.insert(worker);
          }
        }
        return workers.size() == 50;
      }));
      for (const pid_t worker : workers) kill(worker, SIGKILL);
      killed.insert(workers.begin(), workers.end());
    }
  }
};

// --- F69 ---

TEST_F(MasterResourcesTest, AsASetUserIdProgramItRefusesAndChangesNothing) {
  if (!IsRoot()) GTEST_SKIP() << "the test needs root for a program of root";
  master_.CopyMaster();
  ASSERT_EQ(chmod(master_.program().c_str(), 04755), 0);
  const std::string before = Listing(master_.path("queue"));
  master_.Launch({"-d"}, BecomeNobody);
  const absl::optional<int> status = master_.WaitForEnd();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(WEXITSTATUS(*status), 1);
  EXPECT_THAT(master_.Log(), HasSubstr("must not be run as a set-user-id program"));
  EXPECT_EQ(Listing(master_.path("queue")), before);
  EXPECT_NE(access(master_.path("data").c_str(), F_OK), 0);
}

TEST_F(MasterResourcesTest, AnotherUserWithTheConfigurationOfRootIsRefusedAndChangesNothing) {
  if (!IsRoot()) GTEST_SKIP() << "the test needs root for a configuration of root";
  master_.CopyMaster();
  // Before and after root's master has run with it.
  for (const bool has_run : {false, true}) {
    if (has_run) {
      ASSERT_TRUE(master_.Start()) << master_.Log();
      master_.Kill();
    }
    const std::string before = Listing(master_.path("queue"));
    const int told = master_.LogCount("fatal: ");
    master_.Launch({"-d"}, BecomeNobody);
    const absl::optional<int> status = master_.WaitForEnd();
    ASSERT_TRUE(status.has_value());
    EXPECT_EQ(WEXITSTATUS(*status), 1);
    EXPECT_GT(master_.LogCount("fatal: "), told);
    EXPECT_THAT(master_.Log(), HasSubstr("Permission denied"));
    EXPECT_EQ(Listing(master_.path("queue")), before);
  }
}

// --- F119, F120 ---

TEST_F(MasterResourcesTest, LinksInPlaceOfTheLockFilesAreRefusedAndTheirTargetsUnharmed) {
  ASSERT_TRUE(master_.Start()) << master_.Log();
  master_.Kill();
  const std::string victim = master_.path("victim");
  std::ofstream(victim) << "precious words";
  ASSERT_EQ(chmod(victim.c_str(), 0640), 0);
  const std::string before = Listing(master_.path("."));
  for (const std::string& lock :
       {master_.QueuePath("pid/master.pid"), master_.path("data/master.lock")}) {
    const std::string kept = ReadFileOrEmpty(lock);
    for (const std::string& target : {victim, master_.path("nowhere"), std::string("/dev/null")}) {
      SCOPED_TRACE(absl::StrCat(lock, " -> ", target));
      ASSERT_EQ(unlink(lock.c_str()), 0);
      ASSERT_EQ(symlink(target.c_str(), lock.c_str()), 0);
      ExpectRefused("master.");
      EXPECT_EQ(ReadFileOrEmpty(victim), "precious words");
      EXPECT_NE(access(master_.path("nowhere").c_str(), F_OK), 0);
    }
    ASSERT_EQ(unlink(lock.c_str()), 0);
    ASSERT_TRUE(master_.Start()) << master_.Log();
    EXPECT_EQ(ReadFileOrEmpty(lock).size(), kept.size());
    master_.Kill();
  }
  struct stat info = {};
  ASSERT_EQ(stat(victim.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0640u);
}

TEST_F(MasterResourcesTest, AStaleNumberOfAVictimIsNotTrusted) {
  ASSERT_TRUE(master_.Start()) << master_.Log();
  master_.Kill();
  const std::string pid_file = master_.QueuePath("pid/master.pid");
  const pid_t victim = fork();
  if (victim == 0) {
    for (;;) pause();
  }
  // As the file of a master that died and whose number another process has now.
  std::ofstream(pid_file) << victim << "\n";
  EXPECT_EQ(master_.Run({"-t"}).exit_status, 0);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(master_.LockedBy(), master_.pid());
  struct stat info = {};
  ASSERT_EQ(stat(pid_file.c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, geteuid());
  EXPECT_TRUE((info.st_mode & 07777) == 0600u || (info.st_mode & 07777) == 0644u);
  master_.Signal(SIGTERM);
  ASSERT_TRUE(master_.WaitForEnd().has_value());
  EXPECT_FALSE(WaitForExit(victim, absl::ZeroDuration()).has_value());
  // A file that the service account has put there instead.
  if (IsRoot()) {
    ASSERT_EQ(chown(pid_file.c_str(), kNobody, kNobody), 0);
    ExpectRefused("master.pid");
  }
  kill(victim, SIGKILL);
  WaitForExit(victim);
}

// --- F121, F122 ---

TEST_F(MasterResourcesTest, AFullOrReadOnlyDiskForTheLocksIsRefusedWithItsReason) {
  if (!IsRoot()) GTEST_SKIP() << "the test needs root to mount";
  ASSERT_TRUE(master_.Start()) << master_.Log();
  master_.Kill();
  for (const char* name : {"queue/pid", "data"}) {
    SCOPED_TRACE(name);
    const std::string path = master_.path(name);
    struct stat info = {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    const auto use = [&] {
      ASSERT_EQ(chown(path.c_str(), info.st_uid, info.st_gid), 0);
      ASSERT_EQ(chmod(path.c_str(), info.st_mode & 07777), 0);
    };
    {
      SmallDisk disk(path, "size=64k");
      use();
      disk.Fill();
      ExpectRefused("No space left on device");
      disk.Free();
      ASSERT_TRUE(master_.Start()) << master_.Log();
      EXPECT_EQ(Ask("private/two"), "hello");
      master_.Kill();
    }
    {
      SmallDisk disk(path, "size=64k,nr_inodes=1");
      use();
      ExpectRefused("No space left on device");
    }
    {
      SmallDisk disk(path, "size=64k");
      use();
      ASSERT_EQ(mount("none", path.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, "size=64k"), 0);
      ExpectRefused("Read-only file system");
    }
  }
}

// The log file's disk is full for a while.
TEST_F(MasterResourcesTest, AFullDiskForTheLogCostsLinesAndNothingElse) {
  if (!IsRoot()) GTEST_SKIP() << "the test needs root to mount";
  const std::string path = master_.path("logs");
  ASSERT_EQ(mkdir(path.c_str(), 0755), 0);
  SmallDisk disk(path, "size=64k");
  master_.SetParameters({absl::StrCat("maillog_file = ", path, "/mail.log"),
                         absl::StrCat("maillog_file_prefixes = ", path)});
  // Only what is told on standard error counts for the log's volume.
  AllowLines(2000);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_THAT(ReadFileOrEmpty(path + "/mail.log"), HasSubstr("daemon started"));
  LoadClients load({TargetOf("private/two")}, 1);
  disk.Fill();
  MakeLines(400);
  ASSERT_TRUE(load.WaitForServed(50));
  load.Stop();
  EXPECT_EQ(load.lost(), 0);
  EXPECT_LT(load.worst(), absl::Seconds(Times(5, 1)));
  disk.Free();
  EXPECT_TRUE(WaitUntil(
      [&] {
        // Each turn of the master offers what was kept once more.
        EXPECT_EQ(Ask("private/two"), "hello");
        return absl::StrContains(ReadFileOrEmpty(path + "/mail.log"), "log records were dropped");
      },
      absl::Seconds(45)))
      << ReadFileOrEmpty(path + "/mail.log");
  EXPECT_EQ(Ask("private/two"), "hello");
}

// --- F123 ---

TEST_F(MasterResourcesTest, ALogReaderThatIsStoppedDelaysNobody) {
  // The test is postlogd, and does not read.
  ASSERT_TRUE(master_.Start()) << master_.Log();
  master_.Kill();
  UniqueFd reader(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, master_.QueuePath("public/postlog").c_str(),
               sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(reader.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  master_.SetParameters({absl::StrCat("maillog_file = ", master_.path("mail.log")),
                         absl::StrCat("maillog_file_prefixes = ", master_.path(""))});
  AllowLines(2000);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LoadClients load({TargetOf("private/two")}, 1);
  MakeLines(400);
  ASSERT_TRUE(load.WaitForServed(50));
  load.Stop();
  EXPECT_EQ(load.lost(), 0);
  EXPECT_LT(load.worst(), absl::Seconds(Times(5, 1)));
  // It reads again, and is told how much it has missed.
  std::string received;
  EXPECT_TRUE(WaitUntil(
      [&] {
        EXPECT_EQ(Ask("private/two"), "hello");
        char record[4096];
        for (ssize_t got; (got = recv(reader.get(), record, sizeof(record), 0)) > 0;) {
          absl::StrAppend(&received, absl::string_view(record, static_cast<size_t>(got)), "\n");
        }
        return absl::StrContains(received, "log records were dropped");
      },
      absl::Seconds(45)))
      << received;
  EXPECT_THAT(received, HasSubstr("daemon started"));
}

TEST_F(MasterResourcesTest, AFullPipeAtStandardErrorDelaysNobody) {
  // What the master has as standard error is a pipe that is full from the start.
  const std::string fifo = master_.path("log");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  UniqueFd pipe(open(fifo.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  const std::string filler(4096, '.');
  while (write(pipe.get(), filler.data(), filler.size()) > 0) {
  }
  master_.Launch({"-d"});
  ASSERT_TRUE(WaitUntil([&] { return Ask("private/two") == "hello"; }));
  LoadClients load({TargetOf("private/two")}, 1);
  MakeLines(400);
  ASSERT_TRUE(load.WaitForServed(50));
  load.Stop();
  EXPECT_EQ(load.lost(), 0);
  EXPECT_LT(load.worst(), absl::Seconds(Times(5, 1)));
  std::string received;
  EXPECT_TRUE(WaitUntil(
      [&] {
        EXPECT_EQ(Ask("private/two"), "hello");
        char text[65536];
        for (ssize_t got; (got = read(pipe.get(), text, sizeof(text))) > 0;) {
          received.append(text, static_cast<size_t>(got));
        }
        return absl::StrContains(received, "log records were dropped");
      },
      absl::Seconds(45)))
      << received;
  EXPECT_THAT(received, HasSubstr("daemon started"));
  unlink(fifo.c_str());
}

}  // namespace
}  // namespace posthouse

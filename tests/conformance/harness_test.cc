// The harness under stock programs alone: what the other tests rely on.

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/conformance/connection.h"
#include "tests/conformance/smtp_client.h"
#include "tests/conformance/stock_instance.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {
namespace {

constexpr absl::Duration kBound = absl::Seconds(30);

class Harness : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<StockInstance>> created = StockInstance::Create();
    if (absl::IsUnavailable(created.status())) GTEST_SKIP() << created.status();
    ASSERT_TRUE(created.ok()) << created.status();
    instance_ = *std::move(created);
  }

  std::unique_ptr<StockInstance> instance_;
};

TEST_F(Harness, AMailIsDeliveredIntoTheBoxAndTheLogIsClean) {
  ASSERT_TRUE(instance_->Start().ok()) << instance_->Log();
  EXPECT_EQ(SendMailCode(instance_->smtp_port(), "a@example.test", "b@box.example.test"), 250);
  EXPECT_TRUE(Eventually(kBound, [&] { return instance_->MailCount() == 1; })) << instance_->Log();
  EXPECT_TRUE(Eventually(kBound, [&] { return instance_->QueueCount() == 0; }));
  ASSERT_TRUE(instance_->Reload().ok());
  ASSERT_TRUE(instance_->Stop().ok());
  EXPECT_TRUE(instance_->Processes().empty());
  EXPECT_EQ(instance_->Complaints(), std::vector<std::string>());
}

TEST_F(Harness, AServiceOfMasterCfIsReachable) {
  instance_->SetService("hello unix - n n - - spawn user=nobody argv=/bin/echo hello");
  ASSERT_TRUE(instance_->Start().ok()) << instance_->Log();
  absl::StatusOr<Connection> client = Connection::Unix(instance_->private_socket("hello"));
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(*client->ReadToEnd(), "hello\n");
}

TEST_F(Harness, ProcessesAreFoundByProgram) {
  ASSERT_TRUE(instance_->Start().ok()) << instance_->Log();
  // A child that has not become its program yet counts for a moment as a second master.
  EXPECT_TRUE(Eventually(kBound, [&] {
    return instance_->Processes("master") == std::vector<pid_t>{instance_->MasterPid()};
  }));
  absl::StatusOr<Connection> client = Connection::Unix(instance_->private_socket("anvil"));
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(*client->ReadLine(), "protocol=anvil_protocol");
  EXPECT_EQ(instance_->Processes("anvil").size(), 1u);
}

TEST_F(Harness, ComplaintsOfTheLogAreFound) {
  instance_->SetService("broken unix - n n - - no-such-program");
  ASSERT_TRUE(instance_->Start().ok()) << instance_->Log();
  // The master refuses the entry (the file is missing) or fails to start it.
  Connection::Unix(instance_->private_socket("broken")).status().IgnoreError();
  EXPECT_TRUE(instance_->WaitForLog("(warning|fatal): .*no-such-program", kBound).ok());
  EXPECT_FALSE(instance_->Complaints().empty());
  EXPECT_EQ(instance_->Complaints({"broken|no-such-program"}), std::vector<std::string>());
}

TEST_F(Harness, DestructionLeavesNothingBehindEvenWhileRunning) {
  ASSERT_TRUE(instance_->Start().ok()) << instance_->Log();
  const std::string directory = instance_->directory();
  const pid_t master = instance_->MasterPid();
  ASSERT_GT(master, 0);
  instance_.reset();
  EXPECT_FALSE(std::filesystem::exists(directory));
  EXPECT_FALSE(InspectProcess(master).has_value());
}

TEST_F(Harness, AGuardCleansUpWhenTheTestProgramDies) {
  // The dying test program is a child; it reports where its instance is.
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    absl::StatusOr<std::unique_ptr<StockInstance>> doomed = StockInstance::Create();
    if (!doomed.ok() || !(*doomed)->Start().ok()) _exit(1);
    const std::string report =
        absl::StrCat((*doomed)->directory(), " ", (*doomed)->MasterPid(), "\n");
    if (write(ends[1], report.data(), report.size()) < 0) _exit(1);
    raise(SIGKILL);
  }
  close(ends[1]);
  char report[100] = {};
  ASSERT_GT(read(ends[0], report, sizeof report - 1), 0);
  close(ends[0]);
  waitpid(child, nullptr, 0);
  char directory[100];
  pid_t master = 0;
  ASSERT_EQ(sscanf(report, "%99s %d", directory, &master), 2);
  EXPECT_TRUE(Eventually(kBound, [&] { return !std::filesystem::exists(directory); }));
  EXPECT_FALSE(InspectProcess(master).has_value());
}

}  // namespace
}  // namespace posthouse::conformance

// What the original is known not to do: the improvements SO and PO of the statements.

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "posthouse/io/pass_descriptor.h"
#include "tests/conformance/suite/worker_fixture.h"

namespace posthouse::conformance {
namespace {

// Many programs fail these, and then this is waited for.
constexpr absl::Duration kSoon = absl::Seconds(10);

class BeyondWorker : public WorkerFixture {
 protected:
  void StartOverPass() {
    FakeMasterOptions options = Options();
    options.arguments.transport = "pass";
    Start(std::move(options));
  }
};

// The original opens something of its own in the place of what is missing, and waits there.
TEST_F(BeyondWorker, F32_S22_WithoutStatusChannelItEndsWithStatus1) {
  FakeMasterOptions options = Options();
  options.without_descriptors = {5};
  Start(std::move(options));
  EXPECT_EQ(End(pid_, kSoon), "exit 1");
}

TEST_F(BeyondWorker, F32_S22_WithoutListenerItEndsWithStatus1) {
  FakeMasterOptions options = Options();
  options.without_descriptors = {6};
  Start(std::move(options));
  EXPECT_EQ(End(pid_, kSoon), "exit 1");
}

TEST_F(BeyondWorker, F32_S22_MoreListenersThanThereAreEndItWithStatus1) {
  Start(OptionsWith({"-s", "2"}));
  EXPECT_EQ(End(pid_, kSoon), "exit 1");
}

TEST_F(BeyondWorker, SO3_EachOfSeveralRequestsInOneWriteIsAnswered) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ServiceClient client = Connect();
  ASSERT_EQ(client.Greeting(), "");
  // The second is sent while the first has not been read: the worker finds both.
  Stop(pid_);
  ASSERT_TRUE(client.Send(Requests(2)));
  Continue(pid_);
  EXPECT_EQ(client.Reply(), "") << "the first";
  EXPECT_EQ(client.Reply(kSoon), "") << "the second";
}

TEST_F(BeyondWorker, SO7_ARequestThatCanBeReadWhenTheChannelIsClosedIsAnswered) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  std::vector<ServiceClient> clients;
  for (int i = 0; i < 10; ++i) {
    clients.push_back(Connect());
    ASSERT_EQ(clients.back().Ask(), "");
  }
  Stop(pid_);
  for (ServiceClient& client : clients) ASSERT_TRUE(client.Send(TheCandidate().request));
  ASSERT_TRUE(master_->Reload().ok());
  Continue(pid_);
  for (ServiceClient& client : clients) EXPECT_EQ(client.Reply(), "");
  clients.clear();
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(BeyondWorker, PO3_SO11_AMasterThatNeverReadsStallsNobody) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ServiceClient client = Connect();
  ASSERT_EQ(client.Ask(), "");
  ASSERT_TRUE(WaitWhileRunning([&] { return master_->worker(pid_).use_count == 1; }));
  master_->set_read_status(false);
  constexpr int kMoreThanTheChannelHolds = 500;
  for (int i = 0; i < kMoreThanTheChannelHolds; ++i) {
    ASSERT_TRUE(client.Send(TheCandidate().request));
    ASSERT_EQ(client.Reply(absl::Seconds(5)), "") << "request " << i;
  }
  master_->set_read_status(true);
  // The last state is told in the end.
  EXPECT_TRUE(WaitWhileRunning(
      [&] { return master_->worker(pid_).availability == Availability::kAvailable; }));
}

TEST_F(BeyondWorker, PO6_SO16_AGenerationThatIsNotOctalEndsItWithStatus1) {
  FakeMasterOptions options = Options();
  options.environment = {"GENERATION=19"};
  Start(std::move(options));
  EXPECT_EQ(End(pid_, kSoon), "exit 1");
}

TEST_F(BeyondWorker, SO16_TextBehindTheNumberOfListenersEndsItWithStatus1) {
  Start(OptionsWith({"-s", "1x"}));
  EXPECT_EQ(End(pid_, kSoon), "exit 1");
}

TEST_F(BeyondWorker, SO5_ASilentSenderOfDescriptorsHoldsUpNobody) {
  StartOverPass();
  ExpectStarts();
  absl::StatusOr<UniqueFd> silent = master_->ConnectRaw();
  ASSERT_TRUE(silent.ok()) << silent.status();
  ServiceClient client = Connect();
  if (HasRequest()) {
    ASSERT_TRUE(client.Send(TheCandidate().request));
    EXPECT_EQ(client.Greeting(kSoon), "");
    EXPECT_EQ(client.Reply(kSoon), "");
  } else {
    EXPECT_TRUE(AllAccepted());
  }
  silent->Reset();
}

TEST_F(BeyondWorker, SO5_SendersWithoutDescriptorDoNotEndIt) {
  StartOverPass();
  ExpectStarts();
  for (int i = 0; i < 20; ++i) {
    absl::StatusOr<UniqueFd> broken = master_->ConnectRaw();
    ASSERT_TRUE(broken.ok()) << broken.status();
    send(broken->get(), "x", 1, MSG_NOSIGNAL);
    broken->Reset();
    ASSERT_TRUE(AllAccepted()) << "after " << i;
  }
  ExpectServes();
  EXPECT_TRUE(Running(pid_));
}

TEST_F(BeyondWorker, SO4_AShortageOfDescriptorsEndsNobody) {
  FakeMasterOptions options = Options();
  // Hard, so that it cannot be raised: a few clients fit.
  options.in_child = [] {
    const rlimit low = {140, 140};
    setrlimit(RLIMIT_NOFILE, &low);
  };
  Start(std::move(options));
  ServiceClient first = Connect();
  ExpectServed(first);
  std::vector<ServiceClient> many;
  for (int i = 0; i < 40; ++i) many.push_back(Connect());
  if (HasRequest()) {
    EXPECT_EQ(first.Ask(), "");
  }
  many.clear();
  ExpectServes();
  EXPECT_TRUE(Running(pid_));
}

}  // namespace
}  // namespace posthouse::conformance

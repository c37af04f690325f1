// The thirty-line service under the stock master.

#include <thread>

#include "tests/conformance/conformance_test.h"

namespace posthouse::conformance {
namespace {

class Echo : public ConformanceTest {
 protected:
  void SetUp() override {
    ConformanceTest::SetUp();
    if (instance_ != nullptr) Install("echo", "examples/echo/echo");
  }
};

TEST_F(Echo, AnswersOnEveryTransport) {
  const int port = FreePort();
  instance_->SetService("echo unix - y y - - echo");
  instance_->SetService("echo-pass pass - y y - - echo");
  instance_->SetService(absl::StrCat("127.0.0.1:", port, " inet n y y - - echo"));
  Start();
  Connection local = Connect("echo");
  EXPECT_EQ(Ask(local, "over unix"), "over unix");
  absl::StatusOr<Connection> remote = Connection::Tcp(port);
  ASSERT_TRUE(remote.ok()) << remote.status();
  EXPECT_EQ(Ask(*remote, "over inet"), "over inet");
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> pair = TcpPair();
  ASSERT_TRUE(pair.ok()) << pair.status();
  Connection sender = Connect("echo-pass");
  ASSERT_EQ(sender.PassDescriptor(pair->second.get(), NulAttributes({})), absl::OkStatus());
  pair->second.Reset();
  Connection passed(std::move(pair->first));
  EXPECT_EQ(Ask(passed, "over pass"), "over pass");
}

TEST_F(Echo, SO3_PipelinedLinesAreAllAnswered) {
  instance_->SetService("echo unix - y y - - echo");
  Start();
  Connection client = Connect("echo");
  ASSERT_EQ(client.Write("one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n"),
            absl::OkStatus());
  for (const char* word :
       {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}) {
    EXPECT_EQ(*client.ReadLine(), word);
  }
}

TEST_F(Echo, ManyClientsAtOnceAreServedByOneProcess) {
  instance_->SetService("echo unix - y y - 1 echo");
  Start();
  const int clients = Full() ? 500 : 100;
  std::vector<Connection> connections;
  for (int i = 0; i < clients; ++i) connections.push_back(Connect("echo"));
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < clients; ++i) {
      ASSERT_EQ(connections[i].Write(absl::StrCat("client ", i, "\n")), absl::OkStatus());
    }
    for (int i = 0; i < clients; ++i) {
      ASSERT_EQ(*connections[i].ReadLine(), absl::StrCat("client ", i));
    }
  }
  EXPECT_EQ(instance_->Processes("echo").size(), 1u);
}

}  // namespace
}  // namespace posthouse::conformance

// Stress, as the stock master declares it for services whose clients may be remote (P9, P42): it
// closes the status channel of the one service, and what it starts next is told so. A network
// namespace provides an address that is not of the loopback network, without a listener that
// others could reach.

#include "tests/conformance/conformance_test.h"
#include "tests/conformance/private_network.h"

namespace posthouse::conformance {
namespace {

constexpr absl::string_view kAddress = kPrivateNetworkAddress;

class Stress : public ConformanceTest {
 protected:
  void SetUp() override {
    ConformanceTest::SetUp();
    if (instance_ == nullptr) return;
    if (const absl::Status status = EnterPrivateNetwork(); !status.ok()) GTEST_SKIP() << status;
    Install("probe", "tests/conformance/probe_service");
    port_ = FreePort();
    instance_->SetService(absl::StrCat(kAddress, ":", port_, " inet n - n - 2 probe"));
    Start();
  }

  Connection Client() {
    absl::StatusOr<Connection> client = Connection::Tcp(port_, kAddress, kAddress);
    EXPECT_EQ(client.status(), absl::OkStatus());
    return client.ok() ? *std::move(client) : Connection(UniqueFd());
  }

  int port_ = 0;
};

TEST_F(Stress, P9_TheParameterIsThereAndEmptyWithoutStress) {
  Connection client = Client();
  EXPECT_EQ(Ask(client, "parameter stress"), "");
}

TEST_F(Stress, P42_TheProcessLimitEndsTheOldWorkersAfterTheirRequestAndNewOnesKnow) {
  Connection first = Client();
  const pid_t old_pid = AskPid(first);
  ASSERT_EQ(first.Write("sleep 2000\n"), absl::OkStatus());
  ASSERT_EQ(instance_->WaitForLog(": sleeping$", kBound).status(), absl::OkStatus());
  // The second process reaches the limit.
  Connection second = Client();
  EXPECT_EQ(Ask(second, "parameter stress"), "yes");
  const pid_t new_pid = AskPid(second);
  EXPECT_NE(new_pid, old_pid);
  // The old one answers what it was doing, then goes.
  EXPECT_EQ(*first.ReadLine(), "slept");
  EXPECT_TRUE(Gone(old_pid));
  EXPECT_EQ(AskPid(second), new_pid);
  Expect(
      "master\\[[0-9]+\\]: warning: service \"[^\"]*\" \\([^ ]+\\) has reached its process "
      "limit \"2\"");
  Expect("master\\[[0-9]+\\]: warning: to avoid this condition, increase the process count");
  Expect("master\\[[0-9]+\\]: warning: see ");
}

}  // namespace
}  // namespace posthouse::conformance

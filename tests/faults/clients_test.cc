// Clients that stream, stall, do not read, send too much or reset: F12, F38, F39, F41, F42.

#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/faults/harness.h"

namespace posthouse {
namespace {

class ClientFaults : public FaultTest {
 protected:
  std::vector<LineClient> ConnectMany(int64_t count) {
    std::vector<LineClient> clients;
    for (int64_t i = 0; i < count; ++i) {
      clients.push_back(Connect());
      // Not more in the queue of the listen socket than it holds.
      if (i % 50 == 49) {
        EXPECT_EQ(clients.back().Ask("ECHO x"), "x");
      }
    }
    return clients;
  }
};

TEST_F(ClientFaults, F12_OneClientThatStreamsDelaysNeitherOthersNorTimers) {
  Start();
  LineClient control = Connect();
  auto prober = std::make_unique<Prober>(ConnectMany(Times(100, 1000)), absl::Milliseconds(1));
  std::atomic<bool> stop{false};
  std::atomic<int64_t> received{0};
  LineClient streamer = Connect();
  std::thread writer([&] {
    std::string burst;
    for (int i = 0; i < 500; ++i) burst += "ECHO a line of a client that never pauses\n";
    while (!stop && streamer.Send(burst)) {
    }
  });
  std::thread reader([&] {
    std::string data(65536, 0);
    ssize_t got;
    while ((got = recv(streamer.fd(), data.data(), data.size(), 0)) > 0) received += got;
  });
  ASSERT_EQ(control.Ask("RHYTHM 10"), "started");
  absl::SleepFor(absl::Seconds(Times(2, 30)));
  int beats = 0, latest = 0;
  ASSERT_EQ(sscanf(control.Ask("BEATS").c_str(), "%d %d", &beats, &latest), 2);
  EXPECT_EQ(control.Ask("RHYTHMOFF"), "stopped");
  prober->Stop().clear();
  stop = true;
  shutdown(streamer.fd(), SHUT_RDWR);
  writer.join();
  reader.join();
  streamer.Close();
  control.Close();
  EXPECT_EQ(prober->errors(), 0);
  ASSERT_GT(prober->latencies().size(), 50u);
  std::printf("beside a client that streamed %.0f MB: %s; timers late by at most %d ms\n",
              static_cast<double>(received) / 1e6, prober->latencies().ToString().c_str(), latest);
  EXPECT_GT(received, 1000000);
  EXPECT_LT(prober->latencies().Percentile(99), Allow(absl::Milliseconds(50)));
  EXPECT_GT(beats, 20);
  EXPECT_LT(latest, absl::ToInt64Milliseconds(Allow(absl::Milliseconds(50))));
  ExpectUnharmed();
}

TEST_F(ClientFaults, F38_SlowClientsInNumbersDelayNobodyAndAreGoneAtTheirDeadline) {
  Scenario scenario;
  scenario.options = absl::StrCat("request_deadline=", Times(2000, 20000));
  Start(std::move(scenario));
  auto prober = std::make_unique<Prober>(ConnectMany(Times(20, 100)), absl::Milliseconds(1));
  std::vector<LineClient> slow = ConnectMany(Times(300, 1000));
  const absl::Time begin = absl::Now();
  for (LineClient& client : slow) ASSERT_TRUE(client.Send("E"));
  const absl::Time all_begun = absl::Now();
  const absl::Duration deadline = absl::Milliseconds(Times(2000, 20000));
  // A byte now and then; the deadline counts from the first one.
  while (absl::Now() - begin < deadline - absl::Milliseconds(500)) {
    absl::SleepFor(absl::Milliseconds(Times(500, 9000)));
    for (LineClient& client : slow) client.SendSome("C");
  }
  for (LineClient& client : slow) {
    EXPECT_TRUE(client.WaitClosed(all_begun + deadline + Allow(absl::Seconds(1)) - absl::Now()));
  }
  EXPECT_GE(absl::Now() - begin, deadline);
  prober->Stop().clear();
  EXPECT_EQ(prober->errors(), 0);
  std::printf("beside slow clients: %s\n", prober->latencies().ToString().c_str());
  EXPECT_LT(prober->latencies().Percentile(99), Allow(absl::Milliseconds(20)));
  slow.clear();
  ExpectUnharmed();
}

TEST_F(ClientFaults, F39_ClientsThatNeverReadCostTheirBoundAndThenNothing) {
  constexpr int64_t kBound = 256 << 10;
  const int64_t count = Times(100, 500);
  Scenario scenario;
  scenario.options = absl::StrCat("request_deadline=3000 max_output_bytes=", kBound);
  Start(std::move(scenario));
  auto prober = std::make_unique<Prober>(ConnectMany(20), absl::Milliseconds(1));
  const int64_t before = PrivateMemory(pid_);
  {
    // Ten megabytes are beyond the bound at once.
    std::vector<LineClient> greedy = ConnectMany(count);
    for (LineClient& client : greedy) ASSERT_TRUE(client.Send("BIG 10485760\n"));
    for (LineClient& client : greedy) EXPECT_TRUE(client.WaitClosed());
  }
  std::vector<LineClient> deaf = ConnectMany(count);
  for (LineClient& client : deaf) {
    ASSERT_TRUE(client.Send(absl::StrCat("BIG ", kBound - 1000, "\n")));
  }
  int64_t most = 0;
  // Until their deadline and a second more.
  const absl::Time end = absl::Now() + absl::Seconds(4);
  while (absl::Now() < end) {
    most = std::max(most, PrivateMemory(pid_) - before);
    absl::SleepFor(absl::Milliseconds(10));
  }
  std::printf("%d clients that do not read: %.1f MB\n", static_cast<int>(count),
              static_cast<double>(most) / 1e6);
  // Something was held, so the measurement means something; string growth may double it.
  EXPECT_GT(most, count * kBound / 10);
  // Nor does a sanitizer's allocator know such bounds.
  if (!Sanitized()) {
    EXPECT_LE(most, count * kBound * 11 / 10);
  }
  // They begin to read too late.
  for (LineClient& client : deaf) EXPECT_TRUE(client.WaitClosed());
  deaf.clear();
  prober->Stop().clear();
  EXPECT_EQ(prober->errors(), 0);
  std::printf("beside them: %s\n", prober->latencies().ToString().c_str());
  EXPECT_LT(prober->latencies().Percentile(99), Allow(absl::Milliseconds(20)));
  // A sanitizer keeps what was freed.
  if (!Sanitized()) {
    EXPECT_TRUE(WaitUntil([&] { return PrivateMemory(pid_) - before < count * kBound / 10; }))
        << PrivateMemory(pid_) - before;
  }
  ExpectUnharmed();
}

TEST_F(ClientFaults, F41_LinesAroundTheLimitAndDeclaredLengths) {
  constexpr size_t kLimit = 64 << 10;
  Start();
  LineClient client = Connect();
  // "ECHO " and the newline count.
  for (const size_t length : {size_t{1}, size_t{4090}, size_t{4091}, size_t{4096}, kLimit - 6}) {
    const std::string word(length, 'x');
    ASSERT_EQ(client.Ask(absl::StrCat("ECHO ", word)), word) << length;
  }
  for (const char* length : {"0", "1000", "0000000000000000000000001"}) {
    EXPECT_EQ(client.Ask(absl::StrCat("LENGTH ", length)).substr(0, 7), "expects") << length;
  }
  for (const std::string& length :
       {std::string("1001"), std::string("2147483647"), std::string("2147483648"),
        std::string("4294967296"), std::string("9223372036854775808"), std::string("-1"),
        std::string(10000, '9'), std::string("1e3"), std::string("0x10"), std::string("")}) {
    EXPECT_EQ(client.Ask(absl::StrCat("LENGTH ", length)), "refused") << length.substr(0, 30);
  }
  for (const size_t length : {kLimit - 5, kLimit, kLimit + 1, 2 * kLimit}) {
    LineClient beyond = Connect();
    ASSERT_TRUE(beyond.Send(absl::StrCat("ECHO ", std::string(length, 'x'))));
    EXPECT_TRUE(beyond.WaitClosed()) << length;
  }
  EXPECT_EQ(client.Ask("ECHO framing is intact"), "framing is intact");
  client.Close();
  ExpectUnharmed();
}

TEST_F(ClientFaults, F41_EndlessLinesAtFullSpeedCostOnlyTheirSenders) {
  Start();
  auto prober = std::make_unique<Prober>(ConnectMany(20), absl::Milliseconds(1));
  const int64_t before = PrivateMemory(pid_);
  const std::string data(65536, 'x');
  const absl::Time end = absl::Now() + absl::Seconds(Times(2, 60));
  int64_t most = 0;
  int ended = 0;
  while (absl::Now() < end) {
    std::vector<LineClient> clients = ConnectMany(10);
    for (LineClient& client : clients) {
      client.Send(data);
      client.Send(data);
    }
    most = std::max(most, PrivateMemory(pid_) - before);
    for (LineClient& client : clients) ended += client.WaitClosed() ? 1 : 0;
  }
  EXPECT_GT(ended, 50);
  EXPECT_EQ(ended % 10, 0);
  // Its limit and what the growth of a buffer and the allocator's own habits add.
  if (!Sanitized()) {
    EXPECT_LE(most, int64_t{10} * (64 << 10) * 3 + (1 << 20));
  }
  prober->Stop().clear();
  EXPECT_EQ(prober->errors(), 0);
  ExpectUnharmed();
}

TEST_F(ClientFaults, F42_ResetsAnywhereInTheDialogueCostNobodyElse) {
  for (const char* transport : {"inet", "unix", "pass"}) {
    SCOPED_TRACE(transport);
    Scenario scenario;
    scenario.transport = transport;
    master_ = nullptr;
    Start(std::move(scenario));
    auto prober = std::make_unique<Prober>(ConnectMany(Times(20, 100)), absl::Microseconds(200));
    std::mt19937 random(42);
    const std::string dialogue = "ECHO one\nECHO two\nBIG 20000\nECHO three\n";
    const int64_t count = Times(1500, 35000);
    for (int64_t i = 0; i < count; ++i) {
      LineClient client = Connect();
      const size_t point = random() % 50;
      client.Send(absl::string_view(dialogue).substr(0, dialogue.size() * point / 49));
      // Some wait for the answer's first bytes, some until it is over.
      if (random() % 3 == 0) {
        char data[3000];
        recv(client.fd(), data, 1 + random() % sizeof(data), MSG_DONTWAIT);
      }
      if (random() % 4 == 0) absl::SleepFor(absl::Microseconds(random() % 300));
      client.Abort();
      if (i % 64 == 0) master_->Pump();
    }
    prober->Stop().clear();
    EXPECT_EQ(prober->errors(), 0) << log();
    ExpectUnharmed();
    // A reset is no news.
    EXPECT_EQ(Count(log(), "warning"), 0) << log();
    ExpectQuietLog();
  }
}

}  // namespace
}  // namespace posthouse

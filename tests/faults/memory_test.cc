// Failing allocations and exceptions of the service: F57, F125; many idle clients: F126.

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <memory>
#include <string>
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

class MemoryFaults : public FaultTest {
 protected:
  // What became of the worker and its clients while the n-th allocation failed.
  struct Outcome {
    bool failed = false;     // an allocation did fail
    bool ended = false;      // the worker has ended
    int lost = 0;            // clients without their answers, the bystander apart
    bool bystander = false;  // a client that was there before still gets its answers
  };

  // One round: the n-th allocation after a request of the control client fails, while `clients`
  // come, ask and leave.
  Outcome Round(int n, absl::string_view request, absl::string_view expected) {
    Outcome outcome;
    LineClient bystander = Connect();
    EXPECT_EQ(bystander.Ask("ECHO there"), "there");
    LineClient control = Connect();
    EXPECT_EQ(control.Ask(absl::StrCat("ALLOC ", n)), "armed");
    for (int i = 0; i < 3; ++i) {
      absl::StatusOr<UniqueFd> fd = master_->Connect();
      if (!fd.ok()) break;
      LineClient client(*std::move(fd));
      if (client.Ask(request, absl::Seconds(5)) != expected) ++outcome.lost;
    }
    outcome.bystander = bystander.Ask("ECHO still there") == "still there";
    const std::string failed = control.Ask("ALLOCATED");
    outcome.ended = !running();
    outcome.failed = outcome.ended || failed != "0";
    return outcome;
  }
};

TEST_F(MemoryFaults, F125_AnyFailedAllocationCostsAtMostOneClientOrIsAnOrderlyEnd) {
  allowed_lines_per_second_ = 1000;  // one worker after another, each with its line
  for (const char* transport : {"unix", "inet", "pass"}) {
    for (const auto& [request, expected] : std::vector<std::pair<std::string, std::string>>{
             {"ECHO a word that does not fit into a short string, so that it is allocated",
              "a word that does not fit into a short string, so that it is allocated"},
             {"BIG 100000", std::string(100000, 'x')},
             {"LIMITED 1", "logged"}}) {
      SCOPED_TRACE(absl::StrCat(transport, " ", request));
      Scenario scenario;
      scenario.transport = transport;
      master_ = nullptr;
      Start(std::move(scenario));
      int n = 1, ends = 0, losses = 0;
      for (;; ++n) {
        ASSERT_LT(n, 1000);
        SCOPED_TRACE(absl::StrCat("allocation ", n));
        const Outcome outcome = Round(n, request, expected);
        if (!outcome.failed) break;
        if (outcome.ended) {
          ++ends;
          EXPECT_EQ(WaitForEnd(), 1) << log();
          Start();
          continue;
        }
        EXPECT_LE(outcome.lost, 1) << log();
        EXPECT_TRUE(outcome.bystander || outcome.lost == 0) << log();
        losses += outcome.lost;
      }
      EXPECT_GT(n, 5) << "nothing was allocated";
      RecordProperty(
          absl::StrCat(transport, " ", request.substr(0, 4)),
          absl::StrCat(n - 1, " allocations, ", losses, " clients lost, ", ends, " workers ended"));
      std::printf("%s %s: %d allocations, %d clients lost, %d workers ended\n", transport,
                  request.substr(0, 7).c_str(), n - 1, losses, ends);
      if (running()) ExpectUnharmed();
    }
  }
}

TEST_F(MemoryFaults, F125_AFailedAllocationInADrainLosesNoWorkerWithoutAWord) {
  allowed_lines_per_second_ = 1000;
  for (int n = 1; n < 200; ++n) {
    SCOPED_TRACE(absl::StrCat("allocation ", n));
    Scenario scenario;
    scenario.options = "slow_exit_limit=2000";
    master_ = nullptr;
    Start(std::move(scenario));
    LineClient client = Connect();
    ASSERT_EQ(client.Ask("ECHO x"), "x");
    ASSERT_EQ(client.Ask(absl::StrCat("ALLOC ", n)), "armed");
    ASSERT_TRUE(master_->Reload().ok());
    const int code = WaitForEnd();
    EXPECT_TRUE(code == 0 || code == 1) << code << log();
    // The drained process goes on with the client, or has lost it.
    const std::string failed = client.Ask("ALLOCATED");
    EXPECT_TRUE(failed == "0" || failed == "1" || failed == "<closed>") << failed;
    client.Close();
    EXPECT_TRUE(master_->WaitUntil([&] { return master_->Survivors().empty(); }));
    for (const auto& [pid, status] : master_->strangers()) {
      const int end = ExitCode(status);
      EXPECT_TRUE(end == 0 || end == 1) << end << log();
    }
    ExpectQuietLog(allowed_lines_per_second_);
    if (failed == "0") {
      EXPECT_GT(n, 1);
      return;
    }
  }
  FAIL() << "the drain never came to its end";
}

// The start makes some thousand allocations; each that fails ends it with status 1 and a line, or
// does not matter.
TEST_F(MemoryFaults, F125_AFailedAllocationDuringTheStartIsAnOrderlyEnd) {
  std::vector<int> failing;
  int step = 1;
  for (int n = 1; n < 20000; n += step) {
    failing.push_back(n);
    // All of the first ones, then fewer and fewer.
    if (n > 10) step = static_cast<int>(Times(1 + n / 8, 1 + n / 200));
  }
  int ends = 0, starts = 0;
  // Some at a time, since each that ends pauses for a second before.
  for (size_t begin = 0; begin < failing.size(); begin += 20) {
    struct Case {
      int n;
      std::unique_ptr<FakeMaster> master;
      pid_t pid;
      LineClient client;
    };
    std::vector<Case> cases;
    for (size_t i = begin; i < std::min(begin + 20, failing.size()); ++i) {
      Scenario scenario;
      scenario.options = absl::StrCat("alloc=", failing[i]);
      Case one{failing[i], MakeMaster(std::move(scenario)), 0, LineClient()};
      one.pid = one.master->Spawn().value();
      one.client = LineClient(one.master->Connect().value());
      EXPECT_TRUE(one.client.Send("ECHO x\n"));
      cases.push_back(std::move(one));
    }
    for (Case& one : cases) {
      SCOPED_TRACE(absl::StrCat("allocation ", one.n));
      std::string answer = "<timeout>";
      EXPECT_TRUE(one.master->WaitUntil([&] {
        answer = one.client.ReadLine(absl::Milliseconds(1));
        return answer != "<timeout>" || !one.master->worker(one.pid).running;
      }));
      if (one.master->worker(one.pid).running) {
        // The client that came with the failure may be the one that it costs.
        EXPECT_TRUE(answer == "x" || answer == "<closed>") << answer;
        // Or the next one.
        const auto ask = [&] { return LineClient(one.master->Connect().value()).Ask("ECHO y"); };
        EXPECT_TRUE(ask() == "y" || ask() == "y") << one.master->Log();
        ++starts;
      } else {
        EXPECT_EQ(ExitCode(one.master->WaitForExit(one.pid)), 1) << one.master->Log();
        EXPECT_GE(Count(one.master->Log(), "fatal"), 1) << one.master->Log();
        ++ends;
      }
    }
  }
  std::printf("%d allocations of the start failed: %d orderly ends, %d went on\n", ends + starts,
              ends, starts);
  EXPECT_GT(ends, 5);
  EXPECT_GT(starts, 0);
}

// Each kind of callback throws each kind of thing; the process and everybody else go on.
TEST_F(MemoryFaults, F57_TenThousandExceptionsOfEveryKindFromEveryCallback) {
  Start();
  LineClient bystander = Connect();
  LineClient control = Connect();
  const int64_t rounds = Times(700, 2000);
  for (int64_t i = 0; i < rounds; ++i) {
    // From a service call: this client is ended.
    LineClient thrower = Connect();
    ASSERT_EQ(thrower.Ask(absl::StrCat("THROW ", i)), "<closed>") << log();
    // From a timer, and from each hook.
    ASSERT_EQ(control.Ask(absl::StrCat("BOMB ", i)), "set") << log();
    for (const char* hook : {"loop", "pre_accept", "post_accept", "pre_disconnect"}) {
      // One that throws leaves the listen socket alone for a while.
      if (std::string(hook) == "pre_accept" && i % 50 != 0) continue;
      ASSERT_EQ(control.Ask(absl::StrCat("THROWNEXT ", hook)), "armed") << log();
      LineClient victim = Connect();
      const std::string answer = victim.Ask("ECHO x");
      // The hook for new clients ends the new client.
      EXPECT_TRUE(answer == "x" || std::string(hook) == "post_accept") << hook << " " << answer;
    }
    if (i % 100 == 0) {
      ASSERT_EQ(bystander.Ask("ECHO there"), "there");
    }
  }
  EXPECT_EQ(bystander.Ask("ECHO there"), "there");
  control.Close();
  bystander.Close();
  ExpectUnharmed();
  EXPECT_EQ(Count(log(), "fatal"), 0) << log();
}

TEST_F(MemoryFaults, F126_ManyIdleClientsCostLittleMemoryAndNoTime) {
  const int64_t count = Times(2000, 18000);
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_max < static_cast<rlim_t>(count + 300)) {
    GTEST_SKIP() << "the descriptor limit is " << limit.rlim_max;
  }
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  Start();
  {
    std::vector<LineClient> clients;
    // The first ones make the process grow to its working size.
    for (int i = 0; i < 100; ++i) {
      clients.push_back(Connect());
      ASSERT_EQ(clients.back().Ask("ECHO x"), "x");
    }
    const int64_t before = PrivateMemory(pid_);
    for (int64_t i = 100; i < count; ++i) {
      clients.push_back(Connect());
      ASSERT_EQ(clients.back().Ask("ECHO x"), "x") << i;
    }
    const int64_t each = (PrivateMemory(pid_) - before) / (count - 100);
    RecordProperty("bytes_per_client", absl::StrCat(each));
    std::printf("%d clients, %d bytes each\n", static_cast<int>(count), static_cast<int>(each));
    EXPECT_LE(each, 8192);
    ExpectIdle();
    Latencies latencies;
    for (int i = 0; i < 200; ++i) {
      const absl::Time begin = absl::Now();
      LineClient client = Connect();
      ASSERT_EQ(client.Ask("ECHO x"), "x");
      latencies.Add(absl::Now() - begin);
    }
    EXPECT_LE(latencies.Percentile(99), Allow(absl::Milliseconds(20))) << latencies.ToString();
  }
  ExpectUnharmed();
}

}  // namespace
}  // namespace posthouse

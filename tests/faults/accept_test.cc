// The listen socket and errors of accept(2): F45, F46, F47, F49.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/faults/harness.h"

namespace posthouse {
namespace {

class AcceptFaults : public FaultTest {
 protected:
  int64_t Number(LineClient& client, absl::string_view question) {
    const std::string answer = client.Ask(question);
    int64_t number = -1;
    EXPECT_TRUE(absl::SimpleAtoi(answer.substr(0, answer.find(' ')), &number)) << answer;
    return number;
  }
};

TEST_F(AcceptFaults, F46_EveryErrorOnceTenTimesAndForAWhileThenAllAreServed) {
  Start();
  LineClient control = Connect();
  for (const int error :
       {ECONNABORTED, EPROTO, EPERM,  ENETDOWN, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN,
        ENOBUFS,      ENOMEM, EMFILE, ENFILE,   EINTR,        EAGAIN,      EOPNOTSUPP,
        ENOPROTOOPT,  ENONET, ENOSPC, EACCES,   ETIMEDOUT,    EFAULT,      /*unknown*/ 4095}) {
    for (const int times : {1, static_cast<int>(Times(4, 10))}) {
      SCOPED_TRACE(absl::StrCat("errno ", error, ", ", times, " times"));
      const std::string id = control.Ask(absl::StrCat("INJECT Accept4:", error, ":1:1:", times));
      std::vector<LineClient> clients;
      for (int i = 0; i < 3; ++i) clients.push_back(Connect());
      for (LineClient& client : clients) ASSERT_TRUE(client.Send("ECHO x\n"));
      for (LineClient& client : clients) ASSERT_EQ(client.ReadLine(), "x") << log();
      EXPECT_EQ(Number(control, "HITS " + id), times);
      ASSERT_EQ(control.Ask("CLEAR"), "clear");
    }
  }
  // The control client was there all the time.
  EXPECT_EQ(control.Ask("ECHO z"), "z");
  control.Close();
  ExpectUnharmed();
}

TEST_F(AcceptFaults, F46_AnErrorThatLastsCostsAtMostTwentyAttemptsASecond) {
  Start();
  for (const int error : {EMFILE, ENOMEM, ENOBUFS, 4095, ECONNABORTED, EPROTO}) {
    SCOPED_TRACE(error);
    LineClient control = Connect();
    const int64_t before = Number(control, "COUNT Accept4");
    const double cpu = CpuSeconds(pid_);
    const absl::Time begin = absl::Now();
    ASSERT_NE(control.Ask(absl::StrCat("INJECT Accept4:", error, ":1:1:0")), "");
    LineClient waiting = Connect();
    ASSERT_TRUE(waiting.Send("ECHO served\n"));
    while (absl::Now() - begin < absl::Seconds(Times(1, 5))) {
      // Present clients are served without delay.
      ASSERT_EQ(control.Ask("ECHO x", Allow(absl::Milliseconds(50))), "x");
      absl::SleepFor(absl::Milliseconds(20));
    }
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    const int64_t attempts = Number(control, "COUNT Accept4") - before;
    EXPECT_LE(static_cast<double>(attempts), 20 * seconds + 12);
    EXPECT_LE(CpuSeconds(pid_) - cpu, 0.3 * seconds);
    ASSERT_EQ(control.Ask("CLEAR"), "clear");
    // Within the longest pause.
    EXPECT_EQ(waiting.ReadLine(Allow(absl::Milliseconds(1100))), "served");
  }
  ExpectUnharmed();
}

TEST_F(AcceptFaults, F45_WithThreeDescriptorsLeftAllWaitingClientsAreServedInTheEnd) {
  for (const char* transport : {"unix", "inet"}) {
    SCOPED_TRACE(transport);
    Scenario scenario;
    scenario.transport = transport;
    master_ = nullptr;
    Start(std::move(scenario));
    LineClient witness = Connect();
    int fds = 0;
    ASSERT_EQ(sscanf(witness.Ask("STATE").c_str(), "fds=%d", &fds), 1);
    // Clients have numbers from 128 on; without room there they take the low ones.
    const rlimit limit = {static_cast<rlim_t>(fds + 3), static_cast<rlim_t>(fds + 3)};
    ASSERT_EQ(prlimit(pid_, RLIMIT_NOFILE, &limit, nullptr), 0);
    std::vector<LineClient> clients;
    // As many as the queue of the listen socket holds in the full form.
    for (int64_t i = 0; i < Times(40, 90); ++i) {
      clients.push_back(Connect());
      ASSERT_TRUE(clients.back().Send("ECHO x\n"));
    }
    ASSERT_TRUE(WaitForLog("open files"));
    const int64_t attempts = Number(witness, "COUNT Accept4");
    const absl::Time begin = absl::Now();
    EXPECT_TRUE(witness.IsQuiet(absl::Seconds(1)));
    EXPECT_LE(static_cast<double>(Number(witness, "COUNT Accept4") - attempts),
              20 * absl::ToDoubleSeconds(absl::Now() - begin) + 2);
    // Each one that leaves makes room for the next within a second.
    for (size_t i = 0; i < clients.size(); ++i) {
      EXPECT_EQ(clients[i].ReadLine(Allow(absl::Seconds(1))), "x") << i;
      clients[i].Close();
    }
    witness.Close();
    ExpectUnharmed();
  }
}

TEST_F(AcceptFaults, F47_SixteenIdleWorkersAndOneConnectionAfterAnother) {
  Start();
  std::vector<pid_t> workers = {pid_};
  for (int i = 1; i < 16; ++i) {
    const absl::StatusOr<pid_t> pid = master_->Spawn();
    ASSERT_TRUE(pid.ok());
    workers.push_back(*pid);
  }
  // Voluntary context switches count how often a process woke up.
  const auto wakeups = [&] {
    int64_t total = 0;
    for (const pid_t pid : workers) {
      const std::string status = ReadProcessFile(pid, "status");
      const size_t at = status.find("\nvoluntary_ctxt_switches:");
      if (at == std::string::npos) continue;
      int64_t number = 0;
      if (absl::SimpleAtoi(status.substr(status.find('\t', at) + 1,
                                         status.find('\n', at + 1) - status.find('\t', at) - 1),
                           &number)) {
        total += number;
      }
    }
    return total;
  };
  // All of them wait for events when nothing changes any more.
  int64_t before = -1;
  ASSERT_TRUE(WaitUntil([&] {
    const int64_t now = wakeups();
    absl::SleepFor(absl::Milliseconds(100));
    const bool quiet = now == wakeups();
    before = now;
    return quiet;
  }));
  const int64_t count = Times(2000, 100000);
  for (int64_t i = 0; i < count; ++i) {
    LineClient client = Connect();
    ASSERT_EQ(client.Ask("ECHO x"), "x") << i;
    if (i % 100 == 0) master_->Pump();
  }
  const double per_connection =
      static_cast<double>(wakeups() - before) / static_cast<double>(count);
  RecordProperty("wakeups_per_connection", absl::StrCat(per_connection));
  // The connection, its request and its end are three events; each wakes one process when it
  // comes by itself. What other workers wake up for has to stay below one.
  EXPECT_LE(per_connection, 4.0);
  ExpectUnharmed();
}

TEST_F(AcceptFaults, F47_AListenerWhoseFlagIsClearedFromOutsideBlocksNoWorker) {
  Start();
  ASSERT_TRUE(master_->Spawn().ok());
  ASSERT_TRUE(master_->Spawn().ok());
  LineClient witness = Connect();
  for (int64_t i = 0; i < Times(500, 20000); ++i) {
    const int flags = fcntl(master_->listen_fd(), F_GETFL);
    ASSERT_EQ(fcntl(master_->listen_fd(), F_SETFL, flags & ~O_NONBLOCK), 0);
    LineClient client = Connect();
    ASSERT_EQ(client.Ask("ECHO x"), "x");
  }
  // Whoever holds the witness is not stuck in accept.
  EXPECT_EQ(witness.Ask("ECHO y"), "y");
  witness.Close();
  // And neither are the others: they all hear the reload.
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_TRUE(master_->WaitUntil([&] { return master_->running().empty(); })) << log();
}

// Many attempts that fail do not keep the process alive, nor do they end one that has a client.
TEST_F(AcceptFaults, F49_FailingAcceptsDoNotMoveTheIdleDeadline) {
  Scenario scenario;
  scenario.options = "idle_limit=1500";
  scenario.transport = "inet";
  scenario.faults = absl::StrCat("Accept4:", ECONNABORTED, ":3:1:0");
  // The state is asked for by the first client; the second one below is the last that is accepted.
  Start(std::move(scenario));
  LineClient waiting;
  {
    LineClient client = Connect();
    ASSERT_EQ(client.Ask("ECHO x"), "x");
    // A silent client keeps it, for longer than the limit, while nobody gets in.
    waiting = Connect();
    EXPECT_TRUE(client.IsQuiet(absl::Milliseconds(2000)));
    ASSERT_TRUE(running());
    ASSERT_EQ(client.Ask("ECHO y"), "y");
  }
  const absl::Time left = absl::Now();
  while (running() && absl::Now() - left < absl::Seconds(20)) master_->Pump(absl::Milliseconds(5));
  const absl::Duration alive = absl::Now() - left;
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_GE(alive, absl::Milliseconds(1400));
  EXPECT_LE(alive, absl::Milliseconds(1500) + Allow(absl::Milliseconds(100)));
}

}  // namespace
}  // namespace posthouse

// How workers end and hand over: F48, F50, F51, F52, F53, F54, F55, F56.

#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
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

class LifeFaults : public FaultTest {
 protected:
  std::vector<LineClient> ConnectMany(int64_t count) {
    std::vector<LineClient> clients;
    for (int64_t i = 0; i < count; ++i) {
      clients.push_back(Connect());
      if (i % 50 == 49) {
        EXPECT_EQ(clients.back().Ask("ECHO x"), "x");
      }
    }
    return clients;
  }
  void Respawn() {
    const absl::StatusOr<pid_t> pid = master_->Spawn();
    ASSERT_TRUE(pid.ok());
    pid_ = *pid;
  }
};

TEST_F(LifeFaults, F48_AtAnyUseLimitAllClientsAreServedAndWorkersEndWithZero) {
  for (const int limit : {1, 2, 100}) {
    for (const int parallel : {1, 50, static_cast<int>(Times(80, 500))}) {
      SCOPED_TRACE(absl::StrCat("limit ", limit, ", ", parallel, " clients"));
      Scenario scenario;
      scenario.options = absl::StrCat("use_limit=", limit);
      master_ = MakeMaster(std::move(scenario));
      std::vector<pid_t> workers;
      const auto keep_one = [&] {
        if (!master_->running().empty()) return;
        const absl::StatusOr<pid_t> pid = master_->Spawn();
        ASSERT_TRUE(pid.ok());
        workers.push_back(*pid);
      };
      int served = 0;
      for (int begun = 0; begun < parallel;) {
        std::vector<LineClient> clients;
        for (; begun < parallel && clients.size() < 80; ++begun) clients.push_back(Connect());
        for (LineClient& client : clients) ASSERT_TRUE(client.Send("ECHO first\n"));
        for (LineClient& client : clients) {
          std::string answer = "<timeout>";
          for (int i = 0; i < 3000 && answer == "<timeout>"; ++i) {
            keep_one();
            master_->Pump();
            answer = client.ReadLine(absl::Milliseconds(10));
          }
          ASSERT_EQ(answer, "first") << log();
          EXPECT_EQ(client.Ask("ECHO second"), "second");
          client.Close();
          ++served;
        }
      }
      EXPECT_EQ(served, parallel);
      // The limit is exact where clients come one after another, else it is passed by those that
      // are connected when it is reached (S66): never more workers than the limit asks for.
      EXPECT_LE(static_cast<int>(workers.size()), (parallel + limit - 1) / limit + 1);
      for (const pid_t pid : workers) {
        if (pid == workers.back() && parallel < limit) continue;
        if (!master_->worker(pid).running) {
          EXPECT_EQ(ExitCode(master_->WaitForExit(pid)), 0) << log();
        }
      }
      EXPECT_EQ(Count(log(), "warning") + Count(log(), "fatal"), 0) << log();
    }
  }
}

TEST_F(LifeFaults, F50_ADrainKeepsDialoguesByteExactAndNewClientsAreServed) {
  Start();
  std::vector<LineClient> clients = ConnectMany(200);
  // Each in the middle of a request.
  for (size_t i = 0; i < clients.size(); ++i) {
    if (i % 50 == 49) continue;
    ASSERT_TRUE(clients[i].Send(absl::StrCat("ECHO hal")));
  }
  LineClient control = Connect();
  ASSERT_EQ(control.Ask("ECHO x"), "x");
  const pid_t old = pid_;
  const std::string answer = control.Ask("DRAIN");
  ASSERT_EQ(answer.substr(0, 8), "drained ") << answer;
  const absl::Time drained = absl::Now();
  EXPECT_EQ(ExitCode(master_->WaitForExit(old)), 0);
  Respawn();
  for (int64_t i = 0; i < Times(300, 1000); ++i) {
    LineClient fresh = Connect();
    ASSERT_EQ(fresh.Ask("ECHO new"), "new");
    if (i == 0) {
      EXPECT_LT(absl::Now() - drained, Allow(absl::Seconds(1)));
    }
  }
  // The drained process holds no listener; its number is occupied, so that it means nothing else.
  EXPECT_TRUE(absl::StrContains(control.Ask("FDS"), "|6=/dev/null|"));
  for (size_t i = 0; i < clients.size(); ++i) {
    if (i % 50 == 49) continue;
    ASSERT_EQ(clients[i].Ask(absl::StrCat("f ", i)), absl::StrCat("half ", i));
  }
  clients.clear();
  control.Close();
  EXPECT_TRUE(master_->WaitUntil([&] { return master_->strangers().size() == 1; }));
  EXPECT_EQ(ExitCode(master_->strangers().begin()->second), 0);
  EXPECT_EQ(Count(log(), "warning"), 0) << log();
}

// What a worker can bound by itself is the age of a draining process; their number follows from it
// and from the pace of reloads.
TEST_F(LifeFaults, F51_DrainingProcessesAreGoneAtTheirAge) {
  Scenario scenario;
  scenario.options = "slow_exit_limit=1500";
  Start(std::move(scenario));
  std::vector<LineClient> idle;
  std::map<pid_t, absl::Time> reloaded;
  size_t most = 0;
  for (int64_t i = 0; i < Times(40, 100); ++i) {
    idle.push_back(Connect());
    ASSERT_EQ(idle.back().Ask("ECHO x"), "x");
    ASSERT_TRUE(master_->Reload().ok());
    ASSERT_EQ(WaitForEnd(), 0);
    Respawn();
    ASSERT_EQ(Connect().Ask("ECHO x"), "x");
    most = std::max(most, master_->Survivors().size());
  }
  const absl::Time last = absl::Now();
  // All but the running worker.
  EXPECT_TRUE(master_->WaitUntil([&] { return master_->Survivors().size() == 1; }));
  EXPECT_LT(absl::Now() - last, absl::Milliseconds(1500) + Allow(absl::Milliseconds(500)));
  EXPECT_GT(most, 1u);
  for (LineClient& client : idle) EXPECT_TRUE(client.WaitClosed());
  for (const auto& [pid, status] : master_->strangers()) EXPECT_EQ(ExitCode(status), 0);
  allowed_lines_per_second_ = 50;  // one for each process that is cut off
}

TEST_F(LifeFaults, F52_EveryKindOfBlockedCallbackEndsAtTheLimit) {
  // 3 s is the lowest limit that the parameter takes.
  const std::vector<absl::Duration> limits =
      Full() ? std::vector<absl::Duration>{absl::Seconds(3), absl::Seconds(10)}
             : std::vector<absl::Duration>{absl::Seconds(3)};
  for (const absl::Duration limit : limits) {
    struct Case {
      std::string how;
      std::unique_ptr<FakeMaster> master;
      pid_t pid = 0;
      LineClient hung, witness;
      absl::Time asked;
    };
    std::vector<Case> cases;
    for (const char* how : {"spin", "pause", "read", "fault"}) {
      Case one;
      one.how = how;
      Scenario scenario;
      scenario.main_cf = absl::StrCat("daemon_timeout = ", absl::ToInt64Seconds(limit), "s\n");
      one.master = MakeMaster(std::move(scenario));
      one.pid = one.master->Spawn().value();
      one.hung = LineClient(one.master->Connect().value());
      one.witness = LineClient(one.master->Connect().value());
      EXPECT_EQ(one.witness.Ask("ECHO x"), "x");
      EXPECT_EQ(one.hung.Ask("ECHO x"), "x");
      one.asked = absl::Now();
      EXPECT_TRUE(one.hung.Send(absl::StrCat("HANG ", how, "\n")));
      cases.push_back(std::move(one));
    }
    for (Case& one : cases) {
      SCOPED_TRACE(one.how);
      EXPECT_EQ(ExitCode(one.master->WaitForExit(one.pid)), 1) << one.master->Log();
      const absl::Duration lived = absl::Now() - one.asked;
      EXPECT_GE(lived, limit);
      // The cases were begun and are looked at one after another.
      EXPECT_LE(lived, limit * 1.1 + Allow(absl::Milliseconds(300)));
      EXPECT_TRUE(one.hung.WaitClosed());
      EXPECT_TRUE(one.witness.WaitClosed());
      EXPECT_EQ(Count(one.master->Log(), "watchdog timeout"), 1) << one.master->Log();
      ASSERT_TRUE(one.master->Spawn().ok());
      EXPECT_EQ(LineClient(one.master->Connect().value()).Ask("ECHO next"), "next");
    }
  }
}

TEST_F(LifeFaults, F53_AStarvedProcessWithManyModerateCallbacksIsNotHung) {
  Scenario scenario;
  scenario.main_cf = "daemon_timeout = 3s\n";
  Start(std::move(scenario));
  // The worker and eight busy processes on one core.
  cpu_set_t allowed, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    CPU_SET(cpu, &one);
    break;
  }
  ASSERT_EQ(sched_setaffinity(pid_, sizeof(one), &one), 0);
  std::vector<pid_t> busy;
  for (int i = 0; i < 8; ++i) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      sched_setaffinity(0, sizeof(one), &one);
      volatile uint64_t turns = 0;
      for (;;) turns = turns + 1;
    }
    busy.push_back(pid);
  }
  LineClient client = Connect();
  const int64_t count = Times(80, 1000);
  std::string requests;
  for (int64_t i = 0; i < count; ++i) requests += "SLEEP 50\n";
  EXPECT_TRUE(client.Send(requests));
  for (int64_t i = 0; i < count; ++i) {
    if (client.ReadLine() != "slept") {
      ADD_FAILURE() << log();
      break;
    }
  }
  for (const pid_t pid : busy) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  client.Close();
  ExpectUnharmed();
  EXPECT_EQ(Count(log(), "watchdog"), 0) << log();
}

TEST_F(LifeFaults, F54_WhateverTheExitHookDoesTheProcessEndsInFiveSeconds) {
  std::vector<std::pair<std::unique_ptr<FakeMaster>, pid_t>> cases;
  for (const char* how : {"exit_spins", "exit_waits", "exit_sleeps"}) {
    Scenario scenario;
    scenario.options = how;
    std::unique_ptr<FakeMaster> master = MakeMaster(std::move(scenario));
    const pid_t pid = master->Spawn().value();
    LineClient client(master->Connect().value());
    EXPECT_EQ(client.Ask("EXIT"), "exiting");
    cases.emplace_back(std::move(master), pid);
  }
  const absl::Time begin = absl::Now();
  for (auto& [master, pid] : cases) {
    EXPECT_EQ(ExitCode(master->WaitForExit(pid)), 1) << master->Log();
    EXPECT_LE(absl::Now() - begin, absl::Seconds(5) + Allow(absl::Milliseconds(100)));
    EXPECT_EQ(Count(master->Log(), "watchdog timeout"), 1) << master->Log();
  }
}

TEST_F(LifeFaults, F54_ALogThatTakesNothingDoesNotHoldUpTheEnd) {
  Start();
  LineClient client = Connect();
  ASSERT_EQ(client.Ask("ECHO x"), "x");
  // The log's socket is replaced by one that nobody reads, and it is full.
  const std::string path = master_->queue_directory() + "/public/postlog";
  ASSERT_EQ(unlink(path.c_str()), 0);
  UniqueFd deaf(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(deaf.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  // What was connected stays so until it fails; a new worker connects to the deaf one.
  const pid_t second = master_->Spawn().value();
  kill(pid_, SIGTERM);
  EXPECT_TRUE(client.WaitClosed());
  EXPECT_EQ(WaitForEnd(), 0);
  client = Connect();
  ASSERT_EQ(client.Ask("LOG 1000"), "logged");
  ASSERT_EQ(client.Ask("EXIT"), "exiting");
  const absl::Time begin = absl::Now();
  EXPECT_EQ(ExitCode(master_->WaitForExit(second)), 0);
  EXPECT_LE(absl::Now() - begin, absl::Seconds(5));
}

TEST_F(LifeFaults, F55_AKilledMasterCutsNoneOfTwoHundredDialogues) {
  Scenario scenario;
  scenario.options = "slow_exit_limit=5000";
  Start(std::move(scenario));
  const std::string address = master_->address();
  std::vector<LineClient> clients = ConnectMany(200);
  for (size_t i = 0; i < clients.size(); ++i) {
    if (i % 50 != 49) {
      ASSERT_TRUE(clients[i].Send("ECHO hal"));
    }
  }
  ASSERT_EQ(Connect().Ask("ECHO x"), "x");
  const absl::Time gone = absl::Now();
  master_->Vanish();
  // Nobody listens any more within a second.
  sockaddr_un local = {};
  local.sun_family = AF_UNIX;
  address.copy(local.sun_path, sizeof(local.sun_path) - 1);
  const auto refused = [&] {
    UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return connect(probe.get(), reinterpret_cast<sockaddr*>(&local), sizeof(local)) != 0 &&
           errno == ECONNREFUSED;
  };
  EXPECT_TRUE(WaitUntil(refused));
  EXPECT_LT(absl::Now() - gone, Allow(absl::Seconds(1)));
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < clients.size(); ++i) {
      const std::string expected = round == 0 && i % 50 != 49 ? "half" : "whole";
      ASSERT_EQ(clients[i].Ask(round == 0 && i % 50 != 49 ? "f" : "ECHO whole"), expected);
    }
  }
  clients.clear();
  EXPECT_TRUE(master_->WaitUntil([&] { return master_->Survivors().empty(); }));
  EXPECT_EQ(WaitForEnd(), 0);
  for (const auto& [pid, status] : master_->strangers()) EXPECT_EQ(ExitCode(status), 0);
}

TEST_F(LifeFaults, F56_TwentyReloadsCutNoneOfManyClients) {
  Scenario scenario;
  scenario.options = "slow_exit_limit=60000";
  Start(std::move(scenario));
  const int64_t count = Times(200, 1000);
  std::vector<LineClient> clients;
  const auto talk = [&](const std::string& word) {
    for (size_t i = 0; i < clients.size(); ++i) {
      if (i % 3 == 0) continue;                                     // idle
      if (i % 3 == 2 && !clients[i].Send("ECHO sl")) return false;  // slow
      if (i % 3 == 1 && clients[i].Ask("ECHO " + word) != word) return false;
    }
    return true;
  };
  for (int reload = 0; reload < 20; ++reload) {
    for (int64_t i = 0; i < count / 20; ++i) {
      clients.push_back(Connect());
      ASSERT_EQ(clients.back().Ask("ECHO x"), "x");
    }
    ASSERT_TRUE(talk(absl::StrCat("before ", reload))) << log();
    ASSERT_TRUE(master_->Reload().ok());
    Respawn();
    for (size_t i = 2; i < clients.size(); i += 3) ASSERT_EQ(clients[i].Ask("ow"), "slow");
    ASSERT_TRUE(talk(absl::StrCat("after ", reload))) << log();
    for (size_t i = 2; i < clients.size(); i += 3) ASSERT_EQ(clients[i].Ask("ow"), "slow");
  }
  for (LineClient& client : clients) ASSERT_EQ(client.Ask("ECHO end"), "end");
  clients.clear();
  EXPECT_TRUE(master_->WaitUntil([&] { return master_->Survivors().size() == 1; }));
  for (const auto& [pid, status] : master_->strangers()) EXPECT_EQ(ExitCode(status), 0);
}

}  // namespace
}  // namespace posthouse

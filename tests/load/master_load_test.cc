// A master that reloads, and one whose workers are killed, under load (F80, F101, M107, M111): no
// client is refused, reset or left without an answer, but those in the hands of killed workers; and
// the master is afterwards what it was before.
//
// The short form makes 100,000 requests; with POSTHOUSE_FULL it is a million.

#include <signal.h>
#include <stdlib.h>

#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/conformance/conformance_test.h"
#include "tests/conformance/master_program.h"
#include "tests/load/load.h"

namespace posthouse::conformance {
namespace {

constexpr int kFewestKills = 50;
constexpr char kProgram[] = "load_service";
// What an allocator may keep.
constexpr int64_t kResidentSlackKb = 2048;

struct MasterState {
  std::map<std::string, int> descriptors;  // how many of each kind
  int64_t resident_kb = 0;
};

// "socket" of "socket:[4711]"; a path stays as it is.
std::map<std::string, int> DescriptorsOf(pid_t pid) {
  std::map<std::string, int> kinds;
  if (const absl::optional<ProcessInfo> info = InspectProcess(pid); info) {
    for (const auto& [fd, target] : info->descriptors) ++kinds[target.substr(0, target.find(":["))];
  }
  return kinds;
}

class MasterLoad : public ConformanceTest, public testing::WithParamInterface<MasterProgram> {
 protected:
  void SetUp() override {
    ConformanceTest::SetUp();
    if (instance_ == nullptr) return;
    Install(kProgram, "tests/load/load_service");
    instance_->LeaveOnlyPostlog();
    port_ = FreePort();
    instance_->SetService("load unix - - n - 20 load_service");
    instance_->SetService(absl::StrCat("127.0.0.1:", port_, " inet n - n - 20 load_service"));
    // Services that nobody asks are part of every reload.
    for (int i = 0; i < 20; ++i) {
      instance_->SetService(absl::StrCat("idle", i, " unix - - n - - load_service"));
    }
    Start();
  }
  StockInstanceOptions Options() const override { return {.master_program = GetParam().path}; }

  std::vector<LoadEndpoint> Endpoints() const {
    return {{.path = instance_->private_socket("load")}, {.port = port_}};
  }

  std::vector<pid_t> Workers() const {
    std::vector<pid_t> workers;
    for (const pid_t pid : ChildrenOf(instance_->MasterPid())) {
      const absl::optional<ProcessInfo> info = InspectProcess(pid);
      if (info && info->program() == kProgram) workers.push_back(pid);
    }
    return workers;
  }

  // With nobody at work: a reload makes every idle worker leave, and what is left of the children
  // is at most postlogd, once. Both masters announce a reload before they do it, and while they do
  // it they have files and sockets open for a moment.
  MasterState Rest() {
    const size_t mark = instance_->LogMark();
    Reload();
    if (!GetParam().stock()) {
      EXPECT_EQ(instance_->WaitForLog("reload finished", absl::Seconds(60), mark).status(),
                absl::OkStatus());
    }
    const pid_t master = instance_->MasterPid();
    std::string children;
    EXPECT_TRUE(Eventually(absl::Seconds(60), [&] {
      children.clear();
      for (const pid_t pid : ChildrenOf(master)) {
        const absl::optional<ProcessInfo> child = InspectProcess(pid);
        absl::StrAppend(&children, child ? child->program() : "a zombie", " ");
      }
      return children.empty() || children == "postlogd ";
    })) << children;
    MasterState state;
    EXPECT_TRUE(Eventually(absl::Seconds(60), [&] {
      state.descriptors = DescriptorsOf(master);
      return Throughout(absl::Milliseconds(500),
                        [&] { return DescriptorsOf(master) == state.descriptors; });
    }));
    const absl::optional<ProcessInfo> info = InspectProcess(master);
    if (!info) return state;
    if (!absl::SimpleAtoi(absl::StripSuffix(info->status.at("VmRSS"), " kB"), &state.resident_kb)) {
      ADD_FAILURE() << info->status.at("VmRSS");
    }
    return state;
  }
  static void ExpectUnchanged(const MasterState& before, const MasterState& after) {
    EXPECT_EQ(after.descriptors, before.descriptors);
    // AddressSanitizer keeps what has been freed.
    if (getenv("ASAN_OPTIONS") == nullptr) {
      EXPECT_LE(after.resident_kb, before.resident_kb + kResidentSlackKb);
    }
  }

  size_t Reloads() const {
    return instance_->LogLines("master\\[[0-9]+\\]: reload -- version").size();
  }

  static int64_t Requests() { return Full() ? 1000000 : 100000; }
  static absl::Duration ReloadPeriod() { return absl::Seconds(Full() ? 1 : 0.5); }

  // Requests until there were enough, with a reload each period and, if `killed` is there, a random
  // worker killed each 50 ms.
  LoadResult Run(KilledClients* killed, int* kills) {
    Load load(Endpoints(), {}, killed);
    absl::BitGen random;
    absl::Time next_reload = absl::Now();
    const absl::Time end = absl::Now() + absl::Minutes(Full() ? 60 : 5);
    while (load.answered() < Requests() || Reloads() < 22 ||
           (killed != nullptr && *kills <= kFewestKills)) {
      if (absl::Now() > end) {
        ADD_FAILURE() << load.answered() << " requests are all";
        break;
      }
      if (absl::Now() >= next_reload) {
        kill(instance_->MasterPid(), SIGHUP);
        next_reload += ReloadPeriod();
      }
      if (killed != nullptr) {
        const std::vector<pid_t> workers = Workers();
        if (!workers.empty()) {
          *kills += killed->Kill(workers[absl::Uniform<size_t>(random, 0, workers.size())]);
        }
      }
      absl::SleepFor(absl::Milliseconds(50));
    }
    return load.Finish();
  }

  int port_ = 0;
};

TEST_P(MasterLoad, F101_NoRequestIsLostByReloads) {
  const MasterState before = Rest();
  const pid_t master = instance_->MasterPid();
  const size_t reloads_before = Reloads();
  const absl::Time start = absl::Now();
  const LoadResult result = Run(nullptr, nullptr);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::cout << result.answered << " answered in " << seconds << " s with "
            << Reloads() - reloads_before << " reloads, the longest took " << result.longest << "; "
            << result.ended << " long connections ended between answers\n";
  EXPECT_EQ(result.lost, std::vector<std::string>());
  EXPECT_GE(result.answered, Requests());
  EXPECT_GE(Reloads() - reloads_before, 20u);
  EXPECT_EQ(instance_->MasterPid(), master);
  ExpectUnchanged(before, Rest());
}

TEST_P(MasterLoad, F80_OnlyRequestsInTheHandsOfKilledWorkersFail) {
  if (GetParam().stock()) {
    // It pauses a service whose fresh worker is killed.
    instance_->SetParameter("service_throttle_time", "1s");
    Expect("load_service: bad command startup -- throttling$");
  } else {
    Expect("load_service is killed again and again; the next start is in [0-9.]+m?s$");
  }
  Expect("master\\[[0-9]+\\]: warning: process [^ ]*/load_service pid [0-9]+ killed by signal 9$");
  const MasterState before = Rest();
  const pid_t master = instance_->MasterPid();
  KilledClients killed;
  int kills = 0;
  const absl::Time start = absl::Now();
  const LoadResult result = Run(&killed, &kills);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::cout << result.answered << " answered in " << seconds << " s, the longest took "
            << result.longest << "; " << kills << " workers killed, " << result.killed
            << " requests in their hands; " << result.ended
            << " long connections ended between answers\n";
  EXPECT_EQ(result.lost, std::vector<std::string>());
  EXPECT_GE(result.answered, Requests());
  EXPECT_GT(kills, kFewestKills);
  EXPECT_EQ(instance_->MasterPid(), master);
  ExpectUnchanged(before, Rest());
}

// The test of the tests: a worker that dies without being noted is a loss.
TEST_P(MasterLoad, ARequestInTheHandsOfAWorkerThatWasNotNotedIsLost) {
  instance_->SetParameter("service_throttle_time", "1s");
  Reload();
  Expect("load_service: bad command startup -- throttling$");
  Expect("load_service is killed again and again; the next start is in [0-9.]+m?s$");
  Expect("master\\[[0-9]+\\]: warning: process [^ ]*/load_service pid [0-9]+ killed by signal 9$");
  KilledClients nobody;
  Load load(Endpoints(), {}, &nobody);
  EXPECT_TRUE(Eventually(absl::Seconds(60), [&] {
    for (const pid_t worker : Workers()) kill(worker, SIGKILL);
    absl::SleepFor(absl::Milliseconds(50));
    return load.lost() > 0;
  }));
  const LoadResult result = load.Finish();
  EXPECT_NE(result.lost, std::vector<std::string>());
  EXPECT_EQ(result.killed, 0);
}

INSTANTIATE_TEST_SUITE_P(Masters, MasterLoad, testing::ValuesIn(MasterPrograms()), MasterName());

}  // namespace
}  // namespace posthouse::conformance

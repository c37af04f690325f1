// F72: "a persistent offender is ended"; who that is. Costs and times as they were measured: a
// stock anvil that serves 50 clients as fast as it can, and a process that only writes messages.

#include "posthouse/master/flood_watch.h"

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/optional.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/master/status_framer.h"

namespace posthouse {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kSecond = 1000 * kMillisecond;
constexpr pid_t kServer = 100, kFlooder = 200;

class FloodWatchTest : public ::testing::Test {
 protected:
  FloodWatchTest() { watch_.Judge(now_ns_, Cpu()); }

  // Of one second: what the process has used, and what its messages cost.
  void Use(pid_t pid, int64_t cpu_ms, int64_t cost_ms, ServiceId service = 1) {
    cpu_ns_[pid] += cpu_ms * kMillisecond;
    const StatusWriter writers[] = {{pid, 512}};
    watch_.Add(service, writers, cost_ms * kMillisecond);
  }
  std::vector<pid_t> Second() {
    now_ns_ += kSecond;
    EXPECT_TRUE(watch_.IsDue(now_ns_));
    std::vector<pid_t> pids;
    for (const FloodWatch::Flooder& flooder : watch_.Judge(now_ns_, Cpu())) {
      pids.push_back(flooder.pid);
      services_[flooder.pid] = flooder.service;
    }
    return pids;
  }

  FloodWatch watch_;
  int64_t now_ns_ = 1000 * kSecond;
  std::map<pid_t, int64_t> cpu_ns_;
  std::map<pid_t, ServiceId> services_;
  int asked_ = 0;

 private:
  absl::FunctionRef<absl::optional<int64_t>(pid_t)> Cpu() { return cpu_time_of_; }
  const std::function<absl::optional<int64_t>(pid_t)> cpu_time_of_ =
      [this](pid_t pid) -> absl::optional<int64_t> {
    ++asked_;
    const auto found = cpu_ns_.find(pid);
    if (found == cpu_ns_.end()) return absl::nullopt;
    return found->second;
  };
};

TEST_F(FloodWatchTest, OnlyWhoDoesNothingElseIsAFlooder) {
  Use(kFlooder, 600, 360, 7), Use(kServer, 950, 150, 8);
  EXPECT_THAT(Second(), IsEmpty());  // from here on their times are known
  for (int second = 1; second < kFloodJudgements; ++second) {
    Use(kFlooder, 600, 360, 7), Use(kServer, 950, 150, 8);
    EXPECT_THAT(Second(), IsEmpty()) << second;
  }
  Use(kFlooder, 600, 360, 7), Use(kServer, 950, 150, 8);
  EXPECT_THAT(Second(), ElementsAre(kFlooder));
  EXPECT_EQ(services_[kFlooder], 7);
}

// A slow machine, a busy one, one flooder among many.
TEST_F(FloodWatchTest, HowMuchItIsMakesNoDifference) {
  for (int second = 0; second <= kFloodJudgements; ++second) {
    for (pid_t pid = 1; pid <= 10; ++pid) Use(pid, 90, 60), Use(10 + pid, 450, 70);
    const std::vector<pid_t> flooders = Second();
    if (second < kFloodJudgements) {
      EXPECT_THAT(flooders, IsEmpty());
    } else {
      EXPECT_THAT(flooders, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
    }
  }
}

TEST_F(FloodWatchTest, ACalmSecondBeginsAnew) {
  for (int round = 0; round < 3; ++round) {
    for (int second = 0; second < kFloodJudgements; ++second) {
      Use(kFlooder, 600, 360);
      EXPECT_THAT(Second(), IsEmpty());
    }
    Use(kFlooder, 600, 60);
    EXPECT_THAT(Second(), IsEmpty());
    Second();  // and is not known any more after one without a word
  }
}

TEST_F(FloodWatchTest, WhoGoesOnIsNamedAgain) {
  int named = 0;
  for (int second = 0; second <= 3 * kFloodJudgements; ++second) {
    Use(kFlooder, 600, 360);
    named += static_cast<int>(Second().size());
  }
  EXPECT_EQ(named, 3);
}

// A machine so busy that a flood gets little of it: as many judgements, but further apart.
TEST_F(FloodWatchTest, AFloodThatLacksTheProcessorIsFoundLater) {
  int seconds = 0;
  while (seconds < 100) {
    Use(kFlooder, 40, 25), Use(kServer, 40, 8);
    const std::vector<pid_t> flooders = Second();
    if (flooders.empty()) {
      ++seconds;
      continue;
    }
    EXPECT_THAT(flooders, ElementsAre(kFlooder));
    break;
  }
  EXPECT_GE(seconds, 2 * kFloodJudgements);
  EXPECT_LE(seconds, 3 * kFloodJudgements);
}

TEST_F(FloodWatchTest, WhatCostsNextToNothingIsNotLookedAt) {
  for (int second = 0; second <= 2 * kFloodJudgements; ++second) {
    Use(kFlooder, 14, 9);
    EXPECT_THAT(Second(), IsEmpty());
  }
  EXPECT_EQ(asked_, 0);
}

TEST_F(FloodWatchTest, AReadingIsSharedAmongItsWriters) {
  for (int second = 0; second <= kFloodJudgements; ++second) {
    cpu_ns_[kFlooder] += 300 * kMillisecond;
    cpu_ns_[kServer] += 300 * kMillisecond;
    const StatusWriter writers[] = {{kFlooder, 300}, {kServer, 100}, {0, 40}, {kFlooder, 60}};
    watch_.Add(1, writers, 250 * kMillisecond);
    const std::vector<pid_t> flooders = Second();
    if (second == kFloodJudgements) {
      EXPECT_THAT(flooders, ElementsAre(kFlooder));
    }
  }
}

TEST_F(FloodWatchTest, WhoseTimeNobodyKnowsAndWhoIsDeadIsNone) {
  for (int second = 0; second <= 2 * kFloodJudgements; ++second) {
    const StatusWriter writers[] = {{4711, 512}};
    watch_.Add(1, writers, 360 * kMillisecond);
    Use(kFlooder, 600, 360);
    watch_.Forget(kFlooder);
    EXPECT_THAT(Second(), IsEmpty());
  }
}

TEST_F(FloodWatchTest, MemoryIsBounded) {
  for (pid_t pid = 1; pid <= 100000; ++pid) {
    const StatusWriter writers[] = {{pid, 1}};
    watch_.Add(1, writers, kMillisecond);
  }
  now_ns_ += kSecond / 100;  // each is above the least share
  watch_.Judge(now_ns_, [this](pid_t) -> absl::optional<int64_t> {
    ++asked_;
    return 1;
  });
  EXPECT_EQ(asked_, static_cast<int>(FloodWatch::kMaxWriters));
}

TEST_F(FloodWatchTest, NothingIsNothing) {
  watch_.Add(1, {}, kSecond);
  EXPECT_FALSE(watch_.IsDue(now_ns_ + kSecond - 1));
  EXPECT_THAT(Second(), IsEmpty());
}

}  // namespace
}  // namespace posthouse

// The wheel against a reference model: a std::set ordered as the contract says.

#include "posthouse/event/timer_queue.h"

#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "posthouse/event/handler_meter.h"

namespace posthouse {
namespace {

constexpr int64_t kMs = 1000000;
constexpr int64_t kSecond = 1000 * kMs;
constexpr int64_t kStart = 1234567 * kSecond + 89;

struct Job {
  TimerNode node;
  int id = 0;
  std::vector<int>* order = nullptr;
  std::function<void(Job*)> then;

  static void Run(int event, void* context) {
    auto* job = static_cast<Job*>(context);
    EXPECT_EQ(event, kEventTime);
    EXPECT_FALSE(job->node.pending());  // E42
    job->order->push_back(job->id);
    if (job->then) {
      const auto then = job->then;
      then(job);
    }
  }
};

class TimerQueueTest : public testing::Test {
 protected:
  ~TimerQueueTest() override {
    for (auto& job : jobs_) {
      if (job->node.pending()) queue_.Cancel(&job->node);
    }
  }

  Job* Make() {
    jobs_.push_back(std::make_unique<Job>());
    Job* job = jobs_.back().get();
    job->id = static_cast<int>(jobs_.size()) - 1;
    job->order = &order_;
    job->node.handler = &Job::Run;
    job->node.context = job;
    return job;
  }
  Job* Make(int64_t deadline) {
    Job* job = Make();
    queue_.Request(&job->node, deadline);
    return job;
  }
  void Run(int64_t now, int max = 1 << 30) { queue_.RunDue(now, max, &meter_); }

  HandlerMeter meter_;
  TimerQueue queue_{kStart};
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<int> order_;
};

TEST_F(TimerQueueTest, E38_EqualDeadlinesRunInOrderOfRequestAndARepeatedRequestIsANewOne) {
  const int64_t at = kStart + 70 * kMs;
  Job* a = Make(at);
  Make(at);
  Make(at);
  queue_.Request(&a->node, at);
  Run(at - 1);
  EXPECT_TRUE(order_.empty());
  Run(at);
  EXPECT_EQ(order_, (std::vector<int>{1, 2, 0}));
}

TEST_F(TimerQueueTest, E37_NoTimerRunsBeforeItsNanosecond) {
  for (int64_t delay : {int64_t{1}, int64_t{999}, kMs - 1, kMs, kMs + 1, 64 * kMs, 65 * kMs,
                        kSecond, 4096 * kMs, 3600 * kSecond, 86400 * 365 * kSecond}) {
    order_.clear();
    TimerQueue queue(kStart);
    Job job;
    job.order = &order_;
    job.node.handler = &Job::Run;
    job.node.context = &job;
    queue.Request(&job.node, kStart + delay);
    EXPECT_EQ(queue.NextDeadline(), kStart + delay);
    queue.RunDue(kStart + delay - 1, 100, &meter_);
    EXPECT_TRUE(order_.empty()) << delay;
    queue.RunDue(kStart + delay, 100, &meter_);
    EXPECT_EQ(order_.size(), 1u) << delay;
    EXPECT_EQ(queue.NextDeadline(), TimerQueue::kNever);
  }
}

TEST_F(TimerQueueTest, E39_WhatAHandlerRequestsWaitsForTheNextRun) {
  Job* again = Make(kStart);
  again->then = [this](Job* self) { queue_.Request(&self->node, 0); };
  Run(kStart + kSecond);
  EXPECT_EQ(order_.size(), 1u);
  EXPECT_LE(queue_.NextDeadline(), kStart + kSecond);
  Run(kStart + kSecond);
  EXPECT_EQ(order_.size(), 2u);
}

TEST_F(TimerQueueTest, E40_RequestedAgainFromAHandlerADueTimerIsPostponed) {
  Job* first = Make(kStart + 1);
  Job* second = Make(kStart + 2);
  Job* third = Make(kStart + 3);
  first->then = [&](Job*) {
    queue_.Request(&second->node, kStart + 2);
    queue_.Cancel(&third->node);
  };
  Run(kStart + kSecond);
  EXPECT_EQ(order_, std::vector<int>{0});
  EXPECT_FALSE(third->node.pending());
  Run(kStart + kSecond);
  EXPECT_EQ(order_, (std::vector<int>{0, 1}));
}

TEST_F(TimerQueueTest, EO23_ACutRunGoesOnInOrder) {
  for (int i = 0; i < 100; ++i) Make(kStart + (100 - i) * 100000);
  Run(kStart + kSecond, 30);
  EXPECT_EQ(order_.size(), 30u);
  EXPECT_LE(queue_.NextDeadline(), kStart + kSecond);
  // Requests between the runs take their places.
  Job* early = Make(kStart - 5);
  Job* equal = Make(jobs_[50]->node.deadline);
  Run(kStart + kSecond, 41);
  Run(kStart + kSecond);
  std::vector<int> expected;
  for (int i = 99; i >= 70; --i) expected.push_back(i);
  expected.push_back(early->id);
  for (int i = 69; i >= 50; --i) expected.push_back(i);
  expected.push_back(equal->id);
  for (int i = 49; i >= 0; --i) expected.push_back(i);
  EXPECT_EQ(order_, expected);
}

TEST_F(TimerQueueTest, EO23_ATimerMovedBetweenCutRunsKeepsTheOrderExact) {
  for (int i = 0; i < 10; ++i) Make(kStart + kMs);
  Run(kStart + kSecond, 3);
  queue_.Request(&jobs_[4]->node, kStart + kMs);  // the same moment, a later request
  Run(kStart + kSecond);
  EXPECT_EQ(order_, (std::vector<int>{0, 1, 2, 3, 5, 6, 7, 8, 9, 4}));
}

TEST_F(TimerQueueTest, EO13_AnExceptionLeavesTheOtherTimersPending) {
  Make(kStart + 1)->then = [](Job*) { throw std::runtime_error("from a handler"); };
  Make(kStart + 2);
  Job* third = Make(kStart + 3);
  third->then = [this](Job* self) { queue_.Request(&self->node, kStart); };
  EXPECT_THROW(Run(kStart + kSecond), std::runtime_error);
  EXPECT_EQ(queue_.pending(), 2);
  Run(kStart + kSecond);
  EXPECT_EQ(order_, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(queue_.pending(), 1);
}

TEST_F(TimerQueueTest, F18_DeadlinesUpToTheEndOfTimeAreKept) {
  Make(TimerQueue::kNever - 1);
  Make(TimerQueue::kNever);
  Make(kStart + (int64_t{1} << 31) * kSecond);
  Run(kStart + (int64_t{1} << 31) * kSecond - 1);
  EXPECT_TRUE(order_.empty());
  Run(kStart + (int64_t{1} << 31) * kSecond);
  EXPECT_EQ(order_, std::vector<int>{2});
  Run(TimerQueue::kNever - 1);
  EXPECT_EQ(order_, (std::vector<int>{2, 0}));
  Run(TimerQueue::kNever);
  EXPECT_EQ(order_, (std::vector<int>{2, 0, 1}));
}

TEST_F(TimerQueueTest, F20_TenThousandDueTimersCancelOthersAtRandom) {
  constexpr int kTimers = 10000;
  std::mt19937 random(20);
  std::vector<bool> cancelled(kTimers, false);
  for (int i = 0; i < kTimers; ++i) {
    Make(kStart + static_cast<int64_t>(random() % (5 * kSecond)))->then = [&](Job*) {
      for (int k = 0; k < 3; ++k) {
        Job* other = jobs_[random() % kTimers].get();
        if (!other->node.pending()) continue;
        queue_.Cancel(&other->node);
        cancelled[other->id] = true;
      }
    };
  }
  Run(kStart + 10 * kSecond);
  EXPECT_EQ(queue_.pending(), 0);
  for (int id : order_) EXPECT_FALSE(cancelled[id]) << id;
  EXPECT_GT(order_.size(), 1000u);
}

// The model. A run takes what is due and was requested before it, in order.
class Model {
 public:
  using Key = std::tuple<int64_t, uint64_t, int>;

  void Request(int id, int64_t deadline) {
    Cancel(id);
    if (id >= static_cast<int>(keys_.size())) keys_.resize(id + 1);
    keys_[id] = std::make_tuple(std::max<int64_t>(deadline, 0), ++requests_, id);
    pending_.insert(keys_[id]);
  }
  bool Cancel(int id) {
    return id < static_cast<int>(keys_.size()) && pending_.erase(keys_[id]) > 0;
  }
  // The next to run, or -1.
  int Take(int64_t now, uint64_t limit) {
    for (const Key& key : pending_) {
      if (std::get<0>(key) > now) return -1;
      if (std::get<1>(key) > limit) continue;
      const int id = std::get<2>(key);
      pending_.erase(key);
      return id;
    }
    return -1;
  }
  uint64_t requests() const { return requests_; }
  int64_t first() const {
    return pending_.empty() ? TimerQueue::kNever : std::get<0>(*pending_.begin());
  }
  size_t size() const { return pending_.size(); }

 private:
  std::set<Key> pending_;
  std::vector<Key> keys_;
  uint64_t requests_ = 0;
};

class TimerQueueModelTest : public testing::TestWithParam<int> {};

// E38, E39, E40, F20: random requests, cancels and runs, cut short or not, with random requests and
// cancels from inside the handlers; the queue and the model do the same at every step.
TEST_P(TimerQueueModelTest, RunsExactlyAsTheModel) {
  std::mt19937_64 random(GetParam());
  HandlerMeter meter;
  int64_t now = GetParam() % 2 == 0 ? kStart : 0;
  TimerQueue queue(now);
  Model model;
  constexpr int kTimers = 300;
  std::vector<Job> jobs(kTimers);
  std::vector<int> order;
  uint64_t limit = 0;
  bool failed = false;

  const auto delay = [&]() -> int64_t {
    static constexpr int64_t kScales[] = {
        1, 1000, kMs, 60 * kMs, kSecond, 70 * kSecond, 100000 * kSecond};
    if (random() % 8 == 0) return 0;
    if (random() % 16 == 0) return -static_cast<int64_t>(random() % kSecond);
    // Round numbers make equal deadlines likely.
    return kScales[random() % 7] * static_cast<int64_t>(random() % 5);
  };
  const auto change = [&] {
    const int id = static_cast<int>(random() % kTimers);
    if (random() % 4 == 0) {
      const bool pending = jobs[id].node.pending();
      if (pending) queue.Cancel(&jobs[id].node);
      ASSERT_EQ(model.Cancel(id), pending);
    } else {
      const int64_t deadline = now + delay();
      queue.Request(&jobs[id].node, deadline);
      model.Request(id, deadline);
    }
  };
  for (int i = 0; i < kTimers; ++i) {
    jobs[i].id = i;
    jobs[i].order = &order;
    jobs[i].node.handler = &Job::Run;
    jobs[i].node.context = &jobs[i];
    jobs[i].then = [&](Job* job) {
      failed = failed || model.Take(now, limit) != job->id;
      while (random() % 2 == 0) change();
    };
  }
  const int steps = ::getenv("POSTHOUSE_FULL") != nullptr ? 20000 : 800;
  for (int step = 0; step < steps && !failed; ++step) {
    for (int i = static_cast<int>(random() % 20); i > 0; --i) change();
    // Never later than the truth; and looking there makes progress.
    ASSERT_LE(queue.NextDeadline(), model.first());
    now += std::max<int64_t>(delay(), 0);
    limit = model.requests();
    const int max = random() % 3 == 0 ? static_cast<int>(random() % 10) + 1 : 1 << 30;
    const size_t before = order.size();
    queue.RunDue(now, max, &meter);
    ASSERT_FALSE(failed) << "out of order in step " << step;
    const bool cut = order.size() - before == static_cast<size_t>(max);
    if (!cut) {
      ASSERT_EQ(model.Take(now, limit), -1) << "missed one in step " << step;
    }
    ASSERT_EQ(queue.pending(), static_cast<int64_t>(model.size()));
  }
  EXPECT_GT(order.size(), 500u);
  for (Job& job : jobs) {
    if (job.node.pending()) queue.Cancel(&job.node);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, TimerQueueModelTest, testing::Range(1, 17));

// F21, without a kernel: sleeping until NextDeadline() each time, few looks find nothing due.
TEST_F(TimerQueueTest, F21_LookingWhenToldFindsSomethingDue) {
  std::mt19937_64 random(21);
  for (int i = 0; i < 1000; ++i) Make(kStart + static_cast<int64_t>(random() % kSecond));
  int looks = 0;
  while (queue_.pending() > 0) {
    ++looks;
    Run(queue_.NextDeadline());
  }
  EXPECT_EQ(order_.size(), 1000u);
  EXPECT_LE(looks, 1200);
}

TEST_F(TimerQueueTest, F21_ALoneTimerPushedBackCostsTwoLooks) {
  Job* job = Make(kStart + kSecond);
  for (int i = 0; i < 1000; ++i) queue_.Request(&job->node, kStart + kSecond + i * kMs);
  int looks = 0;
  for (; queue_.pending() > 0; ++looks) Run(queue_.NextDeadline());
  EXPECT_LE(looks, 2);
}

}  // namespace
}  // namespace posthouse

// F125: any single allocation of the supervisor fails; nothing has changed, and the event, fed
// again, does what it would have done.

#include <signal.h>

#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "posthouse/master/supervisor.h"

namespace {

// How many more allocations succeed; negative: all.
int g_allocations_left = -1;

void* Allocate(std::size_t size) {
  if (g_allocations_left == 0) throw std::bad_alloc();
  if (g_allocations_left > 0) --g_allocations_left;
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return Allocate(size); }
void* operator new[](std::size_t size) { return Allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace posthouse {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// A life with everything that allocates: starts, deaths before and after the answer, messages,
// looks, a reload, a removal, a stop.
struct Event {
  int64_t seconds;
  std::function<void(Supervisor*, int64_t now_ns)> feed;
};

std::vector<Event> Life() {
  static const ServiceRules kRules = [] {
    ServiceRules rules;
    rules.process_limit = 3;
    rules.stress_eligible = true;
    rules.wake_up_ns = 60 * kSecond;
    return rules;
  }();
  static const ChildActivity kStopped{103, 1, ChildActivity::State::kStopped};
  constexpr ChildEnd kKilled{true, SIGKILL};
  std::vector<Event> life;
  const auto at = [&](int64_t seconds, std::function<void(Supervisor*, int64_t)> feed) {
    life.push_back(Event{seconds, std::move(feed)});
  };
  for (ServiceId id = 1; id <= 3; ++id)
    at(0, [=](Supervisor* s, int64_t now) { s->AddService(id, kRules, now); });
  for (pid_t pid = 101; pid <= 103; ++pid) {
    const uint32_t generation = static_cast<uint32_t>(pid - 100);
    at(1, [=](Supervisor* s, int64_t now) { s->ClientWaiting(1, now); });
    at(1, [=](Supervisor* s, int64_t now) { s->ChildDied(4000 + pid, ChildEnd{false, 1}, now); });
    at(1, [=](Supervisor* s, int64_t now) {
      s->Status(1, pid, StatusMessage{pid, generation, 0}, now);
    });
    at(1, [=](Supervisor* s, int64_t now) { s->Spawned(1, pid, generation, now); });
    at(1, [=](Supervisor* s, int64_t now) { s->Status(1, pid, StatusMessage{pid, 77, 0}, now); });
  }
  at(1, [](Supervisor* s, int64_t now) { s->Status(1, 103, StatusMessage{103, 3, 1}, now); });
  at(1, [](Supervisor* s, int64_t now) { s->ClientWaiting(2, now); });
  at(1, [](Supervisor* s, int64_t now) { s->SpawnFailed(2, now); });
  for (int64_t look : {3, 5, 7}) {
    at(look, [](Supervisor* s, int64_t now) { s->TimeIs(now); });
    at(look, [](Supervisor* s, int64_t now) { s->Looked(1, true, {&kStopped, 1}, now); });
  }
  at(8, [](Supervisor* s, int64_t now) { s->ChildDied(103, kKilled, now); });
  for (ServiceId id = 1; id <= 3; ++id)
    at(9, [=](Supervisor* s, int64_t now) { s->UpdateService(id, kRules, now); });
  at(10, [](Supervisor* s, int64_t now) { s->RemoveService(1, now); });
  at(20, [](Supervisor* s, int64_t now) { s->TimeIs(now); });
  at(30, [](Supervisor* s, int64_t now) { s->Stop(now); });
  for (pid_t pid : {101, 102})
    at(31, [=](Supervisor* s, int64_t now) { s->ChildDied(pid, kKilled, now); });
  return life;
}

// What the shell would see of the whole life, when allocation `failing` fails (negative: none).
std::string Live(int failing, bool* failed) {
  Supervisor supervisor;
  std::string story;
  for (const Event& event : Life()) {
    const int64_t now = event.seconds * kSecond;
    supervisor.ClientWaiting(-1, now);  // of an unknown service: time passes, no more
    const std::string before = supervisor.DescribeState();
    int left = failing;
    try {
      g_allocations_left = failing;
      event.feed(&supervisor, now);
      left = g_allocations_left;
      g_allocations_left = -1;
    } catch (const std::bad_alloc&) {
      g_allocations_left = -1;
      *failed = true;
      failing = left = -1;
      EXPECT_EQ(supervisor.DescribeState(), before);
      event.feed(&supervisor, now);
    }
    failing = left;
    EXPECT_EQ(supervisor.CheckInvariants(), absl::OkStatus());
    std::vector<SupervisorAction> actions;  // new memory for the next event
    supervisor.TakeActions(&actions);
    for (const SupervisorAction& action : actions) story += DescribeAction(action) + "\n";
  }
  return story;
}

TEST(SupervisorMemory, AnAllocationThatFailsChangesNothing) {  // F125
  bool failed = false;
  const std::string story = Live(-1, &failed);
  EXPECT_NE(story.find("all-gone"), std::string::npos) << story;
  EXPECT_NE(story.find("silent pid 103"), std::string::npos) << story;
  int count = 0;
  do {
    failed = false;
    EXPECT_EQ(Live(count, &failed), story) << "allocation " << count;
    ++count;
  } while (failed && !::testing::Test::HasFailure());
  EXPECT_GT(count, 30);
}

TEST(SupervisorMemory, AStatusMessageAllocatesNothing) {
  ServiceRules rules;
  rules.process_limit = 0;
  Supervisor supervisor;
  supervisor.AddService(1, rules, 0);
  for (uint32_t i = 1; i <= 200; ++i) {
    const auto pid = static_cast<pid_t>(i);
    supervisor.ClientWaiting(1, 0);
    supervisor.Spawned(1, pid, i, 0);
    supervisor.Status(1, pid, StatusMessage{pid, i, 0}, 0);
  }
  std::vector<SupervisorAction> actions;
  for (int round = 0; round < 2; ++round) {
    supervisor.TakeActions(&actions);
    supervisor.Status(1, 1, StatusMessage{1, 1, round}, 0);
  }
  supervisor.TakeActions(&actions);
  g_allocations_left = 0;
  for (int round = 0; round < 1000; ++round) {
    supervisor.Status(1, 7, StatusMessage{7, 7, round % 2}, 0);
    supervisor.TakeActions(&actions);
  }
  g_allocations_left = -1;
  EXPECT_EQ(supervisor.CheckInvariants(), absl::OkStatus());
}

}  // namespace
}  // namespace posthouse

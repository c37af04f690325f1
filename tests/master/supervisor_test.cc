#include "posthouse/master/supervisor.h"

#include <signal.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/master/protocol.h"
#include "posthouse/master/supervisor_table.h"

namespace posthouse {
namespace {

using Phase = ServicePhase;
using State = ChildActivity::State;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

using Words = std::vector<std::string>;

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kSecond = 1000 * kMillisecond;
constexpr ChildEnd kExit0{false, 0};
constexpr ChildEnd kExit1{false, 1};
constexpr ChildEnd kKilled{true, SIGKILL};
constexpr ChildEnd kTerminated{true, SIGTERM};
constexpr ChildEnd kCrashed{true, SIGSEGV};

// Service 1 with a limit of `limit`; nothing taken over from one test to the other.
class SupervisorTest : public ::testing::Test {
 protected:
  // What the last events asked for, as DescribeAction() says it; the invariants hold at each look.
  Words Take() {
    std::vector<SupervisorAction> actions;
    supervisor_.TakeActions(&actions);
    Words words;
    for (const SupervisorAction& action : actions) words.push_back(DescribeAction(action));
    EXPECT_EQ(supervisor_.CheckInvariants(), absl::OkStatus());
    return words;
  }
  void Add(int limit, ServiceId id = 1) {
    ServiceRules rules;
    rules.process_limit = limit;
    supervisor_.AddService(id, rules, now_);
  }
  void AddEligible(int limit) {
    ServiceRules rules;
    rules.process_limit = limit;
    rules.stress_eligible = true;
    supervisor_.AddService(1, rules, now_);
  }
  void Update(int limit, ServiceId id = 1) {
    ServiceRules rules;
    rules.process_limit = limit;
    supervisor_.UpdateService(id, rules, now_);
  }
  // A client comes and the child is there: the generation is that of the spawn.
  void Spawn(pid_t pid, ServiceId id = 1) {
    supervisor_.ClientWaiting(id, now_);
    std::vector<SupervisorAction> actions;
    supervisor_.TakeActions(&actions);
    for (const SupervisorAction& action : actions) {
      if (action.kind != SupervisorAction::Kind::kSpawn) continue;
      generations_[pid] = action.generation;
      supervisor_.Spawned(id, pid, action.generation, now_);
      return;
    }
    ADD_FAILURE() << "no spawn for a client of service " << id;
  }
  StatusMessage Message(pid_t pid, Availability availability) {
    return StatusMessage{pid, generations_[pid], static_cast<int32_t>(availability)};
  }
  void Taken(pid_t pid, ServiceId id = 1) {
    supervisor_.Status(id, pid, Message(pid, Availability::kTaken), now_);
  }
  void Avail(pid_t pid, ServiceId id = 1) {
    supervisor_.Status(id, pid, Message(pid, Availability::kAvailable), now_);
  }
  void Request(pid_t pid, ServiceId id = 1) {
    Taken(pid, id);
    Avail(pid, id);
  }
  void Pass(int64_t ns) {
    now_ += ns;
    supervisor_.TimeIs(now_);
  }
  // One round of the looks: time passes, service 1 is looked at.
  void Look(bool client_waits, std::vector<ChildActivity> activity) {
    Pass(SupervisorTimes().look_ns);
    supervisor_.Looked(1, client_waits, activity, now_);
  }
  Supervisor::ServiceView View(ServiceId id = 1) {
    for (const Supervisor::ServiceView& view : supervisor_.Services()) {
      if (view.id == id) return view;
    }
    return {};
  }
  Supervisor::ChildView Child(pid_t pid) {
    for (const Supervisor::ChildView& view : supervisor_.Children()) {
      if (view.pid == pid) return view;
    }
    return {};
  }

  int64_t now_ = kSecond;
  std::map<pid_t, uint32_t> generations_;
  Supervisor supervisor_;
};

// ---- M59 to M61

TEST_F(SupervisorTest, AFreshServiceIsWatched) {  // M59, M100
  Add(2);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
  EXPECT_EQ(View().phase, Phase::kWatched);
}

TEST_F(SupervisorTest, OneReadinessIsOneSpawn) {  // M61
  Add(2);
  Take();
  supervisor_.ClientWaiting(1, now_);
  supervisor_.ClientWaiting(1, now_);  // the other listener of the same batch
  EXPECT_THAT(Take(), ElementsAre("1: ignore", "1: spawn generation 1"));
  supervisor_.Spawned(1, 100, 1, now_);
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_EQ(View().phase, Phase::kServed);
}

TEST_F(SupervisorTest, AChildIsBornAvailableAndUnused) {  // M67, P28
  Add(2);
  Spawn(100);
  EXPECT_EQ(View().total, 1);
  EXPECT_EQ(View().available, 1);
  EXPECT_TRUE(Child(100).available);
  EXPECT_EQ(Child(100).uses, 0u);
}

TEST_F(SupervisorTest, AServiceIsWatchedWhileAllItsChildrenAreBusy) {  // M59, P29
  Add(2);
  Spawn(100);
  Take();
  Taken(100);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
  Avail(100);
  EXPECT_THAT(Take(), ElementsAre("1: ignore"));
}

TEST_F(SupervisorTest, AFullServiceIsNotWatched) {  // M60
  Add(1);
  Spawn(100);
  Take();
  Taken(100);
  EXPECT_EQ(View().phase, Phase::kFull);
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), IsEmpty());
  supervisor_.ChildDied(100, kExit0, now_);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
}

TEST_F(SupervisorTest, ALimitOfZeroIsNone) {  // M59, P27
  Add(0);
  for (pid_t pid = 100; pid < 400; ++pid) {
    Spawn(pid);
    Taken(pid);
  }
  EXPECT_EQ(View().phase, Phase::kWatched);
  EXPECT_EQ(View().total, 300);
}

// ---- Generations and messages

TEST_F(SupervisorTest, OneCounterOfGenerationsForAllServicesCountsFailedSpawnsToo) {  // P23, M108
  Add(5, 1);
  Add(5, 2);
  Spawn(100, 1);
  Take();
  supervisor_.ClientWaiting(2, now_);
  supervisor_.SpawnFailed(2, now_);
  Take();
  Update(5, 1);
  Taken(100);
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), Contains("1: spawn generation 3"));
}

TEST_F(SupervisorTest, AUseIsTakenThenAvailableAndRepeatsAreNone) {  // M70, P29, F73
  Add(2);
  Spawn(100);
  Avail(100);
  Avail(100);
  EXPECT_EQ(Child(100).uses, 0u);
  Taken(100);
  Taken(100);
  Avail(100);
  Avail(100);
  EXPECT_EQ(Child(100).uses, 1u);
  EXPECT_EQ(View().available, 1);
}

TEST_F(SupervisorTest, AMessageOfANameThatIsNotTheSendersIsGossip) {  // F70
  Add(3);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Take();
  supervisor_.Status(1, 100, Message(101, Availability::kTaken), now_);
  EXPECT_THAT(Take(), ElementsAre("1: gossip-forged pid 100"));
  EXPECT_TRUE(Child(101).available);
}

TEST_F(SupervisorTest, WhereTheKernelCannotTellTheMessageIsBelieved) {  // P29
  Add(2);
  Spawn(100);
  supervisor_.Status(1, 0, Message(100, Availability::kTaken), now_);
  EXPECT_FALSE(Child(100).available);
}

TEST_F(SupervisorTest, AMessageOfAnUnknownProcessIsGossip) {  // P33
  Add(2);
  Take();
  supervisor_.Status(1, 4711, StatusMessage{4711, 1, 0}, now_);
  supervisor_.Status(1, 0, StatusMessage{-1, 1, 0}, now_);
  EXPECT_THAT(Take(),
              ElementsAre("1: gossip-unknown-pid pid 4711", "1: gossip-unknown-pid pid -1"));
}

TEST_F(SupervisorTest, AMessageOfAnotherServicesChildIsGossip) {  // MO3, P36, M71
  Add(2, 1);
  Add(2, 2);
  Spawn(100, 2);
  Take();
  supervisor_.Status(1, 100, Message(100, Availability::kTaken), now_);
  EXPECT_THAT(Take(), ElementsAre("1: gossip-other-service pid 100"));
  EXPECT_TRUE(Child(100).available);
}

TEST_F(SupervisorTest, AMessageOfAnotherGenerationIsGossip) {  // P25, P34
  Add(2);
  Spawn(100);
  Take();
  supervisor_.Status(1, 100, StatusMessage{100, 2, 0}, now_);
  EXPECT_THAT(Take(), ElementsAre("1: gossip-wrong-generation pid 100"));
  EXPECT_TRUE(Child(100).available);
}

TEST_F(SupervisorTest, AMessageOfAnUnknownValueIsGossip) {  // P35
  Add(2);
  Spawn(100);
  Take();
  supervisor_.Status(1, 100, StatusMessage{100, 1, 7}, now_);
  EXPECT_THAT(Take(), ElementsAre("1: gossip-unknown-value pid 100"));
  EXPECT_TRUE(Child(100).available);
}

TEST_F(SupervisorTest, AMessageForAServiceThatIsGoneIsGossip) {  // F70
  supervisor_.Status(99, 100, StatusMessage{100, 1, 1}, now_);
  EXPECT_THAT(Take(), ElementsAre("99: gossip-unknown-pid pid 100"));
}

TEST_F(SupervisorTest, AMessageBeforeTheSpawnIsAnsweredCounts) {  // M78, F74
  Add(2);
  supervisor_.ClientWaiting(1, now_);
  generations_[100] = 1;
  Request(100);
  Taken(100);
  Take();
  supervisor_.Spawned(1, 100, 1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
  EXPECT_EQ(Child(100).uses, 1u);
}

TEST_F(SupervisorTest, DeathWinsOverAMessageInEitherOrder) {  // M78, F74
  Add(2);
  Spawn(100);
  Taken(100);
  supervisor_.ChildDied(100, kExit0, now_);
  EXPECT_EQ(View().total, 0);
  Spawn(101);
  supervisor_.ChildDied(101, kExit0, now_);
  Take();
  Taken(101);
  EXPECT_THAT(Take(), ElementsAre("1: gossip-unknown-pid pid 101"));
  EXPECT_EQ(View().total, 0);
  EXPECT_EQ(View().available, 0);
}

TEST_F(SupervisorTest, ANumberThatIsUsedAgainIsANewChild) {  // P25, F74, F83
  Add(2);
  Spawn(100);
  const StatusMessage old = Message(100, Availability::kTaken);
  supervisor_.ChildDied(100, kExit0, now_);
  Spawn(100);
  Take();
  supervisor_.Status(1, 100, old, now_);
  EXPECT_THAT(Take(), ElementsAre("1: gossip-wrong-generation pid 100"));
  EXPECT_TRUE(Child(100).available);
}

// ---- Deaths and the throttle

TEST_F(SupervisorTest, ExitStatusZeroIsSilent) {  // M73, P54
  Add(2);
  Spawn(100);
  Take();
  supervisor_.ChildDied(100, kExit0, now_);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
}

TEST_F(SupervisorTest, ABadStartThrottles) {  // M74, M75, M76, P38, F78, F79
  Add(2);
  Spawn(100);
  Take();
  supervisor_.ChildDied(100, kExit1, now_);
  EXPECT_THAT(Take(),
              ElementsAre("1: child-exit pid 100 status 1", "1: bad-start pid 100 status 1"));
  EXPECT_EQ(View().phase, Phase::kThrottled);
  supervisor_.ClientWaiting(1, now_);
  Pass(60 * kSecond - 1);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_EQ(supervisor_.next_deadline_ns(), now_ + 1);
  Pass(1);
  EXPECT_THAT(Take(), ElementsAre("1: throttle-over", "1: watch"));
}

TEST_F(SupervisorTest, ACrashBeforeTheFirstRequestIsDoneThrottles) {  // M75, P55
  Add(2);
  Spawn(100);
  Taken(100);
  supervisor_.ChildDied(100, kCrashed, now_);
  EXPECT_THAT(Take(), Contains("1: bad-start pid 100 signal 11"));
}

TEST_F(SupervisorTest, ADeathAfterACompletedRequestOnlyWarns) {  // M75, P39
  Add(2);
  Spawn(100);
  Request(100);
  Take();
  supervisor_.ChildDied(100, kExit1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: child-exit pid 100 status 1", "1: watch"));
}

TEST_F(SupervisorTest, DeathsOfAThrottledServiceDoNotProlongIt) {  // M75, M76
  Add(3);
  Spawn(100);
  Taken(100);
  Spawn(101);
  supervisor_.ChildDied(101, kExit1, now_);
  Take();
  now_ += 30 * kSecond;
  supervisor_.ChildDied(100, kExit1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: child-exit pid 100 status 1"));
  EXPECT_EQ(View().throttled_until_ns, now_ + 30 * kSecond);
}

TEST_F(SupervisorTest, IdleChildrenOfAThrottledServiceGoOn) {  // M76
  Add(3);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Avail(100);
  supervisor_.ChildDied(101, kExit1, now_);
  Take();
  EXPECT_EQ(View().phase, Phase::kThrottled);
  EXPECT_EQ(View().available, 1);
  Pass(60 * kSecond);
  EXPECT_THAT(Take(), Contains("1: throttle-over"));
  EXPECT_EQ(View().phase, Phase::kServed);
}

TEST_F(SupervisorTest, OtherServicesAreNotThrottled) {  // M76, F78
  Add(2, 1);
  Add(2, 2);
  Spawn(100, 1);
  supervisor_.ChildDied(100, kExit1, now_);
  Take();
  Spawn(200, 2);
  EXPECT_EQ(View(2).phase, Phase::kServed);
}

TEST_F(SupervisorTest, FreshWorkersKilledFromOutsideBackOffFromTheThirdInARow) {  // F80
  Add(2);
  for (const ChildEnd end : {kKilled, kTerminated}) {
    Spawn(100);
    Take();
    supervisor_.ChildDied(100, end, now_);
    EXPECT_THAT(Take(),
                ElementsAre(absl::StrCat("1: child-exit pid 100 signal ", end.code), "1: watch"));
  }
  for (const int delay_ms : {100, 200, 400, 800, 1000, 1000}) {
    Spawn(100);
    Take();
    supervisor_.ChildDied(100, kKilled, now_);
    EXPECT_THAT(Take(), ElementsAre("1: child-exit pid 100 signal 9",
                                    absl::StrCat("1: back-off ", delay_ms, " ms")));
    Pass(delay_ms * kSecond / 1000);
    EXPECT_THAT(Take(), ElementsAre("1: watch"));
  }
}

TEST_F(SupervisorTest, ACompletedRequestForgetsTheKilledOnes) {  // F80
  Add(2);
  for (int round = 0; round < 20; ++round) {
    Spawn(100);
    supervisor_.ChildDied(100, kKilled, now_);
    Spawn(101);
    Request(101);
    supervisor_.ChildDied(101, kKilled, now_);
    EXPECT_THAT(Take(), Not(Contains(::testing::HasSubstr("back-off"))));
  }
}

TEST_F(SupervisorTest, AFailedForkThrottlesAndCountsNoChild) {  // M63, P28, F77
  Add(2);
  supervisor_.ClientWaiting(1, now_);
  Take();
  supervisor_.SpawnFailed(1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: spawn-failed"));
  EXPECT_EQ(View().total, 0);
  Pass(60 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: throttle-over", "1: watch"));
  Spawn(100);
  EXPECT_EQ(View().phase, Phase::kServed);
}

TEST_F(SupervisorTest, ChildrenThatExitWithZeroAtOnceAreStartedMoreAndMoreSlowly) {  // MO4, M73
  Add(2);
  Take();
  int starts = 0;
  const int64_t end = now_ + 60 * kSecond;
  while (now_ < end) {
    if (View().watching) {
      Spawn(static_cast<pid_t>(1000 + starts++));
      supervisor_.ChildDied(static_cast<pid_t>(1000 + starts - 1), kExit0, now_);
      EXPECT_NE(View().phase, Phase::kThrottled);
    } else {
      Pass(std::max<int64_t>(supervisor_.next_deadline_ns() - now_, 0));
    }
  }
  EXPECT_GE(starts, 12);  // the longest pause is 5 s
  EXPECT_LE(starts, 22);
}

TEST_F(SupervisorTest, TheThirdQuickExitInARowBacksOff) {  // MO4
  Add(2);
  for (pid_t pid : {100, 101}) {
    Spawn(pid);
    supervisor_.ChildDied(pid, kExit0, now_);
    EXPECT_THAT(Take(), ElementsAre("1: watch"));
  }
  Spawn(102);
  Take();
  supervisor_.ChildDied(102, kExit0, now_);
  EXPECT_THAT(Take(), ElementsAre("1: back-off 100 ms"));
  EXPECT_EQ(View().phase, Phase::kBackingOff);
  Pass(100 * kMillisecond);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
}

TEST_F(SupervisorTest, ALongLifeOrARequestIsNoQuickExit) {  // MO4
  Add(2);
  for (int round = 0; round < 10; ++round) {
    Spawn(100);
    supervisor_.ChildDied(100, kExit0, now_);
    Spawn(101);
    if (round % 2 == 0) Request(101);
    if (round % 2 == 1) now_ += kSecond;
    supervisor_.ChildDied(101, kExit0, now_);
    EXPECT_THAT(Take(), Not(Contains(::testing::HasSubstr("back-off"))));
  }
}

TEST_F(SupervisorTest, ADeadProcessThatNobodyKnowsIsOnlyReported) {  // M93, F82
  Add(2);
  Take();
  supervisor_.ChildDied(4711, kExit1, now_);
  EXPECT_THAT(Take(), ElementsAre("0: unknown-child pid 4711 status 1"));
}

TEST_F(SupervisorTest, ADeathBeforeTheSpawnIsAnsweredIsTheChilds) {  // M68, F82
  Add(2);
  supervisor_.ClientWaiting(1, now_);
  Take();
  supervisor_.ChildDied(4711, kExit0, now_);
  supervisor_.ChildDied(100, kExit1, now_);
  EXPECT_THAT(Take(), IsEmpty());
  supervisor_.Spawned(1, 100, 1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: child-exit pid 100 status 1", "1: bad-start pid 100 status 1",
                                  "0: unknown-child pid 4711 status 0"));
  EXPECT_EQ(View().total, 0);
}

TEST_F(SupervisorTest, FiveHundredDeathsAtOnceAreAllCounted) {  // F81
  Add(0);
  for (pid_t pid = 1000; pid < 1500; ++pid) {
    Spawn(pid);
    Request(pid);
    Taken(pid);
  }
  for (pid_t pid = 1000; pid < 1500; ++pid) supervisor_.ChildDied(pid, kKilled, now_);
  Take();
  EXPECT_EQ(View().total, 0);
  EXPECT_EQ(View().phase, Phase::kWatched);
}

// ---- Stress

TEST_F(SupervisorTest,
       TheStartThatTakesTheLastSlotRenewsTheChannelAndBeginsStress) {  // M81, M82, P42
  AddEligible(2);
  Spawn(100);
  Take();
  Taken(100);
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: watch", "1: ignore", "1: cancel-wake-ups", "1: renew-channel",
                                  "1: spawn generation 2 stress"));
  supervisor_.Spawned(1, 101, 2, now_);
  EXPECT_TRUE(Child(100).retiring);
  EXPECT_FALSE(Child(101).retiring);
}

TEST_F(SupervisorTest, WithinTheStressPeriodTheChannelStays) {  // M81, M82
  AddEligible(2);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Taken(101);
  supervisor_.ChildDied(100, kExit0, now_);
  Take();
  now_ += 999 * kSecond;
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: ignore", "1: spawn generation 3 stress"));
  EXPECT_EQ(View().stress_until_ns, now_ + 1000 * kSecond);
}

TEST_F(SupervisorTest, StressEndsAThousandSecondsAfterTheLastSlotWasTaken) {  // M82, F86
  AddEligible(3);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Taken(101);
  Spawn(102);
  for (pid_t pid : {100, 101, 102}) supervisor_.ChildDied(pid, kExit0, now_);
  Take();
  now_ += 1000 * kSecond - 1;
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), Contains("1: spawn generation 4 stress"));
  supervisor_.Spawned(1, 103, 4, now_);
  supervisor_.ChildDied(103, kExit0, now_);
  now_ += 1;
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), Contains("1: spawn generation 5"));
}

TEST_F(SupervisorTest, OtherServicesAndALimitOfOneKnowNoStress) {  // M79
  Add(2);
  Spawn(100);
  Taken(100);
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), Contains("1: spawn generation 2"));
  ServiceRules rules;
  rules.process_limit = 1;
  rules.stress_eligible = true;
  supervisor_.AddService(2, rules, now_);
  supervisor_.ClientWaiting(2, now_);
  EXPECT_THAT(Take(), Contains("2: spawn generation 3"));
}

TEST_F(SupervisorTest, StressSurvivesAReload) {  // M83
  AddEligible(2);
  Spawn(100);
  Taken(100);
  Spawn(101);
  const int64_t until = View().stress_until_ns;
  EXPECT_GT(until, now_);
  ServiceRules rules;
  rules.process_limit = 5;
  rules.stress_eligible = true;
  supervisor_.UpdateService(1, rules, now_);
  EXPECT_EQ(View().stress_until_ns, until);
  Taken(101);
  Take();
  supervisor_.ClientWaiting(1, now_);
  EXPECT_THAT(Take(), Contains("1: spawn generation 3 stress"));
}

TEST_F(SupervisorTest, TheLimitIsReportedOncePerThousandSeconds) {  // M62, F86
  AddEligible(2);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Take();
  Taken(101);
  EXPECT_THAT(Take(), ElementsAre("1: limit-reached 2"));
  for (int i = 0; i < 10; ++i) Request(101);
  Taken(101);
  Take();
  now_ += 1000 * kSecond - 1;
  Avail(101);
  Taken(101);
  EXPECT_THAT(Take(), IsEmpty());
  now_ += 1;
  Avail(101);
  Taken(101);
  EXPECT_THAT(Take(), ElementsAre("1: limit-reached 2"));
}

TEST_F(SupervisorTest, TheLimitOfAServiceThatIsNotEligibleIsNoNews) {  // M62
  Add(1);
  Spawn(100);
  Take();
  Taken(100);
  EXPECT_THAT(Take(), IsEmpty());
}

// ---- Wake-ups

ServiceRules WakeUpEvery(int64_t seconds, bool conditional = false) {
  ServiceRules rules;
  rules.process_limit = 1;
  rules.wake_up_ns = seconds * kSecond;
  rules.wake_up_conditional = conditional;
  return rules;
}

TEST_F(SupervisorTest, AWakeUpIsSentAtOnceAndThenEachPeriodFromTheLastOne) {  // M84
  supervisor_.AddService(1, WakeUpEvery(60), now_);
  EXPECT_THAT(Take(), ElementsAre("1: wake-up", "1: watch"));
  Pass(60 * kSecond - 1);
  EXPECT_THAT(Take(), IsEmpty());
  Pass(5 * kSecond + 1);  // late
  EXPECT_THAT(Take(), ElementsAre("1: wake-up"));
  EXPECT_EQ(supervisor_.next_deadline_ns(), now_ + 60 * kSecond);
}

TEST_F(SupervisorTest, AThrottledServiceIsNotWokenButThePeriodGoesOn) {  // M85
  supervisor_.AddService(1, WakeUpEvery(50), now_);
  Spawn(100);
  supervisor_.ChildDied(100, kExit1, now_);
  Take();
  Pass(50 * kSecond);
  EXPECT_THAT(Take(), IsEmpty());
  Pass(10 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: throttle-over", "1: watch"));
  Pass(40 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: wake-up"));
}

TEST_F(SupervisorTest, AConditionalWakeUpWaitsForTheFirstSpawnAndForItAgainAfterAReload) {  // M88
  supervisor_.AddService(1, WakeUpEvery(60, true), now_);
  Pass(600 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
  supervisor_.ClientWaiting(1, now_);
  supervisor_.Spawned(1, 100, 1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: ignore", "1: spawn generation 1", "1: wake-up"));
  supervisor_.ChildDied(100, kExit0, now_);
  supervisor_.ClientWaiting(1, now_);
  supervisor_.Spawned(1, 101, 2, now_);
  EXPECT_THAT(Take(), ElementsAre("1: watch", "1: ignore", "1: spawn generation 2"));
  supervisor_.UpdateService(1, WakeUpEvery(60, true), now_);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: renew-channel"));
  supervisor_.ChildDied(101, kExit0, now_);
  Pass(600 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
  supervisor_.ClientWaiting(1, now_);
  supervisor_.Spawned(1, 102, 3, now_);
  EXPECT_THAT(Take(), Contains("1: wake-up"));
}

TEST_F(SupervisorTest, AReloadCancelsAndRestartsWakeUps) {  // M84, M104
  supervisor_.AddService(1, WakeUpEvery(60), now_);
  Take();
  Pass(30 * kSecond);
  supervisor_.UpdateService(1, WakeUpEvery(90), now_);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: renew-channel", "1: wake-up"));
  EXPECT_EQ(View().next_wake_up_ns, now_ + 90 * kSecond);
  Update(1);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: renew-channel"));
  EXPECT_EQ(View().next_wake_up_ns, kNeverNs);
}

// ---- Reload

TEST_F(SupervisorTest,
       EveryKnownServiceGetsANewChannelAndItsChildrenStayCounted) {  // M103, M104, M107, MO11, P41
  Add(2);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Take();
  Update(2);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: renew-channel"));
  EXPECT_EQ(View().total, 2);
  EXPECT_EQ(View().available, 1);
  EXPECT_TRUE(Child(100).retiring);
  supervisor_.ChildDied(101, kExit0, now_);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
}

TEST_F(SupervisorTest, AReloadSendsNoSignalAndBacksOffFromNobody) {  // P41, MO4
  Add(2);
  for (pid_t pid = 100; pid < 120; ++pid) {
    Spawn(pid);
    Update(2);
    supervisor_.ChildDied(pid, kExit0, now_);
    for (const std::string& word : Take()) EXPECT_FALSE(absl::StrContains(word, "signal")) << word;
    EXPECT_EQ(View().phase, Phase::kWatched);
  }
}

TEST_F(SupervisorTest, TheThrottleAndItsTimerAreNotTouchedByAReload) {  // M101
  Add(2);
  Spawn(100);
  supervisor_.ChildDied(100, kExit1, now_);
  const int64_t until = View().throttled_until_ns;
  now_ += 10 * kSecond;
  Update(2);
  EXPECT_EQ(View().phase, Phase::kThrottled);
  EXPECT_EQ(View().throttled_until_ns, until);
}

TEST_F(SupervisorTest, ALoweredLimitStartsNobodyUntilTheCountIsBelowIt) {  // F85, M103
  Add(10);
  for (pid_t pid = 100; pid < 110; ++pid) {
    Spawn(pid);
    Taken(pid);
  }
  Update(3);
  Take();
  for (pid_t pid = 100; pid < 107; ++pid) {
    EXPECT_EQ(View().phase, Phase::kFull);
    supervisor_.ClientWaiting(1, now_);
    supervisor_.ChildDied(pid, kExit0, now_);
    EXPECT_THAT(Take(), IsEmpty());
  }
  supervisor_.ChildDied(107, kExit0, now_);
  EXPECT_THAT(Take(), ElementsAre("1: watch"));
}

TEST_F(SupervisorTest, ARaisedLimitIsWatchedAtOnce) {  // M103
  Add(1);
  Spawn(100);
  Taken(100);
  Take();
  Update(2);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: renew-channel", "1: watch"));
}

TEST_F(SupervisorTest, AChildAskedForBeforeAReloadHasTheOldChannel) {  // M107, M108
  Add(2);
  supervisor_.ClientWaiting(1, now_);
  Update(2);
  supervisor_.Spawned(1, 100, 1, now_);
  EXPECT_TRUE(Child(100).retiring);
}

TEST_F(SupervisorTest, AThousandReloadsKeepTheLimitAndTheLastRules) {  // F102
  Add(3);
  pid_t pid = 100;
  for (int i = 0; i < 1000; ++i) {
    Update(3 + i % 2);
    while (View().watching) {
      Spawn(pid);
      Taken(pid++);
    }
    EXPECT_LE(View().total, 4);
  }
  EXPECT_EQ(View().limit, 4);
  Take();
}

TEST_F(SupervisorTest,
       AnIdleWorkerThatStaysAfterItsChannelWasClosedIsEnded) {  // P43: every generation ends
  Add(2);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Update(2);
  Take();
  Pass(999 * kSecond);
  Take();
  Pass(kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: stubborn pid 101", "1: signal 15 pid 101"));
  Pass(10 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: stubborn pid 101", "1: signal 9 pid 101", "1: look"));
  Pass(5000 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: look"));  // 100 is in a request
}

TEST_F(SupervisorTest, ReloadsDoNotProlongTheTimeOfARetiringWorker) {  // F102
  Add(2);
  Spawn(100);
  for (int i = 0; i < 1001; ++i) {
    Update(2);
    Pass(kSecond);
  }
  EXPECT_THAT(Take(), Contains("1: signal 15 pid 100"));
}

// ---- Removal

TEST_F(SupervisorTest, ARemovedServiceClosesAndEndsItsChildren) {  // M105, P40, F103
  Add(3);
  Spawn(100);
  Taken(100);
  Take();
  supervisor_.RemoveService(1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: ignore", "1: close-channel",
                                  "1: close-listeners", "1: signal 15 pid 100"));
  supervisor_.ChildDied(100, kTerminated, now_);
  EXPECT_THAT(Take(), ElementsAre("1: close-service"));
  EXPECT_THAT(supervisor_.Services(), IsEmpty());
  Pass(10 * kSecond);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_EQ(supervisor_.next_deadline_ns(), kNeverNs);
}

TEST_F(SupervisorTest, ARemovedServiceWithoutChildrenClosesAtOnce) {  // M105
  Add(3);
  Take();
  supervisor_.RemoveService(1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: ignore", "1: close-channel",
                                  "1: close-listeners", "1: close-service"));
}

TEST_F(SupervisorTest, AChildThatIgnoresTermIsKilledAndDelaysNobody) {  // MO6, M106, F84
  Add(3, 1);
  Add(3, 2);
  Spawn(100, 1);
  supervisor_.RemoveService(1, now_);
  Spawn(200, 2);
  EXPECT_EQ(View(2).phase, Phase::kServed);
  Request(200, 2);
  Take();
  now_ += 10 * kSecond - 1;
  supervisor_.TimeIs(now_);
  EXPECT_THAT(Take(), ElementsAre("2: look"));
  Pass(1);
  EXPECT_THAT(Take(), ElementsAre("1: stubborn pid 100", "1: signal 9 pid 100"));
  supervisor_.ChildDied(100, kKilled, now_);
  EXPECT_THAT(Take(), ElementsAre("1: close-service"));
}

TEST_F(SupervisorTest, DeathsInRemovalAreSilentOnlyWhenTheyWereAskedFor) {  // M74, M105
  Add(3);
  Spawn(100);
  Taken(100);
  Spawn(101);
  supervisor_.RemoveService(1, now_);
  Take();
  supervisor_.ChildDied(100, kExit1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: child-exit pid 100 status 1"));
  supervisor_.ChildDied(101, kTerminated, now_);
  EXPECT_THAT(Take(), ElementsAre("1: close-service"));
}

TEST_F(SupervisorTest, ASpawnUnderWayDelaysTheEndOfItsService) {  // M105
  Add(3);
  supervisor_.ClientWaiting(1, now_);
  Take();
  supervisor_.RemoveService(1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: close-channel", "1: close-listeners"));
  supervisor_.Spawned(1, 100, 1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: signal 15 pid 100"));
  Pass(10 * kSecond);
  EXPECT_THAT(Take(), Contains("1: signal 9 pid 100"));
  supervisor_.ChildDied(100, kKilled, now_);
  EXPECT_THAT(Take(), ElementsAre("1: close-service"));
}

TEST_F(SupervisorTest, ASpawnThatFailsEndsARemovedService) {  // M105, F77
  Add(3);
  supervisor_.ClientWaiting(1, now_);
  supervisor_.RemoveService(1, now_);
  Take();
  supervisor_.SpawnFailed(1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: close-service"));
}

TEST_F(SupervisorTest, AReapedChildIsNeverSignalled) {  // F83
  Add(3);
  Spawn(100);
  Taken(100);
  Spawn(101);
  supervisor_.ChildDied(100, kExit0, now_);
  Take();
  supervisor_.RemoveService(1, now_);
  EXPECT_THAT(Take(), Not(Contains("1: signal 15 pid 100")));
}

// ---- Floods (F72)

TEST_F(SupervisorTest, AFlooderIsKilledAndItsServiceThrottled) {  // F72
  Add(3);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Take();
  supervisor_.Flooded(1, 100, now_);
  EXPECT_THAT(Take(), ElementsAre("1: flood pid 100", "1: signal 9 pid 100"));
  EXPECT_EQ(View().phase, Phase::kThrottled);
  Avail(100);
  supervisor_.Flooded(1, 100, now_);
  EXPECT_THAT(Take(), IsEmpty()) << "it is dying";
  supervisor_.ChildDied(100, kKilled, now_);
  EXPECT_THAT(Take(), ElementsAre("1: child-exit pid 100 signal 9"));
  // The other one goes on serving; when it is busy, nobody is started before the throttle is over.
  EXPECT_EQ(View().available, 1);
  Taken(101);
  EXPECT_THAT(Take(), IsEmpty());
  Pass(ServiceRules().throttle_ns);
  EXPECT_THAT(Take(), ElementsAre("1: throttle-over", "1: watch"));
}

TEST_F(SupervisorTest, AFloodDoesNotProlongAThrottle) {  // F72, M75
  Add(3);
  Spawn(100);
  Taken(100);
  Spawn(101);
  supervisor_.ChildDied(100, kExit1, now_);
  Pass(ServiceRules().throttle_ns / 2);
  supervisor_.Flooded(1, 101, now_);
  supervisor_.ChildDied(101, kKilled, now_);
  Take();
  Pass(ServiceRules().throttle_ns / 2);
  EXPECT_THAT(Take(), ElementsAre("1: throttle-over", "1: watch"));
}

TEST_F(SupervisorTest, AFloodThatNobodyOfTheServiceMakesIsOnlyReported) {  // F72
  Add(1);
  Add(1, 2);
  Spawn(100);
  Spawn(200, 2);
  Take();
  for (const pid_t stranger : {200, 4711, 0}) supervisor_.Flooded(1, stranger, now_);
  EXPECT_THAT(Take(), ElementsAre("1: flood pid 200", "1: flood pid 4711", "1: flood"));
  EXPECT_EQ(View().phase, Phase::kServed);
  EXPECT_EQ(View(2).phase, Phase::kServed);
}

TEST_F(SupervisorTest, AFlooderOfAServiceThatEndsGetsNoMoreThanTheOthers) {  // F72, F84, F108
  Add(1);
  Add(1, 2);
  Spawn(100);
  Spawn(200, 2);
  supervisor_.RemoveService(1, now_);
  Take();
  supervisor_.Flooded(1, 100, now_);
  EXPECT_THAT(Take(), IsEmpty());
  supervisor_.Stop(now_);
  Take();
  supervisor_.Flooded(2, 200, now_);
  EXPECT_THAT(Take(), IsEmpty());
}

// ---- Silent workers (F75)

TEST_F(SupervisorTest, ALookIsAskedForOnlyWhileClientsDependOnAnIdleWorker) {  // F75
  Add(2);
  EXPECT_EQ(supervisor_.next_deadline_ns(), kNeverNs);
  Spawn(100);
  Take();
  EXPECT_EQ(supervisor_.next_deadline_ns(), now_ + 2 * kSecond);
  Pass(2 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: look"));
  Taken(100);
  Take();
  Pass(2 * kSecond);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_EQ(supervisor_.next_deadline_ns(), kNeverNs);
}

TEST_F(SupervisorTest, TheOnlyWorkerThatIsStoppedIsEndedAndReplacedWithinSixSeconds) {  // F75
  Add(1);
  Spawn(100);
  Request(100);
  const int64_t begin = now_;
  Take();
  const std::vector<ChildActivity> stopped = {{100, 7, State::kStopped}};
  Look(false, stopped);
  Look(true, stopped);
  EXPECT_THAT(Take(), ElementsAre("1: look", "1: look"));
  Look(true, stopped);
  EXPECT_THAT(Take(),
              ElementsAre("1: look", "1: unserved", "1: silent pid 100", "1: signal 9 pid 100"));
  EXPECT_LE(now_ - begin, 6 * kSecond);
  supervisor_.ChildDied(100, kKilled, now_);
  EXPECT_THAT(Take(), ElementsAre("1: child-exit pid 100 signal 9", "1: watch"));
}

TEST_F(SupervisorTest, AStoppedWorkerIsDoubtedSoThatAnotherStarts) {  // F75, F76
  Add(3);
  Spawn(100);
  Request(100);
  Take();
  Look(true, {{100, 7, State::kAsleep}});
  Look(true, {{100, 9, State::kRunning}});  // it runs, but takes nobody
  EXPECT_THAT(Take(), ElementsAre("1: look", "1: look", "1: unserved", "1: watch"));
  EXPECT_EQ(View().doubted, 1);
  Spawn(101);
  EXPECT_EQ(View().phase, Phase::kServed);
  Avail(100);
  EXPECT_EQ(View().doubted, 0);
  EXPECT_EQ(View().available, 2);  // no double accounting
}

TEST_F(SupervisorTest, AClientThatIsTakenBetweenTheLooksIsNoReason) {  // F75
  Add(1);
  Spawn(100);
  Request(100);
  for (int i = 0; i < 20; ++i) {
    Look(true, {{100, 7, State::kAsleep}});
    Request(100);
  }
  for (int i = 0; i < 20; ++i) {
    Look(true, {{100, 7, State::kAsleep}});
    Look(false, {{100, 7, State::kAsleep}});
  }
  EXPECT_THAT(Take(), Not(Contains("1: unserved")));
}

TEST_F(SupervisorTest, AWorkerThatComputesOrWaitsForADiskHasAMinute) {  // F75
  for (const State state : {State::kRunning, State::kDiskWait}) {
    const ServiceId id = state == State::kRunning ? 1 : 2;
    if (id == 2) supervisor_.RemoveService(1, now_);
    Add(1, id);
    Spawn(100, id);
    Request(100, id);
    Take();
    uint64_t cpu = 0;
    Words words;
    int looks = 0;
    for (; looks < 100 && words.size() < 2; ++looks) {
      Pass(2 * kSecond);
      Take();
      cpu += state == State::kRunning ? 1 : 0;
      const ChildActivity activity{100, cpu, state};
      supervisor_.Looked(id, true, {&activity, 1}, now_);
      words = Take();
    }
    EXPECT_EQ(looks, 31) << absl::StrJoin(words, ", ");
    supervisor_.ChildDied(100, kKilled, now_);
    Take();
  }
}

TEST_F(SupervisorTest, AWorkerThatSleepsWhileAnotherRunsIsSpared) {  // F75
  Add(2);
  Spawn(100);
  Taken(100);
  Spawn(101);
  Request(101);
  Avail(100);
  Take();
  for (uint64_t cpu = 1; cpu < 10; ++cpu)
    Look(true, {{100, cpu, State::kRunning}, {101, 5, State::kAsleep}});
  EXPECT_THAT(Take(), Not(Contains(::testing::HasSubstr("signal"))));
}

TEST_F(SupervisorTest, AWorkerThatHasJustStartedHasFourSeconds) {  // F75
  Add(1);
  Spawn(100);
  Take();
  now_ -= 500 * kMillisecond;
  Look(true, {{100, 1, State::kAsleep}});
  Look(true, {{100, 1, State::kAsleep}});
  EXPECT_THAT(Take(), Not(Contains("1: signal 9 pid 100")));
  Look(true, {{100, 1, State::kAsleep}});
  EXPECT_THAT(Take(), Contains("1: signal 9 pid 100"));
}

TEST_F(SupervisorTest, AStoppedBusyWorkerIsEndedOnlyWhenNothingElseMoves) {  // F75
  Add(2);
  Spawn(100);
  Request(100);
  Taken(100);
  Spawn(101);
  Request(101);
  Take();
  for (int i = 0; i < 5; ++i)
    Look(true, {{100, 1, State::kStopped}, {101, 10u + i, State::kRunning}});
  EXPECT_THAT(Take(), Not(Contains("1: signal 9 pid 100")));
  Taken(101);
  Look(true, {{100, 1, State::kStopped}, {101, 1, State::kAsleep}});
  Look(true, {{100, 1, State::kStopped}, {101, 1, State::kAsleep}});
  const Words words = Take();
  EXPECT_THAT(words, Contains("1: signal 9 pid 100"));
  EXPECT_THAT(words, Not(Contains("1: signal 9 pid 101")));
}

TEST_F(SupervisorTest, AClientThatWaitsAtTheLimitIsNoNews) {  // F75, F85
  Add(1);
  Spawn(100);
  Request(100);
  Taken(100);
  Take();
  for (int i = 0; i < 5; ++i) Look(true, {{100, 1, State::kAsleep}});
  EXPECT_THAT(Take(), Not(Contains("1: unserved")));
}

TEST_F(SupervisorTest, AnAnswerThatWasNotAskedForWeighsNothing) {  // F75
  Add(1);
  Spawn(100);
  Request(100);
  Take();
  for (int i = 0; i < 10; ++i) {
    const ChildActivity stopped{100, 1, State::kStopped};
    supervisor_.Looked(1, true, {&stopped, 1}, now_);
  }
  EXPECT_THAT(Take(), IsEmpty());
}

TEST_F(SupervisorTest, ADoubtedWorkerThatTookTheClientAfterAllCountsAgain) {  // F75, P20
  Add(2);
  Spawn(100);
  Request(100);
  Look(true, {{100, 1, State::kRunning}});
  Look(true, {{100, 2, State::kRunning}});
  EXPECT_EQ(View().doubted, 1);
  Look(false, {{100, 3, State::kAsleep}});
  EXPECT_EQ(View().doubted, 0);
  EXPECT_EQ(View().available, 1);
}

// ---- Stop

TEST_F(SupervisorTest, AStopEndsEveryChildAndStartsNone) {  // F108
  Add(2, 1);
  Add(2, 2);
  Spawn(100, 1);
  Take();
  supervisor_.Stop(now_);
  EXPECT_THAT(Take(), ElementsAre("1: cancel-wake-ups", "1: signal 15 pid 100",
                                  "2: cancel-wake-ups", "2: ignore"));
  supervisor_.ClientWaiting(2, now_);
  Add(2, 3);
  Update(2, 2);
  EXPECT_THAT(Take(), IsEmpty());
  Pass(10 * kSecond);
  EXPECT_THAT(Take(), ElementsAre("1: stubborn pid 100", "1: signal 9 pid 100"));
  supervisor_.ChildDied(100, kKilled, now_);
  EXPECT_THAT(Take(), ElementsAre("all-gone"));
  supervisor_.Stop(now_);
  EXPECT_THAT(Take(), IsEmpty());
}

TEST_F(SupervisorTest, AStopWithoutChildrenIsOverAtOnce) {  // F108
  supervisor_.Stop(now_);
  EXPECT_THAT(Take(), ElementsAre("all-gone"));
}

TEST_F(SupervisorTest, AStopWaitsForTheSpawnUnderWay) {  // F108
  Add(2);
  supervisor_.ClientWaiting(1, now_);
  supervisor_.Stop(now_);
  Take();
  supervisor_.Spawned(1, 100, 1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: signal 15 pid 100"));
  supervisor_.ChildDied(100, kExit0, now_);
  EXPECT_THAT(Take(), ElementsAre("all-gone"));
}

// ---- A shell that breaks its contract, a clock that does not

TEST_F(SupervisorTest, AnAnswerToNoQuestionIsReportedAndChangesNothing) {  // F70
  Add(2);
  Take();
  supervisor_.Spawned(1, 100, 1, now_);
  supervisor_.SpawnFailed(1, now_);
  EXPECT_THAT(Take(), ElementsAre("1: unexpected pid 100 Spawned", "1: unexpected SpawnFailed"));
  supervisor_.ClientWaiting(1, now_);
  Take();
  supervisor_.Spawned(1, 100, 77, now_);
  EXPECT_THAT(Take(), ElementsAre("1: unexpected pid 100 Spawned"));
  supervisor_.Spawned(1, 100, 1, now_);
  EXPECT_EQ(View().phase, Phase::kServed);
}

TEST_F(SupervisorTest, ANumberThatIsTakenIsAFailedSpawn) {  // F83
  Add(2);
  Spawn(100);
  Taken(100);
  supervisor_.ClientWaiting(1, now_);
  Take();
  supervisor_.Spawned(1, 100, 2, now_);
  EXPECT_THAT(Take(), ElementsAre("1: unexpected pid 100 Spawned", "1: spawn-failed"));
  EXPECT_EQ(View().total, 1);
}

TEST_F(SupervisorTest, EventsOfUnknownServicesAreNothing) {
  const ChildActivity activity;
  Update(3, 9);
  supervisor_.RemoveService(9, now_);
  supervisor_.ClientWaiting(9, now_);
  supervisor_.Spawned(9, 100, 1, now_);
  supervisor_.SpawnFailed(9, now_);
  supervisor_.Looked(9, true, {&activity, 1}, now_);
  EXPECT_THAT(Take(), IsEmpty());
}

TEST_F(SupervisorTest, AnIdIsAddedOnce) {
  Add(2);
  Take();
  Add(7);
  EXPECT_THAT(Take(), ElementsAre("1: unexpected Update"));
  EXPECT_EQ(View().limit, 2);
}

TEST_F(SupervisorTest, TimesAtTheEdgesAreTimes) {  // F73
  Add(2);
  Spawn(100);
  supervisor_.ChildDied(100, kExit1, now_);
  supervisor_.TimeIs(-5);
  supervisor_.TimeIs(INT64_MIN);
  EXPECT_EQ(View().phase, Phase::kThrottled);
  supervisor_.TimeIs(INT64_MAX);
  EXPECT_EQ(View().phase, Phase::kWatched);
  supervisor_.TimeIs(INT64_MAX);
  Take();
}

// ---- The table

// One service in each phase, child 100 of it in a request, a spawn of generation `pending_` under
// way where the phase has one.
class SupervisorTableTest : public SupervisorTest {
 protected:
  void Enter(Phase phase) {
    ServiceRules rules;
    rules.process_limit = 2;
    rules.wake_up_ns = 3600 * kSecond;
    supervisor_.AddService(1, rules, now_);
    Spawn(100);
    Request(100);
    Taken(100);
    switch (phase) {
      case Phase::kWatched:
        break;
      case Phase::kBackingOff:
        for (pid_t pid : {101, 102, 103}) {
          Spawn(pid);
          supervisor_.ChildDied(pid, kExit0, now_);
        }
        break;
      case Phase::kFull:
        Spawn(101);
        Taken(101);
        break;
      case Phase::kServed:
        Spawn(101);
        break;
      case Phase::kThrottled:
        Spawn(101);
        supervisor_.ChildDied(101, kExit1, now_);
        break;
      case Phase::kStarting:
        Ask();
        break;
      case Phase::kStopping:
        Ask();
        supervisor_.Stop(now_);
        break;
      case Phase::kRemoving:
        Ask();
        supervisor_.RemoveService(1, now_);
        break;
    }
    Take();
    ASSERT_EQ(View().phase, phase);
  }
  void Ask() {
    supervisor_.ClientWaiting(1, now_);
    for (const std::string& word : Take()) {
      const std::string_view prefix = "1: spawn generation ";
      if (absl::StartsWith(word, prefix))
        pending_ = static_cast<uint32_t>(std::stoul(word.substr(prefix.size())));
    }
  }
  // Null events are those of timers: they come with TimeIs() alone.
  bool Feed(SupervisorEvent event) {
    switch (event) {
      case SupervisorEvent::kUpdate:
        Update(3);
        return true;
      case SupervisorEvent::kRemove:
        supervisor_.RemoveService(1, now_);
        return true;
      case SupervisorEvent::kClientWaiting:
        supervisor_.ClientWaiting(1, now_);
        return true;
      case SupervisorEvent::kSpawned:
        supervisor_.Spawned(1, 200, pending_, now_);
        return true;
      case SupervisorEvent::kSpawnFailed:
        supervisor_.SpawnFailed(1, now_);
        return true;
      case SupervisorEvent::kState:
        Avail(100);
        return true;
      case SupervisorEvent::kFlooded:
        supervisor_.Flooded(1, 100, now_);
        return true;
      case SupervisorEvent::kChildDied:
        supervisor_.ChildDied(100, kExit1, now_);
        return true;
      case SupervisorEvent::kStop:
        supervisor_.Stop(now_);
        return true;
      case SupervisorEvent::kLooked:
      case SupervisorEvent::kWakeUpDue:
      case SupervisorEvent::kThrottleOver:
      case SupervisorEvent::kBackOffOver:
      case SupervisorEvent::kRetirementOver:
      case SupervisorEvent::kKillDue:
        return false;
    }
    return false;
  }

  uint32_t pending_ = 99;
};

struct Row {
  Phase phase;
  SupervisorEvent event;
  const char* reaction;
  const char* actions;  // without the "1: "
};

class SupervisorRowTest : public SupervisorTableTest, public ::testing::WithParamInterface<Row> {};

TEST_P(SupervisorRowTest, TheEventHasTheReactionOfTheTable) {  // M59 to M108
  const Row& row = GetParam();
  EXPECT_EQ(ReactionName(ReactionTo(row.phase, row.event)), row.reaction);
  Enter(row.phase);
  ASSERT_TRUE(Feed(row.event));
  std::vector<std::string> words = Take();
  for (std::string& word : words) word = std::string(absl::StripPrefix(word, "1: "));
  EXPECT_EQ(absl::StrJoin(words, ", "), row.actions);
}

const Row kRows[] = {
    {Phase::kRemoving, SupervisorEvent::kUpdate, "-", ""},
    {Phase::kStopping, SupervisorEvent::kUpdate, "-", ""},
    {Phase::kStarting, SupervisorEvent::kUpdate, "Restart", "cancel-wake-ups, renew-channel"},
    {Phase::kThrottled, SupervisorEvent::kUpdate, "Restart", "cancel-wake-ups, renew-channel"},
    {Phase::kServed, SupervisorEvent::kUpdate, "Restart", "cancel-wake-ups, renew-channel"},
    {Phase::kFull, SupervisorEvent::kUpdate, "Restart", "cancel-wake-ups, renew-channel, watch"},
    {Phase::kBackingOff, SupervisorEvent::kUpdate, "Restart", "cancel-wake-ups, renew-channel"},
    {Phase::kWatched, SupervisorEvent::kUpdate, "Restart", "cancel-wake-ups, renew-channel"},
    {Phase::kRemoving, SupervisorEvent::kRemove, "-", ""},
    {Phase::kStopping, SupervisorEvent::kRemove, "-", ""},
    {Phase::kStarting, SupervisorEvent::kRemove, "Remove",
     "cancel-wake-ups, close-channel, close-listeners, signal 15 pid 100"},
    {Phase::kThrottled, SupervisorEvent::kRemove, "Remove",
     "cancel-wake-ups, close-channel, close-listeners, signal 15 pid 100"},
    {Phase::kServed, SupervisorEvent::kRemove, "Remove",
     "cancel-wake-ups, close-channel, close-listeners, signal 15 pid 100, signal 15 pid 101"},
    {Phase::kFull, SupervisorEvent::kRemove, "Remove",
     "cancel-wake-ups, close-channel, close-listeners, signal 15 pid 100, signal 15 pid 101"},
    {Phase::kBackingOff, SupervisorEvent::kRemove, "Remove",
     "cancel-wake-ups, close-channel, close-listeners, signal 15 pid 100"},
    {Phase::kWatched, SupervisorEvent::kRemove, "Remove",
     "cancel-wake-ups, ignore, close-channel, close-listeners, signal 15 pid 100"},
    {Phase::kRemoving, SupervisorEvent::kClientWaiting, "-", ""},
    {Phase::kStopping, SupervisorEvent::kClientWaiting, "-", ""},
    {Phase::kStarting, SupervisorEvent::kClientWaiting, "-", ""},
    {Phase::kThrottled, SupervisorEvent::kClientWaiting, "-", ""},
    {Phase::kServed, SupervisorEvent::kClientWaiting, "-", ""},
    {Phase::kFull, SupervisorEvent::kClientWaiting, "-", ""},
    {Phase::kBackingOff, SupervisorEvent::kClientWaiting, "-", ""},
    {Phase::kWatched, SupervisorEvent::kClientWaiting, "Start", "ignore, spawn generation 2"},
    {Phase::kRemoving, SupervisorEvent::kSpawned, "RecordAndEnd", "signal 15 pid 200"},
    {Phase::kStopping, SupervisorEvent::kSpawned, "RecordAndEnd", "signal 15 pid 200"},
    {Phase::kStarting, SupervisorEvent::kSpawned, "Record", ""},
    {Phase::kThrottled, SupervisorEvent::kSpawned, "Unexpected", "unexpected pid 200 Spawned"},
    {Phase::kServed, SupervisorEvent::kSpawned, "Unexpected", "unexpected pid 200 Spawned"},
    {Phase::kFull, SupervisorEvent::kSpawned, "Unexpected", "unexpected pid 200 Spawned"},
    {Phase::kBackingOff, SupervisorEvent::kSpawned, "Unexpected", "unexpected pid 200 Spawned"},
    {Phase::kWatched, SupervisorEvent::kSpawned, "Unexpected", "unexpected pid 200 Spawned"},
    {Phase::kRemoving, SupervisorEvent::kSpawnFailed, "GiveUpStart", ""},
    {Phase::kStopping, SupervisorEvent::kSpawnFailed, "GiveUpStart", ""},
    {Phase::kStarting, SupervisorEvent::kSpawnFailed, "Throttle", "spawn-failed"},
    {Phase::kThrottled, SupervisorEvent::kSpawnFailed, "Unexpected", "unexpected SpawnFailed"},
    {Phase::kServed, SupervisorEvent::kSpawnFailed, "Unexpected", "unexpected SpawnFailed"},
    {Phase::kFull, SupervisorEvent::kSpawnFailed, "Unexpected", "unexpected SpawnFailed"},
    {Phase::kBackingOff, SupervisorEvent::kSpawnFailed, "Unexpected", "unexpected SpawnFailed"},
    {Phase::kWatched, SupervisorEvent::kSpawnFailed, "Unexpected", "unexpected SpawnFailed"},
    {Phase::kRemoving, SupervisorEvent::kState, "-", ""},
    {Phase::kStopping, SupervisorEvent::kState, "Believe", ""},
    {Phase::kStarting, SupervisorEvent::kState, "Believe", ""},
    {Phase::kThrottled, SupervisorEvent::kState, "Believe", ""},
    {Phase::kServed, SupervisorEvent::kState, "Believe", ""},
    {Phase::kFull, SupervisorEvent::kState, "Believe", ""},
    {Phase::kBackingOff, SupervisorEvent::kState, "Believe", ""},
    {Phase::kWatched, SupervisorEvent::kState, "Believe", "ignore"},
    {Phase::kRemoving, SupervisorEvent::kFlooded, "-", ""},
    {Phase::kStopping, SupervisorEvent::kFlooded, "-", ""},
    {Phase::kStarting, SupervisorEvent::kFlooded, "EndFlooder", "flood pid 100, signal 9 pid 100"},
    {Phase::kThrottled, SupervisorEvent::kFlooded, "EndFlooder", "flood pid 100, signal 9 pid 100"},
    {Phase::kServed, SupervisorEvent::kFlooded, "EndFlooder", "flood pid 100, signal 9 pid 100"},
    {Phase::kFull, SupervisorEvent::kFlooded, "EndFlooder", "flood pid 100, signal 9 pid 100"},
    {Phase::kBackingOff, SupervisorEvent::kFlooded, "EndFlooder",
     "flood pid 100, signal 9 pid 100"},
    {Phase::kWatched, SupervisorEvent::kFlooded, "EndFlooder",
     "flood pid 100, signal 9 pid 100, ignore"},
    {Phase::kRemoving, SupervisorEvent::kChildDied, "Bury", "child-exit pid 100 status 1"},
    {Phase::kStopping, SupervisorEvent::kChildDied, "Bury", "child-exit pid 100 status 1"},
    {Phase::kStarting, SupervisorEvent::kChildDied, "Judge", "child-exit pid 100 status 1"},
    {Phase::kThrottled, SupervisorEvent::kChildDied, "ReportDeath", "child-exit pid 100 status 1"},
    {Phase::kServed, SupervisorEvent::kChildDied, "Judge", "child-exit pid 100 status 1"},
    {Phase::kFull, SupervisorEvent::kChildDied, "Judge", "child-exit pid 100 status 1, watch"},
    {Phase::kBackingOff, SupervisorEvent::kChildDied, "Judge", "child-exit pid 100 status 1"},
    {Phase::kWatched, SupervisorEvent::kChildDied, "Judge", "child-exit pid 100 status 1"},
    {Phase::kRemoving, SupervisorEvent::kStop, "-", ""},
    {Phase::kStopping, SupervisorEvent::kStop, "-", ""},
    {Phase::kStarting, SupervisorEvent::kStop, "BeginStop", "cancel-wake-ups, signal 15 pid 100"},
    {Phase::kThrottled, SupervisorEvent::kStop, "BeginStop", "cancel-wake-ups, signal 15 pid 100"},
    {Phase::kServed, SupervisorEvent::kStop, "BeginStop",
     "cancel-wake-ups, signal 15 pid 100, signal 15 pid 101"},
    {Phase::kFull, SupervisorEvent::kStop, "BeginStop",
     "cancel-wake-ups, signal 15 pid 100, signal 15 pid 101"},
    {Phase::kBackingOff, SupervisorEvent::kStop, "BeginStop", "cancel-wake-ups, signal 15 pid 100"},
    {Phase::kWatched, SupervisorEvent::kStop, "BeginStop",
     "cancel-wake-ups, signal 15 pid 100, ignore"},
};

INSTANTIATE_TEST_SUITE_P(Table, SupervisorRowTest, ::testing::ValuesIn(kRows),
                         [](const auto& info) {
                           return absl::StrCat(ServicePhaseName(info.param.phase),
                                               SupervisorEventName(info.param.event));
                         });

// The lines of docs/design.md between "| event |" and the next empty one.
std::vector<std::string> DocumentedTable() {
  std::ifstream file("docs/design.md");
  std::vector<std::string> lines;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    inside = absl::StartsWith(line, "| event |") || (inside && !line.empty());
    if (inside) lines.push_back(line);
  }
  return lines;
}

TEST(SupervisorTableDocument, ShowsTheTableOfTheCode) {  // F76
  std::vector<std::string> lines = {"| event |", "|---|"};
  for (size_t p = 0; p < kServicePhases; ++p) {
    absl::StrAppend(&lines[0], " ", ServicePhaseName(static_cast<Phase>(p)), " |");
    lines[1] += "---|";
  }
  for (size_t e = 0; e < kSupervisorEvents; ++e) {
    const auto event = static_cast<SupervisorEvent>(e);
    lines.push_back(absl::StrCat("| ", SupervisorEventName(event), " |"));
    for (size_t p = 0; p < kServicePhases; ++p) {
      absl::StrAppend(&lines.back(), " ", ReactionName(ReactionTo(static_cast<Phase>(p), event)),
                      " |");
    }
  }
  EXPECT_EQ(absl::StrJoin(DocumentedTable(), "\n"), absl::StrJoin(lines, "\n"));
}

TEST(SupervisorTableDocument, KnowsEveryName) {
  for (size_t r = 0; r < kReactions; ++r) EXPECT_NE(ReactionName(static_cast<Reaction>(r)), "?");
  for (size_t p = 0; p < kServicePhases; ++p)
    EXPECT_NE(ServicePhaseName(static_cast<Phase>(p)), "?");
  for (size_t e = 0; e < kSupervisorEvents; ++e)
    EXPECT_NE(SupervisorEventName(static_cast<SupervisorEvent>(e)), "?");
}

}  // namespace
}  // namespace posthouse

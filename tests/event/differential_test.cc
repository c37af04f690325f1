// Two backends, the same random operations on real descriptors, and what they deliver (E70, EO19,
// F15). poll(2), whose set is ours and whose kernel has no memory, is the oracle for every other
// backend.
//
// What must be equal, turn for turn: the calls of each descriptor's handlers and their order, the
// calls of timers and their order, and what the calls of the interface return. The order among
// descriptors is free (E51). The table below says in what a backend may differ, and nothing else is
// forgiven.
//
// A failure prints its seed and, shortened, the steps that lead to it; POSTHOUSE_SEED=SEED repeats
// that episode alone. POSTHOUSE_FULL=1 runs more episodes.

#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "posthouse/os/clock.h"
#include "posthouse/testing/event_wait.h"
#include "tests/event/differential_world.h"
#include "tests/event/event_fixture.h"

namespace posthouse {
namespace {

// What is not the same everywhere, each with the statement that allows it. What a row does not name
// must be equal.
struct Differences {
  Backend backend;
  // A hang-up of a watch without an enabled direction reaches on_error one turn later, and not at
  // all if something happens to the watch in between: interest that was dropped may still be in the
  // kernel's set, and it shows as readiness first (F6).
  bool late_hang_up = false;
  // In a turn whose wait a signal ended, files that are always ready are served, as the loop knows
  // them without the kernel (EO10, EO27).
  bool files_in_interrupted_turns = false;
  // A hang-up alone is not writability: a full socket that is shut down on both sides, or the
  // reading end of a pipe (E54). Sockets are emptied before they are shut down.
  bool hang_up_hides_writability = false;
  // What is ready is known before the call that waits, and no signal hides it. Turns are not
  // interrupted.
  bool knows_before_waiting = false;
  // Readiness that somebody else than the handler has used up may be told once more (F14). In the
  // turn after that such a descriptor's handlers do nothing.
  bool false_readiness = false;
};
constexpr Differences kDifferences[] = {
    {.backend = Backend::kEpoll, .files_in_interrupted_turns = true},
    {.backend = Backend::kSelect, .late_hang_up = true, .hang_up_hides_writability = true},
    {.backend = Backend::kKqueue, .late_hang_up = true, .files_in_interrupted_turns = true},
    {.backend = Backend::kIoUring, .knows_before_waiting = true, .false_readiness = true},
};
// Not generated, because the contract leaves it open:
//  - numbers closed behind a watch, which only poll and select notice (E20, F9);
//  - another file under a watched number that cannot be polled, or while the watch is paused;
//  - an error handler that a paused watch gets later, when it may have left the set (F6);
//  - urgent data, and pipes that are full when they lose their reader, where a row of
//    event_fixture.h says so.

constexpr int kStepsPerEpisode = 2000;
constexpr int kEpisodesPerPart = 125;
constexpr int kParts = 4;  // of a pair, to run side by side
static_assert(kStepsPerEpisode * kEpisodesPerPart * kParts >= 1000000);
constexpr int kFullFactor = 4;
constexpr int kStepsInChild = 40;

Differences DifferencesOf(Backend backend) {
  for (const Differences& row : kDifferences) {
    if (row.backend == backend) return row;
  }
  return {backend};
}

// A small generator that is cheap to begin anew, so that each step has its own and others can be
// left out: a counter, mixed.
class Dice {
 public:
  Dice(uint64_t seed, uint64_t step) : state_(Mixed(Mixed(seed) + step)) {}
  uint64_t Next() { return Mixed(++state_); }
  int Below(int bound) { return static_cast<int>(Next() % static_cast<unsigned>(bound)); }
  bool OneIn(int n) { return Below(n) == 0; }

 private:
  static uint64_t Mixed(uint64_t number) {
    for (int round = 0; round < 3; ++round) {
      number = (number ^ (number >> 32)) * 0xd6e8feb86659fd93 + 0x9e3779b97f4a7c15;
    }
    return number ^ (number >> 32);
  }

  uint64_t state_;
};

// For the handler of SIGABRT: what was running when a contract broke.
volatile uint64_t running_seed = 0;
volatile int running_step = 0;

void TellWhatRan(int) {
  char line[128];
  const int length = std::snprintf(line, sizeof line, "aborted in POSTHOUSE_SEED=%llu at step %d\n",
                                   static_cast<unsigned long long>(running_seed), running_step);
  if (::write(2, line, static_cast<size_t>(length)) != length) return;
}

// --- One episode ---

class Episode {
 public:
  // Steps whose number is in `left_out` (sorted) are not made.
  Episode(const BackendTraits& traits, uint64_t seed, const std::vector<int>& left_out, bool traced)
      : traits_(traits),
        differences_(DifferencesOf(traits.backend)),
        seed_(seed),
        left_out_(left_out),
        traced_(traced) {
    worlds_[0] = std::make_unique<World>(Backend::kPoll);
    worlds_[1] = std::make_unique<World>(traits.backend);
  }

  // The step that failed, if one did; see failure().
  absl::optional<int> Run(int steps) {
    running_seed = seed_;
    for (int step = 0; step < steps; ++step) {
      if (std::binary_search(left_out_.begin(), left_out_.end(), step)) continue;
      running_step = step;
      step_ = step;
      Dice dice(seed_, static_cast<uint64_t>(step));
      Step(&dice);
      CheckWorlds();
      if (!failure_.empty()) return step;
    }
    return absl::nullopt;
  }

  const std::string& failure() const { return failure_; }
  const std::string& trace() const { return trace_; }
  int64_t deliveries() const { return deliveries_; }

 private:
  // What poll has told and the other world has yet to tell. While that has just come, the watch
  // leaves the other set a turn later, too, and may tell again if it is touched until then.
  enum class HangUp { kNone, kMustCome, kMayCome, kHasCome };

  void Step(Dice* dice);
  void StepOnWatch(Dice* dice, int slot);
  void StepOnTraffic(Dice* dice, int slot);
  void StepOnTimer(Dice* dice);
  void StepOnChannel(Dice* dice, int slot);
  void Fork(Dice* dice);

  void Turn(Dice* dice);
  Plan MakePlan(Dice* dice, bool interrupted);
  void CompareTurn(const Plan& plan, bool cut_short);
  bool SameCalls(const Plan& plan, int slot, bool cut_short);
  bool SameButLate(int slot, bool cut_short, const std::vector<Call>& first,
                   const std::vector<Call>& second);
  void Forgive(int slot) {
    if (hang_ups_[slot] != HangUp::kNone) hang_ups_[slot] = HangUp::kMayCome;
  }

  Channel AnyChannel(Dice* dice, bool pollable);
  WatchChoice AnyChoice(Dice* dice, Channel channel, bool duplicated);
  void CheckWorlds();
  void Fail(const std::string& sentence) {
    if (failure_.empty()) failure_ = sentence;
  }
  template <typename... Parts>
  void Note(const Parts&... parts) {
    if (traced_) absl::StrAppend(&trace_, "  step ", step_, ": ", parts..., "\n");
  }

  // The same in both worlds; what it returns must be the same.
  template <typename Action>
  void Both(Action action) {
    for (const auto& world : worlds_) action(*world);
  }
  template <typename Action>
  void BothReturn(const char* what, Action action) {
    const int64_t first = action(*worlds_[0]);
    const int64_t second = action(*worlds_[1]);
    if (first != second) Fail(absl::StrCat(what, " returned ", first, " and ", second));
  }

  const BackendTraits& traits_;
  const Differences differences_;
  const uint64_t seed_;
  const std::vector<int> left_out_;
  const bool traced_;
  std::unique_ptr<World> worlds_[2];
  HangUp hang_ups_[kSlots] = {};
  bool used_up_[kSlots] = {};  // what may be told falsely
  bool in_child_ = false;
  int step_ = 0;
  int64_t deliveries_ = 0;
  std::string failure_;
  std::string trace_;
};

Channel Episode::AnyChannel(Dice* dice, bool pollable) {
  const int number = dice->Below(pollable ? 93 : 100);
  if (number < 25) return Channel::kPipeReader;
  if (number < 45) return Channel::kPipeWriter;
  if (number < 82) return Channel::kUnix;
  if (number < 88) return Channel::kListener;
  if (number < 93) return Channel::kTcp;
  return Channel::kFile;
}

WatchChoice Episode::AnyChoice(Dice* dice, Channel channel, bool duplicated) {
  const bool may_write = channel != Channel::kPipeReader && channel != Channel::kListener;
  WatchChoice choice;
  choice.read_handler = !dice->OneIn(8);
  choice.write_handler = may_write && (!choice.read_handler || !dice->OneIn(4));
  if (!may_write) choice.read_handler = true;
  choice.error_handler = !dice->OneIn(3);
  choice.read = choice.read_handler && !dice->OneIn(4);
  choice.write = choice.write_handler && dice->OneIn(2);
  choice.urgent = traits_.tells_urgent && channel == Channel::kTcp && dice->OneIn(2);
  choice.exclusive = !choice.write_handler && dice->OneIn(4);
  choice.sole_owner = !duplicated && !in_child_ && dice->OneIn(4);
  return choice;
}

void Episode::Step(Dice* dice) {
  const int slot = dice->Below(kSlots);
  const int number = dice->Below(1000);
  if (worlds_[0]->channel(slot) == Channel::kNone && number < 900) {
    const Channel channel = AnyChannel(dice, false);
    const WatchChoice choice = AnyChoice(dice, channel, false);
    Note("open slot ", slot, " and watch it");
    Both([&](World& world) {
      world.Open(slot, channel);
      world.Watch(slot, choice, step_);
    });
    Forgive(slot);
    Note("  ", worlds_[0]->Describe(slot));
  } else if (number < 340) {
    Turn(dice);
  } else if (number < 400) {
    const absl::Duration passed =
        absl::Milliseconds(dice->Below(20)) + absl::Nanoseconds(dice->Below(3));
    Note("time passes: ", absl::FormatDuration(passed));
    Interposer::Get().Advance(passed);
  } else if (number < 500) {
    StepOnTimer(dice);
  } else if (number < 700) {
    StepOnWatch(dice, slot);
  } else if (number < 950) {
    StepOnTraffic(dice, slot);
  } else if (number < 999 || in_child_ || !dice->OneIn(4)) {
    StepOnChannel(dice, slot);
  } else {
    Fork(dice);
  }
}

void Episode::StepOnWatch(Dice* dice, int slot) {
  Forgive(slot);
  const int number = dice->Below(10);
  const bool read = dice->OneIn(2);
  const bool sole_owner = worlds_[0]->watched(slot) && worlds_[0]->sole_owner(slot);
  const WatchChoice choice =
      AnyChoice(dice, worlds_[0]->channel(slot), worlds_[0]->duplicated(slot));
  if (!worlds_[0]->watched(slot)) {
    Note("watch slot ", slot);
    Both([&](World& world) { world.Watch(slot, choice, step_); });
  } else if (number < 3) {
    Note("enable slot ", slot, read ? " read" : " write");
    Both([&](World& world) { world.Enable(slot, read); });
  } else if (number < 7) {
    Note("disable slot ", slot, read ? " read" : " write");
    Both([&](World& world) { world.Disable(slot, read); });
  } else if (number < 8) {
    Note("set handlers of slot ", slot);
    Both([&](World& world) { world.SetHandlers(slot, choice, step_); });
  } else if (sole_owner) {
    Note("close slot ", slot, ", whose owner is alone");
    Both([&](World& world) { world.Close(slot); });
  } else {
    Note("end the watch of slot ", slot);
    Both([&](World& world) { world.Unwatch(slot); });
  }
  Note("  ", worlds_[0]->Describe(slot));
}

void Episode::StepOnTraffic(Dice* dice, int slot) {
  const End end = dice->OneIn(3) ? End::kOurs : End::kPeers;
  const char* who = end == End::kOurs ? "we" : "the peer";
  if (end == End::kOurs) used_up_[slot] = differences_.false_readiness;
  const int size = 1 + dice->Below(dice->OneIn(4) ? 4096 : 200);
  const int number = dice->Below(20);
  if (number < 8) {
    Note(who, " of slot ", slot, " writes ", size);
    BothReturn("write", [&](World& world) { return world.Write(slot, end, size); });
  } else if (number < 14) {
    Note(who, " of slot ", slot, " reads ", size);
    BothReturn("read", [&](World& world) { return world.Read(slot, end, size); });
  } else if (number < 16) {
    Note(who, " of slot ", slot, " reads all");
    BothReturn("drain", [&](World& world) { return world.Drain(slot, end); });
  } else if (number < 18) {
    Note(who, " of slot ", slot, " writes until it is full");
    BothReturn("fill", [&](World& world) { return world.Fill(slot, end); });
  } else if (traits_.tells_urgent) {
    Note("the peer of slot ", slot, " sends urgent data");
    BothReturn("urgent", [&](World& world) { return world.SendUrgent(slot); });
  }
}

void Episode::StepOnTimer(Dice* dice) {
  const int timer = dice->Below(kTimers);
  const int64_t deadline = os::SteadyNanos() + int64_t{1000000} * dice->Below(30);
  const bool from_now = dice->OneIn(2);
  switch (dice->Below(6)) {
    case 0:
      Note("cancel timer ", timer);
      BothReturn("cancel", [&](World& world) { return world.CancelTimer(timer); });
      break;
    case 1:
      Note("make timer ", timer, " anew");
      Both([&](World& world) { world.MakeTimerAnew(timer); });
      break;
    case 2:
      BothReturn("time left", [&](World& world) { return world.TimeLeft(timer); });
      break;
    default:
      Note("start timer ", timer);
      Both([&](World& world) { world.StartTimer(timer, deadline, from_now); });
      break;
  }
}

void Episode::StepOnChannel(Dice* dice, int slot) {
  const int number = dice->Below(10);
  const Channel channel = worlds_[0]->channel(slot);
  const Channel next = AnyChannel(dice, true);
  const bool next_takes_write = next != Channel::kPipeReader && next != Channel::kListener;
  const bool had_no_write = channel == Channel::kPipeReader || channel == Channel::kListener;
  if (number < 3) {
    Note("the peer of slot ", slot, " closes");
    if (!traits_.tells_loss_of_reader_of_full_pipe && channel == Channel::kPipeWriter) {
      BothReturn("drain", [&](World& world) { return world.Drain(slot, End::kPeers); });
    }
    Both([&](World& world) { world.ClosePeer(slot); });
  } else if (number < 5) {
    const End end = dice->OneIn(2) ? End::kOurs : End::kPeers;
    constexpr int kHow[] = {SHUT_RD, SHUT_WR, SHUT_RDWR};
    const int how = kHow[dice->Below(3)];
    Note(end == End::kOurs ? "we shut down slot " : "the peer shuts down slot ", slot, ", ", how);
    if (differences_.hang_up_hides_writability) {
      BothReturn("drain", [&](World& world) { return world.Drain(slot, End::kPeers); });
    }
    BothReturn("shutdown", [&](World& world) { return world.Shutdown(slot, end, how); });
  } else if (number < 7) {
    Note("close slot ", slot);
    Forgive(slot);
    Both([&](World& world) { world.Close(slot); });
  } else if (number < 8) {
    if (worlds_[0]->watched(slot) && worlds_[0]->sole_owner(slot)) return;
    Note("duplicate slot ", slot);
    Both([&](World& world) { world.Duplicate(slot); });
  } else if (next_takes_write || had_no_write) {
    Note("put another file over slot ", slot);
    Forgive(slot);
    Both([&](World& world) { world.PutOver(slot, next, step_); });
    Note("  ", worlds_[0]->Describe(slot));
  }
}

// The child goes on with both worlds for a while; what it does to the files, its parent finds.
void Episode::Fork(Dice* dice) {
  Note("a child goes on for ", kStepsInChild, " steps");
  const uint64_t seed = dice->Next();
  const pid_t child = os::Fork();
  if (child == 0) {
    in_child_ = true;
    Both([](World& world) { world.AfterFork(); });
    for (int step = 0; step < kStepsInChild && failure_.empty(); ++step) {
      Dice own(seed, static_cast<uint64_t>(step));
      Step(&own);
      CheckWorlds();
    }
    if (!failure_.empty() && traced_) {
      std::fprintf(stderr, "in a child: %s\n%s", failure_.c_str(), trace_.c_str());
    }
    ::_exit(failure_.empty() ? 0 : 1);
  }
  const absl::optional<int> status = WaitForExit(child);
  if (status.value_or(-1) != 0) Fail("a child failed");
  Both([](World& world) { world.AfterChild(); });
  std::fill(std::begin(used_up_), std::end(used_up_), differences_.false_readiness);
}

// --- A turn ---

Plan Episode::MakePlan(Dice* dice, bool interrupted) {
  Plan plan;
  plan.label = step_ + 1000000;
  plan.errors_do_nothing = differences_.late_hang_up;
  const bool lively = dice->OneIn(2);
  if (dice->OneIn(6)) {
    plan.attack = static_cast<Attack>(1 + dice->Below(static_cast<int>(Attack::kCount) - 1));
  }
  for (int i = 0; i < kSlots; ++i) {
    Plan::OfSlot& slot = plan.slots[i];
    slot.victim = plan.attack != Attack::kNone && dice->OneIn(3);
    slot.deed = lively && dice->OneIn(3)
                    ? static_cast<Deed>(dice->Below(static_cast<int>(Deed::kCount)))
                    : Deed::kReadSome;
    slot.bystander = used_up_[i] || (interrupted && differences_.files_in_interrupted_turns &&
                                     worlds_[0]->channel(i) == Channel::kFile);
    slot.amount = 1 + dice->Below(300);
    slot.channel = AnyChannel(dice, false);
    const bool renewed =
        slot.deed == Deed::kReplace || (slot.victim && plan.attack == Attack::kReplace);
    slot.choice = AnyChoice(dice, renewed ? slot.channel : worlds_[0]->channel(i),
                            !renewed && worlds_[0]->duplicated(i));
    slot.deadline_ns = os::SteadyNanos() + (int64_t{dice->Below(20)} << 20) + i;
  }
  for (Plan::OfTimer& timer : plan.timers) {
    if (dice->OneIn(2)) {
      timer.deed = static_cast<TimerDeed>(dice->Below(static_cast<int>(TimerDeed::kCount)));
    }
    timer.other = dice->Below(kTimers);
    timer.delay_ns = int64_t{1000000} * dice->Below(20);
  }
  return plan;
}

void Episode::Turn(Dice* dice) {
  const bool interrupted = dice->OneIn(20) && !differences_.knows_before_waiting;
  const Plan plan = MakePlan(dice, interrupted);
  const SystemCall waits[] = {SystemCall::kPoll, traits_.wait_call};
  bool threw[2];
  for (int i = 0; i < 2; ++i) {
    Interposer& system = Interposer::Get();
    const int fault = interrupted ? system.FailOnce(waits[i], EINTR) : -1;
    threw[i] = worlds_[i]->Turn(plan);
    if (interrupted) system.Remove(fault);
  }
  if (threw[0] != threw[1]) Fail("only one turn threw");
  CompareTurn(plan, interrupted || threw[0]);
  if (!traced_) return;
  Note(interrupted ? "an interrupted turn" : "a turn");
  for (int slot = 0; slot < kSlots; ++slot) {
    for (const auto& world : worlds_) {
      for (const Call& call : world->calls(slot)) {
        Note("  ", world == worlds_[0] ? "poll" : traits_.name, ": slot ", slot, " label ",
             call.label, " event ", call.event);
      }
    }
  }
}

void Episode::CompareTurn(const Plan& plan, bool cut_short) {
  if (worlds_[0]->timer_calls() != worlds_[1]->timer_calls()) Fail("timers ran differently");
  for (int slot = 0; slot < kSlots && failure_.empty(); ++slot) {
    deliveries_ += static_cast<int64_t>(worlds_[0]->calls(slot).size());
    if (SameCalls(plan, slot, cut_short)) continue;
    std::string text = absl::StrCat("slot ", slot, ":");
    for (int i = 0; i < 2; ++i) {
      absl::StrAppend(&text, "\n", i == 0 ? "poll" : traits_.name, " (", worlds_[i]->Describe(slot),
                      ") told");
      for (const Call& call : worlds_[i]->calls(slot)) {
        absl::StrAppend(&text, " ", call.event, " (", call.label, ")");
      }
    }
    Fail(text);
  }
}

// In their order.
bool HasAllOf(const std::vector<Call>& calls, const std::vector<Call>& needed) {
  size_t found = 0;
  for (const Call& call : calls) {
    if (found < needed.size() && call == needed[found]) ++found;
  }
  return found == needed.size();
}

bool Episode::SameCalls(const Plan& plan, int slot, bool cut_short) {
  std::vector<Call> first = worlds_[0]->calls(slot);
  std::vector<Call> second = worlds_[1]->calls(slot);
  if (used_up_[slot]) {
    if (cut_short) return true;
    used_up_[slot] = false;
    return plan.slots[slot].victim || HasAllOf(second, first);
  }
  if (plan.slots[slot].bystander) return true;
  if (plan.slots[slot].victim && plan.attack != Attack::kNone) {
    // Whether it was called before it was silenced is a matter of order among descriptors; that it
    // was not called afterwards, each world knows by itself. New handlers are called in its place.
    if (plan.attack != Attack::kSetHandlers) {
      hang_ups_[slot] = plan.attack == Attack::kDisable ? HangUp::kMayCome : HangUp::kNone;
      return true;
    }
    for (Call& call : first) call.label = 0;
    for (Call& call : second) call.label = 0;
  }
  return differences_.late_hang_up ? SameButLate(slot, cut_short, first, second) : first == second;
}

bool Episode::SameButLate(int slot, bool cut_short, const std::vector<Call>& first,
                          const std::vector<Call>& second) {
  const auto is_hang_up = [](const std::vector<Call>& calls) {
    return calls.size() == 1 && calls[0].event == kEventException;
  };
  HangUp& hang_up = hang_ups_[slot];
  const HangUp expected = hang_up;
  if (first.empty() && second.empty()) {
    if (cut_short) return true;  // no whole turn has passed
    hang_up = HangUp::kNone;
    return expected != HangUp::kMustCome;
  }
  hang_up = HangUp::kNone;
  if (is_hang_up(first) && second.empty() && expected != HangUp::kMustCome) {
    hang_up = HangUp::kMustCome;
    return true;
  }
  const bool late = expected == HangUp::kMustCome || expected == HangUp::kMayCome;
  if (first.empty() && is_hang_up(second) && late) {
    hang_up = HangUp::kHasCome;
    return true;
  }
  // Urgent data is told in time, and in the same call if the hang-up is known.
  if (is_hang_up(first) && worlds_[0]->urgent(slot)) hang_up = HangUp::kMayCome;
  return first == second;
}

void Episode::CheckWorlds() {
  for (const auto& world : worlds_) {
    if (!world->broken().empty()) {
      Fail(absl::StrCat(world == worlds_[0] ? "poll" : traits_.name, ": ", world->broken()));
    }
  }
  const EventLoopCounters& first = worlds_[0]->loop().counters();
  const EventLoopCounters& second = worlds_[1]->loop().counters();
  if (first.watches != second.watches) Fail("there are more watches in one world");
  if (first.timers_pending != second.timers_pending) Fail("more timers are pending in one world");
}

// --- Failures ---

// Leaves out steps as long as the rest still fails, in ever smaller pieces.
std::vector<int> Shorten(const BackendTraits& traits, uint64_t seed, int steps) {
  constexpr int kMostRuns = 600;
  std::vector<int> left_out;
  int runs = 0;
  for (int piece = steps / 2; piece >= 1; piece /= 2) {
    for (int begin = 0; begin + piece <= steps && runs < kMostRuns; begin += piece) {
      std::vector<int> trial = left_out;
      for (int i = begin; i < begin + piece; ++i) trial.push_back(i);
      std::sort(trial.begin(), trial.end());
      trial.erase(std::unique(trial.begin(), trial.end()), trial.end());
      if (trial == left_out) continue;
      ++runs;
      Episode episode(traits, seed, trial, false);
      if (episode.Run(steps).has_value()) left_out = std::move(trial);
    }
  }
  return left_out;
}

struct Part {
  BackendTraits traits;
  int number;
};

class Differential : public testing::TestWithParam<Part> {
 protected:
  void SetUp() override {
    if (traits().on_double != nullptr) {
      kqueue_.set_quirks(*traits().on_double);
      system_->SetKqueue(&kqueue_);
    }
    system_->UseFakeClock(ClockMode::kManual);
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGABRT, &TellWhatRan);
  }
  void TearDown() override {
    ::signal(SIGPIPE, SIG_DFL);
    ::signal(SIGABRT, SIG_DFL);
  }

  const BackendTraits& traits() const { return GetParam().traits; }

  // Returns how many handlers of descriptors were called.
  int64_t RunEpisode(uint64_t seed) {
    {
      Episode episode(traits(), seed, {}, false);
      const absl::optional<int> failed = episode.Run(kStepsPerEpisode);
      if (!failed.has_value()) return episode.deliveries();
      failed_steps_ = *failed + 1;
      ADD_FAILURE() << "poll and " << traits().name << " disagree in POSTHOUSE_SEED=" << seed
                    << " at step " << *failed << ":\n"
                    << episode.failure();
    }
    const std::vector<int> left_out = Shorten(traits(), seed, failed_steps_);
    Episode shortest(traits(), seed, left_out, true);
    shortest.Run(failed_steps_);
    std::fprintf(stderr, "shortened to %d steps:\n%s%s\n",
                 failed_steps_ - static_cast<int>(left_out.size()), shortest.trace().c_str(),
                 shortest.failure().c_str());
    return 0;
  }

  FdLeakCheck descriptors_;
  ChildCheck children_;
  KqueueDouble kqueue_;
  ScopedInterposer system_;
  int failed_steps_ = 0;
};

TEST_P(Differential, EO19_BackendsDeliverTheSame) {
  uint64_t seed = 0;
  if (const char* given = ::getenv("POSTHOUSE_SEED"); given != nullptr) {
    ASSERT_TRUE(absl::SimpleAtoi(given, &seed)) << given;
    if (GetParam().number == 0) RunEpisode(seed);
    return;
  }
  const int episodes = kEpisodesPerPart * (FullRun() ? kFullFactor : 1);
  int64_t deliveries = 0;
  for (int i = 0; i < episodes && !HasFailure(); ++i) {
    deliveries += RunEpisode(static_cast<uint64_t>(GetParam().number) * 1000000 + i);
  }
  RecordProperty("steps", std::to_string(episodes * kStepsPerEpisode));
  RecordProperty("deliveries", std::to_string(deliveries));
  // The comparison would be empty if nothing were delivered.
  if (!HasFailure()) {
    EXPECT_GT(deliveries, int64_t{episodes} * kStepsPerEpisode / 4);
  }
}

std::vector<Part> Parts() {
  std::vector<Part> parts;
  for (const BackendTraits& row : TestedBackends()) {
    if (row.backend == Backend::kPoll) continue;
    for (int number = 0; number < kParts; ++number) parts.push_back({row, number});
  }
  return parts;
}

std::string PartName(const testing::TestParamInfo<Part>& info) {
  return absl::StrCat(info.param.traits.name, "_part_", info.param.number);
}
void PrintTo(const Part& part, std::ostream* out) { *out << part.traits.name; }

INSTANTIATE_TEST_SUITE_P(PollAnd, Differential, testing::ValuesIn(Parts()), PartName);

}  // namespace
}  // namespace posthouse

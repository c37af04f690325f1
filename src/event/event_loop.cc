#include "posthouse/event/event_loop.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "posthouse/base/check.h"
#include "posthouse/event/event_loop_impl.h"
#include "posthouse/event/io_uring_port.h"
#include "posthouse/event/poller.h"
#include "posthouse/event/watch_table.h"
#include "posthouse/os/clock.h"

namespace posthouse {
namespace {

constexpr uint8_t kDirections = kPollRead | kPollWrite;
constexpr uint8_t kConditions = kDirections | kPollUrgent;

// WatchSlot::flags.
constexpr uint8_t kMustApply = 1;    // the kernel's set holds what is not wanted, and it showed
constexpr uint8_t kShows = 2;        // that has happened to this watch: it is kept exact
constexpr uint8_t kAlwaysReady = 4;  // a file that cannot be polled
constexpr uint8_t kOut = 8;          // left the set until interest returns (F6)
constexpr uint8_t kBackground = 16;
constexpr uint8_t kExclusive = 32;
constexpr uint8_t kSoleOwner = 64;
constexpr uint8_t kVerify = 128;  // the number may mean another file by now

// While a change waits for memory, it is tried again this often.
constexpr int64_t kRetryNs = 100 * 1000 * 1000;
// A deadline that is farther away than this is watched with the coarse clock; see PlanWait().
constexpr int64_t kFarDeadlineNs = 1000 * 1000 * 1000;
constexpr int64_t kNapNs = 500 * 1000 * 1000;
constexpr int kFewestTurnsBetweenGlances = 16;
constexpr int kMostTurnsBetweenGlances = 1024;
// One turn in so many checks that one of its events is of the file that was watched; see Audit().
constexpr int64_t kTurnsPerAudit = 1024;
static_assert((kTurnsPerAudit & (kTurnsPerAudit - 1)) == 0);

// What the set is to hold for a watch that wants `target`.
uint8_t KernelInterest(const WatchSlot& slot, uint8_t target) {
  const bool exclusive = (slot.flags & kExclusive) != 0 && target == kPollRead;
  return target | kPollError | (exclusive ? kPollExclusive : 0) |
         ((slot.flags & kSoleOwner) != 0 ? kPollSoleOwner : 0);
}

uint8_t EffectiveInterest(const WatchSlot& slot) {
  return (slot.flags & kOut) != 0 ? 0 : slot.wanted;
}

}  // namespace

EventLoop::Impl::Impl(const EventLoopOptions& options, std::unique_ptr<Poller> poller,
                      TurnClock* clock, TimerQueue* timers)
    : options_(options),
      clock_(*clock),
      timers_(*timers),
      poller_(std::move(poller)),
      changes_are_free_(poller_->changes_are_free()) {
  batch_.events.resize(std::max(options.initial_batch, 1));
}

EventLoop::Impl::~Impl() {
  POSTHOUSE_CHECK(!in_turn_, "an event loop was destroyed from inside a handler");
  POSTHOUSE_CHECK(counters_.watches == 0, "an event loop was destroyed before its watches");
}

// --- Watches ---

absl::Status EventLoop::Impl::Begin(int fd, const FdWatchOptions& options) {
  POSTHOUSE_CHECK(!stamp_.forked(), "a forked child must call AfterFork() on its event loop first");
  if (fd < 0) return absl::InvalidArgumentError(absl::StrCat("watch of fd ", fd));
  WatchSlot* slot = table_.Ensure(fd);
  if (slot == nullptr) return absl::ResourceExhaustedError(absl::StrCat("memory to watch fd ", fd));
  if (slot->watched()) return absl::AlreadyExistsError(absl::StrCat("fd ", fd, " is watched"));
  if (!table_.SetRare(slot, {options.on_writable, options.on_error})) {
    return absl::ResourceExhaustedError(absl::StrCat("memory to watch fd ", fd));
  }
  ++slot->generation;
  slot->wanted = (options.read && options.on_readable != nullptr ? kPollRead : 0) |
                 (options.write && options.on_writable != nullptr ? kPollWrite : 0) |
                 (options.urgent && options.on_error != nullptr ? kPollUrgent : 0);
  slot->flags = (options.background ? kBackground : 0) | (options.exclusive ? kExclusive : 0) |
                (options.sole_owner ? kSoleOwner : 0);
  slot->context = options.context;
  slot->on_readable = options.on_readable;
  if (slot->wanted != 0) {
    if (absl::Status status = Submit(fd, slot, slot->wanted); !status.ok()) {
      slot->wanted = 0;
      ++slot->generation;
      slot->ended_in_turn = static_cast<uint16_t>(counters_.turns);
      return status;
    }
  }
  ++counters_.watches;
  NoteChange(fd, slot);  // armed from the next wait on
  return absl::OkStatus();
}

void EventLoop::Impl::End(int fd) {
  WatchSlot& slot = table_.Get(fd);
  ++slot.generation;
  slot.ended_in_turn = static_cast<uint16_t>(counters_.turns);
  --counters_.watches;
  if ((slot.flags & kAlwaysReady) != 0) {
    always_ready_.erase(std::find(always_ready_.begin(), always_ready_.end(), fd));
  } else if (slot.kernel != 0) {
    // close(2) comes next and does it for a sole owner. A forgetful child must not reach into its
    // parent's set.
    const bool skip = (slot.flags & kSoleOwner) != 0 && poller_->close_removes();
    if (!skip && !stamp_.forked()) poller_->Remove(fd, slot.kernel).IgnoreError();  // counted
  }
  slot.wanted = slot.armed = slot.kernel = slot.flags = 0;
}

void EventLoop::Impl::Enable(int fd, uint8_t direction) {
  WatchSlot& slot = table_.Get(fd);
  POSTHOUSE_CHECK(
      (direction == kPollRead ? slot.on_readable : table_.Rare(slot).on_writable) != nullptr,
      "interest in a direction without a handler");
  slot.wanted |= direction;
  slot.flags &= ~kOut;
  NoteChange(fd, &slot);
}

void EventLoop::Impl::Disable(int fd, uint8_t direction) {
  WatchSlot& slot = table_.Get(fd);
  slot.wanted &= ~direction;
  NoteChange(fd, &slot);
}

void EventLoop::Impl::VerifyBeforeWait(int fd) {
  WatchSlot& slot = table_.Get(fd);
  slot.flags |= kVerify;
  NoteChange(fd, &slot);
}

void EventLoop::Impl::SetHandlers(int fd, EventHandler on_readable, EventHandler on_writable,
                                  EventHandler on_error, void* context) {
  WatchSlot& slot = table_.Get(fd);
  if (!table_.SetRare(&slot, {on_writable, on_error})) throw std::bad_alloc();
  slot.context = context;
  slot.on_readable = on_readable;
  if (on_readable == nullptr) slot.wanted &= ~kPollRead;
  if (on_writable == nullptr) slot.wanted &= ~kPollWrite;
  if (on_error == nullptr) slot.wanted &= ~kPollUrgent;
  NoteChange(fd, &slot);
}

// --- Changes of interest ---

void EventLoop::Impl::NoteChange(int fd, WatchSlot* slot) {
  if (slot->next_changed != WatchSlot::kNotInList) return;
  slot->next_changed = changed_;
  changed_ = fd;
}

void EventLoop::Impl::ApplyChanges() {
  retry_wanted_ = false;
  int fd = changed_;
  changed_ = WatchSlot::kEndOfList;
  while (fd >= 0) {
    WatchSlot& slot = table_.Get(fd);
    const int next = slot.next_changed;
    slot.next_changed = WatchSlot::kNotInList;
    if (slot.watched()) Apply(fd, &slot);
    fd = next;
  }
}

void EventLoop::Impl::Apply(int fd, WatchSlot* slot) {
  if ((slot->flags & kVerify) != 0) Verify(fd, slot);
  const uint8_t interest = EffectiveInterest(*slot);
  slot->armed = interest;
  const uint8_t superfluous = slot->kernel & ~interest & kConditions;
  const bool exact = (slot->flags & kMustApply) != 0 || (changes_are_free_ && superfluous != 0);
  slot->flags &= ~kMustApply;
  if ((slot->flags & kAlwaysReady) != 0) return;
  if ((interest & ~slot->kernel) == 0 && !exact) return;
  uint8_t target = interest;
  if (target == 0 && (slot->flags & kOut) == 0 && table_.Rare(*slot).on_error != nullptr) {
    target = kPollError;
  } else if (!exact && (slot->flags & (kShows | kExclusive)) == 0) {
    target |= superfluous;  // a direction that comes and goes costs one call in its life
  }
  const absl::Status status = Submit(fd, slot, target);
  if (status.ok()) return;
  if (absl::IsResourceExhausted(status)) {
    retry_wanted_ = true;
    slot->flags |= kMustApply;
    NoteChange(fd, slot);
  } else {
    GiveUp(fd, slot, status);
  }
}

// Brings the kernel's set to hold `target` for the watch; on an error it holds what it held.
absl::Status EventLoop::Impl::Submit(int fd, WatchSlot* slot, uint8_t target) {
  if (target == 0) {
    if (slot->kernel != 0) poller_->Remove(fd, slot->kernel).IgnoreError();  // counted
    slot->kernel = 0;
    return absl::OkStatus();
  }
  const uint8_t interest = KernelInterest(*slot, target);
  absl::Status status = slot->kernel == 0
                            ? poller_->Add(fd, slot->generation, interest)
                            : poller_->Change(fd, slot->generation, slot->kernel, interest);
  if (status.ok()) {
    slot->kernel = interest;
  } else if (absl::IsPermissionDenied(status) && slot->kernel == 0) {
    slot->flags |= kAlwaysReady;
    always_ready_.push_back(fd);
    return absl::OkStatus();
  }
  return status;
}

// A number that was closed behind our back while a duplicate of its file lives keeps reporting
// under a generation that looks right (F4), and one that was given to another file reports nothing.
// Asking the kernel to change its interest to what it is tells: it does not know the number, or not
// with this file, and then the poller has repaired that by adding it.
void EventLoop::Impl::Verify(int fd, WatchSlot* slot) {
  slot->flags &= ~kVerify;
  if ((slot->flags & kAlwaysReady) != 0) {
    slot->flags &= ~kAlwaysReady;  // Apply() adds it anew
    always_ready_.erase(std::find(always_ready_.begin(), always_ready_.end(), fd));
    return;
  }
  if (slot->kernel == 0) return;
  const int64_t repaired = poller_->counters().repaired;
  const absl::Status status = poller_->Change(fd, slot->generation, slot->kernel, slot->kernel);
  if (!status.ok()) GiveUp(fd, slot, status);
  if (!status.ok() || poller_->counters().repaired != repaired) rebuild_wanted_ = true;
}

// The number is not open any more, or not what it was: the watch stays, out of the set, and its
// owner is told.
void EventLoop::Impl::GiveUp(int fd, WatchSlot* slot, const absl::Status& reason) {
  watch_error_ = reason;
  slot->kernel = 0;
  slot->armed = 0;
  slot->flags |= kOut;
  given_up_.emplace_back(fd, slot->generation);
}

absl::Status EventLoop::Impl::Rebuild() {
  if (absl::Status status = poller_->Open(); !status.ok()) return status;
  AddAllAgain();
  return absl::OkStatus();
}

void EventLoop::Impl::AddAllAgain() {
  ++counters_.rebuilds;
  rebuild_wanted_ = false;
  table_.ForEach([this](int fd, WatchSlot& slot) {
    if ((slot.flags & kAlwaysReady) != 0) return true;
    if (slot.kernel != 0) slot.flags |= kMustApply;
    slot.kernel = 0;
    Apply(fd, &slot);
    return true;
  });
}

// --- The turn ---

inline void EventLoop::Impl::Call(EventHandler handler, int event, void* context) {
  ++counters_.deliveries;
  meter_.Call(handler, event, context);
}

// The path of a ready event: the slot, the generation, the handler.
ABSL_ATTRIBUTE_ALWAYS_INLINE
inline void EventLoop::Impl::Dispatch(const ReadyEvent& event) {
  WatchSlot* slot = table_.Find(event.fd);
  if (ABSL_PREDICT_FALSE(slot == nullptr || slot->generation != event.generation)) {
    OnStaleEvent(event, slot);
    return;
  }
  uint32_t ready = event.ready;
  if (ABSL_PREDICT_FALSE((ready & ~slot->armed) != 0 || (ready & kPollUrgent) != 0)) {
    ready = DispatchUnusual(event, slot);
  }
  ready &= slot->armed;
  if ((ready & kPollRead) != 0) {
    if (ABSL_PREDICT_TRUE((slot->wanted & kPollRead) != 0)) {
      Call(slot->on_readable, kEventRead, slot->context);
    } else {
      ++counters_.stale_events;
    }
    if ((ready & kPollWrite) != 0 && slot->generation != event.generation) return;
  }
  if ((ready & kPollWrite) != 0) {
    if (ABSL_PREDICT_TRUE((slot->wanted & kPollWrite) != 0)) {
      Call(table_.Rare(*slot).on_writable, kEventWrite, slot->context);
    } else {
      ++counters_.stale_events;
    }
  }
}

ABSL_ATTRIBUTE_ALWAYS_INLINE
inline absl::Status EventLoop::Impl::Turn(absl::Duration max_wait) {
  if (ABSL_PREDICT_FALSE(in_turn_)) {
    return absl::FailedPreconditionError("RunOnce() was called from inside a handler");
  }
  POSTHOUSE_CHECK(!stamp_.forked(), "a forked child must call AfterFork() on its event loop first");
  in_turn_ = true;
  const auto end = absl::MakeCleanup([this] { in_turn_ = false; });
  ++counters_.turns;
  if (changed_ >= 0) ApplyChanges();
  if (ABSL_PREDICT_FALSE(rebuild_wanted_)) {
    if (absl::Status status = Rebuild(); !status.ok()) return status;
  }
  if (ABSL_PREDICT_FALSE(!Wait(max_wait))) return batch_.error;
  if (timers_.pending() > 0) RunTimers();
  if (ABSL_PREDICT_FALSE((counters_.turns & (kTurnsPerAudit - 1)) == 0)) Audit();
  busy_ = batch_.count + batch_.completions > 0;
  for (int i = 0; i < batch_.count; ++i) Dispatch(batch_.events[i]);
  if (ABSL_PREDICT_FALSE(batch_.completions > 0)) RunCompletions();
  if (ABSL_PREDICT_FALSE(!always_ready_.empty())) DispatchAlwaysReady();
  if (ABSL_PREDICT_FALSE(!given_up_.empty())) DispatchGivenUp();
  return absl::OkStatus();
}

// False if the wait failed for good; the batch has the reason.
inline bool EventLoop::Impl::Wait(absl::Duration max_wait) {
  const bool plain = timers_.pending() == 0 && max_wait == absl::InfiniteDuration() &&
                     !retry_wanted_ && always_ready_.empty() && given_up_.empty() &&
                     after_wait_ == nullptr && !BatchWasFull();
  if (ABSL_PREDICT_FALSE(!plain)) return WaitByPlan(max_wait);
  clock_.Forget();
  ++counters_.waits;
  if (ABSL_PREDICT_FALSE(!poller_->Wait(-1, &batch_))) {
    return HealFailedWait() && WaitByPlan(max_wait);
  }
  counters_.interrupted_waits += batch_.interrupted;
  return true;
}

bool EventLoop::Impl::WaitByPlan(absl::Duration max_wait) {
  if (BatchWasFull()) GrowBatch();
  for (;;) {
    const WaitPlan plan = PlanWait(max_wait);
    clock_.Forget();
    ++counters_.waits;
    if (ABSL_PREDICT_FALSE(!poller_->Wait(plan.timeout_ns, &batch_))) {
      if (!HealFailedWait()) return false;
    } else if (batch_.count + batch_.completions > 0) {
      if (plan.end == WaitEnd::kGlance) turns_between_glances_ = kFewestTurnsBetweenGlances;
      break;
    } else if (batch_.interrupted || !WaitOn(plan, &max_wait)) {
      break;
    }
  }
  wait_failed_ = false;
  counters_.interrupted_waits += batch_.interrupted;
  if (after_wait_ != nullptr) after_wait_(after_wait_context_);
  return true;
}

// A turn full of events asks for a larger batch (EO5).
void EventLoop::Impl::GrowBatch() {
  const size_t wanted = std::min<size_t>(batch_.events.size() * 2, options_.max_batch);
  if (wanted > batch_.events.size()) batch_.events.resize(wanted);
}

// The first failure is answered by a new set; false after the second in a row (F9).
bool EventLoop::Impl::HealFailedWait() {
  batch_.count = 0;
  if (std::exchange(wait_failed_, true)) {
    wait_failed_ = false;
    return false;
  }
  if (absl::Status status = Rebuild(); !status.ok()) {
    wait_failed_ = false;
    batch_.error = status;
    return false;
  }
  return true;
}

// How long the kernel may sleep, negative for ever, and what ends the sleep.
//
// A wait needs the time only for the first deadline, and a busy loop with that far away does
// without a reading of the precise clock: it starts with a nap, and asks the clock when nothing has
// come in it. The coarse clock is behind the precise one, by less than the difference between far
// and a nap unless the system stands still. The latest reading is never later than now, so what it
// says is due is due.
//
// A wait with a time limit costs the kernel two readings of the clock even if it has something at
// once; one that does not wait costs none. So a loop that always finds something begins with a
// glance. One that mostly has to wait finds that out once in a thousand turns.
EventLoop::Impl::WaitPlan EventLoop::Impl::PlanWait(absl::Duration max_wait) {
  if (max_wait <= absl::ZeroDuration() || SomethingIsReadyAnyway()) return {0, WaitEnd::kLimit};
  const bool unlimited = max_wait == absl::InfiniteDuration();
  int64_t limit = kLongestWaitNs;
  if (max_wait < absl::Nanoseconds(kLongestWaitNs)) {
    limit = absl::ToInt64Nanoseconds(max_wait);
    if (absl::Nanoseconds(limit) < max_wait) ++limit;
  }
  if (retry_wanted_) limit = std::min(limit, kRetryNs);
  if (timers_.pending() == 0) return {limit, WaitEnd::kLimit};
  int64_t deadline = timers_.NextDeadline();
  if (unlimited && busy_ && deadline - os::CoarseSteadyNanos() > kFarDeadlineNs) {
    if (turns_until_glance_ == 0) return {0, WaitEnd::kGlance};
    --turns_until_glance_;
    return {std::min(limit, kNapNs), WaitEnd::kNap};
  }
  if (deadline > latest_now_) latest_now_ = os::SteadyNanos();
  if (deadline <= latest_now_) {
    if (timers_.HasDue(latest_now_)) return {0, WaitEnd::kLimit};
    deadline = timers_.NextDeadline();
  }
  const int64_t left = std::max<int64_t>(deadline - latest_now_, 0);
  return left < limit ? WaitPlan{left, WaitEnd::kTimer} : WaitPlan{limit, WaitEnd::kLimit};
}

// After a wait in which nothing came: whether to go on waiting, because it was only a glance or a
// nap, or because the timer that it was for has been pushed back or cancelled since its bucket was
// looked at (E23).
bool EventLoop::Impl::WaitOn(const WaitPlan& plan, absl::Duration* max_wait) {
  if (plan.end == WaitEnd::kLimit) return false;
  if (plan.end == WaitEnd::kGlance) {
    turns_between_glances_ = std::min(2 * turns_between_glances_, kMostTurnsBetweenGlances);
    turns_until_glance_ = turns_between_glances_;
    return true;
  }
  busy_ = false;
  if (plan.end == WaitEnd::kNap) return true;
  const int64_t started = latest_now_;
  const int64_t now = latest_now_ = clock_.now_ns();
  if (now <= started || timers_.HasDue(now)) return false;
  *max_wait -= absl::Nanoseconds(now - started);
  return true;
}

bool EventLoop::Impl::SomethingIsReadyAnyway() const {
  if (!given_up_.empty()) return true;
  return std::any_of(always_ready_.begin(), always_ready_.end(),
                     [this](int fd) { return (table_.Get(fd).armed & kDirections) != 0; });
}

inline void EventLoop::Impl::RunTimers() {
  const int64_t deadline = timers_.NextDeadline();
  // One clock is enough: the one that is likely to decide.
  if (deadline_was_far_ && deadline - clock_.coarse_now_ns() > kFarDeadlineNs) return;
  const int64_t now = latest_now_ = clock_.now_ns();
  deadline_was_far_ = deadline - now > kFarDeadlineNs;
  if (now >= deadline) timers_.RunDue(now, options_.max_timers_per_turn, &meter_);
}

// Finds what Verify() finds, without a suspicion. Once in a thousand turns is cheap, and a loop
// that spins gets there at once.
void EventLoop::Impl::Audit() {
  if (batch_.count == 0) return;
  const int64_t pick = counters_.turns / kTurnsPerAudit % batch_.count;
  const ReadyEvent& event = batch_.events[pick];
  WatchSlot* slot = table_.Find(event.fd);
  if (slot == nullptr || slot->generation != event.generation || slot->kernel == 0) return;
  if ((slot->kernel & kPollExclusive) == 0) Verify(event.fd, slot);
}

// Conditions that were not asked for, or urgent data: calls on_error if it is its turn, and returns
// what is ready for the directions, nothing if the watch has ended.
uint32_t EventLoop::Impl::DispatchUnusual(const ReadyEvent& event, WatchSlot* slot) {
  uint32_t ready = event.ready;
  bool tell = (ready & slot->armed & slot->wanted & kPollUrgent) != 0;
  if ((ready & (kPollError | kPollHangUp)) != 0) {
    if ((slot->armed & kDirections) != 0) {
      ready |= slot->armed & kDirections;  // whose read or write tells the cause (EO9)
    } else if ((slot->wanted & kDirections) == 0) {
      slot->flags |= kOut | kMustApply;  // it would be reported for ever (F6)
      tell = true;
    }
  }
  if ((ready & ~slot->armed & kConditions) != 0) slot->flags |= kMustApply | kShows;
  if ((slot->flags & kMustApply) != 0) NoteChange(event.fd, slot);
  const EventHandler on_error = table_.Rare(*slot).on_error;
  if (tell && on_error != nullptr) Call(on_error, kEventException, slot->context);
  return slot->generation == event.generation ? ready : 0;
}

// Of a watch that has ended: in this turn, so that the kernel could not know, or long ago, and then
// the kernel holds what we thought removed.
void EventLoop::Impl::OnStaleEvent(const ReadyEvent& event, WatchSlot* slot) {
  const bool never_watched = slot == nullptr || slot->generation == 0;
  ++(never_watched ? counters_.unexpected_events : counters_.stale_events);
  if (!never_watched && slot->ended_in_turn == static_cast<uint16_t>(counters_.turns)) return;
  const bool number_is_free = slot == nullptr || !slot->watched();
  if (number_is_free && poller_->Remove(event.fd, event.ready).ok()) return;
  rebuild_wanted_ = true;
}

// Goes by a copy, as handlers may change the list.
void EventLoop::Impl::DispatchAlwaysReady() {
  const std::vector<int> files = always_ready_;
  for (const int fd : files) {
    const WatchSlot& slot = table_.Get(fd);
    const uint32_t ready = slot.armed & kDirections;
    if (ready != 0 && (slot.flags & kAlwaysReady) != 0) Dispatch({ready, fd, slot.generation});
  }
}

// Those that had completed when the wait was over.
void EventLoop::Impl::RunCompletions() {
#if defined(__linux__)
  IoUringPort* port = poller_->io_uring_port();
  const EventHandler run = [](int, void* context) {
    static_cast<IoUringPort*>(context)->RunNext();
  };
  for (int i = batch_.completions; i > 0; --i) Call(run, kEventRead, port);
#endif
}

void EventLoop::Impl::DispatchGivenUp() {
  std::vector<std::pair<int, uint32_t>> given_up;
  given_up.swap(given_up_);
  for (const auto& [fd, generation] : given_up) {
    const WatchSlot& slot = table_.Get(fd);
    const EventHandler on_error = table_.Rare(slot).on_error;
    if (slot.generation == generation && on_error != nullptr) {
      Call(on_error, kEventException, slot.context);
    }
  }
}

// --- The rest of the interface ---

absl::Status EventLoop::Impl::Drain(absl::Duration limit) {
  if (in_turn_) return absl::FailedPreconditionError("Drain() was called from inside a handler");
  const int64_t start = os::SteadyNanos();
  for (;;) {
    const absl::Duration left = limit - absl::Nanoseconds(os::SteadyNanos() - start);
    bool anything = timers_.pending() > 0;
    if (!anything) {
      table_.ForEach([&anything](int, const WatchSlot& slot) {
        anything = (slot.flags & kBackground) == 0 && EffectiveInterest(slot) != 0;
        return !anything;
      });
    }
    if (!anything || left <= absl::ZeroDuration()) return absl::OkStatus();
    if (absl::Status status = Turn(left); !status.ok()) return status;
  }
}

void EventLoop::Impl::RemoveForkFunctions(void* context) {
  fork_functions_.erase(std::remove_if(fork_functions_.begin(), fork_functions_.end(),
                                       [&](const auto& entry) { return entry.second == context; }),
                        fork_functions_.end());
}

absl::Status EventLoop::Impl::AfterFork() {
  for (const auto& [function, context] : fork_functions_) {
    if (absl::Status status = function(context); !status.ok()) return status;
  }
  if (absl::Status status = poller_->Renew(); !status.ok()) return status;
  stamp_.Renew();
  table_.ForEach([](int, WatchSlot& slot) {
    slot.flags &= ~kSoleOwner;  // the parent has the file too
    return true;
  });
  AddAllAgain();
  return absl::OkStatus();
}

const EventLoopCounters& EventLoop::Impl::counters() {
  counters_.timers_run = timers_.runs();
  counters_.timers_pending = timers_.pending();
  counters_.interest_changes = poller_->counters().changes;
  counters_.repaired_changes = poller_->counters().repaired;
  counters_.longest_handler_ns = meter_.longest_ns();
  return counters_;
}

std::vector<std::string> EventLoop::Impl::DescribeWatches() const {
  std::vector<std::string> lines;
  table_.ForEach([&lines](int fd, const WatchSlot& slot) {
    std::string interest;
    if ((slot.wanted & kPollRead) != 0) absl::StrAppend(&interest, "read");
    if ((slot.wanted & kPollWrite) != 0)
      absl::StrAppend(&interest, interest.empty() ? "" : "+", "write");
    if ((slot.wanted & kPollUrgent) != 0)
      absl::StrAppend(&interest, interest.empty() ? "" : "+", "urgent");
    std::string line = absl::StrCat("fd ", fd, " ", interest.empty() ? "paused" : interest);
    if ((slot.flags & kExclusive) != 0) absl::StrAppend(&line, " exclusive");
    if ((slot.flags & kBackground) != 0) absl::StrAppend(&line, " background");
    if ((slot.flags & kAlwaysReady) != 0) absl::StrAppend(&line, " always-ready");
    if ((slot.flags & kOut) != 0) absl::StrAppend(&line, " hung-up");
    lines.push_back(std::move(line));
    return true;
  });
  return lines;
}

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create(const EventLoopOptions& options) {
  absl::StatusOr<std::unique_ptr<Poller>> poller = MakePoller(options.backend);
  if (!poller.ok()) return poller.status();
  return std::unique_ptr<EventLoop>(new EventLoop(options, *std::move(poller)));
}

EventLoop::EventLoop(const EventLoopOptions& options, std::unique_ptr<Poller> poller)
    : timers_(os::SteadyNanos()),
      impl_(std::make_unique<Impl>(options, std::move(poller), &clock_, &timers_)) {}

EventLoop::~EventLoop() = default;

absl::StatusOr<FdWatch> EventLoop::Watch(int fd, const FdWatchOptions& options) {
  if (absl::Status status = impl_->Begin(fd, options); !status.ok()) return status;
  return FdWatch(this, fd);
}

absl::Status EventLoop::RunOnce(absl::Duration max_wait) { return impl_->Turn(max_wait); }

absl::Status EventLoop::Drain(absl::Duration limit) { return impl_->Drain(limit); }

absl::Status EventLoop::AfterFork() { return impl_->AfterFork(); }

absl::Status EventLoop::TakeWatchError() { return impl_->TakeWatchError(); }

Backend EventLoop::backend() const { return impl_->backend(); }

const EventLoopCounters& EventLoop::counters() const { return impl_->counters(); }

void EventLoop::MeasureHandlers(bool on) { impl_->meter().set_on(on); }

std::vector<std::string> EventLoop::DescribeWatches() const { return impl_->DescribeWatches(); }

}  // namespace posthouse

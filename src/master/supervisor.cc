#include "posthouse/master/supervisor.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace posthouse {
namespace {

using Kind = SupervisorAction::Kind;
using Report = SupervisorAction::Report;
using Phase = ServicePhase;
using Event = SupervisorEvent;

// More than any event appends for one service, not counting two for each of its children.
constexpr size_t kActionsOfAnEvent = 12;
// Deaths of strangers that are kept while a spawn is under way; more than one is rare already.
constexpr size_t kEarlyDeaths = 64;

// A deadline is never the mark for "none", and adding never overflows.
int64_t Later(int64_t now_ns, int64_t delay_ns) {
  const int64_t delay = std::max<int64_t>(delay_ns, 0);
  return delay > kNeverNs - 1 - now_ns ? kNeverNs - 1 : now_ns + delay;
}

int64_t RelativeNs(int64_t time_ns, int64_t now_ns) {
  return time_ns == kNeverNs ? kNeverNs : time_ns - now_ns;
}

bool IsKnownValue(int32_t availability) {
  return availability == static_cast<int32_t>(Availability::kTaken) ||
         availability == static_cast<int32_t>(Availability::kAvailable);
}

bool IsAvailable(const StatusMessage& message) {
  return message.availability == static_cast<int32_t>(Availability::kAvailable);
}

bool EndedInPeace(const ChildEnd& end) { return !end.signalled && end.code == 0; }

bool EndedByOrder(const ChildEnd& end) {
  return end.signalled && (end.code == SIGTERM || end.code == SIGKILL);
}

}  // namespace

// ---- Phases (M59, M60)

bool Supervisor::LimitAllowsAnother(const Service& service) {
  return service.rules.process_limit <= 0 || service.total() < service.rules.process_limit;
}

bool Supervisor::StressEligible(const Service& service) {
  return service.rules.stress_eligible && service.rules.process_limit > 1;
}

Phase Supervisor::PhaseOf(const Service& service) {
  if (service.removing) return Phase::kRemoving;
  if (service.stopping) return Phase::kStopping;
  if (service.spawning.asked) return Phase::kStarting;
  if (service.throttled()) return Phase::kThrottled;
  if (service.available > 0) return Phase::kServed;
  if (!LimitAllowsAnother(service)) return Phase::kFull;
  if (service.back_off_until_ns != kNeverNs) return Phase::kBackingOff;
  return Phase::kWatched;
}

// A service needs looks while clients may depend on a worker that says it is idle, or on one that
// is stopped in its request: nobody else would notice that it takes none (F75).
bool Supervisor::WantsLooks(const Service& service) {
  switch (service.phase) {
    case Phase::kFull:
      return true;
    case Phase::kServed:
    case Phase::kBackingOff:
    case Phase::kWatched:
      return service.available + service.doubted > 0;
    case Phase::kRemoving:
    case Phase::kStopping:
    case Phase::kStarting:
    case Phase::kThrottled:
      return false;
  }
  return false;
}

// After every event: the phase, and what follows from it.
void Supervisor::Settle(Service* service) {
  service->phase = PhaseOf(*service);
  const bool watch = service->phase == Phase::kWatched;
  if (watch != service->watching) {
    service->watching = watch;
    Watch(*service, watch);
  }
  if (service->phase == Phase::kFull && StressEligible(*service) &&
      now_ns_ >= service->busy_warning_ns) {
    service->busy_warning_ns = Later(now_ns_, times_.busy_warning_ns);
    AppendReport(Report::kLimitReached, *service)->limit = service->rules.process_limit;
  }
  if (look_ns_ == kNeverNs && WantsLooks(*service)) {
    look_ns_ = Later(now_ns_, times_.look_ns);
    deadline_is_known_ = false;
  }
}

// A worker that serves one request after the other asks for a watch and its end again and again,
// hundreds of times in one reading (F72): an action that has not been taken yet is taken back.
void Supervisor::Watch(const Service& service, bool watch) {
  const Kind opposite = watch ? Kind::kIgnoreListeners : Kind::kWatchListeners;
  if (!actions_.empty() && actions_.back().kind == opposite &&
      actions_.back().service == service.id) {
    actions_.pop_back();
    return;
  }
  Append(watch ? Kind::kWatchListeners : Kind::kIgnoreListeners, service);
}

// ---- Dispatch

void Supervisor::React(Service* service, const Occurrence& occurrence) {
  const Reaction reaction = ReactionTo(service->phase, occurrence.event);
  if (reaction != Reaction::kBelieve) deadline_is_known_ = false;
  switch (reaction) {
    case Reaction::kIgnore:
      return;
    case Reaction::kUnexpected:
      Unexpected(*service, occurrence);
      return;
    case Reaction::kRestart:
      Restart(service, *occurrence.rules);
      break;
    case Reaction::kRemove:
      Remove(service);
      break;
    case Reaction::kStart:
      Start(service);
      break;
    case Reaction::kRecord:
      Record(service, occurrence);
      break;
    case Reaction::kRecordAndEnd:
      RecordAndEnd(service, occurrence);
      break;
    case Reaction::kThrottle:
      FailStart(service);
      break;
    case Reaction::kGiveUpStart:
      GiveUpStart(service);
      break;
    case Reaction::kBelieve:
      Believe(occurrence.child, occurrence.available);
      break;
    case Reaction::kEndFlooder:
      EndFlooder(service, occurrence.child);
      break;
    case Reaction::kJudge:
      Judge(service, occurrence.child, occurrence.end);
      break;
    case Reaction::kReportDeath:
      ReportDeath(*service, Forget(occurrence.child), occurrence.end);
      break;
    case Reaction::kBury:
      Bury(service, occurrence.child, occurrence.end);
      break;
    case Reaction::kWeigh:
      Weigh(service, occurrence);
      break;
    case Reaction::kTrigger:
      WakeUp(service, !service->throttled());  // it may be while a spawn is under way (M85)
      break;
    case Reaction::kSkipTrigger:
      WakeUp(service, false);
      break;
    case Reaction::kUnthrottle:
      AppendReport(Report::kThrottleOver, *service);
      break;
    case Reaction::kEndBackOff:
      break;  // its timer is off, which is all
    case Reaction::kEndRetired:
      EndRetired(service);
      break;
    case Reaction::kKill:
      Kill(service);
      break;
    case Reaction::kBeginStop:
      BeginStop(service);
      break;
  }
  Settle(service);
}

void Supervisor::Unexpected(const Service& service, const Occurrence& occurrence) {
  SupervisorAction* action = AppendReport(Report::kUnexpected, service);
  action->event = occurrence.event;
  action->pid = occurrence.pid;
  action->generation = occurrence.generation;
}

void Supervisor::Tick(int64_t now_ns) {
  now_ns_ = std::max(now_ns_, std::min(now_ns, kNeverNs - 1));
}

// Everything that an event appends has its place before anything changes (F125). Doubling, for
// reserve() alone may grow to the exact size each time.
void Supervisor::Reserve(size_t more) {
  const size_t needed = actions_.size() + more;
  if (needed > actions_.capacity()) actions_.reserve(std::max(needed, 2 * actions_.capacity()));
}

SupervisorAction* Supervisor::Append(Kind kind, const Service& service) {
  actions_.emplace_back();
  actions_.back().kind = kind;
  actions_.back().service = service.id;
  return &actions_.back();
}

SupervisorAction* Supervisor::AppendReport(Report report, const Service& service) {
  SupervisorAction* action = Append(Kind::kReport, service);
  action->report = report;
  return action;
}

// The only place that asks for a signal: of a child in the table, which is one not reaped (F83).
void Supervisor::Signal(Child* child, int signal) {
  SupervisorAction* action = Append(Kind::kSignal, *child->service);
  action->pid = child->pid;
  action->signal = signal;
  action->generation = child->generation;
  child->signalled = signal;
}

Supervisor::Service* Supervisor::Find(ServiceId id) {
  const auto found = services_.find(id);
  return found == services_.end() ? nullptr : &found->second;
}

Supervisor::Child* Supervisor::FindChild(pid_t pid) {
  const auto found = children_.find(pid);
  return found == children_.end() ? nullptr : &found->second;
}

void Supervisor::TakeActions(std::vector<SupervisorAction>* actions) {
  actions->clear();
  actions->swap(actions_);
}

// ---- Start, update, removal, stop of a service

void Supervisor::AddService(ServiceId id, const ServiceRules& rules, int64_t now_ns) {
  Tick(now_ns);
  Reserve(kActionsOfAnEvent);
  const auto [place, is_new] = services_.try_emplace(id);
  Service* service = &place->second;
  if (!is_new) {
    AppendReport(Report::kUnexpected, *service);
    return;
  }
  deadline_is_known_ = false;
  service->id = id;
  service->rules = rules;
  service->stopping = stopping_;
  service->conditional_wake_up = rules.wake_up_conditional;
  if (!stopping_) StartWakeUps(service);
  Settle(service);
}

void Supervisor::UpdateService(ServiceId id, const ServiceRules& rules, int64_t now_ns) {
  Tick(now_ns);
  Reserve(kActionsOfAnEvent);
  Service* service = Find(id);
  if (service == nullptr) return;
  Occurrence occurrence{Event::kUpdate};
  occurrence.rules = &rules;
  React(service, occurrence);
}

// The throttle, its timer, the stress period, listeners and counts stay as they are (M83, M101).
// What is above a lowered limit goes with the others when its channel closes (F85).
void Supervisor::Restart(Service* service, const ServiceRules& rules) {
  service->rules = rules;
  service->conditional_wake_up = rules.wake_up_conditional;
  RenewChannel(service);
}

// M104. Whoever has the old channel ends by itself when it is idle (P43) or after its request
// (P44).
void Supervisor::RenewChannel(Service* service) {
  Append(Kind::kCancelWakeUps, *service);
  Append(Kind::kRenewChannel, *service);
  service->spawning.retired = service->spawning.asked;
  for (Child* child : service->children) {
    if (child->retiring) continue;
    child->retiring = true;
    child->retirement_ns = Later(now_ns_, times_.retirement_ns);
    service->retirement_ns = std::min(service->retirement_ns, child->retirement_ns);
  }
  StartWakeUps(service);
}

// M84, M88.
void Supervisor::StartWakeUps(Service* service) {
  service->next_wake_up_ns = kNeverNs;
  if (service->rules.wake_up_ns <= 0 || service->conditional_wake_up) return;
  WakeUp(service, !service->throttled());
}

void Supervisor::WakeUp(Service* service, bool send) {
  service->next_wake_up_ns = Later(now_ns_, service->rules.wake_up_ns);
  if (send) Append(Kind::kWakeUp, *service);
}

void Supervisor::RemoveService(ServiceId id, int64_t now_ns) {
  Tick(now_ns);
  Service* service = Find(id);
  if (service == nullptr) return;
  Reserve(kActionsOfAnEvent + service->children.size());
  React(service, Occurrence{Event::kRemove});
  CloseIfFinished(service);
}

// M105, without the wait (MO6). The listeners go at once, so that new clients are refused though an
// old worker lingers (F103).
void Supervisor::Remove(Service* service) {
  service->removing = true;
  service->next_wake_up_ns = kNeverNs;
  service->throttled_until_ns = kNeverNs;
  service->back_off_until_ns = kNeverNs;
  service->retirement_ns = kNeverNs;
  Append(Kind::kCancelWakeUps, *service);
  if (service->watching) {
    service->watching = false;
    Append(Kind::kIgnoreListeners, *service);
  }
  Append(Kind::kCloseChannel, *service);
  Append(Kind::kCloseListeners, *service);
  EndEveryChild(service, times_.removal_ns);
}

void Supervisor::EndEveryChild(Service* service, int64_t patience_ns) {
  for (Child* child : service->children) {
    if (child->signalled == 0) Signal(child, SIGTERM);
  }
  service->kill_ns = Later(now_ns_, patience_ns);
}

void Supervisor::Kill(Service* service) {
  for (Child* child : service->children) {
    if (child->signalled == SIGKILL) continue;
    AppendReport(Report::kStubborn, *service)->pid = child->pid;
    Signal(child, SIGKILL);
  }
}

void Supervisor::CloseIfFinished(Service* service) {
  if (!service->removing || service->spawning.asked || !service->children.empty()) return;
  Append(Kind::kCloseService, *service);
  services_.erase(service->id);
  deadline_is_known_ = false;
}

void Supervisor::Stop(int64_t now_ns) {
  Tick(now_ns);
  Reserve(kActionsOfAnEvent * services_.size() + children_.size() + 1);
  stopping_ = true;
  for (auto& [id, service] : services_) React(&service, Occurrence{Event::kStop});
  NoteIfAllGone();
}

void Supervisor::BeginStop(Service* service) {
  service->stopping = true;
  service->next_wake_up_ns = kNeverNs;
  service->throttled_until_ns = kNeverNs;
  service->back_off_until_ns = kNeverNs;
  service->retirement_ns = kNeverNs;
  Append(Kind::kCancelWakeUps, *service);
  EndEveryChild(service, times_.stop_ns);
}

void Supervisor::NoteIfAllGone() {
  if (!stopping_ || all_gone_ || spawns_asked_ > 0 || !children_.empty()) return;
  all_gone_ = true;
  actions_.emplace_back();
  actions_.back().kind = Kind::kAllGone;
}

// ---- Spawning

void Supervisor::ClientWaiting(ServiceId id, int64_t now_ns) {
  Tick(now_ns);
  Service* service = Find(id);
  if (service == nullptr) return;
  Reserve(kActionsOfAnEvent);
  React(service, Occurrence{Event::kClientWaiting});
}

// M61, M63. All memory that the child will need comes first: once it runs, it must be counted.
void Supervisor::Start(Service* service) {
  if (service->children.size() == service->children.capacity()) {
    service->children.reserve(2 * service->children.size() + 1);
  }
  early_deaths_.reserve(kEarlyDeaths);
  if (service->spawning.node.empty()) {
    ChildTable one;
    one.try_emplace(0);
    service->spawning.node = one.extract(one.begin());
  }
  service->watching = false;
  Append(Kind::kIgnoreListeners, *service);
  // M81: the start that takes the last slot. The others retire when convenient.
  if (StressEligible(*service) && service->total() + 1 >= service->rules.process_limit) {
    if (now_ns_ >= service->stress_until_ns) RenewChannel(service);
    service->stress_until_ns = Later(now_ns_, times_.stress_ns);
  }
  Spawning& spawning = service->spawning;
  spawning.asked = true;
  spawning.retired = false;
  spawning.generation = ++generation_;
  spawning.early_pid = 0;
  ++spawns_asked_;
  SupervisorAction* action = Append(Kind::kSpawn, *service);
  action->generation = spawning.generation;
  action->stress = StressEligible(*service) && now_ns_ < service->stress_until_ns;
}

void Supervisor::Spawned(ServiceId id, pid_t pid, uint32_t generation, int64_t now_ns) {
  Tick(now_ns);
  Service* service = Find(id);
  if (service == nullptr) return;
  Reserve(2 * kActionsOfAnEvent + early_deaths_.size());
  Occurrence occurrence{Event::kSpawned};
  occurrence.pid = pid;
  occurrence.generation = generation;
  occurrence.reaped = TakeEarlyDeath(pid, generation, &occurrence.end);
  React(service, occurrence);
  CloseIfFinished(service);
  if (occurrence.reaped) ChildDied(pid, occurrence.end, now_ns_);
  ReportEarlyDeaths();
  NoteIfAllGone();
}

// M67. Null when this can not be the child that was asked for.
Supervisor::Child* Supervisor::Record(Service* service, const Occurrence& occurrence) {
  Spawning& spawning = service->spawning;
  if (!spawning.asked || spawning.generation != occurrence.generation) {
    Unexpected(*service, occurrence);
    return nullptr;
  }
  if (occurrence.pid <= 0 || FindChild(occurrence.pid) != nullptr) {
    Unexpected(*service, occurrence);
    FailStart(service);
    return nullptr;
  }
  spawning.node.key() = occurrence.pid;
  Child* child = &children_.insert(std::move(spawning.node)).position->second;
  spawning.asked = false;
  --spawns_asked_;
  *child = Child();
  child->pid = occurrence.pid;
  child->generation = occurrence.generation;
  child->service = service;
  child->started_ns = now_ns_;
  service->children.push_back(child);
  ++service->available;
  service->sign = true;
  if (spawning.retired) {
    child->retiring = true;
    child->retirement_ns = Later(now_ns_, times_.retirement_ns);
    service->retirement_ns = std::min(service->retirement_ns, child->retirement_ns);
  }
  if (spawning.early_pid == child->pid) {
    child->heard = true;
    child->uses = spawning.early_uses;
    SetState(child, spawning.early_available, false);
  }
  if (service->conditional_wake_up && !service->removing && !service->stopping) {
    service->conditional_wake_up = false;
    StartWakeUps(service);
  }
  return child;
}

void Supervisor::RecordAndEnd(Service* service, const Occurrence& occurrence) {
  Child* child = Record(service, occurrence);
  if (child == nullptr) return;
  service->retirement_ns = kNeverNs;
  if (occurrence.reaped) return;  // its number means nothing any more (F83)
  Signal(child, SIGTERM);
  service->kill_ns = Later(now_ns_, service->removing ? times_.removal_ns : times_.stop_ns);
}

void Supervisor::SpawnFailed(ServiceId id, int64_t now_ns) {
  Tick(now_ns);
  Service* service = Find(id);
  if (service == nullptr) return;
  Reserve(2 * kActionsOfAnEvent + early_deaths_.size());
  React(service, Occurrence{Event::kSpawnFailed});
  CloseIfFinished(service);
  ReportEarlyDeaths();
  NoteIfAllGone();
}

void Supervisor::GiveUpStart(Service* service) {
  if (!service->spawning.asked) return;
  service->spawning.asked = false;
  --spawns_asked_;
}

// M63.
void Supervisor::FailStart(Service* service) {
  GiveUpStart(service);
  if (service->removing || service->stopping) return;
  Throttle(service);
  AppendReport(Report::kSpawnFailed, *service)->delay_ns = service->rules.throttle_ns;
}

// M76. A throttle that runs is not made longer: M75 asks for one that is not throttled.
void Supervisor::Throttle(Service* service) {
  if (service->throttled()) return;
  service->throttled_until_ns = Later(now_ns_, service->rules.throttle_ns);
}

// ---- Status messages

// Looks the child up first: that answers for the service, too, unless the message is gossip.
void Supervisor::Status(ServiceId id, pid_t sender, const StatusMessage& message, int64_t now_ns) {
  Tick(now_ns);
  Reserve(kActionsOfAnEvent);
  if (sender != 0 && sender != message.pid)
    return Gossip(Report::kGossipForged, id, sender, message);
  Child* child = FindChild(message.pid);
  if (child == nullptr) {
    if (!RememberEarlyStatus(id, message)) Gossip(Report::kGossipUnknownPid, id, sender, message);
    return;
  }
  if (child->service->id != id) return Gossip(Report::kGossipOtherService, id, sender, message);
  if (child->generation != message.generation)
    return Gossip(Report::kGossipWrongGeneration, id, sender, message);
  if (!IsKnownValue(message.availability))
    return Gossip(Report::kGossipUnknownValue, id, sender, message);
  child->heard = true;
  const bool available = IsAvailable(message);
  if (available == child->available && !child->doubted) return;  // a repeat (P29)
  Occurrence occurrence{Event::kState};
  occurrence.child = child;
  occurrence.available = available;
  React(child->service, occurrence);
}

void Supervisor::Believe(Child* child, bool available) {
  Service* service = child->service;
  if (available && !child->available) {
    ++child->uses;
    service->short_lives_in_a_row = 0;
  }
  if (available != child->available) service->sign = true;
  SetState(child, available, false);
}

// The only place that changes the counts, apart from birth and death of a child.
void Supervisor::SetState(Child* child, bool available, bool doubted) {
  Service* service = child->service;
  service->available -= child->available && !child->doubted ? 1 : 0;
  service->doubted -= child->available && child->doubted ? 1 : 0;
  child->available = available;
  child->doubted = doubted;
  service->available += available && !doubted ? 1 : 0;
  service->doubted += available && doubted ? 1 : 0;
}

// A child may speak before the shell has said that it exists: kept for Record().
bool Supervisor::RememberEarlyStatus(ServiceId id, const StatusMessage& message) {
  if (spawns_asked_ == 0) return false;
  Service* service = Find(id);
  if (service == nullptr || !service->spawning.asked || message.pid <= 0) return false;
  Spawning& spawning = service->spawning;
  if (message.generation != spawning.generation || !IsKnownValue(message.availability))
    return false;
  if (spawning.early_pid != message.pid) {
    spawning.early_pid = message.pid;
    spawning.early_available = true;
    spawning.early_uses = 0;
  }
  if (IsAvailable(message) && !spawning.early_available) ++spawning.early_uses;
  spawning.early_available = IsAvailable(message);
  return true;
}

void Supervisor::Gossip(Report report, ServiceId id, pid_t sender, const StatusMessage& message) {
  actions_.emplace_back();
  SupervisorAction& action = actions_.back();
  action.report = report;
  action.service = id;
  action.pid = sender != 0 ? sender : message.pid;
  action.generation = message.generation;
  action.message = message;
}

// ---- Floods (F72)

void Supervisor::Flooded(ServiceId id, pid_t sender, int64_t now_ns) {
  Tick(now_ns);
  Service* service = Find(id);
  if (service == nullptr) return;
  Reserve(kActionsOfAnEvent);
  Child* child = FindChild(sender);
  if (child == nullptr || child->service != service) {
    AppendReport(Report::kFlood, *service)->pid = sender;
    return;
  }
  Occurrence occurrence{Event::kFlooded};
  occurrence.child = child;
  React(service, occurrence);
}

// TERM would wait for the end of a request that may never come. What its program does now it will
// do again, so that the next start has to wait.
void Supervisor::EndFlooder(Service* service, Child* child) {
  if (child->signalled == SIGKILL) return;
  SupervisorAction* action = AppendReport(Report::kFlood, *service);
  action->pid = child->pid;
  action->generation = child->generation;
  action->signal = SIGKILL;
  Signal(child, SIGKILL);
  Throttle(service);
}

// ---- Deaths

void Supervisor::ChildDied(pid_t pid, ChildEnd end, int64_t now_ns) {
  Tick(now_ns);
  Reserve(kActionsOfAnEvent);
  Child* child = FindChild(pid);
  if (child == nullptr) {
    // Perhaps the one that a spawn under way will name. Within the reserved memory.
    if (spawns_asked_ > 0 && early_deaths_.size() < early_deaths_.capacity()) {
      early_deaths_.push_back(EarlyDeath{pid, end, generation_});
      return;
    }
    return ReportUnknownDeath(pid, end);
  }
  Service* service = child->service;
  Occurrence occurrence{Event::kChildDied};
  occurrence.child = child;
  occurrence.pid = pid;
  occurrence.end = end;
  React(service, occurrence);
  CloseIfFinished(service);
  NoteIfAllGone();
}

// Whether the child of this spawn was reaped before the answer came. A death that came before the
// spawn was asked for is that of an earlier process with the same number.
bool Supervisor::TakeEarlyDeath(pid_t pid, uint32_t generation, ChildEnd* end) {
  for (size_t i = 0; i < early_deaths_.size(); ++i) {
    const EarlyDeath death = early_deaths_[i];
    if (death.pid != pid || static_cast<int32_t>(death.generation - generation) < 0) continue;
    early_deaths_.erase(early_deaths_.begin() + static_cast<std::ptrdiff_t>(i));
    *end = death.end;
    return true;
  }
  return false;
}

// Nobody will name them any more.
void Supervisor::ReportEarlyDeaths() {
  while (spawns_asked_ == 0 && !early_deaths_.empty()) {
    const EarlyDeath death = early_deaths_.back();
    early_deaths_.pop_back();
    ReportUnknownDeath(death.pid, death.end);
  }
}

// M93, F82.
void Supervisor::ReportUnknownDeath(pid_t pid, ChildEnd end) {
  actions_.emplace_back();
  SupervisorAction& action = actions_.back();
  action.report = Report::kUnknownChild;
  action.pid = pid;
  action.end = end;
}

// Takes the child out of every table and count (M77). From here on its number means nothing.
Supervisor::Child Supervisor::Forget(Child* child) {
  const Child dead = *child;
  Service* service = dead.service;
  SetState(child, false, false);
  service->children.erase(std::find(service->children.begin(), service->children.end(), child));
  service->sign = true;
  children_.erase(dead.pid);
  return dead;
}

// M73 to M76. A worker that somebody killed is no broken program (F80).
void Supervisor::Judge(Service* service, Child* child, ChildEnd end) {
  const Child dead = Forget(child);
  ReportDeath(*service, dead, end);
  if (EndedInPeace(end) || EndedByOrder(end)) return JudgeShortLife(service, dead, end);
  if (dead.uses > 0 || service->throttled()) return;
  Throttle(service);
  SupervisorAction* action = AppendReport(Report::kBadStart, *service);
  action->pid = dead.pid;
  action->end = end;
  action->delay_ns = service->rules.throttle_ns;
}

// MO4, F80: neither a program that ends at once nor somebody who kills every worker makes the
// manager turn without a pause. One whose channel was closed has every reason to end at once, and
// one that we ended says nothing about the next start (F75).
void Supervisor::JudgeShortLife(Service* service, const Child& dead, ChildEnd end) {
  if (dead.retiring || dead.signalled != 0) return;
  if (dead.uses > 0 || now_ns_ - dead.started_ns >= times_.short_life_ns) {
    service->short_lives_in_a_row = 0;
    return;
  }
  if (++service->short_lives_in_a_row <= times_.tolerated_short_lives) return;
  const int doublings =
      std::min(service->short_lives_in_a_row - times_.tolerated_short_lives - 1, 16);
  service->short_lives_in_a_row = std::min(service->short_lives_in_a_row, 1000);
  const int64_t delay_ns =
      std::min(times_.first_back_off_ns << doublings,
               end.signalled ? times_.longest_killed_back_off_ns : times_.longest_back_off_ns);
  service->back_off_until_ns = Later(now_ns_, delay_ns);
  SupervisorAction* action = AppendReport(Report::kBackOff, *service);
  action->end = end;
  action->delay_ns = delay_ns;
}

// M74; exit status 0 is silent (M73).
void Supervisor::ReportDeath(const Service& service, const Child& dead, ChildEnd end) {
  if (EndedInPeace(end)) return;
  SupervisorAction* action = AppendReport(Report::kChildExit, service);
  action->pid = dead.pid;
  action->generation = dead.generation;
  action->end = end;
}

// The end that was asked for is not news (M74, P40).
void Supervisor::Bury(Service* service, Child* child, ChildEnd end) {
  const Child dead = Forget(child);
  if (!EndedByOrder(end)) ReportDeath(*service, dead, end);
}

// ---- Silent workers (F75)

void Supervisor::Looked(ServiceId id, bool client_waits, absl::Span<const ChildActivity> activity,
                        int64_t now_ns) {
  Tick(now_ns);
  Service* service = Find(id);
  if (service == nullptr || !service->look_asked) return;
  Reserve(kActionsOfAnEvent + 2 * service->children.size());
  service->look_asked = false;
  Occurrence occurrence{Event::kLooked};
  occurrence.client_waits = client_waits;
  occurrence.activity = activity;
  React(service, occurrence);
}

// A client that waits at two looks in a row, without any sign of life between them, is not served
// by those who say that they would. They do not count as available any more until they say
// something: so M59 lets another start. Where none may start, only the end of a silent one helps.
void Supervisor::Weigh(Service* service, const Occurrence& occurrence) {
  const bool progress = NoteActivity(service, occurrence.activity);
  const bool sign = std::exchange(service->sign, false);
  if (!occurrence.client_waits) {
    service->waiting_looks = 0;
    // It took somebody, without a word: a client that asked nothing yet (P20).
    for (Child* child : service->children) {
      if (child->doubted && child->progress) SetState(child, true, false);
    }
    return;
  }
  if (sign || service->waiting_looks == 0) {
    service->waiting_looks = 1;
    service->waiting_since_ns = now_ns_;
    return;
  }
  // Where every worker is in a request, waiting is what a client does at the limit.
  if (service->waiting_looks == 1 && service->available > 0) {
    AppendReport(Report::kUnserved, *service);
  }
  service->waiting_looks = 2;
  for (Child* child : service->children) {
    if (child->available) SetState(child, true, true);
    if (child->signalled == SIGKILL || !IsSilent(*service, *child, progress)) continue;
    AppendReport(Report::kSilent, *service)->pid = child->pid;
    Signal(child, SIGKILL);  // TERM does not reach a stopped one
  }
}

// Whether one of those who say that they are idle ran or waits for a disk.
bool Supervisor::NoteActivity(Service* service, absl::Span<const ChildActivity> activity) {
  for (Child* child : service->children) {
    child->progress = false;
    child->state = ChildActivity::State::kUnknown;
  }
  bool any = false;
  for (const ChildActivity& seen : activity) {
    Child* child = FindChild(seen.pid);
    if (child == nullptr || child->service != service) continue;
    child->progress = seen.cpu != child->cpu || seen.state == ChildActivity::State::kDiskWait;
    child->cpu = seen.cpu;
    child->state = seen.state;
    any = any || (child->available && child->progress);
  }
  return any;
}

// Whether a worker that takes nobody is to be ended now. One that sleeps while another one runs
// may be healthy and was only not woken; one whose channel is closed may be busy, its TAKEN lost
// with the channel. Those get more time, not all of it. A busy one is left alone, unless it is
// stopped, the service full, and nothing else moves.
bool Supervisor::IsSilent(const Service& service, const Child& child, bool others_progress) const {
  const bool stopped = child.state == ChildActivity::State::kStopped;
  if (!child.available) {
    const auto moves = [](const Child* other) { return other->progress; };
    return stopped && service.phase == Phase::kFull &&
           std::none_of(service.children.begin(), service.children.end(), moves);
  }
  if (stopped) return true;
  if (now_ns_ - service.waiting_since_ns >= times_.patience_ns) return true;
  if (child.progress || others_progress || child.retiring) return false;
  return child.heard || now_ns_ - child.started_ns >= times_.start_up_ns;
}

// ---- Time

int64_t Supervisor::next_deadline_ns() const {
  if (deadline_is_known_) return deadline_ns_;
  int64_t next = look_ns_;
  for (const auto& [id, service] : services_) {
    next = std::min({next, service.throttled_until_ns, service.back_off_until_ns,
                     service.retirement_ns, service.kill_ns, service.next_wake_up_ns});
  }
  deadline_ns_ = next;
  deadline_is_known_ = true;
  return next;
}

void Supervisor::TimeIs(int64_t now_ns) {
  Tick(now_ns);
  if (next_deadline_ns() > now_ns_) return;
  deadline_is_known_ = false;
  for (auto& [id, service] : services_) ReactToDueTimers(&service);
  AskForLooks();
}

// A timer is off before its reaction, which may set it again.
void Supervisor::ReactToDueTimers(Service* service) {
  const std::pair<int64_t Service::*, Event> timers[] = {
      {&Service::throttled_until_ns, Event::kThrottleOver},
      {&Service::back_off_until_ns, Event::kBackOffOver},
      {&Service::next_wake_up_ns, Event::kWakeUpDue},
      {&Service::retirement_ns, Event::kRetirementOver},
      {&Service::kill_ns, Event::kKillDue},
  };
  for (const auto& [timer, event] : timers) {
    if (service->*timer > now_ns_) continue;
    Reserve(kActionsOfAnEvent + 2 * service->children.size());
    service->*timer = kNeverNs;
    React(service, Occurrence{event});
  }
}

// TERM to whoever is idle without a channel for too long, KILL to whoever ignores it: every
// generation ends. One that is in a request has all the time of its own watchdog.
void Supervisor::EndRetired(Service* service) {
  for (Child* child : service->children) {
    if (child->retirement_ns <= now_ns_) {
      child->retirement_ns = kNeverNs;
      if (!child->available || child->signalled == SIGKILL) continue;
      AppendReport(Report::kStubborn, *service)->pid = child->pid;
      if (child->signalled == 0) child->retirement_ns = Later(now_ns_, times_.removal_ns);
      Signal(child, child->signalled == 0 ? SIGTERM : SIGKILL);
    }
    service->retirement_ns = std::min(service->retirement_ns, child->retirement_ns);
  }
}

void Supervisor::AskForLooks() {
  if (look_ns_ > now_ns_) return;
  Reserve(services_.size());
  look_ns_ = kNeverNs;
  for (auto& [id, service] : services_) {
    if (!WantsLooks(service)) continue;
    service.look_asked = true;
    Append(Kind::kLook, service);
    look_ns_ = Later(now_ns_, times_.look_ns);
  }
}

// ---- Views

std::vector<Supervisor::ServiceView> Supervisor::Services() const {
  std::vector<ServiceView> views;
  for (const auto& [id, service] : services_) {
    ServiceView view;
    view.id = id;
    view.phase = service.phase;
    view.watching = service.watching;
    view.total = service.total();
    view.available = service.available;
    view.doubted = service.doubted;
    view.limit = service.rules.process_limit;
    view.spawning = service.spawning.asked;
    view.throttled_until_ns = service.throttled() ? service.throttled_until_ns : 0;
    view.stress_until_ns = service.stress_until_ns;
    view.next_wake_up_ns = service.next_wake_up_ns;
    views.push_back(view);
  }
  return views;
}

std::vector<Supervisor::ChildView> Supervisor::Children() const {
  std::vector<ChildView> views;
  for (const auto& [pid, child] : children_) {
    ChildView view;
    view.pid = pid;
    view.service = child.service->id;
    view.generation = child.generation;
    view.available = child.available;
    view.doubted = child.doubted;
    view.retiring = child.retiring;
    view.signalled = child.signalled;
    view.uses = child.uses;
    views.push_back(view);
  }
  return views;
}

std::string Supervisor::DescribeState() const {
  std::string text = absl::StrCat(stopping_, all_gone_, " look ", RelativeNs(look_ns_, now_ns_));
  for (const auto& [id, service] : services_)
    absl::StrAppend(&text, "; ", DescribeService(service));
  for (const EarlyDeath& death : early_deaths_) {
    absl::StrAppend(&text, "; early ", death.pid, " ", generation_ - death.generation);
  }
  return text;
}

std::string Supervisor::DescribeService(const Service& service) const {
  const auto relative = [this](int64_t ns) { return RelativeNs(ns, now_ns_); };
  const auto rest = [&](int64_t ns) { return std::max<int64_t>(ns - now_ns_, 0); };
  std::string text = absl::StrCat(service.id, " ", ServicePhaseName(service.phase), " limit ",
                                  service.rules.process_limit, service.watching ? " watched" : "");
  absl::StrAppend(&text, " timers ", relative(service.throttled_until_ns), " ",
                  relative(service.back_off_until_ns), " ", relative(service.retirement_ns), " ",
                  relative(service.kill_ns), " ", relative(service.next_wake_up_ns));
  absl::StrAppend(&text, " stress ", rest(service.stress_until_ns), " ",
                  rest(service.busy_warning_ns), service.conditional_wake_up ? " conditional" : "");
  absl::StrAppend(&text, " in a row ", service.short_lives_in_a_row);
  absl::StrAppend(&text, " looks ", service.look_asked, service.sign, " ", service.waiting_looks);
  if (service.waiting_looks > 0) absl::StrAppend(&text, " ", now_ns_ - service.waiting_since_ns);
  const Spawning& spawning = service.spawning;
  if (spawning.asked) {
    absl::StrAppend(&text, " spawning ", generation_ - spawning.generation, spawning.retired,
                    " early ", spawning.early_pid, spawning.early_available, spawning.early_uses);
  }
  for (const Child* child : service.children) {
    absl::StrAppend(&text, " child ", child->pid, "/", generation_ - child->generation, " ",
                    child->available, child->doubted, child->retiring, child->heard,
                    child->uses > 0, " ", child->signalled, " cpu ", child->cpu, " ",
                    child->progress);
    absl::StrAppend(&text, " age ", std::min(now_ns_ - child->started_ns, times_.start_up_ns), " ",
                    relative(child->retirement_ns));
  }
  return text;
}

absl::Status Supervisor::CheckInvariants() const {
  size_t linked = 0;
  int asked = 0;
  for (const auto& [id, service] : services_) {
    if (absl::Status status = CheckService(service); !status.ok()) return status;
    linked += service.children.size();
    asked += service.spawning.asked ? 1 : 0;
  }
  if (linked != children_.size()) {
    return absl::InternalError(
        absl::StrCat(children_.size(), " children, but services know ", linked));
  }
  if (asked != spawns_asked_) return absl::InternalError("the spawns under way are miscounted");
  return absl::OkStatus();
}

absl::Status Supervisor::CheckService(const Service& service) const {
  const std::string name = absl::StrCat("service ", service.id, ": ");
  int available = 0;
  int doubted = 0;
  for (const Child* child : service.children) {
    const auto found = children_.find(child->pid);
    if (found == children_.end() || &found->second != child || child->service != &service) {
      return absl::InternalError(
          absl::StrCat(name, "knows child ", child->pid, " that is not its own"));
    }
    available += child->available && !child->doubted ? 1 : 0;
    doubted += child->available && child->doubted ? 1 : 0;
    if (child->doubted && !child->available) {
      return absl::InternalError(absl::StrCat(name, "doubts busy child ", child->pid));
    }
  }
  if (available != service.available || doubted != service.doubted) {
    return absl::InternalError(absl::StrCat(name, "counts ", service.available, " available and ",
                                            service.doubted, " doubted, but there are ", available,
                                            " and ", doubted));
  }
  if (service.phase != PhaseOf(service)) {
    return absl::InternalError(absl::StrCat(name, "is in phase ", ServicePhaseName(service.phase),
                                            ", but the facts say ",
                                            ServicePhaseName(PhaseOf(service))));
  }
  // M59 in its own words.
  const bool shall_watch = !service.removing && !service.stopping && !service.spawning.asked &&
                           !service.throttled() && service.back_off_until_ns == kNeverNs &&
                           service.available == 0 && LimitAllowsAnother(service);
  if (service.watching != shall_watch) {
    return absl::InternalError(
        absl::StrCat(name, service.watching ? "is watched" : "is not watched"));
  }
  if (WantsLooks(service) && look_ns_ == kNeverNs) {
    return absl::InternalError(absl::StrCat(name, "wants looks, but none is due"));
  }
  return absl::OkStatus();
}

}  // namespace posthouse

#include "tests/simulation/world.h"

#include <signal.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace posthouse::simulation {
namespace {

using Kind = SupervisorAction::Kind;
using Report = SupervisorAction::Report;

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kSecond = 1000 * kMillisecond;

constexpr size_t kMostServices = 4;
constexpr size_t kMostClients = 12;   // that wait for one service
constexpr size_t kMostMessages = 64;  // in one channel
constexpr pid_t kMostPids = 50;       // a small number space (F83)
constexpr int64_t kRequest = 50 * kMillisecond;
constexpr int64_t kIdleLimit = 20 * kSecond;

// The quiet phase. A client that waits since before may find a throttle, then a worker that
// computes and takes nobody, and what is left of a back-off; one that comes later, 6 s (F75).
constexpr int64_t kSettled = 400 * kSecond;
constexpr int64_t kLongestWaitAtFirst = 200 * kSecond;
constexpr int64_t kLongestWait = 6 * kSecond + kMostClients * kRequest;

struct Weight {
  Op op;
  int weight;
};
constexpr Weight kWeights[] = {
    {Op::kPass, 140},      {Op::kClient, 130},     {Op::kReadiness, 160}, {Op::kStaleReadiness, 10},
    {Op::kAct, 260},       {Op::kDeliver, 200},    {Op::kReap, 80},       {Op::kAnswerSpawn, 60},
    {Op::kAnswerLook, 40}, {Op::kLoseLook, 5},     {Op::kExit, 14},       {Op::kKill, 8},
    {Op::kPause, 8},       {Op::kContinue, 8},     {Op::kLie, 25},        {Op::kFlood, 3},
    {Op::kNameFlooder, 3}, {Op::kLoseMessage, 10}, {Op::kReload, 8},      {Op::kForkMode, 6},
    {Op::kAnswerMode, 6},  {Op::kTraits, 12},      {Op::kStranger, 4},    {Op::kDeadline, 40},
};

constexpr const char* kOpNames[kOps] = {
    "pass",   "client",       "readiness",   "stale-readiness", "act",          "deliver",
    "reap",   "answer-spawn", "answer-look", "lose-look",       "exit",         "kill",
    "pause",  "continue",     "lie",         "flood",           "name-flooder", "lose-message",
    "reload", "fork-mode",    "answer-mode", "traits",          "stranger",     "deadline"};

}  // namespace

World::World(std::string* trace) : trace_(trace) {}

void World::StartSmall(int first_limit, int second_limit) {
  for (const int limit : {first_limit, second_limit}) {
    Service service;
    service.id = next_id_++;
    service.rules.process_limit = limit;
    service.rules.stress_eligible = limit > 1;
    services_.push_back(service);
    supervisor_.AddService(service.id, service.rules, now_ns_);
    ExecuteActions();
  }
}

std::string World::Fingerprint() const {
  std::string text = supervisor_.DescribeState();
  for (const Service& service : services_) {
    absl::StrAppend(&text, "; ", service.id, service.watched, service.throttled, service.look_asked,
                    " clients ", service.clients.size());
    for (const Message& message : service.messages) {
      absl::StrAppend(&text, " ", message.sender, "/", message.content.pid, "/",
                      message.content.availability);
    }
  }
  for (const Process& process : processes_) {
    absl::StrAppend(&text, "; ", process.pid, " ", process.dead, process.busy, process.paused,
                    process.term_pending, process.believed_available, process.end.code);
  }
  return absl::StrCat(text, "; ", forks_fail_, " ", last_pid_);
}

void World::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
  Note(absl::StrCat("FAILURE ", what));
}

void World::Note(const std::string& line) {
  if (trace_ != nullptr) absl::StrAppend(trace_, now_ns_ / kMillisecond, " ms  ", line, "\n");
}

World::Service* World::Find(ServiceId id) {
  for (Service& service : services_) {
    if (service.id == id) return &service;
  }
  return nullptr;
}

World::Service* World::PickService(uint32_t number) {
  return services_.empty() ? nullptr : &services_[number % services_.size()];
}

World::Process* World::FindProcess(pid_t pid) {
  for (Process& process : processes_) {
    if (process.pid == pid) return &process;
  }
  return nullptr;
}

World::Process* World::PickProcess(uint32_t number) {
  return processes_.empty() ? nullptr : &processes_[number % processes_.size()];
}

// Those that the supervisor has to count: told, and not reaped.
int World::Counted(const Service& service) const {
  return static_cast<int>(std::count_if(
      processes_.begin(), processes_.end(),
      [&](const Process& process) { return process.known && process.service == service.id; }));
}

bool World::HasChannel(const Process& process) {
  const Service* service = Find(process.service);
  return service != nullptr && service->channel_open && service->channel == process.channel;
}

// ---- Steps

void World::Do(const Step& step) {
  if (!failure_.empty()) return;
  ++events_;
  if (trace_ != nullptr)
    Note(absl::StrCat(kOpNames[static_cast<int>(step.op)], " ", step.a, " ", step.b));
  Service* service = PickService(step.a);
  Process* process = PickProcess(step.a);
  switch (step.op) {
    case Op::kPass:
      Pass(step.a, step.b);
      break;
    case Op::kClient:
      if (service != nullptr && service->listening && service->clients.size() < kMostClients) {
        service->clients.push_back(now_ns_);
      }
      break;
    case Op::kReadiness:
      if (service != nullptr && service->watched && !service->clients.empty()) {
        supervisor_.ClientWaiting(service->id, now_ns_);
      }
      break;
    case Op::kStaleReadiness:
      supervisor_.ClientWaiting(step.a % (static_cast<uint64_t>(next_id_) + 1), now_ns_);
      break;
    case Op::kAct:
      if (process != nullptr) Act(process, step.b);
      break;
    case Op::kDeliver:
      for (uint32_t i = 0; service != nullptr && i <= step.b % 4; ++i) Deliver(service);
      break;
    case Op::kReap:
      if (process != nullptr && process->dead) Reap(process);
      break;
    case Op::kAnswerSpawn:
      if (service != nullptr) AnswerSpawn(service);
      break;
    case Op::kAnswerLook:
      if (service != nullptr && service->look_asked) AnswerLook(service);
      break;
    case Op::kLoseLook:
      if (service != nullptr) service->look_asked = false;
      break;
    case Op::kExit:
      if (process != nullptr && !process->paused) {
        constexpr ChildEnd kEnds[] = {
            {false, 0}, {false, 0}, {false, 1}, {true, SIGSEGV}, {false, 75}};
        End(process, kEnds[step.b % 5]);
      }
      break;
    case Op::kKill:
      if (process != nullptr) End(process, ChildEnd{true, step.b % 2 == 0 ? SIGKILL : SIGTERM});
      break;
    case Op::kPause:
      if (process != nullptr) process->paused = true;
      break;
    case Op::kContinue:
      if (process != nullptr) {
        process->paused = false;
        if (process->term_pending) End(process, ChildEnd{true, SIGTERM});
      }
      break;
    case Op::kLie:
      if (process != nullptr) Lie(process, step.b);
      break;
    case Op::kFlood:
      for (int i = 0; process != nullptr && i < 20; ++i) {
        Send(process, i % 2 == 0 ? Availability::kTaken : Availability::kAvailable);
      }
      break;
    case Op::kNameFlooder:
      if (process != nullptr) NameFlooder(*process, step.b);
      break;
    case Op::kLoseMessage:
      if (service != nullptr && !service->messages.empty()) service->messages.pop_front();
      break;
    case Op::kReload:
      Reload(step.a, step.b);
      break;
    case Op::kForkMode:
      forks_fail_ = step.a % 3 == 0;
      break;
    case Op::kAnswerMode:
      answers_late_ = step.a % 2 == 0;
      break;
    case Op::kTraits:
      traits_ = Traits();
      traits_.ignores_term = step.a % 8 == 0;
      traits_.ignores_end = step.a % 8 == 1;
      traits_.silent = step.a % 8 == 2 || step.a % 8 == 3;
      traits_.spins = step.a % 8 == 3;
      traits_.dies_at_start = step.a % 8 == 4;
      break;
    case Op::kStranger: {
      const pid_t pid = static_cast<pid_t>(step.a % (2 * kMostPids));
      if (FindProcess(pid) == nullptr) supervisor_.ChildDied(pid, ChildEnd{false, 1}, now_ns_);
      break;
    }
    case Op::kDeadline:
      if (supervisor_.next_deadline_ns() == kNeverNs) break;
      now_ns_ = std::max(now_ns_, supervisor_.next_deadline_ns());
      supervisor_.TimeIs(now_ns_);
      break;
  }
  ExecuteActions();
  CheckInvariants();
  if (events_ % 8 == 0) CheckBooks();
}

void World::Pass(uint32_t a, uint32_t b) {
  constexpr int64_t kSteps[] = {kMillisecond,       kMillisecond,       20 * kMillisecond,
                                100 * kMillisecond, 500 * kMillisecond, kSecond,
                                2 * kSecond,        2 * kSecond,        10 * kSecond,
                                61 * kSecond,       1001 * kSecond};
  const uint32_t pick = a % 64;
  now_ns_ += kSteps[pick < 60 ? pick % 9 : 9 + pick % 2];
  if (b % 4 != 0) supervisor_.TimeIs(now_ns_);  // else the shell is late
}

ServiceRules World::MakeRules(uint32_t number) const {
  ServiceRules rules;
  rules.process_limit = static_cast<int>(number % 5);
  rules.stress_eligible = number / 5 % 2 == 0;
  rules.wake_up_ns = number / 10 % 3 == 0 ? 60 * kSecond : 0;
  rules.wake_up_conditional = number / 30 % 2 == 0;
  return rules;
}

void World::AddService(uint32_t number) {
  if (services_.size() >= kMostServices) return;
  Service service;
  service.id = next_id_++;
  service.rules = MakeRules(number);
  services_.push_back(service);
  supervisor_.AddService(service.id, service.rules, now_ns_);
  ExecuteActions();
}

// Additions, then updates, then removals, as a reload does it (M96, M97).
void World::Reload(uint32_t a, uint32_t b) {
  if (b % 2 == 0) AddService(a);
  const ServiceId removed =
      b % 5 == 0 && !services_.empty() ? services_[a % services_.size()].id : 0;
  for (size_t i = 0; i < services_.size(); ++i) {
    Service& service = services_[i];
    if (!service.kept || service.id == removed) continue;
    if (b % 3 == 0) service.rules = MakeRules(a + static_cast<uint32_t>(i) * 7);
    service.last_wake_up_ns = -1;
    supervisor_.UpdateService(service.id, service.rules, now_ns_);
    ExecuteActions();
  }
  if (Service* service = Find(removed); service != nullptr && service->kept) {
    service->kept = false;
    supervisor_.RemoveService(removed, now_ns_);
    ExecuteActions();
  }
}

// What is next for a child: the end that its channel asks for, the end of its request, a client.
void World::Act(Process* process, uint32_t number) {
  if (process->dead || process->paused) return;
  if (process->traits.dies_at_start) return End(process, ChildEnd{false, 1});
  if (process->traits.silent && !process->traits.spins && !process->busy) return;
  ++process->cpu;
  if (process->busy) return Finish(process);
  if (!HasChannel(*process) && !process->traits.ignores_end)
    return End(process, ChildEnd{false, 0});
  Service* service = Find(process->service);
  if (process->traits.silent || service == nullptr || !service->listening ||
      service->clients.empty())
    return;
  Take(process, service, number % 8 == 0);
}

void World::Take(Process* process, Service* service, bool without_a_word) {
  service->clients.pop_front();
  process->idle_since_ns = now_ns_;
  if (without_a_word) return;  // a client that asks for nothing (P20, P39)
  process->busy = true;
  process->busy_until_ns = now_ns_ + kRequest;
  Send(process, Availability::kTaken);
}

void World::Finish(Process* process) {
  process->busy = false;
  process->idle_since_ns = now_ns_;
  if (!HasChannel(*process)) {
    // P44. One that ignores even that looks busy for ever, which its own watchdog ends.
    if (quiet_ || !process->traits.ignores_end) End(process, ChildEnd{false, 0});
    return;
  }
  Send(process, Availability::kAvailable);
}

void World::Send(Process* process, Availability availability) {
  if (process->dead || process->paused || !HasChannel(*process)) return;
  Service* service = Find(process->service);
  if (service->messages.size() >= kMostMessages) return;  // full: lost (PO3)
  service->messages.push_back(Message{
      process->pid, {process->pid, process->generation, static_cast<int32_t>(availability)}});
}

// Nothing that names another child correctly and comes from a sender that the kernel did not name.
void World::Lie(Process* process, uint32_t number) {
  if (process->dead || process->paused || !HasChannel(*process)) return;
  Service* service = Find(process->service);
  if (service->messages.size() >= kMostMessages) return;
  const Process* other = PickProcess(number >> 8);
  Message message{process->pid,
                  {process->pid, process->generation, static_cast<int32_t>(number / 64 % 2)}};
  switch (number % 8) {
    case 0:
      message.content.pid = other->pid, message.content.generation = other->generation;
      break;
    case 1:
      message.content.generation += 1;
      break;
    case 2:
      message.content.availability = 7;
      break;
    case 3:
      message.content.availability = -1;
      break;
    case 4:
      message.content.pid = -other->pid;
      break;
    case 5:
      message.sender = 0, message.content.pid = 2 * kMostPids + 1,
      message.content.generation += 1000;
      break;
    case 6:
      message.sender = 0, message.content.availability = 2;
      break;
    case 7:
      break;  // about itself
  }
  service->messages.push_back(message);
}

// Sometimes on the channel of another service.
void World::NameFlooder(const Process& process, uint32_t number) {
  const Service* service = number % 4 == 0 ? PickService(number / 4) : Find(process.service);
  if (service == nullptr) return;
  const pid_t pid = process.pid;
  const bool must_end =
      process.known && process.service == service->id && service->kept && !stopping_;
  supervisor_.Flooded(service->id, pid, now_ns_);
  ExecuteActions();
  const Process* flooder = FindProcess(pid);
  if (must_end && flooder != nullptr && !flooder->dead) Fail("a flooder lives on");
}

void World::Deliver(Service* service) {
  if (service->messages.empty()) return;
  const Message message = service->messages.front();
  service->messages.pop_front();
  const StatusMessage& content = message.content;
  supervisor_.Status(service->id, message.sender, content, now_ns_);
  Process* process = FindProcess(content.pid);
  // Our books: what P29 and P33 to P36 say about it, and who wrote it.
  if (process != nullptr && (message.sender == 0 || message.sender == content.pid) &&
      process->service == service->id && process->generation == content.generation &&
      (content.availability == 0 || content.availability == 1)) {
    process->believed_available = content.availability == 1;
    process->spoke = true;
  }
  ExecuteActions();
}

void World::Reap(Process* process) {
  const Process reaped = *process;
  *process = processes_.back();
  processes_.pop_back();
  if (!reaped.known) {
    for (Service& service : services_) {
      if (service.spawn_asked && service.spawn_pid == reaped.pid) {
        // The answer is still to come and will name it: this end comes first (F82).
        supervisor_.ChildDied(reaped.pid, reaped.end, now_ns_);
        supervisor_.Spawned(service.id, reaped.pid, service.spawn_generation, now_ns_);
        service.spawn_asked = false;
        ExecuteActions();
        return;
      }
    }
  }
  supervisor_.ChildDied(reaped.pid, reaped.end, now_ns_);
  ExecuteActions();
}

void World::End(Process* process, ChildEnd end) {
  if (process->dead) return;
  process->dead = true;
  process->end = end;
}

void World::AnswerSpawn(Service* service) {
  if (!service->spawn_asked) return;
  service->spawn_asked = false;
  if (service->spawn_pid == 0) {
    supervisor_.SpawnFailed(service->id, now_ns_);
  } else {
    FindProcess(service->spawn_pid)->known = true;
    supervisor_.Spawned(service->id, service->spawn_pid, service->spawn_generation, now_ns_);
  }
  ExecuteActions();
}

void World::AnswerLook(Service* service) {
  service->look_asked = false;
  std::vector<ChildActivity> activity;
  for (Process& process : processes_) {
    if (process.service != service->id) continue;
    process.spoke = false;
    if (!process.known || process.dead) continue;
    if (process.traits.spins && !process.paused) ++process.cpu;
    const auto state = process.paused         ? ChildActivity::State::kStopped
                       : process.traits.spins ? ChildActivity::State::kRunning
                                              : ChildActivity::State::kAsleep;
    activity.push_back(ChildActivity{process.pid, process.cpu, state});
  }
  supervisor_.Looked(service->id, service->listening && !service->clients.empty(), activity,
                     now_ns_);
  ExecuteActions();
}

// ---- Actions

void World::ExecuteActions() {
  std::vector<SupervisorAction> actions;
  while (supervisor_.has_actions()) {
    actions.swap(actions_);  // its memory
    supervisor_.TakeActions(&actions);
    for (const SupervisorAction& action : actions) {
      if (trace_ != nullptr) Note(absl::StrCat("    ", DescribeAction(action)));
      if (failure_.empty()) Execute(action);
    }
    actions_.swap(actions);
  }
}

void World::Execute(const SupervisorAction& action) {
  if (action.kind == Kind::kReport) return OnReport(action);
  if (action.kind == Kind::kAllGone) {
    if (!stopping_ || all_gone_ || !processes_.empty()) Fail("all-gone, but they are not");
    all_gone_ = true;
    return;
  }
  Service* service = Find(action.service);
  if (service == nullptr)
    return Fail(absl::StrCat("an action for service ", action.service, ", which is closed"));
  switch (action.kind) {
    case Kind::kWatchListeners:
      if (!service->kept || stopping_ || service->throttled) Fail("a watch that must not be");
      service->watched = true;
      break;
    case Kind::kIgnoreListeners:
      service->watched = false;
      break;
    case Kind::kSpawn:
      OnSpawn(service, action);
      break;
    case Kind::kSignal:
      OnSignal(action);
      break;
    case Kind::kCloseChannel:
      service->channel_open = false;
      [[fallthrough]];
    case Kind::kRenewChannel:
      ++service->channel;
      service->renewed = true;
      service->messages.clear();
      break;
    case Kind::kWakeUp:
      OnWakeUp(service);
      break;
    case Kind::kCancelWakeUps:
      service->last_wake_up_ns = -1;
      break;
    case Kind::kCloseListeners:
      OnCloseListeners(service);
      break;
    case Kind::kCloseService:
      OnCloseService(action.service);
      break;
    case Kind::kLook:
      service->look_asked = true;
      break;
    case Kind::kReport:
    case Kind::kAllGone:
      break;
  }
}

void World::OnSpawn(Service* service, const SupervisorAction& action) {
  if (!service->kept || stopping_) return Fail("a spawn for a service that goes");
  if (service->throttled) return Fail("a spawn for a throttled service");
  if (service->spawn_asked) return Fail("two spawns at once");
  if (service->watched) return Fail("a spawn while the listeners are watched");
  const int limit = service->rules.process_limit;
  if (limit > 0 && Counted(*service) >= limit) return Fail("more children than the limit");
  CheckStress(service, action);
  service->spawn_asked = true;
  service->spawn_generation = action.generation;
  const pid_t pid = forks_fail_ ? 0 : FreePid();
  service->spawn_pid = pid;
  if (pid != 0) {
    Process process;
    process.pid = pid;
    process.service = service->id;
    process.generation = action.generation;
    process.channel = service->channel;
    process.traits = traits_;
    process.idle_since_ns = now_ns_;
    processes_.push_back(process);
  }
  if (!answers_late_) AnswerSpawn(service);
}

// M81 and M82 in our own books.
void World::CheckStress(Service* service, const SupervisorAction& action) {
  const bool eligible = service->rules.stress_eligible && service->rules.process_limit > 1;
  const bool last = eligible && Counted(*service) + 1 >= service->rules.process_limit;
  if (last && now_ns_ >= service->stress_until_ns && !service->renewed)
    Fail("stress began without a new channel");
  if (last) service->stress_until_ns = now_ns_ + 1000 * kSecond;
  if (action.stress != (eligible && now_ns_ < service->stress_until_ns))
    Fail("the stress of a child is wrong");
  service->renewed = false;
}

pid_t World::FreePid() {
  for (pid_t tries = 0; tries < kMostPids; ++tries) {
    last_pid_ = last_pid_ % kMostPids + 1;
    if (FindProcess(last_pid_) == nullptr) return last_pid_;
  }
  return 0;
}

void World::OnSignal(const SupervisorAction& action) {
  Process* process = FindProcess(action.pid);
  if (process == nullptr || !process->known || process->service != action.service) {
    return Fail(
        absl::StrCat("a signal for process ", action.pid, ", which is not an unreaped child"));
  }
  if (action.signal == SIGKILL) return End(process, ChildEnd{true, SIGKILL});
  if (process->paused) {
    process->term_pending = true;
  } else if (!process->traits.ignores_term) {
    End(process, ChildEnd{true, SIGTERM});
  }
}

void World::OnWakeUp(Service* service) {
  if (!service->kept || stopping_) return Fail("a wake-up of a service that goes");
  if (service->throttled) return Fail("a wake-up of a throttled service");
  if (service->last_wake_up_ns >= 0 &&
      now_ns_ - service->last_wake_up_ns < service->rules.wake_up_ns) {
    return Fail("a wake-up before its time");
  }
  service->last_wake_up_ns = now_ns_;
  if (service->clients.size() < kMostClients) service->clients.push_back(now_ns_);
}

void World::OnCloseListeners(Service* service) {
  if (service->kept) return Fail("the listeners of a kept service are closed");
  if (service->watched) Fail("the listeners are closed while they are watched");
  service->listening = false;
  service->clients.clear();
}

void World::OnCloseService(ServiceId id) {
  const Service* service = Find(id);
  if (service->kept || service->listening || service->channel_open || service->spawn_asked ||
      Counted(*service) > 0) {
    return Fail(absl::StrCat("service ", id, " is closed before its time"));
  }
  services_.erase(services_.begin() + (service - services_.data()));
}

void World::OnReport(const SupervisorAction& action) {
  Service* service = Find(action.service);
  switch (action.report) {
    case Report::kBadStart:
      if (service == nullptr || service->throttled)
        return Fail("a throttle of a throttled service");
      [[fallthrough]];
    case Report::kSpawnFailed:  // a death may have throttled since the spawn was asked for
      service->throttled = true;
      break;
    case Report::kThrottleOver:
      if (service == nullptr || !service->throttled) return Fail("the end of no throttle");
      service->throttled = false;
      break;
    case Report::kFlood:
      if (service != nullptr && action.signal != 0) service->throttled = true;
      break;
    case Report::kSilent: {
      const Process* process = FindProcess(action.pid);
      if (process == nullptr ||
          (!process->paused && process->busy && !process->believed_available)) {
        Fail("a busy worker is taken for a silent one");
      }
      break;
    }
    case Report::kUnexpected:
      return Fail("the supervisor did not expect what it asked for");
    default:
      break;
  }
}

// ---- Checks

void World::CheckInvariants() {
  if (!failure_.empty()) return;
  const absl::Status status = supervisor_.CheckInvariants();
  if (!status.ok()) Fail(std::string(status.message()));
}

void World::CheckBooks() {
  if (!failure_.empty()) return;
  const std::vector<Supervisor::ServiceView> views = supervisor_.Services();
  if (views.size() != services_.size()) return Fail("the supervisor knows other services");
  for (const Supervisor::ServiceView& view : views) {
    const Service* service = Find(view.id);
    if (service == nullptr) return Fail("a service that is closed");
    if (view.total != Counted(*service))
      return Fail(absl::StrCat("service ", view.id, " counts ", view.total));
    if (view.watching != service->watched) return Fail("the watch is not what was asked for");
    if ((view.throttled_until_ns != 0) != service->throttled && service->kept && !stopping_) {
      return Fail("a throttle that nobody was told of");
    }
  }
  for (const Supervisor::ChildView& view : supervisor_.Children()) {
    const Process* process = FindProcess(view.pid);
    if (process == nullptr || !process->known || process->generation != view.generation) {
      return Fail(absl::StrCat("child ", view.pid, " is not there"));
    }
    const Service* service = Find(process->service);
    if (service->kept && view.doubted && process->spoke) {
      return Fail(absl::StrCat("child ", view.pid, " is doubted, though it spoke"));
    }
    if (service->kept && view.available != process->believed_available) {
      return Fail(
          absl::StrCat("child ", view.pid, " is believed ", view.available ? "available" : "busy"));
    }
    if (service->kept && view.retiring != (process->channel != service->channel)) {
      return Fail(
          absl::StrCat("child ", view.pid, view.retiring ? " retires" : " does not retire"));
    }
  }
}

void World::CheckWaits() {
  for (const Service& service : services_) {
    if (!service.kept || service.clients.empty()) continue;
    const bool settled = service.clients.front() >= quiet_since_ns_ + kSettled;
    const int64_t since = std::max(service.clients.front(), quiet_since_ns_);
    if (now_ns_ - since > (settled ? kLongestWait : kLongestWaitAtFirst)) {
      return Fail(absl::StrCat("a client of service ", service.id, " waits for ",
                               (now_ns_ - since) / kMillisecond, " ms"));
    }
  }
}

void World::CheckEnd() {
  CheckBooks();
  for (const Service& service : services_) {
    if (!service.kept) return Fail(absl::StrCat("removed service ", service.id, " is still there"));
  }
  for (const Process& process : processes_) {
    if (!HasChannel(process))
      return Fail(absl::StrCat("process ", process.pid, " of an old generation is still there"));
  }
}

// ---- The quiet phase

// Faults end, but what they did stays: wrong beliefs, stopped and silent workers, lost messages,
// throttles. Only a worker that is stuck in a request has its own watchdog, which is not ours.
void World::EndFaults() {
  quiet_ = true;
  quiet_since_ns_ = now_ns_;
  forks_fail_ = false;
  answers_late_ = false;
  traits_ = Traits();
  for (size_t i = 0; i < services_.size(); ++i) {
    while (!services_[i].messages.empty()) Deliver(&services_[i]);
  }
  for (Process& process : processes_) {
    process.traits.dies_at_start = false;
    if (!process.busy && process.believed_available) continue;
    process.paused = false;
    process.traits.silent = false;
    process.traits.ignores_end = false;
    if (process.term_pending) End(&process, ChildEnd{true, SIGTERM});
  }
}

// Everything that can happen without the time; false: nothing could.
bool World::Pump() {
  bool any = false;
  for (size_t i = 0; i < services_.size() && failure_.empty(); ++i) {
    const ServiceId id = services_[i].id;
    if (services_[i].spawn_asked) AnswerSpawn(&services_[i]), any = true;
    for (Service* service = Find(id); service != nullptr && !service->messages.empty();
         service = Find(id)) {
      Deliver(service);
      any = true;
    }
    if (Service* service = Find(id); service != nullptr && service->look_asked)
      AnswerLook(service), any = true;
    if (Service* service = Find(id);
        service != nullptr && service->watched && !service->clients.empty()) {
      supervisor_.ClientWaiting(id, now_ns_);
      ExecuteActions();
      any = true;
    }
  }
  return PumpProcesses() || any;
}

bool World::PumpProcesses() {
  bool any = false;
  for (size_t i = 0; i < processes_.size() && failure_.empty(); ++i) {
    Process* process = &processes_[i];
    if (process->dead) {
      Reap(process);
      return true;
    }
    if (process->paused) continue;
    Service* service = Find(process->service);
    const bool healthy = !process->traits.silent && service != nullptr && service->listening;
    if (process->busy) {
      if (process->busy_until_ns > now_ns_) continue;
      Act(process, 1);
    } else if (!HasChannel(*process) && !process->traits.ignores_end) {
      Act(process, 1);
      if (!process->dead) continue;  // it sleeps and takes no notice
    } else if (healthy && !service->clients.empty()) {
      Act(process, 1);
    } else if (healthy && HasChannel(*process) && now_ns_ - process->idle_since_ns >= kIdleLimit) {
      End(process, ChildEnd{false, 0});
    } else {
      continue;
    }
    any = true;
  }
  return any;
}

int64_t World::NextTime(int64_t next_client_ns) {
  int64_t next = std::min(supervisor_.next_deadline_ns(), next_client_ns);
  for (const Process& process : processes_) {
    if (process.paused) continue;
    if (process.busy) next = std::min(next, process.busy_until_ns);
    if (!process.busy && !process.traits.silent && HasChannel(process)) {
      next = std::min(next, process.idle_since_ns + kIdleLimit);
    }
  }
  return std::max(next, now_ns_ + kMillisecond);
}

void World::EndWell(int64_t quiet_ns) {
  if (!failure_.empty()) return;
  Note("faults end");
  EndFaults();
  int64_t next_client_ns = now_ns_;
  supervisor_.TimeIs(now_ns_);  // a shell that was late
  ExecuteActions();
  while (failure_.empty() && now_ns_ < quiet_since_ns_ + quiet_ns) {
    int rounds = 0;
    while (failure_.empty() && Pump()) {
      ++events_;
      if (++rounds > 10000) return Fail("something never comes to rest");
    }
    CheckInvariants();
    CheckWaits();
    now_ns_ = NextTime(next_client_ns);
    if (now_ns_ >= next_client_ns) {
      for (Service& service : services_) {
        if (service.kept && service.clients.empty()) service.clients.push_back(now_ns_);
      }
      next_client_ns = now_ns_ + 37 * kSecond;
    }
    supervisor_.TimeIs(now_ns_);
    ExecuteActions();
    ++events_;
  }
  if (failure_.empty() && quiet_ns >= kLongQuietNs) CheckEnd();
  if (failure_.empty()) StopAll();
}

void World::StopAll() {
  Note("stop");
  stopping_ = true;
  supervisor_.Stop(now_ns_);
  ExecuteActions();
  const int64_t begin_ns = now_ns_;
  while (failure_.empty() && !all_gone_ && now_ns_ < begin_ns + 20 * kSecond) {
    while (failure_.empty() && Pump()) ++events_;
    now_ns_ = NextTime(now_ns_ + kSecond);
    supervisor_.TimeIs(now_ns_);
    ExecuteActions();
  }
  if (failure_.empty() && (!all_gone_ || !processes_.empty())) Fail("a stop that leaves somebody");
}

// ---- Histories

std::vector<Step> MakeHistory(uint64_t seed, size_t steps) {
  std::mt19937_64 random(seed);
  int sum = 0;
  for (const Weight& weight : kWeights) sum += weight.weight;
  std::vector<Step> history;
  history.reserve(steps + 3);
  for (int i = 0; i < 3; ++i)
    history.push_back(Step{Op::kReload, static_cast<uint32_t>(random()), 2});
  for (size_t i = 0; i < steps; ++i) {
    int at = static_cast<int>(random() % static_cast<uint64_t>(sum));
    const Weight* weight = kWeights;
    while (at >= weight->weight) at -= (weight++)->weight;
    const uint64_t numbers = random();
    history.push_back(
        Step{weight->op, static_cast<uint32_t>(numbers), static_cast<uint32_t>(numbers >> 32)});
  }
  return history;
}

Outcome RunHistory(const std::vector<Step>& history, std::string* trace) {
  World world(trace);
  for (const Step& step : history) {
    world.Do(step);
    if (!world.failure().empty()) break;
  }
  world.EndWell(kLongQuietNs);
  return Outcome{world.failure(), world.events()};
}

namespace {

// What a failure says, whatever the numbers: a shorter history must fail in the same way.
std::string KindOfFailure(const std::vector<Step>& history) {
  std::string kind = RunHistory(history, nullptr).failure;
  kind.erase(std::remove_if(kind.begin(), kind.end(), [](char c) { return c >= '0' && c <= '9'; }),
             kind.end());
  return kind;
}

}  // namespace

std::vector<Step> Shrink(std::vector<Step> history) {
  const std::string kind = KindOfFailure(history);
  for (size_t part = history.size() / 2; part > 0; part = part == 1 ? 0 : part / 2) {
    bool again = true;
    while (again) {
      again = false;
      for (size_t at = 0; at + part <= history.size();) {
        std::vector<Step> shorter = history;
        shorter.erase(shorter.begin() + static_cast<std::ptrdiff_t>(at),
                      shorter.begin() + static_cast<std::ptrdiff_t>(at + part));
        if (KindOfFailure(shorter) != kind) {
          at += part;
        } else {
          history = std::move(shorter);
          again = part == 1;
        }
      }
    }
  }
  return history;
}

}  // namespace posthouse::simulation

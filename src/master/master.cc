// The loop of a master: what happens becomes an event of the supervisor, and what the supervisor
// wants is done. The start is in master_start.cc, the end in master_end.cc.

#include "posthouse/master/master.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "posthouse/master/effective_owner.h"
#include "posthouse/master/reports.h"
#include "posthouse/master/worker_activity.h"
#include "posthouse/master/worker_request.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// Records that the log could not take are offered again after a moment, and less and less often
// while nobody takes them.
constexpr absl::Duration kFirstLogRetry = absl::Milliseconds(500);
constexpr absl::Duration kLongestLogRetry = absl::Minutes(1);
// After a turn that failed, mostly for lack of memory, the next one comes soon: signals may be
// waiting to be acted upon.
constexpr absl::Duration kFailureRetry = absl::Milliseconds(100);
constexpr absl::Duration kFailureReport = absl::Seconds(10);
// Ten seconds of them.
constexpr int kMaxAttempts = 100;

// What the log says of a reload, but for what is information.
std::string TextOf(const ReloadPlan& plan, const MasterConfiguration& adopted) {
  std::vector<std::string> lines = {plan.summary};
  for (const std::vector<std::string>* warnings :
       {&adopted.warnings, &plan.report.failures, &plan.report.warnings}) {
    lines.insert(lines.end(), warnings->begin(), warnings->end());
  }
  return absl::StrJoin(lines, "\n");
}

}  // namespace

Master::Master(const MasterTimes& times)
    : times_(times), log_("master"), watchdog_(&log_), supervisor_(times.supervisor) {}

// The members that the loop knows go before it.
Master::~Master() {
  watchdog_.set_loop(nullptr);
  watchdog_.set_signals(nullptr);
}

// --- Turns ---

int Master::Loop() {
  while (!exit_status_.has_value() && !stopped_) {
    watchdog_.Pat();
    const absl::Duration wait = std::min(pause_, LogRetry());
    pause_ = absl::InfiniteDuration();
    absl::Status status;
    const bool turned = Guard("a turn", [&] { status = loop_->RunOnce(wait); });
    if (!status.ok()) return FatalExit(status);
    const bool ended = Guard("the end of a turn", [&] { EndTurn(); });
    if (turned && ended) continue;
    // Deaths must not go unnoticed, nor listeners stay unwatched, whatever failed.
    reap_requested_ = true;
    repair_requested_ = true;
    pause_ = kFailureRetry;
  }
  return exit_status_.has_value() ? *exit_status_ : EndStop();
}

absl::Duration Master::LogRetry() {
  if (!log_.pending()) {
    log_retry_ = absl::ZeroDuration();
    return absl::InfiniteDuration();
  }
  log_retry_ = std::min(std::max(log_retry_ * 2, kFirstLogRetry), kLongestLogRetry);
  return log_retry_;
}

// Nothing that is thrown ends the master (F125), a lack of memory for the log line included.
bool Master::Guard(absl::string_view what, absl::FunctionRef<void()> work) {
  const auto tell = [&](const char* reason) {
    try {
      log_.Limited(LogSeverity::kError, what, kFailureReport, absl::StrCat(what, ": ", reason));
    } catch (...) {
    }
  };
  try {
    work();
    return true;
  } catch (const std::exception& exception) {
    tell(exception.what());
  } catch (...) {
    tell("an exception that is no std::exception");
  }
  return false;
}

void Master::EndTurn() {
  if (std::exchange(repair_requested_, false)) RepairWatches();
  if (std::exchange(reap_requested_, false)) Reap();
  if (stop_signal_ != 0 && !stopping_) BeginStop(stop_signal_);
  if (adopting_.has_value() && !stopping_) ContinueAdopting();
  if (reload_requested_ && !stopping_) RequestReload();
  Act();
  ended_services_.clear();
  log_.Flush();
}

void Master::RepairWatches() {
  for (const auto& [id, service] : services_.all()) service->CompleteWatches();
}

void Master::OnSignal(int signal, void* context) {
  Master* master = static_cast<Master*>(context);
  if (signal == SIGCHLD) {
    master->reap_requested_ = true;
  } else if (signal == SIGHUP) {
    master->reload_requested_ = true;
  } else if (master->stop_signal_ == 0) {
    master->stop_signal_ = signal;
  }
}

void Master::OnDeadline(int /*event*/, void* context) {
  Master* master = static_cast<Master*>(context);
  master->supervisor_.TimeIs(os::SteadyNanos());
  master->Act();
}

// M4: nobody is signalled.
void Master::OnExitAfter(int /*event*/, void* context) {
  static_cast<Master*>(context)->exit_status_ = 0;
}

// --- What services tell ---

void Master::OnClientWaiting(Service* service) {
  // A listener that was shut down is ready for ever.
  if (service->IsDeaf()) return OnDeafListener(service);
  // A worker may have become available, and the client is its.
  service->channel().ReadNow();
  supervisor_.ClientWaiting(service->id(), os::SteadyNanos());
  Act();
}

// F65. Not at once: whoever shuts it down again and again gets no more than a tenth of a second.
void Master::OnDeafListener(Service* service) {
  service->SuspendListeners();
  if (!deaf_timer_->pending()) deaf_timer_->Start(times_.deaf_retry);
}

void Master::OnDeafRetry(int /*event*/, void* context) {
  static_cast<Master*>(context)->RestoreDeafListeners();
}

void Master::OnStatus(Service* service, const StatusBatch& batch) {
  const int64_t now_ns = os::SteadyNanos();
  for (const ReceivedStatus& received : batch.messages) {
    supervisor_.Status(service->id(), received.sender, received.message, now_ns);
  }
  LogGossip(batch, service->configuration(), &log_);
  if (batch.cost_ns > 0) flood_watch_.Add(service->id(), batch.writers, batch.cost_ns);
  if (flood_watch_.IsDue(now_ns)) EndFlooders(now_ns);
  Act();
}

// For lack of memory; it is tried again soon.
void Master::OnUnwatchedListener(Service* /*service*/) {
  repair_requested_ = true;
  pause_ = kFailureRetry;
}

// A worker has shut the channel down for all: they get a new one (M104).
void Master::OnBrokenChannel(Service* service) {
  log_.Limited(
      LogSeverity::kWarning, absl::StrCat("broken ", service->title()), kReportInterval,
      absl::StrCat("service ", service->title(), ": a worker has shut the status channel down"));
  RenewWorkers(service);
}

// F72.
void Master::EndFlooders(int64_t now_ns) {
  for (const FloodWatch::Flooder& flooder : flood_watch_.Judge(now_ns, &ReadWorkerCpuNs)) {
    supervisor_.Flooded(flooder.service, flooder.pid, now_ns);
    // Perhaps the child of a worker: it cannot be ended, but it can be made to wait.
    Service* const service = services_.Find(flooder.service);
    if (service != nullptr && !supervisor_.IsChild(flooder.pid)) service->channel().HoldBack();
  }
}

// --- Deaths ---

// What a worker has said before it died counts, so it is read first: a completed request tells a
// crash from a bad start (M75, P39). A death that was reaped is kept until it has been dealt with,
// whatever fails in between (F125).
void Master::Reap() {
  for (;;) {
    deaths_.reserve(deaths_.size() + 1);
    int status = 0;
    const pid_t pid = os::Waitpid(-1, &status, WNOHANG);
    if (pid < 0 && errno == EINTR) continue;
    if (pid <= 0) break;
    if (!WIFEXITED(status) && !WIFSIGNALED(status)) continue;  // M72: merely stopped
    const bool signalled = WIFSIGNALED(status);
    deaths_.push_back({pid, {signalled, signalled ? WTERMSIG(status) : WEXITSTATUS(status)}});
  }
  // No action before all are known to be dead: their numbers are not to be signalled (F83).
  acting_ = true;
  const auto act_again = absl::MakeCleanup([this] { acting_ = false; });
  for (const Death& death : deaths_) {
    if (Service* service = ServiceOf(death.pid); service != nullptr) service->channel().ReadNow();
  }
  for (; !deaths_.empty(); deaths_.pop_back()) Bury(deaths_.back());
}

void Master::Bury(const Death& death) {
  supervisor_.ChildDied(death.pid, death.end, os::SteadyNanos());
  if (Service* service = ServiceOf(death.pid); service != nullptr) {
    service->channel().Forget(death.pid);
  }
  flood_watch_.Forget(death.pid);
  workers_.erase(death.pid);
}

// Null for a process that is no worker, or whose service has been closed.
Service* Master::ServiceOf(pid_t pid) const {
  const auto worker = workers_.find(pid);
  return worker == workers_.end() ? nullptr : services_.Find(worker->second);
}

// --- Actions ---

// Events that actions bring about are fed while the vector is worked through; their actions come
// after it. What fails for lack of memory is done again in a later turn: every action may be
// executed twice.
void Master::Act() {
  if (acting_) return;
  acting_ = true;
  const auto act_again = absl::MakeCleanup([this] { acting_ = false; });
  AnswerSpawn();
  for (;;) {
    if (next_action_ == actions_.size()) {
      Look();
      if (!supervisor_.has_actions()) break;
      supervisor_.TakeActions(&actions_);
      next_action_ = 0;
    }
    if (++attempts_ > kMaxAttempts) GiveUpAction();
    Execute(actions_[next_action_]);
    ++next_action_;
    attempts_ = 0;
    AnswerSpawn();
  }
  actions_.clear();
  next_action_ = 0;
  const int64_t deadline_ns = supervisor_.next_deadline_ns();
  if (deadline_ns == kNeverNs) {
    deadline_timer_->Cancel();
  } else if (!deadline_timer_->pending() || deadline_timer_->deadline_ns() != deadline_ns) {
    deadline_timer_->StartAt(deadline_ns);
  }
}

// One that fails whatever happens must not keep the others from being executed.
void Master::GiveUpAction() {
  attempts_ = 0;
  ++next_action_;
  throw std::runtime_error("an action failed again and again, and was given up");
}

void Master::Execute(const SupervisorAction& action) {
  using Kind = SupervisorAction::Kind;
  Service* const service = services_.Find(action.service);
  if (action.kind == Kind::kReport) {
    return LogReport(action, service == nullptr ? nullptr : &service->configuration(), &log_);
  }
  if (action.kind == Kind::kAllGone) {
    stopped_ = true;
    return;
  }
  if (service == nullptr) return;
  switch (action.kind) {
    case Kind::kWatchListeners:
      return service->WatchListeners();
    case Kind::kIgnoreListeners:
      return service->IgnoreListeners();
    case Kind::kSpawn:
      return Spawn(action, service);
    case Kind::kSignal:
      return Signal(action);
    case Kind::kRenewChannel:
      return RenewChannel(service);
    case Kind::kCloseChannel:
      service->channel().ReadNow();
      return service->CloseChannel();
    case Kind::kWakeUp:
      return wake_ups_->Trigger(service->id(), WakeUpTargetOf(service->configuration()));
    case Kind::kCancelWakeUps:
      return wake_ups_->Cancel(service->id());
    case Kind::kCloseListeners:
      return service->CloseListeners();
    case Kind::kCloseService:
      return CloseService(service->id());
    case Kind::kLook:
      looks_.push_back(service->id());
      return;
    case Kind::kReport:
    case Kind::kAllGone:
      return;
  }
}

// Never a number that was reaped (F83), not even when the action had to wait for memory. When
// everything stops, the group was signalled as a whole, and those who have left it end by
// descriptor 5 (M116).
void Master::Signal(const SupervisorAction& action) {
  const auto is_it = [&](const Death& death) { return death.pid == action.pid; };
  if (workers_.find(action.pid) == workers_.end() ||
      std::any_of(deaths_.begin(), deaths_.end(), is_it)) {
    return;
  }
  if (stopping_ && group_signalled_ && (action.signal == SIGTERM || !IsOfOurGroup(action.pid))) {
    return;
  }
  os::Kill(action.pid, action.signal);
}

void Master::RenewChannel(Service* service) {
  if (absl::Status status = service->OpenChannel(); !status.ok()) {
    // The workers keep the old one, which is as good but for what they do not learn.
    log_.Warning(absl::StrCat("service ", service->title(), ": ", status.message()));
  }
}

// One of its callbacks may be running.
void Master::CloseService(ServiceId id) {
  ended_services_.reserve(ended_services_.size() + 1);
  wake_ups_->Cancel(id);
  services_.Find(id)->CloseListeners();
  services_.Find(id)->CloseChannel();
  ended_services_.push_back(services_.Forget(id));
}

// --- Spawning ---

// The answer is kept until the supervisor has it: there may be a process that only this tells of.
void Master::Spawn(const SupervisorAction& action, Service* service) {
  SpawnAnswer answer;
  answer.service = service->id();
  answer.generation = action.generation;
  absl::Status status = absl::ResourceExhaustedError("no memory");
  Guard("a spawn", [&] { status = TrySpawn(action, service, &answer.pid); });
  spawn_answer_ = answer;
  Guard("a log line", [&] { TellSpawn(status, answer, *service); });
}

void Master::TellSpawn(const absl::Status& status, const SpawnAnswer& answer,
                       const Service& service) {
  const std::string& program = service.configuration().program;
  if (answer.pid == 0) {
    log_.Warning(absl::StrCat(program, ": ", status.message(), " -- throttling"));
  } else if (!status.ok()) {
    log_.Limited(LogSeverity::kWarning, absl::StrCat("exec ", service.title()), kReportInterval,
                 absl::StrCat("service ", service.title(), ": ", status.message()));
  } else {
    log_.Verbose("service ", service.title(), ": started ", program, " as process ", answer.pid,
                 ", generation ", answer.generation);
  }
}

void Master::AnswerSpawn() {
  if (!spawn_answer_.has_value()) return;
  const SpawnAnswer& answer = *spawn_answer_;
  if (answer.pid == 0) {
    supervisor_.SpawnFailed(answer.service, os::SteadyNanos());
  } else {
    supervisor_.Spawned(answer.service, answer.pid, answer.generation, os::SteadyNanos());
  }
  spawn_answer_.reset();
}

// `*pid` becomes the worker's number as soon as there is one. An error with a number: it could not
// execute its program, and will end by itself (F78).
absl::Status Master::TrySpawn(const SupervisorAction& action, Service* service, pid_t* pid) {
  // A worker that finds the end at descriptor 5 would go at once.
  if (service->channel().WorkersSeeEnd()) {
    if (absl::Status status = service->OpenChannel(); !status.ok()) return status;
  }
  const ServiceConfiguration& configuration = service->configuration();
  WorkerRequestFacts facts;
  facts.listen_sockets = static_cast<int>(service->listen_fds().size());
  facts.stress = action.stress;
  facts.detached = options_.detached;
  facts.verbose = options_.verbosity > 0;
  const WorkerLimit limits[] = {{RLIMIT_NOFILE, descriptor_limit_}};
  SpawnRequest request;
  request.program = configuration.program;
  request.arguments = WorkerArgumentsOf(configuration, facts);
  request.environment = WorkerEnvironmentWith(worker_environment_, action.generation);
  request.flow_read = flow_read_.get();
  request.flow_write = flow_write_.get();
  request.status = service->channel().worker_fd();
  request.listeners = service->listen_fds();
  request.limits = limits;
  // Memory for the entry before there is a process that nobody would know.
  auto entry = workers_.extract(workers_.emplace(0, service->id()).first);
  absl::StatusOr<Spawned> spawned = SpawnWorker(request);
  if (!spawned.ok()) return spawned.status();
  *pid = spawned->pid;
  entry.key() = spawned->pid;
  workers_.insert(std::move(entry));
  return std::move(spawned->start);
}

// --- Looks, listeners ---

// F75. One poll(2) for all services that are to be looked at; the workers of a service are looked
// at only while a client of it waits.
void Master::Look() {
  if (looks_.empty()) return;
  std::vector<pollfd> entries;
  std::vector<size_t> ends;
  for (const ServiceId id : looks_) {
    if (Service* service = services_.Find(id); service != nullptr) {
      service->channel().ReadNow();
      service->AppendTo(&entries);
    }
    ends.push_back(entries.size());
  }
  os::Poll(entries.data(), entries.size(), 0);
  for (; !looks_.empty(); looks_.pop_back()) {
    const size_t i = looks_.size() - 1;
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    const bool waits = std::any_of(entries.begin() + begin, entries.begin() + ends[i],
                                   [](const pollfd& entry) { return entry.revents & POLLIN; });
    std::vector<ChildActivity> activity;
    for (const auto& [pid, service] : workers_) {
      if (waits && service == looks_[i]) activity.push_back(ReadWorkerActivity(pid));
    }
    supervisor_.Looked(looks_[i], waits, activity, os::SteadyNanos());
  }
}

// All workers that run are to go when convenient, because new ones get something else.
void Master::RenewWorkers(Service* service) {
  if (service->removing() || stopping_) return;
  supervisor_.UpdateService(service->id(), ServiceRulesOf(service->configuration(), configuration_),
                            os::SteadyNanos());
  Act();
}

void Master::RestoreDeafListeners() {
  // Again, should this fail for lack of memory.
  deaf_timer_->Start(times_.deaf_retry);
  for (const auto& [id, service] : services_.all()) {
    if (!service->IsDeaf()) continue;
    ListenReport report;
    service->RestoreListeners(EndpointOptionsOf(service->configuration(), configuration_, is_root_),
                              &report);
    log_.Limited(LogSeverity::kWarning, absl::StrCat("deaf ", service->title()), kReportInterval,
                 absl::StrCat("service ", service->title(),
                              ": a worker has shut a listener down; it listens again"));
    LogListenReport(report);
    if (service->is_missing_endpoints()) endpoint_timer_->Start(times_.endpoint_retry);
    EndWhoeverIsToBlame(id);
    RenewWorkers(service.get());
  }
  deaf_timer_->Cancel();
}

// Of several workers each may have done it.
void Master::EndWhoeverIsToBlame(ServiceId id) {
  pid_t blamed = 0;
  for (const auto& [pid, service] : workers_) {
    if (service != id) continue;
    if (blamed != 0) return;
    blamed = pid;
  }
  if (blamed != 0) os::Kill(blamed, SIGKILL);
}

void Master::OnEndpointRetry(int /*event*/, void* context) {
  static_cast<Master*>(context)->OpenMissingEndpoints();
}

// F90: what was occupied may be free by now. Failures were told when they were new.
void Master::OpenMissingEndpoints() {
  bool missing = false;
  endpoint_timer_->Start(times_.endpoint_retry);
  for (const auto& [id, service] : services_.all()) {
    if (!service->is_missing_endpoints() || service->removing()) continue;
    ListenReport report;
    const bool changed = service->OpenMissing(
        EndpointOptionsOf(service->configuration(), configuration_, is_root_), &report);
    for (const std::string& change : report.changes) log_.Info(change);
    if (changed) RenewWorkers(service.get());
    missing |= service->is_missing_endpoints();
  }
  if (!missing) endpoint_timer_->Cancel();
}

absl::StatusOr<UniqueFd> Master::OpenFifo(const std::string& path) const {
  EffectiveOwner owner;
  if (absl::Status status = owner.Become(DataOwner()); !status.ok()) return status;
  return OpenFifoForWakeUp(path);
}

// --- Reload ---

void Master::OnReload(int /*event*/, void* context) {
  static_cast<Master*>(context)->reload_requested_ = true;
}

// At the end of a turn: several signals before that are one reload (M91).
void Master::RequestReload() {
  if (os::SteadyNanos() >= next_reload_ns_) {
    Reload();
  } else if (!reload_timer_->pending()) {
    reload_timer_->StartAt(next_reload_ns_);
  }
  reload_requested_ = false;
}

// All or nothing (F100): the running configuration stays in force in every detail unless the whole
// of the new one could be had.
void Master::Reload() {
  if (!std::exchange(reload_announced_, true)) {
    log_.Info(absl::StrCat("reload -- ", VersionAndDirectory()));  // M94
  }
  load_began_ns_ = os::SteadyNanos();
  absl::Status status = absl::ResourceExhaustedError("no memory for the new configuration");
  Guard("a reload", [&] { status = TryReload(); });
  if (absl::IsUnavailable(status)) {
    // Somebody is writing a file right now (F105); there is no outcome yet.
    next_reload_ns_ = os::SteadyNanos() + absl::ToInt64Nanoseconds(load_options_.quiet);
    reload_timer_->StartAt(next_reload_ns_);
    return;
  }
  reload_announced_ = false;
  next_reload_ns_ = os::SteadyNanos() + absl::ToInt64Nanoseconds(times_.reload_interval);
  if (adopting_.has_value()) return ContinueAdopting();
  TellOutcome(ReloadOutcome::Kind::kRefused, [&] { return std::string(status.message()); });
  LogLines(LogSeverity::kError, status.message());
  log_.Error(kReloadRefused);
}

// For the command that waits for it (F100). A reload is not held up by anything that fails here,
// be it memory; then the command ends with its limit.
void Master::TellOutcome(ReloadOutcome::Kind kind, absl::FunctionRef<std::string()> text) {
  Guard("the outcome of a reload", [&] {
    ReloadOutcome outcome;
    outcome.pid = os::Getpid();
    outcome.begin_ns = load_began_ns_;
    outcome.kind = kind;
    outcome.text = text();
    const absl::Status status =
        WriteReloadOutcome(DataPath(kReloadOutcomeFile), DataOwner(), outcome);
    if (status.ok()) return;
    log_.Limited(LogSeverity::kWarning, "outcome file", kReportInterval,
                 absl::StrCat("nobody can learn how a reload went: ", status.message()));
  });
}

absl::Status Master::TryReload() {
  ConfigurationOptions options = load_options_;
  options.running = &configuration_;
  options.wait = false;
  absl::StatusOr<MasterConfiguration> next = LoadMasterConfiguration(options);
  if (!next.ok()) return next.status();
  absl::StatusOr<ReloadPlan> plan =
      PlanReload(*std::move(next), services_, loop_.get(), this, is_root_);
  // Whatever the code is, only the loader's "unavailable" means "in a moment".
  if (!plan.ok()) return absl::InternalError(plan.status().message());
  adopting_ = *std::move(plan);
  return absl::OkStatus();
}

// M96 to M98. From here on there is no way back, and none is needed: nothing fails but single
// endpoints, which are retried (F90), and what lacks memory is done again in a later turn.
void Master::ContinueAdopting() {
  ReloadPlan& plan = *adopting_;
  if (plan.next == 0) {
    std::swap(configuration_, plan.configuration);
    std::swap(worker_environment_, plan.worker_environment);
    ++plan.next;
  }
  for (; plan.next <= plan.steps.size(); ++plan.next) AdoptStep(&plan, plan.steps[plan.next - 1]);
  for (; !plan.removed.empty(); plan.removed.pop_back()) {
    plan.removed.back()->set_removing();
    supervisor_.RemoveService(plan.removed.back()->id(), os::SteadyNanos());
  }
  Act();
  SetLogSinks();
  LogWarnings(configuration_.warnings);
  for (const std::string& note : configuration_.notes) log_.Info(note);
  LogListenReport(plan.report);
  OpenMissingEndpoints();
  TellOutcome(ReloadOutcome::Kind::kDone, [&] { return TextOf(plan, configuration_); });
  log_.Info(absl::StrCat("reload finished -- ", plan.summary));
  adopting_.reset();
}

void Master::AdoptStep(ReloadPlan* plan, const ReloadPlan::Step& step) {
  Service* service = step.known;
  if (service == nullptr) {
    services_.Adopt(&plan->added, step.id);
    service = services_.Find(step.id);
    supervisor_.AddService(step.id, ServiceRulesOf(service->configuration(), configuration_),
                           os::SteadyNanos());
    return;
  }
  service->set_configuration(step.configuration);
  service->AdjustListeners(EndpointOptionsOf(service->configuration(), configuration_, is_root_),
                           &plan->report);
  supervisor_.UpdateService(service->id(), ServiceRulesOf(service->configuration(), configuration_),
                            os::SteadyNanos());
}

}  // namespace posthouse

// The loop of a worker and the ways to end it. The start is in worker_start.cc.

#include "posthouse/server/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "posthouse/base/check.h"
#include "posthouse/io/poll_wait.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// "The 13th error in the life of the process is fatal."
constexpr int kFatalErrorCount = 13;
// Before a fatal end, so that a worker that fails at once does not spin its master.
constexpr absl::Duration kFatalPause = absl::Seconds(1);
// From the decision to end until the end, whatever hooks do (F54).
constexpr absl::Duration kExitLimit = absl::Milliseconds(4500);
// How long a draining process waits for its child to be ready (F50).
constexpr absl::Duration kDrainReadyLimit = absl::Seconds(5);
constexpr absl::Duration kDrainRetry = absl::Seconds(1);
// Pipelined requests that have arrived before the end are served in at most this many rounds.
constexpr int kLastRounds = 1000;
constexpr absl::Duration kLogInterval = absl::Seconds(1);
// How long the end of a process waits for a log that is slow, and how often a running one tries.
constexpr absl::Duration kLogPatience = absl::Milliseconds(500);

// Whom a panic is reported to: a broken contract has no object to ask.
Worker* g_panic_worker = nullptr;

void Pause(absl::Duration duration) {
  timespec left = absl::ToTimespec(duration);
  while (os::Nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

}  // namespace

// Sees every record, and counts the errors.
class Worker::ErrorCounter : public LogSink {
 public:
  explicit ErrorCounter(Worker* worker) : worker_(worker) {}
  void Write(const LogRecord& record) override {
    if (record.severity != LogSeverity::kError) return;
    if (++worker_->error_count_ == kFatalErrorCount) {
      worker_->Fatal(absl::AbortedError("too many errors - program terminated"));
    }
  }

 private:
  Worker* worker_;
};

Worker::Worker(WorkerOptions options, Skeleton* skeleton)
    : options_(std::move(options)),
      skeleton_(skeleton),
      context_(this),
      log_("unknown"),
      watchdog_(&log_) {
  g_panic_worker = this;
  SetPanicReporter(&Worker::ReportPanic);
  watchdog_.set_last_resort(
      [](void* context, const char* reason) {
        Worker* worker = static_cast<Worker*>(context);
        if (worker->options_.last_resort) worker->options_.last_resort(reason);
      },
      this);
}

Worker::~Worker() {
  if (loop_ != nullptr) {
    skeleton_->CloseAll();
    EndLoop();
  }
  SetPanicReporter(nullptr);
  g_panic_worker = nullptr;
}

// A service may hold timers and watches in variables that are destroyed after MultiServerMain() has
// returned. Then the loop has to be there, so it is kept until the process ends.
void Worker::EndLoop() {
  watchdog_.set_loop(nullptr);
  watchdog_.set_signals(nullptr);
  if (signals_ != nullptr) {
    // The process has ended in an orderly way but for its last instructions; a stop signal that
    // comes now must not turn that into a death by signal (F25).
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    sigemptyset(&ignore.sa_mask);
    for (const int signal : StopSignals()) os::Sigaction(signal, &ignore, nullptr);
  }
  signals_.reset();
  status_.reset();
  idle_timer_.reset();
  slow_exit_timer_.reset();
  use_limit_timer_.reset();
  const EventLoopCounters& counters = loop_->counters();
  if (counters.watches > 0 || counters.timers_pending > 0) {
    static std::vector<EventLoop*>* const kept = new std::vector<EventLoop*>();
    kept->push_back(loop_.release());
  }
}

std::unique_ptr<LogSink> Worker::NewErrorCounter() { return std::make_unique<ErrorCounter>(this); }

void Worker::ReportPanic(const char* file, int line, const char* sentence) {
  if (g_panic_worker == nullptr) return;
  g_panic_worker->log_.Write(LogSeverity::kPanic, absl::StrCat(file, ":", line, ": ", sentence));
  g_panic_worker->log_.Flush();
  Pause(kFatalPause);
}

// --- The loop ---

int Worker::Loop() {
  while (!ShouldEnd()) {
    watchdog_.Pat();
    absl::Duration delay = LoopDelay();
    if (ShouldEnd()) delay = absl::ZeroDuration();
    const absl::Status status = RunTurn(delay);
    if (!status.ok()) return FatalExit(status);
    // What a client needs is guarded by its skeleton; a process that cannot do its own part, mostly
    // for lack of memory, ends in an orderly way (F125).
    if (!RunHook("the end of a turn", [&] { EndTurn(); })) {
      Fatal(absl::ResourceExhaustedError("the end of a turn failed"));
    }
    if (!fatal_.ok()) return FatalExit(fatal_);
  }
  return Exit();
}

bool Worker::ShouldEnd() const {
  if (exit_requested_ || !fatal_.ok()) return true;
  if (client_count_ > 0 || more_to_do_ || skeleton_->accepting_under_way()) return false;
  if (draining_ || stopping_ || idle_expired_) return true;
  return use_limit_ != 0 && use_count_ >= use_limit_;
}

absl::Duration Worker::LoopDelay() {
  absl::Duration delay = absl::InfiniteDuration();
  if (options_.loop) {
    RunHook("loop", [&] { delay = options_.loop(context_); });
    // The original's -1 (S70).
    if (delay < absl::ZeroDuration()) delay = absl::InfiniteDuration();
  }
  // Records that the log could not take are offered again after a moment.
  if (log_.pending()) delay = std::min(delay, kLogPatience);
  return more_to_do_ ? absl::ZeroDuration() : delay;
}

// An exception of a handler that belongs to the service leaves the turn, and the loop goes on.
absl::Status Worker::RunTurn(absl::Duration delay) {
  absl::Status status;
  RunHook("an event handler", [&] { status = loop_->RunOnce(delay); });
  return status;
}

void Worker::EndTurn() {
  watchdog_.Pat();
  more_to_do_ = skeleton_->EndTurn();
  // Not from within a handler: stopping serves requests. And before the master's end is looked at,
  // which a SIGTERM often precedes.
  for (; stop_requests_ > 0; stop_requests_--) Stop(stop_reason_);
  if (status_ != nullptr) {
    status_->TurnEnds();
    if (status_->disconnected() && !draining_ && !stopping_) MasterDisconnected();
  }
  WatchUseLimit();
  log_.Flush();
}

bool Worker::RunHook(absl::string_view name, absl::FunctionRef<void()> hook) {
  std::string what;
  try {
    hook();
    return true;
  } catch (const std::exception& exception) {
    what = exception.what();
  } catch (...) {
    what = "not a std::exception";
  }
  log_.Limited(LogSeverity::kWarning, name, kLogInterval,
               absl::StrCat(name, " threw an exception: ", what));
  return false;
}

void Worker::WorkBegins() {
  watchdog_.Pat();
  if (status_ != nullptr) status_->WorkBegins();
}

// --- Limits ---

void Worker::ClientArrived() {
  client_count_++;
  idle_expired_ = false;
  if (idle_timer_ != nullptr) idle_timer_->Cancel();
}

void Worker::ClientLeft() {
  client_count_--;
  if (use_count_ < INT_MAX) use_count_++;
  if (client_count_ == 0) StartIdleTimer();
}

void Worker::StartIdleTimer() {
  if (idle_timer_ == nullptr || draining_ || stopping_) return;
  if (idle_limit_ > absl::ZeroDuration()) idle_timer_->Start(idle_limit_);
}

// A passed descriptor that is on its way may become a client: then its arrival decides.
void Worker::OnIdle(int /*event*/, void* context) {
  Worker* worker = static_cast<Worker*>(context);
  worker->log_.Verbose("idle timeout -- exiting");
  worker->idle_expired_ = true;
}

int Worker::AcceptAllowance() const {
  if (use_limit_ == 0) return INT_MAX;
  return std::max(1, use_limit_ - use_count_ - client_count_);
}

// SO2: long-lived clients keep a process alive past its use limit; after the grace it drains. Only
// a master would start another one, so a standalone process stays.
void Worker::WatchUseLimit() {
  if (options_.use_limit_grace == absl::InfiniteDuration() || use_limit_timer_ == nullptr) return;
  if (standalone_ || draining_ || stopping_ || use_limit_timer_->pending()) return;
  if (use_limit_ != 0 && use_count_ >= use_limit_ && client_count_ > 0) {
    use_limit_timer_->Start(options_.use_limit_grace);
  }
}

void Worker::OnUseLimitGrace(int /*event*/, void* context) {
  Worker* worker = static_cast<Worker*>(context);
  worker->log_.Verbose("use limit reached and its grace is over -- draining");
  const absl::Status status = worker->Drain();
  if (!status.ok()) worker->use_limit_timer_->Start(kDrainRetry);
}

// --- Drain (S79 to S86, SO8) ---

absl::Status Worker::Drain() {
  if (draining_ || stopping_) return absl::OkStatus();
  POSTHOUSE_CHECK(loop_ != nullptr, "a process drains before it has an event loop");
  int ready[2];
  if (os::Pipe2(ready, O_CLOEXEC) != 0) {
    return absl::UnavailableError(absl::ErrnoToStatus(errno, "pipe for a drain").message());
  }
  UniqueFd ready_read(ready[0]);
  UniqueFd ready_write(ready[1]);
  log_.Verbose("draining ", client_count_, " clients in the background");
  const pid_t child = os::Fork();
  if (child < 0) {
    return absl::UnavailableError(absl::ErrnoToStatus(errno, "fork for a drain").message());
  }
  if (child > 0) {
    // The end of the pipe shows that the child has its clients, or that it is dead.
    ready_write.Reset();
    WaitForFd(ready_read.get(), POLLIN, kDrainReadyLimit).IgnoreError();
    // Signals that wait in this process are not inherited, and the process that goes on is meant.
    if (StopSignalIsPending()) os::Kill(child, SIGTERM);
    for (ListenSocket& socket : own_sockets_) socket.RemoveName().IgnoreError();
    log_.FlushFor(kLogPatience);
    // A normal end without the exit hook; the master starts a new process for new clients (S79).
    exit(0);
  }
  ready_read.Reset();
  absl::Status status;
  // A child that is half of one must not go on, whoever asked for the drain.
  if (!RunHook("drain", [&] { status = BecomeDrainedChild(); })) {
    status = absl::ResourceExhaustedError("the drained process could not be set up");
  }
  if (!status.ok()) Fatal(status);
  return absl::OkStatus();
}

absl::Status Worker::BecomeDrainedChild() {
  draining_ = true;
  log_.AfterFork();
  const absl::Status status = loop_->AfterFork();
  if (!status.ok()) return status;
  SetProcessParameters(
      {command_line_.program, command_line_.service_name, configuration_directory_}, &store_);
  if (status_ != nullptr) status_->Silence();
  StopAccepting();
  use_limit_ = 1;
  if (idle_timer_ != nullptr) idle_timer_->Cancel();
  if (use_limit_timer_ != nullptr) use_limit_timer_->Cancel();
  log_.Verbose("draining: process ", os::Getpid(), " goes on with ", client_count_, " clients");
  // Alarms are not inherited (S86).
  return StartWatchdog();
}

// The numbers of inherited listen sockets are not used again: something might still think that they
// are what they were (S80).
void Worker::StopAccepting() {
  skeleton_->StopAccepting();
  if (!standalone_) {
    for (const ListenFd& socket : sockets_) {
      if (os::Dup3(STDIN_FILENO, socket.fd, O_CLOEXEC) >= 0) continue;
      log_.Warning(
          absl::ErrnoToStatus(errno, absl::StrCat("dup3(", STDIN_FILENO, ", ", socket.fd, ")"))
              .message());
      os::Close(socket.fd);
    }
  }
  sockets_.clear();
  inherited_sockets_.clear();
  if (!draining_) {
    for (ListenSocket& socket : own_sockets_) socket.RemoveName().IgnoreError();
  }
  own_sockets_.clear();
}

// --- The end ---

// Requests that have arrived are served before the process thinks about itself (SO7).
void Worker::ServeWhatIsReadable() {
  skeleton_->ServeReadable();
  more_to_do_ = skeleton_->EndTurn();
  for (int round = 0; more_to_do_ && round < kLastRounds; round++) {
    more_to_do_ = skeleton_->EndTurn();
  }
}

void Worker::MasterDisconnected() {
  // A master that stops sends SIGTERM and goes away: the signal says more, and comes next turn.
  if (StopSignalIsPending()) return;
  log_.Verbose("master disconnect -- exiting");
  status_->Silence();
  // Before accepting ends, so that the clients that are here are counted right.
  skeleton_->StopAccepting();
  ServeWhatIsReadable();
  const bool clients_left = client_count_ > 0 || skeleton_->accepting_under_way();
  if (!clients_left || options_.slow_exit_limit <= absl::ZeroDuration()) {
    exit_requested_ = true;
    return;
  }
  const absl::Status status = Drain();
  if (!status.ok()) {
    // Going on here serves the clients as well; only the master counts one process too many.
    log_.Warning(absl::StrCat("master disconnect: ", status.message()));
    stopping_ = true;
    StopAccepting();
  }
  LimitRemainingTime();
}

// SIGTERM, and in a standalone process SIGINT (SO15).
void Worker::Stop(absl::string_view why) {
  if (stopping_) {
    log_.Info(absl::StrCat(why, " again -- exiting at once"));
    exit_requested_ = true;
    return;
  }
  if (standalone_) {
    log_.Info(absl::StrCat(why, " -- stopping, ", client_count_, " clients"));
  } else {
    log_.Verbose(why, " -- stopping, ", client_count_, " clients");
  }
  stopping_ = true;
  // The last word to the master is "taken": it watches the listen sockets itself and starts another
  // process for new clients.
  if (status_ != nullptr && !draining_) {
    status_->WorkBegins();
    status_->Silence();
  }
  StopAccepting();
  skeleton_->FinishClients();
  ServeWhatIsReadable();
  if (options_.slow_exit_limit <= absl::ZeroDuration()) {
    exit_requested_ = true;
  } else {
    LimitRemainingTime();
  }
}

bool Worker::StopSignalIsPending() const {
  sigset_t pending;
  sigemptyset(&pending);
  os::Sigpending(&pending);
  for (const int signal : StopSignals()) {
    if (signals_ != nullptr ? signals_->Pending(signal) : sigismember(&pending, signal) == 1) {
      return true;
    }
  }
  return false;
}

// Other signals keep their default action (S5). SIGINT is for the keyboard of a program by itself.
std::vector<int> Worker::StopSignals() const {
  if (standalone_) return {SIGTERM, SIGINT};
  return {SIGTERM};
}

absl::Status Worker::WatchSignals() {
  absl::StatusOr<std::unique_ptr<SignalWatch>> watch =
      SignalWatch::Create(loop_.get(), StopSignals(), &Worker::OnSignal, this);
  if (!watch.ok()) return watch.status();
  signals_ = *std::move(watch);
  watchdog_.set_signals(signals_.get());
  return absl::OkStatus();
}

void Worker::OnSignal(int signal, void* context) {
  Worker* worker = static_cast<Worker*>(context);
  worker->stop_requests_++;
  worker->stop_reason_ = signal == SIGINT ? "SIGINT" : "SIGTERM";
}

void Worker::LimitRemainingTime() { slow_exit_timer_->Start(options_.slow_exit_limit); }

void Worker::OnSlowExitLimit(int /*event*/, void* context) {
  Worker* worker = static_cast<Worker*>(context);
  worker->log_.Info(absl::StrCat("exiting with ", worker->client_count_, " clients after ",
                                 absl::FormatDuration(worker->options_.slow_exit_limit)));
  worker->exit_requested_ = true;
}

void Worker::Fatal(absl::Status status) {
  if (fatal_.ok()) fatal_ = std::move(status);
}

int Worker::Exit() {
  watchdog_.Start(kExitLimit, "the exit hook").IgnoreError();
  if (options_.on_exit) RunHook("on_exit", [&] { options_.on_exit(context_); });
  for (ListenSocket& socket : own_sockets_) socket.RemoveName().IgnoreError();
  log_.Verbose("exiting");
  log_.FlushFor(kLogPatience);
  watchdog_.Stop();
  return 0;
}

int Worker::FatalExit(const absl::Status& status) {
  watchdog_.Start(kExitLimit, "the end after a fatal error").IgnoreError();
  if (!log_.has_sinks()) SetLogSinks();
  // A status may list several mistakes, one per line.
  for (const absl::string_view line : absl::StrSplit(status.message(), '\n', absl::SkipEmpty())) {
    log_.Write(LogSeverity::kFatal, line);
  }
  log_.FlushFor(kLogPatience);
  if (options_.last_resort) {
    RunHook("last_resort", [&] { options_.last_resort(status.message()); });
  }
  for (ListenSocket& socket : own_sockets_) socket.RemoveName().IgnoreError();
  // A person at a terminal need not wait.
  if (!by_hand()) Pause(kFatalPause);
  watchdog_.Stop();
  return 1;
}

}  // namespace posthouse

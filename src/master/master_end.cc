// The ends of a master: a start or a loop that fails, and a signal that stops it (M114 to M121).

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "posthouse/log/postlog_sink.h"
#include "posthouse/master/crash_signals.h"
#include "posthouse/master/master.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"
#include "posthouse/process/daemon_log.h"
#include "posthouse/process/environment.h"
#include "posthouse/process/signals.h"

namespace posthouse {
namespace {

// "Fatal": so that a master that fails at once does not spin whoever starts it.
constexpr absl::Duration kFatalPause = absl::Seconds(1);
// How long the end waits for a log that is slow.
constexpr absl::Duration kLogPatience = absl::Milliseconds(200);
// From the last KILL until the kernel has buried its victims.
constexpr absl::Duration kBurial = absl::Milliseconds(500);
constexpr pid_t kProcessOne = 1;

void Pause(absl::Duration duration) {
  timespec left = absl::ToTimespec(duration);
  while (os::Nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

std::unique_ptr<LogSink> EarlySink() {
  return NewEarlyDaemonSink(FromEnvironment(kPostlogServiceVariable),
                            FromEnvironment(kPostlogHostnameVariable));
}

}  // namespace

// Workers learn of it from descriptor 5 (M117).
int Master::FatalExit(const absl::Status& status) {
  const std::string reason(status.message());
  // Before anybody is told: a start that failed has left nothing half done (F90), and the next one
  // may follow at once.
  for (const auto& [id, service] : services_.all()) {
    service->CloseListeners();
    service->CloseChannel();
  }
  locks_.clear();
  const bool logs = log_.has_sinks() && early_log_ == nullptr;
  if (!logs || waiting_.somebody_waits() || start_stderr_.valid()) TellCaller(reason);
  if (!logs) {
    // Where records go before main.cf has said something else.
    const std::vector<EarlyRecord> records =
        early_log_ == nullptr ? std::vector<EarlyRecord>() : early_log_->Take();
    early_log_ = nullptr;
    log_.RemoveSinks();
    log_.AddSink(EarlySink());
    for (const EarlyRecord& record : records) log_.Write(record.severity, record.text);
  }
  LogLines(LogSeverity::kFatal, reason);
  log_.FlushFor(kLogPatience);
  Pause(kFatalPause);
  return 1;
}

// Whoever started us sees why it did not work (F109, MO10).
void Master::TellCaller(absl::string_view reason) {
  if (waiting_.somebody_waits()) return waiting_.Fail(reason);
  const std::string text = absl::StrCat("posthouse-master: fatal: ", reason, "\n");
  const int fd = start_stderr_.valid() ? start_stderr_.get() : STDERR_FILENO;
  if (os::Write(fd, text.data(), text.size()) < 0) return;  // the log has it too
}

// M114: TERM to the own process group, and the end by the same signal. In between the master stays
// until its workers have ended, so that a caller who sees it gone finds nothing left (F108); it
// waits no longer than `postfix stop` does (M120).
// Called again in the next turn when memory is lacking; what needs none is done once (F125).
void Master::BeginStop(int signal) {
  if (!stop_timer_->pending()) {
    stop_timer_->Start(absl::Nanoseconds(times_.supervisor.stop_ns) + kBurial);
    watchdog_.Stop();
    ForceEndAfter(absl::ToTimeval(times_.forced_end));
    TrySetDisposition(SIGTERM, SIG_IGN);
    // Not the leader of a group: workers are sent the signal one by one (M115).
    group_signalled_ = os::Kill(-os::Getpid(), SIGTERM) == 0;
    Guard("a log line", [&] { log_.Info(absl::StrCat("terminating on signal ", signal)); });
  }
  supervisor_.Stop(os::SteadyNanos());
  stopping_ = true;
  // Goes on at the end of the turn.
  Guard("the stop", [&] { Act(); });
  for (const auto& [id, service] : services_.all()) {
    service->CloseListeners();
    // Workers in sessions of their own learn it this way (M116).
    service->CloseChannel();
  }
}

void Master::OnStopLimit(int /*event*/, void* context) {
  static_cast<Master*>(context)->stopped_ = true;
}

bool Master::IsOfOurGroup(pid_t pid) const { return os::Getpgid(pid) == os::Getpid(); }

// Returns the exit status where the signal cannot be what ends the process: for process 1 the
// kernel knows no default action (M121, F29).
int Master::EndStop() {
  const bool process_one = options_.init || os::Getpid() == kProcessOne;
  if (!process_one && !group_signalled_) {
    log_.Write(LogSeverity::kFatal, "the master is not the leader of a process group");
  }
  log_.FlushFor(kLogPatience);
  if (process_one) return 0;
  if (!group_signalled_) return 1;
  StopCatchingCrashSignals();
  // The group's TERM is pending here, too, where the signal is blocked: ignoring drops it.
  if (stop_signal_ != SIGTERM) TrySetDisposition(SIGTERM, SIG_IGN);
  TrySetDisposition(stop_signal_, SIG_DFL);
  os::Kill(os::Getpid(), stop_signal_);
  Unblock(stop_signal_);
  return 1;
}

}  // namespace posthouse

#include "posthouse/process/watchdog.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// Alarms per limit. One more than ten leaves a part of the tenth for a late alarm.
constexpr int kTicks = 12;
constexpr absl::Duration kLongestTick = absl::Seconds(10);
// A process that was sent SIGTERM and makes no progress gets this many.
constexpr int kTicksWithTerm = 2;
constexpr time_t kForcedEndSeconds = 5;
// The numbers of the prepared log lines.
constexpr int kNoProgress = 0;
constexpr int kNoProgressWithTerm = 1;
static_assert(kNoProgressWithTerm < Log::kMaxEmergencies);

// The one that OnAlarm() serves; see the header.
Watchdog* volatile g_running = nullptr;

itimerval EveryMicros(int64_t micros) {
  itimerval value = {};
  value.it_interval.tv_sec = micros / 1000000;
  value.it_interval.tv_usec = micros % 1000000;
  value.it_value = value.it_interval;
  return value;
}

}  // namespace

absl::Status Watchdog::Start(absl::Duration limit, std::string what) {
  POSTHOUSE_CHECK(limit >= absl::Milliseconds(1), "a watchdog's limit is below 1 ms");
  Stop();
  const absl::Duration tick = std::min(limit / kTicks, kLongestTick);
  ticks_allowed_ = static_cast<int>(absl::Ceil(limit, tick) / tick);
  message_ =
      absl::StrCat("watchdog timeout: no progress in ", what, " for ", absl::FormatDuration(limit));
  term_message_ = absl::StrCat("watchdog timeout: no progress in ", what,
                               " while SIGTERM waits to be acted upon");
  log_->PrepareEmergency(LogSeverity::kFatal, message_, kNoProgress);
  log_->PrepareEmergency(LogSeverity::kFatal, term_message_, kNoProgressWithTerm);
  seen_progress_ = Progress();
  ticks_without_progress_ = 0;
  ticks_with_term_ = 0;
  g_running = this;
  running_ = true;

  struct sigaction action = {};
  action.sa_sigaction = &Watchdog::OnAlarm;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  if (os::Sigaction(SIGALRM, &action, nullptr) != 0) {
    return absl::ErrnoToStatus(errno, "sigaction(SIGALRM) for the watchdog");
  }
  const itimerval ticks = EveryMicros(absl::ToInt64Microseconds(tick));
  if (os::Setitimer(ITIMER_REAL, &ticks, nullptr) != 0) {
    return absl::ErrnoToStatus(errno, "setitimer for the watchdog");
  }
  return absl::OkStatus();
}

void Watchdog::Stop() {
  if (!running_) return;
  running_ = false;
  const itimerval never = {};
  os::Setitimer(ITIMER_REAL, &never, nullptr);
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigemptyset(&action.sa_mask);
  os::Sigaction(SIGALRM, &action, nullptr);
  g_running = nullptr;
}

uint64_t Watchdog::Progress() const {
  uint64_t progress = pats_;
  if (const EventLoop* loop = loop_; loop != nullptr) {
    const EventLoopCounters& counters = loop->counters();
    progress += static_cast<uint64_t>(counters.turns + counters.waits + counters.deliveries +
                                      counters.timers_run);
  }
  return progress;
}

// Async-signal-safe: system calls.
bool Watchdog::TermWaits() const {
  if (const SignalWatch* signals = signals_; signals != nullptr) return signals->Pending(SIGTERM);
  sigset_t pending;
  sigemptyset(&pending);
  return os::Sigpending(&pending) == 0 && sigismember(&pending, SIGTERM) == 1;
}

// Async-signal-safe: it reads counters, asks for waiting signals and writes members; Expire() is.
void Watchdog::Tick() {
  const uint64_t progress = Progress();
  if (progress != seen_progress_) {
    seen_progress_ = progress;
    ticks_without_progress_ = 0;
    ticks_with_term_ = 0;
    return;
  }
  ticks_without_progress_ = ticks_without_progress_ + 1;
  if (ticks_without_progress_ >= ticks_allowed_) Expire(kNoProgress, message_.c_str());
  if (!TermWaits()) return;
  ticks_with_term_ = ticks_with_term_ + 1;
  if (ticks_with_term_ >= kTicksWithTerm) Expire(kNoProgressWithTerm, term_message_.c_str());
}

// Async-signal-safe. Alarms of other processes are not ours to count: they would measure no time
// (F25).
bool Watchdog::SentByAProcess(const siginfo_t& info) {
#if defined(__linux__)
  // The sender's number says nothing: it is 0 for one of another pid namespace.
  return info.si_code == SI_USER || info.si_code == SI_QUEUE;
#else
  // The code says nothing everywhere: OpenBSD gives SI_USER to the alarms of a timer, and macOS 0
  // to what kill(2) sends. No process has the number 0.
  return info.si_pid != 0;
#endif
}

// Async-signal-safe: as Tick() is.
void Watchdog::OnAlarm(int /*signal*/, siginfo_t* info, void* /*machine_context*/) {
  if (SentByAProcess(*info)) return;
  const int saved_errno = errno;
  if (g_running != nullptr) g_running->Tick();
  errno = saved_errno;
}

// Async-signal-safe: system calls and Log::WriteEmergency(); but for the last resort, see the
// header.
void Watchdog::Expire(int which, const char* message) {
  // The safety net first: the default action of SIGALRM, not blocked, in 5 s.
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigemptyset(&action.sa_mask);
  os::Sigaction(SIGALRM, &action, nullptr);
  itimerval forced_end = {};
  forced_end.it_value.tv_sec = kForcedEndSeconds;
  os::Setitimer(ITIMER_REAL, &forced_end, nullptr);
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  os::Sigmask(SIG_UNBLOCK, &alarm, nullptr);

  log_->WriteEmergency(which);
  if (last_resort_ != nullptr) last_resort_(last_resort_context_, message);
  _Exit(1);
}

}  // namespace posthouse

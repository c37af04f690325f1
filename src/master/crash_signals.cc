#include "posthouse/master/crash_signals.h"

#include <errno.h>
#include <signal.h>

#include <array>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr time_t kForcedEndSeconds = 5;
constexpr std::array<int, 3> kCrashSignals = {SIGILL, SIGBUS, SIGSEGV};
// The numbers of the prepared log lines; the watchdog has those below.
constexpr int kFirstEmergency = 2;
static_assert(kFirstEmergency + kCrashSignals.size() <= Log::kMaxEmergencies);

// See the header.
Log* volatile g_log = nullptr;

void SetHandler(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  os::Sigaction(signal, &action, nullptr);
}

void Unblock(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  os::Sigmask(SIG_UNBLOCK, &set, nullptr);
}

// Async-signal-safe: system calls and Log::WriteEmergency().
void OnCrash(int signal) {
  SetHandler(SIGALRM, SIG_DFL);
  itimerval forced_end = {};
  forced_end.it_value.tv_sec = kForcedEndSeconds;
  os::Setitimer(ITIMER_REAL, &forced_end, nullptr);
  Unblock(SIGALRM);
  SetHandler(SIGTERM, SIG_IGN);
  const pid_t self = os::Getpid();
  os::Kill(-self, SIGTERM);
  for (size_t i = 0; i < kCrashSignals.size(); ++i) {
    if (kCrashSignals[i] == signal && g_log != nullptr) {
      g_log->WriteEmergency(kFirstEmergency + static_cast<int>(i));
    }
  }
  SetHandler(signal, SIG_DFL);
  os::Kill(self, signal);
  Unblock(signal);
}

}  // namespace

absl::Status CatchCrashSignals(Log* log) {
  g_log = log;
  for (size_t i = 0; i < kCrashSignals.size(); ++i) {
    log->PrepareEmergency(LogSeverity::kInfo,
                          absl::StrCat("terminating on signal ", kCrashSignals[i]),
                          kFirstEmergency + static_cast<int>(i));
    struct sigaction action = {};
    action.sa_handler = &OnCrash;
    sigemptyset(&action.sa_mask);
    if (os::Sigaction(kCrashSignals[i], &action, nullptr) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("sigaction for signal ", kCrashSignals[i]));
    }
  }
  return absl::OkStatus();
}

void StopCatchingCrashSignals() {
  for (const int signal : kCrashSignals) SetHandler(signal, SIG_DFL);
  g_log = nullptr;
}

}  // namespace posthouse

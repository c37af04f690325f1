#include "posthouse/master/crash_signals.h"

#include <signal.h>

#include <array>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"
#include "posthouse/process/signals.h"

namespace posthouse {
namespace {

constexpr time_t kForcedEndSeconds = 5;
constexpr std::array<int, 3> kCrashSignals = {SIGILL, SIGBUS, SIGSEGV};
// The numbers of the prepared log lines; the watchdog has those below.
constexpr int kFirstEmergency = 2;
static_assert(kFirstEmergency + kCrashSignals.size() <= Log::kMaxEmergencies);

// See the header.
Log* volatile g_log = nullptr;

// Async-signal-safe: system calls and Log::WriteEmergency().
void OnCrash(int signal) {
  ForceEndAfter({.tv_sec = kForcedEndSeconds, .tv_usec = 0});
  TrySetDisposition(SIGTERM, SIG_IGN);
  const pid_t self = os::Getpid();
  os::Kill(-self, SIGTERM);
  for (size_t i = 0; i < kCrashSignals.size(); ++i) {
    if (kCrashSignals[i] == signal && g_log != nullptr) {
      g_log->WriteEmergency(kFirstEmergency + static_cast<int>(i));
    }
  }
  TrySetDisposition(signal, SIG_DFL);
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
    if (absl::Status status = SetDisposition(kCrashSignals[i], &OnCrash); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

void StopCatchingCrashSignals() {
  for (const int signal : kCrashSignals) TrySetDisposition(signal, SIG_DFL);
  g_log = nullptr;
}

}  // namespace posthouse

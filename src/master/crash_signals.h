// What a master does when it crashes: its workers must not go on without it (M90, M114).
//
//   absl::Status status = CatchCrashSignals(&log);
//
// On SIGILL, SIGBUS and SIGSEGV the handler sets an alarm that nothing can hold up, sends SIGTERM
// to its own process group, writes a log line that was prepared before, and lets the signal have
// its default effect, so that the wait status and a core file tell what happened.
//
// State: a signal handler has no object to ask, so the log is known at file scope. Thread: one.
// Signals: the handler makes async-signal-safe calls alone.

#ifndef POSTHOUSE_MASTER_CRASH_SIGNALS_H_
#define POSTHOUSE_MASTER_CRASH_SIGNALS_H_

#include "absl/status/status.h"
#include "posthouse/log/log.h"

namespace posthouse {

// The log must live as long as the process, or until StopCatchingCrashSignals(). It prepares one of
// the emergency records of the log; the watchdog has the others.
absl::Status CatchCrashSignals(Log* log);
void StopCatchingCrashSignals();

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_CRASH_SIGNALS_H_

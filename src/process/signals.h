// What a daemon does with signals outside of its event loop: dispositions, and the last resort of
// an end that might hang.
//
//   if (absl::Status status = SetDisposition(SIGPIPE, SIG_IGN); !status.ok()) return status;
//
// Thread: one. Signal handlers: TrySetDisposition(), Unblock() and ForceEndAfter() are
// async-signal-safe. Fork: dispositions are inherited, the alarm is not.

#ifndef POSTHOUSE_PROCESS_SIGNALS_H_
#define POSTHOUSE_PROCESS_SIGNALS_H_

#include <sys/time.h>

#include "absl/status/status.h"

namespace posthouse {

// SIG_DFL, SIG_IGN or a handler, without flags. False and errno as sigaction(2).
bool TrySetDisposition(int signal, void (*handler)(int));
// The same; the error names the signal.
absl::Status SetDisposition(int signal, void (*handler)(int));

void Unblock(int signal);

// Whatever hangs from now on, the kernel ends the process by SIGALRM (M114).
void ForceEndAfter(timeval limit);

}  // namespace posthouse

#endif  // POSTHOUSE_PROCESS_SIGNALS_H_

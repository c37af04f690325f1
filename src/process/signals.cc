#include "posthouse/process/signals.h"

#include <errno.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {

bool TrySetDisposition(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  return os::Sigaction(signal, &action, nullptr) == 0;
}

absl::Status SetDisposition(int signal, void (*handler)(int)) {
  if (TrySetDisposition(signal, handler)) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("sigaction for signal ", signal));
}

void Unblock(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  os::Sigmask(SIG_UNBLOCK, &set, nullptr);
}

void ForceEndAfter(timeval limit) {
  TrySetDisposition(SIGALRM, SIG_DFL);
  itimerval value = {};
  value.it_value = limit;
  os::Setitimer(ITIMER_REAL, &value, nullptr);
  Unblock(SIGALRM);
}

}  // namespace posthouse

// Preloaded into a test program: an interval timer of 1 kHz interrupts whatever it does (F8).
//
// The handler is installed without SA_RESTART, so that calls really end with EINTR. The signal is
// a real-time one, which no test uses for itself. Children do not inherit timers.

#include <signal.h>
#include <time.h>
#include <unistd.h>

namespace {

void Nothing(int) {}

struct Kilohertz {
  Kilohertz() {
    struct sigaction action = {};
    action.sa_handler = &Nothing;
    sigemptyset(&action.sa_mask);
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN + 5;
    timer_t timer;
    itimerspec every = {};
    every.it_interval.tv_nsec = 1000000;
    every.it_value = every.it_interval;
    if (sigaction(SIGRTMIN + 5, &action, nullptr) != 0 ||
        timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
        timer_settime(timer, 0, &every, nullptr) != 0) {
      _exit(99);
    }
  }
};

const Kilohertz kilohertz;

}  // namespace

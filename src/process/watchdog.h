// Watchdog ends a process that hangs: a hook, a handler or a service call that keeps the event loop
// from making progress for the whole limit (S71, S72, F52).
//
//   Watchdog watchdog(&log);
//   status = watchdog.Start(absl::Seconds(18000), "the event loop");
//   while (...) { watchdog.Pat(); loop.RunOnce(...); }
//
// SIGALRM comes every twelfth of the limit, but at least every 10 s. Progress is a pat, or any
// handler that the loop has run; as many alarms in a row without any as make up the limit end the
// process, so between the limit and the limit plus a tenth after the last progress. A process that
// hangs while SIGTERM waits to be acted upon has been told to end: two alarms are enough for it
// (F54). Because alarms that pile up while the process cannot run arrive
// as one, a stopped or starved process is not taken for a hung one (F17, F53), and no clock is
// read. Alarms that another process sends are not counted. An alarm interrupts a wait for events,
// which makes the loop turn, so waiting never trips it (S71); the handler is installed with
// SA_RESTART, so service code sees no EINTR (S74).
//
// The end: a fatal log line naming what hung, the last resort, exit status 1. There is no pause
// before it as with other fatal errors: its purpose is to slow down a worker that fails at once,
// and this one took the limit. Should the end itself hang, the kernel kills the process with
// SIGALRM 5 s later (S72, F54).
//
// The hung process may be anywhere, in the middle of malloc(3) or of a log line, so the handler
// does nothing that is not async-signal-safe (F24): Start() has the log prepare the line, and the
// handler only stamps and sends it, once to each sink. A sink that cannot take it at that moment
// (a full socket, a log daemon that was restarted since the last record) misses it, and so do
// records that the log had kept for later.
//
// The last resort is code of the user and runs in the signal handler, in a process that hangs. It
// should make async-signal-safe calls alone; if it waits for what the process holds, the kernel's
// kill is 5 s behind it.
//
// State: a signal handler has no object to ask, so the running watchdog is known at file scope; one
// process runs one at a time.
// Thread: that of the loop. Fork: alarms are not inherited; the child calls Start() again (S86).

#ifndef POSTHOUSE_PROCESS_WATCHDOG_H_
#define POSTHOUSE_PROCESS_WATCHDOG_H_

#include <signal.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/signal_watch.h"
#include "posthouse/log/log.h"

namespace posthouse {

class Watchdog {
 public:
  // Called in the signal handler, after the log line and just before the process ends; see above.
  using LastResort = void (*)(void* context, const char* reason);

  explicit Watchdog(Log* log) : log_(log) {}
  ~Watchdog() { Stop(); }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // The loop whose handlers count as progress; null for none.
  void set_loop(const EventLoop* loop) { loop_ = loop; }
  // The watch that SIGTERM comes through, which knows best whether one waits; null for none.
  void set_signals(const SignalWatch* signals) { signals_ = signals; }
  void set_last_resort(LastResort last_resort, void* context) {
    last_resort_ = last_resort;
    last_resort_context_ = context;
  }

  // Starts, or starts anew with another limit. `what` is named in the log line. From then on the
  // two emergency records of the log are the watchdog's.
  // REQUIRES: limit >= 1 ms.
  absl::Status Start(absl::Duration limit, std::string what);
  void Stop();
  void Pat() { pats_ = pats_ + 1; }

 private:
  static bool SentByAProcess(const siginfo_t& info);
  static void OnAlarm(int signal, siginfo_t* info, void* machine_context);
  uint64_t Progress() const;
  bool TermWaits() const;
  void Tick();
  [[noreturn]] void Expire(int which, const char* message);

  Log* log_;
  const EventLoop* volatile loop_ = nullptr;
  const SignalWatch* volatile signals_ = nullptr;
  LastResort last_resort_ = nullptr;
  void* last_resort_context_ = nullptr;
  // For the two ways to expire; changed only while no alarm can come.
  std::string message_;
  std::string term_message_;
  int ticks_allowed_ = 0;
  // Written by the process and read by the handler, both in the same thread.
  volatile uint64_t pats_ = 0;
  volatile uint64_t seen_progress_ = 0;
  volatile int ticks_without_progress_ = 0;
  volatile int ticks_with_term_ = 0;
  bool running_ = false;
};

}  // namespace posthouse

#endif  // POSTHOUSE_PROCESS_WATCHDOG_H_

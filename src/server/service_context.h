// ServiceContext is what a service knows of the process that runs it: its name and arguments, its
// configuration, its event loop and log, and the limits that it may change.
//
// The same object is handed to every hook and every service call for the life of the process (S33).
// Thread: that of the event loop. Fork: after Drain() the child goes on with the same object.

#ifndef POSTHOUSE_SERVER_SERVICE_CONTEXT_H_
#define POSTHOUSE_SERVER_SERVICE_CONTEXT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/log/log.h"

namespace posthouse {

class Worker;

class ServiceContext {
 public:
  // The service name of master.cf (-n), or the program's name.
  const std::string& name() const;
  // What is left of the command line after the options (S25).
  const std::vector<std::string>& arguments() const;
  // main.cf, overrides and loaded parameters. Parameters that were handed over in the options have
  // their values already; this is for looking up others.
  const ParameterStore& parameters() const;
  // Exists from post_init on (S22). Timers and watches that a service makes on it may be destroyed
  // after MultiServerMain() has returned. SIGTERM, and SIGINT in a program by itself, are read by
  // the runtime and blocked meanwhile: a service that runs other programs unblocks them in the
  // child.
  EventLoop& loop();
  Log& log();

  // The limits of S3: plain values that count from the next test on. Zero: no limit (S2).
  int use_limit() const;
  void set_use_limit(int connections);
  absl::Duration idle_limit() const;
  void set_idle_limit(absl::Duration limit);

  // Connected clients and finished connections (S64).
  int client_count() const;
  int use_count() const;

  // Stops accepting and finishes the present clients in a background process; the master starts a
  // new worker for new ones (S79 to S81, SO8). Returns in the child alone: the parent has exited
  // with status 0, without the exit hook. kUnavailable: fork failed, nothing has changed, try again
  // later. In a process that drains already it does nothing.
  absl::Status Drain();
  bool draining() const;

  // Tells the watchdog that long work makes progress (S75).
  void PatWatchdog();

  // Ends the process in an orderly way after this turn: exit hook, status 0.
  void RequestExit();

 private:
  friend class Worker;
  explicit ServiceContext(Worker* worker) : worker_(worker) {}
  Worker* worker_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_SERVICE_CONTEXT_H_

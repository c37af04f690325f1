// Worker is the life of a process that serves under a master or by itself, the part that all
// skeletons share. A skeleton plugs in how a connection becomes work.
//
//   MultiServer server(std::move(options));
//   Worker worker(std::move(worker_options), &server);
//   return worker.Run(arguments);
//
// The life is a line of named phases (see worker_start.cc), then the loop, then the end. A phase
// that fails ends the process: the log says which one and why, the last resort is called, and after
// a pause of a second, which keeps a failing worker from spinning its master, the exit status is 1
// (a "fatal error"). Errors are counted as they are logged; the 13th in the life of the process is
// fatal too.
//
// State lives in the object, so that tests can run many, one after another. Two things a process
// has only once know the running worker: the watchdog's signal handler and the panic reporter.
//
// Thread: one. Fork: Drain(). Exceptions: one that leaves a hook is logged as an error (F57); in a
// phase it fails the phase.

#ifndef POSTHOUSE_SERVER_WORKER_H_
#define POSTHOUSE_SERVER_WORKER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "posthouse/config/generic_parameters.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/signal_watch.h"
#include "posthouse/io/listen.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/log.h"
#include "posthouse/master/protocol.h"
#include "posthouse/process/watchdog.h"
#include "posthouse/server/command_line.h"
#include "posthouse/server/listen_fd.h"
#include "posthouse/server/service_context.h"
#include "posthouse/server/status_channel.h"

namespace posthouse {

// What every skeleton's options have in common; the names are those of MultiServerOptions.
struct WorkerOptions {
  std::vector<Parameter*> parameters;
  absl::AnyInvocable<void(ServiceContext&)> bounce_init;
  absl::AnyInvocable<void(ServiceContext&)> pre_init;
  absl::AnyInvocable<void(ServiceContext&)> post_init;
  absl::AnyInvocable<absl::Duration(ServiceContext&)> loop;
  absl::AnyInvocable<void(ServiceContext&)> on_exit;
  absl::AnyInvocable<void(absl::string_view)> last_resort;
  bool solitary = false;
  bool unlimited = false;
  bool privileged = false;
  absl::Duration use_limit_grace = absl::InfiniteDuration();
  absl::Duration slow_exit_limit = absl::ZeroDuration();
  std::string description;
  std::string version;

  // Where the master's descriptors are; other numbers are for tests and other masters (PO5).
  MasterDescriptors descriptors;
};

// How a connection becomes work. Called by the worker, in the order of the declarations.
class Skeleton {
 public:
  virtual ~Skeleton() = default;

  virtual CommandLineRules command_line_rules() const { return {}; }
  virtual bool Accepts(Transport transport) const = 0;
  // One session on standard input and output, from its beginning to its end (S76).
  virtual absl::Status ServeOneShot() = 0;
  // Starts to accept from `sockets`. Called once, with the loop there and privileges dropped.
  virtual absl::Status Open(const std::vector<ListenFd>& sockets) = 0;

  // Does what handlers of this turn have put off; returns whether more is to be done at once, so
  // that the next turn must not wait.
  virtual bool EndTurn() = 0;
  // Whether something that was accepted has not become a client yet.
  virtual bool accepting_under_way() const { return false; }

  // Accepts nothing from now on and gives the listen sockets up. Calling it again is harmless.
  virtual void StopAccepting() = 0;
  // From now on a client is ended as soon as no request of it is under way.
  virtual void FinishClients() = 0;
  // Serves requests that are readable now, once (SO7).
  virtual void ServeReadable() = 0;
  // Ends what is left: output that the kernel takes is sent, the rest is dropped.
  virtual void CloseAll() = 0;
};

class Worker {
 public:
  // The skeleton is borrowed and outlives the worker.
  Worker(WorkerOptions options, Skeleton* skeleton);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // The whole life; the exit status. `arguments` includes the program's name.
  int Run(std::vector<std::string> arguments);

  // --- For skeletons ---

  Log& log() { return log_; }
  EventLoop& loop() { return *loop_; }
  ServiceContext& context() { return context_; }
  const GenericParameters& generic() const { return generic_; }
  const WorkerCommandLine& command_line() const { return command_line_; }
  const MasterDescriptors& descriptors() const { return options_.descriptors; }
  // Without a master: --listen, or sockets from systemd.
  bool standalone() const { return standalone_; }

  // Before each piece of work that counts as a request for the master, and progress for the
  // watchdog.
  void WorkBegins();
  // Counts clients; the idle timer runs while there is none (S63, S67).
  void ClientArrived();
  void ClientLeft();
  // How many more connections may be accepted at once so that the use limit is not passed by
  // accepting a batch; at least 1, since the limit is soft (S66).
  int AcceptAllowance() const;

  // A fatal error while serving: the loop ends after this handler.
  void Fatal(absl::Status status);
  // Runs a hook; an exception is logged as an error with the hook's name. False if there was one.
  bool RunHook(absl::string_view name, absl::FunctionRef<void()> hook);

  // --- Behind ServiceContext ---

  const std::string& name() const { return command_line_.service_name; }
  const ParameterStore& store() const { return store_; }
  int use_limit() const { return use_limit_; }
  void set_use_limit(int connections) { use_limit_ = connections; }
  absl::Duration idle_limit() const { return idle_limit_; }
  void set_idle_limit(absl::Duration limit) { idle_limit_ = limit; }
  int client_count() const { return client_count_; }
  int use_count() const { return use_count_; }
  absl::Status Drain();
  bool draining() const { return draining_; }
  void PatWatchdog() { watchdog_.Pat(); }
  void RequestExit() { exit_requested_ = true; }

 private:
  class ErrorCounter;
  struct Phase {
    const char* name;
    absl::Status (Worker::*run)();
  };
  // What the environment said, read once at the start (S4, S7, P11).
  struct Environment {
    bool verbose = false;
    bool debug = false;
    absl::optional<std::string> log_tag;
    absl::optional<std::string> generation;
    absl::optional<std::string> configuration_directory;
    absl::optional<std::string> postlog_service;
    absl::optional<std::string> postlog_hostname;
    absl::optional<std::string> backend;
    int systemd_sockets = 0;  // LISTEN_FDS, if LISTEN_PID means us
  };

  // The phases, in their order (worker_start.cc).
  static const Phase kPhases[];
  absl::Status ReadEnvironment();
  absl::Status SetSignals();
  absl::Status TidyDescriptors();
  absl::Status StartLogging();
  absl::Status CheckOptions();
  absl::Status ReadConfiguration();
  absl::Status LoadGenericParameters();
  absl::Status CheckTerminal();
  absl::Status LoadApplicationParameters();
  absl::Status BounceInit();
  absl::Status CheckRestrictions();
  absl::Status ChooseTransport();
  absl::Status ReadGeneration();
  absl::Status RunDebugger();
  absl::Status OpenOwnSockets();
  absl::Status HoldStopSignals();
  absl::Status EnterDirectory();
  absl::Status PreInit();
  absl::Status DropPrivileges();
  absl::Status CreateLoop();
  absl::Status PostInit();
  absl::Status ServeOneShot();
  absl::Status OpenService();
  absl::Status StartWatchdog();

  absl::Status HookPhase(absl::string_view name, absl::AnyInvocable<void(ServiceContext&)>& hook);
  absl::Status KeepMasterDescriptors();
  absl::Status MoveSystemdSockets();
  absl::Status ApplyOverrides(std::vector<std::string>* warnings);
  void ChooseLimits();
  void LogWarnings(const std::vector<std::string>& warnings);
  void SetLogSinks();
  void AddDaemonSink();
  void ExportLogging();
  std::string LogTag() const;
  std::unique_ptr<LogSink> NewErrorCounter();
  std::string Usage() const;
  // Neither a master nor systemd has started this process.
  bool by_hand() const;
  void ExplainOnStderr();

  // The loop and the end (worker.cc).
  int Loop();
  bool ShouldEnd() const;
  absl::Duration LoopDelay();
  absl::Status RunTurn(absl::Duration delay);
  void EndTurn();
  void EndLoop();
  int Exit();
  int FatalExit(const absl::Status& status);
  void MasterDisconnected();
  void Stop(absl::string_view why);
  void LimitRemainingTime();
  void StartIdleTimer();
  void WatchUseLimit();
  void StopAccepting();
  void ServeWhatIsReadable();
  std::vector<int> StopSignals() const;
  bool StopSignalIsPending() const;
  absl::Status WatchSignals();
  absl::Status BecomeDrainedChild();
  static void OnSignal(int signal, void* context);
  static void OnIdle(int event, void* context);
  static void OnSlowExitLimit(int event, void* context);
  static void OnUseLimitGrace(int event, void* context);
  static void ReportPanic(const char* file, int line, const char* sentence);

  WorkerOptions options_;
  Skeleton* skeleton_;
  ServiceContext context_;
  Log log_;

  std::vector<std::string> raw_arguments_;
  absl::Status command_line_status_;
  WorkerCommandLine command_line_;
  Environment environment_;
  ParameterStore store_;
  GenericParameters generic_;
  const char* phase_ = "start";
  absl::optional<int> early_exit_;  // the process has come to its end in a phase
  bool standalone_ = false;
  absl::optional<Transport> transport_;
  std::string configuration_directory_;
  bool configuration_found_ = false;
  bool generic_loaded_ = false;
  absl::Status missing_descriptors_;
  std::vector<ListenFd> sockets_;            // in the order in which they are watched
  std::vector<UniqueFd> inherited_sockets_;  // those that systemd handed over
  std::vector<ListenSocket> own_sockets_;    // those of --listen
  uint32_t generation_ = 0;

  std::unique_ptr<EventLoop> loop_;
  Watchdog watchdog_;
  std::unique_ptr<StatusChannel> status_;
  std::unique_ptr<SignalWatch> signals_;
  std::unique_ptr<Timer> idle_timer_;
  std::unique_ptr<Timer> slow_exit_timer_;
  std::unique_ptr<Timer> use_limit_timer_;

  int use_limit_ = 0;
  absl::Duration idle_limit_ = absl::ZeroDuration();
  int client_count_ = 0;
  int use_count_ = 0;
  int error_count_ = 0;
  bool more_to_do_ = false;
  bool idle_expired_ = false;
  bool exit_requested_ = false;
  bool draining_ = false;
  bool stopping_ = false;
  int stop_requests_ = 0;  // signals that have arrived and were not acted upon
  const char* stop_reason_ = "";
  absl::Status fatal_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_WORKER_H_

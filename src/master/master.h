// Master is the process manager: it owns the sockets of all services, starts workers when clients
// wait, and keeps the services alive.
//
//   Master master;
//   return master.Run(arguments);
//
// The life is a line of named phases (master_start.cc), then the loop (master.cc), then the end
// (master_end.cc). What is done, and when, is decided by the Supervisor, which knows no system;
// this class is the shell around it: it turns descriptors, signals and timers into events, and
// actions into system calls. The parts that do so are modules of their own.
//
// A phase that fails ends the process: its reason goes to the log, to standard error as long as
// that is the caller's, and with -w to the process that waits; after a pause of a second the exit
// status is 1. Once the loop runs, nothing that workers, clients, configurations or a lack of
// memory do ends it (F82, F100, F125).
//
// Thread: one. Fork: workers alone, and -w. State lives in the object but for the alarm of the
// watchdog and the handler of fatal signals.

#ifndef POSTHOUSE_MASTER_MASTER_H_
#define POSTHOUSE_MASTER_MASTER_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/signal_watch.h"
#include "posthouse/event/timer.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/log.h"
#include "posthouse/master/command_line.h"
#include "posthouse/master/configuration.h"
#include "posthouse/master/early_log.h"
#include "posthouse/master/effective_owner.h"
#include "posthouse/master/flood_watch.h"
#include "posthouse/master/lock_file.h"
#include "posthouse/master/reload.h"
#include "posthouse/master/reload_outcome.h"
#include "posthouse/master/service.h"
#include "posthouse/master/services.h"
#include "posthouse/master/spawner.h"
#include "posthouse/master/supervisor.h"
#include "posthouse/master/waiting_start.h"
#include "posthouse/master/wake_up.h"
#include "posthouse/process/watchdog.h"

namespace posthouse {

// The fixed times in one place (MO9); tests shorten them.
struct MasterTimes {
  MasterTimes() {
    // `postfix stop` asks five times, once a second, and then kills the group (M120).
    supervisor.stop_ns = 3'000'000'000;
  }

  SupervisorTimes supervisor;
  absl::Duration waiting_start = absl::Seconds(100);    // M28
  absl::Duration reload_command = absl::Seconds(60);    // F100
  absl::Duration watchdog = absl::Seconds(1000);        // M92
  absl::Duration forced_end = absl::Seconds(5);         // M114
  absl::Duration endpoint_retry = absl::Seconds(2);     // F90
  absl::Duration deaf_retry = absl::Milliseconds(100);  // F65
  // Two reloads are at least so far apart: signals that come faster are one (F102).
  absl::Duration reload_interval = absl::Milliseconds(200);
};

class Master : public ServiceObserver {
 public:
  explicit Master(const MasterTimes& times = MasterTimes());
  ~Master() override;
  Master(const Master&) = delete;
  Master& operator=(const Master&) = delete;

  // The whole life; the exit status, unless a signal is what ended it (M114). `arguments` includes
  // the program's name.
  int Run(std::vector<std::string> arguments);

 private:
  struct Phase {
    const char* name;
    absl::Status (Master::*run)();
  };

  // --- The start (master_start.cc), in its order ---

  static const Phase kPhases[];
  absl::Status ReadCommandLine();
  absl::Status SetSignals();
  absl::Status TidyDescriptors();
  absl::Status StartEarlyLog();
  absl::Status CheckUser();
  absl::Status SplitToWait();
  absl::Status Detach();
  absl::Status MakeSession();
  absl::Status ReadConfiguration();
  absl::Status ReduceEnvironment();
  absl::Status EnterQueueDirectory();
  absl::Status AnswerTest();
  absl::Status CommandTheReload();
  absl::Status MakeDirectories();
  absl::Status TakeLocks();
  absl::Status RunDebugger();
  absl::Status CreateLoop();
  absl::Status WatchSignals();
  absl::Status StartServices();
  absl::Status MakeFlowPipe();
  absl::Status StartLog();
  absl::Status Announce();
  absl::Status StartWatchdog();

  void SetLogSinks();
  std::string LogDestination() const;
  bool LogsToFile() const;
  std::unique_ptr<LogSink> OpenLogFile();
  void LogLines(LogSeverity severity, absl::string_view lines);
  void LogWarnings(const std::vector<std::string>& warnings);
  void LogListenReport(const ListenReport& report);
  std::string VersionAndDirectory() const;
  static std::string Usage();

  // --- The loop (master.cc) ---

  int Loop();
  absl::Duration LogRetry();
  void EndTurn();
  void RepairWatches();
  bool Guard(absl::string_view what, absl::FunctionRef<void()> work);
  static void OnSignal(int signal, void* context);
  static void OnDeadline(int event, void* context);
  static void OnEndpointRetry(int event, void* context);
  static void OnDeafRetry(int event, void* context);
  static void OnReload(int event, void* context);
  static void OnExitAfter(int event, void* context);
  static void OnStopLimit(int event, void* context);

  void OnClientWaiting(Service* service) override;
  void OnDeafListener(Service* service) override;
  void OnStatus(Service* service, const StatusBatch& batch) override;
  void OnBrokenChannel(Service* service) override;
  void OnUnwatchedListener(Service* service) override;

  void EndFlooders(int64_t now_ns);
  struct Death {
    pid_t pid;
    ChildEnd end;
  };
  void Reap();
  void Bury(const Death& death);
  Service* ServiceOf(pid_t pid) const;
  void Look();
  void OpenMissingEndpoints();
  void RestoreDeafListeners();
  void EndWhoeverIsToBlame(ServiceId id);
  void RenewWorkers(Service* service);

  // Does what the supervisor wants done, until it wants nothing more.
  void Act();
  void Execute(const SupervisorAction& action);
  void GiveUpAction();
  struct SpawnAnswer {
    ServiceId service = 0;
    uint32_t generation = 0;
    pid_t pid = 0;  // 0: there is no process
  };
  void Spawn(const SupervisorAction& action, Service* service);
  absl::Status TrySpawn(const SupervisorAction& action, Service* service, pid_t* pid);
  void TellSpawn(const absl::Status& status, const SpawnAnswer& answer, const Service& service);
  void AnswerSpawn();
  void Signal(const SupervisorAction& action);
  void RenewChannel(Service* service);
  void CloseService(ServiceId id);
  absl::StatusOr<UniqueFd> OpenFifo(const std::string& path) const;

  void RequestReload();
  void Reload();
  absl::Status TryReload();
  void ContinueAdopting();
  void TellOutcome(ReloadOutcome::Kind kind, absl::FunctionRef<std::string()> text);
  FileOwner DataOwner() const;
  std::string DataPath(absl::string_view name) const;
  void AdoptStep(ReloadPlan* plan, const ReloadPlan::Step& step);

  // --- The end (master_end.cc) ---

  int FatalExit(const absl::Status& status);
  void TellCaller(absl::string_view reason);
  void BeginStop(int signal);
  bool IsOfOurGroup(pid_t pid) const;
  int EndStop();

  MasterTimes times_;
  UniqueFd log_file_;  // before the log, which writes to it
  Log log_;
  std::string log_destination_;    // of the sinks that are there
  EarlyLog* early_log_ = nullptr;  // owned by log_; null once the log has its sinks
  Watchdog watchdog_;

  std::vector<std::string> arguments_;
  MasterOptions options_;
  int64_t started_ns_ = 0;
  bool is_root_ = false;
  const char* phase_ = "start";
  absl::optional<int> exit_status_;  // the process has come to its end
  WaitingStart waiting_;
  UniqueFd start_stderr_;         // the caller's, until the start has succeeded
  rlimit descriptor_limit_ = {};  // what workers get (F68)

  ConfigurationOptions load_options_;
  MasterConfiguration configuration_;
  std::vector<std::string> worker_environment_;
  std::vector<LockFile> locks_;
  UniqueFd flow_read_;
  UniqueFd flow_write_;

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<SignalWatch> signals_;
  std::unique_ptr<WakeUps> wake_ups_;
  Supervisor supervisor_;
  FloodWatch flood_watch_;
  Services services_;
  // Services that have ended in this turn: one of them may be the caller.
  std::vector<std::unique_ptr<Service>> ended_services_;
  std::map<pid_t, ServiceId> workers_;
  std::vector<Death> deaths_;  // reaped, and not dealt with yet

  std::vector<SupervisorAction> actions_;
  size_t next_action_ = 0;
  int attempts_ = 0;  // at actions_[next_action_]
  absl::optional<SpawnAnswer> spawn_answer_;
  std::vector<ServiceId> looks_;
  bool acting_ = false;

  std::unique_ptr<Timer> deadline_timer_;
  std::unique_ptr<Timer> endpoint_timer_;
  std::unique_ptr<Timer> deaf_timer_;
  std::unique_ptr<Timer> reload_timer_;
  std::unique_ptr<Timer> exit_timer_;
  std::unique_ptr<Timer> stop_timer_;

  absl::optional<ReloadPlan> adopting_;  // decided, and not complete yet
  bool repair_requested_ = false;
  bool reap_requested_ = false;
  bool reload_requested_ = false;
  bool reload_announced_ = false;
  int64_t next_reload_ns_ = 0;
  int64_t load_began_ns_ = 0;  // of the configuration that was loaded last, in force or refused
  absl::Duration log_retry_ = absl::ZeroDuration();
  absl::Duration pause_ = absl::InfiniteDuration();  // the longest wait of the next turn
  int stop_signal_ = 0;                              // arrived; the first counts
  bool stopping_ = false;
  bool group_signalled_ = false;
  bool stopped_ = false;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_MASTER_H_

// The start of a master: the phases that the process goes through before it serves, in order. A
// failure in one hides the later ones (M10 to M20).

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/event/descriptor_limit.h"
#include "posthouse/io/descriptor_sanity.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/log/stderr_sink.h"
#include "posthouse/master/crash_signals.h"
#include "posthouse/master/directories.h"
#include "posthouse/master/master.h"
#include "posthouse/master/reload_command.h"
#include "posthouse/master/spawner.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"
#include "posthouse/process/daemon_log.h"
#include "posthouse/process/debugger.h"
#include "posthouse/process/environment.h"
#include "posthouse/process/signals.h"

namespace posthouse {
namespace {

// M22, M23: the stock tools expect these names, and log readers this tag, whatever the program is
// called.
constexpr char kProcessName[] = "master";
constexpr char kPidFile[] = "pid/master.pid";
constexpr char kDataLock[] = "master.lock";
constexpr char kEarlyLogTag[] = "postfix";
constexpr char kConfigVariable[] = "MAIL_CONFIG";

// For the terminal of whoever gave a command; there is nobody to tell that it cannot be had.
void Print(int fd, absl::string_view kind, absl::string_view lines) {
  std::string text;
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    absl::StrAppend(&text, "posthouse-master: ", kind, line, "\n");
  }
  if (!text.empty() && os::Write(fd, text.data(), text.size()) < 0) return;
}

}  // namespace

const Master::Phase Master::kPhases[] = {
    {"command line", &Master::ReadCommandLine},         // M1 to M9
    {"signals", &Master::SetSignals},                   // M10
    {"descriptors", &Master::TidyDescriptors},          // M10
    {"early log", &Master::StartEarlyLog},              // M10
    {"user", &Master::CheckUser},                       // M11
    {"waiting start", &Master::SplitToWait},            // M28
    {"detaching", &Master::Detach},                     // M12
    {"session", &Master::MakeSession},                  // M13
    {"configuration", &Master::ReadConfiguration},      // M15, M19
    {"environment", &Master::ReduceEnvironment},        // M16
    {"queue directory", &Master::EnterQueueDirectory},  // M17
    {"test", &Master::AnswerTest},                      // M27
    {"reload command", &Master::CommandTheReload},      // F100
    {"directories", &Master::MakeDirectories},
    {"locks", &Master::TakeLocks},       // M18
    {"debugger", &Master::RunDebugger},  // M18
    {"event loop", &Master::CreateLoop},
    {"signal watch", &Master::WatchSignals},  // M20
    {"services", &Master::StartServices},     // M19
    {"flow pipe", &Master::MakeFlowPipe},     // M21
    {"log", &Master::StartLog},               // M20
    {"watchdog", &Master::StartWatchdog},     // M20
    {"announcement", &Master::Announce},      // M20, M29: the last, for -w has told of success
};

int Master::Run(std::vector<std::string> arguments) {
  arguments_ = std::move(arguments);
  started_ns_ = os::SteadyNanos();
  for (const Phase& phase : kPhases) {
    phase_ = phase.name;
    absl::Status status;
    if (!Guard(phase.name, [&] { status = (this->*phase.run)(); })) {
      status = absl::ResourceExhaustedError(absl::StrCat(phase.name, " failed"));
    }
    if (!status.ok()) return FatalExit(status);
    if (exit_status_.has_value()) return *exit_status_;
  }
  phase_ = "serving";
  return Loop();
}

// --- Who we are ---

std::string Master::Usage() {
  return absl::StrCat(
      "posthouse-master - owns the sockets of services and runs their workers, as Postfix's master "
      "does\n\n",
      kMasterUsage,
      "\n\n"
      "  -c dir      configuration directory (main.cf, master.cf); also MAIL_CONFIG\n"
      "  -d          stay in the foreground; log to standard error too\n"
      "  -D          run debugger_command on itself\n"
      "  -e seconds  end after that time\n"
      "  -i          run as process 1 of a container\n"
      "  -r          have the master that runs reload, and say how it went: status 1 if refused\n"
      "  -s          keep standard output\n"
      "  -t          test: status 1 if a master is running, 0 if not\n"
      "  -v          tell more (repeat for more)\n"
      "  -w          go to the background; wait until all services can be reached, or print why "
      "not\n"
      "  --help, --version\n\n"
      "SIGHUP reloads the configuration; SIGTERM ends the master and its workers.\n");
}

absl::Status Master::ReadCommandLine() {
  absl::StatusOr<MasterOptions> options =
      ParseMasterCommandLine(arguments_, WholeEnvironment(), os::Getpid());
  if (!options.ok()) {
    return absl::Status(options.status().code(),
                        absl::StrCat(options.status().message(), "\n", kMasterUsage));
  }
  options_ = *std::move(options);
  log_.set_verbosity(options_.verbosity);
  // M2: our own configuration and, by inheritance, that of all workers.
  if (options_.config_directory.has_value()) {
    setenv(kConfigVariable, options_.config_directory->c_str(), 1);
  }
  if (!options_.help && !options_.version) return absl::OkStatus();
  const std::string text = options_.help
                               ? Usage()
                               : absl::StrCat("posthouse-master, for Postfix ",
                                              GenericParameters().mail_version.DefaultText(), "\n");
  if (os::Write(STDOUT_FILENO, text.data(), text.size()) < 0) {
    return absl::ErrnoToStatus(errno, "write to standard output");
  }
  exit_status_ = 0;
  return absl::OkStatus();
}

absl::Status Master::SetSignals() {
  os::Umask(077);
  sigset_t none;
  sigemptyset(&none);
  if (os::Sigmask(SIG_SETMASK, &none, nullptr) != 0) {
    return absl::ErrnoToStatus(errno, "clearing the signal mask");
  }
  absl::Status status;
  for (const int signal : {SIGPIPE, SIGXFSZ}) {
    if (status = SetDisposition(signal, SIG_IGN); !status.ok()) return status;
  }
  // Until the loop watches for it, a reload is not worth the life of a master that starts.
  if (status = SetDisposition(SIGHUP, SIG_IGN); !status.ok()) return status;
  for (const int signal : {SIGINT, SIGQUIT, SIGTERM, SIGALRM, SIGCHLD}) {
    if (status = SetDisposition(signal, SIG_DFL); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Master::TidyDescriptors() {
  if (absl::Status status = EnsureStandardDescriptors(); !status.ok()) return status;
  return CloseDescriptorsExcept({});
}

// --- Log ---

absl::Status Master::StartEarlyLog() {
  log_.set_tag(
      absl::StrCat(FromEnvironment("MAIL_LOGTAG").value_or(kEarlyLogTag), "/", kProcessName));
  auto early = std::make_unique<EarlyLog>();
  EarlyLog* const owned_by_log = early.get();
  log_.AddSink(std::move(early));
  early_log_ = owned_by_log;
  return absl::OkStatus();
}

// As the configuration says (C73), and in the foreground where people look. Sinks that would be the
// same stay, with the records that they have kept.
void Master::SetLogSinks() {
  log_.set_tag(absl::StrCat(configuration_.generic.syslog_name.value(), "/", kProcessName));
  const bool to_file = LogsToFile();
  const std::string destination = absl::StrCat(LogDestination(), to_file ? " itself" : "");
  if (destination == log_destination_) return;
  log_destination_ = destination;
  log_.RemoveSinks();
  log_.AddSink(to_file ? OpenLogFile() : NewDaemonSink(configuration_.generic));
  if (!options_.detached) log_.AddSink(NewStderrSink({}));
}

std::string Master::LogDestination() const {
  const GenericParameters& generic = configuration_.generic;
  if (generic.maillog_file.value().empty()) {
    return absl::StrCat("syslog ", generic.syslog_facility_code);
  }
  return absl::StrCat(generic.maillog_file.value(), " by ", generic.PostlogSocketPath(), " of ",
                      generic.myhostname.value());
}

// There is a file to write, and nobody who writes it for us.
bool Master::LogsToFile() const {
  const GenericParameters& generic = configuration_.generic;
  if (generic.maillog_file.value().empty()) return false;
  const std::string path = absl::StrCat("public/", generic.postlog_service_name.value());
  for (const ServiceConfiguration& service : configuration_.services) {
    if (service.path == path && service.entry.type == ServiceType::kUnixDgram) return false;
  }
  if (!CheckSocketPath(path).ok()) return true;
  const UnixAddress address(path);
  const UniqueFd fd(os::Socket(AF_UNIX, SOCK_DGRAM | os::kSockCloexec | os::kSockNonblock, 0));
  return os::Connect(fd.get(), address.get(), address.length()) != 0;
}

// As the original does where postlogd is not in the table: the lines are those of postlogd.
std::unique_ptr<LogSink> Master::OpenLogFile() {
  const std::string& path = configuration_.generic.maillog_file.value();
  log_file_.Reset(path == "/dev/stdout"
                      ? os::Fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1)
                      : os::Open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  if (!log_file_.valid()) return NewDaemonSink(configuration_.generic);
  StderrOptions options;
  options.fd = log_file_.get();
  options.with_time = true;
  const std::string& host = configuration_.generic.myhostname.value();
  options.hostname = host.substr(0, host.find('.'));
  return NewStderrSink(options);
}

void Master::LogLines(LogSeverity severity, absl::string_view lines) {
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    log_.Write(severity, line);
  }
}

void Master::LogWarnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) LogLines(LogSeverity::kWarning, warning);
}

void Master::LogListenReport(const ListenReport& report) {
  LogWarnings(report.failures);
  LogWarnings(report.warnings);
  for (const std::string& change : report.changes) log_.Info(change);
}

// --- User, waiting, session ---

// M11, but that a configuration of one's own needs no root.
absl::Status Master::CheckUser() {
  if (os::Getuid() != os::Geteuid() || os::Getgid() != os::Getegid()) {
    return absl::PermissionDeniedError("the master must not be run as a set-user-id program");
  }
  is_root_ = os::Getuid() == 0;
  if (!is_root_ && !FromEnvironment(kConfigVariable).has_value()) {
    return absl::PermissionDeniedError(
        "the master must be run by the superuser, or with a configuration of one's own (-c)");
  }
  return absl::OkStatus();
}

absl::Status Master::SplitToWait() {
  if (!options_.wait) return absl::OkStatus();
  absl::StatusOr<WaitingStart> start = WaitingStart::Split(times_.waiting_start);
  if (!start.ok()) return start.status();
  waiting_ = *std::move(start);
  if (waiting_.exit_status().has_value()) {
    exit_status_ = waiting_.exit_status();
    if (*exit_status_ != 0) {
      const std::string text = absl::StrCat("posthouse-master: fatal: ", waiting_.reason(), "\n");
      os::Write(STDERR_FILENO, text.data(), text.size());
    }
    return absl::OkStatus();
  }
  log_.AfterFork();
  return absl::OkStatus();
}

// M12. The caller's standard error is kept aside for a start that fails.
absl::Status Master::Detach() {
  if (!options_.detached || options_.is_command()) return absl::OkStatus();
  if (!waiting_.somebody_waits()) {
    start_stderr_.Reset(os::Fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  }
  UniqueFd null(os::Open("/dev/null", O_RDWR | O_CLOEXEC, 0));
  if (!null.valid()) return absl::ErrnoToStatus(errno, "open of /dev/null");
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fd == STDOUT_FILENO && options_.keep_stdout) continue;
    if (os::Dup2(null.get(), fd) < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("dup2 of /dev/null to ", fd));
    }
  }
  return absl::OkStatus();
}

// M13. `postfix stop` ends the group whose leader we are (M120).
absl::Status Master::MakeSession() {
  if (!options_.new_session() || options_.is_command()) return absl::OkStatus();
  if (os::Setsid() >= 0 || os::Getsid(0) == os::Getpid()) return absl::OkStatus();
  return absl::ErrnoToStatus(
      errno, "setsid (a shell with job control starts a process group; -w avoids that)");
}

// --- Configuration ---

// Both files are read and checked here, before anything is locked or made (MO2); the original reads
// master.cf as it makes the sockets.
absl::Status Master::ReadConfiguration() {
  load_options_.config_directory =
      ConfigDirectory(getenv(kConfigVariable), kDefaultConfigDirectory);
  load_options_.process_name = kProcessName;
  load_options_.current_environment = WholeEnvironment();
  load_options_.root = is_root_;
  load_began_ns_ = os::SteadyNanos();
  absl::StatusOr<MasterConfiguration> loaded = options_.is_command()
                                                   ? LoadMasterParameters(load_options_)
                                                   : LoadMasterConfiguration(load_options_);
  if (!loaded.ok()) return loaded.status();
  configuration_ = *std::move(loaded);
  worker_environment_ = WorkerEnvironment(configuration_);
  LogWarnings(configuration_.warnings);
  for (const std::string& note : configuration_.notes) log_.Info(note);
  return absl::OkStatus();
}

// M16: for us too, lest the C library listens to what workers are protected from (F67).
absl::Status Master::ReduceEnvironment() {
  if (options_.is_command()) return absl::OkStatus();
  for (const std::string& entry : load_options_.current_environment) {
    unsetenv(entry.substr(0, entry.find('=')).c_str());
  }
  for (const std::string& entry : configuration_.environment) {
    const size_t equals = entry.find('=');
    if (equals == std::string::npos) continue;
    setenv(entry.substr(0, equals).c_str(), entry.substr(equals + 1).c_str(), 1);
  }
  return absl::OkStatus();
}

absl::Status Master::EnterQueueDirectory() {
  const std::string& directory = configuration_.queue_directory;
  if (os::Chdir(directory.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("chdir(", directory, ")"));
  }
  return absl::OkStatus();
}

absl::Status Master::MakeDirectories() { return MakeMissingDirectories(configuration_, is_root_); }

// --- Locks ---

absl::Status Master::AnswerTest() {
  if (!options_.test) return absl::OkStatus();
  const absl::StatusOr<bool> held = LockFile::IsHeld(kPidFile, FileOwner());
  if (!held.ok()) return held.status();
  exit_status_ = *held ? 1 : 0;
  return absl::OkStatus();
}

// The outcome goes to whoever asked for it, and not to the log, where the master has told it.
absl::Status Master::CommandTheReload() {
  if (!options_.reload) return absl::OkStatus();
  const absl::StatusOr<ReloadOutcome> outcome =
      CommandReload({.lock_file = DataPath(kDataLock),
                     .outcome_file = DataPath(kReloadOutcomeFile),
                     .owner = DataOwner(),
                     .limit = times_.reload_command});
  exit_status_ = 1;
  if (!outcome.ok()) {
    Print(STDERR_FILENO, "fatal: ", outcome.status().message());
  } else if (outcome->kind == ReloadOutcome::Kind::kRefused) {
    Print(STDERR_FILENO, "error: ", absl::StrCat(outcome->text, kReloadRefused));
  } else {
    const size_t end = std::min(outcome->text.find('\n'), outcome->text.size());
    Print(STDERR_FILENO, "warning: ", outcome->text.substr(end));
    Print(STDOUT_FILENO, "reload finished -- ", outcome->text.substr(0, end));
    exit_status_ = 0;
  }
  return absl::OkStatus();
}

FileOwner Master::DataOwner() const {
  return {is_root_, configuration_.owner_uid, configuration_.owner_gid};
}

std::string Master::DataPath(absl::string_view name) const {
  return absl::StrCat(configuration_.generic.data_directory.value(), "/", name);
}

// Both locks before either number is written: a second master changes nothing (F107).
absl::Status Master::TakeLocks() {
  absl::StatusOr<LockFile> pid_file = LockFile::Acquire(kPidFile, FileOwner());
  if (!pid_file.ok()) return pid_file.status();
  locks_.push_back(*std::move(pid_file));
  absl::StatusOr<LockFile> data_file = LockFile::Acquire(DataPath(kDataLock), DataOwner());
  if (!data_file.ok()) return data_file.status();
  locks_.push_back(*std::move(data_file));
  for (LockFile& lock : locks_) {
    if (absl::Status status = lock.WritePid(os::Getpid()); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Master::RunDebugger() {
  if (!options_.debugger) return absl::OkStatus();
  return RunDebuggerCommand(configuration_.debugger_command.value_or(""), &log_);
}

// --- Loop, services ---

// Many services need many descriptors; their workers get the limit that we had (F68).
absl::Status Master::CreateLoop() {
  if (os::Getrlimit(RLIMIT_NOFILE, &descriptor_limit_) != 0) {
    return absl::ErrnoToStatus(errno, "getrlimit(RLIMIT_NOFILE)");
  }
  if (const absl::StatusOr<int> limit = RaiseDescriptorLimit(); !limit.ok()) {
    log_.Warning(limit.status().message());
  }
  absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create({});
  if (!loop.ok()) return loop.status();
  loop_ = *std::move(loop);
  watchdog_.set_loop(loop_.get());
  wake_ups_ = std::make_unique<WakeUps>(loop_.get(), &log_,
                                        [this](const std::string& path) { return OpenFifo(path); });
  deadline_timer_ = std::make_unique<Timer>(loop_.get(), &Master::OnDeadline, this);
  endpoint_timer_ = std::make_unique<Timer>(loop_.get(), &Master::OnEndpointRetry, this);
  deaf_timer_ = std::make_unique<Timer>(loop_.get(), &Master::OnDeafRetry, this);
  reload_timer_ = std::make_unique<Timer>(loop_.get(), &Master::OnReload, this);
  exit_timer_ = std::make_unique<Timer>(loop_.get(), &Master::OnExitAfter, this);
  stop_timer_ = std::make_unique<Timer>(loop_.get(), &Master::OnStopLimit, this);
  if (options_.exit_after.has_value()) {
    // M4: counted from the options.
    exit_timer_->StartAt(started_ns_ + absl::ToInt64Nanoseconds(*options_.exit_after));
  }
  return absl::OkStatus();
}

// Signals that come before the loop runs wait for it.
absl::Status Master::WatchSignals() {
  absl::StatusOr<std::unique_ptr<SignalWatch>> watch = SignalWatch::Create(
      loop_.get(), {SIGHUP, SIGCHLD, SIGINT, SIGQUIT, SIGTERM}, &Master::OnSignal, this);
  if (!watch.ok()) return watch.status();
  signals_ = *std::move(watch);
  watchdog_.set_signals(signals_.get());
  return CatchCrashSignals(&log_);
}

// M19, M53: one that fails ends the start.
absl::Status Master::StartServices() {
  for (const ServiceConfiguration& configuration : configuration_.services) {
    auto service = std::make_unique<Service>(services_.NewId(), configuration, loop_.get(), this);
    ListenReport report;
    absl::Status status =
        service->OpenListeners(EndpointOptionsOf(configuration, configuration_, is_root_), &report);
    if (status.ok()) status = service->OpenChannel();
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(configuration.place, ": ", configuration.entry.Title(), ": ",
                                       status.message()));
    }
    // That everything is there is said in one line, by the announcement.
    LogWarnings(report.warnings);
    const Service* added = services_.Add(std::move(service));
    supervisor_.AddService(added->id(), ServiceRulesOf(configuration, configuration_),
                           os::SteadyNanos());
  }
  Act();
  return absl::OkStatus();
}

absl::Status Master::MakeFlowPipe() {
  int fds[2];
  if (os::Pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) {
    return absl::ErrnoToStatus(errno, "pipe for flow control");
  }
  flow_read_.Reset(fds[0]);
  flow_write_.Reset(fds[1]);
  return absl::OkStatus();
}

// --- The last steps ---

absl::Status Master::StartLog() {
  const std::vector<EarlyRecord> records = early_log_->Take();
  early_log_ = nullptr;
  if (!Guard("log sinks", [&] { SetLogSinks(); })) {
    log_.RemoveSinks();
    return absl::ResourceExhaustedError("no memory for the log");
  }
  for (const EarlyRecord& record : records) log_.Write(record.severity, record.text);
  return absl::OkStatus();
}

std::string Master::VersionAndDirectory() const {
  return absl::StrCat("version ", configuration_.generic.mail_version.value(), ", configuration ",
                      configuration_.config_directory);
}

absl::Status Master::Announce() {
  log_.Info(absl::StrCat("daemon started -- ", VersionAndDirectory()));
  // Whoever waits for the start may command a reload next.
  TellOutcome(ReloadOutcome::Kind::kStarted, [] { return std::string(); });
  waiting_.Succeed();
  start_stderr_.Reset();
  return absl::OkStatus();
}

absl::Status Master::StartWatchdog() { return watchdog_.Start(times_.watchdog, "the event loop"); }

}  // namespace posthouse

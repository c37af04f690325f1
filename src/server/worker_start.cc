// The start of a worker: the phases that a process goes through before it serves, in order.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <exception>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/config/misspelling.h"
#include "posthouse/event/descriptor_limit.h"
#include "posthouse/io/descriptor_sanity.h"
#include "posthouse/io/fd_flags.h"
#include "posthouse/log/postlog_sink.h"
#include "posthouse/log/stderr_sink.h"
#include "posthouse/os/os.h"
#include "posthouse/process/daemon_log.h"
#include "posthouse/process/debugger.h"
#include "posthouse/process/environment.h"
#include "posthouse/process/signals.h"
#include "posthouse/server/privileges.h"
#include "posthouse/server/worker.h"

namespace posthouse {
namespace {

constexpr char kSystemLogTag[] = "postfix";
// Where systemd's descriptors begin, sd_listen_fds(3).
constexpr int kSystemdFirstDescriptor = 3;
constexpr int kMaxSystemdSockets = 1024;

// LISTEN_FDS counts only if LISTEN_PID is this process; otherwise both were meant for another one.
int SystemdSockets() {
  const absl::optional<std::string> pid = FromEnvironment("LISTEN_PID");
  const absl::optional<std::string> count = FromEnvironment("LISTEN_FDS");
  int64_t pid_number = 0;
  int sockets = 0;
  if (!pid || !count || !absl::SimpleAtoi(*pid, &pid_number) || pid_number != os::Getpid() ||
      !absl::SimpleAtoi(*count, &sockets) || sockets < 0 || sockets > kMaxSystemdSockets) {
    return 0;
  }
  return sockets;
}

void WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = os::Write(fd, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

// What needs files outside a jail is there before "privileges": the log has loaded the time zone
// and connected its sinks (S19, F62). The names appear in the log when a start fails, and with -v.
const Worker::Phase Worker::kPhases[] = {
    {"environment", &Worker::ReadEnvironment},                   // S4
    {"signals", &Worker::SetSignals},                            // S5, F27
    {"descriptors", &Worker::TidyDescriptors},                   // F32, F33
    {"logging", &Worker::StartLogging},                          // S7
    {"options", &Worker::CheckOptions},                          // S25
    {"configuration", &Worker::ReadConfiguration},               // S8, S9
    {"parameters", &Worker::LoadGenericParameters},              // S9, S10
    {"terminal", &Worker::CheckTerminal},                        // S11
    {"service parameters", &Worker::LoadApplicationParameters},  // S12
    {"bounce_init", &Worker::BounceInit},                        // S92
    {"restrictions", &Worker::CheckRestrictions},                // S32
    {"transport", &Worker::ChooseTransport},                     // S14
    {"generation", &Worker::ReadGeneration},                     // S15
    {"debugger", &Worker::RunDebugger},                          // S17
    {"listen", &Worker::OpenOwnSockets},                         // without a master
    {"directory", &Worker::EnterDirectory},                      // S18
    {"pre_init", &Worker::PreInit},                              // S18
    {"privileges", &Worker::DropPrivileges},                     // S20
    {"event loop", &Worker::CreateLoop},
    {"post_init", &Worker::PostInit},      // S21
    {"one-shot", &Worker::ServeOneShot},   // S76
    {"service", &Worker::OpenService},     // S22
    {"watchdog", &Worker::StartWatchdog},  // S24
};

int Worker::Run(std::vector<std::string> arguments) {
  raw_arguments_ = std::move(arguments);
  for (const Phase& phase : kPhases) {
    phase_ = phase.name;
    absl::Status status;
    try {
      status = (this->*phase.run)();
    } catch (const std::exception& exception) {
      status = absl::AbortedError(absl::StrCat("exception: ", exception.what()));
    } catch (...) {
      status = absl::AbortedError("exception that is no std::exception");
    }
    if (status.ok()) status = fatal_;
    if (!status.ok()) {
      return FatalExit(absl::Status(status.code(), absl::StrCat(phase_, ": ", status.message())));
    }
    if (early_exit_.has_value()) return *early_exit_;
  }
  phase_ = "serving";
  log_.Verbose("start: serving");
  return Loop();
}

// --- Who we are ---

absl::Status Worker::ReadEnvironment() {
  environment_.verbose = getenv("MAIL_VERBOSE") != nullptr;
  environment_.debug = getenv("MAIL_DEBUG") != nullptr;
  environment_.log_tag = FromEnvironment("MAIL_LOGTAG");
  environment_.generation = FromEnvironment(kGenerationVariable);
  environment_.configuration_directory = FromEnvironment("MAIL_CONFIG");
  environment_.postlog_service = FromEnvironment("POSTLOG_SERVICE");
  environment_.postlog_hostname = FromEnvironment("POSTLOG_HOSTNAME");
  environment_.backend = FromEnvironment("POSTHOUSE_EVENT_BACKEND");
  environment_.systemd_sockets = SystemdSockets();

  // Parsed at once, since the next phases depend on it; a mistake is told when there is a log.
  absl::StatusOr<WorkerCommandLine> line =
      ParseCommandLine(raw_arguments_, skeleton_->command_line_rules());
  command_line_status_ = line.status();
  if (line.ok()) {
    command_line_ = *std::move(line);
  } else {
    command_line_.program = raw_arguments_.empty() ? "" : BaseName(raw_arguments_[0]);
    command_line_.service_name = command_line_.program;
  }
  standalone_ = !command_line_.listen.empty() || environment_.systemd_sockets > 0;
  log_.set_verbosity((environment_.verbose ? 1 : 0) + command_line_.verbosity);
  if (command_line_.help) {
    WriteAll(STDOUT_FILENO, Usage());
    early_exit_ = 0;
  } else if (command_line_.version) {
    WriteAll(STDOUT_FILENO, absl::StrCat(command_line_.program, options_.version.empty() ? "" : " ",
                                         options_.version, "\n"));
    early_exit_ = 0;
  } else if (by_hand() && command_line_status_.ok() && !standalone_ && !command_line_.one_shot &&
             !command_line_.transport.has_value()) {
    ExplainOnStderr();
  }
  return absl::OkStatus();
}

bool Worker::by_hand() const { return !environment_.generation.has_value(); }

std::string Worker::Usage() const {
  const std::string& program = command_line_.program;
  std::string text = absl::StrCat(
      program, options_.description.empty() ? "" : " - ", options_.description,
      "\n\n"
      "By itself:\n"
      "  ",
      program,
      " --listen inet:127.0.0.1:7777     a TCP port\n"
      "  ",
      program, " --listen unix:/run/", program,
      ".sock [--listen-mode 0660]\n"
      "      --listen may be given many times; sockets from systemd (LISTEN_FDS) work too.\n"
      "  ",
      program,
      " -S                               one session on standard input and output\n"
      "\n"
      "Under Postfix, in master.cf:\n"
      "  ",
      program, " unix - - n - - ", program,
      "\n"
      "\n"
      "Options:\n"
      "  -o name=value  set a parameter      -v  tell more (repeat for more)\n"
      "  -i time        set max_idle         -V  log to standard error too\n"
      "  -m count       set max_use          -D  run the debugger command\n"
      "  -u             run as mail_owner    -c  change root to queue_directory\n"
      "  -n name        the service's name   -d  started in the foreground\n"
      "  -t transport, -s count, -l, -z      given by the master\n"
      "  --help, --version\n");
  if (!options_.parameters.empty()) {
    absl::StrAppend(&text, "\nParameters (main.cf, or -o):\n", HelpText(options_.parameters));
  }
  return text;
}

void Worker::ExplainOnStderr() {
  WriteAll(STDERR_FILENO, absl::StrCat(command_line_.program,
                                       " is started by Postfix's master, or by hand like this:\n\n",
                                       Usage(), "\n"));
}

// --- Signals, descriptors, log ---

absl::Status Worker::SetSignals() {
  sigset_t none;
  sigemptyset(&none);
  if (os::Sigmask(SIG_SETMASK, &none, nullptr) != 0) {
    return absl::ErrnoToStatus(errno, "clearing the signal mask");
  }
  absl::Status status;
  for (const int signal : {SIGPIPE, SIGXFSZ}) {
    if (status = SetDisposition(signal, SIG_IGN); !status.ok()) return status;
  }
  // What the starter ignored is in effect again (F27).
  for (const int signal : {SIGTERM, SIGINT, SIGALRM, SIGCHLD, SIGUSR1, SIGUSR2}) {
    if (status = SetDisposition(signal, SIG_DFL); !status.ok()) return status;
  }
  // By hand, nohup(1) has its way.
  return by_hand() ? absl::OkStatus() : SetDisposition(SIGHUP, SIG_DFL);
}

absl::Status Worker::TidyDescriptors() {
  absl::Status status = EnsureStandardDescriptors();
  if (!status.ok()) return status;
  if (environment_.systemd_sockets > 0) return MoveSystemdSockets();
  if (standalone_ || command_line_.one_shot || !command_line_.transport.has_value()) {
    return CloseDescriptorsExcept({});
  }
  return KeepMasterDescriptors();
}

// Missing ones are an error (S22), but told in their phase; until then the numbers are occupied, so
// that nothing else is taken for the master's.
absl::Status Worker::KeepMasterDescriptors() {
  const MasterDescriptors& known = options_.descriptors;
  std::vector<int> keep = {known.flow_read, known.flow_write, known.status};
  for (int i = 0; i < command_line_.listen_sockets; i++) keep.push_back(known.first_listen + i);
  absl::Status status = CloseDescriptorsExcept(keep);
  if (!status.ok()) return status;
  for (const int fd : keep) {
    status = SetCloseOnExec(fd, true);
    if (status.ok()) continue;
    if (missing_descriptors_.ok()) {
      missing_descriptors_ = absl::Status(
          status.code(),
          absl::StrCat("descriptor ", fd, " of the master is not there: ", status.message()));
    }
    UniqueFd filler(os::Open("/dev/null", O_RDWR | O_CLOEXEC, 0));
    if (filler.valid() && filler.get() != fd) os::Dup3(filler.get(), fd, O_CLOEXEC);
    if (filler.get() == fd) filler.Release();
  }
  return absl::OkStatus();
}

// The numbers of the master's descriptors mean nothing here; moving away from them keeps the two
// worlds apart.
absl::Status Worker::MoveSystemdSockets() {
  const int count = environment_.systemd_sockets;
  std::vector<int> keep;
  for (int i = 0; i < count; i++) keep.push_back(kSystemdFirstDescriptor + i);
  absl::Status status = CloseDescriptorsExcept(keep);
  if (!status.ok()) return status;
  const int lowest = std::max(options_.descriptors.first_listen, kSystemdFirstDescriptor + count);
  for (const int fd : keep) {
    UniqueFd from(fd);
    UniqueFd moved(os::Fcntl(fd, F_DUPFD_CLOEXEC, lowest));
    if (!moved.valid()) {
      return absl::ErrnoToStatus(errno, absl::StrCat("moving LISTEN_FDS descriptor ", fd));
    }
    inherited_sockets_.push_back(std::move(moved));
  }
  // They are no business of programs that we may run.
  unsetenv("LISTEN_FDS");
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDNAMES");
  return absl::OkStatus();
}

std::string Worker::LogTag() const {
  const std::string& program = command_line_.program;
  if (!generic_loaded_) {
    if (environment_.log_tag.has_value()) return absl::StrCat(*environment_.log_tag, "/", program);
    return standalone_ ? program : absl::StrCat(kSystemLogTag, "/", program);
  }
  // C69: from here on the parameter decides. A program by itself is not part of Postfix unless its
  // configuration says so.
  if (standalone_ && !configuration_found_ && generic_.syslog_name.value() == kSystemLogTag) {
    return program;
  }
  return absl::StrCat(generic_.syslog_name.value(), "/", program);
}

absl::Status Worker::StartLogging() {
  SetLogSinks();
  log_.Verbose("daemon started");
  return absl::OkStatus();
}

// Sinks connect when they are made, so this happens before a jail (F62).
void Worker::SetLogSinks() {
  log_.RemoveSinks();
  log_.set_tag(LogTag());
  if (!standalone_) AddDaemonSink();
  // A one-shot session may have its client at descriptor 2, as under inetd.
  const bool by_hand_visible =
      by_hand() && (!command_line_.one_shot || os::Isatty(STDERR_FILENO) == 1);
  if (standalone_ || command_line_.log_to_stderr || by_hand_visible) {
    log_.AddSink(NewStderrSink({}));
  }
  log_.AddSink(NewErrorCounter());
}

// Where stock daemons log: postlogd or the system's log daemon (C73).
void Worker::AddDaemonSink() {
  log_.AddSink(generic_loaded_ ? NewDaemonSink(generic_)
                               : NewEarlyDaemonSink(environment_.postlog_service,
                                                    environment_.postlog_hostname));
}

// Programs that we run log where we do (C69, C73).
void Worker::ExportLogging() {
  for (const auto& [name, value] : LogVariables(generic_)) {
    if (value.has_value()) {
      setenv(name.c_str(), value->c_str(), 1);
    } else {
      unsetenv(name.c_str());
    }
  }
}

void Worker::LogWarnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) log_.Warning(warning);
}

// --- Options, configuration, parameters ---

absl::Status Worker::CheckOptions() {
  if (command_line_status_.ok() && !command_line_.transport.has_value() && by_hand() &&
      !standalone_ && !command_line_.one_shot) {
    // Explained already; what follows would only hide it.
    return absl::InvalidArgumentError("no transport type specified");
  }
  return command_line_status_;
}

absl::Status Worker::ReadConfiguration() {
  const absl::optional<std::string>& directory = environment_.configuration_directory;
  configuration_directory_ =
      ConfigDirectory(directory ? directory->c_str() : nullptr, kDefaultConfigDirectory);
  SetProcessParameters(
      {command_line_.program, command_line_.service_name, configuration_directory_}, &store_);
  std::vector<std::string> warnings;
  absl::Status status =
      ReadMainCf(absl::StrCat(configuration_directory_, "/main.cf"), {}, &store_, &warnings);
  configuration_found_ = !absl::IsNotFound(status);
  // By itself, a program needs no Postfix to be there; a directory that was named has to be.
  const bool may_be_missing = (standalone_ || command_line_.one_shot) && !directory.has_value();
  if (!configuration_found_ && may_be_missing) status = absl::OkStatus();
  const absl::Status overrides = ApplyOverrides(&warnings);
  LogWarnings(warnings);
  return status.ok() ? overrides : status;
}

absl::Status Worker::ApplyOverrides(std::vector<std::string>* warnings) {
  using Kind = CommandLineOverride::Kind;
  for (const CommandLineOverride& override : command_line_.overrides) {
    if (override.kind == Kind::kMaxIdle) {
      store_.Set("max_idle", override.text, "option -i");
    } else if (override.kind == Kind::kMaxUse) {
      store_.Set("max_use", override.text, "option -m");
    } else {
      absl::Status status = ApplyOverride(override.text, &store_, warnings);
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Worker::LoadGenericParameters() {
  std::vector<std::string> warnings;
  GenericOptions options;
  options.check_accounts = !standalone_ && configuration_found_;
  absl::Status status = ::posthouse::LoadGenericParameters(options, &store_, &generic_, &warnings);
  LogWarnings(warnings);
  if (!status.ok()) return status;
  if (!standalone_ && !generic_.maillog_file.value().empty()) {
    status =
        CheckMaillogFile(generic_.maillog_file.value(), generic_.maillog_file_prefixes.value());
    if (!status.ok()) return status;
  }
  generic_loaded_ = true;
  SetLogSinks();
  if (!standalone_) ExportLogging();
  ChooseLimits();
  return absl::OkStatus();
}

// Nobody would start another process in place of a standalone one, so the limits that end it must
// have been asked for on the command line.
void Worker::ChooseLimits() {
  bool use_limit_given = !standalone_;
  bool idle_limit_given = !standalone_;
  for (const CommandLineOverride& override : command_line_.overrides) {
    using Kind = CommandLineOverride::Kind;
    Definition definition;
    if (override.kind == Kind::kNameValue) {
      SplitDefinition(override.text, &definition).IgnoreError();  // checked before
    }
    use_limit_given |= override.kind == Kind::kMaxUse || definition.name == "max_use";
    idle_limit_given |= override.kind == Kind::kMaxIdle || definition.name == "max_idle";
  }
  use_limit_ = use_limit_given ? generic_.max_use.value() : 0;
  idle_limit_ = idle_limit_given ? generic_.max_idle.value() : absl::ZeroDuration();
}

absl::Status Worker::CheckTerminal() {
  if (standalone_ || !command_line_.detached || command_line_.one_shot) return absl::OkStatus();
  if (os::Isatty(STDIN_FILENO) == 0) return absl::OkStatus();
  ExplainOnStderr();
  if (!by_hand()) log_.AddSink(NewStderrSink({}));
  return absl::FailedPreconditionError("do not run this command by hand");
}

absl::Status Worker::LoadApplicationParameters() {
  std::vector<std::string> warnings;
  absl::Status status = LoadParameters(options_.parameters, &store_, &warnings);
  if (status.ok()) {
    std::vector<Parameter*> loaded = generic_.All();
    loaded.insert(loaded.end(), options_.parameters.begin(), options_.parameters.end());
    status = ReportMisspellings(loaded, store_, &warnings);  // F117
  }
  LogWarnings(warnings);
  return status;
}

absl::Status Worker::BounceInit() {
  if (options_.bounce_init) options_.bounce_init(context_);
  return absl::OkStatus();
}

absl::Status Worker::CheckRestrictions() {
  const bool master = !standalone_ && !command_line_.one_shot;
  absl::string_view requirement;
  if (options_.solitary && master && !command_line_.limit_is_one) {
    requirement = "a process limit of 1";
  } else if (options_.unlimited && master && !command_line_.limit_is_none) {
    requirement = "a process limit of 0";
  } else if (options_.privileged && command_line_.unprivileged) {
    requirement = "privileged operation";
  }
  if (requirement.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("service ", name(), " requires ", requirement));
}

absl::Status Worker::ChooseTransport() {
  if (standalone_ || command_line_.one_shot) return absl::OkStatus();
  if (!command_line_.transport.has_value()) {
    return absl::InvalidArgumentError("no transport type specified");
  }
  const absl::StatusOr<Transport> transport = ParseTransport(*command_line_.transport);
  if (!transport.ok()) return transport.status();
  if (!skeleton_->Accepts(*transport)) {
    return absl::InvalidArgumentError(
        absl::StrCat("unsupported transport type: ", *command_line_.transport));
  }
  for (int i = 0; i < command_line_.listen_sockets; i++) {
    sockets_.push_back({options_.descriptors.first_listen + i, *transport});
  }
  return absl::OkStatus();
}

absl::Status Worker::ReadGeneration() {
  if (standalone_ || !environment_.generation.has_value()) return absl::OkStatus();
  const absl::StatusOr<uint32_t> generation = ParseGeneration(*environment_.generation);
  if (!generation.ok()) return generation.status();
  generation_ = *generation;
  log_.Verbose("process generation: ", *environment_.generation);
  return absl::OkStatus();
}

absl::Status Worker::RunDebugger() {
  if (!command_line_.debug && !environment_.debug) return absl::OkStatus();
  const absl::StatusOr<absl::optional<std::string>> command = DebuggerCommand(store_);
  if (!command.ok()) return command.status();
  return RunDebuggerCommand(command->value_or(""), &log_);
}

// --- Sockets, directory, privileges ---

absl::Status Worker::OpenOwnSockets() {
  if (!standalone_) return absl::OkStatus();
  // From the first socket on clients can connect, so from here on an early signal has to end the
  // process in an orderly way: it waits until the loop watches for it.
  absl::Status held = HoldStopSignals();
  if (!held.ok()) return held;
  for (const UniqueFd& fd : inherited_sockets_) {
    // systemd hands over blocking sockets; nobody else waits on them.
    absl::Status status = SetNonBlocking(fd.get());
    if (!status.ok()) return status;
    sockets_.push_back({fd.get(), Transport::kInet});
    log_.Info(absl::StrCat("listening on descriptor ", fd.get(), " from systemd"));
  }
  ListenOptions options;
  if (command_line_.listen_mode.has_value()) options.unix_mode = *command_line_.listen_mode;
  for (const std::string& text : command_line_.listen) {
    const absl::StatusOr<ListenSpec> spec = ParseListenSpec(text);
    if (!spec.ok()) return spec.status();
    absl::StatusOr<ListenResult> opened = OpenListenSockets(*spec, options);
    if (!opened.ok()) return opened.status();
    LogWarnings(opened->warnings);
    for (ListenSocket& socket : opened->sockets) {
      log_.Info(absl::StrCat("listening on ", socket.address()));
      sockets_.push_back({socket.fd(), socket.transport()});
      own_sockets_.push_back(std::move(socket));
    }
  }
  return absl::OkStatus();
}

absl::Status Worker::HoldStopSignals() {
  sigset_t stop;
  sigemptyset(&stop);
  for (const int signal : StopSignals()) sigaddset(&stop, signal);
  if (os::Sigmask(SIG_BLOCK, &stop, nullptr) != 0) {
    return absl::ErrnoToStatus(errno, "holding SIGTERM back");
  }
  return absl::OkStatus();
}

// A program by itself stays where it was started, unless a jail was asked for.
absl::Status Worker::EnterDirectory() {
  if ((standalone_ || !configuration_found_) && !command_line_.chroot) return absl::OkStatus();
  const std::string& directory = generic_.queue_directory.value();
  if (os::Chdir(directory.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("chdir(", directory, ")"));
  }
  return absl::OkStatus();
}

absl::Status Worker::PreInit() {
  if (options_.pre_init) options_.pre_init(context_);
  return absl::OkStatus();
}

absl::Status Worker::DropPrivileges() {
  PrivilegePlan plan;
  if (command_line_.chroot) plan.root_directory = generic_.queue_directory.value();
  if (command_line_.unprivileged) plan.account = generic_.mail_owner.value();
  return ::posthouse::DropPrivileges(plan);
}

// --- The service ---

absl::Status Worker::CreateLoop() {
  EventLoopOptions options;
  if (environment_.backend.has_value()) {
    const absl::StatusOr<Backend> backend = ParseBackend(*environment_.backend);
    if (!backend.ok()) return backend.status();
    options.backend = *backend;
  }
  absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create(options);
  if (options.backend == Backend::kIoUring && absl::IsUnimplemented(loop.status())) {
    // An administrator or a sandbox may refuse it at any time; the service is worth more.
    log_.Warning(absl::StrCat(loop.status().message(), "; another event backend is used"));
    options.backend = Backend::kBest;
    loop = EventLoop::Create(options);
  }
  if (!loop.ok()) return loop.status();
  loop_ = *std::move(loop);
  watchdog_.set_loop(loop_.get());
  // As many clients as the hard limit has room for (E6); select(2) could not hold them.
  if (loop_->backend() != Backend::kSelect) {
    const absl::StatusOr<int> limit = RaiseDescriptorLimit();
    if (!limit.ok()) log_.Warning(limit.status().message());
  }
  log_.Verbose("event loop: ", BackendName(loop_->backend()));
  return absl::OkStatus();
}

absl::Status Worker::PostInit() {
  if (options_.post_init) options_.post_init(context_);
  return absl::OkStatus();
}

absl::Status Worker::ServeOneShot() {
  if (!command_line_.one_shot) return absl::OkStatus();
  const absl::Status status = skeleton_->ServeOneShot();
  if (!status.ok()) return status;
  early_exit_ = Exit();
  return absl::OkStatus();
}

absl::Status Worker::OpenService() {
  if (!missing_descriptors_.ok()) return missing_descriptors_;
  EventLoop* loop = loop_.get();
  idle_timer_ = std::make_unique<Timer>(loop, &Worker::OnIdle, this);
  slow_exit_timer_ = std::make_unique<Timer>(loop, &Worker::OnSlowExitLimit, this);
  use_limit_timer_ = std::make_unique<Timer>(loop, &Worker::OnUseLimitGrace, this);
  StartIdleTimer();
  absl::Status status = skeleton_->Open(sockets_);
  if (!status.ok()) return status;
  // A service that drained in post_init has no master any more.
  if (!standalone_ && !draining_) {
    status_ = std::make_unique<StatusChannel>(options_.descriptors.status, os::Getpid(),
                                              generation_, &log_);
    if (status = status_->Watch(loop); !status.ok()) return status;
  }
  return WatchSignals();
}

absl::Status Worker::StartWatchdog() {
  return watchdog_.Start(generic_.daemon_timeout.value(), "the event loop");
}

}  // namespace posthouse

#include "posthouse/testing/fake_master.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "posthouse/base/check.h"
#include "posthouse/io/pass_descriptor.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/log_collector.h"

extern char** environ;

namespace posthouse {
namespace {

// Messages and children handled by one Pump(), so that a worker that floods cannot keep us there.
constexpr int kMaxMessagesPerPump = 100000;
constexpr int kListenBacklog = 100;  // P6

// What a stock master passes on (P10), and what sanitizers want to be told.
const char* const kImportList[] = {"MAIL_CONFIG",  "MAIL_DEBUG",    "MAIL_LOGTAG", "TZ",
                                   "LANG=C",       "XAUTHORITY",    "DISPLAY",     "ASAN_OPTIONS",
                                   "LSAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"};

std::string LastComponent(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

// Our open descriptors that are not close-on-exec: the child has to close them by itself.
std::vector<int> InheritableDescriptors() {
  std::vector<int> result;
  DIR* const directory = opendir("/proc/self/fd");
  if (directory == nullptr) return result;
  while (const dirent* entry = readdir(directory)) {
    int fd = -1;
    if (!absl::SimpleAtoi(entry->d_name, &fd) || fd == dirfd(directory)) continue;
    const int flags = os::Fcntl(fd, F_GETFD, 0);
    if (flags >= 0 && (flags & FD_CLOEXEC) == 0) result.push_back(fd);
  }
  closedir(directory);
  return result;
}

// Everything the child needs, made before fork so that it only makes system calls.
struct PreparedChild {
  const char* program;
  char* const* arguments;
  char* const* environment;
  const char* directory;
  mode_t umask;
  bool own_group;
  const std::pair<int, int>* moves;  // from, to; every `from` is above every `to`
  size_t move_count;
  const int* closes;
  size_t close_count;
  const std::function<void()>* in_child;
};

// Async-signal-safe: runs between fork and exec.
[[noreturn]] void RunChild(const PreparedChild& child) {
  if (child.own_group) setpgid(0, 0);
  for (size_t i = 0; i < child.close_count; ++i) os::Close(child.closes[i]);
  for (size_t i = 0; i < child.move_count; ++i) {
    if (os::Dup2(child.moves[i].first, child.moves[i].second) < 0) _exit(1);
  }
  struct sigaction action;
  std::memset(&action, 0, sizeof(action));
  for (int signal = 1; signal < NSIG; ++signal) {
    action.sa_handler = signal == SIGPIPE ? SIG_IGN : SIG_DFL;
    os::Sigaction(signal, &action, nullptr);
  }
  sigset_t none;
  sigemptyset(&none);
  os::Sigmask(SIG_SETMASK, &none, nullptr);
  const itimerval off = {};
  os::Setitimer(ITIMER_REAL, &off, nullptr);
  os::Umask(child.umask);
  if (child.directory != nullptr && os::Chdir(child.directory) != 0) _exit(1);
  if (*child.in_child) (*child.in_child)();
  os::Execve(child.program, child.arguments, child.environment);
  _exit(1);
}

absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path) {
  sockaddr_un address = {};
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path is too long: ", path));
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

absl::StatusOr<pid_t> StartChild(const ChildPlan& plan) {
  std::vector<char*> arguments = Pointers(plan.arguments);
  std::vector<char*> environment = Pointers(plan.environment);
  std::vector<int> closes = InheritableDescriptors();
  int highest = 2;
  for (const auto& [number, source] : plan.descriptors) highest = std::max(highest, number);
  // Copies above all targets: no move can hit the source of another one.
  std::vector<UniqueFd> copies;
  std::vector<std::pair<int, int>> moves;
  for (const auto& [number, source] : plan.descriptors) {
    UniqueFd copy(os::Fcntl(source, F_DUPFD_CLOEXEC, highest + 1));
    if (!copy.valid()) {
      return absl::ErrnoToStatus(errno, absl::StrCat("F_DUPFD_CLOEXEC of fd ", source));
    }
    moves.emplace_back(copy.get(), number);
    copies.push_back(std::move(copy));
  }
  PreparedChild child;
  child.program = plan.program.c_str();
  child.arguments = arguments.data();
  child.environment = environment.data();
  child.directory = plan.directory.empty() ? nullptr : plan.directory.c_str();
  child.umask = plan.umask;
  child.own_group = plan.own_group;
  child.moves = moves.data();
  child.move_count = moves.size();
  child.closes = closes.data();
  child.close_count = closes.size();
  child.in_child = &plan.in_child;
  const pid_t pid = os::Fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "fork");
  if (pid == 0) RunChild(child);
  // Also from here, so that the group exists whoever runs first.
  if (plan.own_group) setpgid(pid, pid);
  return pid;
}

FakeMaster::FakeMaster(FakeMasterOptions options)
    : options_(std::move(options)),
      queue_directory_(scratch_.Path("spool")),
      stderr_path_(scratch_.Path("stderr")),
      next_generation_(options_.first_generation) {
  WorkerArguments& arguments = options_.arguments;
  if (arguments.command.empty()) arguments.command = LastComponent(options_.program);
  if (arguments.service_name.empty()) arguments.service_name = LastComponent(arguments.command);
  if (arguments.transport.empty()) arguments.transport = "unix";
}

absl::StatusOr<std::unique_ptr<FakeMaster>> FakeMaster::Create(FakeMasterOptions options) {
  std::unique_ptr<FakeMaster> master(new FakeMaster(std::move(options)));
  if (absl::Status status = master->Prepare(); !status.ok()) return status;
  return master;
}

absl::Status FakeMaster::Prepare() {
  if (os::Prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) {
    return absl::ErrnoToStatus(errno, "PR_SET_CHILD_SUBREAPER");
  }
  if (absl::Status status = PrepareDirectories(); !status.ok()) return status;
  int flow[2];
  if (os::Pipe2(flow, O_NONBLOCK | O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  flow_read_.Reset(flow[0]);
  flow_write_.Reset(flow[1]);
  if (absl::Status status = AddChannel(); !status.ok()) return status;
  if (absl::Status status = PrepareListeners(); !status.ok()) return status;
  if (options_.collect_log) {
    absl::StatusOr<std::unique_ptr<LogCollector>> log =
        LogCollector::Create(queue_directory_ + "/public/postlog");
    if (!log.ok()) return log.status();
    log_ = *std::move(log);
  }
  return absl::OkStatus();
}

absl::Status FakeMaster::PrepareDirectories() {
  // A worker may have become another user by the time it looks.
  if (os::Chmod(scratch_.path().c_str(), 0755) != 0) return absl::ErrnoToStatus(errno, "chmod");
  for (const char* name : {"etc", "data", "spool", "spool/private", "spool/public", "spool/pid"}) {
    const std::string path = scratch_.Path(name);
    if (mkdir(path.c_str(), 0755) != 0 || os::Chmod(path.c_str(), 0755) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("mkdir ", path));
    }
  }
  std::string main_cf = absl::StrCat(
      "compatibility_level = 3.6\n"
      "queue_directory = ",
      queue_directory_, "\ndata_directory = ", scratch_.Path("data"),
      "\n"
      "myhostname = fake.example.test\n"
      "mail_owner = mail\n"
      "setgid_group = daemon\n"
      "default_privs = nobody\n");
  if (options_.collect_log) {
    absl::StrAppend(&main_cf, "maillog_file = ", scratch_.Path("maillog"),
                    "\nmaillog_file_prefixes = ", scratch_.path(), "\n");
  }
  const std::string path =
      scratch_.WriteFile("etc/main.cf", absl::StrCat(main_cf, options_.main_cf));
  // A file that has just changed makes its readers wait until it is quiet (C8).
  const timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  if (utimensat(AT_FDCWD, path.c_str(), long_ago, 0) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("utimensat of ", path));
  }
  return absl::OkStatus();
}

absl::Status FakeMaster::PrepareListeners() {
  const WorkerArguments& arguments = options_.arguments;
  for (int i = 0; i < arguments.listen_sockets; ++i) {
    std::string address;
    absl::StatusOr<UniqueFd> listener;
    if (arguments.transport == "inet") {
      listener = ListenInet(&address);
    } else {
      address = absl::StrCat(queue_directory_, "/private/s", i);
      listener = ListenUnix(address);
    }
    if (!listener.ok()) return listener.status();
    listeners_.push_back(*std::move(listener));
    addresses_.push_back(std::move(address));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> FakeMaster::ListenUnix(const std::string& path) {
  absl::StatusOr<sockaddr_un> address = UnixAddress(path);
  if (!address.ok()) return address.status();
  UniqueFd fd(os::Socket(AF_UNIX, SOCK_STREAM | os::kSockCloexec | os::kSockNonblock, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "socket");
  if (os::Bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0 ||
      os::Chmod(path.c_str(), 0666) != 0 || os::Listen(fd.get(), kListenBacklog) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("bind to ", path));
  }
  return fd;
}

absl::StatusOr<UniqueFd> FakeMaster::ListenInet(std::string* text) {
  UniqueFd fd(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec | os::kSockNonblock, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "socket");
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (os::Bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      os::Listen(fd.get(), kListenBacklog) != 0 ||
      os::Getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return absl::ErrnoToStatus(errno, "bind to 127.0.0.1");
  }
  *text = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  return fd;
}

absl::Status FakeMaster::AddChannel() {
  int fds[2];
  // In blocking mode, as a stock master makes it (P4).
  if (os::Socketpair(AF_UNIX, SOCK_STREAM | os::kSockCloexec, 0, fds) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  Channel channel;
  channel.ours.Reset(fds[0]);
  channel.theirs.Reset(fds[1]);
  channels_.push_back(std::move(channel));
  return absl::OkStatus();
}

FakeMaster::~FakeMaster() {
  Pump();
  for (const auto& [pid, worker] : workers_) {
    if (worker.group_exists) os::Kill(-pid, SIGKILL);
  }
  // Members of the groups are our children, or become so when their parent dies.
  WaitUntil([this] { return running().empty() && Survivors().empty(); });
}

absl::StatusOr<pid_t> FakeMaster::Spawn() {
  if (channels_.empty() || !channels_.back().ours.valid()) {
    if (absl::Status status = AddChannel(); !status.ok()) return status;
  }
  const uint32_t generation = next_generation_++;
  UniqueFd null(os::Open("/dev/null", O_RDWR | O_CLOEXEC, 0));
  UniqueFd errors(os::Open(stderr_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!null.valid() || !errors.valid()) return absl::ErrnoToStatus(errno, "open");

  ChildPlan plan;
  plan.program = options_.program;
  plan.arguments = BuildWorkerArguments(options_.arguments);
  std::vector<std::string> list(std::begin(kImportList), std::end(kImportList));
  list.push_back(absl::StrCat("MAIL_CONFIG=", scratch_.Path("etc")));
  list.push_back(absl::StrCat(kGenerationVariable, "=", FormatGeneration(generation)));
  if (options_.collect_log) {
    list.push_back(absl::StrCat("POSTLOG_SERVICE=", queue_directory_, "/public/postlog"));
    list.push_back("POSTLOG_HOSTNAME=fake.example.test");
  }
  list.insert(list.end(), options_.environment.begin(), options_.environment.end());
  std::vector<std::string> current;
  for (char** variable = environ; *variable != nullptr; ++variable) current.push_back(*variable);
  plan.environment = BuildWorkerEnvironment(list, current);
  for (const std::string& name : options_.without_environment) {
    plan.environment.erase(std::remove_if(plan.environment.begin(), plan.environment.end(),
                                          [&](const std::string& variable) {
                                            return absl::StartsWith(variable,
                                                                    absl::StrCat(name, "="));
                                          }),
                           plan.environment.end());
  }

  const MasterDescriptors numbers;
  plan.descriptors = {{0, null.get()},
                      {1, null.get()},
                      {2, errors.get()},
                      {numbers.flow_read, flow_read_.get()},
                      {numbers.flow_write, flow_write_.get()},
                      {numbers.status, channels_.back().theirs.get()}};
  for (size_t i = 0; i < listeners_.size(); ++i) {
    plan.descriptors[numbers.first_listen + static_cast<int>(i)] = listeners_[i].get();
  }
  for (const auto& [number, fd] : options_.more_descriptors) plan.descriptors[number] = fd;
  for (const int number : options_.without_descriptors) plan.descriptors.erase(number);
  plan.directory = queue_directory_;
  plan.in_child = options_.in_child;

  absl::StatusOr<pid_t> pid = StartChild(plan);
  if (!pid.ok()) return pid.status();
  Worker worker;
  worker.pid = *pid;
  worker.generation = generation;
  worker.channel = static_cast<int>(channels_.size()) - 1;
  workers_[*pid] = worker;
  strangers_.erase(*pid);
  return *pid;
}

const FakeMaster::Worker& FakeMaster::worker(pid_t pid) const {
  const auto found = workers_.find(pid);
  POSTHOUSE_CHECK(found != workers_.end(), "no worker was spawned with this process number");
  return found->second;
}

std::vector<pid_t> FakeMaster::running() const {
  std::vector<pid_t> result;
  for (const auto& [pid, worker] : workers_) {
    if (worker.running) result.push_back(pid);
  }
  return result;
}

void FakeMaster::Pump(absl::Duration wait) {
  const absl::Time end = absl::Now() + wait;
  for (;;) {
    const size_t children = running().size() + strangers_.size() * 1000;
    const bool heard = ReadMessages();
    Reap();
    DropFinishedPasses();
    if (heard || running().size() + strangers_.size() * 1000 != children) return;
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    // A child's end raises no event that could be waited for here, so the step is short.
    pollfd entry = {read_status_ ? channels_.back().ours.get() : -1, POLLIN, 0};
    ::poll(&entry, 1, static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(left), 1, 5)));
  }
}

bool FakeMaster::WaitUntil(absl::FunctionRef<bool()> condition, absl::Duration bound) {
  const absl::Time end = absl::Now() + bound;
  for (;;) {
    Pump();
    if (condition()) return true;
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    Pump(std::min(left, absl::Milliseconds(5)));
  }
}

absl::optional<int> FakeMaster::WaitForExit(pid_t pid, absl::Duration bound) {
  if (!WaitUntil([&] { return !worker(pid).running; }, bound)) return absl::nullopt;
  return worker(pid).wait_status;
}

bool FakeMaster::ReadMessages() {
  if (!read_status_) return false;
  bool heard = false;
  for (Channel& channel : channels_) {
    if (!channel.ours.valid()) continue;
    for (int count = 0; count < kMaxMessagesPerPump; ++count) {
      char bytes[kStatusMessageSize];
      const ssize_t got = os::Recv(channel.ours.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
      if (got < 0) break;
      if (got == 0) {
        problems_.push_back("end of file on the status channel");
        break;
      }
      heard = true;
      absl::StatusOr<StatusMessage> message =
          DecodeStatusMessage(absl::string_view(bytes, static_cast<size_t>(got)));
      if (message.ok()) {
        Account(*message);
      } else {
        problems_.push_back(std::string(message.status().message()));
      }
    }
  }
  return heard;
}

// P29 and P33 to P35.
void FakeMaster::Account(const StatusMessage& message) {
  messages_.push_back(message);
  const auto found = workers_.find(message.pid);
  if (found == workers_.end() || found->second.generation != message.generation) {
    problems_.push_back(absl::StrCat("status message of process ", message.pid, ", generation ",
                                     message.generation, ", which nobody here has"));
    return;
  }
  Worker& worker = found->second;
  const Availability state = static_cast<Availability>(message.availability);
  if (worker.availability == state) return;
  worker.availability = state;
  ++worker.messages;
  if (state == Availability::kAvailable) ++worker.use_count;
}

std::string FakeMaster::History(pid_t pid) const {
  std::vector<std::string> words;
  for (const StatusMessage& message : messages_) {
    if (message.pid != pid || message.generation != worker(pid).generation) continue;
    words.push_back(message.availability == 0 ? "TAKEN" : "AVAIL");
  }
  return absl::StrJoin(words, " ");
}

void FakeMaster::Reap() {
  // Only our own: a test may have children of other kinds that it waits for itself.
  for (auto& [pid, worker] : workers_) {
    if (!worker.group_exists) continue;
    int status = 0;
    pid_t ended;
    while ((ended = os::Waitpid(-pid, &status, WNOHANG)) > 0) {
      if (ended == pid && worker.running) {
        // Its last words are read before its death is noticed.
        ReadMessages();
        worker.running = false;
        worker.wait_status = status;
      } else {
        strangers_[ended] = status;
      }
    }
    // All members are reaped here, so that a group that is empty was emptied by the call above and
    // its number cannot belong to somebody else yet.
    if (!worker.running && os::Kill(-pid, 0) != 0) worker.group_exists = false;
  }
}

std::vector<pid_t> FakeMaster::Survivors() const {
  std::vector<pid_t> result;
  DIR* const directory = opendir("/proc");
  if (directory == nullptr) return result;
  while (const dirent* entry = readdir(directory)) {
    int pid = 0;
    if (!absl::SimpleAtoi(entry->d_name, &pid)) continue;
    const auto found = workers_.find(getpgid(pid));
    if (found != workers_.end() && found->second.group_exists) result.push_back(pid);
  }
  closedir(directory);
  return result;
}

absl::Status FakeMaster::Reload() {
  ReadMessages();
  channels_.back().ours.Reset();
  channels_.back().theirs.Reset();
  return AddChannel();
}

void FakeMaster::Vanish() {
  ReadMessages();
  channels_.back().ours.Reset();
  channels_.back().theirs.Reset();
  listeners_.clear();
}

absl::StatusOr<UniqueFd> FakeMaster::ConnectRaw(int listen_socket) {
  const std::string& address = addresses_[static_cast<size_t>(listen_socket)];
  if (options_.arguments.transport == "inet") {
    sockaddr_in inet = {};
    inet.sin_family = AF_INET;
    inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int port = 0;
    if (!absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port)) port = 0;
    inet.sin_port = htons(static_cast<uint16_t>(port));
    UniqueFd fd(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec, 0));
    if (!fd.valid() ||
        os::Connect(fd.get(), reinterpret_cast<const sockaddr*>(&inet), sizeof(inet)) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("connect to ", address));
    }
    return fd;
  }
  absl::StatusOr<sockaddr_un> local = UnixAddress(address);
  if (!local.ok()) return local.status();
  UniqueFd fd(os::Socket(AF_UNIX, SOCK_STREAM | os::kSockCloexec, 0));
  if (!fd.valid() ||
      os::Connect(fd.get(), reinterpret_cast<const sockaddr*>(&*local), sizeof(*local)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("connect to ", address));
  }
  return fd;
}

absl::StatusOr<UniqueFd> FakeMaster::Connect(
    int listen_socket, const std::vector<std::pair<std::string, std::string>>& attributes) {
  absl::StatusOr<UniqueFd> connection = ConnectRaw(listen_socket);
  if (!connection.ok() || options_.arguments.transport != "pass") return connection;
  int fds[2];
  if (os::Socketpair(AF_UNIX, SOCK_STREAM | os::kSockCloexec, 0, fds) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  UniqueFd client(fds[0]), passed(fds[1]);
  if (absl::Status status = SendDescriptor(connection->get(), passed.get()); !status.ok()) {
    return status;
  }
  std::string list;
  for (const auto& [name, value] : attributes) {
    list.append(name).push_back('\0');
    list.append(value).push_back('\0');
  }
  list.push_back('\0');
  if (os::Send(connection->get(), list.data(), list.size(), os::kMsgNosignal) !=
      static_cast<ssize_t>(list.size())) {
    return absl::ErrnoToStatus(errno, "send of the attribute list");
  }
  passing_.push_back(*std::move(connection));
  return client;
}

void FakeMaster::DropFinishedPasses() {
  passing_.erase(std::remove_if(passing_.begin(), passing_.end(),
                                [](const UniqueFd& fd) {
                                  char byte;
                                  const ssize_t got = os::Recv(fd.get(), &byte, 1, MSG_DONTWAIT);
                                  return got == 0 || (got < 0 && errno != EAGAIN);
                                }),
                 passing_.end());
}

std::string FakeMaster::Log() const {
  return absl::StrCat(log_ != nullptr ? log_->Text() : "", ReadFileOrEmpty(stderr_path_));
}

bool FakeMaster::LogContains(absl::string_view text) const {
  return absl::StrContains(Log(), text);
}

}  // namespace posthouse

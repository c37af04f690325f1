#include "tests/conformance/suite/master_instance.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "posthouse/io/pass_descriptor.h"
#include "posthouse/testing/fake_master.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/suite/candidate.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {
namespace {

namespace fs = std::filesystem;

// Accounts that every system has and no mail system has claimed.
constexpr char kMailOwner[] = "mail";
constexpr char kSetgidGroup[] = "daemon";
// In the environment of the candidate, and not to be passed on by it: by this its processes are
// found that are no children of the master.
constexpr char kMark[] = "POSTHOUSE_CONFORMANCE";

std::string EndOf(int wait_status) {
  if (WIFEXITED(wait_status)) return absl::StrCat("exit ", WEXITSTATUS(wait_status));
  return absl::StrCat("signal ", WTERMSIG(wait_status));
}

// Nothing while it runs; reaped if it has ended.
absl::optional<std::string> TryEnd(pid_t pid) {
  int status = 0;
  if (waitpid(pid, &status, WNOHANG) != pid) return absl::nullopt;
  return EndOf(status);
}

void MakeDirectory(const std::string& path, mode_t mode, bool owned) {
  mkdir(path.c_str(), mode);
  chmod(path.c_str(), mode);
  if (owned && geteuid() == 0) {
    const passwd* owner = getpwnam(kMailOwner);
    if (owner == nullptr || chown(path.c_str(), owner->pw_uid, static_cast<gid_t>(-1)) != 0) {
      ADD_FAILURE() << "cannot give " << path << " to " << kMailOwner;
    }
  }
}

// A copy, since the probe may be in a directory that others may not search.
void InstallProbe(const std::string& directory) {
  std::error_code error;
  fs::copy_file(TheCandidate().probe, directory + "/probe", error);
  if (error) ADD_FAILURE() << "copy of " << TheCandidate().probe << ": " << error.message();
  chmod((directory + "/probe").c_str(), 0755);
}

template <typename Map>
std::string Find(const Map& map, const typename Map::key_type& key) {
  const auto found = map.find(key);
  return found == map.end() ? "" : found->second;
}

Report ParseReport(const std::string& text) {
  Report report;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    report.lines.insert(words);
    if (words.first == "argument") report.arguments.push_back(words.second);
    if (words.first == "service") report.service = words.second;
    if (words.first == "environment") {
      report.environment.insert(absl::StrSplit(words.second, absl::MaxSplits('=', 1)));
    }
    if (words.first == "fd" || words.first == "socket") {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(words.second, absl::MaxSplits(' ', 1));
      auto& table = words.first == "fd" ? report.descriptors : report.sockets;
      table[std::atoi(parts.first.c_str())] = parts.second;
    }
  }
  report.pid = std::atoi(report.line("pid").c_str());
  report.time_ns = std::atoll(report.line("time").c_str());
  const auto generation = report.environment.find("GENERATION");
  if (generation != report.environment.end()) {
    report.generation = static_cast<uint32_t>(std::strtoul(generation->second.c_str(), nullptr, 8));
  }
  return report;
}

}  // namespace

std::string Report::line(const std::string& kind) const { return Find(lines, kind); }
std::string Report::variable(const std::string& name) const { return Find(environment, name); }
std::string Report::descriptor(int fd) const { return Find(descriptors, fd); }
std::string Report::socket(int fd) const { return Find(sockets, fd); }

std::string Ask(Connection& client, absl::string_view line) {
  const absl::StatusOr<std::string> answer = client.Ask(line);
  return answer.ok() ? *answer : answer.status().ToString();
}

std::string MasterInstance::MailOwner() {
  return geteuid() == 0 ? kMailOwner : getpwuid(geteuid())->pw_name;
}

MasterInstance::MasterInstance()
    : config_directory_(scratch_.Path("etc")), queue_directory_(scratch_.Path("spool")) {
  BecomeSubreaper();
  MakeDirectory(scratch_.path(), 0755, false);
  for (const char* name : {"etc", "libexec", "probe", "spool", "spool/pid"}) {
    MakeDirectory(scratch_.Path(name), 0755, false);
  }
  MakeDirectory(scratch_.Path("data"), 0700, true);
  MakeDirectory(Queue("private"), 0700, true);
  MakeDirectory(Queue("public"), 02710, true);
  if (const group* special = getgrnam(kSetgidGroup); geteuid() == 0 && special != nullptr) {
    if (chown(Queue("public").c_str(), static_cast<uid_t>(-1), special->gr_gid) != 0) {
      ADD_FAILURE() << "cannot give public/ to the group " << kSetgidGroup;
    }
    chmod(Queue("public").c_str(), 02710);
  }
  InstallProbe(scratch_.Path("libexec"));
  absl::StatusOr<std::unique_ptr<LogCollector>> log = LogCollector::Create(Queue("public/postlog"));
  if (log.ok()) log_ = *std::move(log);
  SetParameters("");
}

MasterInstance::~MasterInstance() {
  // What is left of the instance are children of this process, by now or as soon as their parents
  // are dead.
  Eventually(kBound, [&] {
    bool left = false;
    for (pid_t pid : AllProcesses()) {
      if (EnvironmentVariable(pid, kMark) == scratch_.path() ||
          EnvironmentVariable(pid, "MAIL_CONFIG") == config_directory_) {
        kill(pid, SIGKILL);
        left = true;
      }
    }
    for (pid_t pid : Children()) {
      const absl::optional<ProcessInfo> info = InspectProcess(pid);
      if (!info.has_value()) waitpid(pid, nullptr, WNOHANG);
    }
    return !left;
  });
}

std::string MasterInstance::Queue(absl::string_view name) const {
  return absl::StrCat(queue_directory_, "/", name);
}

// At once, for a master that is still busy with an earlier reload may be reading it.
void MasterInstance::WriteConfiguration(const std::string& name, const std::string& content) {
  const std::string fresh = scratch_.WriteFile(absl::StrCat("etc/", name, ".new"), content);
  // A file that has just changed makes its readers wait until it is quiet (C8).
  const timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  utimensat(AT_FDCWD, fresh.c_str(), long_ago, 0);
  if (std::rename(fresh.c_str(), scratch_.Path(absl::StrCat("etc/", name)).c_str()) != 0) {
    ADD_FAILURE() << "rename of " << fresh << ": " << std::strerror(errno);
  }
}

void MasterInstance::SetServices(const std::string& master_cf) {
  WriteConfiguration("master.cf", master_cf);
}

void MasterInstance::SetParameters(const std::string& main_cf) {
  parameters_ = main_cf;
  WriteMainCf();
}

void MasterInstance::WriteMainCf() {
  const std::string owner = MailOwner();
  std::string group = kSetgidGroup;
  std::string nobody = "nobody";
  WriteConfiguration(
      "main.cf", absl::StrCat("compatibility_level = 3.6\nqueue_directory = ", queue_directory_,
                              "\ndata_directory = ", scratch_.Path("data"), "\ndaemon_directory = ",
                              scratch_.Path("libexec"), "\nmail_owner = ", owner,
                              "\nsetgid_group = ", group, "\ndefault_privs = ", nobody,
                              "\nmyhostname = suite.example.test\ninet_interfaces = 127.0.0.1\n"
                              "inet_protocols = ipv4\nmaillog_file = ",
                              scratch_.Path("maillog"),
                              "\nmaillog_file_prefixes = ", scratch_.path(), "\n", parameters_));
}

std::string MasterInstance::AnotherDaemonDirectory() {
  const std::string path = scratch_.Path("libexec2");
  MakeDirectory(path, 0755, false);
  InstallProbe(path);
  return path;
}

void MasterInstance::SetProbeInstalled(bool installed) {
  if (installed) {
    InstallProbe(scratch_.Path("libexec"));
  } else {
    unlink(scratch_.Path("libexec/probe").c_str());
  }
}

pid_t MasterInstance::Launch(const std::vector<std::string>& options) {
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  UniqueFd errors(
      open(scratch_.Path("stderr").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  ChildPlan plan;
  plan.program = TheCandidate().program;
  plan.arguments = {"master", "-c", config_directory_};
  plan.arguments.insert(plan.arguments.end(), options.begin(), options.end());
  plan.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=de_DE.UTF-8", "TZ=UTC",
                      absl::StrCat(kMark, "=", scratch_.path()),
                      absl::StrCat("POSTLOG_SERVICE=", Queue("public/postlog"))};
  for (const char* name : {"ASAN_OPTIONS", "UBSAN_OPTIONS", "POSTHOUSE_SUITE"}) {
    if (getenv(name) != nullptr) plan.environment.push_back(absl::StrCat(name, "=", getenv(name)));
  }
  plan.descriptors = {{0, null.get()}, {1, errors.get()}, {2, errors.get()}};
  plan.umask = 022;
  // Whatever it is and does: its signals to its group must not reach the suite.
  plan.own_group = false;
  plan.in_child = [] { setsid(); };
  const absl::StatusOr<pid_t> pid = StartChild(plan);
  EXPECT_TRUE(pid.ok()) << pid.status();
  return pid.ok() ? *pid : -1;
}

std::string MasterInstance::Run(const std::vector<std::string>& options, absl::Duration bound) {
  const pid_t pid = Launch(options);
  if (pid < 0) return "not started";
  absl::optional<std::string> end;
  if (!Eventually(bound, [&] { return (end = TryEnd(pid)).has_value(); })) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return "still running";
  }
  return *end;
}

std::string MasterInstance::Start(const std::vector<std::string>& options) {
  std::vector<std::string> all = {"-w"};
  all.insert(all.end(), options.begin(), options.end());
  const std::string end = Run(all);
  if (end != "exit 0") {
    return absl::StrCat("the start with -w ended with ", end, ": ", Errors(), Log());
  }
  std::ifstream file(pid_file());
  pid_ = 0;
  if (!(file >> pid_) || pid_ <= 1) return "no process number in " + pid_file();
  end_.reset();
  return "";
}

bool MasterInstance::Running() {
  if (!end_.has_value() && pid_ > 0) end_ = TryEnd(pid_);
  return pid_ > 0 && !end_.has_value();
}

std::string MasterInstance::End(absl::Duration bound) {
  return Eventually(bound, [&] { return !Running(); }) ? end_.value_or("not started")
                                                       : "still running";
}

void MasterInstance::Signal(int signal_number) {
  // Never to a process that is not ours any more.
  if (Running()) kill(pid_, signal_number);
}

void MasterInstance::Reload() { Signal(SIGHUP); }

void MasterInstance::Stop() {
  Signal(SIGSTOP);
  EXPECT_TRUE(Eventually(kBound, [&] {
    const absl::optional<ProcessInfo> info = InspectProcess(pid_);
    return !info.has_value() || info->state == 'T';
  }));
}

void MasterInstance::Continue() { Signal(SIGCONT); }

std::vector<Report> MasterInstance::Reports(absl::string_view service) const {
  std::vector<Report> reports;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(scratch_.Path("probe"), error)) {
    const std::string name = entry.path().filename();
    if (!absl::StartsWith(name, "report.") || absl::EndsWith(name, ".new")) continue;
    Report report = ParseReport(ReadFileOrEmpty(entry.path()));
    if (service.empty() || report.service == service) reports.push_back(std::move(report));
  }
  std::sort(reports.begin(), reports.end(),
            [](const Report& a, const Report& b) { return a.generation < b.generation; });
  return reports;
}

std::vector<std::string> MasterInstance::Events(pid_t pid) const {
  return absl::StrSplit(ReadFileOrEmpty(scratch_.Path(absl::StrCat("probe/events.", pid))), '\n',
                        absl::SkipEmpty());
}

bool MasterInstance::HasEvent(pid_t pid, absl::string_view event) const {
  const std::vector<std::string> events = Events(pid);
  return std::find(events.begin(), events.end(), event) != events.end();
}

int MasterInstance::CountEvents(absl::string_view service, absl::string_view prefix) const {
  int count = 0;
  for (const Report& report : Reports(service)) {
    for (const std::string& event : Events(report.pid)) count += absl::StartsWith(event, prefix);
  }
  return count;
}

bool MasterInstance::WaitForStarts(absl::string_view service, size_t count) const {
  return Eventually(kBound, [&] { return Reports(service).size() >= count; });
}

std::string MasterInstance::Log() {
  return absl::StrCat(log_ == nullptr ? "" : log_->Text(),
                      ReadFileOrEmpty(scratch_.Path("maillog")));
}

bool MasterInstance::WaitForLog(const std::string& pattern) {
  const std::regex expression(pattern);
  return Eventually(kBound, [&] { return std::regex_search(Log(), expression); });
}

std::string MasterInstance::Errors() const { return ReadFileOrEmpty(scratch_.Path("stderr")); }

Connection MasterInstance::Connect(absl::string_view name) {
  absl::StatusOr<Connection> connection = Connection::Unix(Queue(name));
  EXPECT_TRUE(connection.ok()) << connection.status();
  return connection.ok() ? *std::move(connection) : Connection(UniqueFd());
}

Connection MasterInstance::ConnectPort(int port) {
  absl::StatusOr<Connection> connection = Connection::Tcp(port);
  EXPECT_TRUE(connection.ok()) << connection.status();
  return connection.ok() ? *std::move(connection) : Connection(UniqueFd());
}

Connection MasterInstance::ConnectPass(absl::string_view name) {
  Connection sender = Connect(name);
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return Connection(UniqueFd());
  UniqueFd passed(ends[1]);
  EXPECT_TRUE(SendDescriptor(sender.fd(), passed.get()).ok());
  // Kept open until the receiver has it (P62).
  UniqueFd kept(dup(sender.fd()));
  fcntl(kept.get(), F_SETFD, FD_CLOEXEC);
  passing_.push_back(std::move(kept));
  return Connection(UniqueFd(ends[0]));
}

bool MasterInstance::Refuses(absl::string_view name) const {
  return !Connection::Unix(Queue(name)).ok();
}

}  // namespace posthouse::conformance

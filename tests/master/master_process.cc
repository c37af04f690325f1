#include "tests/master/master_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"

namespace posthouse {
namespace {

std::string LastComponent(absl::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

void MakeDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0755) != 0 || chmod(path.c_str(), 0755) != 0) abort();
}

// As the master is started: from a session of its own, with an environment of a few variables.
[[noreturn]] void Execute(const std::vector<std::string>& arguments, const std::string& variable,
                          const std::string& output, void (*before_exec)()) {
  setsid();
  const int log = open(output.c_str(), O_WRONLY | O_APPEND | O_CREAT, 0666);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(log, 1);
  dup2(log, 2);
  if (before_exec != nullptr) before_exec();
  std::vector<char*> pointers;
  for (const std::string& argument : arguments) {
    pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  pointers.push_back(nullptr);
  char path[] = "PATH=/usr/bin:/bin";
  char* environment[] = {path, const_cast<char*>(variable.c_str()), nullptr};
  execve(pointers[0], pointers.data(), environment);
  _exit(125);
}

void CopyProgram(const std::string& from, const std::string& to) {
  std::ifstream source(from, std::ios::binary);
  std::ofstream copy(to, std::ios::binary);
  copy << source.rdbuf();
  copy.close();
  if (!source || !copy || chmod(to.c_str(), 0755) != 0) abort();
}

LineClient ConnectTo(int family, const sockaddr* address, socklen_t length) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // A local connect waits as long as the backlog is full.
  const timeval bound = absl::ToTimeval(kGenerousBound);
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound));
  if (!fd.valid() || connect(fd.get(), address, length) != 0) return LineClient();
  return LineClient(std::move(fd));
}

}  // namespace

std::string TestProgram(absl::string_view name) {
  for (const std::string& argument : testing::internal::GetArgvs()) {
    if (LastComponent(argument) == name) {
      return std::filesystem::absolute(argument).string();
    }
  }
  ADD_FAILURE() << "the test was not given the program " << name;
  return "";
}

int FreeTcpPort() {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    abort();
  }
  return ntohs(address.sin_port);
}

LineClient ConnectTcp(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return ConnectTo(AF_INET, reinterpret_cast<sockaddr*>(&address), sizeof(address));
}

LineClient ConnectUnix(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return ConnectTo(AF_UNIX, reinterpret_cast<sockaddr*>(&address), sizeof(address));
}

int64_t Times(int64_t brief, int64_t full) {
  return getenv("POSTHOUSE_FULL") != nullptr ? full : brief;
}

std::string AskOnce(LineClient client, absl::string_view line) {
  return client.valid() ? client.Ask(line) : "<refused>";
}

int Occurrences(absl::string_view all, absl::string_view text) {
  int count = 0;
  for (size_t at = all.find(text); at != absl::string_view::npos; at = all.find(text, at + 1)) {
    ++count;
  }
  return count;
}

std::set<pid_t> AllChildrenOf(pid_t pid) {
  std::set<pid_t> children;
  const std::string list = ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/task/", pid, "/children"));
  for (const absl::string_view word : absl::StrSplit(list, ' ', absl::SkipWhitespace())) {
    pid_t child = 0;
    if (absl::SimpleAtoi(word, &child)) children.insert(child);
  }
  return children;
}

std::set<pid_t> ChildrenOf(pid_t pid) {
  std::set<pid_t> children;
  for (const pid_t child : AllChildrenOf(pid)) {
    const std::string stat = ReadFileOrEmpty(absl::StrCat("/proc/", child, "/stat"));
    if (!absl::StrContains(stat, ") Z ")) children.insert(child);
  }
  return children;
}

MasterProcess::MasterProcess() : program_(TestProgram("posthouse-master")) {
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  if (chmod(dir_.path().c_str(), 0755) != 0) abort();
  for (const char* name : {"etc", "queue", "bin"}) MakeDirectory(dir_.Path(name));
  SetParameters({});
}

MasterProcess::~MasterProcess() {
  if (pid_ > 0) {
    kill(-pid_, SIGKILL);
    kill(pid_, SIGKILL);
  }
  // Its workers are our children now; those of another group end by descriptor 5.
  WaitUntil([] {
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    return AllChildrenOf(getpid()).empty();
  });
}

// Files that are younger than a moment are not believed to be complete (F105).
void MasterProcess::WriteQuietFile(absl::string_view name, const std::string& text) {
  const std::string temporary = dir_.WriteFile(absl::StrCat(name, ".new"), text);
  timeval times[2] = {};
  gettimeofday(&times[0], nullptr);
  times[0].tv_sec -= 10;
  times[1] = times[0];
  if (chmod(temporary.c_str(), 0644) != 0 || utimes(temporary.c_str(), times) != 0 ||
      rename(temporary.c_str(), dir_.Path(name).c_str()) != 0) {
    abort();
  }
}

void MasterProcess::AddScript(absl::string_view name, absl::string_view text) {
  const std::string path =
      dir_.WriteFile(absl::StrCat("bin/", name), absl::StrCat("#!/bin/sh\n", text, "\n"));
  if (chmod(path.c_str(), 0755) != 0) abort();
}

void MasterProcess::AddProgram(absl::string_view name, absl::string_view program) {
  // A copy: the original may lie where the user of the test's master must not look.
  CopyProgram(TestProgram(program), dir_.Path(absl::StrCat("bin/", name)));
}

void MasterProcess::CopyMaster() {
  program_ = dir_.Path("posthouse-master");
  CopyProgram(TestProgram("posthouse-master"), program_);
}

void MasterProcess::UseProgram(absl::string_view program, absl::string_view variable) {
  program_ = TestProgram(program);
  variable_ = std::string(variable);
}

void MasterProcess::SetParameters(const std::vector<std::string>& lines) {
  std::string text = absl::StrCat(
      "compatibility_level = 3.6\nqueue_directory = ", dir_.Path("queue"),
      "\ndata_directory = ", dir_.Path("data"), "\ndaemon_directory = ", dir_.Path("bin"),
      // The accounts are asked for as root alone; these exist everywhere.
      "\nmail_owner = daemon\nsetgid_group = mail\ndefault_privs = nobody\n"
      "service_throttle_time = 1s\n");
  absl::StrAppend(&text, absl::StrJoin(lines, "\n"), "\n");
  WriteQuietFile("etc/main.cf", text);
}

void MasterProcess::SetTable(const std::vector<std::string>& lines) {
  WriteQuietFile("etc/master.cf", absl::StrCat(absl::StrJoin(lines, "\n"), "\n"));
}

std::vector<std::string> MasterProcess::Arguments(const std::vector<std::string>& options) const {
  std::vector<std::string> arguments = {program_, "-c", dir_.Path("etc")};
  arguments.insert(arguments.end(), options.begin(), options.end());
  return arguments;
}

void MasterProcess::Launch(const std::vector<std::string>& options, void (*before_exec)()) {
  const std::vector<std::string> arguments = Arguments(options);
  const std::string log = dir_.Path("log");
  pid_ = fork();
  if (pid_ == 0) Execute(arguments, variable_, log, before_exec);
}

bool MasterProcess::Start(const std::vector<std::string>& options) {
  const int started = LogCount("daemon started");
  Launch(options);
  bool ended = false;
  WaitUntil([&] {
    siginfo_t info = {};
    ended = waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            info.si_pid == pid_;
    return ended || LogCount("daemon started") > started;
  });
  return !ended && LogCount("daemon started") > started;
}

MasterProcess::Outcome MasterProcess::Run(const std::vector<std::string>& options) {
  return Finish(Begin(options));
}

pid_t MasterProcess::Begin(const std::vector<std::string>& options) {
  const std::vector<std::string> arguments = Arguments(options);
  const std::string output = dir_.Path("output");
  unlink(output.c_str());
  const pid_t pid = fork();
  if (pid == 0) Execute(arguments, variable_, output, nullptr);
  return pid;
}

MasterProcess::Outcome MasterProcess::Finish(pid_t pid) {
  const absl::optional<int> status = WaitForExit(pid);
  Outcome outcome;
  if (status.has_value() && WIFEXITED(*status)) outcome.exit_status = WEXITSTATUS(*status);
  outcome.output = ReadFileOrEmpty(dir_.Path("output"));
  return outcome;
}

bool MasterProcess::Reload() {
  const int finished = LogCount("reload finished");
  const int failed = LogCount("reload has changed nothing");
  Signal(SIGHUP);
  WaitUntil([&] {
    return LogCount("reload finished") > finished ||
           LogCount("reload has changed nothing") > failed;
  });
  return LogCount("reload finished") > finished;
}

pid_t MasterProcess::LockedBy() const {
  pid_t pid = 0;
  return absl::SimpleAtoi(ReadFileOrEmpty(QueuePath("pid/master.pid")), &pid) ? pid : 0;
}

void MasterProcess::Signal(int signal) { kill(pid_, signal); }

absl::optional<int> MasterProcess::WaitForEnd(absl::Duration bound) {
  const absl::optional<int> status = WaitForExit(pid_, bound);
  if (status.has_value()) pid_ = 0;
  return status;
}

void MasterProcess::Kill() {
  kill(pid_, SIGKILL);
  WaitForEnd();
}

std::string MasterProcess::Log() const { return ReadFileOrEmpty(dir_.Path("log")); }

bool MasterProcess::WaitForLog(absl::string_view text, int times, absl::Duration bound) const {
  return WaitUntil([&] { return LogCount(text) >= times; }, bound);
}

std::string MasterProcess::QueuePath(absl::string_view name) const {
  return dir_.Path(absl::StrCat("queue/", name));
}

std::string MasterProcess::EtcPath(absl::string_view name) const {
  return dir_.Path(absl::StrCat("etc/", name));
}

}  // namespace posthouse

#include "tests/conformance/processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {
namespace {

std::string ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string ReadLink(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof target);
  return length < 0 ? "" : std::string(target, length);
}

std::vector<std::string> Names(const std::string& directory) {
  std::vector<std::string> names;
  DIR* open = opendir(directory.c_str());
  if (open == nullptr) return names;
  while (const dirent* entry = readdir(open)) names.push_back(entry->d_name);
  closedir(open);
  return names;
}

std::vector<int> Numbers(const std::string& directory) {
  std::vector<int> numbers;
  for (const std::string& name : Names(directory)) {
    int number;
    if (absl::SimpleAtoi(name, &number)) numbers.push_back(number);
  }
  return numbers;
}

std::vector<std::string> SplitAtNul(absl::string_view text) {
  absl::ConsumeSuffix(&text, absl::string_view("\0", 1));
  if (text.empty()) return {};
  return absl::StrSplit(text, '\0');
}

std::map<int, std::string> Descriptors(const std::string& directory) {
  std::map<int, std::string> descriptors;
  for (int number : Numbers(directory)) {
    const std::string target = ReadLink(absl::StrCat(directory, "/", number));
    if (!target.empty()) descriptors[number] = target;
  }
  return descriptors;
}

// "flags:	02000002" in /proc/PID/fdinfo/N, octal; the kernel shows close-on-exec among them.
int OpenFlags(const std::string& path) {
  for (absl::string_view line : absl::StrSplit(ReadWhole(path), '\n')) {
    if (absl::ConsumePrefix(&line, "flags:")) {
      return static_cast<int>(strtol(std::string(line).c_str(), nullptr, 8));
    }
  }
  return 0;
}

}  // namespace

std::string ProcessInfo::program() const {
  const absl::string_view name = absl::StripSuffix(executable, " (deleted)");
  return std::string(name.substr(name.rfind('/') + 1));
}

absl::optional<ProcessInfo> InspectProcess(pid_t pid) {
  const std::string directory = absl::StrCat("/proc/", pid);
  ProcessInfo info;
  info.pid = pid;
  for (absl::string_view line : absl::StrSplit(ReadWhole(directory + "/status"), '\n')) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    std::string value;
    for (absl::string_view word : absl::StrSplit(field.second, absl::ByAnyChar(" \t"))) {
      if (!word.empty()) absl::StrAppend(&value, value.empty() ? "" : " ", word);
    }
    info.status[std::string(field.first)] = value;
  }
  const std::string& state = info.status["State"];
  if (state.empty() || state[0] == 'Z' || state[0] == 'X') return absl::nullopt;
  info.state = state[0];
  if (!absl::SimpleAtoi(info.status["PPid"], &info.parent)) info.parent = 0;
  info.executable = ReadLink(directory + "/exe");
  info.root = ReadLink(directory + "/root");
  info.working_directory = ReadLink(directory + "/cwd");
  info.arguments = SplitAtNul(ReadWhole(directory + "/cmdline"));
  for (const std::string& setting : SplitAtNul(ReadWhole(directory + "/environ"))) {
    info.environment.insert(absl::StrSplit(setting, absl::MaxSplits('=', 1)));
  }
  info.descriptors = Descriptors(directory + "/fd");
  for (const auto& [fd, target] : info.descriptors) {
    info.descriptor_flags[fd] = OpenFlags(absl::StrCat(directory, "/fdinfo/", fd));
  }
  return info;
}

std::vector<pid_t> AllProcesses() { return Numbers("/proc"); }

std::string EnvironmentVariable(pid_t pid, absl::string_view name) {
  for (const std::string& setting :
       SplitAtNul(ReadWhole(absl::StrCat("/proc/", pid, "/environ")))) {
    absl::string_view value = setting;
    if (absl::ConsumePrefix(&value, name) && absl::ConsumePrefix(&value, "=")) {
      return std::string(value);
    }
  }
  return "";
}

std::vector<pid_t> Children() { return ChildrenOf(getpid()); }

std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> children;
  const std::string threads = absl::StrCat("/proc/", parent, "/task");
  for (int thread : Numbers(threads)) {
    const std::string list = ReadWhole(absl::StrCat(threads, "/", thread, "/children"));
    for (absl::string_view word : absl::StrSplit(list, ' ', absl::SkipWhitespace())) {
      pid_t pid;
      if (absl::SimpleAtoi(word, &pid)) children.push_back(pid);
    }
  }
  return children;
}

std::map<int, std::string> OwnDescriptors() {
  std::map<int, std::string> descriptors = Descriptors("/proc/self/fd");
  for (auto entry = descriptors.begin(); entry != descriptors.end();) {
    // The descriptor of the directory that was being read is gone by now.
    entry = fcntl(entry->first, F_GETFD) < 0 ? descriptors.erase(entry) : std::next(entry);
  }
  return descriptors;
}

void BecomeSubreaper() { prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); }

void Reap(pid_t pid) { waitpid(pid, nullptr, WNOHANG); }

int RunCommand(const std::vector<std::string>& command, const std::string& output,
               absl::Duration bound, const std::string& input) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
  char language[] = "LC_ALL=C";
  char* environment[] = {path, language, nullptr};

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, input.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, output.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  pid_t pid = -1;
  const int failed =
      posix_spawn(&pid, arguments[0], &files, nullptr, arguments.data(), environment);
  posix_spawn_file_actions_destroy(&files);
  if (failed != 0) return -1;

  int status = 0;
  if (!Eventually(bound, [&] { return waitpid(pid, &status, WNOHANG) == pid; })) {
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace posthouse::conformance

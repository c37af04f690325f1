#include "posthouse/testing/child_check.h"

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace posthouse {
namespace {

// The parent's id from a line of /proc/PID/stat. The program's name is in parentheses and may
// itself hold spaces and parentheses; the state and the parent come after the last one.
pid_t ParentOf(const std::string& stat_line) {
  const size_t end_of_name = stat_line.rfind(')');
  if (end_of_name == std::string::npos) return -1;
  const std::vector<std::string> fields =
      absl::StrSplit(stat_line.substr(end_of_name + 1), ' ', absl::SkipEmpty());
  pid_t parent = -1;
  if (fields.size() < 2 || !absl::SimpleAtoi(fields[1], &parent)) return -1;
  return parent;
}

}  // namespace

std::set<pid_t> Children() {
  std::set<pid_t> children;
  DIR* directory = opendir("/proc");
  if (directory == nullptr) return children;
  while (const dirent* entry = readdir(directory)) {
    pid_t pid = -1;
    if (!absl::SimpleAtoi(entry->d_name, &pid)) continue;
    std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
    // Read through a stream, which takes it as an end when the process vanishes meanwhile; the bare
    // buffer would throw.
    std::ostringstream stat_line;
    stat_line << file.rdbuf();
    if (ParentOf(stat_line.str()) == getpid()) children.insert(pid);
  }
  closedir(directory);
  return children;
}

ChildCheck::~ChildCheck() {
  for (pid_t pid : Children()) {
    if (before_.count(pid) != 0) continue;
    ADD_FAILURE() << "child " << pid << " was left behind";
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
}

}  // namespace posthouse

#include "posthouse/testing/fd_leak_check.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <climits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace posthouse {
namespace {

// What a descriptor refers to, from a directory of links such as /proc/self/fd. A system whose
// /dev/fd holds no links gives the numbers alone.
std::map<int, std::string> ReadDirectory(const std::string& path) {
  std::map<int, std::string> fds;
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return fds;
  const int own = dirfd(directory);
  while (const dirent* entry = readdir(directory)) {
    int fd = -1;
    if (!absl::SimpleAtoi(entry->d_name, &fd)) continue;
    char target[PATH_MAX];
    const ssize_t length = readlinkat(own, entry->d_name, target, sizeof(target));
    fds[fd] = length > 0 ? std::string(target, length) : "?";
  }
  closedir(directory);
  return fds;
}

}  // namespace

FdSnapshot FdSnapshot::Take() {
  FdSnapshot snapshot;
  for (const char* path : {"/proc/self/fd", "/dev/fd"}) {
    snapshot.fds_ = ReadDirectory(path);
    if (!snapshot.fds_.empty()) break;
  }
  // The directory was listed through a descriptor of its own, which is closed by now. It had the
  // lowest free number, so it is the one that no longer answers.
  for (auto entry = snapshot.fds_.begin(); entry != snapshot.fds_.end();) {
    entry = fcntl(entry->first, F_GETFD) == -1 ? snapshot.fds_.erase(entry) : std::next(entry);
  }
  return snapshot;
}

FdSnapshot FdSnapshot::TakeOf(int pid) {
  FdSnapshot snapshot;
  snapshot.fds_ = ReadDirectory(absl::StrCat("/proc/", pid, "/fd"));
  return snapshot;
}

std::string FdSnapshot::DifferenceFrom(const FdSnapshot& earlier) const {
  std::string text;
  for (const auto& [fd, target] : fds_) {
    const auto old = earlier.fds_.find(fd);
    if (old == earlier.fds_.end()) {
      absl::StrAppend(&text, "fd ", fd, " is open: ", target, "\n");
    } else if (old->second != target) {
      absl::StrAppend(&text, "fd ", fd, " was ", old->second, " and is ", target, "\n");
    }
  }
  for (const auto& [fd, target] : earlier.fds_) {
    if (fds_.count(fd) == 0) absl::StrAppend(&text, "fd ", fd, " was closed: ", target, "\n");
  }
  return text;
}

std::string FdSnapshot::ToString() const { return DifferenceFrom(FdSnapshot()); }

FdLeakCheck::~FdLeakCheck() {
  const std::string difference = FdSnapshot::Take().DifferenceFrom(before_);
  if (!difference.empty()) ADD_FAILURE() << "descriptors changed:\n" << difference;
}

}  // namespace posthouse

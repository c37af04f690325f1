#include "posthouse/master/worker_activity.h"

#include <errno.h>
#include <fcntl.h>

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// Both files are one line of at most a few hundred bytes.
constexpr size_t kMaxBytes = 1024;
// Fields of stat behind the name, counted from the state: proc(5) numbers them 3, 14 and 15.
constexpr size_t kUserTicks = 11;
constexpr size_t kSystemTicks = 12;
// What Linux tells programs, however fast its own clock ticks.
constexpr int64_t kTicksPerSecond = 100;

std::string ReadSmallFile(const std::string& path) {
  UniqueFd fd(os::Open(path.c_str(), O_RDONLY | O_CLOEXEC, 0));
  if (!fd.valid()) return "";
  char buffer[kMaxBytes];
  ssize_t count = 0;
  while ((count = os::Read(fd.get(), buffer, sizeof(buffer))) < 0 && errno == EINTR) {
  }
  return count > 0 ? std::string(buffer, static_cast<size_t>(count)) : "";
}

ChildActivity::State StateOf(char letter) {
  switch (letter) {
    case 'R':
      return ChildActivity::State::kRunning;
    case 'S':
    case 'I':
      return ChildActivity::State::kAsleep;
    case 'T':
    case 't':
      return ChildActivity::State::kStopped;
    case 'D':
      return ChildActivity::State::kDiskWait;
    default:
      return ChildActivity::State::kUnknown;
  }
}

// Those behind the name.
std::vector<absl::string_view> FieldsOf(absl::string_view stat) {
  const size_t name_end = stat.rfind(") ");
  if (name_end == absl::string_view::npos) return {};
  return absl::StrSplit(stat.substr(name_end + 2), absl::ByAnyChar(" \n"), absl::SkipEmpty());
}

// Of all threads, unlike schedstat.
bool TicksOf(const std::vector<absl::string_view>& fields, uint64_t* ticks) {
  uint64_t user = 0;
  uint64_t system = 0;
  if (fields.size() <= kSystemTicks || !absl::SimpleAtoi(fields[kUserTicks], &user) ||
      !absl::SimpleAtoi(fields[kSystemTicks], &system)) {
    return false;
  }
  *ticks = user + system;
  return true;
}

}  // namespace

ChildActivity ParseWorkerActivity(pid_t pid, absl::string_view stat, absl::string_view schedstat) {
  ChildActivity activity;
  activity.pid = pid;
  const std::vector<absl::string_view> fields = FieldsOf(stat);
  if (fields.empty() || fields[0].size() != 1) return activity;
  activity.state = StateOf(fields[0][0]);
  // Nanoseconds tell each time that it ran; ticks of 10 ms only long ones.
  const std::vector<absl::string_view> times =
      absl::StrSplit(schedstat, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  if (!times.empty() && absl::SimpleAtoi(times[0], &activity.cpu)) return activity;
  TicksOf(fields, &activity.cpu);
  return activity;
}

absl::optional<int64_t> ReadWorkerCpuNs(pid_t pid) {
  uint64_t ticks = 0;
  if (!TicksOf(FieldsOf(ReadSmallFile(absl::StrCat("/proc/", pid, "/stat"))), &ticks)) {
    return absl::nullopt;
  }
  return static_cast<int64_t>(ticks) * (1'000'000'000 / kTicksPerSecond);
}

ChildActivity ReadWorkerActivity(pid_t pid) {
  const std::string directory = absl::StrCat("/proc/", pid);
  return ParseWorkerActivity(pid, ReadSmallFile(directory + "/stat"),
                             ReadSmallFile(directory + "/schedstat"));
}

}  // namespace posthouse

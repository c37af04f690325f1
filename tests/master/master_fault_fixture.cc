#include "tests/master/master_fault_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {

// --- Load ---

struct LoadClients::State {
  std::vector<Target> targets;
  std::atomic<bool> stop{false};
  std::atomic<int64_t> served{0};
  std::atomic<int64_t> lost{0};
  std::atomic<int64_t> worst_ns{0};
  std::vector<std::thread> threads;

  void Run(size_t first) {
    for (size_t i = first; !stop; ++i) {
      const absl::Time begin = absl::Now();
      LineClient client = targets[i % targets.size()]();
      if (!client.valid() || client.Ask("load") != "load") {
        lost++;
        continue;
      }
      served++;
      const int64_t took_ns = absl::ToInt64Nanoseconds(absl::Now() - begin);
      int64_t worst = worst_ns;
      while (took_ns > worst && !worst_ns.compare_exchange_weak(worst, took_ns)) {
      }
    }
  }
};

LoadClients::LoadClients(std::vector<Target> targets, int threads)
    : state_(std::make_unique<State>()) {
  state_->targets = std::move(targets);
  for (int i = 0; i < threads; ++i) {
    state_->threads.emplace_back([this, i] { state_->Run(static_cast<size_t>(i)); });
  }
}

LoadClients::~LoadClients() { Stop(); }

void LoadClients::Stop() {
  state_->stop = true;
  for (std::thread& thread : state_->threads) {
    if (thread.joinable()) thread.join();
  }
}

int64_t LoadClients::served() const { return state_->served; }
int64_t LoadClients::lost() const { return state_->lost; }
absl::Duration LoadClients::worst() const { return absl::Nanoseconds(state_->worst_ns.load()); }

bool LoadClients::WaitForServed(int64_t count) const {
  return WaitUntil([&] { return served() >= count; });
}

// --- Looking at things ---

std::string Listing(const std::string& directory) {
  std::set<std::string> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    struct stat info = {};
    if (lstat(entry.path().c_str(), &info) != 0) continue;
    lines.insert(absl::StrCat(entry.path().string(), " ", absl::Hex(info.st_mode), " ", info.st_uid,
                              " ", info.st_gid));
  }
  return absl::StrJoin(lines, "\n");
}

std::string ArgumentsOf(pid_t pid) {
  std::string text = ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/cmdline"));
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

int64_t PrivateMemoryOf(pid_t pid) {
  const std::vector<std::string> fields =
      absl::StrSplit(ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/statm")), ' ');
  int64_t resident = 0, shared = 0;
  if (fields.size() < 3 || !absl::SimpleAtoi(fields[1], &resident) ||
      !absl::SimpleAtoi(fields[2], &shared)) {
    return -1;
  }
  return (resident - shared) * sysconf(_SC_PAGESIZE);
}

LineClient ConnectAtOnce(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid() ||
      connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return LineClient();
  }
  return LineClient(std::move(fd));
}

bool IsRoot() { return geteuid() == 0; }

// --- Fixture ---

MasterFaultFixture::MasterFaultFixture() : begin_(absl::Now()) {
  master_.AddProgram("echo", "echo");
  master_.AddProgram("scripted", "scripted_worker");
}

bool MasterFaultFixture::HasWorker(absl::string_view arguments) const {
  for (const pid_t worker : master_.Workers()) {
    if (absl::StrContains(ArgumentsOf(worker), arguments)) return true;
  }
  return false;
}

void MasterFaultFixture::TearDown() {
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin_);
  const int64_t lines = master_.LogCount("\n");
  EXPECT_LE(static_cast<double>(lines), 10 * seconds + static_cast<double>(allowed_lines_))
      << master_.Log().substr(0, 10000);
  for (const char* report :
       {"AddressSanitizer", "LeakSanitizer", "runtime error:", "panic:", "did not expect"}) {
    EXPECT_EQ(master_.LogCount(report), 0) << master_.Log();
  }
}

}  // namespace posthouse

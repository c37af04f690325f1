#include "tests/faults/harness.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "posthouse/testing/temp_dir.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define POSTHOUSE_SANITIZED 1
#else
#define POSTHOUSE_SANITIZED 0
#endif

namespace posthouse {
namespace {

std::string* service_program = nullptr;
std::string* wall_shift_library = nullptr;
std::string* added_faults = nullptr;

std::string AbsolutePath(const std::string& path) {
  char directory[4096];
  if (path[0] == '/' || getcwd(directory, sizeof(directory)) == nullptr) return path;
  return absl::StrCat(directory, "/", path);
}

}  // namespace

bool Full() {
  static const bool full = getenv("POSTHOUSE_FULL") != nullptr;
  return full;
}

bool Sanitized() { return POSTHOUSE_SANITIZED != 0; }

int64_t Times(int64_t brief, int64_t full) { return Full() ? full : brief; }

absl::Duration Allow(absl::Duration bound) { return Full() && !Sanitized() ? bound : 10 * bound; }

std::string ServiceProgram() { return *service_program; }
std::string WallShiftLibrary() { return *wall_shift_library; }

absl::Duration Latencies::Percentile(double percent) {
  std::sort(times_.begin(), times_.end());
  const double position = percent / 100.0 * static_cast<double>(times_.size());
  return times_[std::min(times_.size() - 1, static_cast<size_t>(position))];
}

std::string Latencies::ToString() {
  if (times_.empty()) return "no requests";
  return absl::StrCat(times_.size(), " requests, p50 ", absl::FormatDuration(Percentile(50)),
                      ", p99 ", absl::FormatDuration(Percentile(99)), ", worst ",
                      absl::FormatDuration(Worst()));
}

std::unique_ptr<FakeMaster> MakeMaster(Scenario scenario) {
  FakeMasterOptions options = std::move(scenario.master);
  options.program = ServiceProgram();
  options.main_cf += scenario.main_cf;
  options.arguments.process_limit = 100;
  options.arguments.transport = scenario.transport;
  options.arguments.unprivileged = scenario.unprivileged;
  options.arguments.chroot = scenario.chroot;
  options.arguments.listen_sockets = scenario.listen_sockets;
  options.arguments.configured = scenario.configured;
  options.environment.push_back("POSTHOUSE_FAULT_OPTIONS=" + scenario.options);
  options.environment.push_back(
      absl::StrCat("POSTHOUSE_FAULTS=", scenario.faults, " ", *added_faults));
  for (const char* name : {"ASAN_OPTIONS", "UBSAN_OPTIONS", "POSTHOUSE_EVENT_BACKEND"}) {
    options.environment.push_back(name);
  }
  if (!scenario.leak_check) {
    options.environment.push_back("ASAN_OPTIONS=detect_leaks=0:abort_on_error=1");
  }
  absl::StatusOr<std::unique_ptr<FakeMaster>> master = FakeMaster::Create(std::move(options));
  if (!master.ok()) {
    std::fprintf(stderr, "%s\n", master.status().ToString().c_str());
    std::abort();
  }
  // A worker waits until its configuration has been quiet for two seconds.
  const std::string main_cf = (*master)->scratch().Path("etc/main.cf");
  const timespec past[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
  if (utimensat(AT_FDCWD, main_cf.c_str(), past, 0) != 0) std::abort();
  return *std::move(master);
}

int ExitCode(const absl::optional<int>& wait_status) {
  if (!wait_status.has_value()) return -1;
  return WIFEXITED(*wait_status) ? WEXITSTATUS(*wait_status) : -WTERMSIG(*wait_status);
}

double CpuSeconds(pid_t pid) {
  const std::string stat = ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/stat"));
  // The program's name may hold blanks; what follows it does not.
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return -1;
  const std::vector<std::string> fields = absl::StrSplit(stat.substr(name_end + 2), ' ');
  int64_t user = 0, system = 0;
  if (fields.size() < 13 || !absl::SimpleAtoi(fields[11], &user) ||
      !absl::SimpleAtoi(fields[12], &system)) {
    return -1;
  }
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int64_t PrivateMemory(pid_t pid) {
  const std::vector<std::string> fields =
      absl::StrSplit(ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/statm")), ' ');
  int64_t resident = 0, shared = 0;
  if (fields.size() < 3 || !absl::SimpleAtoi(fields[1], &resident) ||
      !absl::SimpleAtoi(fields[2], &shared)) {
    return -1;
  }
  return (resident - shared) * sysconf(_SC_PAGESIZE);
}

std::string ReadProcessFile(pid_t pid, absl::string_view name) {
  return ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/", name));
}

int Count(absl::string_view all, absl::string_view text) {
  int count = 0;
  for (size_t at = all.find(text); at != absl::string_view::npos;
       at = all.find(text, at + text.size())) {
    ++count;
  }
  return count;
}

int MostLinesPerSecond(absl::string_view log) {
  constexpr size_t kStamp = 15;  // "Mmm dd hh:mm:ss"
  std::map<absl::string_view, int> lines;
  int most = 0;
  for (absl::string_view line : absl::StrSplit(log, '\n')) {
    if (line.size() < kStamp || line[6] != ' ' || line[9] != ':' || line[12] != ':') continue;
    most = std::max(most, ++lines[line.substr(0, kStamp)]);
  }
  return most;
}

void FaultTest::Start(Scenario scenario) {
  if (master_ == nullptr) master_ = MakeMaster(std::move(scenario));
  absl::StatusOr<pid_t> pid = master_->Spawn();
  ASSERT_TRUE(pid.ok()) << pid.status();
  pid_ = *pid;
  state_before_ = State();
}

LineClient FaultTest::Connect(int listen_socket) {
  absl::StatusOr<UniqueFd> fd = master_->Connect(listen_socket);
  EXPECT_TRUE(fd.ok()) << fd.status();
  return LineClient(fd.ok() ? *std::move(fd) : UniqueFd());
}

std::string FaultTest::State() { return Connect().Ask("STATE"); }

bool FaultTest::WaitForLog(absl::string_view text, absl::Duration bound) {
  const bool found = master_->WaitUntil([&] { return master_->LogContains(text); }, bound);
  EXPECT_TRUE(found) << "no \"" << text << "\" in the log:\n" << master_->Log();
  return found;
}

void FaultTest::ExpectUnharmed() {
  ASSERT_TRUE(running()) << log();
  {
    LineClient client = Connect();
    EXPECT_EQ(client.Ask("CLEAR"), "clear");
    EXPECT_EQ(client.Ask("ECHO still here"), "still here");
    const std::vector<std::string> counters = absl::StrSplit(client.Ask("COUNTERS"), ' ');
    ASSERT_EQ(counters.size(), 5u);
    EXPECT_EQ(counters[4], "0") << "a descriptor number was closed that was not open (F36)";
  }
  std::string state;
  // Clients that have just gone may not have been noticed yet.
  EXPECT_TRUE(WaitUntil([&] { return (state = State()) == state_before_; }))
      << "before: " << state_before_ << "\nafter:  " << state << "\n"
      << log();
  EXPECT_TRUE(master_->WaitUntil(
      [&] { return master_->worker(pid_).availability == Availability::kAvailable; }));
  EXPECT_TRUE(master_->problems().empty()) << master_->problems()[0];
}

void FaultTest::ExpectQuietLog(int lines_per_second) {
  const std::string text = log();
  EXPECT_LE(MostLinesPerSecond(text), lines_per_second) << text.substr(0, 4000);
  for (const char* report : {"AddressSanitizer", "LeakSanitizer", "runtime error:", "panic:"}) {
    EXPECT_FALSE(absl::StrContains(text, report)) << text;
  }
}

void FaultTest::ExpectIdle() {
  LineClient client = Connect();
  const std::vector<std::string> before = absl::StrSplit(client.Ask("COUNTERS"), ' ');
  const double cpu_before = CpuSeconds(pid_);
  EXPECT_TRUE(client.IsQuiet(absl::Seconds(1)));
  const double cpu = CpuSeconds(pid_) - cpu_before;
  const std::vector<std::string> after = absl::StrSplit(client.Ask("COUNTERS"), ' ');
  int64_t waits_before = 0, waits_after = 0;
  ASSERT_TRUE(absl::SimpleAtoi(before[0], &waits_before));
  ASSERT_TRUE(absl::SimpleAtoi(after[0], &waits_after));
  EXPECT_LE(waits_after - waits_before, 10);
  // The kernel counts in hundredths of a second.
  EXPECT_LE(cpu, 0.021);
}

void FaultTest::TearDown() {
  if (master_ == nullptr) return;
  ExpectQuietLog(allowed_lines_per_second_);
  master_.reset();
}

// --- Prober ---

struct Prober::State {
  std::atomic<bool> stop{false};
  std::thread thread;
};

Prober::Prober(std::vector<LineClient> clients, absl::Duration pause)
    : clients_(std::move(clients)), pause_(pause), state_(std::make_unique<State>()) {
  state_->thread = std::thread([this] { Run(); });
}

Prober::~Prober() { Stop(); }

std::vector<LineClient> Prober::Stop() {
  state_->stop = true;
  if (state_->thread.joinable()) state_->thread.join();
  return std::move(clients_);
}

void Prober::Run() {
  for (size_t i = 0; !state_->stop; i = (i + 1) % clients_.size()) {
    const std::string word = absl::StrCat("probe ", latencies_.size());
    const absl::Time begin = absl::Now();
    if (clients_[i].Ask(absl::StrCat("ECHO ", word)) != word) ++errors_;
    latencies_.Add(absl::Now() - begin);
    if (pause_ > absl::ZeroDuration()) absl::SleepFor(pause_);
  }
}

}  // namespace posthouse

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc < 3) {
    std::fprintf(stderr,
                 "usage: %s PATH-OF-FAULT-SERVICE PATH-OF-WALL-SHIFT-LIBRARY [FAULTS]\n"
                 "FAULTS go into every worker, in the words of fault_service.cc\n",
                 argv[0]);
    return 2;
  }
  std::string program = posthouse::AbsolutePath(argv[1]);
  std::string library = posthouse::AbsolutePath(argv[2]);
  posthouse::service_program = &program;
  posthouse::wall_shift_library = &library;
  std::string faults = argc > 3 ? argv[3] : "";
  posthouse::added_faults = &faults;
  // Some tests have very many clients.
  rlimit descriptors = {};
  getrlimit(RLIMIT_NOFILE, &descriptors);
  descriptors.rlim_cur = descriptors.rlim_max;
  setrlimit(RLIMIT_NOFILE, &descriptors);
  return RUN_ALL_TESTS();
}

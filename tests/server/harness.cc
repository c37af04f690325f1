#include "tests/server/harness.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

std::string* service_program = nullptr;

}  // namespace

std::string ServiceProgram() { return *service_program; }

std::unique_ptr<FakeMaster> MakeMaster(Scenario scenario) {
  FakeMasterOptions options = std::move(scenario.master);
  if (options.program.empty()) options.program = ServiceProgram();
  options.main_cf += scenario.main_cf;
  options.arguments = scenario.arguments;
  options.arguments.configured = scenario.configured;
  if (!scenario.test.empty()) options.environment.push_back("POSTHOUSE_TEST=" + scenario.test);
  const bool chosen = std::any_of(options.environment.begin(), options.environment.end(),
                                  [](const std::string& variable) {
                                    return absl::StartsWith(variable, "POSTHOUSE_EVENT_BACKEND=");
                                  });
  if (!chosen) options.environment.push_back("POSTHOUSE_EVENT_BACKEND");
  absl::StatusOr<std::unique_ptr<FakeMaster>> master = FakeMaster::Create(std::move(options));
  if (!master.ok()) {
    std::fprintf(stderr, "%s\n", master.status().ToString().c_str());
    std::abort();
  }
  return *std::move(master);
}

int ExitCode(const absl::optional<int>& wait_status) {
  if (!wait_status.has_value()) return -1;
  return WIFEXITED(*wait_status) ? WEXITSTATUS(*wait_status) : -2;
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

int Count(absl::string_view all, absl::string_view text) {
  int count = 0;
  for (size_t at = all.find(text); at != absl::string_view::npos;
       at = all.find(text, at + text.size())) {
    ++count;
  }
  return count;
}

void WorkerTest::Start(Scenario scenario) {
  master_ = MakeMaster(std::move(scenario));
  absl::StatusOr<pid_t> pid = master_->Spawn();
  ASSERT_TRUE(pid.ok()) << pid.status();
  pid_ = *pid;
}

LineClient WorkerTest::Connect(int listen_socket) {
  absl::StatusOr<UniqueFd> fd = master_->Connect(listen_socket);
  EXPECT_TRUE(fd.ok()) << fd.status();
  return LineClient(fd.ok() ? *std::move(fd) : UniqueFd());
}

bool WorkerTest::WaitForLog(absl::string_view text, absl::Duration bound) {
  const bool found = master_->WaitUntil([&] { return master_->LogContains(text); }, bound);
  EXPECT_TRUE(found) << "no \"" << text << "\" in the log:\n" << master_->Log();
  return found;
}

void WorkerTest::ExpectAccounted(int requests) {
  const auto idle = [&] {
    const FakeMaster::Worker& worker = master_->worker(pid_);
    return worker.use_count > 0 && worker.availability == Availability::kAvailable;
  };
  EXPECT_TRUE(master_->WaitUntil(idle)) << master_->History(pid_);
  const FakeMaster::Worker& worker = master_->worker(pid_);
  EXPECT_LE(worker.use_count, requests) << master_->History(pid_);
  EXPECT_TRUE(master_->problems().empty()) << master_->problems()[0];
  EXPECT_FALSE(absl::StrContains(master_->History(pid_), "TAKEN TAKEN"));
  EXPECT_FALSE(absl::StrContains(master_->History(pid_), "AVAIL AVAIL"));
}

}  // namespace posthouse

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s PATH-OF-TEST-SERVICE\n", argv[0]);
    return 2;
  }
  std::string path = argv[1];
  if (path[0] != '/') {
    char directory[4096];
    if (getcwd(directory, sizeof(directory)) == nullptr) return 2;
    path = absl::StrCat(directory, "/", path);
  }
  posthouse::service_program = &path;
  return RUN_ALL_TESTS();
}

#include "tests/server/harness.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
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

bool WaitFor(int fd, short events, absl::Time end) {
  for (;;) {
    const int64_t left = absl::ToInt64Milliseconds(end - absl::Now());
    pollfd entry = {fd, events, 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::max<int64_t>(left, 0)));
    if (ready > 0) return true;
    if (ready == 0 && left <= 0) return false;
  }
}

}  // namespace

std::string ServiceProgram() { return *service_program; }

bool LineClient::Send(absl::string_view data) {
  const absl::Time end = absl::Now() + kGenerousBound;
  while (!data.empty()) {
    if (!WaitFor(fd_.get(), POLLOUT, end)) return false;
    const ssize_t sent = send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      data.remove_prefix(static_cast<size_t>(sent));
    } else if (errno != EAGAIN && errno != EINTR) {
      return false;
    }
  }
  return true;
}

std::string LineClient::ReadLine(absl::Duration bound) {
  const absl::Time end = absl::Now() + bound;
  for (;;) {
    const size_t newline = buffer_.find('\n');
    if (newline != std::string::npos) {
      const std::string line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      return line;
    }
    if (!WaitFor(fd_.get(), POLLIN, end)) return "<timeout>";
    char data[65536];
    const ssize_t got = recv(fd_.get(), data, sizeof(data), MSG_DONTWAIT);
    if (got > 0) {
      buffer_.append(data, static_cast<size_t>(got));
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      return "<closed>";
    }
  }
}

std::string LineClient::Ask(absl::string_view line, absl::Duration bound) {
  if (!Send(absl::StrCat(line, "\n"))) return "<not sent>";
  return ReadLine(bound);
}

bool LineClient::WaitClosed(absl::Duration bound) {
  const absl::Time end = absl::Now() + bound;
  for (;;) {
    buffer_.clear();
    const std::string line = ReadLine(end - absl::Now());
    if (line == "<closed>") return true;
    if (line == "<timeout>") return false;
  }
}

bool LineClient::IsQuiet(absl::Duration time) {
  return buffer_.empty() && !WaitFor(fd_.get(), POLLIN, absl::Now() + time);
}

void LineClient::CloseWrite() { shutdown(fd_.get(), SHUT_WR); }

void LineClient::Abort() {
  const linger now = {1, 0};
  setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  fd_.Reset();
}

std::unique_ptr<FakeMaster> MakeMaster(Scenario scenario) {
  FakeMasterOptions options = std::move(scenario.master);
  if (options.program.empty()) options.program = ServiceProgram();
  options.main_cf += scenario.main_cf;
  options.arguments = scenario.arguments;
  options.arguments.configured = scenario.configured;
  if (!scenario.test.empty()) options.environment.push_back("POSTHOUSE_TEST=" + scenario.test);
  options.environment.push_back("POSTHOUSE_EVENT_BACKEND");
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

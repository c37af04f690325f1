#include "tests/conformance/suite/worker_fixture.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <regex>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse::conformance {

bool ServiceClient::AllIsRead() const {
  int unread = 0;
  return ioctl(fd_.get(), TIOCOUTQ, &unread) == 0 && unread == 0;
}

bool ServiceClient::Send(absl::string_view data) {
  while (!data.empty()) {
    const ssize_t sent = send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
    if (sent < 0) return false;
    data.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

// False at the end of the connection, of the time, or of the last worker.
bool ServiceClient::Fill(absl::Time end) {
  constexpr absl::Duration kLook = absl::Milliseconds(200);
  while (!WaitForEvents(fd_.get(), POLLIN, std::min(kLook, end - absl::Now()))) {
    if (absl::Now() >= end || (served_ && !served_())) return false;
  }
  char data[65536];
  const ssize_t got = recv(fd_.get(), data, sizeof(data), 0);
  if (got > 0) buffer_.append(data, static_cast<size_t>(got));
  return got > 0;
}

std::string ServiceClient::ReadUntil(const std::string& pattern, absl::Duration bound) {
  const std::regex expression(pattern);
  const absl::Time end = absl::Now() + bound;
  size_t looked_at = 0;
  for (;;) {
    while (looked_at < buffer_.size()) {
      if (!std::regex_search(buffer_.substr(0, ++looked_at), expression)) continue;
      buffer_.erase(0, looked_at);
      return "";
    }
    if (Fill(end)) continue;
    const std::string so_far =
        buffer_.empty() ? "nothing" : absl::StrCat("\"", absl::CEscape(buffer_), "\"");
    const bool closed = WaitForEvents(fd_.get(), POLLIN, absl::ZeroDuration());
    return so_far + (closed ? " and then the end of the connection" : " and then silence");
  }
}

std::string ServiceClient::Greeting(absl::Duration bound) {
  if (greeted_ || TheCandidate().greeting_pattern.empty()) return "";
  greeted_ = true;
  const std::string wrong = ReadUntil(TheCandidate().greeting_pattern, bound);
  return wrong.empty() ? "" : absl::StrCat("instead of the greeting: ", wrong);
}

std::string ServiceClient::Reply(absl::Duration bound) {
  const std::string wrong = ReadUntil(TheCandidate().reply_pattern, bound);
  return wrong.empty() ? "" : absl::StrCat("instead of the reply: ", wrong);
}

std::string ServiceClient::Ask() {
  if (std::string wrong = Greeting(); !wrong.empty()) return wrong;
  if (!Send(TheCandidate().request)) return "the request could not be sent";
  return Reply();
}

bool ServiceClient::ClosedWithin(absl::Duration bound) {
  const absl::Time end = absl::Now() + bound;
  while (WaitForEvents(fd_.get(), POLLIN, end - absl::Now())) {
    char data[65536];
    if (recv(fd_.get(), data, sizeof(data), 0) <= 0) return true;
  }
  return false;
}

void ServiceClient::CloseWrite() { shutdown(fd_.get(), SHUT_WR); }

std::string Requests(int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += TheCandidate().request;
  return all;
}

FakeMasterOptions WorkerFixture::Options() {
  const Candidate& candidate = TheCandidate();
  FakeMasterOptions options;
  options.program = candidate.program;
  options.arguments.service_name = candidate.name;
  options.arguments.process_limit = candidate.process_limit;
  options.arguments.transport = "unix";
  options.arguments.configured = candidate.arguments;
  options.main_cf = candidate.main_cf;
  return options;
}

FakeMasterOptions WorkerFixture::OptionsWith(std::vector<std::string> configured) {
  FakeMasterOptions options = Options();
  std::vector<std::string>& all = options.arguments.configured;
  // Before the candidate's own, which may end with operands.
  all.insert(all.begin(), configured.begin(), configured.end());
  return options;
}

void WorkerFixture::Start(FakeMasterOptions options) {
  absl::StatusOr<std::unique_ptr<FakeMaster>> master = FakeMaster::Create(std::move(options));
  ASSERT_TRUE(master.ok()) << master.status();
  master_ = *std::move(master);
  Spawn();
}

pid_t WorkerFixture::Spawn() {
  const absl::StatusOr<pid_t> pid = master_->Spawn();
  EXPECT_TRUE(pid.ok()) << pid.status();
  pid_ = pid.ok() ? *pid : 0;
  return pid_;
}

ServiceClient WorkerFixture::Connect(int listen_socket) {
  absl::StatusOr<UniqueFd> fd = master_->Connect(listen_socket);
  EXPECT_TRUE(fd.ok()) << fd.status();
  return ServiceClient(fd.ok() ? *std::move(fd) : UniqueFd(), [this] {
    master_->Pump();
    return !master_->running().empty();
  });
}

bool WorkerFixture::WaitWhileRunning(const std::function<bool()>& condition) {
  bool holds = false;
  master_->WaitUntil([&] { return (holds = condition()) || master_->running().empty(); });
  return holds;
}

bool WorkerFixture::AllAccepted(int listen_socket) {
  return WaitWhileRunning([&] {
    pollfd entry = {master_->listen_fd(listen_socket), POLLIN, 0};
    return poll(&entry, 1, 0) == 0;
  });
}

void WorkerFixture::ExpectServed(ServiceClient& client, int listen_socket) {
  if (HasRequest()) {
    EXPECT_EQ(client.Ask(), "");
  } else {
    EXPECT_TRUE(AllAccepted(listen_socket)) << "the client was not accepted";
    EXPECT_EQ(client.Greeting(), "");
  }
}

void WorkerFixture::ExpectServes(int listen_socket) {
  ServiceClient client = Connect(listen_socket);
  ExpectServed(client, listen_socket);
}

bool WorkerFixture::Running(pid_t pid) {
  master_->Pump();
  return master_->worker(pid).running;
}

std::string WorkerFixture::End(pid_t pid, absl::Duration bound) {
  const absl::optional<int> status = master_->WaitForExit(pid, bound);
  if (!status.has_value()) return "still running";
  if (WIFEXITED(*status)) return absl::StrCat("exit ", WEXITSTATUS(*status));
  return absl::StrCat("signal ", WTERMSIG(*status));
}

bool WorkerFixture::HasDescriptors(size_t count) {
  return WaitWhileRunning([&] { return DescriptorCount() == count; });
}

void WorkerFixture::Stop(pid_t pid) {
  ASSERT_EQ(kill(pid, SIGSTOP), 0);
  // Stopped indeed: "T" behind the name in parentheses.
  ASSERT_TRUE(WaitUntil([&] {
    const std::string stat = ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/stat"));
    const size_t name_end = stat.rfind(')');
    return name_end != std::string::npos && stat.substr(name_end, 3) == ") T";
  }));
}

void WorkerFixture::Continue(pid_t pid) { ASSERT_EQ(kill(pid, SIGCONT), 0); }

}  // namespace posthouse::conformance

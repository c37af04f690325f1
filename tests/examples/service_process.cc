#include "tests/examples/service_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "posthouse/testing/event_wait.h"

namespace examples {
namespace {

using posthouse::UniqueFd;

constexpr int kFirstInherited = 3;  // where a worker expects its descriptors

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  EXPECT_LT(path.size(), sizeof(address.sun_path));
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

absl::optional<ServiceClient> ServiceClient::Connect(const std::string& socket_path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = AddressOf(socket_path);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::nullopt;
  }
  return ServiceClient(std::move(fd));
}

bool ServiceClient::Send(absl::string_view data) {
  while (!data.empty()) {
    const ssize_t n = send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    data.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

bool ServiceClient::SendNow(absl::string_view data) {
  return send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(data.size());
}

void ServiceClient::FinishSending() { shutdown(fd_.get(), SHUT_WR); }

bool ServiceClient::Fill() {
  if (!posthouse::WaitForEvents(fd_.get(), POLLIN)) {
    ADD_FAILURE() << "no answer";
    return false;
  }
  char buffer[4096];
  const ssize_t n = recv(fd_.get(), buffer, sizeof(buffer), 0);
  if (n <= 0) return false;
  input_.append(buffer, static_cast<size_t>(n));
  return true;
}

std::string ServiceClient::ReadList() {
  size_t end;
  while ((end = input_.find("\n\n")) == std::string::npos) {
    if (!Fill()) return std::exchange(input_, "");
  }
  std::string list = input_.substr(0, end + 2);
  input_.erase(0, end + 2);
  return list;
}

bool ServiceClient::AtEnd() { return input_.empty() && !Fill() && input_.empty(); }

ServiceProcess::ServiceProcess() : socket_path_(directory_.Path("socket")) {
  const std::string main_cf = directory_.WriteFile(
      "main.cf", absl::StrCat("compatibility_level = 3.6\nqueue_directory = ", directory_.path(),
                              "\ndata_directory = ", directory_.path(), "\n"));
  // A file that was written just now might still be being edited; programs wait for a moment (C8).
  const timespec hour_ago[2] = {{.tv_sec = time(nullptr) - 3600, .tv_nsec = 0},
                                {.tv_sec = time(nullptr) - 3600, .tv_nsec = 0}};
  utimensat(AT_FDCWD, main_cf.c_str(), hour_ago, 0);
}

ServiceProcess::~ServiceProcess() {
  if (pid_ != 0) Stop(SIGKILL);
}

bool ServiceProcess::StartByHand(const std::string& program,
                                 const std::vector<std::string>& settings) {
  std::vector<std::string> arguments = {program, "--listen", absl::StrCat("unix:", socket_path_)};
  for (const std::string& setting : settings) arguments.insert(arguments.end(), {"-o", setting});
  return Spawn(std::move(arguments), {}) && WaitUntilItAnswers();
}

bool ServiceProcess::StartUnderMaster(const std::string& program,
                                      const std::vector<std::string>& settings) {
  unlink(socket_path_.c_str());
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = AddressOf(socket_path_);
  int flow[2], status[2];
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener.get(), 100) != 0 || pipe2(flow, O_CLOEXEC | O_NONBLOCK) != 0 ||
      pipe2(status, O_CLOEXEC | O_NONBLOCK) != 0) {
    return false;
  }
  kept_.emplace_back(flow[0]);
  kept_.emplace_back(flow[1]);
  status_ = UniqueFd(status[0]);
  const UniqueFd status_writer(status[1]);
  std::vector<std::string> arguments = {program, "-n", "service", "-t", "unix", "-l"};
  for (const std::string& setting : settings) arguments.insert(arguments.end(), {"-o", setting});
  return Spawn(std::move(arguments), {flow[0], flow[1], status[1], listener.get()}) &&
         WaitUntilItAnswers();
}

bool ServiceProcess::Spawn(std::vector<std::string> arguments, const std::vector<int>& inherited) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::string log = directory_.Path("log");
  std::string environment[] = {
      absl::StrCat("MAIL_CONFIG=", directory_.path()), "GENERATION=1",
      absl::StrCat("PATH=", getenv("PATH") == nullptr ? "" : getenv("PATH"))};
  char* envp[] = {environment[0].data(), environment[1].data(), environment[2].data(), nullptr};
  pid_ = fork();
  if (pid_ == 0) {
    const int null = open("/dev/null", O_RDWR);
    const int error = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(null, 0);
    dup2(null, 1);
    dup2(error, 2);
    // Out of the way first: the numbers overlap.
    std::vector<int> high;
    for (const int fd : inherited) high.push_back(fcntl(fd, F_DUPFD_CLOEXEC, 100));
    for (size_t i = 0; i < high.size(); ++i) dup2(high[i], kFirstInherited + static_cast<int>(i));
    if (inherited.empty()) {
      for (int fd = 3; fd < 20; ++fd) close(fd);
    }
    execve(argv[0], argv.data(), envp);
    _exit(127);
  }
  return pid_ > 0;
}

bool ServiceProcess::WaitUntilItAnswers() {
  bool alive = true;
  const bool answers = posthouse::WaitUntil([&] {
    int status;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      alive = false;
      return true;
    }
    return ServiceClient::Connect(socket_path_).has_value();
  });
  if (!alive) pid_ = 0;
  return alive && answers;
}

void ServiceProcess::DropStatusMessages() {
  char buffer[4096];
  while (read(status_.get(), buffer, sizeof(buffer)) > 0) {
  }
}

ServiceClient ServiceProcess::Connect() {
  absl::optional<ServiceClient> client = ServiceClient::Connect(socket_path_);
  if (!client.has_value()) {
    ADD_FAILURE() << "cannot connect; log:\n" << Log();
    abort();
  }
  return *std::move(client);
}

int ServiceProcess::Stop(int signal) {
  kill(pid_, signal);
  const absl::optional<int> status = posthouse::WaitForExit(pid_);
  EXPECT_TRUE(status.has_value()) << "it does not end";
  pid_ = 0;
  return status.value_or(-1);
}

std::string ServiceProcess::Log() const {
  return posthouse::ReadFileOrEmpty(directory_.Path("log"));
}

}  // namespace examples

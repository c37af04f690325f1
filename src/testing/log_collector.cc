#include "posthouse/testing/log_collector.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {

absl::StatusOr<std::unique_ptr<LogCollector>> LogCollector::Create(const std::string& path) {
  sockaddr_un address = {};
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path is too long: ", path));
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(os::Socket(AF_UNIX, SOCK_DGRAM | os::kSockCloexec, 0));
  if (!socket.valid()) return absl::ErrnoToStatus(errno, "socket");
  if (os::Bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      os::Chmod(path.c_str(), 0666) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("bind to ", path));
  }
  int stop[2];
  if (os::Pipe2(stop, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  return std::unique_ptr<LogCollector>(
      new LogCollector(std::move(socket), UniqueFd(stop[0]), UniqueFd(stop[1])));
}

LogCollector::LogCollector(UniqueFd socket, UniqueFd stop_read, UniqueFd stop_write)
    : socket_(std::move(socket)),
      stop_read_(std::move(stop_read)),
      stop_write_(std::move(stop_write)),
      thread_([this] { Run(); }) {}

LogCollector::~LogCollector() {
  stop_write_.Reset();
  thread_.join();
}

std::string LogCollector::Text() {
  std::lock_guard<std::mutex> lock(mutex_);
  TakeAll();
  return text_;
}

void LogCollector::Run() {
  // Signals are for the test's own threads.
  sigset_t all;
  sigfillset(&all);
  os::Sigmask(SIG_SETMASK, &all, nullptr);
  for (;;) {
    pollfd entries[2] = {{socket_.get(), POLLIN, 0}, {stop_read_.get(), POLLIN, 0}};
    // Not through the seam: a test's fake clock must not make this thread spin.
    if (::poll(entries, 2, -1) < 0) continue;
    if (entries[1].revents != 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    TakeAll();
  }
}

void LogCollector::TakeAll() {
  char buffer[8192];
  ssize_t got;
  while ((got = ::recv(socket_.get(), buffer, sizeof(buffer), MSG_DONTWAIT)) >= 0) {
    text_.append(buffer, static_cast<size_t>(got));
    text_ += '\n';
  }
}

}  // namespace posthouse

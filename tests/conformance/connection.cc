#include "tests/conformance/connection.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace posthouse::conformance {
namespace {

sockaddr_in Loopback(absl::string_view address, int port) {
  sockaddr_in result = {};
  result.sin_family = AF_INET;
  result.sin_port = htons(port);
  inet_pton(AF_INET, std::string(address).c_str(), &result.sin_addr);
  return result;
}

int PollTimeout(absl::Time end) {
  const int64_t left =
      absl::ToInt64Milliseconds(absl::Ceil(end - absl::Now(), absl::Milliseconds(1)));
  return left < 0 ? 0 : static_cast<int>(left);
}

}  // namespace

absl::StatusOr<Connection> Connection::Tcp(int port, absl::string_view source,
                                           absl::string_view destination) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return absl::ErrnoToStatus(errno, "socket");
  const sockaddr_in from = Loopback(source, 0);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("bind to ", source));
  }
  const sockaddr_in to = Loopback(destination, port);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("connect to port ", port));
  }
  return Connection(std::move(fd));
}

absl::StatusOr<Connection> Connection::Tcp6(int port) {
  UniqueFd fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return absl::ErrnoToStatus(errno, "socket");
  sockaddr_in6 to = {};
  to.sin6_family = AF_INET6;
  to.sin6_port = htons(port);
  to.sin6_addr = in6addr_loopback;
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("connect to ::1 port ", port));
  }
  return Connection(std::move(fd));
}

absl::StatusOr<Connection> Connection::Unix(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return absl::ErrnoToStatus(errno, "socket");
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  if (path.size() >= sizeof to.sun_path) return absl::InvalidArgumentError(path + " is too long");
  memcpy(to.sun_path, path.c_str(), path.size() + 1);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("connect to ", path));
  }
  return Connection(std::move(fd));
}

absl::Status Connection::Write(absl::string_view data) {
  const absl::Time end = absl::Now() + limit_;
  while (!data.empty()) {
    const ssize_t sent = send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      data.remove_prefix(sent);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return absl::ErrnoToStatus(errno, "send");
    pollfd ready = {fd_.get(), POLLOUT, 0};
    if (poll(&ready, 1, PollTimeout(end)) == 0) return absl::DeadlineExceededError("send");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Connection::Fill(absl::Time end) {
  while (true) {
    char data[4096];
    const ssize_t got = recv(fd_.get(), data, sizeof data, MSG_DONTWAIT);
    if (got == 0) return false;
    if (got > 0) {
      buffer_.append(data, got);
      return true;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return absl::ErrnoToStatus(errno, "recv");
    pollfd ready = {fd_.get(), POLLIN, 0};
    if (poll(&ready, 1, PollTimeout(end)) == 0) return absl::DeadlineExceededError("recv");
  }
}

absl::StatusOr<std::string> Connection::ReadUntil(absl::string_view terminator) {
  const absl::Time end = absl::Now() + limit_;
  while (true) {
    const size_t found = buffer_.find(terminator.data(), 0, terminator.size());
    if (found != std::string::npos) {
      std::string result = buffer_.substr(0, found);
      buffer_.erase(0, found + terminator.size());
      return result;
    }
    const absl::StatusOr<bool> more = Fill(end);
    if (!more.ok()) return more.status();
    if (!*more) return absl::OutOfRangeError(absl::StrCat("end of input after '", buffer_, "'"));
  }
}

absl::StatusOr<std::string> Connection::ReadLine() {
  absl::StatusOr<std::string> line = ReadUntil("\n");
  if (line.ok() && !line->empty() && line->back() == '\r') line->pop_back();
  return line;
}

absl::StatusOr<std::string> Connection::ReadToEnd() {
  const absl::Time end = absl::Now() + limit_;
  while (true) {
    const absl::StatusOr<bool> more = Fill(end);
    if (absl::IsDeadlineExceeded(more.status())) return more.status();
    if (!more.ok() || !*more) return std::move(buffer_);
  }
}

absl::StatusOr<std::string> Connection::Ask(absl::string_view line) {
  if (absl::Status status = Write(absl::StrCat(line, "\n")); !status.ok()) return status;
  return ReadLine();
}

bool Connection::ClosedWithin(absl::Duration bound) {
  const absl::Time end = absl::Now() + bound;
  while (true) {
    const absl::StatusOr<bool> more = Fill(end);
    if (absl::IsDeadlineExceeded(more.status())) return false;
    if (!more.ok() || !*more) return true;
  }
}

void Connection::ShutdownWrite() { shutdown(fd_.get(), SHUT_WR); }

absl::Status Connection::PassDescriptor(int passed, absl::string_view attributes) {
  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &passed, sizeof passed);
  if (sendmsg(fd_.get(), &message, MSG_NOSIGNAL) != 1) return absl::ErrnoToStatus(errno, "sendmsg");
  return Write(attributes);
}

std::string NulAttributes(
    std::initializer_list<std::pair<absl::string_view, absl::string_view>> attributes) {
  const absl::string_view nul("\0", 1);
  std::string result;
  for (const auto& [name, value] : attributes) absl::StrAppend(&result, name, nul, value, nul);
  return absl::StrCat(result, nul);
}

namespace {

// Bound but not listening; `port` 0 lets the system choose.
absl::StatusOr<UniqueFd> BindTo(int port, sockaddr_in* address) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  *address = Loopback("127.0.0.1", port);
  socklen_t length = sizeof *address;
  if (!fd || bind(fd.get(), reinterpret_cast<sockaddr*>(address), length) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(address), &length) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("bind to port ", port));
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> TcpPair() {
  sockaddr_in address;
  absl::StatusOr<UniqueFd> listener = BindTo(0, &address);
  if (!listener.ok()) return listener.status();
  if (listen(listener->get(), 1) != 0) return absl::ErrnoToStatus(errno, "listen");
  UniqueFd connected(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(connected.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return absl::ErrnoToStatus(errno, "connect");
  }
  UniqueFd accepted(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!accepted) return absl::ErrnoToStatus(errno, "accept4");
  return std::make_pair(std::move(connected), std::move(accepted));
}

int FreePort() {
  // Below the range from which the system takes ports for outgoing connections: between this look
  // and its use by the master nothing but another test could take it.
  constexpr int kFirst = 20000, kCount = 12000, kAttempts = 100;
  absl::BitGen random;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const int port = kFirst + absl::Uniform(random, 0, kCount);
    sockaddr_in address;
    if (BindTo(port, &address).ok()) return port;
  }
  return -1;
}

}  // namespace posthouse::conformance

#include "posthouse/testing/line_client.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace posthouse {
namespace {

bool WaitFor(int fd, short events, absl::Time end) {
  for (;;) {
    const int64_t left =
        absl::ToInt64Milliseconds(absl::Ceil(end - absl::Now(), absl::Milliseconds(1)));
    pollfd entry = {fd, events, 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::max<int64_t>(left, 0)));
    if (ready > 0) return true;
    if (ready == 0 && left <= 0) return false;
  }
}

}  // namespace

size_t LineClient::SendSome(absl::string_view data) {
  const ssize_t sent = send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent > 0 ? static_cast<size_t>(sent) : 0;
}

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
  if (!Send(absl::StrCat(line, "\n"))) return "<closed>";
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

}  // namespace posthouse

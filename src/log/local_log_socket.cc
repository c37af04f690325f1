#include "posthouse/log/local_log_socket.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <utility>

#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// While the daemon is away, a record costs three system calls at most this often.
constexpr int64_t kReconnectIntervalNs = 100 * 1000000;

}  // namespace

LocalLogSocket::LocalLogSocket(std::vector<std::string> paths, bool stream_too)
    : paths_(std::move(paths)), stream_too_(stream_too) {
  Connect();
}

bool LocalLogSocket::Connect() {
  for (const std::string& path : paths_) {
    sockaddr_un address = {};
    if (path.size() >= sizeof(address.sun_path)) continue;
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
      if (type == SOCK_STREAM && !stream_too_) continue;
      UniqueFd fd(os::Socket(AF_UNIX, type | os::kSockCloexec | os::kSockNonblock, 0));
      if (!fd.valid()) break;
      if (os::Connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) ==
          0) {
        fd_ = std::move(fd);
        is_stream_ = type == SOCK_STREAM;
        torn_.store(false);
        std::atomic_signal_fence(std::memory_order_seq_cst);
        emergency_fd_.store(fd_.get());
        return true;
      }
      if (errno != EPROTOTYPE) break;
    }
  }
  next_connect_ns_ = os::SteadyNanos() + kReconnectIntervalNs;
  return false;
}

void LocalLogSocket::Disconnect() {
  // First, lest a handler sends to whatever gets the number next.
  emergency_fd_.store(-1);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  fd_.Reset();
}

// Async-signal-safe: one system call.
void LocalLogSocket::SendEmergency(absl::string_view message) {
  const int fd = emergency_fd_.load();
  if (fd < 0) return;
  if (!is_stream_) message.remove_suffix(1);
  os::Send(fd, message.data(), message.size(), MSG_DONTWAIT | os::kMsgNosignal);
}

LocalLogSocket::Outcome LocalLogSocket::Send(absl::string_view message, size_t* sent) {
  if (!fd_.valid()) {
    if (os::SteadyNanos() < next_connect_ns_ || !Connect()) return Outcome::kLater;
    *sent = 0;
    return SendOnce(message, sent);
  }
  const Outcome outcome = SendOnce(message, sent);
  if (outcome != Outcome::kLater || fd_.valid()) return outcome;
  // The daemon we were connected to is gone; a new one may be there already.
  *sent = 0;
  return Connect() ? SendOnce(message, sent) : Outcome::kLater;
}

// Leaves fd_ empty when the connection turned out to be dead.
LocalLogSocket::Outcome LocalLogSocket::SendOnce(absl::string_view message, size_t* sent) {
  // A stream's messages are told apart by a NUL byte; a std::string has one behind its end, but a
  // view need not, so it is sent by itself.
  const size_t total = message.size() + (is_stream_ ? 1 : 0);
  while (*sent < total) {
    const absl::string_view rest =
        *sent < message.size() ? message.substr(*sent) : absl::string_view("", 1);
    const ssize_t count =
        os::Send(fd_.get(), rest.data(), rest.size(), MSG_DONTWAIT | os::kMsgNosignal);
    if (count >= 0) {
      *sent = is_stream_ ? *sent + static_cast<size_t>(count) : total;
      torn_.store(*sent < total);
    } else if (errno == EMSGSIZE) {
      return Outcome::kRefused;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == ENOMEM) {
      return Outcome::kLater;
    } else if (errno != EINTR) {
      Disconnect();
      return Outcome::kLater;
    }
  }
  return Outcome::kSent;
}

}  // namespace posthouse

#include "posthouse/io/accept.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace posthouse {
namespace {

AcceptResult Failure(int error, absl::string_view call, int listen_fd) {
  AcceptResult result;
  result.outcome = ClassifyAcceptError(error);
  if (result.outcome == AcceptOutcome::kNone) return result;
  result.error = error;
  result.status = absl::ErrnoToStatus(error, absl::StrCat(call, " on listen socket ", listen_fd));
  return result;
}

// 0 if a connection waits or accept(2) has an error to tell; EAGAIN if there is nothing; otherwise
// what makes the listen socket unusable.
int CheckListener(int listen_fd) {
  const int flags = os::Fcntl(listen_fd, F_GETFL, 0);
  if (flags < 0) return errno;
  if ((flags & O_NONBLOCK) == 0 && os::Fcntl(listen_fd, F_SETFL, flags | O_NONBLOCK) < 0) {
    return errno;
  }
  pollfd entry = {listen_fd, POLLIN, 0};
  const int ready = os::Poll(&entry, 1, 0);
  if (ready < 0) return errno;
  if (ready == 0) return EAGAIN;
  return (entry.revents & POLLNVAL) ? EBADF : 0;
}

std::string InetText(const char* host, bool brackets, uint32_t scope, in_port_t port) {
  std::string text = brackets ? absl::StrCat("[", host) : std::string(host);
  if (scope != 0) absl::StrAppend(&text, "%", scope);
  absl::StrAppend(&text, brackets ? "]:" : ":", ntohs(port));
  return text;
}

std::string Inet6Text(const sockaddr_in6& address) {
  char host[INET6_ADDRSTRLEN];
  if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) {
    in_addr mapped;
    std::memcpy(&mapped, &address.sin6_addr.s6_addr[12], sizeof(mapped));
    inet_ntop(AF_INET, &mapped, host, sizeof(host));
    return InetText(host, false, 0, address.sin6_port);
  }
  inet_ntop(AF_INET6, &address.sin6_addr, host, sizeof(host));
  return InetText(host, true, address.sin6_scope_id, address.sin6_port);
}

// `path` is what follows the family: nothing, a name that begins with NUL, or a path that ends at
// its NUL or, without one, at its length.
std::string UnixText(absl::string_view path) {
  if (path.empty()) return "unix";
  if (path[0] == '\0') return absl::StrCat("unix:@", absl::CEscape(path.substr(1)));
  return absl::StrCat("unix:", absl::CEscape(path.substr(0, path.find('\0'))));
}

}  // namespace

absl::StatusOr<Transport> ParseTransport(absl::string_view name) {
  if (absl::EqualsIgnoreCase(name, "inet")) return Transport::kInet;
  if (absl::EqualsIgnoreCase(name, "unix")) return Transport::kUnix;
  if (absl::EqualsIgnoreCase(name, "pass")) return Transport::kPass;
  return absl::InvalidArgumentError(absl::StrCat("unsupported transport type: \"",
                                                 absl::CEscape(name.substr(0, 100)),
                                                 "\" (known: inet, unix, pass)"));
}

absl::string_view TransportName(Transport transport) {
  switch (transport) {
    case Transport::kInet:
      return "inet";
    case Transport::kUnix:
      return "unix";
    case Transport::kPass:
      return "pass";
  }
  return "unknown";
}

AcceptOutcome ClassifyAcceptError(int error) {
  switch (error) {
    case EAGAIN:
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK:
#endif
      return AcceptOutcome::kNone;
    case EINTR:
    case ECONNABORTED:
    case ECONNRESET:
    case ECONNREFUSED:
    case ENOTCONN:
    case EPROTO:
    case ENETDOWN:
    case EHOSTDOWN:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENOPROTOOPT:
#if defined(ENONET)
    case ENONET:
#endif
    case ETIMEDOUT:
    case EPERM:
    case EPIPE:
      return AcceptOutcome::kIgnore;
    case EBADF:
    case ENOTSOCK:
    case EINVAL:
      return AcceptOutcome::kBroken;
    default:
      return AcceptOutcome::kBackOff;
  }
}

AcceptResult AcceptConnection(int listen_fd, Transport transport) {
  if (const int error = CheckListener(listen_fd); error != 0) {
    return Failure(error, "fcntl or poll", listen_fd);
  }
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  // Not non-blocking: a client's open file is in blocking mode, because a service may hand it to
  // code that expects so (S45); our own code never relies on it (F14).
  const int fd = os::Accept4(listen_fd, generic, &length, os::kSockCloexec);
  if (fd < 0) return Failure(errno, "accept4", listen_fd);

  AcceptResult result;
  result.outcome = AcceptOutcome::kClient;
  result.fd.Reset(fd);
  const bool is_inet = length > offsetof(sockaddr, sa_family) &&
                       (address.ss_family == AF_INET || address.ss_family == AF_INET6);
  if (transport == Transport::kInet && is_inet) {
    const int on = 1;
    // Errors are ignored (S35): the peer may be gone already, which reading will tell.
    (void)os::Setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  }
  result.peer = PeerText(generic, length);
  return result;
}

std::string PeerText(const sockaddr* address, socklen_t length) {
  constexpr size_t kFamilyEnd = offsetof(sockaddr, sa_family) + sizeof(address->sa_family);
  if (length < kFamilyEnd) return length == 0 ? "unix" : "unknown";
  switch (address->sa_family) {
    case AF_INET: {
      sockaddr_in inet;
      if (length < sizeof(inet)) return "unknown";
      std::memcpy(&inet, address, sizeof(inet));
      char host[INET_ADDRSTRLEN];
      inet_ntop(AF_INET, &inet.sin_addr, host, sizeof(host));
      return InetText(host, false, 0, inet.sin_port);
    }
    case AF_INET6: {
      sockaddr_in6 inet6;
      if (length < sizeof(inet6)) return "unknown";
      std::memcpy(&inet6, address, sizeof(inet6));
      return Inet6Text(inet6);
    }
    case AF_UNIX: {
      // The kernel may report one byte more than an address holds, for the NUL it adds to a path
      // that fills it.
      const size_t end = std::min<size_t>(length, sizeof(sockaddr_un));
      const size_t begin = offsetof(sockaddr_un, sun_path);
      const char* bytes = reinterpret_cast<const char*>(address);
      return UnixText(absl::string_view(bytes + begin, end > begin ? end - begin : 0));
    }
    default:
      return "unknown";
  }
}

absl::Duration AcceptPacer::Next(AcceptOutcome outcome) {
  switch (outcome) {
    case AcceptOutcome::kClient:
      ignored_ = 0;
      pause_ = absl::ZeroDuration();
      return absl::ZeroDuration();
    case AcceptOutcome::kNone:
      return absl::ZeroDuration();
    case AcceptOutcome::kIgnore:
      if (++ignored_ <= kIgnoredInARow) return absl::ZeroDuration();
      break;
    case AcceptOutcome::kBackOff:
    case AcceptOutcome::kBroken:
      break;
  }
  pause_ = std::clamp(2 * pause_, kFirstPause, kLongestPause);
  return pause_;
}

}  // namespace posthouse

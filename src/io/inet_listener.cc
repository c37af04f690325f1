#include "posthouse/io/inet_listener.h"

#include <netinet/in.h>

#include <cerrno>
#include <utility>

#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// FreeBSD's SO_REUSEPORT hands every connection to the socket that was bound last; there the
// option that shares them has another name.
#if defined(SO_REUSEPORT_LB)
constexpr int kReusePort = SO_REUSEPORT_LB;
#else
constexpr int kReusePort = SO_REUSEPORT;
#endif

InetListener Failed(absl::string_view call) {
  InetListener failed;
  failed.error = errno;
  failed.call = call;
  return failed;
}

struct Option {
  bool wanted;
  int level;
  int name;
  int value;
  absl::string_view call;
};

}  // namespace

InetListener OpenInetListener(const sockaddr* address, socklen_t length,
                              const InetListenerOptions& options) {
  const int family = address->sa_family;
  UniqueFd fd(os::Socket(family, SOCK_STREAM | os::kSockNonblock | os::kSockCloexec, 0));
  if (!fd) return Failed("socket for");
  const bool has_size = options.buffer_size > 0;
  const Option table[] = {
      {family == AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, 1, "setsockopt IPV6_V6ONLY for"},
      {true, SOL_SOCKET, SO_REUSEADDR, 1, "setsockopt SO_REUSEADDR for"},
      {options.reuse_port, SOL_SOCKET, kReusePort, 1, "setsockopt SO_REUSEPORT for"},
      {has_size, SOL_SOCKET, SO_SNDBUF, options.buffer_size, "setsockopt SO_SNDBUF for"},
      {has_size, SOL_SOCKET, SO_RCVBUF, options.buffer_size, "setsockopt SO_RCVBUF for"},
  };
  for (const Option& option : table) {
    if (option.wanted && os::Setsockopt(fd.get(), option.level, option.name, &option.value,
                                        sizeof(option.value)) != 0) {
      return Failed(option.call);
    }
  }
  if (os::Bind(fd.get(), address, length) != 0) return Failed("bind to");
  if (os::Listen(fd.get(), options.backlog) != 0) return Failed("listen on");
  InetListener listener;
  listener.fd = std::move(fd);
  return listener;
}

bool IsFamilyMissing(int error) {
  return error == EAFNOSUPPORT || error == EADDRNOTAVAIL || error == EPROTONOSUPPORT;
}

}  // namespace posthouse

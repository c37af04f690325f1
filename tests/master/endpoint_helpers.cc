#include "tests/master/endpoint_helpers.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/testing/event_wait.h"

namespace posthouse {
namespace {

EndpointAddress Inet4(in_addr_t host, int port, const char* text) {
  EndpointAddress result;
  sockaddr_in bytes = {};
  bytes.sin_family = AF_INET;
  bytes.sin_port = htons(static_cast<uint16_t>(port));
  bytes.sin_addr.s_addr = htonl(host);
  std::memcpy(&result.address, &bytes, sizeof(bytes));
  result.length = sizeof(bytes);
  result.text = absl::StrCat(text, ":", port);
  return result;
}

EndpointAddress Inet6(const in6_addr& host, int port, const char* text) {
  EndpointAddress result;
  sockaddr_in6 bytes = {};
  bytes.sin6_family = AF_INET6;
  bytes.sin6_port = htons(static_cast<uint16_t>(port));
  bytes.sin6_addr = host;
  std::memcpy(&result.address, &bytes, sizeof(bytes));
  result.length = sizeof(bytes);
  result.text = absl::StrCat(text, ":", port);
  return result;
}

}  // namespace

mode_t ModeOf(const std::string& path) {
  struct stat found = {};
  return lstat(path.c_str(), &found) == 0 ? found.st_mode : 0;
}

mode_t CurrentUmask() {
  const mode_t mask = umask(077);
  umask(mask);
  return mask;
}

int IntOption(int fd, int level, int option) {
  int value = 0;
  socklen_t length = sizeof(value);
  return getsockopt(fd, level, option, &value, &length) == 0 ? value : -1;
}

EndpointAddress Loopback4(int port) { return Inet4(INADDR_LOOPBACK, port, "127.0.0.1"); }

EndpointAddress Loopback6(int port) { return Inet6(in6addr_loopback, port, "[::1]"); }

EndpointAddress Wildcard(int family, int port) {
  return family == AF_INET6 ? Inet6(in6addr_any, port, "[::]") : Inet4(INADDR_ANY, port, "0.0.0.0");
}

std::vector<EndpointAddress> LoopbackAddresses() {
  std::vector<EndpointAddress> addresses = {Loopback4(0)};
  const EndpointAddress six = Loopback6(0);
  UniqueFd fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd && bind(fd.get(), Bytes(six), six.length) == 0) addresses.push_back(six);
  return addresses;
}

const sockaddr* Bytes(const EndpointAddress& address) {
  return reinterpret_cast<const sockaddr*>(&address.address);
}

int PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return -1;
  // The port stands at the same place in both families.
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

Occupant::Occupant(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  const EndpointAddress address = Loopback4(port);
  EXPECT_EQ(bind(fd_.get(), Bytes(address), address.length), 0);
  EXPECT_EQ(listen(fd_.get(), 5), 0);
}

std::vector<int> FreePorts(int count) {
  std::vector<Occupant> occupants;
  std::vector<int> ports;
  for (int i = 0; i < count; ++i) ports.push_back(occupants.emplace_back(0).port());
  return ports;
}

Client ConnectUnix(const std::string& path) {
  Client client;
  client.fd.Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const UnixAddress address(path);
  if (connect(client.fd.get(), address.get(), address.length()) != 0) client.error = errno;
  return client;
}

Client ConnectTo(int listener) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  Client client;
  if (getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    client.error = errno;
    return client;
  }
  client.fd.Reset(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (connect(client.fd.get(), reinterpret_cast<sockaddr*>(&address), length) == 0) return client;
  client.error = errno;
  if (client.error != EINPROGRESS) return client;
  client.error = WaitForEvents(client.fd.get(), POLLOUT)
                     ? IntOption(client.fd.get(), SOL_SOCKET, SO_ERROR)
                     : ETIMEDOUT;
  return client;
}

}  // namespace posthouse

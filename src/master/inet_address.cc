#include "posthouse/master/inet_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace posthouse {

absl::optional<InetAddress> InetAddress::Parse(absl::string_view text) {
  if (text.find('\0') != absl::string_view::npos) return absl::nullopt;
  const std::string terminated(text);
  InetAddress result;
  if (inet_pton(AF_INET, terminated.c_str(), result.bytes_.data()) == 1) return result;
  result.family_ = Family::kIpv6;
  if (inet_pton(AF_INET6, terminated.c_str(), result.bytes_.data()) == 1) return result;
  return absl::nullopt;
}

absl::optional<InetAddress> InetAddress::From(const sockaddr* address) {
  InetAddress result;
  if (address->sa_family == AF_INET) {
    const auto* const v4 = reinterpret_cast<const sockaddr_in*>(address);
    memcpy(result.bytes_.data(), &v4->sin_addr, sizeof(v4->sin_addr));
    return result;
  }
  if (address->sa_family != AF_INET6) return absl::nullopt;
  const auto* const v6 = reinterpret_cast<const sockaddr_in6*>(address);
  result.family_ = Family::kIpv6;
  memcpy(result.bytes_.data(), &v6->sin6_addr, sizeof(v6->sin6_addr));
  result.zone_ = v6->sin6_scope_id;
  return result;
}

InetAddress InetAddress::Wildcard(Family family) {
  InetAddress result;
  result.family_ = family;
  return result;
}

bool InetAddress::is_loopback() const {
  if (family_ == Family::kIpv4) return bytes_[0] == 127;
  return bytes_[15] == 1 &&
         std::all_of(bytes_.begin(), bytes_.begin() + 15, [](uint8_t byte) { return byte == 0; });
}

std::string InetAddress::Text() const {
  char buffer[INET6_ADDRSTRLEN] = "";
  inet_ntop(family_ == Family::kIpv4 ? AF_INET : AF_INET6, bytes_.data(), buffer, sizeof(buffer));
  return zone_ == 0 ? std::string(buffer) : absl::StrCat(buffer, "%", zone_);
}

bool operator<(const InetAddress& a, const InetAddress& b) {
  return std::tie(a.family_, a.bytes_, a.zone_) < std::tie(b.family_, b.bytes_, b.zone_);
}

InetEndpoint MakeInetEndpoint(const InetAddress& address, uint16_t port) {
  InetEndpoint endpoint;
  endpoint.loopback = address.is_loopback();
  if (address.family_ == InetAddress::Family::kIpv4) {
    auto* const v4 = reinterpret_cast<sockaddr_in*>(&endpoint.address);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    memcpy(&v4->sin_addr, address.bytes_.data(), sizeof(v4->sin_addr));
    endpoint.length = sizeof(*v4);
    endpoint.text = absl::StrCat(address.Text(), ":", port);
  } else {
    auto* const v6 = reinterpret_cast<sockaddr_in6*>(&endpoint.address);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    v6->sin6_scope_id = address.zone_;
    memcpy(&v6->sin6_addr, address.bytes_.data(), sizeof(v6->sin6_addr));
    endpoint.length = sizeof(*v6);
    endpoint.text = absl::StrCat("[", address.Text(), "]:", port);
  }
  return endpoint;
}

uint16_t EndpointPort(const InetEndpoint& endpoint) {
  if (endpoint.address.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in*>(&endpoint.address)->sin_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in6*>(&endpoint.address)->sin6_port);
}

}  // namespace posthouse

// InetAddress is an IPv4 or IPv6 address without a port: what names, interfaces and wildcards mean.
//
//   absl::optional<InetAddress> address = InetAddress::Parse("::1");
//   InetEndpoint endpoint = MakeInetEndpoint(*address, 25);   // endpoint.text is "[::1]:25"
//
// The order is IPv4 before IPv6, then by the bytes of the address (M50). A plain value. Thread:
// any.

#ifndef POSTHOUSE_MASTER_INET_ADDRESS_H_
#define POSTHOUSE_MASTER_INET_ADDRESS_H_

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace posthouse {

class InetAddress {
 public:
  enum class Family { kIpv4, kIpv6 };

  // A dotted quad or an IPv6 address without a zone; nothing for any other text.
  static absl::optional<InetAddress> Parse(absl::string_view text);
  // Nothing for another family.
  static absl::optional<InetAddress> From(const sockaddr* address);
  static InetAddress Wildcard(Family family);

  Family family() const { return family_; }
  bool is_loopback() const;  // 127.0.0.0/8 and ::1 (M79)
  // As inet_ntop(3) writes it, with "%zone" for a link-local one that has a zone.
  std::string Text() const;

  friend bool operator==(const InetAddress& a, const InetAddress& b) {
    return a.family_ == b.family_ && a.bytes_ == b.bytes_ && a.zone_ == b.zone_;
  }
  friend bool operator<(const InetAddress& a, const InetAddress& b);

 private:
  friend struct InetEndpoint MakeInetEndpoint(const InetAddress& address, uint16_t port);

  Family family_ = Family::kIpv4;
  std::array<uint8_t, 16> bytes_{};  // IPv4: the first four
  uint32_t zone_ = 0;
};

// Where a service of type inet listens.
struct InetEndpoint {
  sockaddr_storage address = {};
  socklen_t length = 0;
  std::string text;       // "127.0.0.1:25", "[::1]:25"
  bool loopback = false;  // M79
  // It comes from a name, a wildcard or inet_interfaces and not from an address that was written in
  // the entry: where the system lacks its family that is a warning, as long as another endpoint of
  // the service works (F92).
  bool optional = false;
};

InetEndpoint MakeInetEndpoint(const InetAddress& address, uint16_t port);
uint16_t EndpointPort(const InetEndpoint& endpoint);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_INET_ADDRESS_H_

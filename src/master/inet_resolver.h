// What host and port names mean (M49, M50), limited to the protocols that are in use (M40, C66).
//
//   InetResolver resolver(protocols, KnownPorts("smtp=25", &warnings));
//   absl::StatusOr<uint16_t> port = resolver.Port("smtp");
//   absl::StatusOr<std::vector<InetAddress>> addresses = resolver.Host("localhost");
//
// A name is looked up once in the life of the object. A look-up may take as long as the system's
// resolver takes: the calls block. Thread: one.

#ifndef POSTHOUSE_MASTER_INET_RESOLVER_H_
#define POSTHOUSE_MASTER_INET_RESOLVER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/master/inet_address.h"
#include "posthouse/master/known_ports.h"

namespace posthouse {

// A protocol is used when inet_protocols names it and the kernel has it.
struct InetProtocols {
  bool named_ipv4 = true;
  bool named_ipv6 = true;
  bool kernel_ipv4 = true;
  bool kernel_ipv6 = true;

  bool ipv4() const { return named_ipv4 && kernel_ipv4; }
  bool ipv6() const { return named_ipv6 && kernel_ipv6; }
  bool any() const { return ipv4() || ipv6(); }
};

// Asks the kernel for a socket of each protocol that is named; one that it lacks is a warning (C66,
// F92).
InetProtocols UsableProtocols(bool named_ipv4, bool named_ipv6, std::vector<std::string>* warnings);

class InetResolver {
 public:
  InetResolver(InetProtocols protocols, KnownPorts ports);

  // The known ports come first, then numbers, then the services database. kInvalidArgument for a
  // number above 65535, kNotFound for an unknown name.
  absl::StatusOr<uint16_t> Port(absl::string_view text);

  // All addresses of a host, of protocols in use, sorted and each once; never empty. An address
  // that is written out needs its protocol to be named, but not the kernel's support: binding to it
  // tells (F92). kNotFound says why there is none.
  absl::StatusOr<std::vector<InetAddress>> Host(absl::string_view host);

  // The wildcard address of each protocol in use.
  std::vector<InetAddress> Wildcards() const;

  const InetProtocols& protocols() const { return protocols_; }

 private:
  absl::StatusOr<uint16_t> LookUpPort(const std::string& name);
  absl::StatusOr<std::vector<InetAddress>> LookUpHost(const std::string& name);

  InetProtocols protocols_;
  KnownPorts ports_;
  std::map<std::string, absl::StatusOr<uint16_t>, std::less<>> seen_ports_;
  std::map<std::string, absl::StatusOr<std::vector<InetAddress>>, std::less<>> seen_hosts_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_INET_RESOLVER_H_

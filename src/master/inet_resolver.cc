#include "posthouse/master/inet_resolver.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/config/text.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

using config_internal::Quoted;

constexpr int kMaxPort = 65535;

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// The answer of getaddrinfo(3), or its error in words.
absl::StatusOr<AddressList> Ask(const char* host, const char* port, const addrinfo& hints) {
  addrinfo* list = nullptr;
  const int code = os::Getaddrinfo(host, port, &hints, &list);
  if (code == EAI_SYSTEM) return absl::NotFoundError(strerror(errno));
  if (code != 0) return absl::NotFoundError(gai_strerror(code));
  return AddressList(list, &freeaddrinfo);
}

// Whether the kernel makes sockets of this family. Any failure but "there is no such family" says
// nothing about the family.
bool KernelHas(int family, absl::string_view name, std::vector<std::string>* warnings) {
  const UniqueFd probe(os::Socket(family, SOCK_STREAM | os::kSockCloexec, 0));
  if (probe || errno != EAFNOSUPPORT) return true;
  warnings->push_back(
      absl::StrCat("this system has no ", name, "; it is left out of inet_protocols"));
  return false;
}

}  // namespace

InetProtocols UsableProtocols(bool named_ipv4, bool named_ipv6,
                              std::vector<std::string>* warnings) {
  InetProtocols protocols;
  protocols.named_ipv4 = named_ipv4;
  protocols.named_ipv6 = named_ipv6;
  if (named_ipv4) protocols.kernel_ipv4 = KernelHas(AF_INET, "IPv4", warnings);
  if (named_ipv6) protocols.kernel_ipv6 = KernelHas(AF_INET6, "IPv6", warnings);
  return protocols;
}

InetResolver::InetResolver(InetProtocols protocols, KnownPorts ports)
    : protocols_(protocols), ports_(std::move(ports)) {}

absl::StatusOr<uint16_t> InetResolver::Port(absl::string_view text) {
  const std::string name(ports_.Filter(text));
  if (!name.empty() && std::all_of(name.begin(), name.end(), absl::ascii_isdigit)) {
    int number = 0;
    if (absl::SimpleAtoi(name, &number) && number <= kMaxPort) return static_cast<uint16_t>(number);
    return absl::InvalidArgumentError(absl::StrCat("a port number above ", kMaxPort));
  }
  const auto seen = seen_ports_.find(name);
  if (seen != seen_ports_.end()) return seen->second;
  return seen_ports_.emplace(name, LookUpPort(name)).first->second;
}

absl::StatusOr<uint16_t> InetResolver::LookUpPort(const std::string& name) {
  addrinfo hints = {};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  const absl::StatusOr<AddressList> list = Ask(nullptr, name.c_str(), hints);
  if (!list.ok()) {
    return absl::NotFoundError(
        absl::StrCat("unknown port ", Quoted(name), ": ", list.status().message()));
  }
  return ntohs(reinterpret_cast<const sockaddr_in*>((*list)->ai_addr)->sin_port);
}

absl::StatusOr<std::vector<InetAddress>> InetResolver::Host(absl::string_view host) {
  const absl::optional<InetAddress> numeric = InetAddress::Parse(host);
  if (numeric.has_value()) {
    const bool v4 = numeric->family() == InetAddress::Family::kIpv4;
    if (v4 ? protocols_.named_ipv4 : protocols_.named_ipv6) return std::vector{*numeric};
    return absl::NotFoundError(
        absl::StrCat("inet_protocols does not have the protocol of address ", numeric->Text()));
  }
  const auto seen = seen_hosts_.find(host);
  if (seen != seen_hosts_.end()) return seen->second;
  const std::string name(host);
  return seen_hosts_.emplace(name, LookUpHost(name)).first->second;
}

absl::StatusOr<std::vector<InetAddress>> InetResolver::LookUpHost(const std::string& name) {
  addrinfo hints = {};
  hints.ai_family = protocols_.ipv4() && protocols_.ipv6() ? AF_UNSPEC
                    : protocols_.ipv4()                    ? AF_INET
                                                           : AF_INET6;
  hints.ai_socktype = SOCK_STREAM;
  const absl::StatusOr<AddressList> list = Ask(name.c_str(), nullptr, hints);
  if (!list.ok()) {
    return absl::NotFoundError(
        absl::StrCat("no address of host ", Quoted(name), ": ", list.status().message()));
  }
  std::vector<InetAddress> addresses;
  for (const addrinfo* entry = list->get(); entry != nullptr; entry = entry->ai_next) {
    const absl::optional<InetAddress> address = InetAddress::From(entry->ai_addr);
    if (!address.has_value()) continue;
    const bool v4 = address->family() == InetAddress::Family::kIpv4;
    if (v4 ? protocols_.ipv4() : protocols_.ipv6()) addresses.push_back(*address);
  }
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  if (addresses.empty()) {
    return absl::NotFoundError(
        absl::StrCat("no address of host ", Quoted(name), " has a protocol of inet_protocols"));
  }
  return addresses;
}

std::vector<InetAddress> InetResolver::Wildcards() const {
  std::vector<InetAddress> addresses;
  if (protocols_.ipv4()) {
    addresses.push_back(InetAddress::Wildcard(InetAddress::Family::kIpv4));
  }
  if (protocols_.ipv6()) {
    addresses.push_back(InetAddress::Wildcard(InetAddress::Family::kIpv6));
  }
  return addresses;
}

}  // namespace posthouse

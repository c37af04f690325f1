#include "posthouse/master/interfaces.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"
#include "posthouse/config/text.h"
#include "posthouse/config/word_list.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

using config_internal::Quoted;

bool IsInUse(const InetAddress& address, const InetProtocols& protocols) {
  return address.family() == InetAddress::Family::kIpv4 ? protocols.ipv4() : protocols.ipv6();
}

void SortAndMerge(std::vector<InetAddress>* addresses) {
  std::sort(addresses->begin(), addresses->end());
  addresses->erase(std::unique(addresses->begin(), addresses->end()), addresses->end());
}

// The addresses of all interfaces that are up.
absl::StatusOr<std::vector<InetAddress>> LocalAddresses(const InetProtocols& protocols) {
  ifaddrs* list = nullptr;
  if (os::Getifaddrs(&list) != 0) {
    return absl::ErrnoToStatus(errno, "the addresses of the network interfaces");
  }
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, &freeifaddrs);
  std::vector<InetAddress> addresses;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    const absl::optional<InetAddress> address = InetAddress::From(entry->ifa_addr);
    if (address.has_value() && IsInUse(*address, protocols)) addresses.push_back(*address);
  }
  SortAndMerge(&addresses);
  return addresses;
}

absl::Status NotLocal(absl::string_view host, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("parameter inet_interfaces: ", Quoted(host), ": ", why));
}

absl::StatusOr<std::vector<InetAddress>> ListedAddresses(absl::string_view list,
                                                         const std::vector<InetAddress>& local,
                                                         InetResolver* resolver) {
  std::vector<InetAddress> result;
  while (const absl::optional<absl::string_view> word = NextWord(&list, kCommaAndBlanks)) {
    absl::string_view host = *word;
    if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
      host.remove_prefix(1);
      host.remove_suffix(1);
    }
    const absl::StatusOr<std::vector<InetAddress>> addresses = resolver->Host(host);
    if (!addresses.ok()) return NotLocal(host, addresses.status().message());
    for (const InetAddress& address : *addresses) {
      if (!std::binary_search(local.begin(), local.end(), address)) {
        return NotLocal(host, absl::StrCat("no local interface has address ", address.Text()));
      }
      result.push_back(address);
    }
  }
  SortAndMerge(&result);
  return result;
}

}  // namespace

absl::StatusOr<std::vector<InetAddress>> EvaluateInterfaces(absl::string_view inet_interfaces,
                                                            InetResolver* resolver) {
  if (!resolver->protocols().any()) return std::vector<InetAddress>();
  if (absl::EqualsIgnoreCase(inet_interfaces, "all")) return resolver->Wildcards();
  absl::StatusOr<std::vector<InetAddress>> local = LocalAddresses(resolver->protocols());
  if (!local.ok()) return local;
  if (inet_interfaces != "loopback-only") {
    return ListedAddresses(inet_interfaces, *local, resolver);
  }
  local->erase(std::remove_if(local->begin(), local->end(),
                              [](const InetAddress& address) { return !address.is_loopback(); }),
               local->end());
  return local;
}

}  // namespace posthouse

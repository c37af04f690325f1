#include "posthouse/master/inet_name.h"

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/config/generic_parameters.h"
#include "posthouse/master/inet_address.h"

namespace posthouse {
namespace {

constexpr absl::string_view kIpv6Tag = "ipv6:";
// No port name is longer; what the services database is asked for has a bound.
constexpr size_t kMaxPort = 255;

absl::Status Bad(absl::string_view sentence) { return absl::InvalidArgumentError(sentence); }

bool IsDigits(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

absl::Status CheckHost(absl::string_view host) {
  if (InetAddress::Parse(host).has_value() || CheckHostName(host).ok()) return absl::OkStatus();
  return Bad("neither a valid host name nor a network address before the port");
}

absl::Status CheckPort(absl::string_view port) {
  if (port.empty()) return Bad("no port");
  if (port.size() > kMaxPort) return Bad("port name too long");
  if (absl::ascii_isdigit(port.front()) && !IsDigits(port)) {
    return Bad("text behind the number of the port");
  }
  if (!std::all_of(port.begin(), port.end(), absl::ascii_isgraph)) {
    return Bad("a character that is not allowed in a port name");
  }
  return absl::OkStatus();
}

// "[host]:port", "[ipv6:address]:port"; `text` begins behind the "[".
absl::StatusOr<InetName> ParseBracketed(absl::string_view text) {
  const bool tagged = absl::StartsWithIgnoreCase(text, kIpv6Tag);
  if (tagged) text.remove_prefix(kIpv6Tag.size());
  const size_t end = text.find(']');
  if (end == absl::string_view::npos) return Bad("no \"]\" behind the \"[\"");
  InetName name;
  name.host = std::string(text.substr(0, end));
  text.remove_prefix(end + 1);
  if (!text.empty() && text.front() != ':') return Bad("text behind the \"]\"");
  if (!text.empty()) text.remove_prefix(1);
  name.port = std::string(text);
  const absl::optional<InetAddress> address = InetAddress::Parse(name.host);
  const bool ipv6 = address.has_value() && address->family() == InetAddress::Family::kIpv6;
  if (tagged && !ipv6) return Bad("malformed IPv6 address");
  const absl::Status host = CheckHost(name.host);
  if (!host.ok()) return host;
  return name;
}

// "host:port", ":port", "port"; the last colon counts.
absl::StatusOr<InetName> ParseBare(absl::string_view text) {
  InetName name;
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) {
    name.port = std::string(text);
    return name;
  }
  name.host = std::string(text.substr(0, colon));
  name.port = std::string(text.substr(colon + 1));
  if (name.host.empty()) return name;
  const absl::Status host = CheckHost(name.host);
  if (!host.ok()) return host;
  return name;
}

}  // namespace

absl::StatusOr<InetName> ParseInetName(absl::string_view text) {
  const bool bracketed = !text.empty() && text.front() == '[';
  absl::StatusOr<InetName> name = bracketed ? ParseBracketed(text.substr(1)) : ParseBare(text);
  if (!name.ok()) return name;
  const absl::Status port = CheckPort(name->port);
  if (!port.ok()) return port;
  return name;
}

}  // namespace posthouse

// The rules of policyd: what to answer to a request at a given time, given what is remembered.
// No clock, no database, no socket.
//
// At RCPT, for a recipient who has not opted out:
//   1. A client (or a SASL user) who has used up the recipients of this period is refused.
//   2. A client without SASL is greylisted by (client network, sender, recipient), unless its
//      network is on the automatic white list: a new combination is put off until it comes again,
//      not before the delay and not after the retry window.
//   3. What is left is allowed, and counts against the limit of 1.
// Everywhere else there is no opinion. RCPT is where both belong: each recipient is refused or
// counted by itself, and a refusal costs its sender no message text.

#ifndef EXAMPLES_POLICY_POLICY_RULES_H_
#define EXAMPLES_POLICY_POLICY_RULES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "examples/policy/policy_request.h"
#include "examples/policy/policy_store.h"

namespace examples {

struct PolicySettings {
  // Milliseconds.
  int64_t greylist_delay = 0;  // 0: no greylisting
  int64_t retry_window = 0;
  int64_t triplet_ttl = 0;  // since its last use, once it has passed
  // Combinations of a network that have to pass before it is on the white list; 0: never.
  int64_t auto_whitelist_passes = 0;
  int64_t auto_whitelist_ttl = 0;  // milliseconds since its last use
  int ipv4_prefix = 24;
  int ipv6_prefix = 64;
  // Recipients per period; 0: no limit.
  int64_t rate_limit = 0;
  int64_t sasl_rate_limit = 0;
  int64_t rate_period = 0;  // milliseconds
  // As NormalizeOptOut() gives them.
  absl::flat_hash_set<std::string> opt_out;
};

enum class PolicyVerdict {
  kNoOpinion,    // not RCPT, or nothing to check
  kOptedOut,     // the recipient wants no policy
  kAllowed,      // passed
  kWhitelisted,  // passed, the network is on the automatic white list
  kGreylisted,   // put off
  kRateLimited,  // refused for now
};

// For log lines: "greylisted", "rate-limited", ...
absl::string_view PolicyVerdictName(PolicyVerdict verdict);

// The network of an address, as text that two addresses share exactly when they are in the same
// one: "192.0.2.0/24", "2001:db8::/64". IPv4 addresses that are written as IPv6 count as IPv4.
// Nothing for text that is no address. REQUIRES: prefixes within 0 to 32 and 0 to 128.
absl::optional<std::string> ClientNetwork(absl::string_view address, int ipv4_prefix,
                                          int ipv6_prefix);

// The patterns that would opt `recipient` out, most specific first, in lower case:
// "user@mx.example.com", "user@", "mx.example.com", ".example.com", ".com". Of a domain with very
// many labels only the first kMaxOptOutParents parents are tried.
std::vector<std::string> OptOutPatterns(absl::string_view recipient);
inline constexpr int kMaxOptOutParents = 16;

// An entry of a list or table in the form of OptOutPatterns(): lower case, "@domain" as "domain".
std::string NormalizeOptOut(absl::string_view entry);

// What can be decided without the store; nothing if it has to be asked. kInvalidArgument: a RCPT
// request whose client_address is no address.
absl::StatusOr<absl::optional<PolicyVerdict>> DecideWithoutStore(const PolicyRequest& request,
                                                                 const PolicySettings& settings);

// The decision, for requests that DecideWithoutStore() left open, and its traces in the store.
// `now` is in milliseconds since the Unix epoch. Errors are those of the store.
absl::StatusOr<PolicyVerdict> Decide(const PolicyRequest& request, const PolicySettings& settings,
                                     int64_t now, PolicyTransaction& transaction);

}  // namespace examples

#endif  // EXAMPLES_POLICY_POLICY_RULES_H_

#include "examples/policy/policy_rules.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace examples {
namespace {

// A row's last use is written down only when this part of its time to live is gone: a busy sender's
// rows are read, not written.
constexpr int64_t kTouchesPerTtl = 32;

void KeepPrefix(unsigned char* bytes, int size, int prefix) {
  for (int i = 0; i < size; ++i) {
    const int bits = std::clamp(prefix - 8 * i, 0, 8);
    bytes[i] &= static_cast<unsigned char>(0xff00 >> bits);
  }
}

// Whether `expires` needs moving for a row that is of use for `ttl` from now.
bool WorthTouching(int64_t expires, int64_t now, int64_t ttl) {
  return now + ttl - expires > ttl / kTouchesPerTtl;
}

// The rate limit that applies to a request and the name it is counted under.
struct RateCheck {
  int64_t limit = 0;
  std::string key;
  RateRow row;
};

absl::StatusOr<bool> WithinRate(const PolicyRequest& request, const PolicySettings& settings,
                                int64_t now, PolicyTransaction& transaction, RateCheck* check) {
  const bool sasl = !request.sasl_username.empty();
  check->limit = sasl ? settings.sasl_rate_limit : settings.rate_limit;
  if (check->limit == 0) return true;
  check->key = sasl ? absl::StrCat("sasl:", request.sasl_username)
                    : absl::StrCat("client:", *ClientNetwork(request.client_address, 32, 128));
  absl::StatusOr<absl::optional<RateRow>> found = transaction.FindRate(check->key);
  if (!found.ok()) return found.status();
  // Somebody whose clock is a little ahead may have begun the period; one that began further in the
  // future than it lasts is from before the clock was set back.
  if (found->has_value() && std::abs(now - (*found)->period_start) < settings.rate_period) {
    check->row = **found;
  } else {
    check->row = {.period_start = now, .recipients = 0};
  }
  return check->row.recipients < check->limit;
}

absl::Status CountRecipient(const PolicySettings& settings, RateCheck& check,
                            PolicyTransaction& transaction) {
  if (check.limit == 0) return absl::OkStatus();
  ++check.row.recipients;
  check.row.expires = check.row.period_start + settings.rate_period;
  return transaction.PutRate(check.key, check.row);
}

absl::StatusOr<bool> OnWhiteList(const std::string& network, const PolicySettings& settings,
                                 int64_t now, PolicyTransaction& transaction) {
  if (settings.auto_whitelist_passes == 0) return false;
  absl::StatusOr<absl::optional<NetworkRow>> found = transaction.FindNetwork(network);
  if (!found.ok()) return found.status();
  if (!found->has_value() || (*found)->expires <= now) return false;
  NetworkRow row = **found;
  if (row.passes < settings.auto_whitelist_passes) return false;
  if (WorthTouching(row.expires, now, settings.auto_whitelist_ttl)) {
    row.expires = now + settings.auto_whitelist_ttl;
    if (absl::Status status = transaction.PutNetwork(network, row); !status.ok()) return status;
  }
  return true;
}

absl::Status CountPass(const std::string& network, const PolicySettings& settings, int64_t now,
                       PolicyTransaction& transaction) {
  if (settings.auto_whitelist_passes == 0) return absl::OkStatus();
  absl::StatusOr<absl::optional<NetworkRow>> found = transaction.FindNetwork(network);
  if (!found.ok()) return found.status();
  NetworkRow row;
  if (found->has_value() && (*found)->expires > now) row = **found;
  ++row.passes;
  row.expires = now + settings.auto_whitelist_ttl;
  return transaction.PutNetwork(network, row);
}

absl::StatusOr<bool> PassesGreylist(const TripletKey& key, const PolicySettings& settings,
                                    int64_t now, PolicyTransaction& transaction) {
  absl::StatusOr<absl::optional<TripletRow>> found = transaction.FindTriplet(key);
  if (!found.ok()) return found.status();
  TripletRow row;
  if (found->has_value()) row = **found;
  // What was first seen well in the future was written before the clock was set back; it starts
  // again, or its sender would wait until then.
  const bool from_future = !row.passed && row.first_seen - now > settings.greylist_delay;
  if (!found->has_value() || row.expires <= now || from_future) {
    row = {.first_seen = now, .expires = now + settings.retry_window};
    if (absl::Status status = transaction.PutTriplet(key, row); !status.ok()) return status;
    return false;
  }
  if (row.passed) {
    if (!WorthTouching(row.expires, now, settings.triplet_ttl)) return true;
    row.expires = now + settings.triplet_ttl;
    if (absl::Status status = transaction.PutTriplet(key, row); !status.ok()) return status;
    return true;
  }
  if (now - row.first_seen < settings.greylist_delay) return false;
  row.passed = true;
  row.expires = now + settings.triplet_ttl;
  if (absl::Status status = transaction.PutTriplet(key, row); !status.ok()) return status;
  if (absl::Status status = CountPass(key.network, settings, now, transaction); !status.ok()) {
    return status;
  }
  return true;
}

absl::StatusOr<PolicyVerdict> Greylist(const PolicyRequest& request, const PolicySettings& settings,
                                       int64_t now, PolicyTransaction& transaction) {
  if (settings.greylist_delay == 0 || !request.sasl_username.empty()) {
    return PolicyVerdict::kAllowed;
  }
  const std::string network =
      *ClientNetwork(request.client_address, settings.ipv4_prefix, settings.ipv6_prefix);
  absl::StatusOr<bool> listed = OnWhiteList(network, settings, now, transaction);
  if (!listed.ok()) return listed.status();
  if (*listed) return PolicyVerdict::kWhitelisted;
  const TripletKey key = {network, absl::AsciiStrToLower(request.sender),
                          absl::AsciiStrToLower(request.recipient)};
  absl::StatusOr<bool> passes = PassesGreylist(key, settings, now, transaction);
  if (!passes.ok()) return passes.status();
  return *passes ? PolicyVerdict::kAllowed : PolicyVerdict::kGreylisted;
}

}  // namespace

absl::string_view PolicyVerdictName(PolicyVerdict verdict) {
  switch (verdict) {
    case PolicyVerdict::kNoOpinion:
      return "no opinion";
    case PolicyVerdict::kOptedOut:
      return "recipient opted out";
    case PolicyVerdict::kAllowed:
      return "allowed";
    case PolicyVerdict::kWhitelisted:
      return "allowed, network on the automatic white list";
    case PolicyVerdict::kGreylisted:
      return "greylisted";
    case PolicyVerdict::kRateLimited:
      return "rate-limited";
  }
  return "?";
}

absl::optional<std::string> ClientNetwork(absl::string_view address, int ipv4_prefix,
                                          int ipv6_prefix) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.size() >= sizeof(text) || absl::StrContains(address, '\0')) return absl::nullopt;
  memcpy(text, address.data(), address.size());
  unsigned char bytes[16];
  static constexpr unsigned char kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  int family = AF_INET;
  if (inet_pton(AF_INET, text, bytes) != 1) {
    if (inet_pton(AF_INET6, text, bytes) != 1) return absl::nullopt;
    family = AF_INET6;
    if (memcmp(bytes, kMapped, sizeof(kMapped)) == 0) {
      family = AF_INET;
      memmove(bytes, bytes + sizeof(kMapped), 4);
    }
  }
  const int prefix = family == AF_INET ? ipv4_prefix : ipv6_prefix;
  KeepPrefix(bytes, family == AF_INET ? 4 : 16, prefix);
  inet_ntop(family, bytes, text, sizeof(text));
  return absl::StrCat(text, "/", prefix);
}

std::vector<std::string> OptOutPatterns(absl::string_view recipient) {
  const std::string lower = absl::AsciiStrToLower(recipient);
  std::vector<std::string> patterns = {lower};
  const size_t at = lower.rfind('@');
  if (at == std::string::npos) {
    patterns.push_back(lower + "@");
    return patterns;
  }
  patterns.push_back(lower.substr(0, at + 1));
  patterns.push_back(lower.substr(at + 1));
  size_t dot = at;
  for (int i = 0; i < kMaxOptOutParents; ++i) {
    dot = lower.find('.', dot + 1);
    if (dot == std::string::npos) break;
    patterns.push_back(lower.substr(dot));
  }
  return patterns;
}

std::string NormalizeOptOut(absl::string_view entry) {
  entry = absl::StripAsciiWhitespace(entry);
  absl::ConsumePrefix(&entry, "@");
  return absl::AsciiStrToLower(entry);
}

absl::StatusOr<absl::optional<PolicyVerdict>> DecideWithoutStore(const PolicyRequest& request,
                                                                 const PolicySettings& settings) {
  using Answer = absl::optional<PolicyVerdict>;
  if (request.protocol_state != "RCPT") return Answer(PolicyVerdict::kNoOpinion);
  if (!ClientNetwork(request.client_address, 32, 128).has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("client_address=", request.client_address.substr(0, 50), " is no address"));
  }
  if (!settings.opt_out.empty()) {
    for (const std::string& pattern : OptOutPatterns(request.recipient)) {
      if (settings.opt_out.contains(pattern)) return Answer(PolicyVerdict::kOptedOut);
    }
  }
  const bool sasl = !request.sasl_username.empty();
  const bool limited = (sasl ? settings.sasl_rate_limit : settings.rate_limit) != 0;
  const bool greylisted = settings.greylist_delay != 0 && !sasl;
  if (!limited && !greylisted) return Answer(PolicyVerdict::kNoOpinion);
  return Answer();
}

absl::StatusOr<PolicyVerdict> Decide(const PolicyRequest& request, const PolicySettings& settings,
                                     int64_t now, PolicyTransaction& transaction) {
  absl::StatusOr<bool> opted_out = transaction.OptedOut(OptOutPatterns(request.recipient));
  if (!opted_out.ok()) return opted_out.status();
  if (*opted_out) return PolicyVerdict::kOptedOut;
  RateCheck check;
  absl::StatusOr<bool> within = WithinRate(request, settings, now, transaction, &check);
  if (!within.ok()) return within.status();
  if (!*within) return PolicyVerdict::kRateLimited;
  absl::StatusOr<PolicyVerdict> verdict = Greylist(request, settings, now, transaction);
  if (!verdict.ok() || *verdict == PolicyVerdict::kGreylisted) return verdict;
  if (absl::Status status = CountRecipient(settings, check, transaction); !status.ok()) {
    return status;
  }
  return verdict;
}

}  // namespace examples

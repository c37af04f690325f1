// The SMTP access policy delegation protocol (D73 to D76): what smtpd asks and what it is told.
// Pure functions over text.

#ifndef EXAMPLES_POLICY_POLICY_REQUEST_H_
#define EXAMPLES_POLICY_POLICY_REQUEST_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace examples {

// What our rules look at. The views refer to the list. Attributes that are absent are empty, as
// smtpd itself sends what it does not know.
struct PolicyRequest {
  absl::string_view protocol_state;
  absl::string_view client_address;
  absl::string_view sender;
  absl::string_view recipient;
  absl::string_view sasl_username;
};

// Reads one complete list, attributes in any order, unknown ones ignored, the first of repeated
// ones taken. kInvalidArgument says why the list is no policy request: broken encoding, not
// request=smtpd_access_policy, no protocol_state, or more than kMaxPolicyAttributes.
absl::StatusOr<PolicyRequest> ParsePolicyRequest(absl::string_view list);

// Today's smtpd sends 32; the limit bounds our work for somebody who sends nonsense.
inline constexpr int kMaxPolicyAttributes = 200;

// The longest list that is answered. The longest that smtpd sends has a few values of at most its
// line_length_limit (2048).
inline constexpr size_t kMaxPolicyRequestBytes = 32 << 10;

// "action=TEXT" and the empty line.
std::string FormatPolicyAnswer(absl::string_view action);

// Whether smtpd would understand `action` (D76) as one of its own words: "DUNNO", "REJECT text",
// "450 4.7.1 text", ... Words that need a text are refused without one. Names of restrictions,
// which smtpd accepts too, are refused, because a spelling mistake looks like one.
absl::Status ValidatePolicyAction(absl::string_view action);

}  // namespace examples

#endif  // EXAMPLES_POLICY_POLICY_REQUEST_H_

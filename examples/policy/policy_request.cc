#include "examples/policy/policy_request.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "examples/lib/plain_attributes.h"

namespace examples {
namespace {

struct Slot {
  absl::string_view name;
  absl::string_view* value;
  bool seen = false;
};

// The words of D76, and whether smtpd insists on a text after them.
struct ActionWord {
  absl::string_view word;
  bool needs_text;
};
constexpr ActionWord kActionWords[] = {
    {"DUNNO", false},           {"OK", false},   {"RELAY", false},   {"REJECT", false},
    {"DEFER", false},           {"HOLD", false}, {"DISCARD", false}, {"DEFER_IF_PERMIT", false},
    {"DEFER_IF_REJECT", false}, {"INFO", false}, {"WARN", false},    {"FILTER", true},
    {"REDIRECT", true},         {"BCC", true},   {"PREPEND", true},
};

bool IsReplyCode(absl::string_view word) {
  return word.size() == 3 && (word[0] == '4' || word[0] == '5') && absl::ascii_isdigit(word[1]) &&
         absl::ascii_isdigit(word[2]);
}

}  // namespace

absl::StatusOr<PolicyRequest> ParsePolicyRequest(absl::string_view list) {
  PolicyRequest request;
  absl::string_view kind;
  Slot slots[] = {
      {"request", &kind},
      {"protocol_state", &request.protocol_state},
      {"client_address", &request.client_address},
      {"sender", &request.sender},
      {"recipient", &request.recipient},
      {"sasl_username", &request.sasl_username},
  };
  AttributeReader reader(list);
  Attribute attribute;
  int count = 0;
  while (reader.Next(&attribute)) {
    if (++count > kMaxPolicyAttributes) {
      return absl::InvalidArgumentError(
          absl::StrCat("more than ", kMaxPolicyAttributes, " attributes"));
    }
    for (Slot& slot : slots) {
      if (slot.seen || attribute.name != slot.name) continue;
      *slot.value = attribute.value;
      slot.seen = true;
      break;
    }
  }
  if (reader.malformed()) return absl::InvalidArgumentError(reader.error());
  if (kind != "smtpd_access_policy") {
    return absl::InvalidArgumentError(
        kind.empty()
            ? "no attribute \"request\""
            : absl::StrCat("request=", kind.substr(0, 50), " instead of smtpd_access_policy"));
  }
  if (request.protocol_state.empty()) {
    return absl::InvalidArgumentError("no attribute \"protocol_state\"");
  }
  return request;
}

std::string FormatPolicyAnswer(absl::string_view action) {
  std::string answer;
  answer.reserve(action.size() + 9);
  AppendAttribute("action", action, &answer);
  answer.push_back('\n');
  return answer;
}

absl::Status ValidatePolicyAction(absl::string_view action) {
  for (const char c : action) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      return absl::InvalidArgumentError("the action has a control character");
    }
  }
  const size_t blank = action.find(' ');
  const absl::string_view word = action.substr(0, blank);
  const absl::string_view text =
      blank == absl::string_view::npos ? "" : absl::StripAsciiWhitespace(action.substr(blank));
  const auto with_text = [&](bool needed) -> absl::Status {
    if (!needed || !text.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("\"", word, "\" needs a text after it"));
  };
  if (IsReplyCode(word)) return with_text(true);
  for (const ActionWord& known : kActionWords) {
    if (absl::EqualsIgnoreCase(word, known.word)) return with_text(known.needs_text);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", word, "\" is not an action of a policy service"));
}

}  // namespace examples

#include "posthouse/config/plain_name.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/text.h"

namespace posthouse {
namespace {

using config_internal::IsNameChar;

constexpr size_t kMaxName = 255;
constexpr absl::string_view kPunctuation = "-.+:@=,%~";

}  // namespace

absl::Status CheckPlainName(absl::string_view name) {
  if (name.empty()) return absl::InvalidArgumentError("empty name");
  if (name == "." || name == "..")
    return absl::InvalidArgumentError("\".\" and \"..\" are no names");
  if (name.size() > kMaxName) {
    return absl::InvalidArgumentError(
        absl::StrCat("name of ", name.size(), " bytes; the limit is ", kMaxName));
  }
  for (const char c : name) {
    if (c == '/') return absl::InvalidArgumentError("\"/\" is not allowed in this name");
    if (!IsNameChar(c) && kPunctuation.find(c) == absl::string_view::npos) {
      return absl::InvalidArgumentError("a character that is not allowed in a name");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckServiceName(absl::string_view name) {
  if (name.size() > kMaxName) {
    return absl::InvalidArgumentError(
        absl::StrCat("name of ", name.size(), " bytes; the limit is ", kMaxName));
  }
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    const absl::Status plain = CheckPlainName(part);
    if (!plain.ok()) return plain;
  }
  return absl::OkStatus();
}

}  // namespace posthouse

#include "posthouse/config/text.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace posthouse {
namespace config_internal {

absl::string_view TrimLeft(absl::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  return text;
}

absl::string_view TrimRight(absl::string_view text) {
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

std::string Quoted(absl::string_view text) {
  std::string out = "\"";
  for (char c : text.substr(0, kMaxQuotedBytes)) out += (c >= ' ' && c <= '~') ? c : '?';
  out += text.size() > kMaxQuotedBytes ? "...\"" : "\"";
  return out;
}

NumberPrefix ParseNumberPrefix(absl::string_view text) {
  NumberPrefix result;
  size_t at = text.size() - TrimLeft(text).size();
  const bool negative = at < text.size() && text[at] == '-';
  if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
  const size_t digits = at;
  for (; at < text.size() && IsDigit(text[at]); ++at) {
    const int64_t digit = negative ? '0' - text[at] : text[at] - '0';
    result.overflow = result.overflow || __builtin_mul_overflow(result.value, 10, &result.value) ||
                      __builtin_add_overflow(result.value, digit, &result.value);
  }
  result.length = at == digits ? 0 : at;
  return result;
}

void BoundedReports::Add(std::string message) {
  if (messages_.size() < static_cast<size_t>(kMaxReports)) {
    messages_.push_back(std::move(message));
  } else {
    ++left_out_;
  }
}

std::vector<std::string> BoundedReports::Take() {
  if (left_out_ > 0) messages_.push_back(absl::StrCat("and ", left_out_, " more ", what_));
  left_out_ = 0;
  return std::exchange(messages_, {});
}

}  // namespace config_internal
}  // namespace posthouse

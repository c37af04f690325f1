// Small text helpers that the parsers of configuration share, in this folder and in src/master; not
// for use outside of them.

#ifndef POSTHOUSE_CONFIG_TEXT_H_
#define POSTHOUSE_CONFIG_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace posthouse {
namespace config_internal {

// At most this many bytes of foreign text are quoted in a message (F111).
inline constexpr size_t kMaxQuotedBytes = 100;
// At most this many problems of one kind are reported one by one; the rest is counted (F118, F124).
inline constexpr int kMaxReports = 50;

// Space, tab, CR, LF, VT, FF (C11), whatever the locale says.
inline bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
inline bool IsDigit(char c) { return c >= '0' && c <= '9'; }
// A character of a name that can be referenced (C22).
inline bool IsNameChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || IsDigit(c) || c == '_';
}

absl::string_view TrimLeft(absl::string_view text);
absl::string_view TrimRight(absl::string_view text);

// `text` in double quotes, control and non-ASCII bytes replaced by '?', cut with "..." behind it
// when it is longer than kMaxQuotedBytes.
std::string Quoted(absl::string_view text);

// What strtol() in base 10 makes of the start of `text`: optional white space, an optional sign,
// digits. `length` is what it took, 0 when there is no digit; `overflow` when the number does not
// fit (F113).
struct NumberPrefix {
  int64_t value = 0;
  size_t length = 0;
  bool overflow = false;
};
NumberPrefix ParseNumberPrefix(absl::string_view text);

// Collects messages up to a limit and then only counts.
class BoundedReports {
 public:
  explicit BoundedReports(std::string what_is_left_out) : what_(std::move(what_is_left_out)) {}
  void Add(std::string message);
  bool empty() const { return messages_.empty(); }
  // The messages, with a last one about those that were left out.
  std::vector<std::string> Take();

 private:
  std::string what_;
  std::vector<std::string> messages_;
  size_t left_out_ = 0;
};

}  // namespace config_internal
}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_TEXT_H_

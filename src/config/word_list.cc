#include "posthouse/config/word_list.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/config/text.h"

namespace posthouse {
namespace {

using config_internal::Quoted;
using config_internal::TrimLeft;
using config_internal::TrimRight;

bool IsOneOf(char c, absl::string_view set) { return set.find(c) != absl::string_view::npos; }

// False when nothing but separators is left.
bool SkipSeparators(absl::string_view* rest, absl::string_view separators) {
  while (!rest->empty() && IsOneOf(rest->front(), separators)) rest->remove_prefix(1);
  return !rest->empty();
}

absl::string_view TakeWord(absl::string_view* rest, size_t length) {
  const absl::string_view word = rest->substr(0, length);
  rest->remove_prefix(length);
  return word;
}

}  // namespace

absl::optional<absl::string_view> NextWord(absl::string_view* rest, absl::string_view separators) {
  if (!SkipSeparators(rest, separators)) return absl::nullopt;
  size_t length = 0;
  while (length < rest->size() && !IsOneOf((*rest)[length], separators)) ++length;
  return TakeWord(rest, length);
}

absl::optional<absl::string_view> NextBracedWord(absl::string_view* rest,
                                                 absl::string_view separators) {
  if (!SkipSeparators(rest, separators)) return absl::nullopt;
  size_t depth = 0;
  size_t length = 0;
  for (; length < rest->size(); ++length) {
    const char c = (*rest)[length];
    if (c == '{') {
      ++depth;
    } else if (c == '}' && depth > 0) {
      --depth;
    } else if (depth == 0 && IsOneOf(c, separators)) {
      break;
    }
  }
  return TakeWord(rest, length);
}

absl::StatusOr<std::string> StripBraces(absl::string_view word) {
  if (word.empty() || word.front() != '{') return std::string(word);
  size_t depth = 0;
  size_t end = 0;  // behind the brace that closes the first one
  for (size_t at = 0; at < word.size() && end == 0; ++at) {
    if (word[at] == '{') ++depth;
    if (word[at] == '}' && --depth == 0) end = at + 1;
  }
  if (end == 0) return absl::InvalidArgumentError(absl::StrCat("no \"}\" closes ", Quoted(word)));
  if (end < word.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("text behind the closing \"}\" in ", Quoted(word)));
  }
  return std::string(TrimRight(TrimLeft(word.substr(1, end - 2))));
}

absl::StatusOr<std::vector<std::string>> SplitBracedList(absl::string_view text) {
  std::vector<std::string> words;
  while (const absl::optional<absl::string_view> word = NextBracedWord(&text, kCommaAndBlanks)) {
    absl::StatusOr<std::string> stripped = StripBraces(*word);
    if (!stripped.ok()) return stripped.status();
    words.push_back(*std::move(stripped));
  }
  return words;
}

}  // namespace posthouse

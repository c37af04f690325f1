// Words in which braces keep blanks together (M41, M42, C76): the arguments of master.cf and the
// lists of main.cf that may hold any text.
//
//   absl::string_view rest = "-o { a = b c } x={1 2}";
//   while (absl::optional<absl::string_view> word = NextBracedWord(&rest, kBlanks)) ...
//   // "-o", "{ a = b c }", "x={1 2}"
//   StripBraces("{ a = b c }")  // "a = b c"
//
// Quotes, backslashes and "$" mean nothing. Thread: any.

#ifndef POSTHOUSE_CONFIG_WORD_LIST_H_
#define POSTHOUSE_CONFIG_WORD_LIST_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace posthouse {

inline constexpr absl::string_view kBlanks = " \t\r\n";  // M32
inline constexpr absl::string_view kCommaAndBlanks = ", \t\r\n";

// The next word of `rest`, which is left behind it; nothing at the end. Braces mean nothing here.
absl::optional<absl::string_view> NextWord(absl::string_view* rest, absl::string_view separators);
// The same, but separators inside braces, at any place of the word, do not end it. A brace that is
// never closed takes all that follows.
absl::optional<absl::string_view> NextBracedWord(absl::string_view* rest,
                                                 absl::string_view separators);

// A word that starts with "{" loses the outer braces and the white space just inside; others stay
// as they are. kInvalidArgument quotes the word: no closing brace, or text behind it.
absl::StatusOr<std::string> StripBraces(absl::string_view word);

// All words of a list such as import_environment, split at commas and blanks, without their braces.
absl::StatusOr<std::vector<std::string>> SplitBracedList(absl::string_view text);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_WORD_LIST_H_

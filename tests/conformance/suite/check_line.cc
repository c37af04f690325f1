#include "tests/conformance/suite/check_line.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace posthouse::conformance {
namespace {

constexpr size_t kMaxBriefFailure = 600;

// "P15", "MO3", "EO12".
bool IsStatement(absl::string_view text) {
  size_t letters = 0;
  while (letters < text.size() && absl::ascii_isupper(text[letters])) ++letters;
  if (letters == 0 || letters > 2 || letters == text.size()) return false;
  for (char c : text.substr(letters)) {
    if (!absl::ascii_isdigit(c)) return false;
  }
  return true;
}

bool BeginsWord(absl::string_view text, size_t at) {
  if (at == 0) return true;
  const char before = text[at - 1], here = text[at];
  if (absl::ascii_isdigit(before) != absl::ascii_isdigit(here)) return true;
  if (!absl::ascii_isupper(here)) return false;
  if (!absl::ascii_isupper(before)) return true;
  // The last capital of a run belongs to the word that follows: TAKEN|Is.
  return at + 1 < text.size() && absl::ascii_islower(text[at + 1]);
}

std::string Sentence(absl::string_view name) {
  std::vector<std::string> words;
  for (size_t i = 0; i < name.size(); ++i) {
    if (BeginsWord(name, i)) words.emplace_back();
    words.back() += name[i];
  }
  for (std::string& word : words) {
    const bool capitals = word.size() > 1 && absl::ascii_isupper(word[1]);
    if (!capitals) absl::AsciiStrToLower(&word);
  }
  return absl::StrJoin(words, " ");
}

std::string OneLine(absl::string_view text) {
  std::vector<absl::string_view> words =
      absl::StrSplit(text, absl::ByAnyChar(" \t\n"), absl::SkipEmpty());
  return absl::StrJoin(words, " ");
}

// "Value of: expression", "  Actual: value", "Expected: value", in any order, and other lines.
std::string Compare(absl::string_view message) {
  std::string value, actual, expected;
  std::vector<absl::string_view> others;
  for (absl::string_view line : absl::StrSplit(message, '\n')) {
    absl::string_view text = absl::StripLeadingAsciiWhitespace(line);
    if (absl::ConsumePrefix(&text, "Value of: ")) {
      value = std::string(text);
    } else if (absl::ConsumePrefix(&text, "Actual: ")) {
      actual = std::string(text);
    } else if (absl::ConsumePrefix(&text, "Expected: ")) {
      expected = std::string(text);
    } else {
      others.push_back(text);
    }
  }
  return OneLine(
      absl::StrCat("expected ", expected, ", got ", actual, " (",
                   absl::StrJoin(others, " ").empty() ? value : absl::StrJoin(others, " "), ")"));
}

// "Expected equality of these values:\n  expression\n    Which is: value\n  ...": two values.
std::vector<std::string> EqualValues(absl::string_view message, std::string* rest) {
  std::vector<std::string> values;
  std::vector<std::string> others;
  for (absl::string_view line : absl::StrSplit(message, '\n')) {
    absl::string_view text = absl::StripLeadingAsciiWhitespace(line);
    const size_t indent = line.size() - text.size();
    if (absl::ConsumePrefix(&text, "Which is: ") && !values.empty()) {
      values.back() = std::string(text);
    } else if (indent == 2 && values.size() < 2) {
      values.emplace_back(text);
    } else if (!text.empty() && !absl::StartsWith(text, "Expected equality")) {
      others.emplace_back(text);
    }
  }
  *rest = OneLine(absl::StrJoin(others, " "));
  return values;
}

}  // namespace

std::string CheckTitle(absl::string_view test_name) {
  std::vector<std::string> parts;
  std::vector<absl::string_view> tokens = absl::StrSplit(test_name, '_');
  size_t statements = 0;
  while (statements < tokens.size() && IsStatement(tokens[statements])) {
    parts.emplace_back(tokens[statements++]);
  }
  for (size_t i = statements; i < tokens.size(); ++i) parts.push_back(Sentence(tokens[i]));
  return absl::StrJoin(parts, " ");
}

std::string BriefFailure(absl::string_view message) {
  std::string brief;
  if (absl::StartsWith(message, "Expected equality of these values:")) {
    std::string rest;
    const std::vector<std::string> values = EqualValues(message, &rest);
    if (values.size() == 2) brief = absl::StrCat("expected ", values[1], ", got ", values[0]);
    if (!brief.empty() && !rest.empty()) absl::StrAppend(&brief, " (", rest, ")");
  } else if (absl::StartsWith(message, "Value of: ")) {
    brief = Compare(message);
  }
  if (brief.empty()) brief = OneLine(message);
  if (brief.size() > kMaxBriefFailure) brief = brief.substr(0, kMaxBriefFailure) + "...";
  return brief;
}

std::string FilterFor(absl::string_view prefix, absl::string_view wanted) {
  if (IsStatement(wanted)) {
    return absl::StrCat(prefix, "*.", wanted, "_*:", prefix, "*_", wanted, "_*");
  }
  return absl::StrCat(prefix, "*", wanted, "*");
}

}  // namespace posthouse::conformance

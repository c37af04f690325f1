#include "posthouse/config/expand.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/text.h"

namespace posthouse {
namespace {

using config_internal::IsDigit;
using config_internal::IsNameChar;
using config_internal::NumberPrefix;
using config_internal::ParseNumberPrefix;
using config_internal::Quoted;
using config_internal::TrimLeft;
using config_internal::TrimRight;

// A message about a chain names at most this many of its members, half of them from each end.
constexpr size_t kMaxNamedMembers = 12;
constexpr size_t kMaxNameInChain = 40;

constexpr int kLevelPartBits = 10;
constexpr int64_t kMaxMinorLevel = (1 << kLevelPartBits) - 1;
constexpr int64_t kMaxMajorLevel = INT64_MAX >> (2 * kLevelPartBits);

// One reference under way, for messages and for finding cycles.
struct ChainMember {
  absl::string_view name;
  const ParameterEntry* entry;
};

std::string ChainText(const std::vector<ChainMember>& chain) {
  std::vector<std::string> names;
  for (size_t i = 0; i < chain.size(); ++i) {
    if (chain.size() > kMaxNamedMembers && i == kMaxNamedMembers / 2) {
      names.push_back(absl::StrCat("... ", chain.size() - kMaxNamedMembers, " more ..."));
      i = chain.size() - kMaxNamedMembers / 2;
    }
    names.push_back(absl::StrCat("$", chain[i].name.substr(0, kMaxNameInChain)));
  }
  return absl::StrJoin(names, " -> ");
}

enum class Comparison { kEqual, kNotEqual, kLess, kLessOrEqual, kGreater, kGreaterOrEqual };

absl::StatusOr<Comparison> ParseComparison(absl::string_view op) {
  if (op == "==") return Comparison::kEqual;
  if (op == "!=") return Comparison::kNotEqual;
  if (op == "<") return Comparison::kLess;
  if (op == "<=") return Comparison::kLessOrEqual;
  if (op == ">") return Comparison::kGreater;
  if (op == ">=") return Comparison::kGreaterOrEqual;
  return absl::InvalidArgumentError("unknown operator");
}

// `order` is negative, zero or positive as left is less than, equal to or greater than right.
bool Holds(Comparison comparison, int order) {
  switch (comparison) {
    case Comparison::kEqual:
      return order == 0;
    case Comparison::kNotEqual:
      return order != 0;
    case Comparison::kLess:
      return order < 0;
    case Comparison::kLessOrEqual:
      return order <= 0;
    case Comparison::kGreater:
      return order > 0;
    case Comparison::kGreaterOrEqual:
      return order >= 0;
  }
  return false;
}

int Order(int64_t left, int64_t right) { return left < right ? -1 : left > right ? 1 : 0; }

bool AllDigits(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), IsDigit);
}

// C33 without the level form.
absl::StatusOr<int> CompareTexts(absl::string_view left, absl::string_view right) {
  if (!AllDigits(left) || !AllDigits(right)) return left.compare(right);
  const NumberPrefix a = ParseNumberPrefix(left);
  const NumberPrefix b = ParseNumberPrefix(right);
  if (a.overflow || b.overflow) {
    return absl::InvalidArgumentError(
        absl::StrCat("number too large to compare: ", Quoted(a.overflow ? left : right)));
  }
  return Order(a.value, b.value);
}

absl::StatusOr<int> CompareLevels(absl::string_view left, absl::string_view right) {
  const absl::StatusOr<int64_t> a = ParseCompatibilityLevel(left);
  if (!a.ok()) return a.status();
  const absl::StatusOr<int64_t> b = ParseCompatibilityLevel(right);
  if (!b.ok()) return b.status();
  return Order(*a, *b);
}

// The text up to the bracket that closes the one in front of it, counting only this kind of bracket
// (C25); npos when there is none.
size_t FindCloser(absl::string_view text, char opener, char closer) {
  int open = 1;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == opener) ++open;
    if (text[at] == closer && --open == 0) return at;
  }
  return absl::string_view::npos;
}

class Expander {
 public:
  explicit Expander(const ParameterStore& store) : store_(store) {}

  // Appends the expansion of `text` to `*out`. Recursion goes through here and ExpandInside(), so
  // its depth is that of depth_.
  absl::Status ExpandText(absl::string_view text, std::string* out);

  // The value of a name that the caller found; `*out` must outlive nothing.
  absl::Status ExpandEntry(absl::string_view name, const ParameterEntry& entry, std::string* out);

  size_t cost() const { return cost_; }

 private:
  // The two arms of a conditional; an absent one is empty.
  struct Arms {
    absl::string_view first;
    absl::string_view second;
  };

  absl::Status Error(absl::string_view sentence, absl::string_view place) const;
  absl::Status StartPiece(absl::string_view piece);
  absl::Status TakeReference(absl::string_view* rest, std::string* out);
  absl::Status ExpandInside(absl::string_view text, std::string* out);
  absl::Status ExpandPlain(absl::string_view name, std::string* out);
  absl::Status ExpandBracketed(absl::string_view content, std::string* out);
  absl::Status ExpandConditional(bool test, absl::string_view tail, std::string* out);
  absl::StatusOr<absl::string_view> TakeBraced(absl::string_view* rest) const;
  absl::StatusOr<Arms> ParseArms(char op, absl::string_view operands) const;
  absl::StatusOr<bool> TakeComparison(absl::string_view* rest);
  absl::StatusOr<bool> Compare(absl::string_view op, absl::string_view suffix,
                               absl::string_view left, absl::string_view right,
                               absl::string_view place);

  const ParameterStore& store_;
  int depth_ = 0;
  size_t cost_ = 0;
  std::vector<ChainMember> chain_;
};

absl::Status Expander::Error(absl::string_view sentence, absl::string_view place) const {
  std::string message = absl::StrCat(sentence, " at ", Quoted(place));
  if (!chain_.empty()) {
    const ChainMember& innermost = chain_.back();
    absl::StrAppend(&message, " in the value of ", innermost.name.substr(0, kMaxNameInChain), " (",
                    innermost.entry->origin, ")");
  }
  return absl::InvalidArgumentError(message);
}

// Every literal piece and every reference is counted and stands one level deeper than the text it
// is part of (C38).
absl::Status Expander::StartPiece(absl::string_view piece) {
  if (depth_ >= kMaxExpansionDepth) {
    return absl::InvalidArgumentError(absl::StrCat("references are nested deeper than ",
                                                   kMaxExpansionDepth, ": ", ChainText(chain_)));
  }
  cost_ += kExpansionPieceCost + piece.size();
  if (cost_ > kMaxExpansionCost) {
    return Error("the expansion becomes too large", piece);
  }
  return absl::OkStatus();
}

absl::Status Expander::ExpandText(absl::string_view text, std::string* out) {
  std::string literal;
  while (true) {
    const size_t dollar = text.find('$');
    absl::StrAppend(&literal, text.substr(0, dollar));
    text.remove_prefix(std::min(dollar, text.size()));
    if (text.size() > 1 && text[1] == '$') {
      literal += '$';
      text.remove_prefix(2);
      continue;
    }
    if (!literal.empty()) {
      const absl::Status started = StartPiece(literal);
      if (!started.ok()) return started;
      out->append(literal);
      literal.clear();
    }
    if (text.empty()) return absl::OkStatus();
    const absl::Status taken = TakeReference(&text, out);
    if (!taken.ok()) return taken;
  }
}

// `*rest` starts with the dollar sign of a reference, which is taken off.
absl::Status Expander::TakeReference(absl::string_view* rest, std::string* out) {
  const absl::string_view place = *rest;
  rest->remove_prefix(1);
  const char opener = rest->empty() ? '\0' : rest->front();
  if (opener == '{' || opener == '(') {
    rest->remove_prefix(1);
    const size_t length = FindCloser(*rest, opener, opener == '{' ? '}' : ')');
    if (length == absl::string_view::npos) return Error("bracket without an end", place);
    const absl::string_view content = rest->substr(0, length);
    rest->remove_prefix(length + 1);
    if (content.empty()) return Error("reference without a name", place);
    const absl::Status started = StartPiece(content);
    return started.ok() ? ExpandBracketed(content, out) : started;
  }
  size_t length = 0;
  while (length < rest->size() && IsNameChar((*rest)[length])) ++length;
  if (length == 0) return Error("reference without a name", place);
  const absl::string_view name = rest->substr(0, length);
  rest->remove_prefix(length);
  const absl::Status started = StartPiece(name);
  return started.ok() ? ExpandPlain(name, out) : started;
}

absl::Status Expander::ExpandInside(absl::string_view text, std::string* out) {
  ++depth_;
  const absl::Status expanded = ExpandText(text, out);
  --depth_;
  return expanded;
}

absl::Status Expander::ExpandPlain(absl::string_view name, std::string* out) {
  const ParameterEntry* entry = store_.FindForReference(name);
  if (entry == nullptr) return absl::OkStatus();
  ++depth_;
  const absl::Status expanded = ExpandEntry(name, *entry, out);
  --depth_;
  return expanded;
}

// Nothing an expansion does changes what a value means, so a value that is met again inside of
// itself would go on for ever.
absl::Status Expander::ExpandEntry(absl::string_view name, const ParameterEntry& entry,
                                   std::string* out) {
  for (size_t i = 0; i < chain_.size(); ++i) {
    if (chain_[i].entry != &entry) continue;
    std::vector<ChainMember> cycle(chain_.begin() + i, chain_.end());
    cycle.push_back({name, &entry});
    return absl::InvalidArgumentError(absl::StrCat(
        "parameters refer to each other in a circle: ", ChainText(cycle), " (", entry.origin, ")"));
  }
  chain_.push_back({name, &entry});
  absl::Status status;
  if (!entry.final_value) {
    status = ExpandText(entry.value, out);
  } else if (!entry.value.empty()) {
    status = StartPiece(entry.value);
    if (status.ok()) out->append(entry.value);
  }
  chain_.pop_back();
  return status;
}

// What stands between the brackets of a reference.
absl::Status Expander::ExpandBracketed(absl::string_view content, std::string* out) {
  absl::string_view rest = TrimLeft(content);
  if (!rest.empty() && rest.front() == '{') {
    const absl::StatusOr<bool> test = TakeComparison(&rest);
    if (!test.ok()) return test.status();
    rest = TrimLeft(rest);
    if (rest.empty()) return *test ? ExpandInside("true", out) : absl::OkStatus();
    return ExpandConditional(*test, rest, out);
  }
  size_t length = 0;
  while (length < rest.size() && IsNameChar(rest[length])) ++length;
  const absl::string_view name = rest.substr(0, length);
  rest = TrimLeft(rest.substr(length));
  if (rest.empty()) return ExpandPlain(name, out);
  const ParameterEntry* entry = store_.FindForReference(name);
  return ExpandConditional(entry != nullptr && !entry->value.empty(), rest, out);
}

// `tail` starts where "?" or ":" has to stand.
absl::Status Expander::ExpandConditional(bool test, absl::string_view tail, std::string* out) {
  const char op = tail.front();
  if (op != '?' && op != ':') return Error("\"?\", \":\" or the end expected", tail);
  const absl::StatusOr<Arms> arms = ParseArms(op, tail.substr(1));
  if (!arms.ok()) return arms.status();
  return ExpandInside((op == '?') == test ? arms->first : arms->second, out);
}

// Takes "{text}" off the front of `*rest` and returns the text as it stands.
absl::StatusOr<absl::string_view> Expander::TakeBraced(absl::string_view* rest) const {
  const absl::string_view place = *rest;
  if (rest->empty() || rest->front() != '{') return Error("\"{\" expected", place);
  rest->remove_prefix(1);
  const size_t length = FindCloser(*rest, '{', '}');
  if (length == absl::string_view::npos) return Error("brace without an end", place);
  const absl::string_view content = rest->substr(0, length);
  rest->remove_prefix(length + 1);
  return content;
}

// C29 to C31: text without braces reaches to the end as it stands, blanks included.
absl::StatusOr<Expander::Arms> Expander::ParseArms(char op, absl::string_view operands) const {
  Arms arms;
  absl::string_view rest = TrimLeft(operands);
  if (rest.empty() || rest.front() != '{') {
    arms.first = operands;
    return arms;
  }
  absl::StatusOr<absl::string_view> braced = TakeBraced(&rest);
  if (!braced.ok()) return braced.status();
  arms.first = *braced;
  rest = TrimLeft(rest);
  if (rest.empty()) return arms;
  if (op != '?' || rest.front() != ':') return Error("text after the last operand", rest);
  arms.second = rest.substr(1);
  rest = TrimLeft(arms.second);
  if (rest.empty() || rest.front() != '{') return arms;
  braced = TakeBraced(&rest);
  if (!braced.ok()) return braced.status();
  arms.second = *braced;
  if (!TrimLeft(rest).empty()) return Error("text after the last operand", rest);
  return arms;
}

// C32: "{left} op {right}" at the front of `*rest`.
absl::StatusOr<bool> Expander::TakeComparison(absl::string_view* rest) {
  const absl::StatusOr<absl::string_view> left = TakeBraced(rest);
  if (!left.ok()) return left.status();
  *rest = TrimLeft(*rest);
  const absl::string_view place = *rest;
  size_t length = 0;
  while (length < rest->size() &&
         absl::string_view("<>=!").find((*rest)[length]) != absl::string_view::npos) {
    ++length;
  }
  const absl::string_view op = rest->substr(0, length);
  rest->remove_prefix(length);
  for (length = 0; length < rest->size() && IsNameChar((*rest)[length]);) ++length;
  const absl::string_view suffix = rest->substr(0, length);
  *rest = TrimLeft(rest->substr(length));
  const absl::StatusOr<absl::string_view> right = TakeBraced(rest);
  if (!right.ok()) return right.status();
  return Compare(op, suffix, *left, *right, place);
}

absl::StatusOr<bool> Expander::Compare(absl::string_view op, absl::string_view suffix,
                                       absl::string_view left, absl::string_view right,
                                       absl::string_view place) {
  const absl::StatusOr<Comparison> comparison = ParseComparison(op);
  if (!comparison.ok()) return Error(comparison.status().message(), place);
  if (!suffix.empty() && suffix != "level") return Error("unknown suffix of an operator", place);
  std::string left_value;
  std::string right_value;
  absl::Status expanded = ExpandInside(left, &left_value);
  if (expanded.ok()) expanded = ExpandInside(right, &right_value);
  if (!expanded.ok()) return expanded;
  const absl::StatusOr<int> order = suffix.empty() ? CompareTexts(left_value, right_value)
                                                   : CompareLevels(left_value, right_value);
  if (!order.ok()) return Error(order.status().message(), place);
  return Holds(*comparison, *order);
}

}  // namespace

absl::StatusOr<std::string> ExpandCounting(absl::string_view text, const ParameterStore& store,
                                           size_t* cost) {
  std::string out;
  Expander expander(store);
  const absl::Status expanded = expander.ExpandText(text, &out);
  *cost = expander.cost();
  if (!expanded.ok()) return expanded;
  return out;
}

absl::StatusOr<std::string> Expand(absl::string_view text, const ParameterStore& store) {
  size_t cost = 0;
  return ExpandCounting(text, store, &cost);
}

absl::StatusOr<std::string> ExpandedValue(absl::string_view name, const ParameterStore& store) {
  std::string out;
  const ParameterEntry* entry = store.FindForReference(name);
  if (entry == nullptr) return out;
  Expander expander(store);
  const absl::Status expanded = expander.ExpandEntry(name, *entry, &out);
  if (!expanded.ok()) return expanded;
  return out;
}

absl::StatusOr<int64_t> ParseCompatibilityLevel(absl::string_view text) {
  const absl::Status malformed =
      absl::InvalidArgumentError(absl::StrCat("malformed compatibility level: ", Quoted(text)));
  int64_t level = 0;
  absl::string_view rest = text;
  int parts = 0;
  while (true) {
    const NumberPrefix number = ParseNumberPrefix(rest);
    const int64_t limit = parts == 0 ? kMaxMajorLevel : kMaxMinorLevel;
    if (number.length == 0 || number.overflow || number.value < 0 || number.value > limit) {
      return malformed;
    }
    level = (level << kLevelPartBits) | number.value;
    rest.remove_prefix(number.length);
    if (++parts == 3 || rest.empty()) break;
    if (rest.front() != '.') return malformed;
    rest.remove_prefix(1);
  }
  if (!rest.empty()) return malformed;
  return level << ((3 - parts) * kLevelPartBits);
}

}  // namespace posthouse

#include "posthouse/config/service_patterns.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/config/word_list.h"

namespace posthouse {

ServicePatterns::ServicePatterns(absl::string_view list) {
  while (const absl::optional<absl::string_view> word = NextWord(&list, kCommaAndBlanks)) {
    Pattern pattern;
    absl::string_view text = *word;
    for (; !text.empty() && text.front() == '!'; text.remove_prefix(1)) {
      pattern.verdict = !pattern.verdict;
    }
    pattern.text = std::string(text);
    if (!absl::StrContains(pattern.text, '/')) {
      const size_t dot = pattern.text.rfind('.');
      if (dot != std::string::npos) pattern.text[dot] = '/';
    }
    patterns_.push_back(std::move(pattern));
  }
}

bool ServicePatterns::Matches(absl::string_view name, absl::string_view type) const {
  if (patterns_.empty()) return false;
  const std::string name_and_type = absl::StrCat(name, "/", type);
  for (const Pattern& pattern : patterns_) {
    const bool whole = absl::StrContains(pattern.text, '/');
    const absl::string_view subject = whole ? absl::string_view(name_and_type) : type;
    if (absl::EqualsIgnoreCase(subject, pattern.text)) return pattern.verdict;
  }
  return false;
}

}  // namespace posthouse

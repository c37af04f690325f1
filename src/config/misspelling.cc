#include "posthouse/config/misspelling.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "posthouse/config/text.h"

namespace posthouse {
namespace {

using config_internal::BoundedReports;
using config_internal::IsNameChar;
using config_internal::IsSpace;
using config_internal::Quoted;

// Not Abseil's, whose hash sets are broken when an allocation inside fails (F125).
using NameSet = std::unordered_set<std::string>;

// The names behind the dollar signs of a text, whatever the rest of its grammar.
void CollectReferences(absl::string_view text, NameSet* names) {
  for (size_t at = text.find('$'); at != absl::string_view::npos; at = text.find('$', at + 1)) {
    size_t start = at + 1;
    while (start < text.size() &&
           (text[start] == '{' || text[start] == '(' || IsSpace(text[start]))) {
      ++start;
    }
    size_t end = start;
    while (end < text.size() && IsNameChar(text[end])) ++end;
    if (end > start) names->insert(std::string(text.substr(start, end - start)));
  }
}

// The parameter that `name` was probably meant to be; null when there is none.
const Parameter* Neighbour(absl::string_view name, absl::Span<Parameter* const> loaded) {
  for (const Parameter* parameter : loaded) {
    if (OneEditApart(name, parameter->name())) return parameter;
  }
  return nullptr;
}

}  // namespace

bool OneEditApart(absl::string_view a, absl::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  if (b.size() - a.size() > 1) return false;
  size_t same = 0;
  while (same < a.size() && a[same] == b[same]) ++same;
  a.remove_prefix(same);
  b.remove_prefix(same);
  if (a.size() < b.size()) return a == b.substr(1);
  if (a.empty()) return false;
  if (a.substr(1) == b.substr(1)) return true;
  return a.size() > 1 && a[0] == b[1] && a[1] == b[0] && a.substr(2) == b.substr(2);
}

absl::Status ReportMisspellings(absl::Span<Parameter* const> loaded, const ParameterStore& store,
                                std::vector<std::string>* warnings) {
  NameSet known;
  for (const Parameter* parameter : loaded) known.insert(parameter->name());
  std::vector<std::pair<std::string, const Parameter*>> suspects;
  for (std::string& name : store.Names()) {
    if (known.count(name) > 0 || store.read_only(name)) continue;
    const Parameter* meant = Neighbour(name, loaded);
    if (meant != nullptr) suspects.emplace_back(std::move(name), meant);
  }
  if (suspects.empty()) return absl::OkStatus();

  NameSet used;
  for (const std::string& name : store.Names()) CollectReferences(store.Find(name)->value, &used);
  BoundedReports reports("names that look misspelt");
  for (const auto& [name, meant] : suspects) {
    if (used.count(name) > 0) continue;
    reports.Add(absl::StrCat(store.Find(name)->origin, ": unknown parameter ", Quoted(name),
                             "; did you mean ", meant->name(), "?"));
  }
  std::vector<std::string> found = reports.Take();
  if (store.strict() && !found.empty()) {
    return absl::InvalidArgumentError(absl::StrJoin(found, "\n"));
  }
  for (std::string& report : found) warnings->push_back(std::move(report));
  return absl::OkStatus();
}

}  // namespace posthouse

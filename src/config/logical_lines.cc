#include "posthouse/config/logical_lines.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/text.h"

namespace posthouse {
namespace {

using config_internal::BoundedReports;
using config_internal::IsSpace;
using config_internal::Quoted;
using config_internal::TrimLeft;

// C11.
bool IsIgnorable(absl::string_view physical_line) {
  const absl::string_view rest = TrimLeft(physical_line);
  return rest.empty() || rest.front() == '#';
}

// The original keeps lines as C strings and loses what stands after a NUL byte without a word
// (C16); the same text is lost here, with a warning.
void CutAtNul(absl::string_view file, LogicalLine* line, BoundedReports* warnings) {
  const size_t nul = line->text.find('\0');
  if (nul == std::string::npos) return;
  line->text.resize(nul);
  warnings->Add(absl::StrCat(LinePlace(file, line->line),
                             ": NUL byte; it and the rest of the logical line are ignored"));
}

}  // namespace

std::string LinePlace(absl::string_view file, int line) {
  return absl::StrCat(file, ", line ", line);
}

LogicalLines SplitLogicalLines(absl::string_view file, absl::string_view text) {
  LogicalLines result;
  BoundedReports warnings("lines with a NUL byte");
  int number = 0;
  while (!text.empty()) {
    ++number;
    const size_t newline = text.find('\n');
    const absl::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == absl::string_view::npos ? text.size() : newline + 1);
    if (IsIgnorable(line)) continue;
    if (IsSpace(line.front()) && !result.lines.empty()) {
      absl::StrAppend(&result.lines.back().text, line);
    } else {
      result.lines.push_back({number, std::string(line)});
    }
  }
  for (LogicalLine& line : result.lines) CutAtNul(file, &line, &warnings);
  if (!result.lines.empty() && IsSpace(result.lines.front().text.c_str()[0])) {  // C15
    const LogicalLine& first = result.lines.front();
    result.warnings.push_back(
        absl::StrCat(LinePlace(file, first.line),
                     ": the first line starts with white space and continues nothing; ",
                     "ignored: ", Quoted(TrimLeft(first.text))));
    result.lines.erase(result.lines.begin());
  }
  for (std::string& warning : warnings.Take()) result.warnings.push_back(std::move(warning));
  return result;
}

}  // namespace posthouse

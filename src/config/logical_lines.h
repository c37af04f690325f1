// The lines of main.cf and master.cf (C10 to C16, M30, M31).
//
//   LogicalLines split = SplitLogicalLines("/etc/postfix/master.cf", text);
//
// Works on a text without files or globals, so that any byte string can be tried (F118). What it
// costs is linear in the size of the text.

#ifndef POSTHOUSE_CONFIG_LOGICAL_LINES_H_
#define POSTHOUSE_CONFIG_LOGICAL_LINES_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace posthouse {

// A line of the file as the parsers see it (C10 to C15).
struct LogicalLine {
  int line = 0;      // the first physical line, from 1 (C16)
  std::string text;  // continuations appended as they are (C12)
};

struct LogicalLines {
  std::vector<LogicalLine> lines;
  std::vector<std::string> warnings;  // "FILE, line 1: ...", for example C15; a bounded number
};
LogicalLines SplitLogicalLines(absl::string_view file, absl::string_view text);

// "FILE, line 12", as every message about a line begins (C16, M32).
std::string LinePlace(absl::string_view file, int line);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_LOGICAL_LINES_H_

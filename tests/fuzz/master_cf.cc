// Fuzz target: any bytes as master.cf (F118). Besides crashes and sanitizer reports it looks for
// broken promises of master_cf.h: a refused text has a bounded number of problems, each with its
// line; an accepted one has fields within their ranges, and printing the entries and reading them
// again changes nothing.
//
// The first byte is not text: its bits choose the options.

#include "posthouse/config/master_cf.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/base/check.h"
#include "posthouse/config/plain_name.h"
#include "posthouse/config/word_list.h"
#include "posthouse/master/inet_name.h"

namespace posthouse {
namespace {

constexpr char kFile[] = "f";
constexpr size_t kMaxMessage = 64 << 10;

void CheckRefusal(const absl::Status& status) {
  POSTHOUSE_CHECK(absl::IsInvalidArgument(status), "a refusal is an invalid argument");
  POSTHOUSE_CHECK(status.message().size() <= kMaxMessage, "a refusal is bounded");
  for (const absl::string_view problem : absl::StrSplit(status.message(), '\n')) {
    POSTHOUSE_CHECK(absl::StartsWith(problem, "f, line ") || absl::StartsWith(problem, "and "),
                    "a problem names file and line");
  }
}

void CheckEntry(const MasterCfEntry& entry) {
  POSTHOUSE_CHECK(!entry.name.empty() && entry.line > 0, "an entry has a name and a line");
  POSTHOUSE_CHECK(CheckPlainName(entry.command).ok(), "a command is a plain name");
  POSTHOUSE_CHECK(entry.process_limit >= 0 && entry.wake_up_seconds >= 0,
                  "numbers are not negative");
  POSTHOUSE_CHECK(!entry.wake_up_conditional || entry.wake_up_seconds > 0,
                  "a conditional wake-up has a time");
  if (entry.type == ServiceType::kInet) {
    POSTHOUSE_CHECK(!entry.is_private, "an inet service is public");
    const absl::StatusOr<InetName> name = ParseInetName(entry.name);
    POSTHOUSE_CHECK(!name.ok() || !name->port.empty(), "an inet name has a port");
  } else {
    POSTHOUSE_CHECK(CheckServiceName(entry.name).ok(), "a name stays in its directory");
  }
}

// As master.cf spells it: in braces what would else be split or lose its own braces.
std::string PrintedArgument(absl::string_view argument) {
  absl::string_view rest = argument;
  const absl::optional<absl::string_view> word = NextBracedWord(&rest, kBlanks);
  const bool bare = word == argument && argument.front() != '{';
  return bare ? std::string(argument) : absl::StrCat("{ ", argument, " }");
}

std::string Printed(const MasterCf& table) {
  std::string text;
  for (const MasterCfEntry& entry : table.entries) {
    absl::StrAppend(
        &text, entry.name, " ", ServiceTypeName(entry.type), entry.is_private ? " y" : " n",
        entry.unprivileged ? " y" : " n", entry.chroot ? " y " : " n ", entry.wake_up_seconds,
        entry.wake_up_conditional ? "? " : " ", entry.process_limit, " ", entry.command);
    for (const std::string& argument : entry.arguments) {
      absl::StrAppend(&text, " ", PrintedArgument(argument));
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

MasterCfOptions OptionsFrom(uint8_t bits) {
  MasterCfOptions options;
  options.default_process_limit = (bits & 1) != 0 ? 100 : 1;
  options.chroot_by_default = (bits & 2) != 0;
  options.allow_empty = (bits & 4) != 0;
  options.strict = (bits & 8) != 0;
  if ((bits & 16) != 0) options.disabled = "fifo !a.unix unix";
  return options;
}

void Try(uint8_t bits, absl::string_view text) {
  const absl::StatusOr<MasterCf> table = ParseMasterCf(kFile, text, OptionsFrom(bits));
  SplitBracedList(text).status().IgnoreError();
  if (!table.ok()) {
    CheckRefusal(table.status());
    return;
  }
  for (const MasterCfEntry& entry : table->entries) CheckEntry(entry);
  const std::string printed = Printed(*table);
  MasterCfOptions plain;
  plain.allow_empty = true;
  plain.strict = true;
  const absl::StatusOr<MasterCf> again = ParseMasterCf(kFile, printed, plain);
  POSTHOUSE_CHECK(again.ok(), "what was printed is accepted");
  POSTHOUSE_CHECK(Printed(*again) == printed, "what was printed means the same");
  POSTHOUSE_CHECK(again->entries.size() == table->entries.size(), "no entry is lost");
  for (size_t i = 0; i < again->entries.size(); ++i) {
    POSTHOUSE_CHECK(again->entries[i].arguments == table->entries[i].arguments,
                    "arguments are the same");
  }
}

}  // namespace
}  // namespace posthouse

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  posthouse::Try(data[0], absl::string_view(reinterpret_cast<const char*>(data + 1), size - 1));
  return 0;
}

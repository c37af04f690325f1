#include "posthouse/config/master_cf.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/config/logical_lines.h"
#include "posthouse/config/plain_name.h"
#include "posthouse/config/service_patterns.h"
#include "posthouse/config/text.h"
#include "posthouse/config/word_list.h"
#include "posthouse/io/unix_address.h"

namespace posthouse {
namespace {

using config_internal::BoundedReports;
using config_internal::IsDigit;
using config_internal::NumberPrefix;
using config_internal::ParseNumberPrefix;
using config_internal::Quoted;

constexpr struct {
  ServiceType type;
  absl::string_view name;
} kTypes[] = {
    {ServiceType::kInet, "inet"},
    {ServiceType::kUnix, "unix"},
    {ServiceType::kFifo, "fifo"},
    {ServiceType::kPass, "pass"},
    {ServiceType::kUnixDgram, "unix-dgram"},
};

absl::optional<ServiceType> FindType(absl::string_view name) {
  for (const auto& row : kTypes) {
    if (row.name == name) return row.type;
  }
  return absl::nullopt;
}

// Reads all entries of one file and remembers what is wrong with them.
class Reader {
 public:
  Reader(absl::string_view file, const MasterCfOptions& options)
      : file_(file), options_(options), disabled_(options.disabled) {}

  absl::StatusOr<MasterCf> Run(absl::string_view text);

 private:
  // The entry under work; false when it is not to be kept.
  bool ReadEntry(MasterCfEntry* entry);
  bool ReadIdentity(MasterCfEntry* entry, std::string* type);
  void ReadArguments(MasterCfEntry* entry);

  // The next field; nothing, with an error, when the line has no more of them (M33).
  absl::optional<absl::string_view> Field(absl::string_view title);
  bool ReadFlag(absl::string_view title, bool default_value, bool* flag,
                bool* by_default = nullptr);
  // `field` is the whole text, `number` what its digits say.
  bool ParseNumber(absl::string_view title, absl::string_view field, NumberPrefix* number);
  void TextBehindNumber(absl::string_view title, absl::string_view field);
  bool ReadWakeUp(MasterCfEntry* entry);
  bool ReadProcessLimit(int* limit);
  bool ReadCommand(std::string* command);
  void CheckName(const MasterCfEntry& entry);

  void Error(absl::string_view sentence) { errors_.Add(absl::StrCat(place_, ": ", sentence)); }
  // `field` cannot be used.
  void BadField(absl::string_view title, absl::string_view field, absl::string_view why) {
    Error(absl::StrCat("field ", Quoted(title), ": ", why, ": ", Quoted(field)));
  }

  absl::string_view file_;
  const MasterCfOptions& options_;
  ServicePatterns disabled_;
  MasterCf table_;
  BoundedReports errors_{"problems"};
  BoundedReports warnings_{"numbers with text behind them"};
  BoundedReports notes_{"entries with an old default"};

  // Of the line under work.
  std::string place_;
  absl::string_view rest_;
};

absl::optional<absl::string_view> Reader::Field(absl::string_view title) {
  const absl::optional<absl::string_view> field = NextWord(&rest_, kBlanks);
  if (!field.has_value()) Error(absl::StrCat("missing field ", Quoted(title)));
  return field;
}

bool Reader::ReadFlag(absl::string_view title, bool default_value, bool* flag, bool* by_default) {
  const absl::optional<absl::string_view> field = Field(title);
  if (!field.has_value()) return false;
  if (*field != "y" && *field != "n" && *field != "-") {
    BadField(title, *field, "neither \"y\" nor \"n\" nor \"-\"");  // M35
  }
  *flag = *field == "-" ? default_value : *field == "y";
  if (by_default != nullptr) *by_default = *field == "-";
  return true;
}

bool Reader::ParseNumber(absl::string_view title, absl::string_view field, NumberPrefix* number) {
  if (!IsDigit(field.front())) {
    BadField(title, field, "no number");
    return false;
  }
  *number = ParseNumberPrefix(field);
  if (number->overflow || number->value > std::numeric_limits<int>::max()) {  // F113
    BadField(title, field, absl::StrCat("more than ", std::numeric_limits<int>::max()));
    return false;
  }
  return true;
}

// MO1: the original ignores it without a word.
void Reader::TextBehindNumber(absl::string_view title, absl::string_view field) {
  if (options_.strict) {
    BadField(title, field, "text behind the number");
    return;
  }
  warnings_.Add(absl::StrCat(place_, ": field ", Quoted(title),
                             ": the text behind the number is ignored: ", Quoted(field)));
}

bool Reader::ReadWakeUp(MasterCfEntry* entry) {
  const absl::optional<absl::string_view> field = Field("wakeup_time");
  if (!field.has_value()) return false;
  NumberPrefix number;
  if (*field == "-" || !ParseNumber("wakeup_time", *field, &number)) return true;
  entry->wake_up_seconds = static_cast<int>(number.value);
  absl::string_view behind = field->substr(number.length);
  const bool conditional = !behind.empty() && behind.back() == '?';  // M36
  if (conditional) behind.remove_suffix(1);
  entry->wake_up_conditional = conditional && entry->wake_up_seconds > 0;
  if (!behind.empty()) TextBehindNumber("wakeup_time", *field);
  return true;
}

bool Reader::ReadProcessLimit(int* limit) {
  const absl::optional<absl::string_view> field = Field("max_proc");
  if (!field.has_value()) return false;
  *limit = options_.default_process_limit;
  NumberPrefix number;
  if (*field == "-" || !ParseNumber("max_proc", *field, &number)) return true;
  *limit = static_cast<int>(number.value);
  if (number.length < field->size()) TextBehindNumber("max_proc", *field);
  return true;
}

bool Reader::ReadCommand(std::string* command) {
  const absl::optional<absl::string_view> field = Field("command");
  if (!field.has_value()) return false;
  if (*field == "-") {
    BadField("command", *field, "it has no default");  // M34
    return true;
  }
  const absl::Status plain = CheckPlainName(*field);  // F115
  if (!plain.ok()) BadField("command", *field, plain.message());
  *command = std::string(*field);
  return true;
}

void Reader::ReadArguments(MasterCfEntry* entry) {
  while (const absl::optional<absl::string_view> word = NextBracedWord(&rest_, kBlanks)) {
    absl::StatusOr<std::string> argument = StripBraces(*word);
    if (argument.ok()) {
      entry->arguments.push_back(*std::move(argument));
    } else {
      Error(absl::StrCat("argument: ", argument.status().message()));
    }
  }
}

// What can be said about the name without asking the system.
void Reader::CheckName(const MasterCfEntry& entry) {
  if (entry.type == ServiceType::kInet) {
    if (entry.is_private) Error("a service of type inet cannot be private");  // M45
    return;
  }
  absl::Status usable = CheckServiceName(entry.name);
  if (usable.ok() && entry.type != ServiceType::kFifo) usable = CheckSocketPath(ServicePath(entry));
  if (!usable.ok()) BadField("service name", entry.name, usable.message());
}

// False for an entry that ends here: one that is disabled, or whose fields mean nothing.
bool Reader::ReadIdentity(MasterCfEntry* entry, std::string* type) {
  const absl::optional<absl::string_view> name = NextWord(&rest_, kBlanks);
  if (!name.has_value()) return false;  // Nothing but what a NUL byte cut off (C16).
  entry->name = std::string(*name);
  const absl::optional<absl::string_view> field = Field("transport type");
  if (!field.has_value()) return false;
  *type = std::string(*field);
  if (*type == "-") {
    BadField("transport type", *type, "it has no default");  // M34
    return false;
  }
  if (disabled_.Matches(entry->name, *type)) {
    ++table_.disabled;
    return false;
  }
  return true;
}

bool Reader::ReadEntry(MasterCfEntry* entry) {
  std::string type;
  if (!ReadIdentity(entry, &type)) return false;
  const absl::optional<ServiceType> known = FindType(type);
  if (!known.has_value()) {
    BadField("transport type", type, "none of inet, unix, fifo, pass, unix-dgram");
  }
  entry->type = known.value_or(ServiceType::kUnix);
  if (!ReadFlag("private", true, &entry->is_private)) return false;
  if (known.has_value()) CheckName(*entry);
  if (!ReadFlag("unprivileged", true, &entry->unprivileged)) return false;
  bool by_default = false;
  if (!ReadFlag("chroot", options_.chroot_by_default, &entry->chroot, &by_default)) return false;
  if (by_default && options_.chroot_by_default) {
    notes_.Add(absl::StrCat(place_, ": using backwards-compatible default setting chroot=y"));
  }
  if (!ReadWakeUp(entry)) return false;
  if (!ReadProcessLimit(&entry->process_limit)) return false;
  if (!ReadCommand(&entry->command)) return false;
  ReadArguments(entry);
  return true;
}

absl::StatusOr<MasterCf> Reader::Run(absl::string_view text) {
  LogicalLines split = SplitLogicalLines(file_, text);
  for (const LogicalLine& line : split.lines) {
    place_ = LinePlace(file_, line.line);
    rest_ = line.text;
    MasterCfEntry entry;
    entry.line = line.line;
    if (ReadEntry(&entry)) table_.entries.push_back(std::move(entry));
  }
  if (errors_.empty() && table_.entries.empty() && table_.disabled == 0 && !options_.allow_empty) {
    errors_.Add(absl::StrCat(LinePlace(file_, 1), ": no entry in the whole file"));
  }
  if (!errors_.empty()) return absl::InvalidArgumentError(absl::StrJoin(errors_.Take(), "\n"));
  table_.warnings = std::move(split.warnings);
  for (std::string& warning : warnings_.Take()) table_.warnings.push_back(std::move(warning));
  table_.notes = notes_.Take();
  return std::move(table_);
}

}  // namespace

absl::string_view ServiceTypeName(ServiceType type) {
  for (const auto& row : kTypes) {
    if (row.type == type) return row.name;
  }
  return "unknown";
}

std::string MasterCfEntry::Title() const { return absl::StrCat(name, " ", ServiceTypeName(type)); }

std::string ServicePath(const MasterCfEntry& entry) {
  return absl::StrCat(entry.is_private ? "private/" : "public/", entry.name);
}

absl::StatusOr<MasterCf> ParseMasterCf(absl::string_view file, absl::string_view text,
                                       const MasterCfOptions& options) {
  return Reader(file, options).Run(text);
}

}  // namespace posthouse

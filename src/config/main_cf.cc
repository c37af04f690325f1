#include "posthouse/config/main_cf.h"

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/config_file.h"
#include "posthouse/config/logical_lines.h"
#include "posthouse/config/text.h"

namespace posthouse {
namespace {

using config_internal::BoundedReports;
using config_internal::IsSpace;
using config_internal::Quoted;
using config_internal::TrimLeft;
using config_internal::TrimRight;

void Append(std::vector<std::string> from, std::vector<std::string>* to) {
  for (std::string& message : from) to->push_back(std::move(message));
}

}  // namespace

absl::Status SplitDefinition(absl::string_view text, Definition* definition) {
  text = TrimRight(TrimLeft(text));
  size_t name_end = 0;
  while (name_end < text.size() && text[name_end] != '=' && !IsSpace(text[name_end])) ++name_end;
  if (name_end == 0) return absl::InvalidArgumentError("missing parameter name");
  absl::string_view rest = TrimLeft(text.substr(name_end));
  if (rest.empty() || rest.front() != '=') {
    return absl::InvalidArgumentError("missing \"=\" after parameter name");
  }
  rest.remove_prefix(1);
  definition->name = std::string(text.substr(0, name_end));
  definition->value = std::string(TrimLeft(rest));
  return absl::OkStatus();
}

namespace {

// The definitions of one file, as they are stored.
class Definitions {
 public:
  Definitions(absl::string_view file, ParameterStore* store) : file_(file), store_(store) {}

  void Add(const LogicalLine& line) {
    Definition definition;
    const absl::Status split = SplitDefinition(line.text, &definition);
    if (!split.ok()) {
      errors_.Add(absl::StrCat(LinePlace(file_, line.line), ": ", split.message(), ": ",
                               Quoted(line.text)));
      return;
    }
    const ParameterEntry* old = store_->Find(definition.name);
    auto [seen, first_time] = lines_.try_emplace(definition.name, line.line);
    if (!first_time && old != nullptr && old->value != definition.value) {  // C20
      warnings_.Add(absl::StrCat(LinePlace(file_, line.line), ": parameter ",
                                 Quoted(definition.name), " again; the value of line ",
                                 seen->second, " is replaced: ", Quoted(old->value)));
    }
    seen->second = line.line;
    if (!store_->Set(definition.name, definition.value, LinePlace(file_, line.line))) {
      warnings_.Add(absl::StrCat(LinePlace(file_, line.line), ": parameter ", definition.name,
                                 " is read-only; the setting is ignored"));
    }
  }

  absl::Status Finish(std::vector<std::string>* warnings) {
    Append(warnings_.Take(), warnings);
    if (errors_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(errors_.Take(), "\n"));
  }

 private:
  absl::string_view file_;
  ParameterStore* store_;
  // The line of the latest definition of each name. Not Abseil's, whose hash maps are broken when
  // an allocation inside fails (F125).
  std::unordered_map<std::string, int> lines_;
  BoundedReports warnings_{"definitions that are replaced or ignored"};
  BoundedReports errors_{"lines that are no definition"};
};

}  // namespace

absl::Status ParseMainCf(absl::string_view file, absl::string_view text, ParameterStore* store,
                         std::vector<std::string>* warnings) {
  LogicalLines split = SplitLogicalLines(file, text);
  Append(std::move(split.warnings), warnings);
  Definitions definitions(file, store);
  for (const LogicalLine& line : split.lines) definitions.Add(line);
  return definitions.Finish(warnings);
}

std::string ConfigDirectory(const char* mail_config_variable, absl::string_view built_in) {
  return mail_config_variable != nullptr ? mail_config_variable : std::string(built_in);
}

absl::Status ReadMainCf(const std::string& path, const MainCfOptions& options,
                        ParameterStore* store, std::vector<std::string>* warnings) {
  const absl::StatusOr<ConfigFile> file = ReadConfigFile(
      path, {.max_bytes = options.max_bytes, .quiet_whole_seconds = options.wait_until_quiet});
  if (!file.ok()) return file.status();
  absl::StatusOr<std::vector<std::string>> problems = ConfigFileOwnershipProblems(path, *file);
  if (!problems.ok()) return problems.status();
  if (store->strict() && !problems->empty()) {
    return absl::PermissionDeniedError(absl::StrJoin(*problems, "\n"));
  }
  Append(*std::move(problems), warnings);
  return ParseMainCf(path, file->text, store, warnings);
}

absl::Status ApplyOverride(absl::string_view argument, ParameterStore* store,
                           std::vector<std::string>* warnings) {
  Definition definition;
  const absl::Status split = SplitDefinition(argument, &definition);
  if (!split.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("option -o ", Quoted(argument), ": ", split.message()));
  }
  if (!store->Set(definition.name, definition.value, "option -o")) {
    warnings->push_back(absl::StrCat("option -o ", Quoted(argument), ": parameter ",
                                     definition.name, " is read-only; the setting is ignored"));
  }
  return absl::OkStatus();
}

}  // namespace posthouse

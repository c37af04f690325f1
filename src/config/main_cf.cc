#include "posthouse/config/main_cf.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/text.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/file_times.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

using config_internal::BoundedReports;
using config_internal::IsSpace;
using config_internal::Quoted;
using config_internal::TrimLeft;
using config_internal::TrimRight;

// A file that never stops changing is given up after this many readings, 0.3 s apart.
constexpr int kMaxReadings = 100;
constexpr long kRereadDelayNanos = 300 * 1000 * 1000;
constexpr size_t kReadSize = 64 << 10;

std::string Place(absl::string_view file, int line) { return absl::StrCat(file, ", line ", line); }

// C11.
bool IsIgnorable(absl::string_view physical_line) {
  const absl::string_view rest = TrimLeft(physical_line);
  return rest.empty() || rest.front() == '#';
}

void Append(std::vector<std::string> from, std::vector<std::string>* to) {
  for (std::string& message : from) to->push_back(std::move(message));
}

// The original keeps lines as C strings and loses what stands after a NUL byte without a word
// (C16); the same text is lost here, with a warning.
void CutAtNul(absl::string_view file, LogicalLine* line, BoundedReports* warnings) {
  const size_t nul = line->text.find('\0');
  if (nul == std::string::npos) return;
  line->text.resize(nul);
  warnings->Add(absl::StrCat(Place(file, line->line),
                             ": NUL byte; it and the rest of the logical line are ignored"));
}

struct Snapshot {
  std::string text;
  struct stat status = {};
  bool changed_meanwhile = false;
};

absl::Status CheckKindAndSize(const std::string& path, const struct stat& status,
                              size_t max_bytes) {
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  if (status.st_size < 0 || static_cast<uint64_t>(status.st_size) > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", status.st_size, " bytes; the limit is ", max_bytes));
  }
  return absl::OkStatus();
}

bool SameTime(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool SameState(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && SameTime(os::ModifiedTime(a), os::ModifiedTime(b)) &&
         SameTime(os::ChangedTime(a), os::ChangedTime(b));
}

// Reads until end-of-file or one byte more than the limit.
absl::Status ReadAll(const std::string& path, int fd, size_t max_bytes, std::string* text) {
  while (text->size() <= max_bytes) {
    const size_t have = text->size();
    text->resize(have + kReadSize);
    const ssize_t got = os::Read(fd, &(*text)[have], kReadSize);
    const int error = errno;
    text->resize(have + (got > 0 ? static_cast<size_t>(got) : 0));
    if (got == 0) return absl::OkStatus();
    if (got < 0 && error != EINTR) return absl::ErrnoToStatus(error, absl::StrCat("read ", path));
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": more than ", max_bytes, " bytes"));
}

// The kind is looked at before the file is opened, because opening a device can have effects and
// opening a fifo can block; and again afterwards, because the name may mean another file by then.
absl::StatusOr<Snapshot> ReadOnce(const std::string& path, size_t max_bytes) {
  Snapshot snapshot;
  struct stat before = {};
  if (os::Stat(path.c_str(), &before) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("stat ", path));
  }
  absl::Status usable = CheckKindAndSize(path, before, max_bytes);
  if (!usable.ok()) return usable;
  UniqueFd fd(os::Open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  if (os::Fstat(fd.get(), &before) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("fstat ", path));
  }
  usable = CheckKindAndSize(path, before, max_bytes);
  if (!usable.ok()) return usable;
  absl::Status read = ReadAll(path, fd.get(), max_bytes, &snapshot.text);
  if (!read.ok()) return read;
  if (os::Fstat(fd.get(), &snapshot.status) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("fstat ", path));
  }
  snapshot.changed_meanwhile = !SameState(before, snapshot.status) ||
                               static_cast<size_t>(snapshot.status.st_size) != snapshot.text.size();
  return snapshot;
}

// C8 and F105: the file as it was at one moment, with no change under way.
absl::StatusOr<Snapshot> ReadQuiet(const std::string& path, const MainCfOptions& options) {
  int64_t before = os::WallSeconds();
  for (int reading = 0; reading < kMaxReadings; ++reading) {
    absl::StatusOr<Snapshot> snapshot = ReadOnce(path, options.max_bytes);
    if (!snapshot.ok()) return snapshot;
    const int64_t after = os::WallSeconds();
    const int64_t modified = os::ModifiedTime(snapshot->status).tv_sec;
    const bool quiet = !options.wait_until_quiet || modified < before - 1 || modified > after;
    if (quiet && !snapshot->changed_meanwhile) return snapshot;
    const timespec delay = {0, kRereadDelayNanos};
    os::Nanosleep(&delay, nullptr);  // A signal that ends it early costs one more reading.
    before = after;
  }
  return absl::UnavailableError(
      absl::StrCat(path, ": it changes all the time; gave up after ", kMaxReadings, " readings"));
}

// F116: what others can write, they can use to run programs as whoever reads it. Files of the
// account that runs the program are its own business.
void CheckOwnership(const std::string& path, const struct stat& status,
                    std::vector<std::string>* problems) {
  if (status.st_uid != 0 && status.st_uid != os::Geteuid()) {
    problems->push_back(absl::StrCat(path, ": owned by user ", status.st_uid, " instead of root"));
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    problems->push_back(absl::StrFormat("%s: writable by group or others (mode %04o)", path,
                                        static_cast<unsigned>(status.st_mode & 07777)));
  }
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status CheckPlace(const std::string& path, const struct stat& status, bool strict,
                        std::vector<std::string>* warnings) {
  std::vector<std::string> problems;
  CheckOwnership(path, status, &problems);
  const std::string directory = DirectoryOf(path);
  struct stat directory_status = {};
  if (os::Stat(directory.c_str(), &directory_status) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("stat ", directory));
  }
  CheckOwnership(directory, directory_status, &problems);
  if (strict && !problems.empty()) {
    return absl::PermissionDeniedError(absl::StrJoin(problems, "\n"));
  }
  Append(std::move(problems), warnings);
  return absl::OkStatus();
}

}  // namespace

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
    result.warnings.push_back(absl::StrCat(
        Place(file, first.line), ": the first line starts with white space and continues nothing; ",
        "ignored: ", Quoted(TrimLeft(first.text))));
    result.lines.erase(result.lines.begin());
  }
  Append(warnings.Take(), &result.warnings);
  return result;
}

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
      errors_.Add(
          absl::StrCat(Place(file_, line.line), ": ", split.message(), ": ", Quoted(line.text)));
      return;
    }
    const ParameterEntry* old = store_->Find(definition.name);
    auto [seen, first_time] = lines_.try_emplace(definition.name, line.line);
    if (!first_time && old != nullptr && old->value != definition.value) {  // C20
      warnings_.Add(absl::StrCat(Place(file_, line.line), ": parameter ", Quoted(definition.name),
                                 " again; the value of line ", seen->second,
                                 " is replaced: ", Quoted(old->value)));
    }
    seen->second = line.line;
    if (!store_->Set(definition.name, definition.value, Place(file_, line.line))) {
      warnings_.Add(absl::StrCat(Place(file_, line.line), ": parameter ", definition.name,
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
  // The line of the latest definition of each name.
  absl::flat_hash_map<std::string, int> lines_;
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
  absl::StatusOr<Snapshot> snapshot = ReadQuiet(path, options);
  if (!snapshot.ok()) return snapshot.status();
  const absl::Status place = CheckPlace(path, snapshot->status, store->strict(), warnings);
  if (!place.ok()) return place;
  return ParseMainCf(path, snapshot->text, store, warnings);
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

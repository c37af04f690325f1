#include "posthouse/master/command_line.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace posthouse {
namespace {

constexpr absl::string_view kLettersWithArgument = "ce";
constexpr absl::string_view kPlainLetters = "Ddirstvw";

// More than anybody waits for; keeps the sum small.
constexpr int64_t kMaxExitSeconds = int64_t{100} * 366 * 86400;

absl::Status Invalid(absl::string_view sentence) { return absl::InvalidArgumentError(sentence); }

bool Contains(absl::string_view letters, char letter) {
  return letters.find(letter) != absl::string_view::npos;
}

// As atoi(3) has it: leading blanks, a sign, digits, and whatever follows is no matter (M4). What
// would lie in the past is now.
absl::Duration LeadingSeconds(absl::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\n\v\f\r");
  if (begin == absl::string_view::npos) return absl::ZeroDuration();
  text.remove_prefix(begin);
  if (absl::StartsWith(text, "+")) text.remove_prefix(1);
  int64_t seconds = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') break;
    seconds = std::min(kMaxExitSeconds, seconds * 10 + (c - '0'));
  }
  return absl::Seconds(seconds);
}

bool IsSet(absl::Span<const std::string> environment, absl::string_view name) {
  for (const std::string& variable : environment) {
    if (absl::StartsWith(variable, name) && variable.size() > name.size() &&
        variable[name.size()] == '=') {
      return true;
    }
  }
  return false;
}

absl::Status ApplyLetterWithArgument(char letter, absl::string_view value, MasterOptions* options) {
  if (letter == 'e') {
    options->exit_after = LeadingSeconds(value);
    return absl::OkStatus();
  }
  if (value.empty()) return Invalid("option -c needs the name of a directory");
  options->config_directory = std::string(value);
  return absl::OkStatus();
}

void ApplyPlainLetter(char letter, MasterOptions* options) {
  switch (letter) {
    case 'd':
      options->detached = false;
      break;
    case 'D':
      options->debugger = true;
      break;
    case 'i':
      options->init = true;
      options->keep_stdout = true;
      break;
    case 'r':
      options->reload = true;
      break;
    case 's':
      options->keep_stdout = true;
      break;
    case 't':
      options->test = true;
      break;
    case 'v':
      options->verbosity++;
      break;
    default:
      options->wait = true;
      break;  // 'w'
  }
}

// Walks over the arguments; `next` is the one to look at.
class Parser {
 public:
  explicit Parser(absl::Span<const std::string> arguments) : arguments_(arguments) {}

  absl::Status Parse(MasterOptions* options) {
    while (next_ < arguments_.size()) {
      const absl::string_view argument = arguments_[next_];
      if (argument.size() < 2 || argument[0] != '-') break;
      next_++;
      if (argument == "--") break;
      absl::Status status = argument[1] == '-' ? ParseLong(argument, options)
                                               : ParseLetters(argument.substr(1), options);
      if (!status.ok()) return status;
    }
    if (next_ < arguments_.size()) {
      return Invalid(absl::StrCat("unexpected argument: \"", arguments_[next_], "\""));
    }
    return absl::OkStatus();
  }

 private:
  // "-vt", "-cdir", "-c dir": letters may be joined, and the last may carry its argument.
  absl::Status ParseLetters(absl::string_view letters, MasterOptions* options) {
    while (!letters.empty()) {
      const char letter = letters[0];
      letters.remove_prefix(1);
      if (Contains(kLettersWithArgument, letter)) {
        if (letters.empty()) {
          if (next_ >= arguments_.size()) {
            return Invalid(absl::StrCat("option -", std::string(1, letter), " needs an argument"));
          }
          letters = arguments_[next_++];
        }
        return ApplyLetterWithArgument(letter, letters, options);
      }
      if (!Contains(kPlainLetters, letter)) {
        return Invalid(absl::StrCat("invalid option: -", std::string(1, letter)));
      }
      ApplyPlainLetter(letter, options);
    }
    return absl::OkStatus();
  }

  static absl::Status ParseLong(absl::string_view argument, MasterOptions* options) {
    if (argument == "--help") {
      options->help = true;
    } else if (argument == "--version") {
      options->version = true;
    } else {
      return Invalid(absl::StrCat("invalid option: ", argument));
    }
    return absl::OkStatus();
  }

  absl::Span<const std::string> arguments_;
  size_t next_ = 1;
};

// The reload command is no start: of the options only -c and -v mean anything to it.
absl::Status CheckReload(const MasterOptions& options, bool debugger_by_environment) {
  const struct {
    bool given;
    absl::string_view option;
  } others[] = {
      {options.debugger && !debugger_by_environment, "-D"},
      {!options.detached, "-d"},
      {options.exit_after.has_value(), "-e"},
      {options.init, "-i"},
      {options.keep_stdout, "-s"},
      {options.test, "-t"},
      {options.wait, "-w"},
  };
  for (const auto& other : others) {
    if (other.given) {
      return Invalid(absl::StrCat("options -r and ", other.option, " cannot be combined"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckConflicts(const MasterOptions& options, bool debugger_by_environment, pid_t pid) {
  if (options.reload) return CheckReload(options, debugger_by_environment);
  if (options.test && options.wait) return Invalid("options -t and -w cannot be combined");
  if (!options.init) return absl::OkStatus();
  if (pid != 1) {
    return Invalid(absl::StrCat("option -i is for process 1 alone, and this is process ", pid));
  }
  if (!options.detached) return Invalid("options -i and -d cannot be combined");
  if (options.wait) return Invalid("options -i and -w cannot be combined");
  if (debugger_by_environment) {
    return Invalid("option -i cannot be combined with MAIL_DEBUG in the environment");
  }
  if (options.debugger) return Invalid("options -i and -D cannot be combined");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MasterOptions> ParseMasterCommandLine(absl::Span<const std::string> arguments,
                                                     absl::Span<const std::string> environment,
                                                     pid_t pid) {
  MasterOptions options;
  if (!arguments.empty()) {
    options.process_name = arguments[0].substr(arguments[0].rfind('/') + 1);
  }
  if (IsSet(environment, "MAIL_VERBOSE")) options.verbosity = 1;
  const bool debugger_by_environment = IsSet(environment, "MAIL_DEBUG");
  options.debugger = debugger_by_environment;
  if (absl::Status status = Parser(arguments).Parse(&options); !status.ok()) return status;
  if (absl::Status status = CheckConflicts(options, debugger_by_environment, pid); !status.ok()) {
    return status;
  }
  return options;
}

}  // namespace posthouse

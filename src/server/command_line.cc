#include "posthouse/server/command_line.h"

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace posthouse {
namespace {

// Letters that take an argument, and those that do not (S25).
constexpr absl::string_view kLettersWithArgument = "imnost";
constexpr absl::string_view kPlainLetters = "cdDlSuvVz";

absl::Status Invalid(absl::string_view sentence) { return absl::InvalidArgumentError(sentence); }

absl::Status SetListenSockets(absl::string_view text, WorkerCommandLine* line) {
  int count = 0;
  const bool digits_only =
      !text.empty() && text.find_first_not_of("0123456789") == absl::string_view::npos;
  if (!digits_only || !absl::SimpleAtoi(text, &count) || count <= 0) {
    return Invalid(absl::StrCat("invalid socket_count: \"", text, "\""));
  }
  line->listen_sockets = count;
  return absl::OkStatus();
}

absl::Status SetListenMode(absl::string_view text, WorkerCommandLine* line) {
  constexpr unsigned kAllPermissions = 07777;
  unsigned mode = 0;
  bool good = !text.empty() && text.size() <= 5;
  for (const char c : text) {
    good = good && c >= '0' && c <= '7';
    mode = mode * 8 + static_cast<unsigned>(c - '0');
  }
  if (!good || mode > kAllPermissions) {
    return Invalid(
        absl::StrCat("--listen-mode needs an octal mode such as 0660, not \"", text, "\""));
  }
  line->listen_mode = static_cast<mode_t>(mode);
  return absl::OkStatus();
}

absl::Status ApplyLetterWithArgument(char letter, absl::string_view value,
                                     WorkerCommandLine* line) {
  using Kind = CommandLineOverride::Kind;
  switch (letter) {
    case 'i':
      line->overrides.push_back({Kind::kMaxIdle, std::string(value)});
      return absl::OkStatus();
    case 'm':
      line->overrides.push_back({Kind::kMaxUse, std::string(value)});
      return absl::OkStatus();
    case 'o':
      line->overrides.push_back({Kind::kNameValue, std::string(value)});
      return absl::OkStatus();
    case 'n':
      line->service_name = std::string(value);
      return absl::OkStatus();
    case 't':
      line->transport = std::string(value);
      return absl::OkStatus();
    default:  // 's'
      return SetListenSockets(value, line);
  }
}

void ApplyPlainLetter(char letter, WorkerCommandLine* line) {
  switch (letter) {
    case 'c':
      line->chroot = true;
      break;
    case 'd':
      line->detached = false;
      break;
    case 'D':
      line->debug = true;
      break;
    case 'l':
      line->limit_is_one = true;
      break;
    case 'S':
      line->one_shot = true;
      break;
    case 'u':
      line->unprivileged = true;
      break;
    case 'v':
      line->verbosity++;
      break;
    case 'V':
      line->log_to_stderr = true;
      break;
    default:
      line->limit_is_none = true;
      break;  // 'z'
  }
}

bool Contains(absl::string_view letters, char letter) {
  return letters.find(letter) != absl::string_view::npos;
}

// Walks over the arguments; `next` is the one to look at.
class Parser {
 public:
  Parser(absl::Span<const std::string> argv, const CommandLineRules& rules)
      : argv_(argv), rules_(rules) {}

  absl::StatusOr<WorkerCommandLine> Parse() {
    line_.program = argv_.empty() ? "" : BaseName(argv_[0]);
    line_.service_name = line_.program;
    while (next_ < argv_.size()) {
      const absl::string_view argument = argv_[next_];
      if (argument.size() < 2 || argument[0] != '-') break;
      next_++;
      if (argument == "--") break;
      absl::Status status =
          argument[1] == '-' ? ParseLong(argument.substr(2)) : ParseLetters(argument.substr(1));
      if (!status.ok()) return status;
    }
    for (; next_ < argv_.size(); next_++) line_.arguments.push_back(argv_[next_]);
    return std::move(line_);
  }

 private:
  // "-vn name", "-nname": letters may be joined, and the last may carry its argument.
  absl::Status ParseLetters(absl::string_view letters) {
    while (!letters.empty()) {
      const char letter = letters[0];
      letters.remove_prefix(1);
      if (Contains(kLettersWithArgument, letter)) {
        if (letters.empty()) {
          if (next_ >= argv_.size()) {
            return Invalid(absl::StrCat("option -", std::string(1, letter), " needs an argument"));
          }
          letters = argv_[next_++];
        }
        return ApplyLetterWithArgument(letter, letters, &line_);
      }
      if (!Contains(kPlainLetters, letter) || (letter == 'S' && !rules_.one_shot)) {
        return Invalid(absl::StrCat("invalid option: ", std::string(1, letter)));
      }
      ApplyPlainLetter(letter, &line_);
    }
    return absl::OkStatus();
  }

  absl::Status ParseLong(absl::string_view option) {
    const size_t equals = option.find('=');
    const absl::string_view name = option.substr(0, equals);
    const bool has_value = equals != absl::string_view::npos;
    if (name == "help" || name == "version") {
      if (has_value) return Invalid(absl::StrCat("option --", name, " takes no argument"));
      (name == "help" ? line_.help : line_.version) = true;
      return absl::OkStatus();
    }
    if (name != "listen" && name != "listen-mode") {
      return Invalid(absl::StrCat("invalid option: --", name));
    }
    absl::string_view value;
    if (has_value) {
      value = option.substr(equals + 1);
    } else if (next_ < argv_.size()) {
      value = argv_[next_++];
    } else {
      return Invalid(absl::StrCat("option --", name, " needs an argument"));
    }
    if (name == "listen-mode") return SetListenMode(value, &line_);
    line_.listen.emplace_back(value);
    return absl::OkStatus();
  }

  absl::Span<const std::string> argv_;
  const CommandLineRules& rules_;
  size_t next_ = 1;
  WorkerCommandLine line_;
};

}  // namespace

std::string BaseName(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos ? path : path.substr(slash + 1));
}

absl::StatusOr<WorkerCommandLine> ParseCommandLine(absl::Span<const std::string> argv,
                                                   const CommandLineRules& rules) {
  return Parser(argv, rules).Parse();
}

}  // namespace posthouse

// The command line of a worker: the original's letters, as a master gives them (S25 to S28), and
// the long options of a program that runs by itself.
//
//   absl::StatusOr<WorkerCommandLine> line = ParseCommandLine(arguments, CommandLineRules());
//
// Parsing is a pure function: nothing is looked up, logged or changed, and the same arguments give
// the same answer. Differences from the original: an unknown letter is named (S94), and the
// argument of -s is checked as a whole (SO16).
//
// Thread: any. Errors: kInvalidArgument with a sentence that quotes the argument.

#ifndef POSTHOUSE_SERVER_COMMAND_LINE_H_
#define POSTHOUSE_SERVER_COMMAND_LINE_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace posthouse {

// Which letters this skeleton takes (K2).
struct CommandLineRules {
  bool one_shot = true;  // -S
};

// A parameter that was set on the command line, to be applied in this order (C2, S28).
struct CommandLineOverride {
  enum class Kind { kMaxIdle, kMaxUse, kNameValue };  // -i, -m, -o
  Kind kind = Kind::kNameValue;
  std::string text;
};

struct WorkerCommandLine {
  std::string program;                    // the last component of argv[0] (S6)
  std::string service_name;               // -n, else the program (S6)
  bool chroot = false;                    // -c
  bool detached = true;                   // -d clears it
  bool debug = false;                     // -D
  bool limit_is_one = false;              // -l
  bool limit_is_none = false;             // -z
  bool one_shot = false;                  // -S
  bool unprivileged = false;              // -u
  bool log_to_stderr = false;             // -V
  int listen_sockets = 1;                 // -s
  int verbosity = 0;                      // -v, adds up
  absl::optional<std::string> transport;  // -t, as given
  std::vector<CommandLineOverride> overrides;
  std::vector<std::string> arguments;  // what is left (S25)

  bool help = false;
  bool version = false;
  std::vector<std::string> listen;     // --listen, as given
  absl::optional<mode_t> listen_mode;  // --listen-mode, of UNIX sockets
};

// The last component of a path; "" stays "".
std::string BaseName(absl::string_view path);

// `argv` includes the program's name; an empty one is treated as { "" }.
absl::StatusOr<WorkerCommandLine> ParseCommandLine(absl::Span<const std::string> argv,
                                                   const CommandLineRules& rules);

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_COMMAND_LINE_H_

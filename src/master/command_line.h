// The command line of the master: the original's letters, so that the stock `postfix` script can
// start it (M1 to M9, M120); and -r, which the original does not have (F100).
//
//   absl::StatusOr<MasterOptions> options = ParseMasterCommandLine(arguments, environment, pid);
//   if (!options.ok()) fatal, with kMasterUsage
//
// Parsing is a pure function: nothing is set or started. Of the environment it looks at MAIL_DEBUG
// and MAIL_VERBOSE (M3, M8).
//
// Thread: any. Errors: kInvalidArgument with a sentence that names the option.

#ifndef POSTHOUSE_MASTER_COMMAND_LINE_H_
#define POSTHOUSE_MASTER_COMMAND_LINE_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace posthouse {

inline constexpr absl::string_view kMasterUsage =
    "usage: master [-c config_dir] [-D (debug)] [-d (don't detach from terminal)] [-e exit_time] "
    "[-i (init mode)] [-r (reload)] [-s (keep stdout)] [-t (test)] [-v (verbose)] [-w (wait)]";

struct MasterOptions {
  std::string process_name;                      // the last component of argument zero (M10)
  absl::optional<std::string> config_directory;  // -c; to be exported as MAIL_CONFIG (M2)
  bool detached = true;                          // -d clears it (M3)
  bool debugger = false;                         // -D or MAIL_DEBUG (M3)
  absl::optional<absl::Duration> exit_after;     // -e (M4)
  bool init = false;                             // -i (M5)
  bool keep_stdout = false;                      // -s, -i (M6)
  bool reload = false;                           // -r (F100)
  bool test = false;                             // -t (M7)
  int verbosity = 0;                             // -v, MAIL_VERBOSE (M8)
  bool wait = false;                             // -w (M9)
  bool help = false;                             // --help
  bool version = false;                          // --version

  // A command about the master that runs, and no master: it leaves its surroundings alone.
  bool is_command() const { return reload || test; }
  // Whether to make a session of its own (M3, M5, M13).
  bool new_session() const { return detached && !debugger && !init; }
};

// `arguments` with argument zero, `environment` as "name=value", `pid` of the process (M5).
absl::StatusOr<MasterOptions> ParseMasterCommandLine(absl::Span<const std::string> arguments,
                                                     absl::Span<const std::string> environment,
                                                     pid_t pid);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_COMMAND_LINE_H_

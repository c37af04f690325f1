// How the latest reload of a master went, in a file that the reload command reads (F100):
// master.reload in the data directory, beside master.lock.
//
//   ReloadOutcome outcome;
//   outcome.pid = os::Getpid();
//   outcome.begin_ns = begin_ns;
//   outcome.kind = ReloadOutcome::Kind::kRefused;
//   outcome.text = "/etc/postfix/master.cf, line 2: ...";
//   absl::Status status = WriteReloadOutcome(path, owner, outcome);
//   ...
//   absl::StatusOr<ReloadOutcome> read = ReadReloadOutcome(path, owner);
//   if (read.ok() && IsOutcomeFor(*read, master, sent_ns, os::SteadyNanos())) ...
//
// The first line is "PID BEGIN_NS OUTCOME": the master, when it began to load the configuration
// that the outcome is about, in nanoseconds of CLOCK_MONOTONIC, and "started", "done" or "refused".
// Lines for people follow. A file that does not end with a newline is not complete.
//
// Reader and writer need no lock: a file takes its name when it is complete, by rename(2). A
// symbolic link is never followed: writing replaces it, reading refuses it. The file stays when the
// master ends; whoever reads it asks the lock file who runs.
//
// Thread: one, because the identity and the umask of the process change for a moment. Errors: the
// call that failed and the file.

#ifndef POSTHOUSE_MASTER_RELOAD_OUTCOME_H_
#define POSTHOUSE_MASTER_RELOAD_OUTCOME_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/master/effective_owner.h"

namespace posthouse {

// In the data directory.
inline constexpr absl::string_view kReloadOutcomeFile = "master.reload";
// What log and command say below the reasons of a refusal.
inline constexpr absl::string_view kReloadRefused =
    "the reload has changed nothing: the configuration from before stays in force";

struct ReloadOutcome {
  enum class Kind { kStarted, kDone, kRefused };

  pid_t pid = 0;  // of the master
  int64_t begin_ns = 0;
  Kind kind = Kind::kStarted;
  // Lines: of a refusal the reasons, of a reload that is done a summary and the warnings.
  std::string text;
};

// No file is larger; the log has what is left out of it.
inline constexpr size_t kMaxReloadOutcomeBytes = 64 << 10;

// Empty lines are left out, and the last ones of a text that is too long.
std::string FormatReloadOutcome(const ReloadOutcome& outcome);

// Bytes of the text that are not printable ASCII are replaced by '?', as in the log.
// kInvalidArgument: it is no such file, is not complete, or is larger than one can be.
absl::StatusOr<ReloadOutcome> ParseReloadOutcome(absl::string_view content);

// Whether this tells how a reload went that was asked of `master` at `sent_ns`: the configuration
// was loaded since, for whomever. A start is no answer; what began after `now_ns` is of an earlier
// life of the machine.
bool IsOutcomeFor(const ReloadOutcome& outcome, pid_t master, int64_t sent_ns, int64_t now_ns);

// Makes or replaces the file, mode 0644, in the name of `owner`. After an error the file is as it
// was.
absl::Status WriteReloadOutcome(const std::string& path, const FileOwner& owner,
                                const ReloadOutcome& outcome);

// kNotFound: there is no file. Other errors: it is of somebody else, others can write to it, it is
// no regular file, or what ParseReloadOutcome() says.
absl::StatusOr<ReloadOutcome> ReadReloadOutcome(const std::string& path, const FileOwner& owner);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_RELOAD_OUTCOME_H_

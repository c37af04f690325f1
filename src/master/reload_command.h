// The reload command (-r, F100): asks the master that runs to reload and waits until it says how
// that went.
//
//   absl::StatusOr<ReloadOutcome> outcome = CommandReload(
//       {.lock_file = data + "/master.lock", .outcome_file = data + "/master.reload"});
//   if (!outcome.ok()) ...                 // nobody has said anything
//   if (outcome->kind == Kind::kRefused)   // the reasons are in outcome->text
//
// The master is whoever holds the lock; it is sent SIGHUP. The outcome that counts is of this
// process and of a configuration that it began to load after that: one that was asked for by
// somebody else a moment before may have missed the latest change of the files. The outcome file is
// looked at twenty times a second.
//
// Thread: one. Errors: kNotFound: no master runs. kAborted: it has ended meanwhile.
// kDeadlineExceeded: no outcome within the limit; the master hangs, was stopped, cannot write the
// file, or is another program that writes none. Others: the call that failed.

#ifndef POSTHOUSE_MASTER_RELOAD_COMMAND_H_
#define POSTHOUSE_MASTER_RELOAD_COMMAND_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "posthouse/master/effective_owner.h"
#include "posthouse/master/reload_outcome.h"

namespace posthouse {

struct ReloadCommandOptions {
  std::string lock_file;
  std::string outcome_file;
  FileOwner owner;  // of both files
  absl::Duration limit = absl::Seconds(60);
};

absl::StatusOr<ReloadOutcome> CommandReload(const ReloadCommandOptions& options);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_RELOAD_COMMAND_H_

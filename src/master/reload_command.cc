#include "posthouse/master/reload_command.h"

#include <signal.h>

#include <cerrno>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "posthouse/master/lock_file.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr timespec kPause = {0, 50'000'000};

absl::Status Ended(pid_t master) {
  return absl::AbortedError(absl::StrCat("the master, process ", master,
                                         ", has ended before it said how the reload went"));
}

// When the signal was sent.
absl::StatusOr<int64_t> SendSignal(pid_t master) {
  const int64_t now_ns = os::SteadyNanos();
  if (os::Kill(master, SIGHUP) == 0) return now_ns;
  if (errno == ESRCH) return Ended(master);
  return absl::ErrnoToStatus(errno, absl::StrCat("SIGHUP to process ", master));
}

absl::Status TooLate(const ReloadCommandOptions& options, pid_t master, const absl::Status& read) {
  std::string text =
      absl::StrCat("the master, process ", master, ", has not said how the reload went within ",
                   absl::FormatDuration(options.limit), "; its log may tell");
  if (!read.ok() && !absl::IsNotFound(read)) absl::StrAppend(&text, " (", read.message(), ")");
  return absl::DeadlineExceededError(text);
}

// `is_known`: the master had said something before the signal was sent.
absl::StatusOr<ReloadOutcome> Await(const ReloadCommandOptions& options, pid_t master,
                                    bool is_known) {
  absl::StatusOr<int64_t> sent_ns = SendSignal(master);
  const int64_t deadline_ns = os::SteadyNanos() + absl::ToInt64Nanoseconds(options.limit);
  while (sent_ns.ok()) {
    // Looked at before the file: the last word of a master that has ended counts.
    const absl::StatusOr<pid_t> holder = LockFile::Holder(options.lock_file, options.owner);
    absl::StatusOr<ReloadOutcome> outcome = ReadReloadOutcome(options.outcome_file, options.owner);
    const int64_t now_ns = os::SteadyNanos();
    if (outcome.ok() && IsOutcomeFor(*outcome, master, *sent_ns, now_ns)) return outcome;
    if (holder.ok() && *holder != master) return Ended(master);
    if (now_ns >= deadline_ns) return TooLate(options, master, outcome.status());
    if (!is_known && outcome.ok() && outcome->pid == master) {
      // It was still starting, and may have ignored the signal.
      is_known = true;
      sent_ns = SendSignal(master);
    }
    os::Nanosleep(&kPause, nullptr);
  }
  return sent_ns.status();
}

}  // namespace

absl::StatusOr<ReloadOutcome> CommandReload(const ReloadCommandOptions& options) {
  const absl::StatusOr<pid_t> master = LockFile::Holder(options.lock_file, options.owner);
  if (!master.ok()) return master.status();
  if (*master == 0) {
    return absl::NotFoundError(
        absl::StrCat("no master runs: nobody holds the lock file ", options.lock_file));
  }
  const absl::StatusOr<ReloadOutcome> before =
      ReadReloadOutcome(options.outcome_file, options.owner);
  return Await(options, *master, before.ok() && before->pid == *master);
}

}  // namespace posthouse

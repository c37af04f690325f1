// What a worker does, as far as the system tells: has it run since the last look, does it wait for
// a disk, is it stopped (F75)?
//
//   ChildActivity activity = ReadWorkerActivity(pid);
//
// From /proc/PID/stat and /proc/PID/schedstat, where the kernel has them; elsewhere the answer is
// "unknown". None of the reads waits for the process.
//
// Thread: any. Errors: none; a process that is gone is unknown.

#ifndef POSTHOUSE_MASTER_WORKER_ACTIVITY_H_
#define POSTHOUSE_MASTER_WORKER_ACTIVITY_H_

#include <sys/types.h>

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/master/supervisor.h"

namespace posthouse {

ChildActivity ReadWorkerActivity(pid_t pid);

// The same from the text of the two files, for tests. `stat` is "PID (NAME) STATE ...", where the
// name may contain anything, blanks and parentheses included.
ChildActivity ParseWorkerActivity(pid_t pid, absl::string_view stat, absl::string_view schedstat);

// Nanoseconds of processor time that all threads of a process, any one, have used, to a hundredth
// of a second; nothing where the kernel does not tell.
absl::optional<int64_t> ReadWorkerCpuNs(pid_t pid);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_WORKER_ACTIVITY_H_

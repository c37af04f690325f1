// SpawnWorker() starts the program of a service with exactly the descriptors that a worker expects.
//
//   SpawnRequest request;
//   request.program = "/usr/lib/postfix/sbin/smtpd";
//   request.arguments = BuildWorkerArguments(...);
//   request.environment = environment of M65, GENERATION included;
//   request.flow_read = ...; request.flow_write = ...; request.status = channel.worker_fd();
//   request.listeners = listeners.fds();
//   absl::StatusOr<Spawned> spawned = SpawnWorker(request);
//   if (!spawned.ok()) the service is throttled (M63, F77)
//   else if (!spawned->start.ok()) log it with the name of the service (F78)
//
// The worker finds (P1, P2, P12, M64, M66): flow read 3, flow write 4, status 5, listeners from 6
// on, whatever numbers they have here and however these overlap (F34); 0 to 2 as they are here; all
// else close-on-exec. Signals are at default and not blocked, SIGPIPE is ignored; no alarm is
// pending; umask 077; working directory, session, process group and identity are inherited.
//
// A program that cannot be executed is not an error of SpawnWorker(): there is a child, which
// ends with status 1 without having run any exit handler (P56), and `start` says why. It is still
// to be reaped, and its death throttles the service as any bad start does (M75).
//
// Until the worker executes its program, it borrows our memory and we stand still: nothing of it
// has to be copied, which makes a start about twice as fast as with fork(2). The child runs on a
// stack of its own with all signals blocked, allocates nothing and makes system calls only. Where
// the kernel cannot do that, fork(2) stands in (twins.h).
//
// Thread: one. Signals: handlers run before or after, never in the child. Errors: the call that
// failed and the program; EAGAIN as kUnavailable, ENOMEM as kResourceExhausted; nothing is left.
// Ownership: borrows all descriptors.

#ifndef POSTHOUSE_MASTER_SPAWNER_H_
#define POSTHOUSE_MASTER_SPAWNER_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "posthouse/os/os.h"

namespace posthouse {

// A limit that the worker gets instead of ours, both values (F68).
struct WorkerLimit {
  os::RlimitResource resource;
  rlimit limit;
};

struct SpawnRequest {
  std::string program;                   // path, relative ones from the working directory
  std::vector<std::string> arguments;    // with argument zero (P8, P9)
  std::vector<std::string> environment;  // all of it, "name=value" (P10, M65)
  int flow_read = -1;
  int flow_write = -1;
  int status = -1;
  absl::Span<const int> listeners;  // in the order that the worker sees them (M50)
  absl::Span<const WorkerLimit> limits;
};

struct Spawned {
  pid_t pid = 0;
  // OK: the program runs. Else the call that failed with the object, such as
  // "execve of /usr/lib/postfix/sbin/smtpd: No such file or directory".
  absl::Status start;
};

// REQUIRES: all descriptors of the request are open.
absl::StatusOr<Spawned> SpawnWorker(const SpawnRequest& request);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_SPAWNER_H_

// The two flags of a descriptor that matter here.
//
// Blocking mode belongs to the open file and is seen by everybody who holds it, in other processes
// too (S45); close-on-exec belongs to the number. Descriptors are made close-on-exec in the call
// that makes them; SetCloseOnExec() is for inherited ones.
//
// Thread: any. Errors: the errno of fcntl(2). Async-signal-safe: no.

#ifndef POSTHOUSE_IO_FD_FLAGS_H_
#define POSTHOUSE_IO_FD_FLAGS_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace posthouse {

// No system call beyond the question when the mode is already right.
absl::Status SetBlocking(int fd);
absl::Status SetNonBlocking(int fd);
absl::StatusOr<bool> IsNonBlocking(int fd);

absl::Status SetCloseOnExec(int fd, bool close_on_exec);
absl::StatusOr<bool> IsCloseOnExec(int fd);

}  // namespace posthouse

#endif  // POSTHOUSE_IO_FD_FLAGS_H_

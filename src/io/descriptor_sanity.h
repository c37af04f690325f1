// Putting a process's descriptors in order: at start, and between fork(2) and execve(2).
//
// Thread: none other may open or close descriptors meanwhile.
// Functions marked async-signal-safe allocate nothing and may be used between fork and exec.

#ifndef POSTHOUSE_IO_DESCRIPTOR_SANITY_H_
#define POSTHOUSE_IO_DESCRIPTOR_SANITY_H_

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace posthouse {

// Opens /dev/null as 0, 1 and 2 where they are closed, so that nothing else ever gets these numbers
// (F33). The first thing a process does. Open ones are left alone.
absl::Status EnsureStandardDescriptors();

// Closes everything above 2 that is not in `keep` (F32). Numbers in `keep` may come in any order,
// more than once, and need not be open.
absl::Status CloseDescriptorsExcept(absl::Span<const int> keep);

// Descriptor `from` is to become number `to`.
struct DescriptorMove {
  int from = -1;
  int to = -1;
};

// Moves all of them at once, whatever cycles they form (F34). What was open at a `to` and is itself
// no `from` is closed. Afterwards the new numbers are close-on-exec or not as told, and the old
// ones are closed unless they are also new ones. Each `from` and each `to` comes once.
//
// Returns 0 or an errno: EBADF for a `from` that is not open, EMFILE if a cycle needs one number
// more and there is none, EINVAL for a negative number or one that comes twice. After EINVAL
// nothing has changed; after another error every descriptor of `moves` still exists, at the number
// that its `from` now tells.
// Async-signal-safe. `moves` is scratch memory: afterwards each `from` equals its `to`.
int MoveDescriptors(absl::Span<DescriptorMove> moves, bool close_on_exec);

}  // namespace posthouse

#endif  // POSTHOUSE_IO_DESCRIPTOR_SANITY_H_

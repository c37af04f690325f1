// How many bytes can be read from a descriptor without waiting (S55).
//
// 0 for a socket that was reported readable means that its peer has closed it. Urgent data alone
// counts as 0 (S62).
//
// Thread: any. Errors: the errno of ioctl(2) FIONREAD; ENOTTY for what has no such count.

#ifndef POSTHOUSE_IO_PEEK_H_
#define POSTHOUSE_IO_PEEK_H_

#include "absl/status/statusor.h"

namespace posthouse {

absl::StatusOr<int> BytesReadable(int fd);

}  // namespace posthouse

#endif  // POSTHOUSE_IO_PEEK_H_

// The times of a file in a struct stat, which not all systems name alike.
//
// Thread: any.

#ifndef POSTHOUSE_OS_FILE_TIMES_H_
#define POSTHOUSE_OS_FILE_TIMES_H_

#include <sys/stat.h>
#include <time.h>

namespace posthouse::os {

#if defined(__APPLE__)
inline timespec ModifiedTime(const struct stat& status) { return status.st_mtimespec; }
inline timespec ChangedTime(const struct stat& status) { return status.st_ctimespec; }
#else
inline timespec ModifiedTime(const struct stat& status) { return status.st_mtim; }
inline timespec ChangedTime(const struct stat& status) { return status.st_ctim; }
#endif

}  // namespace posthouse::os

#endif  // POSTHOUSE_OS_FILE_TIMES_H_

// LockFile is one of the two files by which at most one master runs: pid/master.pid in the queue
// directory, made as root, and master.lock in the data directory, made as mail_owner (M22, M23).
//
//   absl::StatusOr<LockFile> pid_file = LockFile::Acquire("pid/master.pid", FileOwner());
//   if (!pid_file.ok()) ...   // "pid/master.pid: process 4711 holds the lock: another master runs"
//   absl::Status status = pid_file->WritePid(os::Getpid());
//
// The lock is flock(2), exclusive, for the whole file (M25). It lives as long as an open
// descriptor, so that it vanishes with its holder, however that ends (F107). The file is never
// removed (M26): whoever removes it lets a second master in.
//
// The file is opened with care (M24, F119): it must be a regular file with one name, owned by
// whoever makes it here and writable for nobody else; creation is exclusive; a symbolic link is
// refused, but for one of root in a directory that only root can write, and then what it leads to
// must look like a lock file, that is, be empty or hold a number. As root the directory must be one
// that only root can write (F120).
//
// Thread: one. Fork: the child shares the lock; it is released when both have closed. Ownership:
// the object owns the descriptor, which is close-on-exec; its end releases the lock.

#ifndef POSTHOUSE_MASTER_LOCK_FILE_H_
#define POSTHOUSE_MASTER_LOCK_FILE_H_

#include <sys/types.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/effective_owner.h"

namespace posthouse {

// What a lock file holds: the number, right-aligned in 4 * sizeof(long) columns, and a newline; 33
// bytes where long has 64 bits (M26).
std::string FormatLockFile(pid_t pid);
// The number; 0 when there is none.
pid_t ParseLockFile(absl::string_view content);

class LockFile {
 public:
  // Opens or makes the file and locks it without waiting. kUnavailable: another process holds the
  // lock; the message names the file and the holder's number if the holder has written it, and
  // nothing has been changed. Every other error names call and file.
  //
  // A lock that is held although the number in the file is of no living process is tried again
  // for half a second: its holder only looks, or has not written its number yet.
  static absl::StatusOr<LockFile> Acquire(const std::string& path, const FileOwner& owner);

  // Whether a process holds the lock (M27). No file: false. Nothing is written or made.
  static absl::StatusOr<bool> IsHeld(const std::string& path, const FileOwner& owner);

  // The process that holds the lock; 0 for nobody, or no file. Nothing is written or made.
  // kUnavailable: somebody holds it whose number is not in the file, even after half a second.
  static absl::StatusOr<pid_t> Holder(const std::string& path, const FileOwner& owner);

  // Writes the number without truncating the file. Failure (F121, F122) is for the caller to die
  // of.
  absl::Status WritePid(pid_t pid);

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  LockFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::string path_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_LOCK_FILE_H_

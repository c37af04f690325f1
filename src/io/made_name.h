// Names in the file system for sockets and fifos: making them with the right mode, and removing
// them without touching what somebody else has put in their place.
//
//   if (BindWithMode(fd, path, 0666) != 0) return ...;
//   absl::StatusOr<MadeName> name = MadeName::Settle(path, 0666);
//   ...
//   absl::Status status = name->Remove();
//
// The kernel gives a new socket all permissions but the umask's, and a new fifo those that were
// asked for without the umask's; so the umask is set for the moment of the call. A chmod(2)
// afterwards would leave a moment in between (F96).
//
// Thread: making changes the umask of the process for a moment; call it while no other thread
// makes files. Fork: a child that forgets its copy removes nothing.

#ifndef POSTHOUSE_IO_MADE_NAME_H_
#define POSTHOUSE_IO_MADE_NAME_H_

#include <sys/stat.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace posthouse {

// bind(2) of a local socket, and mkfifo(3), with this mode under any umask: 0, or -1 and errno.
// REQUIRES: CheckSocketPath() finds nothing wrong with a socket's path.
int BindWithMode(int fd, const std::string& path, mode_t mode);
int MakeFifoWithMode(const std::string& path, mode_t mode);

class MadeName {
 public:
  MadeName() = default;  // no name

  // For a name that this process has just made: remembers what it leads to. The mode is set where
  // it is not `mode` yet, as in a directory with a default access control list, before which the
  // umask is nothing. After an error the name is gone.
  static absl::StatusOr<MadeName> Settle(const std::string& path, mode_t mode);

  // Of a name that was settled.
  const std::string& path() const { return path_; }
  bool IsSameFile(const struct stat& file) const {
    return file.st_dev == device_ && file.st_ino == inode_;
  }

  // Removes the name if it still leads to the same file (F97); once it is gone, nothing happens.
  absl::Status Remove();

 private:
  MadeName(std::string path, dev_t device, ino_t inode)
      : path_(std::move(path)), device_(device), inode_(inode) {}

  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_IO_MADE_NAME_H_

// The address of a local socket with a name in the file system.
//
//   if (absl::Status status = CheckSocketPath(path); !status.ok()) return status;
//   const UnixAddress address(path);
//   os::Bind(fd, address.get(), address.length());
//
// Thread: any.

#ifndef POSTHOUSE_IO_UNIX_ADDRESS_H_
#define POSTHOUSE_IO_UNIX_ADDRESS_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace posthouse {

inline constexpr size_t kMaxSocketPathSize = sizeof(sockaddr_un{}.sun_path) - 1;

// kInvalidArgument for a path that no socket can have, naming the limit where it is too long
// (F94): "the path has 200 bytes, the limit is 107".
absl::Status CheckSocketPath(absl::string_view path);

class UnixAddress {
 public:
  // REQUIRES: CheckSocketPath() finds nothing.
  explicit UnixAddress(absl::string_view path);

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t length() const { return length_; }

 private:
  sockaddr_un address_ = {};
  socklen_t length_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_IO_UNIX_ADDRESS_H_

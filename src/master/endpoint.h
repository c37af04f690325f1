// Endpoint is one thing that a service is reached at: a TCP socket, a socket or a fifo with a name
// in the file system. ServiceListeners (listeners.h) is all of a service.
//
//   absl::StatusOr<Endpoint> endpoint =
//       Endpoint::OpenPath(EndpointKind::kStream, "private/rewrite", options);
//   ... endpoint->fd() listens, does not block and is close-on-exec (M57) ...
//
// What has a name is made as options.owner (M56) and has its final owner and mode before it
// listens, whatever the umask is (F96): sockets 0666, fifos 0622 (M55). The directory decides who
// comes near it.
//
// A name that is taken (M55, F95): sockets and fifos of ours, whether alive or dead, are replaced;
// that no other master is alive is what the lock files are for, and a worker of a dead one may
// still hold its socket. "Of ours" is: they belong to options.owner or to this process's user.
// Anything else - a file, a directory, a symbolic link, what belongs to somebody else - is left
// alone and reported as kAlreadyExists. Names stay when an Endpoint ends (M58).
//
// Thread: one; OpenPath() changes the umask and the effective identity for a moment. Errors: the
// errno of the call that failed, named with the object: "bind to 127.0.0.1:25: Address already in
// use". After an error nothing is left behind, neither descriptor nor name.

#ifndef POSTHOUSE_MASTER_ENDPOINT_H_
#define POSTHOUSE_MASTER_ENDPOINT_H_

#include <sys/socket.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "posthouse/io/made_name.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/effective_owner.h"

namespace posthouse {

enum class EndpointKind {
  kInet,
  kStream,    // the types unix and pass
  kDatagram,  // unix-dgram
  kFifo,
};

struct EndpointAddress {
  sockaddr_storage address = {};
  socklen_t length = 0;
  std::string text;  // "127.0.0.1:25", "[::1]:25": how messages name it
  // Comes from a wildcard or a name: the service works without it where the system lacks the
  // family (F92). An address that was written out is not optional.
  bool optional = false;
};

struct EndpointOptions {
  int backlog = 100;    // M54
  int buffer_size = 0;  // tcp_windowsize: of send and receive buffer; 0: as the system has it
  FileOwner owner;      // of names
};

class Endpoint {
 public:
  // M53. `error`, unless null, is the errno of a failure.
  static absl::StatusOr<Endpoint> OpenInet(const EndpointAddress& address,
                                           const EndpointOptions& options, int* error = nullptr);
  // M55. REQUIRES: `kind` is not kInet. A path longer than a socket's address takes is
  // kInvalidArgument, naming the limit (F94).
  static absl::StatusOr<Endpoint> OpenPath(EndpointKind kind, const std::string& path,
                                           const EndpointOptions& options);

  Endpoint() = default;  // not open
  bool is_open() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }

  // Whether nobody can reach it any more: a worker has shut it down or made something else of it
  // (F65). A poller that watches it, even for nothing, reports a hang-up at that moment.
  bool IsDeaf() const;
  // Makes a deaf TCP socket listen again, the copies of all workers included. False: it cannot be
  // had back (a local socket never can), and a new one is needed.
  bool Revive(int backlog);

  // Removes the name if it still leads to what was made here (MO8, F97).
  absl::Status RemoveName(const FileOwner& owner);

 private:
  Endpoint(EndpointKind kind, UniqueFd fd, MadeName name)
      : kind_(kind), fd_(std::move(fd)), name_(std::move(name)) {}
  static absl::StatusOr<Endpoint> OpenSocket(EndpointKind kind, const std::string& path,
                                             const EndpointOptions& options);
  static absl::StatusOr<Endpoint> OpenFifo(const std::string& path);

  EndpointKind kind_ = EndpointKind::kInet;
  UniqueFd fd_;
  std::string local_;  // the address of a TCP socket
  MadeName name_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_ENDPOINT_H_

// Listen sockets that a program makes for itself, from texts such as
//
//   inet:127.0.0.1:10030   inet:[::1]:10030   inet:localhost:smtp   inet:*:10030   unix:/run/a.sock
//
//   absl::StatusOr<ListenSpec> spec = ParseListenSpec("inet:127.0.0.1:10030");
//   absl::StatusOr<ListenResult> result = OpenListenSockets(*spec, ListenOptions());
//
// Every socket is non-blocking and close-on-exec. Errors name the option as it was written:
// "--listen inet:127.0.0.1:25: bind to 127.0.0.1:25: Address already in use".
//
// Thread: OpenListenSockets() for unix sockets changes the umask of the process for a moment; call
// it while no other thread makes files. Fork: a child that closes its copy does not remove names.

#ifndef POSTHOUSE_IO_LISTEN_H_
#define POSTHOUSE_IO_LISTEN_H_

#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/io/accept.h"
#include "posthouse/io/made_name.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

struct ListenSpec {
  Transport transport = Transport::kInet;  // kInet or kUnix
  std::string host;                        // kInet; empty for all addresses
  std::string port;                        // kInet; a number or a service name
  std::string path;                        // kUnix
  std::string text;                        // as written
};

// kInvalidArgument: names the text, what is wrong and, for a path that is too long, the limit
// (F94).
absl::StatusOr<ListenSpec> ParseListenSpec(absl::string_view text);

struct ListenOptions {
  // The mode of a unix socket from the moment its name exists, whatever the umask is (F96).
  mode_t unix_mode = 0600;
  int backlog = 511;
};

class ListenSocket {
 public:
  ListenSocket(UniqueFd fd, Transport transport, std::string address)
      : fd_(std::move(fd)), transport_(transport), address_(std::move(address)) {}
  // A unix socket.
  ListenSocket(UniqueFd fd, MadeName name);

  int fd() const { return fd_.get(); }
  Transport transport() const { return transport_; }
  // "127.0.0.1:10030" with the port that the kernel chose for 0; "unix:/run/a.sock".
  const std::string& address() const { return address_; }

  UniqueFd TakeFd() { return std::move(fd_); }
  // Removes the name of a unix socket if it still is this socket's (F97). For an orderly end of
  // the process that made it; nothing does it by itself.
  absl::Status RemoveName() { return name_.Remove(); }

 private:
  UniqueFd fd_;
  Transport transport_;
  std::string address_;
  MadeName name_;
};

struct ListenResult {
  std::vector<ListenSocket> sockets;
  // What did not work and did not matter: an address family that this system lacks (F92).
  std::vector<std::string> warnings;
};

// One socket per address that the specification means; duplicates are merged (F91). IPv4 and IPv6
// are bound separately, v6-only (F93). An address family that is missing is a warning as long as
// another address of a name or of "*" works, and an error for an address that was written out.
// A unix socket that is dead and ours is replaced; anything else with the name is left and
// reported as kAlreadyExists (F95). After an error nothing is left behind.
absl::StatusOr<ListenResult> OpenListenSockets(const ListenSpec& spec,
                                               const ListenOptions& options);

}  // namespace posthouse

#endif  // POSTHOUSE_IO_LISTEN_H_

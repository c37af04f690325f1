// Taking one connection from a listen socket that other processes share.
//
//   AcceptResult accepted = AcceptConnection(listen_fd, Transport::kInet);
//   switch (accepted.outcome) {
//     case AcceptOutcome::kClient: ... accepted.fd, accepted.peer
//     case AcceptOutcome::kNone: ...   // somebody else was faster (S42, F47)
//     ...
//   }
//   absl::Duration pause = pacer.Next(accepted.outcome);   // zero: go on; else stop listening so
//   long
//
// Thread: any; an AcceptPacer has one. Fork: nothing is kept.

#ifndef POSTHOUSE_IO_ACCEPT_H_
#define POSTHOUSE_IO_ACCEPT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"

namespace posthouse {

// How clients reach a service (S34 to S36). kPass: a local connection over which the client's
// descriptor comes; see pass_descriptor.h.
enum class Transport { kInet, kUnix, kPass };

// "inet", "unix", "pass", in any case (S27). Anything else is kInvalidArgument and named (S38).
absl::StatusOr<Transport> ParseTransport(absl::string_view name);
absl::string_view TransportName(Transport transport);

enum class AcceptOutcome {
  kClient,   // there is a connection
  kNone,     // nobody is waiting, or another process was faster
  kIgnore,   // this one connection failed; the next may be good
  kBackOff,  // the system lacks something; try again later
  kBroken,   // the listen socket is unusable for good
};

// What an errno of accept(2) means. One that is not in the table backs off (F46).
//
//   kNone     EAGAIN EWOULDBLOCK
//   kIgnore   EINTR ECONNABORTED ECONNRESET ECONNREFUSED ENOTCONN EPROTO ENETDOWN EHOSTDOWN
//             ENETUNREACH EHOSTUNREACH (S37); ENOPROTOOPT ENONET ETIMEDOUT EPERM EPIPE (SO14)
//   kBackOff  EMFILE ENFILE ENOMEM ENOBUFS (SO4, although S37 counts ENOBUFS as harmless: nothing
//             was taken from the queue, so it would repeat at once); EOPNOTSUPP (one connection's
//             on Linux, but for ever on a socket of another type); ENOSPC EACCES EIO ENOSR; all
//             others
//   kBroken   EBADF ENOTSOCK EINVAL (not listening any more, F65)
AcceptOutcome ClassifyAcceptError(int error);

struct AcceptResult {
  AcceptOutcome outcome = AcceptOutcome::kNone;
  // kClient: the connection, close-on-exec and in blocking mode (S45, S46).
  UniqueFd fd;
  // kClient: PeerText() of the other side.
  std::string peer;
  // kIgnore, kBackOff, kBroken: the errno and what failed.
  int error = 0;
  absl::Status status;
};

// One attempt (S39), which never blocks: the listen socket is made non-blocking if some other
// holder has cleared that, and is only asked after poll(2) has shown a connection. What remains is
// somebody who clears the flag and takes the connection in the microseconds between those calls.
// For kInet, SO_KEEPALIVE is turned on for IPv4 and IPv6 peers, errors ignored (S35).
AcceptResult AcceptConnection(int listen_fd, Transport transport);

// An address for people and log lines, never longer than 4 * 108 + 8 characters and printable
// ASCII whatever the kernel or the peer put there (F44): "127.0.0.1:4711", "[::1]:4711",
// "[fe80::1%2]:25" (numeric scope), IPv4-mapped as IPv4, "unix" for an unnamed one, "unix:/path",
// "unix:@name" for an abstract one, "unknown" if there is no family. Other bytes are escaped as in
// C. `length` is what the kernel answered and may be more than the address.
std::string PeerText(const sockaddr* address, socklen_t length);

// How long to leave the listen sockets alone after an attempt, so that no error can spin the loop:
// at most kIgnoredInARow connections that failed in a row, then, and after each kBackOff or
// kBroken, pauses from 50 ms doubling to 500 ms (F45: at most 20 failed accepts a second, and
// accepting again within 1 s). A client resets it.
class AcceptPacer {
 public:
  static constexpr int kIgnoredInARow = 16;
  static constexpr absl::Duration kFirstPause = absl::Milliseconds(50);
  static constexpr absl::Duration kLongestPause = absl::Milliseconds(500);

  absl::Duration Next(AcceptOutcome outcome);

 private:
  int ignored_ = 0;
  absl::Duration pause_ = absl::ZeroDuration();
};

}  // namespace posthouse

#endif  // POSTHOUSE_IO_ACCEPT_H_

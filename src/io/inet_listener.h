// A TCP socket that listens at one address: non-blocking, close-on-exec, IPv6 without IPv4 (F93).
//
//   InetListener listener = OpenInetListener(address, length, options);
//   if (listener.error != 0) ...   // errno; listener.call failed: "bind to"
//
// Thread: any. Errors: an errno, because callers decide by it, and the call that failed in the
// words of a message in which the address follows.

#ifndef POSTHOUSE_IO_INET_LISTENER_H_
#define POSTHOUSE_IO_INET_LISTENER_H_

#include <sys/socket.h>

#include "absl/strings/string_view.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

struct InetListenerOptions {
  int backlog = 511;
  // Others of the same user may listen at the same address, and an address beside a wildcard.
  bool reuse_port = false;
  // Of the send and the receive buffer; 0: as the system has it.
  int buffer_size = 0;
};

struct InetListener {
  UniqueFd fd;  // empty after an error
  int error = 0;
  absl::string_view call;
};

InetListener OpenInetListener(const sockaddr* address, socklen_t length,
                              const InetListenerOptions& options);

// Whether an error of OpenInetListener() says that this system lacks the family or has it switched
// off (F92).
bool IsFamilyMissing(int error);

}  // namespace posthouse

#endif  // POSTHOUSE_IO_INET_LISTENER_H_

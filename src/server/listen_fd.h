// ListenFd is a listening descriptor together with how connections reach it. Whoever holds one
// borrows the descriptor.

#ifndef POSTHOUSE_SERVER_LISTEN_FD_H_
#define POSTHOUSE_SERVER_LISTEN_FD_H_

#include "posthouse/io/accept.h"

namespace posthouse {

struct ListenFd {
  int fd = -1;
  Transport transport = Transport::kUnix;
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_LISTEN_FD_H_

// Addresses, clients and looks at sockets for the tests of endpoints and listeners.

#ifndef POSTHOUSE_TESTS_MASTER_ENDPOINT_HELPERS_H_
#define POSTHOUSE_TESTS_MASTER_ENDPOINT_HELPERS_H_

#include <sys/socket.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "posthouse/io/unique_fd.h"
#include "posthouse/master/endpoint.h"

namespace posthouse {

// 0 when there is no such name.
mode_t ModeOf(const std::string& path);
mode_t CurrentUmask();

// -1 when the socket has no such option.
int IntOption(int fd, int level, int option);

// 127.0.0.1 and ::1; port 0 lets the kernel choose.
EndpointAddress Loopback4(int port);
EndpointAddress Loopback6(int port);
EndpointAddress Wildcard(int family, int port);
// 127.0.0.1 and, where the system has it, ::1, both with port 0.
std::vector<EndpointAddress> LoopbackAddresses();
const sockaddr* Bytes(const EndpointAddress& address);
int PortOf(int fd);

// A TCP socket that holds a port of 127.0.0.1 as a program without SO_REUSEPORT does.
class Occupant {
 public:
  explicit Occupant(int port);
  int port() const { return PortOf(fd_.get()); }

 private:
  UniqueFd fd_;
};

// Different ports that were free a moment ago.
std::vector<int> FreePorts(int count);

// A non-blocking connect that may fail.
struct Client {
  UniqueFd fd;
  int error = 0;  // errno
};
Client ConnectUnix(const std::string& path);
// Connects to where a TCP socket is bound, with a bound on the time; to 127.0.0.1 for a wildcard.
Client ConnectTo(int listener);

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_MASTER_ENDPOINT_HELPERS_H_

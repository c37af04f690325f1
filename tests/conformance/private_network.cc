#include "tests/conformance/private_network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "posthouse/io/unique_fd.h"

namespace posthouse::conformance {

absl::Status EnterPrivateNetwork() {
  if (unshare(CLONE_NEWNET) != 0) return absl::ErrnoToStatus(errno, "unshare");
  const UniqueFd control(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = {};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING | IFF_LOOPBACK;
  if (ioctl(control.get(), SIOCSIFFLAGS, &request) != 0) return absl::ErrnoToStatus(errno, "lo up");
  strcpy(request.ifr_name, "lo:1");
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  inet_pton(AF_INET, kPrivateNetworkAddress, &address.sin_addr);
  memcpy(&request.ifr_addr, &address, sizeof address);
  if (ioctl(control.get(), SIOCSIFADDR, &request) != 0) {
    return absl::ErrnoToStatus(errno, kPrivateNetworkAddress);
  }
  return absl::OkStatus();
}

}  // namespace posthouse::conformance

// Gives the calling process and its children a network of their own that nobody else can reach.
#ifndef POSTHOUSE_TESTS_CONFORMANCE_PRIVATE_NETWORK_H_
#define POSTHOUSE_TESTS_CONFORMANCE_PRIVATE_NETWORK_H_

#include "absl/status/status.h"

namespace posthouse::conformance {

// An address there that is not of the loopback network.
inline constexpr char kPrivateNetworkAddress[] = "192.0.2.1";

// The network has a loopback interface that has kPrivateNetworkAddress too; every port is free in
// it. It needs root. Sockets that are open stay in the network where they were made.
absl::Status EnterPrivateNetwork();

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_PRIVATE_NETWORK_H_

// The parameter inet_interfaces: the addresses of inet services without a host (M50, M51, C67).
//
// It is evaluated once in the life of a master (M52). Thread: one.

#ifndef POSTHOUSE_MASTER_INTERFACES_H_
#define POSTHOUSE_MASTER_INTERFACES_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/master/inet_address.h"
#include "posthouse/master/inet_resolver.h"

namespace posthouse {

// "all" in any case: the wildcard address of each protocol in use. "loopback-only": the loopback
// addresses of the interfaces that are up. Otherwise a list of hosts and addresses, "[...]"
// allowed, each of which must be an address of such an interface: kInvalidArgument names the one
// that is not. Sorted, each once; empty for an empty list, and when no protocol is in use.
absl::StatusOr<std::vector<InetAddress>> EvaluateInterfaces(absl::string_view inet_interfaces,
                                                            InetResolver* resolver);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_INTERFACES_H_

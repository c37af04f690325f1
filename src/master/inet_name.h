// The name of an inet service in master.cf (M48): "smtp", "127.0.0.1:10025", "[::1]:25", ":25".
//
//   absl::StatusOr<InetName> name = ParseInetName("[ipv6:::1]:smtp");  // host "::1", port "smtp"
//
// A pure function. Thread: any.

#ifndef POSTHOUSE_MASTER_INET_NAME_H_
#define POSTHOUSE_MASTER_INET_NAME_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace posthouse {

struct InetName {
  std::string host;  // empty: the addresses of inet_interfaces (M50)
  std::string port;  // a name or digits
};

// kInvalidArgument says what is wrong, without the text.
absl::StatusOr<InetName> ParseInetName(absl::string_view text);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_INET_NAME_H_

// The parameter known_tcp_ports: port names that mean the same on every machine (C75).
//
//   std::vector<std::string> warnings;
//   KnownPorts ports("lmtp=24, smtps=submissions=465", &warnings);
//   ports.Filter("submissions")  // "465"
//   ports.Filter("http")         // "http"
//
// An association that is none is warned about and skipped, as is a name that comes again. Thread:
// any.

#ifndef POSTHOUSE_MASTER_KNOWN_PORTS_H_
#define POSTHOUSE_MASTER_KNOWN_PORTS_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace posthouse {

class KnownPorts {
 public:
  KnownPorts() = default;
  // A bounded number of warnings is appended.
  KnownPorts(absl::string_view list, std::vector<std::string>* warnings);

  // The number of a known name; any other text as it is. Names are compared exactly.
  absl::string_view Filter(absl::string_view port) const;

 private:
  // What is wrong with it; empty when all of it was added.
  std::string AddAssociation(absl::string_view association);
  std::string AddName(absl::string_view name, absl::string_view port);

  std::map<std::string, std::string, std::less<>> ports_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_KNOWN_PORTS_H_

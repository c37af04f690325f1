// From the entries of master.cf to services: what their names mean, and which of them are the same
// (M44 to M50, F91).
//
//   InetResolver resolver(protocols, ports);
//   ServiceTableRules rules;
//   rules.interface_addresses = addresses;
//   ServiceTable table = BuildServiceTable("/etc/postfix/master.cf", entries, rules, &resolver);
//   if (!table.errors.empty()) ...
//
// Asks the system for names of hosts and ports alone. Thread: one; a look-up blocks.

#ifndef POSTHOUSE_MASTER_SERVICE_TABLE_H_
#define POSTHOUSE_MASTER_SERVICE_TABLE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "posthouse/config/master_cf.h"
#include "posthouse/master/inet_address.h"
#include "posthouse/master/inet_resolver.h"

namespace posthouse {

struct ServiceConfiguration {
  MasterCfEntry entry;
  std::string place;                    // "/etc/postfix/master.cf, line 12"
  std::string internal_name;            // "private/rewrite", "25", "[127.0.0.1]:10025" (M44, M45)
  std::string path;                     // below the queue directory; empty for inet
  std::vector<InetEndpoint> endpoints;  // inet: at least one; sorted, each once (M50). Else empty
  bool stress_eligible = false;         // M79
  int backlog = 0;                      // M54
  std::string program;                  // daemon_directory/command (M38)
};

// What identifies a service: its internal name and its type (M46). "25 inet", "private/rewrite
// unix".
std::string ServiceKey(const ServiceConfiguration& service);

struct ServiceTableRules {
  std::vector<InetAddress> interface_addresses;  // of inet services without a host (M51)
  std::string daemon_directory;
  int default_process_limit = 100;  // M54
  // The same service twice is an error (F117) instead of a warning (M47).
  bool strict = false;
};

struct ServiceTable {
  std::vector<ServiceConfiguration> services;
  std::vector<std::string> errors;  // "FILE, line 12: ..."; a bounded number, as the warnings
  std::vector<std::string> warnings;
};

// The same service twice: the last entry counts, with a warning, in the place of the first (M47).
// One address and port of two services is an error that names both lines (F91); one path of two,
// which then differ in type, is a warning, because the later one gets it (M46, M55). Without a
// protocol all inet entries are left out, with two warnings (M40).
ServiceTable BuildServiceTable(absl::string_view file, std::vector<MasterCfEntry> entries,
                               const ServiceTableRules& rules, InetResolver* resolver);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_SERVICE_TABLE_H_

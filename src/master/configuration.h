// The configuration of a master: main.cf and master.cf, read and checked whole before anything
// changes (MO2, F100).
//
//   ConfigurationOptions options;
//   options.config_directory = "/etc/postfix";
//   absl::StatusOr<MasterConfiguration> next = LoadMasterConfiguration(options);
//   if (!next.ok()) ... log next.status(), line by line, and go on with what runs ...
//
// Loading opens nothing but the two files, binds nothing, changes nothing. What it makes is a plain
// value; adopting it is the caller's step. At a reload the caller hands over the configuration that
// runs, and what is fixed at start stays as it was, with a warning (M52, M95, M112).
//
// Errors: one status names every problem, one per line with file and line, a bounded number of each
// kind. kUnavailable means "the file was changed a moment ago, ask again" (C8, F105) and nothing
// else; any other code is final until somebody edits the files. Thread: one. Host names are looked
// up: a call blocks as long as the system's resolver does.

#ifndef POSTHOUSE_MASTER_CONFIGURATION_H_
#define POSTHOUSE_MASTER_CONFIGURATION_H_

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "posthouse/config/generic_parameters.h"
#include "posthouse/master/inet_address.h"
#include "posthouse/master/inet_resolver.h"
#include "posthouse/master/service_table.h"

namespace posthouse {

struct MasterConfiguration {
  GenericParameters generic;
  int service_throttle_seconds = 60;           // service_throttle_time
  std::vector<ServiceConfiguration> services;  // in file order, each key once (M47)

  // mail_owner; for a master that is not root the account that it is.
  uid_t owner_uid = 0;
  gid_t owner_gid = 0;
  std::string owner_name;

  // Fixed at start; after a reload those of the configuration that runs.
  std::string config_directory;
  std::string queue_directory;
  std::string inet_interfaces;
  std::string inet_protocols;
  std::string import_environment;
  std::string data_directory;
  InetProtocols protocols;
  std::vector<InetAddress> interface_addresses;  // what inet_interfaces means (M51)
  std::vector<std::string> environment;          // what import_environment leaves (M16)

  absl::optional<std::string> debugger_command;  // M3

  // To be logged when this configuration is adopted.
  std::vector<std::string> warnings;
  std::vector<std::string> notes;  // information
};

// The environment of the workers: the imported one, MAIL_LOGTAG, and where log records go (M65,
// C69, C73). GENERATION comes to it with each worker.
std::vector<std::string> WorkerEnvironment(const MasterConfiguration& configuration);

struct ConfigurationOptions {
  std::string config_directory;
  std::string process_name = "master";  // the last component of argv[0]
  // A reload: what runs. Null at start.
  const MasterConfiguration* running = nullptr;
  std::vector<std::string> current_environment;  // "name=value"; read at start only
  // Root is asked for more: the accounts must be right (C63, F63), and nobody else may be able to
  // write the files, their directory, daemon_directory and the programs (F115, F116).
  bool root = true;
  // F116 is a warning.
  bool allow_unsafe_owner = false;
  // Oversights that the original accepts are errors (CO2, MO1, F117).
  bool strict = false;
  // A file that was changed less than this ago may be half written (F105).
  absl::Duration quiet = absl::Milliseconds(250);
  // True: sleep and read again, for 30 s at most. False: kUnavailable at once.
  bool wait = true;
  size_t max_bytes = 16 << 20;  // F104, each file
};

absl::StatusOr<MasterConfiguration> LoadMasterConfiguration(const ConfigurationOptions& options);

// main.cf alone, for "is a master running" (M27): no services, no addresses, no environment.
absl::StatusOr<MasterConfiguration> LoadMasterParameters(const ConfigurationOptions& options);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_CONFIGURATION_H_

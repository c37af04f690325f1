// The parameters of main.cf that every Postfix daemon loads before those of its own, with the
// checks that belong to them (C59 to C73).
//
//   ParameterStore store;
//   SetProcessParameters({.process_name = "policyd", .service_name = "policy",
//                         .config_directory = "/etc/postfix"}, &store);
//   absl::Status status = ReadMainCf("/etc/postfix/main.cf", {}, &store, &warnings);
//   ... ApplyOverride() for each -o, in order ...
//   GenericParameters generic;
//   status = LoadGenericParameters({}, &store, &generic, &warnings);
//   ... generic.max_idle.value() ...
//
// Every parameter is a member with its own name. Defaults are those of Postfix 3.7.11 in Debian 12.
// Strict are the checks that are fatal in stock daemons; what only programs with a network role
// of their own need is not evaluated (see the members).
//
// Thread: one. Fork: plain values, but for $process_id in the store. Errors: all bad parameters are
// reported, one per line, each with its place (CO4).

#ifndef POSTHOUSE_CONFIG_GENERIC_PARAMETERS_H_
#define POSTHOUSE_CONFIG_GENERIC_PARAMETERS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/log/syslog_sink.h"  // ParseSyslogFacility() (C65)

namespace posthouse {

// What Debian's Postfix is built with.
inline constexpr char kDefaultConfigDirectory[] = "/etc/postfix";

// The host name of the system, as it is.
absl::StatusOr<std::string> SystemHostName();

struct GenericParameters {
  // First, because defaults of others may compare with it (C60).
  StringParameter compatibility_level{"compatibility_level", "0"};

  StringParameter mail_version{"mail_version", "3.7.11", {.min = 1}};
  StringParameter syslog_facility{"syslog_facility", "mail", {.min = 1}};
  StringParameter inet_protocols{"inet_protocols", "all"};
  StringParameter multi_instance_directories{"multi_instance_directories", ""};
  StringParameter multi_instance_group{"multi_instance_group", ""};
  StringParameter multi_instance_name{"multi_instance_name", ""};
  StringParameter maillog_file{"maillog_file", ""};
  StringParameter maillog_file_prefixes{"maillog_file_prefixes", "/var, /dev/stdout", {.min = 1}};
  StringParameter postlog_service_name{"postlog_service_name", "postlog", {.min = 1}};
  StringParameter known_tcp_ports{"known_tcp_ports",
                                  "lmtp=24, smtp=25, smtps=submissions=465, submission=587"};
  BoolParameter daemon_table_open_error_is_fatal{"daemon_table_open_error_is_fatal", false};

  // Defaults: the system's host name, completed by mydomain; what follows its first dot (C64).
  StringParameter myhostname{"myhostname", SystemHostName, {.min = 1}};
  StringParameter mydomain{"mydomain", "localdomain", {.min = 1}};

  StringParameter mail_name{"mail_name", "Postfix", {.min = 1}};
  StringParameter syslog_name{
      "syslog_name", "${multi_instance_name?{$multi_instance_name}:{postfix}}", {.min = 1}};
  StringParameter mail_owner{"mail_owner", "postfix", {.min = 1}};
  StringParameter setgid_group{"setgid_group", "postdrop", {.min = 1}};
  StringParameter mydestination{"mydestination", "$myhostname, localhost.$mydomain, localhost"};
  StringParameter myorigin{"myorigin", "$myhostname", {.min = 1}};
  StringParameter relayhost{"relayhost", ""};
  StringParameter daemon_directory{"daemon_directory", "/usr/lib/postfix/sbin", {.min = 1}};
  StringParameter data_directory{"data_directory", "/var/lib/postfix", {.min = 1}};
  StringParameter command_directory{"command_directory", "/usr/sbin", {.min = 1}};
  StringParameter queue_directory{"queue_directory", "/var/spool/postfix", {.min = 1}};
  StringParameter process_id_directory{"process_id_directory", "pid", {.min = 1}};
  // Not evaluated: a worker is handed its listen sockets and does not ask for local addresses. A
  // stock daemon also refuses addresses that are not local (C67).
  StringParameter inet_interfaces{"inet_interfaces", "all"};
  StringParameter default_privs{"default_privs", "nobody", {.min = 1}};
  StringParameter import_environment{
      "import_environment",
      "MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ XAUTHORITY DISPLAY LANG=C POSTLOG_SERVICE "
      "POSTLOG_HOSTNAME"};
  StringParameter export_environment{"export_environment", "TZ MAIL_CONFIG LANG"};
  StringParameter verp_delimiter_filter{"verp_delimiter_filter", "-=+", {.min = 1}};
  StringParameter default_verp_delimiters{"default_verp_delimiters", "+=", {.min = 2, .max = 2}};
  StringParameter stress{"stress", ""};

  IntParameter max_use{"max_use", 100, {.min = 1}};
  IntParameter fork_attempts{"fork_attempts", 5, {.min = 1}};
  IntParameter default_process_limit{"default_process_limit", 100, {.min = 1}};
  IntParameter line_length_limit{"line_length_limit", 2048, {.min = 512}};
  IntParameter tcp_windowsize{"tcp_windowsize", 0};
  BoolParameter helpful_warnings{"helpful_warnings", true};
  TimeParameter max_idle{"max_idle", "100s", {.min_seconds = 1}};
  // Below 3 s a stock daemon loads the value and panics when it makes its watchdog; here the value
  // is refused (S1).
  TimeParameter daemon_timeout{"daemon_timeout", "18000s", {.min_seconds = 3}};
  TimeParameter ipc_timeout{"ipc_timeout", "3600s", {.min_seconds = 1}};
  TimeParameter ipc_idle{"ipc_idle", "5s", {.min_seconds = 1}};
  TimeParameter ipc_ttl{"ipc_ttl", "1000s", {.min_seconds = 1}};
  TimeParameter in_flow_delay{"in_flow_delay", "1s", {.min_seconds = 0, .max_seconds = 10}};
  TimeParameter trigger_timeout{"trigger_timeout", "10s", {.min_seconds = 1}};
  TimeParameter application_event_drain_time{
      "application_event_drain_time", "100s", {.min_seconds = 1}};
  TimeParameter fork_delay{"fork_delay", "1s", {.min_seconds = 1}};
  TimeParameter command_time_limit{"command_time_limit", "1000s", {.min_seconds = 1}};

  // What the checks made of the texts above.
  int64_t compatibility_level_number = 0;  // as ParseCompatibilityLevel() numbers them
  int syslog_facility_code = 0;            // LOG_MAIL and so on
  bool use_ipv4 = false;
  bool use_ipv6 = false;

  // All members, in the order in which they are loaded (C60).
  std::vector<Parameter*> All();

  // Where log records go when maillog_file is set (C73).
  std::string PostlogSocketPath() const;
};

// What the program knows about itself (C2, C6).
struct ProcessParameters {
  std::string process_name;  // the last component of argv[0]
  std::string service_name;  // -n, else process_name
  std::string config_directory;
};

// Makes $process_name, $service_name, $config_directory and $process_id known and read-only (CO1,
// C6), so parse the command line first and read main.cf afterwards. Again after a fork().
void SetProcessParameters(const ProcessParameters& process, ParameterStore* store);

struct GenericOptions {
  // C63. A worker that was not started by a master and stays the user it is has no use for the
  // accounts and must not fail because they are missing.
  bool check_accounts = true;
  // CO6: $name yields the default of a generic parameter also before it was loaded. Stock daemons
  // see an empty text there, so a main.cf can mean something else with this.
  bool resolve_before_loading = false;
};

absl::Status LoadGenericParameters(const GenericOptions& options, ParameterStore* store,
                                   GenericParameters* generic, std::vector<std::string>* warnings);

// CO6 for the tables of a program: references to these names see their defaults from now on.
void ResolveBeforeLoading(absl::Span<Parameter* const> parameters, ParameterStore* store);

// The command of -D, expanded when it is asked for; empty optional when none is set.
absl::StatusOr<absl::optional<std::string>> DebuggerCommand(const ParameterStore& store);

// C64: letters, digits, "-", "_" and dots; labels of 1 to 63; at most 255; not all numeric. The
// status says what is wrong with the name.
absl::Status CheckHostName(absl::string_view name);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_GENERIC_PARAMETERS_H_

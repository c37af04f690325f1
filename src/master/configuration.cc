#include "posthouse/master/configuration.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/accounts.h"
#include "posthouse/config/config_file.h"
#include "posthouse/config/expand.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/config/misspelling.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/config/text.h"
#include "posthouse/config/word_list.h"
#include "posthouse/master/interfaces.h"
#include "posthouse/master/known_ports.h"
#include "posthouse/master/programs.h"
#include "posthouse/master/protocol.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

using config_internal::BoundedReports;
using config_internal::Quoted;

// Compatibility levels below 1 have other defaults (M34).
constexpr absl::string_view kChrootLevel = "1";

// The parameters that only a master has.
struct MasterParameters {
  TimeParameter service_throttle_time{"service_throttle_time", "60s", {.min_seconds = 1}};
  StringParameter master_service_disable{"master_service_disable", ""};
  // Ours. F105 and F115 refuse what the original takes; these say that it is meant.
  BoolParameter master_allow_empty_table{"master_allow_empty_table", false};
  BoolParameter master_allow_program_links{"master_allow_program_links", false};

  std::vector<Parameter*> All() {
    return {&service_throttle_time, &master_service_disable, &master_allow_empty_table,
            &master_allow_program_links};
  }
};

void Append(std::vector<std::string> from, std::vector<std::string>* to) {
  for (std::string& message : from) to->push_back(std::move(message));
}

// Everything that is wrong, one per line; the same sentence once.
class Problems {
 public:
  void Add(const absl::Status& status) {
    if (!status.ok()) Add(std::string(status.message()));
  }
  void Add(std::string problem) {
    if (seen_.insert(problem).second) messages_.push_back(std::move(problem));
  }
  absl::Status ToStatus() const {
    if (messages_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(messages_, "\n"));
  }

 private:
  std::vector<std::string> messages_;
  std::set<std::string> seen_;
};

// The way of one configuration from the files to a value. Each step goes on after a problem as far
// as its own input allows, so that one reading tells all of them.
class Loader {
 public:
  explicit Loader(const ConfigurationOptions& options) : options_(options) {
    result_.config_directory = options.config_directory;
  }

  absl::StatusOr<MasterConfiguration> Run(bool with_services);

 private:
  bool at_start() const { return options_.running == nullptr; }
  std::string ServiceFilePath() const;

  // False when there is nothing to go on with; the reason is in problems_ or in unavailable_.
  bool ReadFile(const std::string& path, std::string* text);
  void CheckOwner(const std::string& path, const ConfigFile& file);
  void ReadParameterFile();
  void LoadAllParameters();
  void LoadOwner();
  void KeepWhatIsFixed();
  void KeepText(StringParameter* parameter, const std::string& old, std::string* in_force);
  void LoadNetwork();
  void LoadEnvironment();
  bool ReadServiceFile(std::vector<MasterCfEntry>* entries);
  void MakeServices(std::vector<MasterCfEntry> entries);
  void CheckPrograms();
  // A problem with a parameter: what depends on its value is not looked at.
  void ParameterProblem(const absl::Status& status) {
    problems_.Add(status);
    parameters_usable_ = parameters_usable_ && status.ok();
  }

  const ConfigurationOptions& options_;
  ParameterStore store_;
  MasterParameters own_;
  MasterConfiguration result_;
  KnownPorts ports_;
  Problems problems_;
  bool parameters_usable_ = true;
  absl::Status unavailable_;
};

void Loader::CheckOwner(const std::string& path, const ConfigFile& file) {
  absl::StatusOr<std::vector<std::string>> found = ConfigFileOwnershipProblems(path, file);
  if (!found.ok()) {
    problems_.Add(found.status());
  } else if (options_.root && !options_.allow_unsafe_owner) {
    for (const std::string& problem : *found) problems_.Add(problem);
  } else {
    Append(*std::move(found), &result_.warnings);
  }
}

bool Loader::ReadFile(const std::string& path, std::string* text) {
  absl::StatusOr<ConfigFile> file = ReadConfigFile(
      path, {.max_bytes = options_.max_bytes, .quiet = options_.quiet, .wait = options_.wait});
  if (!file.ok()) {
    if (absl::IsUnavailable(file.status())) unavailable_ = file.status();
    problems_.Add(file.status());
    return false;
  }
  CheckOwner(path, *file);
  *text = std::move(file->text);
  return true;
}

std::string Loader::ServiceFilePath() const {
  return absl::StrCat(options_.config_directory, "/master.cf");
}

void Loader::ReadParameterFile() {
  const std::string path = absl::StrCat(options_.config_directory, "/main.cf");
  store_.set_strict(options_.strict);
  SetProcessParameters({.process_name = options_.process_name,
                        .service_name = options_.process_name,
                        .config_directory = options_.config_directory},
                       &store_);
  std::string text;
  if (ReadFile(path, &text)) {
    ParameterProblem(ParseMainCf(path, text, &store_, &result_.warnings));
    LoadAllParameters();
  } else {
    parameters_usable_ = false;
  }
}

void Loader::LoadAllParameters() {
  ParameterProblem(LoadGenericParameters({.check_accounts = options_.root}, &store_,
                                         &result_.generic, &result_.warnings));
  ParameterProblem(LoadParameters(own_.All(), &store_, &result_.warnings));
  std::vector<Parameter*> all = result_.generic.All();
  for (Parameter* parameter : own_.All()) all.push_back(parameter);
  problems_.Add(ReportMisspellings(all, store_, &result_.warnings));
  absl::StatusOr<absl::optional<std::string>> debugger = DebuggerCommand(store_);
  problems_.Add(debugger.status());
  if (debugger.ok()) result_.debugger_command = *std::move(debugger);
  result_.service_throttle_seconds = own_.service_throttle_time.seconds();
}

void Loader::LoadOwner() {
  const absl::StatusOr<UserAccount> owner =
      options_.root ? FindUser(result_.generic.mail_owner.value()) : FindUserById(os::Geteuid());
  if (owner.ok()) {
    result_.owner_name = owner->name;
    result_.owner_uid = owner->uid;
    result_.owner_gid = owner->gid;
  } else if (options_.root) {
    problems_.Add(absl::StrCat("parameter mail_owner: ", owner.status().message()));
  } else {
    // An account without a name, as in some containers, will do for itself.
    result_.owner_uid = os::Geteuid();
    result_.owner_gid = os::Getegid();
  }
}

// What a running master cannot change (M52, M95, M112). The texts are those of the files, so that a
// second reload says it again.
void Loader::KeepText(StringParameter* parameter, const std::string& old, std::string* in_force) {
  *in_force = at_start() ? parameter->value() : old;
  if (parameter->value() == *in_force) return;
  result_.warnings.push_back(
      absl::StrCat("ignoring the changed value of parameter ", parameter->name()));
  result_.warnings.push_back(
      absl::StrCat("old value: ", Quoted(*in_force), ", new value: ", Quoted(parameter->value())));
  result_.warnings.push_back(absl::StrCat("to change ", parameter->name(), ", stop and start"));
  parameter->set_value(*in_force);
}

void Loader::KeepWhatIsFixed() {
  const MasterConfiguration& old = at_start() ? result_ : *options_.running;
  GenericParameters& generic = result_.generic;
  KeepText(&generic.queue_directory, old.queue_directory, &result_.queue_directory);
  KeepText(&generic.data_directory, old.data_directory, &result_.data_directory);
  KeepText(&generic.inet_interfaces, old.inet_interfaces, &result_.inet_interfaces);
  KeepText(&generic.inet_protocols, old.inet_protocols, &result_.inet_protocols);
  KeepText(&generic.import_environment, old.import_environment, &result_.import_environment);
  if (at_start()) return;
  generic.use_ipv4 = old.generic.use_ipv4;
  generic.use_ipv6 = old.generic.use_ipv6;
}

void Loader::LoadNetwork() {
  ports_ = KnownPorts(result_.generic.known_tcp_ports.value(), &result_.warnings);
  if (!at_start()) {
    result_.protocols = options_.running->protocols;
    result_.interface_addresses = options_.running->interface_addresses;
    return;
  }
  result_.protocols =
      UsableProtocols(result_.generic.use_ipv4, result_.generic.use_ipv6, &result_.warnings);
  InetResolver resolver(result_.protocols, ports_);
  absl::StatusOr<std::vector<InetAddress>> addresses =
      EvaluateInterfaces(result_.inet_interfaces, &resolver);
  ParameterProblem(addresses.status());
  if (addresses.ok()) result_.interface_addresses = *std::move(addresses);
}

void Loader::LoadEnvironment() {
  if (!at_start()) {
    result_.environment = options_.running->environment;
    return;
  }
  absl::StatusOr<std::vector<std::string>> list = SplitBracedList(result_.import_environment);
  if (!list.ok()) {
    problems_.Add(absl::StrCat("parameter import_environment: ", list.status().message()));
    return;
  }
  // "{ NAME = value with blanks }": blanks around both are not part of them (C76).
  for (std::string& item : *list) {
    Definition definition;
    if (absl::StrContains(item, '=') && SplitDefinition(item, &definition).ok()) {
      item = absl::StrCat(definition.name, "=", definition.value);
    }
  }
  result_.environment = BuildWorkerEnvironment(*list, options_.current_environment);
}

// The text is checked although main.cf may be wrong.
bool Loader::ReadServiceFile(std::vector<MasterCfEntry>* entries) {
  std::string text;
  if (!ReadFile(ServiceFilePath(), &text)) return false;
  MasterCfOptions rules;
  rules.default_process_limit = result_.generic.default_process_limit.value();
  rules.chroot_by_default = result_.generic.compatibility_level_number <
                            ParseCompatibilityLevel(kChrootLevel).value_or(0);
  rules.disabled = own_.master_service_disable.value();
  rules.allow_empty = own_.master_allow_empty_table.value();
  rules.strict = options_.strict;
  absl::StatusOr<MasterCf> parsed = ParseMasterCf(ServiceFilePath(), text, rules);
  problems_.Add(parsed.status());
  if (!parsed.ok()) return false;
  Append(std::move(parsed->warnings), &result_.warnings);
  result_.notes = std::move(parsed->notes);
  *entries = std::move(parsed->entries);
  return true;
}

void Loader::MakeServices(std::vector<MasterCfEntry> entries) {
  ServiceTableRules rules;
  rules.interface_addresses = result_.interface_addresses;
  rules.daemon_directory = result_.generic.daemon_directory.value();
  rules.default_process_limit = result_.generic.default_process_limit.value();
  rules.strict = options_.strict;
  InetResolver resolver(result_.protocols, ports_);
  ServiceTable table = BuildServiceTable(ServiceFilePath(), std::move(entries), rules, &resolver);
  for (const std::string& error : table.errors) problems_.Add(error);
  Append(std::move(table.warnings), &result_.warnings);
  result_.services = std::move(table.services);
}

// F115. Each program once, with the line of its first service.
void Loader::CheckPrograms() {
  const std::string& directory = result_.generic.daemon_directory.value();
  const bool enforce = options_.root && !options_.allow_unsafe_owner;
  const absl::Status usable = CheckProgramDirectory(directory);
  if (!usable.ok()) {
    const std::string problem = absl::StrCat("parameter daemon_directory: ", usable.message());
    if (enforce && absl::IsPermissionDenied(usable)) {
      problems_.Add(problem);
    } else {
      result_.warnings.push_back(problem);
    }
    return;
  }
  BoundedReports errors("programs that others can change");
  BoundedReports warnings("programs that are not there");
  std::set<std::string> seen;
  for (const ServiceConfiguration& service : result_.services) {
    if (!seen.insert(service.entry.command).second) continue;
    const absl::Status program = CheckProgram(directory, service.entry.command,
                                              own_.master_allow_program_links.value() || !enforce);
    if (program.ok()) continue;
    const bool refused = enforce && absl::IsPermissionDenied(program);
    (refused ? errors : warnings).Add(absl::StrCat(service.place, ": ", program.message()));
  }
  for (const std::string& error : errors.Take()) problems_.Add(error);
  Append(warnings.Take(), &result_.warnings);
}

absl::StatusOr<MasterConfiguration> Loader::Run(bool with_services) {
  ReadParameterFile();
  if (parameters_usable_) {
    LoadOwner();
    KeepWhatIsFixed();
    if (with_services) LoadNetwork();
    if (with_services) LoadEnvironment();
  }
  std::vector<MasterCfEntry> entries;
  if (with_services && unavailable_.ok() && ReadServiceFile(&entries) && parameters_usable_) {
    MakeServices(std::move(entries));
    CheckPrograms();
  }
  if (!unavailable_.ok()) return unavailable_;
  const absl::Status all = problems_.ToStatus();
  if (!all.ok()) return all;
  return std::move(result_);
}

bool IsVariable(absl::string_view item, absl::string_view name) {
  return absl::StartsWith(item, name) && item.substr(name.size(), 1) == "=";
}

}  // namespace

std::vector<std::string> WorkerEnvironment(const MasterConfiguration& configuration) {
  const GenericParameters& generic = configuration.generic;
  std::vector<std::string> environment;
  for (const std::string& item : configuration.environment) {
    const bool ours = IsVariable(item, "MAIL_LOGTAG") || IsVariable(item, "POSTLOG_SERVICE") ||
                      IsVariable(item, "POSTLOG_HOSTNAME");
    if (!ours) environment.push_back(item);
  }
  environment.push_back(absl::StrCat("MAIL_LOGTAG=", generic.syslog_name.value()));
  if (!generic.maillog_file.value().empty()) {
    environment.push_back(absl::StrCat("POSTLOG_SERVICE=", generic.PostlogSocketPath()));
    environment.push_back(absl::StrCat("POSTLOG_HOSTNAME=", generic.myhostname.value()));
  }
  return environment;
}

absl::StatusOr<MasterConfiguration> LoadMasterConfiguration(const ConfigurationOptions& options) {
  return Loader(options).Run(/*with_services=*/true);
}

absl::StatusOr<MasterConfiguration> LoadMasterParameters(const ConfigurationOptions& options) {
  return Loader(options).Run(/*with_services=*/false);
}

}  // namespace posthouse

#include "posthouse/config/generic_parameters.h"

#include <errno.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "posthouse/config/accounts.h"
#include "posthouse/config/expand.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/config/text.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

using config_internal::IsDigit;
using config_internal::IsNameChar;
using config_internal::Quoted;

constexpr char kSeparators[] = ", \t\r\n";
constexpr size_t kMaxHostName = 255;
constexpr size_t kMaxLabel = 63;

std::vector<absl::string_view> Words(absl::string_view text) {
  return absl::StrSplit(text, absl::ByAnyChar(kSeparators), absl::SkipEmpty());
}

// Loads one parameter after the other and checks what was loaded, and remembers all that is wrong.
class Loader {
 public:
  Loader(const GenericOptions& options, ParameterStore* store, GenericParameters* generic,
         std::vector<std::string>* warnings)
      : options_(options), store_(store), generic_(generic), warnings_(warnings) {}

  absl::Status Run();

 private:
  bool Load(Parameter* parameter);
  void Complain(const Parameter& parameter, absl::string_view sentence);
  void SetHostNameDefaults(const Parameter& parameter);
  void Check(const Parameter& parameter);
  void CheckProtocols();
  void CheckMaillogFile();
  void CheckVerpDelimiters();
  void CheckAccounts();

  const GenericOptions& options_;
  ParameterStore* store_;
  GenericParameters* generic_;
  std::vector<std::string>* warnings_;
  std::vector<std::string> failures_;
};

bool Loader::Load(Parameter* parameter) {
  const absl::Status loaded = parameter->Load(store_, warnings_);
  if (!loaded.ok()) failures_.push_back(std::string(loaded.message()));
  return loaded.ok();
}

void Loader::Complain(const Parameter& parameter, absl::string_view sentence) {
  const ParameterEntry* entry = store_->Find(parameter.name());
  failures_.push_back(absl::StrCat(entry == nullptr ? "default" : entry->origin, ": parameter ",
                                   parameter.name(), ": value ", Quoted(parameter.ValueText()),
                                   ": ", sentence));
}

// C64. The two defaults depend on each other's setting, so they are put into the store just before
// the parameter is loaded.
void Loader::SetHostNameDefaults(const Parameter& parameter) {
  if (store_->Find(parameter.name()) != nullptr) return;
  if (parameter.name() == "myhostname") {
    absl::StatusOr<std::string> host = SystemHostName();
    if (!host.ok()) return;  // Loading asks again and reports.
    if (!absl::StrContains(*host, '.')) {
      const absl::StatusOr<std::string> domain = ExpandedValue("mydomain", *store_);
      const bool known = domain.ok() && !domain->empty();
      absl::StrAppend(&*host, ".", known ? *domain : "localdomain");
    }
    store_->SetFinal("myhostname", *host, "default");
  } else if (parameter.name() == "mydomain") {
    const std::string& host = generic_->myhostname.value();
    const size_t dot = host.find('.');
    if (dot != std::string::npos) store_->SetFinal("mydomain", host.substr(dot + 1), "default");
  }
}

void Loader::CheckProtocols() {
  for (absl::string_view word : Words(generic_->inet_protocols.value())) {
    if (word != "all" && word != "ipv4" && word != "ipv6") {
      Complain(generic_->inet_protocols,
               absl::StrCat("unknown protocol ", Quoted(word), "; known are all, ipv4, ipv6"));
      continue;
    }
    generic_->use_ipv4 = generic_->use_ipv4 || word != "ipv6";
    generic_->use_ipv6 = generic_->use_ipv6 || word != "ipv4";
  }
}

// C72.
void Loader::CheckMaillogFile() {
  const std::string& file = generic_->maillog_file.value();
  if (file.empty()) return;
  for (absl::string_view prefix : Words(generic_->maillog_file_prefixes.value())) {
    if (absl::StartsWith(file, prefix)) return;
  }
  Complain(generic_->maillog_file, absl::StrCat("it starts with none of maillog_file_prefixes, ",
                                                Quoted(generic_->maillog_file_prefixes.value())));
}

void Loader::CheckVerpDelimiters() {
  for (char c : generic_->default_verp_delimiters.value()) {
    if (absl::StrContains(generic_->verp_delimiter_filter.value(), c)) continue;
    Complain(generic_->default_verp_delimiters,
             absl::StrCat("its characters must be among verp_delimiter_filter, ",
                          Quoted(generic_->verp_delimiter_filter.value())));
    return;
  }
}

// The accounts name their parameters; the file that sets them is named with them.
void Loader::CheckAccounts() {
  const auto origin = [this](const Parameter& parameter) {
    const ParameterEntry* entry = store_->Find(parameter.name());
    return absl::StrCat(parameter.name(), ": ", entry == nullptr ? "default" : entry->origin);
  };
  for (const std::string& problem :
       AccountProblems(generic_->mail_owner.value(), generic_->default_privs.value(),
                       generic_->setgid_group.value())) {
    failures_.push_back(absl::StrCat(problem, " (", origin(generic_->mail_owner), "; ",
                                     origin(generic_->default_privs), "; ",
                                     origin(generic_->setgid_group), ")"));
  }
}

// What can be said about a parameter as soon as it is loaded.
void Loader::Check(const Parameter& parameter) {
  GenericParameters& generic = *generic_;
  if (&parameter == &generic.compatibility_level) {
    const absl::StatusOr<int64_t> level = ParseCompatibilityLevel(parameter.ValueText());
    if (level.ok()) generic.compatibility_level_number = *level;
    if (!level.ok()) Complain(parameter, "malformed compatibility level");
  } else if (&parameter == &generic.syslog_facility) {
    const absl::StatusOr<int> code = ParseSyslogFacility(parameter.ValueText());
    if (code.ok()) generic.syslog_facility_code = *code;
    if (!code.ok()) Complain(parameter, code.status().message());
  } else if (&parameter == &generic.inet_protocols) {
    CheckProtocols();
  } else if (&parameter == &generic.maillog_file_prefixes) {
    CheckMaillogFile();
  } else if (&parameter == &generic.myhostname || &parameter == &generic.mydomain) {
    const absl::Status valid = CheckHostName(parameter.ValueText());
    if (!valid.ok()) Complain(parameter, valid.message());
  } else if (&parameter == &generic.myorigin) {
    if (Words(parameter.ValueText()).size() != 1) Complain(parameter, "it must be one word");
  } else if (&parameter == &generic.relayhost) {
    if (absl::EqualsIgnoreCase(parameter.ValueText(), generic.myhostname.value())) {
      Complain(parameter, "it is the same as myhostname");
    }
  } else if (&parameter == &generic.default_verp_delimiters) {
    CheckVerpDelimiters();
  }
}

absl::Status Loader::Run() {
  const std::vector<Parameter*> all = generic_->All();
  if (options_.resolve_before_loading) ResolveBeforeLoading(all, store_);
  for (Parameter* parameter : all) {
    SetHostNameDefaults(*parameter);
    if (Load(parameter)) Check(*parameter);
  }
  // Accounts whose parameters are bad themselves would only repeat the complaint.
  if (options_.check_accounts && failures_.empty()) CheckAccounts();
  if (failures_.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(failures_, "\n"));
}

}  // namespace

absl::StatusOr<std::string> SystemHostName() {
  char name[kMaxHostName + 2] = {};
  if (os::Gethostname(name, sizeof(name) - 1) != 0) {
    return absl::ErrnoToStatus(errno, "gethostname");
  }
  return std::string(name);
}

std::vector<Parameter*> GenericParameters::All() {
  return {
      &compatibility_level,
      &mail_version,
      &syslog_facility,
      &inet_protocols,
      &multi_instance_directories,
      &multi_instance_group,
      &multi_instance_name,
      &maillog_file,
      &maillog_file_prefixes,
      &postlog_service_name,
      &known_tcp_ports,
      &daemon_table_open_error_is_fatal,
      &myhostname,
      &mydomain,
      &mail_name,
      &syslog_name,
      &mail_owner,
      &setgid_group,
      &mydestination,
      &myorigin,
      &relayhost,
      &daemon_directory,
      &data_directory,
      &command_directory,
      &queue_directory,
      &process_id_directory,
      &inet_interfaces,
      &default_privs,
      &import_environment,
      &export_environment,
      &verp_delimiter_filter,
      &default_verp_delimiters,
      &stress,
      &max_use,
      &fork_attempts,
      &default_process_limit,
      &line_length_limit,
      &tcp_windowsize,
      &helpful_warnings,
      &max_idle,
      &daemon_timeout,
      &ipc_timeout,
      &ipc_idle,
      &ipc_ttl,
      &in_flow_delay,
      &trigger_timeout,
      &application_event_drain_time,
      &fork_delay,
      &command_time_limit,
  };
}

std::string GenericParameters::PostlogSocketPath() const {
  return absl::StrCat(queue_directory.value(), "/public/", postlog_service_name.value());
}

void SetProcessParameters(const ProcessParameters& process, ParameterStore* store) {
  store->SetReadOnly("process_name", process.process_name);
  store->SetReadOnly("service_name", process.service_name);
  store->SetReadOnly("config_directory", process.config_directory);
  store->SetReadOnly("process_id", absl::StrCat(os::Getpid()));
}

absl::Status LoadGenericParameters(const GenericOptions& options, ParameterStore* store,
                                   GenericParameters* generic, std::vector<std::string>* warnings) {
  return Loader(options, store, generic, warnings).Run();
}

void ResolveBeforeLoading(absl::Span<Parameter* const> parameters, ParameterStore* store) {
  for (const Parameter* parameter : parameters) {
    // The host name is not known before it was asked for, and is loaded early.
    if (parameter->name() == "myhostname" || parameter->name() == "mydomain") continue;
    store->DefineBuiltIn(parameter->name(), parameter->DefaultText());
  }
}

absl::StatusOr<absl::optional<std::string>> DebuggerCommand(const ParameterStore& store) {
  if (store.Find("debugger_command") == nullptr) return absl::optional<std::string>();
  absl::StatusOr<std::string> command = ExpandedValue("debugger_command", store);
  if (!command.ok()) return command.status();
  return absl::optional<std::string>(*std::move(command));
}

absl::Status CheckHostName(absl::string_view name) {
  if (name.empty()) return absl::InvalidArgumentError("empty host name");
  if (name.size() > kMaxHostName) {
    return absl::InvalidArgumentError(
        absl::StrCat("host name of ", name.size(), " bytes; the limit is ", kMaxHostName));
  }
  bool numeric = true;
  for (absl::string_view label : absl::StrSplit(name, '.')) {
    if (label.empty()) return absl::InvalidArgumentError("host name with a misplaced dot");
    if (label.size() > kMaxLabel) {
      return absl::InvalidArgumentError("host name with a label of more than 63 bytes");
    }
    if (label.front() == '-' || label.back() == '-') {
      return absl::InvalidArgumentError("host name with a misplaced hyphen");
    }
    for (char c : label) {
      if (!IsNameChar(c) && c != '-') {
        return absl::InvalidArgumentError("host name with a character that is not allowed");
      }
      numeric = numeric && IsDigit(c);
    }
  }
  if (numeric) return absl::InvalidArgumentError("numeric host name");
  return absl::OkStatus();
}

}  // namespace posthouse

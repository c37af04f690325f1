#include "posthouse/master/service_table.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/config/logical_lines.h"
#include "posthouse/config/text.h"
#include "posthouse/master/inet_name.h"

namespace posthouse {
namespace {

using config_internal::BoundedReports;
using config_internal::Quoted;

// M79. An inet service on loopback addresses alone has no clients from outside.
bool IsStressEligible(const ServiceConfiguration& service) {
  if (service.entry.process_limit <= 1) return false;
  if (service.entry.type == ServiceType::kPass) return true;
  return std::any_of(service.endpoints.begin(), service.endpoints.end(),
                     [](const InetEndpoint& endpoint) { return !endpoint.loopback; });
}

class Builder {
 public:
  Builder(absl::string_view file, const ServiceTableRules& rules, InetResolver* resolver)
      : file_(file), rules_(rules), resolver_(resolver) {}

  ServiceTable Run(std::vector<MasterCfEntry> entries);

 private:
  // False, with an error, when the name of the service means nothing.
  bool Complete(ServiceConfiguration* service);
  bool CompleteInet(ServiceConfiguration* service);
  void Add(ServiceConfiguration service);
  void RefuseSharedEndpoints();
  void WarnOfSharedPaths();

  void Error(const ServiceConfiguration& service, absl::string_view sentence) {
    errors_.Add(
        absl::StrCat(service.place, ": service ", Quoted(service.entry.Title()), ": ", sentence));
  }
  void Warn(const ServiceConfiguration& service, absl::string_view sentence) {
    warnings_.Add(
        absl::StrCat(service.place, ": service ", Quoted(service.entry.Title()), ": ", sentence));
  }

  absl::string_view file_;
  const ServiceTableRules& rules_;
  InetResolver* resolver_;
  std::vector<ServiceConfiguration> services_;
  std::map<std::string, size_t> by_key_;  // index into services_
  BoundedReports errors_{"services that cannot be used"};
  BoundedReports warnings_{"services that are there twice"};
};

bool Builder::CompleteInet(ServiceConfiguration* service) {
  const absl::StatusOr<InetName> name = ParseInetName(service->entry.name);
  if (!name.ok()) {
    Error(*service, name.status().message());
    return false;
  }
  const absl::StatusOr<uint16_t> port = resolver_->Port(name->port);
  if (!port.ok()) {
    Error(*service, port.status().message());
    return false;
  }
  std::vector<InetAddress> addresses = rules_.interface_addresses;
  const absl::optional<InetAddress> numeric = InetAddress::Parse(name->host);
  if (!name->host.empty()) {
    absl::StatusOr<std::vector<InetAddress>> found = resolver_->Host(name->host);
    if (!found.ok()) {
      Error(*service, found.status().message());
      return false;
    }
    addresses = *std::move(found);
  } else if (addresses.empty()) {  // M51
    Error(*service, "it needs a host name or address, because inet_interfaces is empty");
    return false;
  }
  for (const InetAddress& address : addresses) {
    service->endpoints.push_back(MakeInetEndpoint(address, *port));
    service->endpoints.back().optional = !numeric.has_value();
  }
  // M45: numbers are written one way, so that "smtp" and "25" are one service.
  service->internal_name =
      name->host.empty()
          ? absl::StrCat(*port)
          : absl::StrCat("[", numeric.has_value() ? numeric->Text() : name->host, "]:", *port);
  return true;
}

bool Builder::Complete(ServiceConfiguration* service) {
  const MasterCfEntry& entry = service->entry;
  if (entry.type == ServiceType::kInet) {
    if (!CompleteInet(service)) return false;
  } else {
    service->path = ServicePath(entry);
    service->internal_name = service->path;
  }
  service->stress_eligible = IsStressEligible(*service);
  service->backlog = std::max(entry.process_limit, rules_.default_process_limit);
  service->program = absl::StrCat(rules_.daemon_directory, "/", entry.command);
  return true;
}

void Builder::Add(ServiceConfiguration service) {
  const auto [seen, is_new] = by_key_.try_emplace(ServiceKey(service), services_.size());
  if (is_new) {
    services_.push_back(std::move(service));
    return;
  }
  ServiceConfiguration& old = services_[seen->second];
  const std::string sentence =
      absl::StrCat("the same service as ", Quoted(old.entry.Title()), " in line ", old.entry.line);
  if (rules_.strict) {
    Error(service, sentence);
  } else {
    Warn(service, absl::StrCat(sentence, "; this one counts"));
  }
  old = std::move(service);
}

// F91. The kernel would give the connections to both of them in turn. Port 0 is a new one each
// time.
void Builder::RefuseSharedEndpoints() {
  std::map<absl::string_view, const ServiceConfiguration*> owners;
  for (const ServiceConfiguration& service : services_) {
    for (const InetEndpoint& endpoint : service.endpoints) {
      const auto [owner, is_new] = owners.try_emplace(endpoint.text, &service);
      if (is_new || EndpointPort(endpoint) == 0) continue;
      Error(service, absl::StrCat(endpoint.text, " is the address of service ",
                                  Quoted(owner->second->entry.Title()), " in line ",
                                  owner->second->entry.line, " too"));
    }
  }
}

// M46.
void Builder::WarnOfSharedPaths() {
  std::map<absl::string_view, const ServiceConfiguration*> owners;
  for (const ServiceConfiguration& service : services_) {
    if (service.path.empty()) continue;
    const auto [owner, is_new] = owners.try_emplace(service.path, &service);
    if (is_new) continue;
    Warn(service, absl::StrCat("it takes the path ", service.path, " away from service ",
                               Quoted(owner->second->entry.Title()), " in line ",
                               owner->second->entry.line));
    owner->second = &service;
  }
}

ServiceTable Builder::Run(std::vector<MasterCfEntry> entries) {
  const bool any_protocol = resolver_->protocols().any();
  int without_protocol = 0;
  for (MasterCfEntry& entry : entries) {
    if (entry.type == ServiceType::kInet && !any_protocol) {
      ++without_protocol;
      continue;
    }
    ServiceConfiguration service;
    service.place = LinePlace(file_, entry.line);
    service.entry = std::move(entry);
    if (Complete(&service)) Add(std::move(service));
  }
  RefuseSharedEndpoints();
  WarnOfSharedPaths();
  ServiceTable table;
  if (without_protocol > 0) {  // M40
    table.warnings.push_back("inet_protocols names no protocol that this system has");
    table.warnings.push_back(
        absl::StrCat(file_, ": all ", without_protocol, " services of type inet are disabled"));
  }
  for (std::string& warning : warnings_.Take()) table.warnings.push_back(std::move(warning));
  table.errors = errors_.Take();
  table.services = std::move(services_);
  return table;
}

}  // namespace

std::string ServiceKey(const ServiceConfiguration& service) {
  return absl::StrCat(service.internal_name, " ", ServiceTypeName(service.entry.type));
}

ServiceTable BuildServiceTable(absl::string_view file, std::vector<MasterCfEntry> entries,
                               const ServiceTableRules& rules, InetResolver* resolver) {
  return Builder(file, rules, resolver).Run(std::move(entries));
}

}  // namespace posthouse

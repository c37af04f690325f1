#include "posthouse/master/service.h"

#include <cstring>

#include "posthouse/base/check.h"

namespace posthouse {
namespace {

EndpointKind EndpointKindOf(ServiceType type) {
  switch (type) {
    case ServiceType::kInet:
      return EndpointKind::kInet;
    case ServiceType::kUnix:
    case ServiceType::kPass:
      return EndpointKind::kStream;
    case ServiceType::kUnixDgram:
      return EndpointKind::kDatagram;
    case ServiceType::kFifo:
      return EndpointKind::kFifo;
  }
  POSTHOUSE_CHECK(false, "a service type that does not exist");
}

WakeUpTarget::Kind WakeUpKindOf(ServiceType type) {
  switch (type) {
    case ServiceType::kInet:
      return WakeUpTarget::Kind::kInet;
    case ServiceType::kUnix:
      return WakeUpTarget::Kind::kUnix;
    case ServiceType::kPass:
      return WakeUpTarget::Kind::kPass;
    case ServiceType::kUnixDgram:
      return WakeUpTarget::Kind::kUnixDgram;
    case ServiceType::kFifo:
      return WakeUpTarget::Kind::kFifo;
  }
  POSTHOUSE_CHECK(false, "a service type that does not exist");
}

}  // namespace

Service::Service(ServiceId id, ServiceConfiguration configuration, EventLoop* loop,
                 ServiceObserver* observer)
    : id_(id),
      configuration_(std::move(configuration)),
      loop_(loop),
      observer_(observer),
      channel_(loop, {[this](const StatusBatch& batch) { observer_->OnStatus(this, batch); },
                      [this] { observer_->OnBrokenChannel(this); }}) {}

// --- Listeners ---

absl::Status Service::OpenListeners(const EndpointOptions& options, ListenReport* report) {
  absl::StatusOr<ServiceListeners> opened =
      ServiceListeners::Open(ListenRequestOf(configuration_), options, report);
  if (!opened.ok()) return opened.status();
  listeners_ = *std::move(opened);
  return absl::OkStatus();
}

void Service::OpenListenersPartly(const EndpointOptions& options, ListenReport* report) {
  listeners_ = ServiceListeners::OpenPartly(ListenRequestOf(configuration_), options, report);
}

void Service::SetWatching(bool watching) {
  watching_ = watching;
  for (FdWatch& watch : watches_) {
    if (watching) {
      watch.EnableRead();
    } else {
      watch.DisableRead();
    }
  }
  CompleteWatches();
}

absl::Span<const int> Service::listen_fds() const {
  return listeners_.has_value() ? listeners_->fds() : absl::Span<const int>();
}

// The kernel is asked for nothing while the service is not watched and reports a hang-up all the
// same, once the watch was enabled (F65). Watches are in the order of the listeners.
void Service::CompleteWatches() {
  if (suspended_ || watches_.size() == listen_fds().size()) return;
  watches_.reserve(listen_fds().size());
  for (const int fd : listen_fds().subspan(watches_.size())) {
    FdWatchOptions options;
    options.on_readable = &Service::OnReadable;
    options.on_error = &Service::OnError;
    options.context = this;
    options.background = true;
    absl::StatusOr<FdWatch> watch = loop_->Watch(fd, options);
    if (!watch.ok()) return observer_->OnUnwatchedListener(this);
    if (!watching_) watch->DisableRead();
    watches_.push_back(*std::move(watch));
  }
}

void Service::OnReadable(int /*event*/, void* context) {
  Service* service = static_cast<Service*>(context);
  service->observer_->OnClientWaiting(service);
}

void Service::OnError(int /*event*/, void* context) {
  Service* service = static_cast<Service*>(context);
  service->observer_->OnDeafListener(service);
}

void Service::SuspendListeners() {
  suspended_ = true;
  watches_.clear();
}

void Service::CloseListeners() {
  watches_.clear();
  listeners_.reset();
}

bool Service::ChangeListeners(absl::FunctionRef<bool()> change) {
  if (!listeners_.has_value()) return false;
  watches_.clear();
  const bool changed = change();
  CompleteWatches();
  return changed;
}

bool Service::RestoreListeners(const EndpointOptions& options, ListenReport* report) {
  suspended_ = false;
  return ChangeListeners([&] { return listeners_->RestoreDeaf(options, report); });
}

bool Service::OpenMissing(const EndpointOptions& options, ListenReport* report) {
  return ChangeListeners([&] { return listeners_->OpenMissing(options, report); });
}

bool Service::AdjustListeners(const EndpointOptions& options, ListenReport* report) {
  return ChangeListeners(
      [&] { return listeners_->Adjust(ListenRequestOf(configuration_), options, report); });
}

void Service::AppendTo(std::vector<pollfd>* entries) const {
  if (listeners_.has_value()) listeners_->AppendTo(entries);
}

// --- Status channel ---

absl::Status Service::OpenChannel() {
  channel_.ReadNow();
  return channel_.Open();
}

// --- Conversions ---

ListenRequest ListenRequestOf(const ServiceConfiguration& service) {
  ListenRequest request;
  request.kind = EndpointKindOf(service.entry.type);
  request.path = service.path;
  for (const InetEndpoint& endpoint : service.endpoints) {
    EndpointAddress address;
    address.address = endpoint.address;
    address.length = endpoint.length;
    address.text = endpoint.text;
    address.optional = endpoint.optional;
    request.addresses.push_back(std::move(address));
  }
  return request;
}

EndpointOptions EndpointOptionsOf(const ServiceConfiguration& service,
                                  const MasterConfiguration& master, bool is_root) {
  EndpointOptions options;
  options.backlog = service.backlog;
  options.buffer_size = master.generic.tcp_windowsize.value();
  options.owner = {is_root, master.owner_uid, master.owner_gid};
  return options;
}

WakeUpTarget WakeUpTargetOf(const ServiceConfiguration& service) {
  WakeUpTarget target;
  target.kind = WakeUpKindOf(service.entry.type);
  target.name = service.entry.name;
  target.internal_name = service.internal_name;
  target.path = service.path;
  if (service.entry.type == ServiceType::kInet) {
    POSTHOUSE_CHECK(!service.endpoints.empty(), "an inet service has no endpoint");
    target.address = service.endpoints.front().address;
    target.address_size = service.endpoints.front().length;
  }
  return target;
}

ServiceRules ServiceRulesOf(const ServiceConfiguration& service,
                            const MasterConfiguration& master) {
  constexpr int64_t kSecond = 1000000000;
  ServiceRules rules;
  rules.process_limit = service.entry.process_limit;
  rules.stress_eligible = service.stress_eligible;
  rules.throttle_ns = master.service_throttle_seconds * kSecond;
  rules.wake_up_ns = service.entry.wake_up_seconds * kSecond;
  rules.wake_up_conditional = service.entry.wake_up_conditional;
  return rules;
}

}  // namespace posthouse

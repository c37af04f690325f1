#include "posthouse/master/listeners.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/io/inet_listener.h"

namespace posthouse {
namespace {

bool IsSameAddress(const EndpointAddress& a, const EndpointAddress& b) {
  return a.length == b.length && std::memcmp(&a.address, &b.address, a.length) == 0;
}

}  // namespace

ServiceListeners::ServiceListeners(const ListenRequest& request)
    : kind_(request.kind), path_(request.path), slots_(MakeSlots(request)) {}

std::vector<ServiceListeners::Slot> ServiceListeners::MakeSlots(const ListenRequest& request) {
  std::vector<Slot> slots;
  if (request.kind != EndpointKind::kInet) {
    slots.emplace_back().address.text = absl::CEscape(request.path);
    return slots;
  }
  for (const EndpointAddress& address : request.addresses) {
    const bool is_twice = std::any_of(slots.begin(), slots.end(), [&](const Slot& slot) {
      return IsSameAddress(slot.address, address);
    });
    if (!is_twice) slots.emplace_back().address = address;  // F91
  }
  return slots;
}

absl::StatusOr<ServiceListeners> ServiceListeners::Open(const ListenRequest& request,
                                                        const EndpointOptions& options,
                                                        ListenReport* report) {
  ServiceListeners listeners(request);
  for (Slot& slot : listeners.slots_) {
    if (absl::Status status = listeners.OpenSlot(&slot, options, report); !status.ok()) {
      return status;
    }
  }
  listeners.UpdateFds();
  if (listeners.fds_.empty()) {
    return absl::UnavailableError("this system has none of the addresses of the service");
  }
  return listeners;
}

ServiceListeners ServiceListeners::OpenPartly(const ListenRequest& request,
                                              const EndpointOptions& options,
                                              ListenReport* report) {
  ServiceListeners listeners(request);
  listeners.OpenSlots(options, report);
  listeners.UpdateFds();
  return listeners;
}

bool ServiceListeners::is_missing_some() const {
  return std::any_of(slots_.begin(), slots_.end(),
                     [](const Slot& slot) { return !slot.endpoint.is_open() && !slot.absent; });
}

bool ServiceListeners::OpenMissing(const EndpointOptions& options, ListenReport* report) {
  OpenSlots(options, report);
  return UpdateFds();
}

bool ServiceListeners::Adjust(const ListenRequest& request, const EndpointOptions& options,
                              ListenReport* report) {
  POSTHOUSE_CHECK(request.kind == kind_ && request.path == path_,
                  "a service with another kind of endpoint or another path is another service");
  std::vector<Slot> old = std::exchange(slots_, MakeSlots(request));
  for (Slot& slot : slots_) {
    const auto same = std::find_if(old.begin(), old.end(), [&](const Slot& candidate) {
      return IsSameAddress(slot.address, candidate.address);
    });
    if (same == old.end()) continue;
    slot.endpoint = std::move(same->endpoint);
    slot.absent = same->absent;
  }
  // New before old: an address beside its own wildcard takes over without a gap (M109).
  OpenSlots(options, report);
  for (Slot& slot : old) Close(&slot, report);
  return UpdateFds();
}

absl::Status ServiceListeners::OpenSlot(Slot* slot, const EndpointOptions& options,
                                        ListenReport* report) {
  if (slot->endpoint.is_open()) return absl::OkStatus();
  int error = 0;
  absl::StatusOr<Endpoint> endpoint = kind_ == EndpointKind::kInet
                                          ? Endpoint::OpenInet(slot->address, options, &error)
                                          : Endpoint::OpenPath(kind_, path_, options);
  if (endpoint.ok()) {
    slot->endpoint = *std::move(endpoint);
    slot->absent = false;
    changed_ = true;
    report->changes.push_back("opened " + slot->address.text);
    return absl::OkStatus();
  }
  if (!slot->address.optional || !IsFamilyMissing(error)) return endpoint.status();
  if (!slot->absent) report->warnings.emplace_back(endpoint.status().message());
  slot->absent = true;
  return absl::OkStatus();
}

void ServiceListeners::OpenSlots(const EndpointOptions& options, ListenReport* report) {
  for (Slot& slot : slots_) {
    absl::Status status = OpenSlot(&slot, options, report);
    if (!status.ok()) report->failures.emplace_back(status.message());
  }
}

void ServiceListeners::Close(Slot* slot, ListenReport* report) {
  if (!slot->endpoint.is_open()) return;
  report->changes.push_back("closed " + slot->address.text);
  slot->endpoint = Endpoint();
  changed_ = true;
}

bool ServiceListeners::UpdateFds() {
  std::vector<int> fds;
  for (const Slot& slot : slots_) {
    if (slot.endpoint.is_open()) fds.push_back(slot.endpoint.fd());
  }
  const bool moved = std::exchange(fds_, fds) != fds;  // another order is another vector (M50)
  return std::exchange(changed_, false) || moved;
}

bool ServiceListeners::IsDeaf() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.endpoint.is_open() && slot.endpoint.IsDeaf();
  });
}

bool ServiceListeners::RestoreDeaf(const EndpointOptions& options, ListenReport* report) {
  for (Slot& slot : slots_) {
    if (!slot.endpoint.is_open() || !slot.endpoint.IsDeaf()) continue;
    if (slot.endpoint.Revive(options.backlog)) {
      report->changes.push_back("listening again: " + slot.address.text);
      continue;
    }
    // Only when it is gone is its address free.
    Close(&slot, report);
    absl::Status status = OpenSlot(&slot, options, report);
    if (!status.ok()) report->failures.emplace_back(status.message());
  }
  return UpdateFds();
}

void ServiceListeners::AppendTo(std::vector<pollfd>* entries) const {
  for (int fd : fds_) entries->push_back({fd, POLLIN, 0});
}

absl::Status ServiceListeners::RemoveNames(const FileOwner& owner) {
  absl::Status first;
  for (Slot& slot : slots_) first.Update(slot.endpoint.RemoveName(owner));
  return first;
}

}  // namespace posthouse

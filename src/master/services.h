// Services is the table of a master's services (M59): by number, and by what identifies a service
// in master.cf (M46).
//
// A number is never used twice. A service that is being removed keeps its number until its last
// worker has ended and has no key any more, so that one of the same name can be added meanwhile
// (MO6).
//
// Thread: one. Ownership: owns the services; pointers are good until Forget().

#ifndef POSTHOUSE_MASTER_SERVICES_H_
#define POSTHOUSE_MASTER_SERVICES_H_

#include <map>
#include <memory>
#include <string>

#include "posthouse/master/configuration.h"
#include "posthouse/master/service.h"
#include "posthouse/master/supervisor.h"

namespace posthouse {

class Services {
 public:
  ServiceId NewId() { return ++last_id_; }

  Service* Add(std::unique_ptr<Service> service) {
    Service* const added = service.get();
    services_.emplace(added->id(), std::move(service));
    return added;
  }

  // Moves one of `*others` into the table, if it is not here already; allocates nothing.
  void Adopt(std::map<ServiceId, std::unique_ptr<Service>>* others, ServiceId id) {
    services_.insert(others->extract(id));
  }

  // Null when there is none.
  Service* Find(ServiceId id) const {
    const auto found = services_.find(id);
    return found == services_.end() ? nullptr : found->second.get();
  }

  // By key, without those that are being removed.
  std::map<std::string, Service*> ByKey() const {
    std::map<std::string, Service*> result;
    for (const auto& [id, service] : services_) {
      if (!service->removing()) result.emplace(ServiceKey(service->configuration()), service.get());
    }
    return result;
  }

  // The service leaves the table; the caller destroys it when nothing of it is running any more.
  std::unique_ptr<Service> Forget(ServiceId id) {
    auto node = services_.extract(id);
    return node.empty() ? nullptr : std::move(node.mapped());
  }

  const std::map<ServiceId, std::unique_ptr<Service>>& all() const { return services_; }

 private:
  ServiceId last_id_ = 0;
  std::map<ServiceId, std::unique_ptr<Service>> services_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_SERVICES_H_

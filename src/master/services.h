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

  // Null when there is none.
  Service* Find(ServiceId id) const {
    const auto found = services_.find(id);
    return found == services_.end() ? nullptr : found->second.get();
  }

  // Not one that is being removed. As many comparisons as there are services.
  Service* FindByKey(const std::string& key) const {
    for (const auto& [id, service] : services_) {
      if (!service->removing() && ServiceKey(service->configuration()) == key) return service.get();
    }
    return nullptr;
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

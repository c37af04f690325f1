// A reload that is all or nothing (F100, MO2): the whole of the new state is computed, opened and
// held here before anything of the running one changes.
//
//   absl::StatusOr<ReloadPlan> plan = PlanReload(std::move(next), services, loop, observer,
//   is_root); if (!plan.ok()) ...   // nothing has changed
//   ... adopt the steps in their order, then the removals (M96, M97) ...
//
// A new service has its listeners and its channel when it is in the plan. An endpoint that cannot
// be had, because another program has the address, does not spoil the plan: it is off, told in
// `report`, and tried again later (F90). That new services take over names in the file system
// before the reload is decided is the one thing that shows outside; by then nothing but a lack of
// descriptors or memory can stop it.
//
// Thread: one. Errors: what could not be had; then what was opened for the plan is closed again.

#ifndef POSTHOUSE_MASTER_RELOAD_H_
#define POSTHOUSE_MASTER_RELOAD_H_

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/master/configuration.h"
#include "posthouse/master/service.h"
#include "posthouse/master/services.h"

namespace posthouse {

struct ReloadPlan {
  // One entry of the new master.cf: a service that runs and is updated (M101), or a new one.
  struct Step {
    Service* known = nullptr;
    ServiceConfiguration configuration;  // of a known one
    ServiceId id = 0;                    // of a new one, in `added`
  };

  MasterConfiguration configuration;
  std::vector<std::string> worker_environment;
  std::vector<Step> steps;  // in file order (M96)
  std::map<ServiceId, std::unique_ptr<Service>> added;
  std::vector<Service*> removed;  // (M97)
  ListenReport report;
  std::string summary;  // "2 services added, 1 removed, 3 kept"

  // How far the plan has been carried out: 0 is nothing, n the first n - 1 steps.
  size_t next = 0;
};

absl::StatusOr<ReloadPlan> PlanReload(MasterConfiguration next, Services& services, EventLoop* loop,
                                      ServiceObserver* observer, bool is_root);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_RELOAD_H_

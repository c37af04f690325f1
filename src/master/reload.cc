#include "posthouse/master/reload.h"

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "posthouse/master/status_receiver.h"

namespace posthouse {

absl::StatusOr<ReloadPlan> PlanReload(MasterConfiguration next, Services& services, EventLoop* loop,
                                      ServiceObserver* observer, bool is_root) {
  ReloadPlan plan;
  plan.configuration = std::move(next);
  plan.worker_environment = WorkerEnvironment(plan.configuration);
  // What is left of it in the end is to be removed.
  std::map<std::string, Service*> running = services.ByKey();
  for (const ServiceConfiguration& configuration : plan.configuration.services) {
    ReloadPlan::Step step;
    auto known = running.extract(ServiceKey(configuration));
    if (!known.empty()) {
      step.known = known.mapped();
      step.configuration = configuration;
    } else {
      step.id = services.NewId();
      auto service = std::make_unique<Service>(step.id, configuration, loop, observer);
      if (absl::Status status = service->OpenChannel(); !status.ok()) return status;
      plan.added.emplace(step.id, std::move(service));
    }
    plan.steps.push_back(std::move(step));
  }
  for (const auto& [key, service] : running) plan.removed.push_back(service);
  plan.summary = absl::StrCat(plan.added.size(), " services added, ", plan.removed.size(),
                              " removed, ", plan.steps.size() - plan.added.size(), " kept");
  // A known service gets a new channel while it still has the old one (M104).
  if (absl::StatusOr<StatusPair> spare = StatusPair::Create(); !spare.ok()) return spare.status();
  for (const auto& [id, service] : plan.added) {
    service->OpenListenersPartly(
        EndpointOptionsOf(service->configuration(), plan.configuration, is_root), &plan.report);
  }
  return plan;
}

}  // namespace posthouse

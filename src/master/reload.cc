#include "posthouse/master/reload.h"

#include <set>
#include <utility>

#include "posthouse/master/status_receiver.h"

namespace posthouse {

absl::StatusOr<ReloadPlan> PlanReload(MasterConfiguration next, Services* services, EventLoop* loop,
                                      ServiceObserver* observer, bool is_root) {
  ReloadPlan plan;
  plan.configuration = std::move(next);
  std::set<Service*> kept;
  for (const ServiceConfiguration& configuration : plan.configuration.services) {
    ReloadPlan::Step step;
    step.known = services->FindByKey(ServiceKey(configuration));
    if (step.known != nullptr) {
      kept.insert(step.known);
      step.configuration = configuration;
    } else {
      step.added = std::make_unique<Service>(services->NewId(), configuration, loop, observer);
      if (absl::Status status = step.added->OpenChannel(); !status.ok()) return status;
    }
    plan.steps.push_back(std::move(step));
  }
  for (const auto& [id, service] : services->all()) {
    if (!service->removing() && kept.count(service.get()) == 0) {
      plan.removed.push_back(service.get());
    }
  }
  // A known service gets a new channel while it still has the old one (M104).
  if (absl::StatusOr<StatusPair> spare = StatusPair::Create(); !spare.ok()) return spare.status();
  for (ReloadPlan::Step& step : plan.steps) {
    if (step.added == nullptr) continue;
    step.added->OpenListenersPartly(
        EndpointOptionsOf(step.added->configuration(), plan.configuration, is_root), &plan.report);
  }
  return plan;
}

}  // namespace posthouse

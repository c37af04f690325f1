#include "posthouse/master/worker_request.h"

#include "absl/strings/str_cat.h"
#include "posthouse/master/protocol.h"

namespace posthouse {

std::vector<std::string> WorkerArgumentsOf(const ServiceConfiguration& service,
                                           const WorkerRequestFacts& facts) {
  const MasterCfEntry& entry = service.entry;
  WorkerArguments arguments;
  arguments.command = entry.command;
  arguments.service_name = entry.name;
  arguments.process_limit = entry.process_limit;
  arguments.transport = std::string(ServiceTypeName(entry.type));
  arguments.detached = facts.detached;
  arguments.verbose = facts.verbose;
  arguments.unprivileged = entry.unprivileged;
  arguments.chroot = entry.chroot;
  if (service.stress_eligible && entry.process_limit > 1) arguments.stress = facts.stress;
  arguments.listen_sockets = facts.listen_sockets;
  arguments.configured = entry.arguments;
  return BuildWorkerArguments(arguments);
}

std::vector<std::string> WorkerEnvironmentWith(const std::vector<std::string>& environment,
                                               uint32_t generation) {
  std::vector<std::string> result = environment;
  result.push_back(absl::StrCat(kGenerationVariable, "=", FormatGeneration(generation)));
  return result;
}

}  // namespace posthouse

// What a worker is started with, made of its service's configuration: arguments (P8, P9) and
// environment (P10, M65). Pure functions.
//
//   request.arguments = WorkerArgumentsOf(service, {.listen_sockets = 2, .stress = true});
//   request.environment = WorkerEnvironmentWith(environment, generation);
//
// Thread: any.

#ifndef POSTHOUSE_MASTER_WORKER_REQUEST_H_
#define POSTHOUSE_MASTER_WORKER_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "posthouse/master/configuration.h"

namespace posthouse {

struct WorkerRequestFacts {
  int listen_sockets = 1;
  bool stress = false;   // M82; told to services that are eligible alone (M80)
  bool detached = true;  // M3
  bool verbose = false;  // M8
};

// Argument zero included.
std::vector<std::string> WorkerArgumentsOf(const ServiceConfiguration& service,
                                           const WorkerRequestFacts& facts);

// `environment` is WorkerEnvironment() of the configuration.
std::vector<std::string> WorkerEnvironmentWith(const std::vector<std::string>& environment,
                                               uint32_t generation);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_WORKER_REQUEST_H_

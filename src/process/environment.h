// The environment of this process, as a daemon reads it at its start.
//
//   absl::optional<std::string> tag = FromEnvironment("MAIL_LOGTAG");
//
// Thread: one; nobody may change the environment meanwhile (getenv(3)). Fork: the child has a copy.

#ifndef POSTHOUSE_PROCESS_ENVIRONMENT_H_
#define POSTHOUSE_PROCESS_ENVIRONMENT_H_

#include <string>
#include <vector>

#include "absl/types/optional.h"

namespace posthouse {

// The variable's value, which may be empty; nothing when the variable is not there.
absl::optional<std::string> FromEnvironment(const char* name);

// All of it, as "name=value".
std::vector<std::string> WholeEnvironment();

}  // namespace posthouse

#endif  // POSTHOUSE_PROCESS_ENVIRONMENT_H_

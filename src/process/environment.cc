#include "posthouse/process/environment.h"

#include <stdlib.h>
#include <unistd.h>

extern "C" char** environ;

namespace posthouse {

absl::optional<std::string> FromEnvironment(const char* name) {
  const char* value = getenv(name);
  if (value == nullptr) return absl::nullopt;
  return std::string(value);
}

std::vector<std::string> WholeEnvironment() {
  std::vector<std::string> result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    result.emplace_back(*entry);
  }
  return result;
}

}  // namespace posthouse

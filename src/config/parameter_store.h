// ParameterStore holds the raw text of parameters: name to value, names case-sensitive (C1).
//
// A value is expanded when it is looked up (C21), so the order of definitions does not matter. An
// entry knows where it came from, so that an error can name file and line. The store is an
// ordinary value: a manager can build a second one and look at it before it adopts it (CO5).
//
// Thread: one writer. Fork: a plain value.

#ifndef POSTHOUSE_CONFIG_PARAMETER_STORE_H_
#define POSTHOUSE_CONFIG_PARAMETER_STORE_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace posthouse {

struct ParameterEntry {
  std::string value;
  // "/etc/postfix/main.cf, line 12", "option -o", "default": for messages.
  std::string origin;
  // The value is a result already and is not expanded again (CO3).
  bool final_value = false;
};

class ParameterStore {
 public:
  // The last definition wins (C1). Names that were protected are left alone: false (CO1).
  bool Set(absl::string_view name, absl::string_view value, absl::string_view origin);
  // A default of a loaded parameter, or a value that is complete (C62, CO3).
  void SetFinal(absl::string_view name, absl::string_view value, absl::string_view origin);
  // Like SetFinal(), and from now on no source can change it (CO1).
  void SetReadOnly(absl::string_view name, absl::string_view value);

  // Null when the name has no value.
  const ParameterEntry* Find(absl::string_view name) const;
  bool read_only(absl::string_view name) const;
  // Sorted by name.
  std::vector<std::string> Names() const;

 private:
  struct Slot {
    ParameterEntry entry;
    bool read_only = false;
  };
  absl::flat_hash_map<std::string, Slot> slots_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_PARAMETER_STORE_H_

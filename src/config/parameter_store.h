// ParameterStore holds the raw text of parameters: name to value, names case-sensitive (C1).
//
// A value is expanded when it is looked up (C21), so the order of definitions does not matter. An
// entry knows where it came from, so that an error can name file and line. The store is an
// ordinary value: a manager can build a second one and look at it before it adopts it (CO5).
//
// Thread: one writer. Fork: a plain value.

#ifndef POSTHOUSE_CONFIG_PARAMETER_STORE_H_
#define POSTHOUSE_CONFIG_PARAMETER_STORE_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

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
  // A value that is complete, for example the expanded default of a loaded parameter (C62, CO3).
  // False as for Set().
  bool SetFinal(absl::string_view name, absl::string_view value, absl::string_view origin);
  // Like SetFinal(), and from now on no other call can change it (CO1); a second SetReadOnly() can.
  void SetReadOnly(absl::string_view name, absl::string_view value);

  // Makes `name` known to references before it is loaded (CO6): $name yields `raw_default`,
  // expanded, as long as the name has no value. Find() does not see it.
  void DefineBuiltIn(absl::string_view name, absl::string_view raw_default);

  // Null when the name has no value. The pointer is good until the next call that changes the
  // store.
  const ParameterEntry* Find(absl::string_view name) const;
  // What a reference to the name sees: its value, else what DefineBuiltIn() said, else null.
  const ParameterEntry* FindForReference(absl::string_view name) const;
  bool read_only(absl::string_view name) const;
  // The names with a value, sorted.
  std::vector<std::string> Names() const;

  // Strict: what the original accepts by oversight is an error instead of a warning (CO2, F116,
  // F117). Off unless a program asks for it.
  bool strict() const { return strict_; }
  void set_strict(bool strict) { strict_ = strict; }

 private:
  struct Slot {
    ParameterEntry entry;
    bool read_only = false;
  };

  bool Store(absl::string_view name, ParameterEntry entry);

  // Not hash tables of Abseil: those do not survive an allocation that fails (F125).
  std::map<std::string, Slot, std::less<>> slots_;
  std::map<std::string, ParameterEntry, std::less<>> built_ins_;
  bool strict_ = false;
};

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_PARAMETER_STORE_H_

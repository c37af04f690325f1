#include "posthouse/config/parameter_store.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace posthouse {

bool ParameterStore::Store(absl::string_view name, ParameterEntry entry) {
  Slot& slot = slots_[std::string(name)];
  if (slot.read_only) return false;
  slot.entry = std::move(entry);
  return true;
}

bool ParameterStore::Set(absl::string_view name, absl::string_view value,
                         absl::string_view origin) {
  return Store(name, {std::string(value), std::string(origin), /*final_value=*/false});
}

bool ParameterStore::SetFinal(absl::string_view name, absl::string_view value,
                              absl::string_view origin) {
  return Store(name, {std::string(value), std::string(origin), /*final_value=*/true});
}

void ParameterStore::SetReadOnly(absl::string_view name, absl::string_view value) {
  Slot& slot = slots_[std::string(name)];
  slot.entry = {std::string(value), "set by the program", /*final_value=*/true};
  slot.read_only = true;
}

void ParameterStore::DefineBuiltIn(absl::string_view name, absl::string_view raw_default) {
  built_ins_[std::string(name)] = {std::string(raw_default), "default", /*final_value=*/false};
}

const ParameterEntry* ParameterStore::Find(absl::string_view name) const {
  auto found = slots_.find(name);
  return found == slots_.end() ? nullptr : &found->second.entry;
}

const ParameterEntry* ParameterStore::FindForReference(absl::string_view name) const {
  if (const ParameterEntry* entry = Find(name)) return entry;
  auto found = built_ins_.find(name);
  return found == built_ins_.end() ? nullptr : &found->second;
}

bool ParameterStore::read_only(absl::string_view name) const {
  auto found = slots_.find(name);
  return found != slots_.end() && found->second.read_only;
}

std::vector<std::string> ParameterStore::Names() const {
  std::vector<std::string> names;
  names.reserve(slots_.size());
  for (const auto& [name, slot] : slots_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace posthouse

// Expansion of $name references (C23 to C41), a pure function over a store.

#ifndef POSTHOUSE_CONFIG_EXPAND_H_
#define POSTHOUSE_CONFIG_EXPAND_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/parameter_store.h"

namespace posthouse {

// References and literal pieces may nest this deep (C38).
inline constexpr int kMaxExpansionDepth = 101;

// `text` with all references replaced. kInvalidArgument quotes the offending place, at most 100
// bytes of it (C39, F111); a reference cycle or too deep a chain is named with its members (F110).
// Undefined names are empty (C26).
absl::StatusOr<std::string> Expand(absl::string_view text, const ParameterStore& store);

// The expanded value of a name; empty when it has none.
absl::StatusOr<std::string> ExpandedValue(absl::string_view name, const ParameterStore& store);

// A compatibility level, "major[.minor[.patch]]" (C57), as a number that compares; malformed ones
// are kInvalidArgument.
absl::StatusOr<int64_t> ParseCompatibilityLevel(absl::string_view text);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_EXPAND_H_

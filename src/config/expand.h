// Expansion of $name references (C23 to C41), a pure function over a store.
//
// All forms of 3.7 are known: $name, ${name}, $(name), ${name?text}, ${name:text},
// ${name?{text}:{text}}, ${{left} op {right} ? {text} : {text}} and "$$" for a dollar sign. The
// function form of newer releases, ${name{text}} (C36), is a syntax error as it is in 3.7.
//
// Time, memory and stack are bounded whatever the text: see the constants.

#ifndef POSTHOUSE_CONFIG_EXPAND_H_
#define POSTHOUSE_CONFIG_EXPAND_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/parameter_store.h"

namespace posthouse {

// References and literal pieces may nest this deep (C38), the operands of comparisons included.
inline constexpr int kMaxExpansionDepth = 101;

// What one expansion may cost: a byte looked at or written is 1, a piece of text
// kExpansionPieceCost more. So nobody makes a gigabyte of a few references that double each other
// (F118).
inline constexpr size_t kMaxExpansionCost = 8 << 20;
inline constexpr size_t kExpansionPieceCost = 64;

// `text` with all references replaced. kInvalidArgument quotes the offending place, at most 100
// bytes of it (C39, F111), and the parameter in whose value it stands; a reference cycle or too
// deep a chain is named with its members (F110). Undefined names are empty (C26).
absl::StatusOr<std::string> Expand(absl::string_view text, const ParameterStore& store);

// As Expand(); `*cost` is what it cost, also when it failed.
absl::StatusOr<std::string> ExpandCounting(absl::string_view text, const ParameterStore& store,
                                           size_t* cost);

// The expanded value of a name; empty when it has none.
absl::StatusOr<std::string> ExpandedValue(absl::string_view name, const ParameterStore& store);

// A compatibility level, "major[.minor[.patch]]" (C57), as a number that compares; malformed ones
// are kInvalidArgument.
absl::StatusOr<int64_t> ParseCompatibilityLevel(absl::string_view text);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_EXPAND_H_

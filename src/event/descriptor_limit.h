// How many descriptors this process may have open, and asking for more.
//
// The event loop never changes the limit by itself (EO15): children inherit it, and programs built
// on select(2) do not survive descriptors at or above FD_SETSIZE.
//
// Thread: any; the limit is the process's.

#ifndef POSTHOUSE_EVENT_DESCRIPTOR_LIMIT_H_
#define POSTHOUSE_EVENT_DESCRIPTOR_LIMIT_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace posthouse {

// The soft limit: descriptor numbers are below it. INT_MAX when there is none.
absl::StatusOr<int> DescriptorLimit();

// Raises the soft limit to `wanted`, as far as the hard limit allows, and returns what it is then.
// It never lowers it. By default it asks for all there is.
absl::StatusOr<int> RaiseDescriptorLimit(int64_t wanted = INT64_MAX);

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_DESCRIPTOR_LIMIT_H_

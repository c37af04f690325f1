// Waiting for something that another process or thread does, instead of sleeping.
//
//   ASSERT_TRUE(WaitUntil([&] { return Children().empty(); }));
//
// The condition is asked again every millisecond of real time, also while the interposer's clock
// is fake. The bound is generous so that a slow machine does not fail a right program.

#ifndef POSTHOUSE_TESTING_EVENT_WAIT_H_
#define POSTHOUSE_TESTING_EVENT_WAIT_H_

#include <sys/types.h>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace posthouse {

inline constexpr absl::Duration kGenerousBound = absl::Seconds(30);

// False when the bound has passed and the condition still does not hold.
bool WaitUntil(absl::FunctionRef<bool()> condition, absl::Duration bound = kGenerousBound);

// The wait status of a child that has ended within the bound, reaped; nothing if it has not.
absl::optional<int> WaitForExit(pid_t pid, absl::Duration bound = kGenerousBound);

// Whether poll(2) reports any of `events` (or an error or hang-up) within the bound.
bool WaitForEvents(int fd, short events, absl::Duration bound = kGenerousBound);

}  // namespace posthouse

#endif  // POSTHOUSE_TESTING_EVENT_WAIT_H_

// Eventually waits for a condition that other processes make true, at most `bound`.
//
//   ASSERT_TRUE(Eventually(absl::Seconds(20), [&] { return instance.MailCount() == 50; }));
//
// Nothing tells a test when a stock program has got somewhere, so the condition is asked again
// every few milliseconds. The bound is generous: it only matters when the test fails.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_WAIT_H_
#define POSTHOUSE_TESTS_CONFORMANCE_WAIT_H_

#include <functional>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace posthouse::conformance {

inline constexpr absl::Duration kAskAgain = absl::Milliseconds(5);

inline bool Eventually(absl::Duration bound, const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + bound;
  while (!condition()) {
    if (absl::Now() > end) return condition();
    absl::SleepFor(kAskAgain);
  }
  return true;
}

// Whether `condition` stays true for `period`: for what must not happen.
inline bool Throughout(absl::Duration period, const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + period;
  while (absl::Now() < end) {
    if (!condition()) return false;
    absl::SleepFor(kAskAgain);
  }
  return condition();
}

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_WAIT_H_

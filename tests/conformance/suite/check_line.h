// How a check is shown: one line that names the statements it is about.
//
//   CheckTitle("P14_P15_OneMessageIsOneWriteOf12Bytes")  is
//       "P14 P15 one message is one write of 12 bytes"
//
// The words of a test's name are told apart by their capitals; a word of capitals alone, such as
// TAKEN, stays as it is.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_SUITE_CHECK_LINE_H_
#define POSTHOUSE_TESTS_CONFORMANCE_SUITE_CHECK_LINE_H_

#include <string>

#include "absl/strings/string_view.h"

namespace posthouse::conformance {

std::string CheckTitle(absl::string_view test_name);

// What GoogleTest says about a failed expectation, in one line: "expected 0, got 256 (text)".
std::string BriefFailure(absl::string_view message);

// A filter of GoogleTest for what --only names: a statement ("P15") or a part of a name. It selects
// among the suites whose names begin with `prefix`.
std::string FilterFor(absl::string_view prefix, absl::string_view wanted);

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_SUITE_CHECK_LINE_H_

// The program that is judged, and what the suite has to know to talk to it.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_SUITE_CANDIDATE_H_
#define POSTHOUSE_TESTS_CONFORMANCE_SUITE_CANDIDATE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace posthouse::conformance {

struct Candidate {
  bool is_master = false;
  std::string program;                 // absolute path
  std::vector<std::string> arguments;  // a worker's own, behind those of the master

  // --- Of a worker ---

  std::string name;              // of the service; empty: the program's last component
  std::string request;           // one request; empty: clients only connect
  std::string reply_pattern;     // an ECMAScript expression that a whole reply matches
  std::string greeting_pattern;  // what comes before the first request; empty: nothing
  int process_limit = 100;       // 1: it asks for -l, 0: it asks for -z
  bool has_use_limit = true;     // false: it overrides max_use
  bool consumes_tokens = false;  // a flow token per connection (S51)
  bool one_shot = true;          // serves standard input with -S
  bool jail = true;              // works with -u and -c
  std::string main_cf;           // more lines

  // --- Of a master ---

  std::string probe;  // path of the worker that the suite gives it
};

// The program under test; set by main().
Candidate& TheCandidate();

// Fills in what the suite knows about a service: echo, anvil, policy, rewrite.
absl::Status ApplyPreset(absl::string_view preset, Candidate* candidate);

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_SUITE_CANDIDATE_H_

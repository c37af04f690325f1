// The list of master_service_disable: which entries of master.cf count (M39).
//
//   ServicePatterns disabled("foo/unix, !smtp/inet, inet");
//   disabled.Matches("submission", "inet")  // true
//
// Patterns are tried in order, without regard to case; the first that matches decides. One with "/"
// stands for "name/type", one without for a type; in one without "/" the last "." is read as "/".
// Each "!" in front turns the decision around. Thread: any.

#ifndef POSTHOUSE_CONFIG_SERVICE_PATTERNS_H_
#define POSTHOUSE_CONFIG_SERVICE_PATTERNS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace posthouse {

class ServicePatterns {
 public:
  explicit ServicePatterns(absl::string_view list);
  // False when no pattern matches.
  bool Matches(absl::string_view name, absl::string_view type) const;

 private:
  struct Pattern {
    std::string text;
    bool verdict = true;
  };
  std::vector<Pattern> patterns_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_SERVICE_PATTERNS_H_

// StatusTrace records the status messages that a running stock master reads from its workers (P14):
// what the master sees, not what a worker believes it said. It attaches strace to the master.
//
// Ending a trace can cost the master a signal that arrives at that moment, so do not end one while
// a child is dying.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_STATUS_TRACE_H_
#define POSTHOUSE_TESTS_CONFORMANCE_STATUS_TRACE_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace posthouse::conformance {

struct TracedStatus {
  int pid = 0;
  unsigned generation = 0;
  int availability = 0;  // 0 taken, 1 available

  bool operator==(const TracedStatus& other) const {
    return pid == other.pid && generation == other.generation && availability == other.availability;
  }
};

std::ostream& operator<<(std::ostream& out, const TracedStatus& status);

class StatusTrace {
 public:
  // Returns when the master is being traced. kUnavailable where that is not allowed.
  static absl::StatusOr<std::unique_ptr<StatusTrace>> Start(pid_t master);
  ~StatusTrace();
  StatusTrace(const StatusTrace&) = delete;
  StatusTrace& operator=(const StatusTrace&) = delete;

  // All messages so far, of all workers or of one.
  std::vector<TracedStatus> Messages() const;
  std::vector<TracedStatus> MessagesOf(pid_t worker) const;
  // Reads of a status channel that did not give a whole message.
  int PartialReads() const;

 private:
  StatusTrace() = default;

  std::string output_;
  pid_t tracer_ = 0;
};

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_STATUS_TRACE_H_

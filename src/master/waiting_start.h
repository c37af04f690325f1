// Waiting for the outcome of a start in the background (-w, M28, M29, F109): one process becomes
// two, of which one goes on as the master and the other waits for what it says.
//
//   absl::StatusOr<WaitingStart> start = WaitingStart::Split(absl::Seconds(100));
//   if (start->exit_status().has_value()) return *start->exit_status();   // we are the one that
//   waits
//   ...
//   start->Succeed();   or   start->Fail("master.cf, line 3: ...");
//
// They speak over a pipe: a byte of value 0 is success; text is the reason of a failure, which the
// one that waits prints on standard error (MO10); the end without either means that the master
// died. A master that takes longer than the limit is killed.
//
// Thread: one, before there are others. Fork: this is one; nobody else may hold the pipe, which is
// close-on-exec.

#ifndef POSTHOUSE_MASTER_WAITING_START_H_
#define POSTHOUSE_MASTER_WAITING_START_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

class WaitingStart {
 public:
  // Nobody waits: both answers go nowhere.
  WaitingStart() = default;

  // Returns in both processes. The one that was there before waits up to `limit` and has an exit
  // status in the end; the new one has none and goes on at once.
  static absl::StatusOr<WaitingStart> Split(absl::Duration limit);

  const absl::optional<int>& exit_status() const { return exit_status_; }
  // Why, in the process that waited, when the status is not 0.
  const std::string& reason() const { return reason_; }

  bool somebody_waits() const { return answer_.valid(); }
  void Succeed();
  void Fail(absl::string_view reason);

 private:
  void Await(int fd, pid_t child, absl::Duration limit);

  UniqueFd answer_;
  absl::optional<int> exit_status_;
  std::string reason_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_WAITING_START_H_

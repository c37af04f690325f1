// CompletionListener takes connections from a listen socket that other processes may share, and
// hands them out: by completions on a loop on io_uring, by readiness on any other; see
// completion_stream.h.
//
//   auto listener = CompletionListener::Create(
//       loop, listen_fd, {.on_connection = &OnConnection, .on_failure = &OnFailure, .context =
//       this});
//
// on_connection owns what it gets: a descriptor in blocking mode and close-on-exec (S45, S46).
// on_failure is told of everything else that accept(2) says (ClassifyAcceptError()). After kBackOff
// and kBroken the listener has paused itself; Resume() goes on, after an AcceptPacer's pause.
// Pause() stops on_connection at once by readiness; by completions, connections that the kernel has
// accepted by then are still handed out. In that form a process takes as many connections as there
// are: Pause() is how it leaves them to others.
//
// Thread, fork: as a CompletionStream. Ownership: borrows the listen socket, which must outlive it.

#ifndef POSTHOUSE_EVENT_COMPLETION_LISTENER_H_
#define POSTHOUSE_EVENT_COMPLETION_LISTENER_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/accept.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

struct CompletionListenerOptions {
  void (*on_connection)(UniqueFd connection, void* context) = nullptr;  // required
  void (*on_failure)(AcceptOutcome outcome, const absl::Status& status,
                     void* context) = nullptr;  // required
  void* context = nullptr;
};

class CompletionListener {
 public:
  // Connections taken per turn by readiness, so that others have theirs (SO13).
  static constexpr int kAcceptsPerTurn = 16;

  // Errors: as EventLoop::Watch().
  static absl::StatusOr<std::unique_ptr<CompletionListener>> Create(
      EventLoop* loop, int listen_fd, const CompletionListenerOptions& options);
  virtual ~CompletionListener() = default;
  CompletionListener(const CompletionListener&) = delete;
  CompletionListener& operator=(const CompletionListener&) = delete;

  // Harmless when repeated. A listener accepts from its creation on.
  virtual void Pause() = 0;
  virtual void Resume() = 0;

 protected:
  CompletionListener() = default;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_COMPLETION_LISTENER_H_

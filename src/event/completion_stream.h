// CompletionStream sends and receives on one connected stream socket and tells what was done, where
// FdWatch tells what could be done. CompletionListener does the same for connections.
//
//   struct Echo {
//     static void OnData(absl::string_view data, void* self) {
//       static_cast<Echo*>(self)->stream->Send(data).IgnoreError();
//     }
//     static void OnEnd(const absl::Status& status, void* self) { delete static_cast<Echo*>(self);
//     } std::unique_ptr<CompletionStream> stream;
//   };
//   auto* echo = new Echo;
//   auto stream = CompletionStream::Create(
//       loop, std::move(fd), {.on_data = &Echo::OnData, .on_end = &Echo::OnEnd, .context = echo});
//
// A loop on io_uring does it by completions: receiving, sending, accepting and closing go in with
// the loop's wait, so a busy server makes a fraction of a call per request. Any other loop does it
// by readiness, with the calls that this takes. What a user sees is the same:
//
//  - Handlers run in a turn of the loop, never inside a call of this interface, after due timers
//  and
//    beside the handlers of watches. A handler may do anything to any stream, its own included;
//    once a destructor has returned, no handler of it is called (E47).
//  - on_data gets received bytes in their order. The view is valid during the call; what is to be
//    kept is copied. There are at most kMostReceived bytes in one call.
//  - Send() keeps a copy and never waits. Output goes out in its order. on_sent is called, if there
//    is one, when everything has been handed to the kernel, in a later turn than Send().
//  - on_end is called once with OK when the peer has closed its side, after all data; sending may
//  go
//    on. It is called once with an error when the connection has failed; nothing is received, sent
//    or called any more then.
//  - Destroying the stream closes the socket. What the kernel takes at once of the output is sent
//    before, the rest is dropped: wait for on_sent to be sure.
//
// Backpressure: PauseReceiving() stops on_data at once. By then more may have come than was handed
// out, at most the receive buffers of the loop (1 MiB for all streams together); it is kept for
// ResumeReceiving(). Output is limited by max_output. An idle stream holds no buffers.
//
// EventLoop::Drain() does not wait for streams and listeners. Errors: of Create(), as
// EventLoop::Watch(). Of Send(): kResourceExhausted over max_output, nothing taken;
// kFailedPrecondition after the connection has failed.
// Thread: that of the loop. Ownership: owns the socket, which nobody else may hold (as
// FdWatchOptions::sole_owner); must not outlive the loop.
// Fork: a stream goes on in the parent. What the child may do with its copy is destroy it, before
// or after AfterFork(), which closes the child's descriptor and nothing else.

#ifndef POSTHOUSE_EVENT_COMPLETION_STREAM_H_
#define POSTHOUSE_EVENT_COMPLETION_STREAM_H_

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

struct CompletionStreamOptions {
  void (*on_data)(absl::string_view data, void* context) = nullptr;     // required
  void (*on_end)(const absl::Status& status, void* context) = nullptr;  // required
  void (*on_sent)(void* context) = nullptr;
  void* context = nullptr;
  // The most that unsent() may be.
  size_t max_output = size_t{1} << 20;
};

class CompletionStream {
 public:
  static constexpr size_t kMostReceived = 4096;

  static absl::StatusOr<std::unique_ptr<CompletionStream>> Create(
      EventLoop* loop, UniqueFd socket, const CompletionStreamOptions& options);
  virtual ~CompletionStream() = default;
  CompletionStream(const CompletionStream&) = delete;
  CompletionStream& operator=(const CompletionStream&) = delete;

  virtual int fd() const = 0;
  virtual absl::Status Send(absl::string_view data) = 0;
  // Output that is not known to be with the kernel.
  virtual size_t unsent() const = 0;
  // Harmless when repeated. A stream receives from its creation on.
  virtual void PauseReceiving() = 0;
  virtual void ResumeReceiving() = 0;

 protected:
  CompletionStream() = default;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_COMPLETION_STREAM_H_

// posthouse's completion streams: what is received is handed over, what is sent goes in with the
// loop's wait.
//
//   backend=NAME   which poller (default: io_uring; on any other the streams go by readiness)

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "bench/echo/echo_io.h"
#include "bench/echo/slab.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/completion_listener.h"
#include "posthouse/event/completion_stream.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/accept.h"
#include "posthouse/io/unique_fd.h"

namespace {

using posthouse::CompletionListener;
using posthouse::CompletionStream;
using posthouse::EventLoop;
using posthouse::UniqueFd;

constexpr size_t kMostUnsent = 64 * 1024;

struct Connection {
  std::unique_ptr<CompletionStream> stream;
  bool ended = false;
};

class StreamServer {
 public:
  static StreamServer& Get() {
    static StreamServer server;
    return server;
  }

  [[noreturn]] void Run() {
    const std::string name = io_.Setting("backend", "io_uring");
    const absl::StatusOr<posthouse::Backend> backend = posthouse::ParseBackend(name);
    if (!backend.ok()) EchoUnsupported(backend.status().ToString());
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create({.backend = *backend});
    if (absl::IsUnimplemented(loop.status())) EchoUnsupported(loop.status().ToString());
    if (!loop.ok()) EchoFail(loop.status().ToString());
    loop_ = *std::move(loop);
    auto listener = CompletionListener::Create(
        loop_.get(), io_.listen_fd(), {.on_connection = &OnConnection, .on_failure = &OnFailure});
    if (!listener.ok()) EchoFail(listener.status().ToString());
    listener_ = *std::move(listener);
    io_.Ready();
    for (;;) {
      const absl::Status status = loop_->RunOnce(absl::InfiniteDuration());
      if (!status.ok()) EchoFail(status.ToString());
    }
  }

 private:
  StreamServer() : io_(EchoIo::Get()) {}

  static void OnConnection(UniqueFd fd, void* /*context*/) {
    StreamServer& self = Get();
    Connection* connection = self.connections_.New();
    auto stream = CompletionStream::Create(
        self.loop_.get(), std::move(fd),
        {.on_data = &OnData, .on_end = &OnEnd, .on_sent = &OnSent, .context = connection});
    if (!stream.ok()) EchoFail(stream.status().ToString());
    connection->stream = *std::move(stream);
    self.io_.CountOpened();
  }

  static void OnFailure(posthouse::AcceptOutcome outcome, const absl::Status& status,
                        void* /*context*/) {
    if (outcome != posthouse::AcceptOutcome::kIgnore) EchoFail(status.ToString());
  }

  static void OnData(absl::string_view data, void* context) {
    Get().io_.CountRequest();
    CompletionStream& stream = *static_cast<Connection*>(context)->stream;
    if (!stream.Send(data).ok()) return End(context);
    // Nothing more is read from a client that does not read.
    if (stream.unsent() > kMostUnsent) stream.PauseReceiving();
  }

  static void OnSent(void* context) {
    auto* connection = static_cast<Connection*>(context);
    if (connection->ended) return End(context);
    connection->stream->ResumeReceiving();
  }

  // The client may have closed its side and be reading still.
  static void OnEnd(const absl::Status& status, void* context) {
    auto* connection = static_cast<Connection*>(context);
    connection->ended = true;
    if (!status.ok() || connection->stream->unsent() == 0) End(context);
  }

  static void End(void* context) {
    Get().io_.CountClosed();
    Get().connections_.Delete(static_cast<Connection*>(context));
  }

  EchoIo& io_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<CompletionListener> listener_;
  Slab<Connection> connections_;
};

}  // namespace

void Serve() { StreamServer::Get().Run(); }

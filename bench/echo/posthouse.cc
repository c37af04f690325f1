// posthouse's event loop: one FdWatch per connection, entered by its sole owner, write interest
// only while the kernel takes no more.
//
//   backend=NAME   which poller (default: the best)
//   idle=1         an idle timeout per connection, pushed back by every request

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/echo/echo_io.h"
#include "bench/echo/slab.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/event/timer.h"

namespace {

using posthouse::Backend;
using posthouse::EventLoop;
using posthouse::EventLoopOptions;
using posthouse::FdWatch;
using posthouse::Timer;

constexpr int64_t kIdleLimitNs = int64_t{60} * 1000000000;

struct Connection {
  explicit Connection(EventLoop* loop) {}
  void Touch(EventLoop* loop) {}

  FdWatch watch;
};

// Handlers get the connection; the server is the only one of its process.
template <typename ConnectionType>
class PosthouseServer {
 public:
  static PosthouseServer& Get() {
    static PosthouseServer server;
    return server;
  }

  void Create(Backend backend) {
    EventLoopOptions options;
    options.backend = backend;
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create(options);
    if (absl::IsUnimplemented(loop.status())) EchoUnsupported(loop.status().ToString());
    if (!loop.ok()) EchoFail(loop.status().ToString());
    loop_ = *std::move(loop);
    listener_ = Watch(io_.listen_fd(), {.on_readable = &OnConnection});
  }

  [[noreturn]] void Run() {
    for (;;) {
      const absl::Status status = loop_->RunOnce(absl::InfiniteDuration());
      if (!status.ok()) EchoFail(status.ToString());
    }
  }

  void End(ConnectionType* connection) {
    const int fd = connection->watch.fd();
    connections_.Delete(connection);  // and its watch: before the descriptor is closed
    io_.Close(fd);
  }

 private:
  PosthouseServer() : io_(EchoIo::Get()) {}

  FdWatch Watch(int fd, const posthouse::FdWatchOptions& options) {
    absl::StatusOr<FdWatch> watch = loop_->Watch(fd, options);
    // select has no numbers beyond FD_SETSIZE.
    if (absl::IsInvalidArgument(watch.status())) EchoUnsupported(watch.status().ToString());
    if (!watch.ok()) EchoFail(watch.status().ToString());
    return *std::move(watch);
  }

  static void OnConnection(int event, void* context) { Get().AcceptSome(); }

  static void OnReadable(int event, void* context) {
    auto* connection = static_cast<ConnectionType*>(context);
    connection->Touch(Get().loop_.get());
    switch (Get().io_.OnReadable(connection->watch.fd())) {
      case EchoStep::kWaitForRead:
        break;
      case EchoStep::kWaitForWrite:
        connection->watch.DisableRead();
        connection->watch.EnableWrite();
        break;
      case EchoStep::kEnd:
        Get().End(connection);
    }
  }

  static void OnWritable(int event, void* context) {
    auto* connection = static_cast<ConnectionType*>(context);
    connection->Touch(Get().loop_.get());
    switch (Get().io_.OnWritable(connection->watch.fd())) {
      case EchoStep::kWaitForRead:
        connection->watch.DisableWrite();
        connection->watch.EnableRead();
        break;
      case EchoStep::kWaitForWrite:
        break;
      case EchoStep::kEnd:
        Get().End(connection);
    }
  }

  void AcceptSome() {
    for (int i = 0; i < EchoIo::kAcceptsPerEvent; ++i) {
      const int fd = io_.Accept();
      if (fd < 0) return;
      ConnectionType* connection = connections_.New(loop_.get());
      connection->watch = Watch(fd, {.on_readable = &OnReadable,
                                     .on_writable = &OnWritable,
                                     .context = connection,
                                     .sole_owner = true});
      connection->Touch(loop_.get());
    }
  }

  EchoIo& io_;
  std::unique_ptr<EventLoop> loop_;
  FdWatch listener_;
  Slab<ConnectionType> connections_;
};

struct TimedConnection {
  explicit TimedConnection(EventLoop* loop) : idle(loop, &OnIdle, this) {}
  void Touch(EventLoop* loop) { loop->PushBack(&idle, kIdleLimitNs); }
  static void OnIdle(int event, void* context) {
    PosthouseServer<TimedConnection>::Get().End(static_cast<TimedConnection*>(context));
  }

  FdWatch watch;
  Timer idle;
};

template <typename ConnectionType>
[[noreturn]] void ServeWith(Backend backend) {
  PosthouseServer<ConnectionType>& server = PosthouseServer<ConnectionType>::Get();
  server.Create(backend);
  EchoIo::Get().Ready();
  server.Run();
}

}  // namespace

void Serve() {
  EchoIo& io = EchoIo::Get();
  const absl::StatusOr<Backend> backend = posthouse::ParseBackend(io.Setting("backend", "best"));
  if (!backend.ok()) EchoUnsupported(backend.status().ToString());
  if (io.Setting("idle", "0") == "1") ServeWith<TimedConnection>(*backend);
  ServeWith<Connection>(*backend);
}

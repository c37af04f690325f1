// libev: one ev_io per connection, whose events change from reading to writing only while the
// kernel takes no more. As ev(3) has it: a watcher is embedded in what it is for, and is stopped
// while it is changed.

#include <ev.h>

#include <cstddef>

#include "bench/echo/echo_io.h"
#include "bench/echo/slab.h"

namespace {

struct Connection {
  ev_io watcher;  // first: libev hands it back
};

class LibevServer {
 public:
  static LibevServer& Get() {
    static LibevServer server;
    return server;
  }

  [[noreturn]] void Run() {
    loop_ = ev_default_loop(EVBACKEND_EPOLL);
    if (loop_ == nullptr) EchoFail("libev cannot make a loop on epoll");
    ev_io_init(&listener_, &OnConnection, io_.listen_fd(), EV_READ);
    ev_io_start(loop_, &listener_);
    io_.Ready();
    for (;;) ev_run(loop_, 0);
  }

 private:
  LibevServer() : io_(EchoIo::Get()) {}

  static void OnConnection(struct ev_loop* loop, ev_io* watcher, int events) { Get().AcceptSome(); }

  void AcceptSome() {
    for (int i = 0; i < EchoIo::kAcceptsPerEvent; ++i) {
      const int fd = io_.Accept();
      if (fd < 0) return;
      Connection* connection = connections_.New();
      ev_io_init(&connection->watcher, &OnReady, fd, EV_READ);
      ev_io_start(loop_, &connection->watcher);
    }
  }

  static void OnReady(struct ev_loop* loop, ev_io* watcher, int events) { Get().Step(watcher); }

  void Step(ev_io* watcher) {
    const bool writing = (watcher->events & EV_WRITE) != 0;
    const int fd = watcher->fd;
    const EchoStep step = writing ? io_.OnWritable(fd) : io_.OnReadable(fd);
    if (step == EchoStep::kEnd) {
      ev_io_stop(loop_, watcher);
      io_.Close(fd);
      connections_.Delete(reinterpret_cast<Connection*>(watcher));
    } else if (writing != (step == EchoStep::kWaitForWrite)) {
      ev_io_stop(loop_, watcher);
      ev_io_modify(watcher, writing ? EV_READ : EV_WRITE);
      ev_io_start(loop_, watcher);
    }
  }

  EchoIo& io_;
  struct ev_loop* loop_ = nullptr;
  ev_io listener_;
  Slab<Connection> connections_;
};

static_assert(offsetof(Connection, watcher) == 0, "a watcher is its connection");

}  // namespace

void Serve() { LibevServer::Get().Run(); }

// libevent, plain events: a persistent read event per connection, and a write event that is made
// only for a client that does not read. The events are libevent's own objects (event_new): its
// header advises against embedding them.

#include <event2/event.h>

#include "bench/echo/echo_io.h"
#include "bench/echo/slab.h"

namespace {

struct Connection {
  event* read;
  event* write;  // null, almost always
};

class LibeventServer {
 public:
  static LibeventServer& Get() {
    static LibeventServer server;
    return server;
  }

  [[noreturn]] void Run() {
    base_ = event_base_new();
    if (base_ == nullptr) EchoFail("event_base_new");
    event* listener =
        event_new(base_, io_.listen_fd(), EV_READ | EV_PERSIST, &OnConnection, nullptr);
    Add(listener);
    io_.Ready();
    for (;;) event_base_dispatch(base_);
  }

 private:
  LibeventServer() : io_(EchoIo::Get()) {}

  static void Add(event* event) {
    if (event == nullptr || event_add(event, nullptr) != 0) EchoFail("event_add");
  }

  static void OnConnection(evutil_socket_t fd, short what, void* context) { Get().AcceptSome(); }

  void AcceptSome() {
    for (int i = 0; i < EchoIo::kAcceptsPerEvent; ++i) {
      const int fd = io_.Accept();
      if (fd < 0) return;
      Connection* connection = connections_.New();
      connection->write = nullptr;
      connection->read = event_new(base_, fd, EV_READ | EV_PERSIST, &OnReady, connection);
      Add(connection->read);
    }
  }

  static void OnReady(evutil_socket_t fd, short what, void* context) {
    Get().Step(fd, (what & EV_WRITE) != 0, static_cast<Connection*>(context));
  }

  void Step(int fd, bool writing, Connection* connection) {
    const EchoStep step = writing ? io_.OnWritable(fd) : io_.OnReadable(fd);
    if (step == EchoStep::kEnd) {
      event_free(connection->read);
      if (connection->write != nullptr) event_free(connection->write);
      connections_.Delete(connection);
      io_.Close(fd);
    } else if (!writing && step == EchoStep::kWaitForWrite) {
      event_del(connection->read);
      connection->write = event_new(base_, fd, EV_WRITE | EV_PERSIST, &OnReady, connection);
      Add(connection->write);
    } else if (writing && step == EchoStep::kWaitForRead) {
      event_free(connection->write);
      connection->write = nullptr;
      Add(connection->read);
    }
  }

  EchoIo& io_;
  event_base* base_ = nullptr;
  Slab<Connection> connections_;
};

}  // namespace

void Serve() { LibeventServer::Get().Run(); }

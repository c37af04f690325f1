// libuv, readiness only: one uv_poll_t per connection. A handle lives until its close callback.

#include <uv.h>

#include "bench/echo/echo_io.h"
#include "bench/echo/slab.h"

namespace {

struct Connection {
  uv_poll_t poll;  // first: libuv hands it back
  int fd;
  bool writing;
};

class LibuvServer {
 public:
  static LibuvServer& Get() {
    static LibuvServer server;
    return server;
  }

  [[noreturn]] void Run() {
    Check(uv_loop_init(&loop_), "uv_loop_init");
    Check(uv_poll_init_socket(&loop_, &listener_, io_.listen_fd()), "uv_poll_init_socket");
    Check(uv_poll_start(&listener_, UV_READABLE, &OnConnection), "uv_poll_start");
    io_.Ready();
    for (;;) uv_run(&loop_, UV_RUN_DEFAULT);
  }

 private:
  LibuvServer() : io_(EchoIo::Get()) {}

  static void Check(int status, const char* what) {
    if (status != 0) EchoFail(std::string(what) + ": " + uv_strerror(status));
  }

  static void OnConnection(uv_poll_t* poll, int status, int events) { Get().AcceptSome(); }

  void AcceptSome() {
    for (int i = 0; i < EchoIo::kAcceptsPerEvent; ++i) {
      const int fd = io_.Accept();
      if (fd < 0) return;
      Connection* connection = connections_.New();
      connection->fd = fd;
      connection->writing = false;
      Check(uv_poll_init_socket(&loop_, &connection->poll, fd), "uv_poll_init_socket");
      Check(uv_poll_start(&connection->poll, UV_READABLE, &OnReady), "uv_poll_start");
    }
  }

  static void OnReady(uv_poll_t* poll, int status, int events) {
    Get().Step(reinterpret_cast<Connection*>(poll));
  }

  void Step(Connection* connection) {
    const int fd = connection->fd;
    const EchoStep step = connection->writing ? io_.OnWritable(fd) : io_.OnReadable(fd);
    if (step == EchoStep::kEnd) {
      uv_close(reinterpret_cast<uv_handle_t*>(&connection->poll), &OnClosed);
      io_.Close(fd);
      return;
    }
    const bool writing = step == EchoStep::kWaitForWrite;
    if (writing == connection->writing) return;
    connection->writing = writing;
    Check(uv_poll_start(&connection->poll, writing ? UV_WRITABLE : UV_READABLE, &OnReady),
          "uv_poll_start");
  }

  static void OnClosed(uv_handle_t* handle) {
    Get().connections_.Delete(reinterpret_cast<Connection*>(handle));
  }

  EchoIo& io_;
  uv_loop_t loop_;
  uv_poll_t listener_;
  Slab<Connection> connections_;
};

}  // namespace

void Serve() { LibuvServer::Get().Run(); }

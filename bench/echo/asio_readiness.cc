// Asio, readiness only: async_wait() before each read and, while the kernel takes no more, before
// each write. A wait is for one event, so each is asked for again. One thread, so the context is
// told that it needs no locks.

#include <asio.hpp>
#include <utility>

#include "bench/echo/echo_io.h"
#include "bench/echo/slab.h"

namespace {

using asio::ip::tcp;

class AsioServer {
 public:
  static AsioServer& Get() {
    static AsioServer server;
    return server;
  }

  [[noreturn]] void Run() {
    AcceptNext();
    io_.Ready();
    for (;;) context_.run();
  }

 private:
  AsioServer()
      : io_(EchoIo::Get()),
        context_(ASIO_CONCURRENCY_HINT_UNSAFE),
        listener_(context_, tcp::v4(), io_.listen_fd()) {}

  void AcceptNext() {
    listener_.async_wait(tcp::acceptor::wait_read, [this](const asio::error_code& error) {
      if (error) EchoFail("wait: " + error.message());
      for (int i = 0; i < EchoIo::kAcceptsPerEvent; ++i) {
        const int fd = io_.Accept();
        if (fd < 0) break;
        Wait(sockets_.New(context_, tcp::v4(), fd), /*writing=*/false);
      }
      AcceptNext();
    });
  }

  void Wait(tcp::socket* socket, bool writing) {
    socket->async_wait(writing ? tcp::socket::wait_write : tcp::socket::wait_read,
                       [this, socket, writing](const asio::error_code& error) {
                         if (error) EchoFail("wait: " + error.message());
                         Step(socket, writing);
                       });
  }

  void Step(tcp::socket* socket, bool writing) {
    const int fd = socket->native_handle();
    const EchoStep step = writing ? io_.OnWritable(fd) : io_.OnReadable(fd);
    if (step != EchoStep::kEnd) return Wait(socket, step == EchoStep::kWaitForWrite);
    io_.Forget(fd);
    sockets_.Delete(socket);  // which closes it, without a call to take it out of the set
  }

  EchoIo& io_;
  asio::io_context context_;
  tcp::acceptor listener_;
  Slab<tcp::socket> sockets_;
};

}  // namespace

void Serve() { AsioServer::Get().Run(); }

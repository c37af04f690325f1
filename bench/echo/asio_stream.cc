// Asio, its streams: a session per connection with a buffer of its own, async_read_some() and
// async_write() in turn, as Asio's own echo server example has it. One thread, so the context is
// told that it needs no locks.

#include <array>
#include <asio.hpp>
#include <memory>
#include <utility>

#include "bench/echo/echo_io.h"

namespace {

using asio::ip::tcp;

class Session : public std::enable_shared_from_this<Session> {
 public:
  explicit Session(tcp::socket socket) : socket_(std::move(socket)) { EchoIo::Get().CountOpened(); }
  ~Session() { EchoIo::Get().CountClosed(); }

  void Read() {
    socket_.async_read_some(asio::buffer(data_),
                            [self = shared_from_this()](const asio::error_code& error, size_t got) {
                              if (!error) self->Write(got);
                            });
  }

 private:
  void Write(size_t size) {
    EchoIo::Get().CountRequest();
    asio::async_write(socket_, asio::buffer(data_, size),
                      [self = shared_from_this()](const asio::error_code& error, size_t sent) {
                        if (!error) self->Read();
                      });
  }

  tcp::socket socket_;
  std::array<char, 1024> data_;
};

void AcceptNext(tcp::acceptor* acceptor) {
  acceptor->async_accept([acceptor](const asio::error_code& error, tcp::socket socket) {
    if (error) EchoFail("accept: " + error.message());
    std::make_shared<Session>(std::move(socket))->Read();
    AcceptNext(acceptor);
  });
}

}  // namespace

void Serve() {
  asio::io_context context(ASIO_CONCURRENCY_HINT_UNSAFE);
  tcp::acceptor acceptor(context, tcp::v4(), EchoIo::Get().listen_fd());
  AcceptNext(&acceptor);
  EchoIo::Get().Ready();
  for (;;) context.run();
}

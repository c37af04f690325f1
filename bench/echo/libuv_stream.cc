// libuv, its streams: uv_tcp_t, reading into one buffer that is shared, answering with
// uv_try_write() and, if the kernel takes no more, with a uv_write() of the rest.

#include <uv.h>

#include <cstring>
#include <memory>
#include <string>

#include "bench/echo/echo_io.h"
#include "bench/echo/slab.h"

namespace {

struct UnsentRest {
  uv_write_t request;  // first: libuv hands it back
  std::string data;
};

class LibuvServer {
 public:
  static LibuvServer& Get() {
    static LibuvServer server;
    return server;
  }

  [[noreturn]] void Run() {
    Check(uv_loop_init(&loop_), "uv_loop_init");
    Check(uv_tcp_init(&loop_, &listener_), "uv_tcp_init");
    Check(uv_tcp_open(&listener_, io_.listen_fd()), "uv_tcp_open");
    Check(uv_listen(reinterpret_cast<uv_stream_t*>(&listener_), 4096, &OnConnection), "uv_listen");
    io_.Ready();
    for (;;) uv_run(&loop_, UV_RUN_DEFAULT);
  }

 private:
  LibuvServer() : io_(EchoIo::Get()) {}

  static void Check(int status, const char* what) {
    if (status != 0) EchoFail(std::string(what) + ": " + uv_strerror(status));
  }

  static void OnConnection(uv_stream_t* listener, int status) {
    Check(status, "accept");
    Get().Accept(listener);
  }

  void Accept(uv_stream_t* listener) {
    uv_tcp_t* connection = connections_.New();
    Check(uv_tcp_init(&loop_, connection), "uv_tcp_init");
    auto* stream = reinterpret_cast<uv_stream_t*>(connection);
    Check(uv_accept(listener, stream), "uv_accept");
    io_.CountOpened();
    Check(uv_read_start(stream, &OnAllocate, &OnRead), "uv_read_start");
  }

  static void OnAllocate(uv_handle_t* handle, size_t suggested, uv_buf_t* buffer) {
    *buffer = uv_buf_init(Get().io_.buffer(), EchoIo::kBufferSize);
  }

  static void OnRead(uv_stream_t* stream, ssize_t got, const uv_buf_t* buffer) {
    if (got < 0) return Get().Close(stream);
    if (got > 0) Get().Answer(stream, buffer->base, static_cast<size_t>(got));
  }

  void Answer(uv_stream_t* stream, char* data, size_t size) {
    io_.CountRequest();
    const uv_buf_t all = uv_buf_init(data, static_cast<unsigned>(size));
    const int sent = uv_try_write(stream, &all, 1);
    if (sent == static_cast<int>(size)) return;
    if (sent < 0 && sent != UV_EAGAIN) return Close(stream);
    const size_t begin = sent < 0 ? 0 : static_cast<size_t>(sent);
    auto* rest = new UnsentRest{{}, std::string(data + begin, size - begin)};
    const uv_buf_t unsent =
        uv_buf_init(rest->data.data(), static_cast<unsigned>(rest->data.size()));
    // Nothing more is read from a client that does not read.
    uv_read_stop(stream);
    Check(uv_write(&rest->request, stream, &unsent, 1, &OnWritten), "uv_write");
  }

  static void OnWritten(uv_write_t* request, int status) {
    const std::unique_ptr<UnsentRest> rest(reinterpret_cast<UnsentRest*>(request));
    if (status == UV_ECANCELED) return;  // closed meanwhile
    if (status < 0) return Get().Close(request->handle);
    Check(uv_read_start(request->handle, &OnAllocate, &OnRead), "uv_read_start");
  }

  void Close(uv_stream_t* stream) {
    io_.CountClosed();
    uv_close(reinterpret_cast<uv_handle_t*>(stream), &OnClosed);
  }

  static void OnClosed(uv_handle_t* handle) {
    Get().connections_.Delete(reinterpret_cast<uv_tcp_t*>(handle));
  }

  EchoIo& io_;
  uv_loop_t loop_;
  uv_tcp_t listener_;
  Slab<uv_tcp_t> connections_;
};

}  // namespace

void Serve() { LibuvServer::Get().Run(); }

// libevent, its streams: a listener and a bufferevent per connection, whose input becomes its
// output, as the echo server of libevent's own book does it.

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

#include "bench/echo/echo_io.h"

namespace {

void End(bufferevent* stream) {
  EchoIo::Get().CountClosed();
  bufferevent_free(stream);
}

void OnRead(bufferevent* stream, void* context);
void OnEvent(bufferevent* stream, short events, void* context);

void OnAllWritten(bufferevent* stream, void* context) {
  bufferevent_setcb(stream, &OnRead, nullptr, &OnEvent, nullptr);
  bufferevent_enable(stream, EV_READ);
}

void OnLastWritten(bufferevent* stream, void* context) { End(stream); }

// Reads nothing more until what is to be written is written, and then goes on with `next`.
void WaitForOutput(bufferevent* stream, bufferevent_data_cb next) {
  bufferevent_disable(stream, EV_READ);
  bufferevent_setcb(stream, nullptr, next, &OnEvent, nullptr);
}

void OnRead(bufferevent* stream, void* context) {
  EchoIo::Get().CountRequest();
  evbuffer* output = bufferevent_get_output(stream);
  evbuffer_add_buffer(output, bufferevent_get_input(stream));
  if (evbuffer_get_length(output) > EchoIo::kBufferSize) WaitForOutput(stream, &OnAllWritten);
}

void OnEvent(bufferevent* stream, short events, void* context) {
  const bool unsent = evbuffer_get_length(bufferevent_get_output(stream)) > 0;
  if ((events & BEV_EVENT_ERROR) != 0 || ((events & BEV_EVENT_EOF) != 0 && !unsent)) {
    End(stream);
  } else if ((events & BEV_EVENT_EOF) != 0) {
    WaitForOutput(stream, &OnLastWritten);
  }
}

void OnConnection(evconnlistener* listener, evutil_socket_t fd, sockaddr* address, int length,
                  void* context) {
  event_base* base = evconnlistener_get_base(listener);
  bufferevent* stream = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
  if (stream == nullptr) EchoFail("bufferevent_socket_new");
  EchoIo::Get().CountOpened();
  bufferevent_setcb(stream, &OnRead, nullptr, &OnEvent, nullptr);
  bufferevent_enable(stream, EV_READ | EV_WRITE);
}

}  // namespace

void Serve() {
  EchoIo& io = EchoIo::Get();
  event_base* base = event_base_new();
  if (base == nullptr) EchoFail("event_base_new");
  // A backlog of zero: the socket listens already.
  evconnlistener* listener =
      evconnlistener_new(base, &OnConnection, nullptr, LEV_OPT_CLOSE_ON_EXEC, 0, io.listen_fd());
  if (listener == nullptr) EchoFail("evconnlistener_new");
  io.Ready();
  for (;;) event_base_dispatch(base);
}

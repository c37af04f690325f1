// The measure of all: an epoll loop written for this one purpose. A connection costs accept4, one
// epoll_ctl(ADD), and a close; epoll_ctl(DEL) is left out because close(2) does it.

#include <sys/epoll.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "bench/echo/echo_io.h"
#include "bench/echo/slab.h"

namespace {

constexpr int kEventsPerWait = 512;

struct Connection {
  explicit Connection(int fd) : fd(fd) {}

  const int fd;
  bool writing = false;
};

class RawServer {
 public:
  RawServer() : io_(EchoIo::Get()), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    Control(EPOLL_CTL_ADD, io_.listen_fd(), EPOLLIN, nullptr);
  }

  [[noreturn]] void Run() {
    epoll_event events[kEventsPerWait];
    for (;;) {
      const int count = epoll_wait(epoll_, events, kEventsPerWait, -1);
      if (count < 0 && errno != EINTR) EchoFail(std::string("epoll_wait: ") + strerror(errno));
      for (int i = 0; i < count; ++i) {
        auto* connection = static_cast<Connection*>(events[i].data.ptr);
        if (connection == nullptr) {
          AcceptAll();
        } else {
          Step(connection);
        }
      }
    }
  }

 private:
  void Control(int operation, int fd, uint32_t events, Connection* connection) {
    epoll_event event = {};
    event.events = events;
    event.data.ptr = connection;
    if (epoll_ctl(epoll_, operation, fd, &event) != 0) {
      EchoFail(std::string("epoll_ctl: ") + strerror(errno));
    }
  }

  void AcceptAll() {
    for (int i = 0; i < EchoIo::kAcceptsPerEvent; ++i) {
      const int fd = io_.Accept();
      if (fd < 0) return;
      Control(EPOLL_CTL_ADD, fd, EPOLLIN, connections_.New(fd));
    }
  }

  void Step(Connection* connection) {
    const EchoStep step =
        connection->writing ? io_.OnWritable(connection->fd) : io_.OnReadable(connection->fd);
    if (step == EchoStep::kEnd) {
      io_.Close(connection->fd);
      connections_.Delete(connection);
      return;
    }
    const bool writing = step == EchoStep::kWaitForWrite;
    if (writing == connection->writing) return;
    connection->writing = writing;
    Control(EPOLL_CTL_MOD, connection->fd, writing ? EPOLLOUT : EPOLLIN, connection);
  }

  EchoIo& io_;
  const int epoll_;
  Slab<Connection> connections_;
};

}  // namespace

void Serve() {
  RawServer server;
  EchoIo::Get().Ready();
  server.Run();
}

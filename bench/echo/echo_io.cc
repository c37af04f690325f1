#include "bench/echo/echo_io.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace {

constexpr int kBacklog = 4096;

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

}  // namespace

EchoIo& EchoIo::Get() {
  static EchoIo io;
  return io;
}

void EchoIo::Start(int argc, char** argv) {
  ParseSettings(argc, argv);
  CatchSignals();
  Listen();
}

void EchoIo::ParseSettings(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const char* equals = strchr(argv[i], '=');
    if (equals == nullptr) EchoFail(std::string("not name=value: ") + argv[i]);
    settings_[std::string(argv[i], static_cast<size_t>(equals - argv[i]))] = equals + 1;
  }
}

std::string EchoIo::Setting(const std::string& name, const std::string& otherwise) {
  const auto found = settings_.find(name);
  if (found == settings_.end()) return otherwise;
  std::string value = found->second;
  settings_.erase(found);
  return value;
}

void EchoIo::Listen() {
  // 10000 clients; a server that leaves the limit alone would have 1024.
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  listen_fd_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (listen_fd_ < 0 || bind(listen_fd_, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(listen_fd_, kBacklog) != 0 ||
      getsockname(listen_fd_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    EchoFail(std::string("listen on 127.0.0.1: ") + strerror(errno));
  }
  port_ = ntohs(address.sin_port);
}

void EchoIo::CatchSignals() {
  signal(SIGPIPE, SIG_IGN);
  struct sigaction action = {};
  action.sa_handler = &OnSignal;
  sigaction(SIGUSR1, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

// In the handler, so that no server has to bring signals into its loop. mallinfo2() takes the locks
// of malloc(), which is not async-signal-safe: whoever sends SIGUSR1 makes sure that the process
// sleeps in its wait (the driver looks at its state), and at SIGTERM nothing is asked of malloc.
void EchoIo::OnSignal(int signal) {
  const int saved_errno = errno;
  if (signal == SIGUSR1) {
    Get().Report();
    errno = saved_errno;
    return;
  }
  _exit(0);
}

void EchoIo::Report() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const struct mallinfo2 heap = mallinfo2();
  char line[300];
  const int length =
      snprintf(line, sizeof(line),
               "requests=%llu opened=%llu closed=%llu heap_bytes=%zu user_s=%.6f system_s=%.6f\n",
               static_cast<unsigned long long>(requests_), static_cast<unsigned long long>(opened_),
               static_cast<unsigned long long>(closed_), heap.uordblks + heap.hblkhd,
               Seconds(usage.ru_utime), Seconds(usage.ru_stime));
  if (write(STDOUT_FILENO, line, static_cast<size_t>(length)) != length) _exit(1);
}

void EchoIo::Ready() {
  if (!settings_.empty()) EchoFail("unknown setting " + settings_.begin()->first);
  printf("port=%d pid=%d\n", port_, static_cast<int>(getpid()));
  fflush(stdout);
}

int EchoIo::Accept() {
  for (;;) {
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      ++opened_;
      return fd;
    }
    if (errno == EAGAIN) return -1;
    // The client left before it was accepted, or a signal came.
    if (errno == ECONNABORTED || errno == EINTR) continue;
    EchoFail(std::string("accept4: ") + strerror(errno));
  }
}

EchoStep EchoIo::OnReadable(int fd) {
  const ssize_t got = read(fd, buffer_, sizeof(buffer_));
  if (got < 0) return WouldBlock() ? EchoStep::kWaitForRead : EchoStep::kEnd;
  if (got == 0) return EchoStep::kEnd;
  ++requests_;
  ssize_t sent = write(fd, buffer_, static_cast<size_t>(got));
  if (sent == got) return EchoStep::kWaitForRead;
  if (sent < 0 && !WouldBlock()) return EchoStep::kEnd;
  if (sent < 0) sent = 0;
  unsent_[fd].assign(buffer_ + sent, static_cast<size_t>(got - sent));
  return EchoStep::kWaitForWrite;
}

EchoStep EchoIo::OnWritable(int fd) {
  const auto unsent = unsent_.find(fd);
  if (unsent == unsent_.end()) return EchoStep::kWaitForRead;
  const ssize_t sent = write(fd, unsent->second.data(), unsent->second.size());
  if (sent < 0) return WouldBlock() ? EchoStep::kWaitForWrite : EchoStep::kEnd;
  unsent->second.erase(0, static_cast<size_t>(sent));
  if (!unsent->second.empty()) return EchoStep::kWaitForWrite;
  unsent_.erase(unsent);
  return EchoStep::kWaitForRead;
}

void EchoIo::Close(int fd) {
  Forget(fd);
  close(fd);
}

void EchoIo::Forget(int fd) {
  if (!unsent_.empty()) unsent_.erase(fd);
  ++closed_;
}

void EchoFail(const std::string& message) {
  fprintf(stderr, "echo server: %s\n", message.c_str());
  // Not exit(): this may be a handler of a loop that lives as long as the process.
  _exit(1);
}

void EchoUnsupported(const std::string& reason) {
  printf("unsupported\n");
  fflush(stdout);
  fprintf(stderr, "echo server: %s\n", reason.c_str());
  _exit(3);
}

// bench_worker is the least that a worker can be, so that what is measured is the master: it
// accepts a client, says so on the status channel, writes one byte, closes, says so again.
//
//   bench UNIX ... bench_worker          in master.cf: stays until the channel is closed
//   bench UNIX ... bench_worker once     ends after the first client

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr int kStatusFd = 5, kListenFd = 6;

struct Status {
  int32_t pid;
  uint32_t generation;
  int32_t availability;
};

bool Report(int availability) {
  const char* generation = getenv("GENERATION");
  const Status status = {getpid(),
                         generation ? static_cast<uint32_t>(strtoul(generation, nullptr, 8)) : 0,
                         availability};
  return write(kStatusFd, &status, sizeof status) == sizeof status;
}

}  // namespace

int main(int argc, char** argv) {
  const bool once = argc > 1 && strcmp(argv[argc - 1], "once") == 0;
  pollfd watched[] = {{kStatusFd, POLLIN, 0}, {kListenFd, POLLIN, 0}};
  while (poll(watched, 2, -1) > 0 || errno == EINTR) {
    if (watched[0].revents != 0) return 0;
    if (watched[1].revents == 0) continue;
    const int client = accept(kListenFd, nullptr, nullptr);
    if (client < 0) continue;
    Report(0);
    if (write(client, "x", 1) != 1) return 1;
    close(client);
    if (!Report(1) || once) return 0;
  }
  return 1;
}

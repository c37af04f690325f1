// connect_load connects to a service again and again, from N clients at once, each reading one byte
// and waiting for the end: with a worker that ends after each client that is the rate of spawning.
//
//   connect_load PATH CLIENTS SECONDS
//
// Prints one line: connections, seconds, connections per second, the median and the largest time
// from connect to the first byte.

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

double TimeToFirstByte(const sockaddr_un& address) {
  const Clock::time_point start = Clock::now();
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  char byte;
  if (fd < 0 || connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      read(fd, &byte, 1) != 1) {
    perror("connect_load");
    exit(1);
  }
  const double took = MicrosecondsSince(start);
  while (read(fd, &byte, 1) > 0) continue;
  close(fd);
  return took;
}

}  // namespace

int main(int argc, char** argv) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (argc != 4 || strlen(argv[1]) >= sizeof address.sun_path) {
    fprintf(stderr, "connect_load PATH CLIENTS SECONDS\n");
    return 1;
  }
  strcpy(address.sun_path, argv[1]);
  const double seconds = atof(argv[3]);
  std::mutex mutex;
  std::vector<double> all;
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> clients;
  for (int client = 0; client < atoi(argv[2]); ++client) {
    clients.emplace_back([&] {
      std::vector<double> times;
      while (MicrosecondsSince(start) < seconds * 1e6) times.push_back(TimeToFirstByte(address));
      std::lock_guard<std::mutex> lock(mutex);
      all.insert(all.end(), times.begin(), times.end());
    });
  }
  for (std::thread& client : clients) client.join();
  const double elapsed = MicrosecondsSince(start) / 1e6;
  std::sort(all.begin(), all.end());
  printf("connections=%zu seconds=%.3f rate=%.1f p50_us=%.1f max_us=%.1f\n", all.size(), elapsed,
         static_cast<double>(all.size()) / elapsed, all[all.size() / 2], all.back());
  return 0;
}

// An echo worker of one screen, right in what the suite's test of itself looks at, but for the flaw
// that its first operand names:
//
//   short      its status messages have 11 bytes       decimal   reads its generation as decimal
//   late       TAKEN comes behind the reply            nonblock  makes the status channel
//   non-blocking deaf       goes on when the channel is closed      failing   exits with 1 then
//   greedy     takes a flow token per connection       rude      shuts the listener down at its end
//   none       no flaw

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

namespace {

struct Message {
  int pid;
  unsigned generation;
  int availability;
};

std::string flaw = "none";

void Tell(int availability) {
  const char* text = getenv("GENERATION");
  const int base = flaw == "decimal" ? 10 : 8;
  const Message message = {
      getpid(), text == nullptr ? 0 : static_cast<unsigned>(strtoul(text, nullptr, base)),
      availability};
  if (write(5, &message, flaw == "short" ? 11 : 12) < 0 && availability == 1) _exit(0);
}

// False when the client is gone.
bool Serve(int client) {
  char bytes[4096];
  const ssize_t got = recv(client, bytes, sizeof(bytes), MSG_PEEK);
  if (got <= 0) return false;
  if (flaw != "late") Tell(0);
  ssize_t length = 0;
  do {
    length = read(client, bytes, sizeof(bytes));
    if (length <= 0 || send(client, bytes, static_cast<size_t>(length), MSG_NOSIGNAL) < 0) break;
  } while (bytes[length - 1] != '\n');
  if (flaw == "late") {
    usleep(50000);
    Tell(0);
  }
  Tell(1);
  return length > 0;
}

}  // namespace

int main(int argc, char** argv) {
  opterr = 0;
  while (getopt(argc, argv, "+cdDi:lm:n:o:s:St:uvVz") > 0) {
  }
  if (optind < argc) flaw = argv[optind];
  if (flaw == "nonblock") fcntl(5, F_SETFL, O_NONBLOCK);
  for (int fd : {3, 4, 5, 6}) fcntl(fd, F_SETFD, FD_CLOEXEC);
  std::set<int> clients;
  for (;;) {
    pollfd entries[1024] = {{6, POLLIN, 0}, {5, POLLIN, 0}};
    nfds_t count = flaw == "deaf" ? 1 : 2;
    const nfds_t first_client = count;
    for (int client : clients) entries[count++] = {client, POLLIN, 0};
    if (poll(entries, count, -1) < 0) continue;
    if (first_client == 2 && entries[1].revents != 0) {
      if (flaw == "rude") shutdown(6, SHUT_RDWR);
      return flaw == "failing" ? 1 : 0;
    }
    for (nfds_t i = first_client; i < count; ++i) {
      if (entries[i].revents == 0 || Serve(entries[i].fd)) continue;
      close(entries[i].fd);
      clients.erase(entries[i].fd);
    }
    if (entries[0].revents == 0) continue;
    const int client = accept4(6, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) continue;
    char token;
    if (flaw == "greedy" && read(3, &token, 1) < 0) token = 0;
    clients.insert(client);
  }
}

// A worker program that does what its last arguments say, one after the other, and exits 0:
//
//   taken, avail   sends that status message        report   tells what it inherited, on stderr
//   log:TEXT       sends a datagram to postlogd     exit:N   ends with that status
//   master         waits until the master is gone   serve    answers one client with "hello"
//   fork           goes on in a child; the parent exits 0
//   forever        waits for a signal                 shutdown  shuts the listen socket down
//   stubborn       ignores TERM from now on
//   flood          takes a client, and sends one status message after the other until it is killed
//   single         one client after the other, as a stock daemon: "held", then its line, answered

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "posthouse/master/protocol.h"
#include "tests/master/worker_report.h"

namespace {

void Wait(int fd, short events) {
  pollfd entry = {fd, events, 0};
  while (poll(&entry, 1, -1) < 0) {
  }
}

void Report(int argc, char** argv) {
  const std::string text = posthouse::WorkerReport(argc, argv);
  if (write(2, text.data(), text.size()) < 0) _exit(9);
}

void SendLog(const std::string& text) {
  const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, getenv("POSTLOG_SERVICE"), sizeof(address.sun_path) - 1);
  if (sendto(fd, text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&address),
             sizeof(address)) < 0) {
    _exit(8);
  }
  close(fd);
}

void Serve() {
  Wait(6, POLLIN);
  const int listener_or_connection = accept(6, nullptr, nullptr);
  if (write(listener_or_connection, "hello", 5) != 5) _exit(7);
  close(listener_or_connection);
}

// Until the master is gone or has reloaded.
void ServeOneByOne(posthouse::WorkerStatus* status) {
  for (;;) {
    pollfd entries[2] = {{5, POLLIN, 0}, {6, POLLIN, 0}};
    if (poll(entries, 2, -1) < 0) continue;
    if (entries[0].revents != 0) _exit(0);
    const int client = accept(6, nullptr, nullptr);
    if (client < 0) continue;
    status->Report(posthouse::Availability::kTaken);
    char line[1000];
    if (write(client, "held\n", 5) == 5) {
      const ssize_t got = read(client, line, sizeof(line));
      if (got > 0 && write(client, line, static_cast<size_t>(got)) != got) _exit(7);
    }
    close(client);
    status->Report(posthouse::Availability::kAvailable);
  }
}

void Flood(uint32_t generation) {
  using posthouse::Availability;
  for (Availability state = Availability::kTaken;;) {
    const posthouse::StatusMessageBytes bytes =
        posthouse::EncodeStatusMessage({getpid(), generation, static_cast<int32_t>(state)});
    if (write(5, bytes.data(), bytes.size()) < 0) _exit(6);
    state = state == Availability::kTaken ? Availability::kAvailable : Availability::kTaken;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const uint32_t generation = posthouse::ParseGeneration(getenv("GENERATION")).value();
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    posthouse::WorkerStatus status(5, getpid(), generation);
    if (word == "taken") status.Report(posthouse::Availability::kTaken);
    if (word == "avail") status.Report(posthouse::Availability::kAvailable);
    if (word == "report") Report(argc, argv);
    if (word == "master") Wait(5, POLLIN);
    if (word == "serve") Serve();
    if (word == "single") ServeOneByOne(&status);
    if (word == "flood") {
      close(accept(6, nullptr, nullptr));
      Flood(generation);
    }
    if (word == "forever") pause();
    if (word == "stubborn") signal(SIGTERM, SIG_IGN);
    if (word == "shutdown") shutdown(6, SHUT_RD);
    if (word == "fork" && fork() != 0) _exit(0);
    if (absl::StartsWith(word, "log:")) SendLog(word.substr(4));
    if (absl::StartsWith(word, "raw:")) {
      if (write(5, word.data() + 4, word.size() - 4) < 0) return 6;
    }
    if (absl::StartsWith(word, "exit:")) _exit(atoi(word.c_str() + 5));
  }
  return 0;
}

// The worker that the suite gives to a master under test. It records what it inherited and what
// happens to it, and does what its clients say, right or wrong.
//
// Records go to the directory that lies beside the configuration directory under the name "probe":
// report.PID (WorkerReport() and "service NAME"), complete when it is there, and events.PID, one
// line per event: "accepted", "channel closed", "avail failed", "SIGTERM", "wake-up HEX",
// "datagram HEX", "wrote N" (bytes, on demand, to the status channel).
//
// Operands, from master.cf:
//
//   fail:N:exit:STATUS, fail:N:signal:NUMBER   the first N processes of the service end like that
//   stubborn                                   ignores SIGTERM and the end of the channel
//   taken                                      sends TAKEN as soon as it starts
//
// A client sends lines. Around each TAKEN and AVAIL are sent, unless it begins with "!":
//
//   pid           answers its process number
//   echo TEXT     answers TEXT
//   hold          answers "holding", then waits for the next line of this client and answers "done"
//   exit N        ends with that status
//   signal N      ends by that signal, at its default
//   write HEX     one write to the status channel, "written" when the master has read it
//   say PID GENERATION VALUE   the same with a message made of three numbers
//   settle        answers "settled" when the master has read all messages
//   shutdown      ends the first listener for all who share it
//   take N, put N, tokens      flow tokens: how many it got, put, sees
//
// A client that sends W and NUL is a wake-up (P66).

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "posthouse/io/pass_descriptor.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/protocol.h"
#include "tests/master/worker_report.h"

namespace posthouse::conformance {
namespace {

constexpr MasterDescriptors kNumbers;
int events = -1;  // of the signal handler too

void Event(absl::string_view text) {
  const std::string line = absl::StrCat(text, "\n");
  if (write(events, line.data(), line.size()) < 0) _exit(9);
}

// Async-signal-safe.
void OnTerm(int signal_number) {
  if (write(events, "SIGTERM\n", 8) < 0) _exit(9);
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

struct CommandLine {
  std::string service;
  std::string transport = "unix";
  int listeners = 1;
  std::vector<std::string> operands;
};

CommandLine Parse(int argc, char** argv) {
  CommandLine line;
  line.service = argv[0];
  opterr = 0;
  for (int c; (c = getopt(argc, argv, "+cdDi:lm:n:o:s:St:uvVz")) > 0;) {
    if (c == 'n') line.service = optarg;
    if (c == 't') line.transport = optarg;
    if (c == 's') line.listeners = atoi(optarg);
  }
  line.operands.assign(argv + optind, argv + argc);
  return line;
}

class Probe {
 public:
  Probe(CommandLine line, std::string directory)
      : line_(std::move(line)),
        directory_(std::move(directory)),
        status_(kNumbers.status, getpid(), Generation()) {}

  void Begin(const std::string& report) {
    const std::string path = absl::StrCat(directory_, "/report.", getpid());
    const std::string draft = path + ".new";
    const int fd = open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const std::string text = absl::StrCat(report, "service ", line_.service, "\n");
    if (write(fd, text.data(), text.size()) < 0) _exit(9);
    close(fd);
    if (rename(draft.c_str(), path.c_str()) != 0) _exit(9);
    events = open(absl::StrCat(directory_, "/events.", getpid()).c_str(),
                  O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    signal(SIGTERM, OnTerm);
    const int start = CountStart();
    for (const std::string& word : line_.operands) Operand(word, start);
  }

  [[noreturn]] void Run() {
    for (;;) {
      std::vector<pollfd> entries = {
          {kNumbers.status, static_cast<short>(stubborn_ ? 0 : POLLIN), 0}};
      for (int i = 0; i < line_.listeners; ++i) {
        entries.push_back({kNumbers.first_listen + i, POLLIN, 0});
      }
      const size_t first_client = entries.size();
      for (const auto& [fd, input] : clients_) entries.push_back({fd, POLLIN, 0});
      if (poll(entries.data(), entries.size(), -1) < 0) continue;
      if (entries[0].revents != 0 && !stubborn_) {
        Event("channel closed");
        _exit(0);
      }
      for (size_t i = 1; i < entries.size(); ++i) {
        if (entries[i].revents == 0) continue;
        if (i < first_client) {
          Accept(entries[i].fd);
        } else {
          Serve(entries[i].fd);
        }
      }
      // A master that is gone shows itself by the hang-up that nobody asks for: no reason to spin.
      if (stubborn_ && entries[0].revents != 0) usleep(10000);
    }
  }

 private:
  static uint32_t Generation() {
    const char* text = getenv(kGenerationVariable);
    return text == nullptr ? 0 : static_cast<uint32_t>(strtoul(text, nullptr, 8));
  }

  // The how manieth process of the service this is.
  int CountStart() {
    std::string name = line_.service;
    for (char& c : name) {
      if (c == '/') c = '_';
    }
    const int fd = open(absl::StrCat(directory_, "/starts.", name).c_str(),
                        O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (write(fd, ".", 1) < 0) _exit(9);
    const off_t size = lseek(fd, 0, SEEK_CUR);
    close(fd);
    return static_cast<int>(size);
  }

  void Operand(const std::string& word, int start) {
    const std::vector<std::string> parts = absl::StrSplit(word, ':');
    if (parts[0] == "fail" && parts.size() == 4 && start <= atoi(parts[1].c_str())) {
      End(parts[2], atoi(parts[3].c_str()));
    }
    if (word == "taken") status_.Report(Availability::kTaken);
    if (word == "stubborn") {
      stubborn_ = true;
      signal(SIGTERM, SIG_IGN);
    }
  }

  [[noreturn]] static void End(const std::string& how, int number) {
    if (how == "signal") {
      signal(number, SIG_DFL);
      raise(number);
    }
    _exit(number);
  }

  void Accept(int listener) {
    if (line_.transport == "fifo" || line_.transport == "unix-dgram") {
      char bytes[100];
      const ssize_t got = read(listener, bytes, sizeof(bytes));
      if (got > 0) {
        Event(absl::StrCat(line_.transport == "fifo" ? "wake-up " : "datagram ",
                           absl::BytesToHexString(absl::string_view(bytes, got))));
      }
      return;
    }
    int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    if (line_.transport == "pass") client = TakePassed(client);
    if (client < 0) return;
    Event("accepted");
    clients_[client];
  }

  static int TakePassed(int connection) {
    int passed = -1;
    pollfd entry = {connection, POLLIN, 0};
    if (poll(&entry, 1, 10000) == 1) {
      absl::StatusOr<absl::optional<UniqueFd>> received = ReceiveDescriptor(connection);
      if (received.ok() && received->has_value()) passed = (*received)->Release();
    }
    close(connection);
    return passed;
  }

  void Drop(int client) {
    close(client);
    clients_.erase(client);
  }

  // False when the client is gone.
  bool Fill(int client) {
    char bytes[4096];
    const ssize_t got = read(client, bytes, sizeof(bytes));
    if (got <= 0) return false;
    clients_[client].append(bytes, static_cast<size_t>(got));
    return true;
  }

  bool NextLine(int client, std::string* line) {
    std::string& input = clients_[client];
    const size_t end = input.find('\n');
    if (end == std::string::npos) return false;
    *line = input.substr(0, end);
    input.erase(0, end + 1);
    return true;
  }

  void Serve(int client) {
    if (!Fill(client)) return Drop(client);
    const std::string& input = clients_[client];
    if (absl::StartsWith(input, absl::string_view("W\0", 2))) {
      Event("wake-up " + absl::BytesToHexString(input));
      return Drop(client);
    }
    for (std::string line; NextLine(client, &line);) {
      if (!Command(client, line)) return Drop(client);
    }
  }

  // False when the client went away in it.
  bool Command(int client, const std::string& line) {
    if (line[0] == '!') return Act(client, line.substr(1));
    status_.Report(Availability::kTaken);
    const bool stays = Act(client, line);
    if (status_.Report(Availability::kAvailable) == WorkerStatus::Result::kDisconnected &&
        !stubborn_) {
      Event("avail failed");
      _exit(0);
    }
    return stays;
  }

  static bool Answer(int client, absl::string_view text) {
    const std::string line = absl::StrCat(text, "\n");
    return send(client, line.data(), line.size(), MSG_NOSIGNAL) >= 0;
  }

  bool Act(int client, const std::string& line) {
    const std::pair<std::string, std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    const std::string& command = words.first;
    const int number = atoi(words.second.c_str());
    if (command == "pid") return Answer(client, absl::StrCat(getpid()));
    if (command == "echo") return Answer(client, words.second);
    if (command == "hold") return Hold(client);
    if (command == "exit" || command == "signal") End(command, number);
    if (command == "shutdown") {
      const bool done = shutdown(kNumbers.first_listen, SHUT_RDWR) == 0;
      return Answer(client, done ? "shut down" : strerror(errno));
    }
    if (command == "settle") return Answer(client, AwaitReader("settled"));
    if (command == "write") return Answer(client, Write(absl::HexStringToBytes(words.second)));
    if (command == "say") return Answer(client, Say(words.second));
    return Answer(client, Tokens(command, number));
  }

  static std::string Tokens(const std::string& command, int number) {
    FlowTokens tokens(kNumbers.flow_read, kNumbers.flow_write);
    if (command == "take") return absl::StrCat(tokens.Take(number).value_or(-1));
    if (command == "put") return absl::StrCat(tokens.Put(number).value_or(-1));
    if (command == "tokens") return absl::StrCat(tokens.Count().value_or(-1));
    return "unknown command " + command;
  }

  bool Hold(int client) {
    if (!Answer(client, "holding")) return false;
    for (std::string line; !NextLine(client, &line);) {
      if (!Fill(client)) return false;
    }
    return Answer(client, "done");
  }

  static std::string Say(const std::string& numbers) {
    const std::vector<std::string> words = absl::StrSplit(numbers, ' ');
    StatusMessage message;
    uint32_t generation = 0;
    if (words.size() != 3 || !absl::SimpleAtoi(words[0], &message.pid) ||
        !absl::SimpleAtoi(words[1], &generation) ||
        !absl::SimpleAtoi(words[2], &message.availability)) {
      return "not a message";
    }
    message.generation = generation;
    const StatusMessageBytes bytes = EncodeStatusMessage(message);
    return Write(std::string(bytes.data(), bytes.size()));
  }

  static std::string Write(const std::string& bytes) {
    if (write(kNumbers.status, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
      return absl::StrCat("not written: ", strerror(errno));
    }
    Event(absl::StrCat("wrote ", bytes.size()));
    return AwaitReader("written");
  }

  // Waits until the master has taken everything from the channel; `done` then.
  static std::string AwaitReader(const std::string& done) {
    for (int attempt = 0; attempt < 10000; ++attempt) {
      int unread = 0;
      if (ioctl(kNumbers.status, SIOCOUTQ, &unread) != 0) return "SIOCOUTQ failed";
      if (unread == 0) return done;
      usleep(1000);
    }
    return "never read";
  }

  CommandLine line_;
  std::string directory_;
  WorkerStatus status_;
  std::map<int, std::string> clients_;  // descriptor to input
  bool stubborn_ = false;
};

int Main(int argc, char** argv) {
  const std::string report = WorkerReport(argc, argv);
  const char* configuration = getenv("MAIL_CONFIG");
  if (configuration == nullptr) return 9;
  Probe probe(Parse(argc, argv), absl::StrCat(configuration, "/../probe"));
  probe.Begin(report);
  probe.Run();
}

}  // namespace
}  // namespace posthouse::conformance

int main(int argc, char** argv) { return posthouse::conformance::Main(argc, argv); }

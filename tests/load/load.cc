#include "tests/load/load.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {
namespace {

constexpr size_t kShownLosses = 100;

// "127.0.0.2:40001", or the number that the kernel gave a local client.
std::string Text(const sockaddr_storage& address, socklen_t length) {
  if (address.ss_family == AF_INET) {
    const auto* inet = reinterpret_cast<const sockaddr_in*>(&address);
    char text[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &inet->sin_addr, text, sizeof text);
    return absl::StrCat(text, ":", ntohs(inet->sin_port));
  }
  const auto* local = reinterpret_cast<const sockaddr_un*>(&address);
  const size_t start = offsetof(sockaddr_un, sun_path);
  if (address.ss_family != AF_UNIX || length <= start + 1) return "";
  return absl::StrCat("local ", absl::string_view(local->sun_path + 1, length - start - 1));
}

std::string PeerName(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "";
  return Text(address, length);
}

std::string OwnName(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "";
  return Text(address, length);
}

// A signal interrupts a call with a time limit even where others are restarted.
template <typename Call>
auto Retry(const Call& call) -> decltype(call()) {
  decltype(call()) result;
  while ((result = call()) < 0 && errno == EINTR) continue;
  return result;
}

bool ConnectTcp(int fd, const sockaddr_in& to) {
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) return true;
  if (errno != EINTR) return false;
  // It goes on in the background.
  pollfd entry = {fd, POLLOUT, 0};
  Retry([&] { return poll(&entry, 1, -1); });
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  errno = error;
  return error == 0;
}

bool Connect(int fd, const LoadEndpoint& endpoint) {
  if (endpoint.path.empty()) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(endpoint.port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return ConnectTcp(fd, to);
  }
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  endpoint.path.copy(to.sun_path, sizeof to.sun_path - 1);
  return Retry([&] { return connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to); }) == 0;
}

// A name of its own for each client's end: an address of the loopback network per client, so that
// closed connections do not use up its ports; a number from the kernel for a local one.
bool BindClient(int fd, const LoadEndpoint& endpoint, int client) {
  if (endpoint.path.empty()) {
    sockaddr_in from = {};
    from.sin_family = AF_INET;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + client);
    const int late = 1;  // The port is chosen when the destination is known: more are free.
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &late, sizeof late);
    return bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof from) == 0;
  }
  sockaddr_un from = {};
  from.sun_family = AF_UNIX;
  return bind(fd, reinterpret_cast<const sockaddr*>(&from), sizeof(sa_family_t)) == 0;
}

char State(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!std::getline(file, line)) return 0;
  const size_t end = line.rfind(')');
  return end == std::string::npos ? 0 : line[end + 2];
}

std::vector<std::string> ClientsOf(pid_t worker) {
  std::vector<std::string> clients;
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, worker, 0)));
  DIR* descriptors = opendir(absl::StrCat("/proc/", worker, "/fd").c_str());
  if (descriptors == nullptr) return clients;
  while (const dirent* entry = readdir(descriptors)) {
    int number;
    if (!absl::SimpleAtoi(entry->d_name, &number) || number <= 5) continue;
    const UniqueFd copy(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    if (!copy.valid()) continue;
    if (std::string client = PeerName(copy.get()); !client.empty()) clients.push_back(client);
  }
  closedir(descriptors);
  return clients;
}

}  // namespace

bool KilledClients::Kill(pid_t worker) {
  if (kill(worker, SIGSTOP) != 0) return false;
  char state = 0;
  while ((state = State(worker)) != 'T' && state != 0 && state != 'Z' && state != 'X') {
    sched_yield();
  }
  const std::vector<std::string> clients = ClientsOf(worker);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const std::string& client : clients) held_[client] = absl::Now();
  }
  return kill(worker, SIGKILL) == 0 && state == 'T';
}

bool KilledClients::WasHeld(const std::string& client, absl::Time since) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = held_.find(client);
  return found != held_.end() && found->second >= since;
}

// One connection of a client.
struct Load::Attempt {
  Attempt(const LoadEndpoint& endpoint, int client, absl::Duration patience)
      : started(absl::Now()),
        fd(socket(endpoint.path.empty() ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval limit = absl::ToTimeval(patience);
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    connected = BindClient(fd.get(), endpoint, client) && Connect(fd.get(), endpoint);
    if (!connected) error = absl::StrCat("connect: ", strerror(errno));
    name = OwnName(fd.get());
  }

  // Whether the whole answer came; otherwise `error` says why, and `got` what came of it.
  bool Ask(int64_t number) {
    const std::string question = absl::StrCat(number, "\n");
    got.clear();
    if (Retry([&] { return send(fd.get(), question.data(), question.size(), MSG_NOSIGNAL); }) !=
        static_cast<ssize_t>(question.size())) {
      error = absl::StrCat("send: ", strerror(errno));
      return false;
    }
    char buffer[200];
    while (got.empty() || got.back() != '\n') {
      const ssize_t length = Retry([&] { return recv(fd.get(), buffer, sizeof buffer, 0); });
      if (length <= 0) {
        error = length == 0 ? "closed" : absl::StrCat("recv: ", strerror(errno));
        timed_out = length < 0 && errno == EAGAIN;
        return false;
      }
      got.append(buffer, static_cast<size_t>(length));
    }
    const std::pair<absl::string_view, absl::string_view> words =
        absl::StrSplit(absl::StripSuffix(got, "\n"), absl::MaxSplits(' ', 1));
    if (words.second == absl::StrCat(number)) return true;
    error = "a wrong answer";
    return false;
  }

  const absl::Time started;
  UniqueFd fd;
  std::string name, error, got;
  bool connected = false, timed_out = false;
};

Load::Load(std::vector<LoadEndpoint> endpoints, const LoadOptions& options,
           const KilledClients* killed)
    : endpoints_(std::move(endpoints)), options_(options), killed_clients_(killed) {
  for (int client = 0; client < options.one_shot_clients + options.long_clients; ++client) {
    threads_.emplace_back([this, client] {
      client < options_.one_shot_clients ? RunOneShot(client) : RunLong(client);
    });
  }
}

Load::~Load() { Finish(); }

LoadResult Load::Finish() {
  stopping_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  return {answered_, ended_, killed_, lost_, longest_};
}

void Load::RunOneShot(int client) {
  for (int64_t number = 0; !stopping_; ++number) AskOnce(client, number);
}

bool Load::AskOnce(int client, int64_t number) {
  Attempt attempt(endpoint(client), client, options_.patience);
  if (attempt.connected && attempt.Ask(number)) {
    Answered(attempt.started);
    return true;
  }
  Fail(attempt, attempt.error);
  return false;
}

void Load::RunLong(int client) {
  int64_t number = 0;
  while (!stopping_) {
    Attempt attempt(endpoint(client), client, options_.patience);
    if (!attempt.connected) Fail(attempt, attempt.error);
    bool going_on = attempt.connected;
    for (int i = 0; i < options_.requests_per_long_connection && going_on && !stopping_; ++i) {
      const absl::Time asked = absl::Now();
      if (attempt.Ask(++number)) {
        Answered(asked);
        continue;
      }
      going_on = false;
      const bool between_answers =
          i > 0 && attempt.got.empty() && !attempt.timed_out && !WasKilled(attempt);
      if (!between_answers) {
        Fail(attempt, absl::StrCat("request ", i, " of a long connection: ", attempt.error));
      } else {
        ++ended_;
        AskOnce(client, number);
      }
    }
  }
}

void Load::Answered(absl::Time asked) {
  ++answered_;
  const absl::Duration took = absl::Now() - asked;
  std::lock_guard<std::mutex> lock(mutex_);
  if (took > longest_) longest_ = took;
}

bool Load::WasKilled(const Attempt& attempt) const {
  return attempt.connected && killed_clients_ != nullptr &&
         killed_clients_->WasHeld(attempt.name, attempt.started);
}

void Load::Fail(const Attempt& attempt, const std::string& what) {
  if (WasKilled(attempt)) {
    ++killed_;
    return;
  }
  ++lost_count_;
  std::lock_guard<std::mutex> lock(mutex_);
  if (lost_.size() >= kShownLosses) return;
  lost_.push_back(absl::StrFormat("%s after %s: %s; got '%s'", attempt.name,
                                  absl::FormatDuration(absl::Now() - attempt.started), what,
                                  attempt.got));
}

}  // namespace posthouse

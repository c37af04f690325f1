// anvil_load measures a server of the anvil protocol: C clients in one process and one epoll loop,
// each with one connection and one request under way (a closed loop), as smtpd processes have.
//
//   anvil_load --socket PATH --clients C --seconds S --warmup S --idents N --pid SERVER
//              --pid-extra MASTER
//
// Prints one line of name=value pairs: requests, seconds, requests per second, the median and the
// 99th percentile of the time from a request's send to its reply's arrival, and CPU time of the
// named processes per request. Replies are checked; a wrong one ends the run with status 1.
//
// Each client plays the sessions of an smtpd: connect, message, recipient, recipient, disconnect,
// for one of N addresses of its own, the next one with each session. Servers remember the addresses
// of a minute, so N times C is the size of their tables.

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace {

constexpr absl::string_view kGreeting = "protocol=anvil_protocol\n\n";
constexpr const char* kSession[] = {"connect", "message", "recipient", "recipient", "disconnect"};
constexpr size_t kSessionLength = sizeof(kSession) / sizeof(kSession[0]);

struct Options {
  std::string socket;
  int clients = 1;
  int idents = 1;  // of each client
  double seconds = 3;
  double warmup = 0.5;
  std::vector<int> pids;        // the server
  std::vector<int> extra_pids;  // the master
};

[[noreturn]] void Fail(const std::string& message) {
  fprintf(stderr, "anvil_load: %s\n", message.c_str());
  exit(1);
}

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// CPU time of a process in nanoseconds: from the scheduler's statistics, or, where the kernel has
// none, in clock ticks from its status (utime + stime).
int64_t CpuNs(int pid) {
  int64_t ns = 0;
  if (std::ifstream in(absl::StrCat("/proc/", pid, "/schedstat")); in >> ns) return ns;
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!std::getline(in, line)) Fail(absl::StrCat("process ", pid, " is gone"));
  int64_t utime = 0, stime = 0;
  sscanf(line.c_str() + line.rfind(')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld",
         &utime, &stime);
  return (utime + stime) * (1000000000 / sysconf(_SC_CLK_TCK));
}

int64_t CpuNs(const std::vector<int>& pids) {
  int64_t sum = 0;
  for (const int pid : pids) sum += CpuNs(pid);
  return sum;
}

class Load {
 public:
  explicit Load(const Options& options) : options_(options), clients_(options.clients) {}

  int Run() {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; i < clients_.size(); ++i) Connect(i);
    for (Client& client : clients_) Send(client);
    RunUntil(NowNs() + static_cast<int64_t>(options_.warmup * 1e9));
    latencies_ns_.clear();
    const int64_t cpu = CpuNs(options_.pids);
    const int64_t extra_cpu = CpuNs(options_.extra_pids);
    const int64_t start = NowNs();
    RunUntil(start + static_cast<int64_t>(options_.seconds * 1e9));
    const double elapsed = static_cast<double>(NowNs() - start) / 1e9;
    Report(elapsed, CpuNs(options_.pids) - cpu, CpuNs(options_.extra_pids) - extra_cpu);
    // A client that leaves with a request under way would be an error to the server.
    stopping_ = true;
    while (under_way_ > 0) Turn();
    return 0;
  }

 private:
  struct Client {
    int fd = -1;
    int number = 0;
    uint64_t requests = 0;
    int64_t sent_ns = 0;
    std::string ident;
    std::string input;
  };

  void Connect(size_t index) {
    Client& client = clients_[index];
    client.number = static_cast<int>(index);
    client.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client.fd < 0) Fail(absl::StrCat("socket: ", strerror(errno)));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (options_.socket.size() >= sizeof(address.sun_path)) Fail("the socket's path is too long");
    memcpy(address.sun_path, options_.socket.data(), options_.socket.size());
    if (connect(client.fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      Fail(absl::StrCat("connect to ", options_.socket, ": ", strerror(errno)));
    }
    // The greeting is awaited here, in blocking mode, so that the accepts are not measured.
    std::string greeting(kGreeting.size(), '\0');
    if (recv(client.fd, greeting.data(), greeting.size(), MSG_WAITALL) !=
            static_cast<ssize_t>(greeting.size()) ||
        greeting != kGreeting) {
      Fail("no greeting of the anvil protocol");
    }
    fcntl(client.fd, F_SETFL, O_NONBLOCK);
    epoll_event event = {.events = EPOLLIN, .data = {.u64 = index}};
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, client.fd, &event) != 0) Fail("epoll_ctl");
  }

  void Send(Client& client) {
    ++under_way_;
    const uint64_t session = client.requests / kSessionLength;
    if (client.requests % kSessionLength == 0) {
      client.ident = absl::StrCat("smtp:10.", client.number >> 8, ".", client.number & 255, ".",
                                  session % options_.idents);
    }
    const std::string request = absl::StrCat("request=", kSession[client.requests % kSessionLength],
                                             "\nident=", client.ident, "\n\n");
    client.sent_ns = NowNs();
    if (send(client.fd, request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size())) {
      Fail(absl::StrCat("send: ", strerror(errno)));
    }
  }

  void Receive(Client& client) {
    char buffer[512];
    const ssize_t n = recv(client.fd, buffer, sizeof(buffer), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) Fail("the server closed a connection");
    client.input.append(buffer, static_cast<size_t>(n));
    if (!absl::EndsWith(client.input, "\n\n")) return;
    latencies_ns_.push_back(
        static_cast<uint32_t>(std::min<int64_t>(NowNs() - client.sent_ns, UINT32_MAX)));
    if (!absl::StartsWith(client.input, "status=0\n")) {
      Fail(absl::StrCat("a wrong reply: ", client.input));
    }
    client.input.clear();
    ++client.requests;
    --under_way_;
    if (!stopping_) Send(client);
  }

  void RunUntil(int64_t end_ns) {
    while (NowNs() < end_ns) Turn();
  }

  void Turn() {
    epoll_event events[512];
    const int count = epoll_wait(epoll_, events, 512, 5000);
    if (count == 0) Fail("the server has not answered for five seconds");
    for (int i = 0; i < count; ++i) Receive(clients_[events[i].data.u64]);
  }

  double PercentileUs(double fraction) {
    if (latencies_ns_.empty()) return 0;
    const size_t rank =
        std::min(latencies_ns_.size() - 1, static_cast<size_t>(fraction * latencies_ns_.size()));
    std::nth_element(latencies_ns_.begin(), latencies_ns_.begin() + rank, latencies_ns_.end());
    return latencies_ns_[rank] / 1e3;
  }

  void Report(double elapsed, int64_t cpu_ns, int64_t extra_cpu_ns) {
    const double requests = static_cast<double>(latencies_ns_.size());
    printf(
        "requests=%.0f seconds=%.3f rps=%.0f p50_us=%.1f p99_us=%.1f cpu_us=%.3f "
        "extra_cpu_us=%.3f\n",
        requests, elapsed, requests / elapsed, PercentileUs(0.5), PercentileUs(0.99),
        static_cast<double>(cpu_ns) / 1e3 / requests,
        static_cast<double>(extra_cpu_ns) / 1e3 / requests);
  }

  const Options options_;
  std::vector<Client> clients_;
  std::vector<uint32_t> latencies_ns_;
  int under_way_ = 0;
  bool stopping_ = false;
  int epoll_ = -1;
};

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const absl::string_view name = argv[i];
    if (i + 1 == argc) Fail(absl::StrCat(name, " needs a value"));
    const std::string value = argv[i + 1];
    int number = 0;
    bool good = true;
    if (name == "--socket") {
      options.socket = value;
    } else if (name == "--clients") {
      good = absl::SimpleAtoi(value, &options.clients) && options.clients > 0;
    } else if (name == "--idents") {
      good = absl::SimpleAtoi(value, &options.idents) && options.idents > 0;
    } else if (name == "--seconds") {
      good = absl::SimpleAtod(value, &options.seconds);
    } else if (name == "--warmup") {
      good = absl::SimpleAtod(value, &options.warmup);
    } else if (name == "--pid" || name == "--pid-extra") {
      good = absl::SimpleAtoi(value, &number);
      (name == "--pid" ? options.pids : options.extra_pids).push_back(number);
    } else {
      good = false;
    }
    if (!good) Fail(absl::StrCat("bad option ", name, " ", value));
  }
  if (options.socket.empty()) Fail("--socket PATH is missing");
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  return Load(ParseOptions(argc, argv)).Run();
}

// echo_load asks an echo server and measures it, from one process with one epoll loop.
//
//   echo_load mode=echo  port=N clients=C   (seconds=S | operations=K) [pid=N] [pid_extra=N]
//   echo_load mode=storm port=N in_flight=C (seconds=S | operations=K) [pid=N] [pid_extra=N]
//   echo_load mode=hold  port=N clients=C,D,...
//
// echo: C connections, each with one request of 64 bytes under way (a closed loop). storm: connect,
// one request, close, with C of them under way. Both print one line of name=value pairs:
// operations, seconds, per_s, cpu_us and extra_cpu_us (of the processes `pid` and `pid_extra`, per
// operation), p50_us, p99_us, p999_us of the time from the request (storm: from before connect) to
// its answer, errors. With `seconds`, an unmeasured time of `warmup` (default 0.2 s) comes first;
// with `operations` exactly so many are done and all of them are measured.
//
// hold: opens C connections, asks on each, prints "held=C"; after a line on standard input the same
// with D, and so on; the connections stay open meanwhile.
//
// Every answer is compared with its request. Anything wrong is an error: it is told on standard
// error and ends the run with status 1, so a line that was printed says errors=0.

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr size_t kMessageSize = 64;
constexpr int kEventsPerWait = 512;
constexpr int64_t kOpeningAtOnce = 256;  // far below any backlog
constexpr int kPatienceMs = 10000;
constexpr int64_t kNsPerSecond = 1000000000;

[[noreturn]] void Fail(const std::string& message) {
  fprintf(stderr, "echo_load: %s\n", message.c_str());
  exit(1);
}

[[noreturn]] void FailErrno(const std::string& what) { Fail(what + ": " + strerror(errno)); }

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * kNsPerSecond + now.tv_nsec;
}

// CPU time of a process, all of its threads, in nanoseconds: from the scheduler's statistics, or,
// where the kernel has none, in clock ticks from its status.
int64_t CpuNs(int pid) {
  const std::string directory = "/proc/" + std::to_string(pid);
  int64_t sum = 0;
  bool found = false;
  if (DIR* tasks = opendir((directory + "/task").c_str()); tasks != nullptr) {
    while (const dirent* task = readdir(tasks)) {
      if (task->d_name[0] == '.') continue;  // ".." has the same file
      std::ifstream in(directory + "/task/" + task->d_name + "/schedstat");
      if (int64_t ns; in >> ns) {
        sum += ns;
        found = true;
      }
    }
    closedir(tasks);
  }
  if (found) return sum;
  std::ifstream in(directory + "/stat");
  std::string line;
  if (!std::getline(in, line)) Fail("process " + std::to_string(pid) + " is gone");
  long utime = 0, stime = 0;
  sscanf(line.c_str() + line.rfind(')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld",
         &utime, &stime);
  return (utime + stime) * (kNsPerSecond / sysconf(_SC_CLK_TCK));
}

class Settings {
 public:
  Settings(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      const char* equals = strchr(argv[i], '=');
      if (equals == nullptr) Fail(std::string("not name=value: ") + argv[i]);
      values_[std::string(argv[i], static_cast<size_t>(equals - argv[i]))] = equals + 1;
    }
  }

  std::string Text(const std::string& name, const std::string& otherwise) {
    const auto found = values_.find(name);
    if (found == values_.end()) return otherwise;
    std::string value = found->second;
    values_.erase(found);
    return value;
  }
  double Number(const std::string& name, double otherwise) {
    const std::string text = Text(name, "");
    if (text.empty()) return otherwise;
    char* end = nullptr;
    const double value = strtod(text.c_str(), &end);
    if (*end != '\0' || value < 0) Fail("bad number: " + name + "=" + text);
    return value;
  }
  int Int(const std::string& name, int otherwise) {
    return static_cast<int>(Number(name, otherwise));
  }
  void CheckAllUsed() const {
    if (!values_.empty()) Fail("unknown setting " + values_.begin()->first);
  }

 private:
  std::map<std::string, std::string> values_;
};

// A message that is its sender's and its sender's only: number and sequence, then a line's end,
// which servers of lines need.
void FillMessage(uint32_t sender, uint64_t sequence, char* message) {
  memset(message, 'x', kMessageSize);
  memcpy(message, &sender, sizeof(sender));
  memcpy(message + sizeof(sender), &sequence, sizeof(sequence));
  for (size_t i = 0; i < sizeof(sender) + sizeof(sequence); ++i) {
    // Letters only, so that none of them is a line's end.
    const auto byte = static_cast<unsigned char>(message[i]);
    message[i] = static_cast<char>('A' + (byte & 15));
    message[16 + i] = static_cast<char>('A' + (byte >> 4));
  }
  message[kMessageSize - 1] = '\n';
}

// One connection: what was asked, and how much of the answer has come.
struct Client {
  int fd = -1;
  uint32_t number = 0;
  uint32_t received = 0;
  uint64_t requests = 0;
  int64_t begun_ns = 0;
  char message[kMessageSize];
};

int Connect(int port, uint32_t source) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) FailErrno("socket");
  if (source != 0) {
    // The sender's ports rest for a while after use; many addresses have enough of them.
    const int on = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    sockaddr_in from = {};
    from.sin_family = AF_INET;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source);
    if (bind(fd, reinterpret_cast<sockaddr*>(&from), sizeof(from)) != 0) FailErrno("bind");
  }
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(port));
  // Over loopback the handshake is over when this returns.
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) FailErrno("connect");
  return fd;
}

void Send(Client& client) {
  FillMessage(client.number, client.requests, client.message);
  client.received = 0;
  if (send(client.fd, client.message, kMessageSize, MSG_NOSIGNAL) !=
      static_cast<ssize_t>(kMessageSize)) {
    FailErrno("send");
  }
}

// Returns whether the answer is complete.
bool Receive(Client& client) {
  char answer[kMessageSize];
  const ssize_t got =
      recv(client.fd, answer, kMessageSize - client.received, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got < 0) FailErrno("recv");
  if (got == 0) Fail("the server closed a connection");
  if (memcmp(answer, client.message + client.received, static_cast<size_t>(got)) != 0) {
    Fail("an answer is not what was sent");
  }
  client.received += static_cast<uint32_t>(got);
  return client.received == kMessageSize;
}

// Ends a connection without the wait that TCP prescribes, so that ten thousand of them leave
// nothing behind for the next run.
void Abort(const Client& client) {
  const linger now = {.l_onoff = 1, .l_linger = 0};
  setsockopt(client.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(client.fd);
}

class Load {
 public:
  explicit Load(Settings& settings)
      : mode_(settings.Text("mode", "echo")),
        port_(settings.Int("port", 0)),
        seconds_(settings.Number("seconds", 1)),
        warmup_(settings.Number("warmup", 0.2)),
        operations_(static_cast<int64_t>(settings.Number("operations", 0))),
        pid_(settings.Int("pid", 0)),
        pid_extra_(settings.Int("pid_extra", 0)),
        epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    if (port_ == 0) Fail("port=N is missing");
    latencies_ns_.reserve(1 << 20);
  }

  void Run(Settings& settings) {
    if (mode_ == "hold") {
      const std::string counts = settings.Text("clients", "1");
      settings.CheckAllUsed();
      return Hold(counts);
    }
    if (mode_ != "echo" && mode_ != "storm") Fail("unknown mode " + mode_);
    const int count = mode_ == "storm" ? settings.Int("in_flight", 64) : settings.Int("clients", 1);
    settings.CheckAllUsed();
    if (count < 1) Fail("nobody is to ask");
    if (mode_ == "echo") {
      Open(static_cast<size_t>(count));
    } else {
      clients_.resize(static_cast<size_t>(count));
    }
    Measure();
    for (const Client& client : clients_) Abort(client);
  }

 private:
  bool storm() const { return mode_ == "storm"; }

  void Add(Client& client) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.u64 = static_cast<uint64_t>(&client - clients_.data());
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, client.fd, &event) != 0) FailErrno("epoll_ctl");
  }

  // Opens connections until there are `count`, and asks once on each, so that the server has met
  // all of them.
  void Open(size_t count) {
    const size_t before = clients_.size();
    clients_.resize(count);
    begin_limit_ = 0;  // an answer is not followed by a request
    for (size_t i = before; i < count; ++i) {
      Client& client = clients_[i];
      client.number = static_cast<uint32_t>(i);
      client.fd = Connect(port_, 0);
      Add(client);
      ++under_way_;
      Send(client);
      while (under_way_ >= kOpeningAtOnce) Turn();
    }
    while (under_way_ > 0) Turn();
    begin_limit_ = std::numeric_limits<int64_t>::max();
    latencies_ns_.clear();
  }

  void Begin(Client& client, int64_t now) {
    ++begun_;
    ++under_way_;
    client.begun_ns = now;
    if (storm()) {
      client.number = static_cast<uint32_t>(begun_);
      client.fd = Connect(port_, 1 + static_cast<uint32_t>(begun_ % 60));
      Add(client);
    }
    ++client.requests;
    Send(client);
  }

  void Finish(Client& client) {
    const int64_t now = NowNs();
    latencies_ns_.push_back(static_cast<uint32_t>(
        std::min<int64_t>(now - client.begun_ns, std::numeric_limits<uint32_t>::max())));
    --under_way_;
    if (storm()) {
      close(client.fd);
      client.fd = -1;
    }
    if (begun_ < begin_limit_) Begin(client, now);
  }

  void Turn() {
    epoll_event events[kEventsPerWait];
    const int count = epoll_wait(epoll_, events, kEventsPerWait, kPatienceMs);
    if (count == 0) Fail("the server does not answer");
    for (int i = 0; i < count; ++i) {
      Client& client = clients_[events[i].data.u64];
      if (Receive(client)) Finish(client);
    }
  }

  void BeginAll() {
    for (Client& client : clients_) {
      if (begun_ < begin_limit_) Begin(client, NowNs());
    }
  }

  void RunUntil(int64_t end_ns) {
    while (NowNs() < end_ns) Turn();
  }

  void Measure() {
    if (operations_ == 0) {
      BeginAll();
      RunUntil(NowNs() + static_cast<int64_t>(warmup_ * kNsPerSecond));
      latencies_ns_.clear();
    }
    const int64_t cpu = pid_ == 0 ? 0 : CpuNs(pid_);
    const int64_t extra_cpu = pid_extra_ == 0 ? 0 : CpuNs(pid_extra_);
    const int64_t start = NowNs();
    if (operations_ == 0) {
      RunUntil(start + static_cast<int64_t>(seconds_ * kNsPerSecond));
    } else {
      begin_limit_ = operations_;
      BeginAll();
      while (under_way_ > 0) Turn();
    }
    const int64_t elapsed = NowNs() - start;
    Report(elapsed, pid_ == 0 ? 0 : CpuNs(pid_) - cpu,
           pid_extra_ == 0 ? 0 : CpuNs(pid_extra_) - extra_cpu);
    // A client that leaves with a request under way would be an error to some servers.
    begin_limit_ = 0;
    while (under_way_ > 0) Turn();
  }

  double PercentileUs(double fraction) {
    if (latencies_ns_.empty()) return 0;
    const size_t rank =
        std::min(latencies_ns_.size() - 1,
                 static_cast<size_t>(fraction * static_cast<double>(latencies_ns_.size())));
    const auto place = latencies_ns_.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(latencies_ns_.begin(), place, latencies_ns_.end());
    return *place / 1e3;
  }

  void Report(int64_t elapsed_ns, int64_t cpu_ns, int64_t extra_cpu_ns) {
    const auto operations = static_cast<double>(latencies_ns_.size());
    if (operations == 0) Fail("no request was answered in the time");
    const double seconds = static_cast<double>(elapsed_ns) / kNsPerSecond;
    printf(
        "operations=%.0f seconds=%.4f per_s=%.0f cpu_us=%.4f extra_cpu_us=%.4f p50_us=%.2f "
        "p99_us=%.2f p999_us=%.2f errors=0\n",
        operations, seconds, operations / seconds, static_cast<double>(cpu_ns) / 1e3 / operations,
        static_cast<double>(extra_cpu_ns) / 1e3 / operations, PercentileUs(0.5), PercentileUs(0.99),
        PercentileUs(0.999));
    fflush(stdout);
  }

  void Hold(const std::string& counts) {
    std::istringstream parts(counts);
    for (std::string part; std::getline(parts, part, ',');) {
      Open(static_cast<size_t>(atoi(part.c_str())));
      printf("held=%zu\n", clients_.size());
      fflush(stdout);
      char line[80];
      if (fgets(line, sizeof(line), stdin) == nullptr) break;
    }
    for (const Client& client : clients_) Abort(client);
  }

  const std::string mode_;
  const int port_;
  const double seconds_;
  const double warmup_;
  const int64_t operations_;
  const int pid_;
  const int pid_extra_;
  const int epoll_;
  std::vector<Client> clients_;
  std::vector<uint32_t> latencies_ns_;
  int64_t begun_ = 0;
  int64_t begin_limit_ = std::numeric_limits<int64_t>::max();
  int64_t under_way_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  Settings settings(argc, argv);
  Load(settings).Run(settings);
}

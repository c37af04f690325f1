// The service of the fault tests: a worker whose system calls go through the interposer and whose
// allocations can be made to fail, and which does what its clients say, a command per line.
//
// What has to be known before the first client comes in the environment:
//   POSTHOUSE_FAULT_OPTIONS  "word=number word=number ...": fields of MultiServerOptions (durations
//                            in milliseconds) and switches of this program
//   POSTHOUSE_FAULTS         "Call:errno:first:every:times ...": faults from the start of main() on

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "posthouse/event/timer.h"
#include "posthouse/server/multi_server.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"

// --- Allocations that fail (F125) ---
//
// Counted from Arm() on; plain variables, because the process has one thread and the counter must
// not allocate.
namespace {

int64_t allocations_until_failure = 0;  // 0: not armed
int64_t failed_allocations = 0;

void* Allocate(std::size_t size) {
  if (allocations_until_failure > 0 && --allocations_until_failure == 0) {
    ++failed_allocations;
    return nullptr;
  }
  return std::malloc(size == 0 ? 1 : size);
}

void* AllocateOrThrow(std::size_t size) {
  void* const memory = Allocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return AllocateOrThrow(size); }
void* operator new[](std::size_t size) { return AllocateOrThrow(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace posthouse {
namespace {

class Switches {
 public:
  Switches() {
    const char* text = getenv("POSTHOUSE_FAULT_OPTIONS");
    for (absl::string_view item : absl::StrSplit(text == nullptr ? "" : text, ' ')) {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(item, absl::MaxSplits('=', 1));
      int number = 1;
      if (!parts.second.empty() && !absl::SimpleAtoi(parts.second, &number)) std::abort();
      values_[parts.first] = number;
    }
  }
  bool has(const std::string& name) const { return values_.count(name) > 0; }
  int operator()(const std::string& name, int otherwise = 0) const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
  }
  absl::Duration Time(const std::string& name, absl::Duration otherwise) const {
    return has(name) ? absl::Milliseconds((*this)(name)) : otherwise;
  }

 private:
  std::map<std::string, int> values_;
};

SystemCall CallByName(absl::string_view name) {
  for (int call = 0; call < kSystemCallCount; ++call) {
    if (SystemCallName(static_cast<SystemCall>(call)) == name) return static_cast<SystemCall>(call);
  }
  std::fprintf(stderr, "no system call is named %s\n", std::string(name).c_str());
  std::abort();
}

// "Call:errno:first:every:times"; times 0 means for ever, errno 0 limits a transfer to `first`
// bytes from now on.
int AddFault(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  std::vector<int64_t> numbers(4, 1);
  for (size_t i = 1; i < parts.size() && i <= numbers.size(); ++i) {
    if (!absl::SimpleAtoi(parts[i], &numbers[i - 1])) std::abort();
  }
  Fault fault;
  fault.call = CallByName(parts[0]);
  fault.error = static_cast<int>(numbers[0]);
  fault.first = numbers[1];
  fault.every = numbers[2];
  fault.times = numbers[3] == 0 ? Fault::kForever : numbers[3];
  if (fault.error == 0) {
    fault.limit = static_cast<size_t>(numbers[1]);
    fault.first = 1;
  }
  return Interposer::Get().Add(fault);
}

std::string ReadWhole(const char* path) {
  std::string text;
  FILE* const file = std::fopen(path, "re");
  if (file == nullptr) return text;
  char buffer[4096];
  size_t got;
  while ((got = std::fread(buffer, 1, sizeof(buffer), file)) > 0) text.append(buffer, got);
  std::fclose(file);
  return text;
}

std::string Descriptors() {
  std::vector<std::string> parts;
  const FdSnapshot snapshot = FdSnapshot::Take();
  for (const auto& [fd, target] : snapshot.fds()) {
    struct stat status = {};
    fstat(fd, &status);
    const char* const type = S_ISDIR(status.st_mode) ? " (directory)" : "";
    parts.push_back(
        absl::StrCat(fd, "=", target, type, (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0 ? "" : "!"));
  }
  return absl::StrJoin(parts, "|");
}

// Every way back to root that an account without privileges could try (F60); "" when all failed.
std::string TryToRegainRoot() {
  std::vector<std::string> succeeded;
  if (setuid(0) == 0) succeeded.push_back("setuid");
  if (seteuid(0) == 0) succeeded.push_back("seteuid");
  if (setreuid(0, 0) == 0) succeeded.push_back("setreuid");
  if (setresuid(0, 0, 0) == 0) succeeded.push_back("setresuid");
  if (setgid(0) == 0) succeeded.push_back("setgid");
  if (setresgid(0, 0, 0) == 0) succeeded.push_back("setresgid");
  const gid_t root_group = 0;
  if (setgroups(1, &root_group) == 0) succeeded.push_back("setgroups");
  if (chroot(".") == 0) succeeded.push_back("chroot");
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 7, 0, 0) == 0) succeeded.push_back("ambient");
  if (prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0) succeeded.push_back("no_new_privs");
  return absl::StrJoin(succeeded, " ");
}

// What can be seen outside the jail by going up, through open directories, and by a second chroot.
std::string TryToEscape() {
  std::vector<std::string> succeeded;
  const std::string up = absl::StrCat(absl::StrReplaceAll("uuuuuuuu", {{"u", "../"}}));
  struct stat status;
  if (stat((up + "etc/passwd").c_str(), &status) == 0) succeeded.push_back("relative");
  const FdSnapshot snapshot = FdSnapshot::Take();
  for (int fd = 0; fd < 256; ++fd) {
    struct stat type;
    if (fstat(fd, &type) != 0 || !S_ISDIR(type.st_mode)) continue;
    if (fstatat(fd, (up + "etc/passwd").c_str(), &status, 0) == 0) succeeded.push_back("directory");
  }
  mkdir("deeper", 0700);
  if (chroot("deeper") == 0) {
    for (int i = 0; i < 64; ++i) {
      if (chdir("..") != 0) break;
    }
    if (chroot(".") == 0 && stat("/etc/passwd", &status) == 0) succeeded.push_back("chroot");
  }
  rmdir("deeper");
  return absl::StrJoin(succeeded, " ");
}

// Text from an errno for each error number, as a log line would hold it.
std::string AllErrorTexts() {
  size_t longest = 0;
  for (int error = 1; error < 134; ++error) {
    const std::string text(absl::ErrnoToStatus(error, "call").message());
    if (text.size() <= 6) return absl::StrCat("no text for ", error);
    longest = std::max(longest, text.size());
  }
  return absl::StrCat("texts up to ", longest);
}

[[noreturn]] void Hang(const std::string& how) {
  if (how == "spin") {
    volatile uint64_t turns = 0;
    for (;;) turns = turns + 1;
  }
  if (how == "read") {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) std::abort();
    char byte;
    // The watchdog's handler is installed with SA_RESTART, so this never comes back.
    for (;;) static_cast<void>(read(fds[0], &byte, 1));
  }
  if (how == "fault") {  // a storm of page faults
    constexpr size_t kSize = size_t{8} << 20;
    for (;;) {
      char* const memory = static_cast<char*>(std::malloc(kSize));
      for (size_t at = 0; memory != nullptr && at < kSize; at += 4096) {
        static_cast<volatile char*>(memory)[at] = 1;
      }
      std::free(memory);
    }
  }
  for (;;) pause();
}

[[noreturn]] void Throw(int kind) {
  switch (kind % 4) {
    case 0:
      throw std::runtime_error("a fault\nwith two lines");
    case 1:
      throw std::bad_alloc();
    case 2:
      throw 42;
    default:
      throw std::string("not a standard type");
  }
}

// Work in timers: a rhythm whose expiries and lateness can be asked for, and one that throws.
class Rhythm {
 public:
  void Start(EventLoop* loop, absl::Duration period) {
    period_ = period;
    loop_ = loop;
    timer_ = std::make_unique<Timer>(loop, &Rhythm::Run, this);
    due_ns_ = os::SteadyNanos() + absl::ToInt64Nanoseconds(period);
    timer_->StartAt(due_ns_);
  }
  void Stop() { timer_.reset(); }
  std::string Report() {
    const std::string text =
        absl::StrCat(expiries_, " ", absl::ToInt64Milliseconds(absl::Nanoseconds(latest_ns_)));
    expiries_ = 0;
    latest_ns_ = 0;
    return text;
  }

 private:
  static void Run(int, void* context) {
    Rhythm* const self = static_cast<Rhythm*>(context);
    const int64_t now = os::SteadyNanos();
    self->latest_ns_ = std::max(self->latest_ns_, now - self->due_ns_);
    ++self->expiries_;
    self->due_ns_ = now + absl::ToInt64Nanoseconds(self->period_);
    self->timer_->StartAt(self->due_ns_);
  }
  EventLoop* loop_ = nullptr;
  std::unique_ptr<Timer> timer_;
  absl::Duration period_;
  int64_t due_ns_ = 0;
  int64_t latest_ns_ = 0;
  int64_t expiries_ = 0;
};

class Bomb {
 public:
  Bomb(EventLoop* loop, int kind) : kind_(kind), timer_(loop, &Bomb::Run, this) {
    timer_.Start(absl::ZeroDuration());
  }

 private:
  static void Run(int, void* context) { Throw(static_cast<Bomb*>(context)->kind_); }
  int kind_;
  Timer timer_;
};

// A handler that does nothing, without SA_RESTART: calls are interrupted (F8).
void Nothing(int) {}

void InterruptEverything(int hertz) {
  struct sigaction action = {};
  action.sa_handler = &Nothing;
  sigemptyset(&action.sa_mask);
  sigaction(SIGUSR1, &action, nullptr);
  if (hertz <= 0) return;
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR1;
  timer_t timer;
  itimerspec every = {};
  every.it_interval.tv_nsec = 1000000000 / hertz;
  every.it_value = every.it_interval;
  if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
      timer_settime(timer, 0, &every, nullptr) != 0) {
    std::abort();
  }
}

class FaultService {
 public:
  explicit FaultService(const Switches& switches) : switches_(switches) {}

  void Serve(Client& client, ServiceContext& context) {
    std::string line;
    if (!client.TakeLine(&line)) return;
    const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    if (parts.first == "ECHO") {
      client.Write(parts.second + "\n");
      return;
    }
    int number = 0;
    if (!absl::SimpleAtoi(parts.second, &number)) number = 0;
    if (!Faults(parts.first, parts.second, number, client) &&
        !Questions(parts.first, parts.second, client, context) &&
        !Work(parts.first, parts.second, number, client, context)) {
      client.Write(absl::StrCat("unknown ", parts.first, "\n"));
    }
  }

 private:
  bool Faults(const std::string& command, const std::string& rest, int number, Client& client) {
    if (command == "INJECT") {
      const int id = AddFault(rest);
      client.Write(absl::StrCat(id, "\n"));
    } else if (command == "CLEAR") {
      Interposer::Get().RemoveAllFaults();
      client.Write("clear\n");
    } else if (command == "HITS") {
      client.Write(absl::StrCat(Interposer::Get().Hits(number), "\n"));
    } else if (command == "COUNT") {
      client.Write(absl::StrCat(Interposer::Get().Count(CallByName(rest)), "\n"));
    } else if (command == "ALLOC") {
      client.Write("armed\n");
      allocations_until_failure = number;
      failed_allocations = 0;
    } else if (command == "ALLOCATED") {
      const int64_t failed = failed_allocations;
      allocations_until_failure = 0;
      client.Write(absl::StrCat(failed, "\n"));
    } else if (command == "THROW") {
      Throw(number);
    } else if (command == "THROWNEXT") {
      throw_in_hook_ = rest;
      client.Write("armed\n");
    } else {
      return false;
    }
    return true;
  }

  bool Questions(const std::string& command, const std::string& rest, Client& client,
                 ServiceContext& context) {
    if (command == "STATE") {
      const EventLoopCounters& counters = context.loop().counters();
      // Without the rhythm, which a test has asked for by itself.
      client.Write(absl::StrCat("fds=", FdSnapshot::Take().size(), " watches=", counters.watches,
                                " timers=", counters.timers_pending,
                                " clients=", context.client_count(), "\n"));
    } else if (command == "COUNTERS") {
      const EventLoopCounters& counters = context.loop().counters();
      client.Write(absl::StrCat(counters.waits, " ", counters.turns, " ",
                                counters.unexpected_events, " ", counters.stale_events, " ",
                                Interposer::Get().closes_of_unowned(), "\n"));
    } else if (command == "USES") {
      client.Write(absl::StrCat(context.use_count(), "\n"));
    } else if (command == "FDS") {
      client.Write(Descriptors() + "\n");
    } else if (command == "STATUS") {
      client.Write(absl::StrReplaceAll(ReadWhole("/proc/self/status"), {{"\n", "|"}}) + "\n");
    } else if (command == "ENVIRONMENT") {
      std::vector<std::string> names;
      for (char** variable = environ; *variable != nullptr; ++variable) {
        names.push_back(absl::StrReplaceAll(*variable, {{"\n", "?"}}));
      }
      client.Write(absl::StrJoin(names, "|") + "\n");
    } else if (command == "WHO") {
      client.Write(Identity() + "\n");
    } else if (command == "ROOT") {
      client.Write(absl::StrCat("[", TryToRegainRoot(), "]\n"));
    } else if (command == "ESCAPE") {
      client.Write(absl::StrCat("[", TryToEscape(), "]\n"));
    } else if (command == "ERRORS") {
      client.Write(AllErrorTexts() + "\n");
    } else if (command == "PID") {
      client.Write(absl::StrCat(getpid(), "\n"));
    } else {
      return false;
    }
    return true;
  }

  bool Work(const std::string& command, const std::string& rest, int number, Client& client,
            ServiceContext& context) {
    if (command == "BIG") {
      client.Write(std::string(static_cast<size_t>(number), 'x') + "\n");
    } else if (command == "SLEEP") {
      absl::SleepFor(absl::Milliseconds(number));
      client.Write("slept\n");
    } else if (command == "LENGTH") {
      Length(rest, client);
    } else if (command == "LOG") {
      for (int i = 0; i < number; ++i) context.log().Info(absl::StrCat("line ", i));
      client.Write("logged\n");
    } else if (command == "LIMITED") {
      for (int i = 0; i < number; ++i) {
        context.log().Limited(LogSeverity::kWarning, "flood", absl::Seconds(1), "flood");
      }
      client.Write("logged\n");
    } else if (command == "RHYTHM") {
      rhythm_.Start(&context.loop(), absl::Milliseconds(number));
      client.Write("started\n");
    } else if (command == "RHYTHMOFF") {
      rhythm_.Stop();
      client.Write("stopped\n");
    } else if (command == "BEATS") {
      client.Write(rhythm_.Report() + "\n");
    } else if (command == "BOMB") {
      bombs_.push_back(std::make_unique<Bomb>(&context.loop(), number));
      if (bombs_.size() > 8) bombs_.erase(bombs_.begin());
      client.Write("set\n");
    } else if (command == "DRAIN") {
      const absl::Status status = context.Drain();
      client.Write(absl::StrCat(status.ok() ? "drained" : status.ToString(), " ", getpid(), "\n"));
    } else if (command == "HANG") {
      Hang(rest);
    } else if (command == "EXIT") {
      client.Write("exiting\n");
      context.RequestExit();
    } else {
      return false;
    }
    return true;
  }

  // A request with a declared length, as a careful service would read one (F41).
  void Length(const std::string& rest, Client& client) {
    uint64_t length = 0;
    if (!absl::SimpleAtoi(rest, &length) || length > 1000) {
      client.Write("refused\n");
    } else {
      client.Write(absl::StrCat("expects ", length, "\n"));
    }
  }

  static std::string Identity() {
    gid_t groups[64];
    const int count = getgroups(64, groups);
    std::vector<std::string> numbers;
    for (int i = 0; i < count; ++i) numbers.push_back(absl::StrCat(groups[i]));
    uid_t real, effective, saved;
    getresuid(&real, &effective, &saved);
    gid_t real_group, effective_group, saved_group;
    getresgid(&real_group, &effective_group, &saved_group);
    char directory[4096];
    if (getcwd(directory, sizeof(directory)) == nullptr) std::strcpy(directory, "?");
    return absl::StrCat("uid=", real, ",", effective, ",", saved, " gid=", real_group, ",",
                        effective_group, ",", saved_group, " groups=", absl::StrJoin(numbers, ","),
                        " cwd=", directory);
  }

 public:
  void Hook(const std::string& name) {
    if (throw_in_hook_ != name) return;
    throw_in_hook_.clear();
    Throw(throws_++);
  }

 private:
  const Switches& switches_;
  Rhythm rhythm_;
  std::vector<std::unique_ptr<Bomb>> bombs_;
  std::string throw_in_hook_;
  int throws_ = 0;
};

// The work of the signal tests: each turn allocates and, once in a while, logs (F24).
void Churn(ServiceContext& context) {
  static int turns = 0;
  std::vector<std::string> garbage;
  for (int i = 0; i < 32; ++i) garbage.push_back(std::string(static_cast<size_t>(i * 37), 'x'));
  if (++turns % 64 == 0) {
    context.log().Limited(LogSeverity::kInfo, "churn", absl::Milliseconds(500),
                          absl::StrCat("churn ", turns, " ", garbage.back().size()));
  }
}

int Run(int argc, char** argv) {
  const char* const faults = getenv("POSTHOUSE_FAULTS");
  for (absl::string_view fault : absl::StrSplit(faults == nullptr ? "" : faults, ' ')) {
    if (!fault.empty()) AddFault(fault);
  }
  const Switches on;
  FaultService service(on);
  MultiServerOptions options;
  options.description = "the service of posthouse's fault tests";
  options.serve = [&](Client& client, ServiceContext& context) { service.Serve(client, context); };
  options.post_init = [&](ServiceContext& context) {
    context.set_use_limit(on("use_limit", 0));
    if (on.has("idle_limit")) context.set_idle_limit(absl::Milliseconds(on("idle_limit")));
    if (on.has("interrupt")) InterruptEverything(on("interrupt"));
    if (on.has("say_ready")) context.log().Info("service is ready");
  };
  options.loop = [&](ServiceContext& context) {
    if (on.has("churn")) Churn(context);
    service.Hook("loop");
    return on.has("churn") ? absl::Milliseconds(1) : absl::InfiniteDuration();
  };
  options.on_exit = [&](ServiceContext& context) {
    if (on.has("exit_spins")) Hang("spin");
    if (on.has("exit_waits")) Hang("read");
    if (on.has("exit_sleeps")) Hang("pause");
    service.Hook("on_exit");
  };
  options.pre_accept = [&](ServiceContext&) {
    service.Hook("pre_accept");
    return PreAccept::kAccept;
  };
  options.post_accept = [&](Client&, ServiceContext&) { service.Hook("post_accept"); };
  options.pre_disconnect = [&](Client&, ServiceContext&) { service.Hook("pre_disconnect"); };
  options.request_deadline = on.Time("request_deadline", options.request_deadline);
  options.client_idle_limit = on.Time("client_idle_limit", options.client_idle_limit);
  options.use_limit_grace = on.Time("use_limit_grace", options.use_limit_grace);
  options.slow_exit_limit = on.Time("slow_exit_limit", options.slow_exit_limit);
  options.max_request_bytes = static_cast<size_t>(on("max_request_bytes", 64 << 10));
  options.max_output_bytes = static_cast<size_t>(on("max_output_bytes", 1 << 20));
  allocations_until_failure = on("alloc", 0);
  return MultiServerMain(argc, argv, std::move(options));
}

}  // namespace
}  // namespace posthouse

int main(int argc, char** argv) { return posthouse::Run(argc, argv); }

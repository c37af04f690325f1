// What a worker has open: F30, F31, F32, F33, F67 and the environment; a small tracer watches every
// call that makes a descriptor, whichever library makes it.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/faults/harness.h"

// There when the undefined-behaviour sanitizer is, whose run time makes a pipe to try addresses.
extern "C" __attribute__((weak)) void __ubsan_handle_type_mismatch_v1_abort();

namespace posthouse {
namespace {

// --- F31: the tracer ---

// Whether a call of this number makes a descriptor without close-on-exec. `arguments` are the
// kernel's.
bool MakesInheritable(uint64_t call, const uint64_t* arguments) {
  switch (call) {
    case SYS_openat:
      return (arguments[2] & O_CLOEXEC) == 0;
#ifdef SYS_open
    case SYS_open:
      return (arguments[1] & O_CLOEXEC) == 0;
    case SYS_creat:
    case SYS_pipe:
    case SYS_epoll_create:
    case SYS_eventfd:
    case SYS_signalfd:
    case SYS_inotify_init:
#endif
    case SYS_accept:
    case SYS_dup:
      return true;
#ifdef SYS_dup2
    case SYS_dup2:
      return true;
#endif
    case SYS_socket:
    case SYS_socketpair:
      return (arguments[1] & SOCK_CLOEXEC) == 0;
    case SYS_accept4:
      return (arguments[3] & SOCK_CLOEXEC) == 0;
    case SYS_pipe2:
      return (arguments[1] & O_CLOEXEC) == 0;
    case SYS_dup3:
      return (arguments[2] & O_CLOEXEC) == 0;
    case SYS_fcntl:
      return arguments[1] == F_DUPFD;
    case SYS_epoll_create1:
    case SYS_inotify_init1:
      return (arguments[0] & O_CLOEXEC) == 0;
    case SYS_eventfd2:
    case SYS_timerfd_create:
      return (arguments[1] & O_CLOEXEC) == 0;
    case SYS_signalfd4:
      return (arguments[3] & O_CLOEXEC) == 0;
    case SYS_memfd_create:
      return (arguments[1] & 1) == 0;  // MFD_CLOEXEC
    case SYS_recvmsg:
      return (arguments[2] & MSG_CMSG_CLOEXEC) == 0;
    default:
      return false;
  }
}

bool MakesDescriptor(uint64_t call) {
  switch (call) {
    case SYS_openat:
    case SYS_socket:
    case SYS_accept4:
    case SYS_pipe2:
    case SYS_epoll_create1:
    case SYS_signalfd4:
    case SYS_recvmsg:
      return true;
    default:
      return false;
  }
}

// A process of its own that traces `pid` and what it forks, and writes a line per violation and
// "done N" at the end, N being how many calls made a descriptor.
class Tracer {
 public:
  // The worker waits in in_child() until it is traced.
  Tracer() {
    int gate[2], report[2];
    EXPECT_EQ(pipe2(gate, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(report, O_CLOEXEC), 0);
    // Out of the way of the numbers that a worker is given.
    gate_read_.Reset(fcntl(gate[0], F_DUPFD_CLOEXEC, 400));
    close(gate[0]);
    gate_write_.Reset(gate[1]);
    report_read_.Reset(report[0]);
    report_write_.Reset(report[1]);
  }
  // For FakeMasterOptions::in_child.
  void WaitToBeTraced() const {
    char byte;
    while (read(gate_read_.get(), &byte, 1) < 0 && errno == EINTR) {
    }
  }
  bool Start(pid_t pid) {
    tracer_ = fork();
    if (tracer_ == 0) {
      // It must not hold the fake master's ends of anything.
      for (int fd = 3; fd < 1024; ++fd) {
        if (fd != report_write_.get() && fd != gate_write_.get()) close(fd);
      }
      _exit(Trace(pid));
    }
    report_write_.Reset();
    return tracer_ > 0;
  }
  // What was found; the traced processes have ended.
  std::string Finish() {
    std::string text;
    char buffer[4096];
    ssize_t got;
    while ((got = read(report_read_.get(), buffer, sizeof(buffer))) > 0) {
      text.append(buffer, static_cast<size_t>(got));
    }
    EXPECT_EQ(ExitCode(WaitForExit(tracer_)), 0) << text;
    return text;
  }

 private:
  void Report(const std::string& line) const {
    if (write(report_write_.get(), line.data(), line.size()) < 0) _exit(3);
  }

  int Trace(pid_t first) const {
    if (ptrace(PTRACE_SEIZE, first, nullptr,
               PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXEC) != 0 ||
        ptrace(PTRACE_INTERRUPT, first, nullptr, nullptr) != 0) {
      return 2;
    }
    // Threads of the starter's copy are gone, so the number of processes is what forks make.
    int64_t calls = 0;
    bool opened = false, in_program = false;
    for (;;) {
      int status = 0;
      const pid_t pid = waitpid(-1, &status, __WALL);
      if (pid < 0) break;  // ECHILD: all have ended
      if (!WIFSTOPPED(status)) continue;
      int signal = 0;
      if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
        __ptrace_syscall_info info = {};
        ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info);
        if (in_program && info.op == PTRACE_SYSCALL_INFO_ENTRY) {
          if (MakesDescriptor(info.entry.nr)) ++calls;
          if (MakesInheritable(info.entry.nr, info.entry.args)) {
            Report(absl::StrCat("system call ", static_cast<int64_t>(info.entry.nr), " (",
                                static_cast<int64_t>(info.entry.args[0]), ", ", info.entry.args[1],
                                ", ", info.entry.args[2], ", ", info.entry.args[3], ")\n"));
          }
        }
      } else if (status >> 16 == PTRACE_EVENT_EXEC) {
        in_program = true;
      } else if (status >> 16 == 0) {
        signal = WSTOPSIG(status);
      }
      ptrace(PTRACE_SYSCALL, pid, nullptr, signal);
      if (!opened) {
        opened = true;
        if (write(gate_write_.get(), "!", 1) != 1) return 2;
      }
    }
    Report(absl::StrCat("done ", calls, "\n"));
    return 0;
  }

  UniqueFd gate_read_, gate_write_, report_read_, report_write_;
  pid_t tracer_ = -1;
};

class DescriptorFaults : public FaultTest {};

TEST_F(DescriptorFaults, F31_EveryDescriptorIsCloseOnExecFromTheCallThatMakesIt) {
  if (Sanitized() || &__ubsan_handle_type_mismatch_v1_abort != nullptr)
    GTEST_SKIP() << "a sanitizer opens files as it likes";
  for (const char* transport : {"unix", "inet", "pass"}) {
    SCOPED_TRACE(transport);
    Tracer tracer;
    Scenario scenario;
    scenario.transport = transport;
    scenario.options = "slow_exit_limit=1000";
    scenario.master.in_child = [&tracer] { tracer.WaitToBeTraced(); };
    scenario.configured = {"-v"};
    scenario.leak_check = false;
    allowed_lines_per_second_ = 1000;
    master_ = MakeMaster(std::move(scenario));
    const absl::StatusOr<pid_t> pid = master_->Spawn();
    ASSERT_TRUE(pid.ok());
    pid_ = *pid;
    ASSERT_TRUE(tracer.Start(pid_));
    {
      std::vector<LineClient> clients;
      for (int i = 0; i < 20; ++i) {
        clients.push_back(Connect());
        ASSERT_EQ(clients.back().Ask("ECHO x"), "x") << log();
      }
      ASSERT_EQ(clients[0].Ask("BIG 100000").size(), 100000u);
      // A log service that restarts, and the drain of a reload.
      ASSERT_EQ(clients[0].Ask("LOG 2"), "logged");
      ASSERT_TRUE(master_->Reload().ok());
      ASSERT_EQ(WaitForEnd(), 0) << log();
      ASSERT_EQ(clients[0].Ask("ECHO y"), "y");
    }
    ASSERT_TRUE(master_->WaitUntil([&] { return master_->Survivors().empty(); }));
    const std::string report = tracer.Finish();
    int calls = 0;
    ASSERT_EQ(sscanf(report.c_str(), "done %d", &calls), 1) << report;
    EXPECT_GT(calls, 30);
  }
}

// The tracer itself can tell: a shell makes descriptors that are inherited.
TEST_F(DescriptorFaults, F31_TheTracerSeesAnInheritableDescriptor) {
  Tracer tracer;
  ChildPlan plan;
  plan.program = "/bin/sh";
  plan.arguments = {"sh", "-c", "exec 7>/dev/null 8>&7"};
  plan.in_child = [&tracer] { tracer.WaitToBeTraced(); };
  const absl::StatusOr<pid_t> pid = StartChild(plan);
  ASSERT_TRUE(pid.ok());
  ASSERT_TRUE(tracer.Start(*pid));
  EXPECT_TRUE(WaitForExit(*pid).has_value());
  EXPECT_TRUE(absl::StartsWith(tracer.Finish(), "system call"));
}

// --- F30, F32, F33 ---

std::vector<std::string> Split(const std::string& text) { return absl::StrSplit(text, '|'); }

// Socket numbers differ from worker to worker.
std::string WithoutNumbers(const std::string& fds) {
  std::vector<std::string> parts;
  for (const std::string& part : Split(fds)) parts.push_back(part.substr(0, part.find('[')));
  return absl::StrJoin(parts, "|");
}

TEST_F(DescriptorFaults, F30_TheSetOfDescriptorsStaysTheSameOverReloadsAndRespawns) {
  Start();
  const std::string first = WithoutNumbers(Connect().Ask("FDS"));
  // 0 to 2, the flow pipe, the channel, the listener; then our own, none of them inheritable; the
  // client is the last one.
  const std::vector<std::string> parts = Split(first);
  ASSERT_GE(parts.size(), 9u) << first;
  EXPECT_EQ(parts[0], "0=/dev/null!");
  EXPECT_EQ(parts[1], "1=/dev/null!");
  for (size_t i = 3; i < parts.size(); ++i) {
    EXPECT_FALSE(absl::EndsWith(parts[i], "!")) << parts[i];
    EXPECT_FALSE(absl::StrContains(parts[i], "/")) << parts[i];
  }
  EXPECT_EQ(parts.back(), "128=socket:");
  EXPECT_EQ(parts.size(), 11u) << "documented: 0 to 2, 3 to 5, 6, the log, the event set, signals, "
                                  "the client: "
                               << first;
  for (int64_t i = 0; i < Times(60, 1000); ++i) {
    if (i % 2 == 0) {
      ASSERT_TRUE(master_->Reload().ok());
    } else {
      kill(pid_, SIGKILL);
    }
    ASSERT_NE(WaitForEnd(), -1);
    const absl::StatusOr<pid_t> pid = master_->Spawn();
    ASSERT_TRUE(pid.ok());
    pid_ = *pid;
    ASSERT_EQ(WithoutNumbers(Connect().Ask("FDS")), first) << i;
  }
}

TEST_F(DescriptorFaults, F32_WhatTheStarterForgotToCloseIsNotKept) {
  std::vector<UniqueFd> ours, theirs;
  Scenario scenario;
  int number = 20;
  for (int i = 0; i < 200; ++i) {
    int fds[2];
    if (i % 2 == 0) {
      ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    } else {
      ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    }
    ours.emplace_back(fds[0]);
    theirs.emplace_back(fds[1]);
    scenario.master.more_descriptors[number++] = fds[1];
  }
  Start(std::move(scenario));
  theirs.clear();
  // The last writer is gone: end of file on each.
  const absl::Time begin = absl::Now();
  for (const UniqueFd& fd : ours) {
    ASSERT_TRUE(WaitForEvents(fd.get(), /*POLLIN*/ 1));
    char byte;
    EXPECT_EQ(read(fd.get(), &byte, 1), 0);
  }
  EXPECT_LT(absl::Now() - begin, Allow(absl::Seconds(1)));
  EXPECT_EQ(Split(Connect().Ask("FDS")).size(), 11u);
}

TEST_F(DescriptorFaults, F33_WithStandardDescriptorsClosedNothingElseGetsTheirNumbers) {
  for (int closed = 0; closed < 8; ++closed) {
    SCOPED_TRACE(closed);
    Scenario scenario;
    for (int fd = 0; fd < 3; ++fd) {
      if ((closed & (1 << fd)) != 0) scenario.master.without_descriptors.push_back(fd);
    }
    master_ = nullptr;
    Start(std::move(scenario));
    LineClient client = Connect();
    const std::vector<std::string> fds = Split(client.Ask("FDS"));
    ASSERT_GE(fds.size(), 3u);
    for (size_t fd = 0; fd < 3; ++fd) {
      // Standard error is a file of the fake master unless it was closed.
      const bool null = fd < 2 || (closed & 4) != 0;
      EXPECT_EQ(fds[fd],
                absl::StrCat(fd, null ? "=/dev/null!" : "=", null ? "" : fds[fd].substr(2)));
    }
    EXPECT_EQ(fds.size(), 11u);
    // Log text goes to the log alone: the client hears its answer and nothing else.
    ASSERT_EQ(client.Ask("LOG 5"), "logged");
    EXPECT_TRUE(client.IsQuiet(absl::Milliseconds(20)));
    EXPECT_TRUE(WaitForLog("line 4"));
    client.Close();
    ExpectUnharmed();
  }
}

// --- F67, F27: what the starter leaves besides descriptors ---

TEST_F(DescriptorFaults, F67_AHostileEnvironmentChangesNothing) {
  Scenario scenario;
  std::vector<std::string>& environment = scenario.master.environment;
  for (const char* item :
       {"LC_ALL=xx_YY.nonsense", "LANG=../../../../tmp", "TZ=:/etc/shadow", "IFS=/",
        "MALLOC_PERTURB_=1", "MALLOC_ARENA_MAX=0", "LD_BIND_NOW=1", "LD_DEBUG_OUTPUT=/x",
        "GCONV_PATH=/tmp", "LOCPATH=/tmp", "NLSPATH=/tmp/%N", "RES_OPTIONS=ndots:99999",
        "HOSTALIASES=/etc/shadow", "LISTEN_FDS=5", "LISTEN_PID=1", "POSIXLY_CORRECT=1", "PATH="}) {
    environment.push_back(item);
  }
  for (int64_t i = 0; i < 10000; ++i) environment.push_back(absl::StrCat("V", i, "=", i));
  Start(std::move(scenario));
  LineClient client = Connect();
  for (int i = 0; i < 20; ++i) ASSERT_EQ(client.Ask("ECHO x"), "x");
  ASSERT_EQ(client.Ask("LOG 2"), "logged");
  EXPECT_TRUE(WaitForLog("line 1"));
  client.Close();
  ExpectUnharmed();
}

TEST_F(DescriptorFaults, F67_MalformedGenerationsEndTheWorkerCleanly) {
  // All at once, since each pauses for a second before its end.
  std::vector<std::pair<std::unique_ptr<FakeMaster>, pid_t>> workers;
  for (const char* generation : {"", "-1", "8", "0x10", "777777777777", "1 ", " 1", "1;id", "%n%n",
                                 "99999999999999999999999999"}) {
    Scenario scenario;
    scenario.master.environment = {absl::StrCat("GENERATION=", generation)};
    std::unique_ptr<FakeMaster> master = MakeMaster(std::move(scenario));
    const absl::StatusOr<pid_t> pid = master->Spawn();
    ASSERT_TRUE(pid.ok());
    workers.emplace_back(std::move(master), *pid);
  }
  for (auto& [master, pid] : workers) {
    EXPECT_EQ(ExitCode(master->WaitForExit(pid)), 1) << master->Log();
    EXPECT_EQ(Count(master->Log(), "fatal"), 1) << master->Log();
    EXPECT_TRUE(master->messages().empty());
  }
}

TEST_F(DescriptorFaults, F27_InheritedMasksAndDispositionsDoNotMatter) {
  Scenario scenario;
  scenario.main_cf = "daemon_timeout = 3s\n";
  scenario.master.in_child = [] {
    for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_IGN);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
  };
  Start(std::move(scenario));
  LineClient hung = Connect();
  const absl::Time asked = absl::Now();
  ASSERT_TRUE(hung.Send("HANG pause\n"));
  // The watchdog works, and so does SIGTERM, for which it has less patience.
  EXPECT_EQ(WaitForEnd(), 1) << log();
  EXPECT_GE(absl::Now() - asked, absl::Seconds(3));
  pid_ = master_->Spawn().value();
  ASSERT_EQ(Connect().Ask("ECHO x"), "x");
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitForEnd(), 0) << log();
}

}  // namespace
}  // namespace posthouse

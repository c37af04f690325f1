// spawner.h: what a worker finds at its start, and what the master learns of a start that failed.
// The first argument is the probe program.

#include "posthouse/master/spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string probe_program;

std::string TargetOf(int fd) {
  char target[1000];
  const ssize_t length =
      readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), target, sizeof(target));
  return std::string(target, length > 0 ? static_cast<size_t>(length) : 0);
}

UniqueFd NewSocket() { return UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

// The lines of a report that begin with `word`, without it.
std::vector<std::string> Lines(const std::string& report, absl::string_view word) {
  std::vector<std::string> result;
  for (absl::string_view line : absl::StrSplit(report, '\n', absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&line, absl::StrCat(word, " "))) result.emplace_back(line);
  }
  return result;
}

// A worker's descriptors, some listeners, and the file that the probe writes.
class Scene {
 public:
  explicit Scene(int listeners) : report_path_(dir_.Path("report")) {
    int flow[2];
    EXPECT_EQ(pipe2(flow, O_CLOEXEC | O_NONBLOCK), 0);
    int status[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, status), 0);
    for (const int fd : {flow[0], flow[1], status[0], status[1]}) fds_.emplace_back(fd);
    request_.flow_read = flow[0];
    request_.flow_write = flow[1];
    request_.status = status[1];
    for (int i = 0; i < listeners; ++i) {
      fds_.push_back(NewSocket());
      listeners_.push_back(fds_.back().get());
    }
    request_.listeners = listeners_;
    request_.program = probe_program;
    request_.arguments = {"probe", report_path_};
  }

  SpawnRequest& request() { return request_; }

  // Starts the probe and returns its report; "" when it has not come to write one.
  std::string Run() {
    unlink(report_path_.c_str());
    const absl::StatusOr<Spawned> spawned = SpawnWorker(request_);
    EXPECT_THAT(spawned, IsOk());
    if (!spawned.ok()) return "";
    EXPECT_THAT(spawned->start, IsOk());
    EXPECT_EQ(WaitForExit(spawned->pid).value_or(-1), 0);
    return ReadFileOrEmpty(report_path_);
  }

  // What the probe must say about its descriptors from 3 on.
  std::vector<std::string> Expected() const {
    std::vector<int> sources = {request_.flow_read, request_.flow_write, request_.status};
    sources.insert(sources.end(), request_.listeners.begin(), request_.listeners.end());
    std::vector<std::string> result;
    for (size_t i = 0; i < sources.size(); ++i) {
      const bool nonblocking = (fcntl(sources[i], F_GETFL) & O_NONBLOCK) != 0;
      result.push_back(
          absl::StrCat(3 + i, nonblocking ? " nonblocking " : " blocking ", TargetOf(sources[i])));
    }
    return result;
  }

 private:
  TempDir dir_;
  std::string report_path_;
  std::vector<UniqueFd> fds_;
  std::vector<int> listeners_;
  SpawnRequest request_;
};

std::vector<std::string> WithoutStandard(std::vector<std::string> lines) {
  lines.erase(std::remove_if(lines.begin(), lines.end(),
                             [](const std::string& line) {
                               return absl::StartsWith(line, "0 ") ||
                                      absl::StartsWith(line, "1 ") || absl::StartsWith(line, "2 ");
                             }),
              lines.end());
  return lines;
}

// Runs `body` in a process of its own, whose descriptors are its own to arrange; its answer is ""
// or says what was wrong.
std::string InProcess(const std::function<std::string()>& body) {
  TempDir dir;
  const std::string path = dir.Path("answer");
  const pid_t pid = fork();
  if (pid == 0) {
    const std::string answer = body();
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
    const bool written =
        write(file, answer.data(), answer.size()) == static_cast<ssize_t>(answer.size());
    _exit(written ? 0 : 1);
  }
  const int status = WaitForExit(pid, absl::Minutes(3)).value_or(-1);
  const std::string answer = ReadFileOrEmpty(path);
  return status == 0 ? answer : absl::StrCat("wait status ", status, " ", answer);
}

class SpawnerTest : public testing::Test {
 private:
  // First, so that they look last.
  FdLeakCheck fds_;
  ChildCheck children_;
  ScopedInterposer interposer_;
};

// P1, P2, F30: "exactly the documented set", and the modes of the open files are as they were.
TEST_F(SpawnerTest, TheWorkerFindsItsDescriptorsAndTheStandardOnesAndNoOther) {
  Scene scene(2);
  // Somebody else's carelessness does not reach the worker.
  const UniqueFd careless(open("/dev/null", O_RDONLY));
  const UniqueFd careless_and_high(fcntl(careless.get(), F_DUPFD, 900));
  const std::string report = scene.Run();
  EXPECT_EQ(WithoutStandard(Lines(report, "fd")), scene.Expected());
  std::vector<std::string> standard;
  for (const int fd : {0, 1, 2}) {
    if (fcntl(fd, F_GETFD) < 0) continue;
    EXPECT_THAT(Lines(report, "fd"), Contains(AllOf(testing::StartsWith(absl::StrCat(fd, " ")),
                                                    HasSubstr(TargetOf(fd)))));
  }
}

// M64: our copies stay as they were.
TEST_F(SpawnerTest, TheMastersDescriptorsStayCloseOnExec) {
  Scene scene(3);
  scene.Run();
  for (const int fd : {scene.request().flow_read, scene.request().flow_write,
                       scene.request().status, scene.request().listeners[2]}) {
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  }
}

// F34: "the move is correct for every permutation". Six sources lie on the six targets.
TEST_F(SpawnerTest, TheMoveIsRightForEveryPermutationOfTheNumbersThatTheWorkerUses) {
  EXPECT_EQ(InProcess([] {
              Scene scene(3);
              std::vector<UniqueFd> held;
              std::vector<int> numbers;
              for (int i = 0; i < 6; ++i) {
                const UniqueFd socket = NewSocket();
                fcntl(socket.get(), F_DUPFD_CLOEXEC, 200 + i);
              }
              for (int i = 0; i < 6; ++i) {
                dup3(200 + i, 3 + i, O_CLOEXEC);
                close(200 + i);
                numbers.push_back(3 + i);
              }
              do {
                scene.request().flow_read = numbers[0];
                scene.request().flow_write = numbers[1];
                scene.request().status = numbers[2];
                scene.request().listeners = absl::MakeSpan(numbers).subspan(3);
                const std::vector<std::string> found = WithoutStandard(Lines(scene.Run(), "fd"));
                if (found != scene.Expected()) return absl::StrJoin(found, "\n");
              } while (std::next_permutation(numbers.begin(), numbers.end()));
              return std::string();
            }),
            "");
}

// F34: "any number of listen sockets from 1 to 512", with low and with high numbers.
TEST_F(SpawnerTest, AnyNumberOfListenersFromOneTo512Works) {
  for (const int count : {1, 5, 50, 512}) {
    for (const bool low : {false, true}) {
      EXPECT_EQ(InProcess([count, low] {
                  rlimit files;
                  getrlimit(RLIMIT_NOFILE, &files);
                  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
                  setrlimit(RLIMIT_NOFILE, &files);
                  Scene scene(count);
                  std::vector<int> moved;
                  for (const int fd : scene.request().listeners) {
                    moved.push_back(low ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 1500));
                  }
                  // From back to front, so that none lies where it belongs.
                  std::reverse(moved.begin(), moved.end());
                  scene.request().listeners = moved;
                  const std::vector<std::string> found = WithoutStandard(Lines(scene.Run(), "fd"));
                  return found == scene.Expected() ? "" : absl::StrJoin(found, "\n");
                }),
                "")
          << count << (low ? " low" : " high");
    }
  }
}

// One open file may be several of a worker's descriptors.
TEST_F(SpawnerTest, TheSameDescriptorMayStandInSeveralPlaces) {
  Scene scene(1);
  const int only = scene.request().listeners[0];
  const std::vector<int> thrice = {only, only, only};
  scene.request().listeners = thrice;
  EXPECT_EQ(WithoutStandard(Lines(scene.Run(), "fd")), scene.Expected());
}

// P8, P9, P10, M65: exactly what was asked for.
TEST_F(SpawnerTest, TheWorkerFindsTheArgumentsAndTheEnvironmentOfTheRequestAndNoOther) {
  Scene scene(1);
  scene.request().arguments.insert(scene.request().arguments.end(), {"-t", "unix", "", "a b"});
  scene.request().environment = {"GENERATION=17", "LANG=C", "EMPTY="};
  const std::string report = scene.Run();
  const std::vector<std::string> arguments = Lines(report, "argument");
  ASSERT_EQ(arguments.size(), 6u);
  EXPECT_EQ(arguments[0], "probe");
  EXPECT_THAT(std::vector<std::string>(arguments.begin() + 2, arguments.end()),
              ElementsAre("-t", "unix", "", "a b"));
  EXPECT_THAT(Lines(report, "environment"), ElementsAre("GENERATION=17", "LANG=C", "EMPTY="));
}

void DoNothing(int) {}

// M66: "Signals at default except SIGPIPE ignored; none blocked; no alarm", umask 077; P12:
// directory, session and process group are inherited.
TEST_F(SpawnerTest, TheWorkersSignalsAlarmUmaskDirectoryAndSessionAreAsTheContractSays) {
  EXPECT_EQ(
      InProcess([]() -> std::string {
        struct sigaction action = {};
        action.sa_handler = &DoNothing;
        for (const int signal : {SIGHUP, SIGCHLD, SIGTERM, SIGALRM, SIGPIPE, SIGSEGV, SIGRTMIN}) {
          sigaction(signal, &action, nullptr);
        }
        action.sa_handler = SIG_IGN;
        for (const int signal : {SIGINT, SIGQUIT, SIGUSR1, SIGRTMAX}) {
          sigaction(signal, &action, nullptr);
        }
        sigset_t blocked;
        sigemptyset(&blocked);
        for (const int signal : {SIGHUP, SIGUSR2, SIGRTMIN + 1}) sigaddset(&blocked, signal);
        sigprocmask(SIG_SETMASK, &blocked, nullptr);
        raise(SIGUSR2);  // pending here, and not there
        alarm(1000);
        umask(0);
        TempDir directory;
        if (chdir(directory.path().c_str()) != 0) return "chdir";
        setsid();
        Scene scene(1);
        const std::string report = scene.Run();
        if (Lines(report, "ignored") != std::vector<std::string>{absl::StrCat(SIGPIPE)} ||
            !Lines(report, "blocked").empty() || !Lines(report, "pending").empty() ||
            absl::StrContains(report, "\nalarm\n") ||
            Lines(report, "umask") != std::vector<std::string>{"077"} ||
            Lines(report, "directory") != std::vector<std::string>{directory.path()} ||
            Lines(report, "parent") != std::vector<std::string>{absl::StrCat(getpid())} ||
            Lines(report, "session") != std::vector<std::string>{absl::StrCat(getsid(0))} ||
            Lines(report, "group") != std::vector<std::string>{absl::StrCat(getpgrp())}) {
          return report;
        }
        // And here everything is as it was.
        sigset_t now;
        sigprocmask(SIG_SETMASK, nullptr, &now);
        sigaction(SIGHUP, nullptr, &action);
        if (sigismember(&now, SIGUSR2) != 1 || sigismember(&now, SIGTERM) != 0 ||
            action.sa_handler != &DoNothing || umask(0) != 0 || alarm(0) == 0) {
          return "the master's state has changed";
        }
        return "";
      }),
      "");
}

// F68: limits of the request, applied before the program runs.
TEST_F(SpawnerTest, TheWorkerHasTheLimitsOfTheRequest) {
  Scene scene(1);
  const std::vector<WorkerLimit> limits = {{RLIMIT_CORE, {0, 0}}};
  scene.request().limits = limits;
  rlimit before, after;
  getrlimit(RLIMIT_CORE, &before);
  EXPECT_THAT(Lines(scene.Run(), "core"), ElementsAre("0 0"));
  getrlimit(RLIMIT_CORE, &after);
  EXPECT_EQ(after.rlim_max, before.rlim_max);
}

// F78, P56: the cause is told, the child ends with status 1, and nothing of the master runs in it.
TEST_F(SpawnerTest, AProgramThatCannotBeExecutedIsReportedWithItsCauseAndEndsWithStatusOne) {
  TempDir dir;
  const std::string text = dir.WriteFile("text", "no program\n");
  chmod(text.c_str(), 0600);
  const std::string garbage = dir.WriteFile("garbage", "\x7f nonsense");
  chmod(garbage.c_str(), 0700);
  const std::pair<std::string, int> cases[] = {
      {dir.Path("missing"), ENOENT}, {dir.Path("missing/too"), ENOENT}, {text, EACCES},
      {dir.path(), EACCES},          {text + "/under", ENOTDIR},        {garbage, ENOEXEC}};
  for (const auto& [program, error] : cases) {
    Scene scene(1);
    scene.request().program = program;
    const absl::StatusOr<Spawned> spawned = SpawnWorker(scene.request());
    ASSERT_THAT(spawned, IsOk());
    EXPECT_EQ(spawned->start.message(),
              absl::ErrnoToStatus(error, absl::StrCat("execve of ", program)).message());
    const int status = WaitForExit(spawned->pid).value_or(-1);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << program << " " << status;
  }
}

// F78: "no exit handler, no doubled buffered output".
TEST_F(SpawnerTest, AStartThatFailedRunsNoExitHandlerAndWritesNothingThatTheMasterHasBuffered) {
  TempDir dir;
  const std::string path = dir.Path("output");
  EXPECT_EQ(InProcess([&path]() -> std::string {
              FILE* const output = fopen(path.c_str(), "w");
              fputs("once\n", output);
              static const std::string* handler_path = new std::string(path + ".handler");
              atexit([] { close(open(handler_path->c_str(), O_CREAT | O_WRONLY, 0600)); });
              Scene scene(1);
              scene.request().program = "/nonexistent";
              const absl::StatusOr<Spawned> spawned = SpawnWorker(scene.request());
              if (!spawned.ok() || spawned->start.ok()) return "it started";
              WaitForExit(spawned->pid);
              fclose(output);
              return "";
            }),
            "");
  EXPECT_EQ(ReadFileOrEmpty(path), "once\n");
  EXPECT_NE(access((path + ".handler").c_str(), F_OK), 0);
}

// A command line and environment that are too large are a start that failed, not a crash.
TEST_F(SpawnerTest, ArgumentsThatTheKernelRefusesAreAStartThatFailed) {
  Scene scene(1);
  scene.request().environment.assign(1, "A=" + std::string(1 << 20, 'a'));
  const absl::StatusOr<Spawned> spawned = SpawnWorker(scene.request());
  ASSERT_THAT(spawned, IsOk());
  EXPECT_THAT(spawned->start.message(), HasSubstr("Argument list too long"));
  EXPECT_TRUE(WaitForExit(spawned->pid).has_value());
}

// F77: nothing is left of it, and the next one works.
TEST_F(SpawnerTest, AForkThatFailsIsAStatusAndLeavesNothing) {
  Scene scene(2);
  Interposer& system = Interposer::Get();
  sigset_t before, after;
  sigprocmask(SIG_SETMASK, nullptr, &before);
  const FdSnapshot fds = FdSnapshot::Take();
  const std::pair<SystemCall, int> cases[] = {
      {SystemCall::kClone, EAGAIN}, {SystemCall::kClone, ENOMEM}, {SystemCall::kMmap, ENOMEM}};
  for (const auto& [call, error] : cases) {
    system.Reset();
    system.FailOnce(call, error);
    EXPECT_THAT(SpawnWorker(scene.request()),
                StatusIs(absl::ErrnoToStatusCode(error),
                         HasSubstr(call == SystemCall::kClone ? "clone for" : "mmap")));
    sigprocmask(SIG_SETMASK, nullptr, &after);
    for (int signal = 1; signal < NSIG; ++signal) {
      ASSERT_EQ(sigismember(&before, signal), sigismember(&after, signal)) << signal;
    }
    EXPECT_EQ(system.Count(SystemCall::kMmap) - (call == SystemCall::kMmap ? 1 : 0),
              2 * system.Count(SystemCall::kMunmap));
  }
  system.Reset();
  EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(fds), "");
  EXPECT_EQ(WithoutStandard(Lines(scene.Run(), "fd")), scene.Expected());
}

// The calls of the child go through the seam too; it shares our memory, and with it the faults.
TEST_F(SpawnerTest, ACallThatFailsInTheChildIsNamed) {
  struct Case {
    SystemCall call;
    int error;
    const char* text;
  };
  const Case cases[] = {{SystemCall::kDup2, EBUSY, "duplicating descriptor"},
                        {SystemCall::kSetrlimit, EPERM, "setrlimit"},
                        {SystemCall::kExecve, ENOMEM, "execve of"}};
  for (const Case& one : cases) {
    Scene scene(1);
    const std::vector<WorkerLimit> limits = {{RLIMIT_CORE, {0, 0}}};
    scene.request().limits = limits;
    Interposer::Get().Reset();
    Interposer::Get().FailOnce(one.call, one.error);
    const absl::StatusOr<Spawned> spawned = SpawnWorker(scene.request());
    ASSERT_THAT(spawned, IsOk());
    EXPECT_THAT(spawned->start, StatusIs(absl::ErrnoToStatusCode(one.error), HasSubstr(one.text)));
    const int status = WaitForExit(spawned->pid).value_or(-1);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  }
}

int alarms = 0;
void CountAlarm(int) { ++alarms; }

// "Signals: handlers run before or after, never in the child."
TEST_F(SpawnerTest, SignalsThatComeDuringAStartReachTheMasterAlone) {
  Scene scene(1);
  scene.request().arguments = {"probe"};
  struct sigaction action = {};
  struct sigaction old;
  action.sa_handler = &CountAlarm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, &old);
  alarms = 0;
  const itimerval often = {{0, 300}, {0, 300}};
  setitimer(ITIMER_REAL, &often, nullptr);
  for (int i = 0; i < 100; ++i) {
    const absl::StatusOr<Spawned> spawned = SpawnWorker(scene.request());
    EXPECT_THAT(spawned, IsOk());
    if (!spawned.ok()) break;
    EXPECT_THAT(spawned->start, IsOk());
    EXPECT_EQ(WaitForExit(spawned->pid).value_or(-1), 0);
  }
  const itimerval off = {};
  setitimer(ITIMER_REAL, &off, nullptr);
  sigaction(SIGALRM, &old, nullptr);
  EXPECT_GT(alarms, 0);
}

// M66: a worker of a master without standard descriptors gets none that were meant otherwise.
TEST_F(SpawnerTest, WithoutStandardDescriptorsTheWorkersNumbersAreStillRight) {
  EXPECT_EQ(InProcess([]() -> std::string {
              for (const int fd : {0, 1, 2}) close(fd);
              Scene scene(2);  // some of whose descriptors are 0 to 2
              const std::vector<std::string> expected = scene.Expected();
              const std::vector<std::string> found = Lines(scene.Run(), "fd");
              return found == expected ? "" : absl::StrJoin(found, "\n");
            }),
            "");
}

}  // namespace
}  // namespace posthouse

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  if (argc < 2) return 2;
  posthouse::probe_program = argv[1];
  if (posthouse::probe_program[0] != '/') {
    char directory[4096];
    if (getcwd(directory, sizeof(directory)) == nullptr) return 2;
    posthouse::probe_program = absl::StrCat(directory, "/", posthouse::probe_program);
  }
  return RUN_ALL_TESTS();
}

// The manager's life from outside: start, serving, stop, and what may go wrong with each. The real
// program with real workers.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/line_client.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/master_process.h"

namespace posthouse {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

class MasterLifeTest : public testing::Test {
 protected:
  MasterLifeTest() { master_.AddProgram("echo", "echo"); }

  std::string EchoTable() const { return "echo unix - n n - 3 echo"; }
  std::string Ask() { return AskOnce(master_.Connect("private/echo"), "hello"); }

  FdLeakCheck fds_;
  ChildCheck children_;
  MasterProcess master_;
};

void ExpectKilledBy(absl::optional<int> status, int signal) {
  ASSERT_TRUE(status.has_value());
  ASSERT_TRUE(WIFSIGNALED(*status)) << "status " << *status;
  EXPECT_EQ(WTERMSIG(*status), signal);
}

// What the process has used of a processor since it began.
absl::Duration CpuTimeOf(pid_t pid) {
  clockid_t clock;
  timespec used = {};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0) return {};
  return absl::DurationFromTimespec(used);
}

// "Idle" of the faults: less than 1 % of a core; five here. No log daemon runs where the suite
// does, so the log has lines that nobody takes, which is no reason to turn.
TEST_F(MasterLifeTest, AMasterWithNothingToDoSleepsThoughNobodyTakesItsLog) {
  master_.SetTable({EchoTable()});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  ASSERT_EQ(Ask(), "hello");
  const absl::Duration before = CpuTimeOf(master_.pid());
  ASSERT_GT(before, absl::ZeroDuration());
  poll(nullptr, 0, 2000);  // the time over which is measured
  EXPECT_LT(CpuTimeOf(master_.pid()) - before, absl::Milliseconds(100));
}

// M100, M59, M61: nothing runs before a client comes, and one client starts one worker.
TEST_F(MasterLifeTest, AWorkerIsStartedWhenAClientComes) {
  const int port = FreeTcpPort();
  master_.SetTable({EchoTable(), absl::StrCat("127.0.0.1:", port, " inet n n n - 3 echo")});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_THAT(master_.Log(), HasSubstr(absl::StrCat("postfix/master[", master_.pid(),
                                                    "]: daemon started -- version 3.7.11, "
                                                    "configuration ",
                                                    master_.path("etc"))));
  EXPECT_EQ(master_.Workers().size(), 0u);
  EXPECT_EQ(Ask(), "hello");
  EXPECT_EQ(master_.Workers().size(), 1u);
  EXPECT_EQ(AskOnce(ConnectTcp(port), "hi"), "hi");
  EXPECT_EQ(master_.Workers().size(), 2u);
  // A second client is served by the worker that is there (P30).
  EXPECT_EQ(Ask(), "hello");
  EXPECT_EQ(master_.Workers().size(), 2u);
}

class StopSignalTest : public MasterLifeTest, public testing::WithParamInterface<int> {};

// M114: the wait status shows the signal. F108: when the master is gone, so are the workers.
TEST_P(StopSignalTest, TheMasterEndsBySignalAndLeavesNothing) {
  master_.SetTable({EchoTable()});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask(), "hello");
  const std::set<pid_t> workers = master_.Workers();
  ASSERT_EQ(workers.size(), 1u);
  master_.Signal(GetParam());
  ExpectKilledBy(master_.WaitForEnd(), GetParam());
  EXPECT_NE(kill(*workers.begin(), 0), 0);
  EXPECT_THAT(master_.Log(), HasSubstr(absl::StrCat("terminating on signal ", GetParam())));
  // Names and lock files stay (M119); nobody listens, nobody holds a lock.
  EXPECT_EQ(access(master_.QueuePath("private/echo").c_str(), F_OK), 0);
  EXPECT_FALSE(master_.Connect("private/echo").valid());
  EXPECT_EQ(master_.Run({"-t"}).exit_status, 0);
}
INSTANTIATE_TEST_SUITE_P(Signals, StopSignalTest, testing::Values(SIGTERM, SIGINT, SIGQUIT));

// M114, M90: a crash takes the workers along and is told.
TEST_F(MasterLifeTest, ACrashEndsTheWorkersToo) {
  master_.SetTable({EchoTable()});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask(), "hello");
  const pid_t worker = *master_.Workers().begin();
  master_.Signal(SIGSEGV);
  ExpectKilledBy(master_.WaitForEnd(), SIGSEGV);
  EXPECT_THAT(master_.Log(), HasSubstr("terminating on signal 11"));
  // It is this test's child now.
  EXPECT_TRUE(WaitForExit(worker).has_value());
}

// F108: a worker that is stopped does not hold the end up for longer than `postfix stop` waits.
TEST_F(MasterLifeTest, AStoppedWorkerDoesNotSurviveTheStop) {
  master_.SetTable({EchoTable()});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask(), "hello");
  const pid_t worker = *master_.Workers().begin();
  kill(worker, SIGSTOP);
  const absl::Time begin = absl::Now();
  master_.Signal(SIGTERM);
  ExpectKilledBy(master_.WaitForEnd(), SIGTERM);
  EXPECT_GT(absl::Now() - begin, absl::Seconds(2));
  EXPECT_NE(kill(worker, 0), 0);
}

// M28, M29, F109: success means that every endpoint accepts.
TEST_F(MasterLifeTest, TheWaitingStartReturnsWhenClientsCanConnect) {
  master_.SetTable({EchoTable()});
  const MasterProcess::Outcome outcome = master_.Run({"-w"});
  LineClient client = master_.Connect("private/echo");
  EXPECT_EQ(outcome.exit_status, 0);
  EXPECT_EQ(outcome.output, "");
  EXPECT_EQ(client.Ask("hello"), "hello");
  const pid_t pid = master_.LockedBy();
  ASSERT_GT(pid, 0);
  // M13, M120: a session and a group of its own, with its number in the file.
  EXPECT_EQ(getsid(pid), pid);
  EXPECT_EQ(getpgid(pid), pid);
  // M12.
  for (int fd = 0; fd <= 2; ++fd) {
    EXPECT_EQ(FdSnapshot::TakeOf(pid).fds().at(fd), "/dev/null");
  }
  // M26: 33 bytes.
  EXPECT_EQ(ReadFileOrEmpty(master_.QueuePath("pid/master.pid")).size(), 33u);
  EXPECT_EQ(ReadFileOrEmpty(master_.path("data/master.lock")),
            ReadFileOrEmpty(master_.QueuePath("pid/master.pid")));
  kill(pid, SIGTERM);
  ExpectKilledBy(WaitForExit(pid), SIGTERM);
}

// M29, MO10, F109: the reason reaches whoever waits, with file and line.
TEST_F(MasterLifeTest, TheWaitingStartTellsWhyItFails) {
  master_.SetTable({EchoTable(), "broken unix - n n - 1x:y"});
  const MasterProcess::Outcome outcome = master_.Run({"-w"});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr(absl::StrCat(master_.EtcPath("master.cf"), ", line 2")));
  EXPECT_EQ(access(master_.QueuePath("pid").c_str(), F_OK), -1) << "something was made";
}

// The same for a person who starts it in the background without -w.
TEST_F(MasterLifeTest, AFailingStartTellsItsCaller) {
  const MasterProcess::Outcome outcome = master_.Run({});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("fatal: "), HasSubstr("master.cf")));
}

// M53, F90: at start an endpoint that cannot be had is fatal and named.
TEST_F(MasterLifeTest, AnOccupiedPortIsToldAndNothingIsHalfStarted) {
  const int port = FreeTcpPort();
  master_.SetTable(
      {"first unix - n n - 3 echo", absl::StrCat("127.0.0.1:", port, " inet n n n - 3 echo")});
  UniqueFd occupier(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int on = 1;
  setsockopt(occupier.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  ASSERT_EQ(bind(occupier.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(occupier.get(), 1), 0);
  const MasterProcess::Outcome outcome = master_.Run({"-w"});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr(absl::StrCat("127.0.0.1:", port)),
                                    HasSubstr("Address already in use"), HasSubstr("line 2")));
  EXPECT_FALSE(master_.Connect("private/first").valid());
}

// M27.
TEST_F(MasterLifeTest, TheTestTellsWhetherAMasterRuns) {
  master_.SetTable({EchoTable()});
  EXPECT_EQ(master_.Run({"-t"}).exit_status, 0);  // no file
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(master_.Run({"-t"}).exit_status, 1);
  // It reads main.cf alone: `postfix status` works while somebody edits the table.
  master_.SetTable({"broken"});
  EXPECT_EQ(master_.Run({"-t"}).exit_status, 1);
  master_.Kill();
  EXPECT_EQ(master_.Run({"-t"}).exit_status, 0);
}

// F107: the second refuses, tells who the first is, and has changed nothing.
TEST_F(MasterLifeTest, ASecondMasterIsRefused) {
  master_.SetTable({EchoTable()});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  const MasterProcess::Outcome outcome = master_.Run({"-w"});
  EXPECT_EQ(outcome.exit_status, 1);
  EXPECT_THAT(outcome.output, HasSubstr(absl::StrCat("process ", master_.pid())));
  EXPECT_EQ(master_.LockedBy(), master_.pid());
  EXPECT_EQ(Ask(), "hello");
}

// F107: of many at once one runs.
TEST_F(MasterLifeTest, OfManyStartsAtOnceOneSucceeds) {
  master_.SetTable({EchoTable()});
  std::vector<pid_t> starters;
  constexpr int kStarters = 10;
  for (int i = 0; i < kStarters; ++i) {
    master_.Launch({"-w"});
    starters.push_back(master_.pid());
  }
  int succeeded = 0;
  for (const pid_t starter : starters) {
    const absl::optional<int> status = WaitForExit(starter);
    ASSERT_TRUE(status.has_value());
    if (*status == 0) succeeded++;
  }
  EXPECT_EQ(succeeded, 1) << master_.Log();
  EXPECT_EQ(Ask(), "hello");
  const pid_t pid = master_.LockedBy();
  kill(pid, SIGTERM);
  ExpectKilledBy(WaitForExit(pid), SIGTERM);
}

// M117, F88: killed without warning, it leaves workers that end by themselves, and a new one starts
// at once.
TEST_F(MasterLifeTest, AfterAKillANewMasterStartsAtOnce) {
  const int port = FreeTcpPort();
  master_.SetTable({EchoTable(), absl::StrCat("127.0.0.1:", port, " inet n n n - 3 echo")});
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(master_.Start()) << master_.Log();
    EXPECT_EQ(Ask(), "hello");
    EXPECT_EQ(AskOnce(ConnectTcp(port), "hi"), "hi");
    const std::set<pid_t> workers = master_.Workers();
    EXPECT_EQ(workers.size(), 2u);
    master_.Kill();
    for (const pid_t worker : workers) {
      const absl::optional<int> status = WaitForExit(worker);
      EXPECT_EQ(status, absl::optional<int>(0));
    }
  }
}

// M4: the end by -e signals nobody; workers learn it from descriptor 5.
TEST_F(MasterLifeTest, TheMasterEndsAfterTheTimeItWasGiven) {
  master_.SetTable({EchoTable()});
  ASSERT_TRUE(master_.Start({"-d", "-e", "2"})) << master_.Log();
  EXPECT_EQ(Ask(), "hello");
  const pid_t worker = *master_.Workers().begin();
  EXPECT_EQ(master_.WaitForEnd(), absl::optional<int>(0));
  EXPECT_EQ(WaitForExit(worker), absl::optional<int>(0));
}

// F82: children that the master inherits from whoever executed it.
TEST_F(MasterLifeTest, ChildrenThatItDoesNotKnowAreReapedAndIgnored) {
  master_.SetTable({EchoTable()});
  constexpr int kChildren = 20;
  master_.Launch({"-d"}, [] {
    for (int i = 0; i < kChildren; ++i) {
      if (fork() == 0) {
        usleep(static_cast<useconds_t>(i) * 10000);
        _exit(i);
      }
    }
  });
  ASSERT_TRUE(master_.WaitForLog("daemon started"));
  EXPECT_TRUE(WaitUntil([&] { return ChildrenOf(master_.pid()).empty(); }));
  EXPECT_EQ(Ask(), "hello");
  EXPECT_EQ(ChildrenOf(master_.pid()).size(), 1u);
  EXPECT_THAT(master_.Log(), Not(HasSubstr("warning")));
}

// F29, M5, M121: as process 1 the master ends with 0 when it is told to, and reaps what others
// leave.
TEST_F(MasterLifeTest, AsProcessOneItStopsAndReapsStrangers) {
  if (geteuid() != 0) GTEST_SKIP() << "the test needs root for a pid namespace";
  master_.AddScript("leaver", absl::StrCat("(exec sleep 0.1) &\n(exec sleep 1000) &\nexec ",
                                           master_.path("bin/echo"), " \"$@\""));
  master_.SetTable({"echo unix - n n - 3 leaver -o max_use=1"});
  master_.Launch({"-i"}, [] {
    if (unshare(CLONE_NEWPID) != 0) _exit(123);
    const pid_t one = fork();
    if (one == 0) return;
    int status = 0;
    waitpid(one, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
  });
  ASSERT_TRUE(WaitUntil([&] { return Ask() == "hello"; }));
  ASSERT_EQ(ChildrenOf(master_.pid()).size(), 1u);
  const pid_t one = *ChildrenOf(master_.pid()).begin();
  // The worker has ended; of what it left only the long sleep is there, and no zombie.
  EXPECT_TRUE(
      WaitUntil([&] { return ChildrenOf(one).size() == 1 && AllChildrenOf(one).size() == 1; }));
  kill(one, SIGTERM);
  EXPECT_EQ(master_.WaitForEnd(), absl::optional<int>(0));
}

// P1, P2, P9, P10, M65, M66: what a worker finds.
TEST_F(MasterLifeTest, AWorkerFindsWhatTheProtocolSays) {
  master_.AddProgram("probe", "scripted_worker");
  const int port = FreeTcpPort();
  master_.SetParameters({"import_environment = MAIL_CONFIG LANG=C GREETING=hello"});
  master_.SetTable(
      {absl::StrCat("127.0.0.1:", port, " inet n n n - 1 probe -o a=b { c d } report serve")});
  ASSERT_TRUE(master_.Start({"-d", "-v", "-v"})) << master_.Log();
  EXPECT_TRUE(ConnectTcp(port).valid());
  ASSERT_TRUE(master_.WaitForLog("ignored 13")) << master_.Log();
  const std::string log = master_.Log();
  EXPECT_THAT(log, HasSubstr(absl::StrCat("arguments probe -l -n 127.0.0.1:", port,
                                          " -t inet -d -v -o a=b c d report serve\n")));
  for (const std::string& line :
       {absl::StrCat("environment MAIL_CONFIG=", master_.path("etc")),
        std::string("environment LANG=C"), std::string("environment GREETING=hello"),
        std::string("environment MAIL_LOGTAG=postfix"), std::string("environment GENERATION=1"),
        absl::StrCat("directory ", master_.path("queue")), std::string("umask 077"),
        std::string("fd 3 nonblocking pipe:"), std::string("fd 4 nonblocking pipe:"),
        std::string("fd 5 blocking socket:"), std::string("fd 6 nonblocking socket:"),
        std::string("ignored 13")}) {
    EXPECT_THAT(log, HasSubstr(line + (line.back() == ':' ? "" : "\n")));
  }
  EXPECT_THAT(log, Not(AnyOf(HasSubstr("environment PATH"), HasSubstr("environment LD_"),
                             HasSubstr("fd 7 "), HasSubstr("blocked "), HasSubstr("ignored 17"))));
  EXPECT_EQ(Occurrences(log, "environment "), 5);
}

// C73, M20: a log file without postlogd is written by the master itself, with what was said before
// main.cf had been read (MO10).
TEST_F(MasterLifeTest, WithoutPostlogdTheMasterWritesTheLogFile) {
  master_.SetParameters({absl::StrCat("maillog_file = ", master_.path("mail.log")),
                         absl::StrCat("maillog_file_prefixes = ", master_.path("")),
                         "myhostname = mx.example.test"});
  master_.SetTable({EchoTable()});
  ASSERT_EQ(master_.Run({"-w"}).exit_status, 0);
  const pid_t pid = master_.LockedBy();
  kill(pid, SIGTERM);
  ExpectKilledBy(WaitForExit(pid), SIGTERM);
  const std::string log = ReadFileOrEmpty(master_.path("mail.log"));
  EXPECT_THAT(log, AllOf(HasSubstr(absl::StrCat(" mx postfix/master[", pid,
                                                "]: daemon started -- version 3.7.11")),
                         HasSubstr("terminating on signal 15\n")));
}

// C73: with postlogd, or whoever plays it, its socket gets the lines.
TEST_F(MasterLifeTest, WithPostlogdItsSocketGetsTheLines) {
  master_.AddScript("reader", absl::StrCat("exec cat <&6 >", master_.path("read")));
  master_.SetParameters({absl::StrCat("maillog_file = ", master_.path("mail.log")),
                         absl::StrCat("maillog_file_prefixes = ", master_.path(""))});
  master_.SetTable({EchoTable(), "postlog unix-dgram n n n - 1 reader"});
  ASSERT_EQ(master_.Run({"-w"}).exit_status, 0);
  const pid_t pid = master_.LockedBy();
  // The records wait in the socket and make its worker start.
  EXPECT_TRUE(WaitUntil([&] {
    return Occurrences(ReadFileOrEmpty(master_.path("read")), "daemon started -- version") == 1;
  }));
  EXPECT_EQ(ReadFileOrEmpty(master_.path("mail.log")), "");
  kill(pid, SIGTERM);
  ExpectKilledBy(WaitForExit(pid), SIGTERM);
}

// M1, M5, M7.
TEST_F(MasterLifeTest, BadOptionsAreTold) {
  master_.SetTable({EchoTable()});
  for (const std::vector<std::string>& options : std::vector<std::vector<std::string>>{
           {"-x"}, {"-e"}, {"operand"}, {"-t", "-w"}, {"-r", "-w"}, {"-i"}, {"-d", "-i"}}) {
    const MasterProcess::Outcome outcome = master_.Run(options);
    EXPECT_EQ(outcome.exit_status, 1) << options[0];
    EXPECT_THAT(outcome.output, HasSubstr("fatal: ")) << options[0];
  }
  EXPECT_THAT(master_.Run({"--help"}).output, HasSubstr("usage:"));
  EXPECT_THAT(master_.Run({"--version"}).output, HasSubstr("posthouse-master"));
}

// M3, M18: the debugger command runs after the locks are taken.
TEST_F(MasterLifeTest, TheDebuggerCommandRunsOnTheMaster) {
  master_.SetParameters({absl::StrCat("debugger_command = cp ", master_.QueuePath("pid/master.pid"),
                                      " ", master_.path("seen"))});
  master_.SetTable({EchoTable()});
  ASSERT_TRUE(master_.Start({"-d", "-D"})) << master_.Log();
  EXPECT_EQ(ReadFileOrEmpty(master_.path("seen")),
            ReadFileOrEmpty(master_.QueuePath("pid/master.pid")));
}

// The issue: root is not required with a configuration of one's own, of ten lines.
TEST_F(MasterLifeTest, AnybodyCanRunAMasterOfTheirOwn) {
  master_.SetTable({EchoTable()});
  master_.CopyMaster();
  if (geteuid() == 0) {
    for (const char* name : {"", "queue"}) {
      ASSERT_EQ(chown(master_.path(name).c_str(), 65534, 65534), 0);
    }
    master_.Launch({"-d"}, [] {
      if (setgid(65534) != 0 || setuid(65534) != 0) _exit(124);
    });
    ASSERT_TRUE(master_.WaitForLog("daemon started")) << master_.Log();
  } else {
    ASSERT_TRUE(master_.Start()) << master_.Log();
  }
  EXPECT_EQ(Ask(), "hello");
  struct stat info = {};
  ASSERT_EQ(stat(master_.QueuePath("private").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  ASSERT_EQ(stat(master_.QueuePath("public").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0710u);
}

// M11: but the system's configuration needs root.
TEST_F(MasterLifeTest, TheSystemsConfigurationNeedsRoot) {
  if (geteuid() != 0) GTEST_SKIP() << "the test needs root to become nobody";
  master_.CopyMaster();
  const std::string output = master_.path("refused");
  const std::string program = master_.program();
  const pid_t pid = fork();
  if (pid == 0) {
    const int fd = open(output.c_str(), O_WRONLY | O_CREAT, 0666);
    dup2(fd, 2);
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(124);
    unsetenv("MAIL_CONFIG");
    execl(program.c_str(), program.c_str(), "-d", nullptr);
    _exit(125);
  }
  const absl::optional<int> status = WaitForExit(pid);
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(WEXITSTATUS(*status), 1);
  EXPECT_THAT(ReadFileOrEmpty(output), HasSubstr("superuser"));
}

}  // namespace
}  // namespace posthouse

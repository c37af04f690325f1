// The start of a worker: command line, environment, configuration, privileges, descriptors, and a
// life without a master (S4 to S38, F27, F30, F32, F33, F58 to F63, F67, F69).

#include <fcntl.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/protocol.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/server/harness.h"

namespace posthouse {
namespace {

class StartTest : public WorkerTest {
 protected:
  void StartWith(std::vector<std::string> configured, std::string main_cf = "",
                 std::string test = "", std::vector<std::string> environment = {}) {
    Scenario scenario;
    scenario.configured = std::move(configured);
    scenario.main_cf = std::move(main_cf);
    scenario.test = std::move(test);
    scenario.master.environment = std::move(environment);
    Start(std::move(scenario));
  }
};

// --- Starts that fail ---

struct BadStart {
  const char* name;
  std::vector<std::string> configured;
  std::string main_cf;
  std::string test;
  std::vector<std::string> environment;
  std::vector<int> without;
  // All of them in the log.
  std::vector<std::string> says;
};

std::vector<BadStart> BadStarts() {
  return {
      {"S26, S94: an unknown letter is named", {"-X"}, "", "", {}, {}, {"fatal", "option", "X"}},
      {"S25: an argument is missing", {"-m"}, "", "", {}, {}, {"fatal", "-m"}},
      {"SO16: text after the number of sockets", {"-s", "1x"}, "", "", {}, {}, {"fatal", "1x"}},
      {"S27: no sockets", {"-s", "0"}, "", "", {}, {}, {"fatal", "0"}},
      {"S27: fewer than none", {"-s", "-1"}, "", "", {}, {}, {"fatal", "-1"}},
      {"S27: -o without =", {"-o", "oops"}, "", "", {}, {}, {"fatal", "oops", "="}},
      {"S27: -o without a name", {"-o", "= 5"}, "", "", {}, {}, {"fatal", "= 5", "name"}},
      {"S38: fifo", {"-t", "fifo"}, "", "", {}, {}, {"fatal", "fifo"}},
      {"S38: unix-dgram", {"-t", "unix-dgram"}, "", "", {}, {}, {"fatal", "unix-dgram"}},
      {"S1: -i below its range", {"-i", "0"}, "", "", {}, {}, {"fatal", "max_idle"}},
      {"S1: -m below its range", {"-m", "0"}, "", "", {}, {}, {"fatal", "max_use"}},
      {"S1: -i is no time", {"-i", "soon"}, "", "", {}, {}, {"fatal", "max_idle", "soon"}},
      {"S1: max_use", {}, "max_use = 0\n", "", {}, {}, {"fatal", "max_use", "main.cf"}},
      {"S1: in_flow_delay", {}, "in_flow_delay = 11s\n", "", {}, {}, {"fatal", "in_flow_delay"}},
      {"S1: daemon_timeout", {}, "daemon_timeout = 2s\n", "", {}, {}, {"fatal", "daemon_timeout"}},
      {"S31: an application's INT",
       {},
       "test_int = 101\n",
       "",
       {},
       {},
       {"fatal", "test_int", "101"}},
      {"S31: an application's BOOL", {}, "test_bool = maybe\n", "", {}, {}, {"fatal", "test_bool"}},
      {"S31: an application's TIME", {}, "test_time = 0\n", "", {}, {}, {"fatal", "test_time"}},
      {"C19: a line without =", {}, "nonsense\n", "", {}, {}, {"fatal", "main.cf", "nonsense"}},
      {"S32: solitary", {}, "", "solitary", {}, {}, {"fatal", "test_service", "process limit"}},
      {"S32: unlimited", {}, "", "unlimited", {}, {}, {"fatal", "test_service", "process limit"}},
      {"S31: privileged",
       {"-u"},
       "",
       "privileged",
       {},
       {},
       {"fatal", "test_service", "privileged"}},
      {"S15: a generation that is no number",
       {},
       "",
       "",
       {"GENERATION=x"},
       {},
       {"fatal", "GENERATION"}},
      {"S15: an empty generation", {}, "", "", {"GENERATION="}, {}, {"fatal", "GENERATION"}},
      {"S16, PO6: a generation that is not octal",
       {},
       "",
       "",
       {"GENERATION=19"},
       {},
       {"fatal", "GENERATION"}},
      {"S16, PO6: a generation of 33 bits",
       {},
       "",
       "",
       {"GENERATION=40000000000"},
       {},
       {"fatal", "GENERATION"}},
      {"S18: no queue directory",
       {"-o", "queue_directory=/nonexistent/q"},
       "",
       "",
       {},
       {},
       {"fatal", "/nonexistent/q"}},
      {"S22: no status channel", {}, "", "", {}, {5}, {"fatal", "5"}},
      {"S22: no listener", {}, "", "", {}, {6}, {"fatal", "6"}},
      {"S22: fewer listeners than announced", {"-s", "2"}, "", "", {}, {}, {"fatal", "7"}},
      {"S22: no flow pipe", {}, "", "", {}, {3}, {"fatal", "3"}},
      {"S17: a debugger without a command", {"-D"}, "", "", {}, {}, {"fatal", "debugger_command"}},
      {"C65: an unknown facility", {}, "syslog_facility = mial\n", "", {}, {}, {"fatal", "mial"}},
      {"F57: an exception in pre_init",
       {},
       "",
       "throw_pre_init",
       {},
       {},
       {"fatal", "thrown in pre_init"}},
      {"F57: an exception in post_init",
       {},
       "",
       "throw_post_init",
       {},
       {},
       {"fatal", "thrown in post_init"}},
  };
}

// A failed start takes a second, so that a master that starts the next one does not spin; all of
// them run at the same time.
TEST_F(StartTest, EveryBadStartEndsWithStatusOneAndSaysWhy) {
  struct Running {
    BadStart start;
    std::unique_ptr<FakeMaster> master;
    pid_t pid;
    absl::Time since;
  };
  std::vector<Running> all;
  for (BadStart& start : BadStarts()) {
    Scenario scenario;
    scenario.configured = start.configured;
    scenario.main_cf = start.main_cf;
    scenario.test = start.test;
    scenario.master.environment = start.environment;
    scenario.master.without_descriptors = start.without;
    Running running;
    running.master = MakeMaster(std::move(scenario));
    running.since = absl::Now();
    running.pid = running.master->Spawn().value();
    running.start = std::move(start);
    all.push_back(std::move(running));
  }
  for (Running& running : all) {
    SCOPED_TRACE(running.start.name);
    EXPECT_EQ(ExitCode(running.master->WaitForExit(running.pid)), 1);
    EXPECT_GE(absl::Now() - running.since, absl::Milliseconds(900));
    for (const std::string& text : running.start.says) {
      EXPECT_TRUE(running.master->LogContains(text)) << text << " in\n" << running.master->Log();
    }
    EXPECT_FALSE(running.master->LogContains("hook on_exit"));
    EXPECT_EQ(Count(running.master->Log(), "fatal:"), 1) << running.master->Log();
    EXPECT_TRUE(running.master->messages().empty());
  }
}

TEST_F(StartTest, SO19_TheLastResortIsCalledOnAFatalError) {
  StartWith({"-s", "2"});
  EXPECT_EQ(WaitForEnd(), 1);
  EXPECT_TRUE(WaitForLog("hook last_resort"));
}

TEST_F(StartTest, S32_TheFailureNamesTheService) {
  StartWith({"-n", "myecho"}, "", "solitary");
  EXPECT_EQ(WaitForEnd(), 1);
  EXPECT_TRUE(WaitForLog("myecho"));
}

// --- Options and parameters that work ---

TEST_F(StartTest, S27_OptionsSetWhatTheySay) {
  StartWith({"-m", "5",          "-m",    "7",          "-i",     "90",     "-i",
             "2m", "-n",         "first", "-n",         "second", "-o",     " test_str =  a b ",
             "-o", "test_int=8", "-o",    "test_int=9", "-o",     "empty=", "-v",
             "-v", "--",         "-x",    "rest",       "-m"});
  LineClient client = Connect();
  EXPECT_EQ(client.Ask("LIMITS"), "use_limit=7 idle_limit=2m clients=1 uses=0");
  EXPECT_EQ(client.Ask("NAME"), "second");
  EXPECT_EQ(client.Ask("ARGS"), "-x|rest|-m");
  EXPECT_EQ(client.Ask("PARAM test_str"), "[a b]");
  EXPECT_EQ(client.Ask("PARAM test_int"), "[9]");
  EXPECT_EQ(client.Ask("PARAM empty"), "[]");
  EXPECT_EQ(client.Ask("PARAM service_name"), "[second]");
  EXPECT_EQ(client.Ask("PARAM process_name"), "[test_service]");
}

TEST_F(StartTest, S25_ParsingStopsAtTheFirstNonOption) {
  StartWith({"-m", "5", "file", "-m", "6"});
  LineClient client = Connect();
  EXPECT_TRUE(absl::StartsWith(client.Ask("LIMITS"), "use_limit=5 "));
  EXPECT_EQ(client.Ask("ARGS"), "file|-m|6");
}

TEST_F(StartTest, S27_TheTransportIsKnownInAnyCase) {
  for (const char* name : {"UNIX", "Unix"}) {
    StartWith({"-t", name});
    EXPECT_EQ(Connect().Ask("ECHO x", absl::Seconds(5)), "x") << log();
  }
}

TEST_F(StartTest, S6_TheServiceIsNamedAfterTheProgramWithoutAnOption) {
  StartWith({});
  EXPECT_EQ(Connect().Ask("NAME"), "test_service");
}

TEST_F(StartTest, P9_TheLimitsOfTheServiceSatisfyTheRestrictions) {
  Scenario scenario;
  scenario.test = "solitary";
  scenario.arguments.process_limit = 1;
  Start(std::move(scenario));
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  Scenario unlimited;
  unlimited.test = "unlimited";
  unlimited.arguments.process_limit = 0;
  Start(std::move(unlimited));
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
}

TEST_F(StartTest, S9_TheCommandLineOverridesTheFile) {
  StartWith({"-o", "test_int=3"}, "test_int = 2\ntest_str = $test_int/$mail_owner\nmax_use = 50\n");
  ASSERT_TRUE(WaitForLog("hook pre_init"));
  EXPECT_TRUE(master_->LogContains("test_int=3 test_str=3/mail test_bool=1 test_time=5")) << log();
}

TEST_F(StartTest, F117_AMisspeltNameIsToldWithAHint) {
  StartWith({}, "max_idel = 10s\nsmtpd_banner = $myhostname\n");
  EXPECT_EQ(Connect().Ask("ECHO hi"), "hi");
  EXPECT_TRUE(WaitForLog("max_idel"));
  EXPECT_TRUE(absl::StrContains(log(), "max_idle")) << log();
  EXPECT_FALSE(absl::StrContains(log(), "smtpd_banner")) << log();
}

TEST_F(StartTest, E6_TheLimitOfOpenFilesIsRaisedAsFarAsItGoes) {
  rlimit before = {};
  ASSERT_EQ(os::Getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low = {.rlim_cur = 256, .rlim_max = before.rlim_max};
  ASSERT_EQ(os::Setrlimit(RLIMIT_NOFILE, &low), 0);  // inherited by the worker
  StartWith({});
  ASSERT_EQ(os::Setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(Connect().Ask("ECHO hi"), "hi");
  rlimit limit = {};
  ASSERT_EQ(prlimit(pid_, RLIMIT_NOFILE, nullptr, &limit), 0);
  EXPECT_EQ(limit.rlim_cur, before.rlim_max);
}

TEST_F(StartTest, S92_BounceInitComesBetweenParametersAndPreInit) {
  StartWith({}, "test_int = 33\n", "bounce_init");
  ASSERT_TRUE(WaitForLog("hook post_init"));
  const std::string text = log();
  EXPECT_LT(text.find("hook bounce_init test_int=33"), text.find("hook pre_init"));
  EXPECT_LT(text.find("hook pre_init"), text.find("hook post_init"));
}

TEST_F(StartTest, S7_TheTagIsTheSyslogNameAndTheProgram) {
  StartWith({"-n", "echo"});
  ASSERT_TRUE(WaitForLog("postfix/test_service["));
  StartWith({"-o", "syslog_name=other"});
  ASSERT_TRUE(WaitForLog("other/test_service["));
  StartWith({}, "syslog_name = third\n");
  ASSERT_TRUE(WaitForLog("third/test_service["));
}

TEST_F(StartTest, S10_ASyslogNameOnTheCommandLineStartsTheLogAnew) {
  StartWith({"-v", "-V", "-o", "syslog_name=other"});
  ASSERT_TRUE(WaitForLog("hook post_init"));
  const std::string text = ReadFileOrEmpty(master_->scratch().Path("stderr"));
  const size_t first = text.find("other/test_service");
  ASSERT_NE(first, std::string::npos) << text;
  // What was said before the options had their effect, under the name of the system.
  const size_t started = text.find("daemon started");
  EXPECT_LT(started, first) << text;
  EXPECT_LT(text.find("postfix/test_service"), started) << text;
  EXPECT_EQ(text.find("postfix/test_service", first), std::string::npos) << text;
  EXPECT_TRUE(master_->LogContains(absl::StrCat("other/test_service[", pid_, "]: hook pre_init")));
}

TEST_F(StartTest, P11_TheEnvironmentNamesConfigurationVerbosityAndLogTag) {
  StartWith({"-V"}, "", "", {"MAIL_VERBOSE=", "MAIL_LOGTAG=early"});
  ASSERT_TRUE(WaitForLog("hook post_init"));
  EXPECT_TRUE(master_->LogContains("test_int=7 "));
  // S4: verbose; S7: the prefix until the configuration has been read.
  const std::string text = ReadFileOrEmpty(master_->scratch().Path("stderr"));
  const size_t started = text.find("daemon started");
  ASSERT_NE(started, std::string::npos) << text;
  EXPECT_LT(text.find("early/test_service"), started) << text;
  const TempDir other;
  const std::string copy = other.WriteFile(
      "main.cf",
      absl::StrCat(ReadFileOrEmpty(master_->scratch().Path("etc/main.cf")), "\ntest_int = 55\n"));
  const timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, copy.c_str(), long_ago, 0), 0);
  master_->options().environment.push_back("MAIL_CONFIG=" + other.path());
  ASSERT_TRUE(master_->Spawn().ok());
  EXPECT_TRUE(WaitForLog("test_int=55 "));
}

TEST_F(StartTest, S8_AnotherVersionIsNoErrorAndTheFileIsReadBeforeParametersHaveValues) {
  StartWith({}, "mail_version = 0.0.1\n");
  EXPECT_EQ(Connect().Ask("PARAM mail_version"), "[0.0.1]");
  EXPECT_EQ(Count(log(), "fatal"), 0) << log();
  // S9: the mistake in the file hides that of the value.
  StartWith({"-m", "0"}, "nonsense\n");
  EXPECT_EQ(WaitForEnd(), 1);
  EXPECT_TRUE(WaitForLog("nonsense"));
  EXPECT_FALSE(master_->LogContains("max_use"));
}

TEST_F(StartTest, S30_ParametersLoadInListOrderAndALaterOneMayReferToAnEarlierOne) {
  // The list is test_int, test_str, test_bool, test_time, and the file sets none but this one.
  StartWith({}, "test_str = <$test_int><$test_time>\n");
  EXPECT_TRUE(WaitForLog("test_str=<7><> "));
}

TEST_F(StartTest, S4_VerbosityComesFromOptionsAndEnvironment) {
  StartWith({});
  ASSERT_TRUE(WaitForLog("hook post_init"));
  const int quiet = Count(log(), "\n");
  StartWith({"-v"});
  ASSERT_TRUE(WaitForLog("hook post_init"));
  EXPECT_GT(Count(log(), "\n"), quiet);
  StartWith({}, "", "", {"MAIL_VERBOSE="});
  ASSERT_TRUE(WaitForLog("hook post_init"));
  EXPECT_GT(Count(log(), "\n"), quiet);
}

TEST_F(StartTest, S27_VLogsToStandardErrorAsWell) {
  StartWith({"-V", "-V"});
  ASSERT_TRUE(WaitForLog("hook post_init"));
  ASSERT_EQ(Connect().Ask("LOG unmistakable"), "logged");
  EXPECT_TRUE(master_->WaitUntil([&] { return Count(log(), "unmistakable") == 2; })) << log();
}

// --- Descriptors and signals ---

TEST_F(StartTest, F30_TheServiceSeesTheDocumentedDescriptors) {
  StartWith({});
  LineClient client = Connect();
  const std::vector<std::string> parts = absl::StrSplit(client.Ask("FDS"), ' ');
  int low = 0, sockets = 0, pipes = 0;
  for (const std::string& part : parts) {
    const int fd = std::atoi(part.c_str());
    if (fd > 2 && fd < 128) ++low;
    if (absl::StrContains(part, "socket:")) ++sockets;
    if (absl::StrContains(part, "pipe:")) ++pipes;
    // S22, F31: nothing but the standard ones survives exec.
    EXPECT_TRUE(fd <= 2 || !absl::EndsWith(part, "!")) << part;
    EXPECT_FALSE(absl::StrContains(part, "deleted")) << part;
  }
  // 3 to 6, the event set, the signals, the log.
  EXPECT_LE(low, 8) << absl::StrJoin(parts, "\n");
  EXPECT_EQ(sockets, 4) << absl::StrJoin(parts, "\n");  // status, listener, log, client
  EXPECT_LE(pipes, 4) << absl::StrJoin(parts, "\n");    // flow; a wake-up pipe
  EXPECT_TRUE(absl::StartsWith(parts.back(), "128=socket:"));
}

TEST_F(StartTest, F32_WhatTheStarterForgotToCloseIsClosed) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  Scenario scenario;
  for (const int number : {7, 8, 50, 129, 600}) {
    scenario.master.more_descriptors[number] = write_end.get();
  }
  Start(std::move(scenario));
  write_end.Reset();
  ASSERT_TRUE(WaitForLog("hook post_init"));
  // Its reader sees the end while the worker lives.
  EXPECT_TRUE(WaitForEvents(read_end.get(), POLLIN, absl::Seconds(5)));
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
}

TEST_F(StartTest, F33_ClosedStandardDescriptorsAreFilled) {
  for (int closed = 1; closed < 8; ++closed) {
    Scenario scenario;
    for (int fd = 0; fd < 3; ++fd) {
      if (closed & (1 << fd)) scenario.master.without_descriptors.push_back(fd);
    }
    Start(std::move(scenario));
    LineClient client = Connect();
    const std::vector<std::string> parts = absl::StrSplit(client.Ask("FDS"), ' ');
    ASSERT_GE(parts.size(), 3u);
    for (int fd = 0; fd < 3; ++fd) {
      const std::string target = parts[static_cast<size_t>(fd)];
      EXPECT_TRUE(absl::StartsWith(target, absl::StrCat(fd, "="))) << target;
      EXPECT_TRUE((closed & (1 << fd)) == 0 || absl::StrContains(target, "/dev/null")) << target;
    }
  }
}

TEST_F(StartTest, F27_InheritedMasksAndDispositionsAreUndone) {
  Scenario scenario;
  scenario.main_cf = "daemon_timeout = 3s\n";
  scenario.master.in_child = [] {
    sigset_t all;
    sigfillset(&all);
    os::Sigmask(SIG_SETMASK, &all, nullptr);
    struct sigaction ignore;
    std::memset(&ignore, 0, sizeof(ignore));
    ignore.sa_handler = SIG_IGN;
    for (const int signal : {SIGHUP, SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1}) {
      os::Sigaction(signal, &ignore, nullptr);
    }
  };
  Start(scenario);
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
  Start(std::move(scenario));
  LineClient client = Connect();
  ASSERT_TRUE(client.Send("HANG\n"));
  EXPECT_EQ(WaitForEnd(absl::Seconds(15)), 1);
  EXPECT_TRUE(WaitForLog("watchdog"));
}

TEST_F(StartTest, F67_AHostileEnvironmentChangesNothing) {
  std::vector<std::string> environment = {"LC_ALL=de_DE.UTF-8", "MALLOC_PERTURB_=1", "IFS=x",
                                          "TZ=:/etc/shadow"};
  for (int i = 0; i < 2000; ++i) environment.push_back(absl::StrCat("VARIABLE", i, "=x"));
  StartWith({}, "", "", environment);
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
}

TEST_F(StartTest, S11_OnATerminalWithoutItsFlagAWorkerRefuses) {
  UniqueFd terminal(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(terminal.valid());
  ASSERT_EQ(grantpt(terminal.get()), 0);
  ASSERT_EQ(unlockpt(terminal.get()), 0);
  UniqueFd other(open(ptsname(terminal.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(other.valid());
  Scenario scenario;
  scenario.master.more_descriptors = {{0, other.get()}};
  Start(scenario);
  EXPECT_EQ(WaitForEnd(), 1);
  EXPECT_TRUE(WaitForLog("fatal"));
  // It is told where the person looks: on standard error.
  EXPECT_TRUE(
      absl::StrContains(ReadFileOrEmpty(master_->scratch().Path("stderr")), "test_service"));
  scenario.arguments.detached = false;  // -d
  Start(std::move(scenario));
  EXPECT_EQ(Connect().Ask("ECHO x"), "x");
}

TEST_F(StartTest, S17_TheDebuggerRunsOnRequest) {
  for (const bool by_option : {true, false}) {
    Scenario scenario;
    scenario.main_cf = "debugger_command = echo $process_name $process_id >debugged\n";
    if (by_option) {
      scenario.configured = {"-D"};
    } else {
      scenario.master.environment = {"MAIL_DEBUG="};
    }
    // The shell finds its commands by a path.
    scenario.master.environment.push_back("PATH=/usr/bin:/bin");
    Start(std::move(scenario));
    EXPECT_EQ(Connect().Ask("ECHO x"), "x");
    std::string found;
    for (const char* place : {"spool/debugged", "debugged"}) {
      found += ReadFileOrEmpty(master_->scratch().Path(place));
    }
    EXPECT_EQ(found, absl::StrCat("test_service ", pid_, "\n"));
  }
}

TEST_F(StartTest, F28_AWorkerWithoutALogServesAllTheSame) {
  Scenario scenario;
  scenario.master.collect_log = false;
  scenario.main_cf = "maillog_file = /var/log/x\n";
  scenario.configured = {"-v"};
  Start(std::move(scenario));
  LineClient client = Connect();
  for (int i = 0; i < 300; ++i) ASSERT_EQ(client.Ask("LOG into the void"), "logged");
  client.Close();
  kill(pid_, SIGTERM);
  EXPECT_EQ(WaitForEnd(absl::Seconds(10)), 0);
}

// --- Privileges ---

class PrivilegesTest : public StartTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "changing the user and the root needs root";
  }
};

TEST_F(PrivilegesTest, S20_UnprivilegedMeansTheMailOwnerAndNobodyElse) {
  Scenario scenario;
  scenario.arguments.unprivileged = true;
  scenario.master.in_child = [] {
    // F58: groups of the starter must not stay.
    const gid_t groups[] = {4, 20, 27};
    if (setgroups(3, groups) != 0) _exit(1);
  };
  Start(std::move(scenario));
  const passwd* owner = getpwnam("mail");
  ASSERT_NE(owner, nullptr);
  EXPECT_EQ(Connect().Ask("WHO"),
            absl::StrCat("uid=", owner->pw_uid, ",", owner->pw_uid, ",", owner->pw_uid,
                         " gid=", owner->pw_gid, " groups=", owner->pw_gid,
                         " cwd=", master_->queue_directory(), " passwd=yes"));
  // S18, S21: one hook before, one after.
  EXPECT_TRUE(master_->LogContains("hook pre_init uid=0,0,0"));
  EXPECT_TRUE(master_->LogContains(absl::StrCat("hook post_init uid=", owner->pw_uid)));
}

TEST_F(PrivilegesTest, S20_ChrootAlone) {
  Scenario scenario;
  scenario.arguments.chroot = true;
  Start(std::move(scenario));
  EXPECT_TRUE(absl::EndsWith(Connect().Ask("WHO"), "cwd=/ passwd=no"));
  EXPECT_TRUE(absl::StartsWith(Connect().Ask("WHO"), "uid=0,0,0 "));
}

TEST_F(PrivilegesTest, S20_ChrootAndUnprivileged) {
  for (const char* transport : {"unix", "inet", "pass"}) {
    Scenario scenario;
    scenario.arguments.chroot = true;
    scenario.arguments.unprivileged = true;
    scenario.arguments.transport = transport;
    // The sanitizer's search for leaks needs a /proc, which the jail has not.
    scenario.master.environment = {"ASAN_OPTIONS=detect_leaks=0"};
    Start(std::move(scenario));
    const std::string answer = Connect().Ask("WHO");
    EXPECT_FALSE(absl::StartsWith(answer, "uid=0")) << answer;
    EXPECT_TRUE(absl::EndsWith(answer, "cwd=/ passwd=no")) << answer;
    // F62: logging and the whole life work in the jail.
    EXPECT_EQ(Connect().Ask("LOG from the jail"), "logged");
    EXPECT_TRUE(WaitForLog("from the jail"));
    LineClient client = Connect();
    EXPECT_TRUE(absl::StartsWith(client.Ask("DRAIN"), "drained"));
    EXPECT_EQ(client.Ask("ECHO x"), "x");
    EXPECT_EQ(WaitForEnd(), 0);
  }
}

TEST_F(PrivilegesTest, S13_TheOptionsMeanWhatTheParametersSayInTheEnd) {
  const TempDir other;
  Scenario scenario;
  // Behind -c and -u, which are resolved only when all parameters have their values.
  scenario.configured = {
      "-c", "-u", "-o", "mail_owner=bin", "-o", "queue_directory=" + other.path()};
  scenario.master.environment = {"ASAN_OPTIONS=detect_leaks=0"};
  Start(std::move(scenario));
  const passwd* owner = getpwnam("bin");
  ASSERT_NE(owner, nullptr);
  EXPECT_TRUE(absl::StartsWith(Connect().Ask("WHO"), absl::StrCat("uid=", owner->pw_uid, ",")))
      << log();
  char root[4096] = {};
  ASSERT_GT(readlink(absl::StrCat("/proc/", pid_, "/root").c_str(), root, sizeof(root) - 1), 0);
  EXPECT_EQ(std::string(root), other.path());
}

TEST_F(PrivilegesTest, S19_TheTimeZoneIsLoadedBeforeTheJail) {
  // A zone that no system has: a quarter to six east of Greenwich, in a file outside the jail.
  constexpr int kOffset = 5 * 3600 + 45 * 60;
  std::string zone = "TZif";
  zone.append(1 + 15 + 4 * 4, '\0');
  for (const int number : {1, 4, kOffset}) {
    for (int shift = 24; shift >= 0; shift -= 8) zone.push_back(static_cast<char>(number >> shift));
  }
  zone.append(2, '\0');
  zone.append("TST", 4);
  const TempDir zones;
  Scenario scenario;
  scenario.arguments.chroot = true;
  scenario.arguments.unprivileged = true;
  scenario.master.environment = {"TZ=:" + zones.WriteFile("Here", zone),
                                 "ASAN_OPTIONS=detect_leaks=0"};
  Start(std::move(scenario));
  const auto clock = [] {
    return absl::FormatTime("%H:%M:", absl::Now() + absl::Seconds(kOffset), absl::UTCTimeZone());
  };
  const std::string before = clock();
  EXPECT_EQ(Connect().Ask("LOG from the jail"), "logged");
  ASSERT_TRUE(WaitForLog("from the jail"));
  const std::string after = clock();
  for (const absl::string_view line : absl::StrSplit(log(), '\n')) {
    if (!absl::StrContains(line, "from the jail")) continue;
    EXPECT_TRUE(absl::StrContains(line, " " + before) || absl::StrContains(line, " " + after))
        << line;
  }
}

TEST_F(PrivilegesTest, C79_MainCfNeedBeReadableForRootAlone) {
  Scenario scenario;
  scenario.arguments.chroot = true;
  scenario.arguments.unprivileged = true;
  scenario.main_cf = "test_int = 44\n";
  scenario.master.environment = {"ASAN_OPTIONS=detect_leaks=0"};
  master_ = MakeMaster(std::move(scenario));
  const std::string path = master_->scratch().Path("etc/main.cf");
  ASSERT_EQ(chown(path.c_str(), 0, 0), 0);
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  pid_ = master_->Spawn().value();
  LineClient client = Connect();
  EXPECT_EQ(client.Ask("PARAM test_int"), "[44]");
  EXPECT_FALSE(absl::StartsWith(client.Ask("WHO"), "uid=0"));
  // It is not in the jail either.
  EXPECT_NE(access(absl::StrCat("/proc/", pid_, "/root", path).c_str(), F_OK), 0);
}

TEST_F(PrivilegesTest, F60_TheWayBackIsClosed) {
  Scenario scenario;
  scenario.arguments.unprivileged = true;
  Start(std::move(scenario));
  ASSERT_EQ(Connect().Ask("ECHO x"), "x");
  const std::string status = ReadFileOrEmpty(absl::StrCat("/proc/", pid_, "/status"));
  for (const char* set : {"CapInh:", "CapPrm:", "CapEff:", "CapAmb:"}) {
    EXPECT_TRUE(absl::StrContains(status, absl::StrCat(set, "\t0000000000000000"))) << status;
  }
}

TEST_F(PrivilegesTest, F63_UnknownAndPrivilegedOwnersAreRefused) {
  for (const char* owner : {"nosuchuser", "root"}) {
    StartWith({"-u"}, absl::StrCat("mail_owner = ", owner, "\n"));
    EXPECT_EQ(WaitForEnd(), 1);
    EXPECT_TRUE(WaitForLog("mail_owner"));
    EXPECT_FALSE(master_->LogContains("hook post_init"));
  }
}

// --- Without a master ---

class StandaloneTest : public testing::Test {
 protected:
  // Starts the service with these arguments and nothing from a master.
  void Start(std::vector<std::string> arguments, std::vector<std::string> environment = {},
             std::map<int, int> descriptors = {}) {
    UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    UniqueFd output(
        open(scratch_.Path("output").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    ChildPlan plan;
    plan.program = ServiceProgram();
    plan.arguments = std::move(arguments);
    plan.arguments.insert(plan.arguments.begin(), "test_service");
    plan.environment = std::move(environment);
    plan.descriptors = std::move(descriptors);
    plan.descriptors.insert({0, null.get()});
    plan.descriptors.insert({1, output.get()});
    plan.descriptors.insert({2, output.get()});
    pid_ = StartChild(plan).value();
  }
  std::string output() const { return ReadFileOrEmpty(scratch_.Path("output")); }
  LineClient ConnectTo(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const bool connected = WaitUntil([&] {
      return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    });
    EXPECT_TRUE(connected) << path << "\n" << output();
    return LineClient(std::move(fd));
  }
  LineClient ConnectTo(int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    UniqueFd fd;
    const bool connected = WaitUntil([&] {
      fd.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    });
    EXPECT_TRUE(connected) << port << "\n" << output();
    return LineClient(std::move(fd));
  }
  int WaitForEnd() { return ExitCode(WaitForExit(pid_)); }
  int Stop() {
    kill(pid_, SIGTERM);
    return WaitForEnd();
  }
  // A listening socket of the test, with its port.
  UniqueFd Listen(int* port) {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_EQ(listen(fd.get(), 10), 0);
    getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
    *port = ntohs(address.sin_port);
    return fd;
  }

  FdLeakCheck fds_;
  ChildCheck children_;
  TempDir scratch_;
  pid_t pid_ = 0;
};

// The default main.cf may or may not be there; tests that must not depend on it name one.
std::vector<std::string> Configuration(const TempDir& scratch, const std::string& text) {
  scratch.WriteFile("main.cf", text);
  const timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  EXPECT_EQ(utimensat(AT_FDCWD, scratch.Path("main.cf").c_str(), long_ago, 0), 0);
  return {"MAIL_CONFIG=" + scratch.path()};
}

// What comes first hides what comes later.
TEST_F(StandaloneTest, S12_S14_ParametersOfTheServiceThenTransportThenGeneration) {
  struct Case {
    const char* test_int;
    const char* generation;
    const char* says;
    std::vector<std::string> hides;
  };
  const Case cases[] = {
      {"101", "x", "service parameters: ", {"transport", "GENERATION"}},
      {"44", "x", "transport: ", {"test_int", "GENERATION"}},
      {"44", "8", "transport: ", {"test_int", "GENERATION"}},
  };
  for (const Case& one : cases) {
    unlink(scratch_.Path("output").c_str());
    std::vector<std::string> environment =
        Configuration(scratch_, absl::StrCat("test_int = ", one.test_int, "\n"));
    environment.push_back(absl::StrCat("GENERATION=", one.generation));
    Start({"-V"}, environment);
    EXPECT_EQ(WaitForEnd(), 1);
    EXPECT_TRUE(absl::StrContains(output(), absl::StrCat("fatal: ", one.says))) << output();
    for (const std::string& word : one.hides) {
      EXPECT_FALSE(absl::StrContains(output(), word)) << output();
    }
  }
  // S14 before S15: with a transport, the generation is what is wrong.
  unlink(scratch_.Path("output").c_str());
  std::vector<std::string> environment = Configuration(scratch_, "");
  environment.push_back("GENERATION=x");
  Start({"-V", "-t", "inet"}, environment);
  EXPECT_EQ(WaitForEnd(), 1);
  EXPECT_TRUE(absl::StrContains(output(), "fatal: generation: ")) << output();
}

// PO14: a socket pair, a pipe and a listener in the right places are a master.
TEST_F(StandaloneTest, P24_PO14_WithoutAGenerationItsMessagesSayZero) {
  int pipe_ends[2], channel_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK), 0);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel_ends), 0);
  UniqueFd flow_read(pipe_ends[0]), flow_write(pipe_ends[1]);
  UniqueFd ours(channel_ends[0]), theirs(channel_ends[1]);
  int port = 0;
  UniqueFd listener = Listen(&port);
  ASSERT_EQ(fcntl(listener.get(), F_SETFL, O_NONBLOCK), 0);
  Start({"-t", "inet"},
        Configuration(scratch_, absl::StrCat("queue_directory = ", scratch_.path(), "\n")),
        {{3, flow_read.get()}, {4, flow_write.get()}, {5, theirs.get()}, {6, listener.get()}});
  LineClient client = ConnectTo(port);
  EXPECT_EQ(client.Ask("ECHO x"), "x");
  for (const int32_t availability : {0, 1}) {
    char bytes[kStatusMessageSize];
    ASSERT_TRUE(WaitForEvents(ours.get(), POLLIN));
    ASSERT_EQ(recv(ours.get(), bytes, sizeof(bytes), MSG_DONTWAIT), 12);
    const absl::StatusOr<StatusMessage> message =
        DecodeStatusMessage(absl::string_view(bytes, sizeof(bytes)));
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->pid, pid_);
    EXPECT_EQ(message->generation, 0u);
    EXPECT_EQ(message->availability, availability);
  }
  client.Close();
  EXPECT_EQ(Stop(), 0);
}

TEST_F(StandaloneTest, SO18_ServersMayRunOneAfterAnotherInOneProcess) {
  const std::string path = scratch_.Path("socket");
  Start({"--listen", "unix:" + path}, {"POSTHOUSE_TEST=runs=3"});
  for (int run = 1; run <= 3; ++run) {
    LineClient client = ConnectTo(path);
    EXPECT_EQ(client.Ask("PID"), absl::StrCat(pid_));
    // Nothing of the run before is left: neither its counts nor a limit that was set.
    EXPECT_EQ(client.Ask("LIMITS"), "use_limit=0 idle_limit=0 clients=1 uses=0");
    EXPECT_EQ(client.Ask("SETUSE 5"), "ok");
    EXPECT_EQ(client.Ask("SETIDLE 7000"), "ok");
    for (int i = 0; i < 3; ++i) EXPECT_EQ(ConnectTo(path).Ask("ECHO x"), "x");
    EXPECT_EQ(client.Ask("EXIT"), "exiting");
    // Its socket is gone before the next one makes its own.
    EXPECT_TRUE(client.WaitClosed());
    EXPECT_TRUE(WaitUntil([&] { return Count(output(), "hook on_exit") == run; })) << output();
  }
  EXPECT_EQ(WaitForEnd(), 0);
}

TEST_F(StandaloneTest, ListensOnALocalSocketAndLogsToStandardError) {
  const std::string path = scratch_.Path("socket");
  Start({"--listen", "unix:" + path});
  LineClient client = ConnectTo(path);
  EXPECT_EQ(client.Ask("ECHO x"), "x");
  EXPECT_TRUE(absl::StrContains(output(), "hook post_init")) << output();
  client.Close();
  EXPECT_EQ(Stop(), 0);
  EXPECT_TRUE(absl::StrContains(output(), "hook on_exit"));
  // F97: an orderly end removes what it made.
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST_F(StandaloneTest, ListensOnSeveralSocketsOfBothKinds) {
  int port = 0;
  { UniqueFd probe = Listen(&port); }
  const std::string path = scratch_.Path("socket");
  Start({absl::StrCat("--listen=inet:127.0.0.1:", port), "--listen", "unix:" + path,
         "--listen-mode", "0622"});
  EXPECT_EQ(ConnectTo(port).Ask("ECHO x"), "x");
  EXPECT_EQ(ConnectTo(path).Ask("ECHO y"), "y");
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0622u);
  EXPECT_EQ(Stop(), 0);
}

TEST_F(StandaloneTest, TakesTheSocketsOfSystemd) {
  int port = 0;
  UniqueFd listener = Listen(&port);
  // LISTEN_PID is the number of the process, which only it knows: a shell fills it in.
  ChildPlan plan;
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  UniqueFd errors(
      open(scratch_.Path("output").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  plan.program = "/bin/sh";
  plan.arguments = {"sh", "-c", "LISTEN_PID=$$ exec \"$0\"", ServiceProgram()};
  plan.environment = {"LISTEN_FDS=1"};
  plan.descriptors = {{0, null.get()}, {1, null.get()}, {2, errors.get()}, {3, listener.get()}};
  pid_ = StartChild(plan).value();
  LineClient client = ConnectTo(port);
  EXPECT_EQ(client.Ask("ECHO x"), "x");
  const std::string fds = client.Ask("FDS");
  EXPECT_FALSE(absl::StrContains(fds, " 3=socket")) << fds;
  client.Close();
  EXPECT_EQ(Stop(), 0);
}

TEST_F(StandaloneTest, IgnoresDescriptorsMeantForAnotherProcess) {
  int port = 0;
  UniqueFd listener = Listen(&port);
  Start({}, {"LISTEN_FDS=1", "LISTEN_PID=1"}, {{3, listener.get()}});
  EXPECT_EQ(WaitForEnd(), 1);
}

TEST_F(StandaloneTest, F32_DescriptorsInThePlaceOfAMastersMeanNothing) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  const std::string path = scratch_.Path("socket");
  Start({"--listen", "unix:" + path}, {},
        {{3, read_end.get()}, {4, write_end.get()}, {5, write_end.get()}});
  LineClient client = ConnectTo(path);
  EXPECT_EQ(client.Ask("ECHO x"), "x");
  write_end.Reset();
  // Nothing was written to them, and they are closed.
  char byte;
  EXPECT_TRUE(WaitForEvents(read_end.get(), POLLIN));
  EXPECT_EQ(read(read_end.get(), &byte, 1), 0);
  client.Close();
  EXPECT_EQ(Stop(), 0);
}

TEST_F(StandaloneTest, SigtermServesPresentClientsFirst) {
  const std::string path = scratch_.Path("socket");
  Start({"--listen", "unix:" + path}, {"POSTHOUSE_TEST=slow_exit_limit=20000"});
  LineClient client = ConnectTo(path);
  ASSERT_TRUE(client.Send("DEFER 300 x\n"));
  absl::SleepFor(absl::Milliseconds(100));
  kill(pid_, SIGTERM);
  EXPECT_EQ(client.ReadLine(), "300 x");
  client.Close();
  EXPECT_EQ(WaitForEnd(), 0);
}

TEST_F(StandaloneTest, RestrictionsOfAMasterAreNotEnforced) {
  const std::string path = scratch_.Path("socket");
  Start({"--listen", "unix:" + path}, {"POSTHOUSE_TEST=solitary unlimited in_flow_delay"});
  EXPECT_EQ(ConnectTo(path).Ask("ECHO x", absl::Seconds(10)), "x");
  EXPECT_EQ(Stop(), 0);
}

TEST_F(StandaloneTest, AConfigurationIsUsedWhenItIsThere) {
  const std::string path = scratch_.Path("socket");
  Start({"--listen", "unix:" + path, "-o", "test_str=overridden"},
        Configuration(scratch_, absl::StrCat("test_int = 44\nqueue_directory = ", scratch_.path(),
                                             "\nmail_owner = nosuchuser\n")));
  LineClient client = ConnectTo(path);
  EXPECT_EQ(client.Ask("PARAM test_int"), "[44]");
  EXPECT_EQ(client.Ask("PARAM test_str"), "[overridden]");
  client.Close();
  EXPECT_EQ(Stop(), 0);
}

TEST_F(StandaloneTest, ABadConfigurationIsOneClearLine) {
  Start({"--listen", "unix:" + scratch_.Path("socket")}, Configuration(scratch_, "test_int = x\n"));
  EXPECT_EQ(WaitForEnd(), 1);
  EXPECT_TRUE(absl::StrContains(output(), "test_int")) << output();
  EXPECT_EQ(Count(output(), "fatal:"), 1);
}

TEST_F(StandaloneTest, BadListenTextsAreNamed) {
  for (const char* text : {"inet:", "tcp:127.0.0.1:1", "unix:", "inet:127.0.0.1:99999"}) {
    Start({"--listen", text});
    EXPECT_EQ(WaitForEnd(), 1);
    EXPECT_TRUE(absl::StrContains(output(), text)) << output();
  }
}

TEST_F(StandaloneTest, HelpAndVersionAnswerAndDoNothingElse) {
  Start({"--help"});
  EXPECT_EQ(WaitForEnd(), 0);
  for (const char* word : {"--listen", "test_service", "test_int", "test_str", "black-box", "-o"}) {
    EXPECT_TRUE(absl::StrContains(output(), word)) << output();
  }
  EXPECT_FALSE(absl::StrContains(output(), "hook"));
  unlink(scratch_.Path("output").c_str());
  Start({"--version"});
  EXPECT_EQ(WaitForEnd(), 0);
  EXPECT_TRUE(absl::StrContains(output(), "4.7.11")) << output();
}

TEST_F(StandaloneTest, F69_WithoutArgumentsItExplainsItself) {
  Start({});
  EXPECT_EQ(WaitForEnd(), 1);
  EXPECT_TRUE(absl::StrContains(output(), "--listen")) << output();
  EXPECT_TRUE(absl::StrContains(output(), "master")) << output();
}

}  // namespace
}  // namespace posthouse

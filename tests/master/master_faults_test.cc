// Workers that misbehave under a running master: only their own clients notice. The real program
// with real workers.

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/line_client.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/master_process.h"

namespace posthouse {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class MasterFaultsTest : public testing::Test {
 protected:
  MasterFaultsTest() {
    master_.AddProgram("echo", "echo");
    master_.AddProgram("scripted", "scripted_worker");
  }

  std::string Ask(absl::string_view path) { return AskOnce(master_.Connect(path), "hello"); }
  // A worker that counts its starts in a file before it does as told.
  void AddCounted(absl::string_view name, absl::string_view then) {
    master_.AddScript(name, absl::StrCat("echo x >>", master_.path("starts"), "\n", then));
  }
  bool SignalPending(int signal) {
    const std::string status = ReadFileOrEmpty(absl::StrCat("/proc/", master_.pid(), "/status"));
    const size_t at = status.find("ShdPnd:\t");
    uint64_t pending = 0;
    if (at == std::string::npos || !absl::SimpleHexAtoi(status.substr(at + 8, 16), &pending)) {
      return false;
    }
    return (pending >> (signal - 1) & 1) != 0;
  }
  int Starts() { return Occurrences(ReadFileOrEmpty(master_.path("starts")), "x"); }

  FdLeakCheck fds_;
  ChildCheck children_;
  MasterProcess master_;
};

// M74, M75, M76, F79: a worker that fails at start is told, throttled, and tried again; the client
// waits meanwhile, and other services do not notice.
TEST_F(MasterFaultsTest, ABadStartThrottlesAndTheServiceRecovers) {
  AddCounted("flaky", absl::StrCat("test -e ", master_.path("good"), " || exit 3\nexec ",
                                   master_.path("bin/echo"), " \"$@\""));
  master_.SetTable({"bad unix - n n - 3 flaky", "good unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LineClient waiting = master_.Connect("private/bad");
  ASSERT_TRUE(waiting.Send("hello\n"));
  ASSERT_TRUE(master_.WaitForLog("bad command startup -- throttling", 2)) << master_.Log();
  const std::string program = master_.path("bin/flaky");
  EXPECT_THAT(
      master_.Log(),
      AllOf(HasSubstr(absl::StrCat("warning: process ", program, " pid ")),
            HasSubstr(" exit status 3\n"),
            HasSubstr(absl::StrCat("warning: ", program, ": bad command startup -- throttling"))));
  EXPECT_EQ(Ask("private/good"), "hello");
  EXPECT_LE(Starts(), 3);  // one for each second of the throttle
  master_.AddScript("../good", "");
  EXPECT_EQ(waiting.ReadLine(), "hello");
}

// F78: one report that names service and cause; recovery without a reload.
TEST_F(MasterFaultsTest, AProgramThatIsMissingIsNamedAndMayComeLater) {
  master_.AddScript("later", "");
  ASSERT_EQ(chmod(master_.path("bin/later").c_str(), 0644), 0);
  master_.SetTable({"late unix - n n - 3 later", "good unix - n n - 3 echo"});
  if (!master_.Start()) {
    // Refused as a whole is as good an answer.
    EXPECT_THAT(master_.Log(), HasSubstr("bin/later"));
    return;
  }
  LineClient waiting = master_.Connect("private/late");
  ASSERT_TRUE(waiting.Send("hello\n"));
  ASSERT_TRUE(master_.WaitForLog("bad command startup -- throttling")) << master_.Log();
  EXPECT_THAT(master_.Log(), AllOf(HasSubstr("service late unix: "), HasSubstr("bin/later"),
                                   HasSubstr("Permission denied"), HasSubstr("exit status 1")));
  EXPECT_EQ(Ask("private/good"), "hello");
  master_.AddScript("later", absl::StrCat("exec ", master_.path("bin/echo"), " \"$@\""));
  EXPECT_EQ(waiting.ReadLine(), "hello");
}

// MO4: an exit with 0 at once is no reason to throttle, and none to spin.
TEST_F(MasterFaultsTest, AWorkerThatExitsWithZeroAtOnceIsNotStartedWithoutEnd) {
  AddCounted("brief", "exit 0");
  master_.SetTable({"brief unix - n n - 3 brief", "good unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LineClient waiting = master_.Connect("private/brief");
  ASSERT_TRUE(waiting.valid());
  // 3 at once, then after 100, 200, 400, 800 ms ...
  const absl::Time begin = absl::Now();
  ASSERT_TRUE(WaitUntil([&] { return Starts() >= 6; })) << master_.Log();
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(300));
  EXPECT_EQ(Ask("private/good"), "hello");
  EXPECT_THAT(master_.Log(),
              AllOf(HasSubstr("ends at once with exit status 0"), Not(HasSubstr("throttling"))));
}

// F75: the only worker is stopped; a new client is served within 6 s.
TEST_F(MasterFaultsTest, AStoppedWorkerDoesNotSilenceTheService) {
  master_.SetTable({"one unix - n n - 1 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  const pid_t worker = *master_.Workers().begin();
  kill(worker, SIGSTOP);
  EXPECT_EQ(master_.Connect("private/one").Ask("hello", absl::Seconds(6)), "hello")
      << master_.Log();
  EXPECT_NE(kill(worker, 0), 0);
  EXPECT_THAT(master_.Log(), HasSubstr("does nothing while a client waits: it is killed"));
}

// F80: the loss of one worker is the loss of one worker.
TEST_F(MasterFaultsTest, AKilledWorkerIsReplacedAtOnce) {
  master_.SetTable({"one unix - n n - 2 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  for (int i = 0; i < 10; ++i) {
    LineClient client = master_.Connect("private/one");
    EXPECT_EQ(client.Ask("hello", absl::Seconds(5)), "hello") << master_.Log();
    // By then the master has been told of the first one, so this is no start that failed.
    EXPECT_EQ(client.Ask("hello", absl::Seconds(5)), "hello") << master_.Log();
    for (const pid_t worker : master_.Workers()) kill(worker, SIGKILL);
  }
  EXPECT_THAT(master_.Log(), AllOf(HasSubstr("killed by signal 9"), Not(HasSubstr("throttling"))));
}

// F81: many at once are all noticed.
TEST_F(MasterFaultsTest, ManyDeathsAtOnceAreAllNoticed) {
  master_.SetTable({"one unix - n n - 50 scripted taken avail taken forever"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  std::vector<LineClient> clients;
  constexpr size_t kWorkers = 50;
  for (int round = 0; round < 3; ++round) {
    // Each worker is busy, so each client starts another one.
    clients.push_back(master_.Connect("private/one"));
    ASSERT_TRUE(WaitUntil([&] { return master_.Workers().size() == kWorkers; })) << master_.Log();
    const std::set<pid_t> workers = master_.Workers();
    for (const pid_t worker : workers) kill(worker, SIGKILL);
    ASSERT_TRUE(master_.WaitForLog("killed by signal 9", (round + 1) * static_cast<int>(kWorkers)));
  }
  ASSERT_TRUE(WaitUntil([&] { return master_.Workers().size() == kWorkers; })) << master_.Log();
  EXPECT_EQ(master_.LogCount("killed by signal 9"), 3 * static_cast<int>(kWorkers));
}

// MO3, F70 to F72, F124: whatever a worker writes to its channel is gossip, and told with measure.
TEST_F(MasterFaultsTest, GossipOnTheStatusChannelHarmsNobody) {
  // A message in the name of process 1; half a message; a flood of rubbish; then it serves.
  AddCounted("liar", absl::StrCat("printf '\\1\\0\\0\\0\\1\\0\\0\\0\\1\\0\\0\\0' >&5\n"
                                  "printf 'abcde' >&5\n"
                                  "i=0; while [ $i -lt 300 ]; do printf 'rubbish rubbish' >&5; "
                                  "i=$((i+1)); done\nexec ",
                                  master_.path("bin/echo"), " \"$@\""));
  master_.SetTable({"liar unix - n n - 3 liar", "good unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/liar"), "hello");
  EXPECT_EQ(Ask("private/good"), "hello");
  ASSERT_TRUE(master_.WaitForLog("warning: service liar unix")) << master_.Log();
  EXPECT_EQ(Ask("private/liar"), "hello");
  EXPECT_LT(master_.LogCount("warning"), 10) << master_.Log();
  EXPECT_EQ(Starts(), 1);
}

// F65: a worker that shuts the shared listener down costs a second at most.
TEST_F(MasterFaultsTest, AListenerThatAWorkerShutDownListensAgain) {
  const int port = FreeTcpPort();
  master_.SetTable(
      {absl::StrCat("127.0.0.1:", port, " inet n n n - 3 scripted avail shutdown master")});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LineClient first = ConnectTcp(port);
  ASSERT_TRUE(master_.WaitForLog("shut a listener down")) << master_.Log();
  EXPECT_TRUE(WaitUntil([&] { return ConnectTcp(port).valid(); }, absl::Seconds(5)))
      << master_.Log();
}

// F125: neither clients nor reloads end a master that gets no memory, and then it goes on.
TEST_F(MasterFaultsTest, ALackOfMemoryEndsNothing) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer's own memory is most of what the limit would count";
#endif
  std::vector<std::string> table;
  for (int i = 0; i < 50; ++i) table.push_back(absl::StrCat("s", i, " unix - n n - 3 echo"));
  master_.SetTable(table);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/s0"), "hello");
  rlimit before = {};
  ASSERT_EQ(prlimit(master_.pid(), RLIMIT_AS, nullptr, &before), 0);
  const rlimit none = {4096, before.rlim_max};
  ASSERT_EQ(prlimit(master_.pid(), RLIMIT_AS, &none, nullptr), 0);
  std::vector<LineClient> clients;
  for (int i = 0; i < 20; ++i) {
    table.push_back(absl::StrCat("more", i, " unix - n n - 3 echo ", std::string(1000, 'x')));
    master_.SetTable(table);
    master_.Signal(SIGHUP);
    clients.push_back(master_.Connect(absl::StrCat("private/s", i + 1)));
    EXPECT_TRUE(clients.back().valid());
    // Logging needs memory too; that the signal was taken shows without it.
    ASSERT_TRUE(WaitUntil([&] { return !SignalPending(SIGHUP); }));
  }
  ASSERT_EQ(prlimit(master_.pid(), RLIMIT_AS, &before, nullptr), 0);
  EXPECT_TRUE(WaitUntil([&] { return master_.Reload(); })) << master_.Log();
  for (LineClient& client : clients) EXPECT_EQ(client.Ask("hello"), "hello") << master_.Log();
  EXPECT_EQ(Ask("private/s30"), "hello");
  EXPECT_EQ(Ask("private/more19"), "hello");
  EXPECT_THAT(master_.Log(), AllOf(HasSubstr("error: "), Not(HasSubstr("fatal"))));
}

// F100, F12: a reload that gets no descriptors changes nothing.
TEST_F(MasterFaultsTest, ALackOfDescriptorsEndsNothing) {
  master_.SetTable({"one unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  const std::set<pid_t> workers = master_.Workers();
  rlimit before = {};
  ASSERT_EQ(prlimit(master_.pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit tight = {FdSnapshot::TakeOf(master_.pid()).size() + 2, before.rlim_max};
  ASSERT_EQ(prlimit(master_.pid(), RLIMIT_NOFILE, &tight, nullptr), 0);
  master_.SetTable({"one unix - n n - 3 echo", "two unix - n n - 3 echo"});
  EXPECT_FALSE(master_.Reload());
  EXPECT_THAT(master_.Log(), HasSubstr("Too many open files"));
  EXPECT_EQ(Ask("private/one"), "hello");
  EXPECT_EQ(master_.Workers(), workers);
  ASSERT_EQ(prlimit(master_.pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  EXPECT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_EQ(Ask("private/two"), "hello");
}

// M62, F86: at the limit no more are started, and that is told once.
TEST_F(MasterFaultsTest, AtTheLimitClientsWaitAndOneWarningIsWritten) {
  const int port = FreeTcpPort();
  master_.SetTable({absl::StrCat("0.0.0.0:", port, " inet n n n - 2 scripted taken forever")});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  std::vector<LineClient> clients;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(ConnectTcp(port));
    ASSERT_TRUE(clients.back().valid());
  }
  const char* const warning = "service \"0.0.0.0:";
  ASSERT_TRUE(master_.WaitForLog(warning)) << master_.Log();
  EXPECT_THAT(master_.Log(), HasSubstr("has reached its process limit \"2\": new clients may"));
  // Whoever dies is replaced, and no more than that.
  for (int round = 0; round < 2; ++round) {
    const std::set<pid_t> workers = master_.Workers();
    EXPECT_EQ(workers.size(), 2u);
    kill(*workers.begin(), SIGTERM);
    EXPECT_TRUE(WaitUntil([&] {
      const std::set<pid_t> now = master_.Workers();
      return now.size() == 2 && now != workers;
    })) << master_.Log();
  }
  EXPECT_EQ(master_.LogCount(warning), 1) << master_.Log();
}

}  // namespace
}  // namespace posthouse

// Reloads of a running master: what changes takes effect, what is broken changes nothing, what runs
// goes on. The real program with real workers.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
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
using ::testing::HasSubstr;
using ::testing::Not;

class MasterReloadTest : public testing::Test {
 protected:
  MasterReloadTest() { master_.AddProgram("echo", "echo"); }

  std::string Ask(absl::string_view path) { return AskOnce(master_.Connect(path), "hello"); }
  std::string Arguments(pid_t pid) {
    std::string text = ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/cmdline"));
    for (char& c : text) {
      if (c == '\0') c = ' ';
    }
    return text;
  }

  FdLeakCheck fds_;
  ChildCheck children_;
  MasterProcess master_;
};

// M96, M97, F103.
TEST_F(MasterReloadTest, ServicesAreAddedAndRemoved) {
  master_.SetTable({"one unix - n n - 3 echo", "two unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  EXPECT_EQ(Ask("private/two"), "hello");
  const int port = FreeTcpPort();
  master_.SetTable({"two unix - n n - 3 echo", "three unix n n n - 3 echo",
                    absl::StrCat("127.0.0.1:", port, " inet n n n - 3 echo")});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_THAT(master_.Log(), AllOf(HasSubstr("reload -- version 3.7.11, configuration "),
                                   HasSubstr("2 services added, 1 removed, 1 kept")));
  EXPECT_EQ(Ask("public/three"), "hello");
  EXPECT_EQ(AskOnce(ConnectTcp(port), "hi"), "hi");
  EXPECT_EQ(Ask("private/two"), "hello");
  // Its worker was told to go; then nobody listens at the name that is left (M58, M105).
  EXPECT_TRUE(WaitUntil([&] { return !master_.Connect("private/one").valid(); }));
}

// M101, M103, M107: the worker of a service that is kept goes without a signal, and the next one
// has the new arguments and parameters.
TEST_F(MasterReloadTest, WorkersArePickedUpWithNewArguments) {
  master_.SetTable({"one unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  const std::set<pid_t> before = master_.Workers();
  master_.SetParameters({"syslog_name = changed"});
  master_.SetTable({"one unix - n n - 1 echo -o max_use=7"});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_TRUE(WaitUntil([&] { return master_.Workers().empty(); }));
  EXPECT_EQ(Ask("private/one"), "hello");
  const std::set<pid_t> after = master_.Workers();
  ASSERT_EQ(after.size(), 1u);
  EXPECT_EQ(Arguments(*after.begin()), "echo -l -n one -t unix -d -o max_use=7 ");
  EXPECT_THAT(ReadFileOrEmpty(absl::StrCat("/proc/", *after.begin(), "/environ")),
              HasSubstr("MAIL_LOGTAG=changed"));
  EXPECT_THAT(master_.Log(), AllOf(HasSubstr("changed/master["), Not(HasSubstr("warning"))));
}

// M111, F101: who waits in the backlog is served by the next worker.
TEST_F(MasterReloadTest, WaitingClientsSurvive) {
  master_.AddProgram("slow", "scripted_worker");
  master_.SetTable({"one unix - n n - 1 slow taken forever"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LineClient first = master_.Connect("private/one");
  ASSERT_TRUE(WaitUntil([&] { return master_.Workers().size() == 1; }));
  LineClient second = master_.Connect("private/one");
  ASSERT_TRUE(first.valid() && second.valid());
  master_.SetTable({"one unix - n n - 1 echo"});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  // The old worker is stuck; nothing of the master ends it in this test's time.
  for (const pid_t worker : master_.Workers()) kill(worker, SIGKILL);
  EXPECT_EQ(first.Ask("a"), "a");
  EXPECT_EQ(second.Ask("b"), "b");
}

// F100, MO2: all or nothing, told with file and line.
TEST_F(MasterReloadTest, ABrokenConfigurationChangesNothing) {
  master_.SetTable({"one unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  const std::set<pid_t> workers = master_.Workers();
  const FdSnapshot fds = FdSnapshot::TakeOf(master_.pid());
  const std::vector<std::vector<std::string>> tables = {
      {"two unix - n n - 3 echo", "one unix - n n"},
      {"one unix - n n - 3 echo", "", "two unix - n n x 3 echo"},
      {"one what - n n - 3 echo"},
      {absl::StrCat("one unix - n n - 3 echo\n", std::string(200, 'x'), " unix - n n - 1 echo")},
      {""},  // F105: an editor is at work
  };
  for (const std::vector<std::string>& table : tables) {
    master_.SetTable(table);
    EXPECT_FALSE(master_.Reload());
  }
  const std::string log = master_.Log();
  EXPECT_THAT(log, AllOf(HasSubstr("master.cf, line 2"), HasSubstr("master.cf, line 3"),
                         HasSubstr("master.cf, line 1")));
  master_.SetTable({"one unix - n n - 3 echo"});
  master_.SetParameters({"default_process_limit = many"});
  EXPECT_FALSE(master_.Reload());
  EXPECT_THAT(master_.Log(), HasSubstr("main.cf, line 9"));
  // Same workers, same descriptors, same service.
  EXPECT_EQ(master_.Workers(), workers);
  EXPECT_EQ(FdSnapshot::TakeOf(master_.pid()).DifferenceFrom(fds), "");
  EXPECT_EQ(Ask("private/one"), "hello");
  EXPECT_EQ(master_.Workers(), workers);
  EXPECT_FALSE(master_.Connect("private/two").valid());
  // And then a good one takes effect.
  master_.SetParameters({});
  master_.SetTable({"one unix - n n - 3 echo", "two unix - n n - 3 echo"});
  EXPECT_TRUE(master_.Reload());
  EXPECT_EQ(Ask("private/two"), "hello");
}

// MO6, F84: a removed service whose worker ignores TERM delays nobody, and can be added again.
TEST_F(MasterReloadTest, ARemovedServiceThatDoesNotEndDelaysNobody) {
  master_.AddScript("stubborn", absl::StrCat("trap '' TERM\n: >", master_.path("deaf"),
                                             "\nwhile :; do sleep 1; done"));
  master_.SetTable({"one unix - n n - 3 echo", "bad unix - n n - 3 stubborn"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LineClient client = master_.Connect("private/bad");
  ASSERT_TRUE(WaitUntil([&] { return access(master_.path("deaf").c_str(), F_OK) == 0; }));
  ASSERT_EQ(master_.Workers().size(), 1u);
  const pid_t stubborn = *master_.Workers().begin();
  master_.SetTable({"one unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  master_.SetTable({"one unix - n n - 3 echo", "bad unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_EQ(Ask("private/bad"), "hello");
  EXPECT_EQ(kill(stubborn, 0), 0) << "it ended by itself";
  // After its time it is killed.
  EXPECT_TRUE(WaitUntil([&] { return kill(stubborn, 0) != 0; })) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
}

// F102: a storm of signals is a few reloads, and the last file is the one in force.
TEST_F(MasterReloadTest, AStormOfSignalsIsAFewReloads) {
  master_.SetTable({"one unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  constexpr int kSignals = 1000;
  for (int i = 0; i < kSignals; ++i) {
    if (i % 100 == 99) {
      master_.SetTable(
          {"one unix - n n - 3 echo", absl::StrCat("extra", i, " unix - n n - 3 echo")});
    }
    master_.Signal(SIGHUP);
  }
  EXPECT_TRUE(WaitUntil([&] { return Ask("private/extra999") == "hello"; }));
  EXPECT_EQ(Ask("private/one"), "hello");
  EXPECT_LT(master_.LogCount("reload -- "), 100) << master_.Log();
  EXPECT_FALSE(master_.Connect("private/extra899").valid());
}

// F90: an address that another program has costs this endpoint alone, and it comes up when it can.
TEST_F(MasterReloadTest, AnOccupiedPortIsRetried) {
  master_.SetTable({"one unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  const int port = FreeTcpPort();
  UniqueFd occupier(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(occupier.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(occupier.get(), 1), 0);
  master_.SetTable({"one unix - n n - 3 echo", "two unix - n n - 3 echo",
                    absl::StrCat("127.0.0.1:", port, " inet n n n - 3 echo")});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_THAT(master_.Log(), HasSubstr("Address already in use"));
  EXPECT_EQ(Ask("private/one"), "hello");
  EXPECT_EQ(Ask("private/two"), "hello");
  occupier.Reset();
  EXPECT_TRUE(WaitUntil([&] { return AskOnce(ConnectTcp(port), "hi") == "hi"; })) << master_.Log();
  EXPECT_THAT(master_.Log(), HasSubstr(absl::StrCat("opened 127.0.0.1:", port)));
}

// M109, M110: a service that changes its type on the same path ends with the new socket on disk.
TEST_F(MasterReloadTest, AServiceCanChangeItsType) {
  master_.SetTable({"one unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  master_.SetTable({"one pass - n n - 3 echo"});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  LineClient client = master_.Connect("private/one");
  ASSERT_TRUE(client.valid());
  EXPECT_TRUE(WaitUntil([&] {
    for (const pid_t worker : master_.Workers()) {
      if (Arguments(worker) == "echo -n one -t pass -d -o stress= ") return true;
    }
    return false;
  })) << master_.Log();
}

// M52, M95: what is fixed at start stays, and that is told.
TEST_F(MasterReloadTest, WhatIsFixedAtStartIsToldWhenItChanges) {
  master_.SetTable({"one unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  // Workers read the file themselves and go there.
  ASSERT_EQ(mkdir(master_.path("elsewhere").c_str(), 0755), 0);
  master_.SetParameters({absl::StrCat("queue_directory = ", master_.path("elsewhere"))});
  master_.SetTable({"one unix - n n - 3 echo", "two unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_THAT(master_.Log(), HasSubstr("queue_directory"));
  EXPECT_THAT(master_.Log(), HasSubstr("warning"));
  EXPECT_EQ(Ask("private/two"), "hello");
}

// F127 in small: nothing grows.
TEST_F(MasterReloadTest, ManyReloadsLeaveNothingBehind) {
  std::vector<std::string> table;
  for (int i = 0; i < 10; ++i) table.push_back(absl::StrCat("s", i, " unix - n n - 3 echo"));
  master_.SetTable(table);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  auto round = [&](int i) {
    std::vector<std::string> changed = table;
    changed.erase(changed.begin() + i % 10);
    master_.SetTable(changed);
    ASSERT_TRUE(master_.Reload()) << master_.Log();
    EXPECT_EQ(Ask(absl::StrCat("private/s", (i + 1) % 10)), "hello");
    master_.SetTable(table);
    ASSERT_TRUE(master_.Reload()) << master_.Log();
  };
  round(0);
  ASSERT_TRUE(WaitUntil([&] { return master_.Workers().empty(); }));
  const size_t fds = FdSnapshot::TakeOf(master_.pid()).size();
  for (int i = 0; i < 10; ++i) round(i);
  EXPECT_TRUE(WaitUntil([&] { return master_.Workers().empty(); }));
  EXPECT_EQ(FdSnapshot::TakeOf(master_.pid()).size(), fds);
}

}  // namespace
}  // namespace posthouse

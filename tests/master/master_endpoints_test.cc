// The listen endpoints of a running master: F93, F95, F97 (M119 over it), F98, F99.

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/line_client.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/master_fault_fixture.h"

namespace posthouse {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class MasterEndpointsTest : public MasterFaultFixture {};

// --- F93 ---

LineClient ConnectTcp6(int port) {
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(static_cast<uint16_t>(port));
  address.sin6_addr = in6addr_loopback;
  UniqueFd fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return LineClient();
  }
  return LineClient(std::move(fd));
}

// The calling thread gets a network of its own with this default for IPv6 sockets; false: not here.
bool EnterNetwork(const char* v6_only) {
  if (unshare(CLONE_NEWNET) != 0) return false;
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = {};
  std::strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
  if (ioctl(fd.get(), SIOCGIFFLAGS, &request) != 0) return false;
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return false;
  std::ofstream setting("/proc/sys/net/ipv6/bindv6only");
  setting << v6_only << std::flush;
  return static_cast<bool>(setting);
}

TEST_F(MasterEndpointsTest, TheWildcardsOfBothFamiliesAreListenedToSeparately) {
  if (!IsRoot()) GTEST_SKIP() << "the test needs root for networks of its own";
  if (access("/proc/net/if_inet6", F_OK) != 0) GTEST_SKIP() << "the kernel has no IPv6";
  constexpr int kPort = 2525;
  const std::string six = absl::StrCat("[::]:", kPort, " inet n n n - 3 echo");
  const std::string four = absl::StrCat("0.0.0.0:", kPort, " inet n n n - 3 echo");
  for (const char* v6_only : {"0", "1"}) {
    for (const auto& table :
         std::vector<std::vector<std::string>>{{six, four}, {four, six}, {six}}) {
      SCOPED_TRACE(absl::StrCat("default v6-only ", v6_only, ", first ", table[0]));
      std::thread network([&] {
        ASSERT_TRUE(EnterNetwork(v6_only));
        master_.SetTable(table);
        ASSERT_TRUE(master_.Start()) << master_.Log();
        EXPECT_EQ(AskOnce(ConnectTcp6(kPort), "six"), "six") << master_.Log();
        EXPECT_TRUE(HasWorker("-n [::]:2525 "));
        // Nobody is served as a mapped address.
        EXPECT_EQ(AskOnce(ConnectTcp(kPort), "four"), table.size() == 1 ? "<refused>" : "four");
        EXPECT_EQ(HasWorker("-n 0.0.0.0:2525 "), table.size() > 1);
        master_.Kill();
      });
      network.join();
    }
  }
}

// --- F95 ---

struct Occupant {
  const char* name;
  std::function<void(const std::string& path)> make;
  bool is_replaced;
};

void BindUnix(const std::string& path, UniqueFd* fd) {
  fd->Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd->get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

TEST_F(MasterEndpointsTest, WhatOccupiesASocketsNameIsReplacedOnlyIfItIsADeadSocketOfOurs) {
  if (!IsRoot()) GTEST_SKIP() << "the test needs root for a socket of somebody else";
  UniqueFd live;
  const std::vector<Occupant> occupants = {
      {"a file", [](const std::string& path) { std::ofstream(path) << "precious"; }, false},
      {"a directory", [](const std::string& path) { mkdir(path.c_str(), 0755); }, false},
      {"a link",
       [](const std::string& path) { EXPECT_EQ(symlink("/etc/passwd", path.c_str()), 0); }, false},
      {"another account's live socket",
       [&](const std::string& path) {
         BindUnix(path, &live);
         EXPECT_EQ(listen(live.get(), 1), 0);
         EXPECT_EQ(chown(path.c_str(), 65534, 65534), 0);
       },
       false},
      {"our dead socket",
       [](const std::string& path) {
         UniqueFd dead;
         BindUnix(path, &dead);
       },
       true}};
  master_.SetTable({"other unix - n n - 3 echo"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  const std::string path = master_.QueuePath("private/one");
  for (const Occupant& occupant : occupants) {
    SCOPED_TRACE(occupant.name);
    occupant.make(path);
    struct stat before = {}, after = {};
    ASSERT_EQ(lstat(path.c_str(), &before), 0);
    // At a start it is fatal, with a reason that names it (F90).
    master_.Kill();
    master_.SetTable({"other unix - n n - 3 echo", "one unix - n n - 3 echo"});
    if (!occupant.is_replaced) {
      const MasterProcess::Outcome outcome = master_.Run({"-w"});
      EXPECT_EQ(outcome.exit_status, 1);
      EXPECT_THAT(outcome.output, AllOf(HasSubstr("private/one"), HasSubstr("line 2")));
    }
    // At a reload it costs that endpoint alone.
    master_.SetTable({"other unix - n n - 3 echo"});
    ASSERT_TRUE(master_.Start()) << master_.Log();
    const int told = master_.LogCount("private/one");
    master_.SetTable({"other unix - n n - 3 echo", "one unix - n n - 3 echo"});
    ASSERT_TRUE(master_.Reload()) << master_.Log();
    EXPECT_EQ(Ask("private/other"), "hello");
    if (occupant.is_replaced) {
      EXPECT_EQ(Ask("private/one"), "hello");
    } else {
      EXPECT_GT(master_.LogCount("private/one"), told);
      ASSERT_EQ(lstat(path.c_str(), &after), 0);
      EXPECT_EQ(after.st_ino, before.st_ino);
      EXPECT_EQ(after.st_mode, before.st_mode);
      EXPECT_EQ(after.st_uid, before.st_uid);
      if (S_ISREG(after.st_mode)) {
        EXPECT_EQ(ReadFileOrEmpty(path), "precious");
      }
      // It goes, and the endpoint comes up by itself.
      ASSERT_EQ(remove(path.c_str()), 0);
      EXPECT_TRUE(WaitUntil([&] { return Ask("private/one") == "hello"; })) << master_.Log();
    }
    master_.SetTable({"other unix - n n - 3 echo"});
    ASSERT_TRUE(master_.Reload()) << master_.Log();
    ASSERT_TRUE(WaitUntil([&] { return !master_.Connect("private/one").valid(); }));
    unlink(path.c_str());
  }
}

// --- F97 ---

// Names stay (M119), whatever ends the master, and the next one makes the same ones anew.
TEST_F(MasterEndpointsTest, AfterEveryEndTheNextStartFindsAndMakesTheSameNames) {
  master_.SetTable({"one unix - n n - 3 echo", "two unix n n n - 3 echo",
                    "three fifo n n n - 1 echo", "four unix-dgram - n n - 1 echo",
                    "five pass - n n - 1 echo"});
  std::string first;
  for (const int signal : {SIGTERM, SIGINT, SIGQUIT, SIGKILL, SIGSEGV, SIGTERM}) {
    SCOPED_TRACE(absl::StrCat("signal ", signal));
    ASSERT_TRUE(master_.Start()) << master_.Log();
    EXPECT_EQ(Ask("private/one"), "hello");
    EXPECT_EQ(Ask("public/two"), "hello");
    const std::string names = Listing(master_.QueuePath(""));
    if (first.empty()) first = names;
    EXPECT_EQ(names, first);
    EXPECT_THAT(names, AllOf(HasSubstr("private/five "), HasSubstr("public/three ")));
    kill(-master_.pid(), signal == SIGKILL ? SIGKILL : 0);
    master_.Signal(signal);
    ASSERT_TRUE(master_.WaitForEnd().has_value());
    EXPECT_EQ(Listing(master_.QueuePath("")), first);
    // A worker that dies may have the listener for a moment more.
    EXPECT_TRUE(WaitUntil([&] { return !master_.Connect("private/one").valid(); }));
  }
}

// --- F98 ---

TEST_F(MasterEndpointsTest, AfterEveryPauseTheServiceIsWatchedAgain) {
  // What the worker does is in a file.
  master_.AddScript("moody", absl::StrCat(". ", master_.path("mood")));
  const auto set_mood = [&](absl::string_view mood) {
    master_.AddScript("../mood.new", mood);
    ASSERT_EQ(rename(master_.path("mood.new").c_str(), master_.path("mood").c_str()), 0);
  };
  const std::string good = absl::StrCat("exec ", master_.path("bin/echo"), " \"$@\"");
  set_mood(good);
  master_.SetTable({"moody unix - n n - 2 moody"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  const auto end_workers = [&] {
    for (const pid_t worker : master_.Workers()) kill(worker, SIGKILL);
    ASSERT_TRUE(WaitUntil([&] { return master_.Workers().empty(); })) << master_.Log();
  };
  struct Pause {
    const char* name;
    std::string mood;
    const char* told;
  };
  const std::vector<Pause> pauses = {
      {"bad start", "exit 3", "bad command startup -- throttling"},
      {"back-off", "exit 0", "ends at once with exit status 0"},
      {"crash", "kill -SEGV $$", "killed by signal 11"},
      {"killed", "kill -KILL $$", "is killed again and again"},
      {"limit", absl::StrCat("exec ", master_.path("bin/scripted"), " taken forever"), ""},
      {"no permission", good, "Permission denied"},
  };
  for (const Pause& pause : pauses) {
    SCOPED_TRACE(pause.name);
    end_workers();
    const int told = *pause.told == '\0' ? 0 : master_.LogCount(pause.told);
    set_mood(pause.mood);
    const bool permission = pause.told != absl::string_view("Permission denied");
    ASSERT_EQ(chmod(master_.path("bin/moody").c_str(), permission ? 0755 : 0644), 0);
    std::vector<LineClient> waiting;
    for (int i = 0; i < 4; ++i) {
      waiting.push_back(master_.Connect("private/moody"));
      ASSERT_TRUE(waiting.back().Send("hello\n"));
    }
    ASSERT_TRUE(WaitUntil([&] {
      return *pause.told == '\0' ? master_.Workers().size() == 2
                                 : master_.LogCount(pause.told) > told;
    })) << master_.Log();
    set_mood(good);
    ASSERT_EQ(chmod(master_.path("bin/moody").c_str(), 0755), 0);
    for (const pid_t worker : master_.Workers()) kill(worker, SIGKILL);
    for (LineClient& client : waiting) ASSERT_EQ(client.ReadLine(), "hello") << master_.Log();
    const int64_t connects = Times(300, 10000);
    for (int64_t i = 0; i < connects; ++i) ASSERT_EQ(Ask("private/moody"), "hello") << i;
  }
  AllowLines(100);
}

// --- F99 ---

TEST_F(MasterEndpointsTest, ConnectionsThatNobodyHasAcceptedSurviveEveryWorker) {
  const int port = FreeTcpPort();
  const std::string inet = absl::StrCat("127.0.0.1:", port, " inet n n n - 2 ");
  const std::string unix = "one unix - n n - 2 ";
  master_.SetTable({inet + "scripted taken forever", unix + "scripted taken forever"});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  std::vector<LineClient> clients;
  constexpr int kQueued = 200;
  for (int i = 0; i < kQueued; ++i) {
    clients.push_back(i % 2 == 0 ? ConnectTcp(port)
                                 : ConnectAtOnce(master_.QueuePath("private/one")));
    ASSERT_TRUE(clients.back().valid()) << i;
  }
  // Workers that have accepted nobody are killed, told to end, and retired by reloads.
  const int64_t rounds = Times(9, 100);
  for (int64_t round = 0; round < rounds; ++round) {
    std::set<pid_t> workers;
    ASSERT_TRUE(WaitUntil([&] { return (workers = master_.Workers()).size() >= 2; }));
    for (const pid_t worker : workers) kill(worker, round % 2 == 0 ? SIGKILL : SIGTERM);
    ASSERT_TRUE(WaitUntil([&] {
      for (const pid_t worker : workers) {
        if (kill(worker, 0) == 0) return false;
      }
      return true;
    })) << master_.Log();
    AllowLines(4);
    if (round % 3 == 2) {
      ASSERT_TRUE(master_.Reload()) << master_.Log();
    }
  }
  // Then ones that serve a client each and retire.
  master_.SetTable({inet + "echo -o max_use=1", unix + "echo -o max_use=1"});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  for (const pid_t worker : master_.Workers()) kill(worker, SIGKILL);
  for (LineClient& client : clients) ASSERT_TRUE(client.Send("hello\n"));
  for (size_t i = 0; i < clients.size(); ++i) {
    ASSERT_EQ(clients[i].ReadLine(), "hello") << i << master_.Log();
    if (i == clients.size() / 2) {
      ASSERT_TRUE(master_.Reload()) << master_.Log();
    }
  }
}

}  // namespace
}  // namespace posthouse

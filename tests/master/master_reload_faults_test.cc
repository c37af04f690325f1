// Reloads of configurations that are broken, unreadable, changing, or many: F100, F102 to F105.

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/line_client.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/master_control.h"
#include "tests/master/master_fault_fixture.h"

namespace posthouse {
namespace {

using ::testing::HasSubstr;

class MasterReloadFaultsTest : public MasterFaultFixture {
 protected:
  MasterReloadFaultsTest() : control_(master_.path("control")) {}

  // With reloads that follow each other at once.
  void UseFastReloads() {
    control_->reload_interval_ms = 1;
    master_.UseProgram("controlled_master", control_.Variable());
  }

  MasterControl control_;
};

// --- F100 ---

// One to three edits of some bytes, words or lines.
std::string Mutated(std::string text, std::mt19937* random) {
  const auto below = [&](size_t n) { return static_cast<size_t>((*random)()) % n; };
  static const char* const kWords[] = {"inet", "unix",        "fifo", "-", "n",  "y",
                                       "-1",   "99999999999", "{",    "}", "\n", " ",
                                       "=",    "$x",          "../x", "1?"};
  for (size_t edits = 1 + below(3); edits > 0 && !text.empty(); --edits) {
    const size_t at = below(text.size());
    switch (below(5)) {
      case 0:
        text[at] = static_cast<char>(below(256));
        break;
      case 1:
        text.erase(at, 1 + below(20));
        break;
      case 2:
        text.insert(at, kWords[below(16)]);
        break;
      case 3:
        text.insert(at, text.substr(below(text.size()), below(60)));
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

TEST_F(MasterReloadFaultsTest, MutatedConfigurationsHarmNoClientAndAGoodOneTakesEffect) {
  UseFastReloads();
  // These stay; the mutations are in what follows, so one that is still right may take effect.
  const std::vector<std::string> kept = {"one unix - n n - 5 echo", "two unix - n n - 5 echo"};
  std::string others;
  for (int i = 0; i < 8; ++i) {
    absl::StrAppend(&others, "s", i, " unix - n n ", i, "? 3 echo\n  -o max_use=", i,
                    "\n# a comment\n  -o { max_idle = 7s }\n");
  }
  master_.SetTable(kept);
  ASSERT_TRUE(master_.Start()) << master_.Log();
  const pid_t pid = master_.pid();
  LoadClients load({TargetOf("private/one"), TargetOf("private/two")}, 2);
  std::mt19937 random(20261130);
  const int64_t rounds = Times(300, 1000);
  int64_t refused = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    std::vector<std::string> table = kept;
    table.push_back(Mutated(others, &random));
    master_.SetTable(table);
    // What a worker does not read, so that it is the master that refuses.
    master_.SetParameters({i % 10 == 0 ? "default_process_limit = 5x" : ""});
    if (!master_.Reload()) refused++;
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(refused, rounds / 4);
  EXPECT_LT(refused, rounds);
  ASSERT_TRUE(load.WaitForServed(load.served() + 20));
  load.Stop();
  EXPECT_EQ(load.lost(), 0) << master_.Log();
  EXPECT_EQ(master_.LockedBy(), pid);
  master_.SetParameters({});
  master_.SetTable({"one unix - n n - 5 echo", "three unix - n n - 5 echo"});
  ASSERT_TRUE(master_.Reload()) << master_.Log();
  EXPECT_EQ(Ask("private/three"), "hello");
  EXPECT_TRUE(WaitUntil([&] { return !master_.Connect("private/two").valid(); }));
  // Each reload tells its outcome, and what is wrong with how many lines.
  AllowLines(30 * rounds);
}

// --- F102 ---

TEST_F(MasterReloadFaultsTest, AStormOfReloadsUnderLoadPilesNothingUp) {
  constexpr int kLimit = 3;
  const auto table_of = [](int i) {
    return std::vector<std::string>{
        absl::StrCat("one unix - n n - ", kLimit, " echo -o max_use=", 1000 + i)};
  };
  master_.SetTable(table_of(0));
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LoadClients load({TargetOf("private/one")}, 3);
  ASSERT_TRUE(load.WaitForServed(10));
  // A thousand in a burst, then a hundred a second.
  size_t most = 0;
  int last = 0;
  const int64_t bursts = Times(1000, 1000), steady = Times(300, 6000);
  for (int64_t i = 0; i < bursts + steady; ++i) {
    if (i % 50 == 0) master_.SetTable(table_of(++last));
    master_.Signal(SIGHUP);
    if (i >= bursts || i % 50 == 0) most = std::max(most, master_.Workers().size());
    if (i >= bursts) WaitForEvents(-1, 0, absl::Milliseconds(10));
  }
  EXPECT_TRUE(WaitUntil([&] {
    const std::set<pid_t> workers = master_.Workers();
    if (workers.empty() || workers.size() > kLimit) return false;
    for (const pid_t worker : workers) {
      if (!absl::StrContains(ArgumentsOf(worker), absl::StrCat("max_use=", 1000 + last))) {
        return false;
      }
    }
    return true;
  })) << master_.Log();
  load.Stop();
  EXPECT_EQ(load.lost(), 0);
  // Those that start, those that end after their client, and the ones of a reload before.
  EXPECT_LE(most, 4u * kLimit);
  // Two lines for five reloads in a second at most.
  AllowLines(10);
}

// --- F103 ---

std::set<std::string> ListeningUnixPaths(pid_t pid) {
  std::set<std::string> inodes;
  const FdSnapshot snapshot = FdSnapshot::TakeOf(pid);
  for (const auto& [fd, target] : snapshot.fds()) {
    if (absl::StartsWith(target, "socket:[")) inodes.insert(target.substr(8, target.size() - 9));
  }
  std::set<std::string> paths;
  std::istringstream table(ReadFileOrEmpty("/proc/net/unix"));
  for (std::string line; std::getline(table, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (fields.size() < 8 || inodes.count(fields[6]) == 0 || fields[3] != "00010000") continue;
    paths.insert(fields[7]);
  }
  return paths;
}

TEST_F(MasterReloadFaultsTest, AfterRandomEditsRealityIsTheFile) {
  UseFastReloads();
  const int services = static_cast<int>(Times(20, 50));
  // name -> max_use
  std::map<std::string, int> file;
  std::mt19937 random(4711);
  const auto edit = [&] {
    const std::string name = absl::StrCat("s", random() % static_cast<unsigned>(services));
    if (random() % 3 == 0 && file.size() > 1) {
      file.erase(name);
    } else {
      file[name] = 100 + static_cast<int>(random() % 900);
    }
  };
  const auto write = [&] {
    std::vector<std::string> table = {"fixed unix - n n - 3 echo"};
    for (const auto& [name, uses] : file) {
      table.push_back(absl::StrCat(name, " unix ", name.size() % 2 == 0 ? "-" : "n",
                                   " n n - 3 echo -o max_use=", uses));
    }
    master_.SetTable(table);
  };
  const auto path_of = [](const std::string& name) {
    return absl::StrCat(name.size() % 2 == 0 ? "private/" : "public/", name);
  };
  for (int i = 0; i < services; ++i) edit();
  write();
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LoadClients load({TargetOf("private/fixed")}, 1);
  const int64_t reloads = Times(30, 500);
  for (int64_t i = 0; i < reloads; ++i) {
    for (int edits = 0; edits < 4; ++edits) edit();
    write();
    ASSERT_TRUE(master_.Reload()) << master_.Log();
    std::set<std::string> wanted = {"private/fixed"};
    for (const auto& [name, uses] : file) wanted.insert(path_of(name));
    ASSERT_EQ(ListeningUnixPaths(master_.pid()), wanted);
    for (const auto& [name, uses] : file) {
      // Whoever serves has the arguments of the file.
      ASSERT_TRUE(WaitUntil([&, name = name, uses = uses] {
        // A retired worker may have served the last one, and be gone (P43).
        EXPECT_EQ(Ask(path_of(name)), "hello") << name;
        bool right = false;
        for (const pid_t worker : master_.Workers()) {
          const std::string arguments = ArgumentsOf(worker);
          if (!absl::StrContains(arguments, absl::StrCat("-n ", name, " "))) continue;
          if (!absl::StrContains(arguments, absl::StrCat("max_use=", uses, " "))) return false;
          right = true;
        }
        return right;
      })) << name
          << " " << uses;
    }
    // Workers of what is not in the file go.
    ASSERT_TRUE(WaitUntil([&] {
      for (const pid_t worker : master_.Workers()) {
        const std::vector<std::string> words = absl::StrSplit(ArgumentsOf(worker), ' ');
        for (size_t at = 0; at + 1 < words.size(); ++at) {
          if (words[at] != "-n") continue;
          if (words[at + 1] != "fixed" && file.count(words[at + 1]) == 0) return false;
        }
      }
      return true;
    })) << master_.Log();
  }
  load.Stop();
  EXPECT_EQ(load.lost(), 0);
  AllowLines(10 * reloads);
}

// --- F104 ---

struct Obstacle {
  const char* name;
  std::function<void(const std::string& path)> make;
  const char* told;
};

std::vector<Obstacle> Obstacles() {
  return {
      {"missing", [](const std::string&) {}, "No such file"},
      {"directory", [](const std::string& path) { mkdir(path.c_str(), 0755); },
       "not a regular file"},
      {"fifo", [](const std::string& path) { mkfifo(path.c_str(), 0644); }, "not a regular file"},
      {"endless device",
       [](const std::string& path) { EXPECT_EQ(symlink("/dev/zero", path.c_str()), 0); },
       "not a regular file"},
      {"ten gigabytes",
       [](const std::string& path) {
         std::ofstream(path) << "one unix - n n - 3 echo\n";
         EXPECT_EQ(truncate(path.c_str(), 10ll << 30), 0);
       },
       "10737418240 bytes; the limit is"}};
}

TEST_F(MasterReloadFaultsTest, WhatCannotBeReadIsRefusedAtStartAndAtReload) {
  master_.SetTable({"one unix - n n - 3 echo"});
  for (const char* file : {"main.cf", "master.cf"}) {
    const std::string path = master_.EtcPath(file);
    const std::string aside = absl::StrCat(path, ".aside");
    for (const Obstacle& obstacle : Obstacles()) {
      SCOPED_TRACE(absl::StrCat(file, ": ", obstacle.name));
      ASSERT_EQ(rename(path.c_str(), aside.c_str()), 0);
      obstacle.make(path);
      const MasterProcess::Outcome outcome = master_.Run({"-w"});
      EXPECT_EQ(outcome.exit_status, 1);
      EXPECT_THAT(outcome.output, HasSubstr(path));
      EXPECT_THAT(outcome.output, HasSubstr(obstacle.told));
      remove(path.c_str());
      ASSERT_EQ(rename(aside.c_str(), path.c_str()), 0);
    }
  }
  ASSERT_TRUE(master_.Start()) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  const std::set<pid_t> workers = master_.Workers();
  const int64_t memory = PrivateMemoryOf(master_.pid());
  for (const char* file : {"main.cf", "master.cf"}) {
    const std::string path = master_.EtcPath(file);
    const std::string aside = absl::StrCat(path, ".aside");
    for (const Obstacle& obstacle : Obstacles()) {
      SCOPED_TRACE(absl::StrCat(file, ": ", obstacle.name));
      ASSERT_EQ(rename(path.c_str(), aside.c_str()), 0);
      obstacle.make(path);
      const int told = master_.LogCount(obstacle.told);
      EXPECT_FALSE(master_.Reload());
      EXPECT_GT(master_.LogCount(obstacle.told), told) << master_.Log();
      remove(path.c_str());
      ASSERT_EQ(rename(aside.c_str(), path.c_str()), 0);
      EXPECT_EQ(Ask("private/one"), "hello");
    }
  }
  EXPECT_EQ(master_.Workers(), workers);
  EXPECT_LE(PrivateMemoryOf(master_.pid()), memory + (4 << 20));
  EXPECT_TRUE(master_.Reload()) << master_.Log();
  AllowLines(60);
}

// Root reads everything, so the master is somebody else's.
TEST_F(MasterReloadFaultsTest, AFileWithoutPermissionIsRefusedAtStartAndAtReload) {
  master_.SetTable({"one unix - n n - 3 echo"});
  master_.CopyMaster();
  const std::string path = master_.EtcPath("master.cf");
  const auto launch = [&] {
    if (!IsRoot()) return master_.Launch({"-d"});
    for (const char* name : {"", "queue"}) {
      ASSERT_EQ(chown(master_.path(name).c_str(), 65534, 65534), 0);
    }
    master_.Launch({"-d"}, [] {
      if (setgid(65534) != 0 || setuid(65534) != 0) _exit(124);
    });
  };
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  launch();
  const absl::optional<int> status = master_.WaitForEnd();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(WEXITSTATUS(*status), 1);
  EXPECT_THAT(master_.Log(), HasSubstr(absl::StrCat("open ", path, ": Permission denied")));
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  launch();
  ASSERT_TRUE(master_.WaitForLog("daemon started")) << master_.Log();
  EXPECT_EQ(Ask("private/one"), "hello");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  EXPECT_FALSE(master_.Reload());
  EXPECT_EQ(Ask("private/one"), "hello");
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  EXPECT_TRUE(master_.Reload()) << master_.Log();
}

// --- F105 ---

// An editor that empties the file and writes it again, piece by piece, while reloads are asked for.
TEST_F(MasterReloadFaultsTest, AFileThatIsBeingWrittenLosesNoService) {
  const std::string text =
      "one unix - n n - 3 echo\ntwo unix - n n - 3 echo\nthree unix - n n - 3 echo\n";
  master_.SetTable({text});
  ASSERT_TRUE(master_.Start()) << master_.Log();
  LoadClients load({TargetOf("private/one"), TargetOf("private/three")}, 1);
  std::atomic<bool> stop{false};
  std::thread editor([&, path = master_.EtcPath("master.cf")] {
    while (!stop) {
      std::ofstream file(path, std::ios::trunc);
      for (const char c : text) file << c << std::flush;
    }
  });
  const int64_t signals = Times(300, 3000);
  for (int64_t i = 0; i < signals; ++i) {
    master_.Signal(SIGHUP);
    WaitForEvents(-1, 0, absl::Milliseconds(10));
  }
  stop = true;
  editor.join();
  // Then, if not before, when the writer was kept from writing for a while, the reload happens.
  EXPECT_TRUE(master_.WaitForLog("reload finished -- 0 services added, 0 removed, 3 kept"))
      << master_.Log();
  load.Stop();
  EXPECT_EQ(load.lost(), 0);
  EXPECT_EQ(master_.LogCount("changed nothing"), 0) << master_.Log();
}

}  // namespace
}  // namespace posthouse

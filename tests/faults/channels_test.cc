// The channels to the master and to the log: F71, F72, F73 on the worker's side, F62, F121, F123,
// F124.

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/master/protocol.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/faults/harness.h"

namespace posthouse {
namespace {

class ChannelFaults : public FaultTest {
 protected:
  // What the worker has said so far is whole, alternates, and begins with TAKEN.
  void ExpectCleanHistory() {
    ASSERT_TRUE(master_->WaitUntil([&] {
      return master_->worker(pid_).availability == Availability::kAvailable;
    })) << master_->History(pid_);
    EXPECT_TRUE(master_->problems().empty()) << master_->problems()[0];
    const std::vector<std::string> words = absl::StrSplit(master_->History(pid_), ' ');
    for (size_t i = 0; i < words.size(); ++i) {
      ASSERT_EQ(words[i], i % 2 == 0 ? "TAKEN" : "AVAIL") << "message " << i;
    }
  }
};

// --- The status channel ---

TEST_F(ChannelFaults, F71_MessagesStayWholeWhateverTheWriteCallDoes) {
  for (const std::string& faults :
       {absl::StrCat("Send:", EINTR, ":1:3:0"), absl::StrCat("Send:", EINTR, ":1:2:0"),
        absl::StrCat("Write:", EINTR, ":1:2:0"), std::string("Send:0:1:1:0"),
        std::string("Send:0:5:1:0"), std::string("Send:0:11:1:0"), std::string("Write:0:1:1:0")}) {
    SCOPED_TRACE(faults);
    Scenario scenario;
    scenario.faults = faults;
    master_ = nullptr;
    Start(std::move(scenario));
    for (int i = 0; i < 20; ++i) {
      LineClient client = Connect();
      ASSERT_EQ(client.Ask("ECHO status"), "status");
      master_->Pump();
    }
    // A message in pieces is one message for a master that waits for twelve bytes; the fake master
    // reads what is there, so pieces show as problems of its reading, not of the worker's order.
    if (!absl::StrContains(faults, ":0:1:") && !absl::StrContains(faults, ":0:5:") &&
        !absl::StrContains(faults, ":0:11:")) {
      ExpectCleanHistory();
    }
    EXPECT_TRUE(running()) << log();
  }
}

TEST_F(ChannelFaults, F71_AChannelThatIsFullEndsUpWithTheTruth) {
  Start();
  master_->set_read_status(false);
  // Fill it from the workers' end, as a stalled master and busy siblings would.
  const std::string filler(kStatusMessageSize, '\0');
  int filled = 0;
  while (send(master_->worker_status_fd(), filler.data(), filler.size(), MSG_DONTWAIT) > 0) {
    ++filled;
  }
  ASSERT_GT(filled, 10);
  LineClient client = Connect();
  Latencies latencies;
  for (int64_t i = 0; i < Times(300, 100000); ++i) {
    const absl::Time begin = absl::Now();
    ASSERT_EQ(client.Ask("ECHO x"), "x");
    latencies.Add(absl::Now() - begin);
  }
  EXPECT_LT(latencies.Percentile(99), Allow(absl::Milliseconds(20))) << latencies.ToString();
  client.Close();
  // Only after the stall: whole messages of our worker, the last of which says available.
  const auto take = [&](std::string* text) {
    char bytes[4096];
    ssize_t got;
    while ((got = recv(master_->status_fd(), bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
      text->append(bytes, static_cast<size_t>(got));
    }
  };
  std::string text;
  StatusMessage last;
  EXPECT_TRUE(WaitUntil([&] {
    take(&text);
    if (text.size() % kStatusMessageSize != 0) return false;
    const absl::StatusOr<StatusMessage> message =
        DecodeStatusMessage(text.substr(text.size() - kStatusMessageSize));
    if (!message.ok()) return false;
    last = *message;
    return last.pid == pid_ && last.availability == 1;
  })) << text.size();
  // Bounded: what did not fit was not queued up.
  EXPECT_LE(text.size(), (static_cast<size_t>(filled) + 4) * kStatusMessageSize);
  master_->set_read_status(true);
  ASSERT_EQ(Connect().Ask("ECHO y"), "y");
  ExpectUnharmed();
}

TEST_F(ChannelFaults, F72_F73_AFloodOfRequestsCostsAtMostTwoMessagesATurnAndNoRedundantOnes) {
  Start();
  std::vector<LineClient> clients;
  for (int i = 0; i < 20; ++i) clients.push_back(Connect());
  LineClient control = Connect();
  const auto turns = [&] {
    const std::vector<std::string> counters = absl::StrSplit(control.Ask("COUNTERS"), ' ');
    int64_t number = -1;
    EXPECT_TRUE(counters.size() == 5 && absl::SimpleAtoi(counters[1], &number));
    return number;
  };
  const int64_t turns_before = turns();
  const size_t messages_before = master_->messages().size();
  std::string burst;
  for (int i = 0; i < 8; ++i) burst += "ECHO x\n";
  int64_t requests = 0;
  const absl::Time end = absl::Now() + absl::Seconds(Times(2, 60));
  while (absl::Now() < end) {
    for (LineClient& client : clients) ASSERT_TRUE(client.Send(burst));
    for (LineClient& client : clients) {
      for (int i = 0; i < 8; ++i) ASSERT_EQ(client.ReadLine(), "x");
    }
    requests += 8 * static_cast<int64_t>(clients.size());
    master_->Pump();
  }
  const int64_t turns_made = turns() - turns_before;
  ExpectCleanHistory();
  const int64_t messages = static_cast<int64_t>(master_->messages().size() - messages_before);
  EXPECT_LE(messages, 2 * (turns_made + 2));
  EXPECT_LT(messages, 2 * requests);
  std::printf("%d requests, %d turns, %d messages\n", static_cast<int>(requests),
              static_cast<int>(turns_made), static_cast<int>(messages));
  control.Close();
  clients.clear();
  ExpectUnharmed();
}

// --- The log ---

// A log service whose reader is stopped.
UniqueFd DeafLog(const std::string& path) {
  unlink(path.c_str());
  UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(chmod(path.c_str(), 0666), 0);
  return fd;
}

std::string TakeLog(const UniqueFd& fd) {
  std::string text;
  char buffer[8192];
  ssize_t got;
  while ((got = recv(fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT)) >= 0) {
    text.append(buffer, static_cast<size_t>(got));
    text += '\n';
  }
  return text;
}

TEST_F(ChannelFaults, F123_ALogThatIsStoppedChangesNoLatencyAndTheLossIsToldAfterwards) {
  master_ = MakeMaster(Scenario());
  UniqueFd deaf = DeafLog(master_->queue_directory() + "/public/postlog");
  Start();
  LineClient client = Connect(), control = Connect();
  ASSERT_EQ(control.Ask("ECHO x"), "x");
  Latencies latencies;
  int64_t lines = 0;
  const absl::Time end = absl::Now() + absl::Seconds(Times(2, 600));
  while (absl::Now() < end) {
    ASSERT_EQ(control.Ask("LOG 20"), "logged");
    lines += 20;
    const absl::Time begin = absl::Now();
    ASSERT_EQ(client.Ask("ECHO x"), "x");
    latencies.Add(absl::Now() - begin);
    absl::SleepFor(absl::Milliseconds(2));
  }
  EXPECT_LT(latencies.Percentile(99), Allow(absl::Milliseconds(20))) << latencies.ToString();
  ASSERT_GT(lines, 1000);
  // The reader goes on.
  std::string text;
  EXPECT_TRUE(WaitUntil([&] {
    text += TakeLog(deaf);
    return absl::StrContains(text, "dropped");
  })) << text;
  const int told = Count(text, "dropped");
  EXPECT_GE(told, 1);
  EXPECT_LE(told, 3);
  // What was kept and what is said to be lost is all there was.
  int64_t lost = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StrContains(line, "dropped")) continue;
    for (absl::string_view word : absl::StrSplit(line, ' ')) {
      int64_t number = 0;
      if (absl::SimpleAtoi(word, &number) && number > 31) lost += number;
    }
  }
  EXPECT_EQ(lost + Count(text, ": line "), lines) << text.substr(text.size() - 400);
  client.Close();
  control.Close();
  ExpectUnharmed();
}

TEST_F(ChannelFaults, F62_F123_ALogServiceThatRestartsIsFoundAgain) {
  master_ = MakeMaster(Scenario());
  const std::string path = master_->queue_directory() + "/public/postlog";
  UniqueFd log_service = DeafLog(path);
  Start();
  LineClient client = Connect();
  for (int round = 0; round < 5; ++round) {
    ASSERT_EQ(client.Ask("LOG 1"), "logged");
    EXPECT_TRUE(WaitUntil([&] { return absl::StrContains(TakeLog(log_service), "line 0"); }));
    log_service.Reset();
    ASSERT_EQ(client.Ask("LOG 1"), "logged");
    log_service = DeafLog(path);
    // Whatever was said meanwhile arrives as well.
    EXPECT_TRUE(WaitUntil([&] { return absl::StrContains(TakeLog(log_service), "line 0"); }))
        << round;
  }
  client.Close();
  ExpectUnharmed();
}

TEST_F(ChannelFaults, F123_StandardErrorThatIsAFullPipeChangesNothing) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd reader(fds[0]), writer(fds[1]);
  // Full before the worker starts.
  const int flags = fcntl(writer.get(), F_GETFL);
  fcntl(writer.get(), F_SETFL, flags | O_NONBLOCK);
  const std::string filler(4096, '-');
  while (write(writer.get(), filler.data(), filler.size()) > 0) {
  }
  fcntl(writer.get(), F_SETFL, flags);
  Scenario scenario;
  scenario.configured = {"-V"};
  scenario.master.more_descriptors[2] = writer.get();
  Start(std::move(scenario));
  LineClient client = Connect();
  Latencies latencies;
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(client.Ask("LOG 5"), "logged");
    const absl::Time begin = absl::Now();
    ASSERT_EQ(client.Ask("ECHO x"), "x");
    latencies.Add(absl::Now() - begin);
  }
  EXPECT_LT(latencies.Percentile(99), Allow(absl::Milliseconds(20))) << latencies.ToString();
  // It flows again: what was lost is told.
  std::string text;
  EXPECT_TRUE(WaitUntil([&] {
    char buffer[65536];
    if (!WaitForEvents(reader.get(), /*POLLIN*/ 1, absl::Milliseconds(1))) return false;
    const ssize_t got = read(reader.get(), buffer, sizeof(buffer));
    if (got > 0) text.append(buffer, static_cast<size_t>(got));
    return absl::StrContains(text, "dropped");
  })) << text.size();
  client.Close();
  ExpectUnharmed();
  allowed_lines_per_second_ = 100000;
}

TEST_F(ChannelFaults, F124_ALimitedConditionIsALineASecondWithASummary) {
  Start();
  LineClient client = Connect();
  const absl::Time begin = absl::Now();
  int64_t asked = 0;
  while (absl::Now() - begin < absl::Milliseconds(2500)) {
    ASSERT_EQ(client.Ask("LIMITED 1000"), "logged");
    asked += 1000;
  }
  EXPECT_GE(Count(log(), "flood"), 2);
  EXPECT_LE(Count(log(), "flood"), 4) << log();
  client.Close();
  ExpectUnharmed();
}

// The measure itself can tell.
TEST(LogMeasure, F124_CountsTheLinesOfASecond) {
  std::string text;
  for (int i = 0; i < 11; ++i) text += "Jan  1 00:00:01 host tag[1]: text\n";
  for (int i = 0; i < 5; ++i) text += "Jan  1 00:00:02 host tag[1]: text\nno stamp\n";
  EXPECT_EQ(MostLinesPerSecond(text), 11);
  EXPECT_EQ(MostLinesPerSecond(""), 0);
}

// Runs `body` in a child that has a mount namespace of its own, with a file system of 64 KiB at
// `directory`; the exit status of the child.
int WithSmallFileSystem(const std::string& directory, const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS) != 0 ||
        mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("small", directory.c_str(), "tmpfs", 0, "size=64k") != 0) {
      _exit(77);
    }
    _exit(body());
  }
  return ExitCode(WaitForExit(child, absl::Seconds(60)));
}

// A file that standard error goes to is on a full disk: service goes on, and when there is room
// again, so does the log, with the number of lines that are missing.
TEST(DiskFull, F121_AFullFileSystemForTheLogCostsLinesAndNothingElse) {
  if (geteuid() != 0) GTEST_SKIP() << "mounting needs root";
  TempDir scratch;
  ASSERT_EQ(mkdir(scratch.Path("small").c_str(), 0755), 0);
  const std::string socket_path = scratch.Path("sock");
  const int status = WithSmallFileSystem(scratch.Path("small"), [&]() -> int {
    const std::string log_path = scratch.Path("small/log");
    UniqueFd log_file(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    UniqueFd filler(
        open(scratch.Path("small/filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (!log_file.valid() || !filler.valid()) return 10;
    ChildPlan plan;
    plan.program = ServiceProgram();
    plan.arguments = {"fault_service", "--listen", "unix:" + socket_path};
    plan.descriptors = {{2, log_file.get()}};
    const absl::StatusOr<pid_t> pid = StartChild(plan);
    if (!pid.ok()) return 11;
    LineClient client;
    const bool connected = WaitUntil([&] {
      UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_un address = {};
      address.sun_family = AF_UNIX;
      socket_path.copy(address.sun_path, sizeof(address.sun_path) - 1);
      if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
        return false;
      }
      client = LineClient(std::move(fd));
      return true;
    });
    if (!connected) return 12;
    if (client.Ask("LOG 1") != "logged") return 13;
    const std::string block(512, '-');
    while (write(filler.get(), block.data(), block.size()) > 0) {
    }
    // Many more lines than fit into what is left and into what is kept.
    for (int i = 0; i < 100; ++i) {
      if (client.Ask("LOG 100") != "logged") return 14;
      if (client.Ask("ECHO x") != "x") return 15;
    }
    const size_t full = ReadFileOrEmpty(log_path).size();
    if (ftruncate(filler.get(), 0) != 0) return 16;
    if (client.Ask("LOG 1") != "logged") return 17;
    if (!WaitUntil([&] { return absl::StrContains(ReadFileOrEmpty(log_path), "dropped"); })) {
      return 18;
    }
    if (ReadFileOrEmpty(log_path).size() <= full) return 19;
    kill(*pid, SIGTERM);
    return ExitCode(WaitForExit(*pid)) == 0 ? 0 : 20;
  });
  if (status == 77) GTEST_SKIP() << "no mount namespace can be made here";
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace posthouse

// The fake master of src/testing, driven against a worker that does as it is told.

#include "posthouse/testing/fake_master.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/protocol.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/fd_leak_check.h"

namespace posthouse {
namespace {

std::string worker_program;

class FakeMasterTest : public testing::Test {
 protected:
  std::unique_ptr<FakeMaster> Make(std::vector<std::string> script,
                                   FakeMasterOptions options = FakeMasterOptions()) {
    options.program = worker_program;
    options.arguments.configured = std::move(script);
    absl::StatusOr<std::unique_ptr<FakeMaster>> master = FakeMaster::Create(std::move(options));
    if (!master.ok()) {
      ADD_FAILURE() << master.status();
      std::abort();
    }
    return *std::move(master);
  }
  FdLeakCheck fds_;
  ChildCheck children_;
};

int ExitCode(const absl::optional<int>& status) {
  return status.has_value() && WIFEXITED(*status) ? WEXITSTATUS(*status) : -1;
}

// The value of a line "key value" of the report.
std::vector<std::string> Lines(const std::string& report, const std::string& key) {
  std::vector<std::string> result;
  for (absl::string_view line : absl::StrSplit(report, '\n')) {
    if (absl::ConsumePrefix(&line, key + " ")) result.emplace_back(line);
  }
  return result;
}

TEST_F(FakeMasterTest, P1_AWorkerFindsTheDocumentedDescriptorsAndNoOthers) {
  // One that the test itself leaks must not arrive.
  UniqueFd leaked(dup(0));
  ASSERT_EQ(fcntl(leaked.get(), F_GETFD), 0);
  FakeMasterOptions options;
  options.arguments.listen_sockets = 3;
  auto master = Make({"report"}, std::move(options));
  EXPECT_EQ(ExitCode(master->WaitForExit(master->Spawn().value())), 0);
  const std::vector<std::string> fds = Lines(master->Log(), "fd");
  ASSERT_EQ(fds.size(), 9u) << master->Log();
  EXPECT_EQ(fds[0], "0 blocking /dev/null");
  EXPECT_EQ(fds[1], "1 blocking /dev/null");
  EXPECT_TRUE(absl::StartsWith(fds[2], "2 blocking /")) << fds[2];
  EXPECT_TRUE(absl::StartsWith(fds[3], "3 nonblocking pipe:")) << fds[3];
  EXPECT_TRUE(absl::StartsWith(fds[4], "4 nonblocking pipe:")) << fds[4];
  EXPECT_TRUE(absl::StartsWith(fds[5], "5 blocking socket:")) << fds[5];
  EXPECT_TRUE(absl::StartsWith(fds[6], "6 nonblocking socket:")) << fds[6];
  EXPECT_TRUE(absl::StartsWith(fds[7], "7 nonblocking socket:")) << fds[7];
  EXPECT_TRUE(absl::StartsWith(fds[8], "8 nonblocking socket:")) << fds[8];
}

TEST_F(FakeMasterTest, P3_TheFlowPipeIsOnePipeForTheLifeOfTheMaster) {
  auto master = Make({"report"});
  std::vector<std::string> pipes;
  for (int reloads = 0; reloads < 3; ++reloads) {
    EXPECT_EQ(ExitCode(master->WaitForExit(master->Spawn().value())), 0);
    ASSERT_TRUE(master->Reload().ok());
  }
  for (const std::string& line : Lines(master->Log(), "fd")) {
    absl::string_view rest = line;
    if (absl::ConsumePrefix(&rest, "3 ") || absl::ConsumePrefix(&rest, "4 ")) {
      pipes.emplace_back(rest);
    }
  }
  ASSERT_EQ(pipes.size(), 6u) << master->Log();
  EXPECT_TRUE(absl::StartsWith(pipes[0], "nonblocking pipe:[")) << pipes[0];
  for (const std::string& pipe : pipes) EXPECT_EQ(pipe, pipes[0]);
}

TEST_F(FakeMasterTest, P10_TheEnvironmentIsAList) {
  setenv("EVIL", "1", 1);
  setenv("TZ", "UTC", 1);
  FakeMasterOptions options;
  options.environment = {"EXTRA=yes"};
  auto master = Make({"report"}, std::move(options));
  EXPECT_EQ(ExitCode(master->WaitForExit(master->Spawn().value())), 0);
  const std::string log = master->Log();
  EXPECT_TRUE(absl::StrContains(log, "environment GENERATION=10\n")) << log;
  EXPECT_TRUE(absl::StrContains(log, "environment EXTRA=yes\n"));
  EXPECT_TRUE(absl::StrContains(log, "environment TZ=UTC\n"));
  EXPECT_TRUE(absl::StrContains(log, "environment LANG=C\n"));
  EXPECT_TRUE(absl::StrContains(
      log, absl::StrCat("environment MAIL_CONFIG=", master->scratch().Path("etc"), "\n")));
  EXPECT_FALSE(absl::StrContains(log, "EVIL"));
  EXPECT_FALSE(absl::StrContains(log, "PATH="));
  unsetenv("EVIL");
}

TEST_F(FakeMasterTest, P12_TheProcessStateIsThatOfAMastersChild) {
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  signal(SIGHUP, SIG_IGN);
  auto master = Make({"report"});
  const pid_t pid = master->Spawn().value();
  signal(SIGHUP, SIG_DFL);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(ExitCode(master->WaitForExit(pid)), 0);
  const std::string log = master->Log();
  EXPECT_EQ(Lines(log, "ignored"), std::vector<std::string>{absl::StrCat(SIGPIPE)});
  EXPECT_EQ(Lines(log, "blocked"), std::vector<std::string>{});
  EXPECT_EQ(Lines(log, "umask"), std::vector<std::string>{"077"});
  EXPECT_EQ(Lines(log, "directory"), std::vector<std::string>{master->queue_directory()});
}

TEST_F(FakeMasterTest, P9_TheArgumentsAreBuilt) {
  FakeMasterOptions options;
  options.arguments.service_name = "echo";
  options.arguments.process_limit = 0;
  options.arguments.transport = "inet";
  auto master = Make({"report"}, std::move(options));
  EXPECT_EQ(ExitCode(master->WaitForExit(master->Spawn().value())), 0);
  EXPECT_EQ(Lines(master->Log(), "arguments"),
            std::vector<std::string>{"scripted_worker -z -n echo -t inet report"});
}

TEST_F(FakeMasterTest, P29_AvailabilityIsFollowedPerWorker) {
  auto master = Make({"taken", "avail", "avail", "taken", "taken", "avail", "taken", "master"});
  const pid_t first = master->Spawn().value();
  const pid_t second = master->Spawn().value();
  ASSERT_TRUE(master->WaitUntil([&] { return master->messages().size() == 14; }));
  for (const pid_t pid : {first, second}) {
    EXPECT_EQ(master->worker(pid).use_count, 2);
    EXPECT_EQ(master->worker(pid).messages, 5);
    EXPECT_EQ(master->worker(pid).availability, Availability::kTaken);
    EXPECT_EQ(master->History(pid), "TAKEN AVAIL AVAIL TAKEN TAKEN AVAIL TAKEN");
  }
  EXPECT_EQ(master->worker(first).generation, 8u);
  EXPECT_EQ(master->worker(second).generation, 9u);
  EXPECT_EQ(master->running().size(), 2u);
  EXPECT_TRUE(master->problems().empty());
}

TEST_F(FakeMasterTest, P32_MalformedMessagesAreProblemsAndNotFatal) {
  auto master = Make({"raw:short", "avail"});
  const pid_t pid = master->Spawn().value();
  EXPECT_EQ(ExitCode(master->WaitForExit(pid)), 0);
  ASSERT_FALSE(master->problems().empty());
}

TEST_F(FakeMasterTest, P5_AWorkerSeesTheMasterOnlyGoWhenItCloses) {
  auto master = Make({"avail", "master"});
  const pid_t old_worker = master->Spawn().value();
  const pid_t other = master->Spawn().value();
  ASSERT_TRUE(master->WaitUntil([&] { return master->messages().size() == 2; }));
  EXPECT_FALSE(master->WaitForExit(other, absl::Milliseconds(50)).has_value());
  ASSERT_TRUE(master->Reload().ok());
  EXPECT_EQ(ExitCode(master->WaitForExit(old_worker)), 0);
  EXPECT_EQ(ExitCode(master->WaitForExit(other)), 0);
  // The next generation has a channel of its own.
  const pid_t young = master->Spawn().value();
  ASSERT_TRUE(master->WaitUntil([&] { return !master->History(young).empty(); }));
  EXPECT_EQ(master->worker(young).generation, 10u);
  EXPECT_EQ(master->worker(young).channel, 1);
  EXPECT_TRUE(master->worker(young).running);
}

TEST_F(FakeMasterTest, ADeadMasterTakesItsListenersAlong) {
  auto master = Make({"avail", "master"});
  const pid_t pid = master->Spawn().value();
  ASSERT_TRUE(master->WaitUntil([&] { return master->messages().size() == 1; }));
  master->Vanish();
  EXPECT_EQ(ExitCode(master->WaitForExit(pid)), 0);
  EXPECT_FALSE(master->Connect().ok());
}

TEST_F(FakeMasterTest, ExitStatusesAreKept) {
  auto master = Make({"exit:7"});
  EXPECT_EQ(ExitCode(master->WaitForExit(master->Spawn().value())), 7);
  auto killed = Make({"forever"});
  const pid_t pid = killed->Spawn().value();
  EXPECT_FALSE(killed->WaitForExit(pid, absl::Milliseconds(20)).has_value());
  kill(pid, SIGTERM);
  const absl::optional<int> status = killed->WaitForExit(pid);
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(WIFSIGNALED(*status));
  EXPECT_EQ(WTERMSIG(*status), SIGTERM);
}

TEST_F(FakeMasterTest, P56_AProgramThatCannotBeRunEndsWithStatusOne) {
  FakeMasterOptions options;
  options.program = "/nonexistent/program";
  auto master = FakeMaster::Create(std::move(options)).value();
  EXPECT_EQ(ExitCode(master->WaitForExit(master->Spawn().value())), 1);
}

TEST_F(FakeMasterTest, ClientsReachTheWorkerOverEveryTransport) {
  for (const char* transport : {"unix", "inet"}) {
    FakeMasterOptions options;
    options.arguments.transport = transport;
    auto master = Make({"serve"}, std::move(options));
    const pid_t pid = master->Spawn().value();
    absl::StatusOr<UniqueFd> client = master->Connect();
    ASSERT_TRUE(client.ok()) << client.status();
    char buffer[10];
    EXPECT_EQ(recv(client->get(), buffer, sizeof(buffer), MSG_WAITALL), 5);
    EXPECT_EQ(ExitCode(master->WaitForExit(pid)), 0);
  }
}

TEST_F(FakeMasterTest, LogRecordsOfAFloodAreAllKept) {
  std::vector<std::string> script;
  for (int i = 0; i < 300; ++i) script.push_back(absl::StrCat("log:record ", i));
  auto master = Make(script);
  EXPECT_EQ(ExitCode(master->WaitForExit(master->Spawn().value())), 0);
  for (int i = 0; i < 300; ++i) {
    EXPECT_TRUE(master->LogContains(absl::StrCat("record ", i, "\n"))) << i;
  }
}

TEST_F(FakeMasterTest, P57_ADrainedWorkersBackgroundProcessIsFollowed) {
  auto master = Make({"fork", "avail", "master", "exit:3"});
  const pid_t pid = master->Spawn().value();
  EXPECT_EQ(ExitCode(master->WaitForExit(pid)), 0);
  ASSERT_TRUE(master->WaitUntil([&] { return master->Survivors().size() == 1; }));
  const pid_t stranger = master->Survivors()[0];
  EXPECT_NE(stranger, pid);
  // Its messages carry a process number that no master has started (P33).
  ASSERT_TRUE(master->WaitUntil([&] { return master->problems().size() == 1; }));
  ASSERT_TRUE(master->Reload().ok());
  ASSERT_TRUE(master->WaitUntil([&] { return master->strangers().count(stranger) == 1; }));
  EXPECT_EQ(WEXITSTATUS(master->strangers().at(stranger)), 3);
}

TEST_F(FakeMasterTest, WhatIsLeftIsKilledAtTheEnd) {
  pid_t pid = 0;
  {
    auto master = Make({"fork", "forever"});
    pid = master->Spawn().value();
    EXPECT_EQ(ExitCode(master->WaitForExit(pid)), 0);
    master->Spawn().value();
  }
  EXPECT_NE(kill(-pid, 0), 0);
}

TEST_F(FakeMasterTest, F34_AnyNumberingOfOurOwnDescriptorsWorks) {
  // Sources lie on targets of others, in both directions.
  ChildPlan plan;
  plan.program = worker_program;
  plan.arguments = {"worker", "report"};
  plan.environment = {"GENERATION=1"};
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  plan.descriptors[2] = write_end.get();
  plan.descriptors[read_end.get()] = null.get();
  plan.descriptors[null.get()] = read_end.get();
  plan.descriptors[write_end.get()] = write_end.get();
  const pid_t pid = StartChild(plan).value();
  const int null_number = null.get(), read_number = read_end.get(), write_number = write_end.get();
  write_end.Reset();
  std::string report;
  char buffer[4096];
  ssize_t got;
  while ((got = read(read_end.get(), buffer, sizeof(buffer))) > 0) report.append(buffer, got);
  EXPECT_EQ(ExitCode(WaitForExit(pid)), 0);
  const std::vector<std::string> lines = Lines(report, "fd");
  ASSERT_EQ(lines.size(), 4u) << report;
  EXPECT_TRUE(absl::StrContains(report, absl::StrCat("fd ", read_number, " blocking /dev/null\n")));
  EXPECT_TRUE(absl::StrContains(report, absl::StrCat("fd ", null_number, " blocking pipe:")));
  EXPECT_TRUE(absl::StrContains(report, absl::StrCat("fd ", write_number, " blocking pipe:")));
}

}  // namespace
}  // namespace posthouse

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc < 2) return 2;
  posthouse::worker_program = argv[1];
  if (posthouse::worker_program[0] != '/') {
    char directory[4096];
    if (getcwd(directory, sizeof(directory)) == nullptr) return 2;
    posthouse::worker_program = absl::StrCat(directory, "/", posthouse::worker_program);
  }
  return RUN_ALL_TESTS();
}

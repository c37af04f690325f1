// How a worker of ours lives under the stock master: start, identity, accounting, limits, reload,
// death and drain.

#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "tests/conformance/conformance_test.h"
#include "tests/conformance/status_trace.h"

namespace posthouse::conformance {
namespace {

constexpr char kProbe[] = "tests/conformance/probe_service";

class Worker : public ConformanceTest {
 protected:
  // One service "probe" with these fields of master.cf: private, unprivileged, chroot, wakeup,
  // process limit, command.
  void StartProbe(const std::string& fields) {
    Install("probe", kProbe);
    instance_->SetService("probe unix " + fields);
    Start();
  }

  // Waits until `count` service calls have begun to hold up their processes.
  bool Sleeping(size_t count) {
    return Eventually(kBound, [&] { return instance_->LogLines(": sleeping$").size() == count; });
  }

  // What the master was told since `trace` began: never "available" twice in a row, and so on.
  static void ExpectAlternating(const std::vector<TracedStatus>& messages) {
    for (size_t i = 0; i < messages.size(); ++i) {
      EXPECT_EQ(messages[i].availability, static_cast<int>(i % 2)) << "message " << i;
    }
  }
};

TEST_F(Worker, P1_P2_S22_RunsOnTheDescriptorsOfTheMasterAndInheritsNoOther) {
  StartProbe("- n n - - probe");
  Connection client = Connect("probe");
  const absl::optional<ProcessInfo> worker = InspectProcess(AskPid(client));
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->parent, instance_->MasterPid());
  for (int fd : {0, 1}) EXPECT_EQ(worker->descriptors.at(fd), "/dev/null");
  for (int fd : {3, 4}) EXPECT_EQ(worker->descriptors.at(fd).substr(0, 5), "pipe:");
  EXPECT_EQ(worker->descriptors.at(3), worker->descriptors.at(4));
  for (int fd : {5, 6}) EXPECT_EQ(worker->descriptors.at(fd).substr(0, 7), "socket:");
  // Everything above the standard descriptors is closed on exec, and the client has been moved up.
  for (const auto& [fd, flags] : worker->descriptor_flags) {
    if (fd <= 2) continue;
    EXPECT_TRUE(flags & O_CLOEXEC) << fd << " " << worker->descriptors.at(fd);
  }
  EXPECT_TRUE(worker->descriptors.count(128)) << "S43";
  EXPECT_EQ(worker->descriptors.rbegin()->first, 128);
}

TEST_F(Worker, P8_P9_P10_SeesArgumentsAndEnvironmentOfTheMaster) {
  StartProbe("- n n - 1 probe -o probe_number=7 one two");
  Connection client = Connect("probe");
  const absl::optional<ProcessInfo> worker = InspectProcess(AskPid(client));
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->arguments, (std::vector<std::string>{"probe", "-l", "-t", "unix", "-o",
                                                         "probe_number=7", "one", "two"}));
  EXPECT_EQ(worker->environment.at("MAIL_CONFIG"), instance_->config_directory());
  EXPECT_FALSE(worker->environment.at("GENERATION").empty());
  EXPECT_EQ(Ask(client, "name"), "probe one two");
  EXPECT_EQ(Ask(client, "parameter probe_number"), "7");
}

TEST_F(Worker, S6_S27_ServesUnderTheNameOfTheService) {
  Install("probe", kProbe);
  instance_->SetService("other unix - n n - - probe");
  Start();
  Connection client = Connect("other");
  EXPECT_EQ(Ask(client, "name"), "other");
}

TEST_F(Worker, S20_ChrootAndUnprivilegedHoldInEveryAspectAndLoggingGoesOn) {
  StartProbe("- y y - - probe");
  Connection client = Connect("probe");
  const absl::optional<ProcessInfo> worker = InspectProcess(AskPid(client));
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->root, instance_->queue_directory());
  EXPECT_EQ(worker->working_directory, instance_->queue_directory());
  const passwd* owner = getpwnam(StockInstance::kMailOwner);
  ASSERT_NE(owner, nullptr);
  const std::string uid = absl::StrCat(owner->pw_uid), gid = absl::StrCat(owner->pw_gid);
  EXPECT_EQ(worker->status.at("Uid"), absl::StrCat(uid, " ", uid, " ", uid, " ", uid));
  EXPECT_EQ(worker->status.at("Gid"), absl::StrCat(gid, " ", gid, " ", gid, " ", gid));
  EXPECT_EQ(worker->status.at("Groups"), gid);
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) {
    EXPECT_EQ(worker->status.at(set), "0000000000000000") << set;
  }
  EXPECT_EQ(Ask(client, "log a line from the jail"), "logged");
  EXPECT_EQ(
      instance_->WaitForLog("postfix/probe\\[[0-9]+\\]: a line from the jail$", kBound).status(),
      absl::OkStatus());
}

TEST_F(Worker, S20_PrivilegedAndOutsideAJailWhenConfiguredSo) {
  StartProbe("- n n - - probe");
  Connection client = Connect("probe");
  const absl::optional<ProcessInfo> worker = InspectProcess(AskPid(client));
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->root, "/");
  EXPECT_EQ(worker->working_directory, instance_->queue_directory());
  EXPECT_EQ(worker->status.at("Uid"), "0 0 0 0");
}

TEST_F(Worker, LogsWhereStockDaemonsLog) {
  StartProbe("- n n - - probe");
  Connection client = Connect("probe");
  const pid_t pid = AskPid(client);
  EXPECT_EQ(Ask(client, "log percent %s and\ttab"), "logged");
  // The same form as the line of the master: time, host, tag, process number.
  const absl::StatusOr<std::string> line =
      instance_->WaitForLog(absl::StrCat("^[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} instance "
                                         "postfix/probe\\[",
                                         pid, "\\]: percent %s and\\?tab$"),
                            kBound);
  EXPECT_EQ(line.status(), absl::OkStatus());
}

TEST_F(Worker, S27_VerboseTellsOfEachClient) {
  StartProbe("- n n - - probe -v");
  instance_->SetService("quiet unix - n n - - probe");
  Reload();
  const auto lines_of = [&](absl::string_view service) {
    const size_t mark = instance_->LogMark();
    Connection client = Connect(service);
    EXPECT_EQ(Ask(client, "log begin"), "logged");
    EXPECT_EQ(Ask(client, "log end"), "logged");
    client.Close();
    EXPECT_EQ(instance_->WaitForLog(": end$", kBound, mark).status(), absl::OkStatus());
    return instance_->LogLines("probe\\[[0-9]+\\]: ", mark).size();
  };
  EXPECT_EQ(lines_of("quiet"), 4u) << "two hooks and two lines";
  EXPECT_GT(lines_of("probe"), 6u);
}

TEST_F(Worker, S18_S21_HooksRunInTheirOrderAndTheExitHookAtAnOrderlyEnd) {
  StartProbe("- n n - - probe");
  Connection client = Connect("probe");
  const pid_t pid = AskPid(client);
  EXPECT_EQ(Ask(client, "exit"), "bye");
  EXPECT_TRUE(Gone(pid));
  EXPECT_EQ(instance_->WaitForLog("hook on_exit", kBound).status(), absl::OkStatus());
  std::vector<std::string> hooks;
  for (const std::string& line : instance_->LogLines("hook ")) {
    hooks.push_back(line.substr(line.find("hook ")));
  }
  EXPECT_EQ(hooks, (std::vector<std::string>{"hook pre_init", "hook post_init", "hook on_exit"}));
}

TEST_F(Worker, P30_IdleClientsHoldNoWorkerBusy) {
  StartProbe("- n n - 5 probe");
  // They all come while no request has been made, so the worker has never been taken.
  const int clients = Full() ? 500 : 50;
  std::vector<Connection> idle;
  for (int i = 0; i < clients; ++i) idle.push_back(Connect("probe"));
  ASSERT_TRUE(Runs("probe", 1));
  const pid_t pid = instance_->Processes("probe").front();
  // S43: clients are those from 128 up.
  ASSERT_TRUE(Eventually(kBound, [&] {
    const absl::optional<ProcessInfo> worker = InspectProcess(pid);
    return worker && worker->descriptors.rbegin()->first == 127 + clients;
  }));
  for (Connection& client : idle) EXPECT_EQ(AskPid(client), pid);
  EXPECT_EQ(instance_->Processes("probe"), std::vector<pid_t>{pid});
}

TEST_F(Worker, P27_P29_AWorkerInARequestIsTakenAndTheMasterStartsAnother) {
  StartProbe("- n n - 3 probe");
  std::vector<Connection> busy;
  // Three processes, each held up by its client, are the limit.
  for (size_t i = 1; i <= 3; ++i) {
    busy.push_back(Connect("probe"));
    ASSERT_EQ(busy.back().Write("sleep 3000\n"), absl::OkStatus());
    ASSERT_TRUE(Sleeping(i));
    ASSERT_EQ(instance_->Processes("probe").size(), i);
  }
  Connection waiting = Connect("probe");
  ASSERT_EQ(waiting.Write("pid\n"), absl::OkStatus());
  EXPECT_TRUE(Throughout(absl::Milliseconds(300),
                         [&] { return instance_->Processes("probe").size() == 3; }));
  for (Connection& client : busy) EXPECT_EQ(*client.ReadLine(), "slept");
  EXPECT_TRUE(waiting.ReadLine().ok());
  EXPECT_EQ(instance_->Processes("probe").size(), 3u);
}

TEST_F(Worker, P30_ADeferredReplyLeavesTheWorkerAvailable) {
  StartProbe("- n n - 3 probe");
  Connection slow = Connect("probe");
  const pid_t pid = AskPid(slow);
  TraceMaster();
  if (trace_ == nullptr) GTEST_SKIP() << "the master cannot be traced here";
  ASSERT_EQ(slow.Write("defer 2000\n"), absl::OkStatus());
  ASSERT_TRUE(AwaitMaster(pid));
  // Nobody has got an answer yet, and the master has no reason to start another.
  Connection other = Connect("probe");
  EXPECT_EQ(AskPid(other), pid);
  EXPECT_EQ(instance_->Processes("probe"), std::vector<pid_t>{pid});
  EXPECT_EQ(*slow.ReadLine(), "deferred");
}

TEST_F(Worker, ProcessLimitOneServesAllClientsFromOneProcess) {
  StartProbe("- n n - 1 probe");
  Connection busy = Connect("probe");
  const pid_t pid = AskPid(busy);
  ASSERT_EQ(busy.Write("sleep 1000\n"), absl::OkStatus());
  ASSERT_TRUE(Sleeping(1));
  std::vector<Connection> waiting;
  for (int i = 0; i < 20; ++i) {
    waiting.push_back(Connect("probe"));
    ASSERT_EQ(waiting.back().Write("pid\n"), absl::OkStatus());
  }
  EXPECT_EQ(instance_->Processes("probe").size(), 1u);
  EXPECT_EQ(*busy.ReadLine(), "slept");
  for (Connection& client : waiting) EXPECT_EQ(*client.ReadLine(), absl::StrCat(pid));
  EXPECT_EQ(instance_->Processes("probe").size(), 1u);
}

TEST_F(Worker, P14_P15_S56_TheMasterReadsATakenAndAnAvailForARequest) {
  StartProbe("- n n - 5 probe");
  TraceMaster();
  if (trace_ == nullptr) GTEST_SKIP() << "the master cannot be traced here";

  // A client that only connects and goes tells the master nothing (P20, S55).
  Connection silent = Connect("probe");
  ASSERT_TRUE(Runs("probe", 1));
  const pid_t pid = instance_->Processes("probe").front();
  const auto has_client = [&] {
    const absl::optional<ProcessInfo> worker = InspectProcess(pid);
    return worker && worker->descriptors.count(128) > 0;
  };
  ASSERT_TRUE(Eventually(kBound, has_client));
  silent.Close();
  ASSERT_TRUE(Eventually(kBound, [&] { return !has_client(); }));

  constexpr size_t kRequests = 10;
  Connection client = Connect("probe");
  for (size_t i = 0; i < kRequests; ++i) EXPECT_EQ(AskPid(client), pid);
  EXPECT_TRUE(Eventually(kBound, [&] { return trace_->MessagesOf(pid).size() >= 2 * kRequests; }));
  const std::vector<TracedStatus> messages = trace_->MessagesOf(pid);
  EXPECT_EQ(messages.size(), 2 * kRequests);
  ExpectAlternating(messages);
  EXPECT_EQ(trace_->PartialReads(), 0);
  const absl::optional<ProcessInfo> worker = InspectProcess(pid);
  ASSERT_TRUE(worker.has_value());
  const unsigned generation =
      std::stoul(worker->environment.at("GENERATION"), nullptr, 8);  // P22: octal
  for (const TracedStatus& message : messages) EXPECT_EQ(message.generation, generation);
}

TEST_F(Worker, P22_AGenerationAboveSevenIsReadAsOctal) {
  StartProbe("- n n - 1 probe -m 1");
  // Every connection uses up a worker, and every start one number of the master's counter.
  for (int i = 0; i < 8; ++i) {
    Connection client = Connect("probe");
    const pid_t pid = AskPid(client);
    client.Close();
    ASSERT_TRUE(Gone(pid));
  }
  TraceMaster();
  if (trace_ == nullptr) GTEST_SKIP() << "the master cannot be traced here";
  Connection client = Connect("probe");
  const pid_t pid = AskPid(client);
  const absl::optional<ProcessInfo> worker = InspectProcess(pid);
  ASSERT_TRUE(worker.has_value());
  const std::string& generation = worker->environment.at("GENERATION");
  EXPECT_GE(generation.size(), 2u);
  ASSERT_TRUE(Eventually(kBound, [&] { return trace_->MessagesOf(pid).size() == 2; }));
  for (const TracedStatus& message : trace_->MessagesOf(pid)) {
    EXPECT_EQ(message.generation, std::stoul(generation, nullptr, 8));
  }
}

TEST_F(Worker, S65_TheUseLimitEndsTheProcessAndTheMasterStartsANewOne) {
  StartProbe("- n n - 1 probe -m 3");
  std::vector<pid_t> pids;
  for (int i = 0; i < 6; ++i) {
    Connection client = Connect("probe");
    pids.push_back(AskPid(client));
    client.Close();
    if (i == 2) {
      EXPECT_TRUE(Gone(pids.back()));
    }
  }
  EXPECT_EQ(std::set<pid_t>(pids.begin(), pids.begin() + 3).size(), 1u);
  EXPECT_EQ(std::set<pid_t>(pids.begin() + 3, pids.end()).size(), 1u);
  EXPECT_NE(pids[2], pids[3]);
  EXPECT_EQ(instance_->WaitForLog("hook on_exit", kBound).status(), absl::OkStatus());
}

TEST_F(Worker, S68_TheIdleLimitEndsTheProcessAndTheMasterStartsANewOne) {
  StartProbe("- n n - 1 probe -i 1");
  Connection client = Connect("probe");
  const pid_t first = AskPid(client);
  // A connected client keeps it alive, however silent (S67).
  EXPECT_TRUE(
      Throughout(absl::Milliseconds(1500), [&] { return InspectProcess(first).has_value(); }));
  client.Close();
  EXPECT_TRUE(Gone(first));
  Connection next = Connect("probe");
  EXPECT_NE(AskPid(next), first);
}

TEST_F(Worker, P41_P43_AReloadEndsTheOldGenerationAndStartsANewOne) {
  StartProbe("- n n - 1 probe");
  Connection client = Connect("probe");
  const pid_t old_pid = AskPid(client);
  client.Close();
  Reload();
  EXPECT_TRUE(Gone(old_pid));
  EXPECT_EQ(instance_->WaitForLog("hook on_exit", kBound).status(), absl::OkStatus());
  Connection next = Connect("probe");
  EXPECT_NE(AskPid(next), old_pid);
}

TEST_F(Worker, S57_ARequestThatRunsDuringAReloadIsAnswered) {
  StartProbe("- n n - 1 probe");
  Connection client = Connect("probe");
  const pid_t old_pid = AskPid(client);
  ASSERT_EQ(client.Write("sleep 1500\n"), absl::OkStatus());
  ASSERT_TRUE(Sleeping(1));
  Reload();
  EXPECT_EQ(*client.ReadLine(), "slept");
  EXPECT_TRUE(Gone(old_pid));
  Connection next = Connect("probe");
  EXPECT_NE(AskPid(next), old_pid);
}

TEST_F(Worker, C9_AReloadBringsNewParameters) {
  StartProbe("- n n - 1 probe");
  Connection client = Connect("probe");
  EXPECT_EQ(Ask(client, "parameter probe_number"), "5");
  const pid_t old_pid = AskPid(client);
  instance_->SetParameter("probe_number", "42");
  EXPECT_EQ(Ask(client, "parameter probe_number"), "5");
  client.Close();
  Reload();
  ASSERT_TRUE(Gone(old_pid));
  Connection next = Connect("probe");
  EXPECT_EQ(Ask(next, "parameter probe_number"), "42");
}

TEST_F(Worker, P38_P39_KilledAfterARequestItIsReplacedAtOnce) {
  StartProbe("- n n - 1 probe");
  Expect("master\\[[0-9]+\\]: warning: process .*/sbin/probe pid [0-9]+ killed by signal 9");
  TraceMaster();
  Connection client = Connect("probe");
  const pid_t pid = AskPid(client);
  ASSERT_TRUE(AwaitMaster(pid));
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  EXPECT_TRUE(client.ClosedWithin(kBound));
  Connection next = Connect("probe");
  const pid_t next_pid = AskPid(next);
  EXPECT_GT(next_pid, 0);
  EXPECT_NE(next_pid, pid);
}

TEST_F(Worker, P38_ACrashIsReportedByTheMasterAndTheServiceGoesOn) {
  StartProbe("- n n - 1 probe");
  Expect("master\\[[0-9]+\\]: warning: process .*/sbin/probe pid [0-9]+ killed by signal 11");
  TraceMaster();
  Connection client = Connect("probe");
  ASSERT_TRUE(AwaitMaster(AskPid(client)));
  ASSERT_EQ(client.Write("crash\n"), absl::OkStatus());
  EXPECT_TRUE(client.ClosedWithin(kBound));
  EXPECT_EQ(instance_->WaitForLog("killed by signal 11", kBound).status(), absl::OkStatus());
  Connection next = Connect("probe");
  EXPECT_GT(AskPid(next), 0);
}

TEST_F(Worker, P38_ABadParameterGivesOneClearLineAndTheMastersThrottle) {
  instance_->SetParameter("probe_number", "1000");
  instance_->SetParameter("service_throttle_time", "3s");
  Expect("probe\\[[0-9]+\\]: fatal: .*probe_number");
  Expect("process .*/sbin/probe pid [0-9]+ exit status 1$");
  Expect("/sbin/probe: bad command startup -- throttling$");
  StartProbe("- n n - 1 probe");
  Connection client = Connect("probe");
  ASSERT_EQ(client.Write("parameter probe_number\n"), absl::OkStatus());
  ASSERT_EQ(instance_->WaitForLog("bad command startup -- throttling", kBound).status(),
            absl::OkStatus());
  // The line names the parameter, its value, the limit, and where it was set.
  const std::vector<std::string> fatal = instance_->LogLines("probe\\[[0-9]+\\]: fatal: ");
  ASSERT_EQ(fatal.size(), 1u);
  for (const char* part : {"probe_number", "1000", "100", "main.cf"}) {
    EXPECT_NE(fatal[0].find(part), std::string::npos) << part << " in " << fatal[0];
  }
  EXPECT_EQ(instance_->LogLines("hook ").size(), 0u);
  // While the service is throttled nothing is started; the client waits in the queue.
  EXPECT_TRUE(Throughout(absl::Seconds(1), [&] { return instance_->Processes("probe").empty(); }));
  // Once the parameter is right the waiting client is served after the throttle time.
  instance_->SetParameter("probe_number", "10");
  const absl::StatusOr<std::string> answer = client.ReadLine();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(*answer, "10");
}

TEST_F(Worker, P38_ABadArgumentOfMasterCfNamesItself) {
  Expect("probe\\[[0-9]+\\]: fatal: .*max_use");
  Expect("exit status 1$|bad command startup -- throttling$");
  StartProbe("- n n - 1 probe -m 0");
  Connection client = Connect("probe");
  EXPECT_EQ(instance_->WaitForLog("probe\\[[0-9]+\\]: fatal: ", kBound).status(), absl::OkStatus());
  EXPECT_EQ(instance_->WaitForLog("bad command startup -- throttling", kBound).status(),
            absl::OkStatus());
}

TEST_F(Worker, S31_SolitaryUnlimitedAndPrivilegedAreEnforced) {
  struct Case {
    const char* program;
    const char* bad;
    const char* good;
  };
  const Case cases[] = {{"probe-solitary", "- n n - 2", "- n n - 1"},
                        {"probe-unlimited", "- n n - 2", "- n n - 0"},
                        {"probe-privileged", "- y n - 2", "- n n - 2"}};
  Expect("fatal: .*(bad|good)-probe-(solitary|unlimited|privileged)");
  Expect("exit status 1$|bad command startup -- throttling$");
  for (const Case& c : cases) {
    Install(c.program, kProbe);
    instance_->SetService(absl::StrCat("bad-", c.program, " unix ", c.bad, " ", c.program));
    instance_->SetService(absl::StrCat("good-", c.program, " unix ", c.good, " ", c.program));
  }
  Start();
  for (const Case& c : cases) {
    Connection good = Connect(absl::StrCat("good-", c.program));
    EXPECT_EQ(Ask(good, "name"), absl::StrCat("good-", c.program));
    Connection bad = Connect(absl::StrCat("bad-", c.program));
    EXPECT_EQ(
        instance_
            ->WaitForLog(absl::StrCat(c.program, "\\[[0-9]+\\]: fatal: .*bad-", c.program), kBound)
            .status(),
        absl::OkStatus());
  }
}

TEST_F(Worker, S87_StopEndsBusyAndIdleWorkersAndLeavesNothing) {
  StartProbe("- n n - 5 probe");
  Connection idle = Connect("probe");
  EXPECT_GT(AskPid(idle), 0);
  Connection busy = Connect("probe");
  ASSERT_EQ(busy.Write("sleep 2000\n"), absl::OkStatus());
  ASSERT_TRUE(Sleeping(1));
  const absl::Time before = absl::Now();
  ASSERT_EQ(instance_->Stop(), absl::OkStatus());
  EXPECT_EQ(instance_->Processes(), std::vector<pid_t>());
  // The request that ran is finished; nobody waits for the client that is idle.
  EXPECT_LT(absl::Now() - before, absl::Seconds(7));
  EXPECT_EQ(*busy.ReadLine(), "slept");
  EXPECT_TRUE(idle.ClosedWithin(kBound));
  EXPECT_TRUE(busy.ClosedWithin(kBound));
}

TEST_F(Worker, F55_F56_AnEstablishedClientOutlivesAReloadForAWhile) {
  StartProbe("- n n - 1 probe");
  Connection client = Connect("probe");
  const pid_t old_pid = AskPid(client);
  Reload();
  EXPECT_TRUE(Gone(old_pid));
  // It is served by a process that the master does not count any more.
  const pid_t background_pid = AskPid(client);
  EXPECT_GT(background_pid, 0);
  EXPECT_NE(background_pid, old_pid);
  Connection next = Connect("probe");
  EXPECT_NE(AskPid(next), background_pid);
  // Not for ever, though.
  EXPECT_TRUE(client.ClosedWithin(kBound));
  EXPECT_TRUE(Gone(background_pid));
}

TEST_F(Worker, S79_S81_ADrainedProcessServesItsClientsAndANewOneTheOthers) {
  StartProbe("- n n - 1 probe");
  Connection old_client = Connect("probe");
  const pid_t old_pid = AskPid(old_client);
  const std::string answer = Ask(old_client, "drain");
  ASSERT_EQ(answer.substr(0, 8), "drained ") << answer;
  const pid_t drained_pid = std::atoi(answer.c_str() + 8);
  EXPECT_NE(drained_pid, old_pid);
  EXPECT_TRUE(Gone(old_pid));
  Connection new_client = Connect("probe");
  const pid_t new_pid = AskPid(new_client);
  EXPECT_NE(new_pid, drained_pid);
  EXPECT_EQ(AskPid(old_client), drained_pid);
  // A reload ends the new one and leaves the drained one to its client (SO8).
  Reload();
  EXPECT_TRUE(Gone(new_pid));
  EXPECT_EQ(AskPid(old_client), drained_pid);
  old_client.Close();
  EXPECT_TRUE(Gone(drained_pid));
}

TEST_F(Worker, PO8_ADrainedProcessTellsTheMasterNothing) {
  StartProbe("- n n - 1 probe");
  Connection client = Connect("probe");
  const pid_t old_pid = AskPid(client);
  const std::string answer = Ask(client, "drain");
  ASSERT_EQ(answer.substr(0, 8), "drained ") << answer;
  ASSERT_TRUE(Gone(old_pid));
  TraceMaster();
  if (trace_ == nullptr) GTEST_SKIP() << "the master cannot be traced here";
  const pid_t drained_pid = std::atoi(answer.c_str() + 8);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(AskPid(client), drained_pid);
  // What another worker says afterwards has been read, so what the drained one said would be too.
  Connection other = Connect("probe");
  const pid_t other_pid = AskPid(other);
  EXPECT_TRUE(Eventually(kBound, [&] { return trace_->MessagesOf(other_pid).size() == 2; }));
  EXPECT_EQ(trace_->MessagesOf(drained_pid), std::vector<TracedStatus>());
  EXPECT_EQ(trace_->MessagesOf(old_pid), std::vector<TracedStatus>());
}

TEST_F(Worker, S35_AnInetServiceKnowsItsPeer) {
  Install("probe", kProbe);
  const int port = FreePort();
  instance_->SetService(absl::StrCat("127.0.0.1:", port, " inet n n n - - probe"));
  Start();
  absl::StatusOr<Connection> client = Connection::Tcp(port, "127.0.0.9");
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(Ask(*client, "peer").substr(0, 10), "127.0.0.9:");
}

TEST_F(Worker, P6_P9_ServesSeveralListeners) {
  if (access("/proc/net/if_inet6", R_OK) != 0) GTEST_SKIP() << "no IPv6";
  Install("probe", kProbe);
  instance_->SetParameter("inet_protocols", "all");
  const int port = FreePort();
  instance_->SetService(absl::StrCat(port, " inet n n n - 1 probe"));
  Start();
  absl::StatusOr<Connection> client = Connection::Tcp(port);
  ASSERT_TRUE(client.ok()) << client.status();
  const pid_t pid = AskPid(*client);
  const absl::optional<ProcessInfo> worker = InspectProcess(pid);
  ASSERT_TRUE(worker.has_value());
  const std::vector<std::string>& words = worker->arguments;
  const auto count = std::find(words.begin(), words.end(), "-s");
  ASSERT_NE(count, words.end());
  EXPECT_EQ(*std::next(count), "2");
  absl::StatusOr<Connection> second = Connection::Tcp6(port);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(AskPid(*second), pid);
  EXPECT_EQ(Ask(*second, "peer").substr(0, 6), "[::1]:");
}

TEST_F(Worker, P60_P64_APassServiceTakesOverAConnectionWithItsAttributes) {
  Install("probe", kProbe);
  instance_->SetParameter("probe_greeting", "welcome");
  instance_->SetService("handover pass - y y - - probe");
  Start();
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> pair = TcpPair();
  ASSERT_TRUE(pair.ok()) << pair.status();
  Connection sender = Connect("handover");
  ASSERT_EQ(
      sender.PassDescriptor(pair->second.get(), NulAttributes({{"client_address", "192.0.2.7"},
                                                               {"client_port", "4711"},
                                                               {"server_address", "192.0.2.1"},
                                                               {"server_port", "25"}})),
      absl::OkStatus());
  // The worker closes the connection over which it got the descriptor (P62).
  EXPECT_TRUE(sender.ClosedWithin(kBound));
  pair->second.Reset();
  Connection client(std::move(pair->first));
  EXPECT_EQ(*client.ReadLine(), "welcome");
  EXPECT_EQ(Ask(client, "attributes"),
            "client_address=192.0.2.7 client_port=4711 server_address=192.0.2.1 server_port=25");
}

TEST_F(Worker, P64_APassServiceTakesAnEmptyAttributeList) {
  Install("probe", kProbe);
  instance_->SetService("handover pass - n n - - probe");
  Start();
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> pair = TcpPair();
  ASSERT_TRUE(pair.ok()) << pair.status();
  Connection sender = Connect("handover");
  ASSERT_EQ(sender.PassDescriptor(pair->second.get(), NulAttributes({})), absl::OkStatus());
  pair->second.Reset();
  Connection client(std::move(pair->first));
  EXPECT_EQ(Ask(client, "attributes"), "");
  EXPECT_GT(AskPid(client), 0);
}

TEST_F(Worker, SO5_ASilentOrBrokenSenderDoesNotStopAPassService) {
  Install("probe", kProbe);
  instance_->SetService("handover pass - n n - 1 probe");
  Start();
  Expect("probe\\[[0-9]+\\]: warning: ");
  Connection silent = Connect("handover");
  Connection broken = Connect("handover");
  ASSERT_EQ(broken.Write("no descriptor"), absl::OkStatus());
  Connect("handover").Close();
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> pair = TcpPair();
  ASSERT_TRUE(pair.ok()) << pair.status();
  Connection sender = Connect("handover");
  ASSERT_EQ(sender.PassDescriptor(pair->second.get(), NulAttributes({})), absl::OkStatus());
  pair->second.Reset();
  Connection client(std::move(pair->first));
  EXPECT_GT(AskPid(client), 0);
  EXPECT_TRUE(broken.ClosedWithin(kBound));
}

TEST_F(Worker, D96_StockPostscreenHandsItsClientsToAPassService) {
  Install("probe", kProbe);
  instance_->SetParameter("probe_greeting", "behind postscreen");
  const int port = FreePort();
  instance_->SetService(absl::StrCat("127.0.0.1:", port, " inet n - n - 1 postscreen"));
  instance_->SetService("smtpd pass - - n - - probe");
  Start();
  absl::StatusOr<Connection> client = Connection::Tcp(port, "127.0.0.3");
  ASSERT_TRUE(client.ok()) << client.status();
  const absl::StatusOr<std::string> greeting = client->ReadLine();
  ASSERT_TRUE(greeting.ok()) << greeting.status();
  EXPECT_EQ(*greeting, "behind postscreen");
  const std::string attributes = Ask(*client, "attributes");
  EXPECT_NE(attributes.find("client_address=127.0.0.3"), std::string::npos) << attributes;
  EXPECT_NE(attributes.find(absl::StrCat("server_port=", port)), std::string::npos) << attributes;
}

TEST_F(Worker, P66_TheWakeUpsOfTheMasterAreOrdinaryClients) {
  StartProbe("- n n 1 1 probe");
  // A client each second, while nobody else came.
  ASSERT_TRUE(Runs("probe", 1));
  Connection client = Connect("probe");
  EXPECT_TRUE(Eventually(kBound, [&] { return Ask(client, "counts") == "clients=1 uses=2"; }));
}

// The flow pipe of the master, through the descriptors of a worker that runs.
class FlowPipe {
 public:
  explicit FlowPipe(pid_t worker)
      : fd_(open(absl::StrCat("/proc/", worker, "/fd/3").c_str(),
                 O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {}
  int Tokens() const {
    int count = -1;
    ioctl(fd_.get(), FIONREAD, &count);
    return count;
  }
  void Empty() {
    char tokens[1024];
    while (read(fd_.get(), tokens, sizeof tokens) > 0) {
    }
  }

 private:
  UniqueFd fd_;
};

TEST_F(Worker, S51_WithATokenAClientIsServedAtOnceAndWithoutAfterTheDelay) {
  Install("probe-flow", kProbe);
  instance_->SetParameter("in_flow_delay", "2s");
  // A queue manager that is woken up fills the pipe again.
  instance_->SetService("qmgr unix n - n 300 1 qmgr");
  instance_->SetService("probe unix - n n - 1 probe-flow");
  Start();
  Connection first = Connect("probe");
  const pid_t pid = AskPid(first);
  FlowPipe pipe(pid);
  // The stock queue manager has filled the pipe (P52).
  ASSERT_TRUE(Eventually(kBound, [&] { return pipe.Tokens() > 0; }));
  const int before = pipe.Tokens();
  const absl::Time with_token = absl::Now();
  Connection second = Connect("probe");
  EXPECT_EQ(AskPid(second), pid);
  EXPECT_LT(absl::Now() - with_token, absl::Milliseconds(1500));
  EXPECT_EQ(pipe.Tokens(), before - 1);
  EXPECT_EQ(AskPid(second), pid);
  EXPECT_EQ(pipe.Tokens(), before - 1) << "S53: a token is for the connection";

  pipe.Empty();
  const absl::Time without_token = absl::Now();
  Connection third = Connect("probe");
  ASSERT_EQ(third.Write("pid\n"), absl::OkStatus());
  // The others are not held up (S53).
  EXPECT_EQ(AskPid(first), pid);
  EXPECT_LT(absl::Now() - without_token, absl::Milliseconds(1500));
  EXPECT_TRUE(third.ReadLine().ok());
  const absl::Duration delay = absl::Now() - without_token;
  EXPECT_GE(delay, absl::Milliseconds(1990));
  EXPECT_LT(delay, absl::Seconds(10));
}

TEST_F(Worker, D97_ManyStartsLoadsReloadsAndStopsLeaveACleanLog) {
  Install("probe", kProbe);
  instance_->SetService("probe unix - y y - 4 probe -m 7 -i 1");
  for (int round = 0; round < (Full() ? 20 : 2); ++round) {
    Start();
    for (int reload = 0; reload < 3; ++reload) {
      for (int i = 0; i < (Full() ? 1000 : 50); ++i) {
        Connection client = Connect("probe");
        ASSERT_GT(AskPid(client), 0) << "client " << i;
      }
      Reload();
    }
    ASSERT_EQ(instance_->Stop(), absl::OkStatus());
  }
}

}  // namespace
}  // namespace posthouse::conformance

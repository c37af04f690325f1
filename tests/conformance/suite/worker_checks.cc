// What every worker of a master has to do, seen from the master's and the client's side.

#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <regex>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "posthouse/io/pass_descriptor.h"
#include "posthouse/master/protocol.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/suite/worker_fixture.h"

namespace posthouse::conformance {
namespace {

constexpr int kRequestsOfAStalledMaster = 100;  // 200 messages; about 278 fit (P19)
constexpr char kAllAnswered[] = "";

// --- Start ---

class WorkerStart : public WorkerFixture {
 protected:
  // With arguments that have to end it: fatal is exit status 1 (P55).
  std::string EndWith(std::vector<std::string> configured) {
    Start(OptionsWith(std::move(configured)));
    return End();
  }
};

TEST_F(WorkerStart, P1_ServesFromTheDescriptorsOfTheMaster) {
  Start();
  ExpectServes();
  EXPECT_TRUE(Running(pid_));
}

TEST_F(WorkerStart, P2_S22_MarksWhatItInheritsCloseOnExec) {
  Start();
  ExpectStarts();
  const absl::optional<ProcessInfo> worker = InspectProcess(pid_);
  ASSERT_TRUE(worker.has_value());
  // They are still those of the master, and nothing of its own has taken a number.
  const std::map<int, std::string> ours = FdSnapshot::Take().fds();
  const std::map<int, std::string> expected = {{3, "pipe:"},
                                               {4, "pipe:"},
                                               {5, ours.at(master_->worker_status_fd())},
                                               {6, ours.at(master_->listen_fd())}};
  for (int fd : {3, 4, 5, 6}) {
    ASSERT_TRUE(worker->descriptors.count(fd)) << "descriptor " << fd << " is closed";
    EXPECT_TRUE(absl::StartsWith(worker->descriptors.at(fd), expected.at(fd)))
        << "descriptor " << fd << " is " << worker->descriptors.at(fd);
    EXPECT_TRUE(worker->descriptor_flags.at(fd) & O_CLOEXEC) << "descriptor " << fd;
  }
}

TEST_F(WorkerStart, S43_S46_TheDescriptorOfAClientIs128OrMoreAndCloseOnExec) {
  Start();
  ServiceClient client = Connect();
  ExpectServed(client);
  const absl::optional<ProcessInfo> worker = InspectProcess(pid_);
  ASSERT_TRUE(worker.has_value());
  const auto last = worker->descriptor_flags.rbegin();
  EXPECT_GE(last->first, 128);
  EXPECT_TRUE(last->second & O_CLOEXEC);
}

TEST_F(WorkerStart, P4_LeavesTheSharedDescriptorsInTheirModes) {
  Start();
  ExpectStarts();
  const int status = fcntl(master_->worker_status_fd(), F_GETFL);
  EXPECT_FALSE(status & O_NONBLOCK) << "the status channel became non-blocking";
  EXPECT_TRUE(fcntl(master_->listen_fd(), F_GETFL) & O_NONBLOCK) << "the listener became blocking";
}

TEST_F(WorkerStart, S18_P12_WorksInTheQueueDirectoryWithTheUmaskItWasGiven) {
  Start();
  ExpectStarts();
  const absl::optional<ProcessInfo> worker = InspectProcess(pid_);
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->working_directory, master_->queue_directory());
  EXPECT_EQ(worker->status.at("Umask"), "0077");
}

TEST_F(WorkerStart, S20_UnprivilegedIsTheMailOwnerForGood) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  if (!TheCandidate().jail) GTEST_SKIP() << "--no-jail";
  FakeMasterOptions options = Options();
  options.arguments.unprivileged = true;
  Start(std::move(options));
  ExpectStarts();
  const passwd* owner = getpwnam("mail");
  ASSERT_NE(owner, nullptr);
  const absl::optional<ProcessInfo> worker = InspectProcess(pid_);
  ASSERT_TRUE(worker.has_value());
  const std::string uid = absl::StrCat(owner->pw_uid), gid = absl::StrCat(owner->pw_gid);
  EXPECT_EQ(worker->status.at("Uid"), absl::StrCat(uid, " ", uid, " ", uid, " ", uid));
  EXPECT_EQ(worker->status.at("Gid"), absl::StrCat(gid, " ", gid, " ", gid, " ", gid));
  EXPECT_EQ(worker->status.at("CapEff"), "0000000000000000");
  EXPECT_EQ(worker->root, "/");
}

TEST_F(WorkerStart, S20_ChrootedIsInTheQueueDirectoryAndStillTheSameUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  if (!TheCandidate().jail) GTEST_SKIP() << "--no-jail";
  FakeMasterOptions options = Options();
  options.arguments.chroot = true;
  Start(std::move(options));
  ExpectStarts();
  const absl::optional<ProcessInfo> worker = InspectProcess(pid_);
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->root, master_->queue_directory());
  EXPECT_EQ(worker->working_directory, master_->queue_directory());
  EXPECT_EQ(worker->status.at("Uid"), "0 0 0 0");
}

TEST_F(WorkerStart, S27_ServesEachOfSeveralListeners) {
  FakeMasterOptions options = Options();
  options.arguments.listen_sockets = 3;
  Start(std::move(options));
  for (int i : {2, 0, 1}) ExpectServes(i);
}

TEST_F(WorkerStart, S27_ServesUnderAnotherName) {
  FakeMasterOptions options = Options();
  options.arguments.service_name = "another-name";
  Start(std::move(options));
  ExpectServes();
}

TEST_F(WorkerStart, S27_ServesWhenTheMasterIsNotDetached) {
  FakeMasterOptions options = Options();
  options.arguments.detached = false;
  Start(std::move(options));
  ExpectServes();
}

TEST_F(WorkerStart, S27_ServesVerbosely) {
  FakeMasterOptions options = Options();
  options.arguments.verbose = true;
  Start(std::move(options));
  ExpectServes();
}

TEST_F(WorkerStart, P9_ServesUnderProcessLimitOne) {
  if (TheCandidate().process_limit == 0) GTEST_SKIP() << "it asks for no limit";
  FakeMasterOptions options = Options();
  options.arguments.process_limit = 1;
  Start(std::move(options));
  ExpectServes();
}

TEST_F(WorkerStart, P9_ServesWithoutProcessLimit) {
  if (TheCandidate().process_limit == 1) GTEST_SKIP() << "it asks for process limit 1";
  FakeMasterOptions options = Options();
  options.arguments.process_limit = 0;
  Start(std::move(options));
  ExpectServes();
}

TEST_F(WorkerStart, S32_AProcessLimitThatItDoesNotAllowEndsIt) {
  const int limit = TheCandidate().process_limit;
  if (limit > 1) GTEST_SKIP() << "it allows any limit";
  FakeMasterOptions options = Options();
  options.arguments.process_limit = 1 - limit;
  Start(std::move(options));
  EXPECT_EQ(End(), "exit 1");
}

TEST_F(WorkerStart, P9_C74_TakesTheStressParameterWithAndWithoutValue) {
  for (bool stress : {false, true}) {
    FakeMasterOptions options = Options();
    options.arguments.stress = stress;
    Start(std::move(options));
    ExpectServes();
  }
}

TEST_F(WorkerStart, S25_AnUnknownOptionEndsItWithStatus1) { EXPECT_EQ(EndWith({"-X"}), "exit 1"); }
TEST_F(WorkerStart, S27_AnOptionWithoutEqualsSignEndsItWithStatus1) {
  EXPECT_EQ(EndWith({"-o", "no-such-thing"}), "exit 1");
}
TEST_F(WorkerStart, S27_ZeroListenersEndItWithStatus1) {
  EXPECT_EQ(EndWith({"-s", "0"}), "exit 1");
}
TEST_F(WorkerStart, S38_AnUnknownTransportEndsItWithStatus1) {
  EXPECT_EQ(EndWith({"-t", "fifo"}), "exit 1");
}
TEST_F(WorkerStart, S1_ALimitOutOfRangeEndsItWithStatus1) {
  EXPECT_EQ(EndWith({"-m", "0"}), "exit 1");
}
TEST_F(WorkerStart, S18_AQueueDirectoryThatIsNotThereEndsItWithStatus1) {
  EXPECT_EQ(EndWith({"-o", "queue_directory=/nonexistent/queue"}), "exit 1");
}

TEST_F(WorkerStart, S15_AGenerationThatIsNoNumberEndsItWithStatus1) {
  FakeMasterOptions options = Options();
  options.environment = {"GENERATION=x"};
  Start(std::move(options));
  EXPECT_EQ(End(), "exit 1");
}

TEST_F(WorkerStart, S15_AnEmptyGenerationEndsItWithStatus1) {
  FakeMasterOptions options = Options();
  options.environment = {"GENERATION="};
  Start(std::move(options));
  EXPECT_EQ(End(), "exit 1");
}

// --- Transports ---

class WorkerTransport : public WorkerFixture {
 protected:
  void StartOver(const char* transport) {
    FakeMasterOptions options = Options();
    options.arguments.transport = transport;
    Start(std::move(options));
  }
};

TEST_F(WorkerTransport, S35_ServesOverInet) {
  StartOver("inet");
  ExpectServes();
}

TEST_F(WorkerTransport, S35_TurnsOnKeepaliveForInetClients) {
  StartOver("inet");
  ServiceClient client = Connect();
  ExpectServed(client);
  const FdSnapshot open = FdSnapshot::TakeOf(pid_);
  ASSERT_GT(open.size(), 0u);
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  UniqueFd copy(
      static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), open.fds().rbegin()->first, 0)));
  if (!copy.valid()) GTEST_SKIP() << "pidfd_getfd: " << strerror(errno);
  int keepalive = 0;
  socklen_t length = sizeof(keepalive);
  ASSERT_EQ(getsockopt(copy.get(), SOL_SOCKET, SO_KEEPALIVE, &keepalive, &length), 0);
  EXPECT_EQ(keepalive, 1);
}

TEST_F(WorkerTransport, S36_P60_ServesADescriptorThatIsPassedToIt) {
  StartOver("pass");
  ExpectServes();
}

TEST_F(WorkerTransport, P62_ClosesTheConnectionThatADescriptorCameOver) {
  StartOver("pass");
  absl::StatusOr<UniqueFd> sender = master_->ConnectRaw();
  ASSERT_TRUE(sender.ok()) << sender.status();
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  ServiceClient client{UniqueFd(ends[0])};
  UniqueFd passed(ends[1]);
  ASSERT_TRUE(SendDescriptor(sender->get(), passed.get()).ok());
  // The empty attribute list that newer receivers wait for; older ones have closed by then.
  send(sender->get(), "", 1, MSG_NOSIGNAL);
  passed.Reset();
  EXPECT_TRUE(ServiceClient(*std::move(sender)).ClosedWithin(kGenerousBound));
  ExpectServed(client);
}

// --- Status messages ---

class WorkerStatusChannel : public WorkerFixture {};

TEST_F(WorkerStatusChannel, P20_S55_AClientThatSendsNothingCausesNoMessage) {
  Start();
  ExpectStarts();
  const size_t messages = HasRequest() ? 2 : 0;
  ASSERT_TRUE(WaitWhileRunning([&] { return master_->messages().size() >= messages; }));
  ServiceClient first = Connect();
  ASSERT_TRUE(AllAccepted());
  EXPECT_EQ(first.Greeting(), "");
  first.Close();
  // When the next one is through, the end of the first has been seen.
  ServiceClient second = Connect();
  ASSERT_TRUE(AllAccepted());
  EXPECT_EQ(second.Greeting(), "");
  master_->Pump();
  EXPECT_EQ(master_->messages().size(), messages) << master_->History(pid_);
}

TEST_F(WorkerStatusChannel, P13_P20_S56_SaysTAKENBeforeAndAVAILAfterARequest) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ServiceClient client = Connect();
  for (int i = 1; i <= 5; ++i) {
    ASSERT_EQ(client.Ask(), "");
    // TAKEN has been there since before the reply.
    master_->Pump();
    EXPECT_GE(master_->messages().size(), static_cast<size_t>(2 * i - 1)) << "at the reply";
    ASSERT_TRUE(WaitWhileRunning([&] { return master_->worker(pid_).use_count == i; }))
        << master_->History(pid_);
    EXPECT_EQ(master_->worker(pid_).availability, Availability::kAvailable);
  }
  EXPECT_EQ(master_->History(pid_), "TAKEN AVAIL TAKEN AVAIL TAKEN AVAIL TAKEN AVAIL TAKEN AVAIL");
  EXPECT_EQ(master_->problems(), std::vector<std::string>());
}

TEST_F(WorkerStatusChannel, P14_P15_OneMessageIsOneWriteOf12Bytes) {
  POSTHOUSE_NEEDS_REQUEST();
  // A channel that keeps the boundaries of writes (PO4).
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]), theirs(ends[1]);
  FakeMasterOptions options = Options();
  options.more_descriptors[5] = theirs.get();
  Start(std::move(options));
  theirs.Reset();
  ServiceClient client = Connect();
  ASSERT_EQ(client.Ask(), "");
  for (int32_t availability : {0, 1}) {
    char bytes[100];
    ASSERT_TRUE(WaitForEvents(ours.get(), POLLIN)) << "message " << availability;
    const ssize_t got = recv(ours.get(), bytes, sizeof(bytes), 0);
    ASSERT_EQ(got, 12);
    struct {
      int pid;
      unsigned generation;
      int availability;
    } expected = {pid_, 8, availability};
    const std::string wanted(reinterpret_cast<const char*>(&expected), sizeof(expected));
    EXPECT_EQ(absl::BytesToHexString(absl::string_view(bytes, 12)), absl::BytesToHexString(wanted));
  }
  ours.Reset();
  client.Close();
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(WorkerStatusChannel, P22_ReadsItsGenerationAsOctal) {
  POSTHOUSE_NEEDS_REQUEST();
  for (uint32_t generation : {1u, 8u, 511u, 4294967295u}) {
    FakeMasterOptions options = Options();
    options.first_generation = generation;
    Start(std::move(options));
    ServiceClient client = Connect();
    ASSERT_EQ(client.Ask(), "");
    ASSERT_TRUE(WaitWhileRunning([&] { return master_->messages().size() == 2; }));
    for (const StatusMessage& message : master_->messages()) {
      EXPECT_EQ(message.generation, generation);
      EXPECT_EQ(message.pid, pid_);
    }
  }
}

TEST_F(WorkerStatusChannel, P24_S15_WithoutGenerationItSendsZero) {
  POSTHOUSE_NEEDS_REQUEST();
  FakeMasterOptions options = Options();
  options.without_environment = {kGenerationVariable};
  Start(std::move(options));
  ServiceClient client = Connect();
  ASSERT_EQ(client.Ask(), "");
  ASSERT_TRUE(WaitWhileRunning([&] { return master_->messages().size() == 2; }));
  for (const StatusMessage& message : master_->messages()) EXPECT_EQ(message.generation, 0u);
}

TEST_F(WorkerStatusChannel, P19_AMasterThatDoesNotReadForAWhileDisturbsNobody) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ServiceClient client = Connect();
  ASSERT_EQ(client.Ask(), "");
  ASSERT_TRUE(WaitWhileRunning([&] { return master_->worker(pid_).use_count == 1; }));
  master_->set_read_status(false);
  for (int i = 0; i < kRequestsOfAStalledMaster; ++i) ASSERT_EQ(client.Ask(), kAllAnswered);
  master_->set_read_status(true);
  EXPECT_TRUE(WaitWhileRunning(
      [&] { return master_->worker(pid_).use_count == 1 + kRequestsOfAStalledMaster; }));
  EXPECT_EQ(master_->worker(pid_).availability, Availability::kAvailable);
  EXPECT_EQ(master_->problems(), std::vector<std::string>());
}

// --- The end of the channel ---

class WorkerEnd : public WorkerFixture {};

TEST_F(WorkerEnd, P41_P43_P54_AnIdleWorkerEndsWithStatus0WhenTheChannelIsClosed) {
  Start();
  ExpectStarts();
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(WorkerEnd, P43_S87_AWorkerWithASilentClientEndsWithStatus0WhenTheChannelIsClosed) {
  Start();
  ServiceClient client = Connect();
  ExpectServed(client);
  ASSERT_TRUE(master_->Reload().ok());
  EXPECT_EQ(End(), "exit 0");
  EXPECT_TRUE(client.ClosedWithin(kGenerousBound));
}

TEST_F(WorkerEnd, P43_M117_EndsWithStatus0WhenTheMasterIsGone) {
  Start();
  ExpectStarts();
  master_->Vanish();
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(WorkerEnd, S88_AByteOnTheChannelIsAnEndToo) {
  Start();
  ExpectStarts();
  ASSERT_EQ(send(master_->status_fd(), "x", 1, 0), 1);
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(WorkerEnd, P43_S57_ARequestUnderWayWhenTheChannelIsClosedIsAnswered) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ServiceClient client = Connect();
  ASSERT_EQ(client.Ask(), "");
  ASSERT_TRUE(WaitWhileRunning([&] { return master_->worker(pid_).use_count == 1; }));
  const absl::string_view request = TheCandidate().request;
  const size_t half = request.size() / 2;
  ASSERT_TRUE(client.Send(request.substr(0, half)));
  ASSERT_TRUE(WaitWhileRunning([&] { return client.AllIsRead(); }));
  // A worker that waits inside the request has said TAKEN, and stays with that. One that collects
  // its input begins with the second half, which it finds together with the end of the channel.
  const bool collects = master_->WaitUntil(
      [&] { return master_->worker(pid_).availability == Availability::kAvailable; },
      absl::Milliseconds(300));
  if (collects) {
    kill(pid_, SIGSTOP);
    ASSERT_TRUE(client.Send(request.substr(half)));
    ASSERT_TRUE(master_->Reload().ok());
    kill(pid_, SIGCONT);
  } else {
    ASSERT_TRUE(master_->Reload().ok());
    ASSERT_TRUE(client.Send(request.substr(half)));
  }
  EXPECT_EQ(client.Reply(), "");
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(WorkerEnd, P17_P44_AFailedTAKENIsIgnoredAndAFailedAVAILIsTheEnd) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ServiceClient client = Connect();
  ASSERT_EQ(client.Ask(), "");
  ASSERT_TRUE(WaitWhileRunning([&] { return master_->worker(pid_).use_count == 1; }));
  // Writes fail, and nothing is to be read.
  ASSERT_EQ(shutdown(master_->status_fd(), SHUT_RD), 0);
  master_->set_read_status(false);
  EXPECT_EQ(client.Ask(), "");
  client.Close();
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(WorkerEnd, P5_TheEndOfASiblingIsNotTheEndOfTheChannel) {
  Start();
  const pid_t first = pid_;
  ExpectStarts();
  const pid_t second = Spawn();
  ASSERT_EQ(kill(first, SIGKILL), 0);
  EXPECT_EQ(End(first), "signal 9");
  ExpectServes();
  EXPECT_TRUE(Running(second));
}

TEST_F(WorkerEnd, P6_S68_ItsEndLeavesTheListenerToOthers) {
  Start();
  ExpectStarts();
  ASSERT_TRUE(master_->Reload().ok());
  ASSERT_EQ(End(), "exit 0");
  // Whoever comes now waits for the next process.
  ServiceClient client = Connect();
  Spawn();
  ExpectServed(client);
}

TEST_F(WorkerEnd, S5_P40_SIGTERMEndsIt) {
  Start();
  ExpectStarts();
  ASSERT_EQ(kill(pid_, SIGTERM), 0);
  const std::string end = End();
  EXPECT_TRUE(end == "signal 15" || end == "exit 0") << end;
}

// --- Limits ---

class WorkerLimits : public WorkerFixture {};

TEST_F(WorkerLimits, S65_P54_TheUseLimitEndsItWithStatus0) {
  if (!TheCandidate().has_use_limit) GTEST_SKIP() << "--no-use-limit";
  FakeMasterOptions options = Options();
  options.main_cf += "max_use = 2\n";
  Start(std::move(options));
  ServiceClient first = Connect();
  ExpectServed(first);
  first.Close();
  ServiceClient second = Connect();
  ExpectServed(second);
  EXPECT_TRUE(Running(pid_));
  second.Close();
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(WorkerLimits, S27_S9_TheCommandLineOverridesTheUseLimit) {
  if (!TheCandidate().has_use_limit) GTEST_SKIP() << "--no-use-limit";
  for (const std::vector<std::string>& option :
       {std::vector<std::string>{"-m", "1"}, {"-o", "max_use=1"}, {"-o", " max_use = 1 "}}) {
    FakeMasterOptions options = OptionsWith(option);
    options.main_cf += "max_use = 50\n";
    Start(std::move(options));
    ExpectServes();
    EXPECT_EQ(End(), "exit 0") << option[0] << " " << option[1];
  }
}

TEST_F(WorkerLimits, S68_TheIdleLimitEndsItWithStatus0) {
  FakeMasterOptions options = Options();
  options.main_cf += "max_idle = 1s\n";
  Start(std::move(options));
  ExpectStarts();
  EXPECT_EQ(End(), "exit 0");
}

TEST_F(WorkerLimits, S27_TheCommandLineOverridesTheIdleLimit) {
  for (const std::vector<std::string>& option :
       {std::vector<std::string>{"-i", "1"}, {"-o", "max_idle=1s"}}) {
    Start(OptionsWith(option));
    ExpectStarts();
    EXPECT_EQ(End(), "exit 0") << option[0];
  }
}

TEST_F(WorkerLimits, S67_ASilentClientKeepsItAliveBeyondTheIdleLimit) {
  FakeMasterOptions options = Options();
  options.main_cf += "max_idle = 1s\n";
  Start(std::move(options));
  ServiceClient client = Connect();
  ExpectServed(client);
  EXPECT_EQ(End(pid_, absl::Seconds(2.5)), "still running");
  client.Close();
  EXPECT_EQ(End(), "exit 0");
}

// --- Clients ---

class WorkerClients : public WorkerFixture {};

TEST_F(WorkerClients, P30_SilentClientsKeepNobodyFromBeingServed) {
  Start();
  std::vector<ServiceClient> silent;
  for (int i = 0; i < 50; ++i) silent.push_back(Connect());
  ExpectServes();
  for (ServiceClient& client : silent) ExpectServed(client);
}

TEST_F(WorkerClients, S41_AllWhoWaitAreAccepted) {
  Start();
  ExpectStarts();
  Stop(pid_);
  std::vector<ServiceClient> waiting;
  for (int i = 0; i < 20; ++i) waiting.push_back(Connect());
  Continue(pid_);
  for (ServiceClient& client : waiting) ExpectServed(client);
}

TEST_F(WorkerClients, S37_S42_TwoWorkersOnOneListenerServeEveryClientOnce) {
  Start();
  const pid_t first = pid_;
  ExpectStarts();
  const pid_t second = Spawn();
  for (int i = 0; i < 40; ++i) ExpectServes();
  EXPECT_TRUE(Running(first));
  EXPECT_TRUE(Running(second));
}

TEST_F(WorkerClients, P31_S37_FindingNoClientIsNothingWrong) {
  Start();
  ExpectStarts();
  // Somebody else takes what the worker was woken up for, more often than errors are allowed.
  for (int i = 0; i < 15; ++i) {
    Stop(pid_);
    ServiceClient client = Connect();
    UniqueFd taken(accept4(master_->listen_fd(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(taken.valid());
    Continue(pid_);
  }
  ExpectServes();
  EXPECT_TRUE(Running(pid_));
}

TEST_F(WorkerClients, S58_ARequestBeforeAHalfCloseIsAnswered) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ServiceClient client = Connect();
  ASSERT_EQ(client.Greeting(), "");
  ASSERT_TRUE(client.Send(TheCandidate().request));
  client.CloseWrite();
  EXPECT_EQ(client.Reply(), "");
  EXPECT_TRUE(client.ClosedWithin(kGenerousBound));
}

TEST_F(WorkerClients, S5_AClientThatDoesNotWaitForItsReplyHarmsNobody) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ExpectStarts();
  for (int i = 0; i < 20; ++i) {
    ServiceClient client = Connect();
    ASSERT_TRUE(client.Send(TheCandidate().request));
  }
  ExpectServes();
  EXPECT_TRUE(Running(pid_));
}

TEST_F(WorkerClients, S59_AConnectionServesRequestAfterRequest) {
  POSTHOUSE_NEEDS_REQUEST();
  Start();
  ServiceClient client = Connect();
  for (int i = 0; i < 100; ++i) ASSERT_EQ(client.Ask(), "");
}

TEST_F(WorkerClients, F37_ClosesTheDescriptorOfAClientThatHasGone) {
  Start();
  ExpectStarts();
  ServiceClient stays = Connect();
  ExpectServed(stays);
  const size_t count = DescriptorCount();
  for (int i = 0; i < 10; ++i) {
    ServiceClient client = Connect();
    ExpectServed(client);
  }
  EXPECT_TRUE(HasDescriptors(count)) << count << " before, " << DescriptorCount() << " now";
}

TEST_F(WorkerClients, F8_BeingStoppedAndContinuedChangesNothing) {
  Start();
  ServiceClient client = Connect();
  ExpectServed(client);
  for (int i = 0; i < 20; ++i) {
    Stop(pid_);
    Continue(pid_);
  }
  if (HasRequest()) {
    EXPECT_EQ(client.Ask(), "");
  }
  ExpectServes();
  EXPECT_TRUE(Running(pid_));
}

// --- Flow tokens ---

class WorkerFlow : public WorkerFixture {};

TEST_F(WorkerFlow, P51_TakesATokenPerConnectionIfItIsAConsumerAndNoneOtherwise) {
  Start();
  ASSERT_EQ(master_->flow_tokens().Put(5).value(), 5);
  ServiceClient first = Connect();
  ServiceClient second = Connect();
  ExpectServed(first);
  ExpectServed(second);
  EXPECT_EQ(master_->flow_tokens().Count().value(), TheCandidate().consumes_tokens ? 3 : 5);
}

TEST_F(WorkerFlow, S52_WithoutTokensAClientIsServedAfterTheDelay) {
  if (!TheCandidate().consumes_tokens) GTEST_SKIP() << "it is no consumer (--consumes-tokens)";
  FakeMasterOptions options = Options();
  options.main_cf += "in_flow_delay = 1s\n";
  Start(std::move(options));
  const absl::Time start = absl::Now();
  ExpectServes();
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(500));
}

// --- One-shot mode ---

class WorkerOneShot : public WorkerFixture {};

TEST_F(WorkerOneShot, S76_S77_ServesStandardInputOnceWithoutMaster) {
  POSTHOUSE_NEEDS_REQUEST();
  if (!TheCandidate().one_shot) GTEST_SKIP() << "--no-one-shot";
  Start();  // for its configuration
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  ServiceClient client{UniqueFd(ends[0])};
  UniqueFd theirs(ends[1]);
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  ChildPlan plan;
  plan.program = TheCandidate().program;
  plan.arguments = BuildWorkerArguments(master_->options().arguments);
  plan.arguments.insert(plan.arguments.begin() + 1, "-S");
  plan.environment = {"MAIL_CONFIG=" + master_->scratch().Path("etc"), "LANG=C"};
  plan.descriptors = {{0, theirs.get()}, {1, theirs.get()}, {2, null.get()}};
  plan.directory = master_->queue_directory();
  const absl::StatusOr<pid_t> pid = StartChild(plan);
  ASSERT_TRUE(pid.ok()) << pid.status();
  theirs.Reset();
  ASSERT_TRUE(client.Send(TheCandidate().request));
  client.CloseWrite();
  // Some greet here too.
  std::string all;
  char data[4096];
  ssize_t got;
  while (WaitForEvents(client.fd(), POLLIN) &&
         (got = recv(client.fd(), data, sizeof(data), 0)) > 0) {
    all.append(data, static_cast<size_t>(got));
  }
  const absl::optional<int> status = WaitForExit(*pid);
  if (!status.has_value()) kill(*pid, SIGKILL);
  ASSERT_TRUE(status.has_value()) << "still running";
  EXPECT_EQ(*status, 0) << "wait status";
  bool matches = false;
  for (size_t i = 0; i < all.size() && !matches; ++i) {
    matches = std::regex_search(all.substr(i), std::regex(TheCandidate().reply_pattern));
  }
  EXPECT_TRUE(matches) << "output: " << absl::CEscape(all);
}

}  // namespace
}  // namespace posthouse::conformance

// policyd behind stock smtpd: what it answers decides what becomes of real mail.

#include <signal.h>

#include <atomic>
#include <ostream>
#include <set>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/synchronization/barrier.h"
#include "absl/synchronization/mutex.h"
#include "tests/conformance/conformance_test.h"

namespace posthouse::conformance {
namespace {

constexpr char kPolicyd[] = "examples/policy/policyd";
constexpr char kSender[] = "sender@example.test";
constexpr char kRecipient[] = "user@box.example.test";

class PolicyTest : public ConformanceTest {
 protected:
  void SetUp() override {
    ConformanceTest::SetUp();
    if (instance_ == nullptr) return;
    Install("policyd", kPolicyd);
    instance_->SetParameter("policy_greylist_delay", "0");
  }

  // The service of master.cf from its private field on, and the name by which smtpd finds it.
  void UsePolicy(const std::string& service, const std::string& endpoint) {
    instance_->SetService(service);
    instance_->SetParameter("smtpd_recipient_restrictions",
                            absl::StrCat("check_policy_service ", endpoint));
  }
  void UsePrivatePolicy(const std::string& fields) {
    UsePolicy(absl::StrCat("policy unix ", fields), "unix:private/policy");
  }

  int Port() const { return instance_->smtp_port(); }
  bool Delivered(int count) {
    return Eventually(kBound, [&] { return instance_->MailCount() == count; });
  }
};

// --- The three answers, over both kinds of socket ---

struct Transport {
  const char* name;
  bool inet;
};

void PrintTo(const Transport& transport, std::ostream* out) { *out << transport.name; }

class PolicyAnswers : public PolicyTest, public testing::WithParamInterface<Transport> {
 protected:
  void StartWithPolicy() {
    if (GetParam().inet) {
      const int port = FreePort();
      UsePolicy(absl::StrCat("127.0.0.1:", port, " inet n y n - 0 policyd"),
                absl::StrCat("inet:127.0.0.1:", port));
    } else {
      UsePrivatePolicy("- y n - 0 policyd");
    }
    Start();
  }
};

TEST_P(PolicyAnswers, AMailIsAllowed) {
  StartWithPolicy();
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 250);
  EXPECT_TRUE(Delivered(1));
  EXPECT_EQ(instance_->Processes("policyd").size(), 1u);
}

TEST_P(PolicyAnswers, AMailIsDeferredThenAllowedOnRetryAfterTheDelay) {
  instance_->SetParameter("policy_greylist_delay", "2s");
  StartWithPolicy();
  const absl::Time before = absl::Now();
  const absl::StatusOr<SmtpReply> first = SendMail(Port(), kSender, kRecipient);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->code, 450) << *first;
  EXPECT_TRUE(absl::StrContains(absl::AsciiStrToLower(first->text), "greylist")) << *first;
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 450) << "too early";
  EXPECT_EQ(instance_->MailCount(), 0);
  EXPECT_TRUE(Eventually(kBound, [&] { return SendMailCode(Port(), kSender, kRecipient) == 250; }));
  // The store counts whole seconds.
  EXPECT_GE(absl::Now() - before, absl::Seconds(1));
  EXPECT_TRUE(Delivered(1));
  // Another sender begins anew, the known one does not.
  EXPECT_EQ(SendMailCode(Port(), "other@example.test", kRecipient), 450);
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 250);
}

TEST_P(PolicyAnswers, AClientOverItsRateIsDeferredAndAnotherIsNot) {
  instance_->SetParameter("policy_rate_limit", "3");
  StartWithPolicy();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 250);
  const absl::StatusOr<SmtpReply> fourth = SendMail(Port(), kSender, kRecipient);
  ASSERT_TRUE(fourth.ok()) << fourth.status();
  EXPECT_EQ(fourth->code, 450) << *fourth;
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient, "127.9.0.2"), 250);
  EXPECT_TRUE(Delivered(4));
}

INSTANTIATE_TEST_SUITE_P(Transports, PolicyAnswers,
                         testing::Values(Transport{"unix", false}, Transport{"inet", true}),
                         [](const auto& info) { return std::string(info.param.name); });

// --- As a pass service ---

TEST_F(PolicyTest, APassServiceAnswersOverTheConnectionItWasHanded) {
  instance_->SetParameter("policy_rate_limit", "1");
  instance_->SetService("policy pass - y n - - policyd");
  Start();
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> pair = TcpPair();
  ASSERT_TRUE(pair.ok()) << pair.status();
  Connection sender = Connect("policy");
  ASSERT_EQ(sender.PassDescriptor(pair->second.get(), NulAttributes({})), absl::OkStatus());
  pair->second.Reset();
  Connection client(std::move(pair->first));
  const std::string request = absl::StrCat(
      "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.1\nsender=",
      kSender, "\nrecipient=", kRecipient, "\n\n");
  ASSERT_EQ(client.Write(request), absl::OkStatus());
  EXPECT_EQ(*client.ReadUntil("\n\n"), "action=DUNNO");
  ASSERT_EQ(client.Write(request), absl::OkStatus());
  const std::string limited = *client.ReadUntil("\n\n");
  EXPECT_TRUE(absl::StartsWith(limited, "action=4") || absl::StartsWith(limited, "action=DEFER"))
      << limited;
}

// --- Many clients ---

// Clients that all wait until everybody has said MAIL and then ask for their recipient at once.
std::vector<int> SendTogether(int port, int clients) {
  std::vector<int> codes(clients, 0);
  auto* barrier = new absl::Barrier(clients);
  std::vector<std::thread> threads;
  for (int i = 0; i < clients; ++i) {
    threads.emplace_back([&codes, barrier, port, i] {
      absl::StatusOr<SmtpClient> client = SmtpClient::Connect(port);
      if (client.ok()) {
        client->Command("EHLO client.example.test").status().IgnoreError();  // RCPT tells.
        client->Command(absl::StrCat("MAIL FROM:<", kSender, ">")).status().IgnoreError();
      }
      if (barrier->Block()) delete barrier;
      if (!client.ok()) return;
      absl::StatusOr<SmtpReply> reply =
          client->Command(absl::StrCat("RCPT TO:<user", i, "@box.example.test>"));
      if (reply.ok() && reply->code == 250) reply = client->Data("together");
      codes[i] = reply.ok() ? reply->code : 0;
      client->Quit().IgnoreError();  // The code is what counts.
    });
  }
  for (std::thread& thread : threads) thread.join();
  return codes;
}

TEST_F(PolicyTest, FiftySmtpClientsAtOnceAreServedByOneProcess) {
  instance_->SetParameter("policy_rate_limit", "1000000");
  UsePrivatePolicy("- y n - 1 policyd");
  Start();
  EXPECT_EQ(SendTogether(Port(), 50), std::vector<int>(50, 250));
  EXPECT_TRUE(Delivered(50));
  EXPECT_EQ(instance_->Processes("policyd").size(), 1u);
}

TEST_F(PolicyTest, FiftySmtpClientsAtOnceAreServedBySeveralProcessesOnOneDatabase) {
  instance_->SetParameter("policy_rate_limit", "40");
  // A process ends after ten clients, and several run while one of them is busy.
  UsePrivatePolicy("- y n - 0 policyd -m 10");
  Start();
  std::vector<int> codes = SendTogether(Port(), 50);
  // All share one client address: exactly the limit passes, whoever answered.
  EXPECT_EQ(std::count(codes.begin(), codes.end(), 250), 40);
  EXPECT_EQ(std::count(codes.begin(), codes.end(), 450), 10);
  EXPECT_TRUE(Delivered(40));
}

// --- Death and reload ---

TEST_F(PolicyTest, KilledInTheMiddleOfASessionTheNextRecipientAndTheNextMailGoThrough) {
  UsePrivatePolicy("- y n - 1 policyd");
  Expect("process .*/sbin/policyd pid [0-9]+ killed by signal 9$");
  Expect("smtpd\\[[0-9]+\\]: warning: problem talking to server private/policy");
  Start();
  TraceMaster();
  absl::StatusOr<SmtpClient> client = SmtpClient::Connect(Port());
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_EQ(client->Envelope(kSender, kRecipient)->code, 250);
  const std::vector<pid_t> workers = instance_->Processes("policyd");
  ASSERT_EQ(workers.size(), 1u);
  ASSERT_TRUE(AwaitMaster(workers[0]));
  ASSERT_EQ(kill(workers[0], SIGKILL), 0);
  ASSERT_TRUE(Gone(workers[0]));
  // The session goes on with the next process.
  EXPECT_EQ(client->Command("RCPT TO:<second@box.example.test>")->code, 250);
  EXPECT_EQ(client->Data("survived")->code, 250);
  EXPECT_EQ(client->Quit(), absl::OkStatus());
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 250);
  EXPECT_TRUE(Delivered(3));
}

TEST_F(PolicyTest, WhatWasLearnedSurvivesKillAndRestart) {
  instance_->SetParameter("policy_greylist_delay", "2s");
  UsePrivatePolicy("- y n - 1 policyd");
  Expect("process .*/sbin/policyd pid [0-9]+ killed by signal 9$");
  Expect("smtpd\\[[0-9]+\\]: warning: problem talking to server private/policy");
  Start();
  TraceMaster();
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 450);
  const std::vector<pid_t> workers = instance_->Processes("policyd");
  ASSERT_EQ(workers.size(), 1u);
  ASSERT_TRUE(AwaitMaster(workers[0]));
  ASSERT_EQ(kill(workers[0], SIGKILL), 0);
  ASSERT_EQ(instance_->WaitForLog("killed by signal 9$", kBound).status(), absl::OkStatus());
  trace_.reset();
  // Had it forgotten, every retry within a second would be deferred for two more.
  EXPECT_TRUE(Eventually(kBound, [&] { return SendMailCode(Port(), kSender, kRecipient) == 250; }));
  ASSERT_EQ(instance_->Stop(), absl::OkStatus());
  Start();
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 250);
  EXPECT_TRUE(Delivered(2));
}

// Sends mail from several clients until it is told to stop.
//
// They pause between two mails, for the stock programs' sake: each line of the log costs postlogd
// two status messages, which it writes blocking, and each line of the master's own waits for room
// in postlogd's queue of ten. Where lines come faster than the master reads status messages, the
// two wait for each other until postlogd's watchdog ends it, and the master for ever.
class Load {
 public:
  static constexpr absl::Duration kPause = absl::Milliseconds(100);

  Load(int port, int clients) : port_(port) {
    for (int i = 0; i < clients; ++i) threads_.emplace_back([this] { Run(); });
  }
  ~Load() { Finish(); }
  void Finish() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  int accepted() const { return accepted_; }
  // What was said instead of 250.
  std::vector<std::string> failures() {
    absl::MutexLock lock(&mutex_);
    return failures_;
  }

 private:
  void Run() {
    for (; !stop_; absl::SleepFor(kPause)) {
      const absl::StatusOr<SmtpReply> reply = SendMail(port_, kSender, kRecipient);
      if (reply.ok() && reply->code == 250) {
        ++accepted_;
        continue;
      }
      absl::MutexLock lock(&mutex_);
      failures_.push_back(reply.ok() ? absl::StrCat(reply->code, " ", reply->text)
                                     : reply.status().ToString());
    }
  }

  const int port_;
  std::atomic<bool> stop_ = false;
  std::atomic<int> accepted_ = 0;
  absl::Mutex mutex_;
  std::vector<std::string> failures_;
  std::vector<std::thread> threads_;
};

TEST_F(PolicyTest, ReloadsUnderLoadLoseNoMailAndStartANewGeneration) {
  UsePrivatePolicy("- y n - 0 policyd");
  Start();
  const int clients = Full() ? 50 : 8;
  const int reloads = Full() ? 20 : 4;
  Load load(Port(), clients);
  std::set<pid_t> generations;
  for (int i = 0; i < reloads; ++i) {
    const int before = load.accepted();
    ASSERT_TRUE(Eventually(kBound, [&] { return load.accepted() >= before + 2 * clients; }))
        << load.accepted();
    const std::vector<pid_t> old_workers = instance_->Processes("policyd");
    ASSERT_FALSE(old_workers.empty());
    for (pid_t pid : old_workers) {
      EXPECT_TRUE(generations.insert(pid).second) << "survived a reload: " << pid;
    }
    Reload();
    for (pid_t pid : old_workers) EXPECT_TRUE(Gone(pid)) << "old generation: " << pid;
  }
  const int before = load.accepted();
  EXPECT_TRUE(Eventually(kBound, [&] { return load.accepted() >= before + 2 * clients; }));
  load.Finish();
  EXPECT_EQ(load.failures(), std::vector<std::string>());
  EXPECT_TRUE(Delivered(load.accepted())) << instance_->MailCount() << " of " << load.accepted();
  EXPECT_TRUE(Eventually(kBound, [&] { return instance_->QueueCount() == 0; }));
}

TEST_F(PolicyTest, S64_TheUseLimitDisturbsNoSession) {
  UsePrivatePolicy("- y n - 0 policyd -m 2 -i 1");
  Start();
  const int count = Full() ? 200 : 20;
  for (int i = 0; i < count; ++i) {
    EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 250) << i;
  }
  EXPECT_TRUE(Delivered(count));
}

// --- Surroundings ---

TEST_F(PolicyTest, RunsUnprivilegedInAChroot) {
  UsePrivatePolicy("- y y - 1 policyd");
  Start();
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 250);
  const std::vector<pid_t> workers = instance_->Processes("policyd");
  ASSERT_EQ(workers.size(), 1u);
  const absl::optional<ProcessInfo> worker = InspectProcess(workers[0]);
  ASSERT_TRUE(worker.has_value());
  EXPECT_EQ(worker->root, instance_->queue_directory());
  EXPECT_EQ(worker->status.at("CapEff"), "0000000000000000");
  EXPECT_TRUE(Delivered(1));
}

TEST_F(PolicyTest, TheRulesHoldThroughAReloadInAChroot) {
  instance_->SetParameter("policy_rate_limit", "2");
  UsePrivatePolicy("- y y - 0 policyd");
  Start();
  absl::StatusOr<SmtpClient> client = SmtpClient::Connect(Port());
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(client->Envelope(kSender, "one@box.example.test")->code, 250);
  const std::vector<pid_t> workers = instance_->Processes("policyd");
  ASSERT_EQ(workers.size(), 1u);
  Reload();
  ASSERT_TRUE(Gone(workers[0]));
  // smtpd had a connection to the old generation, whose database the jail hides from new openings.
  EXPECT_EQ(client->Command("RCPT TO:<two@box.example.test>")->code, 250);
  EXPECT_EQ(client->Command("RCPT TO:<three@box.example.test>")->code, 450);
}

TEST_F(PolicyTest, ABadParameterIsNamedOnceAndMailIsPutOffNotLost) {
  instance_->SetParameter("policy_greylist_delay", "a while");
  instance_->SetParameter("service_throttle_time", "2s");
  instance_->SetParameter("smtpd_policy_service_timeout", "2s");
  Expect("policyd\\[[0-9]+\\]: fatal: .*policy_greylist_delay");
  Expect("process .*/sbin/policyd pid [0-9]+ exit status 1$");
  Expect("/sbin/policyd: bad command startup -- throttling$");
  Expect("smtpd\\[[0-9]+\\]: warning: (problem talking to|timeout on) ");
  // The client that waited in the queue has given up by the time the service runs.
  Expect("policyd\\[[0-9]+\\]: warning: client .* dropped: .* Broken pipe");
  UsePrivatePolicy("- y n - 1 policyd");
  Start();
  EXPECT_EQ(SendMailCode(Port(), kSender, kRecipient), 451);
  for (const std::string& line : instance_->LogLines("policyd\\[[0-9]+\\]: fatal: ")) {
    EXPECT_TRUE(absl::StrContains(line, "a while")) << line;
    EXPECT_TRUE(absl::StrContains(line, "main.cf")) << line;
  }
  instance_->SetParameter("policy_greylist_delay", "0");
  EXPECT_TRUE(Eventually(kBound, [&] { return SendMailCode(Port(), kSender, kRecipient) == 250; }));
}

TEST_F(PolicyTest, D97_OurAnvilAndOurPolicyTogetherCarryALoadThroughReloadsWithACleanLog) {
  Install("anvil", "examples/anvil/anvil");
  instance_->SetService("anvil unix - y y - 1 anvil");
  instance_->SetParameter("smtpd_client_event_limit_exceptions", "");
  instance_->SetParameter("smtpd_client_message_rate_limit", "1000000");
  instance_->SetParameter("policy_rate_limit", "1000000");
  UsePrivatePolicy("- y y - 0 policyd -m 20");
  Start();
  Load load(Port(), 8);
  for (int i = 0; i < 3; ++i) {
    const int before = load.accepted();
    ASSERT_TRUE(Eventually(kBound, [&] { return load.accepted() >= before + 40; }));
    Reload();
  }
  load.Finish();
  EXPECT_EQ(load.failures(), std::vector<std::string>());
  EXPECT_TRUE(Delivered(load.accepted())) << instance_->MailCount() << " of " << load.accepted();
}

TEST_F(PolicyTest, StopUnderLoadLeavesNothing) {
  UsePrivatePolicy("- y n - 0 policyd");
  Start();
  Load load(Port(), 8);
  ASSERT_TRUE(Eventually(kBound, [&] { return load.accepted() >= 16; }));
  EXPECT_EQ(instance_->Stop(), absl::OkStatus());
  load.Finish();
  EXPECT_EQ(instance_->Processes(), std::vector<pid_t>());
  // What had been accepted when the system stopped is delivered after the next start.
  Start();
  EXPECT_TRUE(Eventually(kBound, [&] { return instance_->QueueCount() == 0; }));
  EXPECT_GE(instance_->MailCount(), load.accepted());
}

}  // namespace
}  // namespace posthouse::conformance

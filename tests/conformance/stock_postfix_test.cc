// All of stock Postfix on Debian's own configuration, its chroot columns kept, under a master: the
// stock one and ours in its place. What an operator does and what mail needs.

#include <pwd.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <thread>

#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/conformance/conformance_test.h"
#include "tests/conformance/master_program.h"
#include "tests/conformance/private_network.h"

namespace posthouse::conformance {
namespace {

namespace fs = std::filesystem;

constexpr char kRecipient[] = "nobody@instance.example.test";
// Mails wait for wake-ups of seconds when a daemon was killed; a loaded machine is slow.
constexpr absl::Duration kMailBound = absl::Seconds(120);

struct Service {
  std::string name, type, command;
  bool is_private = true, unprivileged = true, chroot = false;
};

// Debian's file has no braces, and its continued lines hold arguments alone; the defaults are those
// of compatibility level 3.6.
std::vector<Service> ServicesOf(const std::string& master_cf) {
  std::vector<Service> services;
  std::ifstream file(master_cf);
  std::string line;
  while (std::getline(file, line)) {
    if (line.empty() || line[0] == '#' || line[0] == ' ' || line[0] == '\t') continue;
    const std::vector<std::string> f =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipWhitespace());
    services.push_back({f.at(0), f.at(1), f.at(7), f.at(2) != "n", f.at(3) != "n", f.at(4) == "y"});
  }
  return services;
}

class DebianPostfix : public ConformanceTest {
 protected:
  void SetUp() override {
    if (const absl::Status status = EnterPrivateNetwork(); !status.ok()) {
      ASSERT_NE(geteuid(), 0u) << status;
      GTEST_SKIP() << status;
    }
    ConformanceTest::SetUp();
    if (instance_ == nullptr) return;
    // No resolver in this network: names come from the hosts file alone.
    instance_->SetParameter("smtp_dns_support_level", "disabled");
    instance_->SetParameter("smtpd_peername_lookup", "no");
  }
  StockInstanceOptions Options() const override {
    return {.master_program = master_.path, .debian_configuration = true};
  }

  // A client for each service of master.cf, so that each has a process; it is in the state that
  // master.cf asks for.
  void ReachEveryService() {
    // Without it Debian's virtual(8) ends at once.
    instance_->SetParameter("virtual_mailbox_base", instance_->directory() + "/mail");
    // Clients that connect and say nothing.
    Expect("[a-z]+\\[[0-9]+\\]: warning: (malformed request|end-of-input)");
    Start();
    services_ = ServicesOf(instance_->config_directory() + "/master.cf");
    ASSERT_EQ(services_.size(), 31u);
    for (const Service& service : services_) {
      if (service.type != "unix-dgram") {
        absl::StatusOr<Connection> connection = Reach(service);
        ASSERT_EQ(connection.status(), absl::OkStatus()) << service.name;
        clients_.push_back(*std::move(connection));
      }
      EXPECT_TRUE(Eventually(kBound, [&] { return ProcessOf(service).has_value(); }))
          << service.name;
    }
  }

  absl::optional<ProcessInfo> ProcessOf(const Service& service) {
    const passwd* owner = getpwnam(StockInstance::kMailOwner);
    for (const pid_t pid : instance_->Processes()) {
      const absl::optional<ProcessInfo> info = InspectProcess(pid);
      if (!info || info->parent != instance_->MasterPid() || info->arguments.empty()) continue;
      if (info->arguments[0] != service.command) continue;
      const auto name = std::find(info->arguments.begin(), info->arguments.end(), "-n");
      const std::string called = name == info->arguments.end() ? service.command : *(name + 1);
      const std::string jail = service.chroot ? instance_->queue_directory() : "/";
      const std::string user = absl::StrCat(service.unprivileged ? owner->pw_uid : 0);
      const std::vector<std::string> ids =
          absl::StrSplit(info->status.at("Uid"), absl::ByAnyChar(" \t"));
      // Services that run with a privileged start may take a lower effective identity meanwhile.
      if (called == service.name && info->root == jail &&
          (ids.at(0) == user || !service.unprivileged)) {
        return info;
      }
    }
    return absl::nullopt;
  }

  absl::StatusOr<Connection> Reach(const Service& service) {
    if (service.type == "inet") return Connection::Tcp(instance_->smtp_port());
    return Connection::Unix(absl::StrCat(instance_->queue_directory(), "/",
                                         service.is_private ? "private/" : "public/",
                                         service.name));
  }

  // A file with a whole mail for sendmail.
  std::string MailFile(const std::string& subject) {
    const std::string path = instance_->directory() + "/log/mail";
    std::ofstream(path, std::ios::trunc)
        << "From: root@instance.example.test\nSubject: " << subject << "\n\nA message.\n";
    return path;
  }
  int Sendmail(const std::string& subject) {
    return instance_->Run({"sendmail", "-C", instance_->config_directory(), "-f",
                           "a@instance.example.test", kRecipient},
                          nullptr, MailFile(subject));
  }
  // Sends until the server has taken responsibility. A server that dies may have taken it before
  // without saying so: then the mail arrives twice.
  bool SmtpSend(const std::string& subject) {
    return Eventually(kMailBound, [&] {
      absl::StatusOr<SmtpClient> client = SmtpClient::Connect(instance_->smtp_port());
      if (!client.ok()) return false;
      absl::StatusOr<SmtpReply> reply = client->Envelope("a@example.test", kRecipient);
      if (reply.ok() && reply->code == 250) reply = client->Data(subject);
      client->Quit().IgnoreError();
      return reply.ok() && reply->code == 250;
    });
  }

  // How often each subject is in the box.
  std::map<std::string, int> Box() const {
    std::map<std::string, int> subjects;
    std::error_code none;
    for (const fs::directory_entry& entry :
         fs::directory_iterator(instance_->maildir() + "/new", none)) {
      std::ifstream mail(entry.path());
      std::string line;
      while (std::getline(mail, line)) {
        absl::string_view subject = line;
        if (absl::ConsumePrefix(&subject, "Subject: ")) ++subjects[std::string(subject)];
      }
    }
    return subjects;
  }

  // What an operator does when daemons have died: asks the queue manager and pickup to look again.
  void FlushQueue() {
    instance_->Run({"postqueue", "-c", instance_->config_directory(), "-f"});
    instance_->Run({"postkick", "-c", instance_->config_directory(), "public", "pickup", "W"});
  }

  // What the master has started. The stock master stands still when postlogd's queue is full and
  // postlogd has died: the master's own report of that death waits for the dead.
  std::vector<pid_t> Daemons() {
    std::vector<pid_t> daemons;
    for (const pid_t pid : instance_->Processes()) {
      const absl::optional<ProcessInfo> info = InspectProcess(pid);
      if (!info || info->parent != instance_->MasterPid() || info->program() == "master") continue;
      if (master_.stock() && info->program() == "postlogd") continue;
      daemons.push_back(pid);
    }
    return daemons;
  }

  bool MasterGone(pid_t master) {
    return Gone(master) && Eventually(kBound, [&] { return instance_->Processes().empty(); });
  }

  MasterProgram master_;
  std::vector<Service> services_;
  std::vector<Connection> clients_;
};

class StockPostfix : public DebianPostfix, public testing::WithParamInterface<MasterProgram> {
 protected:
  void SetUp() override {
    master_ = GetParam();
    DebianPostfix::SetUp();
  }
};

TEST_P(StockPostfix, EveryServiceOfMasterCfStarts) { ReachEveryService(); }

class BothMasters : public DebianPostfix {
 protected:
  void SetUp() override {}

  // What the master gave each child and what it has made of it: the daemons' own descriptors, from
  // their first one on, are their own business. Spawns come in the order of the daemons' needs.
  void Dump(const MasterProgram& master, std::vector<std::string>* lines) {
    master_ = master;
    DebianPostfix::SetUp();
    ASSERT_NE(instance_, nullptr);
    ReachEveryService();
    const auto add = [&](const Service& service, const std::string& line) {
      lines->push_back(absl::StrCat(service.name, " ", service.type, ": ",
                                    absl::StrReplaceAll(line, {{instance_->directory(), "DIR"}})));
    };
    for (const Service& service : services_) {
      const absl::optional<ProcessInfo> info = ProcessOf(service);
      ASSERT_TRUE(info.has_value()) << service.name;
      add(service, absl::StrCat("arguments ", absl::StrJoin(info->arguments, " ")));
      for (const auto& [name, value] : info->environment) {
        if (name != "GENERATION") add(service, absl::StrCat("environment ", name, "=", value));
      }
      for (const char* field : {"Uid", "Gid", "Groups", "Umask", "SigIgn", "SigBlk", "CapBnd",
                                "CapPrm", "CapEff", "NoNewPrivs", "Seccomp"}) {
        add(service, absl::StrCat(field, " ", info->status.at(field)));
      }
      add(service, absl::StrCat("root ", info->root, " directory ", info->working_directory));
      const int listeners = service.type == "inet" ? 2 : 1;
      for (const auto& [fd, target] : info->descriptors) {
        if (fd >= 6 + listeners) continue;
        add(service, absl::StrFormat("fd %d %s flags %o", fd,
                                     std::regex_replace(target, std::regex("\\[[0-9]+\\]"), ""),
                                     info->descriptor_flags.at(fd)));
      }
    }
    clients_.clear();
    TearDown();
  }
};

TEST_F(BothMasters, GiveEveryServiceOfMasterCfTheSameProcess) {
  std::vector<std::string> stock, ours;
  Dump(MasterPrograms()[0], &stock);
  Dump(MasterPrograms()[1], &ours);
  EXPECT_EQ(ours, stock);
  EXPECT_GT(stock.size(), 500u);
}

TEST_P(StockPostfix, MailOfAnSmtpClientAndOfSendmailReachesTheMailbox) {
  Start();
  EXPECT_TRUE(SmtpSend("by SMTP"));
  EXPECT_EQ(Sendmail("by sendmail"), 0);
  EXPECT_TRUE(Eventually(kMailBound, [&] { return instance_->MailCount() == 2; }));
  EXPECT_EQ(Box(), (std::map<std::string, int>{{"by SMTP", 1}, {"by sendmail", 1}}));
  EXPECT_TRUE(Eventually(kBound, [&] { return instance_->QueueCount() == 0; }));
}

TEST_P(StockPostfix, PostqueueShowsTheQueue) {
  instance_->SetParameter("defer_transports", "local");
  Start();
  std::string said;
  const std::vector<std::string> command = {"postqueue", "-c", instance_->config_directory(), "-p"};
  EXPECT_EQ(instance_->Run(command, &said), 0) << said;
  EXPECT_EQ(said, "Mail queue is empty\n");
  EXPECT_EQ(Sendmail("waiting"), 0);
  EXPECT_TRUE(Eventually(kBound, [&] {
    said.clear();
    return instance_->Run(command, &said) == 0 && absl::StrContains(said, kRecipient) &&
           absl::StrContains(said, "deferred transport");
  })) << said;
  instance_->SetParameter("defer_transports", "");
  Reload();
  EXPECT_TRUE(Eventually(kMailBound, [&] {
    FlushQueue();
    return instance_->MailCount() == 1;
  }));
}

TEST_P(StockPostfix, M120_TheCommandsOfTheOperatorWork) {
  EXPECT_EQ(instance_->Postfix("status"), 1);
  EXPECT_EQ(instance_->Postfix("stop"), 1);
  EXPECT_EQ(instance_->Postfix("reload"), 1);
  Start();
  const pid_t master = instance_->MasterPid();
  ASSERT_GT(master, 0);
  EXPECT_EQ(instance_->Postfix("status"), 0);
  EXPECT_EQ(instance_->Postfix("start"), 1);
  EXPECT_EQ(instance_->Postfix("check"), 0);
  Reload();
  EXPECT_EQ(instance_->MasterPid(), master);
  EXPECT_EQ(instance_->Postfix("status"), 0);
  EXPECT_TRUE(SmtpSend("after the reload"));
  EXPECT_TRUE(Eventually(kMailBound, [&] { return instance_->MailCount() == 1; }));
  EXPECT_EQ(instance_->Postfix("stop"), 0);
  EXPECT_TRUE(MasterGone(master));
  EXPECT_EQ(instance_->LogLines("with force").size(), 0u);
  EXPECT_EQ(instance_->Postfix("status"), 1);

  Start();
  const pid_t second = instance_->MasterPid();
  EXPECT_NE(second, master);
  EXPECT_TRUE(SmtpSend("after the second start"));
  EXPECT_TRUE(Eventually(kMailBound, [&] { return instance_->MailCount() == 2; }));
  EXPECT_EQ(instance_->Postfix("abort"), 0);
  EXPECT_TRUE(MasterGone(second));

  Start();
  const pid_t third = instance_->MasterPid();
  EXPECT_EQ(instance_->Postfix("drain"), 0);
  EXPECT_TRUE(MasterGone(third));
  Expect("\\]: (fatal|warning|error): the Postfix mail system is");
  Expect("postfix-script\\[[0-9]+\\]: fatal: ");
}

TEST_P(StockPostfix, AHundredMailsAtOnceArriveAcrossReloads) {
  // A reload ends proxymap while its clients are connected (P43).
  Expect("\\]: warning: dict_proxy_(open|lookup): service proxymap: ");
  Start();
  constexpr int kClients = 10, kMails = 10;
  std::vector<std::thread> clients;
  std::atomic<int> sent = 0;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      for (int mail = 0; mail < kMails; ++mail) {
        if (SmtpSend(absl::StrCat("mail ", client, " ", mail))) ++sent;
      }
    });
  }
  for (int reload = 0; reload < 3; ++reload) {
    EXPECT_TRUE(Eventually(kMailBound, [&] { return sent > (reload + 1) * 20; }));
    Reload();
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(sent, kClients * kMails);
  EXPECT_TRUE(Eventually(kMailBound, [&] {
    if (instance_->MailCount() == kClients * kMails) return true;
    FlushQueue();
    return false;
  }));
  EXPECT_EQ(Box().size(), static_cast<size_t>(kClients * kMails));
  EXPECT_EQ(instance_->Postfix("status"), 0);
}

TEST_P(StockPostfix, KilledDaemonsLoseNoMail) {
  // A master may take the death of a fresh process for a broken program and pause the service.
  instance_->SetParameter("service_throttle_time", "1s");
  Start();
  const pid_t master = instance_->MasterPid();
  constexpr int kClients = 5, kMails = 20, kKilled = 40;
  std::vector<std::thread> clients;
  std::atomic<int> killed = 0, running = kClients, sent = 0, failed = 0;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      for (int mail = 0; mail < kMails || killed < kKilled; ++mail) {
        (SmtpSend(absl::StrCat("mail ", client, " ", mail)) ? sent : failed) += 1;
      }
      --running;
    });
  }
  absl::BitGen random;
  while (running > 0) {
    const std::vector<pid_t> daemons = Daemons();
    if (!daemons.empty() && killed < kKilled) {
      kill(daemons[absl::Uniform<size_t>(random, 0, daemons.size())], SIGKILL);
      ++killed;
    }
    absl::SleepFor(absl::Milliseconds(100));
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(failed, 0);
  EXPECT_GE(sent, kClients * kMails);
  // The box has notices to the postmaster too, and the queue half a file of each killed cleanup.
  size_t arrived = 0;
  int duplicates = 0;
  EXPECT_TRUE(Eventually(kMailBound,
                         [&] {
                           arrived = 0;
                           duplicates = 0;
                           for (const auto& [subject, count] : Box()) {
                             if (!absl::StartsWith(subject, "mail ")) continue;
                             ++arrived;
                             duplicates += count - 1;
                           }
                           if (arrived == static_cast<size_t>(sent)) return true;
                           FlushQueue();
                           return false;
                         }))
      << arrived << " of " << sent << " in the box, " << instance_->QueueCount() << " in the queue";
  std::cout << killed << " daemons killed, " << sent << " mails taken, " << arrived << " arrived, "
            << duplicates << " of them once more\n";
  EXPECT_EQ(instance_->MasterPid(), master);
  EXPECT_EQ(instance_->Postfix("status"), 0);
  // Whatever the daemons say about each other's death; the master is checked by its own words.
  Expect(
      "/(smtpd|cleanup|qmgr|pickup|local|trivial-rewrite|bounce|anvil|smtp|proxymap|showq|error|"
      "postlogd|tlsmgr|flush|scache|verify|postsuper|sendmail|postkick|postqueue|defer|trace)"
      "\\[[0-9]+\\]: ");
  Expect("master\\[[0-9]+\\]: warning: process .* pid [0-9]+ (killed by signal 9|exit status 1)$");
  Expect("master\\[[0-9]+\\]: warning: .*: bad command startup -- throttling");
  Expect("master\\[[0-9]+\\]: warning: (unix_trigger_event|master_wakeup_timer_event)");
}

TEST_P(StockPostfix, MailInTheQueueSurvivesStopAndStart) {
  instance_->SetParameter("defer_transports", "local");
  Start();
  for (int mail = 0; mail < 5; ++mail) EXPECT_EQ(Sendmail(absl::StrCat("mail ", mail)), 0);
  EXPECT_TRUE(Eventually(kBound, [&] { return instance_->QueueCount() >= 5; }));
  ASSERT_EQ(instance_->Stop(), absl::OkStatus());
  instance_->SetParameter("defer_transports", "");
  Start();
  EXPECT_TRUE(Eventually(kMailBound, [&] {
    if (instance_->MailCount() == 5) return true;
    FlushQueue();
    return false;
  }));
  EXPECT_EQ(Box().size(), 5u);
}

INSTANTIATE_TEST_SUITE_P(Masters, StockPostfix, testing::ValuesIn(MasterPrograms()), MasterName());

}  // namespace
}  // namespace posthouse::conformance

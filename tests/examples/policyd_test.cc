// policyd as a program: what clients see, what its log says, and what survives its end.

#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/examples/service_process.h"

namespace examples {
namespace {

using std::string_literals::operator""s;

constexpr char kPolicyd[] = "examples/policy/policyd";
constexpr char kDunno[] = "action=DUNNO\n\n";
constexpr char kGreylisted[] =
    "action=DEFER_IF_PERMIT 4.2.0 Greylisted, please try again later\n\n";
constexpr char kLimited[] = "action=450 4.7.1 Too many recipients, please try again later\n\n";

std::string Rcpt(absl::string_view sender = "a@example.net", absl::string_view client = "192.0.2.7",
                 absl::string_view user = "") {
  return absl::StrCat("request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=", client,
                      "\nsender=", sender, "\nrecipient=bob@example.com\nsasl_username=", user,
                      "\nfuture=x\n\n");
}

// The exit status of a command and what it printed.
std::pair<int, std::string> Execute(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "re");
  std::string output;
  char buffer[1000];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, n);
  return {WEXITSTATUS(pclose(pipe)), output};
}
std::pair<int, std::string> Ask(const std::string& arguments) {
  return Execute("examples/policy/policy-ask " + arguments);
}

class PolicydTest : public testing::Test {
 protected:
  void Start(std::vector<std::string> settings) {
    ASSERT_TRUE(process_.StartByHand(kPolicyd, settings)) << process_.Log();
  }
  std::string Database() const { return process_.directory().Path("policyd.sqlite"); }
  bool Logged(absl::string_view text) {
    return posthouse::WaitUntil([&] { return absl::StrContains(process_.Log(), text); });
  }

  posthouse::ChildCheck children_;
  posthouse::FdLeakCheck fds_;
  ServiceProcess process_;
};

TEST_F(PolicydTest, ANewSenderIsPutOffAndPassesAfterTheDelay) {
  Start({"policy_greylist_delay=1s"});
  ServiceClient client = process_.Connect();
  EXPECT_EQ(client.Ask(Rcpt()), kGreylisted);
  EXPECT_TRUE(posthouse::WaitUntil([&] { return client.Ask(Rcpt()) == kDunno; }));
  EXPECT_EQ(client.Ask(Rcpt("other@example.net")), kGreylisted);
}

TEST_F(PolicydTest, ClientsAndSaslUsersAreLimited) {
  Start({"policy_greylist_delay=0", "policy_rate_limit=2", "policy_sasl_rate_limit=3"});
  ServiceClient client = process_.Connect();
  for (int i = 0; i < 2; ++i) EXPECT_EQ(client.Ask(Rcpt()), kDunno);
  EXPECT_EQ(client.Ask(Rcpt()), kLimited);
  EXPECT_EQ(client.Ask(Rcpt("a@x", "192.0.2.8")), kDunno);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(client.Ask(Rcpt("a@x", "192.0.2.7", "ann")), kDunno);
  EXPECT_EQ(client.Ask(Rcpt("a@x", "192.0.2.9", "ann")), kLimited);
}

TEST_F(PolicydTest, ActionsAndOptOutsComeFromTheConfiguration) {
  Start({"policy_greylist_action=450 come back", "policy_opt_out=@example.com, postmaster@"});
  ServiceClient client = process_.Connect();
  EXPECT_EQ(client.Ask(Rcpt()), kDunno);
  EXPECT_EQ(client.Ask("request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=a@b\n"
                       "client_address=::1\nsender=\n\n"),
            "action=450 come back\n\n");
}

TEST_F(PolicydTest, StatesOtherThanRcptGetNoOpinion) {
  Start({});
  ServiceClient client = process_.Connect();
  for (const char* state : {"CONNECT", "EHLO", "HELO", "MAIL", "DATA", "END-OF-MESSAGE", "VRFY"}) {
    EXPECT_EQ(client.Ask(absl::StrCat("request=smtpd_access_policy\nprotocol_state=", state,
                                      "\nclient_address=unknown\n\n")),
              kDunno);
  }
}

TEST_F(PolicydTest, F40_PipelinedAndSplitRequestsAreServedInOrder) {
  Start({"policy_greylist_delay=0", "policy_rate_limit=50"});
  ServiceClient client = process_.Connect();
  std::string text;
  for (int i = 0; i < 60; ++i) text += Rcpt();
  for (size_t at = 0, piece = 1; at < text.size(); at += piece, piece = piece % 97 + 1) {
    ASSERT_TRUE(client.Send(absl::string_view(text).substr(at, piece)));
  }
  for (int i = 0; i < 60; ++i) EXPECT_EQ(client.ReadList(), i < 50 ? kDunno : kLimited) << i;
}

TEST_F(PolicydTest, AListThatIsWrongButCompleteIsAnsweredAndTheConnectionGoesOn) {
  Start({"policy_on_error=DEFER_IF_PERMIT 4.3.0 Service unavailable", "policy_greylist_delay=0"});
  ServiceClient client = process_.Connect();
  constexpr char kError[] = "action=DEFER_IF_PERMIT 4.3.0 Service unavailable\n\n";
  EXPECT_EQ(client.Ask("request=other\nprotocol_state=RCPT\n\n"), kError);
  EXPECT_TRUE(Logged("request=other instead of smtpd_access_policy"));
  EXPECT_EQ(client.Ask("protocol_state=RCPT\n\n"), kError);
  EXPECT_EQ(client.Ask("\n"), kError);
  EXPECT_EQ(client.Ask("request=smtpd_access_policy\nprotocol_state=RCPT\nbroken\n\n"), kError);
  EXPECT_EQ(client.Ask(Rcpt("a@b", "not an address")), kError);
  EXPECT_EQ(client.Ask(Rcpt()), kDunno);
}

TEST_F(PolicydTest, F124_ComplaintsAreLimitedInNumber) {
  Start({});
  ServiceClient client = process_.Connect();
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(client.Ask("a=b\n\n"), kDunno);
  const std::string log = process_.Log();
  size_t lines = 0;
  for (size_t at = 0; (at = log.find("bad policy request", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 1u) << log;
}

TEST_F(PolicydTest, F41_AnEndlessRequestEndsTheConnectionWithAReason) {
  Start({});
  ServiceClient client = process_.Connect();
  const std::string line = absl::StrCat("name=", std::string(1000, 'x'), "\n");
  for (int i = 0; i < 1000 && client.Send(line); ++i) {
  }
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(Logged("the request is too long"));
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), kGreylisted) << "others are served";
}

TEST_F(PolicydTest, F41_ALineWithoutEndEndsTheConnectionWithAReason) {
  Start({});
  ServiceClient client = process_.Connect();
  const std::string piece(4096, 'x');
  for (int i = 0; i < 1000 && client.Send(piece); ++i) {
  }
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(Logged("the request is too long"));
}

TEST_F(PolicydTest, SpeakersOfAnotherProtocolAreToldToGo) {
  Start({});
  ServiceClient client = process_.Connect();
  ASSERT_TRUE(client.Send("GET / HTTP/1.0\r\n"));
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(Logged("the first line has no \"=\""));
}

TEST_F(PolicydTest, F42_AClientThatLeavesInsideARequestCostsNobodyElse) {
  Start({});
  for (int i = 0; i < 50; ++i) {
    ServiceClient client = process_.Connect();
    ASSERT_TRUE(client.Send(Rcpt().substr(0, 10 + i)));
  }
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), kGreylisted);
}

// The most memory that the process has had, in KiB.
int64_t PeakMemoryKib(pid_t pid) {
  const std::string status = posthouse::ReadFileOrEmpty(absl::StrCat("/proc/", pid, "/status"));
  const size_t at = status.find("VmHWM:");
  return at == std::string::npos ? 0 : std::atoll(status.c_str() + at + 6);
}

TEST_F(PolicydTest, F39_ClientsThatAskAndDoNotReadCostBoundedMemoryAndNobodyElse) {
  Start({"policy_greylist_delay=0"});
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), kDunno);
  const int64_t before = PeakMemoryKib(process_.pid());
  std::string many;
  for (int i = 0; i < 100; ++i) many += Rcpt();
  std::vector<ServiceClient> deaf;
  for (int i = 0; i < 20; ++i) {
    deaf.push_back(process_.Connect());
    // Until the service takes no more, or has had enough of this client.
    for (int n = 0; n < 2000 && deaf.back().SendNow(many); ++n) {
    }
    EXPECT_EQ(process_.Connect().Ask(Rcpt()), kDunno);
  }
  // At most the bounds of input and output for each.
  EXPECT_LT(PeakMemoryKib(process_.pid()) - before, 20 * 3 * 1024);
}

TEST_F(PolicydTest, TheStateSurvivesKill9AndRestart) {
  Start({"policy_greylist_delay=0", "policy_rate_limit=100"});
  {
    ServiceClient client = process_.Connect();
    for (int i = 0; i < 60; ++i) ASSERT_EQ(client.Ask(Rcpt()), kDunno);
  }
  EXPECT_EQ(WTERMSIG(process_.Stop(SIGKILL)), SIGKILL);
  Start({"policy_greylist_delay=0", "policy_rate_limit=100"});
  ServiceClient client = process_.Connect();
  for (int i = 0; i < 40; ++i) ASSERT_EQ(client.Ask(Rcpt()), kDunno);
  EXPECT_EQ(client.Ask(Rcpt()), kLimited);
}

TEST_F(PolicydTest, SeveralProcessesShareOneDatabaseExactly) {
  const std::vector<std::string> settings = {
      "policy_greylist_delay=0", "policy_rate_limit=300", "policy_on_error=451 trouble",
      "policy_busy_timeout=30s", absl::StrCat("policy_database=", Database())};
  std::vector<std::unique_ptr<ServiceProcess>> processes;
  std::vector<ServiceClient> clients;
  for (int i = 0; i < 4; ++i) {
    processes.push_back(std::make_unique<ServiceProcess>());
    ASSERT_TRUE(processes.back()->StartByHand(kPolicyd, settings)) << processes.back()->Log();
    for (int c = 0; c < 5; ++c) clients.push_back(processes.back()->Connect());
  }
  int allowed = 0;
  for (int round = 0; round < 20; ++round) {
    for (ServiceClient& client : clients) ASSERT_TRUE(client.Send(Rcpt()));
    for (ServiceClient& client : clients) {
      const std::string answer = client.ReadList();
      ASSERT_TRUE(answer == kDunno || answer == kLimited) << answer;
      allowed += answer == kDunno;
    }
  }
  EXPECT_EQ(allowed, 300) << "of 400";
}

TEST_F(PolicydTest, DatabaseTroubleIsAnsweredAsConfiguredAndLoggedOnce) {
  ASSERT_TRUE(std::filesystem::create_directory(process_.directory().Path("d")));
  const std::string path = process_.directory().Path("d/policyd.sqlite");
  std::ofstream(path) << std::string(8192, 'x');
  Start({absl::StrCat("policy_database=", path), "policy_on_error=451 4.3.0 later"});
  ServiceClient client = process_.Connect();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(client.Ask(Rcpt()), "action=451 4.3.0 later\n\n");
  EXPECT_TRUE(Logged("file is not a database"));
  std::filesystem::remove(path);
  EXPECT_TRUE(posthouse::WaitUntil([&] { return client.Ask(Rcpt()) == kGreylisted; }))
      << "it comes back by itself";
}

// The number that a query finds, by a connection of its own; -1 if there is no such table now.
int64_t Number(const std::string& path, const std::string& sql) {
  sqlite3* database = nullptr;
  sqlite3_stmt* statement = nullptr;
  int64_t number = -1;
  if (sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE, nullptr) == SQLITE_OK &&
      sqlite3_busy_timeout(database, 10000) == SQLITE_OK &&
      sqlite3_prepare_v2(database, sql.c_str(), -1, &statement, nullptr) == SQLITE_OK) {
    const int result = sqlite3_step(statement);
    if (result == SQLITE_ROW) number = sqlite3_column_int64(statement, 0);
    if (result == SQLITE_DONE) number = 0;
  }
  sqlite3_finalize(statement);
  sqlite3_close(database);
  return number;
}

TEST_F(PolicydTest, WhatHasExpiredIsDeletedStepByStep) {
  Start({"policy_retry_window=1s", "policy_cleanup_interval=1s"});
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), kGreylisted);
  EXPECT_EQ(Number(Database(), "SELECT count(*) FROM triplet"), 1);
  Number(Database(),
         "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
         " INSERT INTO rate SELECT 'client:' || i, 0, 1, i FROM n");
  ASSERT_EQ(Number(Database(), "SELECT count(*) FROM rate"), 1000);
  EXPECT_TRUE(posthouse::WaitUntil([&] {
    return Number(Database(), "SELECT count(*) FROM rate") == 0 &&
           Number(Database(), "SELECT count(*) FROM triplet") == 0;
  }));
}

TEST_F(PolicydTest, ADatabaseThatIsRemovedIsMadeAnew) {
  Start({"policy_cleanup_interval=1s"});
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), kGreylisted);
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(Database() + suffix);
  EXPECT_TRUE(Logged("was removed or replaced"));
  EXPECT_TRUE(posthouse::WaitUntil(
      [&] { return Number(Database(), "SELECT count(*) FROM triplet") == 0; }));
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), kGreylisted);
  EXPECT_EQ(Number(Database(), "SELECT count(*) FROM triplet"), 1);
}

// Root's rights must not follow what somebody else has put into the directory.
TEST_F(PolicydTest, RootOpensTheDatabaseWithTheRightsOfTheDirectorysOwner) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can try this";
  constexpr uid_t kNobody = 65534;
  const std::string directory = process_.directory().Path("theirs");
  ASSERT_TRUE(std::filesystem::create_directory(directory));
  ASSERT_EQ(chown(directory.c_str(), kNobody, kNobody), 0);
  ASSERT_EQ(chmod(process_.directory().path().c_str(), 0755), 0);
  const std::string database = directory + "/policyd.sqlite";
  const std::string secret = process_.directory().WriteFile("secret", "");
  ASSERT_EQ(chmod(secret.c_str(), 0600), 0);
  ASSERT_EQ(symlink(secret.c_str(), database.c_str()), 0);
  Start({absl::StrCat("policy_database=", database), "policy_on_error=451 no"});
  EXPECT_TRUE(Logged("unable to open database file"));
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), "action=451 no\n\n");
  EXPECT_EQ(std::filesystem::file_size(secret), 0u);
  process_.Stop(SIGKILL);
  ASSERT_EQ(unlink(database.c_str()), 0);
  Start({absl::StrCat("policy_database=", database)});
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), kGreylisted);
  for (const char* suffix : {"", "-wal", "-shm"}) {
    struct stat info;
    ASSERT_EQ(stat((database + suffix).c_str(), &info), 0) << suffix;
    EXPECT_EQ(info.st_uid, kNobody) << suffix;
  }
}

// What the pattern's group matches in a text.
std::set<std::string> Names(const std::string& text, const std::string& pattern) {
  std::set<std::string> names;
  const std::regex name(pattern);
  for (std::sregex_iterator it(text.begin(), text.end(), name), end; it != end; ++it) {
    names.insert((*it)[1]);
  }
  return names;
}

TEST_F(PolicydTest, HelpAndReadmeNameEveryParameter) {
  const std::string mention = "\\b(policy_[a-z0-9_]+)\\b";
  const std::set<std::string> parameters =
      Names(posthouse::ReadFileOrEmpty("examples/policy/policyd.cc"), "\"(policy_[a-z0-9_]+)\"");
  EXPECT_EQ(parameters.size(), 17u);
  const std::set<std::string> in_help =
      Names(Execute("examples/policy/policyd --help").second, mention);
  const std::set<std::string> in_readme =
      Names(posthouse::ReadFileOrEmpty("examples/policy/README.md"), mention);
  for (const std::string& name : parameters) {
    EXPECT_TRUE(in_help.count(name) != 0) << name << " is not in --help";
    EXPECT_TRUE(in_readme.count(name) != 0) << name << " is not in the README";
  }
}

TEST_F(PolicydTest, ABadActionIsAFatalErrorThatNamesTheParameter) {
  EXPECT_FALSE(process_.StartByHand(kPolicyd, {"policy_on_error=DUNO"}));
  EXPECT_TRUE(absl::StrContains(process_.Log(), "fatal")) << process_.Log();
  EXPECT_TRUE(absl::StrContains(process_.Log(), "policy_on_error")) << process_.Log();
}

TEST_F(PolicydTest, PolicyAskPrintsTheAnswerAndFailsWithoutOne) {
  Start({"policy_greylist_delay=0", "policy_rate_limit=1"});
  const std::string connect = absl::StrCat("--connect unix:", process_.socket_path(), " ");
  EXPECT_EQ(Ask(connect + "client_address=192.0.2.9"), std::make_pair(0, "action=DUNNO\n"s));
  EXPECT_EQ(Ask(connect + "client_address=192.0.2.9").second.substr(0, 10), "action=450");
  EXPECT_EQ(Ask(connect + "protocol_state=DATA").second, "action=DUNNO\n");
  EXPECT_EQ(Ask(connect + "GET/").first, 0) << "leaving out what is not there is nothing";
  process_.Stop(SIGTERM);
  EXPECT_EQ(Ask(connect).first, 1);
  EXPECT_EQ(Ask("--connect nonsense").first, 2);
  EXPECT_EQ(Ask("").first, 2);
  EXPECT_EQ(Ask("--help").first, 0);
}

TEST_F(PolicydTest, SigtermIsANormalEnd) {
  Start({});
  EXPECT_EQ(process_.Connect().Ask(Rcpt()), kGreylisted);  // it is in its loop
  const int status = process_.Stop(SIGTERM);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
      << "wait status " << status << "; log:\n"
      << process_.Log();
}

}  // namespace
}  // namespace examples

// Our anvil and the stock one, each run as a master runs it, are asked the same; their replies are
// the same bytes, and those of the table that both are an image of.

#include <unistd.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "examples/anvil/anvil_protocol.h"
#include "examples/anvil/anvil_table.h"
#include "gtest/gtest.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "tests/examples/service_process.h"

namespace examples {
namespace {

constexpr char kStock[] = "/usr/lib/postfix/sbin/anvil";
constexpr char kOurs[] = "examples/anvil/anvil";

std::string Request(absl::string_view request, absl::string_view ident) {
  return absl::StrCat("request=", request, "\nident=", ident, "\n\n");
}

// The programs under test: ours, and the stock one where it is installed.
class Programs {
 public:
  bool Start(const std::vector<std::string>& settings) {
    std::vector<std::string> paths = {kOurs};
    if (access(kStock, X_OK) == 0 && geteuid() == 0) paths.push_back(kStock);
    for (const std::string& path : paths) {
      processes_.push_back(std::make_unique<ServiceProcess>());
      if (!processes_.back()->StartUnderMaster(path, settings)) {
        ADD_FAILURE() << path << " does not answer:\n" << processes_.back()->Log();
        return false;
      }
    }
    return true;
  }
  size_t count() const { return processes_.size(); }
  ServiceProcess& process(size_t i) { return *processes_[i]; }
  std::string Name(size_t i) const { return i == 0 ? "ours" : "stock"; }

  // A connection to each, greeted.
  std::vector<ServiceClient> Connect() {
    std::vector<ServiceClient> clients;
    for (const std::unique_ptr<ServiceProcess>& process : processes_) {
      process->DropStatusMessages();
      clients.push_back(process->Connect());
      EXPECT_EQ(clients.back().ReadList(), kAnvilGreeting);
    }
    return clients;
  }

 private:
  std::vector<std::unique_ptr<ServiceProcess>> processes_;
};

TEST(AnvilDifferential, D32_RandomRequestsGetTheSameRepliesByteForByte) {
  posthouse::ChildCheck children;
  posthouse::FdLeakCheck fds;
  Programs programs;
  ASSERT_TRUE(programs.Start({"anvil_rate_time_unit=3600s"}));
  if (programs.count() == 1) GTEST_LOG_(INFO) << "no stock anvil here: compared with the table";
  const int rounds = getenv("POSTHOUSE_FULL") != nullptr ? 30000 : 3000;
  constexpr const char* kRequests[] = {"connect",   "disconnect",    "message",
                                       "recipient", "newtls_status", "newtls",
                                       "auth",      "lookup",        "nonsense"};
  std::mt19937 random(20260103);
  AnvilTable model(3600LL * 1000000000);
  struct Session {
    std::vector<ServiceClient> clients;
    AnvilTable::Holder holder;
  };
  std::map<int, Session> sessions;
  for (int round = 0; round < rounds; ++round) {
    const int slot = static_cast<int>(random() % 8);
    if (sessions.count(slot) == 0) sessions[slot].clients = programs.Connect();
    Session& session = sessions[slot];
    if (random() % 12 == 0) {
      // Closing lets go; when that has happened can only be seen from outside.
      if (session.holder.held != nullptr) {
        const std::string ident = *session.holder.held->ident;
        model.Release(session.holder, 0);
        AnvilTable::Holder nobody;
        std::string expected;
        AnswerAnvilRequest(Request("lookup", ident), model, nobody, 0, &expected);
        session.clients.clear();
        std::vector<ServiceClient> observers = programs.Connect();
        for (size_t i = 0; i < observers.size(); ++i) {
          ASSERT_TRUE(posthouse::WaitUntil([&] {
            return observers[i].Ask(Request("lookup", ident)) == expected;
          })) << programs.Name(i);
        }
      }
      sessions.erase(slot);
      continue;
    }
    const std::string ident = absl::StrCat("smtp:192.0.2.", random() % 6);
    const std::string request = Request(kRequests[random() % std::size(kRequests)], ident);
    std::string expected;
    AnswerAnvilRequest(request, model, session.holder, 0, &expected);
    for (size_t i = 0; i < session.clients.size(); ++i) {
      ASSERT_EQ(session.clients[i].Ask(request), expected)
          << programs.Name(i) << ", round " << round << ", asked\n"
          << request;
      programs.process(i).DropStatusMessages();
    }
  }
  for (auto& [slot, session] : sessions) model.Release(session.holder, 0);
}

TEST(AnvilDifferential, D31_WrongListsEndTheConnectionWithoutReply) {
  Programs programs;
  ASSERT_TRUE(programs.Start({}));
  for (const char* list : {"\n", "request=connect\n\n", "ident=x\nrequest=connect\n\n",
                           "request\nident=x\n\n", "GET / HTTP/1.0\n\n"}) {
    std::vector<ServiceClient> clients = programs.Connect();
    for (size_t i = 0; i < clients.size(); ++i) {
      ASSERT_TRUE(clients[i].Send(list));
      EXPECT_TRUE(clients[i].AtEnd()) << programs.Name(i) << " for " << list;
    }
  }
}

TEST(AnvilDifferential, FurtherAttributesAreIgnored) {
  Programs programs;
  ASSERT_TRUE(programs.Start({}));
  std::vector<ServiceClient> clients = programs.Connect();
  for (size_t i = 0; i < clients.size(); ++i) {
    EXPECT_EQ(clients[i].Ask("request=connect\nident=x\nmore=1\n\n"),
              "status=0\ncount=1\nrate=1\n\n")
        << programs.Name(i);
    EXPECT_EQ(clients[i].Ask(Request("newtls_status", "x")), "status=0\nrate=0\n\n")
        << programs.Name(i);
  }
}

TEST(AnvilDifferential, D33_RatesStartAgainAfterTheUnit) {
  Programs programs;
  ASSERT_TRUE(programs.Start({"anvil_rate_time_unit=1s"}));
  std::vector<ServiceClient> clients = programs.Connect();
  for (size_t i = 0; i < clients.size(); ++i) {
    ServiceClient& client = clients[i];
    EXPECT_EQ(client.Ask(Request("connect", "x")), "status=0\ncount=1\nrate=1\n\n");
    EXPECT_TRUE(absl::StartsWith(client.Ask(Request("message", "x")), "status=0\nrate="));
    EXPECT_TRUE(posthouse::WaitUntil([&] {
      return client.Ask(Request("lookup", "x")) ==
             "status=0\ncount=1\nrate=0\nmail=0\nrcpt=0\nnewtls=0\nauth=0\n\n";
    })) << programs.Name(i);
    EXPECT_EQ(client.Ask(Request("message", "x")), "status=0\nrate=1\n\n") << programs.Name(i);
  }
}

// Where ours is better: the stock program keeps the second request until more arrives (S61).
TEST(Anvil, D10_RequestsThatArriveTogetherAreAllAnswered) {
  ServiceProcess process;
  ASSERT_TRUE(process.StartUnderMaster(kOurs, {})) << process.Log();
  ServiceClient client = process.Connect();
  EXPECT_EQ(client.ReadList(), kAnvilGreeting);
  std::string requests;
  for (int i = 0; i < 100; ++i) requests += Request("message", "x");
  ASSERT_TRUE(client.Send(requests));
  for (int i = 1; i <= 100; ++i) {
    ASSERT_EQ(client.ReadList(), absl::StrCat("status=0\nrate=", i, "\n\n"));
  }
}

TEST(Anvil, F38_F40_ARequestInPiecesDelaysNobody) {
  ServiceProcess process;
  ASSERT_TRUE(process.StartUnderMaster(kOurs, {})) << process.Log();
  ServiceClient slow = process.Connect();
  ServiceClient other = process.Connect();
  slow.ReadList();
  other.ReadList();
  const std::string request = Request("connect", "slow");
  for (size_t i = 0; i < request.size(); ++i) {
    ASSERT_TRUE(slow.Send(request.substr(i, 1)));
    ASSERT_EQ(other.Ask(Request("newtls_status", "x")), "status=0\nrate=0\n\n");
  }
  EXPECT_EQ(slow.ReadList(), "status=0\ncount=1\nrate=1\n\n");
}

}  // namespace
}  // namespace examples

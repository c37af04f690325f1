#include "examples/policy/policy_store_sqlite.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "examples/policy/policy_request.h"
#include "examples/policy/policy_rules.h"
#include "examples/policy/policy_store.h"
#include "gtest/gtest.h"
#include "tests/examples/memory_policy_store.h"

namespace examples {
namespace {

constexpr int64_t kNow = 1767225600;

// The first column of every row of a query, by a connection of its own.
std::vector<std::string> Query(const std::string& path, const std::string& sql) {
  std::vector<std::string> rows;
  sqlite3* database = nullptr;
  EXPECT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
  sqlite3_busy_timeout(database, 10000);
  const auto add = [](void* context, int columns, char** values, char**) {
    static_cast<std::vector<std::string>*>(context)->push_back(
        columns > 0 && values[0] != nullptr ? values[0] : "");
    return 0;
  };
  EXPECT_EQ(sqlite3_exec(database, sql.c_str(), add, &rows, nullptr), SQLITE_OK)
      << sqlite3_errmsg(database);
  sqlite3_close(database);
  return rows;
}

class SqliteStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = absl::StrCat(testing::TempDir(), "/policy.XXXXXX");
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    path_ = directory_ + "/policyd.sqlite";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<SqlitePolicyStore> Store(absl::Duration busy = absl::Seconds(30)) {
    return std::make_unique<SqlitePolicyStore>(
        SqlitePolicyStore::Options{.path = path_, .busy_timeout = busy});
  }

  std::string directory_;
  std::string path_;
};

absl::Status CountOne(SqlitePolicyStore& store, const std::string& key) {
  return store.Run([&](PolicyTransaction& transaction) -> absl::Status {
    absl::StatusOr<absl::optional<RateRow>> found = transaction.FindRate(key);
    if (!found.ok()) return found.status();
    RateRow row = found->value_or(RateRow{.period_start = kNow, .expires = kNow + 3600});
    ++row.recipients;
    return transaction.PutRate(key, row);
  });
}

int64_t Counted(const std::string& path, const std::string& key) {
  const std::vector<std::string> rows =
      Query(path, absl::StrCat("SELECT recipients FROM rate WHERE client = '", key, "'"));
  return rows.empty() ? 0 : std::stoll(rows[0]);
}

// Runs `body` in a child and returns its process id; the child's exit status is what it returns.
template <typename Body>
pid_t InChild(Body body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  return pid;
}

int ExitStatus(pid_t pid) {
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

TEST_F(SqliteStoreTest, RowsComeBackAsTheyWereWritten) {
  auto store = Store();
  const TripletKey key = {"192.0.2.0/24", "a\"'; DROP TABLE rate; --@x", std::string("b\0c", 3)};
  const auto read = [&](PolicyTransaction& t, absl::optional<TripletRow>* triplet,
                        absl::optional<NetworkRow>* network, absl::optional<RateRow>* rate) {
    *triplet = t.FindTriplet(key).value();
    *network = t.FindNetwork("n").value();
    *rate = t.FindRate("r").value();
    return absl::OkStatus();
  };
  absl::optional<TripletRow> triplet;
  absl::optional<NetworkRow> network;
  absl::optional<RateRow> rate;
  const auto look = [&](PolicyTransaction& t) { return read(t, &triplet, &network, &rate); };
  ASSERT_TRUE(store->Run(look).ok());
  EXPECT_FALSE(triplet.has_value() || network.has_value() || rate.has_value());
  for (const bool passed : {false, true}) {
    ASSERT_TRUE(store
                    ->Run([&](PolicyTransaction& t) -> absl::Status {
                      EXPECT_TRUE(t.PutTriplet(key, {kNow, passed, kNow + 1}).ok());
                      EXPECT_TRUE(t.PutNetwork("n", {passed + 4, kNow + 2}).ok());
                      return t.PutRate("r", {kNow, passed + 6, int64_t{1} << 40});
                    })
                    .ok());
    ASSERT_TRUE(store->Run(look).ok());
    EXPECT_EQ(triplet->first_seen, kNow);
    EXPECT_EQ(triplet->passed, passed);
    EXPECT_EQ(triplet->expires, kNow + 1);
    EXPECT_EQ(network->passes, passed + 4);
    EXPECT_EQ(network->expires, kNow + 2);
    EXPECT_EQ(rate->recipients, passed + 6);
    EXPECT_EQ(rate->expires, int64_t{1} << 40);
  }
}

TEST_F(SqliteStoreTest, AnErrorOfTheBodyUndoesItsChanges) {
  auto store = Store();
  const absl::Status status = store->Run([&](PolicyTransaction& t) -> absl::Status {
    EXPECT_TRUE(t.PutNetwork("n", {1, kNow}).ok());
    return absl::UnavailableError("no");
  });
  EXPECT_EQ(status.message(), "no");
  EXPECT_TRUE(Query(path_, "SELECT * FROM network").empty());
  EXPECT_TRUE(CountOne(*store, "k").ok()) << "the store stays usable";
}

TEST_F(SqliteStoreTest, TheStateOutlivesTheProcess) {
  ASSERT_TRUE(CountOne(*Store(), "k").ok());
  ASSERT_TRUE(CountOne(*Store(), "k").ok());
  EXPECT_EQ(Counted(path_, "k"), 2);
}

TEST_F(SqliteStoreTest, OptOutsAreKeptAndMatchedWithoutCase) {
  auto store = Store();
  ASSERT_TRUE(store->SetOptedOut("example.org", true).ok());
  ASSERT_TRUE(store->SetOptedOut("example.org", true).ok());
  Query(path_, "INSERT INTO opt_out VALUES('Abuse@')");
  const auto opted_out = [&](const std::string& recipient) {
    bool result = false;
    EXPECT_TRUE(store
                    ->Run([&](PolicyTransaction& t) -> absl::Status {
                      result = t.OptedOut(OptOutPatterns(recipient)).value();
                      return absl::OkStatus();
                    })
                    .ok());
    return result;
  };
  EXPECT_TRUE(opted_out("a@example.org"));
  EXPECT_TRUE(opted_out("abuse@example.com"));
  EXPECT_FALSE(opted_out("a@example.com"));
  ASSERT_TRUE(store->SetOptedOut("example.org", false).ok());
  EXPECT_FALSE(opted_out("a@example.org"));
}

TEST_F(SqliteStoreTest, ExpiredRowsAreDeletedInBoundedSteps) {
  auto store = Store();
  ASSERT_TRUE(store
                  ->Run([&](PolicyTransaction& t) -> absl::Status {
                    for (int i = 0; i < 100; ++i) {
                      const std::string name = std::to_string(i);
                      EXPECT_TRUE(t.PutTriplet({"n", "s", name}, {kNow, false, kNow + i}).ok());
                      EXPECT_TRUE(t.PutNetwork(name, {1, kNow + i}).ok());
                      EXPECT_TRUE(t.PutRate(name, {kNow, 1, kNow + i}).ok());
                    }
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(store->DeleteExpired(kNow + 49, 30).value(), 30);
  EXPECT_EQ(Query(path_, "SELECT min(expires) FROM triplet")[0], std::to_string(kNow + 30));
  EXPECT_EQ(store->DeleteExpired(kNow + 49, 30).value(), 20);
  EXPECT_EQ(store->DeleteExpired(kNow + 49, 30).value(), 0);
  for (const char* table : {"triplet", "network", "rate"}) {
    EXPECT_EQ(Query(path_, absl::StrCat("SELECT count(*) FROM ", table))[0], "50") << table;
  }
}

TEST_F(SqliteStoreTest, ALockThatIsHeldTooLongIsUnavailableAndLeavesTheStoreUsable) {
  auto store = Store(absl::Milliseconds(30));
  ASSERT_TRUE(CountOne(*store, "k").ok());
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  const absl::Time start = absl::Now();
  EXPECT_EQ(CountOne(*store, "k").code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(30));
  EXPECT_EQ(sqlite3_exec(other, "COMMIT", nullptr, nullptr, nullptr), SQLITE_OK);
  EXPECT_TRUE(CountOne(*store, "k").ok());
  sqlite3_close(other);
  EXPECT_EQ(Counted(path_, "k"), 2);
}

TEST_F(SqliteStoreTest, SomebodyElsesDatabaseIsLeftAlone) {
  Query(path_, "CREATE TABLE mine(x); PRAGMA user_version = 1");
  EXPECT_EQ(Store()->Open().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Query(path_, "SELECT count(*) FROM sqlite_schema")[0], "1");
  EXPECT_EQ(Query(path_, "PRAGMA journal_mode")[0], "delete");
}

TEST_F(SqliteStoreTest, ADatabaseOfANewerVersionIsLeftAlone) {
  ASSERT_TRUE(Store()->Open().ok());
  Query(path_, "PRAGMA user_version = 2");
  const absl::Status status = Store()->Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(status.message(), "version 2")) << status;
}

TEST_F(SqliteStoreTest, AFileThatIsNoDatabaseIsAnErrorWithItsPath) {
  std::ofstream(path_) << std::string(4096, 'x');
  const absl::Status status = Store()->Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), path_)) << status;
}

TEST_F(SqliteStoreTest, AMissingDirectoryIsAnErrorWithItsPath) {
  SqlitePolicyStore store({.path = directory_ + "/absent/x.sqlite"});
  const absl::Status status = store.Open();
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(absl::StrContains(status.message(), "absent")) << status;
  EXPECT_FALSE(store.is_open());
}

TEST_F(SqliteStoreTest, ADamagedDatabaseIsOpenedAnewOnceItIsReplaced) {
  auto store = Store();
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(CountOne(*store, std::to_string(i)).ok());
  Query(path_, "PRAGMA wal_checkpoint(TRUNCATE)");
  store->Close();
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4096);
    const std::string garbage(8 * 4096, '\x5a');
    file.write(garbage.data(), static_cast<std::streamsize>(garbage.size()));
  }
  EXPECT_FALSE(CountOne(*store, "0").ok());
  EXPECT_FALSE(store->is_open());
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path_ + suffix);
  EXPECT_TRUE(CountOne(*store, "0").ok());
  EXPECT_EQ(Counted(path_, "0"), 1);
}

TEST_F(SqliteStoreTest, AReplacedFileIsNoticed) {
  auto store = Store();
  ASSERT_TRUE(store->Open().ok());
  EXPECT_TRUE(store->PathIsCurrent());
  std::filesystem::rename(path_, path_ + ".old");
  EXPECT_FALSE(store->PathIsCurrent());
  std::ofstream(path_) << "";
  EXPECT_FALSE(store->PathIsCurrent());
}

TEST_F(SqliteStoreTest, AChildOpensItsOwnConnection) {
  auto store = Store();
  ASSERT_TRUE(CountOne(*store, "k").ok());
  EXPECT_EQ(ExitStatus(InChild([&] {
              for (int i = 0; i < 50; ++i) {
                if (!CountOne(*store, "k").ok()) return 1;
              }
              return 0;
            })),
            0);
  ASSERT_TRUE(CountOne(*store, "k").ok());
  EXPECT_EQ(Counted(path_, "k"), 52);
  EXPECT_EQ(Query(path_, "PRAGMA integrity_check"), std::vector<std::string>{"ok"});
}

// Processes that open a new database at the same time, then mix all kinds of work. What each
// wrote is counted exactly at the end: no update is lost, none is made twice.
TEST_F(SqliteStoreTest, ManyProcessesLoseNoUpdate) {
  constexpr int kProcesses = 4;
  const int rounds = getenv("POSTHOUSE_FULL") != nullptr ? 20000 : 1500;
  std::vector<pid_t> children;
  for (unsigned p = 0; p < kProcesses; ++p) {
    children.push_back(InChild([&, p] {
      std::mt19937 random(p);
      auto store = Store();
      const PolicySettings settings = {.greylist_delay = 300,
                                       .retry_window = 10000,
                                       .triplet_ttl = 100000,
                                       .auto_whitelist_passes = 5,
                                       .auto_whitelist_ttl = 100000};
      for (int i = 0; i < rounds; ++i) {
        if (!CountOne(*store, std::to_string(random() % 5)).ok()) return 1;
        const std::string sender = std::to_string(random() % 200);
        const PolicyRequest request = {.protocol_state = "RCPT",
                                       .client_address = "192.0.2.1",
                                       .sender = sender,
                                       .recipient = "r@x"};
        const int64_t now = kNow + static_cast<int64_t>(random() % 1000);
        const absl::Status status = store->Run([&](PolicyTransaction& t) -> absl::Status {
          return Decide(request, settings, now, t).status();
        });
        if (!status.ok()) return 2;
        if (random() % 50 == 0 && !store->DeleteExpired(kNow - 1, 10).ok()) return 3;
        if (random() % 100 == 0) store = Store();
      }
      return 0;
    }));
  }
  for (const pid_t child : children) EXPECT_EQ(ExitStatus(child), 0);
  EXPECT_EQ(Query(path_, "SELECT sum(recipients) FROM rate")[0],
            std::to_string(kProcesses * rounds));
  EXPECT_EQ(Query(path_, "PRAGMA integrity_check"), std::vector<std::string>{"ok"});
  // A network's passes are those of its combinations, until it is on the white list.
  const int64_t passed = std::stoll(Query(path_, "SELECT sum(passed) FROM triplet")[0]);
  EXPECT_EQ(Query(path_, "SELECT passes FROM network")[0], std::to_string(passed));
  EXPECT_EQ(passed, 5);
}

// A writer that is killed at a random moment, again and again, while another one works: whatever
// the writer said it had committed is there afterwards, and at most one transaction more.
TEST_F(SqliteStoreTest, CommittedWorkSurvivesKill9) {
  const int rounds = getenv("POSTHOUSE_FULL") != nullptr ? 300 : 25;
  std::mt19937 random(7);
  auto bystander = Store();
  int64_t told = 0;
  for (int round = 0; round < rounds; ++round) {
    int fds[2];
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    const pid_t child = InChild([&] {
      auto store = Store();
      while (CountOne(*store, "victim").ok()) {
        if (write(fds[1], "x", 1) != 1) return 1;
      }
      return 2;
    });
    close(fds[1]);
    // Reports are counted until the chosen number is there; then the blow, and the rest is read.
    const int64_t enough = told + 1 + static_cast<int64_t>(random() % 100);
    char byte;
    while (told < enough && read(fds[0], &byte, 1) == 1) ++told;
    ASSERT_TRUE(CountOne(*bystander, "bystander").ok());
    kill(child, SIGKILL);
    EXPECT_EQ(ExitStatus(child), 1000 + SIGKILL);
    while (read(fds[0], &byte, 1) == 1) ++told;
    close(fds[0]);
    const int64_t counted = Counted(path_, "victim");
    ASSERT_GE(counted, told) << "round " << round;
    ASSERT_LE(counted, told + 1) << "round " << round;
    told = counted;
  }
  EXPECT_EQ(Counted(path_, "bystander"), rounds);
  EXPECT_EQ(Query(path_, "PRAGMA integrity_check"), std::vector<std::string>{"ok"});
}

// The moment when a database is made is short, so it is tried many times.
TEST_F(SqliteStoreTest, ManyProcessesMakeOneDatabaseTogether) {
  for (int round = 0; round < 20; ++round) {
    path_ = absl::StrCat(directory_, "/", round, ".sqlite");
    std::vector<pid_t> children;
    for (int p = 0; p < 4; ++p) {
      children.push_back(InChild([&] {
        const absl::Status status = CountOne(*Store(), "k");
        if (!status.ok()) std::cerr << status << "\n";
        return status.ok() ? 0 : 1;
      }));
    }
    for (const pid_t child : children) EXPECT_EQ(ExitStatus(child), 0);
    EXPECT_EQ(Counted(path_, "k"), 4);
  }
}

// The rules over the database answer exactly as over the model.
TEST_F(SqliteStoreTest, AgreesWithTheModelOnRandomRequests) {
  auto store = Store();
  MemoryPolicyStore model;
  PolicySettings settings = {.greylist_delay = 10,
                             .retry_window = 100,
                             .triplet_ttl = 200,
                             .auto_whitelist_passes = 3,
                             .auto_whitelist_ttl = 150,
                             .rate_limit = 20,
                             .sasl_rate_limit = 5,
                             .rate_period = 50};
  std::mt19937 random(11);
  int64_t now = kNow;
  std::map<PolicyVerdict, int> seen;
  for (int i = 0; i < 3000; ++i) {
    now += static_cast<int64_t>(random() % 4);
    if (random() % 300 == 0) now -= 30;
    const std::string client = absl::StrCat("192.0.", random() % 3, ".", random() % 2);
    const std::string sender = std::to_string(random() % 4);
    const std::string user = random() % 5 == 0 ? "ann" : "";
    const PolicyRequest request = {.protocol_state = "RCPT",
                                   .client_address = client,
                                   .sender = sender,
                                   .recipient = "r@x",
                                   .sasl_username = user};
    absl::StatusOr<PolicyVerdict> ours = PolicyVerdict::kNoOpinion;
    absl::StatusOr<PolicyVerdict> expected = PolicyVerdict::kNoOpinion;
    const auto into = [&](absl::StatusOr<PolicyVerdict>* verdict) {
      return [&, verdict](PolicyTransaction& t) -> absl::Status {
        *verdict = Decide(request, settings, now, t);
        return verdict->status();
      };
    };
    ASSERT_TRUE(store->Run(into(&ours)).ok());
    ASSERT_TRUE(model.Run(into(&expected)).ok());
    ASSERT_EQ(*ours, *expected) << "step " << i;
    ++seen[*expected];
    // Deleting what is expired, also by a clock that is set back, changes no answer.
    if (random() % 100 == 0) {
      ASSERT_TRUE(store->DeleteExpired(now - 31, 10).ok());
    }
  }
  EXPECT_EQ(seen.size(), 4u) << "allowed, white-listed, greylisted and rate-limited all occur";
}

}  // namespace
}  // namespace examples

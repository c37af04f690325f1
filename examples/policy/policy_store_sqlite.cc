#include "examples/policy/policy_store_sqlite.h"

#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace examples {
namespace {

namespace os = posthouse::os;

constexpr int kApplicationId = 0x50486f70;  // "PHop"
constexpr int kSchemaVersion = 1;

// Waiting for a lock starts with short sleeps: other processes hold it for some ten microseconds.
constexpr int64_t kFirstSleepNs = 200 * 1000;
constexpr int64_t kLongestSleepNs = 5 * 1000 * 1000;

constexpr char kSchema[] =
    "CREATE TABLE triplet("
    " network TEXT NOT NULL, sender TEXT NOT NULL, recipient TEXT NOT NULL,"
    " first_seen INTEGER NOT NULL, passed INTEGER NOT NULL, expires INTEGER NOT NULL,"
    " PRIMARY KEY(network, sender, recipient));"
    "CREATE INDEX triplet_expires ON triplet(expires);"
    "CREATE TABLE network("
    " network TEXT PRIMARY KEY NOT NULL, passes INTEGER NOT NULL, expires INTEGER NOT NULL);"
    "CREATE INDEX network_expires ON network(expires);"
    "CREATE TABLE rate("
    " client TEXT PRIMARY KEY NOT NULL, period_start INTEGER NOT NULL,"
    " recipients INTEGER NOT NULL, expires INTEGER NOT NULL);"
    "CREATE INDEX rate_expires ON rate(expires);"
    "CREATE TABLE opt_out(pattern TEXT PRIMARY KEY NOT NULL COLLATE NOCASE);";

enum StatementId {
  kBegin,
  kCommit,
  kRollback,
  kFindTriplet,
  kPutTriplet,
  kFindNetwork,
  kPutNetwork,
  kFindRate,
  kPutRate,
  kIsOptedOut,
  kAddOptOut,
  kRemoveOptOut,
  kExpireTriplets,
  kExpireNetworks,
  kExpireRates,
  kStatements,
};

constexpr const char* kSql[kStatements] = {
    "BEGIN IMMEDIATE",
    "COMMIT",
    "ROLLBACK",
    "SELECT first_seen, passed, expires FROM triplet"
    " WHERE network = ? AND sender = ? AND recipient = ?",
    "INSERT INTO triplet(network, sender, recipient, first_seen, passed, expires)"
    " VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET first_seen = excluded.first_seen,"
    " passed = excluded.passed, expires = excluded.expires",
    "SELECT passes, expires FROM network WHERE network = ?",
    "INSERT INTO network(network, passes, expires) VALUES(?, ?, ?)"
    " ON CONFLICT DO UPDATE SET passes = excluded.passes, expires = excluded.expires",
    "SELECT period_start, recipients, expires FROM rate WHERE client = ?",
    "INSERT INTO rate(client, period_start, recipients, expires) VALUES(?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET period_start = excluded.period_start,"
    " recipients = excluded.recipients, expires = excluded.expires",
    "SELECT 1 FROM opt_out WHERE pattern = ?",
    "INSERT OR IGNORE INTO opt_out(pattern) VALUES(?)",
    "DELETE FROM opt_out WHERE pattern = ?",
    "DELETE FROM triplet WHERE rowid IN"
    " (SELECT rowid FROM triplet WHERE expires <= ? ORDER BY expires LIMIT ?)",
    "DELETE FROM network WHERE rowid IN"
    " (SELECT rowid FROM network WHERE expires <= ? ORDER BY expires LIMIT ?)",
    "DELETE FROM rate WHERE rowid IN"
    " (SELECT rowid FROM rate WHERE expires <= ? ORDER BY expires LIMIT ?)",
};

absl::StatusCode CodeOf(int result) {
  switch (result & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::StatusCode::kUnavailable;
    case SQLITE_FULL:
    case SQLITE_NOMEM:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_AUTH:
      return absl::StatusCode::kPermissionDenied;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::StatusCode::kDataLoss;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

// An open database with its statements; also the transaction that a body sees.
class SqlitePolicyStore::Connection : public PolicyTransaction {
 public:
  explicit Connection(const Options& options) : options_(options), owner_(os::Getpid()) {}

  ~Connection() override {
    for (sqlite3_stmt* statement : statements_) sqlite3_finalize(statement);
    sqlite3_close(database_);
  }

  pid_t owner() const { return owner_; }

  absl::Status Open() {
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    const int result = sqlite3_open_v2(options_.path.c_str(), &database_, flags, nullptr);
    if (result != SQLITE_OK) return Error(result, "open");
    sqlite3_extended_result_codes(database_, 1);
    sqlite3_busy_handler(database_, &Connection::OnBusy, this);
    StartWaiting();
    // Before anything is changed: whose file is it?
    if (absl::Status status = Execute("BEGIN"); !status.ok()) return status;
    absl::Status ours = CheckOwner();
    Execute("COMMIT").IgnoreError();  // nothing was written
    if (!ours.ok()) return ours;
    if (absl::Status status = UseWriteAheadLog(); !status.ok()) return status;
    for (const char* pragma : {"PRAGMA synchronous = NORMAL", "PRAGMA temp_store = MEMORY"}) {
      if (absl::Status status = Execute(pragma); !status.ok()) return status;
    }
    if (absl::Status status = MakeTables(); !status.ok()) return status;
    for (int id = 0; id < kStatements; ++id) {
      const int prepared = sqlite3_prepare_v3(database_, kSql[id], -1, SQLITE_PREPARE_PERSISTENT,
                                              &statements_[id], nullptr);
      if (prepared != SQLITE_OK) return Error(prepared, "prepare");
    }
    return absl::OkStatus();
  }

  bool Moved() const {
    int moved = 0;
    const int result = sqlite3_file_control(database_, nullptr, SQLITE_FCNTL_HAS_MOVED, &moved);
    return result == SQLITE_OK && moved != 0;
  }

  absl::Status Transact(absl::FunctionRef<absl::Status()> body) {
    StartWaiting();
    if (absl::Status status = Step(Bind(kBegin)); !status.ok()) return status;
    absl::Status status = body();
    if (status.ok()) status = Step(Bind(kCommit));
    // Some errors have undone the transaction already; then there is nothing to roll back.
    if (!status.ok() && sqlite3_get_autocommit(database_) == 0) {
      Step(Bind(kRollback)).IgnoreError();  // the first error is the one to report
    }
    return status;
  }

  absl::StatusOr<int> DeleteExpired(StatementId id, int64_t now, int limit) {
    if (absl::Status status = Step(Bind(id, now, limit)); !status.ok()) return status;
    return sqlite3_changes(database_);
  }

  absl::Status SetOptedOut(const std::string& pattern, bool opted_out) {
    return Step(Bind(opted_out ? kAddOptOut : kRemoveOptOut, pattern));
  }

  absl::StatusOr<bool> OptedOut(absl::Span<const std::string> patterns) override {
    for (const std::string& pattern : patterns) {
      absl::StatusOr<bool> found = Row(Bind(kIsOptedOut, pattern));
      if (!found.ok() || *found) return found;
    }
    return false;
  }

  absl::StatusOr<absl::optional<TripletRow>> FindTriplet(const TripletKey& key) override {
    Cursor cursor = Bind(kFindTriplet, key.network, key.sender, key.recipient);
    absl::StatusOr<bool> found = Row(cursor);
    if (!found.ok()) return found.status();
    if (!*found) return absl::optional<TripletRow>();
    return absl::optional<TripletRow>(TripletRow{.first_seen = cursor.Number(0),
                                                 .passed = cursor.Number(1) != 0,
                                                 .expires = cursor.Number(2)});
  }

  absl::Status PutTriplet(const TripletKey& key, const TripletRow& row) override {
    return Step(Bind(kPutTriplet, key.network, key.sender, key.recipient, row.first_seen,
                     int64_t{row.passed}, row.expires));
  }

  absl::StatusOr<absl::optional<NetworkRow>> FindNetwork(const std::string& network) override {
    Cursor cursor = Bind(kFindNetwork, network);
    absl::StatusOr<bool> found = Row(cursor);
    if (!found.ok()) return found.status();
    if (!*found) return absl::optional<NetworkRow>();
    return absl::optional<NetworkRow>(
        NetworkRow{.passes = cursor.Number(0), .expires = cursor.Number(1)});
  }

  absl::Status PutNetwork(const std::string& network, const NetworkRow& row) override {
    return Step(Bind(kPutNetwork, network, row.passes, row.expires));
  }

  absl::StatusOr<absl::optional<RateRow>> FindRate(const std::string& key) override {
    Cursor cursor = Bind(kFindRate, key);
    absl::StatusOr<bool> found = Row(cursor);
    if (!found.ok()) return found.status();
    if (!*found) return absl::optional<RateRow>();
    return absl::optional<RateRow>(RateRow{.period_start = cursor.Number(0),
                                           .recipients = cursor.Number(1),
                                           .expires = cursor.Number(2)});
  }

  absl::Status PutRate(const std::string& key, const RateRow& row) override {
    return Step(Bind(kPutRate, key, row.period_start, row.recipients, row.expires));
  }

 private:
  // A prepared statement in use; reset at the end of its scope, so that it holds no lock and no
  // borrowed text.
  class Cursor {
   public:
    explicit Cursor(sqlite3_stmt* statement) : statement_(statement) {}
    Cursor(Cursor&& other) noexcept
        : statement_(std::exchange(other.statement_, nullptr)), bound_(other.bound_) {}
    Cursor& operator=(Cursor&&) = delete;
    ~Cursor() {
      if (statement_ == nullptr) return;
      sqlite3_reset(statement_);
      sqlite3_clear_bindings(statement_);
    }
    void Set(int index, const std::string& text) {
      Note(sqlite3_bind_text64(statement_, index, text.data(), text.size(), SQLITE_STATIC,
                               SQLITE_UTF8));
    }
    void Set(int index, int64_t number) { Note(sqlite3_bind_int64(statement_, index, number)); }
    int64_t Number(int column) const { return sqlite3_column_int64(statement_, column); }
    int Step() { return bound_ == SQLITE_OK ? sqlite3_step(statement_) : bound_; }

   private:
    void Note(int result) {
      if (result != SQLITE_OK) bound_ = result;
    }
    sqlite3_stmt* statement_;
    int bound_ = SQLITE_OK;
  };

  template <typename... Args>
  Cursor Bind(StatementId id, const Args&... args) {
    Cursor cursor(statements_[id]);
    int index = 0;
    (cursor.Set(++index, args), ...);
    return cursor;
  }

  // Whether the statement has a row.
  absl::StatusOr<bool> Row(Cursor& cursor) {
    const int result = cursor.Step();
    if (result == SQLITE_ROW) return true;
    if (result == SQLITE_DONE) return false;
    return Error(result, "read");
  }
  absl::StatusOr<bool> Row(Cursor&& cursor) { return Row(cursor); }

  absl::Status Step(Cursor cursor) {
    const int result = cursor.Step();
    if (result == SQLITE_DONE || result == SQLITE_ROW) return absl::OkStatus();
    return Error(result, "write");
  }

  absl::Status Execute(const char* sql) {
    const int result = sqlite3_exec(database_, sql, nullptr, nullptr, nullptr);
    return result == SQLITE_OK ? absl::OkStatus() : Error(result, sql);
  }

  absl::StatusOr<int64_t> PragmaNumber(const char* sql) {
    sqlite3_stmt* statement = nullptr;
    int result = sqlite3_prepare_v2(database_, sql, -1, &statement, nullptr);
    int64_t value = 0;
    if (result == SQLITE_OK) {
      result = sqlite3_step(statement);
      if (result == SQLITE_ROW) value = sqlite3_column_int64(statement, 0);
    }
    absl::Status status =
        result == SQLITE_ROW || result == SQLITE_DONE ? absl::OkStatus() : Error(result, sql);
    sqlite3_finalize(statement);
    if (!status.ok()) return status;
    return value;
  }

  // In one transaction: another process may be making the tables at this moment.
  absl::Status CheckOwner() {
    absl::StatusOr<int64_t> id = PragmaNumber("PRAGMA application_id");
    if (!id.ok()) return id.status();
    absl::StatusOr<int64_t> version = PragmaNumber("PRAGMA user_version");
    if (!version.ok()) return version.status();
    absl::StatusOr<int64_t> tables = PragmaNumber("SELECT count(*) FROM sqlite_schema");
    if (!tables.ok()) return tables.status();
    if (*id == 0 && *version == 0 && *tables == 0) return absl::OkStatus();  // new and empty
    if (*id != kApplicationId) {
      return absl::FailedPreconditionError(
          absl::StrCat("database ", options_.path, " belongs to another program"));
    }
    if (*version > kSchemaVersion) {
      return absl::FailedPreconditionError(absl::StrCat("database ", options_.path, " has version ",
                                                        *version, ", this program knows ",
                                                        kSchemaVersion));
    }
    return absl::OkStatus();
  }

  // SQLite answers SQLITE_BUSY here without asking the busy handler when two processes change the
  // mode of a new database at the same time.
  absl::Status UseWriteAheadLog() {
    while (true) {
      absl::Status status = Execute("PRAGMA journal_mode = WAL");
      if (status.code() != absl::StatusCode::kUnavailable || !KeepWaiting()) return status;
    }
  }

  absl::Status MakeTables() {
    if (absl::Status status = Execute("BEGIN IMMEDIATE"); !status.ok()) return status;
    // Asked again under the lock: another process may have been here first.
    absl::StatusOr<int64_t> version = PragmaNumber("PRAGMA user_version");
    absl::Status status = version.status();
    if (status.ok() && *version == 0) {
      status = Execute(kSchema);
      if (status.ok()) {
        status = Execute(absl::StrCat("PRAGMA application_id = ", kApplicationId,
                                      "; PRAGMA user_version = ", kSchemaVersion)
                             .c_str());
      }
    }
    if (status.ok()) return Execute("COMMIT");
    Execute("ROLLBACK").IgnoreError();  // the first error is the one to report
    return status;
  }

  void StartWaiting() {
    give_up_ns_ = os::SteadyNanos() + absl::ToInt64Nanoseconds(options_.busy_timeout);
    sleep_ns_ = kFirstSleepNs;
  }

  // Sleeps a little, longer each time; false when the limit is reached.
  bool KeepWaiting() {
    const int64_t left = give_up_ns_ - os::SteadyNanos();
    if (left <= 0) return false;
    const timespec nap = {.tv_sec = 0, .tv_nsec = std::min(sleep_ns_, left)};
    os::Nanosleep(&nap, nullptr);
    sleep_ns_ = std::min(2 * sleep_ns_, kLongestSleepNs);
    return true;
  }

  static int OnBusy(void* connection, int) {
    return static_cast<Connection*>(connection)->KeepWaiting() ? 1 : 0;
  }

  absl::Status Error(int result, absl::string_view operation) const {
    const char* text = database_ != nullptr && sqlite3_errcode(database_) != SQLITE_OK
                           ? sqlite3_errmsg(database_)
                           : sqlite3_errstr(result);
    return absl::Status(CodeOf(result), absl::StrCat("database ", options_.path, ": ", operation,
                                                     ": ", text, " (", result, ")"));
  }

  const Options& options_;
  const pid_t owner_;
  sqlite3* database_ = nullptr;
  std::array<sqlite3_stmt*, kStatements> statements_{};
  int64_t give_up_ns_ = 0;
  int64_t sleep_ns_ = kFirstSleepNs;
};

SqlitePolicyStore::SqlitePolicyStore(Options options) : options_(std::move(options)) {}

SqlitePolicyStore::~SqlitePolicyStore() { Close(); }

absl::Status SqlitePolicyStore::Open() {
  Close();
  auto connection = std::make_unique<Connection>(options_);
  if (absl::Status status = connection->Open(); !status.ok()) return status;
  connection_ = std::move(connection);
  return absl::OkStatus();
}

bool SqlitePolicyStore::is_open() const { return connection_ != nullptr; }

bool SqlitePolicyStore::PathIsCurrent() const {
  return connection_ != nullptr && !connection_->Moved();
}

void SqlitePolicyStore::Close() {
  if (connection_ == nullptr) return;
  if (connection_->owner() != os::Getpid()) {
    // The parent's: closing it here could undo what the parent relies on.
    static_cast<void>(connection_.release());
    return;
  }
  connection_.reset();
}

absl::Status SqlitePolicyStore::Run(absl::FunctionRef<absl::Status(PolicyTransaction&)> body) {
  if (absl::Status status = Usable(); !status.ok()) return status;
  return Judge(connection_->Transact([&] { return body(*connection_); }));
}

absl::StatusOr<int> SqlitePolicyStore::DeleteExpired(int64_t now, int limit) {
  if (absl::Status status = Usable(); !status.ok()) return status;
  int most = 0;
  absl::Status status = connection_->Transact([&]() -> absl::Status {
    for (const StatementId id : {kExpireTriplets, kExpireNetworks, kExpireRates}) {
      absl::StatusOr<int> deleted = connection_->DeleteExpired(id, now, limit);
      if (!deleted.ok()) return deleted.status();
      most = std::max(most, *deleted);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return Judge(std::move(status));
  return most;
}

absl::Status SqlitePolicyStore::SetOptedOut(const std::string& pattern, bool opted_out) {
  if (absl::Status status = Usable(); !status.ok()) return status;
  return Judge(connection_->Transact([&] { return connection_->SetOptedOut(pattern, opted_out); }));
}

absl::Status SqlitePolicyStore::Usable() {
  if (connection_ != nullptr && connection_->owner() == os::Getpid()) return absl::OkStatus();
  return Open();
}

absl::Status SqlitePolicyStore::Judge(absl::Status status) {
  // A lock that was not to be had, or a full disk, says nothing against the connection.
  if (!status.ok() && status.code() != absl::StatusCode::kUnavailable &&
      status.code() != absl::StatusCode::kResourceExhausted) {
    Close();
  }
  return status;
}

}  // namespace examples

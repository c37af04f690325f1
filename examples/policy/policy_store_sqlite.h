// The store of policyd in an SQLite database, shared by any number of processes.
//
// How it keeps its promises:
//  - Every decision is one BEGIN IMMEDIATE ... COMMIT: the write lock is taken before the first
//    read, so no other process changes a row between our reading and our writing it, and there is
//    no lost update and no deadlock of two readers that both want to write.
//  - A lock that another process holds is waited for, at most Options::busy_timeout.
//  - Write-ahead log with synchronous=NORMAL: a commit is a write, without waiting for the disk;
//    the disk is waited for at checkpoints. What was committed survives the end of the process in
//    any form, kill -9 included. A crash of the whole machine can undo the last commits, never
//    damage the database: greylisting then asks some senders to come a third time, which is cheap,
//    while a disk flush for each recipient is not.
//  - The database is marked with an application id and a version. A file of somebody else's, or of
//    a newer policyd, is refused and left alone.
//
// An error that may be one of the open file (I/O, corruption, a file that was replaced) closes the
// connection, and the next use opens it anew.
//
// Thread: one. Fork: the locks of a connection belong to the process that opened it; in a child the
// first use leaves the inherited connection untouched and opens its own.
// Ownership: owns the connection.

#ifndef EXAMPLES_POLICY_POLICY_STORE_SQLITE_H_
#define EXAMPLES_POLICY_POLICY_STORE_SQLITE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "examples/policy/policy_store.h"

namespace examples {

class SqlitePolicyStore : public PolicyStore {
 public:
  struct Options {
    std::string path;
    absl::Duration busy_timeout = absl::Seconds(1);
  };

  // Opens nothing yet.
  explicit SqlitePolicyStore(Options options);
  ~SqlitePolicyStore() override;

  // Opens the database, making it and its tables if they do not exist. Run() and DeleteExpired() do
  // it when needed; doing it early finds problems early, and before a chroot hides the path.
  // kUnavailable: locked beyond the limit. kFailedPrecondition: somebody else's file, or a newer
  // version's. Otherwise what SQLite says, with the path.
  absl::Status Open();
  bool is_open() const;

  // Whether the path leads to the file that is open: false when it was removed or replaced, or when
  // a chroot has hidden it.
  bool PathIsCurrent() const;
  // Closes the connection.
  void Close();

  absl::Status Run(absl::FunctionRef<absl::Status(PolicyTransaction&)> body) override;
  absl::StatusOr<int> DeleteExpired(int64_t now, int limit) override;

  // Adds to or removes from the table of recipients that want no policy. `pattern` as
  // NormalizeOptOut() gives it.
  absl::Status SetOptedOut(const std::string& pattern, bool opted_out);

 private:
  class Connection;
  absl::Status Usable();
  // Closes the connection if `status` speaks against it; returns `status`.
  absl::Status Judge(absl::Status status);

  const Options options_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace examples

#endif  // EXAMPLES_POLICY_POLICY_STORE_SQLITE_H_

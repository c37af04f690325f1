// Load drives a service from many clients, each a thread with blocking calls and one request under
// way, and accounts for every request. A client that connects, asks once and closes must get its
// answer, whatever the master does meanwhile:
//
//   Load load({{.path = socket}, {.port = port}}, {.one_shot_clients = 24, .long_clients = 8});
//   ... reload the master ...
//   LoadResult result = load.Finish();
//   EXPECT_EQ(result.lost, std::vector<std::string>());
//
// Lost is what the kernel connected, whose client did not give up, whose worker was not killed by
// the test, and which got no complete answer; refused connections count too. A client that keeps
// its connection for many requests has lost nothing when the connection ends between two answers:
// the worker was told to go (P43) while the request was on its way. It asks again on a new
// connection, and that request may not fail.
//
// Thread: one calls it.

#ifndef POSTHOUSE_TESTS_LOAD_LOAD_H_
#define POSTHOUSE_TESTS_LOAD_LOAD_H_

#include <sys/types.h>

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"

namespace posthouse {

struct LoadEndpoint {
  std::string path;  // a local socket, or
  int port = 0;      // of 127.0.0.1
};

struct LoadOptions {
  int one_shot_clients = 24;
  int long_clients = 8;
  int requests_per_long_connection = 100;
  // No answer takes this long unless it is lost.
  absl::Duration patience = absl::Seconds(30);
};

// The clients whose connections a worker held at the moment when it was killed, by the address of
// the client's end: exact, because the worker is stopped and looked at before it dies.
class KilledClients {
 public:
  // Stops the process, notes the clients that it holds, and kills it. False when it was gone.
  bool Kill(pid_t worker);
  // Whether the client of this address was held by a worker that was killed after `since`.
  bool WasHeld(const std::string& client, absl::Time since) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, absl::Time> held_;
};

struct LoadResult {
  int64_t answered = 0;
  // Connections of long clients that ended between two answers.
  int64_t ended = 0;
  // Requests that failed in the hands of killed workers.
  int64_t killed = 0;
  // What must not be: one line each, the first hundred.
  std::vector<std::string> lost;
  absl::Duration longest;
};

class Load {
 public:
  // Starts the clients; they take the endpoints in turn. `killed` is borrowed.
  Load(std::vector<LoadEndpoint> endpoints, const LoadOptions& options,
       const KilledClients* killed = nullptr);
  ~Load();
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  int64_t answered() const { return answered_; }
  int64_t lost() const { return lost_count_; }
  // Lets each client end its request, and waits for all.
  LoadResult Finish();

 private:
  struct Attempt;

  void RunOneShot(int client);
  void RunLong(int client);
  bool AskOnce(int client, int64_t number);
  bool WasKilled(const Attempt& attempt) const;
  void Fail(const Attempt& attempt, const std::string& what);
  void Answered(absl::Time asked);
  const LoadEndpoint& endpoint(int client) const { return endpoints_[client % endpoints_.size()]; }

  const std::vector<LoadEndpoint> endpoints_;
  const LoadOptions options_;
  const KilledClients* const killed_clients_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stopping_ = false;
  std::atomic<int64_t> answered_ = 0, ended_ = 0, killed_ = 0, lost_count_ = 0;
  std::mutex mutex_;
  std::vector<std::string> lost_;
  absl::Duration longest_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_LOAD_LOAD_H_

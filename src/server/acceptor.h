// Acceptor takes connections from the listen sockets of a worker and hands them to its skeleton,
// whatever the transport: inet, unix, or descriptors passed over a local connection.
//
// Listen sockets are shared with sibling processes and the master: finding no client is normal
// (S42). Each readiness takes a small batch (SO13); the kernel is asked to wake one process for
// one connection (EO28). When the system lacks descriptors or memory, and when the service says
// "not now", all listen sockets rest for a moment; a client that leaves ends the rest early,
// though never so that more than 20 attempts a second fail (SO4, F45).
//
// A passed descriptor is received without waiting: the local connection is watched like a client,
// for at most 100 s until the descriptor comes and as long again until its attribute list is
// complete (SO5, S36, S91). A list that has not begun a second after the descriptor, or whose
// connection is closed before, counts as an empty one: older senders and the wake-up of a stock
// master (P67) send none.
//
// Thread: that of the loop. Fork: Close() in the child; what is being received goes on there.
// Ownership: borrows the listen sockets.

#ifndef POSTHOUSE_SERVER_ACCEPTOR_H_
#define POSTHOUSE_SERVER_ACCEPTOR_H_

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/accept.h"
#include "posthouse/io/fd_threshold.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/server/listen_fd.h"

namespace posthouse {

class Worker;

// What came with a passed descriptor: client_address, client_port, ... (P64).
using ClientAttributes = std::map<std::string, std::string>;

// A client that has just connected.
struct AcceptedConnection {
  UniqueFd fd;  // close-on-exec, blocking (S45), at or above the threshold if that was possible
  std::string peer;
  std::unique_ptr<ClientAttributes> attributes;  // null: none
  // Nobody else holds the open file.
  bool sole_owner = false;
};

class ConnectionSink {
 public:
  virtual ~ConnectionSink() = default;
  // Before each attempt; false: not now, ask again in a while (SO20).
  virtual bool MayAccept() = 0;
  virtual void OnConnection(AcceptedConnection connection) = 0;
};

struct AcceptorOptions {
  int accepts_per_turn = 16;
  int client_fd_threshold = kDefaultFdThreshold;
};

class Acceptor {
 public:
  // The worker and the sink are borrowed.
  Acceptor(const AcceptorOptions& options, Worker* worker, ConnectionSink* sink);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  absl::Status Open(const std::vector<ListenFd>& sockets);
  // Ends accepting for good; the listen sockets are not watched any more. Harmless when repeated,
  // and from within a callback of the sink.
  void Close();

  // A descriptor was given back: worth another try.
  void DescriptorFreed();
  // Whether a passed descriptor is still on its way.
  bool receiving() const { return !receptions_.empty(); }

 private:
  struct Listener {
    Acceptor* acceptor = nullptr;
    ListenFd socket;
    FdWatch watch;
  };
  class Reception;

  static void OnListener(int event, void* context);
  static void OnRested(int event, void* context);
  void AcceptBatch(Listener& listener);
  void Rest(absl::Duration pause);
  void Report(const Listener& listener, const AcceptResult& result);
  void Receive(UniqueFd connection);
  void Received(Reception* reception, UniqueFd descriptor, ClientAttributes attributes);
  void ReceptionFailed(Reception* reception, const absl::Status& status);
  void Remove(Reception* reception);
  void Deliver(AcceptedConnection connection);

  AcceptorOptions options_;
  Worker* worker_;
  ConnectionSink* sink_;
  AcceptPacer pacer_;
  FdThreshold threshold_;
  Timer rest_timer_;
  int64_t last_failure_ns_ = 0;
  bool resting_ = false;
  bool closed_ = false;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::unique_ptr<Reception>> receptions_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_ACCEPTOR_H_

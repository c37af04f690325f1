// MultiServer is the skeleton behind MultiServerMain(): it turns connections into calls of the
// service, many clients in one process, one request at a time (S43 to S68).
//
// Everything that happens to a client ends in Advance(), which does the next step of its dialogue:
// send what is owed, serve what has arrived, close what is finished, and say what to wait for. So
// the same few lines decide whether input came first, or room for output, or a reply that was set
// aside.
//
// A connection that ends is taken out of the table and closed at once, but its object lives until
// the turn is over: the functions on the stack may still look at it.
//
// Thread: that of the loop. Fork: StopAccepting() in the child; clients go on.

#ifndef POSTHOUSE_SERVER_MULTI_SERVER_CORE_H_
#define POSTHOUSE_SERVER_MULTI_SERVER_CORE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/master/protocol.h"
#include "posthouse/server/acceptor.h"
#include "posthouse/server/connection.h"
#include "posthouse/server/connection_table.h"
#include "posthouse/server/multi_server.h"
#include "posthouse/server/worker.h"

namespace posthouse {

class MultiServer final : public Skeleton,
                          public ConnectionSink,
                          public std::enable_shared_from_this<MultiServer> {
 public:
  explicit MultiServer(MultiServerOptions options);
  ~MultiServer() override;

  // The worker that runs this skeleton; before Run().
  void Attach(Worker* worker) { worker_ = worker; }
  MultiServerOptions& options() { return options_; }

  // Skeleton.
  bool Accepts(Transport transport) const override { return true; }
  absl::Status ServeOneShot() override;
  absl::Status Open(const std::vector<ListenFd>& sockets) override;
  bool EndTurn() override;
  bool accepting_under_way() const override;
  void StopAccepting() override;
  void FinishClients() override;
  void ServeReadable() override;
  void CloseAll() override;

  // ConnectionSink.
  bool MayAccept() override;
  void OnConnection(AcceptedConnection accepted) override;

  // For DeferredReply: null when the client is gone or has no reply outstanding.
  Connection* FindDeferred(uint64_t client_id);
  void WriteDeferred(Connection& connection, absl::string_view data);
  void FinishDeferred(Connection& connection);

 private:
  friend class Connection;

  Connection* NewConnection(Stream stream, std::string peer,
                            std::unique_ptr<ClientAttributes> attributes);
  void Welcome(Connection& connection, bool sole_owner);
  void TakeFlowToken(Connection& connection);
  void Greet(Connection& connection);
  absl::Status ServeOneShotRequests(Connection& connection);
  absl::Status WaitForDeferred(Connection& connection);
  absl::Status ReadMoreOneShot(Connection& connection);

  // Events of a connection.
  void InputReady(Connection& connection);
  void OutputReady(Connection& connection);
  void FlowDelayOver(Connection& connection);
  void TimeOver(Connection& connection, Connection::TimerPurpose purpose);
  // Looks at the connection when the turn ends.
  void Schedule(Connection& connection);

  // The steps of Advance(); those with a result say whether the connection still goes on.
  void Advance(Connection& connection);
  bool SendOutput(Connection& connection);
  bool ServeInput(Connection& connection);
  void ServeUnread(Connection& connection);
  void UpdateInterest(Connection& connection);
  void UpdateTimer(Connection& connection);
  void Leave(Connection& connection);
  void RunPreDisconnect(Connection& connection);

  // One call of the service; says whether the connection still goes on.
  bool CallService(Connection& connection);
  void BeginRequest(Connection& connection);
  void EndRequest(Connection& connection);
  // Does something for a connection; an exception ends the connection.
  void Guarded(Connection& connection, absl::FunctionRef<void()> work);
  // Runs a hook of one client; an exception is the status.
  absl::Status RunClientHook(absl::string_view name, absl::FunctionRef<void()> hook);
  // Ends a connection that cannot go on, with one line in the log.
  void Drop(Connection& connection, absl::string_view why);
  // Ends a connection that the peer or the network has ended.
  void Lost(Connection& connection, const absl::Status& status);
  void End(Connection& connection);
  void Close(Connection& connection);

  MultiServerOptions options_;
  Worker* worker_ = nullptr;
  std::unique_ptr<Acceptor> acceptor_;
  absl::optional<FlowTokens> flow_tokens_;
  absl::Duration output_timeout_;
  bool finishing_ = false;  // FinishClients() was called
  ConnectionTable table_;
  std::vector<uint64_t> scheduled_;
  std::vector<std::unique_ptr<Connection>> closed_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_MULTI_SERVER_CORE_H_

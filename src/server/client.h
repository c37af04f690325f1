// Client is one connection of a multi_server, as its service sees it.
//
// The skeleton reads what the client sends and calls the service; the service looks at input(),
// takes the complete requests out of it and leaves an incomplete one there. It is called again
// when more has arrived, or, when it has consumed something and more is there (pipelined
// requests), later in the same turn or in the next one, so that others have their turn (SO3).
// Output is collected and sent after the service returns, without blocking; a client that does not
// take it is ended by the request deadline (F39).
//
//   void Serve(Client& client, ServiceContext& context) {
//     std::string line;
//     if (client.TakeLine(&line)) client.Write(line + "\n");
//   }
//
// A service that may wait can use stream() with its blocking operations instead; everybody else
// waits meanwhile (S60), at most the request deadline.
//
// A service that cannot answer at once calls Defer() and returns; it finishes from an event
// handler or a timer through the DeferredReply. Until then no further request of this client is
// served; the worker counts as available to its master.
//
// Thread: that of the event loop. Ownership: the skeleton owns clients; a Client& is valid for the
// call, a DeferredReply knows by itself when its client is gone.

#ifndef POSTHOUSE_SERVER_CLIENT_H_
#define POSTHOUSE_SERVER_CLIENT_H_

#include <any>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "posthouse/io/stream.h"

namespace posthouse {

class MultiServer;
class DeferredReply;

class Client {
 public:
  virtual ~Client() = default;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // What has arrived and was not consumed; valid until the next call on this client.
  absl::string_view input() const { return stream().input(); }
  void Consume(size_t bytes) { stream().Consume(bytes); }
  // The next complete line of input(), consumed; false while there is none.
  bool TakeLine(std::string* line) { return stream().TakeLine(line); }
  // The peer has closed its side: nothing will be added to input().
  bool at_end() const { return stream().at_end(); }

  // Adds to the reply. Output over max_output ends the client after the service returns (F39).
  virtual void Write(absl::string_view data) = 0;

  // Ends the connection once the service has returned and the output is sent (S59, S63).
  // Calling it again is harmless (SO9).
  virtual void Disconnect() = 0;
  virtual bool disconnecting() const = 0;

  // Sets this request aside; see above. REQUIRES: no other DeferredReply of this client is active.
  virtual DeferredReply Defer() = 0;

  // The connection itself, for services that may wait, receive descriptors or pass the connection
  // on. Its time limit is ipc_timeout for each transfer (S49).
  virtual Stream& stream() = 0;
  virtual const Stream& stream() const = 0;
  int fd() const { return stream().fd(); }

  // Tells this connection from all others of the process, also from earlier ones with its fd.
  virtual uint64_t id() const = 0;
  // The peer for log lines, neutralised: "127.0.0.1:4711", "[::1]:4711", "unix", "unix:/path".
  virtual const std::string& peer() const = 0;
  // What came with a passed descriptor: client_address, client_port, ... (S90, P64); else empty.
  virtual const std::map<std::string, std::string>& attributes() const = 0;

  // What the service remembers about this connection; destroyed with it.
  std::any& state() { return state_; }

 protected:
  Client() = default;

 private:
  std::any state_;
};

// The handle of a request that was set aside. It moves but does not copy. Destroying it without
// Finish() finishes it. It may outlive its client and even the skeleton; then it does nothing.
class DeferredReply {
 public:
  DeferredReply() = default;
  DeferredReply(DeferredReply&& other) noexcept
      : server_(std::move(other.server_)), client_id_(other.client_id_) {
    other.client_id_ = 0;
  }
  DeferredReply& operator=(DeferredReply&& other) noexcept;
  ~DeferredReply() { Finish(); }

  // The client, or null when it is gone (or this handle was finished).
  Client* client() const;
  bool active() const { return client() != nullptr; }
  // Adds to the reply; it is sent when the turn ends, as far as the kernel takes it.
  void Write(absl::string_view data);
  // The reply is complete: the output goes out and the client's next request is served.
  void Finish();

 private:
  friend class Connection;
  DeferredReply(std::weak_ptr<MultiServer> server, uint64_t client_id)
      : server_(std::move(server)), client_id_(client_id) {}

  std::weak_ptr<MultiServer> server_;
  uint64_t client_id_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_CLIENT_H_

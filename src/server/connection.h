// Connection is what the skeleton knows of one client: the Client of its service and the state of
// its dialogue. MultiServer drives it; nothing else touches more than the Client part.
//
// There may be very many idle ones (F126), so a connection has one timer for all its time limits,
// of which only one can run at a time, and its stream holds no buffers while nothing is in them.
//
// Thread: that of the loop. Ownership: owns its descriptor; MultiServer owns connections.

#ifndef POSTHOUSE_SERVER_CONNECTION_H_
#define POSTHOUSE_SERVER_CONNECTION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/stream.h"
#include "posthouse/server/acceptor.h"
#include "posthouse/server/client.h"

namespace posthouse {

class Connection final : public Client {
 public:
  // What the one timer is for at the moment.
  enum class TimerPurpose : uint8_t {
    kNone,
    kFlow,     // waiting out in_flow_delay (S51)
    kIdle,     // client_idle_limit
    kRequest,  // request_deadline
    kOutput,   // ipc_timeout for output that the peer does not take (S49)
  };

  Connection(MultiServer* server, uint64_t id, Stream stream, std::string peer,
             std::unique_ptr<ClientAttributes> attributes, EventLoop* loop);

  void Write(absl::string_view data) override;
  void Disconnect() override;
  bool disconnecting() const override { return disconnecting_; }
  DeferredReply Defer() override;
  Stream& stream() override { return stream_; }
  const Stream& stream() const override { return stream_; }
  uint64_t id() const override { return id_; }
  const std::string& peer() const override { return peer_; }
  const ClientAttributes& attributes() const override;

 private:
  friend class MultiServer;

  static void OnReadable(int event, void* context);
  static void OnWritable(int event, void* context);
  static void OnTimer(int event, void* context);
  void StartTimer(TimerPurpose purpose, absl::Duration delay);
  void CancelTimer();
  // A request is under way from its first byte until its reply is sent.
  bool request_under_way() const;

  MultiServer* server_;
  Stream stream_;
  FdWatch watch_;
  Timer timer_;
  uint64_t id_;
  int64_t request_started_ns_ = 0;  // 0: none, or no deadline is set
  std::string peer_;
  std::unique_ptr<ClientAttributes> attributes_;  // null: none

  TimerPurpose timer_purpose_ = TimerPurpose::kNone;
  bool has_news_ = false;  // there is input, or its end, that the service has not seen
  bool in_service_ = false;
  bool deferred_ = false;
  bool answered_ = false;       // the request is over as soon as the output is sent
  bool disconnecting_ = false;  // Disconnect() was called, or the peer has finished
  bool leaving_ = false;        // the pre-disconnect hook has run
  bool output_overflow_ = false;
  bool scheduled_ = false;  // in the list of connections to look at when the turn ends
  bool closed_ = false;     // gone; the object waits for the end of the turn
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_CONNECTION_H_

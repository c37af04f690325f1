#include "posthouse/server/connection.h"

#include "posthouse/base/check.h"
#include "posthouse/server/multi_server_core.h"

namespace posthouse {

Connection::Connection(MultiServer* server, uint64_t id, Stream stream, std::string peer,
                       std::unique_ptr<ClientAttributes> attributes, EventLoop* loop)
    : server_(server),
      stream_(std::move(stream)),
      timer_(loop, &Connection::OnTimer, this),
      id_(id),
      peer_(std::move(peer)),
      attributes_(std::move(attributes)) {}

void Connection::Write(absl::string_view data) {
  if (closed_ || output_overflow_) return;
  // What does not fit ends the client when the service has returned (F39).
  if (!stream_.Append(data).ok()) output_overflow_ = true;
  if (!in_service_) server_->Schedule(*this);
}

void Connection::Disconnect() {
  if (disconnecting_ || closed_) return;
  disconnecting_ = true;
  if (!in_service_) server_->Schedule(*this);
}

DeferredReply Connection::Defer() {
  POSTHOUSE_CHECK(!deferred_, "a client's request was deferred twice");
  deferred_ = true;
  return DeferredReply(server_->weak_from_this(), id_);
}

const ClientAttributes& Connection::attributes() const {
  // Shared by all clients without attributes, which are most of them; never destroyed.
  static const ClientAttributes* const kNone = new ClientAttributes();
  return attributes_ == nullptr ? *kNone : *attributes_;
}

void Connection::StartTimer(TimerPurpose purpose, absl::Duration delay) {
  timer_purpose_ = purpose;
  timer_.Start(delay);
}

void Connection::CancelTimer() {
  if (timer_purpose_ == TimerPurpose::kNone) return;
  timer_purpose_ = TimerPurpose::kNone;
  timer_.Cancel();
}

bool Connection::request_under_way() const {
  return deferred_ || !stream_.input().empty() || stream_.unsent() > 0;
}

void Connection::OnReadable(int /*event*/, void* context) {
  Connection* connection = static_cast<Connection*>(context);
  MultiServer* server = connection->server_;
  server->Guarded(*connection, [&] { server->InputReady(*connection); });
}

void Connection::OnWritable(int /*event*/, void* context) {
  Connection* connection = static_cast<Connection*>(context);
  MultiServer* server = connection->server_;
  server->Guarded(*connection, [&] { server->OutputReady(*connection); });
}

void Connection::OnTimer(int /*event*/, void* context) {
  Connection* connection = static_cast<Connection*>(context);
  const TimerPurpose purpose = connection->timer_purpose_;
  connection->timer_purpose_ = TimerPurpose::kNone;
  MultiServer* server = connection->server_;
  server->Guarded(*connection, [&] {
    if (purpose == TimerPurpose::kFlow) {
      server->FlowDelayOver(*connection);
    } else {
      server->TimeOver(*connection, purpose);
    }
  });
}

}  // namespace posthouse

#include "posthouse/server/multi_server_core.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <exception>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/io/peek.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

using TimerPurpose = Connection::TimerPurpose;

constexpr absl::Duration kLogInterval = absl::Seconds(1);
// Descriptors of a one-shot session's stream stay clear of the standard ones.
constexpr int kFirstPrivateDescriptor = 3;

bool Limited(absl::Duration limit) { return limit != absl::InfiniteDuration(); }

}  // namespace

MultiServer::MultiServer(MultiServerOptions options)
    : options_(std::move(options)), output_timeout_(absl::InfiniteDuration()) {}

MultiServer::~MultiServer() = default;

// --- Skeleton ---

absl::Status MultiServer::Open(const std::vector<ListenFd>& sockets) {
  output_timeout_ = worker_->generic().ipc_timeout.value();
  if (options_.in_flow_delay && !worker_->standalone()) {
    flow_tokens_.emplace(worker_->descriptors().flow_read, worker_->descriptors().flow_write);
  }
  AcceptorOptions acceptor;
  acceptor.accepts_per_turn = options_.accepts_per_turn;
  acceptor.client_fd_threshold = options_.client_fd_threshold;
  acceptor_ = std::make_unique<Acceptor>(acceptor, worker_, this);
  return acceptor_->Open(sockets);
}

bool MultiServer::EndTurn() {
  std::vector<uint64_t> due;
  due.swap(scheduled_);
  for (const uint64_t id : due) {
    Connection* connection = table_.Find(id);
    if (connection == nullptr) continue;
    connection->scheduled_ = false;
    Guarded(*connection, [&] { Advance(*connection); });
  }
  closed_.clear();
  return !scheduled_.empty();
}

bool MultiServer::accepting_under_way() const {
  return acceptor_ != nullptr && acceptor_->receiving();
}

void MultiServer::StopAccepting() {
  if (acceptor_ != nullptr) acceptor_->Close();
}

void MultiServer::FinishClients() {
  finishing_ = true;
  for (size_t slot = 0; slot < table_.slots(); slot++) {
    if (Connection* connection = table_.At(slot)) Schedule(*connection);
  }
}

void MultiServer::ServeReadable() {
  for (size_t slot = 0; slot < table_.slots(); slot++) {
    Connection* connection = table_.At(slot);
    if (connection == nullptr || !connection->watch_.active()) continue;
    if (connection->watch_.read_enabled()) InputReady(*connection);
  }
}

void MultiServer::CloseAll() {
  for (size_t slot = 0; slot < table_.slots(); slot++) {
    Connection* connection = table_.At(slot);
    if (connection == nullptr) continue;
    // The rest of the output is lost with the process; so is the reason.
    connection->stream_.TryFlush().status().IgnoreError();
    Close(*connection);
  }
  scheduled_.clear();
  closed_.clear();
  acceptor_ = nullptr;
}

// --- New connections ---

bool MultiServer::MayAccept() {
  if (!options_.pre_accept) return true;
  PreAccept answer = PreAccept::kNotNow;
  worker_->RunHook("pre_accept", [&] { answer = options_.pre_accept(worker_->context()); });
  return answer == PreAccept::kAccept;
}

Connection* MultiServer::NewConnection(Stream stream, std::string peer,
                                       std::unique_ptr<ClientAttributes> attributes) {
  stream.set_max_input(options_.max_request_bytes);
  stream.set_max_output(options_.max_output_bytes);
  const uint64_t id = table_.NextId();
  // The end of a client must not need memory: it is what happens when there is none (F125).
  if (closed_.capacity() < table_.slots()) closed_.reserve(2 * table_.slots());
  return table_.Put(std::make_unique<Connection>(this, id, std::move(stream), std::move(peer),
                                                 std::move(attributes), &worker_->loop()));
}

void MultiServer::OnConnection(AcceptedConnection accepted) {
  Connection& connection =
      *NewConnection(Stream(std::move(accepted.fd), absl::StrCat(worker_->name(), " socket")),
                     std::move(accepted.peer), std::move(accepted.attributes));
  connection.stream_.set_operation_timeout(output_timeout_);
  worker_->ClientArrived();
  Guarded(connection, [&] { Welcome(connection, accepted.sole_owner); });
}

void MultiServer::Welcome(Connection& connection, bool sole_owner) {
  FdWatchOptions watch;
  watch.on_readable = &Connection::OnReadable;
  watch.on_writable = &Connection::OnWritable;
  watch.context = &connection;
  watch.sole_owner = sole_owner;
  absl::StatusOr<FdWatch> watched = worker_->loop().Watch(connection.fd(), watch);
  if (!watched.ok()) {
    // Too many for this backend or this system: one client less (F10, F13).
    connection.leaving_ = true;
    return Drop(connection, watched.status().message());
  }
  connection.watch_ = *std::move(watched);
  worker_->log().Verbose("client ", connection.peer(), " fd ", connection.fd(), ": connected");
  TakeFlowToken(connection);
  Greet(connection);
  Advance(connection);
}

// Without a token the client waits, but only once (S51, S52).
void MultiServer::TakeFlowToken(Connection& connection) {
  if (!flow_tokens_.has_value()) return;
  absl::StatusOr<int> taken = flow_tokens_->Take(1);
  if (!taken.ok()) return worker_->Fatal(taken.status());
  if (*taken > 0) return;
  const absl::Duration delay = worker_->generic().in_flow_delay.value();
  worker_->log().Verbose("client ", connection.peer(), " fd ", connection.fd(),
                         ": no flow token, waits ", absl::FormatDuration(delay));
  connection.StartTimer(TimerPurpose::kFlow, delay);
}

void MultiServer::Greet(Connection& connection) {
  if (!options_.post_accept) return;
  connection.in_service_ = true;
  const absl::Status status =
      RunClientHook("post_accept", [&] { options_.post_accept(connection, worker_->context()); });
  connection.in_service_ = false;
  if (!status.ok()) Drop(connection, status.message());
}

// --- Events ---

void MultiServer::InputReady(Connection& connection) {
  if (options_.leave_input_unread) return ServeUnread(connection);
  const absl::StatusOr<Stream::FillResult> filled = connection.stream_.Fill();
  if (!filled.ok()) return Lost(connection, filled.status());
  // A false readiness costs the one call (F14).
  if (*filled == Stream::FillResult::kWouldBlock) return;
  connection.has_news_ = true;
  Advance(connection);
}

void MultiServer::OutputReady(Connection& connection) { Advance(connection); }

void MultiServer::FlowDelayOver(Connection& connection) {
  // What has arrived meanwhile is a request, also in a process that finishes its clients.
  if (finishing_ && !options_.leave_input_unread) InputReady(connection);
  Advance(connection);
}

void MultiServer::TimeOver(Connection& connection, TimerPurpose purpose) {
  if (purpose == TimerPurpose::kIdle) {
    worker_->log().Verbose("client ", connection.peer(), " fd ", connection.fd(), ": idle for ",
                           absl::FormatDuration(options_.client_idle_limit));
    connection.disconnecting_ = true;
    return Advance(connection);
  }
  if (purpose == TimerPurpose::kRequest) {
    return Drop(connection, absl::StrCat("its request took longer than ",
                                         absl::FormatDuration(options_.request_deadline)));
  }
  Drop(connection,
       absl::StrCat("it took none of its output for ", absl::FormatDuration(output_timeout_)));
}

void MultiServer::Schedule(Connection& connection) {
  if (connection.scheduled_ || connection.closed_) return;
  scheduled_.push_back(connection.id());
  connection.scheduled_ = true;
}

// --- The dialogue ---

void MultiServer::Advance(Connection& connection) {
  if (connection.closed_ || connection.in_service_) return;
  const bool waits_for_token = connection.timer_purpose_ == TimerPurpose::kFlow;
  if (!connection.disconnecting_) {
    if (!SendOutput(connection)) return;
    if (!waits_for_token && !ServeInput(connection)) return;
    // The peer has closed its side, and everything that came before is served (S58, F7).
    if (connection.stream_.at_end() && !connection.has_news_ && !connection.deferred_) {
      connection.disconnecting_ = true;
    }
    if (finishing_ && !waits_for_token && !connection.has_news_ &&
        !connection.request_under_way()) {
      connection.disconnecting_ = true;
    }
  }
  if (connection.disconnecting_) return Leave(connection);
  UpdateInterest(connection);
  UpdateTimer(connection);
}

bool MultiServer::SendOutput(Connection& connection) {
  if (connection.output_overflow_) {
    Drop(connection,
         absl::StrCat("its output is longer than ", options_.max_output_bytes, " bytes"));
    return false;
  }
  const size_t before = connection.stream_.unsent();
  if (before > 0) {
    const absl::StatusOr<bool> done = connection.stream_.TryFlush();
    if (!done.ok()) {
      Lost(connection, done.status());
      return false;
    }
    const bool progress = connection.stream_.unsent() < before;
    if (!*done && connection.timer_purpose_ != TimerPurpose::kRequest &&
        connection.timer_purpose_ != TimerPurpose::kFlow &&
        (progress || connection.timer_purpose_ != TimerPurpose::kOutput) &&
        Limited(output_timeout_)) {
      connection.StartTimer(TimerPurpose::kOutput, output_timeout_);
    }
  }
  if (connection.answered_ && connection.stream_.unsent() == 0) EndRequest(connection);
  return true;
}

// Calls the service for what has arrived, a bounded number of times; the rest waits for the end of
// the turn, so that others have theirs (SO3, F12). While output is unsent the client gets no
// further replies: it has to take this one first.
bool MultiServer::ServeInput(Connection& connection) {
  Stream& stream = connection.stream_;
  for (int call = 0; call < options_.requests_per_client_and_turn; call++) {
    if (!connection.has_news_ || connection.deferred_ || connection.disconnecting_ ||
        stream.unsent() > 0) {
      return true;
    }
    connection.has_news_ = false;
    if (stream.input().empty()) return true;
    const uint64_t consumed_before = stream.consumed_total();
    if (!CallService(connection)) return false;
    const bool consumed = stream.consumed_total() != consumed_before;
    if (consumed) connection.answered_ = !connection.deferred_;
    connection.has_news_ = consumed && !stream.input().empty();
    if (!consumed && !connection.deferred_ && !connection.disconnecting_ &&
        stream.input().size() >= options_.max_request_bytes) {
      Drop(connection,
           absl::StrCat("its request is longer than ", options_.max_request_bytes, " bytes"));
      return false;
    }
    if (!SendOutput(connection)) return false;
  }
  if (connection.has_news_) Schedule(connection);
  return true;
}

// The service reads by itself: it is called as long as something is there (S55, S56).
void MultiServer::ServeUnread(Connection& connection) {
  const absl::StatusOr<int> readable = BytesReadable(connection.fd());
  if (!readable.ok() || *readable == 0) {
    // Nothing to read is the end of input, or a false readiness (F14).
    pollfd asked = {connection.fd(), POLLIN, 0};
    if (readable.ok() && os::Poll(&asked, 1, 0) == 0) return;
    connection.disconnecting_ = true;
    return Advance(connection);
  }
  if (!CallService(connection)) return;
  connection.answered_ = !connection.deferred_;
  Advance(connection);
}

void MultiServer::UpdateInterest(Connection& connection) {
  FdWatch& watch = connection.watch_;
  if (!watch.active()) return;
  const Stream& stream = connection.stream_;
  const bool write = stream.unsent() > 0;
  const bool full = stream.input().size() >= options_.max_request_bytes;
  const bool read = !write && !full && !connection.deferred_ && !connection.leaving_ &&
                    !stream.at_end() && connection.timer_purpose_ != TimerPurpose::kFlow;
  if (read != watch.read_enabled()) read ? watch.EnableRead() : watch.DisableRead();
  if (write != watch.write_enabled()) write ? watch.EnableWrite() : watch.DisableWrite();
}

void MultiServer::UpdateTimer(Connection& connection) {
  if (connection.timer_purpose_ == TimerPurpose::kFlow) return;
  if (connection.request_under_way()) {
    if (Limited(options_.request_deadline)) {
      BeginRequest(connection);
    } else if (connection.stream_.unsent() == 0) {
      connection.CancelTimer();
    }
    return;
  }
  if (Limited(options_.client_idle_limit)) {
    connection.StartTimer(TimerPurpose::kIdle, options_.client_idle_limit);
  } else {
    connection.CancelTimer();
  }
}

void MultiServer::BeginRequest(Connection& connection) {
  if (!Limited(options_.request_deadline) || connection.request_started_ns_ != 0) return;
  connection.request_started_ns_ = os::SteadyNanos();
  connection.StartTimer(TimerPurpose::kRequest, options_.request_deadline);
}

void MultiServer::EndRequest(Connection& connection) {
  connection.answered_ = false;
  connection.request_started_ns_ = 0;
  if (connection.timer_purpose_ == TimerPurpose::kRequest) connection.CancelTimer();
}

bool MultiServer::CallService(Connection& connection) {
  worker_->WorkBegins();
  if (Limited(options_.request_deadline)) {
    BeginRequest(connection);
    // Also for a service that waits on the stream.
    connection.stream_.set_deadline_ns(connection.request_started_ns_ +
                                       absl::ToInt64Nanoseconds(options_.request_deadline));
  }
  connection.in_service_ = true;
  const absl::Status status =
      RunClientHook("serve", [&] { options_.serve(connection, worker_->context()); });
  connection.in_service_ = false;
  connection.stream_.set_deadline_ns(0);
  if (!status.ok()) Drop(connection, status.message());
  return !connection.closed_;
}

// --- Replies that were set aside ---

Connection* MultiServer::FindDeferred(uint64_t client_id) {
  Connection* connection = table_.Find(client_id);
  return connection != nullptr && connection->deferred_ ? connection : nullptr;
}

void MultiServer::WriteDeferred(Connection& connection, absl::string_view data) {
  // Sent by Write() when the turn ends.
  connection.Write(data);
}

void MultiServer::FinishDeferred(Connection& connection) {
  connection.deferred_ = false;
  connection.answered_ = true;
  connection.has_news_ = !connection.stream_.input().empty();
  if (!connection.in_service_) Schedule(connection);
}

// --- The end of a client ---

void MultiServer::Leave(Connection& connection) {
  if (!connection.leaving_) {
    connection.leaving_ = true;
    connection.deferred_ = false;
    RunPreDisconnect(connection);
  }
  if (!SendOutput(connection)) return;
  if (connection.stream_.unsent() == 0) return Close(connection);
  UpdateInterest(connection);
}

void MultiServer::RunPreDisconnect(Connection& connection) {
  if (!options_.pre_disconnect) return;
  connection.in_service_ = true;
  const absl::Status status = RunClientHook(
      "pre_disconnect", [&] { options_.pre_disconnect(connection, worker_->context()); });
  connection.in_service_ = false;
  if (status.ok()) return;
  worker_->log().Limited(LogSeverity::kWarning, "pre_disconnect", kLogInterval,
                         absl::StrCat("client ", connection.peer(), ": ", status.message()));
}

// Peers that go away are no news (F42).
void MultiServer::Lost(Connection& connection, const absl::Status& status) {
  worker_->log().Verbose("client ", connection.peer(), " fd ", connection.fd(), ": ",
                         status.message());
  End(connection);
}

void MultiServer::Drop(Connection& connection, absl::string_view why) {
  if (connection.closed_) return;
  worker_->log().Limited(
      LogSeverity::kWarning, "client dropped", kLogInterval,
      absl::StrCat("client ", connection.peer(), " fd ", connection.fd(), " dropped: ", why));
  End(connection);
}

void MultiServer::End(Connection& connection) {
  if (!connection.leaving_) {
    connection.leaving_ = true;
    RunPreDisconnect(connection);
  }
  Close(connection);
}

void MultiServer::Close(Connection& connection) {
  worker_->log().Verbose("client ", connection.peer(), " fd ", connection.fd(), ": closed");
  connection.closed_ = true;
  connection.deferred_ = false;
  connection.watch_.Reset();
  connection.CancelTimer();
  closed_.push_back(table_.Take(connection.id()));
  connection.stream_.Close();
  worker_->ClientLeft();
  if (acceptor_ != nullptr) acceptor_->DescriptorFreed();
}

// What goes wrong in our own work for a client, mostly for lack of memory, costs this client and
// nobody else (F125).
void MultiServer::Guarded(Connection& connection, absl::FunctionRef<void()> work) {
  try {
    work();
  } catch (const std::exception& exception) {
    connection.in_service_ = false;
    Drop(connection, exception.what());
  }
}

// One line in the log: either here or by Drop() (F57).
absl::Status MultiServer::RunClientHook(absl::string_view name, absl::FunctionRef<void()> hook) {
  try {
    hook();
    return absl::OkStatus();
  } catch (const std::exception& exception) {
    return absl::AbortedError(absl::StrCat(name, " threw an exception: ", exception.what()));
  } catch (...) {
    return absl::AbortedError(absl::StrCat(name, " threw something that is no std::exception"));
  }
}

// --- One-shot (S76, S77) ---

absl::Status MultiServer::ServeOneShot() {
  // Copies, so that ending the session leaves the standard descriptors in place (SO9).
  UniqueFd input(os::Fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, kFirstPrivateDescriptor));
  if (!input.valid()) return absl::ErrnoToStatus(errno, "duplicating standard input");
  UniqueFd output(os::Fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, kFirstPrivateDescriptor));
  if (!output.valid()) return absl::ErrnoToStatus(errno, "duplicating standard output");
  Connection& connection = *NewConnection(
      Stream(std::move(input), std::move(output), absl::StrCat(worker_->name(), " session")),
      "stdin", nullptr);
  worker_->ClientArrived();
  const absl::Status status = ServeOneShotRequests(connection);
  if (!connection.closed_) {
    connection.leaving_ = true;
    connection.deferred_ = false;
    RunPreDisconnect(connection);
    // As in the original, a peer that does not take the rest is no error (S77).
    connection.stream_.Flush().IgnoreError();
    Close(connection);
  }
  return status;
}

// The service may wait here: there is nobody else. It is called again while it leaves input that
// it has not looked at, and once when the input ends without any.
absl::Status MultiServer::ServeOneShotRequests(Connection& connection) {
  Stream& stream = connection.stream_;
  absl::Status status;
  if (!options_.leave_input_unread) {
    if (status = ReadMoreOneShot(connection); !status.ok()) return status;
  }
  while (true) {
    const uint64_t consumed_before = stream.consumed_total();
    if (!CallService(connection)) return absl::OkStatus();
    if (status = WaitForDeferred(connection); !status.ok()) return status;
    if (connection.closed_ || !stream.Flush().ok()) return absl::OkStatus();
    EndRequest(connection);
    if (connection.disconnecting_ || options_.leave_input_unread) return absl::OkStatus();
    const bool consumed = stream.consumed_total() != consumed_before;
    if (consumed && !stream.input().empty()) continue;
    if (stream.at_end()) return absl::OkStatus();
    if (!consumed && stream.input().size() >= options_.max_request_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the request is longer than ", options_.max_request_bytes, " bytes"));
    }
    if (status = ReadMoreOneShot(connection); !status.ok()) return status;
    if (stream.input().empty()) return absl::OkStatus();
  }
}

absl::Status MultiServer::ReadMoreOneShot(Connection& connection) {
  while (true) {
    const absl::StatusOr<Stream::FillResult> filled = connection.stream_.Fill();
    if (!filled.ok()) return filled.status();
    if (*filled != Stream::FillResult::kWouldBlock) return absl::OkStatus();
    pollfd readable = {connection.fd(), POLLIN, 0};
    if (os::Poll(&readable, 1, -1) < 0 && errno != EINTR) {
      return absl::ErrnoToStatus(errno, "poll on standard input");
    }
  }
}

absl::Status MultiServer::WaitForDeferred(Connection& connection) {
  while (connection.deferred_ && !connection.disconnecting_ && !connection.closed_) {
    const absl::Status status = worker_->loop().RunOnce(absl::InfiniteDuration());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// --- DeferredReply (client.h) ---

DeferredReply& DeferredReply::operator=(DeferredReply&& other) noexcept {
  if (this != &other) {
    Finish();
    server_ = std::move(other.server_);
    client_id_ = other.client_id_;
    other.client_id_ = 0;
  }
  return *this;
}

Client* DeferredReply::client() const {
  const std::shared_ptr<MultiServer> server = server_.lock();
  return server == nullptr ? nullptr : server->FindDeferred(client_id_);
}

void DeferredReply::Write(absl::string_view data) {
  const std::shared_ptr<MultiServer> server = server_.lock();
  if (server == nullptr) return;
  if (Connection* connection = server->FindDeferred(client_id_)) {
    server->WriteDeferred(*connection, data);
  }
}

void DeferredReply::Finish() {
  const std::shared_ptr<MultiServer> server = server_.lock();
  const uint64_t id = client_id_;
  server_.reset();
  client_id_ = 0;
  if (server == nullptr) return;
  if (Connection* connection = server->FindDeferred(id)) server->FinishDeferred(*connection);
}

}  // namespace posthouse

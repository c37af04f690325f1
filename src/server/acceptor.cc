#include "posthouse/server/acceptor.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "posthouse/io/fd_flags.h"
#include "posthouse/io/pass_descriptor.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"
#include "posthouse/server/worker.h"

namespace posthouse {
namespace {

constexpr absl::Duration kLogInterval = absl::Seconds(1);
// How long the listen sockets rest after the service has said "not now" (SO20).
constexpr absl::Duration kNotNowPause = absl::Milliseconds(100);
// The shortest time between two failed attempts, also when clients leave meanwhile (F45).
constexpr absl::Duration kFailureSpacing = absl::Milliseconds(50);
// For the descriptor, and again for its attributes (S36, S91).
constexpr absl::Duration kReceptionLimit = absl::Seconds(100);
// How long a sender that has sent a descriptor may take to begin the attribute list.
constexpr absl::Duration kListGrace = absl::Seconds(1);
// Local connections over which nothing has come yet; more wait in the listen queue.
constexpr size_t kMaxReceptions = 256;

}  // namespace

// One local connection of the pass transport, until its descriptor has come.
class Acceptor::Reception {
 public:
  Reception(Acceptor* acceptor, UniqueFd connection)
      : acceptor_(acceptor),
        receiver_(std::move(connection), /*expect_attributes=*/true),
        timer_(&acceptor->worker_->loop(), &Reception::OnTimer, this) {}

  absl::Status Start() {
    FdWatchOptions options;
    options.on_readable = &Reception::OnReadable;
    options.context = this;
    options.sole_owner = true;
    absl::StatusOr<FdWatch> watch = acceptor_->worker_->loop().Watch(receiver_.fd(), options);
    if (!watch.ok()) return watch.status();
    watch_ = *std::move(watch);
    timer_.Start(kReceptionLimit);
    return absl::OkStatus();
  }

  // Takes what is there. The object may be gone afterwards.
  void Step() {
    const bool had_descriptor = receiver_.has_descriptor();
    const absl::StatusOr<bool> done = receiver_.Step();
    if (done.ok() && *done) return Finish(receiver_.attributes());
    if (!done.ok()) {
      if (MayFinishWithoutList() && absl::IsOutOfRange(done.status())) return Finish({});
      return acceptor_->ReceptionFailed(this, done.status());
    }
    if (receiver_.has_descriptor() && !had_descriptor && !receiver_.attributes_begun()) {
      timer_.Start(kListGrace);
    } else if (receiver_.attributes_begun() && !list_timed_) {
      list_timed_ = true;
      timer_.Start(kReceptionLimit);
    }
  }

 private:
  bool MayFinishWithoutList() const {
    return receiver_.has_descriptor() && !receiver_.attributes_begun();
  }

  void Finish(ClientAttributes attributes) {
    acceptor_->Received(this, receiver_.TakeDescriptor(), std::move(attributes));
  }

  static void OnReadable(int /*event*/, void* context) { static_cast<Reception*>(context)->Step(); }

  static void OnTimer(int /*event*/, void* context) {
    Reception* reception = static_cast<Reception*>(context);
    if (reception->MayFinishWithoutList()) return reception->Finish({});
    reception->acceptor_->ReceptionFailed(
        reception, absl::DeadlineExceededError(reception->receiver_.has_descriptor()
                                                   ? "the attribute list was not completed in time"
                                                   : "no descriptor came in time"));
  }

  Acceptor* acceptor_;
  PassReceiver receiver_;
  FdWatch watch_;
  Timer timer_;
  bool list_timed_ = false;
};

Acceptor::Acceptor(const AcceptorOptions& options, Worker* worker, ConnectionSink* sink)
    : options_(options),
      worker_(worker),
      sink_(sink),
      rest_timer_(&worker->loop(), &Acceptor::OnRested, this) {
  threshold_.lowest = options.client_fd_threshold;
  threshold_.backend_is_select = worker->loop().backend() == Backend::kSelect;
}

Acceptor::~Acceptor() = default;

absl::Status Acceptor::Open(const std::vector<ListenFd>& sockets) {
  for (const ListenFd& socket : sockets) {
    auto listener = std::make_unique<Listener>();
    listener->acceptor = this;
    listener->socket = socket;
    FdWatchOptions options;
    options.on_readable = &Acceptor::OnListener;
    options.context = listener.get();
    options.background = true;
    options.exclusive = true;
    absl::StatusOr<FdWatch> watch = worker_->loop().Watch(socket.fd, options);
    if (!watch.ok()) {
      return absl::Status(watch.status().code(), absl::StrCat("listen socket ", socket.fd, ": ",
                                                              watch.status().message()));
    }
    listener->watch = *std::move(watch);
    listeners_.push_back(std::move(listener));
  }
  return absl::OkStatus();
}

void Acceptor::Close() {
  closed_ = true;
  resting_ = false;
  rest_timer_.Cancel();
  // The objects stay: a batch may be under way on one of them.
  for (const std::unique_ptr<Listener>& listener : listeners_) listener->watch.Reset();
}

void Acceptor::OnListener(int /*event*/, void* context) {
  Listener* listener = static_cast<Listener*>(context);
  listener->acceptor->AcceptBatch(*listener);
}

void Acceptor::AcceptBatch(Listener& listener) {
  const int limit = std::min(options_.accepts_per_turn, worker_->AcceptAllowance());
  for (int attempt = 0; attempt < limit; attempt++) {
    // A hook may have drained the process or found a reason to end it.
    if (closed_ || resting_) return;
    const bool room =
        listener.socket.transport != Transport::kPass || receptions_.size() < kMaxReceptions;
    if (!room || !sink_->MayAccept()) {
      if (!closed_) Rest(kNotNowPause);
      return;
    }
    if (closed_) return;
    AcceptResult result = AcceptConnection(listener.socket.fd, listener.socket.transport);
    const absl::Duration pause = pacer_.Next(result.outcome);
    if (result.outcome == AcceptOutcome::kClient) {
      if (listener.socket.transport == Transport::kPass) {
        Receive(std::move(result.fd));
      } else {
        Deliver({std::move(result.fd), std::move(result.peer), nullptr, /*sole_owner=*/true});
      }
      continue;
    }
    if (result.outcome == AcceptOutcome::kNone) return;
    Report(listener, result);
    if (pause > absl::ZeroDuration()) return Rest(pause);
  }
}

// None of these counts towards the 13 errors: a lack of descriptors must not end the process (SO4),
// and a listen socket that is broken for good ends it at once.
void Acceptor::Report(const Listener& listener, const AcceptResult& result) {
  const std::string text =
      absl::StrCat("accept on listen socket ", listener.socket.fd, ": ", result.status.message());
  switch (result.outcome) {
    case AcceptOutcome::kIgnore:
      worker_->log().Verbose(text);
      return;
    case AcceptOutcome::kBroken:
      worker_->Fatal(absl::Status(result.status.code(), text));
      return;
    default:
      last_failure_ns_ = os::SteadyNanos();
      worker_->log().Limited(LogSeverity::kWarning, "accept", kLogInterval, text);
  }
}

void Acceptor::Rest(absl::Duration pause) {
  resting_ = true;
  for (const std::unique_ptr<Listener>& listener : listeners_) listener->watch.DisableRead();
  rest_timer_.Start(pause);
}

void Acceptor::OnRested(int /*event*/, void* context) {
  Acceptor* acceptor = static_cast<Acceptor*>(context);
  acceptor->resting_ = false;
  for (const std::unique_ptr<Listener>& listener : acceptor->listeners_) {
    listener->watch.EnableRead();
  }
}

void Acceptor::DescriptorFreed() {
  if (!resting_ || last_failure_ns_ == 0) return;
  const absl::Duration earliest =
      absl::Nanoseconds(last_failure_ns_ - os::SteadyNanos()) + kFailureSpacing;
  if (earliest < rest_timer_.TimeLeft()) {
    rest_timer_.Start(std::max(earliest, absl::ZeroDuration()));
  }
}

void Acceptor::Deliver(AcceptedConnection connection) {
  const absl::Status raised = RaiseDescriptor(threshold_, connection.fd);
  if (!raised.ok()) {
    // The low number is good enough (SO4, F35).
    worker_->log().Limited(LogSeverity::kWarning, "raise descriptor", kLogInterval,
                           absl::StrCat("client descriptor ", connection.fd.get(),
                                        " keeps its number: ", raised.message()));
  }
  try {
    sink_->OnConnection(std::move(connection));
  } catch (const std::exception& exception) {
    // No memory for this client; the others go on (F125).
    worker_->log().Limited(LogSeverity::kWarning, "new client", kLogInterval,
                           absl::StrCat("new client dropped: ", exception.what()));
  }
}

void Acceptor::Receive(UniqueFd connection) {
  auto owned = std::make_unique<Reception>(this, std::move(connection));
  Reception* reception = owned.get();
  receptions_.push_back(std::move(owned));
  const absl::Status status = reception->Start();
  if (!status.ok()) return ReceptionFailed(reception, status);
  reception->Step();
}

void Acceptor::Received(Reception* reception, UniqueFd descriptor, ClientAttributes attributes) {
  // Frees the connection, which tells the sender that we have the descriptor (P62).
  Remove(reception);
  AcceptedConnection connection;
  // The sender's copy has the same mode from now on (S45).
  SetBlocking(descriptor.get()).IgnoreError();
  const auto address = attributes.find("client_address");
  const auto port = attributes.find("client_port");
  if (address != attributes.end() && port != attributes.end()) {
    const bool ipv6 = address->second.find(':') != std::string::npos;
    connection.peer = ipv6 ? absl::StrCat("[", address->second, "]:", port->second)
                           : absl::StrCat(address->second, ":", port->second);
  } else {
    sockaddr_storage peer = {};
    socklen_t length = sizeof(peer);
    const bool known =
        os::Getpeername(descriptor.get(), reinterpret_cast<sockaddr*>(&peer), &length) == 0;
    connection.peer = PeerText(reinterpret_cast<sockaddr*>(&peer), known ? length : 0);
  }
  connection.fd = std::move(descriptor);
  if (!attributes.empty()) {
    connection.attributes = std::make_unique<ClientAttributes>(std::move(attributes));
  }
  Deliver(std::move(connection));
}

// A sender's mistake concerns this connection alone and is not counted (SO5).
void Acceptor::ReceptionFailed(Reception* reception, const absl::Status& status) {
  worker_->log().Limited(LogSeverity::kWarning, "pass", kLogInterval,
                         absl::StrCat("receiving a descriptor: ", status.message()));
  Remove(reception);
  DescriptorFreed();
}

void Acceptor::Remove(Reception* reception) {
  for (std::unique_ptr<Reception>& candidate : receptions_) {
    if (candidate.get() != reception) continue;
    std::swap(candidate, receptions_.back());
    receptions_.pop_back();
    return;
  }
}

}  // namespace posthouse

#include "posthouse/master/wake_up.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "posthouse/io/pass_descriptor.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// M86. Streams get both bytes, a fifo the first.
constexpr char kWakeUpBytes[] = {'W', '\0'};

// What a service that talks back sends is read away, this much at a time.
constexpr size_t kDiscardSize = 512;

// One warning per service and minute: many services may be out of reach at once (F124).
constexpr absl::Duration kWarningInterval = absl::Minutes(1);

// Both names of the service (M87).
std::string Names(const WakeUpTarget& target) {
  return absl::StrCat("service ", target.name, " (", target.internal_name, ")");
}

// A listener on all addresses is reached over the loopback (M86).
void UseLoopbackForWildcard(sockaddr_storage* address) {
  if (address->ss_family == AF_INET) {
    auto* const inet = reinterpret_cast<sockaddr_in*>(address);
    if (inet->sin_addr.s_addr == htonl(INADDR_ANY)) inet->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  } else if (address->ss_family == AF_INET6) {
    auto* const inet = reinterpret_cast<sockaddr_in6*>(address);
    if (IN6_IS_ADDR_UNSPECIFIED(&inet->sin6_addr)) inet->sin6_addr = in6addr_loopback;
  }
}

// Two bytes fit into anything that nobody has written to yet; if not, something is wrong with it.
absl::Status Expect(ssize_t sent, size_t wanted, absl::string_view call) {
  if (sent == static_cast<ssize_t>(wanted)) return absl::OkStatus();
  if (sent < 0) return absl::ErrnoToStatus(errno, call);
  return absl::UnavailableError(absl::StrCat(call, ": cut short"));
}

}  // namespace

absl::StatusOr<UniqueFd> OpenFifoForWakeUp(const std::string& path) {
  const auto check = [&path](const struct stat& file) -> absl::Status {
    if (!S_ISFIFO(file.st_mode)) {
      return absl::FailedPreconditionError(absl::StrCat(path, " is not a fifo"));
    }
    if (file.st_nlink != 1) {
      return absl::FailedPreconditionError(absl::StrCat(path, " has more than one hard link"));
    }
    return absl::OkStatus();
  };
  // Before it is opened, since opening a device is an act of its own.
  struct stat before;
  if (os::Lstat(path.c_str(), &before) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("lstat of ", path));
  }
  if (absl::Status status = check(before); !status.ok()) return status;
  UniqueFd fd(os::Open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("open of fifo ", path));
  struct stat opened;
  if (os::Fstat(fd.get(), &opened) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("fstat of fifo ", path));
  }
  if (opened.st_dev != before.st_dev || opened.st_ino != before.st_ino) {
    return absl::AbortedError(absl::StrCat(path, " was replaced while it was opened"));
  }
  if (absl::Status status = check(opened); !status.ok()) return status;
  return fd;
}

// One connection to a service, from connect(2) to its end.
class WakeUps::Contact {
 public:
  Contact(WakeUps* owner, ServiceId service, WakeUpTarget::Kind kind)
      : owner_(owner),
        service_(service),
        kind_(kind),
        timer_(owner->loop_, &Contact::OnTime, this) {
    owner_->under_way_++;
  }
  ~Contact() { owner_->under_way_--; }
  Contact(const Contact&) = delete;
  Contact& operator=(const Contact&) = delete;

  ServiceId service() const { return service_; }

  // After an error it is to be destroyed.
  absl::Status Begin(const WakeUpTarget& target) {
    absl::Status status =
        kind_ == WakeUpTarget::Kind::kInet ? ConnectInet(target) : ConnectLocal(target);
    if (!status.ok()) return status;
    if (!connecting_) {
      if (status = Speak(); !status.ok()) return status;
    }
    FdWatchOptions options;
    options.on_readable = &Contact::OnReadable;
    options.on_writable = &Contact::OnWritable;
    options.context = this;
    options.read = !connecting_;
    options.write = connecting_;
    options.background = true;
    absl::StatusOr<FdWatch> watch = owner_->loop_->Watch(connection_.get(), options);
    if (!watch.ok()) return watch.status();
    watch_ = *std::move(watch);
    timer_.Start(connecting_ ? kConnectLimit : kKeptFor);
    return absl::OkStatus();
  }

 private:
  absl::Status ConnectInet(const WakeUpTarget& target) {
    sockaddr_storage address = target.address;
    UseLoopbackForWildcard(&address);
    return Connect(reinterpret_cast<const sockaddr*>(&address), target.address_size,
                   target.internal_name);
  }

  absl::Status ConnectLocal(const WakeUpTarget& target) {
    if (absl::Status status = CheckSocketPath(target.path); !status.ok()) return status;
    const UnixAddress address(target.path);
    return Connect(address.get(), address.length(), target.path);
  }

  // A full backlog is EAGAIN for a local socket, and time that passes for an internet one.
  absl::Status Connect(const sockaddr* address, socklen_t size, absl::string_view name) {
    connection_.Reset(
        os::Socket(address->sa_family, SOCK_STREAM | os::kSockCloexec | os::kSockNonblock, 0));
    if (!connection_.valid()) return absl::ErrnoToStatus(errno, "socket");
    if (os::Connect(connection_.get(), address, size) == 0) return absl::OkStatus();
    if (errno != EINPROGRESS && errno != EINTR) {
      return absl::ErrnoToStatus(errno, absl::StrCat("connect to ", name));
    }
    connecting_ = true;
    return absl::OkStatus();
  }

  absl::Status Speak() {
    if (kind_ != WakeUpTarget::Kind::kPass) {
      return Expect(os::Send(connection_.get(), kWakeUpBytes, sizeof(kWakeUpBytes),
                             MSG_DONTWAIT | os::kMsgNosignal),
                    sizeof(kWakeUpBytes), "send");
    }
    // Our copy of the read end is closed once it is sent, lest the service's own end never be the
    // last.
    int fds[2];
    if (os::Pipe2(fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
    const UniqueFd read_end(fds[0]);
    pipe_.Reset(fds[1]);
    // Before it is sent, while there is a reader for certain.
    absl::Status status = Expect(os::Write(pipe_.get(), kWakeUpBytes, sizeof(kWakeUpBytes)),
                                 sizeof(kWakeUpBytes), "write to a pipe");
    if (!status.ok()) return status;
    return SendDescriptor(connection_.get(), read_end.get());
  }

  static void OnWritable(int /*event*/, void* context) {
    Contact* const self = static_cast<Contact*>(context);
    int error = 0;
    socklen_t size = sizeof(error);
    if (os::Getsockopt(self->connection_.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
      error = errno;
    }
    absl::Status status = error == 0 ? self->Speak() : absl::ErrnoToStatus(error, "connect");
    if (!status.ok()) return self->owner_->Failed(self, status);
    self->connecting_ = false;
    self->watch_.DisableWrite();
    self->watch_.EnableRead();
    self->timer_.Start(kKeptFor);
  }

  static void OnReadable(int /*event*/, void* context) {
    Contact* const self = static_cast<Contact*>(context);
    char buffer[kDiscardSize];
    const ssize_t count = os::Recv(self->connection_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (count > 0) return;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    self->owner_->Closed(self);
  }

  static void OnTime(int /*event*/, void* context) {
    Contact* const self = static_cast<Contact*>(context);
    if (!self->connecting_) return self->owner_->KeptTooLong(self);
    self->owner_->Failed(
        self, absl::DeadlineExceededError(
                  absl::StrCat("connect: no answer within ", absl::FormatDuration(kConnectLimit))));
  }

  WakeUps* owner_;
  ServiceId service_;
  WakeUpTarget::Kind kind_;
  bool connecting_ = false;
  UniqueFd connection_;
  UniqueFd pipe_;  // pass: what the service reads from
  FdWatch watch_;
  Timer timer_;
};

WakeUps::WakeUps(EventLoop* loop, Log* log, FifoOpener open_fifo)
    : loop_(loop),
      log_(log),
      open_fifo_(std::move(open_fifo)),
      start_timer_(loop, &WakeUps::OnStart, this),
      retry_timer_(loop, &WakeUps::OnRetry, this) {}

// Contacts count themselves out of under_way_.
WakeUps::~WakeUps() { services_.clear(); }

void WakeUps::Trigger(ServiceId id, const WakeUpTarget& target) {
  Service& service = services_[id];
  service.target = target;
  service.missed = false;
  Queue(id, &service);
}

void WakeUps::Cancel(ServiceId id) { services_.erase(id); }

void WakeUps::Queue(ServiceId id, Service* service) {
  if (service->queued) return;
  service->queued = true;
  queue_.push_back(id);
  if (!start_timer_.pending()) start_timer_.Start(absl::ZeroDuration());
}

void WakeUps::OnStart(int /*event*/, void* context) {
  WakeUps* const self = static_cast<WakeUps*>(context);
  for (int i = 0; i < kMaxStartsPerTurn && !self->queue_.empty(); ++i) {
    const ServiceId id = self->queue_.front();
    self->queue_.pop_front();
    const auto service = self->services_.find(id);
    // It may have been cancelled, and triggered anew, which puts it in twice.
    if (service == self->services_.end() || !service->second.queued) continue;
    service->second.queued = false;
    self->Start(id, &service->second);
  }
  if (!self->queue_.empty()) self->start_timer_.Start(absl::ZeroDuration());
}

void WakeUps::OnRetry(int /*event*/, void* context) {
  WakeUps* const self = static_cast<WakeUps*>(context);
  for (auto& [id, service] : self->services_) {
    if (service.missed) self->Queue(id, &service);
  }
}

void WakeUps::Start(ServiceId id, Service* service) {
  absl::Status status;
  switch (service->target.kind) {
    case WakeUpTarget::Kind::kUnixDgram:
      // Trying again would not help (M86).
      log_->Warning(absl::StrCat("wake-up of ", Names(service->target),
                                 ": services of type unix-dgram cannot be woken up"));
      return;
    case WakeUpTarget::Kind::kFifo:
      status = WakeFifo(service->target);
      break;
    case WakeUpTarget::Kind::kInet:
    case WakeUpTarget::Kind::kUnix:
    case WakeUpTarget::Kind::kPass:
      status = StartContact(id, service);
      break;
  }
  service->missed = false;
  if (!status.ok()) Missed(service, status);
}

absl::Status WakeUps::StartContact(ServiceId id, Service* service) {
  if (service->contacts.size() >= kMaxPerService || under_way_ >= kMaxInAll) {
    return absl::ResourceExhaustedError(
        absl::StrCat(service->contacts.size(), " earlier ones of the service and ", under_way_,
                     " of all services are still under way"));
  }
  auto contact = std::make_unique<Contact>(this, id, service->target.kind);
  if (absl::Status status = contact->Begin(service->target); !status.ok()) return status;
  service->contacts.push_back(std::move(contact));
  return absl::OkStatus();
}

absl::Status WakeUps::WakeFifo(const WakeUpTarget& target) {
  absl::StatusOr<UniqueFd> fifo = open_fifo_(target.path);
  if (!fifo.ok()) return fifo.status();
  return Expect(os::Write(fifo->get(), kWakeUpBytes, 1), 1,
                absl::StrCat("write to fifo ", target.path));
}

void WakeUps::Missed(Service* service, const absl::Status& why) {
  service->missed = true;
  const std::string condition = absl::StrCat("wake-up of ", Names(service->target));
  log_->Limited(LogSeverity::kWarning, condition, kWarningInterval,
                absl::StrCat(condition, ": ", why.message()));
  if (!retry_timer_.pending()) retry_timer_.Start(kRetryAfter);
}

void WakeUps::Closed(Contact* contact) {
  const auto service = services_.find(contact->service());
  service->second.contacts.remove_if(
      [contact](const std::unique_ptr<Contact>& other) { return other.get() == contact; });
}

void WakeUps::Failed(Contact* contact, const absl::Status& why) {
  Service* const service = &services_.find(contact->service())->second;
  Closed(contact);
  Missed(service, why);
}

void WakeUps::KeptTooLong(Contact* contact) {
  const std::string condition =
      absl::StrCat("wake-up of ", Names(services_.find(contact->service())->second.target),
                   ": the connection was not closed");
  log_->Limited(LogSeverity::kWarning, condition, kWarningInterval,
                absl::StrCat(condition, " within ", absl::FormatDuration(kKeptFor)));
  Closed(contact);
}

}  // namespace posthouse

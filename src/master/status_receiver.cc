#include "posthouse/master/status_receiver.h"

#include <errno.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "posthouse/io/poll_wait.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// A reading with fewer messages than this is no reason to look again unasked.
constexpr int kBusyMessages = 4;

// What ReadNow() reads at most. The kernel charges several hundred bytes for the smallest write, so
// that a full channel holds fewer writes than this, and all that came before the call is read.
constexpr int kMaxMessagesAtOnce = 8192;

// As much room as the system allows. On Linux what counts is the sender's buffer; root may go
// beyond net.core.wmem_max.
void MakeRoom(int fd, int option, int forced) {
  const int size = kStatusBufferSize;
  if (forced != 0 && os::Setsockopt(fd, SOL_SOCKET, forced, &size, sizeof(size)) == 0) return;
  // A smaller buffer only makes workers wait more often.
  static_cast<void>(os::Setsockopt(fd, SOL_SOCKET, option, &size, sizeof(size)));
}

#if defined(__linux__)
constexpr int kForceSendBuffer = SO_SNDBUFFORCE;
constexpr int kForceReceiveBuffer = SO_RCVBUFFORCE;

absl::Status AskForSenders(int fd) {
  const int on = 1;
  if (os::Setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) {
    return absl::ErrnoToStatus(errno, "SO_PASSCRED on a status channel");
  }
  return absl::OkStatus();
}

// Exactly one block of credentials fits: descriptors that somebody attaches do not, and the kernel
// closes them.
constexpr size_t kControlSize = CMSG_SPACE(sizeof(ucred));

pid_t SenderOf(msghdr* message) {
  for (cmsghdr* block = CMSG_FIRSTHDR(message); block != nullptr;
       block = CMSG_NXTHDR(message, block)) {
    if (block->cmsg_level != SOL_SOCKET || block->cmsg_type != SCM_CREDENTIALS) continue;
    ucred credentials;
    std::memcpy(&credentials, CMSG_DATA(block), sizeof(credentials));
    return std::max<pid_t>(0, credentials.pid);
  }
  return 0;
}
#else
// The BSDs tell the sender too, each in its own way (LOCAL_CREDS); none was at hand to try it.
constexpr int kForceSendBuffer = 0;
constexpr int kForceReceiveBuffer = 0;
absl::Status AskForSenders(int /*fd*/) { return absl::OkStatus(); }
constexpr size_t kControlSize = 1;  // no room for descriptors
pid_t SenderOf(msghdr* /*message*/) { return 0; }
#endif

}  // namespace

absl::StatusOr<StatusPair> StatusPair::Create() {
  int fds[2];
  if (os::Socketpair(AF_UNIX, SOCK_STREAM | os::kSockCloexec, 0, fds) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair of a status channel");
  }
  StatusPair pair{UniqueFd(fds[0]), UniqueFd(fds[1])};
  // Before there is anybody to write: a message from earlier would come without its sender.
  if (absl::Status status = AskForSenders(pair.master.get()); !status.ok()) return status;
  MakeRoom(pair.worker.get(), SO_SNDBUF, kForceSendBuffer);
  MakeRoom(pair.master.get(), SO_RCVBUF, kForceReceiveBuffer);
  return pair;
}

StatusReceiver::StatusReceiver(EventLoop* loop, Handlers handlers)
    : loop_(loop), handlers_(std::move(handlers)), timer_(loop, &StatusReceiver::OnTimer, this) {}

StatusReceiver::~StatusReceiver() { Close(); }

absl::Status StatusReceiver::Open() {
  absl::StatusOr<StatusPair> pair = StatusPair::Create();
  if (!pair.ok()) return pair.status();
  FdWatchOptions options;
  options.on_readable = &StatusReceiver::OnReadable;
  options.context = this;
  options.background = true;
  absl::StatusOr<FdWatch> watch = loop_->Watch(pair->master.get(), options);
  if (!watch.ok()) return watch.status();
  Close();
  pair_ = *std::move(pair);
  watch_ = *std::move(watch);
  return absl::OkStatus();
}

void StatusReceiver::Close() {
  watch_.Reset();
  timer_.Cancel();
  pair_ = StatusPair();
  framer_.ForgetAll();
  interval_ = kStatusReadInterval;
  flood_since_ns_ = 0;
}

void StatusReceiver::OnReadable(int /*event*/, void* context) {
  static_cast<StatusReceiver*>(context)->ReadTurn(/*after_silence=*/true);
}

void StatusReceiver::OnTimer(int /*event*/, void* context) {
  static_cast<StatusReceiver*>(context)->ReadTurn(/*after_silence=*/false);
}

void StatusReceiver::ReadTurn(bool after_silence) {
  const Reading reading = Read(kMaxStatusMessagesPerTurn);
  // The handler may open a new pair, so that nothing about the old one may come after it.
  if (!reading.broken) Schedule(reading, after_silence);
  const pid_t flooder = NoteFlood(reading);
  Deliver(reading.broken);
  if (flooder > 0 && handlers_.on_flood != nullptr) handlers_.on_flood(flooder);
}

void StatusReceiver::ReadNow() {
  if (!watch_.active()) return;
  const Reading reading = Read(kMaxMessagesAtOnce);
  Deliver(reading.broken);
}

// A piece of bytes is the writing of one process; many short ones count as much as long ones.
StatusReceiver::Reading StatusReceiver::Read(int max_messages) {
  Reading reading;
  char buffer[kMaxStatusMessagesPerTurn * kStatusMessageSize];
  while (reading.messages < max_messages) {
    iovec data = {buffer,
                  std::min(sizeof(buffer), static_cast<size_t>(max_messages - reading.messages) *
                                               kStatusMessageSize)};
    alignas(cmsghdr) char control[kControlSize];
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t count =
        os::Recvmsg(pair_.master.get(), &message, MSG_DONTWAIT | os::kMsgCmsgCloexec);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return reading;
    if (count <= 0) {
      Break();
      reading.broken = true;
      return reading;
    }
    const pid_t sender = SenderOf(&message);
    framer_.Feed(sender, absl::string_view(buffer, static_cast<size_t>(count)), &batch_);
    const int messages =
        std::max(1, static_cast<int>(static_cast<size_t>(count) / kStatusMessageSize));
    reading.messages += messages;
    reading.Vote(sender, messages);
  }
  reading.more = true;
  return reading;
}

// Boyer and Moore's: whoever has written more than half of all is left.
void StatusReceiver::Reading::Vote(pid_t sender, int count) {
  if (sender == loudest) {
    lead += count;
  } else if (lead >= count) {
    lead -= count;
  } else {
    loudest = sender;
    lead = count - lead;
  }
}

void StatusReceiver::Schedule(const Reading& reading, bool after_silence) {
  interval_ = reading.more ? std::min(interval_ * 2, kMaxStatusReadInterval) : kStatusReadInterval;
  if (!after_silence && !reading.more && reading.messages < kBusyMessages) {
    watch_.EnableRead();
    return;
  }
  watch_.DisableRead();
  // On a grid, so that all channels that are busy are read in one turn.
  const int64_t step = absl::ToInt64Nanoseconds(interval_);
  timer_.StartAt((loop_->now_ns() / step + 1) * step);
}

pid_t StatusReceiver::NoteFlood(const Reading& reading) {
  if (!reading.more) {
    flood_since_ns_ = 0;
    return 0;
  }
  const int64_t now_ns = loop_->now_ns();
  if (flood_since_ns_ == 0) flood_since_ns_ = now_ns;
  if (now_ns - flood_since_ns_ < absl::ToInt64Nanoseconds(kFloodAfter)) return 0;
  flood_since_ns_ = now_ns;
  return reading.loudest;
}

void StatusReceiver::Deliver(bool broken) {
  if (!batch_.empty()) {
    // The handler may cause another reading.
    StatusBatch batch;
    std::swap(batch, batch_);
    handlers_.on_batch(batch);
    batch.Clear();
    if (batch_.empty()) std::swap(batch, batch_);  // keeps the memory
  }
  if (broken && handlers_.on_broken != nullptr) handlers_.on_broken();
}

void StatusReceiver::Break() {
  watch_.Reset();
  timer_.Cancel();
}

bool StatusReceiver::WorkersSeeEnd() const {
  const absl::StatusOr<short> events = PollNow(pair_.worker.get(), POLLIN);
  return events.ok() && *events != 0;
}

}  // namespace posthouse

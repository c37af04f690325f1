#include "posthouse/master/status_receiver.h"

#include <errno.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "posthouse/io/poll_wait.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// A turn that costs less than this is no reason to look again unasked.
constexpr int kBusyCharge = 5;

// A turn that costs less than this says nothing about the cost of a flood.
constexpr int kTellingCharge = 64;

// Messages that one system call takes at most.
constexpr int kPieceMessages = 512;

// How many intervals a late reading may make up for: more than a full channel holds.
constexpr int64_t kMostIntervals = 8;

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
  charge_ = 0;
  interval_ = kStatusReadInterval;
}

void StatusReceiver::OnReadable(int /*event*/, void* context) {
  static_cast<StatusReceiver*>(context)->ReadTurn(/*after_silence=*/true);
}

void StatusReceiver::OnTimer(int /*event*/, void* context) {
  static_cast<StatusReceiver*>(context)->ReadTurn(/*after_silence=*/false);
}

void StatusReceiver::ReadTurn(bool after_silence) {
  const int allowance = Allowance();
  const int most = allowance - charge_;
  const bool broken = after_silence ? !ReadEstimated(most) : !ReadMeasured(most);
  // The handler may open a new pair, so that nothing about the old one may come after it.
  if (!broken) Schedule(after_silence, charge_ >= allowance);
  charge_ = 0;
  last_turn_ns_ = loop_->now_ns();
  Deliver(broken);
}

void StatusReceiver::ReadNow() {
  if (!watch_.active()) return;
  const bool broken =
      timer_.pending() ? !ReadMeasured(kMaxMessagesAtOnce) : !ReadEstimated(kMaxMessagesAtOnce);
  Deliver(broken);
}

void StatusReceiver::HoldBack() { interval_ = kHeldBackReadInterval; }

int StatusReceiver::Allowance() const {
  const int64_t intervals = (loop_->now_ns() - last_turn_ns_) / absl::ToInt64Nanoseconds(interval_);
  const int64_t quarter_ns = absl::ToInt64Nanoseconds(kStatusReadInterval) / 4;
  const int64_t charge =
      std::clamp<int64_t>(quarter_ns / charge_cost_ns_, kMinStatusCharge, kMaxStatusCharge);
  return static_cast<int>(charge * std::clamp<int64_t>(intervals, 1, kMostIntervals));
}

// Only a channel that is busy is worth the two system calls.
bool StatusReceiver::ReadMeasured(int most) {
  const int before = charge_;
  const int64_t begin_ns = os::ThreadCpuNanos();
  const bool whole = Read(most);
  const int64_t cost_ns = os::ThreadCpuNanos() - begin_ns;
  batch_.cost_ns += cost_ns;
  if (const int charge = charge_ - before; charge >= kTellingCharge) {
    charge_cost_ns_ = std::max<int64_t>(1, (15 * charge_cost_ns_ + cost_ns / charge) / 16);
  }
  return whole;
}

// A quiet channel mostly has one message. Should it be a flood that lacked the processor, its cost
// is known well enough.
bool StatusReceiver::ReadEstimated(int most) {
  const int before = charge_;
  const bool whole = Read(most);
  if (const int charge = charge_ - before; charge >= kTellingCharge) {
    batch_.cost_ns += charge * charge_cost_ns_;
  }
  return whole;
}

// Until nothing is there or the charge has grown by `most`. A piece of bytes is the writing of one
// process. False: the channel is broken.
bool StatusReceiver::Read(int most) {
  char buffer[kPieceMessages * kStatusMessageSize];
  for (const int end = charge_ + most; charge_ < end;) {
    const int messages = std::min(kPieceMessages, end - charge_);
    iovec data = {buffer, static_cast<size_t>(messages) * kStatusMessageSize};
    alignas(cmsghdr) char control[kControlSize];
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t count =
        os::Recvmsg(pair_.master.get(), &message, MSG_DONTWAIT | os::kMsgCmsgCloexec);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (count <= 0) {
      Break();
      return false;
    }
    const pid_t sender = SenderOf(&message);
    framer_.Feed(sender, absl::string_view(buffer, static_cast<size_t>(count)), &batch_);
    Charge(sender, 1 + static_cast<int>(static_cast<size_t>(count) / kStatusMessageSize));
  }
  return true;
}

void StatusReceiver::Charge(pid_t sender, int charge) {
  charge_ += charge;
  if (batch_.writers.empty() || batch_.writers.back().pid != sender) {
    batch_.writers.push_back({sender, 0});
  }
  batch_.writers.back().charge += charge;
}

void StatusReceiver::Schedule(bool after_silence, bool over) {
  if (!over) interval_ = kStatusReadInterval;
  if (!after_silence && !over && charge_ < kBusyCharge) {
    watch_.EnableRead();
    return;
  }
  watch_.DisableRead();
  // On a grid, so that all channels that are busy are read in one turn.
  const int64_t step = absl::ToInt64Nanoseconds(interval_);
  timer_.StartAt((loop_->now_ns() / step + 1) * step);
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

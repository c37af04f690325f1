#include "tests/event/differential_world.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr size_t kBlock = 4096;
constexpr char kBytes[kBlock] = {};

const char* ChannelName(Channel channel) {
  constexpr const char* kNames[] = {"none", "pipe reader", "pipe writer", "unix",
                                    "tcp",  "listener",    "file"};
  return kNames[static_cast<int>(channel)];
}

struct TcpState {
  int state = 0;
  int64_t received = 0;
};

TcpState StateOfTcp(int fd) {
  tcp_info info = {};
  socklen_t length = sizeof info;
  POSTHOUSE_CHECK(::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0, "TCP_INFO");
  return {info.tcpi_state, static_cast<int64_t>(info.tcpi_bytes_received)};
}

// Of the kernel's enumeration.
constexpr int kTcpEstablished = 1, kTcpFinWait1 = 4, kTcpFinWait2 = 5, kTcpClose = 7;

bool HasHeardTheEnd(int state) {
  return state != kTcpEstablished && state != kTcpFinWait1 && state != kTcpFinWait2;
}

}  // namespace

World::World(Backend backend) {
  absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create({.backend = backend});
  POSTHOUSE_CHECK(loop.ok(), "a loop of the differential test");
  loop_ = *std::move(loop);
  for (int i = 0; i < kTimers; ++i) MakeTimerAnew(i);
}

World::~World() {
  for (Slot& slot : slots_) slot.watch.Reset();
  for (TimerSlot& timer : timers_) timer.timer.reset();
}

void World::Break(const std::string& sentence) {
  if (broken_.empty()) broken_ = sentence;
}

// --- Descriptors ---

void World::MakeEnds(Slot* slot, Channel channel) {
  int fds[2] = {-1, -1};
  switch (channel) {
    case Channel::kPipeReader:
    case Channel::kPipeWriter:
      POSTHOUSE_CHECK(os::Pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0, "pipe2");
      if (channel == Channel::kPipeWriter) std::swap(fds[0], fds[1]);
      break;
    case Channel::kUnix:
      POSTHOUSE_CHECK(
          os::Socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0,
          "socketpair");
      break;
    case Channel::kFile:
      fds[0] = os::Open("/dev/null", O_RDWR | O_CLOEXEC, 0);
      break;
    case Channel::kTcp:
      MakeTcp(slot);
      return;
    case Channel::kListener:
      MakeListener(slot);
      return;
    case Channel::kNone:
      return;
  }
  slot->fd.Reset(fds[0]);
  slot->peer.Reset(fds[1]);
}

void World::MakeTcp(Slot* slot) {
  UniqueFd listener(os::Socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  POSTHOUSE_CHECK(os::Bind(listener.get(), generic, length) == 0, "bind");
  POSTHOUSE_CHECK(os::Listen(listener.get(), 1) == 0, "listen");
  POSTHOUSE_CHECK(os::Getsockname(listener.get(), generic, &length) == 0, "getsockname");
  slot->peer.Reset(os::Socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  POSTHOUSE_CHECK(os::Connect(slot->peer.get(), generic, length) == 0, "connect");
  slot->fd.Reset(os::Accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  POSTHOUSE_CHECK(slot->fd.valid(), "accept");
  POSTHOUSE_CHECK(os::Fcntl(slot->peer.get(), F_SETFL, O_NONBLOCK) == 0, "fcntl");
  const int on = 1;
  for (const int fd : {slot->fd.get(), slot->peer.get()}) {
    os::Setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
}

void World::MakeListener(Slot* slot) {
  slot->fd.Reset(os::Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;  // and no path: the kernel takes a name
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  POSTHOUSE_CHECK(os::Bind(slot->fd.get(), generic, sizeof(sa_family_t)) == 0, "bind");
  POSTHOUSE_CHECK(os::Listen(slot->fd.get(), 8) == 0, "listen");
}

int64_t World::Connect(Slot* slot) {
  if (slot->clients.size() >= 4) return 0;
  sockaddr_un address = {};
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  os::Getsockname(slot->fd.get(), generic, &length);
  UniqueFd client(os::Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (os::Connect(client.get(), generic, length) != 0) return -1;
  slot->clients.push_back(std::move(client));
  return 1;
}

void World::Open(int number, Channel channel) {
  Close(number);
  Slot& slot = slots_[number];
  MakeEnds(&slot, channel);
  slot.channel = channel;
  slot.ForgetTraffic();
}

void World::Close(int number) {
  Unwatch(number);
  Slot& slot = slots_[number];
  slot.fd.Reset();
  slot.peer.Reset();
  slot.clients.clear();
  slot.channel = Channel::kNone;
}

void World::Duplicate(int number) {
  Slot& slot = slots_[number];
  if (slot.fd.valid()) slot.duplicate.Reset(os::Fcntl(slot.fd.get(), F_DUPFD_CLOEXEC, 300));
}

void World::PutOver(int number, Channel channel, int label) {
  Slot& slot = slots_[number];
  if (!slot.watch.active()) return;
  if (paused(number)) return;  // it may have left the kernel's set for various reasons
  Slot fresh;
  MakeEnds(&fresh, channel);
  POSTHOUSE_CHECK(os::Dup3(fresh.fd.get(), slot.fd.get(), O_CLOEXEC) >= 0, "dup3");
  slot.watch.VerifyBeforeWait();
  slot.peer = std::move(fresh.peer);
  slot.clients.clear();
  slot.channel = channel;
  slot.ForgetTraffic();
}

// Loopback is quick and not instant: waits until what was sent has come, so that both worlds see
// the same. The bound is for a machine that stands still.
void World::AwaitTcp(const Slot& slot) {
  if (slot.channel != Channel::kTcp) return;
  for (int tries = 0; !IsSettled(slot); ++tries) {
    POSTHOUSE_CHECK(tries < 20000, "loopback does not deliver");
    ::poll(nullptr, 0, tries < 100 ? 0 : 1);
  }
}

bool World::IsSettled(const Slot& slot) const {
  const TcpState ours = StateOfTcp(slot.fd.get());
  if (ours.state != kTcpClose) {
    if (slot.sent_into_void || ours.received < slot.sent_by_peer) return false;
    if (slot.peer_ended && !HasHeardTheEnd(ours.state)) return false;
  }
  if (!slot.peer.valid()) return true;
  const TcpState theirs = StateOfTcp(slot.peer.get());
  if (theirs.state == kTcpClose) return true;
  return theirs.received >= slot.sent_by_us && (!slot.we_ended || HasHeardTheEnd(theirs.state));
}

int64_t World::Read(int number, End end, int most) {
  Slot& slot = slots_[number];
  const int fd = end == End::kOurs ? slot.fd.get() : slot.peer.get();
  if (fd < 0 || slot.channel == Channel::kFile) return 0;
  if (slot.channel == Channel::kListener) {
    const UniqueFd accepted(os::Accept4(fd, nullptr, nullptr, SOCK_CLOEXEC));
    return accepted.valid() ? 1 : -errno;
  }
  char bytes[kBlock];
  const ssize_t got = ::read(fd, bytes, std::min<size_t>(most, sizeof bytes));
  return got >= 0 ? got : -errno;
}

int64_t World::Write(int number, End end, int size) {
  Slot& slot = slots_[number];
  const int fd = end == End::kOurs ? slot.fd.get() : slot.peer.get();
  if (slot.channel == Channel::kListener) return end == End::kPeers ? Connect(&slot) : 0;
  if (fd < 0 || slot.channel == Channel::kFile) return 0;
  const ssize_t sent = ::write(fd, kBytes, std::min<size_t>(size, kBlock));
  if (sent < 0) return -errno;
  (end == End::kOurs ? slot.sent_by_us : slot.sent_by_peer) += sent;
  if (end == End::kOurs && slot.peer_closed) slot.sent_into_void = true;
  AwaitTcp(slot);
  return sent;
}

// Not over TCP, whose buffers grow as they like.
int64_t World::Fill(int number, End end) {
  const Slot& slot = slots_[number];
  if (slot.channel != Channel::kUnix && slot.channel != Channel::kPipeReader &&
      slot.channel != Channel::kPipeWriter) {
    return 0;
  }
  int64_t all = 0;
  for (int64_t sent = 0; (sent = Write(number, end, kBlock)) > 0;) all += sent;
  return all;
}

int64_t World::Drain(int number, End end) {
  int64_t all = 0;
  for (int64_t got = 0; (got = Read(number, end, kBlock)) > 0;) all += got;
  return all;
}

int64_t World::Shutdown(int number, End end, int how) {
  Slot& slot = slots_[number];
  const int fd = end == End::kOurs ? slot.fd.get() : slot.peer.get();
  const bool tcp = slot.channel == Channel::kTcp;
  if (fd < 0 || (slot.channel != Channel::kUnix && !tcp)) return 0;
  if (tcp) how = SHUT_WR;  // whoever sends into the other shutdown is reset, some time
  if (::shutdown(fd, how) != 0) return -errno;
  if (tcp) (end == End::kOurs ? slot.we_ended : slot.peer_ended) = true;
  AwaitTcp(slot);
  return 1;
}

int64_t World::SendUrgent(int number) {
  Slot& slot = slots_[number];
  if (slot.channel != Channel::kTcp || !slot.peer.valid()) return 0;
  if (::send(slot.peer.get(), kBytes, 1, MSG_OOB | MSG_NOSIGNAL) != 1) return -errno;
  ++slot.sent_by_peer;
  AwaitTcp(slot);
  return 1;
}

void World::ClosePeer(int number) {
  Slot& slot = slots_[number];
  slot.clients.clear();
  if (!slot.peer.valid()) return;
  slot.peer.Reset();
  // After a fork the other process has it, too.
  if (!forked_) slot.peer_ended = slot.peer_closed = true;
  AwaitTcp(slot);
}

void World::AfterFork() {
  forked_ = true;
  POSTHOUSE_CHECK(loop_->AfterFork().ok(), "AfterFork");
}

void World::AfterChild() {
  for (Slot& slot : slots_) {
    if (slot.channel != Channel::kTcp) continue;
    slot.sent_by_peer = StateOfTcp(slot.fd.get()).received;
    if (slot.peer.valid()) slot.sent_by_us = StateOfTcp(slot.peer.get()).received;
  }
}

// --- Watches ---

World::Context* World::NewContext(int slot, int label) {
  contexts_.push_back(std::make_unique<Context>(Context{this, slot, label}));
  return contexts_.back().get();
}

void World::EndContext(Slot* slot) {
  if (slot->context != nullptr) slot->context->ended = true;
  slot->context = nullptr;
}

void World::Watch(int number, const WatchChoice& choice, int label) {
  Slot& slot = slots_[number];
  if (!slot.fd.valid() || slot.watch.active()) return;
  slot.choice = choice;
  slot.context = NewContext(number, label);
  absl::StatusOr<FdWatch> watch =
      loop_->Watch(slot.fd.get(), {.on_readable = choice.read_handler ? &OnEvent : nullptr,
                                   .on_writable = choice.write_handler ? &OnEvent : nullptr,
                                   .on_error = choice.error_handler ? &OnEvent : nullptr,
                                   .context = slot.context,
                                   .read = choice.read,
                                   .write = choice.write,
                                   .exclusive = choice.exclusive,
                                   .urgent = choice.urgent,
                                   .sole_owner = choice.sole_owner});
  if (watch.ok()) {
    slot.watch = *std::move(watch);
  } else {
    Break(absl::StrCat("a watch was refused: ", watch.status().message()));
  }
}

void World::Unwatch(int number) {
  Slot& slot = slots_[number];
  slot.watch.Reset();
  EndContext(&slot);
}

void World::Enable(int number, bool read) {
  Slot& slot = slots_[number];
  if (!slot.watch.active()) return;
  if (read && slot.choice.read_handler) slot.watch.EnableRead();
  if (!read && slot.choice.write_handler) slot.watch.EnableWrite();
}

void World::Disable(int number, bool read) {
  Slot& slot = slots_[number];
  if (!slot.watch.active()) return;
  read ? slot.watch.DisableRead() : slot.watch.DisableWrite();
}

void World::SetHandlers(int number, const WatchChoice& choice, int label) {
  Slot& slot = slots_[number];
  if (!slot.watch.active()) return;
  // One that is paused may have left the set for want of somebody to tell.
  const bool error_handler = choice.error_handler && (slot.choice.error_handler || !paused(number));
  EndContext(&slot);
  slot.context = NewContext(number, label);
  slot.choice.read_handler = choice.read_handler;
  slot.choice.write_handler = choice.write_handler;
  slot.choice.error_handler = error_handler;
  slot.watch.SetHandlers(choice.read_handler ? &OnEvent : nullptr,
                         choice.write_handler ? &OnEvent : nullptr,
                         error_handler ? &OnEvent : nullptr, slot.context);
}

bool World::paused(int number) const {
  const FdWatch& watch = slots_[number].watch;
  return watch.active() && !watch.read_enabled() && !watch.write_enabled();
}

std::string World::Describe(int number) const {
  const Slot& slot = slots_[number];
  std::string text = ChannelName(slot.channel);
  if (slot.watch.active()) {
    const std::string name = absl::StrCat("fd ", slot.fd.get(), " ");
    for (const std::string& line : loop_->DescribeWatches()) {
      if (absl::StartsWith(line, name)) absl::StrAppend(&text, ", ", line.substr(name.size()));
    }
    absl::StrAppend(&text, slot.choice.error_handler ? ", error handler" : "");
  }
  return text;
}

// --- Timers ---

void World::StartTimer(int timer, int64_t deadline_ns, bool from_now) {
  if (from_now) {
    timers_[timer].timer->Start(absl::Nanoseconds(deadline_ns - os::SteadyNanos()));
  } else {
    timers_[timer].timer->StartAt(deadline_ns);
  }
}

int64_t World::CancelTimer(int timer) { return timers_[timer].timer->Cancel() ? 1 : 0; }

void World::MakeTimerAnew(int timer) {
  TimerSlot& slot = timers_[timer];
  slot.timer.reset();
  slot.context = std::make_unique<Context>(Context{this, timer, 0});
  slot.timer = std::make_unique<Timer>(loop_.get(), &OnTimer, slot.context.get());
}

int64_t World::TimeLeft(int timer) {
  return absl::ToInt64Nanoseconds(timers_[timer].timer->TimeLeft()) * 2 +
         (timers_[timer].timer->pending() ? 1 : 0);
}

// --- The turn ---

bool World::Turn(const Plan& plan) {
  plan_ = &plan;
  attacked_ = false;
  timer_calls_.clear();
  for (Slot& slot : slots_) {
    slot.calls.clear();
    slot.acted = false;
  }
  bool threw = false;
  try {
    const absl::Status status = loop_->RunOnce(absl::ZeroDuration());
    if (!status.ok()) Break(absl::StrCat("a turn failed: ", status.message()));
  } catch (const std::runtime_error&) {
    threw = true;
  }
  if (const absl::Status status = loop_->TakeWatchError(); !status.ok()) {
    Break(absl::StrCat("a watch was given up: ", status.message()));
  }
  PerformAttack();
  plan_ = nullptr;
  for (const Slot& slot : slots_) AwaitTcp(slot);
  return threw;
}

void World::OnEvent(int event, void* context) {
  auto* self = static_cast<Context*>(context);
  self->world->Handle(event, self);
}

void World::Handle(int event, Context* context) {
  const int number = context->slot;
  Slot& slot = slots_[number];
  if (context->ended) Break("a handler was called after its watch had ended or it was replaced");
  slot.calls.push_back({context->label, event});
  if (plan_->slots[number].victim) {
    const bool silenced = plan_->attack == Attack::kReset || plan_->attack == Attack::kReplace ||
                          (plan_->attack == Attack::kDisable && event != kEventException);
    if (attacked_ && silenced) Break("a handler was called after it had been silenced");
    return;
  }
  PerformAttack();
  if (slot.acted || plan_->slots[number].bystander) return;
  if (event == kEventException && plan_->errors_do_nothing) return;
  slot.acted = true;
  Act(number);
}

void World::Act(int number) {
  const Plan::OfSlot& plan = plan_->slots[number];
  const bool tcp = slots_[number].channel == Channel::kTcp;
  switch (plan.deed) {
    case Deed::kReadSome:
      Read(number, End::kOurs, plan.amount);
      break;
    case Deed::kReadAll:
      Drain(number, End::kOurs);
      break;
    case Deed::kWriteSome:
      if (!tcp) Write(number, End::kOurs, plan.amount);
      break;
    case Deed::kDisableRead:
    case Deed::kDisableWrite:
      Disable(number, plan.deed == Deed::kDisableRead);
      break;
    case Deed::kEnableRead:
    case Deed::kEnableWrite:
      Enable(number, plan.deed == Deed::kEnableRead);
      break;
    case Deed::kTurnAround: {
      const bool reading = slots_[number].watch.read_enabled();
      Disable(number, reading);
      Enable(number, !reading);
      break;
    }
    case Deed::kReset:
      slots_[number].choice.sole_owner ? Close(number) : Unwatch(number);
      break;
    case Deed::kWatchAnew:
      if (slots_[number].choice.sole_owner) break;
      Unwatch(number);
      Watch(number, plan.choice, plan_->label);
      break;
    case Deed::kSetHandlers:
      SetHandlers(number, plan.choice, plan_->label);
      break;
    case Deed::kClose:
      Close(number);
      break;
    case Deed::kReplace:
      Replace(number, plan.channel, plan.choice, plan_->label);
      break;
    case Deed::kStartTimer:
      if (number < kTimers) StartTimer(number, plan.deadline_ns, false);
      break;
    case Deed::kNothing:
    case Deed::kCount:
      break;
  }
}

// The number goes to another file, and that is watched.
void World::Replace(int number, Channel channel, const WatchChoice& choice, int label) {
  Slot& slot = slots_[number];
  const int fd = slot.fd.get();
  Unwatch(number);
  Slot fresh;
  MakeEnds(&fresh, channel);
  POSTHOUSE_CHECK(os::Dup3(fresh.fd.get(), fd, O_CLOEXEC) == fd, "dup3");
  slot.peer = std::move(fresh.peer);
  slot.clients.clear();
  slot.channel = channel;
  slot.ForgetTraffic();
  Watch(number, choice, label);
}

// Once a turn, whoever comes first.
void World::PerformAttack() {
  if (attacked_) return;
  attacked_ = true;
  for (int number = 0; number < kSlots; ++number) {
    const Plan::OfSlot& plan = plan_->slots[number];
    if (!plan.victim || !slots_[number].watch.active()) continue;
    switch (plan_->attack) {
      case Attack::kDisable:
        Disable(number, true);
        Disable(number, false);
        break;
      case Attack::kReset:
        slots_[number].choice.sole_owner ? Close(number) : Unwatch(number);
        break;
      case Attack::kSetHandlers:  // others of the same directions
        SetHandlers(number, slots_[number].choice, plan_->label);
        break;
      case Attack::kReplace:
        Replace(number, plan.channel, plan.choice, plan_->label);
        break;
      case Attack::kNone:
      case Attack::kCount:
        break;
    }
  }
}

void World::OnTimer(int event, void* context) {
  auto* self = static_cast<Context*>(context);
  self->world->HandleTimer(self->slot);
}

// Timers come in an order that is promised, so their handlers may do to others what they like.
void World::HandleTimer(int timer) {
  timer_calls_.push_back(timer);
  const Plan::OfTimer& plan = plan_->timers[timer];
  switch (plan.deed) {
    case TimerDeed::kRestart:
    case TimerDeed::kRestartNow:
      StartTimer(timer, os::SteadyNanos() + (plan.deed == TimerDeed::kRestart ? plan.delay_ns : 0),
                 true);
      break;
    case TimerDeed::kStartOther:
      StartTimer(plan.other, os::SteadyNanos() + plan.delay_ns, false);
      break;
    case TimerDeed::kCancelOther:
      CancelTimer(plan.other);
      break;
    case TimerDeed::kMakeOtherAnew:
      if (plan.other != timer) MakeTimerAnew(plan.other);
      break;
    case TimerDeed::kAttack:
      PerformAttack();
      break;
    case TimerDeed::kThrow:
      throw std::runtime_error("from a timer");
    case TimerDeed::kNothing:
    case TimerDeed::kCount:
      break;
  }
}

}  // namespace posthouse

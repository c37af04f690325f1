#include "posthouse/event/compat.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/base/check.h"
#include "posthouse/event/descriptor_limit.h"
#include "posthouse/event/event_loop_impl.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse::compat {
namespace {

constexpr int64_t kSecondNs = 1000000000;

// Whole seconds until `deadline_ns`, rounded up; 0 when it has come.
int SecondsLeft(int64_t deadline_ns, int64_t now_ns) {
  const int64_t left = std::max<int64_t>(deadline_ns - now_ns, 0);
  return static_cast<int>(left / kSecondNs + (left % kSecondNs != 0 ? 1 : 0));
}

}  // namespace

CompatEventLoop::PendingTimer::PendingTimer(CompatEventLoop* owner_in, const TimerKey& key_in)
    : owner(owner_in), key(key_in), timer(&owner_in->loop(), &PendingTimer::Run, this) {}

// The timer is forgotten before its callback runs (E42).
void CompatEventLoop::PendingTimer::Run(int event, void* context) {
  auto* self = static_cast<PendingTimer*>(context);
  const TimerKey key = self->key;
  self->owner->timers_.erase(key);  // destroys *self
  key.first(event, key.second);
}

CompatEventLoop::CompatEventLoop(const CompatOptions& options) : options_(options) {}

CompatEventLoop::~CompatEventLoop() {
  timers_.clear();
  watches_.clear();
}

// E5, E7: the bound of descriptor numbers is read once.
void CompatEventLoop::Initialize() {
  if (loop_ != nullptr) return;
  absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create(options_.loop);
  if (!loop.ok()) Fatal(loop.status().message());
  const absl::StatusOr<int> limit = DescriptorLimit();
  if (!limit.ok()) Fatal(limit.status().message());
  loop_ = *std::move(loop);
  descriptor_bound_ = *limit;
  if (loop_->backend() == Backend::kSelect) {
    descriptor_bound_ = std::min<int>(descriptor_bound_, FD_SETSIZE);
  }
  loop_->impl().SetAfterWait([](void* self) { static_cast<CompatEventLoop*>(self)->RefreshTime(); },
                             this);
  RefreshTime();
}

EventLoop& CompatEventLoop::loop() {
  Initialize();
  return *loop_;
}

time_t CompatEventLoop::Time() {
  Initialize();
  return now_;
}

void CompatEventLoop::RefreshTime() { now_ = static_cast<time_t>(os::WallSeconds()); }

void CompatEventLoop::CheckNumber(int fd) const {
  POSTHOUSE_CHECK(fd >= 0 && fd < descriptor_bound_,
                  "an event descriptor is negative or not below the limit of open files");
}

void CompatEventLoop::EnableRead(int fd, EVENT_NOTIFY_FN callback, void* context) {
  Enable(fd, callback, context, true);
}

void CompatEventLoop::EnableWrite(int fd, EVENT_NOTIFY_FN callback, void* context) {
  Enable(fd, callback, context, false);
}

void CompatEventLoop::Enable(int fd, EVENT_NOTIFY_FN callback, void* context, bool read) {
  Initialize();
  CheckNumber(fd);
  POSTHOUSE_CHECK(callback != nullptr, "an event needs a callback");
  if (static_cast<size_t>(fd) >= watches_.size()) {
    watches_.resize(std::max(watches_.size() * 2, static_cast<size_t>(fd) + 10));
  }
  FdWatch& watch = watches_[fd];
  const EventHandler on_readable = read ? callback : nullptr;
  const EventHandler on_writable = read ? nullptr : callback;
  if (watch.active()) {
    POSTHOUSE_CHECK(read ? watch.read_enabled() : watch.write_enabled(),
                    "an event descriptor is enabled for the other direction; disable it first");
    watch.SetHandlers(on_readable, on_writable, nullptr, context);
    watch.VerifyBeforeWait();
    return;
  }
  // Without interest the kernel is not told; with interest, it is before the wait.
  absl::StatusOr<FdWatch> made = loop_->Watch(
      fd,
      {.on_readable = on_readable, .on_writable = on_writable, .context = context, .read = false});
  if (!made.ok()) Fatal(made.status().message());
  watch = *std::move(made);
  if (read) {
    watch.EnableRead();
  } else {
    watch.EnableWrite();
  }
}

void CompatEventLoop::DisableReadWrite(int fd) {
  Initialize();
  CheckNumber(fd);
  if (static_cast<size_t>(fd) < watches_.size()) watches_[fd].Reset();
}

time_t CompatEventLoop::RequestTimer(EVENT_NOTIFY_FN callback, void* context, int delay) {
  Initialize();
  POSTHOUSE_CHECK(delay >= 0, "an event timer's delay is negative");
  POSTHOUSE_CHECK(callback != nullptr, "an event timer needs a callback");
  RefreshTime();
  const TimerKey key(callback, context);
  std::unique_ptr<PendingTimer>& pending = timers_[key];
  if (pending == nullptr) pending = std::make_unique<PendingTimer>(this, key);
  const bool resumed = cancelled_.seconds_left == delay && cancelled_.key == key &&
                       SecondsLeft(cancelled_.deadline_ns, os::SteadyNanos()) == delay;
  cancelled_.seconds_left = -1;
  if (resumed) {
    pending->timer.StartAt(cancelled_.deadline_ns);
  } else {
    pending->timer.Start(absl::Seconds(delay));
  }
  return now_ + delay;
}

int CompatEventLoop::CancelTimer(EVENT_NOTIFY_FN callback, void* context) {
  Initialize();
  const TimerKey key(callback, context);
  const auto found = timers_.find(key);
  if (found == timers_.end()) return -1;
  cancelled_.key = key;
  cancelled_.deadline_ns = found->second->timer.deadline_ns();
  cancelled_.seconds_left = SecondsLeft(cancelled_.deadline_ns, os::SteadyNanos());
  timers_.erase(found);
  return cancelled_.seconds_left;
}

void CompatEventLoop::Loop(int delay) {
  POSTHOUSE_CHECK(!in_pass_, "event_loop() was called from a callback");
  Initialize();
  in_pass_ = true;
  const auto end = absl::MakeCleanup([this] { in_pass_ = false; });
  if (!timers_.empty()) RefreshTime();
  const absl::Status status =
      loop_->RunOnce(delay < 0 ? absl::InfiniteDuration() : absl::Seconds(delay));
  if (!status.ok()) Fatal(status.message());
  if (absl::Status refused = loop_->TakeWatchError(); !refused.ok()) Fatal(refused.message());
}

bool CompatEventLoop::AnythingEnabled() const {
  return std::any_of(watches_.begin(), watches_.end(),
                     [](const FdWatch& watch) { return watch.active(); });
}

// A steady deadline: the original's jumps with the calendar clock (EO22).
void CompatEventLoop::Drain(int time_limit) {
  if (loop_ == nullptr) return;
  RefreshTime();
  const int64_t end = os::SteadyNanos() + time_limit * kSecondNs;
  while (os::SteadyNanos() < end && (!timers_.empty() || AnythingEnabled())) Loop(1);
}

void CompatEventLoop::Fork() {
  if (loop_ == nullptr) return;
  if (absl::Status status = loop_->AfterFork(); !status.ok()) Fatal(status.message());
}

void CompatEventLoop::Fatal(absl::string_view message) const {
  if (options_.fatal != nullptr) {
    options_.fatal(message);
  } else {
    const std::string line = absl::StrCat("fatal: ", message, "\n");
    // When this fails as well there is nobody left to tell.
    (void)os::Write(2, line.data(), line.size());
  }
  std::_Exit(1);
}

// --- The default instance ---

namespace {

// The one piece of state at file scope: the original's interface has no object to ask.
struct DefaultInstance {
  CompatOptions options;
  CompatEventLoop* instance = nullptr;
};

DefaultInstance& TheDefault() {
  static DefaultInstance instance;
  return instance;
}

}  // namespace

CompatEventLoop& DefaultEventLoop() {
  DefaultInstance& the = TheDefault();
  if (the.instance == nullptr) the.instance = new CompatEventLoop(the.options);
  return *the.instance;
}

void ConfigureDefaultEventLoop(const CompatOptions& options) {
  POSTHOUSE_CHECK(TheDefault().instance == nullptr, "the default event loop is in use already");
  TheDefault().options = options;
}

CompatEventLoop* ReplaceDefaultEventLoop(CompatEventLoop* instance) {
  return std::exchange(TheDefault().instance, instance);
}

time_t event_time() { return DefaultEventLoop().Time(); }

void event_enable_read(int fd, EVENT_NOTIFY_FN callback, void* context) {
  DefaultEventLoop().EnableRead(fd, callback, context);
}

void event_enable_write(int fd, EVENT_NOTIFY_FN callback, void* context) {
  DefaultEventLoop().EnableWrite(fd, callback, context);
}

void event_disable_readwrite(int fd) { DefaultEventLoop().DisableReadWrite(fd); }

time_t event_request_timer(EVENT_NOTIFY_FN callback, void* context, int delay) {
  return DefaultEventLoop().RequestTimer(callback, context, delay);
}

int event_cancel_timer(EVENT_NOTIFY_FN callback, void* context) {
  return DefaultEventLoop().CancelTimer(callback, context);
}

void event_loop(int delay) { DefaultEventLoop().Loop(delay); }

void event_drain(int time_limit) { DefaultEventLoop().Drain(time_limit); }

void event_fork() { DefaultEventLoop().Fork(); }

}  // namespace posthouse::compat

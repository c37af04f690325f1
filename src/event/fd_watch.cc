#include "posthouse/event/fd_watch.h"

#include "posthouse/base/check.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/event_loop_impl.h"
#include "posthouse/event/poller.h"
#include "posthouse/event/watch_table.h"

namespace posthouse {

// The budget of a descriptor, function and context included.
static_assert(WatchTable::kBytesPerWatch + sizeof(FdWatch) <= 48);

FdWatch& FdWatch::operator=(FdWatch&& other) noexcept {
  if (this != &other) {
    Reset();
    loop_ = other.loop_;
    fd_ = other.fd_;
    other.loop_ = nullptr;
  }
  return *this;
}

void FdWatch::Reset() {
  if (loop_ == nullptr) return;
  loop_->impl().End(fd_);
  loop_ = nullptr;
}

void FdWatch::EnableRead() {
  POSTHOUSE_CHECK(active(), "interest in an empty watch");
  loop_->impl().Enable(fd_, kPollRead);
}

void FdWatch::EnableWrite() {
  POSTHOUSE_CHECK(active(), "interest in an empty watch");
  loop_->impl().Enable(fd_, kPollWrite);
}

void FdWatch::DisableRead() {
  POSTHOUSE_CHECK(active(), "interest in an empty watch");
  loop_->impl().Disable(fd_, kPollRead);
}

void FdWatch::DisableWrite() {
  POSTHOUSE_CHECK(active(), "interest in an empty watch");
  loop_->impl().Disable(fd_, kPollWrite);
}

bool FdWatch::read_enabled() const { return active() && loop_->impl().enabled(fd_, kPollRead); }

bool FdWatch::write_enabled() const { return active() && loop_->impl().enabled(fd_, kPollWrite); }

void FdWatch::VerifyBeforeWait() {
  POSTHOUSE_CHECK(active(), "a check of an empty watch");
  loop_->impl().VerifyBeforeWait(fd_);
}

void FdWatch::SetHandlers(EventHandler on_readable, EventHandler on_writable, EventHandler on_error,
                          void* context) {
  POSTHOUSE_CHECK(active(), "handlers for an empty watch");
  loop_->impl().SetHandlers(fd_, on_readable, on_writable, on_error, context);
}

}  // namespace posthouse

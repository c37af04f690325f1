// The poller on Linux's epoll(7).
//
// An interest belongs to an open file and a number together: it outlives close(2) while a
// duplicate of the file exists, and can then be removed by no number any more (E63, F4). The
// generation travels in epoll_data, so such an event is recognised; the cure is Open() and adding
// the living ones again.

#include "posthouse/event/poller.h"

#if defined(__linux__)

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "posthouse/event/backend.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

static_assert(kPollRead == EPOLLIN && kPollUrgent == EPOLLPRI && kPollWrite == EPOLLOUT &&
              kPollError == EPOLLERR && kPollHangUp == EPOLLHUP);

constexpr uint32_t kConditions = kPollRead | kPollUrgent | kPollWrite;

// The number in the low half, the generation in the high one.
uint64_t Pack(int fd, uint32_t generation) {
  return static_cast<uint64_t>(generation) << 32 | static_cast<uint32_t>(fd);
}

// Where the kernel's event is the same three words as ours, as on x86, it is written in place.
constexpr bool kSameLayout = sizeof(epoll_event) == sizeof(ReadyEvent) &&
                             offsetof(epoll_event, data) == offsetof(ReadyEvent, fd) &&
                             offsetof(ReadyEvent, generation) == offsetof(ReadyEvent, fd) + 4 &&
                             std::endian::native == std::endian::little;

epoll_event Interest(int fd, uint32_t generation, uint32_t interest) {
  epoll_event event = {};
  event.events = interest & kConditions;
  if ((interest & kPollExclusive) != 0) event.events |= EPOLLEXCLUSIVE;
  event.data.u64 = Pack(fd, generation);
  return event;
}

absl::Status Failed(int error, absl::string_view operation, int fd) {
  return absl::ErrnoToStatus(error, absl::StrCat("epoll_ctl ", operation, " fd ", fd));
}

// Milliseconds, rounded up so that nobody is woken before the time (F21).
int Milliseconds(int64_t timeout_ns) {
  if (timeout_ns <= 0) return timeout_ns < 0 ? -1 : 0;
  return static_cast<int>((std::min(timeout_ns, kLongestWaitNs) + 999999) / 1000000);
}

class EpollPoller : public Poller {
 public:
  ~EpollPoller() override {
    if (epoll_ >= 0) os::Close(epoll_);
  }

  Backend backend() const override { return Backend::kEpoll; }

  absl::Status Open() override {
    const int epoll = os::EpollCreate1(EPOLL_CLOEXEC);
    if (epoll < 0) return absl::ErrnoToStatus(errno, "epoll_create1");
    if (epoll_ >= 0) os::Close(epoll_);
    epoll_ = epoll;
    return absl::OkStatus();
  }

  // Closing the child's copy leaves the parent's set as it is.
  absl::Status Renew() override { return Open(); }

  absl::Status Add(int fd, uint32_t generation, uint32_t interest) override {
    int error = Control(EPOLL_CTL_ADD, fd, generation, interest);
    if (error == EINVAL && (interest & kPollExclusive) != 0) {
      interest &= ~kPollExclusive;  // a kernel or a file without it: the hint is dropped
      error = Control(EPOLL_CTL_ADD, fd, generation, interest);
    }
    if (error == EEXIST) {
      ++counters_.repaired;
      error = Control(EPOLL_CTL_MOD, fd, generation, interest & ~kPollExclusive);
    }
    return error == 0 ? absl::OkStatus() : Failed(error, "add", fd);
  }

  absl::Status Change(int fd, uint32_t generation, uint32_t from, uint32_t to) override {
    // An exclusive interest can only be made, not modified.
    if (((from | to) & kPollExclusive) != 0) {
      Remove(fd, from).IgnoreError();  // not there is as good
      return Add(fd, generation, to);
    }
    int error = Control(EPOLL_CTL_MOD, fd, generation, to);
    if (error == ENOENT) {
      ++counters_.repaired;
      error = Control(EPOLL_CTL_ADD, fd, generation, to);
    }
    return error == 0 ? absl::OkStatus() : Failed(error, "modify", fd);
  }

  absl::Status Remove(int fd, uint32_t from) override {
    const int error = Control(EPOLL_CTL_DEL, fd, 0, from);
    if (error == 0) return absl::OkStatus();
    ++counters_.repaired;
    return absl::NotFoundError(Failed(error, "delete", fd).message());
  }

  bool Wait(int64_t timeout_ns, ReadyBatch* batch) override {
    const int capacity = static_cast<int>(batch->events.size());
    if (!kSameLayout && events_.size() < batch->events.size()) events_.resize(capacity);
    auto* const events =
        kSameLayout ? reinterpret_cast<epoll_event*>(batch->events.data()) : events_.data();
    const int found = os::EpollWait(epoll_, events, capacity, Milliseconds(timeout_ns));
    if (ABSL_PREDICT_FALSE(found < 0)) {
      batch->count = 0;
      batch->interrupted = errno == EINTR;
      if (!batch->interrupted) batch->error = absl::ErrnoToStatus(errno, "epoll_wait");
      return batch->interrupted;
    }
    if (!kSameLayout) {
      for (int i = 0; i < found; ++i) {
        const uint64_t data = events[i].data.u64;
        batch->events[i] = {events[i].events, static_cast<int32_t>(data),
                            static_cast<uint32_t>(data >> 32)};
      }
    }
    batch->interrupted = false;
    batch->count = found;
    return true;
  }

  bool changes_are_free() const override { return false; }

  bool close_removes() const override { return true; }

 private:
  // Returns 0 or the error.
  int Control(int operation, int fd, uint32_t generation, uint32_t interest) {
    epoll_event event = Interest(fd, generation, interest);
    ++counters_.changes;
    return os::EpollCtl(epoll_, operation, fd, &event) == 0 ? 0 : errno;
  }

  int epoll_ = -1;
  std::vector<epoll_event> events_;  // unused where the layout is the same
};

}  // namespace

absl::StatusOr<std::unique_ptr<Poller>> MakeEpollPoller() {
  auto poller = std::make_unique<EpollPoller>();
  if (absl::Status status = poller->Open(); !status.ok()) return status;
  return poller;
}

}  // namespace posthouse

#else  // no epoll

#include <memory>

#include "absl/status/status.h"

namespace posthouse {

absl::StatusOr<std::unique_ptr<Poller>> MakeEpollPoller() {
  return absl::UnimplementedError("epoll: this system does not have it");
}

}  // namespace posthouse

#endif

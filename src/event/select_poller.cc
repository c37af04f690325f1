// The poller on select(2): portable, for at most FD_SETSIZE descriptors, at a cost that grows with
// the highest number.
//
// select knows nothing of hang-ups and errors, only of directions whose next call would not block.
// A descriptor without a direction in its interest is therefore asked about by poll(2): it stays in
// the readable set as long as that is silent, so that the hang-up of an idle peer is noticed at
// once, and once unread data makes it ready all the time it is probed at each wake-up instead. With
// a direction it has the answer of that direction and no other: on Linux a Unix socket that is full
// and shut down on both sides is not writable here, as only a hang-up tells it.

#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/poller.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

class SelectPoller : public Poller {
 public:
  Backend backend() const override { return Backend::kSelect; }

  absl::Status Open() override {
    FD_ZERO(&readable_);
    FD_ZERO(&writable_);
    FD_ZERO(&urgent_);
    FD_ZERO(&watched_for_errors_);
    FD_ZERO(&probed_);
    end_ = 0;
    probed_count_ = 0;
    return absl::OkStatus();
  }

  // Memory is private to the child as it is.
  absl::Status Renew() override { return Open(); }

  absl::Status Add(int fd, uint32_t generation, uint32_t interest) override {
    if (fd < 0 || fd >= FD_SETSIZE) {
      return absl::InvalidArgumentError(
          absl::StrCat("select cannot watch fd ", fd, ": it ends at ", FD_SETSIZE));
    }
    // select would report a closed number for the whole set at once, without saying which (E68).
    if (os::Fcntl(fd, F_GETFD, 0) < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("select add fd ", fd));
    }
    generations_[fd] = generation;
    Store(fd, interest);
    end_ = std::max(end_, fd + 1);
    return absl::OkStatus();
  }

  absl::Status Change(int fd, uint32_t generation, uint32_t from, uint32_t to) override {
    generations_[fd] = generation;
    Store(fd, to);
    return absl::OkStatus();
  }

  absl::Status Remove(int fd, uint32_t from) override {
    Store(fd, 0);
    return absl::OkStatus();
  }

  bool Wait(int64_t timeout_ns, ReadyBatch* batch) override {
    fd_set readable = readable_;
    fd_set writable = writable_;
    fd_set urgent = urgent_;
    const int64_t us = (std::min(timeout_ns, kLongestWaitNs) + 999) / 1000;  // up (F21)
    timeval timeout = {};
    timeout.tv_sec = us / 1000000;
    timeout.tv_usec = us % 1000000;
    batch->count = 0;
    const int found =
        os::Select(end_, &readable, &writable, &urgent, timeout_ns < 0 ? nullptr : &timeout);
    batch->interrupted = found < 0 && errno == EINTR;
    if (found < 0) {
      if (!batch->interrupted) batch->error = absl::ErrnoToStatus(errno, "select");
      return batch->interrupted;
    }
    if (found > 0 || probed_count_ > 0) Collect(readable, writable, urgent, batch);
    return true;
  }

  bool changes_are_free() const override { return true; }

  bool close_removes() const override { return false; }

 private:
  static void Put(int fd, bool member, fd_set* set) {
    if (member) {
      FD_SET(fd, set);
    } else {
      FD_CLR(fd, set);
    }
  }

  void Store(int fd, uint32_t interest) {
    const bool errors_alone = interest != 0 && (interest & (kPollRead | kPollWrite)) == 0;
    Put(fd, (interest & kPollRead) != 0 || errors_alone, &readable_);
    Put(fd, (interest & kPollWrite) != 0, &writable_);
    Put(fd, (interest & kPollUrgent) != 0, &urgent_);
    Put(fd, errors_alone, &watched_for_errors_);
    if (FD_ISSET(fd, &probed_)) --probed_count_;
    FD_CLR(fd, &probed_);
  }

  // Starts after the last one that the previous batch had room for, so that a small batch serves
  // all in turn.
  void Collect(const fd_set& readable, const fd_set& writable, const fd_set& urgent,
               ReadyBatch* batch) {
    const int capacity = static_cast<int>(batch->events.size());
    if (next_ >= end_) next_ = 0;
    int fd = next_;
    for (int i = 0; i < end_ && batch->count < capacity; ++i, fd = fd + 1 == end_ ? 0 : fd + 1) {
      uint32_t ready = 0;
      if (FD_ISSET(fd, &readable)) ready |= kPollRead;
      if (FD_ISSET(fd, &writable)) ready |= kPollWrite;
      if (FD_ISSET(fd, &urgent)) ready |= kPollUrgent;
      if (FD_ISSET(fd, &watched_for_errors_)) {
        const bool suspected = (ready & kPollRead) != 0 || FD_ISSET(fd, &probed_);
        ready = (ready & kPollUrgent) | (suspected ? ProbeForErrors(fd) : 0);
      }
      if (ready != 0) batch->events[batch->count++] = {ready, fd, generations_[fd]};
    }
    next_ = fd;
  }

  uint32_t ProbeForErrors(int fd) {
    pollfd probe = {fd, 0, 0};
    if (os::Poll(&probe, 1, 0) < 0) return 0;  // the next wake-up asks again
    uint32_t ready = 0;
    if ((probe.revents & (POLLERR | POLLNVAL)) != 0) ready |= kPollError;
    if ((probe.revents & POLLHUP) != 0) ready |= kPollHangUp;
    if (ready == 0 && !FD_ISSET(fd, &probed_)) {
      FD_CLR(fd, &readable_);
      FD_SET(fd, &probed_);
      ++probed_count_;
    }
    return ready;
  }

  fd_set readable_;
  fd_set writable_;
  fd_set urgent_;
  fd_set watched_for_errors_;  // interest in no direction
  fd_set probed_;              // of those, the ones with unread data
  int probed_count_ = 0;
  int end_ = 0;   // one more than the highest number ever added
  int next_ = 0;  // where the next batch starts
  uint32_t generations_[FD_SETSIZE] = {};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Poller>> MakeSelectPoller() {
  auto poller = std::make_unique<SelectPoller>();
  if (absl::Status status = poller->Open(); !status.ok()) return status;
  return poller;
}

}  // namespace posthouse

// The poller on poll(2): portable, for any number, at a cost that grows with the count of
// descriptors. It is the oracle that the others are compared with (EO19).
//
// poll takes a dense array; an index by number finds a descriptor's place in it, and removing one
// moves the last into the gap. Files that epoll refuses are always ready here by themselves (EO27).
//
// A number that was closed behind our back shows as POLLNVAL. The wait fails then, as select's
// does, and its caller adds all again, which tells whose number it was (F9).

#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/poller.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

static_assert(kPollRead == POLLIN && kPollUrgent == POLLPRI && kPollWrite == POLLOUT &&
              kPollError == POLLERR && kPollHangUp == POLLHUP);

constexpr uint32_t kConditions = kPollRead | kPollUrgent | kPollWrite;

// Milliseconds, rounded up so that nobody is woken before the time (F21).
int Milliseconds(int64_t timeout_ns) {
  if (timeout_ns <= 0) return timeout_ns < 0 ? -1 : 0;
  return static_cast<int>((std::min(timeout_ns, kLongestWaitNs) + 999999) / 1000000);
}

class PollPoller : public Poller {
 public:
  Backend backend() const override { return Backend::kPoll; }

  absl::Status Open() override {
    entries_.clear();
    generations_.clear();
    places_.clear();
    next_ = 0;
    return absl::OkStatus();
  }

  // Memory is private to the child as it is.
  absl::Status Renew() override { return Open(); }

  absl::Status Add(int fd, uint32_t generation, uint32_t interest) override {
    // poll would tell only in the next wait (E19).
    if (os::Fcntl(fd, F_GETFD, 0) < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("poll add fd ", fd));
    }
    if (PlaceOf(fd) == kNowhere && !Append(fd)) {
      return absl::ResourceExhaustedError(absl::StrCat("memory for poll add fd ", fd));
    }
    Store(fd, generation, interest);
    return absl::OkStatus();
  }

  absl::Status Change(int fd, uint32_t generation, uint32_t from, uint32_t to) override {
    Store(fd, generation, to);
    return absl::OkStatus();
  }

  absl::Status Remove(int fd, uint32_t from) override {
    const int32_t place = PlaceOf(fd);
    if (place == kNowhere) return absl::NotFoundError(absl::StrCat("poll remove fd ", fd));
    entries_[place] = entries_.back();
    generations_[place] = generations_.back();
    places_[entries_[place].fd] = place;
    places_[fd] = kNowhere;
    entries_.pop_back();
    generations_.pop_back();
    return absl::OkStatus();
  }

  bool Wait(int64_t timeout_ns, ReadyBatch* batch) override {
    batch->count = 0;
    const int found =
        os::Poll(entries_.data(), static_cast<nfds_t>(entries_.size()), Milliseconds(timeout_ns));
    batch->interrupted = found < 0 && errno == EINTR;
    if (found < 0) {
      if (!batch->interrupted) batch->error = absl::ErrnoToStatus(errno, "poll");
      return batch->interrupted;
    }
    return Collect(found, batch);
  }

  bool changes_are_free() const override { return true; }

  bool close_removes() const override { return false; }

 private:
  static constexpr int32_t kNowhere = -1;

  int32_t PlaceOf(int fd) const {
    return static_cast<size_t>(fd) < places_.size() ? places_[fd] : kNowhere;
  }

  // False: there is no memory, and nothing has changed.
  bool Append(int fd) {
    try {
      if (static_cast<size_t>(fd) >= places_.size()) places_.resize(fd + 1, kNowhere);
      generations_.push_back(0);
      entries_.push_back({fd, 0, 0});
    } catch (const std::bad_alloc&) {
      generations_.resize(entries_.size());
      return false;
    }
    places_[fd] = static_cast<int32_t>(entries_.size()) - 1;
    return true;
  }

  void Store(int fd, uint32_t generation, uint32_t interest) {
    const int32_t place = places_[fd];
    entries_[place].events = static_cast<int16_t>(interest & kConditions);
    generations_[place] = generation;
  }

  // Starts after the last one that the previous batch had room for, so that a small batch serves
  // all in turn (F12).
  bool Collect(int found, ReadyBatch* batch) {
    const int capacity = static_cast<int>(batch->events.size());
    const size_t end = entries_.size();
    if (next_ >= end) next_ = 0;
    size_t place = next_;
    for (; found > 0 && batch->count < capacity; place = place + 1 == end ? 0 : place + 1) {
      const pollfd& entry = entries_[place];
      if (entry.revents == 0) continue;
      --found;
      if ((entry.revents & POLLNVAL) != 0) {
        batch->count = 0;
        batch->error = absl::ErrnoToStatus(EBADF, absl::StrCat("poll fd ", entry.fd));
        return false;
      }
      batch->events[batch->count++] = {static_cast<uint32_t>(entry.revents), entry.fd,
                                       generations_[place]};
    }
    next_ = place;
    return true;
  }

  std::vector<pollfd> entries_;
  std::vector<uint32_t> generations_;  // of the entries
  std::vector<int32_t> places_;        // of a number among the entries
  size_t next_ = 0;                    // where the next batch starts
};

}  // namespace

absl::StatusOr<std::unique_ptr<Poller>> MakePollPoller() {
  auto poller = std::make_unique<PollPoller>();
  if (absl::Status status = poller->Open(); !status.ok()) return status;
  return poller;
}

}  // namespace posthouse

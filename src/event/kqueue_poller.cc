// The poller on kqueue(2), for the BSDs and macOS.
//
// A queue holds filters: READ, WRITE, and EXCEPT for urgent data where there is one. An interest is
// a set of them, changed one kevent(2) at a time without an event list, so that errors come as
// errno. Each change gives all flags and the generation, and stopping is deleting: kernels disagree
// about what adding a disabled filter means, and whether enabling one takes a new udata. close(2)
// removes the filters of a number whatever duplicates there are, so there are no ghosts here.
//
// What the queue does not tell as epoll does:
//  - The two filters of a descriptor are two events in any order. They are merged.
//  - EV_EOF says that a direction will not block any more, and nothing of the other direction: the
//    peer may have shut down one half. It is readiness, and kPollError only with a socket's error.
//  - A pipe that has lost its reader cannot be added for writing. It is ready for writing from then
//    on, which the poller remembers and tells. A full pipe that loses its reader may tell nothing
//    on some systems; who writes to pipes needs a time limit.
//  - A hang-up that nobody waits for (kPollError alone) shows at the READ filter, with a low water
//    mark that data does not reach. If something shows, poll(2) is asked whether it is a hang-up.
//    If it is not, because it is a half or because pipes know no marks, the filter is taken out and
//    poll(2) is asked again at each wake-up, as on select.
//  - Regular files and directories are refused, as epoll does; so are devices that the kernel
//    refuses. They are always ready then (EO27). kPollExclusive is a hint that it has no use for.
//  - Urgent data is not seen where EVFILT_EXCEPT or NOTE_OOB is missing (FreeBSD, NetBSD).
//
// A forked child has no queue, and the number may be another file there: it is closed by the
// process that made it and by no other.

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/poller.h"
#include "posthouse/os/kqueue.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// The types of the fields differ from system to system.
using Filter = decltype(kevent::filter);
using Flags = decltype(kevent::flags);
using Udata = decltype(kevent::udata);

// A level that data does not reach. Where a kernel lowers it, poll(2) is asked instead.
constexpr int kUnreachable = INT_MAX;

// What is merged into one READ filter.
constexpr uint32_t kReadFilter = kPollRead | kPollError;

#if defined(EVFILT_EXCEPT) && defined(NOTE_OOB)
constexpr bool kTellsUrgent = true;
constexpr Filter kUrgentFilter = EVFILT_EXCEPT;
constexpr uint32_t kUrgentNote = NOTE_OOB;
#else
constexpr bool kTellsUrgent = false;
constexpr Filter kUrgentFilter = EVFILT_READ;
constexpr uint32_t kUrgentNote = 0;
#endif

// The filters of an interest: kPollRead or kPollError for READ, kPollWrite, kPollUrgent. Errors
// show at any filter of a direction; without one READ is there for them.
uint32_t Filters(uint32_t interest) {
  const uint32_t filters = interest & (kPollRead | kPollWrite | kPollUrgent);
  return (filters & (kPollRead | kPollWrite)) != 0 ? filters : filters | kPollError;
}

absl::Status Failed(int error, absl::string_view operation, int fd) {
  return absl::ErrnoToStatus(error, absl::StrCat("kevent ", operation, " fd ", fd));
}

// What kernels say of a file that they have no filter for; such a file is refused as epoll does.
int AsRefusal(int error) {
  return error == EINVAL || error == ENODEV || error == ENXIO || error == EOPNOTSUPP ? EPERM
                                                                                     : error;
}

timespec Timespec(int64_t timeout_ns) {
  const int64_t ns = std::min(std::max<int64_t>(timeout_ns, 0), kLongestWaitNs);
  timespec timeout = {};
  timeout.tv_sec = static_cast<time_t>(ns / 1000000000);
  timeout.tv_nsec = static_cast<long>(ns % 1000000000);
  return timeout;
}

class KqueuePoller : public Poller {
 public:
  ~KqueuePoller() override { CloseOwn(); }

  Backend backend() const override { return Backend::kKqueue; }

  absl::Status Open() override {
    const int queue = os::Kqueue();
    if (queue < 0) return absl::ErrnoToStatus(errno, "kqueue");
    if (os::Fcntl(queue, F_SETFD, FD_CLOEXEC) < 0) {
      const int error = errno;
      os::Close(queue);
      return absl::ErrnoToStatus(error, "fcntl F_SETFD of a kqueue");
    }
    CloseOwn();
    queue_ = queue;
    creator_ = os::Getpid();
    asides_.clear();
    for (Slot& slot : slots_) slot.filters = 0;
    return absl::OkStatus();
  }

  // There is no queue in a child; what has its number stays open.
  absl::Status Renew() override { return Open(); }

  absl::Status Add(int fd, uint32_t generation, uint32_t interest) override {
    if (fd == queue_) return Failed(EINVAL, "add", fd);  // the number was closed and is ours now
    struct stat status = {};
    if (os::Fstat(fd, &status) != 0) return Failed(errno, "add", fd);
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) || S_ISBLK(status.st_mode)) {
      return Failed(EPERM, "add", fd);
    }
    if (!HasSlot(fd)) return absl::ResourceExhaustedError(absl::StrCat("memory to add fd ", fd));
    // What there was of an earlier file of this number went with its close(2).
    ReadyEvent former;
    TakeBack(fd, &former);
    slots_[fd].filters = 0;
    const int error = AddFilters(fd, generation, Filters(interest));
    return error == 0 ? absl::OkStatus() : Failed(AsRefusal(error), "add", fd);
  }

  // Renews what stays, too: the number may mean another file by now.
  absl::Status Change(int fd, uint32_t generation, uint32_t from, uint32_t to) override {
    const uint32_t filters = Filters(to);
    ReadyEvent former;
    const bool was_aside = TakeBack(fd, &former);
    if (const int error = AddFilters(fd, generation, filters); error != 0) {
      if (was_aside) asides_.push_back(former);
      return Failed(error, "modify", fd);
    }
    DeleteFilters(fd, slots_[fd].filters & ~filters);
    return absl::OkStatus();
  }

  // Without a memory of its own of the number it goes by `from`.
  absl::Status Remove(int fd, uint32_t from) override {
    ReadyEvent former;
    const bool was_aside = TakeBack(fd, &former);
    const uint32_t held = static_cast<size_t>(fd) < slots_.size() ? slots_[fd].filters : 0;
    const bool deleted = DeleteFilters(fd, held != 0 || was_aside ? held : Filters(from));
    if (deleted || was_aside) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("kevent delete fd ", fd));
  }

  bool Wait(int64_t timeout_ns, ReadyBatch* batch) override {
    const int capacity = static_cast<int>(batch->events.size());
    const int asides = static_cast<int>(asides_.size());
    const int room = std::max(capacity - asides, (capacity + 1) / 2);
    if (events_.size() < static_cast<size_t>(room)) events_.resize(room);
    batch->count = 0;
    batch->full = false;
    if (AnAsideIsReady()) timeout_ns = 0;
    const timespec timeout = Timespec(timeout_ns);
    const int found =
        os::Kevent(queue_, nullptr, 0, events_.data(), room, timeout_ns < 0 ? nullptr : &timeout);
    batch->interrupted = found < 0 && errno == EINTR;
    if (found < 0) {
      if (!batch->interrupted) batch->error = absl::ErrnoToStatus(errno, "kevent");
      return batch->interrupted;
    }
    batch->full = found == room;
    for (int i = 0; i < found; ++i) Take(events_[i], batch);
    if (!asides_.empty()) ReportAsides(batch);
    return true;
  }

  bool changes_are_free() const override { return false; }

  bool close_removes() const override { return true; }

 private:
  struct Slot {
    int32_t place = 0;     // in the batch, if what is there is of this number
    uint32_t filters = 0;  // what the queue holds
  };

  void CloseOwn() {
    if (queue_ >= 0 && creator_ == os::Getpid()) os::Close(queue_);
  }

  // False: no memory.
  bool HasSlot(int fd) {
    if (static_cast<size_t>(fd) < slots_.size()) return true;
    try {
      slots_.resize(fd + 1);
    } catch (const std::bad_alloc&) {
      return false;
    }
    return true;
  }

  // Returns 0 or the error.
  int Control(int fd, Filter filter, unsigned flags, uint32_t note, uint32_t generation) {
    struct kevent change = {};
    change.ident = static_cast<uintptr_t>(fd);
    change.filter = filter;
    change.flags = static_cast<Flags>(flags);
    change.fflags = note;
    if (filter == EVFILT_READ && note == NOTE_LOWAT) change.data = kUnreachable;
    change.udata = (Udata) static_cast<uintptr_t>(generation);  // a pointer or an integer
    ++counters_.changes;
    const int result = os::Kevent(queue_, &change, 1, nullptr, 0, nullptr);
    return result >= 0 || errno == EINTR ? 0 : errno;  // a signal comes after the change
  }

  // Those that can fail come before the one that changes what is there. On an error the queue holds
  // what it held. Returns 0 or the error.
  int AddFilters(int fd, uint32_t generation, uint32_t filters) {
    const uint32_t before = slots_[fd].filters;
    int error = 0;
    if ((filters & kPollUrgent) != 0) error = AddUrgent(fd, generation);
    if (error == 0 && (filters & kPollWrite) != 0) error = AddWrite(fd, generation);
    if (error == 0 && (filters & kReadFilter) != 0) {
      error = AddRead(fd, generation, filters & kReadFilter);
    }
    if (error != 0) {
      ReadyEvent made;
      TakeBack(fd, &made);
      DeleteFilters(fd, slots_[fd].filters & ~before);
    }
    return error;
  }

  int AddRead(int fd, uint32_t generation, uint32_t filter) {
    const uint32_t note = filter == kPollError ? NOTE_LOWAT : 0;
    const int error = Control(fd, EVFILT_READ, EV_ADD | EV_ENABLE, note, generation);
    if (error == 0) slots_[fd].filters = (slots_[fd].filters & ~kReadFilter) | filter;
    return error;
  }

  int AddWrite(int fd, uint32_t generation) {
    const int error = Control(fd, EVFILT_WRITE, EV_ADD | EV_ENABLE, 0, generation);
    if (error == EPIPE || (error == EBADF && os::Fcntl(fd, F_GETFD, 0) >= 0)) {
      asides_.push_back({kPollWrite | kPollHangUp, fd, generation});  // a pipe without a reader
      return 0;
    }
    if (error == 0) slots_[fd].filters |= kPollWrite;
    return error;
  }

  int AddUrgent(int fd, uint32_t generation) {
    if (!kTellsUrgent) return 0;
    const int error = Control(fd, kUrgentFilter, EV_ADD | EV_ENABLE, kUrgentNote, generation);
    if (error == 0) slots_[fd].filters |= kPollUrgent;
    return error == EINVAL ? 0 : error;  // this file has none
  }

  // True: the queue knew one of them.
  bool DeleteFilters(int fd, uint32_t filters) {
    bool found = false;
    if ((filters & kReadFilter) != 0) found |= Delete(fd, EVFILT_READ);
    if ((filters & kPollWrite) != 0) found |= Delete(fd, EVFILT_WRITE);
    if ((filters & kPollUrgent) != 0) found |= Delete(fd, kUrgentFilter);
    if (static_cast<size_t>(fd) < slots_.size()) slots_[fd].filters &= ~filters;
    return found;
  }

  // ENOENT and EBADF: it has gone with the file, or the kernel has dropped it.
  bool Delete(int fd, Filter filter) {
    if (Control(fd, filter, EV_DELETE, 0, 0) == 0) return true;
    ++counters_.repaired;
    return false;
  }

  void Take(const struct kevent& event, ReadyBatch* batch) {
    if ((event.flags & EV_ERROR) != 0) return;  // answers a change, and there is none
    const int fd = static_cast<int>(event.ident);
    const auto generation = static_cast<uint32_t>((uintptr_t)event.udata);
    const bool in_slots = static_cast<size_t>(fd) < slots_.size();
    if (event.filter == EVFILT_READ && in_slots && (slots_[fd].filters & kPollError) != 0) {
      asides_.push_back({0, fd, generation});
      DeleteFilters(fd, kPollError);
      return;
    }
    uint32_t ready = kPollUrgent;
    if (event.filter == EVFILT_READ) ready = kPollRead;
    if (event.filter == EVFILT_WRITE) ready = kPollWrite;
    const bool failed = ready != kPollUrgent && (event.flags & EV_EOF) != 0 && event.fflags != 0;
    Report({failed ? ready | kPollError : ready, fd, generation}, batch);
  }

  // Merges the filters of one descriptor.
  void Report(const ReadyEvent& event, ReadyBatch* batch) {
    const bool in_slots = static_cast<size_t>(event.fd) < slots_.size();
    if (in_slots && slots_[event.fd].place < batch->count) {
      ReadyEvent& earlier = batch->events[slots_[event.fd].place];
      if (earlier.fd == event.fd && earlier.generation == event.generation) {
        earlier.ready |= event.ready;
        return;
      }
    }
    if (batch->count == static_cast<int>(batch->events.size())) return;  // comes again
    if (in_slots) slots_[event.fd].place = batch->count;
    batch->events[batch->count++] = event;
  }

  // --- Set aside: what the queue cannot hold or must not ---

  bool AnAsideIsReady() const {
    return std::any_of(asides_.begin(), asides_.end(),
                       [](const ReadyEvent& aside) { return aside.ready != 0; });
  }

  // What is found stays, like a level. Starts elsewhere each time, as a batch may be short of room.
  void ReportAsides(ReadyBatch* batch) {
    ++first_aside_;
    for (size_t i = 0; i < asides_.size(); ++i) {
      ReadyEvent& aside = asides_[(first_aside_ + i) % asides_.size()];
      if (aside.ready == 0) aside.ready = ProbeForErrors(aside.fd);
      if (aside.ready != 0) Report(aside, batch);
    }
  }

  static uint32_t ProbeForErrors(int fd) {
    pollfd probe = {fd, 0, 0};
    if (os::Poll(&probe, 1, 0) < 0) return 0;  // the next wake-up asks again
    uint32_t ready = 0;
    if ((probe.revents & (POLLERR | POLLNVAL)) != 0) ready |= kPollError;
    if ((probe.revents & POLLHUP) != 0) ready |= kPollHangUp;
    return ready;
  }

  // False: it was not set aside.
  bool TakeBack(int fd, ReadyEvent* aside) {
    const auto found = std::find_if(asides_.begin(), asides_.end(),
                                    [fd](const ReadyEvent& one) { return one.fd == fd; });
    if (found == asides_.end()) return false;
    *aside = *found;
    asides_.erase(found);
    return true;
  }

  int queue_ = -1;
  pid_t creator_ = 0;
  std::vector<Slot> slots_;            // by number
  std::vector<struct kevent> events_;  // of the latest wait
  // Ready with these conditions; with none, poll(2) is to be asked at each wake-up.
  std::vector<ReadyEvent> asides_;
  size_t first_aside_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Poller>> MakeKqueuePoller() {
  auto poller = std::make_unique<KqueuePoller>();
  if (absl::Status status = poller->Open(); !status.ok()) return status;
  return poller;
}

}  // namespace posthouse

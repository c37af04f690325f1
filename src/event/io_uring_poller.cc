// The poller on Linux's io_uring(7): changes of interest go in with the wait and cost no call.
//
// Each descriptor has a multishot poll request, which tells of news only. That is made
// level-triggered (E64) by a list of descriptors that have been reported: before the next wait
// poll(2) is asked, in one call, which of them are still ready, and those are reported again. What
// arrives later is news. So a turn of many events costs less than on epoll, which looks at each
// reported descriptor again inside the kernel, and a turn of one event costs a call more.
//
// News can be old: data that came in one go with what a handler has read. So news of a descriptor
// that has just been found not ready is checked as well. What remains is data that somebody else
// than the handler has taken since it came; such a false readiness costs its handler one call that
// would block (F14).
//
// A request holds its file, so a watch that ends takes its request back at once, by one call,
// unless the file has a sole owner, who closes it next: then the next wait does it, and lets go of
// the file. No event can come from a number that was closed (F4): requests are cancelled by a name
// of their own, a sequence number that also tells old completions from new ones.

#include "posthouse/event/poller.h"

#if defined(__linux__)

#include <errno.h>
#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/io_uring.h"
#include "posthouse/event/io_uring_port.h"
#include "posthouse/os/io_uring.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

static_assert(kPollRead == POLLIN && kPollUrgent == POLLPRI && kPollWrite == POLLOUT &&
              kPollError == POLLERR && kPollHangUp == POLLHUP);

constexpr uint32_t kConditions = kPollRead | kPollUrgent | kPollWrite;
constexpr uint32_t kAlwaysReported = kPollError | kPollHangUp;

// So many descriptors are asked of poll(2) at a time.
constexpr size_t kPollChunk = 256;
// A wait goes on so often when all that came was of no interest.
constexpr int kMaxRounds = 4;

uint64_t Pack(int fd, uint32_t sequence) {
  return static_cast<uint64_t>(sequence) << 32 | static_cast<uint32_t>(fd);
}

// The kernel reads the mask as two halves, in the order of a little-endian machine. Urgent data
// alone does not wake a request, so that asks for any data. The hint kPollExclusive is not handed
// on: here it would also wake a process that does not wait, in the place of one that does.
uint32_t PollMask(uint32_t interest) {
  uint32_t mask = interest & kConditions;
  if ((interest & kPollUrgent) != 0) mask |= kPollRead;
  return std::endian::native == std::endian::little ? mask : mask << 16 | mask >> 16;
}

class IoUringPoller : public Poller {
 public:
  Backend backend() const override { return Backend::kIoUring; }

  // A ring that works is kept, with the operations of its port.
  absl::Status Open() override {
    if (ring_.fd() < 0 || broken_) return Renew();
    for (size_t fd = 0; fd < registrations_.size(); ++fd) {
      Registration& registration = registrations_[fd];
      Cancel(static_cast<int>(fd), &registration);
      registration.interest = registration.ready = 0;
      registration.listed = registration.doubtful = false;
    }
    list_.clear();
    return absl::OkStatus();
  }

  // Giving up the child's copy leaves the parent's requests as they are.
  absl::Status Renew() override {
    if (absl::Status status = ring_.Open(); !status.ok()) return status;
    broken_ = false;
    registrations_.clear();
    list_.clear();
    port_.Lost();
    return absl::OkStatus();
  }

  absl::Status Add(int fd, uint32_t generation, uint32_t interest) override {
    if ((interest & kPollSoleOwner) == 0 || distrust_) {
      if (absl::Status status = CheckOpen("add", fd); !status.ok()) return status;
    }
    if (!MakeRoom(fd)) return NoMemory("add", fd);
    Registration& registration = registrations_[fd];
    Cancel(fd, &registration);
    const Registration before = registration;
    registration.generation = generation;
    registration.interest = static_cast<uint8_t>(interest);
    registration.ready = 0;
    if (Arm(fd, &registration)) return absl::OkStatus();
    registration = before;
    return NoMemory("add", fd);
  }

  absl::Status Change(int fd, uint32_t generation, uint32_t from, uint32_t to) override {
    // The question whether the number is what it was; the answer is a new request in any case.
    if (from == to) {
      if (absl::Status status = CheckOpen("change", fd); !status.ok()) return status;
    }
    Registration& registration = registrations_[fd];
    if (!Cancel(fd, &registration)) return NoMemory("change", fd);
    const Registration before = registration;
    registration.generation = generation;
    registration.interest = static_cast<uint8_t>(to);
    registration.ready = 0;
    if (Arm(fd, &registration)) return absl::OkStatus();
    registration = before;
    List(fd, &registration);  // until there is memory, poll(2) is asked
    return NoMemory("change", fd);
  }

  absl::Status Remove(int fd, uint32_t from) override {
    if (static_cast<size_t>(fd) >= registrations_.size() || registrations_[fd].interest == 0) {
      return absl::NotFoundError(absl::StrCat("io_uring remove fd ", fd));
    }
    Registration& registration = registrations_[fd];
    Cancel(fd, &registration);
    registration.interest = registration.ready = 0;
    if ((from & kPollSoleOwner) == 0) {
      ++counters_.changes;
      ring_.Submit();  // an error shows in the next wait
    }
    return absl::OkStatus();
  }

  bool Wait(int64_t timeout_ns, ReadyBatch* batch) override {
    batch->count = batch->completions = 0;
    batch->interrupted = false;
    ++wait_number_;
    timeout_ns = std::min(timeout_ns, kLongestWaitNs);
    for (int round = 1;; ++round) {
      if (!Recheck(batch)) return batch->interrupted;
      const int64_t limit_ns = ready_count_ > 0 || port_.completed() > 0 ? 0 : timeout_ns;
      const bool changes = ring_.unsubmitted() > 0;
      const IoUring::Outcome outcome = ring_.Enter(limit_ns);
      // After changes, and while something stays ready, everything is taken, so that nobody waits
      // behind those who are ready for ever (F12).
      if (changes && limit_ns != 0 && ring_.completions() >= IoUring::kShare) ring_.Enter(0);
      if (ABSL_PREDICT_FALSE(outcome == IoUring::Outcome::kFailed)) {
        batch->error = absl::ErrnoToStatus(errno, "io_uring_enter");
        broken_ = true;
        return false;
      }
      if (!TakeCompletions(batch)) return false;
      if (doubts_ > 0 && !Check(list_.size(), Ask::kDoubtful, batch)) return batch->interrupted;
      if (ready_count_ > 0 || port_.completed() > 0) break;
      batch->interrupted = outcome == IoUring::Outcome::kInterrupted;
      if (batch->interrupted || outcome == IoUring::Outcome::kTimedOut || timeout_ns == 0 ||
          round == kMaxRounds) {
        break;
      }
    }
    Collect(batch);
    batch->completions = port_.completed();
    distrust_ = false;
    return true;
  }

  // The kernel has much to do for a new interest, whenever it does it.
  bool changes_are_free() const override { return false; }

  bool close_removes() const override { return false; }

  IoUringPort* io_uring_port() override { return &port_; }

 private:
  struct Registration {
    uint32_t generation = 0;
    uint32_t sequence = 0;   // of the request, past ones included
    uint8_t interest = 0;    // zero: none
    uint8_t ready = 0;       // what was found and not reported yet
    bool requested = false;  // there is a poll request
    bool listed = false;
    bool doubtful = false;           // `ready` may be old news
    uint8_t found_not_ready_in = 0;  // low bits of the latest such wait
  };
  static_assert(sizeof(Registration) <= 16);

  enum class Ask { kReported, kDoubtful };

  absl::Status CheckOpen(absl::string_view operation, int fd) {
    // A ring that was just made may have got the number that was found bad.
    if (fd == ring_.fd()) {
      errno = EBADF;
    } else if (os::Fcntl(fd, F_GETFD, 0) >= 0) {
      return absl::OkStatus();
    }
    return absl::ErrnoToStatus(errno, absl::StrCat("io_uring ", operation, " fd ", fd));
  }

  static absl::Status NoMemory(absl::string_view operation, int fd) {
    return absl::ResourceExhaustedError(
        absl::StrCat("memory for io_uring ", operation, " fd ", fd));
  }

  // For the registration and its places in the lists; false: there is no memory.
  bool MakeRoom(int fd) {
    try {
      if (static_cast<size_t>(fd) >= registrations_.size()) registrations_.resize(fd + 1);
      list_.reserve(registrations_.capacity());
      reported_.reserve(registrations_.capacity());
    } catch (const std::bad_alloc&) {
      return false;
    }
    return true;
  }

  // --- Requests ---

  bool Arm(int fd, Registration* registration) {
    io_uring::SubmissionEntry* entry = ring_.Next();
    if (entry == nullptr) return false;
    entry->opcode = io_uring::kOpPollAdd;
    entry->fd = fd;
    entry->length = io_uring::kPollMultishot;
    entry->operation_flags = PollMask(registration->interest);
    entry->user_data = Pack(fd, ++registration->sequence);
    registration->requested = true;
    return true;
  }

  // What it has reported and will report is old from now on.
  bool Cancel(int fd, Registration* registration) {
    if (!registration->requested) return true;
    if (!CancelRequest(Pack(fd, registration->sequence))) return false;
    ++registration->sequence;
    registration->requested = false;
    return true;
  }

  bool CancelRequest(uint64_t name) {
    io_uring::SubmissionEntry* entry = ring_.Next();
    if (entry == nullptr) return false;
    entry->opcode = io_uring::kOpAsyncCancel;
    entry->flags = io_uring::kEntrySkipSuccess;
    entry->fd = -1;
    entry->address = name;
    entry->user_data = IoUringPort::kMark | IoUringPort::kNobody;
    return true;
  }

  // --- The list ---

  void List(int fd, Registration* registration) {
    if (registration->listed) return;
    registration->listed = true;
    list_.push_back(fd);
  }

  // What was reported and is still ready is reported again.
  bool Recheck(ReadyBatch* batch) {
    ready_count_ = 0;
    doubts_ = 0;
    return list_.empty() || Check(batch->events.size(), Ask::kReported, batch);
  }

  bool IsAsked(const Registration& registration, Ask ask) const {
    return ask == Ask::kDoubtful ? registration.doubtful : registration.ready == 0;
  }

  // Asks poll(2) about members of the first `limit` in the list, and takes out what is not ready.
  // False: interrupted or failed.
  bool Check(size_t limit, Ask ask, ReadyBatch* batch) {
    pollfd asked[kPollChunk];
    limit = std::min(limit, list_.size());
    for (size_t begin = 0; begin < limit;) {
      size_t count = 0;
      size_t end = begin;
      for (; end < limit && count < kPollChunk; ++end) {
        const Registration& registration = registrations_[list_[end]];
        if (registration.interest != 0 && IsAsked(registration, ask)) {
          asked[count++] = {list_[end], static_cast<short>(registration.interest & kConditions), 0};
        }
      }
      if (count > 0 && os::Poll(asked, static_cast<nfds_t>(count), 0) < 0) {
        batch->interrupted = errno == EINTR;
        if (!batch->interrupted) batch->error = absl::ErrnoToStatus(errno, "poll");
        return false;
      }
      if (!Apply(asked, begin, end, ask, batch)) return false;
      begin = end;
    }
    // Members that are out have left holes.
    const auto is_out = [this](int fd) { return !registrations_[fd].listed; };
    list_.erase(std::remove_if(list_.begin(), list_.end(), is_out), list_.end());
    if (ask == Ask::kDoubtful) doubts_ = 0;
    return true;
  }

  // The answers for list_[begin] to list_[end - 1].
  bool Apply(const pollfd* answer, size_t begin, size_t end, Ask ask, ReadyBatch* batch) {
    for (size_t i = begin; i < end; ++i) {
      const int fd = list_[i];
      Registration& registration = registrations_[fd];
      if (registration.interest == 0) {
        registration.listed = false;
        continue;
      }
      if (!IsAsked(registration, ask)) {
        if (ask == Ask::kReported) ++ready_count_;  // left over from the batch before
        continue;
      }
      const uint32_t found = static_cast<uint16_t>((answer++)->revents);
      if ((found & POLLNVAL) != 0) return BadNumber(fd, EBADF, batch);
      if (registration.ready != 0) --ready_count_;
      if (found != 0) ++ready_count_;
      registration.doubtful = false;
      registration.ready = static_cast<uint8_t>(found);
      if (found != 0) continue;
      registration.listed = false;
      registration.found_not_ready_in = static_cast<uint8_t>(wait_number_);
      if (!registration.requested) Arm(fd, &registration);
    }
    return true;
  }

  // The caller makes the set anew, which tells it whose number is bad.
  bool BadNumber(int fd, int error, ReadyBatch* batch) {
    distrust_ = true;
    batch->error = absl::ErrnoToStatus(error, absl::StrCat("io_uring poll fd ", fd));
    return false;
  }

  // --- Completions ---

  bool TakeCompletions(ReadyBatch* batch) {
    bool good = true;
    ring_.TakeCompletions([&](const io_uring::CompletionEntry& completion) {
      const uint32_t number = static_cast<uint32_t>(completion.user_data);
      if ((number & IoUringPort::kMark) != 0) {
        port_.Take(number & ~IoUringPort::kMark, completion);
      } else if (!TakePoll(completion, static_cast<int>(number), batch)) {
        good = false;
      }
    });
    return good;
  }

  bool TakePoll(const io_uring::CompletionEntry& completion, int fd, ReadyBatch* batch) {
    Registration& registration = registrations_[fd];
    const bool more = (completion.flags & io_uring::kCompletionMore) != 0;
    if (registration.sequence != static_cast<uint32_t>(completion.user_data >> 32)) {
      if (more) CancelRequest(completion.user_data);  // there was no memory to do so before
      return true;
    }
    if (!more) registration.requested = false;
    if (completion.result < 0) return RequestFailed(fd, &registration, -completion.result, batch);
    const uint32_t found = completion.result & (registration.interest | kAlwaysReported);
    if (found == 0) return true;
    // What wakes a reader of TCP hints at urgent data, whether there is any or not.
    const bool doubtful = (found & kPollUrgent) != 0 ||
                          (registration.ready == 0 &&
                           registration.found_not_ready_in == static_cast<uint8_t>(wait_number_));
    if (registration.ready == 0) ++ready_count_;
    if (doubtful && !registration.doubtful) {
      registration.doubtful = true;
      ++doubts_;
    }
    registration.ready |= static_cast<uint8_t>(found);
    List(fd, &registration);
    return true;
  }

  bool RequestFailed(int fd, Registration* registration, int error, ReadyBatch* batch) {
    if (error == ECANCELED) {
      Arm(fd, registration);
      return true;
    }
    // A file that cannot be polled, and that can never be what is asked.
    if (error == EINVAL) return true;
    return BadNumber(fd, error, batch);
  }

  // Reports what is ready, as far as there is room. It goes to the end of the list, so that a small
  // batch serves all in turn (F12).
  void Collect(ReadyBatch* batch) {
    const int capacity = static_cast<int>(batch->events.size());
    size_t kept = 0;
    for (const int fd : list_) {
      Registration& registration = registrations_[fd];
      if (registration.ready == 0 || batch->count == capacity) {
        list_[kept++] = fd;
        continue;
      }
      batch->events[batch->count++] = {registration.ready, fd, registration.generation};
      registration.ready = 0;
      reported_.push_back(fd);
    }
    list_.resize(kept);
    list_.insert(list_.end(), reported_.begin(), reported_.end());
    reported_.clear();
  }

  IoUring ring_;
  IoUringPort port_{&ring_};
  std::vector<Registration> registrations_;  // by number
  std::vector<int> list_;  // was reported and may be ready still, or is ready and not reported
  std::vector<int> reported_;
  uint32_t wait_number_ = 0;
  int ready_count_ = 0;    // members of the list of which it is known
  int doubts_ = 0;         // of these, that are to be checked
  bool broken_ = false;    // a new ring is needed
  bool distrust_ = false;  // a number was bad: promises are checked until a wait has worked
};

}  // namespace

absl::StatusOr<std::unique_ptr<Poller>> MakeIoUringPoller() {
  auto poller = std::make_unique<IoUringPoller>();
  if (absl::Status status = poller->Open(); !status.ok()) return status;
  return poller;
}

}  // namespace posthouse

#else  // no io_uring

#include <memory>

#include "absl/status/status.h"

namespace posthouse {

absl::StatusOr<std::unique_ptr<Poller>> MakeIoUringPoller() {
  return absl::UnimplementedError("io_uring: this system does not have it");
}

}  // namespace posthouse

#endif

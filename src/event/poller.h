// Poller is what an EventLoop asks the kernel through: one implementation per backend, each in a
// file of its own with the same functions in the same order.
//
// A poller keeps the kernel's set and nothing else. It knows no handlers; whom an event belongs to
// is decided by its caller, who compares the generation that comes back with each event (EO6).
// All pollers are level-triggered (E64).
//
// An interest is a set of kPollRead, kPollWrite and kPollUrgent. Errors and hang-ups are reported
// for every member of the set (E65), so kPollError alone is a legal interest: "in the set, with no
// direction". Backends whose kernel does not tell a hang-up by itself ask poll(2).
//
// Where they differ:
//  - epoll: a registration belongs to an open file and can outlive its number (F4); nothing tells
//    that a number was closed. Files that cannot be polled are refused.
//  - kqueue: a registration goes with its number. Each direction is a filter of its own, so a
//    change of both is two calls. Files that cannot be polled are refused. A child has no queue.
//  - io_uring: a registration is a request of its own. It holds its file, so removing it is what
//    lets go of a file whose number was closed; of a sole owner's, the next wait does so. Changes
//    go in with the next wait. What somebody else has read meanwhile may be reported (F14).
//  - poll, select: the set is ours, and changes make no call. The wait fails when a number in the
//    set is not open any more; making the set anew then finds which (F9). Files that cannot be
//    polled are ready for ever by themselves.
//
// Errors: made at the system call, with its name and the descriptor. What the kernel can be
// reconciled with is repaired here and counted: EEXIST when adding, ENOENT when changing, ENOENT
// and EBADF when removing (EO14, F10). kPermissionDenied from Add(): the file cannot be polled.
// kFailedPrecondition: the number is not open. kResourceExhausted: no memory, nothing has changed.
//
// Thread: one. Fork: Renew() in the child, and nothing before it.

#ifndef POSTHOUSE_EVENT_POLLER_H_
#define POSTHOUSE_EVENT_POLLER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "posthouse/event/backend.h"

namespace posthouse {

class IoUringPort;

// Conditions and interests. The values are those of epoll, whose poller can then hand them on as
// they are; it asserts so.
inline constexpr uint32_t kPollRead = 0x01;
inline constexpr uint32_t kPollUrgent = 0x02;
inline constexpr uint32_t kPollWrite = 0x04;
inline constexpr uint32_t kPollError = 0x08;
inline constexpr uint32_t kPollHangUp = 0x10;
// In an interest only, a hint: wake one of the processes that wait on the same file (EO28).
inline constexpr uint32_t kPollExclusive = 0x20;
// In an interest only: nobody else holds the open file (FdWatchOptions::sole_owner). So the number
// is open, and what is removed is closed next.
inline constexpr uint32_t kPollSoleOwner = 0x40;

// One descriptor that is ready, with the conditions found and the generation given with its
// interest.
struct ReadyEvent {
  uint32_t ready;
  int32_t fd;
  uint32_t generation;
};

// What one Wait() found. The capacity is events.size(); only the first `count` are of this wait.
struct ReadyBatch {
  std::vector<ReadyEvent> events;
  int count = 0;
  bool interrupted = false;  // by a signal; count is 0 then (E26)
  absl::Status error;        // why Wait() returned false; otherwise what it was before
  // The kernel's list was full, although `count` may be below the capacity: more room would help
  // (EO5). A poller whose kernel tells each descriptor once leaves it alone.
  bool full = false;
  // How many operations of the poller's port have something to tell.
  int completions = 0;
};

struct PollerCounters {
  int64_t changes = 0;   // system calls that changed the kernel's set
  int64_t repaired = 0;  // changes that the kernel refused and that were reconciled
};

class Poller {
 public:
  virtual ~Poller() = default;

  virtual Backend backend() const = 0;

  // Makes an empty set in place of the one there is, if any.
  virtual absl::Status Open() = 0;
  // The same in a forked child, where the old set may be the parent's: it is given up without a
  // change to it (EO16).
  virtual absl::Status Renew() = 0;

  // REQUIRES: fd >= 0, and `interest` is not empty.
  virtual absl::Status Add(int fd, uint32_t generation, uint32_t interest) = 0;
  // `from` is what the set holds for `fd`.
  virtual absl::Status Change(int fd, uint32_t generation, uint32_t from, uint32_t to) = 0;
  // Answers kNotFound when the kernel did not know the registration, which its caller may ignore.
  virtual absl::Status Remove(int fd, uint32_t from) = 0;

  // Waits up to `timeout_ns` (negative: without a limit), rounded up to the grain of the kernel's
  // clock (F21) and clamped (F18): returning early with nothing is legal. False if the call failed,
  // with the reason in the batch: a status of its own for every turn would be felt.
  virtual bool Wait(int64_t timeout_ns, ReadyBatch* batch) = 0;

  // Whether a change of interest costs next to nothing, so that there is no reason to leave in the
  // set what is not wanted any more.
  virtual bool changes_are_free() const = 0;

  // Whether close(2) of the last descriptor of a file ends its membership by itself.
  virtual bool close_removes() const = 0;

  // Input and output on the poller's ring; null: it has none.
  virtual IoUringPort* io_uring_port() { return nullptr; }

  const PollerCounters& counters() const { return counters_; }

 protected:
  PollerCounters counters_;
};

// The longest single wait that is asked of a kernel. Every poller's argument type holds it.
inline constexpr int64_t kLongestWaitNs = int64_t{24} * 3600 * 1000000000;

// Makes a poller with an open, empty set. kUnimplemented: this system lacks it.
absl::StatusOr<std::unique_ptr<Poller>> MakePoller(Backend backend);

// The makers behind it, one per file; each answers kUnimplemented elsewhere.
absl::StatusOr<std::unique_ptr<Poller>> MakeEpollPoller();
absl::StatusOr<std::unique_ptr<Poller>> MakeKqueuePoller();
absl::StatusOr<std::unique_ptr<Poller>> MakePollPoller();
absl::StatusOr<std::unique_ptr<Poller>> MakeSelectPoller();
absl::StatusOr<std::unique_ptr<Poller>> MakeIoUringPoller();

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_POLLER_H_

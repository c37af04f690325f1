// IoUring is one instance of io_uring(7): the two rings that a process shares with the kernel, and
// the call that hands them over.
//
// Internal to the event layer.
//
//   io_uring::SubmissionEntry* entry = ring.Next();   // null: no memory in the kernel
//   entry->opcode = io_uring::kOpPollAdd; ...         // goes in with the next Enter()
//   const IoUring::Outcome outcome = ring.Enter(timeout_ns);
//   ring.TakeCompletions([](const io_uring::CompletionEntry& completion) { ... });
//
// What the kernel does for a request is done inside Enter(), by this thread: no interrupts, no
// worker threads for what can be polled. Completions that find their ring full are kept by the
// kernel and come with the next Enter().
//
// Errors: Open() answers kUnimplemented, with the reason, when the kernel or a sandbox refuses
// io_uring or does not know enough of it; a lack of descriptors is kResourceExhausted.
// Thread: one, that of Open(). Fork: a child has the parent's rings in its memory. Nothing is
// written into them there: Next() and Submit() refuse, and Open() or Close() gives them up without
// a change. Close-on-exec. Ownership: owns the descriptor and the mappings. A request holds its
// file until it is completed or cancelled, whatever happens to the number (F4).

#ifndef POSTHOUSE_EVENT_IO_URING_H_
#define POSTHOUSE_EVENT_IO_URING_H_

#if defined(__linux__)

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "posthouse/event/fork_stamp.h"
#include "posthouse/os/io_uring.h"

namespace posthouse {

class IoUring {
 public:
  IoUring() = default;
  ~IoUring() { Close(); }
  IoUring(const IoUring&) = delete;
  IoUring& operator=(const IoUring&) = delete;

  // Makes a new instance in place of the one there is, if any; on an error that one stays.
  absl::Status Open();
  // Gives it up; what was not submitted is lost.
  void Close();

  int fd() const { return shared_.fd; }

  // Whether the rings are those of a parent.
  bool forked() const { return stamp_.forked(); }

  // An empty entry to be filled in, submitted by the next Enter(). When there is no room, what is
  // there is submitted first, at one call. Null: the kernel lacks memory for that, or the rings are
  // a parent's.
  io_uring::SubmissionEntry* Next();
  // Where the latest entry stands, and the entry at a position as long as it can be changed; null
  // when it is submitted.
  uint32_t position() const { return next_ - 1; }
  io_uring::SubmissionEntry* Unsubmitted(uint32_t position) const {
    if (position - submitted_ >= next_ - submitted_) return nullptr;
    return &shared_.entries[position & shared_.sq_mask];
  }
  // Entries that are not submitted yet.
  unsigned unsubmitted() const { return next_ - submitted_; }

  enum class Outcome {
    kDone,         // everything is submitted, and what was waited for may be there
    kTimedOut,     // nothing came
    kInterrupted,  // by a signal
    kFailed,       // errno says why
  };
  // Submits, and waits until there is a completion or the time is over (negative: no limit). The
  // kernel then hands out a share of what has completed, in its order: serving twenty at a time is
  // cheaper than a hundred, for the caches. With `timeout_ns` zero it hands out everything.
  // Without memory for new requests the old ones are waited for, at most 100 ms.
  Outcome Enter(int64_t timeout_ns);
  // Submits, and lets some of what is to be done be done, such as letting go of the files of
  // cancelled requests. Does not wait. False: not all is submitted, errno says why.
  bool Submit();

  unsigned completions() const;
  // When so many have come at once there may be more.
  static constexpr unsigned kShare = 20;

  // Calls take(completion) for each completion that is there. `take` may call Next().
  template <typename Take>
  void TakeCompletions(Take take) {
    uint32_t head = *shared_.cq_head;
    const uint32_t tail = __atomic_load_n(shared_.cq_tail, __ATOMIC_ACQUIRE);
    for (; head != tail; ++head) take(shared_.completions[head & shared_.cq_mask]);
    __atomic_store_n(shared_.cq_head, head, __ATOMIC_RELEASE);
  }

 private:
  // Sizes: a sweep of changes fits into one submission, and a busy turn into the completions.
  static constexpr unsigned kSubmissions = 512;
  static constexpr unsigned kCompletions = 4096;

  // The instance and where the kernel has put what.
  struct Shared {
    int fd = -1;
    void* rings = nullptr;
    size_t rings_size = 0;
    void* entries_map = nullptr;
    size_t entries_size = 0;
    uint32_t* sq_head = nullptr;
    uint32_t* sq_tail = nullptr;
    uint32_t sq_mask = 0;
    uint32_t* cq_head = nullptr;
    uint32_t* cq_tail = nullptr;
    uint32_t cq_mask = 0;
    io_uring::SubmissionEntry* entries = nullptr;
    io_uring::CompletionEntry* completions = nullptr;
  };

  static absl::Status Make(Shared* shared);
  static absl::Status Map(const io_uring::Parameters& parameters, Shared* shared);
  static void Unmake(const Shared& shared);
  // The call itself; returns 0 or the error. `*submitted` is what the kernel took.
  int Call(unsigned submit, unsigned wait_for, unsigned flags, int64_t timeout_ns,
           unsigned* submitted);

  Shared shared_;
  ForkStamp stamp_;
  uint32_t next_ = 0;       // our side of the submission ring
  uint32_t submitted_ = 0;  // how far the kernel has taken it
};

}  // namespace posthouse

#endif  // defined(__linux__)

#endif  // POSTHOUSE_EVENT_IO_URING_H_

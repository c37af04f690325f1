// IoUringPort does input and output on the ring of an EventLoop: operations go in with the loop's
// next wait, and what they did is told in one of its turns.
//
// Internal to the event layer; CompletionStream and CompletionListener are the public faces.
//
// An operation has a number from its start until its last completion. Its target may forget it
// earlier: it is cancelled then, and what it still brings is cleaned up here, a descriptor that was
// accepted or a buffer that was filled. What a send operation sends belongs to the operation, so it
// outlives whoever asked for it.
//
// Received bytes lie in buffers that all descriptors share and that the kernel picks when bytes
// have come, so an idle descriptor holds none. A buffer is given back when its target has returned.
//
// Completions are collected by the poller's wait and handed out by RunNext(), one call each; one
// that throws leaves the rest for the next turn (EO13).
//
// Errors: negative errno in `result`, as the kernel tells them; ENOMEM when an operation found no
// memory to be started. When the ring is lost (F9) its operations end with ECANCELED.
// Thread: one. Fork: in a child the operations are the parent's; only Forget() and Close() may be
// called on them there, which then make no use of the ring.

#ifndef POSTHOUSE_EVENT_IO_URING_PORT_H_
#define POSTHOUSE_EVENT_IO_URING_PORT_H_

#if defined(__linux__)

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "posthouse/event/io_uring.h"
#include "posthouse/os/io_uring.h"

namespace posthouse {

class IoUringPort {
 public:
  using Operation = uint32_t;
  static constexpr Operation kNone = UINT32_MAX;

  struct Completion {
    int result = 0;          // bytes, a descriptor, or a negative errno
    bool last = false;       // the operation has ended
    absl::string_view data;  // what was received; valid during the call
  };
  class Target {
   public:
    virtual ~Target() = default;
    // May forget the operation, start others and destroy the target.
    virtual void OnCompletion(Operation operation, const Completion& completion) = 0;
  };

  // The memory for received bytes, all descriptors together.
  static constexpr size_t kBuffers = 256;
  static constexpr size_t kBufferBytes = 4096;

  explicit IoUringPort(IoUring* ring) : ring_(ring) {}
  ~IoUringPort();
  IoUringPort(const IoUringPort&) = delete;
  IoUringPort& operator=(const IoUringPort&) = delete;

  // Each takes what comes until it ends by itself or is forgotten.
  Operation StartAccept(int listen_fd, Target* target);
  // ENOBUFS ends it when all buffers are full; start it again.
  Operation StartReceive(int fd, Target* target);
  // Sends all of `data`, of which it keeps a copy, unless there is an error.
  Operation StartSend(int fd, absl::string_view data, Target* target);
  // Adds to what is to be sent, as long as the kernel does not have it; false: too late.
  bool Append(Operation send, absl::string_view data);

  // Tells the target once, in a later turn, that nothing was done.
  Operation StartNothing(Target* target);

  // Cancels; the target is still told what the operation does until it ends.
  void Cancel(Operation operation);
  // The target is told nothing more, and the operation is cancelled: what the kernel takes at once
  // is still sent. kNone is legal.
  void Forget(Operation operation);
  // Closes the descriptor with the next wait, behind what was cancelled before.
  void Close(int fd);

  // For the poller: a completion of the ring, the number of the operation without the mark.
  void Take(Operation operation, const io_uring::CompletionEntry& completion);
  // The ring is a new one: all operations have ended.
  void Lost();

  // For the loop.
  int completed() const { return static_cast<int>(queue_.size() - next_); }
  void RunNext();

  // Operations that somebody waits for.
  int targets() const { return targets_; }

  // The mark in the lower half of user_data of what is not a poll request.
  static constexpr uint32_t kMark = uint32_t{1} << 31;
  // The number of what nobody asks about.
  static constexpr uint32_t kNobody = kMark - 1;

 private:
  enum class Kind : uint8_t { kFree, kAccept, kReceive, kSend, kNothing };
  struct State {
    Kind kind = Kind::kFree;
    bool in_kernel = false;
    Target* target = nullptr;
    std::string data;  // kSend
    size_t sent = 0;
    uint32_t position = 0;  // of its entry, while that is not submitted
    int fd = -1;
  };
  struct Queued {
    Operation operation;
    int32_t result;
    uint32_t flags;
  };

  Operation New(Kind kind, int fd, Target* target);
  void Free(Operation operation);
  // Fills in what all entries have; null when there is no memory, which is told as a completion.
  io_uring::SubmissionEntry* Entry(Operation operation, uint8_t opcode);
  void SubmitSend(Operation operation);
  void CancelInKernel(Operation operation);
  void CleanUp(const State& state, const Queued& queued);
  void FillIn(const State& state, io_uring::SubmissionEntry* entry);
  bool RegisterBuffers();
  void GiveBack(uint32_t completion_flags);

  IoUring* ring_;
  std::deque<State> operations_;  // which do not move: the kernel reads what is to be sent
  std::vector<Operation> free_;
  std::vector<Queued> queue_;
  size_t next_ = 0;  // of the queue
  int targets_ = 0;
  io_uring::Buffer* buffers_ = nullptr;  // the ring of them; behind it their memory
  uint16_t buffers_tail_ = 0;
  bool registered_ = false;
};

}  // namespace posthouse

#endif  // defined(__linux__)

#endif  // POSTHOUSE_EVENT_IO_URING_PORT_H_

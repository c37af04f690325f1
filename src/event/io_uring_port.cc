#include "posthouse/event/io_uring_port.h"

#if defined(__linux__)

#include <errno.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "posthouse/base/check.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr uint16_t kGroup = 0;
constexpr size_t kRingBytes = IoUringPort::kBuffers * sizeof(io_uring::Buffer);
constexpr size_t kMemoryBytes = kRingBytes + IoUringPort::kBuffers * IoUringPort::kBufferBytes;
static_assert((IoUringPort::kBuffers & (IoUringPort::kBuffers - 1)) == 0);

}  // namespace

IoUringPort::~IoUringPort() {
  POSTHOUSE_CHECK(targets_ == 0, "an event loop was destroyed before its streams");
  // Descriptors that were given to Close() are closed, and those that nobody has got.
  const bool used = ring_->unsubmitted() > 0 || free_.size() < operations_.size();
  if (used && !ring_->forked()) {
    ring_->Enter(0);
    ring_->TakeCompletions([this](const io_uring::CompletionEntry& completion) {
      const uint32_t number = static_cast<uint32_t>(completion.user_data);
      if ((number & kMark) != 0) Take(number & ~kMark, completion);
    });
  }
  while (completed() > 0) RunNext();
  if (buffers_ != nullptr) os::Munmap(buffers_, kMemoryBytes);
}

// --- Operations ---

IoUringPort::Operation IoUringPort::New(Kind kind, int fd, Target* target) {
  Operation operation;
  if (free_.empty()) {
    // Every operation has a place there, so that the end of one needs no memory.
    if (free_.capacity() <= operations_.size()) free_.reserve(2 * operations_.size() + 16);
    operation = static_cast<Operation>(operations_.size());
    operations_.emplace_back();
  } else {
    operation = free_.back();
    free_.pop_back();
  }
  State& state = operations_[operation];
  state.kind = kind;
  state.fd = fd;
  state.target = target;
  ++targets_;
  return operation;
}

void IoUringPort::Free(Operation operation) {
  State& state = operations_[operation];
  if (state.target != nullptr) --targets_;
  std::string data = std::move(state.data);
  state = State();
  data.clear();
  // A short string is worth keeping its memory, a long one is not.
  if (data.capacity() <= kBufferBytes) state.data = std::move(data);
  free_.push_back(operation);
}

io_uring::SubmissionEntry* IoUringPort::Entry(Operation operation, uint8_t opcode) {
  io_uring::SubmissionEntry* entry = ring_->Next();
  if (entry == nullptr) {
    queue_.push_back({operation, -ENOMEM, 0});
    return nullptr;
  }
  entry->opcode = opcode;
  entry->fd = operations_[operation].fd;
  entry->user_data = kMark | operation;
  operations_[operation].in_kernel = true;
  operations_[operation].position = ring_->position();
  return entry;
}

IoUringPort::Operation IoUringPort::StartAccept(int listen_fd, Target* target) {
  const Operation operation = New(Kind::kAccept, listen_fd, target);
  if (io_uring::SubmissionEntry* entry = Entry(operation, io_uring::kOpAccept)) {
    entry->priority = io_uring::kAcceptMultishot;
    entry->operation_flags = SOCK_CLOEXEC;
  }
  return operation;
}

IoUringPort::Operation IoUringPort::StartReceive(int fd, Target* target) {
  const Operation operation = New(Kind::kReceive, fd, target);
  if (!registered_ && !RegisterBuffers()) {
    queue_.push_back({operation, -ENOMEM, 0});
    return operation;
  }
  if (io_uring::SubmissionEntry* entry = Entry(operation, io_uring::kOpRecv)) {
    entry->priority = io_uring::kRecvMultishot;
    entry->flags = io_uring::kEntryBufferSelect;
    entry->buffer_group = kGroup;
  }
  return operation;
}

IoUringPort::Operation IoUringPort::StartSend(int fd, absl::string_view data, Target* target) {
  const Operation operation = New(Kind::kSend, fd, target);
  operations_[operation].data.assign(data.data(), data.size());
  SubmitSend(operation);
  return operation;
}

IoUringPort::Operation IoUringPort::StartNothing(Target* target) {
  const Operation operation = New(Kind::kNothing, -1, target);
  queue_.push_back({operation, 0, 0});
  return operation;
}

bool IoUringPort::Append(Operation send, absl::string_view data) {
  State& state = operations_[send];
  if (!state.in_kernel) return false;
  io_uring::SubmissionEntry* entry = ring_->Unsubmitted(state.position);
  if (entry == nullptr) return false;
  state.data.append(data.data(), data.size());
  FillIn(state, entry);
  return true;
}

void IoUringPort::SubmitSend(Operation operation) {
  io_uring::SubmissionEntry* entry = Entry(operation, io_uring::kOpSend);
  if (entry == nullptr) return;
  entry->operation_flags = MSG_NOSIGNAL | MSG_WAITALL;
  FillIn(operations_[operation], entry);
}

void IoUringPort::FillIn(const State& state, io_uring::SubmissionEntry* entry) {
  entry->address = reinterpret_cast<uint64_t>(state.data.data() + state.sent);
  entry->length = static_cast<uint32_t>(state.data.size() - state.sent);
}

void IoUringPort::Cancel(Operation operation) {
  if (operations_[operation].in_kernel) CancelInKernel(operation);
}

void IoUringPort::Forget(Operation operation) {
  if (operation == kNone) return;
  State& state = operations_[operation];
  state.target = nullptr;
  --targets_;
  if (state.in_kernel) CancelInKernel(operation);
}

// Without memory for it, the operation goes on until its descriptor is closed or brings something.
void IoUringPort::CancelInKernel(Operation operation) {
  io_uring::SubmissionEntry* entry = ring_->Next();
  if (entry == nullptr) return;
  entry->opcode = io_uring::kOpAsyncCancel;
  entry->flags = io_uring::kEntrySkipSuccess;
  entry->fd = -1;
  entry->address = kMark | operation;
  entry->user_data = kMark | kNobody;
}

void IoUringPort::Close(int fd) {
  io_uring::SubmissionEntry* entry = ring_->Next();
  if (entry == nullptr) {
    os::Close(fd);
    return;
  }
  entry->opcode = io_uring::kOpClose;
  entry->flags = io_uring::kEntrySkipSuccess;
  entry->fd = fd;
  entry->user_data = kMark | kNobody;
}

void IoUringPort::Lost() {
  for (; next_ < queue_.size(); ++next_) {
    const Queued& queued = queue_[next_];
    if (operations_[queued.operation].kind == Kind::kAccept && queued.result >= 0) {
      os::Close(queued.result);
    }
  }
  queue_.clear();
  next_ = 0;
  registered_ = false;
  for (Operation operation = 0; operation < operations_.size(); ++operation) {
    State& state = operations_[operation];
    if (state.kind == Kind::kFree) continue;
    state.in_kernel = false;
    if (state.target == nullptr) {
      Free(operation);
    } else {
      queue_.push_back({operation, -ECANCELED, 0});
    }
  }
}

// --- Completions ---

void IoUringPort::Take(Operation operation, const io_uring::CompletionEntry& completion) {
  if (operation == kNobody) return;
  State& state = operations_[operation];
  const bool more = (completion.flags & io_uring::kCompletionMore) != 0;
  if (!more) state.in_kernel = false;
  if (state.kind == Kind::kSend && completion.result > 0) {
    state.sent += static_cast<size_t>(completion.result);
    // A signal or a kernel that does not wait for all.
    if (state.sent < state.data.size()) return SubmitSend(operation);
  }
  queue_.push_back({operation, completion.result, completion.flags});
}

void IoUringPort::RunNext() {
  const Queued queued = queue_[next_++];
  if (next_ == queue_.size()) {
    queue_.clear();
    next_ = 0;
  }
  State& state = operations_[queued.operation];
  const bool last = (queued.flags & io_uring::kCompletionMore) == 0;
  // Also when the target throws.
  const auto done = absl::MakeCleanup([&] {
    GiveBack(queued.flags);
    if (last) Free(queued.operation);
  });
  if (state.target == nullptr) return CleanUp(state, queued);
  Completion completion;
  completion.result = queued.result;
  completion.last = last;
  if (state.kind == Kind::kReceive && (queued.flags & io_uring::kCompletionBuffer) != 0) {
    const size_t number = queued.flags >> io_uring::kCompletionBufferShift;
    const char* memory = reinterpret_cast<const char*>(buffers_) + kRingBytes;
    completion.data = absl::string_view(memory + number * kBufferBytes, queued.result);
  }
  state.target->OnCompletion(queued.operation, completion);
}

void IoUringPort::CleanUp(const State& state, const Queued& queued) {
  if (state.kind == Kind::kAccept && queued.result >= 0) os::Close(queued.result);
  // It was forgotten while there was no memory to cancel it.
  if (state.in_kernel) CancelInKernel(queued.operation);
}

// --- Buffers ---

bool IoUringPort::RegisterBuffers() {
  if (buffers_ == nullptr) {
    void* memory =
        os::Mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    buffers_ = static_cast<io_uring::Buffer*>(memory);
  }
  io_uring::BufferRingRegistration registration = {};
  registration.address = reinterpret_cast<uint64_t>(buffers_);
  registration.entries = kBuffers;
  registration.group = kGroup;
  if (os::IoUringRegister(ring_->fd(), io_uring::kRegisterBufferRing, &registration, 1) < 0) {
    return false;
  }
  registered_ = true;
  buffers_tail_ = 0;
  for (uint32_t number = 0; number < kBuffers; ++number) {
    GiveBack(io_uring::kCompletionBuffer | number << io_uring::kCompletionBufferShift);
  }
  return true;
}

void IoUringPort::GiveBack(uint32_t completion_flags) {
  if ((completion_flags & io_uring::kCompletionBuffer) == 0 || !registered_) return;
  const uint32_t number = completion_flags >> io_uring::kCompletionBufferShift;
  char* const memory = reinterpret_cast<char*>(buffers_) + kRingBytes;
  io_uring::Buffer* buffer = &buffers_[buffers_tail_ % kBuffers];
  buffer->address = reinterpret_cast<uint64_t>(memory + number * kBufferBytes);
  buffer->length = kBufferBytes;
  buffer->number = static_cast<uint16_t>(number);
  ++buffers_tail_;
  __atomic_store_n(&buffers_[0].tail, buffers_tail_, __ATOMIC_RELEASE);
}

}  // namespace posthouse

#endif  // defined(__linux__)

#include "posthouse/event/io_uring.h"

#if defined(__linux__)

#include <errno.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// Deferred task work makes the kernel do our work when we ask for it; it needs a single issuer.
constexpr uint32_t kSetupFlags = io_uring::kSetupCqSize | io_uring::kSetupClamp |
                                 io_uring::kSetupSubmitAll | io_uring::kSetupSingleIssuer |
                                 io_uring::kSetupDeferTaskrun;
constexpr uint32_t kFeatures = io_uring::kFeatureSingleMmap | io_uring::kFeatureNoDrop |
                               io_uring::kFeatureExtArg | io_uring::kFeatureCqeSkip;

// How long a wait lasts when new requests have found no memory.
constexpr int64_t kRetryNs = 100 * 1000 * 1000;

absl::Status Refused(int error, absl::string_view call) {
  const absl::Status status = absl::ErrnoToStatus(error, call);
  switch (error) {
    case EMFILE:
    case ENFILE:
      return status;
    default:  // ENOSYS, EPERM, EACCES, EINVAL, ENOMEM, ...: there are others to take
      return absl::UnimplementedError(absl::StrCat("io_uring: ", status.message()));
  }
}

template <typename T>
T* At(void* base, uint32_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(base) + offset);
}

}  // namespace

absl::Status IoUring::Open() {
  Shared shared;
  if (absl::Status status = Make(&shared); !status.ok()) {
    Unmake(shared);
    return status;
  }
  Unmake(shared_);
  shared_ = shared;
  stamp_.Renew();
  next_ = submitted_ = 0;
  return absl::OkStatus();
}

void IoUring::Close() {
  Unmake(shared_);
  shared_ = Shared();
  next_ = submitted_ = 0;
}

absl::Status IoUring::Make(Shared* shared) {
  io_uring::Parameters parameters = {};
  // Kernels before 6.6 know no submission ring without an indirection.
  for (const uint32_t flags : {kSetupFlags | io_uring::kSetupNoSqArray, kSetupFlags}) {
    parameters = {};
    parameters.flags = flags;
    parameters.cq_entries = kCompletions;
    shared->fd = os::IoUringSetup(kSubmissions, &parameters);
    if (shared->fd >= 0 || errno != EINVAL) break;
  }
  if (shared->fd < 0) return Refused(errno, "io_uring_setup");
  if ((parameters.features & kFeatures) != kFeatures) {
    return absl::UnimplementedError("io_uring: the kernel lacks features of it");
  }
  return Map(parameters, shared);
}

absl::Status IoUring::Map(const io_uring::Parameters& parameters, Shared* shared) {
  const io_uring::SqOffsets& sq = parameters.sq;
  const io_uring::CqOffsets& cq = parameters.cq;
  constexpr int kProtection = PROT_READ | PROT_WRITE;
  constexpr int kFlags = MAP_SHARED | MAP_POPULATE;
  const bool indirect = (parameters.flags & io_uring::kSetupNoSqArray) == 0;
  const size_t sq_end =
      indirect ? sq.array + parameters.sq_entries * sizeof(uint32_t) : sizeof(uint32_t);
  const size_t cq_end = cq.cqes + parameters.cq_entries * sizeof(io_uring::CompletionEntry);
  const size_t rings_size = std::max(sq_end, cq_end);
  void* rings =
      os::Mmap(nullptr, rings_size, kProtection, kFlags, shared->fd, io_uring::kOffsetOfRings);
  if (rings == MAP_FAILED) return Refused(errno, "mmap of io_uring");
  shared->rings = rings;
  shared->rings_size = rings_size;
  const size_t entries_size = parameters.sq_entries * sizeof(io_uring::SubmissionEntry);
  void* entries =
      os::Mmap(nullptr, entries_size, kProtection, kFlags, shared->fd, io_uring::kOffsetOfEntries);
  if (entries == MAP_FAILED) return Refused(errno, "mmap of io_uring");
  shared->entries_map = entries;
  shared->entries_size = entries_size;

  shared->sq_head = At<uint32_t>(rings, sq.head);
  shared->sq_tail = At<uint32_t>(rings, sq.tail);
  shared->sq_mask = *At<uint32_t>(rings, sq.ring_mask);
  shared->cq_head = At<uint32_t>(rings, cq.head);
  shared->cq_tail = At<uint32_t>(rings, cq.tail);
  shared->cq_mask = *At<uint32_t>(rings, cq.ring_mask);
  shared->entries = static_cast<io_uring::SubmissionEntry*>(entries);
  shared->completions = At<io_uring::CompletionEntry>(rings, cq.cqes);
  for (uint32_t i = 0; indirect && i < parameters.sq_entries; ++i) {
    At<uint32_t>(rings, sq.array)[i] = i;
  }
  return absl::OkStatus();
}

void IoUring::Unmake(const Shared& shared) {
  if (shared.rings != nullptr) os::Munmap(shared.rings, shared.rings_size);
  if (shared.entries_map != nullptr) os::Munmap(shared.entries_map, shared.entries_size);
  if (shared.fd >= 0) os::Close(shared.fd);
}

io_uring::SubmissionEntry* IoUring::Next() {
  if (ABSL_PREDICT_FALSE(stamp_.forked())) return nullptr;
  if (next_ - __atomic_load_n(shared_.sq_head, __ATOMIC_ACQUIRE) > shared_.sq_mask && !Submit()) {
    return nullptr;
  }
  io_uring::SubmissionEntry* entry = &shared_.entries[next_ & shared_.sq_mask];
  ++next_;
  std::memset(entry, 0, sizeof *entry);
  return entry;
}

bool IoUring::Submit() {
  if (stamp_.forked()) {
    errno = EPERM;
    return false;
  }
  while (unsubmitted() > 0) {
    unsigned submitted = 0;
    const int error = Call(unsubmitted(), 0, io_uring::kEnterGetEvents, -1, &submitted);
    if (error != 0 && error != EINTR) {
      errno = error;
      return false;
    }
  }
  return true;
}

int IoUring::Call(unsigned submit, unsigned wait_for, unsigned flags, int64_t timeout_ns,
                  unsigned* submitted) {
  __atomic_store_n(shared_.sq_tail, next_, __ATOMIC_RELEASE);
  int result;
  if (timeout_ns >= 0) {
    const io_uring::Timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    io_uring::GetEventsArgument argument = {};
    argument.timeout = reinterpret_cast<uint64_t>(&timeout);
    result = os::IoUringEnter(shared_.fd, submit, wait_for, flags | io_uring::kEnterExtArg,
                              &argument, sizeof argument);
  } else {
    result = os::IoUringEnter(shared_.fd, submit, wait_for, flags, nullptr, 0);
  }
  if (result < 0) return errno;
  *submitted = static_cast<unsigned>(result);
  submitted_ += *submitted;
  return 0;
}

IoUring::Outcome IoUring::Enter(int64_t timeout_ns) {
  unsigned submit = unsubmitted();
  // When a call has both submitted and waited, it only tells of the submission. Then the clock says
  // whether the time was over or a signal came.
  const int64_t start = submit > 0 && timeout_ns > 0 ? os::SteadyNanos() : 0;
  for (;;) {
    const unsigned before = completions();
    unsigned submitted = 0;
    const int error =
        Call(submit, timeout_ns == 0 ? 0 : 1, io_uring::kEnterGetEvents, timeout_ns, &submitted);
    if (error == 0 && submitted < submit) {  // and has not waited
      submit = unsubmitted();
    } else if (error == 0 && timeout_ns == 0) {
      const unsigned now = completions();
      if (now - before < kShare || now > shared_.cq_mask / 2) return Outcome::kDone;
      submit = 0;
    } else if (error == 0) {
      if (submit == 0 || completions() > 0) return Outcome::kDone;
      const bool timed_out = timeout_ns > 0 && os::SteadyNanos() - start >= timeout_ns;
      return timed_out ? Outcome::kTimedOut : Outcome::kInterrupted;
    } else if (error == EAGAIN && submit > 0) {
      submit = 0;
      timeout_ns = timeout_ns < 0 ? kRetryNs : std::min(timeout_ns, kRetryNs);
    } else if (error == ETIME) {
      return Outcome::kTimedOut;
    } else if (error == EINTR) {
      return Outcome::kInterrupted;
    } else if (error == EBUSY && completions() > 0) {
      return Outcome::kDone;  // too many have not been taken; they are there
    } else {
      errno = error;
      return Outcome::kFailed;
    }
  }
}

unsigned IoUring::completions() const {
  return __atomic_load_n(shared_.cq_tail, __ATOMIC_ACQUIRE) - *shared_.cq_head;
}

}  // namespace posthouse

#endif  // defined(__linux__)

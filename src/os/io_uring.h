// The three calls of io_uring(7), for which the C library has no functions, and the part of the
// kernel's interface that posthouse uses.
//
// The structures and numbers are the kernel's, under names of our own: what <linux/io_uring.h>
// holds depends on the age of the system that compiles, not of the one that runs. Which of them a
// kernel knows is asked when a ring is made (src/event/io_uring.h).
//
// Thread, fork, errors: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).

#ifndef POSTHOUSE_OS_IO_URING_H_
#define POSTHOUSE_OS_IO_URING_H_

#if defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#if !defined(__NR_io_uring_setup)  // the same on all architectures but one, which is not ours
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif

// In the namespace of the C library's functions, since calls.inc names them there.
inline int io_uring_setup(unsigned entries, void* parameters) {
  return static_cast<int>(::syscall(__NR_io_uring_setup, entries, parameters));
}
inline int io_uring_enter(int ring, unsigned submit, unsigned wait_for, unsigned flags,
                          const void* argument, size_t size) {
  return static_cast<int>(
      ::syscall(__NR_io_uring_enter, ring, submit, wait_for, flags, argument, size));
}
inline int io_uring_register(int ring, unsigned operation, void* argument, unsigned count) {
  return static_cast<int>(::syscall(__NR_io_uring_register, ring, operation, argument, count));
}

namespace posthouse::io_uring {

// --- io_uring_setup(2) ---

inline constexpr uint32_t kSetupCqSize = 1u << 3;         // cq_entries is given
inline constexpr uint32_t kSetupClamp = 1u << 4;          // sizes beyond the limit are cut
inline constexpr uint32_t kSetupSubmitAll = 1u << 7;      // an entry that fails stops no others
inline constexpr uint32_t kSetupSingleIssuer = 1u << 12;  // one task submits (Linux 6.0)
inline constexpr uint32_t kSetupDeferTaskrun = 1u << 13;  // work is done when asked (Linux 6.1)
inline constexpr uint32_t kSetupNoSqArray = 1u << 16;     // entries in their order (Linux 6.6)

inline constexpr uint32_t kFeatureSingleMmap = 1u << 0;
inline constexpr uint32_t kFeatureNoDrop = 1u << 1;
inline constexpr uint32_t kFeatureExtArg = 1u << 8;
inline constexpr uint32_t kFeatureCqeSkip = 1u << 11;

struct SqOffsets {
  uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, reserved;
  uint64_t user_address;
};
struct CqOffsets {
  uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, reserved;
  uint64_t user_address;
};
struct Parameters {
  uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
  uint32_t reserved[3];
  SqOffsets sq;
  CqOffsets cq;
};
static_assert(sizeof(Parameters) == 120);

inline constexpr int64_t kOffsetOfRings = 0;
inline constexpr int64_t kOffsetOfEntries = 0x10000000;

// --- Submission entries ---

inline constexpr uint8_t kOpPollAdd = 6;
inline constexpr uint8_t kOpAccept = 13;
inline constexpr uint8_t kOpAsyncCancel = 14;
inline constexpr uint8_t kOpClose = 19;
inline constexpr uint8_t kOpSend = 26;
inline constexpr uint8_t kOpRecv = 27;

inline constexpr uint8_t kEntryBufferSelect = 1u << 5;
inline constexpr uint8_t kEntrySkipSuccess = 1u << 6;  // only a failure is reported

inline constexpr uint32_t kPollMultishot = 1u << 0;       // in `length`
inline constexpr uint16_t kRecvMultishot = 1u << 1;       // in `priority`
inline constexpr uint16_t kAcceptMultishot = 1u << 0;     // in `priority`
inline constexpr uint32_t kCancelAll = 1u << 0;           // in `operation_flags`
inline constexpr uint32_t kCancelByDescriptor = 1u << 1;  // in `operation_flags`

struct SubmissionEntry {
  uint8_t opcode;
  uint8_t flags;
  uint16_t priority;
  int32_t fd;
  uint64_t offset;
  uint64_t address;
  uint32_t length;
  uint32_t operation_flags;
  uint64_t user_data;
  uint16_t buffer_group;
  uint16_t personality;
  int32_t file_index;
  uint64_t reserved[2];
};
static_assert(sizeof(SubmissionEntry) == 64);

// --- Completion entries ---

inline constexpr uint32_t kCompletionBuffer = 1u << 0;  // the upper half of `flags` is its number
inline constexpr uint32_t kCompletionMore = 1u << 1;    // the request goes on
inline constexpr int kCompletionBufferShift = 16;

struct CompletionEntry {
  uint64_t user_data;
  int32_t result;
  uint32_t flags;
};
static_assert(sizeof(CompletionEntry) == 16);

// --- io_uring_enter(2) ---

inline constexpr uint32_t kEnterGetEvents = 1u << 0;
inline constexpr uint32_t kEnterExtArg = 1u << 3;

struct Timespec {
  int64_t seconds;
  int64_t nanoseconds;
};
struct GetEventsArgument {
  uint64_t signal_mask;
  uint32_t signal_mask_size;
  uint32_t min_wait_us;
  uint64_t timeout;  // address of a Timespec
};
static_assert(sizeof(GetEventsArgument) == 24);

// --- io_uring_register(2) ---

inline constexpr unsigned kRegisterBufferRing = 22;
inline constexpr unsigned kUnregisterBufferRing = 23;

struct Buffer {
  uint64_t address;
  uint32_t length;
  uint16_t number;
  uint16_t tail;  // of the ring, in its first entry alone
};
static_assert(sizeof(Buffer) == 16);

struct BufferRingRegistration {
  uint64_t address;
  uint32_t entries;
  uint16_t group;
  uint16_t flags;
  uint64_t reserved[3];
};
static_assert(sizeof(BufferRingRegistration) == 40);

}  // namespace posthouse::io_uring

#endif  // defined(__linux__)

#endif  // POSTHOUSE_OS_IO_URING_H_

#include "posthouse/io/descriptor_sanity.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr int kFirstOther = 3;  // the first number that is not a standard descriptor

// Without close_range(2) and closefrom(2): number by number up to the limit. A limit that says "no
// limit" is not believed; this many numbers take a moment each.
constexpr int kMostNumbers = 1 << 20;

int HighestNumber() {
  rlimit limit = {};
  if (os::Getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max > kMostNumbers) {
    return kMostNumbers - 1;
  }
  return static_cast<int>(limit.rlim_max) - 1;
}

void CloseOneByOne(int first, int last) {
  for (int fd = first; fd <= std::min(last, HighestNumber()); ++fd) {
    // close(2) is for numbers that are open (F36).
    if (os::Fcntl(fd, F_GETFD, 0) >= 0) os::Close(fd);
  }
}

// `last` is INT_MAX for all the rest.
absl::Status CloseRangeOf(int first, int last) {
  if (first > last) return absl::OkStatus();
#if defined(__linux__) || defined(__FreeBSD__)
  const unsigned end = last == INT_MAX ? ~0U : static_cast<unsigned>(last);
  if (os::CloseRange(static_cast<unsigned>(first), end, 0) == 0) return absl::OkStatus();
  // ENOSYS: Linux before 5.9. EPERM: a sandbox that does not know the call.
  if (errno != ENOSYS && errno != EPERM) {
    return absl::ErrnoToStatus(errno, absl::StrCat("close_range from descriptor ", first));
  }
#elif defined(__NetBSD__) || defined(__OpenBSD__)
  if (last == INT_MAX) {
    // EBADF: nothing is open from there on.
    if (os::Closefrom(first) == 0 || errno == EBADF) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("closefrom descriptor ", first));
  }
#endif
  CloseOneByOne(first, last);
  return absl::OkStatus();
}

// The move that still has to leave `number`, or null.
DescriptorMove* PendingFrom(absl::Span<DescriptorMove> moves, int number) {
  for (DescriptorMove& move : moves) {
    if (move.from == number && move.from != move.to) return &move;
  }
  return nullptr;
}

int CheckMoves(absl::Span<const DescriptorMove> moves) {
  for (size_t i = 0; i < moves.size(); ++i) {
    if (moves[i].from < 0 || moves[i].to < 0) return EINVAL;
    for (size_t j = 0; j < i; ++j) {
      if (moves[i].from == moves[j].from || moves[i].to == moves[j].to) return EINVAL;
    }
  }
  for (const DescriptorMove& move : moves) {
    if (os::Fcntl(move.from, F_GETFD, 0) < 0) return errno;
  }
  return 0;
}

// dup3(2) onto a number that is in the way of nobody. The old number goes away at once; since no
// pending move needs it as its target's occupant any more, the next round can use it.
int MoveOne(DescriptorMove* move, bool close_on_exec) {
  int result;
  do {
    result = os::Dup3(move->from, move->to, close_on_exec ? O_CLOEXEC : 0);
  } while (result < 0 && (errno == EINTR || errno == EBUSY));
  if (result < 0) return errno;
  os::Close(move->from);
  move->from = move->to;
  return 0;
}

// Moves a descriptor out of the way, to any free number: when this is needed, every number that
// somebody still waits for is taken, and so is every one that is done.
int StepAside(DescriptorMove* move) {
  const int aside = os::Fcntl(move->from, F_DUPFD_CLOEXEC, kFirstOther);
  if (aside < 0) return errno;
  os::Close(move->from);
  move->from = aside;
  return 0;
}

}  // namespace

absl::Status EnsureStandardDescriptors() {
  for (int fd = 0; fd < kFirstOther; ++fd) {
    if (os::Fcntl(fd, F_GETFD, 0) >= 0) continue;
    // The lowest free number is the one asked for, since all below are open. Not close-on-exec:
    // programs we start need standard descriptors too.
    const int opened = os::Open("/dev/null", O_RDWR, 0);
    if (opened < 0) return absl::ErrnoToStatus(errno, "open /dev/null");
    if (opened != fd) {
      os::Close(opened);
      return absl::InternalError(absl::StrCat("open /dev/null gave ", opened, " and not ", fd));
    }
  }
  return absl::OkStatus();
}

absl::Status CloseDescriptorsExcept(absl::Span<const int> keep) {
  std::vector<int> sorted(keep.begin(), keep.end());
  std::sort(sorted.begin(), sorted.end());
  int next = kFirstOther;
  for (int fd : sorted) {
    if (fd < next) continue;
    absl::Status status = CloseRangeOf(next, fd - 1);
    if (!status.ok()) return status;
    next = fd + 1;
  }
  return CloseRangeOf(next, INT_MAX);
}

int MoveDescriptors(absl::Span<DescriptorMove> moves, bool close_on_exec) {
  if (const int error = CheckMoves(moves); error != 0) return error;
  for (DescriptorMove& move : moves) {
    if (move.from == move.to && os::Fcntl(move.to, F_SETFD, close_on_exec ? FD_CLOEXEC : 0) < 0) {
      return errno;
    }
  }
  while (true) {
    bool progress = false;
    DescriptorMove* in_the_way = nullptr;
    for (DescriptorMove& move : moves) {
      if (move.from == move.to) continue;
      if (DescriptorMove* occupant = PendingFrom(moves, move.to)) {
        in_the_way = occupant;
        continue;
      }
      if (const int error = MoveOne(&move, close_on_exec); error != 0) return error;
      progress = true;
    }
    if (in_the_way == nullptr) return 0;
    if (progress) continue;
    // Only cycles are left. One that steps aside lets the one before it move.
    if (const int error = StepAside(in_the_way); error != 0) return error;
  }
}

}  // namespace posthouse

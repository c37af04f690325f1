#include "posthouse/master/waiting_start.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "posthouse/io/poll_wait.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// Reasons name every problem of a configuration; more than this is of no use to a reader. It is
// below what a pipe holds, so that a master that fails waits for nobody.
constexpr size_t kMaxReason = 8192;

std::string DescribeEnd(int status) {
  if (WIFSIGNALED(status)) return absl::StrCat("killed by signal ", WTERMSIG(status));
  return absl::StrCat("exit status ", WEXITSTATUS(status));
}

}  // namespace

absl::StatusOr<WaitingStart> WaitingStart::Split(absl::Duration limit) {
  int fds[2];
  if (os::Pipe2(fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe for -w");
  UniqueFd read_end(fds[0]);
  UniqueFd write_end(fds[1]);
  const pid_t child = os::Fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "fork for -w");
  WaitingStart start;
  if (child == 0) {
    start.answer_ = std::move(write_end);
  } else {
    write_end.Reset();
    start.Await(read_end.get(), child, limit);
  }
  return start;
}

// Reads until the answer is complete: the zero byte, or the end.
void WaitingStart::Await(int fd, pid_t child, absl::Duration limit) {
  exit_status_ = 1;
  const int64_t deadline_ns = os::SteadyNanos() + absl::ToInt64Nanoseconds(limit);
  for (;;) {
    if (const absl::Status ready = WaitForFdUntil(fd, POLLIN, deadline_ns); !ready.ok()) {
      os::Kill(child, SIGKILL);
      reason_ = absl::IsDeadlineExceeded(ready)
                    ? absl::StrCat("the start took longer than ", absl::FormatDuration(limit),
                                   "; the master was killed")
                    : absl::StrCat("waiting for the master: ", ready.message());
      return;
    }
    char buffer[kMaxReason];
    const ssize_t count = os::Read(fd, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    if (buffer[0] == '\0') {
      exit_status_ = 0;
      return;
    }
    reason_.append(buffer, static_cast<size_t>(count));
  }
  if (!reason_.empty()) return;
  int status = 0;
  while (os::Waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  reason_ = absl::StrCat("the master ended before it was ready: ", DescribeEnd(status));
}

void WaitingStart::Succeed() {
  if (!answer_.valid()) return;
  // Whoever waits may have been killed; the master lives on.
  while (os::Write(answer_.get(), "", 1) < 0 && errno == EINTR) {
  }
  answer_.Reset();
}

void WaitingStart::Fail(absl::string_view reason) {
  if (!answer_.valid()) return;
  reason = reason.substr(0, std::min(reason.size(), kMaxReason - 1));
  while (os::Write(answer_.get(), reason.data(), reason.size()) < 0 && errno == EINTR) {
  }
  answer_.Reset();
}

}  // namespace posthouse

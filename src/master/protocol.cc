#include "posthouse/master/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "posthouse/base/check.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// The wire is three C ints; both sides of a channel run on one machine, so that their sizes agree
// as long as int is what it is everywhere Postfix runs (P14).
static_assert(sizeof(int) == 4 && sizeof(unsigned) == 4, "status messages are made of 4-byte ints");
static_assert(sizeof(StatusMessageBytes) == kStatusMessageSize, "a status message has no padding");

// Tokens moved by one system call (P47, P49).
constexpr int kTokensPerCall = 1024;

// A value of the environment may be of any length and content; a message quotes this much of it.
constexpr size_t kQuotedBytes = 40;

std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kQuotedBytes)),
                      text.size() > kQuotedBytes ? "...\"" : "\"");
}

// Whether `errno` says "not now" rather than "never again".
bool IsTemporary(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS || error == ENOMEM;
}

// poll(2) of one descriptor until `deadline_ns`, 0 for no waiting at all. Returns revents, or 0
// when nothing happened in time or the call failed.
short PollOne(int fd, short events, int64_t deadline_ns) {
  for (;;) {
    int timeout_ms = 0;
    if (deadline_ns > 0) {
      // Rounded up: a poll that ends before the deadline would turn the rest into a busy loop.
      const int64_t left = std::max<int64_t>(0, deadline_ns - os::SteadyNanos());
      timeout_ms = static_cast<int>(std::min<int64_t>((left + 999999) / 1000000, 3600 * 1000));
    }
    pollfd entry = {fd, events, 0};
    const int ready = os::Poll(&entry, 1, timeout_ms);
    if (ready > 0) return entry.revents;
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0 || timeout_ms == 0 || os::SteadyNanos() >= deadline_ns) return 0;
  }
}

// Where the name of a "name=value" string ends; npos for a bare name.
absl::string_view NameOf(absl::string_view item) { return item.substr(0, item.find('=')); }

}  // namespace

absl::StatusOr<uint32_t> ParseGeneration(absl::string_view text) {
  uint64_t value = 0;
  for (const char digit : text) {
    if (digit < '0' || digit > '7') {
      return absl::InvalidArgumentError(absl::StrCat("environment variable ", kGenerationVariable,
                                                     " is not an octal number: ", Quoted(text)));
    }
    value = value * 8 + static_cast<uint64_t>(digit - '0');
    if (value > UINT32_MAX) {
      return absl::InvalidArgumentError(absl::StrCat("environment variable ", kGenerationVariable,
                                                     " has more than 32 bits: ", Quoted(text)));
    }
  }
  if (text.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("environment variable ", kGenerationVariable, " is empty"));
  }
  return static_cast<uint32_t>(value);
}

std::string FormatGeneration(uint32_t generation) { return absl::StrFormat("%o", generation); }

StatusMessageBytes EncodeStatusMessage(const StatusMessage& message) {
  StatusMessageBytes bytes;
  std::memcpy(bytes.data(), &message.pid, 4);
  std::memcpy(bytes.data() + 4, &message.generation, 4);
  std::memcpy(bytes.data() + 8, &message.availability, 4);
  return bytes;
}

absl::StatusOr<StatusMessage> DecodeStatusMessage(absl::string_view bytes) {
  if (bytes.size() != kStatusMessageSize) {
    return absl::InvalidArgumentError(absl::StrCat("status message has ", bytes.size(),
                                                   " bytes instead of ", kStatusMessageSize));
  }
  StatusMessage message;
  std::memcpy(&message.pid, bytes.data(), 4);
  std::memcpy(&message.generation, bytes.data() + 4, 4);
  std::memcpy(&message.availability, bytes.data() + 8, 4);
  if (message.pid <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("status message has process number ", message.pid));
  }
  if (message.availability != static_cast<int32_t>(Availability::kTaken) &&
      message.availability != static_cast<int32_t>(Availability::kAvailable)) {
    return absl::InvalidArgumentError(absl::StrCat("status message of process ", message.pid,
                                                   " has availability ", message.availability));
  }
  return message;
}

WorkerStatus::WorkerStatus(int fd, int32_t pid, uint32_t generation, absl::Duration patience)
    : fd_(fd), pid_(pid), generation_(generation), patience_(patience) {}

WorkerStatus::Result WorkerStatus::Report(Availability availability) {
  if (fd_ < 0) return Result::kSent;
  // Only the newest state matters: what is still owed from before is out of date now.
  owed_ = availability;
  return SendOwed();
}

WorkerStatus::Result WorkerStatus::Flush() {
  if (fd_ < 0) return Result::kSent;
  return SendOwed();
}

WorkerStatus::Result WorkerStatus::SendOwed() {
  if (cut_bytes_ > 0) {
    // The rest of a message comes before anything else, or the master loses the framing.
    size_t sent = 0;
    const absl::string_view all(cut_.data(), cut_.size());
    const Result result = Send(all.substr(all.size() - cut_bytes_), &sent);
    cut_bytes_ -= sent;
    if (result != Result::kSent) return result;
  }
  if (!owed_.has_value()) return Result::kSent;
  cut_ = EncodeStatusMessage({pid_, generation_, static_cast<int32_t>(*owed_)});
  size_t sent = 0;
  const Result result = Send(absl::string_view(cut_.data(), cut_.size()), &sent);
  if (sent > 0) {
    // A message that has begun is no longer owed but cut: its rest follows, whatever comes next.
    owed_.reset();
    cut_bytes_ = cut_.size() - sent;
  }
  return result;
}

WorkerStatus::Result WorkerStatus::Send(absl::string_view bytes, size_t* sent) {
  *sent = 0;
  const int64_t deadline_ns =
      patience_ > absl::ZeroDuration()
          ? os::SteadyNanos() + absl::ToInt64Nanoseconds(std::min(patience_, absl::Hours(1)))
          : 0;
  while (*sent < bytes.size()) {
    const absl::string_view rest = bytes.substr(*sent);
    ssize_t count = os::Send(fd_, rest.data(), rest.size(), MSG_DONTWAIT | os::kMsgNosignal);
    if (count < 0 && errno == ENOTSOCK) {
      // A pipe, as some systems use for the channel. It may be in blocking mode and its flags are
      // not ours to change; a pipe that poll calls writable has room for one message.
      const short ready = PollOne(fd_, POLLOUT, 0);
      if (ready & (POLLERR | POLLHUP | POLLNVAL)) return Result::kDisconnected;
      if (ready & POLLOUT) {
        count = os::Write(fd_, rest.data(), rest.size());
      } else {
        errno = EAGAIN;
      }
    }
    if (count > 0) {
      *sent += static_cast<size_t>(count);
      continue;
    }
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && !IsTemporary(errno)) return Result::kDisconnected;
    // Full. Waiting is what `patience` allows; whoever has none comes back with Flush().
    if (deadline_ns == 0 || PollOne(fd_, POLLOUT, deadline_ns) == 0) return Result::kDeferred;
    if (os::SteadyNanos() >= deadline_ns) return Result::kDeferred;
  }
  return Result::kSent;
}

absl::StatusOr<int> FlowTokens::Take(int count) {
  POSTHOUSE_CHECK(count > 0, "the number of flow tokens to take is not positive");
  // With the write end closed a read would answer end-of-file for ever: that is a worker without a
  // flow pipe, not one without tokens (P47).
  if (os::Fcntl(write_fd_, F_GETFD, 0) < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("flow pipe descriptor ", write_fd_, " is not open"));
  }
  int taken = 0;
  char tokens[kTokensPerCall];
  while (taken < count) {
    // Polled first: the flags of the open file are everybody's, so that its being non-blocking is
    // an expectation and not a fact.
    if ((PollOne(read_fd_, POLLIN, 0) & (POLLIN | POLLNVAL)) == 0) return taken;
    const ssize_t got =
        os::Read(read_fd_, tokens, static_cast<size_t>(std::min(count - taken, kTokensPerCall)));
    if (got > 0) {
      taken += static_cast<int>(got);
    } else if (got == 0) {
      return taken;
    } else if (errno != EINTR) {
      if (IsTemporary(errno) || taken > 0) return taken;
      if (errno == EBADF) {
        return absl::FailedPreconditionError(
            absl::StrCat("flow pipe descriptor ", read_fd_, " is not open"));
      }
      return absl::ErrnoToStatus(errno, absl::StrCat("read of flow tokens on fd ", read_fd_));
    }
  }
  return taken;
}

absl::StatusOr<int> FlowTokens::Put(int count) {
  POSTHOUSE_CHECK(count > 0, "the number of flow tokens to put is not positive");
  const int flags = os::Fcntl(write_fd_, F_GETFL, 0);
  if (flags < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("flow pipe descriptor ", write_fd_, " is not open"));
  }
  static constexpr char kTokens[kTokensPerCall] = {};
  int chunk = kTokensPerCall;
  int put = 0;
  while (put < count) {
    if ((flags & O_NONBLOCK) == 0 && (PollOne(write_fd_, POLLOUT, 0) & POLLOUT) == 0) return put;
    const ssize_t wrote =
        os::Write(write_fd_, kTokens, static_cast<size_t>(std::min(count - put, chunk)));
    if (wrote > 0) {
      put += static_cast<int>(wrote);
    } else if (wrote < 0 && errno == EINTR) {
      continue;
    } else if (wrote < 0 && !IsTemporary(errno)) {
      if (put > 0) return put;
      return absl::ErrnoToStatus(errno, absl::StrCat("write of flow tokens on fd ", write_fd_));
    } else if (chunk > 1) {
      // A write to a pipe is all or nothing, so a smaller one may still fit.
      chunk = std::min(chunk, count - put) / 2;
      if (chunk == 0) return put;
    } else {
      return put;
    }
  }
  return put;
}

absl::StatusOr<int> FlowTokens::Count() {
  int available = 0;
  if (os::Ioctl(read_fd_, FIONREAD, &available) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("FIONREAD of flow pipe fd ", read_fd_));
  }
  return available;
}

std::vector<std::string> BuildWorkerArguments(const WorkerArguments& arguments) {
  std::vector<std::string> result = {arguments.command};
  const size_t slash = arguments.command.rfind('/');
  const absl::string_view program = slash == std::string::npos
                                        ? absl::string_view(arguments.command)
                                        : absl::string_view(arguments.command).substr(slash + 1);
  const auto add = [&result](absl::string_view letter, absl::string_view value) {
    result.emplace_back(letter);
    result.emplace_back(value);
  };
  if (arguments.process_limit == 1) result.emplace_back("-l");
  if (arguments.process_limit == 0) result.emplace_back("-z");
  if (!arguments.service_name.empty() && program != arguments.service_name) {
    add("-n", arguments.service_name);
  }
  add("-t", arguments.transport);
  if (!arguments.detached) result.emplace_back("-d");
  if (arguments.verbose) result.emplace_back("-v");
  if (arguments.unprivileged) result.emplace_back("-u");
  if (arguments.chroot) result.emplace_back("-c");
  if (arguments.stress.has_value()) add("-o", *arguments.stress ? "stress=yes" : "stress=");
  if (arguments.listen_sockets > 1) add("-s", absl::StrCat(arguments.listen_sockets));
  result.insert(result.end(), arguments.configured.begin(), arguments.configured.end());
  return result;
}

std::vector<std::string> BuildWorkerEnvironment(absl::Span<const std::string> list,
                                                absl::Span<const std::string> current) {
  std::vector<std::string> result;
  const auto set = [&result](const std::string& item) {
    for (std::string& present : result) {
      if (NameOf(present) == NameOf(item)) {
        present = item;
        return;
      }
    }
    result.push_back(item);
  };
  for (const std::string& item : list) {
    if (NameOf(item).empty()) continue;
    if (item.find('=') != std::string::npos) {
      set(item);
      continue;
    }
    for (const std::string& variable : current) {
      // The first of equal names counts, as for getenv(3).
      if (variable.find('=') != std::string::npos && NameOf(variable) == item) {
        set(variable);
        break;
      }
    }
  }
  return result;
}

}  // namespace posthouse

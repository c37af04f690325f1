#include "posthouse/testing/interposer.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "posthouse/os/io_uring.h"
#include "posthouse/os/kqueue.h"
#include "posthouse/os/twins.h"

#if defined(__linux__)
#include <sys/signalfd.h>
#endif
#if __has_include(<sys/random.h>)
#include <sys/random.h>
#endif

namespace posthouse {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr int64_t kNanosPerMilli = 1'000'000;

constexpr const char* kNames[] = {
#define POSTHOUSE_OS_CALL(result, Name, native, parameters, arguments) #Name,
#include "posthouse/os/calls.inc"
#undef POSTHOUSE_OS_CALL
    "KeventWait",
    "IoUringWait",
};

[[noreturn]] void Misuse(const char* sentence) {
  std::fprintf(stderr, "interposer: %s\n", sentence);
  std::abort();
}

// Calls that never fail, or whose failure no caller can see: kAny passes them by.
constexpr bool CanFail(SystemCall call) {
  switch (call) {
    case SystemCall::kClose:
    case SystemCall::kUmask:
    case SystemCall::kIsatty:
    case SystemCall::kGetpid:
    case SystemCall::kGetppid:
    case SystemCall::kGetuid:
    case SystemCall::kGeteuid:
    case SystemCall::kGetgid:
    case SystemCall::kGetegid:
    case SystemCall::kClockGettime:
      return false;
    default:
      return true;
  }
}

// These answer with an error number and leave errno alone.
constexpr bool ReturnsErrorNumber(SystemCall call) {
  switch (call) {
    case SystemCall::kSigmask:
    case SystemCall::kSigwait:
    case SystemCall::kGetpwnamR:
    case SystemCall::kGetpwuidR:
    case SystemCall::kGetgrnamR:
    case SystemCall::kGetgrgidR:
    case SystemCall::kGetaddrinfo:
      return true;
    default:
      return false;
  }
}

constexpr bool MovesBytes(SystemCall call) {
  switch (call) {
    case SystemCall::kRead:
    case SystemCall::kWrite:
    case SystemCall::kWritev:
    case SystemCall::kPread:
    case SystemCall::kPwrite:
    case SystemCall::kRecv:
    case SystemCall::kSend:
    case SystemCall::kRecvmsg:
    case SystemCall::kSendmsg:
      return true;
    default:
      return false;
  }
}

// "EAGAIN" where the C library has the names, "errno 35" elsewhere.
std::string ErrnoName(int error) {
#if defined(__GLIBC__)
  if (const char* name = strerrorname_np(error); name != nullptr) return name;
#endif
  return absl::StrCat("errno ", error);
}

}  // namespace

// The only state at file scope; ready before any other initialiser runs.
struct InterposerHolder {
  static Interposer instance;
};
constinit Interposer InterposerHolder::instance;

Interposer& Interposer::Get() { return InterposerHolder::instance; }

absl::string_view SystemCallName(SystemCall call) {
  if (call == SystemCall::kAny) return "any call";
  const int index = static_cast<int>(call);
  if (index < 0 || index >= kSystemCallCount) Misuse("this is no system call of os.h");
  return kNames[index];
}

int64_t CallCounts::Total() const {
  int64_t total = 0;
  for (int64_t count : of) total += count;
  return total;
}

CallCounts CallCounts::operator-(const CallCounts& earlier) const {
  CallCounts difference;
  for (size_t i = 0; i < of.size(); ++i) difference.of[i] = of[i] - earlier.of[i];
  return difference;
}

std::string CallCounts::ToString() const {
  std::string text;
  for (size_t i = 0; i < of.size(); ++i) {
    if (of[i] == 0) continue;
    absl::StrAppend(&text, text.empty() ? "" : ", ", kNames[i], " ", of[i]);
  }
  return text;
}

void Interposer::Reset() {
  RemoveAllFaults();
  for (Hook*& hook : hooks_) {
    delete hook;
    hook = nullptr;
  }
  StopRecording();
  clock_mode_.store(ClockMode::kReal);
  real_grace_ = absl::ZeroDuration();
  hang_bound_ = absl::Seconds(20);
  itimer_ = {};
  seeded_ = false;
  SetResolver(nullptr);
  SetKqueue(nullptr);
  for (auto& count : counts_) count.store(0);
  closes_of_unowned_.store(0);
  UpdateQuiet();
}

void Interposer::UpdateQuiet() {
  bool quiet = ring_ == nullptr && clock_mode_.load() == ClockMode::kReal && !seeded_ &&
               resolver_ == nullptr && kqueue_ == nullptr;
  for (const Slot& slot : slots_) quiet = quiet && !slot.used.load();
  for (const Hook* hook : hooks_) quiet = quiet && hook == nullptr;
  quiet_.store(quiet, std::memory_order_release);
}

int64_t Interposer::Count(SystemCall call) const {
  return counts_[static_cast<size_t>(call)].load(std::memory_order_relaxed);
}

CallCounts Interposer::Counts() const {
  CallCounts counts;
  for (size_t i = 0; i < counts.of.size(); ++i) {
    counts.of[i] = counts_[i].load(std::memory_order_relaxed);
  }
  return counts;
}

int Interposer::Add(const Fault& fault) {
  if (fault.first < 1 || fault.every < 1 || fault.times < 1) {
    Misuse("first, every and times of a fault begin at 1");
  }
  if (fault.error == 0 && fault.limit == 0) Misuse("a fault needs an error or a limit");
  for (int i = 0; i < kMaxFaults; ++i) {
    Slot& slot = slots_[i];
    if (slot.used.load()) continue;
    slot.fault = fault;
    slot.matches.store(0);
    slot.hits.store(0);
    slot.used.store(true, std::memory_order_release);
    UpdateQuiet();
    return i;
  }
  Misuse("too many faults at a time");
}

void Interposer::Remove(int id) {
  slots_.at(id).used.store(false);
  UpdateQuiet();
}

void Interposer::RemoveAllFaults() {
  for (Slot& slot : slots_) {
    slot.used.store(false);
    slot.hits.store(0);
  }
  UpdateQuiet();
}

int64_t Interposer::Hits(int id) const { return slots_.at(id).hits.load(); }

int Interposer::FailOnce(SystemCall call, int error, int64_t k, int fd) {
  return Add({.call = call, .error = error, .first = k, .fd = fd});
}

int Interposer::FailEvery(SystemCall call, int error, int64_t n, int fd) {
  return Add(
      {.call = call, .error = error, .first = n, .every = n, .times = Fault::kForever, .fd = fd});
}

int Interposer::FailFrom(SystemCall call, int error, int64_t k, int fd) {
  return Add({.call = call, .error = error, .first = k, .times = Fault::kForever, .fd = fd});
}

int Interposer::LimitTransfers(SystemCall call, size_t bytes, int fd) {
  return Add({.call = call, .times = Fault::kForever, .fd = fd, .limit = bytes});
}

void Interposer::SetHook(SystemCall call, Hook hook) {
  Hook*& slot = hooks_.at(static_cast<size_t>(call));
  delete slot;
  slot = hook ? new Hook(std::move(hook)) : nullptr;
  UpdateQuiet();
}

void Interposer::RunHook(SystemCall call, int fd) {
  static thread_local bool inside = false;
  const Hook* hook = hooks_[static_cast<size_t>(call)];
  if (hook == nullptr || inside) return;
  inside = true;
  const Hook copy = *hook;  // a hook may replace itself
  copy(fd);
  inside = false;
}

Interposer::Decision Interposer::Decide(SystemCall call, int fd) {
  for (Slot& slot : slots_) {
    if (!slot.used.load(std::memory_order_acquire)) continue;
    const Fault& fault = slot.fault;
    if (fault.call != call && !(fault.call == SystemCall::kAny && CanFail(call))) continue;
    if (fault.error == 0 && !MovesBytes(call)) continue;
    if (fault.fd != Fault::kAnyFd && fault.fd != fd) continue;
    const int64_t match = slot.matches.fetch_add(1) + 1;
    if (match < fault.first || (match - fault.first) % fault.every != 0) continue;
    if ((match - fault.first) / fault.every >= fault.times) continue;
    slot.hits.fetch_add(1);
    return {.error = fault.error, .limit = fault.limit};
  }
  return {};
}

void Interposer::Record(size_t capacity) {
  if (capacity == 0) Misuse("a record needs room for one call");
  delete ring_;
  ring_ = new std::vector<CallRecord>(capacity);
  kept_.store(0);
  UpdateQuiet();
}

void Interposer::StopRecording() {
  delete ring_;
  ring_ = nullptr;
  UpdateQuiet();
}

void Interposer::Keep(const CallRecord& record) {
  if (ring_ == nullptr) return;
  (*ring_)[kept_.fetch_add(1) % ring_->size()] = record;
}

std::vector<CallRecord> Interposer::Records() const {
  std::vector<CallRecord> records;
  if (ring_ == nullptr) return records;
  const uint64_t end = kept_.load();
  const uint64_t begin = end > ring_->size() ? end - ring_->size() : 0;
  for (uint64_t i = begin; i < end; ++i) records.push_back((*ring_)[i % ring_->size()]);
  return records;
}

std::string Interposer::RecordsToString() const {
  std::string text;
  for (const CallRecord& record : Records()) {
    absl::StrAppend(&text, SystemCallName(record.call), "(");
    if (record.fd >= 0) absl::StrAppend(&text, record.fd);
    absl::StrAppend(&text, ") = ", record.result);
    if (record.error != 0) {
      absl::StrAppend(&text, " ", ErrnoName(record.error));
    }
    absl::StrAppend(&text, record.injected ? " (injected)\n" : "\n");
  }
  return text;
}

void Interposer::UseFakeClock(ClockMode mode) {
  if (clock_mode_.load() == ClockMode::kReal && mode != ClockMode::kReal) {
    steady_ns_.store(kFakeSteadyStart * kNanosPerSecond);
    wall_ns_.store(kFakeWallStart * kNanosPerSecond);
  }
  clock_mode_.store(mode);
  UpdateQuiet();
}

void Interposer::Advance(absl::Duration duration) {
  if (clock_mode_.load() == ClockMode::kReal) Misuse("Advance() without UseFakeClock()");
  if (duration < absl::ZeroDuration()) Misuse("time does not pass backwards; see StepWall()");
  SleepFor(absl::ToInt64Nanoseconds(duration));
}

void Interposer::StepWall(absl::Duration step) {
  if (clock_mode_.load() == ClockMode::kReal) Misuse("StepWall() without UseFakeClock()");
  wall_ns_.fetch_add(absl::ToInt64Nanoseconds(step));
}

void Interposer::SleepFor(int64_t ns) {
  // Far deadlines (F18) must not carry the clocks past their end.
  const int64_t room = std::min(INT64_MAX - steady_ns_.load(), INT64_MAX - wall_ns_.load());
  const int64_t passed = std::min(ns, room);
  steady_ns_.fetch_add(passed);
  wall_ns_.fetch_add(passed);
}

bool Interposer::FakeTime(clockid_t clock, timespec* out) const {
  if (clock_mode_.load(std::memory_order_relaxed) == ClockMode::kReal) return false;
  int64_t ns = 0;
  switch (clock) {
    case CLOCK_MONOTONIC:
#if defined(__linux__)
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
#endif
      ns = steady_ns_.load(std::memory_order_relaxed);
      break;
    case CLOCK_REALTIME:
#if defined(__linux__)
    case CLOCK_REALTIME_COARSE:
#endif
      ns = wall_ns_.load(std::memory_order_relaxed);
      break;
    default:
      return false;  // processor time stays real
  }
  int64_t seconds = ns / kNanosPerSecond;
  if (ns % kNanosPerSecond < 0) --seconds;
  out->tv_sec = seconds;
  out->tv_nsec = ns - seconds * kNanosPerSecond;
  return true;
}

int Interposer::Wait(SystemCall call, int64_t limit_ns, const std::function<int(int)>& wait) {
  if (clock_mode_.load() == ClockMode::kReal || limit_ns == 0) Misuse("not a wait on fake time");
  if (limit_ns < 0) {
    const int result = wait(static_cast<int>(absl::ToInt64Milliseconds(hang_bound_)));
    if (result == 0) Hang(call);
    return result;
  }
  int result = wait(0);
  if (result == 0 && real_grace_ > absl::ZeroDuration()) {
    result = wait(static_cast<int>(absl::ToInt64Milliseconds(real_grace_)));
  }
  if (result == 0 && clock_mode_.load() == ClockMode::kAutoAdvance) SleepFor(limit_ns);
  return result;
}

void Interposer::Hang(SystemCall call) const {
  std::fprintf(stderr,
               "interposer: the test hangs: %s without a time limit found nothing in %s\n%s",
               std::string(SystemCallName(call)).c_str(), absl::FormatDuration(hang_bound_).c_str(),
               RecordsToString().c_str());
  std::abort();
}

void Interposer::SetItimer(const itimerval* value, itimerval* old) {
  if (old != nullptr) *old = itimer_;
  if (value != nullptr) itimer_ = *value;
}

void Interposer::FireItimer() {
  if (!timerisset(&itimer_.it_value)) Misuse("FireItimer() while the timer is not armed");
  itimer_.it_value = itimer_.it_interval;
  ::raise(SIGALRM);
}

void Interposer::SetResolver(Resolver resolver) {
  delete resolver_;
  resolver_ = resolver ? new Resolver(std::move(resolver)) : nullptr;
  UpdateQuiet();
}

void Interposer::SetKqueue(KqueueAnswerer* kqueue) {
  kqueue_ = kqueue;
  UpdateQuiet();
}

void Interposer::SeedRandom(uint64_t seed) {
  seeded_ = true;
  random_state_ = seed;
  UpdateQuiet();
}

bool Interposer::FakeRandom(void* buffer, size_t size) {
  if (!seeded_) return false;
  // A counter stepped by an odd constant and mixed; it only has to look unlike a pattern.
  auto* bytes = static_cast<unsigned char*>(buffer);
  for (size_t i = 0; i < size; ++i) {
    random_state_ += 0x9e3779b97f4a7c15;
    uint64_t mixed = random_state_;
    mixed = (mixed ^ (mixed >> 32)) * 0xd6e8feb86659fd93;
    bytes[i] = static_cast<unsigned char>(mixed >> 56);
  }
  return true;
}

namespace {

// The C library, under the names of the seam.
namespace real {
using os::ItimerWhich;
using os::RlimitResource;
#define POSTHOUSE_OS_CALL(result, Name, native, parameters, arguments) \
  result Name parameters { return ::native arguments; }
#define POSTHOUSE_OS_TWIN_CALL(result, Name, native, parameters, arguments) \
  result Name parameters { return POSTHOUSE_OS_CALLEE(Name, native) arguments; }
#include "posthouse/os/calls.inc"
#undef POSTHOUSE_OS_CALL
}  // namespace real

int FirstInt() { return -1; }
template <typename First, typename... Rest>
int FirstInt(const First& first, const Rest&...) {
  if constexpr (std::is_same_v<First, int>) return first;
  return -1;
}

// A failed look-up yields no entry.
void ClearOutput(passwd** out) { *out = nullptr; }
void ClearOutput(group** out) { *out = nullptr; }
void ClearOutput(...) {}

// At most `limit` bytes of a scattered buffer.
std::vector<iovec> Cut(const iovec* parts, size_t count, size_t limit) {
  std::vector<iovec> cut;
  for (size_t i = 0; i < count && limit > 0; ++i) {
    cut.push_back({parts[i].iov_base, std::min(parts[i].iov_len, limit)});
    limit -= cut.back().iov_len;
  }
  return cut;
}

ssize_t CutCall(ssize_t (*native)(int, void*, size_t), size_t limit, int fd, void* buffer,
                size_t size) {
  return native(fd, buffer, std::min(size, limit));
}
ssize_t CutCall(ssize_t (*native)(int, const void*, size_t), size_t limit, int fd, const void* data,
                size_t size) {
  return native(fd, data, std::min(size, limit));
}
ssize_t CutCall(ssize_t (*native)(int, void*, size_t, int), size_t limit, int fd, void* buffer,
                size_t size, int flags) {
  return native(fd, buffer, std::min(size, limit), flags);
}
ssize_t CutCall(ssize_t (*native)(int, const void*, size_t, int), size_t limit, int fd,
                const void* data, size_t size, int flags) {
  return native(fd, data, std::min(size, limit), flags);
}
ssize_t CutCall(ssize_t (*native)(int, void*, size_t, off_t), size_t limit, int fd, void* buffer,
                size_t size, off_t offset) {
  return native(fd, buffer, std::min(size, limit), offset);
}
ssize_t CutCall(ssize_t (*native)(int, const void*, size_t, off_t), size_t limit, int fd,
                const void* data, size_t size, off_t offset) {
  return native(fd, data, std::min(size, limit), offset);
}
ssize_t CutCall(ssize_t (*native)(int, const iovec*, int), size_t limit, int fd, const iovec* parts,
                int count) {
  const std::vector<iovec> cut = Cut(parts, count, limit);
  return native(fd, cut.data(), static_cast<int>(cut.size()));
}
ssize_t CutCall(ssize_t (*native)(int, msghdr*, int), size_t limit, int fd, msghdr* message,
                int flags) {
  std::vector<iovec> cut = Cut(message->msg_iov, static_cast<size_t>(message->msg_iovlen), limit);
  msghdr shorter = *message;
  shorter.msg_iov = cut.data();
  shorter.msg_iovlen = static_cast<decltype(shorter.msg_iovlen)>(cut.size());
  const ssize_t result = native(fd, &shorter, flags);
  message->msg_namelen = shorter.msg_namelen;
  message->msg_controllen = shorter.msg_controllen;
  message->msg_flags = shorter.msg_flags;
  return result;
}
ssize_t CutCall(ssize_t (*native)(int, const msghdr*, int), size_t limit, int fd,
                const msghdr* message, int flags) {
  std::vector<iovec> cut = Cut(message->msg_iov, static_cast<size_t>(message->msg_iovlen), limit);
  msghdr shorter = *message;
  shorter.msg_iov = cut.data();
  shorter.msg_iovlen = static_cast<decltype(shorter.msg_iovlen)>(cut.size());
  return native(fd, &shorter, flags);
}

// How a call that is not failed is answered where time and chance have a say; the kernel answers
// all others.

int AnswerPoll(Interposer& self, pollfd* fds, nfds_t count, int timeout_ms) {
  if (self.clock_mode() == ClockMode::kReal || timeout_ms == 0) {
    return real::Poll(fds, count, timeout_ms);
  }
  return self.Wait(SystemCall::kPoll, timeout_ms * kNanosPerMilli,
                   [&](int limit_ms) { return real::Poll(fds, count, limit_ms); });
}

int AnswerSelect(Interposer& self, int count, fd_set* readable, fd_set* writable,
                 fd_set* exceptional, timeval* timeout) {
  int64_t limit_ns = -1;
  if (timeout != nullptr) {
    limit_ns = timeout->tv_sec * kNanosPerSecond + timeout->tv_usec * int64_t{1000};
  }
  if (self.clock_mode() == ClockMode::kReal || limit_ns == 0) {
    return real::Select(count, readable, writable, exceptional, timeout);
  }
  // Each try needs the sets as they were given. They are as long as `count` says, which may be
  // more than an fd_set.
  const size_t bytes = (static_cast<size_t>(count) + NFDBITS - 1) / NFDBITS * sizeof(fd_mask);
  fd_set* sets[] = {readable, writable, exceptional};
  std::vector<char> saved[3];
  for (int i = 0; i < 3; ++i) {
    if (sets[i] == nullptr) continue;
    saved[i].assign(reinterpret_cast<char*>(sets[i]), reinterpret_cast<char*>(sets[i]) + bytes);
  }
  return self.Wait(SystemCall::kSelect, limit_ns, [&](int limit_ms) {
    for (int i = 0; i < 3; ++i) {
      if (sets[i] != nullptr && bytes > 0) std::memcpy(sets[i], saved[i].data(), bytes);
    }
    timeval limit = {limit_ms / 1000, limit_ms % 1000 * 1000};
    return real::Select(count, readable, writable, exceptional, &limit);
  });
}

#if defined(__linux__)
int AnswerEpollWait(Interposer& self, int epoll, epoll_event* events, int capacity,
                    int timeout_ms) {
  if (self.clock_mode() == ClockMode::kReal || timeout_ms == 0) {
    return real::EpollWait(epoll, events, capacity, timeout_ms);
  }
  return self.Wait(SystemCall::kEpollWait, timeout_ms * kNanosPerMilli, [&](int limit_ms) {
    return real::EpollWait(epoll, events, capacity, limit_ms);
  });
}
#endif

int AnswerKqueue(Interposer& self) {
  return self.kqueue() != nullptr ? self.kqueue()->Kqueue() : real::Kqueue();
}

int AnswerKevent(Interposer& self, int queue, const struct kevent* changes, int change_count,
                 struct kevent* events, int capacity, const timespec* timeout) {
  const auto call = [&](const timespec* limit) {
    return self.kqueue() != nullptr
               ? self.kqueue()->Kevent(queue, changes, change_count, events, capacity, limit)
               : real::Kevent(queue, changes, change_count, events, capacity, limit);
  };
  int64_t limit_ns = -1;
  if (timeout != nullptr) limit_ns = timeout->tv_sec * kNanosPerSecond + timeout->tv_nsec;
  const bool valid = timeout == nullptr || (timeout->tv_sec >= 0 && timeout->tv_nsec >= 0 &&
                                            timeout->tv_nsec < kNanosPerSecond);
  if (self.clock_mode() == ClockMode::kReal || limit_ns == 0 || capacity == 0 || !valid) {
    return call(timeout);
  }
  return self.Wait(SystemCall::kKeventWait, limit_ns, [&](int limit_ms) {
    const timespec limit = {limit_ms / 1000, limit_ms % 1000 * kNanosPerMilli};
    const int result = call(&limit);
    change_count = 0;  // were made in the first try
    return result;
  });
}

#if defined(__linux__)
// Submits first, so that what the wait itself says is seen.
int AnswerIoUringEnter(Interposer& self, int ring, unsigned submit, unsigned wait_for,
                       unsigned flags, const void* argument, size_t size) {
  int64_t limit_ns = -1;
  io_uring::GetEventsArgument limited = {};
  if ((flags & io_uring::kEnterExtArg) != 0) {
    limited = *static_cast<const io_uring::GetEventsArgument*>(argument);
    const auto* timeout = reinterpret_cast<const io_uring::Timespec*>(limited.timeout);
    if (timeout != nullptr) limit_ns = timeout->seconds * kNanosPerSecond + timeout->nanoseconds;
  }
  if (self.clock_mode() == ClockMode::kReal || wait_for == 0 || limit_ns == 0) {
    return real::IoUringEnter(ring, submit, wait_for, flags, argument, size);
  }
  int submitted = 0;
  if (submit > 0) {
    submitted = real::IoUringEnter(ring, submit, 0, 0, nullptr, 0);
    if (submitted != static_cast<int>(submit)) return submitted;
  }
  const int found = self.Wait(SystemCall::kIoUringWait, limit_ns, [&](int limit_ms) {
    const io_uring::Timespec limit = {limit_ms / 1000, limit_ms % 1000 * kNanosPerMilli};
    limited.timeout = reinterpret_cast<uint64_t>(&limit);
    const int result = real::IoUringEnter(ring, 0, wait_for, flags | io_uring::kEnterExtArg,
                                          &limited, sizeof limited);
    return result == 0 ? 1 : errno == ETIME ? 0 : -1;
  });
  if (found > 0 || submitted > 0) return submitted;
  if (found == 0) errno = ETIME;
  return -1;
}
#endif

constexpr bool ClosesNumbers(SystemCall call) {
  switch (call) {
    case SystemCall::kClose:
    case SystemCall::kDup2:
    case SystemCall::kDup3:
#if defined(__linux__)
    case SystemCall::kCloseRange:
#endif
      return true;
    default:
      return false;
  }
}

// The overloads have the parameters of the calls above.
void TellOfClosed(KqueueAnswerer* kqueue, int fd) { kqueue->OnClosed(fd, fd); }
void TellOfClosed(KqueueAnswerer* kqueue, int from, int to, int flags = 0) {
  if (from != to) kqueue->OnClosed(to, to);
}
[[maybe_unused]] void TellOfClosed(KqueueAnswerer* kqueue, unsigned first, unsigned last,
                                   int flags) {
  const auto bounded = [](unsigned fd) {
    return static_cast<int>(std::min<unsigned>(fd, INT_MAX));
  };
  if (flags == 0) kqueue->OnClosed(bounded(first), bounded(last));
}

int AnswerClockGettime(Interposer& self, clockid_t clock, timespec* out) {
  return self.FakeTime(clock, out) ? 0 : real::ClockGettime(clock, out);
}

int AnswerNanosleep(Interposer& self, const timespec* duration, timespec* left) {
  if (self.clock_mode() == ClockMode::kReal) return real::Nanosleep(duration, left);
  self.SleepFor(duration->tv_sec * kNanosPerSecond + duration->tv_nsec);
  if (left != nullptr) *left = {};
  return 0;
}

int AnswerSetitimer(Interposer& self, os::ItimerWhich which, const itimerval* value,
                    itimerval* old) {
  if (self.clock_mode() == ClockMode::kReal || which != ITIMER_REAL) {
    return real::Setitimer(which, value, old);
  }
  self.SetItimer(value, old);
  return 0;
}

ssize_t AnswerGetrandom(Interposer& self, void* buffer, size_t size, unsigned flags) {
  if (self.FakeRandom(buffer, size)) return static_cast<ssize_t>(size);
  return real::Getrandom(buffer, size, flags);
}

int AnswerGetaddrinfo(Interposer& self, const char* host, const char* port, const addrinfo* hints,
                      addrinfo** out) {
  if (self.resolver() != nullptr) return (*self.resolver())(host, port, hints, out);
  return real::Getaddrinfo(host, port, hints, out);
}

template <SystemCall call, typename Result>
Result FailureResult(int error) {
  if constexpr (ReturnsErrorNumber(call)) {
    return error;
  } else if constexpr (std::is_pointer_v<Result>) {
    return reinterpret_cast<Result>(-1);  // MAP_FAILED
  } else {
    return static_cast<Result>(-1);
  }
}

template <typename Result>
int64_t ToNumber(Result result) {
  if constexpr (std::is_pointer_v<Result>) {
    return reinterpret_cast<intptr_t>(result);
  } else {
    return static_cast<int64_t>(result);
  }
}

bool WithoutChanges(int queue, const struct kevent* changes, int change_count,
                    struct kevent* events, int capacity, const timespec* timeout) {
  return change_count == 0;
}

#if defined(__linux__)
bool WaitsForEvents(int ring, unsigned submit, unsigned wait_for, unsigned flags,
                    const void* argument, size_t size) {
  return wait_for > 0 || (flags & io_uring::kEnterExtArg) != 0;
}
#endif

template <SystemCall call, typename Signature>
struct Dispatcher;

// A call without a result cannot fail; a fault leaves it out.
template <SystemCall call, typename... Args>
struct Dispatcher<call, void(Args...)> {
  void (*native)(Args...);

  void operator()(Args... args) const {
    Interposer& self = Interposer::Get();
    self.CountCall(call);
    if (!self.quiet()) {
      self.RunHook(call, FirstInt(args...));
      const Interposer::Decision decision = self.Decide(call, FirstInt(args...));
      const bool injected = decision.error != 0;
      self.Keep({.call = call, .error = decision.error, .injected = injected});
      if (injected) return;
    }
    native(args...);
  }
};

template <SystemCall call, typename Result, typename... Args>
struct Dispatcher<call, Result(Args...)> {
  Result (*native)(Args...);

  Result operator()(Args... args) const {
    Interposer& self = Interposer::Get();
    if constexpr (call == SystemCall::kKevent) {
      if (WithoutChanges(args...)) {
        return Dispatcher<SystemCall::kKeventWait, Result(Args...)>{native}(args...);
      }
    }
#if defined(__linux__)
    if constexpr (call == SystemCall::kIoUringEnter) {
      if (WaitsForEvents(args...)) {
        return Dispatcher<SystemCall::kIoUringWait, Result(Args...)>{native}(args...);
      }
    }
#endif
    self.CountCall(call);
    if constexpr (call == SystemCall::kClose) return Observed(self, args...);
    if (self.quiet()) return native(args...);
    return Observed(self, args...);
  }

  Result Observed(Interposer& self, Args... args) const {
    const int saved_errno = errno;
    const int fd = FirstInt(args...);
    self.RunHook(call, fd);
    const Interposer::Decision decision = self.Decide(call, fd);
    errno = saved_errno;
    Result result;
    if (decision.error != 0) {
      if constexpr (call == SystemCall::kClose) native(args...);
      (ClearOutput(args), ...);
      result = FailureResult<call, Result>(decision.error);
      if (!ReturnsErrorNumber(call)) errno = decision.error;
    } else if (decision.limit != 0) {
      result = Shortened(decision.limit, args...);
    } else {
      result = Answered(self, args...);
    }
    const int after = errno;
    const bool failed =
        ReturnsErrorNumber(call) ? result != Result{} : result == FailureResult<call, Result>(0);
    if (call == SystemCall::kClose && failed && after == EBADF && decision.error == 0) {
      self.CountCloseOfUnowned();
    }
    if constexpr (ClosesNumbers(call)) {
      const bool closed = !failed || call == SystemCall::kClose;
      if (closed && self.kqueue() != nullptr) TellOfClosed(self.kqueue(), args...);
    }
    self.Keep({.call = call,
               .fd = fd,
               .result = ToNumber(result),
               .error = !failed                    ? 0
                        : ReturnsErrorNumber(call) ? static_cast<int>(ToNumber(result))
                                                   : after,
               .injected = decision.error != 0 || decision.limit != 0});
    errno = after;
    return result;
  }

  Result Shortened(size_t limit, Args... args) const {
    if constexpr (MovesBytes(call)) {
      return CutCall(native, limit, args...);
    } else {
      return native(args...);
    }
  }

  Result Answered(Interposer& self, Args... args) const {
    if constexpr (call == SystemCall::kPoll) {
      return AnswerPoll(self, args...);
    } else if constexpr (call == SystemCall::kSelect) {
      return AnswerSelect(self, args...);
#if defined(__linux__)
    } else if constexpr (call == SystemCall::kEpollWait) {
      return AnswerEpollWait(self, args...);
    } else if constexpr (call == SystemCall::kIoUringEnter || call == SystemCall::kIoUringWait) {
      return AnswerIoUringEnter(self, args...);
#endif
    } else if constexpr (call == SystemCall::kKqueue) {
      return AnswerKqueue(self);
    } else if constexpr (call == SystemCall::kKevent || call == SystemCall::kKeventWait) {
      return AnswerKevent(self, args...);
    } else if constexpr (call == SystemCall::kClockGettime) {
      return AnswerClockGettime(self, args...);
    } else if constexpr (call == SystemCall::kNanosleep) {
      return AnswerNanosleep(self, args...);
    } else if constexpr (call == SystemCall::kSetitimer) {
      return AnswerSetitimer(self, args...);
    } else if constexpr (call == SystemCall::kGetaddrinfo) {
      return AnswerGetaddrinfo(self, args...);
    } else if constexpr (call == SystemCall::kGetrandom) {
      return AnswerGetrandom(self, args...);
    } else {
      return native(args...);
    }
  }
};

}  // namespace

namespace os {

#define POSTHOUSE_OS_CALL(result, Name, native, parameters, arguments)                   \
  result Name parameters {                                                               \
    return Dispatcher<SystemCall::k##Name, decltype(real::Name)>{&real::Name} arguments; \
  }
#include "posthouse/os/calls.inc"
#undef POSTHOUSE_OS_CALL

}  // namespace os
}  // namespace posthouse

// Interposer answers the seam of posthouse/os/os.h in tests: it counts every call, records and
// fails calls on request, keeps a clock of its own, and hands everything else to the C library.
//
//   posthouse_cc_test(name = "accept_test", kernel = None, deps = ["//src/testing:interposer",
//   ...])
//
//   TEST(Accept, RunsOutOfDescriptors) {
//     ScopedInterposer system;                               // a clean one, and clean again after
//     system->FailOnce(SystemCall::kAccept4, EMFILE);        // the next call fails
//     system->FailEvery(SystemCall::kRead, EINTR, 3);        // each third one
//     system->LimitTransfers(SystemCall::kRecv, 1);          // one byte at a time
//     system->UseFakeClock();                                // a 1000 s timer takes no time
//     ...
//     EXPECT_EQ(system->Count(SystemCall::kAccept4), 2);
//   }
//
// A target links either this library or //src/os:kernel. There is one Interposer per process
// because the functions that it answers have no object to ask.
//
// Thread: the calls may come from any thread and from signal handlers (hooks apart); configure it
// while no other thread calls. Fork: the child has a copy of everything, faults and fake time
// included. Errors: a wrong use aborts with a sentence on standard error.

#ifndef POSTHOUSE_TESTING_INTERPOSER_H_
#define POSTHOUSE_TESTING_INTERPOSER_H_

#include <sys/time.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/os/os.h"

namespace posthouse {

// One value per call of the seam: kClose, kRead, kEpollWait, ..., made from calls.inc.
enum class SystemCall : int {
#define POSTHOUSE_OS_CALL(result, Name, native, parameters, arguments) k##Name,
#include "posthouse/os/calls.inc"
#undef POSTHOUSE_OS_CALL
  // Kevent() without changes, which waits; kKevent is one that changes the queue.
  kKeventWait,
  // IoUringEnter() for a number of completions or with a time limit; kIoUringEnter is one that only
  // submits.
  kIoUringWait,
  kCount,
  kAny,  // in a Fault: every call that can fail; never counted as such
};

inline constexpr int kSystemCallCount = static_cast<int>(SystemCall::kCount);

// "EpollWait", as in os.h.
absl::string_view SystemCallName(SystemCall call);

// Which calls fail or are cut short. The defaults: the next call, once, on any descriptor.
struct Fault {
  SystemCall call = SystemCall::kAny;
  // What the call answers; 0: it is not failed but shortened to `limit`. For the calls that return
  // an error number instead of setting errno (Sigmask, GetpwnamR, Getaddrinfo, ...) it is that.
  int error = 0;
  // The first matching call that is hit, counted from 1 and from the moment of Add().
  int64_t first = 1;
  // After the first, each n-th is hit.
  int64_t every = 1;
  // How often it strikes at most.
  int64_t times = 1;
  // Only calls whose first argument is this descriptor; kAnyFd for all.
  int fd = -1;
  // Read, Write, Writev, Pread, Pwrite, Recv, Send, Recvmsg and Sendmsg move at most this many
  // bytes.
  size_t limit = 0;

  static constexpr int kAnyFd = -1;
  static constexpr int64_t kForever = INT64_MAX;
};

// What one call did.
struct CallRecord {
  SystemCall call = SystemCall::kCount;
  int fd = -1;         // the first argument if it is an int (a descriptor, mostly), else -1
  int64_t result = 0;  // pointers as numbers
  int error = 0;       // errno if the call failed, else 0
  bool injected = false;
};

// How often each call was made; made by Interposer::Counts().
struct CallCounts {
  std::array<int64_t, kSystemCallCount> of = {};

  int64_t operator[](SystemCall call) const { return of[static_cast<size_t>(call)]; }
  int64_t Total() const;
  CallCounts operator-(const CallCounts& earlier) const;
  // "EpollWait 2, Read 1": those that are not zero.
  std::string ToString() const;
};

enum class ClockMode {
  kReal,
  // Time moves only when a test says so; waits with a time limit look once at the kernel and
  // return.
  kManual,
  // A wait that finds nothing ready moves the clock to its time limit and returns.
  kAutoAdvance,
};

// Plays the kernel behind Kqueue() and Kevent() where the system has none, or where a test wants
// one with habits of its own.
class KqueueAnswerer {
 public:
  virtual ~KqueueAnswerer() = default;
  virtual int Kqueue() = 0;
  // With the time limit already translated if the clock is fake.
  virtual int Kevent(int queue, const struct kevent* changes, int change_count,
                     struct kevent* events, int capacity, const timespec* timeout) = 0;
  // The numbers from `first` to `last` are not open any more, or belong to another file, by
  // Close(), Dup2(), Dup3() or CloseRange().
  virtual void OnClosed(int first, int last) = 0;
};

class Interposer {
 public:
  static Interposer& Get();
  Interposer(const Interposer&) = delete;
  Interposer& operator=(const Interposer&) = delete;

  // Back to the state at program start: real clock, no faults, no hooks, no records, all counts 0.
  void Reset();

  // --- Counts: always on, one increment per call. Failed and injected calls count too. ---

  int64_t Count(SystemCall call) const;
  CallCounts Counts() const;
  // Calls of close(2) that the kernel answered with EBADF: a number closed twice (F36).
  int64_t closes_of_unowned() const { return closes_of_unowned_.load(std::memory_order_relaxed); }

  // --- Faults. When several match one call, the one added first decides. ---

  // Returns a number for Hits() and Remove(). At most kMaxFaults at a time.
  int Add(const Fault& fault);
  void Remove(int id);
  void RemoveAllFaults();
  // How often the fault struck.
  int64_t Hits(int id) const;

  // The k-th call from now.
  int FailOnce(SystemCall call, int error, int64_t k = 1, int fd = Fault::kAnyFd);
  // Calls n, 2n, 3n, ... from now.
  int FailEvery(SystemCall call, int error, int64_t n, int fd = Fault::kAnyFd);
  // The k-th call from now and all later ones.
  int FailFrom(SystemCall call, int error, int64_t k = 1, int fd = Fault::kAnyFd);
  // Each transfer moves at most `bytes` (F40).
  int LimitTransfers(SystemCall call, size_t bytes, int fd = Fault::kAnyFd);

  // An injected failure of Close() closes all the same, as Linux does; every other call that is
  // failed does not reach the kernel.

  // --- Hooks ---

  // Runs before each call of this kind, in the calling thread; the calls that a hook makes run no
  // hooks. Null takes it away. Not for calls that are made in signal handlers.
  using Hook = std::function<void(int fd)>;
  void SetHook(SystemCall call, Hook hook);

  // --- Records ---

  // Keeps the last `capacity` calls.
  void Record(size_t capacity = 4096);
  void StopRecording();
  // Oldest first.
  std::vector<CallRecord> Records() const;
  // One line per call: "Read(7) = -1 EAGAIN".
  std::string RecordsToString() const;

  // --- The clock ---
  //
  // From UseFakeClock() on, CLOCK_MONOTONIC and CLOCK_REALTIME (and their relatives) are the
  // test's. Both begin at fixed moments, the steady one later than any real uptime; switch over
  // before anything that remembers times is made.
  // EpollWait, IoUringEnter, Kevent, Poll and Select without a limit really wait, until
  // hang_bound() has passed: then the test has hung, which is said on standard error, and the
  // process aborts. Nanosleep moves the clock. Setitimer is remembered and not handed over.

  static constexpr int64_t kFakeSteadyStart = 1'000'000'000;  // seconds
  static constexpr int64_t kFakeWallStart = 1'767'225'600;    // 2026-01-01 00:00:00 UTC

  void UseFakeClock(ClockMode mode = ClockMode::kAutoAdvance);
  ClockMode clock_mode() const { return clock_mode_.load(std::memory_order_relaxed); }
  // Time passes on both clocks. REQUIRES: fake clock; duration >= 0.
  void Advance(absl::Duration duration);
  // Somebody sets the calendar clock; either direction. REQUIRES: fake clock.
  void StepWall(absl::Duration step);
  int64_t fake_steady_ns() const { return steady_ns_.load(std::memory_order_relaxed); }
  // Before kAutoAdvance moves the clock, wait this long in real time for what other processes or
  // threads may be about to send. Default 0.
  void set_real_grace(absl::Duration grace) { real_grace_ = grace; }
  void set_hang_bound(absl::Duration bound) { hang_bound_ = bound; }

  // ITIMER_REAL as it was set last while the clock is fake; zero when disarmed.
  itimerval itimer() const { return itimer_; }
  // Raises SIGALRM as if it had expired; a timer without an interval is disarmed.
  void FireItimer();

  // From now on Getrandom() yields a sequence that the seed determines.
  void SeedRandom(uint64_t seed);

  // From now on Getaddrinfo() asks this function, so that a test says what a name means. Its
  // result is freed by freeaddrinfo(3). Null goes back to the system's.
  using Resolver =
      std::function<int(const char* host, const char* port, const addrinfo* hints, addrinfo** out)>;
  void SetResolver(Resolver resolver);

  // From now on Kqueue() and Kevent() ask this, counted, failed and timed like every other call.
  // Null goes back to the system's.
  void SetKqueue(KqueueAnswerer* kqueue);

  static constexpr int kMaxFaults = 64;

  // What the definitions of the calls use; not for tests.
  struct Decision {
    int error = 0;
    size_t limit = 0;
  };
  bool quiet() const { return quiet_.load(std::memory_order_acquire); }
  void CountCall(SystemCall call) {
    counts_[static_cast<size_t>(call)].fetch_add(1, std::memory_order_relaxed);
  }
  void CountCloseOfUnowned() { closes_of_unowned_.fetch_add(1, std::memory_order_relaxed); }
  void RunHook(SystemCall call, int fd);
  Decision Decide(SystemCall call, int fd);
  void Keep(const CallRecord& record);
  bool FakeTime(clockid_t clock, timespec* out) const;
  // See kAutoAdvance. `wait` takes a limit in milliseconds and returns the call's result.
  int Wait(SystemCall call, int64_t limit_ns, const std::function<int(int)>& wait);
  void SleepFor(int64_t ns);
  void SetItimer(const itimerval* value, itimerval* old);
  bool FakeRandom(void* buffer, size_t size);
  const Resolver* resolver() const { return resolver_; }
  KqueueAnswerer* kqueue() const { return kqueue_; }

 private:
  friend struct InterposerHolder;

  // A fault and what has become of it. Slots are filled before they are published by `used` and
  // never moved, so that calls need no lock.
  struct Slot {
    std::atomic<bool> used{false};
    Fault fault;
    std::atomic<int64_t> matches{0};
    std::atomic<int64_t> hits{0};
  };

  constexpr Interposer() = default;

  void UpdateQuiet();
  [[noreturn]] void Hang(SystemCall call) const;

  std::atomic<bool> quiet_{true};
  std::array<std::atomic<int64_t>, kSystemCallCount> counts_ = {};
  std::atomic<int64_t> closes_of_unowned_{0};
  std::array<Slot, kMaxFaults> slots_ = {};
  std::array<Hook*, kSystemCallCount> hooks_ = {};
  std::vector<CallRecord>* ring_ = nullptr;
  std::atomic<uint64_t> kept_{0};
  std::atomic<ClockMode> clock_mode_{ClockMode::kReal};
  std::atomic<int64_t> steady_ns_{0};
  std::atomic<int64_t> wall_ns_{0};
  absl::Duration real_grace_ = absl::ZeroDuration();
  absl::Duration hang_bound_ = absl::Seconds(20);
  itimerval itimer_ = {};
  bool seeded_ = false;
  uint64_t random_state_ = 0;
  Resolver* resolver_ = nullptr;
  KqueueAnswerer* kqueue_ = nullptr;
};

// Resets the interposer at both ends of a scope.
class ScopedInterposer {
 public:
  ScopedInterposer() { Interposer::Get().Reset(); }
  ~ScopedInterposer() { Interposer::Get().Reset(); }
  ScopedInterposer(const ScopedInterposer&) = delete;
  ScopedInterposer& operator=(const ScopedInterposer&) = delete;

  Interposer* operator->() const { return &Interposer::Get(); }
  Interposer& operator*() const { return Interposer::Get(); }
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTING_INTERPOSER_H_

// The workloads W1 to W4, as templates over an adapter: nobody pays for a virtual call.
//
// W1 dispatch: n descriptors are watched, `active` tokens go round. Each callback reads one token
//    and writes one to the next descriptor of a shuffled ring.
// W2 the same, and each callback pushes the idle timeout of its descriptor back, 10 to 60 s.
// W3 timers: insert T, 20 to 80 s ahead; give all another deadline there, at random; push all back
//    by up to 20 s; cancel half; all in shuffled orders. Fire the rest on a clock that is moved by
//    a second for each turn that does not wait.
// W4 changes of interest on 64 descriptors that are never ready, and one turn that does not wait
//    after each sweep over them.
//
// An adapter is a class like this. Target is a class of the workload; the nested types stay where
// they were made, and their destructors end their registrations.
//
//   class Adapter {
//     explicit Adapter(Options* options);  // calls Unsupported() if it cannot be made
//     void Run();                          // turns, until a callback has called Stop()
//     void Stop();
//     void Poll();                         // one turn that does not wait
//     void Describe(Report* report);       // backend, version
//
//     // Calls target->OnReadable() whenever the descriptor is readable.
//     template <typename Target> class Reader { Reader(Adapter*, int fd, Target*); };
//     // The same and target->OnTimer() when that has not happened, or Touch() not been called, for
//     // `delay`. OnReadable() calls Touch(); a library that needs no telling has an empty one.
//     template <typename Target> class IdleReader {
//       IdleReader(Adapter*, int fd, Delay delay, Target*);
//       void Touch(Adapter*);
//     };
//     // Also calls target->OnWritable(); interest is 0, kRead, kWrite or both, at first 0.
//     template <typename Target> class Fd {
//       Fd(Adapter*, int fd, Target*);
//       void Change(Adapter*, int from, int to);  // `from` is what it is
//     };
//     // A one-shot timer that calls target->OnTimer(). Set() starts it or gives it another delay.
//     template <typename Target> class Timer {
//       Timer(Adapter*, Target*);
//       void Set(Adapter*, Delay delay);
//       void Cancel(Adapter*);
//     };
//
//     using Delay = ...;  // what the library counts a delay in
//     static Delay ToDelay(int64_t ns);
//     template <typename Work> void Within(Work work);  // where the library has a cached time
//     void Settle();     // does what the library has put off, so that it is charged to its cause
//     void ClockMoved();  // for a library that lets the kernel keep its time; then what it costs
//                         // to fire is not told:
//     static constexpr bool kKernelKeepsTime = false;
//   };

#ifndef POSTHOUSE_BENCH_MICRO_WORKLOADS_H_
#define POSTHOUSE_BENCH_MICRO_WORKLOADS_H_

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bench/micro/harness.h"
#include "bench/micro/shifted_clock.h"

namespace bench {

inline constexpr int kRead = 1;
inline constexpr int kWrite = 2;

// A descriptor that closes itself; declared before its watch, so closed after it.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  ~OwnedFd() {
    if (fd_ >= 0) close(fd_);
  }
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// Objects that do not move, each made by T(arguments..., index).
template <typename T>
class Array {
 public:
  template <typename... Arguments>
  explicit Array(int64_t count, Arguments... arguments)
      : count_(count), items_(std::allocator<T>().allocate(static_cast<size_t>(count))) {
    for (int64_t i = 0; i < count; ++i) new (&items_[i]) T(arguments..., i);
  }
  ~Array() {
    std::destroy_n(items_, count_);
    std::allocator<T>().deallocate(items_, static_cast<size_t>(count_));
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T& operator[](int64_t i) { return items_[i]; }
  T* begin() { return items_; }
  T* end() { return items_ + count_; }

 private:
  const int64_t count_;
  T* const items_;
};

// An IdleReader for libraries that make one of a Reader and a Timer.
template <typename Adapter, typename Target>
class ComposedIdleReader {
 public:
  ComposedIdleReader(Adapter* adapter, int fd, typename Adapter::Delay delay, Target* target)
      : reader_(adapter, fd, target), timer_(adapter, target), delay_(delay) {
    Touch(adapter);
  }
  void Touch(Adapter* adapter) { timer_.Set(adapter, delay_); }

 private:
  typename Adapter::template Reader<Target> reader_;
  typename Adapter::template Timer<Target> timer_;
  const typename Adapter::Delay delay_;
};

// --- W1 and W2 ---

template <typename Adapter, bool kIdleTimeouts>
class DispatchWorkload {
 public:
  DispatchWorkload(Adapter* adapter, Options* options)
      : adapter_(adapter),
        pipes_(options->Text("kind", "pipe") == "pipe"),
        wanted_(options->Integer("n", 100)),
        active_(options->Integer("active", 1)) {
    if (!pipes_ && options->Text("kind", "") != "eventfd") Misuse("kind is pipe or eventfd");
    // Some descriptors are the library's, some were open before.
    constexpr int64_t kSpare = 20;
    const int64_t room = RaiseDescriptorLimit() - kSpare;
    n_ = std::min(wanted_, pipes_ ? room / 2 : room);
    if (active_ < 1 || active_ > n_) Misuse("active is between 1 and n");
  }

  void Run(const Length& length, Report* report) {
    endpoints_.emplace(n_, this);
    for (const uint32_t i : random_.Permutation(n_)) ring_.push_back(write_fds_[i]);
    for (int64_t i = 0; i < active_; ++i) Write();
    const Samples samples = Measure(length, 2 * n_, [this](int64_t ops) {
      left_ = ops;
      adapter_->Run();
      if (left_ != 0) Fail("the loop ended before it was stopped");
      return ops;
    });
    if (timeouts_ != 0) Fail("an idle timeout of a busy descriptor fired");
    TakeTokens();
    if (length.check) Check(samples.ops());
    report->Add("kind", pipes_ ? "pipe" : "eventfd");
    report->Add("n", wanted_);
    report->Add("n_actual", n_);
    report->Add("active", active_);
    report->AddSamples(samples);
    report->Add("spurious", spurious_);
  }

 private:
  struct Endpoint {
    using Reader =
        std::conditional_t<kIdleTimeouts, typename Adapter::template IdleReader<Endpoint>,
                           typename Adapter::template Reader<Endpoint>>;

    Endpoint(DispatchWorkload* w, int64_t /*index*/)
        : workload(w), fd(w->OpenOne()), reader(w->MakeReader(this)) {}
    void OnReadable() { workload->OnReadable(this); }
    void OnTimer() {
      ++timeouts;
      ++workload->timeouts_;
    }

    DispatchWorkload* const workload;
    const OwnedFd fd;
    uint32_t timeouts = 0;
    int64_t reads = 0;
    Reader reader;
  };

  typename Endpoint::Reader MakeReader(Endpoint* endpoint) {
    if constexpr (kIdleTimeouts) {
      const int64_t delay_ms = 10000 + random_.Below(50000);
      return {adapter_, endpoint->fd.get(), Adapter::ToDelay(delay_ms * kNsPerMs), endpoint};
    } else {
      return {adapter_, endpoint->fd.get(), endpoint};
    }
  }

  // What is read; what is written to make it readable is remembered.
  int OpenOne() {
    if (!pipes_) {
      // A semaphore, so that two tokens in one stay two.
      const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
      if (fd < 0) FailErrno("eventfd");
      write_fds_.push_back(fd);
      return fd;
    }
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) FailErrno("pipe2");
    write_ends_.emplace_back(fds[1]);
    write_fds_.push_back(fds[1]);
    return fds[0];
  }

  ssize_t token_size() const { return pipes_ ? 1 : 8; }

  void Write() {
    const uint64_t token = 1;
    if (write(ring_[cursor_], &token, token_size()) != token_size()) FailErrno("write");
    if (++cursor_ == ring_.size()) cursor_ = 0;
  }

  void OnReadable(Endpoint* endpoint) {
    if (left_ == 0) return;
    uint64_t token;
    if (read(endpoint->fd.get(), &token, token_size()) != token_size()) {
      if (errno != EAGAIN) FailErrno("read");
      ++spurious_;
      return;
    }
    ++endpoint->reads;
    Write();
    if constexpr (kIdleTimeouts) endpoint->reader.Touch(adapter_);
    if (--left_ == 0) adapter_->Stop();
  }

  // As many must be left as there were.
  void TakeTokens() {
    int64_t tokens = 0;
    for (Endpoint& endpoint : *endpoints_) {
      uint64_t token;
      while (read(endpoint.fd.get(), &token, token_size()) == token_size()) ++tokens;
    }
    if (tokens != active_) Fail("tokens were lost: " + std::to_string(tokens) + " are left");
  }

  void Check(int64_t ops) {
    // The ring is even: each has been read as often as any other, but for the tokens under way.
    int64_t least = INT64_MAX, most = 0, sum = 0;
    for (const Endpoint& endpoint : *endpoints_) {
      least = std::min(least, endpoint.reads);
      most = std::max(most, endpoint.reads);
      sum += endpoint.reads;
    }
    if (sum < ops) Fail("more operations than callbacks");
    if (most - least > active_ + 1) Fail("some descriptors were served less than others");
    if constexpr (kIdleTimeouts) CheckTimeouts();
  }

  // Nothing is ready now, and every timeout was pushed back at most some seconds ago.
  void CheckTimeouts() {
    constexpr int64_t kBeforeTheFirstMs = 5000, kAfterTheLastMs = 70000;
    MoveClock(kBeforeTheFirstMs);
    if (timeouts_ != 0) Fail("an idle timeout fired before its time");
    MoveClock(kAfterTheLastMs - kBeforeTheFirstMs);
    for (int turn = 0; turn < 1000 && timeouts_ < n_; ++turn) adapter_->Poll();
    for (const Endpoint& endpoint : *endpoints_) {
      if (endpoint.timeouts != 1) Fail("an idle timeout did not fire once");
    }
  }

  void MoveClock(int64_t ms) {
    ShiftClock(ms * kNsPerMs);
    adapter_->ClockMoved();
    for (int turn = 0; turn < 3; ++turn) adapter_->Poll();
  }

  Adapter* const adapter_;
  const bool pipes_;
  const int64_t wanted_;
  const int64_t active_;
  int64_t n_;
  Random random_{1};
  std::vector<OwnedFd> write_ends_;
  std::vector<int> write_fds_;
  std::vector<int> ring_;  // the same, shuffled
  size_t cursor_ = 0;
  int64_t left_ = 0;
  int64_t spurious_ = 0;
  int64_t timeouts_ = 0;
  std::optional<Array<Endpoint>> endpoints_;
};

// --- W3 ---

template <typename Adapter>
class TimerWorkload {
 public:
  TimerWorkload(Adapter* adapter, Options* options)
      : adapter_(adapter), count_(Count(options)), items_(count_, adapter) {}

  void Run(const Length& length, Report* report) {
    Prepare();
    if (length.check) CheckDeadlines();
    if (length.ops > 0) {
      while (done_ < length.ops) Cycle(true);
    } else {
      Cycle(false);
      const int64_t end = RealSteadyNs() + static_cast<int64_t>(length.seconds * kNsPerSecond);
      do {
        Cycle(true);
      } while (RealSteadyNs() < end);
    }
    report->Add("timers", count_);
    std::vector<const Phase*> phases = {&insert_, &rearm_, &push_, &cancel_};
    if (!Adapter::kKernelKeepsTime) phases.push_back(&fire_);
    for (const Phase* phase : phases) {
      report->AddNs(std::string(phase->name) + "_ns", phase->samples.cpu_ns());
    }
    for (const Phase* phase : phases) {
      report->AddNs(std::string(phase->name) + "_best_ns", phase->samples.best_cpu_ns());
    }
    report->Add("ops", done_);
    report->Add("chunks", insert_.samples.chunks());
  }

 private:
  static constexpr int64_t kLeastMs = 20000;
  static constexpr int64_t kMostMs = 80000;
  static constexpr int64_t kMostPushMs = 20000;
  static constexpr int64_t kStepMs = 1000;

  // A cache line, as a connection would begin with its timer; of 56 bytes at most, or the rest is
  // in the next line.
  struct alignas(64) Item {
    Item(Adapter* adapter, int64_t /*index*/) : timer(adapter, this) {}
    void OnTimer() {
      ++fired;
      ++all_fired;
    }

    typename Adapter::template Timer<Item> timer;
    uint32_t fired = 0;
    // Static because a pointer to the workload would not fit into the line.
    static inline int64_t all_fired = 0;
  };

  struct Step {
    uint32_t index;
    int64_t delay_ns;
    typename Adapter::Delay delay;
  };

  struct Phase {
    const char* name;
    Samples samples;
  };

  static int64_t Count(Options* options) {
    const int64_t count = options->Integer("timers", 1000);
    if (count < 2 || count % 2 != 0) Misuse("timers is even and not 0");
    return count;
  }

  static Step MakeStep(uint32_t index, int64_t delay_ms) {
    const int64_t delay_ns = delay_ms * kNsPerMs;
    return {index, delay_ns, Adapter::ToDelay(delay_ns)};
  }

  void Prepare() {
    Random random(3);
    std::vector<int64_t> delays_ms(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) {
      inserts_.push_back(
          MakeStep(static_cast<uint32_t>(i), kLeastMs + random.Below(kMostMs - kLeastMs)));
    }
    for (const uint32_t i : random.Permutation(count_)) {
      delays_ms[i] = kLeastMs + random.Below(kMostMs - kLeastMs);
      rearms_.push_back(MakeStep(i, delays_ms[i]));
    }
    for (const uint32_t i : random.Permutation(count_)) {
      pushes_.push_back(MakeStep(i, delays_ms[i] + 1 + random.Below(kMostPushMs)));
    }
    cancels_ = random.Permutation(count_);
    cancels_.resize(cancels_.size() / 2);
    cancelled_.resize(static_cast<size_t>(count_));
    for (const uint32_t i : cancels_) cancelled_[i] = true;
  }

  void SetAll(const std::vector<Step>& steps) {
    for (const Step& step : steps) items_[step.index].timer.Set(adapter_, step.delay);
    adapter_->Settle();
  }

  void CancelHalf() {
    for (const uint32_t i : cancels_) items_[i].timer.Cancel(adapter_);
    adapter_->Settle();
  }

  template <typename Work>
  void Time(bool keep, Phase* phase, int64_t ops, Work work) {
    watch_.Start();
    work();
    const Reading taken = watch_.Stop();
    if (keep) phase->samples.Add(ops, taken);
    if (keep) done_ += ops;
  }

  void Cycle(bool keep) {
    for (Item& item : items_) item.fired = 0;
    Item::all_fired = 0;
    adapter_->Poll();
    adapter_->Within([this, keep] {
      Time(keep, &insert_, count_, [this] { SetAll(inserts_); });
      Time(keep, &rearm_, count_, [this] { SetAll(rearms_); });
      Time(keep, &push_, count_, [this] { SetAll(pushes_); });
      Time(keep, &cancel_, count_ / 2, [this] { CancelHalf(); });
    });
    if (Item::all_fired != 0) Fail("a timer fired before its time");
    Time(keep, &fire_, count_ / 2, [this] { FireRest(); });
    for (int64_t i = 0; i < count_; ++i) {
      if (items_[i].fired != (cancelled_[i] ? 0 : 1)) Fail("a timer did not fire once");
    }
  }

  void FireRest() {
    // Some more for a library that fires only so many in one turn.
    const int64_t turns = 2 * (kMostMs + kMostPushMs) / kStepMs + count_ / 100;
    for (int64_t turn = 0; turn < turns; ++turn) {
      ShiftClock(kStepMs * kNsPerMs);
      adapter_->ClockMoved();
      adapter_->Poll();
      if (Item::all_fired >= count_ / 2) return;
    }
    Fail("timers that are due did not fire");
  }

  // After the last push each timer fires at its own deadline, not at one of the earlier ones.
  void CheckDeadlines() {
    // What the coarsest clock may be behind.
    constexpr int64_t kSlackNs = 100 * kNsPerMs;
    // The time that the library has cached is not earlier than this.
    const int64_t before = ShiftedSteadyNs();
    adapter_->Poll();
    adapter_->Within([this] {
      SetAll(inserts_);
      SetAll(rearms_);
      SetAll(pushes_);
      CancelHalf();
    });
    const int64_t after = ShiftedSteadyNs();
    for (int64_t moved_ms = 0; moved_ms < kMostMs + kMostPushMs + kStepMs; moved_ms += kStepMs) {
      ShiftClock(kStepMs * kNsPerMs);
      adapter_->ClockMoved();
      const int64_t now_before = ShiftedSteadyNs();
      for (int64_t turn = 0; turn < 3 + count_ / 1000; ++turn) adapter_->Poll();
      const int64_t now_after = ShiftedSteadyNs();
      for (const Step& step : pushes_) {
        const uint32_t fired = items_[step.index].fired;
        if (cancelled_[step.index] ? fired != 0 : fired > 1) Fail("a timer fired too often");
        if (fired != 0 && before + step.delay_ns > now_after + kSlackNs) Fail("a timer was early");
        if (fired == 0 && !cancelled_[step.index] && after + step.delay_ns + kSlackNs < now_before)
          Fail("a timer was late");
      }
    }
  }

  Adapter* const adapter_;
  const int64_t count_;
  Stopwatch watch_;
  int64_t done_ = 0;
  Phase insert_ = {"insert", {}};
  Phase rearm_ = {"rearm", {}};
  Phase push_ = {"push", {}};
  Phase cancel_ = {"cancel", {}};
  Phase fire_ = {"fire", {}};
  std::vector<Step> inserts_, rearms_, pushes_;
  std::vector<uint32_t> cancels_;
  std::vector<bool> cancelled_;
  Array<Item> items_;
};

// --- W4 ---

// Each pattern: the interest to begin with, the number of its sweeps, what sweep `i` does to one
// descriptor, and the interest that is left.
struct FlipPattern {
  static constexpr int kInitial = 0;
  static constexpr int kSweeps = 4;
  static constexpr int kChangesPerFd = 1;
  template <int kSweep, typename Adapter, typename Fd>
  static void Apply(Adapter* adapter, Fd& fd) {
    if constexpr (kSweep == 0) fd.Change(adapter, 0, kRead);
    if constexpr (kSweep == 1) fd.Change(adapter, kRead, 0);
    if constexpr (kSweep == 2) fd.Change(adapter, 0, kWrite);
    if constexpr (kSweep == 3) fd.Change(adapter, kWrite, 0);
  }
  static constexpr int kLeft[] = {kRead, 0, kWrite, 0};
};

struct SwapPattern {
  static constexpr int kInitial = kWrite;
  static constexpr int kSweeps = 2;
  static constexpr int kChangesPerFd = 1;
  template <int kSweep, typename Adapter, typename Fd>
  static void Apply(Adapter* adapter, Fd& fd) {
    if constexpr (kSweep == 0) fd.Change(adapter, kWrite, kRead);
    if constexpr (kSweep == 1) fd.Change(adapter, kRead, kWrite);
  }
  static constexpr int kLeft[] = {kRead, kWrite};
};

struct TransientPattern {
  static constexpr int kInitial = kRead;
  static constexpr int kSweeps = 1;
  static constexpr int kChangesPerFd = 2;
  template <int kSweep, typename Adapter, typename Fd>
  static void Apply(Adapter* adapter, Fd& fd) {
    fd.Change(adapter, kRead, kRead | kWrite);
    fd.Change(adapter, kRead | kWrite, kRead);
  }
  static constexpr int kLeft[] = {kRead};
};

struct PausePattern {
  static constexpr int kInitial = kRead;
  static constexpr int kSweeps = 1;
  static constexpr int kChangesPerFd = 2;
  template <int kSweep, typename Adapter, typename Fd>
  static void Apply(Adapter* adapter, Fd& fd) {
    fd.Change(adapter, kRead, 0);
    fd.Change(adapter, 0, kRead);
  }
  static constexpr int kLeft[] = {kRead};
};

template <typename Adapter, typename Pattern>
class InterestWorkload {
 public:
  InterestWorkload(Adapter* adapter, Options* /*options*/)
      : adapter_(adapter),
        idle_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        idle_(adapter, idle_fd_.get(), this),
        lines_(kLines, adapter) {}
  void OnReadable() { Fail("a descriptor that is not ready was reported"); }

  void Run(const Length& length, Report* report) {
    adapter_->Poll();
    if (length.check) Check();
    const Samples samples = Measure(length, kLines, [this](int64_t ops) {
      int64_t done = 0;
      while (done < ops) {
        Sweep();
        adapter_->Poll();
        done += kLines * Pattern::kChangesPerFd;
      }
      return done;
    });
    for (const Line& line : lines_) {
      if (line.seen != 0) Fail("a descriptor that is not ready was reported");
    }
    report->AddSamples(samples);
  }

 private:
  static constexpr int kLines = 64;

  // One end of a socket pair whose buffer is full and whose peer says nothing. In the check both
  // change; what is reported is taken at once, so that it is reported once.
  struct Line {
    Line(Adapter* adapter, int64_t /*index*/)
        : end(MakePair(&peer)), fd(adapter, Filled(end).get(), this) {
      if (Pattern::kInitial != 0) fd.Change(adapter, 0, Pattern::kInitial);
    }
    void OnReadable() {
      seen |= kRead;
      Drain(end);
    }
    void OnWritable() {
      seen |= kWrite;
      Filled(end);
    }

    static int MakePair(OwnedFd* peer) {
      int fds[2];
      if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0) {
        FailErrno("socketpair");
      }
      *peer = OwnedFd(fds[1]);
      return fds[0];
    }

    static const OwnedFd& Filled(const OwnedFd& fd) {
      const char data[4096] = {};
      while (write(fd.get(), data, sizeof(data)) > 0) {
      }
      while (write(fd.get(), data, 1) > 0) {
      }
      if (errno != EAGAIN) FailErrno("write");
      return fd;
    }

    static void Drain(const OwnedFd& fd) {
      char data[4096];
      while (read(fd.get(), data, sizeof(data)) > 0) {
      }
      if (errno != EAGAIN) FailErrno("read");
    }

    void MakeReady() {
      Drain(peer);
      if (write(peer.get(), "", 1) != 1) FailErrno("write");
    }

    void MakeNotReady() {
      Drain(end);
      Filled(end);
    }

    OwnedFd peer;
    const OwnedFd end;
    int seen = 0;
    typename Adapter::template Fd<Line> fd;
  };

  template <int kSweep>
  void SweepAll() {
    for (Line& line : lines_) Pattern::template Apply<kSweep>(adapter_, line.fd);
  }

  void Sweep() {
    switch (sweep_) {
      case 0:
        SweepAll<0>();
        break;
      case 1:
        SweepAll<1>();
        break;
      case 2:
        SweepAll<2>();
        break;
      default:
        SweepAll<3>();
        break;
    }
    if (++sweep_ == Pattern::kSweeps) sweep_ = 0;
  }

  // After each kind of sweep, what was asked for is delivered and nothing else.
  void Check() {
    for (int i = 0; i < 3 * Pattern::kSweeps; ++i) {
      const int interest = Pattern::kLeft[sweep_];
      Sweep();
      adapter_->Poll();
      ExpectSeen(0);
      for (Line& line : lines_) line.MakeReady();
      for (int turn = 0; turn < 4; ++turn) adapter_->Poll();
      ExpectSeen(interest);
      for (Line& line : lines_) line.MakeNotReady();
      for (int turn = 0; turn < 4; ++turn) adapter_->Poll();
      for (Line& line : lines_) line.seen = 0;
      for (int turn = 0; turn < 4; ++turn) adapter_->Poll();
      ExpectSeen(0);
    }
  }

  void ExpectSeen(int interest) {
    for (const Line& line : lines_) {
      if (line.seen == interest) continue;
      Fail("interest " + std::to_string(interest) + ", reported " + std::to_string(line.seen));
    }
  }

  Adapter* const adapter_;
  int sweep_ = 0;
  // A loop with nothing to watch may end its turn before it has asked the kernel.
  const OwnedFd idle_fd_;
  typename Adapter::template Reader<InterestWorkload> idle_;
  Array<Line> lines_;
};

// --- main() ---

template <typename Workload, typename Adapter>
void RunWorkload(Adapter* adapter, Options* options, const Length& length, Report* report) {
  Workload workload(adapter, options);
  options->RefuseUnread();
  workload.Run(length, report);
}

template <typename Adapter>
int RunMicro(const char* contender, Options options) {
  const std::string& workload = options.workload();
  const Length length(&options);
  alarm(static_cast<unsigned>(length.limit_seconds));
  Report report;
  report.Add("contender", contender);
  report.Add("workload", workload);
  Adapter adapter(&options);
  adapter.Describe(&report);
  const auto run = [&]<typename Workload>(Workload*) {
    RunWorkload<Workload>(&adapter, &options, length, &report);
  };
  const std::string change = workload == "w4" ? options.Text("change", "flip") : "";
  if (!change.empty()) report.Add("change", change);
  if (workload == "w1") {
    run(static_cast<DispatchWorkload<Adapter, false>*>(nullptr));
  } else if (workload == "w2") {
    run(static_cast<DispatchWorkload<Adapter, true>*>(nullptr));
  } else if (workload == "w3") {
    run(static_cast<TimerWorkload<Adapter>*>(nullptr));
  } else if (change == "flip") {
    run(static_cast<InterestWorkload<Adapter, FlipPattern>*>(nullptr));
  } else if (change == "swap") {
    run(static_cast<InterestWorkload<Adapter, SwapPattern>*>(nullptr));
  } else if (change == "transient") {
    run(static_cast<InterestWorkload<Adapter, TransientPattern>*>(nullptr));
  } else if (change == "pause") {
    run(static_cast<InterestWorkload<Adapter, PausePattern>*>(nullptr));
  } else {
    Misuse("unknown workload: " + workload + " " + change);
  }
  report.Print();
  return 0;
}

}  // namespace bench

#endif  // POSTHOUSE_BENCH_MICRO_WORKLOADS_H_

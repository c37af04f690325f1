// The denominator: what a careful C++ programmer writes by hand for one program, on epoll alone.
//
// Descriptors: a table indexed by the number, which the kernel hands back in epoll_event.data; the
// handler is called straight from the event array. Interest changes go to the kernel at once. There
// are no generations: a handler that closes another descriptor must know what it does.
// Timers: a lazy hierarchical wheel of 256 buckets a level, intrusive; a deadline that moves back
// is a store. They run tick by tick, at most one tick (1.05 ms) late, in no order within a tick.
// Clock: read once a turn, after the wait, if timers are pending. A timer may be late by what the
// handlers of the turn before took.
//
// Self-contained on purpose, and no part of posthouse. Thread: one. Errors end the program.

#ifndef POSTHOUSE_BENCH_MICRO_RAW_LOOP_H_
#define POSTHOUSE_BENCH_MICRO_RAW_LOOP_H_

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace bench {

struct RawTimer {
  RawTimer* next = nullptr;
  RawTimer** link = nullptr;  // what points at this one; null when not pending
  int64_t deadline_ns = 0;
  void (*handler)(void* context) = nullptr;
  void* context = nullptr;
};

class RawWheel {
 public:
  explicit RawWheel(int64_t now_ns) : tick_(static_cast<uint64_t>(now_ns) >> kTickBits) {}

  bool empty() const { return pending_ == 0; }
  // Not later than the first deadline, rounded up to ticks: when to call Advance() again.
  int64_t next_ns() const { return next_ns_; }

  // Starts or moves. Later than before: the timer stays where it is and is put right when its
  // bucket comes.
  void Set(RawTimer* timer, int64_t deadline_ns) {
    if (timer->link == nullptr) {
      ++pending_;
    } else if (deadline_ns >= timer->deadline_ns) {
      timer->deadline_ns = deadline_ns;
      return;
    } else {
      Unlink(timer);
    }
    timer->deadline_ns = deadline_ns;
    Place(timer, TickOf(deadline_ns));
  }

  // The bucket's bit stays; Advance() clears it if nothing is there.
  void Cancel(RawTimer* timer) {
    if (timer->link == nullptr) return;
    Unlink(timer);
    --pending_;
  }

  void Advance(int64_t now_ns) {
    const uint64_t now_tick = static_cast<uint64_t>(now_ns) >> kTickBits;
    uint64_t start;
    int bucket;
    while ((bucket = FirstBucket(&start)) >= 0 && start <= now_tick) {
      tick_ = std::max(tick_, start);
      occupied_[bucket >> 6] &= ~(uint64_t{1} << (bucket & 63));
      if (occupied_[bucket >> 6] == 0) words_ &= ~(uint32_t{1} << (bucket >> 6));
      Empty(&buckets_[bucket]);
    }
    tick_ = std::max(tick_, now_tick);
    next_ns_ = bucket >= 0 ? static_cast<int64_t>(start << kTickBits) : INT64_MAX;
  }

 private:
  static constexpr int kTickBits = 20;  // ticks of 2^20 ns
  static constexpr int kDigitBits = 8;
  static constexpr int kBuckets = 1 << kDigitBits;
  static constexpr int kLevels = 6;  // 20 + 6 * 8 bits: more than an int64 has
  static constexpr int kWordsPerLevel = kBuckets / 64;

  static uint64_t TickOf(int64_t deadline_ns) {
    return (static_cast<uint64_t>(deadline_ns) + ((1 << kTickBits) - 1)) >> kTickBits;
  }

  // A timer lies at the level of the highest digit in which its tick differs from the current one,
  // in the bucket of its digit there. So the buckets of a level lie after the current digit, and
  // before those of the levels above.
  void Place(RawTimer* timer, uint64_t tick) {
    tick = std::max(tick, tick_ + 1);
    const int level = (std::bit_width(tick ^ tick_) - 1) / kDigitBits;
    const int shift = level * kDigitBits;
    const int bucket = level * kBuckets + static_cast<int>((tick >> shift) & (kBuckets - 1));
    occupied_[bucket >> 6] |= uint64_t{1} << (bucket & 63);
    words_ |= uint32_t{1} << (bucket >> 6);
    RawTimer** head = &buckets_[bucket];
    timer->next = *head;
    timer->link = head;
    if (*head != nullptr) (*head)->link = &timer->next;
    *head = timer;
    next_ns_ = std::min(next_ns_, static_cast<int64_t>((tick >> shift << shift) << kTickBits));
  }

  static void Unlink(RawTimer* timer) {
    *timer->link = timer->next;
    if (timer->next != nullptr) timer->next->link = timer->link;
    timer->link = nullptr;
  }

  int FirstBucket(uint64_t* start) const {
    if (words_ == 0) return -1;
    const int word = std::countr_zero(words_);
    const int bucket = word * 64 + std::countr_zero(occupied_[word]);
    const int shift = word / kWordsPerLevel * kDigitBits;
    const uint64_t above = tick_ >> shift & ~uint64_t{kBuckets - 1};
    *start = (above | (bucket & (kBuckets - 1))) << shift;
    return bucket;
  }

  // Runs or moves down whatever the bucket of the current tick holds. Handlers may set and cancel
  // any timer: nothing new gets into this bucket, because all that is placed is later.
  void Empty(RawTimer** head) {
    while (RawTimer* timer = *head) {
      Unlink(timer);
      const uint64_t tick = TickOf(timer->deadline_ns);
      if (tick > tick_) {
        Place(timer, tick);
      } else {
        --pending_;
        timer->handler(timer->context);
      }
    }
  }

  uint64_t tick_;  // all up to it has been run
  int64_t next_ns_ = INT64_MAX;
  int64_t pending_ = 0;
  uint32_t words_ = 0;  // which words of occupied_ are not zero
  uint64_t occupied_[kLevels * kWordsPerLevel] = {};
  RawTimer* buckets_[kLevels * kBuckets] = {};
};

class RawLoop {
 public:
  using Handler = void (*)(void* context, uint32_t events);

  RawLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)), now_ns_(SteadyNs()), wheel_(now_ns_) {
    if (epoll_ < 0) Die("epoll_create1");
  }
  ~RawLoop() { close(epoll_); }
  RawLoop(const RawLoop&) = delete;
  RawLoop& operator=(const RawLoop&) = delete;

  void SetHandler(int fd, Handler handler, void* context) {
    if (slots_.size() <= static_cast<size_t>(fd)) {
      slots_.resize(std::max<size_t>(fd + 1, 2 * slots_.size()));
    }
    slots_[fd] = {handler, context, 0};
  }

  // EPOLLIN, EPOLLOUT, both or nothing. REQUIRES: SetHandler().
  void SetInterest(int fd, uint32_t interest) {
    Slot& slot = slots_[fd];
    const int operation = slot.interest == 0 ? EPOLL_CTL_ADD
                          : interest == 0    ? EPOLL_CTL_DEL
                                             : EPOLL_CTL_MOD;
    epoll_event event = {};
    event.events = interest;
    event.data.fd = fd;
    if (epoll_ctl(epoll_, operation, fd, &event) != 0) Die("epoll_ctl");
    slot.interest = interest;
  }

  // REQUIRES: SetHandler(). Before the descriptor is closed.
  void Forget(int fd) {
    if (slots_[fd].interest != 0) SetInterest(fd, 0);
  }

  // Time of this turn.
  int64_t now_ns() {
    if (!now_is_fresh_) ReadClock();
    return now_ns_;
  }
  RawWheel& timers() { return wheel_; }

  void Turn(bool wait) {
    const int count = epoll_wait(epoll_, events_, kEventsPerWait, wait ? TimeoutMs() : 0);
    if (count < 0 && errno != EINTR) Die("epoll_wait");
    now_is_fresh_ = false;
    if (!wheel_.empty()) {
      ReadClock();
      if (now_ns_ >= wheel_.next_ns()) wheel_.Advance(now_ns_);
    }
    for (int i = 0; i < count; ++i) {
      const Slot& slot = slots_[events_[i].data.fd];
      slot.handler(slot.context, events_[i].events);
    }
  }

 private:
  static constexpr int kEventsPerWait = 256;

  struct Slot {
    Handler handler = nullptr;
    void* context = nullptr;
    uint32_t interest = 0;
  };

  [[noreturn]] static void Die(const char* call) {
    perror(call);
    exit(1);
  }

  static int64_t SteadyNs() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
  }

  void ReadClock() {
    now_ns_ = SteadyNs();
    now_is_fresh_ = true;
  }

  int TimeoutMs() const {
    if (wheel_.empty()) return -1;
    const int64_t left_ns = wheel_.next_ns() - now_ns_;
    if (left_ns <= 0) return 0;
    return static_cast<int>(std::min<int64_t>((left_ns + 999999) / 1000000, INT_MAX));
  }

  int epoll_;
  bool now_is_fresh_ = true;
  int64_t now_ns_;
  std::vector<Slot> slots_;
  RawWheel wheel_;
  epoll_event events_[kEventsPerWait];
};

}  // namespace bench

#endif  // POSTHOUSE_BENCH_MICRO_RAW_LOOP_H_

// The budget of event_loop.h, counted: allocations, system calls and bytes.

#include <fcntl.h>
#include <stdlib.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/event/descriptor_limit.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/os/clock.h"
#include "tests/event/event_fixture.h"

// Counts what this process allocates. At file scope because operator new has no object.
namespace {
int64_t allocations = 0;
int64_t live_bytes = 0;
size_t refused_from_bytes = SIZE_MAX;  // larger requests find no memory
int64_t refused = 0;

constexpr size_t kAlignment = 16;

// Memory behind a note of its size.
void* Allocate(size_t size, size_t alignment) {
  if (size >= refused_from_bytes) {
    ++refused;
    return nullptr;
  }
  void* base = nullptr;
  if (::posix_memalign(&base, alignment, alignment + size) != 0) return nullptr;
  ++allocations;
  live_bytes += static_cast<int64_t>(size);
  char* memory = static_cast<char*>(base) + alignment;
  std::memcpy(memory - sizeof size, &size, sizeof size);
  return memory;
}

void Free(void* memory, size_t alignment) {
  if (memory == nullptr) return;
  size_t size = 0;
  std::memcpy(&size, static_cast<char*>(memory) - sizeof size, sizeof size);
  live_bytes -= static_cast<int64_t>(size);
  ::free(static_cast<char*>(memory) - alignment);
}
}  // namespace

void* operator new(size_t size) {
  void* memory = Allocate(size, kAlignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size, kAlignment);
}
void* operator new(size_t size, std::align_val_t alignment) {
  void* memory = Allocate(size, static_cast<size_t>(alignment));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { Free(memory, kAlignment); }
void operator delete(void* memory, size_t) noexcept { Free(memory, kAlignment); }
void operator delete(void* memory, std::align_val_t alignment) noexcept {
  Free(memory, static_cast<size_t>(alignment));
}
void operator delete(void* memory, size_t, std::align_val_t alignment) noexcept {
  Free(memory, static_cast<size_t>(alignment));
}

namespace posthouse {
namespace {

struct Counter {
  int64_t calls = 0;
  static void On(int, void* context) { ++static_cast<Counter*>(context)->calls; }
};

class EventLoopBudget : public LoopTest {
 protected:
  // What `body` allocates and which calls it makes.
  struct Cost {
    int64_t allocations;
    CallCounts calls;
  };
  template <typename Body>
  Cost CostOf(Body body) {
    const CallCounts before = system_->Counts();
    const int64_t allocated = allocations;
    body();
    return {allocations - allocated, system_->Counts() - before};
  }
};

TEST_P(EventLoopBudget, AReadyEventAllocatesNothingAndIsOneShareOfOneWait) {
  std::vector<Pair> pipes(50);
  std::vector<FdWatch> watches;
  Counter counter;
  for (Pair& pair : pipes) {
    pair = MakePipe();
    pair.Write();
    watches.push_back(Watch(pair.a.get(), {.on_readable = &Counter::On, .context = &counter}));
  }
  Turns(2);
  const Cost cost = CostOf([this] {
    for (int i = 0; i < 100; ++i) loop_->RunOnce(absl::InfiniteDuration()).IgnoreError();
  });
  EXPECT_EQ(counter.calls, 102 * 50);
  EXPECT_EQ(cost.allocations, 0);
  EXPECT_EQ(cost.calls[WaitCall()], 100);
  // No clock is read either.
  EXPECT_EQ(cost.calls.Total(), 100 * (1 + traits().checks_per_busy_turn)) << cost.calls.ToString();
}

TEST_P(EventLoopBudget, WithFarTimersPendingATurnReadsTheCoarseClockTwiceAndTheOtherNever) {
  Pair pipe = MakePipe();
  pipe.Write();
  Counter counter;
  FdWatch watch = Watch(pipe.a.get(), {.on_readable = &Counter::On, .context = &counter});
  Timer timer(loop_.get(), &Counter::On, &counter);
  timer.Start(absl::Seconds(100));
  Turns(2);
  const int64_t start = os::SteadyNanos();
  Cost cost = CostOf([&] {
    for (int i = 0; i < 100; ++i) {
      loop_->RunOnce(absl::InfiniteDuration()).IgnoreError();
      // The idle limit, pushed at each event.
      loop_->PushBack(&timer, 100000000000);
    }
  });
  EXPECT_EQ(cost.allocations, 0);
  EXPECT_EQ(cost.calls[SystemCall::kClockGettime], 200);
  EXPECT_EQ(cost.calls.Total(), 300 + 100 * traits().checks_per_busy_turn) << cost.calls.ToString();
  EXPECT_GE(timer.deadline_ns() - 100000000000, start);
  EXPECT_LE(timer.deadline_ns() - 100000000000, os::SteadyNanos() + 50000000);
  // Who asks for the precise time pays for one reading.
  cost = CostOf([&] {
    loop_->RunOnce(absl::InfiniteDuration()).IgnoreError();
    EXPECT_EQ(loop_->now_ns(), loop_->now_ns());
  });
  EXPECT_EQ(cost.calls[SystemCall::kClockGettime], 3);
}

TEST_P(EventLoopBudget, EnablingAndDisablingInOneTurnMakesNoSystemCall) {
  Pair sockets = MakeSockets();
  Counter counter;
  FdWatch watch =
      Watch(sockets.a.get(),
            {.on_readable = &Counter::On, .on_writable = &Counter::On, .context = &counter});
  Turn();
  const Cost cost = CostOf([&] {
    for (int i = 0; i < 100; ++i) {
      watch.EnableWrite();
      watch.DisableWrite();
      watch.DisableRead();
      watch.EnableRead();
      loop_->RunOnce(absl::ZeroDuration()).IgnoreError();
    }
  });
  EXPECT_EQ(cost.allocations, 0);
  EXPECT_EQ(ChangesIn(cost.calls), 0);
  EXPECT_EQ(cost.calls.Total(), 100) << cost.calls.ToString();
}

TEST_P(EventLoopBudget, RearmingATimerMakesNoSystemCallAndNoAllocation) {
  Counter counter;
  std::vector<std::unique_ptr<Timer>> timers;
  for (int i = 0; i < 100; ++i) {
    timers.push_back(std::make_unique<Timer>(loop_.get(), &Counter::On, &counter));
    timers.back()->Start(absl::Seconds(i));
  }
  const Cost cost = CostOf([&] {
    for (int i = 0; i < 1000; ++i) {
      Timer& timer = *timers[i % 100];
      timer.Start(absl::Seconds(i % 77));
      timer.Cancel();
      timer.Start(absl::Seconds(i % 50));
      timer.StartAt(i);
    }
  });
  EXPECT_EQ(cost.allocations, 0);
  // Reading the clock is a call of the seam, not of the kernel.
  EXPECT_EQ(cost.calls.Total(), cost.calls[SystemCall::kClockGettime]);
}

TEST_P(EventLoopBudget, EO21_TurningFromReadingToWritingAndBackCostsOneCallInAWatchsLife) {
  Pair sockets = MakeSockets();
  const std::string block(65536, 'x');
  while (os::Write(sockets.a.get(), block.data(), block.size()) > 0) {
  }
  Counter counter;
  FdWatch watch =
      Watch(sockets.a.get(),
            {.on_readable = &Counter::On, .on_writable = &Counter::On, .context = &counter});
  Turn();
  const int64_t before = Changes();
  for (int i = 0; i < 100; ++i) {
    watch.DisableRead();
    Turn();
    watch.EnableWrite();
    Turn();
    watch.DisableWrite();
    watch.EnableRead();
    Turn();
  }
  EXPECT_LE(Changes() - before, 2);  // one for each filter where those are changed singly
  EXPECT_EQ(counter.calls, 0);
}

TEST_P(EventLoopBudget, EO21_AWatchWhoseUnwantedEventShowedIsKeptExactFromThenOn) {
  Pair sockets = MakeSockets();
  Counter counter;
  FdWatch watch = Watch(sockets.a.get(), {.on_readable = &Counter::On,
                                          .on_writable = &Counter::On,
                                          .context = &counter,
                                          .read = false,
                                          .write = true});
  Turn();
  EXPECT_EQ(counter.calls, 1);
  watch.DisableWrite();
  watch.EnableRead();
  Turn();  // the writability that nobody wants shows here, once
  for (int i = 0; i < 100; ++i) {
    const int64_t calls = counter.calls;
    watch.EnableWrite();
    watch.DisableRead();
    Turn();
    EXPECT_EQ(counter.calls, calls + 1);
    watch.EnableRead();
    watch.DisableWrite();
    Turn();
    EXPECT_EQ(counter.calls, calls + 1);
    // A loop that is woken by what nobody wants would not sleep here.
    Timer timer(loop_.get(), &Counter::On, &counter);
    const int64_t waits = Waits();
    timer.Start(absl::Microseconds(100));
    while (counter.calls == calls + 1) Turn(absl::InfiniteDuration());
    EXPECT_LE(Waits() - waits, 2);
  }
}

TEST_P(EventLoopBudget, AWatchCosts48BytesWithItsFunctionsAndContext) {
  if (traits().poller_bytes_per_watch < 0) GTEST_SKIP() << "its sets have a fixed size";
  ASSERT_GT(*RaiseDescriptorLimit(), 5000);
  Pair pipe = MakePipe();
  Counter counter;
  for (const int count : {1000, 2000, 4000}) {
    MakeLoop({});
    std::vector<UniqueFd> copies(count);
    for (UniqueFd& copy : copies) copy = UniqueFd(os::Fcntl(pipe.a.get(), F_DUPFD_CLOEXEC, 0));
    std::vector<FdWatch> watches(count);
    const int64_t before = live_bytes;
    for (int i = 0; i < count; ++i) {
      absl::StatusOr<FdWatch> made =
          loop_->Watch(copies[i].get(), {.on_readable = &Counter::On, .context = &counter});
      ASSERT_THAT(made, IsOk());
      watches[i] = *std::move(made);
    }
    const double each = static_cast<double>(live_bytes - before) / count;
    RecordProperty("bytes_per_watch_at_" + std::to_string(count), std::to_string(each));
    const int kernel_bytes = traits().on_double != nullptr ? KqueueDouble::kBytesPerKnote : 0;
    EXPECT_LE(each, 48.0 + traits().poller_bytes_per_watch + kernel_bytes);
  }
}

TEST_P(EventLoopBudget, F10_WithoutMemoryAWatchIsRefusedAndNothingChanges) {
  std::vector<Pair> pipes(200);
  for (Pair& pair : pipes) pair = MakePipe();
  std::vector<FdWatch> watches(pipes.size());
  std::vector<Counter> counters(pipes.size());
  for (size_t i = 0; i < pipes.size(); ++i) {
    const FdWatchOptions options = {.on_readable = &Counter::On, .context = &counters[i]};
    refused_from_bytes = 256;  // what tells of the error is smaller
    absl::StatusOr<FdWatch> made = loop_->Watch(pipes[i].a.get(), options);
    refused_from_bytes = SIZE_MAX;
    if (!made.ok()) {
      EXPECT_THAT(made, StatusIs(absl::StatusCode::kResourceExhausted));
      EXPECT_EQ(loop_->counters().watches, static_cast<int64_t>(i));
      made = loop_->Watch(pipes[i].a.get(), options);
    }
    ASSERT_THAT(made, IsOk());
    watches[i] = *std::move(made);
  }
  EXPECT_GT(refused, 0);
  for (const Pair& pair : pipes) pair.Write();
  Turns(2 + static_cast<int>(pipes.size()) / traits().longest_batch);
  for (const Counter& counter : counters) EXPECT_GE(counter.calls, 1);
}

INSTANTIATE_TEST_SUITE_P(Backends, EventLoopBudget, testing::ValuesIn(TestedBackends()),
                         BackendTestName);

}  // namespace
}  // namespace posthouse

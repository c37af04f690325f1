#include "posthouse/event/closures.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/event/event_fixture.h"

namespace posthouse {
namespace {

class ClosuresTest : public LoopTest {
 protected:
  CallbackWatch Make(int fd, CallbackWatchOptions options) {
    absl::StatusOr<CallbackWatch> watch =
        CallbackWatch::Create(loop_.get(), fd, std::move(options));
    EXPECT_THAT(watch, IsOk());
    return watch.ok() ? *std::move(watch) : CallbackWatch();
  }
};

TEST_P(ClosuresTest, EachDirectionCallsItsClosure) {
  Pair sockets = MakeSockets();
  sockets.Write();
  std::string told;
  CallbackWatch watch = Make(
      sockets.a.get(),
      {.on_readable = [&] { told += "r"; }, .on_writable = [&] { told += "w"; }, .write = true});
  Turn();
  EXPECT_EQ(told, "rw");
  watch.watch().DisableWrite();
  Turn();
  EXPECT_EQ(told, "rwr");
  watch.Reset();
  EXPECT_FALSE(watch.active());
  Turn();
  EXPECT_EQ(told, "rwr");
}

TEST_P(ClosuresTest, EO25_AClosureMayDestroyItsOwnWatchAndStillUseWhatItCaptured) {
  Pair pipe = MakePipe();
  pipe.Write();
  auto guard = std::make_shared<int>(0);
  CallbackWatch watch;
  watch = Make(pipe.a.get(), {.on_readable = [&watch, guard] {
                 watch.Reset();
                 ++*guard;  // the capture lives until the closure has returned
               }});
  Turns(3);
  EXPECT_EQ(*guard, 1);
  EXPECT_EQ(guard.use_count(), 1);
}

TEST_P(ClosuresTest, EO13_AClosureThatThrowsAfterDestroyingItsWatchLeaksNothing) {
  Pair pipe = MakePipe();
  pipe.Write();
  auto guard = std::make_shared<int>(0);
  CallbackWatch watch;
  watch = Make(pipe.a.get(), {.on_readable = [&watch, guard] {
                 watch.Reset();
                 throw std::runtime_error("from a closure");
               }});
  EXPECT_THROW(loop_->RunOnce(absl::ZeroDuration()).IgnoreError(), std::runtime_error);
  EXPECT_EQ(guard.use_count(), 1);
  Turn();
}

TEST_P(ClosuresTest, AWatchMayMoveWhileItsClosureRuns) {
  Pair pipe = MakePipe();
  pipe.Write();
  CallbackWatch watch, moved;
  int calls = 0;
  watch = Make(pipe.a.get(), {.on_readable = [&] {
                 ++calls;
                 if (!moved.active()) moved = std::move(watch);
               }});
  Turns(2);
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(watch.active());
}

TEST_P(ClosuresTest, ARefusedWatchIsAStatus) {
  EXPECT_THAT(CallbackWatch::Create(loop_.get(), -1, {.on_readable = [] {}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_P(ClosuresTest, ATimerRunsOnceAndMayBeStartedAgain) {
  UseFakeClock();
  int calls = 0;
  CallbackTimer timer(loop_.get(), [&] { ++calls; });
  timer.Start(absl::Seconds(3));
  EXPECT_TRUE(timer.pending());
  EXPECT_EQ(timer.TimeLeft(), absl::Seconds(3));
  Turn(absl::Seconds(60));
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(timer.Cancel());
  timer.Start(absl::Seconds(1));
  CallbackTimer moved = std::move(timer);
  Turn(absl::Seconds(60));
  EXPECT_EQ(calls, 2);
}

TEST_P(ClosuresTest, ATimerClosureMayDestroyItsTimer) {
  auto guard = std::make_shared<int>(0);
  std::unique_ptr<CallbackTimer> timer;
  timer = std::make_unique<CallbackTimer>(loop_.get(), [&timer, guard] {
    timer.reset();
    ++*guard;
  });
  timer->Start(absl::ZeroDuration());
  Turns(2);
  EXPECT_EQ(*guard, 1);
  EXPECT_EQ(guard.use_count(), 1);
}

INSTANTIATE_TEST_SUITE_P(Backends, ClosuresTest, testing::ValuesIn(TestedBackends()),
                         BackendTestName);

}  // namespace
}  // namespace posthouse

// What the tests of the event layer share: a loop over one backend with the interposer behind it,
// pipes and socket pairs, and a recorder of what its watch was told.

#ifndef POSTHOUSE_TESTS_EVENT_EVENT_FIXTURE_H_
#define POSTHOUSE_TESTS_EVENT_EVENT_FIXTURE_H_

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {

// The long form of randomised tests.
inline bool FullRun() { return ::getenv("POSTHOUSE_FULL") != nullptr; }

inline std::string BackendTestName(const testing::TestParamInfo<Backend>& info) {
  return std::string(BackendName(info.param));
}

// Two connected descriptors, non-blocking.
struct Pair {
  UniqueFd a;  // of a pipe: the end that reads
  UniqueFd b;

  void Write(const std::string& data = "x") const {
    ASSERT_EQ(os::Write(b.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
  }
};

inline Pair MakePipe() {
  int fds[2] = {-1, -1};
  EXPECT_EQ(os::Pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

inline Pair MakeSockets() {
  int fds[2] = {-1, -1};
  EXPECT_EQ(os::Socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// Reads what is there, up to `most` bytes.
inline std::string ReadSome(int fd, size_t most = 65536) {
  std::string data(most, '\0');
  const ssize_t got = os::Read(fd, data.data(), data.size());
  data.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return data;
}

// A context whose handlers count and then do what the test says.
struct Recorder {
  int reads = 0;
  int writes = 0;
  int errors = 0;
  int timers = 0;
  std::vector<int> events;
  std::function<void(int)> then;

  static void On(int event, void* context) {
    auto* self = static_cast<Recorder*>(context);
    self->events.push_back(event);
    if (event == kEventRead) ++self->reads;
    if (event == kEventWrite) ++self->writes;
    if (event == kEventException) ++self->errors;
    if (event == kEventTime) ++self->timers;
    if (self->then) {
      const std::function<void(int)> then = self->then;  // which may replace itself
      then(event);
    }
  }
};

class LoopTest : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override { MakeLoop({}); }

  void MakeLoop(EventLoopOptions options) {
    options.backend = GetParam();
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create(options);
    ASSERT_THAT(loop, IsOk());
    loop_ = *std::move(loop);
  }

  void UseFakeClock(ClockMode mode = ClockMode::kAutoAdvance) {
    loop_.reset();
    system_->UseFakeClock(mode);
    MakeLoop({});
  }

  FdWatch Watch(int fd, FdWatchOptions options) {
    absl::StatusOr<FdWatch> watch = loop_->Watch(fd, options);
    EXPECT_THAT(watch, IsOk());
    return watch.ok() ? *std::move(watch) : FdWatch();
  }
  FdWatch WatchRead(int fd, Recorder* recorder) {
    return Watch(fd, {.on_readable = &Recorder::On, .context = recorder});
  }
  // All handlers present; the interest as said.
  FdWatch WatchAll(int fd, Recorder* recorder, bool read, bool write) {
    return Watch(fd, {.on_readable = &Recorder::On,
                      .on_writable = &Recorder::On,
                      .on_error = &Recorder::On,
                      .context = recorder,
                      .read = read,
                      .write = write});
  }

  void Turn(absl::Duration max_wait = absl::ZeroDuration()) {
    ASSERT_THAT(loop_->RunOnce(max_wait), IsOk());
  }
  void Turns(int count) {
    for (int i = 0; i < count; ++i) Turn();
  }

  // Calls that change the kernel's set or wait on it.
  int64_t Changes() const { return system_->Count(SystemCall::kEpollCtl); }
  SystemCall WaitCall() const {
    return GetParam() == Backend::kEpoll ? SystemCall::kEpollWait : SystemCall::kSelect;
  }
  int64_t Waits() const { return system_->Count(WaitCall()); }

  FdLeakCheck descriptors_;
  ChildCheck children_;
  ScopedInterposer system_;
  std::unique_ptr<EventLoop> loop_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_EVENT_EVENT_FIXTURE_H_

// What the tests of the event layer share: a loop over one backend with the interposer behind it,
// pipes and socket pairs, and a recorder of what its watch was told.

#ifndef POSTHOUSE_TESTS_EVENT_EVENT_FIXTURE_H_
#define POSTHOUSE_TESTS_EVENT_EVENT_FIXTURE_H_

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <climits>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <ostream>
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
#include "tests/event/kqueue_double.h"

namespace posthouse {

// The long form of randomised tests.
inline bool FullRun() { return ::getenv("POSTHOUSE_FULL") != nullptr; }

// A row of the suites: a backend, and how it may differ from the others. A new backend is a line in
// kBackendRows.
struct BackendTraits {
  const char* name;
  Backend backend;
  // What it waits with, and what its errors call that.
  SystemCall wait_call;
  const char* wait_name;
  // What makes the kernel's set and what changes it; kAny: no call does.
  SystemCall make_call = SystemCall::kAny;
  const char* make_name = "";
  SystemCall change_call = SystemCall::kAny;
  // /proc/PID/fdinfo of a descriptor with this in its target lists the set; null: nothing does.
  const char* set_in_proc = nullptr;
  // Numbers end at FD_SETSIZE (F13).
  bool ends_at_fd_setsize = false;
  // A number that was closed behind our back is noticed in the next wait (E20, F9).
  bool notices_closed_numbers = false;
  // Removing what is not in the set is refused, repaired and counted (EO14).
  bool refuses_to_remove_nothing = false;
  // The hang-up of a paused peer is noticed at once although it has left data (F6).
  bool notices_hang_up_behind_data = false;
  // What the poller itself keeps per watch, in bytes; negative: sets of a fixed size.
  int poller_bytes_per_watch = 0;
  // Calls beside the wait in a turn that follows one with events.
  int checks_per_busy_turn = 0;
  // Urgent data can be seen (E65).
  bool tells_urgent = true;
  // A full pipe that loses its reader becomes writable.
  bool tells_loss_of_reader_of_full_pipe = true;
  // A wait finds at most so many, whatever the batch has room for.
  int longest_batch = INT_MAX;
  // The kernel is played by a KqueueDouble with these habits.
  const KqueueQuirks* on_double = nullptr;
  // The kernel answers this call with ENOSYS.
  SystemCall missing_call = SystemCall::kAny;
};

inline constexpr KqueueQuirks kPlainKqueue = {};
// All at once. The list is shorter than the first batch.
inline constexpr KqueueQuirks kQuirkyKqueue = {.add_write_error = EBADF,
                                               .device_error = ENODEV,
                                               .delete_closed_error = ENOENT,
                                               .delete_says_enoent = true,
                                               .add_stays_disabled = true,
                                               .clear_repeats = true,
                                               .full_pipe_hides_loss_of_reader = true,
                                               .ignores_low_water_mark = true,
                                               .lacks_except_filter = true,
                                               .reversed = true,
                                               .interrupted_every = 3,
                                               .longest_list = 64};

inline constexpr BackendTraits kBackendRows[] = {
#if defined(__linux__)
    {.name = "epoll",
     .backend = Backend::kEpoll,
     .wait_call = SystemCall::kEpollWait,
     .wait_name = "epoll_wait",
     .make_call = SystemCall::kEpollCreate1,
     .make_name = "epoll_create1",
     .change_call = SystemCall::kEpollCtl,
     .set_in_proc = "eventpoll",
     .refuses_to_remove_nothing = true,
     .notices_hang_up_behind_data = true},
    {.name = "io_uring",
     .backend = Backend::kIoUring,
     .wait_call = SystemCall::kIoUringWait,
     .wait_name = "io_uring_enter",
     .make_call = SystemCall::kIoUringSetup,
     .make_name = "io_uring_setup",
     .change_call = SystemCall::kIoUringEnter,
     .notices_hang_up_behind_data = true,
     .poller_bytes_per_watch = 48,  // 24 in arrays that double
     .checks_per_busy_turn = 1},
#endif
    {.name = "poll",
     .backend = Backend::kPoll,
     .wait_call = SystemCall::kPoll,
     .wait_name = "poll",
     .notices_closed_numbers = true,
     .notices_hang_up_behind_data = true,
     .poller_bytes_per_watch = 32},  // 16 in arrays that double
    {.name = "select",
     .backend = Backend::kSelect,
     .wait_call = SystemCall::kSelect,
     .wait_name = "select",
     .ends_at_fd_setsize = true,
     .notices_closed_numbers = true,
     .poller_bytes_per_watch = -1},
};

// Our poller for kqueue in front of a double of it, on every system.
inline constexpr BackendTraits kKqueueOnDoubleRows[] = {
    {.name = "kqueue_on_double",
     .backend = Backend::kKqueue,
     .wait_call = SystemCall::kKeventWait,
     .wait_name = "kevent",
     .make_call = SystemCall::kKqueue,
     .make_name = "kqueue",
     .change_call = SystemCall::kKevent,
     .refuses_to_remove_nothing = true,
     .notices_hang_up_behind_data = true,
     .poller_bytes_per_watch = 16,  // 8 in an array that doubles
     .tells_urgent = kHasExceptFilter,
     .on_double = &kPlainKqueue},
    {.name = "kqueue_on_double_quirks",
     .backend = Backend::kKqueue,
     .wait_call = SystemCall::kKeventWait,
     .wait_name = "kevent",
     .make_call = SystemCall::kKqueue,
     .make_name = "kqueue",
     .change_call = SystemCall::kKevent,
     .refuses_to_remove_nothing = true,
     .poller_bytes_per_watch = 16,
     .tells_urgent = false,
     .tells_loss_of_reader_of_full_pipe = false,
     .longest_batch = 64,
     .on_double = &kQuirkyKqueue},
};

// The rows of what this system has. One that is available and has no row fails a test (E70).
inline std::vector<BackendTraits> TestedBackends() {
  std::vector<BackendTraits> tested;
  for (const Backend backend : AvailableBackends()) {
    for (const BackendTraits& row : kBackendRows) {
      if (row.backend == backend) tested.push_back(row);
    }
  }
  tested.insert(tested.end(), std::begin(kKqueueOnDoubleRows), std::end(kKqueueOnDoubleRows));
  return tested;
}

// The row of one of them, if it is there.
inline std::vector<BackendTraits> TestedBackends(Backend backend) {
  std::vector<BackendTraits> tested;
  for (const BackendTraits& row : TestedBackends()) {
    if (row.backend == backend && row.on_double == nullptr) tested.push_back(row);
  }
  return tested;
}

inline std::string BackendTestName(const testing::TestParamInfo<BackendTraits>& info) {
  return info.param.name;
}
inline void PrintTo(const BackendTraits& traits, std::ostream* out) { *out << traits.name; }

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
  EXPECT_EQ(os::Socketpair(AF_UNIX, SOCK_STREAM | os::kSockCloexec | os::kSockNonblock, 0, fds), 0);
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

class LoopTest : public testing::TestWithParam<BackendTraits> {
 protected:
  LoopTest() {
    if (traits().missing_call != SystemCall::kAny) system_->FailFrom(traits().missing_call, ENOSYS);
    if (traits().on_double == nullptr) return;
    kqueue_.set_quirks(*traits().on_double);
    system_->SetKqueue(&kqueue_);
  }

  void SetUp() override { MakeLoop({}); }

  const BackendTraits& traits() const { return GetParam(); }

  void MakeLoop(EventLoopOptions options) {
    options.backend = traits().backend;
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
  int64_t Changes() const { return ChangesIn(system_->Counts()); }
  int64_t ChangesIn(const CallCounts& counts) const {
    return traits().change_call == SystemCall::kAny ? 0 : counts[traits().change_call];
  }
  SystemCall WaitCall() const { return traits().wait_call; }
  int64_t Waits() const { return system_->Count(WaitCall()); }

  FdLeakCheck descriptors_;
  ChildCheck children_;
  KqueueDouble kqueue_;
  ScopedInterposer system_;
  std::unique_ptr<EventLoop> loop_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_EVENT_EVENT_FIXTURE_H_

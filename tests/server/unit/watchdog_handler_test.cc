// F24: nothing that allocates, frees or takes the lock of the C library's time zone is reachable
// from the watchdog's handler. The test answers malloc(3) and its kin, and localtime_r(3), itself;
// while a child's watchdog expires each of them ends the child with a status of its own.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/log.h"
#include "posthouse/log/postlog_sink.h"
#include "posthouse/log/stderr_sink.h"
#include "posthouse/log/syslog_sink.h"
#include "posthouse/os/os.h"
#include "posthouse/process/watchdog.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/temp_dir.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define POSTHOUSE_TEST_SANITIZER_HAS_MALLOC
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define POSTHOUSE_TEST_SANITIZER_HAS_MALLOC
#endif

namespace {

constexpr int kRefused = 99;

volatile sig_atomic_t in_handler = 0;

void Refuse(const char* what) {
  if (in_handler == 0) return;
  in_handler = 0;
  posthouse::os::Write(STDERR_FILENO, what, std::strlen(what));
  _exit(kRefused);
}

}  // namespace

#if defined(POSTHOUSE_TEST_SANITIZER_HAS_MALLOC)

// Of <sanitizer/allocator_interface.h>, which gcc does not always bring.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*,
                                                                             size_t),
                                                         void (*free_hook)(const volatile void*));

namespace {

const int hooks_installed = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, size_t) { Refuse("an allocation in the handler\n"); },
    [](const volatile void*) { Refuse("free() in the handler\n"); });

}  // namespace

#elif defined(__GLIBC__)

extern "C" {

void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void __libc_free(void* memory);

void* malloc(size_t size) noexcept {
  Refuse("malloc() in the handler\n");
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) noexcept {
  Refuse("calloc() in the handler\n");
  return __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) noexcept {
  Refuse("realloc() in the handler\n");
  return __libc_realloc(old, size);
}
void free(void* memory) noexcept {
  Refuse("free() in the handler\n");
  __libc_free(memory);
}

}  // extern "C"

#else
#define POSTHOUSE_TEST_CANNOT_WATCH_MALLOC
#endif

extern "C" struct tm* localtime_r(const time_t* moment, struct tm* out) noexcept {
  Refuse("localtime_r() in the handler\n");
  *out = *std::localtime(moment);
  return out;
}

namespace posthouse {
namespace {

// The exit status of a child that runs `body`.
int StatusOf(const std::function<void()>& body) {
  const pid_t pid = os::Fork();
  if (pid == 0) {
    body();
    _exit(7);
  }
  const absl::optional<int> status = WaitForExit(pid);
  EXPECT_TRUE(status.has_value()) << "the child did not end";
  if (!status.has_value()) return -1;
  EXPECT_TRUE(WIFEXITED(*status)) << *status;
  return WEXITSTATUS(*status);
}

enum class Target { kStderrPipe, kStderrSocket, kSyslogDatagram, kSyslogStream, kPostlog };

struct Case {
  const char* name;
  Target target;
};

class WatchdogHandlerTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
#if defined(POSTHOUSE_TEST_CANNOT_WATCH_MALLOC)
    GTEST_SKIP() << "this C library's malloc cannot be watched";
#endif
    int fds[2] = {-1, -1};
    switch (GetParam().target) {
      case Target::kStderrPipe:
        ASSERT_EQ(os::Pipe2(fds, O_CLOEXEC), 0);
        break;
      case Target::kStderrSocket:
        ASSERT_EQ(os::Socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        break;
      case Target::kSyslogDatagram:
      case Target::kPostlog:
        Bind(SOCK_DGRAM);
        return;
      case Target::kSyslogStream:
        Bind(SOCK_STREAM);
        return;
    }
    read_end_.Reset(fds[0]);
    write_end_.Reset(fds[1]);
  }

  void Bind(int type) {
    read_end_.Reset(os::Socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(
        os::Bind(read_end_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    if (type == SOCK_STREAM) {
      ASSERT_EQ(os::Listen(read_end_.get(), 1), 0);
    }
  }

  std::unique_ptr<LogSink> NewSink() {
    SyslogOptions syslog;
    syslog.path = path_;
    switch (GetParam().target) {
      case Target::kStderrPipe:
      case Target::kStderrSocket:
        return NewStderrSink({write_end_.get(), /*with_time=*/true});
      case Target::kSyslogDatagram:
      case Target::kSyslogStream:
        return NewSyslogSink(syslog);
      case Target::kPostlog:
        return NewPostlogSink({path_, "mail.example.test"});
    }
    return nullptr;
  }

  // What the child has sent.
  std::string Sent() {
    if (GetParam().target == Target::kSyslogStream) {
      read_end_.Reset(os::Accept4(read_end_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    char buffer[5000];
    os::Fcntl(read_end_.get(), F_SETFL, O_NONBLOCK);
    const ssize_t size = os::Read(read_end_.get(), buffer, sizeof(buffer));
    std::string sent(buffer, size > 0 ? static_cast<size_t>(size) : 0);
    if (!sent.empty() && (sent.back() == '\n' || sent.back() == '\0')) sent.pop_back();
    return sent;
  }

  // A child whose watchdog expires now. raise(3) says that it is not the alarm of a stranger.
  int StatusOfExpiry() {
    return StatusOf([this] {
      Log log("echo");
      log.AddSink(NewSink());
      Watchdog watchdog(&log);
      // Ticks of its own come too late to matter.
      if (!watchdog.Start(absl::Seconds(100), "the test").ok()) _exit(9);
      in_handler = 1;
      for (int alarm = 0; alarm < 100; ++alarm) raise(SIGALRM);
    });
  }

  ChildCheck children_;
  TempDir dir_;
  const std::string path_ = dir_.Path("log");
  UniqueFd read_end_;
  UniqueFd write_end_;
};

TEST_P(WatchdogHandlerTest, F24_TheHandlerNeitherAllocatesNorAsksForTheZone) {
  EXPECT_EQ(StatusOfExpiry(), 1);
  const std::string sent = Sent();
  EXPECT_TRUE(absl::EndsWith(sent, "]: fatal: watchdog timeout: no progress in the test for 1m40s"))
      << sent;
}

TEST_P(WatchdogHandlerTest, F24_NorDoesItWhileSigtermWaits) {
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  os::Sigmask(SIG_BLOCK, &term, &before);
  const int status = StatusOf([this] {
    Log log("echo");
    log.AddSink(NewSink());
    Watchdog watchdog(&log);
    if (!watchdog.Start(absl::Seconds(100), "the test").ok()) _exit(9);
    os::Kill(os::Getpid(), SIGTERM);
    in_handler = 1;
    for (int alarm = 0; alarm < 2; ++alarm) raise(SIGALRM);
  });
  os::Sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(status, 1);
  EXPECT_TRUE(absl::EndsWith(Sent(),
                             "]: fatal: watchdog timeout: no progress in the test while SIGTERM "
                             "waits to be acted upon"));
}

INSTANTIATE_TEST_SUITE_P(Sinks, WatchdogHandlerTest,
                         testing::Values(Case{"StderrPipe", Target::kStderrPipe},
                                         Case{"StderrSocket", Target::kStderrSocket},
                                         Case{"SyslogDatagram", Target::kSyslogDatagram},
                                         Case{"SyslogStream", Target::kSyslogStream},
                                         Case{"Postlog", Target::kPostlog}),
                         [](const auto& info) { return std::string(info.param.name); });

// The guard itself: without it the tests above would prove nothing.
TEST(WatchdogHandlerGuardTest, AnAllocationAFreeAndAZoneAreSeen) {
#if defined(POSTHOUSE_TEST_CANNOT_WATCH_MALLOC)
  GTEST_SKIP() << "this C library's malloc cannot be watched";
#endif
  static void* volatile memory = nullptr;
  EXPECT_EQ(StatusOf([] {
              in_handler = 1;
              memory = ::operator new(1000);
            }),
            kRefused);
  EXPECT_EQ(StatusOf([] {
              memory = ::operator new(1000);
              in_handler = 1;
              ::operator delete(memory);
            }),
            kRefused);
  EXPECT_EQ(StatusOf([] {
              Log log("echo");
              log.AddSink(NewStderrSink({.fd = 2}));
              in_handler = 1;
              log.Info("an ordinary record is no matter for a handler");
            }),
            kRefused);
  EXPECT_EQ(StatusOf([] {
              const time_t moment = 0;
              struct tm fields;
              in_handler = 1;
              localtime_r(&moment, &fields);
            }),
            kRefused);
}

}  // namespace
}  // namespace posthouse

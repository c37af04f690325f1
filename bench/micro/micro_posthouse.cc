// W1 to W4 on posthouse. backend=NAME chooses the poller; without it the best one is taken.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/micro/harness.h"
#include "bench/micro/workloads.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/event.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/event/timer.h"

namespace bench {
namespace {

std::unique_ptr<posthouse::EventLoop> MakeLoop(const std::string& backend_name) {
  const absl::StatusOr<posthouse::Backend> backend = posthouse::ParseBackend(backend_name);
  if (!backend.ok()) Misuse(backend.status().ToString());
  auto loop = posthouse::EventLoop::Create({.backend = *backend});
  if (!loop.ok()) Unsupported(loop.status().ToString());
  return *std::move(loop);
}

class PosthouseAdapter {
 public:
  explicit PosthouseAdapter(Options* options) : loop_(MakeLoop(options->Text("backend", "best"))) {}

  void Run() {
    for (stopped_ = false; !stopped_;) Turn(absl::InfiniteDuration());
  }
  void Stop() { stopped_ = true; }
  void Poll() { Turn(absl::ZeroDuration()); }
  void Describe(Report* report) {
    report->Add("backend", std::string(posthouse::BackendName(loop_->backend())));
  }

  template <typename Target>
  class Reader {
   public:
    Reader(PosthouseAdapter* adapter, int fd, Target* target)
        : watch_(adapter->Watch(
              fd, {.on_readable = [](int, void* t) { static_cast<Target*>(t)->OnReadable(); },
                   .context = target})) {}

   private:
    posthouse::FdWatch watch_;
  };

  template <typename Target>
  using IdleReader = ComposedIdleReader<PosthouseAdapter, Target>;

  template <typename Target>
  class Fd {
   public:
    Fd(PosthouseAdapter* adapter, int fd, Target* target)
        : watch_(adapter->Watch(
              fd, {.on_readable = [](int, void* t) { static_cast<Target*>(t)->OnReadable(); },
                   .on_writable = [](int, void* t) { static_cast<Target*>(t)->OnWritable(); },
                   .context = target,
                   .read = false})) {}
    void Change(PosthouseAdapter* /*adapter*/, int from, int to) {
      if ((from & ~to & kRead) != 0) watch_.DisableRead();
      if ((from & ~to & kWrite) != 0) watch_.DisableWrite();
      if ((to & ~from & kRead) != 0) watch_.EnableRead();
      if ((to & ~from & kWrite) != 0) watch_.EnableWrite();
    }

   private:
    posthouse::FdWatch watch_;
  };

  using Delay = int64_t;
  static Delay ToDelay(int64_t ns) { return ns; }

  template <typename Target>
  class Timer {
   public:
    Timer(PosthouseAdapter* adapter, Target* target)
        : timer_(
              adapter->loop_.get(), [](int, void* t) { static_cast<Target*>(t)->OnTimer(); },
              target) {}
    void Set(PosthouseAdapter* adapter, Delay delay) { adapter->loop_->PushBack(&timer_, delay); }
    void Cancel(PosthouseAdapter* /*adapter*/) { timer_.Cancel(); }

   private:
    posthouse::Timer timer_;
  };

  template <typename Work>
  void Within(Work work) {
    work();
  }
  void Settle() {}
  void ClockMoved() {}
  static constexpr bool kKernelKeepsTime = false;

 private:
  void Turn(absl::Duration max_wait) {
    const absl::Status status = loop_->RunOnce(max_wait);
    if (!status.ok()) Fail(status.ToString());
  }

  posthouse::FdWatch Watch(int fd, const posthouse::FdWatchOptions& options) {
    absl::StatusOr<posthouse::FdWatch> watch = loop_->Watch(fd, options);
    if (absl::IsInvalidArgument(watch.status())) Unsupported(watch.status().ToString());
    if (!watch.ok()) Fail(watch.status().ToString());
    return *std::move(watch);
  }

  const std::unique_ptr<posthouse::EventLoop> loop_;
  bool stopped_ = false;
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  return bench::RunMicro<bench::PosthouseAdapter>("posthouse", bench::Options(argc, argv));
}

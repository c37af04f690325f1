// W1 to W4 on libev 4, in the manner of ev(3).
//
// Timers are moved by ev_timer_again(), which is method 2 of the manual's "Be smart about
// timeouts". variant=rearm: W2 by method 3, which the manual calls better in typical situations:
// the callback notes the time of the activity, and the timer, when it runs out, is set for what is
// left.

#include <ev.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "bench/micro/harness.h"
#include "bench/micro/workloads.h"

namespace bench {
namespace {

template <bool kRearm>
class LibevAdapter {
 public:
  explicit LibevAdapter(Options* /*options*/) : loop_(ev_default_loop(0)) {
    if (loop_ == nullptr) Unsupported("ev_default_loop");
  }
  ~LibevAdapter() { ev_loop_destroy(loop_); }

  void Run() { ev_run(loop_, 0); }
  void Stop() { ev_break(loop_, EVBREAK_ONE); }
  void Poll() { ev_run(loop_, EVRUN_NOWAIT); }
  void Describe(Report* report) {
    report->Add("backend", ev_backend(loop_) == EVBACKEND_EPOLL ? "epoll" : "other");
    report->Add("version",
                std::to_string(ev_version_major()) + "." + std::to_string(ev_version_minor()));
  }

  template <typename Target>
  class Reader {
   public:
    Reader(LibevAdapter* adapter, int fd, Target* target) : loop_(adapter->loop_) {
      ev_io_init(&io_, &Reader::OnEvent, fd, EV_READ);
      io_.data = target;
      ev_io_start(loop_, &io_);
    }
    ~Reader() { ev_io_stop(loop_, &io_); }

   private:
    static void OnEvent(struct ev_loop*, ev_io* io, int) {
      static_cast<Target*>(io->data)->OnReadable();
    }

    struct ev_loop* const loop_;
    ev_io io_;
  };

  using Delay = ev_tstamp;
  static Delay ToDelay(int64_t ns) { return static_cast<double>(ns) / kNsPerSecond; }

  template <typename Target>
  class RearmingIdleReader {
   public:
    RearmingIdleReader(LibevAdapter* adapter, int fd, Delay delay, Target* target)
        : reader_(adapter, fd, target), loop_(adapter->loop_), delay_(delay) {
      ev_init(&timer_, &RearmingIdleReader::OnTimeout);
      timer_.data = this;
      target_ = target;
      Touch(adapter);
      OnTimeout(loop_, &timer_, 0);
    }
    ~RearmingIdleReader() { ev_timer_stop(loop_, &timer_); }
    void Touch(LibevAdapter* adapter) { last_activity_ = ev_now(adapter->loop_); }

   private:
    static void OnTimeout(struct ev_loop* loop, ev_timer* timer, int) {
      auto* self = static_cast<RearmingIdleReader*>(timer->data);
      const ev_tstamp left = self->last_activity_ - ev_now(loop) + self->delay_;
      if (left <= 0) {
        self->target_->OnTimer();
      } else {
        ev_timer_set(timer, left, 0.);
        ev_timer_start(loop, timer);
      }
    }

    Reader<Target> reader_;
    struct ev_loop* const loop_;
    const Delay delay_;
    ev_tstamp last_activity_;
    ev_timer timer_;
    Target* target_;
  };

  template <typename Target>
  using IdleReader = std::conditional_t<kRearm, RearmingIdleReader<Target>,
                                        ComposedIdleReader<LibevAdapter, Target>>;

  template <typename Target>
  class Fd {
   public:
    Fd(LibevAdapter* adapter, int fd, Target* target) : loop_(adapter->loop_) {
      ev_io_init(&io_, &Fd::OnEvent, fd, 0);
      io_.data = target;
    }
    ~Fd() { ev_io_stop(loop_, &io_); }
    void Change(LibevAdapter* adapter, int from, int to) {
      static_assert(kRead == EV_READ && kWrite == EV_WRITE);
      if (from != 0) ev_io_stop(adapter->loop_, &io_);
      if (to == 0) return;
      ev_io_modify(&io_, to);
      ev_io_start(adapter->loop_, &io_);
    }

   private:
    static void OnEvent(struct ev_loop*, ev_io* io, int events) {
      if ((events & EV_READ) != 0) static_cast<Target*>(io->data)->OnReadable();
      if ((events & EV_WRITE) != 0) static_cast<Target*>(io->data)->OnWritable();
    }

    struct ev_loop* const loop_;
    ev_io io_;
  };

  template <typename Target>
  class Timer {
   public:
    Timer(LibevAdapter* adapter, Target* target) : loop_(adapter->loop_) {
      ev_init(&timer_, &Timer::OnTimeout);
      timer_.repeat = 0.;
      timer_.data = target;
    }
    ~Timer() { ev_timer_stop(loop_, &timer_); }
    // Without a repeat value when it runs out it is a one-shot timer.
    void Set(LibevAdapter* adapter, Delay delay) {
      timer_.repeat = delay;
      ev_timer_again(adapter->loop_, &timer_);
      timer_.repeat = 0.;
    }
    void Cancel(LibevAdapter* adapter) { ev_timer_stop(adapter->loop_, &timer_); }

   private:
    static void OnTimeout(struct ev_loop*, ev_timer* timer, int) {
      static_cast<Target*>(timer->data)->OnTimer();
    }

    ev_timer timer_;
    struct ev_loop* const loop_;
  };

  template <typename Work>
  void Within(Work work) {
    work();
  }
  void Settle() {}
  void ClockMoved() {}
  static constexpr bool kKernelKeepsTime = false;

 private:
  struct ev_loop* const loop_;
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  const std::string variant = options.Text("variant", "");
  if (variant.empty()) return bench::RunMicro<bench::LibevAdapter<false>>("libev", options);
  if (variant != "rearm") bench::Misuse("variant is rearm or absent");
  if (options.workload() != "w2") bench::Unsupported("rearm is a way to do W2");
  return bench::RunMicro<bench::LibevAdapter<true>>("libev", options);
}

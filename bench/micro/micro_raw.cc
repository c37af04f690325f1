// W1 to W4 on the hand-written loop.

#include <sys/epoll.h>

#include <cstdint>
#include <utility>

#include "bench/micro/harness.h"
#include "bench/micro/raw_loop.h"
#include "bench/micro/workloads.h"

namespace bench {
namespace {

static_assert(kRead == EPOLLIN);

uint32_t EpollEvents(int interest) {
  return static_cast<uint32_t>(interest & kRead) |
         ((interest & kWrite) != 0 ? uint32_t{EPOLLOUT} : 0);
}

class RawAdapter {
 public:
  explicit RawAdapter(Options* /*options*/) {}

  void Run() {
    for (stopped_ = false; !stopped_;) loop_.Turn(true);
  }
  void Stop() { stopped_ = true; }
  void Poll() { loop_.Turn(false); }
  void Describe(Report* report) { report->Add("backend", "epoll"); }

  template <typename Target>
  class Reader {
   public:
    Reader(RawAdapter* adapter, int fd, Target* target) : adapter_(adapter), fd_(fd) {
      adapter->loop_.SetHandler(
          fd, [](void* context, uint32_t) { static_cast<Target*>(context)->OnReadable(); }, target);
      adapter->loop_.SetInterest(fd, EPOLLIN);
    }
    ~Reader() { adapter_->loop_.Forget(fd_); }

   private:
    RawAdapter* const adapter_;
    const int fd_;
  };

  template <typename Target>
  using IdleReader = ComposedIdleReader<RawAdapter, Target>;

  template <typename Target>
  class Fd {
   public:
    Fd(RawAdapter* adapter, int fd, Target* target) : adapter_(adapter), fd_(fd) {
      adapter->loop_.SetHandler(
          fd,
          [](void* context, uint32_t events) {
            if ((events & EPOLLIN) != 0) static_cast<Target*>(context)->OnReadable();
            if ((events & EPOLLOUT) != 0) static_cast<Target*>(context)->OnWritable();
          },
          target);
    }
    ~Fd() { adapter_->loop_.Forget(fd_); }
    void Change(RawAdapter* adapter, int /*from*/, int to) {
      adapter->loop_.SetInterest(fd_, EpollEvents(to));
    }

   private:
    RawAdapter* const adapter_;
    const int fd_;
  };

  using Delay = int64_t;
  static Delay ToDelay(int64_t ns) { return ns; }

  template <typename Target>
  class Timer {
   public:
    Timer(RawAdapter* adapter, Target* target) : adapter_(adapter) {
      timer_.handler = [](void* context) { static_cast<Target*>(context)->OnTimer(); };
      timer_.context = target;
    }
    ~Timer() { Cancel(adapter_); }
    void Set(RawAdapter* adapter, Delay delay) {
      adapter->loop_.timers().Set(&timer_, adapter->loop_.now_ns() + delay);
    }
    void Cancel(RawAdapter* adapter) { adapter->loop_.timers().Cancel(&timer_); }

   private:
    RawTimer timer_;
    RawAdapter* const adapter_;
  };

  template <typename Work>
  void Within(Work work) {
    work();
  }
  void Settle() {}
  void ClockMoved() {}
  static constexpr bool kKernelKeepsTime = false;

 private:
  RawLoop loop_;
  bool stopped_ = false;
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  return bench::RunMicro<bench::RawAdapter>("raw", bench::Options(argc, argv));
}

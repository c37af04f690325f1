// W1 to W4 on libuv 1.44: uv_poll_t for descriptors, uv_timer_t for timers, both embedded.

#include <uv.h>

#include <cstdint>
#include <string>

#include "bench/micro/harness.h"
#include "bench/micro/workloads.h"

namespace bench {
namespace {

void Require(int result, const char* call) {
  if (result < 0) Fail(std::string(call) + ": " + uv_strerror(result));
}

// A handle may be freed only after a turn of the loop has closed it.
template <typename Handle>
void Close(uv_loop_t* loop, Handle* handle) {
  uv_close(reinterpret_cast<uv_handle_t*>(handle), nullptr);
  uv_run(loop, UV_RUN_NOWAIT);
}

class LibuvAdapter {
 public:
  explicit LibuvAdapter(Options* /*options*/) { Require(uv_loop_init(&loop_), "uv_loop_init"); }
  ~LibuvAdapter() { uv_loop_close(&loop_); }

  void Run() { uv_run(&loop_, UV_RUN_DEFAULT); }
  void Stop() { uv_stop(&loop_); }
  void Poll() { uv_run(&loop_, UV_RUN_NOWAIT); }
  void Describe(Report* report) {
    report->Add("backend", "epoll");
    report->Add("version", uv_version_string());
  }

  template <typename Target>
  class Reader {
   public:
    Reader(LibuvAdapter* adapter, int fd, Target* target) {
      Require(uv_poll_init(&adapter->loop_, &poll_, fd), "uv_poll_init");
      poll_.data = target;
      Require(uv_poll_start(&poll_, UV_READABLE, &Reader::OnEvent), "uv_poll_start");
    }
    ~Reader() { Close(poll_.loop, &poll_); }

   private:
    static void OnEvent(uv_poll_t* poll, int status, int /*events*/) {
      Require(status, "poll");
      static_cast<Target*>(poll->data)->OnReadable();
    }

    uv_poll_t poll_;
  };

  template <typename Target>
  using IdleReader = ComposedIdleReader<LibuvAdapter, Target>;

  template <typename Target>
  class Fd {
   public:
    Fd(LibuvAdapter* adapter, int fd, Target* target) {
      Require(uv_poll_init(&adapter->loop_, &poll_, fd), "uv_poll_init");
      poll_.data = target;
    }
    ~Fd() { Close(poll_.loop, &poll_); }
    void Change(LibuvAdapter* /*adapter*/, int /*from*/, int to) {
      static_assert(kRead == UV_READABLE && kWrite == UV_WRITABLE);
      if (to == 0) {
        uv_poll_stop(&poll_);
      } else {
        uv_poll_start(&poll_, to, &Fd::OnEvent);
      }
    }

   private:
    static void OnEvent(uv_poll_t* poll, int status, int events) {
      Require(status, "poll");
      if ((events & UV_READABLE) != 0) static_cast<Target*>(poll->data)->OnReadable();
      if ((events & UV_WRITABLE) != 0) static_cast<Target*>(poll->data)->OnWritable();
    }

    uv_poll_t poll_;
  };

  using Delay = uint64_t;
  static Delay ToDelay(int64_t ns) { return static_cast<uint64_t>(ns / kNsPerMs); }

  template <typename Target>
  class Timer {
   public:
    Timer(LibuvAdapter* adapter, Target* target) {
      uv_timer_init(&adapter->loop_, &timer_);
      timer_.data = target;
    }
    ~Timer() { Close(timer_.loop, &timer_); }
    void Set(LibuvAdapter* /*adapter*/, Delay delay) {
      uv_timer_start(&timer_, &Timer::OnTimeout, delay, 0);
    }
    void Cancel(LibuvAdapter* /*adapter*/) { uv_timer_stop(&timer_); }

   private:
    static void OnTimeout(uv_timer_t* timer) { static_cast<Target*>(timer->data)->OnTimer(); }

    uv_timer_t timer_;
  };

  template <typename Work>
  void Within(Work work) {
    work();
  }
  void Settle() {}
  void ClockMoved() {}
  static constexpr bool kKernelKeepsTime = false;

 private:
  uv_loop_t loop_;
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  return bench::RunMicro<bench::LibuvAdapter>("libuv", bench::Options(argc, argv));
}

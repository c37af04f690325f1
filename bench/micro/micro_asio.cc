// W1 to W4 on Asio 1.22 (standalone): posix::stream_descriptor's async_wait() and steady_timer.
//
// Waits are one-shot, so each handler asks again. A direction cannot be dropped alone: cancel()
// ends the waits for all, and those that stay are asked for again; the ended ones are told so in
// the next turn. One thread runs it all, so the io_context does without locks, as its "Concurrency
// Hints" allow.

#include <asio/error_code.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <asio/version.hpp>
#include <chrono>
#include <cstdint>
#include <string>

#include "bench/micro/harness.h"
#include "bench/micro/workloads.h"

namespace bench {
namespace {

using Descriptor = asio::posix::stream_descriptor;

class AsioAdapter {
 public:
  explicit AsioAdapter(Options* /*options*/)
      : context_(ASIO_CONCURRENCY_HINT_UNSAFE), work_(context_.get_executor()), nudge_(context_) {}

  void Run() {
    context_.restart();
    context_.run();
  }
  void Stop() { context_.stop(); }
  // All that is ready, and what gets ready meanwhile.
  void Poll() {
    context_.restart();
    context_.poll();
  }
  void Describe(Report* report) {
    report->Add("backend", "epoll");
    report->Add("version", std::to_string(ASIO_VERSION / 100000) + "." +
                               std::to_string(ASIO_VERSION / 100 % 1000));
  }

  template <typename Target>
  class Reader {
   public:
    Reader(AsioAdapter* adapter, int fd, Target* target)
        : descriptor_(adapter->context_, fd), target_(target) {
      Wait();
    }
    ~Reader() { descriptor_.release(); }

   private:
    void Wait() {
      descriptor_.async_wait(Descriptor::wait_read, [this](const asio::error_code& error) {
        if (error) return;
        target_->OnReadable();
        Wait();
      });
    }

    Descriptor descriptor_;
    Target* const target_;
  };

  template <typename Target>
  using IdleReader = ComposedIdleReader<AsioAdapter, Target>;

  template <typename Target>
  class Fd {
   public:
    Fd(AsioAdapter* adapter, int fd, Target* target)
        : descriptor_(adapter->context_, fd), target_(target) {}
    ~Fd() { descriptor_.release(); }
    void Change(AsioAdapter* /*adapter*/, int from, int to) {
      if ((from & ~to) != 0) {
        descriptor_.cancel();
        from = 0;
      }
      if ((to & ~from & kRead) != 0) WaitRead();
      if ((to & ~from & kWrite) != 0) WaitWrite();
    }

   private:
    void WaitRead() {
      descriptor_.async_wait(Descriptor::wait_read, [this](const asio::error_code& error) {
        if (error) return;
        target_->OnReadable();
        WaitRead();
      });
    }
    void WaitWrite() {
      descriptor_.async_wait(Descriptor::wait_write, [this](const asio::error_code& error) {
        if (error) return;
        target_->OnWritable();
        WaitWrite();
      });
    }

    Descriptor descriptor_;
    Target* const target_;
  };

  using Delay = std::chrono::nanoseconds;
  static Delay ToDelay(int64_t ns) { return Delay(ns); }

  template <typename Target>
  class Timer {
   public:
    Timer(AsioAdapter* adapter, Target* target) : timer_(adapter->context_), target_(target) {}
    void Set(AsioAdapter* /*adapter*/, Delay delay) {
      timer_.expires_after(delay);
      timer_.async_wait([target = target_](const asio::error_code& error) {
        if (!error) target->OnTimer();
      });
    }
    void Cancel(AsioAdapter* /*adapter*/) { timer_.cancel(); }

   private:
    asio::steady_timer timer_;
    Target* const target_;
  };

  template <typename Work>
  void Within(Work work) {
    work();
  }
  // The handlers of waits that were cancelled.
  void Settle() { Poll(); }
  // A timerfd(2) tells Asio that time has passed; a timer that is earlier than all sets it anew. In
  // life that would not be needed, so the time it takes does not count.
  static constexpr bool kKernelKeepsTime = true;
  void ClockMoved() {
    nudge_.expires_at(asio::steady_timer::time_point::min());
    nudge_.async_wait([](const asio::error_code&) {});
  }

 private:
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  asio::steady_timer nudge_;
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  return bench::RunMicro<bench::AsioAdapter>("asio", bench::Options(argc, argv));
}

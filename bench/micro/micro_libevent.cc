// W1 to W4 on libevent 2.1, in the manner of its book and of event2/event.h.
//
// Persistent events made by event_new(). An idle timeout is the timeout of the persistent read
// event itself, which libevent starts anew whenever the event has become active, so nothing is to
// be done in the callback. event_base_init_common_timeout() is for thousands of timeouts of the
// same length; here each descriptor has another one, so it does not apply. variant=changelist: with
// EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST, which is safe here because no descriptor is a duplicate.

#include <event2/event.h>
#include <sys/time.h>

#include <cstdint>
#include <string>

#include "bench/micro/harness.h"
#include "bench/micro/workloads.h"

namespace bench {
namespace {

event_base* MakeBase(Options* options) {
  const std::string variant = options->Text("variant", "");
  if (variant.empty()) return event_base_new();
  if (variant != "changelist") Misuse("variant is changelist or absent");
  event_config* config = event_config_new();
  event_config_set_flag(config, EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST);
  event_base* base = event_base_new_with_config(config);
  event_config_free(config);
  return base;
}

class LibeventAdapter {
 public:
  explicit LibeventAdapter(Options* options) : base_(MakeBase(options)) {
    if (base_ == nullptr) Unsupported("event_base_new");
  }
  ~LibeventAdapter() { event_base_free(base_); }

  void Run() { event_base_dispatch(base_); }
  void Stop() { event_base_loopbreak(base_); }
  void Poll() { event_base_loop(base_, EVLOOP_ONCE | EVLOOP_NONBLOCK); }
  void Describe(Report* report) {
    const std::string method = event_base_get_method(base_);  // "epoll (with changelist)"
    report->Add("backend", method.substr(0, method.find(' ')));
    report->Add("version", event_get_version());
  }

  template <typename Target>
  class Reader {
   public:
    Reader(LibeventAdapter* adapter, int fd, Target* target)
        : event_(event_new(
              adapter->base_, fd, EV_READ | EV_PERSIST,
              [](evutil_socket_t, short, void* t) { static_cast<Target*>(t)->OnReadable(); },
              target)) {
      event_add(event_, nullptr);
    }
    ~Reader() { event_free(event_); }

   private:
    event* const event_;
  };

  template <typename Target>
  class IdleReader {
   public:
    IdleReader(LibeventAdapter* adapter, int fd, const timeval& delay, Target* target)
        : event_(
              event_new(adapter->base_, fd, EV_READ | EV_PERSIST, &IdleReader::OnEvent, target)) {
      event_add(event_, &delay);
    }
    ~IdleReader() { event_free(event_); }
    void Touch(LibeventAdapter* /*adapter*/) {}

   private:
    static void OnEvent(evutil_socket_t, short what, void* target) {
      if ((what & EV_READ) != 0) static_cast<Target*>(target)->OnReadable();
      if ((what & EV_TIMEOUT) != 0) static_cast<Target*>(target)->OnTimer();
    }

    event* const event_;
  };

  template <typename Target>
  class Fd {
   public:
    Fd(LibeventAdapter* adapter, int fd, Target* target)
        : read_(event_new(
              adapter->base_, fd, EV_READ | EV_PERSIST,
              [](evutil_socket_t, short, void* t) { static_cast<Target*>(t)->OnReadable(); },
              target)),
          write_(event_new(
              adapter->base_, fd, EV_WRITE | EV_PERSIST,
              [](evutil_socket_t, short, void* t) { static_cast<Target*>(t)->OnWritable(); },
              target)) {}
    ~Fd() {
      event_free(read_);
      event_free(write_);
    }
    void Change(LibeventAdapter* /*adapter*/, int from, int to) {
      // Added first, so that the descriptor need not leave the kernel's set to come back at once.
      if ((to & ~from & kRead) != 0) event_add(read_, nullptr);
      if ((to & ~from & kWrite) != 0) event_add(write_, nullptr);
      if ((from & ~to & kRead) != 0) event_del(read_);
      if ((from & ~to & kWrite) != 0) event_del(write_);
    }

   private:
    event* const read_;
    event* const write_;
  };

  using Delay = timeval;
  static Delay ToDelay(int64_t ns) { return {ns / kNsPerSecond, ns % kNsPerSecond / 1000}; }

  template <typename Target>
  class Timer {
   public:
    Timer(LibeventAdapter* adapter, Target* target)
        : event_(evtimer_new(
              adapter->base_,
              [](evutil_socket_t, short, void* t) { static_cast<Target*>(t)->OnTimer(); },
              target)) {}
    ~Timer() { event_free(event_); }
    void Set(LibeventAdapter* /*adapter*/, const Delay& delay) { evtimer_add(event_, &delay); }
    void Cancel(LibeventAdapter* /*adapter*/) { evtimer_del(event_); }

   private:
    event* const event_;
  };

  // Outside its callbacks libevent reads the clock for each timer that is added.
  template <typename Work>
  void Within(Work work) {
    const auto call = [](evutil_socket_t, short, void* w) { (*static_cast<Work*>(w))(); };
    event_base_once(base_, -1, EV_TIMEOUT, call, &work, nullptr);
    event_base_loop(base_, EVLOOP_ONCE);
  }
  void Settle() {}
  void ClockMoved() {}
  static constexpr bool kKernelKeepsTime = false;

 private:
  event_base* const base_;
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  return bench::RunMicro<bench::LibeventAdapter>("libevent", bench::Options(argc, argv));
}

#include "posthouse/event/closures.h"

#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "posthouse/base/check.h"
#include "posthouse/event/event.h"

namespace posthouse {
namespace {

// Keeps a state alive while one of its closures runs, however the closure ends.
template <typename State>
void CallAndKeep(State* state, absl::AnyInvocable<void()>* closure) {
  ++state->running;
  const auto done = absl::MakeCleanup([state] {
    if (--state->running == 0 && state->ended) delete state;
  });
  (*closure)();
}

}  // namespace

// --- CallbackWatch ---

struct CallbackWatch::State {
  CallbackWatchOptions options;
  FdWatch watch;
  int running = 0;
  bool ended = false;

  static void On(int event, void* context) {
    auto* state = static_cast<State*>(context);
    CallbackWatchOptions& options = state->options;
    CallAndKeep(state, event == kEventRead    ? &options.on_readable
                       : event == kEventWrite ? &options.on_writable
                                              : &options.on_error);
  }
};

void CallbackWatch::EndState::operator()(State* state) const {
  state->watch.Reset();
  state->ended = true;
  if (state->running == 0) delete state;
}

CallbackWatch::CallbackWatch() = default;
CallbackWatch::CallbackWatch(CallbackWatch&&) noexcept = default;
CallbackWatch& CallbackWatch::operator=(CallbackWatch&&) noexcept = default;
CallbackWatch::~CallbackWatch() = default;

absl::StatusOr<CallbackWatch> CallbackWatch::Create(EventLoop* loop, int fd,
                                                    CallbackWatchOptions options) {
  CallbackWatch made;
  made.state_.reset(new State{std::move(options)});
  State* state = made.state_.get();
  const CallbackWatchOptions& kept = state->options;
  absl::StatusOr<FdWatch> watch =
      loop->Watch(fd, {.on_readable = kept.on_readable ? &State::On : nullptr,
                       .on_writable = kept.on_writable ? &State::On : nullptr,
                       .on_error = kept.on_error ? &State::On : nullptr,
                       .context = state,
                       .read = kept.read,
                       .write = kept.write,
                       .background = kept.background,
                       .exclusive = kept.exclusive,
                       .urgent = kept.urgent,
                       .sole_owner = kept.sole_owner});
  if (!watch.ok()) return watch.status();
  state->watch = *std::move(watch);
  return made;
}

void CallbackWatch::Reset() { state_.reset(); }

FdWatch& CallbackWatch::watch() {
  POSTHOUSE_CHECK(active(), "an empty CallbackWatch has no watch");
  return state_->watch;
}

// --- CallbackTimer ---

struct CallbackTimer::State {
  State(EventLoop* loop, absl::AnyInvocable<void()> handler_in)
      : handler(std::move(handler_in)), timer(loop, &State::On, this) {}

  absl::AnyInvocable<void()> handler;
  Timer timer;
  int running = 0;
  bool ended = false;

  static void On(int event, void* context) {
    auto* state = static_cast<State*>(context);
    CallAndKeep(state, &state->handler);
  }
};

void CallbackTimer::EndState::operator()(State* state) const {
  state->timer.Cancel();
  state->ended = true;
  if (state->running == 0) delete state;
}

CallbackTimer::CallbackTimer(EventLoop* loop, absl::AnyInvocable<void()> handler)
    : state_(new State(loop, std::move(handler))) {}
CallbackTimer::CallbackTimer(CallbackTimer&&) noexcept = default;
CallbackTimer& CallbackTimer::operator=(CallbackTimer&&) noexcept = default;
CallbackTimer::~CallbackTimer() = default;

void CallbackTimer::Start(absl::Duration delay) { state_->timer.Start(delay); }
bool CallbackTimer::Cancel() { return state_->timer.Cancel(); }
bool CallbackTimer::pending() const { return state_->timer.pending(); }
absl::Duration CallbackTimer::TimeLeft() const { return state_->timer.TimeLeft(); }

}  // namespace posthouse

#include "posthouse/event/completion_listener.h"

#include <errno.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/event/event_loop_impl.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/event/io_uring_port.h"

namespace posthouse {
namespace {

bool EndsAccepting(AcceptOutcome outcome) {
  return outcome == AcceptOutcome::kBackOff || outcome == AcceptOutcome::kBroken;
}

// --- By readiness ---

class ReadinessListener final : public CompletionListener {
 public:
  ReadinessListener(int listen_fd, const CompletionListenerOptions& options)
      : listen_fd_(listen_fd), options_(options) {}

  ~ReadinessListener() override {
    if (destroyed_ != nullptr) *destroyed_ = true;
  }

  absl::Status Open(EventLoop* loop) {
    FdWatchOptions options;
    options.on_readable = &ReadinessListener::OnReadable;
    options.context = this;
    options.background = true;
    options.exclusive = true;
    absl::StatusOr<FdWatch> watch = loop->Watch(listen_fd_, options);
    if (!watch.ok()) return watch.status();
    watch_ = *std::move(watch);
    return absl::OkStatus();
  }

  void Pause() override { watch_.DisableRead(); }
  void Resume() override { watch_.EnableRead(); }

 private:
  static void OnReadable(int /*event*/, void* context) {
    static_cast<ReadinessListener*>(context)->AcceptBatch();
  }

  void AcceptBatch() {
    bool destroyed = false;
    destroyed_ = &destroyed;
    const auto done = absl::MakeCleanup([&] {
      if (!destroyed) destroyed_ = nullptr;
    });
    for (int i = 0; i < kAcceptsPerTurn && !destroyed && watch_.read_enabled(); ++i) {
      AcceptResult result = AcceptConnection(listen_fd_, Transport::kUnix);
      if (result.outcome == AcceptOutcome::kNone) break;
      if (result.outcome == AcceptOutcome::kClient) {
        options_.on_connection(std::move(result.fd), options_.context);
      } else {
        if (EndsAccepting(result.outcome)) watch_.DisableRead();
        options_.on_failure(result.outcome, result.status, options_.context);
      }
    }
  }

  int listen_fd_;
  CompletionListenerOptions options_;
  FdWatch watch_;
  bool* destroyed_ = nullptr;  // while handlers run
};

#if defined(__linux__)

// --- By completions ---

class RingListener final : public CompletionListener, private IoUringPort::Target {
 public:
  RingListener(IoUringPort* port, int listen_fd, const CompletionListenerOptions& options)
      : port_(port), listen_fd_(listen_fd), options_(options) {
    Resume();
  }

  ~RingListener() override {
    if (destroyed_ != nullptr) *destroyed_ = true;
    port_->Forget(accept_);
  }

  void Pause() override {
    paused_ = true;
    if (accept_ == IoUringPort::kNone || cancelling_) return;
    cancelling_ = true;
    port_->Cancel(accept_);
  }

  void Resume() override {
    paused_ = false;
    // Otherwise the end of the one that is being cancelled starts the next.
    if (accept_ == IoUringPort::kNone) accept_ = port_->StartAccept(listen_fd_, this);
  }

 private:
  void OnCompletion(IoUringPort::Operation /*operation*/,
                    const IoUringPort::Completion& completion) override {
    const bool cancelled = completion.result == -ECANCELED && cancelling_;
    if (completion.last) {
      accept_ = IoUringPort::kNone;
      cancelling_ = false;
    }
    bool destroyed = false;
    destroyed_ = &destroyed;
    const auto done = absl::MakeCleanup([&] {
      if (!destroyed) destroyed_ = nullptr;
    });
    if (completion.result >= 0) {
      options_.on_connection(UniqueFd(completion.result), options_.context);
    } else if (!cancelled) {
      Failed(-completion.result);
    }
    if (!destroyed && !paused_ && accept_ == IoUringPort::kNone) Resume();
  }

  void Failed(int error) {
    const AcceptOutcome outcome = ClassifyAcceptError(error);
    if (outcome == AcceptOutcome::kNone) return;
    if (EndsAccepting(outcome)) Pause();
    options_.on_failure(
        outcome, absl::ErrnoToStatus(error, absl::StrCat("accept on listen socket ", listen_fd_)),
        options_.context);
  }

  IoUringPort* port_;
  int listen_fd_;
  CompletionListenerOptions options_;
  IoUringPort::Operation accept_ = IoUringPort::kNone;
  bool paused_ = false;
  bool cancelling_ = false;    // accept_ has been cancelled
  bool* destroyed_ = nullptr;  // while a handler runs
};

#endif

}  // namespace

absl::StatusOr<std::unique_ptr<CompletionListener>> CompletionListener::Create(
    EventLoop* loop, int listen_fd, const CompletionListenerOptions& options) {
  POSTHOUSE_CHECK(options.on_connection != nullptr && options.on_failure != nullptr,
                  "a listener without handlers");
#if defined(__linux__)
  if (IoUringPort* port = loop->impl().io_uring_port()) {
    return std::make_unique<RingListener>(port, listen_fd, options);
  }
#endif
  auto listener = std::make_unique<ReadinessListener>(listen_fd, options);
  if (absl::Status status = listener->Open(loop); !status.ok()) return status;
  return listener;
}

}  // namespace posthouse

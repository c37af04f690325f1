#include "posthouse/event/completion_stream.h"

#include <errno.h>
#include <sys/socket.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/event/event_loop_impl.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/event/io_uring_port.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

absl::Status Failed(int error, absl::string_view call, int fd) {
  return absl::ErrnoToStatus(error, absl::StrCat(call, " on fd ", fd));
}

absl::Status CheckSend(const absl::Status& failure, size_t unsent, size_t more, size_t limit) {
  if (!failure.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the connection has failed: ", failure.message()));
  }
  if (more > limit - std::min(limit, unsent)) {
    return absl::ResourceExhaustedError(absl::StrCat("output exceeds ", limit, " bytes"));
  }
  return absl::OkStatus();
}

// --- By readiness ---

class ReadinessStream final : public CompletionStream {
 public:
  ReadinessStream(UniqueFd socket, const CompletionStreamOptions& options)
      : socket_(std::move(socket)), options_(options) {}

  absl::Status Open(EventLoop* loop) {
    FdWatchOptions options;
    options.on_readable = &ReadinessStream::OnReadable;
    options.on_writable = &ReadinessStream::OnWritable;
    options.context = this;
    options.background = true;
    options.sole_owner = true;
    absl::StatusOr<FdWatch> watch = loop->Watch(socket_.get(), options);
    if (!watch.ok()) return watch.status();
    watch_ = *std::move(watch);
    return absl::OkStatus();
  }

  int fd() const override { return socket_.get(); }

  absl::Status Send(absl::string_view data) override {
    if (absl::Status status = CheckSend(failure_, unsent(), data.size(), options_.max_output);
        !status.ok()) {
      return status;
    }
    if (data.empty()) return absl::OkStatus();
    const bool waiting = unsent() > 0;
    output_.append(data.data(), data.size());
    if (!waiting) SendNow();
    // Also to tell of it in a turn.
    if (unsent() > 0 || !failure_.ok() || options_.on_sent != nullptr) watch_.EnableWrite();
    return absl::OkStatus();
  }

  size_t unsent() const override { return output_.size() - sent_; }

  void PauseReceiving() override {
    paused_ = true;
    if (watch_.active()) watch_.DisableRead();
  }

  void ResumeReceiving() override {
    paused_ = false;
    if (watch_.active() && !at_end_) watch_.EnableRead();
  }

 private:
  static void OnReadable(int /*event*/, void* context) {
    static_cast<ReadinessStream*>(context)->Receive();
  }

  void Receive() {
    char buffer[kMostReceived];
    const ssize_t count = os::Recv(fd(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (count > 0) {
      options_.on_data(absl::string_view(buffer, static_cast<size_t>(count)), options_.context);
    } else if (count == 0) {
      at_end_ = true;
      watch_.DisableRead();
      options_.on_end(absl::OkStatus(), options_.context);
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      failure_ = Failed(errno, "recv", fd());
      Fail();
    }
  }

  static void OnWritable(int /*event*/, void* context) {
    auto* self = static_cast<ReadinessStream*>(context);
    if (self->failure_.ok()) self->SendNow();
    if (!self->failure_.ok()) return self->Fail();
    if (self->unsent() > 0) return;
    self->watch_.DisableWrite();
    if (self->options_.on_sent != nullptr) self->options_.on_sent(self->options_.context);
  }

  void SendNow() {
    while (unsent() > 0) {
      const ssize_t count =
          os::Send(fd(), output_.data() + sent_, unsent(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (count >= 0) {
        sent_ += static_cast<size_t>(count);
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return;
      } else if (errno != EINTR) {
        failure_ = Failed(errno, "send", fd());
        break;
      }
    }
    std::string().swap(output_);
    sent_ = 0;
  }

  void Fail() {
    watch_.Reset();
    const absl::Status failure = failure_;
    options_.on_end(failure, options_.context);
  }

  UniqueFd socket_;
  CompletionStreamOptions options_;
  FdWatch watch_;
  std::string output_;
  size_t sent_ = 0;  // how much of output_ is
  bool paused_ = false;
  bool at_end_ = false;
  absl::Status failure_;
};

#if defined(__linux__)

// --- By completions ---

class RingStream final : public CompletionStream, private IoUringPort::Target {
 public:
  RingStream(IoUringPort* port, UniqueFd socket, const CompletionStreamOptions& options)
      : port_(port), socket_(std::move(socket)), options_(options) {
    receive_ = port_->StartReceive(fd(), this);
  }

  ~RingStream() override {
    if (destroyed_ != nullptr) *destroyed_ = true;
    ForgetAll();
    port_->Close(socket_.Release());
  }

  int fd() const override { return socket_.get(); }

  absl::Status Send(absl::string_view data) override {
    if (absl::Status status = CheckSend(failure_, unsent(), data.size(), options_.max_output);
        !status.ok()) {
      return status;
    }
    if (data.empty()) return absl::OkStatus();
    if (send_ == IoUringPort::kNone) {
      send_ = port_->StartSend(fd(), data, this);
      sending_ = data.size();
    } else if (output_.empty() && port_->Append(send_, data)) {
      sending_ += data.size();
    } else {
      output_.append(data.data(), data.size());
    }
    return absl::OkStatus();
  }

  size_t unsent() const override { return sending_ + output_.size(); }

  void PauseReceiving() override {
    paused_ = true;
    if (receive_ == IoUringPort::kNone || cancelling_) return;
    cancelling_ = true;
    port_->Cancel(receive_);
  }

  void ResumeReceiving() override {
    if (!paused_) return;
    paused_ = false;
    if (!failure_.ok() || told_end_) return;
    if (!held_.empty() || at_end_) {
      if (hand_out_ == IoUringPort::kNone) hand_out_ = port_->StartNothing(this);
    } else if (receive_ == IoUringPort::kNone) {
      receive_ = port_->StartReceive(fd(), this);
    }  // else the end of the one that is being cancelled starts the next
  }

 private:
  void OnCompletion(IoUringPort::Operation operation,
                    const IoUringPort::Completion& completion) override {
    bool destroyed = false;
    destroyed_ = &destroyed;
    const auto done = absl::MakeCleanup([&] {
      if (!destroyed) destroyed_ = nullptr;
    });
    if (operation == send_) {
      Sent(completion.result);
    } else if (operation == receive_) {
      Received(completion, &destroyed);
    } else {
      HandOut(&destroyed);
    }
  }

  void Received(const IoUringPort::Completion& completion, const bool* destroyed) {
    if (completion.last) receive_ = IoUringPort::kNone;
    if (completion.result > 0) {
      if (paused_ || !held_.empty()) {
        held_.append(completion.data.data(), completion.data.size());
      } else {
        options_.on_data(completion.data, options_.context);
        if (*destroyed || !failure_.ok()) return;
      }
    } else if (completion.result == 0) {
      at_end_ = true;
    } else if (completion.result != -ENOBUFS && completion.result != -EINTR &&
               !(completion.result == -ECANCELED && cancelling_)) {
      at_end_ = true;
      receive_error_ = -completion.result;
    }
    if (completion.last) cancelling_ = false;
    if (at_end_) {
      if (!paused_ && held_.empty()) TellEnd();
    } else if (completion.last && !paused_ && held_.empty()) {
      // While something is held, its hand-out starts the next: what comes faster than it is taken
      // has to wait in the peer.
      receive_ = port_->StartReceive(fd(), this);
    }
  }

  // What has come while receiving was paused, a piece a turn.
  void HandOut(const bool* destroyed) {
    hand_out_ = IoUringPort::kNone;
    if (paused_) return;
    const std::string piece = held_.substr(0, kMostReceived);
    held_.erase(0, piece.size());
    if (held_.empty()) std::string().swap(held_);
    if (!piece.empty()) options_.on_data(piece, options_.context);
    if (*destroyed || paused_ || !failure_.ok()) return;
    if (!held_.empty()) {
      hand_out_ = port_->StartNothing(this);
    } else if (at_end_) {
      TellEnd();
    } else if (receive_ == IoUringPort::kNone) {
      receive_ = port_->StartReceive(fd(), this);
    }
  }

  void TellEnd() {
    if (told_end_) return;
    told_end_ = true;
    if (receive_error_ != 0) return Fail(Failed(receive_error_, "recv", fd()));
    options_.on_end(absl::OkStatus(), options_.context);
  }

  void Sent(int result) {
    send_ = IoUringPort::kNone;
    sending_ = 0;
    if (result < 0) return Fail(Failed(-result, "send", fd()));
    if (!output_.empty()) {
      send_ = port_->StartSend(fd(), output_, this);
      sending_ = output_.size();
      std::string().swap(output_);
    } else if (options_.on_sent != nullptr) {
      options_.on_sent(options_.context);
    }
  }

  void Fail(const absl::Status& failure) {
    failure_ = failure;
    ForgetAll();
    std::string().swap(output_);
    std::string().swap(held_);
    sending_ = 0;
    options_.on_end(failure, options_.context);
  }

  void ForgetAll() {
    for (IoUringPort::Operation* operation : {&receive_, &send_, &hand_out_}) {
      port_->Forget(*operation);
      *operation = IoUringPort::kNone;
    }
  }

  IoUringPort* port_;
  UniqueFd socket_;
  CompletionStreamOptions options_;
  IoUringPort::Operation receive_ = IoUringPort::kNone;
  IoUringPort::Operation send_ = IoUringPort::kNone;
  IoUringPort::Operation hand_out_ = IoUringPort::kNone;
  int receive_error_ = 0;
  size_t sending_ = 0;  // bytes of the send operation
  std::string output_;  // behind it
  std::string held_;    // received and not handed out
  bool paused_ = false;
  bool cancelling_ = false;  // receive_ has been cancelled
  bool at_end_ = false;      // nothing more comes
  bool told_end_ = false;
  bool* destroyed_ = nullptr;  // while a handler runs
  absl::Status failure_;
};

#endif

}  // namespace

absl::StatusOr<std::unique_ptr<CompletionStream>> CompletionStream::Create(
    EventLoop* loop, UniqueFd socket, const CompletionStreamOptions& options) {
  POSTHOUSE_CHECK(options.on_data != nullptr && options.on_end != nullptr,
                  "a stream without handlers for data and the end");
#if defined(__linux__)
  if (IoUringPort* port = loop->impl().io_uring_port()) {
    return std::make_unique<RingStream>(port, std::move(socket), options);
  }
#endif
  auto stream = std::make_unique<ReadinessStream>(std::move(socket), options);
  if (absl::Status status = stream->Open(loop); !status.ok()) return status;
  return stream;
}

}  // namespace posthouse

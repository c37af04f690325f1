// BufferedSink is what every sink of a process needs around its one system call: records that
// cannot go now are kept in order, a bounded number of them, then dropped and counted, and the
// count is told once things flow again (F121, F123). A prepared emergency line goes out past all
// of that.
//
// Thread, fork, ownership: as LogSink.

#ifndef POSTHOUSE_LOG_BUFFERED_SINK_H_
#define POSTHOUSE_LOG_BUFFERED_SINK_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <string>

#include "absl/strings/string_view.h"
#include "posthouse/log/emergency_line.h"
#include "posthouse/log/log.h"

namespace posthouse {

class BufferedSink : public LogSink {
 public:
  // With records of at most Log::kMaxRecord bytes and their heads this is half a megabyte.
  static constexpr size_t kMaxKept = 256;

  void Write(const LogRecord& record) final;
  void Flush() final;
  bool pending() const final { return !kept_.empty() || untold_ > 0; }
  void AfterFork() override;
  int64_t dropped() const final { return dropped_; }
  void PrepareEmergency(int which, const LogRecord& record) final;
  // Async-signal-safe: as SendEmergency() is, and what else it calls computes.
  void WriteEmergency(int which) final;

 protected:
  enum class Outcome {
    kDelivered,
    kLater,   // try the same line again some time
    kRefused  // this line can never be delivered
  };

  // The line as it goes out, around the time stamp if there is one.
  struct Line {
    std::string before;
    bool with_time = true;
    std::string after;
  };
  virtual Line Format(const LogRecord& record) = 0;
  // One attempt that does not block. `*sent` is how much of the line went out already; an
  // implementation adds to it, and sets it to zero where a line must start again.
  virtual Outcome Deliver(absl::string_view line, size_t* sent) = 0;
  // What ends a record where records share a stream.
  virtual char separator() const = 0;
  // Async-signal-safe: whether Deliver() has left a record on the stream without its end. A
  // handler may interrupt Deliver() itself.
  virtual bool torn() const = 0;
  // Async-signal-safe: one attempt to send `line`, which ends with the separator; no attempt that
  // could block is made.
  virtual void SendEmergency(absl::string_view line) = 0;

 private:
  std::string Finish(const LogRecord& record);
  std::string Timestamp();
  bool DeliverKept();
  bool TellDropped();
  void Keep(std::string line);
  void Drop(const LogRecord& record);

  std::deque<std::string> kept_;
  size_t front_sent_ = 0;  // how much of kept_.front() went out
  int64_t dropped_ = 0;
  int64_t untold_ = 0;  // dropped and not told yet
  std::string tag_;     // of the latest dropped record, for the line that tells
  int pid_ = 0;
  std::array<EmergencyLine, Log::kMaxEmergencies> emergency_lines_;
  // Of the latest time stamp; localtime_r(3) takes a lock, so handlers cannot ask it.
  std::atomic<int64_t> utc_offset_{0};
  static_assert(std::atomic<int64_t>::is_always_lock_free, "a handler must not wait for a lock");
};

// "warning: text", or the text alone for information (D91).
std::string TextWithSeverity(const LogRecord& record);

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_BUFFERED_SINK_H_

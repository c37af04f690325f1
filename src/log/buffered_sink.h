// BufferedSink is what every sink of a process needs around its one system call: records that
// cannot go now are kept in order, a bounded number of them, then dropped and counted, and the
// count is told once things flow again (F121, F123).
//
// Thread, fork, ownership: as LogSink.

#ifndef POSTHOUSE_LOG_BUFFERED_SINK_H_
#define POSTHOUSE_LOG_BUFFERED_SINK_H_

#include <cstdint>
#include <deque>
#include <string>

#include "absl/strings/string_view.h"
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

 protected:
  enum class Outcome {
    kDelivered,
    kLater,   // try the same line again some time
    kRefused  // this line can never be delivered
  };

  // The line as it goes out.
  virtual std::string Format(const LogRecord& record) = 0;
  // One attempt that does not block. `*sent` is how much of the line went out already; an
  // implementation adds to it, and sets it to zero where a line must start again.
  virtual Outcome Deliver(absl::string_view line, size_t* sent) = 0;

 private:
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
};

// "Mmm dd hh:mm:ss" in the local zone, as RFC 3164 and Postfix write it, whatever the locale.
std::string LogTimestamp();

// "warning: text", or the text alone for information (D91).
std::string TextWithSeverity(const LogRecord& record);

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_BUFFERED_SINK_H_

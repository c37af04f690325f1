// EmergencyLine is a log line that is finished but for its time stamp and lies in memory of its
// own, so that a signal handler can send it whatever the process was doing (F24).
//
//   line.Prepare('\n', "", /*with_time=*/true, " echo[7]: fatal: x\n");  // in good time
//   absl::string_view bytes = line.Stamped(false);                      // in the handler
//
// Thread: one, and the signal handlers that interrupt it. A handler that interrupts Prepare() sees
// no line.

#ifndef POSTHOUSE_LOG_EMERGENCY_LINE_H_
#define POSTHOUSE_LOG_EMERGENCY_LINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "posthouse/log/log.h"

namespace posthouse {

// "Mmm dd hh:mm:ss", as RFC 3164 and Postfix write it, whatever the locale.
inline constexpr size_t kLogStampSize = 15;

// Async-signal-safe: arithmetic alone. Writes kLogStampSize bytes; `seconds` count from the Unix
// epoch in local time, that is, with the offset from UTC added.
void WriteLogStamp(int64_t seconds, char* out);

class EmergencyLine {
 public:
  // For the longest tag and text, each at most Log::kMaxRecord, and a host name.
  static constexpr size_t kCapacity = 2 * Log::kMaxRecord + 400;

  // What is longer than kCapacity is cut. `separator` ends a record where lines share a stream; the
  // line ends with one unless `after` does.
  void Prepare(char separator, absl::string_view before, bool with_time, absl::string_view after);

  // Async-signal-safe: reads the clock and writes the stamp into its place. The line with the
  // separator behind it, and with one in front if it `follows_torn` record; empty unless it is
  // prepared. `utc_offset` is in seconds, east of Greenwich positive.
  absl::string_view Stamped(bool follows_torn, int64_t utc_offset);

 private:
  void Append(absl::string_view bytes);

  char bytes_[kCapacity];
  size_t used_ = 0;  // while it is being prepared
  bool with_time_ = false;
  size_t stamp_at_ = 0;
  // What handlers see; 0 while there is no line.
  std::atomic<size_t> size_{0};
  static_assert(std::atomic<size_t>::is_always_lock_free, "a handler must not wait for a lock");
};

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_EMERGENCY_LINE_H_

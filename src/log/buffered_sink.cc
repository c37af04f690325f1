#include "posthouse/log/buffered_sink.h"

#include <time.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "posthouse/os/clock.h"

namespace posthouse {

void BufferedSink::Write(const LogRecord& record) {
  if (!DeliverKept()) {
    if (kept_.size() >= kMaxKept) {
      Drop(record);
    } else {
      Keep(Finish(record));
    }
    return;
  }
  std::string line = Finish(record);
  size_t sent = 0;
  switch (Deliver(line, &sent)) {
    case Outcome::kDelivered:
      return;
    case Outcome::kLater:
      Keep(std::move(line));
      front_sent_ = sent;
      return;
    case Outcome::kRefused:
      Drop(record);
      return;
  }
}

void BufferedSink::Flush() { DeliverKept(); }

void BufferedSink::AfterFork() {
  kept_.clear();
  front_sent_ = 0;
  dropped_ = 0;
  untold_ = 0;
}

// True when nothing is kept any more, so that a new record may go.
bool BufferedSink::DeliverKept() {
  while (!kept_.empty()) {
    const Outcome outcome = Deliver(kept_.front(), &front_sent_);
    if (outcome == Outcome::kLater) return false;
    if (outcome == Outcome::kRefused) {
      ++dropped_;
      ++untold_;
    }
    kept_.pop_front();
    front_sent_ = 0;
  }
  return untold_ == 0 || TellDropped();
}

bool BufferedSink::TellDropped() {
  const std::string text = absl::StrCat(untold_, " log records were dropped");
  LogRecord record;
  record.severity = LogSeverity::kWarning;
  record.tag = tag_;
  record.pid = pid_;
  record.text = text;
  std::string line = Finish(record);
  size_t sent = 0;
  const Outcome outcome = Deliver(line, &sent);
  if (outcome == Outcome::kLater && sent == 0) return false;
  untold_ = 0;
  if (outcome != Outcome::kLater) return true;
  // Begun and cut: the rest is to follow, and the count is told with it.
  Keep(std::move(line));
  front_sent_ = sent;
  return false;
}

void BufferedSink::Keep(std::string line) { kept_.push_back(std::move(line)); }

void BufferedSink::Drop(const LogRecord& record) {
  ++dropped_;
  ++untold_;
  tag_ = std::string(record.tag);
  pid_ = record.pid;
}

std::string BufferedSink::Finish(const LogRecord& record) {
  const Line line = Format(record);
  return absl::StrCat(line.before, line.with_time ? Timestamp() : "", line.after);
}

// In the local zone.
std::string BufferedSink::Timestamp() {
  const int64_t now = os::WallSeconds();
  const time_t moment = static_cast<time_t>(now);
  struct tm local = {};
  // Works on the zone that Log's constructor loaded and opens no file.
  if (localtime_r(&moment, &local) != nullptr) utc_offset_.store(local.tm_gmtoff);
  std::string stamp(kLogStampSize, ' ');
  WriteLogStamp(now + utc_offset_.load(), stamp.data());
  return stamp;
}

void BufferedSink::PrepareEmergency(int which, const LogRecord& record) {
  const Line line = Format(record);
  // For the offset.
  if (line.with_time) Timestamp();
  emergency_lines_[static_cast<size_t>(which)].Prepare(separator(), line.before, line.with_time,
                                                       line.after);
}

// Async-signal-safe: see the header.
void BufferedSink::WriteEmergency(int which) {
  const absl::string_view line =
      emergency_lines_[static_cast<size_t>(which)].Stamped(torn(), utc_offset_.load());
  if (!line.empty()) SendEmergency(line);
}

std::string TextWithSeverity(const LogRecord& record) {
  const absl::string_view word = LogSeverityWord(record.severity);
  if (word.empty()) return std::string(record.text);
  return absl::StrCat(word, ": ", record.text);
}

}  // namespace posthouse

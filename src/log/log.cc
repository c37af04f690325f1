#include "posthouse/log/log.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "posthouse/base/check.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// Nobody waits longer than this for a log.
constexpr absl::Duration kLongestFlush = absl::Minutes(1);
constexpr long kFlushStepNs = 2000000;

// What came from outside may be anything; a log line is one line of printable ASCII.
std::string Neutralise(absl::string_view text) {
  std::string result(text.substr(0, Log::kMaxRecord));
  for (char& c : result) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return result;
}

}  // namespace

absl::string_view LogSeverityWord(LogSeverity severity) {
  switch (severity) {
    case LogSeverity::kInfo:
      return "";
    case LogSeverity::kWarning:
      return "warning";
    case LogSeverity::kError:
      return "error";
    case LogSeverity::kFatal:
      return "fatal";
    case LogSeverity::kPanic:
      return "panic";
  }
  return "";
}

Log::Log(std::string tag) : tag_(Neutralise(tag)), pid_(os::Getpid()) {
  // The file of the time zone must be read before a chroot makes it unreachable (F62).
  os::Tzset();
}

Log::~Log() { RemoveSinks(); }

void Log::AddSink(std::unique_ptr<LogSink> sink) {
  LogSink* const added = sink.get();
  sinks_.push_back(std::move(sink));
  PrepareEmergencies(*added);
  const int count = emergency_sink_count_.load();
  if (count == kMaxEmergencySinks) return;
  emergency_sinks_[static_cast<size_t>(count)] = added;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  emergency_sink_count_.store(count + 1);
}

void Log::RemoveSinks() {
  Flush();
  // From here on a handler finds none.
  emergency_sink_count_.store(0);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  sinks_.clear();
}

void Log::set_tag(std::string tag) {
  tag_ = Neutralise(tag);
  PrepareEmergenciesOfAll();
}

void Log::PrepareEmergency(LogSeverity severity, absl::string_view text, int which) {
  POSTHOUSE_CHECK(which >= 0 && which < kMaxEmergencies, "there is no emergency of this number");
  emergencies_[static_cast<size_t>(which)] = {true, severity, Neutralise(text)};
  PrepareEmergenciesOfAll();
}

void Log::PrepareEmergenciesOfAll() const {
  for (const std::unique_ptr<LogSink>& sink : sinks_) PrepareEmergencies(*sink);
}

void Log::PrepareEmergencies(LogSink& sink) const {
  for (int which = 0; which < kMaxEmergencies; ++which) {
    const Emergency& emergency = emergencies_[static_cast<size_t>(which)];
    if (!emergency.prepared) continue;
    LogRecord record;
    record.severity = emergency.severity;
    record.tag = tag_;
    record.pid = pid_;
    record.text = emergency.text;
    sink.PrepareEmergency(which, record);
  }
}

// Async-signal-safe: it reads members that are published for it and calls what is safe itself.
void Log::WriteEmergency(int which) {
  const int count = emergency_sink_count_.load();
  for (int i = 0; i < count; ++i) emergency_sinks_[static_cast<size_t>(i)]->WriteEmergency(which);
}

void Log::Write(LogSeverity severity, absl::string_view text) {
  if (sinks_.empty()) return;
  const std::string line = Neutralise(text);
  LogRecord record;
  record.severity = severity;
  record.tag = tag_;
  record.pid = pid_;
  record.text = line;
  for (const std::unique_ptr<LogSink>& sink : sinks_) sink->Write(record);
}

bool Log::Limited(LogSeverity severity, absl::string_view condition, absl::Duration interval,
                  absl::string_view text) {
  const int64_t now = os::SteadyNanos();
  auto [entry, is_new] = limits_.try_emplace(std::string(condition));
  LimitState& state = entry->second;
  if (!is_new && now < state.until_ns) {
    ++state.suppressed;
    return false;
  }
  const int64_t suppressed = std::exchange(state.suppressed, 0);
  state.until_ns = now + absl::ToInt64Nanoseconds(std::min(interval, absl::Hours(24 * 365)));
  if (suppressed == 0) {
    Write(severity, text);
  } else {
    // The count must survive the cut of a long text.
    const std::string note = absl::StrCat(" (", suppressed, " more like this were left out)");
    Write(severity, absl::StrCat(text.substr(0, kMaxRecord - note.size()), note));
  }
  return true;
}

void Log::Flush() {
  for (const std::unique_ptr<LogSink>& sink : sinks_) sink->Flush();
}

bool Log::pending() const {
  for (const std::unique_ptr<LogSink>& sink : sinks_) {
    if (sink->pending()) return true;
  }
  return false;
}

bool Log::FlushFor(absl::Duration limit) {
  const int64_t end = os::SteadyNanos() + absl::ToInt64Nanoseconds(std::min(limit, kLongestFlush));
  for (;;) {
    Flush();
    if (!pending()) return true;
    if (os::SteadyNanos() >= end) return false;
    const timespec moment = {0, kFlushStepNs};
    os::Nanosleep(&moment, nullptr);
  }
}

void Log::AfterFork() {
  pid_ = os::Getpid();
  for (const std::unique_ptr<LogSink>& sink : sinks_) sink->AfterFork();
  PrepareEmergenciesOfAll();
}

}  // namespace posthouse

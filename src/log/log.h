// Log is where a process tells what happened: severity, text, and sinks that never block.
//
//   Log log("posthouse/echo");
//   log.AddSink(NewSyslogSink({}));  // syslog_sink.h, postlog_sink.h, stderr_sink.h
//   log.Warning("accept on listen socket 6: Too many open files");
//
// Records reach every sink as one line: control and non-ASCII-printable bytes from outside are
// replaced by '?', and what is longer than kMaxRecord is cut. A sink that cannot take a record now
// keeps a bounded number and then drops and counts; the count is told when it recovers (F123).
// Limited() is for conditions that may repeat: one line per interval and condition, then a summary
// with the number that was left out (F124).
//
// A record for the moment when nothing may be relied upon is prepared before and written by a
// signal handler (F24):
//
//   log.PrepareEmergency(LogSeverity::kFatal, "watchdog timeout");
//   ...
//   log.WriteEmergency();  // in the handler
//
// The names of severities in lines are the original's: none for information, then "warning",
// "error", "fatal", "panic" (D91).
//
// Thread: one. Fork: both processes may go on; the process number in records is read anew by
// AfterFork(), and what sinks have kept stays with the parent. Chroot: the constructor loads the
// time zone, and sinks connect when they are made; make both before. Ownership: a Log owns its
// sinks and offers them what they have kept once more when it is destroyed. Errors: none come out
// of logging. Signal handlers: WriteEmergency() alone.

#ifndef POSTHOUSE_LOG_LOG_H_
#define POSTHOUSE_LOG_LOG_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace posthouse {

enum class LogSeverity { kInfo, kWarning, kError, kFatal, kPanic };

// "" for kInfo, else "warning", "error", "fatal", "panic".
absl::string_view LogSeverityWord(LogSeverity severity);

// A record as a sink sees it; the views live for the call.
struct LogRecord {
  LogSeverity severity = LogSeverity::kInfo;
  absl::string_view tag;  // "postfix/smtpd"
  int pid = 0;
  absl::string_view text;  // neutralised, without a newline
};

// Takes records without ever blocking.
class LogSink {
 public:
  virtual ~LogSink() = default;
  virtual void Write(const LogRecord& record) = 0;
  // Tries again to deliver what Write() had to keep.
  virtual void Flush() {}
  // Whether there is something for Flush() to do.
  virtual bool pending() const { return false; }
  // In the child of a fork: what Write() had to keep is left to the parent.
  virtual void AfterFork() {}
  // Records dropped since the sink was made.
  virtual int64_t dropped() const { return 0; }

  // Keeps the line for `record`, ready to be sent, as number `which` (below Log::kMaxEmergencies),
  // in place of the one before. What the line needs must not be made by WriteEmergency().
  virtual void PrepareEmergency(int /*which*/, const LogRecord& /*record*/) {}
  // Async-signal-safe: one attempt to send the line that was prepared, without blocking. No
  // allocation, no lock, no function of the C library that POSIX does not allow in handlers. What
  // Write() had to keep is neither waited for nor sent.
  virtual void WriteEmergency(int /*which*/) {}
};

class Log {
 public:
  static constexpr size_t kMaxRecord = 2000;
  // Emergency records that can be prepared side by side.
  static constexpr int kMaxEmergencies = 5;
  // Sinks that were added after so many others take no part in WriteEmergency().
  static constexpr int kMaxEmergencySinks = 8;

  explicit Log(std::string tag);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void AddSink(std::unique_ptr<LogSink> sink);
  void RemoveSinks();
  bool has_sinks() const { return !sinks_.empty(); }
  void set_tag(std::string tag);
  const std::string& tag() const { return tag_; }

  // 0 is quiet; each `-v` adds one. Verbose lines are information for people who follow the state.
  void set_verbosity(int verbosity) { verbosity_ = verbosity; }
  int verbosity() const { return verbosity_; }

  void Info(absl::string_view text) { Write(LogSeverity::kInfo, text); }
  void Warning(absl::string_view text) { Write(LogSeverity::kWarning, text); }
  void Error(absl::string_view text) { Write(LogSeverity::kError, text); }
  void Write(LogSeverity severity, absl::string_view text);

  // Logged only with verbosity > 0; the arguments are joined like absl::StrCat's, and only then.
  template <typename... Args>
  void Verbose(const Args&... args) {
    if (verbosity_ > 0) Write(LogSeverity::kInfo, absl::StrCat(args...));
  }

  // As Write(), but at most one line per `interval` for the same `condition` (a constant text);
  // the next line that is let through says how many were left out. Returns whether it was written.
  bool Limited(LogSeverity severity, absl::string_view condition, absl::Duration interval,
               absl::string_view text);

  // Has every sink prepare the record that WriteEmergency(which) writes, in place of the one
  // before, and does so again by itself when sinks, the tag or the process number change.
  // REQUIRES: 0 <= which < kMaxEmergencies.
  void PrepareEmergency(LogSeverity severity, absl::string_view text, int which = 0);

  // Async-signal-safe: reads the clock and makes one attempt per sink that does not block; nothing
  // is allocated, locked or waited for. Nothing happens when no record has been prepared. The
  // offset of the local zone is that of the last record with a time in it, or of the preparation.
  void WriteEmergency(int which = 0);

  // Delivers what sinks have kept, as far as they take it. Cheap when there is nothing.
  void Flush();
  // Whether a sink has kept something; then Flush() should be called again after a moment.
  bool pending() const;
  // For the end of a process: tries until nothing is kept or `limit` has passed; says which.
  bool FlushFor(absl::Duration limit);
  // In the child, before it logs.
  void AfterFork();

 private:
  struct LimitState {
    int64_t until_ns = 0;
    int64_t suppressed = 0;
  };
  struct Emergency {
    bool prepared = false;
    LogSeverity severity = LogSeverity::kFatal;
    std::string text;
  };

  void PrepareEmergencies(LogSink& sink) const;
  void PrepareEmergenciesOfAll() const;

  std::string tag_;
  int pid_;
  int verbosity_ = 0;
  std::vector<std::unique_ptr<LogSink>> sinks_;
  std::array<Emergency, kMaxEmergencies> emergencies_;
  // The sinks as handlers see them: the vector may be growing when a signal comes.
  std::array<LogSink*, kMaxEmergencySinks> emergency_sinks_ = {};
  std::atomic<int> emergency_sink_count_{0};
  // Not a hash table of Abseil: those do not survive an allocation that fails (F125).
  std::map<std::string, LimitState, std::less<>> limits_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_LOG_H_

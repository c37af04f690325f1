// EarlyLog keeps the first records of a process until it is known where they belong, because
// main.cf says that and is read after some of them are written (M20, MO10).
//
//   auto early = std::make_unique<EarlyLog>();
//   EarlyLog* kept = early.get();
//   log.AddSink(std::move(early));
//   ... the configuration is there, sinks have been chosen ...
//   std::vector<EarlyRecord> records = kept->Take();
//   for (const EarlyRecord& record : records) log.Write(record.severity, record.text);
//
// A start says little; the bound keeps the first kMaxRecords and counts the rest.
//
// Thread: one.

#ifndef POSTHOUSE_MASTER_EARLY_LOG_H_
#define POSTHOUSE_MASTER_EARLY_LOG_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "posthouse/log/log.h"

namespace posthouse {

struct EarlyRecord {
  LogSeverity severity = LogSeverity::kInfo;
  std::string text;
};

class EarlyLog : public LogSink {
 public:
  static constexpr size_t kMaxRecords = 1000;

  void Write(const LogRecord& record) override {
    if (records_.size() < kMaxRecords) {
      records_.push_back({record.severity, std::string(record.text)});
    } else {
      dropped_++;
    }
  }
  int64_t dropped() const override { return dropped_; }
  std::vector<EarlyRecord> Take() { return std::exchange(records_, {}); }

 private:
  std::vector<EarlyRecord> records_;
  int64_t dropped_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_EARLY_LOG_H_

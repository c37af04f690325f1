// The contract of log.h, with a sink that keeps what it is given.

#include "posthouse/log/log.h"

#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace posthouse {
namespace {

struct Seen {
  LogSeverity severity;
  std::string tag;
  int pid;
  std::string text;
};

class Recorder : public LogSink {
 public:
  explicit Recorder(std::vector<Seen>* seen, int* flushes = nullptr, int* forks = nullptr)
      : seen_(seen), flushes_(flushes), forks_(forks) {}
  void Write(const LogRecord& r) override {
    seen_->push_back({r.severity, std::string(r.tag), r.pid, std::string(r.text)});
  }
  void Flush() override {
    if (flushes_ != nullptr) ++*flushes_;
  }
  void AfterFork() override {
    if (forks_ != nullptr) ++*forks_;
  }

 private:
  std::vector<Seen>* seen_;
  int* flushes_;
  int* forks_;
};

class LogTest : public testing::Test {
 protected:
  LogTest() { log_.AddSink(std::make_unique<Recorder>(&seen_)); }
  std::vector<Seen> seen_;
  Log log_{"postfix/echo"};
};

TEST_F(LogTest, D91_SeverityWordsAreThoseOfTheOriginal) {
  EXPECT_EQ(LogSeverityWord(LogSeverity::kInfo), "");
  EXPECT_EQ(LogSeverityWord(LogSeverity::kWarning), "warning");
  EXPECT_EQ(LogSeverityWord(LogSeverity::kError), "error");
  EXPECT_EQ(LogSeverityWord(LogSeverity::kFatal), "fatal");
  EXPECT_EQ(LogSeverityWord(LogSeverity::kPanic), "panic");
}

TEST_F(LogTest, ARecordCarriesSeverityTagProcessAndText) {
  log_.Info("one");
  log_.Warning("two");
  log_.Error("three");
  log_.Write(LogSeverity::kFatal, "four");
  ASSERT_EQ(seen_.size(), 4u);
  EXPECT_EQ(seen_[0].severity, LogSeverity::kInfo);
  EXPECT_EQ(seen_[1].severity, LogSeverity::kWarning);
  EXPECT_EQ(seen_[2].severity, LogSeverity::kError);
  EXPECT_EQ(seen_[3].severity, LogSeverity::kFatal);
  EXPECT_EQ(seen_[0].tag, "postfix/echo");
  EXPECT_EQ(seen_[0].pid, getpid());
  EXPECT_EQ(seen_[0].text, "one");
}

TEST_F(LogTest, EverySinkGetsEveryRecord) {
  std::vector<Seen> other;
  log_.AddSink(std::make_unique<Recorder>(&other));
  log_.Info("x");
  EXPECT_EQ(seen_.size(), 1u);
  EXPECT_EQ(other.size(), 1u);
}

TEST_F(LogTest, F44_ForeignBytesAreReplaced) {
  log_.Info(std::string("a\nb\r\x1b[31m\0c\x7f\x80\xff~ ", 16));
  ASSERT_EQ(seen_.size(), 1u);
  EXPECT_EQ(seen_[0].text, "a?b??[31m?c???~ ");
}

TEST_F(LogTest, F44_AForeignTagIsNeutralToo) {
  log_.set_tag("a\nb");
  log_.Info("x");
  EXPECT_EQ(seen_[0].tag, "a?b");
}

TEST_F(LogTest, ALongRecordIsCut) {
  log_.Info(std::string(100000, 'x'));
  EXPECT_EQ(seen_[0].text.size(), Log::kMaxRecord);
}

TEST_F(LogTest, VerboseLinesAreWrittenOnRequestAlone) {
  log_.Verbose("state ", 1);
  EXPECT_TRUE(seen_.empty());
  log_.set_verbosity(1);
  log_.Verbose("state ", 1);
  ASSERT_EQ(seen_.size(), 1u);
  EXPECT_EQ(seen_[0].text, "state 1");
  EXPECT_EQ(seen_[0].severity, LogSeverity::kInfo);
}

TEST_F(LogTest, F124_ARepeatedConditionIsOneLinePerInterval) {
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(log_.Limited(LogSeverity::kWarning, "accept", absl::Hours(1), "no descriptors"),
              i == 0);
  }
  ASSERT_EQ(seen_.size(), 1u);
  EXPECT_EQ(seen_[0].text, "no descriptors");
}

TEST_F(LogTest, F124_ConditionsAreCountedApart) {
  EXPECT_TRUE(log_.Limited(LogSeverity::kWarning, "accept", absl::Hours(1), "a"));
  EXPECT_TRUE(log_.Limited(LogSeverity::kWarning, "pass", absl::Hours(1), "b"));
  EXPECT_FALSE(log_.Limited(LogSeverity::kWarning, "accept", absl::Hours(1), "c"));
}

TEST_F(LogTest, F124_TheNextLineSaysHowManyWereLeftOut) {
  // An interval that is over at once lets every line through; a long one holds them back.
  EXPECT_TRUE(log_.Limited(LogSeverity::kWarning, "c", absl::Milliseconds(20), "text"));
  int left_out = 0;
  while (!log_.Limited(LogSeverity::kWarning, "c", absl::Milliseconds(20), "text")) ++left_out;
  ASSERT_GT(left_out, 0);
  ASSERT_EQ(seen_.size(), 2u);
  EXPECT_EQ(seen_[1].text, "text (" + std::to_string(left_out) + " more like this were left out)");
}

TEST_F(LogTest, F124_TheCountSurvivesALongText) {
  EXPECT_TRUE(log_.Limited(LogSeverity::kWarning, "c", absl::Milliseconds(1), "text"));
  const std::string text(5000, 'x');
  log_.Limited(LogSeverity::kWarning, "c", absl::Milliseconds(1), text);
  while (!log_.Limited(LogSeverity::kWarning, "c", absl::Milliseconds(1), text)) {
  }
  EXPECT_NE(seen_.back().text.find("left out)"), std::string::npos);
  EXPECT_EQ(seen_.back().text.size(), Log::kMaxRecord);
}

TEST_F(LogTest, AChildLogsItsOwnProcessNumber) {
  int forks = 0;
  log_.AddSink(std::make_unique<Recorder>(&seen_, nullptr, &forks));
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    log_.AfterFork();
    log_.Info("x");
    _exit(forks == 1 && seen_[0].pid == getpid() ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(LogEndTest, KeptRecordsAreOfferedOnceMoreAtTheEnd) {
  std::vector<Seen> seen;
  int flushes = 0;
  {
    Log log("x");
    log.AddSink(std::make_unique<Recorder>(&seen, &flushes));
    EXPECT_TRUE(log.has_sinks());
    log.RemoveSinks();
    EXPECT_FALSE(log.has_sinks());
    EXPECT_EQ(flushes, 1);
    log.Info("into the void");
    log.AddSink(std::make_unique<Recorder>(&seen, &flushes));
  }
  EXPECT_EQ(flushes, 2);
  EXPECT_TRUE(seen.empty());
}

}  // namespace
}  // namespace posthouse

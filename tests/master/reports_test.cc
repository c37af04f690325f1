// The log lines of the master, as operators' tools expect them, and their bounds.

#include "posthouse/master/reports.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/log/log.h"

namespace posthouse {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Report = SupervisorAction::Report;

class LineSink : public LogSink {
 public:
  explicit LineSink(std::vector<std::string>* lines) : lines_(lines) {}
  void Write(const LogRecord& record) override {
    const std::string word(LogSeverityWord(record.severity));
    lines_->push_back(absl::StrCat(word, word.empty() ? "" : ": ", record.text));
  }

 private:
  std::vector<std::string>* lines_;
};

class ReportsTest : public testing::Test {
 protected:
  ReportsTest() {
    log_.AddSink(std::make_unique<LineSink>(&lines_));
    service_.entry.name = "smtp";
    service_.entry.type = ServiceType::kInet;
    service_.internal_name = "25";
    service_.program = "/usr/lib/postfix/sbin/smtpd";
  }
  SupervisorAction Action(Report report) {
    SupervisorAction action;
    action.report = report;
    action.pid = 4711;
    return action;
  }
  void LogOne(const SupervisorAction& action) { LogReport(action, &service_, &log_); }

  std::vector<std::string> lines_;
  Log log_{"postfix/master"};
  ServiceConfiguration service_;
};

// M74.
TEST_F(ReportsTest, DeathsAreToldInTheWordsOfTheOriginal) {
  SupervisorAction action = Action(Report::kChildExit);
  action.end = {false, 1};
  LogOne(action);
  action.end = {true, 9};
  LogOne(action);
  EXPECT_THAT(lines_,
              ElementsAre("warning: process /usr/lib/postfix/sbin/smtpd pid 4711 exit status 1",
                          "warning: process /usr/lib/postfix/sbin/smtpd pid 4711 killed by signal "
                          "9"));
}

// M75.
TEST_F(ReportsTest, ABadStartIsToldInTheWordsOfTheOriginal) {
  LogOne(Action(Report::kBadStart));
  EXPECT_THAT(
      lines_,
      ElementsAre("warning: /usr/lib/postfix/sbin/smtpd: bad command startup -- throttling"));
}

// M62.
TEST_F(ReportsTest, AReachedLimitIsToldInThreeLines) {
  SupervisorAction action = Action(Report::kLimitReached);
  action.limit = 100;
  LogOne(action);
  EXPECT_THAT(lines_,
              ElementsAre("warning: service \"smtp\" (25) has reached its process limit "
                          "\"100\": new clients may experience noticeable delays",
                          HasSubstr("to avoid this condition"), HasSubstr("STRESS_README")));
}

// F72, F124: a worker can write as much gossip as it likes.
TEST_F(ReportsTest, GossipIsBounded) {
  StatusBatch batch;
  StatusGossip gossip;
  gossip.kind = StatusGossip::Kind::kForged;
  gossip.sender = 4711;
  gossip.message.pid = 1;
  batch.gossip = {gossip, gossip, gossip};
  batch.gossip_count = 3;
  for (int i = 0; i < 1000; ++i) {
    LogGossip(batch, service_, &log_);
    for (const Report report : {Report::kGossipForged, Report::kGossipOtherService,
                                Report::kGossipWrongGeneration, Report::kGossipUnknownValue}) {
      LogOne(Action(report));
    }
  }
  EXPECT_THAT(lines_, SizeIs(5));
  EXPECT_THAT(lines_[0], HasSubstr("service smtp inet: "));
}

// F72: "a persistent offender is ended and its service throttled".
TEST_F(ReportsTest, AFloodNamesTheWorkerOrTheProcess) {
  SupervisorAction action = Action(Report::kFlood);
  action.pid = 4711;
  action.signal = 9;
  LogOne(action);
  EXPECT_THAT(lines_.back(), HasSubstr("pid 4711 floods the status channel: it is killed"));
  action.signal = 0;
  for (int i = 0; i < 1000; ++i) LogOne(action);
  EXPECT_THAT(lines_, SizeIs(2));
  EXPECT_THAT(lines_.back(), HasSubstr("process 4711 floods the status channel"));
}

// P33: in the original silent; a message of somebody who has died is ordinary.
TEST_F(ReportsTest, MessagesOfTheDeadAreToldWhenAskedFor) {
  LogOne(Action(Report::kGossipUnknownPid));
  LogReport(Action(Report::kUnknownChild), nullptr, &log_);
  EXPECT_THAT(lines_, IsEmpty());
  log_.set_verbosity(1);
  LogOne(Action(Report::kGossipUnknownPid));
  LogReport(Action(Report::kUnknownChild), nullptr, &log_);
  EXPECT_THAT(lines_, SizeIs(2));
}

// Every report is handled, with and without a service that is still there.
TEST_F(ReportsTest, NoReportIsTooMuch) {
  for (int i = 0; i <= static_cast<int>(Report::kGossipUnknownValue); ++i) {
    LogReport(Action(static_cast<Report>(i)), nullptr, &log_);
    LogOne(Action(static_cast<Report>(i)));
  }
}

}  // namespace
}  // namespace posthouse

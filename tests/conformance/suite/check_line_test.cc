#include "tests/conformance/suite/check_line.h"

#include "gtest/gtest.h"

namespace posthouse::conformance {
namespace {

TEST(CheckTitleTest, WordsAreToldApartByTheirCapitals) {
  EXPECT_EQ(CheckTitle("P14_P15_OneMessageIsOneWriteOf12Bytes"),
            "P14 P15 one message is one write of 12 bytes");
  EXPECT_EQ(CheckTitle("S56_SaysTAKENBeforeAndAVAILAfterARequest"),
            "S56 says TAKEN before and AVAIL after a request");
  EXPECT_EQ(CheckTitle("MO3_AWorkerEnds"), "MO3 a worker ends");
  EXPECT_EQ(CheckTitle("NoStatement"), "no statement");
  EXPECT_EQ(CheckTitle("S5_SIGTERMEndsIt"), "S5 SIGTERM ends it");
}

TEST(BriefFailureTest, NamesWhatWasExpectedAndWhatCame) {
  EXPECT_EQ(BriefFailure("Expected equality of these values:\n  End()\n    Which is: \"exit 1\"\n"
                         "  \"exit 0\"\n"),
            "expected \"exit 0\", got \"exit 1\"");
  EXPECT_EQ(BriefFailure("Expected equality of these values:\n  got\n    Which is: 11\n  12\n"
                         "the first\nmessage"),
            "expected 12, got 11 (the first message)");
  EXPECT_EQ(BriefFailure("Value of: Running(pid_)\n  Actual: false\nExpected: true"),
            "expected true, got false (Running(pid_))");
  EXPECT_EQ(BriefFailure("Value of: Running(pid_)\n  Actual: false\nExpected: true\nit has ended"),
            "expected true, got false (it has ended)");
  EXPECT_EQ(BriefFailure("Failed\n  it is gone"), "Failed it is gone");
}

TEST(BriefFailureTest, IsNeverLong) {
  EXPECT_LT(BriefFailure(std::string(100000, 'x')).size(), 1000u);
}

TEST(FilterForTest, AStatementIsNotTheBeginningOfAnother) {
  EXPECT_EQ(FilterFor("Worker", "P1"), "Worker*.P1_*:Worker*_P1_*");
  EXPECT_EQ(FilterFor("Master", "Reload"), "Master*Reload*");
}

}  // namespace
}  // namespace posthouse::conformance

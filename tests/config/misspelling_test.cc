// Misspelt names: misspelling.h, F117, C7.

#include "posthouse/config/misspelling.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(OneEditApart, KnowsTheFourEdits) {
  EXPECT_TRUE(OneEditApart("max_use", "max_uses"));
  EXPECT_TRUE(OneEditApart("ax_use", "max_use"));
  EXPECT_TRUE(OneEditApart("max_use", "max-use"));
  EXPECT_TRUE(OneEditApart("max_use", "max_ues"));
  EXPECT_TRUE(OneEditApart("", "a"));
  EXPECT_FALSE(OneEditApart("max_use", "max_use"));
  EXPECT_FALSE(OneEditApart("max_use", "max_usage"));
  EXPECT_FALSE(OneEditApart("ab", "cd"));
  EXPECT_FALSE(OneEditApart("abc", "cab"));
  EXPECT_FALSE(OneEditApart("", ""));
}

class Misspellings : public testing::Test {
 protected:
  absl::Status Report(absl::string_view main_cf) {
    EXPECT_THAT(ParseMainCf("main.cf", main_cf, &store_, &warnings_), IsOk());
    const std::vector<Parameter*> all = {&limit_, &delay_};
    EXPECT_THAT(LoadParameters(all, &store_, &warnings_), IsOk());
    return ReportMisspellings(all, store_, &warnings_);
  }

  ParameterStore store_;
  std::vector<std::string> warnings_;
  IntParameter limit_{"policy_limit", 1};
  TimeParameter delay_{"policy_delay", "1s"};
};

TEST_F(Misspellings, F117_ANameOneEditAwayIsReportedOnceWithAHint) {
  EXPECT_THAT(Report("policy_limit = 2\npolicy_dleay = 3\n"), IsOk());
  EXPECT_THAT(warnings_, ElementsAre("main.cf, line 2: unknown parameter \"policy_dleay\"; did you "
                                     "mean policy_delay?"));
}

TEST_F(Misspellings, C7_OtherUnknownNamesAreNormal) {
  std::string main_cf = "smtpd_banner = x\npolicy = y\n";
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&main_cf, "unknown_", i, " = x\n");
  EXPECT_THAT(Report(main_cf), IsOk());
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(Misspellings, F117_ANameThatAValueRefersToIsNoMistake) {
  EXPECT_THAT(Report("policy_limit1 = 2\npolicy_limit = ${ policy_limit1 }\n"), IsOk());
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(Misspellings, F117_InAStrictStoreItIsAnError) {
  store_.set_strict(true);
  EXPECT_THAT(Report("policy_limits = 2\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("did you mean policy_limit")));
}

TEST_F(Misspellings, F117_TheLogIsBounded) {
  std::string main_cf;
  for (char c : std::string("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")) {
    absl::StrAppend(&main_cf, "policy_limit", std::string(1, c), " = x\n");
  }
  EXPECT_THAT(Report(main_cf), IsOk());
  EXPECT_EQ(warnings_.size(), 51u);
  EXPECT_EQ(warnings_.back(), "and 12 more names that look misspelt");
}

}  // namespace
}  // namespace posthouse

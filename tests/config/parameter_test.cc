// Typed parameters: parameter.h, C47 to C58, C62, C81, CO2 to CO4, F112, F113.

#include "posthouse/config/parameter.h"

#include <climits>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/config/expand.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct NumberRow {
  const char* text;
  StatusCode code;
  int64_t value;
};

// C47, C81 and F113; the outcome of each INT row was compared with a stock smtpd.
const NumberRow kInts[] = {
    {"100", StatusCode::kOk, 100},
    {"0", StatusCode::kOk, 0},
    {"-0", StatusCode::kOk, 0},
    {"+5", StatusCode::kOk, 5},
    {"010", StatusCode::kOk, 10},
    {" 1", StatusCode::kOk, 1},
    {"\t\n\v\f\r-1", StatusCode::kOk, -1},
    {"2147483647", StatusCode::kOk, 2147483647},
    {"-2147483648", StatusCode::kOk, INT_MIN},
    {"000000000000000000000000000000017", StatusCode::kOk, 17},
    {"2147483648", StatusCode::kOutOfRange, 0},
    {"-2147483649", StatusCode::kOutOfRange, 0},
    {"4294967297", StatusCode::kOutOfRange, 0},
    {"99999999999", StatusCode::kOutOfRange, 0},
    {"1000000000000000000000000000000", StatusCode::kOutOfRange, 0},
    {"-1000000000000000000000000000000", StatusCode::kOutOfRange, 0},
    {"", StatusCode::kInvalidArgument, 0},
    {" ", StatusCode::kInvalidArgument, 0},
    {"x", StatusCode::kInvalidArgument, 0},
    {"10x", StatusCode::kInvalidArgument, 0},
    {"1x", StatusCode::kInvalidArgument, 0},
    {"1 ", StatusCode::kInvalidArgument, 0},
    {"0x10", StatusCode::kInvalidArgument, 0},
    {"1?", StatusCode::kInvalidArgument, 0},
    {"??", StatusCode::kInvalidArgument, 0},
    {"+", StatusCode::kInvalidArgument, 0},
    {"-", StatusCode::kInvalidArgument, 0},
    {"++5", StatusCode::kInvalidArgument, 0},
    {"- 5", StatusCode::kInvalidArgument, 0},
    {"1.5", StatusCode::kInvalidArgument, 0},
    {"1e3", StatusCode::kInvalidArgument, 0},
};

TEST(ParseIntValue, C47_F113_ReadsWhatStrtolReadsAndNothingElse) {
  for (const NumberRow& row : kInts) {
    const absl::StatusOr<int> value = ParseIntValue(row.text);
    ASSERT_EQ(value.status().code(), row.code) << row.text;
    if (value.ok()) {
      EXPECT_EQ(*value, row.value) << row.text;
    }
  }
  EXPECT_FALSE(ParseIntValue(absl::string_view("1\0", 2)).ok());
}

TEST(ParseLongValue, C47_F113_HasTheRangeOf64Bits) {
  EXPECT_THAT(ParseLongValue("9223372036854775807"), IsOkAndHolds(INT64_MAX));
  EXPECT_THAT(ParseLongValue("-9223372036854775808"), IsOkAndHolds(INT64_MIN));
  EXPECT_THAT(ParseLongValue("2147483648"), IsOkAndHolds(2147483648));
  EXPECT_EQ(ParseLongValue("9223372036854775808").status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ParseLongValue("-9223372036854775809").status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ParseLongValue("18446744073709551617").status().code(), StatusCode::kOutOfRange);
  EXPECT_EQ(ParseLongValue("1k").status().code(), StatusCode::kInvalidArgument);
}

TEST(ParseBoolValue, C49_YesAndNoInAnyCase) {
  for (const char* text : {"yes", "YES", "Yes", "yEs"}) {
    EXPECT_THAT(ParseBoolValue(text), IsOkAndHolds(true));
  }
  for (const char* text : {"no", "NO", "nO"})
    EXPECT_THAT(ParseBoolValue(text), IsOkAndHolds(false));
  for (const char* text : {"", "1", "0", "true", "maybe", "y", " yes", "yes ", "yess"}) {
    EXPECT_EQ(ParseBoolValue(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

absl::StatusOr<int> Time(absl::string_view text, char unit = 's', bool strict = false) {
  std::string warning;
  return ParseTimeValue(text, unit, strict, &warning);
}

TEST(ParseTimeValue, C50_C52_UnitsAndTheDefaultUnit) {
  EXPECT_THAT(Time("10"), IsOkAndHolds(10));
  EXPECT_THAT(Time("10s"), IsOkAndHolds(10));
  EXPECT_THAT(Time("10m"), IsOkAndHolds(600));
  EXPECT_THAT(Time("2h"), IsOkAndHolds(7200));
  EXPECT_THAT(Time("1d"), IsOkAndHolds(86400));
  EXPECT_THAT(Time("1w"), IsOkAndHolds(604800));
  EXPECT_THAT(Time("10", 'm'), IsOkAndHolds(600));
  EXPECT_THAT(Time("10", 'h'), IsOkAndHolds(36000));
  EXPECT_THAT(Time("10s", 'w'), IsOkAndHolds(10));
  EXPECT_THAT(Time("+5"), IsOkAndHolds(5));
  EXPECT_THAT(Time(" 010s"), IsOkAndHolds(10));
  EXPECT_THAT(Time("-0"), IsOkAndHolds(0));
}

TEST(ParseTimeValue, C50_C81_WhatIsNoTimeIsRefused) {
  for (const char* text : {"10x", "-5", "-1s", "10 s", "", " ", "4000w", "0x10", "1S", "1M", "1.5h",
                           "- 5", "x", "99999999999999999999", "2147483648", "5 ", "+s", "-s"}) {
    EXPECT_FALSE(Time(text).ok()) << text;
  }
}

TEST(ParseTimeValue, F112_TheLargestLegalValueOfEachUnitIsAcceptedExactly) {
  struct {
    char unit;
    int64_t seconds;
  } const units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}, {'w', 604800}};
  for (const auto& unit : units) {
    // Some that would fit are refused by stock daemons, too (C52); none in seconds.
    const int64_t largest = unit.seconds == 1 ? INT_MAX : INT_MAX / unit.seconds - 1;
    for (int64_t number = largest - 30; number <= largest + 30; ++number) {
      for (const std::string& text :
           {absl::StrCat(number, std::string(1, unit.unit)), absl::StrCat(number)}) {
        const absl::StatusOr<int> seconds = Time(text, unit.unit);
        if (number <= largest) {
          EXPECT_THAT(seconds, IsOkAndHolds(static_cast<int>(number * unit.seconds))) << text;
        } else {
          EXPECT_EQ(seconds.status().code(), StatusCode::kOutOfRange) << text;
        }
      }
    }
  }
}

TEST(ParseTimeValue, CO2_TextBehindTheUnitAndMissingDigitsAreWarningsOrStrictErrors) {
  struct {
    const char* text;
    int seconds;
    const char* warning;
  } const rows[] = {{"10sx", 10, "behind its unit"}, {"10hello", 36000, "behind its unit"},
                    {"10ss", 10, "behind its unit"}, {"5s ", 5, "behind its unit"},
                    {"s", 0, "no digits"},           {"w", 0, "no digits"}};
  for (const auto& row : rows) {
    std::string warning;
    EXPECT_THAT(ParseTimeValue(row.text, 's', false, &warning), IsOkAndHolds(row.seconds));
    EXPECT_THAT(warning, HasSubstr(row.warning)) << row.text;
    EXPECT_EQ(Time(row.text, 's', true).status().code(), StatusCode::kInvalidArgument) << row.text;
  }
  EXPECT_THAT(Time("10s", 's', true), IsOkAndHolds(10));
  EXPECT_THAT(Time("10", 's', true), IsOkAndHolds(10));
}

// One line of main.cf and what becomes of it when the parameters of C81 are loaded.
struct SettingRow {
  const char* line;
  const char* outcome;  // the value, or part of the error
};

class SettingTable : public testing::TestWithParam<SettingRow> {};

TEST_P(SettingTable, C81_HasTheOutcomeOfTheTable) {
  IntParameter max_use{"max_use", 100, {.min = 1}};
  IntParameter line_length_limit{"line_length_limit", 2048, {.min = 512}};
  TimeParameter max_idle{"max_idle", "100s", {.min_seconds = 1}};
  TimeParameter in_flow_delay{"in_flow_delay", "1s", {.min_seconds = 0, .max_seconds = 10}};
  TimeParameter ipc_timeout{"ipc_timeout", "3600s", {.min_seconds = 1}};
  BoolParameter disable_dns_lookups{"disable_dns_lookups", false};
  StringParameter myhostname{"myhostname", "localhost", {.min = 1}};
  const std::vector<Parameter*> all = {&max_use,       &line_length_limit, &max_idle,
                                       &in_flow_delay, &ipc_timeout,       &disable_dns_lookups,
                                       &myhostname};
  ParameterStore store;
  std::vector<std::string> warnings;
  const std::string line = GetParam().line;
  absl::Status status = ParseMainCf("main.cf", line, &store, &warnings);
  if (status.ok()) status = LoadParameters(all, &store, &warnings);
  if (!status.ok()) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().outcome)) << line;
    EXPECT_THAT(std::string(status.message()), HasSubstr("main.cf, line 1"));
    return;
  }
  for (const Parameter* parameter : all) {
    if (absl::StartsWith(line, parameter->name())) {
      EXPECT_EQ(parameter->ValueText(), GetParam().outcome) << line;
    }
  }
}

const SettingRow kSettings[] = {
    {"max_use = 0", "value \"0\" is below the minimum 1"},
    {"max_use = x", "max_use: value \"x\" is not a whole number"},
    {"max_use =", "max_use: value \"\" is not a whole number"},
    {"max_use = 10x", "is not a whole number"},
    {"max_use = 0x10", "is not a whole number"},
    {"max_use = 99999999999", "does not fit into 32 bits"},
    {"max_use = +5", "5"},
    {"max_idle = 10", "10s"},
    {"max_idle = 10m", "600s"},
    {"max_idle = 1w", "604800s"},
    {"max_idle = 10x", "value \"10x\" is not a number followed by"},
    {"max_idle = -5", "value \"-5\" is negative"},
    {"max_idle = 10 s", "is not a number followed by"},
    {"max_idle =", "is not a time"},
    {"max_idle = 4000w", "is too large"},
    {"max_idle = 0", "value \"0\" is below the minimum 1s"},
    {"max_idle = s", "value \"s\" is below the minimum 1s"},
    {"in_flow_delay = 11", "value \"11\" is above the maximum 10s"},
    {"in_flow_delay = 0", "0s"},
    {"disable_dns_lookups = YES", "yes"},
    {"disable_dns_lookups = 1", "is neither \"yes\" nor \"no\""},
    {"disable_dns_lookups = maybe", "is neither \"yes\" nor \"no\""},
    {"disable_dns_lookups =", "is neither \"yes\" nor \"no\""},
    {"ipc_timeout = 0", "ipc_timeout: value \"0\" is below the minimum 1s"},
    {"line_length_limit = 100", "value \"100\" is below the minimum 512"},
    {"foo", "missing \"=\""},
    {"= x", "missing parameter name"},
    {"foo bar = x", "missing \"=\""},
    {"myhostname =", "myhostname: value \"\" is too short: 0 bytes, the minimum is 1"},
};
INSTANTIATE_TEST_SUITE_P(C81, SettingTable, testing::ValuesIn(kSettings));

class Loading : public testing::Test {
 protected:
  absl::Status Load(const std::vector<Parameter*>& parameters) {
    return LoadParameters(parameters, &store_, &warnings_);
  }
  std::string Reference(absl::string_view text) { return Expand(text, store_).value(); }

  ParameterStore store_;
  std::vector<std::string> warnings_;
};

TEST_F(Loading, ASetValueIsExpandedAndConverted) {
  store_.Set("half", "2", "t");
  store_.Set("number", "${half}1", "t");
  store_.Set("text", "<$half>", "t");
  store_.Set("raw", "<$half>", "t");
  store_.Set("flag", "${half?yes}", "t");
  store_.Set("time", "${half}m", "t");
  IntParameter number("number", 1);
  LongParameter big("number", 1);
  StringParameter text("text", "");
  RawParameter raw("raw", "");
  BoolParameter flag("flag", false);
  TimeParameter time("time", "1s");
  NintParameter nint("number", "7");
  NboolParameter nbool("flag", "no");
  ASSERT_THAT(Load({&number, &big, &text, &raw, &flag, &time, &nint, &nbool}), IsOk());
  EXPECT_EQ(number.value(), 21);
  EXPECT_EQ(big.value(), 21);
  EXPECT_EQ(text.value(), "<2>");
  EXPECT_EQ(raw.value(), "<$half>");
  EXPECT_TRUE(flag.value());
  EXPECT_EQ(time.value(), absl::Minutes(2));
  EXPECT_EQ(nint.value(), 21);
  EXPECT_TRUE(nbool.value());
}

TEST_F(Loading, C62_ADefaultIsStoredExpandedUnderItsName) {
  store_.Set("who", "me", "t");
  IntParameter number("number", 17);
  StringParameter text("text", "<$who>");
  BoolParameter flag("flag", true);
  TimeParameter time("time", "${stress?{10}:{300}}s");
  NintParameter nint("nint", "$number");
  NboolParameter nbool("nbool", "${who?{yes}:{no}}");
  LongParameter big("big", int64_t{1} << 40);
  EXPECT_EQ(Reference("$number"), "");  // C41
  ASSERT_THAT(Load({&number, &text, &flag, &time, &nint, &nbool, &big}), IsOk());
  EXPECT_EQ(Reference("$number $text $flag $time $nint $nbool $big"),
            "17 <me> yes 300s 17 yes 1099511627776");
  EXPECT_EQ(time.seconds(), 300);
  EXPECT_EQ(nint.value(), 17);
  EXPECT_TRUE(nbool.value());
  EXPECT_EQ(store_.Find("text")->origin, "default");
}

TEST_F(Loading, CO3_ADefaultWithADollarSignIsExpandedOnceAndNotTwice) {
  StringParameter price("price", "$$5");
  ASSERT_THAT(Load({&price}), IsOk());
  EXPECT_EQ(price.value(), "$5");
  EXPECT_EQ(Reference("<$price>"), "<$5>");
  StringParameter again("price", "other");
  ASSERT_THAT(Load({&again}), IsOk());
  EXPECT_EQ(again.value(), "$5");
}

TEST_F(Loading, TheDefaultOfARawParameterStaysRawForReferences) {
  store_.Set("who", "me", "t");
  RawParameter raw("raw", "<$who>");
  ASSERT_THAT(Load({&raw}), IsOk());
  EXPECT_EQ(raw.value(), "<$who>");
  EXPECT_EQ(Reference("$raw"), "<me>");
}

TEST_F(Loading, C55_TablesLoadInOrderSoALaterDefaultMayUseAnEarlierParameter) {
  IntParameter first("first", 3);
  NintParameter second("second", "${first}0");
  ASSERT_THAT(Load({&first, &second}), IsOk());
  EXPECT_EQ(second.value(), 30);
  NintParameter too_early("third", "$fourth");
  IntParameter fourth("fourth", 4);
  EXPECT_THAT(Load({&too_early, &fourth}),
              StatusIs(StatusCode::kInvalidArgument,
                       "default: parameter third: value \"\" (from \"$fourth\") is not a whole "
                       "number"));
}

TEST_F(Loading, CO4_AllBadParametersAreReportedWithTheirPlaces) {
  store_.Set("number", "$unit", "main.cf, line 4");
  store_.Set("unit", "x", "main.cf, line 9");
  store_.Set("time", "10 s", "option -o");
  store_.Set("text", "${", "main.cf, line 5");
  IntParameter number("number", 1);
  IntParameter good("good", 5);
  TimeParameter time("time", "1s");
  StringParameter text("text", "");
  const absl::Status status = Load({&number, &good, &time, &text});
  EXPECT_EQ(
      status.message(),
      "main.cf, line 4: parameter number: value \"x\" (from \"$unit\") is not a whole number\n"
      "option -o: parameter time: value \"10 s\" is not a number followed by one of s, m, h, "
      "d, w\n"
      "main.cf, line 5: parameter text: bracket without an end at \"${\" in the value of text "
      "(main.cf, line 5)");
  EXPECT_EQ(good.value(), 5);
  EXPECT_EQ(number.value(), 1);
}

TEST_F(Loading, C48_LimitsAreInclusiveAndAMinimumOfZeroCanBeSaid) {
  IntParameter number("number", 5, {.min = 0, .max = 10});
  LongParameter big("big", 5, {.min = -1, .max = int64_t{1} << 40});
  for (const char* good : {"0", "10"}) {
    store_.Set("number", good, "t");
    EXPECT_THAT(Load({&number}), IsOk());
  }
  store_.Set("number", "-1", "t");
  EXPECT_THAT(Load({&number}), StatusIs(StatusCode::kOutOfRange, HasSubstr("minimum 0")));
  store_.Set("number", "11", "t");
  EXPECT_THAT(Load({&number}), StatusIs(StatusCode::kOutOfRange, HasSubstr("maximum 10")));
  store_.Set("big", "1099511627777", "t");
  EXPECT_THAT(Load({&big}), StatusIs(StatusCode::kOutOfRange, HasSubstr("1099511627776")));
  store_.Set("big", "-2", "t");
  EXPECT_THAT(Load({&big}), StatusIs(StatusCode::kOutOfRange, HasSubstr("minimum -1")));
}

TEST_F(Loading, C48_ADefaultOutsideItsLimitsIsAnErrorToo) {
  NintParameter number("number", "11", {.max = 10});
  EXPECT_THAT(Load({&number}), StatusIs(StatusCode::kOutOfRange, HasSubstr("default: ")));
}

TEST_F(Loading, C51_TheUnitOfTheExpandedDefaultIsThatOfValuesWithoutOne) {
  store_.Set("time", "2", "t");
  TimeParameter hours("time", "${undef?{10m}:{1h}}");
  ASSERT_THAT(Load({&hours}), IsOk());
  EXPECT_EQ(hours.value(), absl::Hours(2));
  TimeParameter none("time", "$undef");
  EXPECT_THAT(Load({&none}), StatusIs(StatusCode::kInvalidArgument, HasSubstr("has no unit")));
}

TEST(TimeParameterDeathTest, C51_ADefaultWithoutAUnitIsAProgrammingError) {
  EXPECT_DEATH(TimeParameter("time", "10"), "has a unit");
}

TEST_F(Loading, C52_LimitsOfTimesAreCheckedInSeconds) {
  store_.Set("time", "1m", "t");
  TimeParameter time("time", "10s", {.min_seconds = 5, .max_seconds = 59});
  EXPECT_THAT(Load({&time}), StatusIs(StatusCode::kOutOfRange, HasSubstr("maximum 59s")));
  store_.Set("time", "4", "t");
  EXPECT_THAT(Load({&time}), StatusIs(StatusCode::kOutOfRange, HasSubstr("minimum 5s")));
}

TEST_F(Loading, C53_LengthsAreCheckedAfterExpansion) {
  store_.Set("who", "abcdef", "t");
  store_.Set("text", "$who", "t");
  StringParameter text("text", "xxx", {.min = 2, .max = 5});
  EXPECT_THAT(Load({&text}), StatusIs(StatusCode::kOutOfRange,
                                      HasSubstr("value \"abcdef\" (from \"$who\") is too long: 6 "
                                                "bytes, the maximum is 5")));
  store_.Set("who", "a", "t");
  EXPECT_THAT(Load({&text}), StatusIs(StatusCode::kOutOfRange, HasSubstr("too short: 1 bytes")));
  RawParameter raw("text", "", {.max = 3});
  EXPECT_THAT(Load({&raw}), StatusIs(StatusCode::kOutOfRange, HasSubstr("too long: 4")));
}

TEST_F(Loading, C54_AFunctionValuedDefaultIsCalledOnlyWhenNeeded) {
  int calls = 0;
  const auto compute = [&calls]() -> absl::StatusOr<std::string> {
    ++calls;
    return std::string("computed");
  };
  store_.Set("text", "set", "t");
  StringParameter set("text", compute);
  ASSERT_THAT(Load({&set}), IsOk());
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(set.value(), "set");
  StringParameter unset("other", compute);
  ASSERT_THAT(Load({&unset}), IsOk());
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(unset.value(), "computed");
  StringParameter failing(
      "third", []() -> absl::StatusOr<std::string> { return absl::UnavailableError("no answer"); });
  EXPECT_THAT(Load({&failing}), StatusIs(StatusCode::kUnavailable, HasSubstr("third: no answer")));
}

TEST_F(Loading, C56_LoadedValuesAreCopies) {
  store_.Set("text", "before", "t");
  StringParameter text("text", "");
  ASSERT_THAT(Load({&text}), IsOk());
  store_.Set("text", "after", "t");
  EXPECT_EQ(text.value(), "before");
}

TEST_F(Loading, C58_ATwoPartNameIsATimeParameter) {
  store_.Set("policy_time_limit", "20", "t");
  TimeParameter limit(absl::StrCat("policy", "_time_limit"), "1000s", {.min_seconds = 1});
  ASSERT_THAT(Load({&limit}), IsOk());
  EXPECT_EQ(limit.seconds(), 20);
}

TEST_F(Loading, C74_C78_StressChoosesADefaultWhenItIsSet) {
  TimeParameter calm("calm", "${stress?{10}:{300}}s");
  ASSERT_THAT(Load({&calm}), IsOk());
  EXPECT_EQ(calm.seconds(), 300);
  store_.Set("stress", "yes", "option -o");
  TimeParameter stressed("stressed", "${stress?{10}:{300}}s");
  ASSERT_THAT(Load({&calm, &stressed}), IsOk());
  EXPECT_EQ(stressed.seconds(), 10);
  EXPECT_EQ(calm.seconds(), 300);
}

TEST_F(Loading, CO2_TheStoreSaysWhetherOversightsOfTheOriginalAreAccepted) {
  store_.Set("time", "10sx", "main.cf, line 2");
  TimeParameter time("time", "1s");
  ASSERT_THAT(Load({&time}), IsOk());
  EXPECT_EQ(time.seconds(), 10);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("main.cf, line 2: parameter time: value \"10sx\" "
                                               "has text behind its unit")));
  store_.set_strict(true);
  EXPECT_FALSE(Load({&time}).ok());
}

TEST(HelpText, ListsNameTypeDefaultAndRange) {
  IntParameter number("policy_limit", 30, {.min = 1, .max = 100});
  TimeParameter time("policy_delay", "300s", {.min_seconds = 1});
  StringParameter text("policy_text", "", {.max = 10});
  BoolParameter flag("policy_flag", true);
  EXPECT_EQ(HelpText({&number, &time, &text, &flag}),
            "  policy_limit  INT    30       1 to 100\n"
            "  policy_delay  TIME   300s     at least 1s\n"
            "  policy_text   STR    (empty)  at most 10 bytes\n"
            "  policy_flag   BOOL   yes\n");
}

TEST(LoadParameters, CO5_TwoStoresSideBySideDoNotInfluenceEachOther) {
  // As a manager does that checks a new configuration while the old one is in force.
  ParameterStore old_store, new_store;
  std::vector<std::string> old_warnings, new_warnings;
  ASSERT_THAT(
      ParseMainCf("old", "limit = 5\nname = old\ntext = $name/$limit\n", &old_store, &old_warnings),
      IsOk());
  ASSERT_THAT(ParseMainCf("new", "limit = many\nname = new\ntext = $name/$limit/$extra\n",
                          &new_store, &new_warnings),
              IsOk());
  IntParameter old_limit{"limit", 1, {.min = 1}}, new_limit{"limit", 2, {.min = 1}};
  StringParameter old_text{"text", ""}, new_text{"text", ""}, new_extra{"extra", "x"};
  // In turns, so that anything shared would be seen.
  ASSERT_THAT(LoadParameters({&old_limit}, &old_store, &old_warnings), IsOk());
  EXPECT_FALSE(LoadParameters({&new_limit, &new_extra, &new_text}, &new_store, &new_warnings).ok());
  ASSERT_THAT(LoadParameters({&old_text}, &old_store, &old_warnings), IsOk());
  EXPECT_EQ(old_limit.value(), 5);
  EXPECT_EQ(old_text.value(), "old/5");
  EXPECT_EQ(new_text.value(), "new/many/x");
  EXPECT_EQ(old_store.Find("extra"), nullptr);
  // Repaired in the one, still as before in the other.
  ASSERT_THAT(ApplyOverride("limit=7", &new_store, &new_warnings), IsOk());
  new_store.SetReadOnly("name", "locked");
  ASSERT_THAT(LoadParameters({&new_limit, &new_text}, &new_store, &new_warnings), IsOk());
  EXPECT_EQ(new_limit.value(), 7);
  ASSERT_THAT(LoadParameters({&old_limit}, &old_store, &old_warnings), IsOk());
  EXPECT_EQ(old_limit.value(), 5);
  EXPECT_FALSE(old_store.read_only("name"));
  EXPECT_TRUE(old_store.Set("name", "changed", "test"));
  EXPECT_EQ(new_store.Find("name")->value, "locked");
  EXPECT_THAT(old_warnings, IsEmpty());
}

}  // namespace
}  // namespace posthouse

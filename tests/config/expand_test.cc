// Expansion of references: expand.h, C23 to C41, C57, C80, F110, F111, F118.

#include "posthouse/config/expand.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "posthouse/config/parameter_store.h"

namespace posthouse {
namespace {

// nullptr as a result: an error.
struct Row {
  const char* statement;
  const char* input;
  const char* result;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.statement << ": " << row.input; }

ParameterStore TableStore() {
  ParameterStore store;
  store.Set("aa", "A", "test");
  store.Set("bb", "$aa-B", "test");
  store.Set("empty", "", "test");
  store.Set("points_at_empty", "$empty", "test");
  store.Set("dollar", "$$", "test");
  store.Set("dollar_name", "$$aa", "test");
  store.Set("broken", "x${aa-b}", "test.cf, line 7");
  return store;
}

class ExpansionTable : public testing::TestWithParam<Row> {};

TEST_P(ExpansionTable, GivesTheResultOfTheTable) {
  const ParameterStore store = TableStore();
  const absl::StatusOr<std::string> result = Expand(GetParam().input, store);
  if (GetParam().result == nullptr) {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument)
        << (result.ok() ? *result : "");
  } else {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(*result, GetParam().result);
  }
}

const Row kTestVectors[] = {
    {"C80", "$aa", "A"},
    {"C80", "${aa?y:n}", "y:n"},
    {"C80", "$bb", "A-B"},
    {"C80", "${aa?{y}:n}", "y"},
    {"C80", "$$aa", "$aa"},
    {"C80", "${ aa ? {y} : {n} }", "y"},
    {"C80", "$$$aa", "$A"},
    {"C80", "${empty:no}", "no"},
    {"C80", "$undef", ""},
    {"C80", "${empty?yes}", ""},
    {"C80", "$(aa?{y}:{n})", "y"},
    {"C80", "${aa?{y}:{n}}}", "y}"},
    {"C80", "${{$aa} == {A} ? {t} : {f}}", "t"},
    {"C80", "${{$aa}=={A}}", "true"},
    {"C80", "${{9} < {12}?{num}:{str}}", "num"},
    {"C80", "${{9} < {12a}?{num}:{str}}", "str"},
    {"C80", "${{3.6} <=level {3.10}?{y}:{n}}", "y"},
    {"C80", "${{ a } == {a} ? {e}:{n}}", "n"},
    {"C80", "${{-1} < {1} ? {lt}:{ge}}", "lt"},
    {"C80", "${{10} < {9a} ? {lt}:{ge}}", "lt"},
    {"C80", "${aa?{y}z}", nullptr},
    {"C80", "${{a} == b?{y}:{n}}", nullptr},
    {"C80", "${{a} = {b}?{y}:{n}}", nullptr},
    {"C80", "$ aa", nullptr},
    {"C80", "$", nullptr},
    {"C80", "${}", nullptr},
    {"C80", "${aa", nullptr},
};
INSTANTIATE_TEST_SUITE_P(C80, ExpansionTable, testing::ValuesIn(kTestVectors));

// The results of rows that the specification leaves open are those of a stock smtpd's banner.
const Row kForms[] = {
    {"C23", "$$", "$"},
    {"C23", "$$$$", "$$"},
    {"C23", "$$$", nullptr},
    {"C23", "$dollar_name", "$aa"},
    {"C23", "$dollar", "$"},
    {"C23", "${aa?{$$aa}:{n}}", "$aa"},
    {"C24", "$aa.x", "A.x"},
    {"C24", "$aa_x", ""},
    {"C24", "$1", ""},
    {"C24", "$_", ""},
    {"C25", "$(aa)", "A"},
    {"C25", "${ aa}", "A"},
    {"C25", "${aa }", "A"},
    {"C25", "${ }", ""},
    {"C25", "$(aa?(y):(n))", "(y):(n)"},
    {"C25", "${aa?(y)}", "(y)"},
    {"C25", "${aa)}", nullptr},
    {"C25", "$(aa})", nullptr},
    {"C25", "$(aa?{y}:{n)})", nullptr},
    {"C25", "$(aa?{(y)}:{n})", "(y)"},
    {"C26", "<${undef}>", "<>"},
    {"C27", "a$", nullptr},
    {"C27", "$.", nullptr},
    {"C27", "$-aa", nullptr},
    {"C27", "$()", nullptr},
    {"C27", "$(aa", nullptr},
    {"C27", "${aa-b}", nullptr},
    {"C27", "${aa b}", nullptr},
    {"C27", "${$aa}", nullptr},
    {"C28", "${points_at_empty?yes}", "yes"},
    {"C28", "${points_at_empty:no}", ""},
    {"C28", "${undef?yes}", ""},
    {"C28", "${undef:no}", "no"},
    {"C28", "${aa:no}", ""},
    {"C28", "${?x}", ""},
    {"C28", "${:x}", "x"},
    {"C29", "${aa? y }", " y "},
    {"C29", "${ aa ?y}", "y"},
    {"C29", "${aa?$bb}", "A-B"},
    {"C29", "${aa?${bb}$$}", "A-B$"},
    {"C29", "${aa?}", ""},
    {"C29", "${empty: n }", " n "},
    {"C29", "${empty?$}", ""},
    {"C30", "${aa?{ y }:n}", " y "},
    {"C30", "${aa? {y} : {n} }", "y"},
    {"C30", "${empty?{y}: n }", " n "},
    {"C30", "${empty?{y}:  {n}  }", "n"},
    {"C30", "${aa?{y}:}", "y"},
    {"C30", "${aa?{y}\t:\t{n}}", "y"},
    {"C30", "$(empty?{y}:(n))", "(n)"},
    {"C30", "${aa?{${empty:{inner}}}:{n}}", "inner"},
    {"C31", "${aa?{y}}", "y"},
    {"C31", "${empty?{y}}", ""},
    {"C31", "${empty:{n}}", "n"},
    {"C31", "${empty: {n} }", "n"},
    {"C31", "${aa:{y}:{n}}", nullptr},
    {"C31", "${aa?{y}?{n}}", nullptr},
    {"C31", "${aa? {y} x}", nullptr},
    {"C31", "${aa?{y}:{n}x}", nullptr},
    {"C31", "${empty?{y}:{n}z}", nullptr},
    {"C32", "<${{$aa}=={B}}>", "<>"},
    {"C32", "${ {a}!={b} }", "true"},
    {"C32", "${{a}!={b} ? t : f}", " t : f"},
    {"C32", "${{a}=={b} : f}", " f"},
    {"C32", "${{a}!={b} : f}", ""},
    {"C32", "$({a}=={b}?{c}:{d})", "d"},
    {"C32", "${{a}<={b}}", "true"},
    {"C32", "${{a}>={b}}", ""},
    {"C32", "${{b}>{a}}", "true"},
    {"C32", "${{${aa}} == {A}}", "true"},
    {"C32", "${{$$} == {$$}}", "true"},
    {"C32", "${{a}}", nullptr},
    {"C32", "${{a}=={b} x}", nullptr},
    {"C32", "${{a}!={b} : {c} : {d}}", nullptr},
    {"C33", "${{007} == {7}}", "true"},
    {"C33", "${{} == {}}", "true"},
    {"C33", "${{} == { }}", ""},
    {"C33", "${{9223372036854775807} > {1}}", "true"},
    {"C33", "${{9223372036854775808} > {1}}", nullptr},
    {"C33", "${{99999999999999999999} < {a}}", "true"},
    {"C33", "${{\xe4} > {z}}", "true"},
    {"C34", "${{3.6} <level {3.6.1}?{y}:{n}}", "y"},
    {"C34", "${{3.6.0} ==level {3.6}?{y}:{n}}", "y"},
    {"C34", "${{3.6}<=level{3.10}?{y}:{n}}", "y"},
    {"C34", "${{3.6} <= level {3.10}?{y}:{n}}", nullptr},
    {"C34", "${{3.x} <=level {3.10}?{y}:{n}}", nullptr},
    {"C34", "${{} <=level {3.10}?{y}:{n}}", nullptr},
    {"C35", "${{3.6}levels{3.10}?{y}:{n}}", nullptr},
    {"C35", "${{3.6}<=levelx{3.10}?{y}:{n}}", nullptr},
    {"C35", "${{a}=~{b}}", nullptr},
    {"C35", "${{a}===={b}}", nullptr},
    {"C35", "${{a}!{b}}", nullptr},
    {"C35", "${{a} {b}}", nullptr},
    {"C36", "${aa{x}}", nullptr},
    {"C36", "${domain_to_ascii{x}}", nullptr},
    {"C36", "${domain_to_utf8{x}}", nullptr},
    {"C37", "${aa?{y}:{$}}", "y"},
    {"C37", "${aa?{$}:{n}}", nullptr},
    {"C37", "${aa?{y}:{${}}", nullptr},
    {"C37", "${empty?$broken}", ""},
    {"C39", "$broken", nullptr},
    {"C40", "\x01\xff$aa\n",
     "\x01\xff"
     "A\n"},
    {"C41", "$max_use", ""},
};
INSTANTIATE_TEST_SUITE_P(Forms, ExpansionTable, testing::ValuesIn(kForms));

// a1 = $a2, ..., aN = `end`.
ParameterStore Chain(int length, absl::string_view end) {
  ParameterStore store;
  for (int i = 1; i < length; ++i) {
    store.Set(absl::StrCat("a", i), absl::StrCat("$a", i + 1), "test");
  }
  store.Set(absl::StrCat("a", length), end, "test");
  return store;
}

TEST(Expand, C38_AChainOf100ReferencesThatEndsInTextWorksAnd101Fail) {
  for (int length = 1; length <= 100; ++length) {
    EXPECT_EQ(Expand("$a1", Chain(length, "end")).value(), "end") << length;
  }
  for (int length : {101, 102, 1000}) {
    const absl::Status status = Expand("$a1", Chain(length, "end")).status();
    EXPECT_TRUE(absl::StrContains(status.message(), "deeper than 101: $a1 -> $a2")) << status;
  }
}

TEST(Expand, C38_AChainOf101ReferencesThatEndsInNothingWorks) {
  EXPECT_EQ(Expand("$a1", Chain(101, "")).value(), "");
  EXPECT_EQ(Expand("$a1", Chain(100, "$undefined")).value(), "");
  EXPECT_FALSE(Expand("$a1", Chain(101, "$undefined")).ok());
}

TEST(Expand, C38_OperandsCountAsDepth) {
  std::string text = "x";
  for (int i = 0; i < 100; ++i) text = absl::StrCat("${undef:{", text, "}}");
  EXPECT_EQ(Expand(text, ParameterStore()).value(), "x");
  EXPECT_FALSE(Expand(absl::StrCat("${undef:{", text, "}}"), ParameterStore()).ok());
}

TEST(Expand, F110_ComparisonsCountAsDepth) {
  std::string text = "x";
  for (int i = 0; i < 50; ++i) text = absl::StrCat("${{", text, "} == {true} ? {x}}");
  EXPECT_EQ(Expand(text, ParameterStore()).value(), "");
  for (int i = 0; i < 51; ++i) text = absl::StrCat("${{", text, "} == {true} ? {x}}");
  EXPECT_FALSE(Expand(text, ParameterStore()).ok());
}

TEST(Expand, F110_ASelfReferenceIsNamed) {
  ParameterStore store;
  store.Set("loop", "x$loop", "main.cf, line 3");
  const absl::Status status = Expand("$loop", store).status();
  EXPECT_EQ(status.message(),
            "parameters refer to each other in a circle: $loop -> $loop (main.cf, line 3)");
  EXPECT_EQ(ExpandedValue("loop", store).status(), status);
}

TEST(Expand, F110_CyclesOf2To1000AreErrorsThatNameTheChain) {
  for (int length = 2; length <= 1000; length += length < 110 ? 1 : 89) {
    const absl::Status status = Expand("$a1", Chain(length, "$a1")).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << length;
    EXPECT_TRUE(absl::StrContains(status.message(), "$a1 -> $a2")) << status;
    EXPECT_LT(status.message().size(), 1000u);
  }
}

TEST(Expand, F110_CyclesThroughConditionalsAndComparisonsAreErrors) {
  for (const char* value : {"${aa?$loop}", "${aa?{$loop}:{}}", "${aa:{x}}${empty:{${loop}}}",
                            "${{$loop} == {x}}", "${{x} == {$loop} ? {y}:{n}}"}) {
    ParameterStore store = TableStore();
    store.Set("loop", value, "test");
    const absl::Status status = Expand("$loop", store).status();
    EXPECT_TRUE(absl::StrContains(status.message(), "circle: $loop -> $loop")) << value << status;
  }
}

TEST(Expand, F110_ATestOfANameInsideItsOwnValueIsNoCycle) {
  ParameterStore store;
  store.Set("own", "${own?{set}:{not set}}", "test");
  EXPECT_EQ(Expand("$own", store).value(), "set");
}

TEST(Expand, F110_TheDeepestNestingStaysBelowAMebibyteOfStack) {
  // A thread whose whole stack is a mebibyte runs every way down; an overrun is a crash.
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 1 << 20), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(
                &thread, &attributes,
                [](void*) -> void* {
                  EXPECT_FALSE(Expand("$a1", Chain(1000, "$a1")).ok());
                  std::string text = "x";
                  for (int i = 0; i < 200; ++i) text = absl::StrCat("${{", text, "}=={}?{x}}");
                  EXPECT_FALSE(Expand(text, ParameterStore()).ok());
                  return nullptr;
                },
                nullptr),
            0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

TEST(Expand, F111_AnErrorQuotesThePlaceAndNamesParameterAndLine) {
  const absl::Status status = Expand("$broken", TableStore()).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "\"-b\"")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "broken (test.cf, line 7)")) << status;
}

TEST(Expand, F111_WhatAnErrorQuotesIsLimited) {
  const absl::Status status =
      Expand(absl::StrCat("${aa-", std::string(100000, 'x')), TableStore()).status();
  EXPECT_FALSE(status.ok());
  EXPECT_LT(status.message().size(), 300u);
}

TEST(Expand, F118_ReferencesThatDoubleEachOtherAreRefused) {
  for (const char* leaf : {"x", "$undefined"}) {
    ParameterStore store;
    for (int i = 0; i < 60; ++i) {
      store.Set(absl::StrCat("d", i), absl::StrCat("$d", i + 1, "$d", i + 1), "test");
    }
    store.Set("d60", leaf, "test");
    size_t cost = 0;
    const absl::Status status = ExpandCounting("$d0", store, &cost).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(absl::StrContains(status.message(), "too large")) << status;
    EXPECT_LE(cost, kMaxExpansionCost + 1000);
  }
}

TEST(Expand, F118_TextThatIsOnlySkippedCostsTooOrItCouldBeReadForEver) {
  ParameterStore store;
  store.Set("skip", absl::StrCat("${undef?", std::string(60000, 'x'), "}"), "test");
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "$skip";
  size_t cost = 0;
  EXPECT_FALSE(ExpandCounting(text, store, &cost).ok());
  EXPECT_LE(cost, kMaxExpansionCost + 100000);
}

TEST(Expand, C21_ADefinitionMayUseNamesThatAreDefinedLater) {
  ParameterStore store;
  store.Set("first", "<$second>", "test");
  store.Set("second", "2", "test");
  EXPECT_EQ(ExpandedValue("first", store).value(), "<2>");
}

TEST(Expand, CO3_AFinalValueIsNotExpandedAgain) {
  ParameterStore store;
  store.SetFinal("done", "$aa $$", "default");
  EXPECT_EQ(Expand("<$done>", store).value(), "<$aa $$>");
  EXPECT_EQ(ExpandedValue("done", store).value(), "$aa $$");
}

TEST(Expand, CO6_ABuiltInNameYieldsItsDefaultUntilItHasAValue) {
  ParameterStore store;
  store.Set("host", "h", "test");
  store.DefineBuiltIn("origin", "$host.example");
  EXPECT_EQ(Expand("$origin ${origin?{y}:{n}}", store).value(), "h.example y");
  EXPECT_EQ(store.Find("origin"), nullptr);
  store.Set("origin", "", "test");
  EXPECT_EQ(Expand("$origin${origin?{y}:{n}}", store).value(), "n");
}

TEST(Expand, ANameWithoutAValueExpandsToNothing) {
  EXPECT_EQ(ExpandedValue("nothing", ParameterStore()).value(), "");
}

TEST(CompatibilityLevel, C57_LevelsCompareByPartsAndMissingPartsAreZero) {
  const std::vector<const char*> ascending = {
      "0", "0.0.1", "0.1", "2", "3.6", "3.6.1", "3.10", "3.1023", "4", "9999", "8796093022207"};
  for (size_t i = 1; i < ascending.size(); ++i) {
    EXPECT_LT(ParseCompatibilityLevel(ascending[i - 1]).value(),
              ParseCompatibilityLevel(ascending[i]).value())
        << ascending[i];
  }
  EXPECT_EQ(ParseCompatibilityLevel("3").value(), ParseCompatibilityLevel("3.0.0").value());
  EXPECT_EQ(ParseCompatibilityLevel(" 3.+6").value(), ParseCompatibilityLevel("03.06").value());
}

TEST(CompatibilityLevel, C57_MalformedLevelsAreErrors) {
  for (const char* text :
       {"", " ", "x", "3.", ".6", "3..6", "3.6 ", "3.6.1.1", "3.1024", "3.6.1024", "-1", "3.-1",
        "3.6x", "8796093022208", "99999999999999999999"}) {
    EXPECT_EQ(ParseCompatibilityLevel(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

}  // namespace
}  // namespace posthouse

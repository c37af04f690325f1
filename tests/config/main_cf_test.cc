// Logical lines and definitions: main_cf.h, C10 to C22, C42 to C46, F114.

#include "posthouse/config/main_cf.h"

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/config/expand.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// The logical lines of a text as "number:text".
std::vector<std::string> Lines(absl::string_view text) {
  std::vector<std::string> lines;
  for (const LogicalLine& line : SplitLogicalLines("f", text).lines) {
    lines.push_back(absl::StrCat(line.line, ":", line.text));
  }
  return lines;
}

TEST(LogicalLines, C10_AMissingFinalNewlineIsFine) {
  EXPECT_THAT(Lines("a = 1\nb = 2"), ElementsAre("1:a = 1", "2:b = 2"));
  EXPECT_THAT(Lines("a = 1\n b"), ElementsAre("1:a = 1 b"));
}

TEST(LogicalLines, C10_ABackslashAndQuotesAreData) {
  EXPECT_THAT(Lines("a = x\\\nb = \"y\n"), ElementsAre("1:a = x\\", "2:b = \"y"));
}

TEST(LogicalLines, C10_ALineHasNoLengthLimit) {
  const std::string value(1 << 20, 'v');
  EXPECT_EQ(SplitLogicalLines("f", absl::StrCat("a = ", value)).lines.at(0).text.size(),
            value.size() + 4);
}

TEST(LogicalLines, C11_EmptyAndBlankLinesAndCommentsAreIgnored) {
  EXPECT_THAT(Lines("\n \t\r\v\f\n# c\n \t# d\na\n"), ElementsAre("5:a"));
  EXPECT_THAT(Lines(""), IsEmpty());
  EXPECT_THAT(Lines("\n"), IsEmpty());
  EXPECT_THAT(Lines("#"), IsEmpty());
}

TEST(LogicalLines, C12_ContinuationsAreAppendedAsTheyAre) {
  EXPECT_THAT(Lines("a = x\n\ty \n  z\nb\n"), ElementsAre("1:a = x\ty   z", "4:b"));
  EXPECT_THAT(Lines("a = x\r\n y\r\n"), ElementsAre("1:a = x\r y\r"));
}

TEST(LogicalLines, C13_IgnorableLinesDoNotEndALogicalLine) {
  EXPECT_THAT(Lines("a = x\n\n# c\n  y\n"), ElementsAre("1:a = x  y"));
  EXPECT_THAT(Lines("a = x\n  # c\n \v\n y"), ElementsAre("1:a = x y"));
}

TEST(LogicalLines, C14_AHashInsideALineIsData) {
  EXPECT_THAT(Lines("a = x # y\n  z # c\n"), ElementsAre("1:a = x # y  z # c"));
}

TEST(LogicalLines, C15_AFirstLineThatStartsWithWhiteSpaceIsDroppedWithItsContinuations) {
  const LogicalLines split = SplitLogicalLines("f", "\n  a = 1\n  more\n# c\n more\nb = 2\n c\n");
  ASSERT_EQ(split.lines.size(), 1u);
  EXPECT_EQ(split.lines[0].text, "b = 2 c");
  EXPECT_EQ(split.lines[0].line, 6);
  EXPECT_THAT(split.warnings, ElementsAre(HasSubstr("f, line 2: ")));
  EXPECT_THAT(split.warnings[0], HasSubstr("a = 1"));
}

TEST(LogicalLines, C16_ANulByteEndsTheLogicalLineWithAWarning) {
  const LogicalLines split =
      SplitLogicalLines("f", absl::string_view("a = x\0y\n z\nb = 1\n\0c\n", 20));
  ASSERT_EQ(split.lines.size(), 3u);
  EXPECT_EQ(split.lines[0].text, "a = x");
  EXPECT_EQ(split.lines[1].text, "b = 1");
  EXPECT_EQ(split.lines[2].text, "");
  EXPECT_THAT(split.warnings,
              ElementsAre(HasSubstr("f, line 1: NUL"), HasSubstr("f, line 4: NUL")));
}

TEST(LogicalLines, F118_WarningsAreBounded) {
  std::string text;
  for (int i = 0; i < 10000; ++i) text += absl::string_view("a\0\n", 3);
  const LogicalLines split = SplitLogicalLines("f", text);
  EXPECT_EQ(split.lines.size(), 10000u);
  EXPECT_LT(split.warnings.size(), 100u);
  EXPECT_THAT(split.warnings.back(), HasSubstr("9950 more"));
}

// A second, byte-wise reading of C10 to C15, written as the rules are told: what a physical line
// is, whether it counts, and where it goes.
std::vector<std::string> LinesByTheRules(const std::string& text) {
  std::vector<std::pair<int, std::string>> logical;
  std::string physical;
  int number = 1;
  const auto end_of_line = [&] {
    const size_t ink = physical.find_first_not_of(" \t\r\v\f");
    if (ink != std::string::npos && physical[ink] != '#') {
      if (ink > 0 && !logical.empty()) {
        logical.back().second += physical;
      } else {
        logical.emplace_back(number, physical);
      }
    }
    physical.clear();
    ++number;
  };
  for (char c : text) {
    if (c == '\n') {
      end_of_line();
    } else {
      physical += c;
    }
  }
  if (!physical.empty()) end_of_line();
  std::vector<std::string> lines;
  for (const auto& [line, content] : logical) {
    const bool first = &content == &logical.front().second;
    if (first && absl::string_view(" \t\r\v\f").find(content[0]) != absl::string_view::npos) {
      continue;
    }
    lines.push_back(absl::StrCat(line, ":", content));
  }
  return lines;
}

TEST(LogicalLines, F114_EveryCombinationOfTwelveElementsUpToLengthFour) {
  const std::vector<std::string> elements = {"a = 1\n", " more\n", "\n",  " \t\n",
                                             "# c\n",   "  # c\n", "b=2", "\tlast",
                                             "\r\n",    "#",       "=\n", "c d = 3\n"};
  int tried = 0;
  for (int length = 1; length <= 4; ++length) {
    std::vector<size_t> pick(length, 0);
    while (true) {
      std::string text;
      for (size_t index : pick) text += elements[index];
      ASSERT_EQ(Lines(text), LinesByTheRules(text)) << testing::PrintToString(text);
      ++tried;
      int place = 0;
      while (place < length && ++pick[place] == elements.size()) pick[place++] = 0;
      if (place == length) break;
    }
  }
  EXPECT_EQ(tried, 12 + 144 + 1728 + 20736);
}

struct DefinitionRow {
  const char* text;
  const char* name;  // nullptr: an error whose sentence contains `value`
  const char* value;
};

class DefinitionTable : public testing::TestWithParam<DefinitionRow> {};

TEST_P(DefinitionTable, SplitsAsTheTableSays) {
  const DefinitionRow& row = GetParam();
  Definition definition;
  const absl::Status status = SplitDefinition(row.text, &definition);
  if (row.name == nullptr) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.value)));
  } else {
    ASSERT_THAT(status, IsOk());
    EXPECT_EQ(definition.name, row.name);
    EXPECT_EQ(definition.value, row.value);
  }
}

const DefinitionRow kDefinitions[] = {
    {"a = x", "a", "x"},                         // C17
    {"a=x", "a", "x"},                           //
    {"a\t=\tx \r\v\f", "a", "x"},                //
    {" a = x", "a", "x"},                        //
    {"a = b = c", "a", "b = c"},                 //
    {"a == b", "a", "= b"},                      //
    {"a = x  y", "a", "x  y"},                   //
    {"a =", "a", ""},                            // C18
    {"a = \t", "a", ""},                         //
    {"= x", nullptr, "missing parameter name"},  // C19
    {"", nullptr, "missing parameter name"},     //
    {" \t", nullptr, "missing parameter name"},  //
    {"foo", nullptr, "missing \"=\""},           //
    {"foo bar = x", nullptr, "missing \"=\""},   //
    {"a-b.c/d[e]{ = x", "a-b.c/d[e]{", "x"},     // C22
    {"\xff\x80 = \xfe", "\xff\x80", "\xfe"},     //
    {"{a=b}", "{a", "b}"},                       // C44
};
INSTANTIATE_TEST_SUITE_P(C17toC22, DefinitionTable, testing::ValuesIn(kDefinitions));

struct Parsed {
  ParameterStore store;
  std::vector<std::string> warnings;
  absl::Status status;

  std::string Raw(absl::string_view name) const {
    const ParameterEntry* entry = store.Find(name);
    return entry == nullptr ? "(none)" : entry->value;
  }
};

Parsed Parse(absl::string_view text) {
  Parsed parsed;
  parsed.status = ParseMainCf("main.cf", text, &parsed.store, &parsed.warnings);
  return parsed;
}

TEST(ParseMainCf, C1_NamesAreCaseSensitive) {
  const Parsed parsed = Parse("a = 1\nA = 2\n");
  EXPECT_EQ(parsed.Raw("a"), "1");
  EXPECT_EQ(parsed.Raw("A"), "2");
  EXPECT_THAT(parsed.warnings, IsEmpty());
}

TEST(ParseMainCf, C5_AnEmptyFileIsFine) {
  EXPECT_THAT(Parse("").status, IsOk());
  EXPECT_THAT(Parse("# nothing\n").store.Names(), IsEmpty());
}

TEST(ParseMainCf, C7_UnknownNamesAreStored) {
  EXPECT_EQ(Parse("no_such_thing = 1\n").Raw("no_such_thing"), "1");
}

TEST(ParseMainCf, C19_EveryBadLineIsReportedWithFileLineAndTextAndTheOthersAreStored) {
  const Parsed parsed = Parse("a = 1\nfoo\n= x\n\nfoo bar = x\nb = 2\n");
  EXPECT_EQ(parsed.status.message(),
            "main.cf, line 2: missing \"=\" after parameter name: \"foo\"\n"
            "main.cf, line 3: missing parameter name: \"= x\"\n"
            "main.cf, line 5: missing \"=\" after parameter name: \"foo bar = x\"");
  EXPECT_EQ(parsed.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(parsed.Raw("a"), "1");
  EXPECT_EQ(parsed.Raw("b"), "2");
}

TEST(ParseMainCf, F111_BadLinesAreQuotedWithALimitAndTheirNumberIsBounded) {
  const Parsed parsed = Parse(absl::StrCat("x", std::string(1 << 20, 'y')));
  EXPECT_LT(parsed.status.message().size(), 300u);
  std::string many;
  for (int i = 0; i < 100000; ++i) many += "bad\n";
  EXPECT_LT(Parse(many).status.message().size(), 10000u);
  EXPECT_THAT(std::string(Parse(many).status.message()), HasSubstr("and 99950 more"));
}

TEST(ParseMainCf, C20_ALaterDefinitionWinsAndADifferentOneIsAWarning) {
  const Parsed parsed = Parse("a = 1\nb = x\nb = x\na = 2\n");
  EXPECT_EQ(parsed.Raw("a"), "2");
  EXPECT_THAT(parsed.warnings,
              ElementsAre("main.cf, line 4: parameter \"a\" again; the value of line 1 is "
                          "replaced: \"1\""));
}

TEST(ParseMainCf, F117_AThousandDuplicatesAreABoundedLog) {
  std::string text;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&text, "a = ", i, "\n");
  const Parsed parsed = Parse(text);
  EXPECT_EQ(parsed.Raw("a"), "999");
  EXPECT_LT(parsed.warnings.size(), 60u);
}

TEST(ParseMainCf, C20_AnOverrideOfWhatTheStoreHadBeforeIsNoDuplicate) {
  Parsed parsed;
  parsed.store.Set("a", "old", "elsewhere");
  ASSERT_THAT(ParseMainCf("main.cf", "a = new\n", &parsed.store, &parsed.warnings), IsOk());
  EXPECT_EQ(parsed.Raw("a"), "new");
  EXPECT_THAT(parsed.warnings, IsEmpty());
}

TEST(ParseMainCf, C21_ValuesAreStoredRaw) {
  EXPECT_EQ(Parse("a = $$ ${b}\nb = 1\n").Raw("a"), "$$ ${b}");
}

TEST(ParseMainCf, C22_OddNamesAreStoredButOnlyTheirPlainPartCanBeReferenced) {
  const Parsed parsed = Parse("v-1 = z\nv = y\n");
  EXPECT_EQ(parsed.Raw("v-1"), "z");
  EXPECT_THAT(Expand("$v-1", parsed.store), IsOkAndHolds("y-1"));
}

TEST(ParseMainCf, AnEntryKnowsItsFirstLine) {
  EXPECT_EQ(Parse("\n# c\na =\n 1\n").store.Find("a")->origin, "main.cf, line 3");
}

TEST(ParseMainCf, CO1_ReadOnlyNamesAreLeftAloneWithAWarning) {
  Parsed parsed;
  parsed.store.SetReadOnly("process_name", "policyd");
  ASSERT_THAT(ParseMainCf("main.cf", "x = 1\nprocess_name = y\n", &parsed.store, &parsed.warnings),
              IsOk());
  EXPECT_EQ(parsed.Raw("process_name"), "policyd");
  EXPECT_THAT(parsed.warnings, ElementsAre(HasSubstr("main.cf, line 2: parameter process_name is "
                                                     "read-only")));
}

TEST(ApplyOverride, C42_TheLastOneWinsAndBlanksAroundNameAndValueAreTrimmed) {
  Parsed parsed = Parse("a = file\nb = $a\n");
  for (const char* argument : {"a=first", " a = last one ", "empty="}) {
    EXPECT_THAT(ApplyOverride(argument, &parsed.store, &parsed.warnings), IsOk());
  }
  EXPECT_EQ(parsed.Raw("a"), "last one");
  EXPECT_EQ(parsed.Raw("empty"), "");
  EXPECT_EQ(parsed.store.Find("a")->origin, "option -o");
  EXPECT_THAT(ExpandedValue("b", parsed.store), IsOkAndHolds("last one"));  // C43
}

TEST(ApplyOverride, C42_AnErrorQuotesTheArgumentAndSaysWhatIsMissing) {
  Parsed parsed;
  EXPECT_EQ(ApplyOverride("=x", &parsed.store, &parsed.warnings).message(),
            "option -o \"=x\": missing parameter name");
  EXPECT_EQ(ApplyOverride("name", &parsed.store, &parsed.warnings).message(),
            "option -o \"name\": missing \"=\" after parameter name");
  EXPECT_THAT(parsed.store.Names(), IsEmpty());
}

TEST(ApplyOverride, C44_BracesMeanNothingHere) {
  Parsed parsed;
  ASSERT_THAT(ApplyOverride("{a=b}", &parsed.store, &parsed.warnings), IsOk());
  EXPECT_EQ(parsed.Raw("{a"), "b}");
}

TEST(ApplyOverride, C6_ReadOnlyNamesAreLeftAloneWithAWarning) {
  Parsed parsed;
  parsed.store.SetReadOnly("process_id", "17");
  ASSERT_THAT(ApplyOverride("process_id=18", &parsed.store, &parsed.warnings), IsOk());
  EXPECT_EQ(parsed.Raw("process_id"), "17");
  EXPECT_THAT(parsed.warnings, ElementsAre(HasSubstr("read-only")));
}

TEST(ConfigDirectory, C3_TheEnvironmentDecidesThenTheBuiltInDefault) {
  EXPECT_EQ(ConfigDirectory("/x", "/etc/postfix"), "/x");
  EXPECT_EQ(ConfigDirectory("", "/etc/postfix"), "");
  EXPECT_EQ(ConfigDirectory(nullptr, "/etc/postfix"), "/etc/postfix");
}

TEST(ParameterStore, NamesAreSortedAndReadOnlyOnesStay) {
  ParameterStore store;
  EXPECT_TRUE(store.Set("b", "1", "t"));
  EXPECT_TRUE(store.SetFinal("a", "2", "t"));
  store.SetReadOnly("c", "3");
  EXPECT_FALSE(store.Set("c", "4", "t"));
  EXPECT_FALSE(store.SetFinal("c", "4", "t"));
  EXPECT_TRUE(store.read_only("c"));
  EXPECT_FALSE(store.read_only("a"));
  EXPECT_FALSE(store.read_only("nothing"));
  EXPECT_EQ(store.Find("c")->value, "3");
  store.SetReadOnly("c", "5");
  EXPECT_EQ(store.Find("c")->value, "5");
  EXPECT_THAT(store.Names(), ElementsAre("a", "b", "c"));
}

}  // namespace
}  // namespace posthouse

// The text of master.cf: master_cf.h, word_list.h, service_patterns.h, plain_name.h; M30 to M45,
// F94, F113 to F115, F118.

#include "posthouse/config/master_cf.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/config/service_patterns.h"
#include "posthouse/config/word_list.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class MasterCfTest : public testing::Test {
 protected:
  absl::StatusOr<MasterCf> Parse(absl::string_view text) {
    return ParseMasterCf("/c/master.cf", text, options_);
  }

  // The only entry of a text that must be good.
  MasterCfEntry One(absl::string_view text) {
    absl::StatusOr<MasterCf> table = Parse(text);
    EXPECT_THAT(table.status(), IsOk()) << text;
    if (!table.ok() || table->entries.size() != 1) {
      ADD_FAILURE() << "not one entry: " << text;
      return MasterCfEntry();
    }
    warnings_ = table->warnings;
    notes_ = table->notes;
    return table->entries.front();
  }

  // The problems of a text that must be refused.
  std::vector<std::string> Problems(absl::string_view text) {
    const absl::StatusOr<MasterCf> table = Parse(text);
    EXPECT_THAT(table.status(), StatusIs(absl::StatusCode::kInvalidArgument)) << text;
    return absl::StrSplit(table.status().message(), '\n');
  }

  // One entry whose fields behind the type are these.
  MasterCfEntry Fields(absl::string_view fields) { return One(absl::StrCat("a unix ", fields)); }

  MasterCfOptions options_;
  std::vector<std::string> warnings_;
  std::vector<std::string> notes_;
};

TEST_F(MasterCfTest, M33_TheEightFieldsAndTheArguments) {
  const MasterCfEntry entry = One("smtp inet n n y 30? 7 smtpd -o a=b\n");
  EXPECT_EQ(entry.line, 1);
  EXPECT_EQ(entry.name, "smtp");
  EXPECT_EQ(entry.type, ServiceType::kInet);
  EXPECT_FALSE(entry.is_private);
  EXPECT_FALSE(entry.unprivileged);
  EXPECT_TRUE(entry.chroot);
  EXPECT_EQ(entry.wake_up_seconds, 30);
  EXPECT_TRUE(entry.wake_up_conditional);
  EXPECT_EQ(entry.process_limit, 7);
  EXPECT_EQ(entry.command, "smtpd");
  EXPECT_THAT(entry.arguments, ElementsAre("-o", "a=b"));
  EXPECT_EQ(entry.Title(), "smtp inet");
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(MasterCfTest, M33_AMissingFieldIsNamed) {
  const std::vector<std::string> fields = {"a", "unix", "y", "y", "n", "0", "1"};
  const std::vector<std::string> missing = {"",       "transport type", "private",  "unprivileged",
                                            "chroot", "wakeup_time",    "max_proc", "command"};
  for (size_t given = 1; given <= fields.size(); ++given) {
    const std::string text =
        absl::StrJoin(fields.begin(), fields.begin() + static_cast<long>(given), " ");
    EXPECT_THAT(Problems(text), ElementsAre(absl::StrCat("/c/master.cf, line 1: missing field \"",
                                                         missing[given], "\"")));
  }
}

TEST_F(MasterCfTest, M34_AHyphenMeansTheDefault) {
  options_.default_process_limit = 77;
  const MasterCfEntry entry = Fields("- - - - - c");
  EXPECT_TRUE(entry.is_private);
  EXPECT_TRUE(entry.unprivileged);
  EXPECT_FALSE(entry.chroot);
  EXPECT_EQ(entry.wake_up_seconds, 0);
  EXPECT_FALSE(entry.wake_up_conditional);
  EXPECT_EQ(entry.process_limit, 77);
  EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(MasterCfTest, M34_AHyphenIsAnOrdinaryNameButNoTypeAndNoCommand) {
  EXPECT_EQ(One("- unix - - - - - c").name, "-");
  EXPECT_THAT(Problems("a - - - - - - c"), ElementsAre(HasSubstr("field \"transport type\"")));
  EXPECT_THAT(Problems("a unix - - - - - -"), ElementsAre(HasSubstr("field \"command\"")));
}

TEST_F(MasterCfTest, M34_BelowCompatibilityLevel1TheDefaultOfChrootIsYesAndANoteSaysSo) {
  options_.chroot_by_default = true;
  EXPECT_TRUE(Fields("- - - - - c").chroot);
  EXPECT_THAT(notes_, ElementsAre(AllOf(HasSubstr("line 1"), HasSubstr("chroot=y"))));
  EXPECT_FALSE(Fields("- - n - - c").chroot);
  EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(MasterCfTest, M34_TheTypesAreExact) {
  const std::vector<std::pair<std::string, ServiceType>> types = {
      {"inet", ServiceType::kInet},
      {"unix", ServiceType::kUnix},
      {"fifo", ServiceType::kFifo},
      {"pass", ServiceType::kPass},
      {"unix-dgram", ServiceType::kUnixDgram}};
  for (const auto& [name, type] : types) {
    const MasterCfEntry entry = One(absl::StrCat("1 ", name, " n - - - - c"));
    EXPECT_EQ(entry.type, type);
    EXPECT_EQ(ServiceTypeName(type), name);
  }
  for (const char* type : {"Unix", "INET", "tcp", "unix-", "unixdgram", "y"}) {
    EXPECT_THAT(Problems(absl::StrCat("a ", type, " n - - - - c")),
                ElementsAre(HasSubstr("field \"transport type\"")))
        << type;
  }
}

TEST_F(MasterCfTest, M35_BooleansAreYAndNAlone) {
  for (const char* value : {"Y", "N", "yes", "no", "1", "0", "y?", "--"}) {
    EXPECT_THAT(Problems(absl::StrCat("a unix ", value, " - - - - c")),
                ElementsAre(HasSubstr("field \"private\"")))
        << value;
    EXPECT_THAT(Problems(absl::StrCat("a unix - ", value, " - - - c")),
                ElementsAre(HasSubstr("field \"unprivileged\"")))
        << value;
    EXPECT_THAT(Problems(absl::StrCat("a unix - - ", value, " - - c")),
                ElementsAre(HasSubstr("field \"chroot\"")))
        << value;
  }
}

TEST_F(MasterCfTest, M35_MO1_NumbersStartWithADigitAndTextBehindThemIsIgnoredWithAWarning) {
  EXPECT_EQ(Fields("- - - - 1x c").process_limit, 1);
  EXPECT_THAT(warnings_,
              ElementsAre(AllOf(HasSubstr("line 1"), HasSubstr("max_proc"), HasSubstr("\"1x\""))));
  EXPECT_EQ(Fields("- - - 20s - c").wake_up_seconds, 20);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("wakeup_time")));
  EXPECT_EQ(Fields("- - - 010 007 c").wake_up_seconds, 10);
  EXPECT_THAT(warnings_, IsEmpty());
  for (const char* value : {"x1", "+1", "-1", "?", "??", ".5"}) {
    EXPECT_THAT(Problems(absl::StrCat("a unix - - - ", value, " - c")),
                ElementsAre(HasSubstr("field \"wakeup_time\": no number")))
        << value;
    EXPECT_THAT(Problems(absl::StrCat("a unix - - - - ", value, " c")),
                ElementsAre(HasSubstr("field \"max_proc\": no number")))
        << value;
  }
}

TEST_F(MasterCfTest, MO1_StrictTextBehindANumberIsAnError) {
  options_.strict = true;
  EXPECT_THAT(Problems("a unix - - - 1x 2y c"),
              ElementsAre(HasSubstr("wakeup_time"), HasSubstr("max_proc")));
  EXPECT_TRUE(Fields("- - - 1? 2 c").wake_up_conditional);
}

TEST_F(MasterCfTest, F113_NumbersThatDoNotFitAreRefused) {
  EXPECT_EQ(Fields("- - - 2147483647 2147483647 c").process_limit, 2147483647);
  for (const char* value : {"2147483648", "4294967297", "1000000000000000000000000000000"}) {
    EXPECT_THAT(Problems(absl::StrCat("a unix - - - ", value, " ", value, " c")),
                ElementsAre(HasSubstr("wakeup_time"), HasSubstr("max_proc")))
        << value;
  }
}

TEST_F(MasterCfTest, M36_AQuestionMarkCountsAtTheEndOfAPositiveWakeUpTimeOnly) {
  struct {
    const char* text;
    int seconds;
    bool conditional;
    bool warned;
  } const rows[] = {{"0", 0, false, false}, {"0?", 0, false, false}, {"5", 5, false, false},
                    {"5?", 5, true, false}, {"5??", 5, true, true},  {"5?x", 5, false, true},
                    {"5x?", 5, true, true}, {"00?", 0, false, false}};
  for (const auto& row : rows) {
    const MasterCfEntry entry = Fields(absl::StrCat("- - - ", row.text, " - c"));
    EXPECT_EQ(entry.wake_up_seconds, row.seconds) << row.text;
    EXPECT_EQ(entry.wake_up_conditional, row.conditional) << row.text;
    EXPECT_EQ(warnings_.size(), row.warned ? 1u : 0u) << row.text;
  }
}

TEST_F(MasterCfTest, M37_AProcessLimitOf0IsNoLimit) {
  EXPECT_EQ(Fields("- - - - 0 c").process_limit, 0);
}

TEST_F(MasterCfTest, M30_LinesAreContinuedOverCommentsAndEmptyLines) {
  const absl::StatusOr<MasterCf> table = Parse(
      "# a comment\n\na unix\n\n# flush left\n  - -\n  # indented\n\t- - - c # d\n"
      "b unix - - - - - c\n");
  ASSERT_THAT(table.status(), IsOk());
  ASSERT_THAT(table->entries, SizeIs(2));
  EXPECT_EQ(table->entries[0].line, 3);
  EXPECT_THAT(table->entries[0].arguments, ElementsAre("#", "d"));
  EXPECT_EQ(table->entries[1].line, 9);
}

TEST_F(MasterCfTest, M31_AFirstLineWithLeadingBlanksIsDroppedWithAWarning) {
  const absl::StatusOr<MasterCf> table =
      Parse("# c\n  a unix - - - - - c\n -o x=y\nb unix - - - - - c\n");
  ASSERT_THAT(table.status(), IsOk());
  ASSERT_THAT(table->entries, SizeIs(1));
  EXPECT_EQ(table->entries[0].name, "b");
  EXPECT_THAT(table->warnings, ElementsAre(HasSubstr("/c/master.cf, line 2")));
}

TEST_F(MasterCfTest, M32_FieldsAreSeparatedByBlanksTabsAndCarriageReturns) {
  const MasterCfEntry entry = One("a\tunix \r - \t -\r-  - - c  x\ty\r\n");
  EXPECT_EQ(entry.command, "c");
  EXPECT_THAT(entry.arguments, ElementsAre("x", "y"));
}

TEST_F(MasterCfTest, M32_ErrorsNameTheFirstLineOfTheEntry) {
  EXPECT_THAT(Problems("\n#\na unix - -\n\n  - - x\n c\nb unix - - - - - c\n"),
              ElementsAre(HasSubstr("/c/master.cf, line 3: field \"max_proc\"")));
}

TEST_F(MasterCfTest, CO4_AllErrorsOfAllEntriesAreReported) {
  EXPECT_THAT(
      Problems("a unix x x x x x ../c {\nb tcp - - - - - c\nc unix\n"),
      ElementsAre(HasSubstr("line 1: field \"private\""),
                  HasSubstr("line 1: field \"unprivileged\""),
                  HasSubstr("line 1: field \"chroot\""), HasSubstr("line 1: field \"wakeup_time\""),
                  HasSubstr("line 1: field \"max_proc\""), HasSubstr("line 1: field \"command\""),
                  HasSubstr("line 1: argument"), HasSubstr("line 2: field \"transport type\""),
                  HasSubstr("line 3: missing field \"private\"")));
}

TEST_F(MasterCfTest, F111_ErrorsAreBoundedInNumberAndLength) {
  std::string text;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&text, std::string(1000, 'x'), "\n");
  const std::vector<std::string> problems = Problems(text);
  EXPECT_LT(problems.size(), 100u);
  EXPECT_THAT(problems.back(), HasSubstr("950 more"));
  EXPECT_THAT(Problems(absl::StrCat("a unix - - - - - ", std::string(5000, '{'))),
              ElementsAre(testing::ResultOf([](const std::string& s) { return s.size(); },
                                            testing::Lt(300u))));
}

TEST_F(MasterCfTest, M39_OfADisabledEntryOnlyNameAndTypeAreParsed) {
  options_.disabled = "a/unix";
  const absl::StatusOr<MasterCf> table = Parse("a unix x x x\nb unix - - - - - c\n");
  ASSERT_THAT(table.status(), IsOk());
  EXPECT_THAT(table->entries, SizeIs(1));
  EXPECT_EQ(table->disabled, 1);
  EXPECT_THAT(Problems("a\n"), ElementsAre(HasSubstr("missing field \"transport type\"")));
}

TEST_F(MasterCfTest, F105_ATableWithoutEntriesIsAnErrorUnlessItIsMeant) {
  for (const char* text : {"", "\n\n", "# nothing\n", " a unix - - - - - c\n"}) {
    options_.allow_empty = false;
    EXPECT_THAT(Problems(text), ElementsAre(HasSubstr("/c/master.cf, line 1: no entry")));
    options_.allow_empty = true;
    EXPECT_THAT(Parse(text).status(), IsOk());
  }
  options_.allow_empty = false;
  options_.disabled = "unix";
  EXPECT_THAT(Parse("a unix - - - - - c\n").status(), IsOk());
}

TEST_F(MasterCfTest, M41_BlanksInsideBracesDoNotSplit) {
  const auto arguments = [this](absl::string_view text) {
    return Fields(absl::StrCat("- - - - - c ", text)).arguments;
  };
  EXPECT_THAT(arguments("a={b c}  d"), ElementsAre("a={b c}", "d"));
  EXPECT_THAT(arguments("x{ {1 2} 3 }y z"), ElementsAre("x{ {1 2} 3 }y", "z"));
  EXPECT_THAT(arguments("a} b"), ElementsAre("a}", "b"));
  EXPECT_THAT(arguments("a{ b c"), ElementsAre("a{ b c"));
}

TEST_F(MasterCfTest, M42_OuterBracesAndTheBlanksInsideAreRemoved) {
  const auto arguments = [this](absl::string_view text) {
    return Fields(absl::StrCat("- - - - - c ", text)).arguments;
  };
  EXPECT_THAT(arguments("-o { a = b c }"), ElementsAre("-o", "a = b c"));
  EXPECT_THAT(arguments("{ { x } } {a}"), ElementsAre("{ x }", "a"));
  EXPECT_THAT(arguments("{ } {}"), ElementsAre("", ""));
  EXPECT_THAT(arguments("{\ta\n  b }"), ElementsAre("a  b"));
}

TEST_F(MasterCfTest, M42_NoClosingBraceOrTextBehindItIsAnError) {
  for (const char* text : {"{", "{ a", "{ { a }", "-o { a = b"}) {
    EXPECT_THAT(Problems(absl::StrCat("a unix - - - - - c ", text)),
                ElementsAre(HasSubstr("no \"}\"")))
        << text;
  }
  for (const char* text : {"{ a }b", "{a}{b}", "{a}}"}) {
    EXPECT_THAT(Problems(absl::StrCat("a unix - - - - - c ", text)),
                ElementsAre(HasSubstr("text behind the closing")))
        << text;
  }
}

TEST_F(MasterCfTest, M43_QuotesBackslashesAndDollarsAreData) {
  EXPECT_THAT(Fields("- - - - - c \"a b\" \\ $x ${y z}").arguments,
              ElementsAre("\"a", "b\"", "\\", "$x", "${y z}"));
}

TEST_F(MasterCfTest, M44_ThePathOfAnEntry) {
  EXPECT_EQ(ServicePath(One("a unix - - - - - c")), "private/a");
  EXPECT_EQ(ServicePath(One("a fifo n - - - - c")), "public/a");
  EXPECT_EQ(ServicePath(One("a/b pass - - - - - c")), "private/a/b");
}

TEST_F(MasterCfTest, M45_AnInetServiceCannotBePrivate) {
  for (const char* value : {"-", "y"}) {
    EXPECT_THAT(Problems(absl::StrCat("smtp inet ", value, " - - - - smtpd")),
                ElementsAre(HasSubstr("inet cannot be private")));
  }
}

TEST_F(MasterCfTest, F94_APathThatIsTooLongIsRefusedWithLineAndLimit) {
  const size_t longest = kMaxSocketPathSize - std::string("private/").size();
  EXPECT_EQ(kMaxSocketPathSize, 107u);
  EXPECT_EQ(One(absl::StrCat(std::string(longest, 'n'), " unix - - - - - c")).name.size(), longest);
  for (const char* type : {"unix", "pass", "unix-dgram"}) {
    EXPECT_THAT(
        Problems(absl::StrCat("\n", std::string(longest + 1, 'n'), " ", type, " - - - - - c")),
        ElementsAre(AllOf(HasSubstr("line 2"), HasSubstr("108 bytes, the limit is 107"))));
  }
  EXPECT_EQ(One(absl::StrCat(std::string(longest + 1, 'n'), " fifo - - - - - c")).type,
            ServiceType::kFifo);
}

TEST_F(MasterCfTest, F115_ServiceNamesStayBelowTheirDirectory) {
  for (const std::string& name :
       {std::string("../x"), std::string("/x"), std::string("a//b"), std::string("a/"),
        std::string("a/../b"), std::string("."), std::string(".."), std::string("a/./b"),
        std::string(256, 'n'), std::string("a\vb"), std::string("a\x01"), std::string("a\xff"),
        std::string("a\"b"), std::string("a$b"), std::string("a;b")}) {
    EXPECT_THAT(Problems(absl::StrCat(name, " fifo - - - - - c")),
                ElementsAre(HasSubstr("field \"service name\"")))
        << name;
  }
  for (const char* name : {"a", "a-b_c.d", "127.0.0.1:10025", "x/y", "-", "a@b", "..."}) {
    EXPECT_EQ(One(absl::StrCat(name, " unix - - - - - c")).name, name);
  }
}

TEST_F(MasterCfTest, F115_CommandsArePlainNames) {
  for (const char* command :
       {"../x", "/bin/sh", "a/b", ".", "..", "./smtpd", "a\vb", "smtpd;", "$x"}) {
    EXPECT_THAT(Problems(absl::StrCat("a unix - - - - - ", command)),
                ElementsAre(HasSubstr("field \"command\"")))
        << command;
  }
  EXPECT_THAT(Problems(absl::StrCat("a unix - - - - - ", std::string(300, 'c'))),
              ElementsAre(HasSubstr("300 bytes; the limit is 255")));
}

TEST_F(MasterCfTest, C16_ANulByteEndsItsLineWithAWarning) {
  const MasterCfEntry entry = One(absl::string_view("a unix - - - - - c x\0y z\n", 25));
  EXPECT_THAT(entry.arguments, ElementsAre("x"));
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("NUL")));
  EXPECT_EQ(One(absl::string_view("a unix - - - - - c\n\0b\n", 22)).name, "a");
}

TEST_F(MasterCfTest, F114_AMissingFinalNewlineAndAContinuationAtTheEndAreFine) {
  EXPECT_EQ(One("a unix - - - - - c").command, "c");
  EXPECT_THAT(One("a unix - - - - - c\n  x").arguments, ElementsAre("x"));
}

TEST_F(MasterCfTest, DebiansTableIsAccepted) {
  const absl::StatusOr<MasterCf> table = Parse(
      "smtp      inet  n       -       y       -       -       smtpd\n"
      "pickup    unix  n       -       y       60      1       pickup\n"
      "tlsmgr    unix  -       -       y       1000?   1       tlsmgr\n"
      "relay     unix  -       -       y       -       -       smtp\n"
      "        -o syslog_name=postfix/$service_name\n"
      "postlog   unix-dgram n  -       n       -       1       postlogd\n"
      "uucp      unix  -       n       n       -       -       pipe\n"
      "  flags=Fqhu user=uucp argv=uux -r -n -z -a$sender - $nexthop!rmail ($recipient)\n");
  ASSERT_THAT(table.status(), IsOk());
  EXPECT_THAT(table->entries, SizeIs(6));
  EXPECT_THAT(table->warnings, IsEmpty());
  EXPECT_THAT(table->entries[3].arguments, ElementsAre("-o", "syslog_name=postfix/$service_name"));
  EXPECT_THAT(table->entries[5].arguments, SizeIs(10));
}

// --- M39 ---

TEST(ServicePatternsTest, M39_APatternIsANameAndATypeOrATypeAlone) {
  const ServicePatterns patterns("smtp/inet, fifo");
  EXPECT_TRUE(patterns.Matches("smtp", "inet"));
  EXPECT_FALSE(patterns.Matches("smtp", "unix"));
  EXPECT_TRUE(patterns.Matches("anything", "fifo"));
  EXPECT_FALSE(patterns.Matches("fifo", "unix"));
}

TEST(ServicePatternsTest, M39_CaseDoesNotMatter) {
  EXPECT_TRUE(ServicePatterns("SMTP/Inet").Matches("smtp", "inet"));
  EXPECT_TRUE(ServicePatterns("INET").Matches("smtp", "inet"));
}

TEST(ServicePatternsTest, M39_TheFirstMatchDecidesAndExclamationMarksNegate) {
  const ServicePatterns patterns("!smtp/inet\tinet,!!foo/unix");
  EXPECT_FALSE(patterns.Matches("smtp", "inet"));
  EXPECT_TRUE(patterns.Matches("smtps", "inet"));
  EXPECT_TRUE(patterns.Matches("foo", "unix"));
  EXPECT_FALSE(patterns.Matches("bar", "unix"));
}

TEST(ServicePatternsTest, M39_TheLastDotOfAPatternWithoutASlashIsASlash) {
  const ServicePatterns patterns("a.b.inet !c.unix unix d.e/inet");
  EXPECT_TRUE(patterns.Matches("a.b", "inet"));
  EXPECT_FALSE(patterns.Matches("c", "unix"));
  EXPECT_TRUE(patterns.Matches("x", "unix"));
  EXPECT_TRUE(patterns.Matches("d.e", "inet"));
  EXPECT_FALSE(patterns.Matches("d/e", "inet"));
}

TEST(ServicePatternsTest, M39_WithoutAMatchAnEntryIsEnabled) {
  EXPECT_FALSE(ServicePatterns("").Matches("a", "unix"));
  EXPECT_FALSE(ServicePatterns(" , ").Matches("a", "unix"));
  EXPECT_FALSE(ServicePatterns("!").Matches("a", "unix"));
}

// --- C76 ---

TEST(BracedListTest, C76_SplitsAtCommasAndBlanksButNotInsideBraces) {
  EXPECT_THAT(SplitBracedList("A B=c,{ D=e f , g }\tH={x y}").value(),
              ElementsAre("A", "B=c", "D=e f , g", "H={x y}"));
  EXPECT_THAT(SplitBracedList(" ,, ").value(), IsEmpty());
  EXPECT_THAT(SplitBracedList("A { B").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("{ B")));
}

}  // namespace
}  // namespace posthouse

// F100: the file that tells how the latest reload went.

#include "posthouse/master/reload_outcome.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using Kind = ReloadOutcome::Kind;
using testing::AllOf;
using testing::HasSubstr;

constexpr absl::StatusCode kRefused = absl::StatusCode::kFailedPrecondition;

ReloadOutcome Outcome(Kind kind, const std::string& text) {
  ReloadOutcome outcome;
  outcome.pid = 4711;
  outcome.begin_ns = 123456789012345;
  outcome.kind = kind;
  outcome.text = text;
  return outcome;
}

// --- Content ---

TEST(ReloadOutcomeFormatTest, TheFirstLineIsForProgramsAndTheOthersForPeople) {
  EXPECT_EQ(FormatReloadOutcome(Outcome(Kind::kStarted, "")), "4711 123456789012345 started\n");
  EXPECT_EQ(FormatReloadOutcome(Outcome(Kind::kDone, "1 services added")),
            "4711 123456789012345 done\n1 services added\n");
  EXPECT_EQ(FormatReloadOutcome(Outcome(Kind::kRefused, "\none\n\ntwo\n")),
            "4711 123456789012345 refused\none\ntwo\n");
}

TEST(ReloadOutcomeFormatTest, WhatIsWrittenIsRead) {
  for (const Kind kind : {Kind::kStarted, Kind::kDone, Kind::kRefused}) {
    const ReloadOutcome outcome = Outcome(kind, "one\ntwo\n");
    const absl::StatusOr<ReloadOutcome> read = ParseReloadOutcome(FormatReloadOutcome(outcome));
    ASSERT_THAT(read, IsOk());
    EXPECT_EQ(read->pid, outcome.pid);
    EXPECT_EQ(read->begin_ns, outcome.begin_ns);
    EXPECT_EQ(read->kind, kind);
    EXPECT_EQ(read->text, outcome.text);
  }
}

TEST(ReloadOutcomeFormatTest, ATextThatIsTooLongIsCutBetweenTwoLines) {
  const std::string line(997, 'x');
  std::string text;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&text, line, "\n");
  const std::string content = FormatReloadOutcome(Outcome(Kind::kRefused, text));
  EXPECT_LE(content.size(), kMaxReloadOutcomeBytes);
  EXPECT_GT(content.size(), kMaxReloadOutcomeBytes - 2000);
  EXPECT_TRUE(absl::EndsWith(content, absl::StrCat("\n", line, "\n... and more, see the log\n")));
  EXPECT_THAT(ParseReloadOutcome(content), IsOk());
  const std::string endless =
      FormatReloadOutcome(Outcome(Kind::kRefused, std::string(1 << 20, 'x')));
  EXPECT_EQ(endless, "4711 123456789012345 refused\n... and more, see the log\n");
}

TEST(ReloadOutcomeFormatTest, WhatIsNoOutcomeIsRefused) {
  for (const std::string& content :
       {std::string(), std::string("\n"), std::string("garbage\n"), std::string("1 2\n"),
        std::string("1 2 done more\n"), std::string("1  done\n"), std::string("0 2 done\n"),
        std::string("-1 2 done\n"), std::string("x 2 done\n"), std::string("1 x done\n"),
        std::string("1 -2 done\n"), std::string("99999999999 2 done\n"),
        std::string("1 99999999999999999999 done\n"), std::string("1 2 DONE\n"),
        std::string("1 2 don\n"), std::string("1 2 \n"), std::string(4096, '\0'),
        std::string(4096, '\n')}) {
    EXPECT_THAT(ParseReloadOutcome(content),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("outcome of a reload")))
        << content;
  }
}

// Wherever it ends: the first line must be whole, and so must the last one.
TEST(ReloadOutcomeFormatTest, ATruncatedFileIsRefusedUnlessItEndsWithALine) {
  const std::string content = FormatReloadOutcome(Outcome(Kind::kRefused, "one\ntwo"));
  for (size_t size = 0; size < content.size(); ++size) {
    const absl::string_view part = absl::string_view(content).substr(0, size);
    EXPECT_EQ(ParseReloadOutcome(part).ok(), absl::EndsWith(part, "\n")) << part;
  }
}

TEST(ReloadOutcomeFormatTest, AHugeFileIsRefused) {
  const std::string first = "1 2 done\n";
  const std::string most =
      absl::StrCat(first, std::string(kMaxReloadOutcomeBytes - first.size() - 1, 'x'), "\n");
  EXPECT_THAT(ParseReloadOutcome(most), IsOk());
  EXPECT_THAT(ParseReloadOutcome(absl::StrCat(most, "\n")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("too large")));
}

// The file may be somebody else's work, and its lines go to a terminal.
TEST(ReloadOutcomeFormatTest, NothingButPrintableTextIsHandedOn) {
  const absl::StatusOr<ReloadOutcome> read =
      ParseReloadOutcome("1 2 done\nplain\n\x1b[2J\t\x7f\xc3\xa4\n");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->text, "plain\n?[2J????\n");
}

// --- The rule ---

// A reload that somebody else asked for a moment before does not count, one of a moment later does.
TEST(ReloadOutcomeRuleTest, F100_AnOutcomeCountsIfTheLoadingBeganAfterTheSignal) {
  constexpr pid_t kMaster = 7;
  constexpr int64_t kSent = 1000, kNow = 2000;
  const auto counts = [&](pid_t pid, int64_t begin_ns, Kind kind) {
    ReloadOutcome outcome;
    outcome.pid = pid;
    outcome.begin_ns = begin_ns;
    outcome.kind = kind;
    return IsOutcomeFor(outcome, kMaster, kSent, kNow);
  };
  for (const Kind kind : {Kind::kDone, Kind::kRefused}) {
    EXPECT_FALSE(counts(kMaster, kSent - 1, kind)) << "before the signal";
    EXPECT_TRUE(counts(kMaster, kSent, kind));
    EXPECT_TRUE(counts(kMaster, kNow, kind));
    EXPECT_FALSE(counts(kMaster, kNow + 1, kind)) << "from before the machine was started";
    EXPECT_FALSE(counts(kMaster + 1, kSent, kind)) << "of another master";
  }
  EXPECT_FALSE(counts(kMaster, kSent, Kind::kStarted));
}

// --- The file ---

class ReloadOutcomeFileTest : public testing::Test {
 protected:
  absl::Status Write(const std::string& text) {
    return WriteReloadOutcome(path_, FileOwner(), Outcome(Kind::kRefused, text));
  }
  absl::StatusOr<ReloadOutcome> Read() { return ReadReloadOutcome(path_, FileOwner()); }
  std::string Text() {
    const absl::StatusOr<ReloadOutcome> read = Read();
    return read.ok() ? read->text : read.status().ToString();
  }
  bool HasLeftovers() { return access(temporary_.c_str(), F_OK) == 0; }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  const std::string path_ = dir_.Path("master.reload");
  const std::string temporary_ = path_ + ".new";
};

TEST_F(ReloadOutcomeFileTest, TheFileIsMadeAndReplacedWithMode0644) {
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kNotFound, HasSubstr(path_)));
  for (const mode_t mask : {0u, 077u}) {
    const mode_t old_mask = umask(mask);
    EXPECT_THAT(Write(absl::StrCat("mask ", mask)), IsOk());
    EXPECT_EQ(umask(old_mask), mask) << "it is as it was";
    EXPECT_EQ(Text(), absl::StrCat("mask ", mask, "\n"));
    struct stat found = {};
    ASSERT_EQ(lstat(path_.c_str(), &found), 0);
    EXPECT_EQ(found.st_mode, S_IFREG | 0644u);
    EXPECT_FALSE(HasLeftovers());
  }
}

// Whoever reads sees the old one or the new one.
TEST_F(ReloadOutcomeFileTest, TheFileIsReplacedAtOnce) {
  ASSERT_THAT(Write("old"), IsOk());
  int seen = 0;
  for (const SystemCall call : {SystemCall::kOpen, SystemCall::kWrite, SystemCall::kRename}) {
    system_->SetHook(call, [&](int) {
      ++seen;
      EXPECT_THAT(ReadFileOrEmpty(path_), HasSubstr("refused\nold\n"));
    });
  }
  EXPECT_THAT(Write("new"), IsOk());
  EXPECT_EQ(seen, 3);
  EXPECT_THAT(ReadFileOrEmpty(path_), HasSubstr("refused\nnew\n"));
}

TEST_F(ReloadOutcomeFileTest, ShortTransfersAndInterruptionsAreNoMatter) {
  system_->LimitTransfers(SystemCall::kWrite, 3);
  system_->LimitTransfers(SystemCall::kRead, 5);
  EXPECT_THAT(Write("one\ntwo"), IsOk());
  EXPECT_EQ(Text(), "one\ntwo\n");
  system_->RemoveAllFaults();
  system_->FailOnce(SystemCall::kWrite, EINTR);
  system_->FailOnce(SystemCall::kRead, EINTR);
  EXPECT_THAT(Write("three"), IsOk());
  EXPECT_EQ(Text(), "three\n");
}

TEST_F(ReloadOutcomeFileTest, WhatFailsIsNamedAndLeavesTheFileAsItWas) {
  ASSERT_THAT(Write("old"), IsOk());
  const struct {
    SystemCall call;
    int error;
    const char* text;
  } cases[] = {
      {SystemCall::kUnlink, EACCES, "unlink"},
      {SystemCall::kOpen, EROFS, "create"},
      {SystemCall::kWrite, ENOSPC, "write"},
      {SystemCall::kRename, EIO, "rename to"},
  };
  for (const auto& one : cases) {
    system_->FailOnce(one.call, one.error);
    EXPECT_THAT(Write("new").message(), AllOf(HasSubstr(one.text), HasSubstr(path_)));
    EXPECT_EQ(Text(), "old\n") << one.text;
    EXPECT_FALSE(HasLeftovers());
  }
}

// F119: links in the directory lead nowhere.
TEST_F(ReloadOutcomeFileTest, F119_ALinkIsReplacedByTheWriterAndRefusedByTheReader) {
  const std::string victim = dir_.WriteFile("victim", "1 2 done\n");
  ASSERT_EQ(symlink(victim.c_str(), path_.c_str()), 0);
  ASSERT_EQ(symlink(victim.c_str(), temporary_.c_str()), 0);
  EXPECT_THAT(Read().status().message(), HasSubstr(path_));
  EXPECT_FALSE(Read().ok());
  EXPECT_THAT(Write("new"), IsOk());
  EXPECT_EQ(Text(), "new\n");
  EXPECT_EQ(ReadFileOrEmpty(victim), "1 2 done\n");
}

TEST_F(ReloadOutcomeFileTest, AFileThatOthersMayHaveWrittenIsRefused) {
  ASSERT_THAT(Write("text"), IsOk());
  ASSERT_EQ(chmod(path_.c_str(), 0664), 0);
  EXPECT_THAT(Read(), StatusIs(kRefused, HasSubstr("others can write")));
  ASSERT_EQ(chmod(path_.c_str(), 0644), 0);
  ASSERT_EQ(link(path_.c_str(), dir_.Path("other").c_str()), 0);
  EXPECT_THAT(Read(), StatusIs(kRefused, HasSubstr("more than one name")));
  ASSERT_EQ(unlink(path_.c_str()), 0);
  ASSERT_EQ(mkfifo(path_.c_str(), 0644), 0);
  EXPECT_THAT(Read(), StatusIs(kRefused, HasSubstr("no regular file")));
}

}  // namespace
}  // namespace posthouse

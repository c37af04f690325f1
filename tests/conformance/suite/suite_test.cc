// The suite itself: broken candidates are found, by the right checks, and nothing else is.

#include <sys/stat.h>

#include <cstdlib>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/stock_instance.h"

namespace posthouse::conformance {
namespace {

constexpr char kFolder[] = "tests/conformance/suite/";
constexpr char kStockMaster[] = "/usr/lib/postfix/sbin/master";

struct Verdict {
  int status = 0;
  std::string output;

  // "ok" when all checks of the statement say so, else what another says; "not there".
  std::string Of(const std::string& statement) const {
    std::string all = "not there";
    for (absl::string_view line : absl::StrSplit(output, '\n')) {
      const std::string text(line);
      std::smatch match;
      const std::regex expression("^(ok|FAILED|skipped) ([^:]* )?" + statement + " ");
      if (std::regex_search(text, match, expression) && (all == "not there" || match[1] != "ok")) {
        all = match[1];
      }
    }
    return all;
  }
  std::string LastLine() const {
    const std::vector<std::string> lines = absl::StrSplit(output, '\n', absl::SkipEmpty());
    return lines.empty() ? "" : lines.back();
  }
};

class SuiteTest : public testing::Test {
 protected:
  Verdict Judge(const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {Runfile(absl::StrCat(kFolder, "conformance"))};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const std::string output = scratch_.Path(absl::StrCat("output", ++runs_));
    Verdict verdict;
    verdict.status = RunCommand(command, output, absl::Minutes(4));
    verdict.output = ReadFileOrEmpty(output);
    return verdict;
  }
  // The verdict on the flawed worker, by the checks of these statements.
  Verdict JudgeWorker(const std::string& flaw, const std::vector<std::string>& statements) {
    std::vector<std::string> arguments = {"worker", "--preset", "echo"};
    for (const std::string& statement : statements) {
      arguments.push_back("--only");
      arguments.push_back(statement);
    }
    arguments.push_back(Runfile(absl::StrCat(kFolder, "flawed_worker")));
    arguments.push_back(flaw);
    return Judge(arguments);
  }
  // The same for the stock master with a flaw in its system calls.
  Verdict JudgeMaster(const std::string& flaw, const std::vector<std::string>& statements) {
    const std::string wrapper = scratch_.WriteFile(
        "master", absl::StrCat("#!/bin/sh\nPOSTHOUSE_FLAW=", flaw,
                               " LD_PRELOAD=", Runfile(absl::StrCat(kFolder, "flawed_calls.so")),
                               " exec ", kStockMaster, " \"$@\"\n"));
    chmod(wrapper.c_str(), 0755);
    std::vector<std::string> arguments = {"master"};
    for (const std::string& statement : statements) {
      arguments.push_back("--only");
      arguments.push_back(statement);
    }
    arguments.push_back(wrapper);
    return Judge(arguments);
  }

  TempDir scratch_;
  int runs_ = 0;
};

// --- Workers ---

struct Flaw {
  const char* name;
  std::vector<std::string> found_by;  // statements
};

TEST_F(SuiteTest, AFlawOfAWorkerIsFoundByTheChecksThatAreAboutIt) {
  const std::vector<Flaw> flaws = {
      {"short", {"P15", "P13"}}, {"late", {"P13"}},    {"decimal", {"P22"}}, {"nonblock", {"P4"}},
      {"deaf", {"M117"}},        {"failing", {"P41"}}, {"greedy", {"P51"}},  {"rude", {"P6"}},
  };
  std::vector<std::string> all = {"P1"};
  for (const Flaw& flaw : flaws) all.insert(all.end(), flaw.found_by.begin(), flaw.found_by.end());

  const Verdict right = JudgeWorker("none", all);
  EXPECT_EQ(right.status, 0) << right.output;
  for (const std::string& statement : all) EXPECT_EQ(right.Of(statement), "ok") << statement;

  for (const Flaw& flaw : flaws) {
    std::vector<std::string> statements = flaw.found_by;
    statements.push_back("P1");
    const Verdict verdict = JudgeWorker(flaw.name, statements);
    EXPECT_EQ(verdict.status, 1) << flaw.name;
    EXPECT_EQ(verdict.Of("P1"), "ok") << flaw.name << "\n" << verdict.output;
    for (const std::string& statement : flaw.found_by) {
      EXPECT_EQ(verdict.Of(statement), "FAILED") << flaw.name << "\n" << verdict.output;
    }
  }
}

TEST_F(SuiteTest, AFailedCheckNamesWhatWasExpectedAndWhatCame) {
  const Verdict verdict = JudgeWorker("failing", {"P41"});
  EXPECT_TRUE(absl::StrContains(
      verdict.output,
      "FAILED P41 P43 P54 an idle worker ends with status 0 when the channel is closed: expected "
      "\"exit 0\", got \"exit 1\""))
      << verdict.output;
  EXPECT_EQ(verdict.LastLine(), "0 passed, 1 failed, 0 skipped");
}

TEST_F(SuiteTest, AWorkerWithoutTheFlowPipeIsFound) {
  const std::string wrapper = scratch_.WriteFile(
      "worker", absl::StrCat("#!/bin/sh\nexec 4>&-\nexec ",
                             Runfile(absl::StrCat(kFolder, "flawed_worker")), " \"$@\"\n"));
  chmod(wrapper.c_str(), 0755);
  const Verdict verdict = Judge({"worker", "--preset", "echo", "--only", "P2", wrapper});
  EXPECT_EQ(verdict.Of("P2"), "FAILED") << verdict.output;
}

TEST_F(SuiteTest, AProgramThatIsNoWorkerPassesNothingThatMatters) {
  const Verdict verdict = Judge({"worker", "--preset", "echo", "--only", "P1", "--only", "P13",
                                 "--only", "P15", "--only", "P30", "/bin/true"});
  EXPECT_EQ(verdict.status, 1);
  for (const char* statement : {"P1", "P13", "P15", "P30"}) {
    EXPECT_EQ(verdict.Of(statement), "FAILED") << verdict.output;
  }
}

TEST_F(SuiteTest, WithoutARequestChecksAreSkippedAndSaySo) {
  const Verdict verdict = Judge(
      {"worker", "--only", "P1", "--only", "P15", Runfile(absl::StrCat(kFolder, "flawed_worker"))});
  EXPECT_EQ(verdict.status, 0) << verdict.output;
  EXPECT_EQ(verdict.Of("P1"), "ok") << verdict.output;
  EXPECT_EQ(verdict.Of("P15"), "skipped") << verdict.output;
  EXPECT_EQ(verdict.LastLine(), "1 passed, 0 failed, 1 skipped");
}

// --- Masters ---

TEST_F(SuiteTest, AFlawOfAMasterIsFoundByTheChecksThatAreAboutIt) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the stock master cannot load a library that needs a sanitizer";
#endif
  const std::vector<Flaw> flaws = {
      {"flock", {"M25"}}, {"listen", {"M54"}},     {"chmod", {"M44"}},
      {"umask", {"P12"}}, {"generation", {"P22"}},
  };
  for (const Flaw& flaw : flaws) {
    std::vector<std::string> statements = flaw.found_by;
    statements.push_back("M100");
    const Verdict verdict = JudgeMaster(flaw.name, statements);
    EXPECT_EQ(verdict.status, 1) << flaw.name << "\n" << verdict.output;
    EXPECT_EQ(verdict.Of("M100"), "ok") << flaw.name << "\n" << verdict.output;
    for (const std::string& statement : flaw.found_by) {
      EXPECT_EQ(verdict.Of(statement), "FAILED") << flaw.name << "\n" << verdict.output;
    }
  }
}

TEST_F(SuiteTest, AProgramThatIsNoMasterPassesNothingThatMatters) {
  const Verdict verdict =
      Judge({"master", "--only", "M28", "--only", "P1", "--only", "M26", "/bin/true"});
  EXPECT_EQ(verdict.status, 1);
  for (const char* statement : {"M28", "P1", "M26"}) {
    EXPECT_EQ(verdict.Of(statement), "FAILED") << verdict.output;
  }
}

TEST_F(SuiteTest, WhatTheStockMasterIsKnownNotToDoIsGradedApart) {
  const Verdict verdict =
      Judge({"master", "--beyond", "--only", "M71", "--only", "M33", kStockMaster});
  EXPECT_EQ(verdict.status, 1);
  EXPECT_TRUE(absl::StrContains(verdict.output, "FAILED (beyond) MO3 P36 M71 ")) << verdict.output;
  EXPECT_TRUE(absl::StrContains(verdict.output, "beyond: 0 passed, 1 failed, 0 skipped\n"))
      << verdict.output;
  EXPECT_EQ(verdict.LastLine(), "1 passed, 0 failed, 0 skipped");
}

// --- The command line ---

TEST_F(SuiteTest, AWrongCommandLineIsStatus2) {
  EXPECT_EQ(Judge({}).status, 2);
  EXPECT_EQ(Judge({"servant", "/bin/true"}).status, 2);
  EXPECT_EQ(Judge({"worker"}).status, 2);
  EXPECT_EQ(Judge({"worker", "/nonexistent/program"}).status, 2);
  EXPECT_EQ(Judge({"worker", "--no-such-option", "/bin/true"}).status, 2);
  EXPECT_EQ(Judge({"worker", "--request-text", "x", "/bin/true"}).status, 2);
  EXPECT_EQ(Judge({"worker", "--reply-pattern", "(", "/bin/true"}).status, 2);
  EXPECT_EQ(Judge({"master", "/bin/true", "argument"}).status, 2);
}

TEST_F(SuiteTest, ListNamesTheChecksAndRunsNone) {
  const Verdict verdict = Judge({"master", "--list", "--only", "M33"});
  EXPECT_EQ(verdict.status, 0);
  EXPECT_EQ(verdict.output, "M33 a missing field ends the start\n");
}

TEST_F(SuiteTest, NothingSelectedIsAFailure) {
  EXPECT_EQ(Judge({"worker", "--only", "P999", "/bin/true"}).status, 2);
}

}  // namespace
}  // namespace posthouse::conformance

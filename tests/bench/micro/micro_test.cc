// The in-process benchmarks do what they claim, in small: each workload checks what was delivered
// (check=1) and prints its figures. Nothing here depends on how fast it was.

#include <stdio.h>
#include <sys/wait.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "posthouse/event/backend.h"

namespace posthouse {
namespace {

struct Result {
  int status = -1;
  std::string output;
};

// Bazel starts a test in the root of its runfiles.
Result RunMicro(const std::string& arguments) {
  Result result;
  FILE* pipe = ::popen(absl::StrCat("exec bench/micro/micro_", arguments).c_str(), "r");
  if (pipe == nullptr) return result;
  char data[4096];
  for (size_t size; (size = fread(data, 1, sizeof(data), pipe)) > 0;) {
    result.output.append(data, size);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  return result;
}

// Exactly one line of name=value pairs, or nothing.
std::map<std::string, std::string> Figures(const std::string& output) {
  std::map<std::string, std::string> figures;
  if (output.empty() || output.find('\n') != output.size() - 1) return figures;
  for (const absl::string_view pair : absl::StrSplit(output.substr(0, output.size() - 1), ' ')) {
    const std::vector<std::string> parts = absl::StrSplit(pair, '=');
    if (parts.size() != 2) return {};
    figures[parts[0]] = parts[1];
  }
  return figures;
}

double Number(const std::map<std::string, std::string>& figures, const std::string& name) {
  double number = -1;
  const auto found = figures.find(name);
  if (found == figures.end() || !absl::SimpleAtod(found->second, &number)) return -1;
  return number;
}

// "raw", and posthouse on every backend of this system.
std::vector<std::string> Contenders() {
  std::vector<std::string> contenders = {"raw"};
  for (const Backend backend : AvailableBackends()) {
    contenders.push_back(absl::StrCat("posthouse backend=", BackendName(backend)));
  }
  return contenders;
}

class MicroTest : public testing::TestWithParam<std::string> {
 protected:
  // Runs it, and returns its figures if all went well.
  std::map<std::string, std::string> Measure(const std::string& workload,
                                             const std::string& options) {
    const std::vector<std::string> words = absl::StrSplit(GetParam(), absl::MaxSplits(' ', 1));
    const std::string rest = words.size() > 1 ? words[1] : "";
    const Result result =
        RunMicro(absl::StrCat(words[0], " ", workload, " limit=60 ", options, " ", rest));
    EXPECT_EQ(result.status, 0) << result.output;
    const std::map<std::string, std::string> figures = Figures(result.output);
    EXPECT_FALSE(figures.empty()) << "not one line of name=value pairs: " << result.output;
    return figures;
  }
};

TEST_P(MicroTest, DispatchDoesAsManyOperationsAsItIsTold) {
  for (const char* kind : {"pipe", "eventfd"}) {
    for (const int active : {1, 7}) {
      const auto figures =
          Measure("w1", absl::StrCat("kind=", kind, " n=20 active=", active, " ops=1234 check=1"));
      EXPECT_EQ(Number(figures, "ops"), 1234);
      EXPECT_EQ(Number(figures, "n_actual"), 20);
      EXPECT_GT(Number(figures, "cpu_ns"), 0);
      EXPECT_GT(Number(figures, "wall_ns"), 0);
    }
  }
}

TEST_P(MicroTest, DispatchMeasuresForATime) {
  const auto figures = Measure("w1", "n=10 active=3 seconds=0.01 check=1");
  EXPECT_GE(Number(figures, "chunks"), 3);
  EXPECT_GT(Number(figures, "ops"), 0);
  EXPECT_GT(Number(figures, "cpu_ns"), 0);
}

TEST_P(MicroTest, IdleTimeoutsFireOnceAndInTime) {
  const auto figures = Measure("w2", "n=20 active=3 ops=1000 check=1");
  EXPECT_EQ(Number(figures, "ops"), 1000);
  EXPECT_GT(Number(figures, "cpu_ns"), 0);
}

TEST_P(MicroTest, TimersFireOnceAndInTime) {
  const auto figures = Measure("w3", "timers=1000 seconds=0.01 check=1");
  for (const char* phase : {"insert_ns", "rearm_ns", "push_ns", "cancel_ns", "fire_ns"}) {
    EXPECT_GE(Number(figures, phase), 0) << phase;
  }
  EXPECT_GT(Number(figures, "fire_ns"), 0);
  EXPECT_GE(Number(figures, "ops"), 4000);
}

TEST_P(MicroTest, InterestIsWhatIsDelivered) {
  for (const char* change : {"flip", "swap", "transient", "pause"}) {
    const auto figures = Measure("w4", absl::StrCat("change=", change, " ops=512 check=1"));
    EXPECT_EQ(Number(figures, "ops"), 512);
    EXPECT_GT(Number(figures, "cpu_ns"), 0);
  }
}

std::string ContenderTestName(const testing::TestParamInfo<std::string>& info) {
  return info.param.substr(info.param.find('=') + 1);
}

INSTANTIATE_TEST_SUITE_P(Contenders, MicroTest, testing::ValuesIn(Contenders()), ContenderTestName);

TEST(MicroCommandLine, MistakesAreNotMeasured) {
  EXPECT_EQ(RunMicro("raw 2>&1").status, 2);
  EXPECT_EQ(RunMicro("raw w9 2>&1").status, 2);
  EXPECT_EQ(RunMicro("raw w1 activ=1 2>&1").status, 2);
  EXPECT_EQ(RunMicro("raw w1 n=many 2>&1").status, 2);
  EXPECT_EQ(RunMicro("posthouse w1 backend=none 2>&1").status, 2);
}

// select(2) ends at 1024.
TEST(MicroCommandLine, WhatAContenderCannotDoIsUnsupported) {
  const Result result = RunMicro("posthouse w1 backend=select kind=eventfd n=2000 2>/dev/null");
  EXPECT_EQ(result.status, 3);
  EXPECT_EQ(result.output, "unsupported\n");
}

}  // namespace
}  // namespace posthouse

// The conformance suite: see docs/conformance.md.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/conformance/suite/candidate.h"
#include "tests/conformance/suite/check_line.h"

namespace posthouse::conformance {
namespace {

constexpr char kUsage[] =
    "usage: conformance worker [OPTION ...] PROGRAM [ARGUMENT ...]\n"
    "       conformance master [OPTION ...] PROGRAM\n"
    "\n"
    "  --preset NAME            echo, anvil, policy or rewrite: a worker that is known\n"
    "  --request-text TEXT      one request; C escapes such as \\n and \\0 are understood\n"
    "  --request FILE           the same from a file\n"
    "  --reply-pattern REGEX    what a whole reply matches (ECMAScript)\n"
    "  --greeting-pattern REGEX what the worker sends before the first request\n"
    "  --name NAME              of the service\n"
    "  --process-limit N        1: the worker asks for -l, 0: for -z\n"
    "  --no-use-limit           the worker overrides max_use\n"
    "  --no-one-shot            the worker does not serve standard input with -S\n"
    "  --no-jail                the worker does not work with -u and -c\n"
    "  --consumes-tokens        the worker takes a flow token per connection\n"
    "  --main-cf LINE           one more line for the worker's main.cf\n"
    "  --beyond                 also what the original is known not to do\n"
    "  --beyond-only            that alone\n"
    "  --only NAME              a statement (P15) or a part of a check's name; may be repeated\n"
    "  --list                   names the checks and runs none\n"
    "  --details                whole failures, as GoogleTest prints them\n"
    "  --jobs N                 parts of the suite that run at the same time (6)\n";

struct Settings {
  std::vector<std::string> only;
  bool contract = true;
  bool beyond = false;
  bool list = false;
  bool details = false;
  int jobs = 6;
};

struct Counts {
  int passed = 0;
  int failed = 0;
  int skipped = 0;
};

// Contract and beyond.
struct Totals {
  Counts groups[2];
};

bool IsBeyond(absl::string_view suite) { return absl::StartsWith(suite, "Beyond"); }

void PrintLine(const std::string& line) {
  // One write, so that lines of several parts do not mix.
  const std::string whole = line + "\n";
  fflush(stdout);
  if (write(STDOUT_FILENO, whole.data(), whole.size()) < 0) _exit(2);
}

class LinePrinter : public testing::EmptyTestEventListener {
 public:
  explicit LinePrinter(Totals* totals) : totals_(totals) {}

  void OnTestStart(const testing::TestInfo& test) override { in_test_ = true; }

  void OnTestPartResult(const testing::TestPartResult& part) override {
    if (in_test_ || !part.failed()) return;
    // Of the program as a whole: something was left behind.
    ++totals_->groups[0].failed;
    PrintLine("FAILED - " + BriefFailure(part.message()));
  }

  void OnTestEnd(const testing::TestInfo& test) override {
    in_test_ = false;
    const bool beyond = IsBeyond(test.test_suite_name());
    Counts& counts = totals_->groups[beyond];
    const std::string title = absl::StrCat(beyond ? "(beyond) " : "", CheckTitle(test.name()));
    const testing::TestResult& result = *test.result();
    if (result.Failed()) {
      ++counts.failed;
      PrintLine(absl::StrCat("FAILED ", title, ": ", Messages(result)));
    } else if (result.Skipped()) {
      ++counts.skipped;
      PrintLine(absl::StrCat("skipped ", title, ": ", Messages(result)));
    } else {
      ++counts.passed;
      PrintLine(absl::StrCat("ok ", title));
    }
  }

 private:
  static std::string Messages(const testing::TestResult& result) {
    std::vector<std::string> messages;
    for (int i = 0; i < result.total_part_count(); ++i) {
      const testing::TestPartResult& part = result.GetTestPartResult(i);
      if (part.failed() == result.Failed() && !part.passed()) {
        messages.push_back(BriefFailure(part.message()));
      }
    }
    return absl::StrJoin(messages, "; ");
  }

  Totals* totals_;
  bool in_test_ = false;
};

// The directory of this program.
std::string OwnDirectory() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

[[noreturn]] void Refuse(const std::string& reason) {
  fprintf(stderr, "conformance: %s (conformance --help tells more)\n", reason.c_str());
  exit(2);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) Refuse("cannot read " + path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Unescape(const std::string& text) {
  std::string result, error;
  if (!absl::CUnescape(text, &result, &error)) Refuse(absl::StrCat(text, ": ", error));
  return result;
}

std::string CheckedPattern(const std::string& pattern) {
  try {
    const std::regex expression(pattern);
  } catch (const std::regex_error& error) {
    Refuse(absl::StrCat("bad expression ", pattern, ": ", error.what()));
  }
  return pattern;
}

int Number(const std::string& text) {
  int number = 0;
  if (!absl::SimpleAtoi(text, &number) || number < 0) Refuse("not a number: " + text);
  return number;
}

// One option with the next word as its value; false when it is unknown.
bool TakeOption(const std::string& option, const std::vector<std::string>& words, size_t* at,
                Candidate* candidate, Settings* settings) {
  const auto value = [&] {
    if (*at + 1 >= words.size()) Refuse(option + " needs a value");
    return words[++*at];
  };
  if (option == "--preset") {
    if (absl::Status status = ApplyPreset(value(), candidate); !status.ok()) {
      Refuse(std::string(status.message()));
    }
  } else if (option == "--request-text") {
    candidate->request = Unescape(value());
  } else if (option == "--request") {
    candidate->request = ReadFile(value());
  } else if (option == "--reply-pattern") {
    candidate->reply_pattern = CheckedPattern(value());
  } else if (option == "--greeting-pattern") {
    candidate->greeting_pattern = CheckedPattern(value());
  } else if (option == "--name") {
    candidate->name = value();
  } else if (option == "--process-limit") {
    candidate->process_limit = Number(value());
  } else if (option == "--no-use-limit") {
    candidate->has_use_limit = false;
  } else if (option == "--no-one-shot") {
    candidate->one_shot = false;
  } else if (option == "--no-jail") {
    candidate->jail = false;
  } else if (option == "--consumes-tokens") {
    candidate->consumes_tokens = true;
  } else if (option == "--main-cf") {
    absl::StrAppend(&candidate->main_cf, value(), "\n");
  } else if (option == "--beyond") {
    settings->beyond = true;
  } else if (option == "--beyond-only") {
    settings->beyond = true;
    settings->contract = false;
  } else if (option == "--only") {
    settings->only.push_back(value());
  } else if (option == "--list") {
    settings->list = true;
  } else if (option == "--details") {
    settings->details = true;
  } else if (option == "--jobs") {
    settings->jobs = Number(value());
  } else {
    return false;
  }
  return true;
}

void ParseCommandLine(const std::vector<std::string>& words, Candidate* candidate,
                      Settings* settings) {
  if (words.size() > 1 && (words[1] == "-h" || words[1] == "--help")) {
    printf("%s", kUsage);
    exit(0);
  }
  if (words.size() < 2 || (words[1] != "worker" && words[1] != "master")) {
    Refuse("the first word is \"worker\" or \"master\"");
  }
  candidate->is_master = words[1] == "master";
  size_t at = 2;
  for (; at < words.size() && absl::StartsWith(words[at], "--"); ++at) {
    if (!TakeOption(words[at], words, &at, candidate, settings)) {
      Refuse("unknown option " + words[at]);
    }
  }
  if (!settings->list) {
    if (at == words.size()) Refuse("no program is named");
    // Not resolved: a program may have several names.
    candidate->program = std::filesystem::absolute(words[at]);
    if (access(candidate->program.c_str(), X_OK) != 0) {
      Refuse(absl::StrCat("cannot run ", words[at], ": ", strerror(errno)));
    }
    candidate->arguments.assign(words.begin() + static_cast<ptrdiff_t>(at) + 1, words.end());
    if (candidate->is_master && !candidate->arguments.empty()) {
      Refuse("the suite gives a master its arguments: " + candidate->arguments[0]);
    }
  }
  if (!candidate->request.empty() && candidate->reply_pattern.empty()) {
    Refuse("a request needs --reply-pattern");
  }
}

std::string Filter(const Candidate& candidate, const Settings& settings) {
  const std::string kind = candidate.is_master ? "Master" : "Worker";
  std::vector<std::string> prefixes;
  if (settings.contract) prefixes.push_back(kind);
  if (settings.beyond) prefixes.push_back("Beyond" + kind);
  std::vector<std::string> filters;
  for (const std::string& prefix : prefixes) {
    for (const std::string& wanted : settings.only) filters.push_back(FilterFor(prefix, wanted));
    if (settings.only.empty()) filters.push_back(prefix + "*");
  }
  return absl::StrJoin(filters, ":");
}

bool MatchesAny(const std::string& filter, const std::string& name) {
  // Only "*" is used in filters here.
  for (const std::string& pattern : std::vector<std::string>(absl::StrSplit(filter, ':'))) {
    const std::regex expression(absl::StrReplaceAll(pattern, {{".", "\\."}, {"*", ".*"}}));
    if (std::regex_match(name, expression)) return true;
  }
  return false;
}

void List(const std::string& filter) {
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *all.GetTestSuite(i);
    for (int j = 0; j < suite.total_test_count(); ++j) {
      const testing::TestInfo& test = *suite.GetTestInfo(j);
      if (!MatchesAny(filter, absl::StrCat(suite.name(), ".", test.name()))) continue;
      PrintLine(absl::StrCat(IsBeyond(suite.name()) ? "(beyond) " : "", CheckTitle(test.name())));
    }
  }
}

Totals RunHere(const std::string& filter, const Settings& settings, char* program) {
  int count = 1;
  char* arguments[] = {program, nullptr};
  testing::InitGoogleTest(&count, arguments);
  testing::GTEST_FLAG(filter) = filter;
  Totals totals;
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (!settings.details) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new LinePrinter(&totals));
  if (settings.list) {
    List(filter);
  } else if (RUN_ALL_TESTS() != 0 && totals.groups[0].failed + totals.groups[1].failed == 0) {
    ++totals.groups[0].failed;
  }
  return totals;
}

void Add(const Totals& part, Totals* all) {
  for (int group = 0; group < 2; ++group) {
    all->groups[group].passed += part.groups[group].passed;
    all->groups[group].failed += part.groups[group].failed;
    all->groups[group].skipped += part.groups[group].skipped;
  }
}

// The checks wait more than they work: each of several processes takes a part of them.
Totals RunInParts(const std::string& filter, const Settings& settings, char* program) {
  struct Part {
    pid_t pid;
    int result;
  };
  std::vector<Part> parts;
  setenv("GTEST_TOTAL_SHARDS", absl::StrCat(settings.jobs).c_str(), 1);
  for (int i = 0; i < settings.jobs; ++i) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) Refuse(absl::StrCat("pipe: ", strerror(errno)));
    const pid_t pid = fork();
    if (pid < 0) Refuse(absl::StrCat("fork: ", strerror(errno)));
    if (pid == 0) {
      for (const Part& part : parts) close(part.result);
      close(ends[0]);
      setenv("GTEST_SHARD_INDEX", absl::StrCat(i).c_str(), 1);
      const Totals totals = RunHere(filter, settings, program);
      if (write(ends[1], &totals, sizeof(totals)) != sizeof(totals)) exit(2);
      exit(0);
    }
    close(ends[1]);
    parts.push_back({pid, ends[0]});
  }
  Totals all;
  for (const Part& part : parts) {
    Totals totals;
    const bool told = read(part.result, &totals, sizeof(totals)) == sizeof(totals);
    close(part.result);
    int status = 0;
    waitpid(part.pid, &status, 0);
    if (told) {
      Add(totals, &all);
    } else {
      ++all.groups[0].failed;
      PrintLine(absl::StrCat("FAILED - a part of the suite ended with wait status ", status));
    }
  }
  return all;
}

int Sum(const Totals& totals) {
  int sum = 0;
  for (const Counts& counts : totals.groups) sum += counts.passed + counts.failed + counts.skipped;
  return sum;
}

std::string CountLine(const Counts& counts) {
  return absl::StrCat(counts.passed, " passed, ", counts.failed, " failed, ", counts.skipped,
                      " skipped");
}

int Main(int argc, char** argv) {
  Candidate& candidate = TheCandidate();
  Settings settings;
  candidate.probe = OwnDirectory() + "/probe_worker";
  // Bazel's tests are split by Bazel.
  if (getenv("TEST_TOTAL_SHARDS") != nullptr || getenv("XML_OUTPUT_FILE") != nullptr) {
    settings.jobs = 1;
  }
  ParseCommandLine(std::vector<std::string>(argv, argv + argc), &candidate, &settings);
  const std::string filter = Filter(candidate, settings);
  const bool alone = settings.jobs <= 1 || settings.list;
  const Totals totals =
      alone ? RunHere(filter, settings, argv[0]) : RunInParts(filter, settings, argv[0]);
  if (settings.list) return 0;
  if (Sum(totals) == 0) Refuse("no check is selected");
  if (settings.beyond) PrintLine("beyond: " + CountLine(totals.groups[1]));
  if (settings.contract) PrintLine(CountLine(totals.groups[0]));
  return totals.groups[0].failed + totals.groups[1].failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace posthouse::conformance

int main(int argc, char** argv) { return posthouse::conformance::Main(argc, argv); }

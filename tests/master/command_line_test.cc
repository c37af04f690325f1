// command_line.h: the options of the master (M1 to M9).

#include "posthouse/master/command_line.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using testing::HasSubstr;

constexpr pid_t kSomePid = 4711;

absl::StatusOr<MasterOptions> Parse(std::vector<std::string> arguments,
                                    const std::vector<std::string>& environment = {},
                                    pid_t pid = kSomePid) {
  arguments.insert(arguments.begin(), "/usr/lib/postfix/sbin/master");
  return ParseMasterCommandLine(arguments, environment, pid);
}

TEST(MasterCommandLineTest, WithoutOptionsTheMasterIsDetachedAndQuiet) {
  const absl::StatusOr<MasterOptions> options = Parse({});
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->process_name, "master");
  EXPECT_FALSE(options->config_directory.has_value());
  EXPECT_TRUE(options->detached);
  EXPECT_TRUE(options->new_session());
  EXPECT_FALSE(options->debugger);
  EXPECT_FALSE(options->exit_after.has_value());
  EXPECT_FALSE(options->init);
  EXPECT_FALSE(options->keep_stdout);
  EXPECT_FALSE(options->test);
  EXPECT_EQ(options->verbosity, 0);
  EXPECT_FALSE(options->wait);
}

// M1: "An unknown option, a missing argument or an operand is fatal".
TEST(MasterCommandLineTest, AnUnknownOptionAMissingArgumentAndAnOperandAreRefusedAndNamed) {
  const struct {
    std::vector<std::string> arguments;
    const char* text;
  } cases[] = {
      {{"-x"}, "invalid option: -x"},
      {{"-vx"}, "invalid option: -x"},
      {{"--restart"}, "invalid option: --restart"},
      {{"-c"}, "option -c needs an argument"},
      {{"-ve"}, "option -e needs an argument"},
      {{"-c", ""}, "option -c"},
      {{"start"}, "unexpected argument: \"start\""},
      {{"-v", "start", "-t"}, "unexpected argument: \"start\""},
      {{"-"}, "unexpected argument: \"-\""},
      {{"--", "-v"}, "unexpected argument: \"-v\""},
      {{""}, "unexpected argument: \"\""},
  };
  for (const auto& one : cases) {
    EXPECT_THAT(Parse(one.arguments),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(one.text)));
  }
}

// M2: "the last one wins".
TEST(MasterCommandLineTest, TheLastConfigurationDirectoryWins) {
  EXPECT_EQ(Parse({"-c", "/a", "-c/b"})->config_directory, "/b");
  EXPECT_EQ(Parse({"-vc", "/a"})->config_directory, "/a");
}

// M3.
TEST(MasterCommandLineTest, NeitherAttachedNorUnderADebuggerDoesItMakeASession) {
  EXPECT_FALSE(Parse({"-d"})->detached);
  EXPECT_FALSE(Parse({"-d"})->new_session());
  EXPECT_TRUE(Parse({"-D"})->debugger);
  EXPECT_TRUE(Parse({"-D"})->detached);
  EXPECT_FALSE(Parse({"-D"})->new_session());
  EXPECT_TRUE(Parse({}, {"MAIL_DEBUG="})->debugger);
  EXPECT_FALSE(Parse({}, {"MAIL_DEBUGGER=1", "XMAIL_DEBUG=1", "MAIL_DEBUG"})->debugger);
}

// M4: "leading digits used, text = 0".
TEST(MasterCommandLineTest, TheExitTimeIsReadAsFarAsItIsANumber) {
  const struct {
    const char* text;
    absl::Duration time;
  } cases[] = {
      {"60", absl::Seconds(60)},  {"60s", absl::Seconds(60)},   {"  7", absl::Seconds(7)},
      {"+7", absl::Seconds(7)},   {"0", absl::ZeroDuration()},  {"soon", absl::ZeroDuration()},
      {"", absl::ZeroDuration()}, {"-5", absl::ZeroDuration()}, {"1e3", absl::Seconds(1)},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(Parse({"-e", one.text})->exit_after, one.time) << one.text;
  }
  EXPECT_EQ(Parse({"-e5"})->exit_after, absl::Seconds(5));
  EXPECT_LT(*Parse({"-e", "99999999999999999999999"})->exit_after, absl::InfiniteDuration());
}

// M5: "fatal unless the process id is 1. Implies -s."
TEST(MasterCommandLineTest, InitModeIsForProcessOneAlone) {
  EXPECT_THAT(Parse({"-i"}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-i")));
  const absl::StatusOr<MasterOptions> options = Parse({"-i"}, {}, 1);
  ASSERT_THAT(options, IsOk());
  EXPECT_TRUE(options->init);
  EXPECT_TRUE(options->keep_stdout);
  EXPECT_TRUE(options->detached);
  EXPECT_FALSE(options->new_session());
}

// M5, M7, in any order of the options.
TEST(MasterCommandLineTest, OptionsThatContradictEachOtherAreRefusedByName) {
  const struct {
    std::vector<std::string> arguments;
    std::vector<std::string> environment;
    const char* text;
  } cases[] = {
      {{"-i", "-D"}, {}, "-i and -D"},
      {{"-Di"}, {}, "-i and -D"},
      {{"-i", "-d"}, {}, "-i and -d"},
      {{"-d", "-i"}, {}, "-i and -d"},
      {{"-i", "-w"}, {}, "-i and -w"},
      {{"-wi"}, {}, "-i and -w"},
      {{"-i"}, {"MAIL_DEBUG=1"}, "-i cannot be combined with MAIL_DEBUG"},
      {{"-t", "-w"}, {}, "-t and -w"},
      {{"-wt"}, {}, "-t and -w"},
      {{"-r", "-D"}, {}, "-r and -D"},
      {{"-d", "-r"}, {}, "-r and -d"},
      {{"-re", "5"}, {}, "-r and -e"},
      {{"-ri"}, {}, "-r and -i"},
      {{"-rs"}, {}, "-r and -s"},
      {{"-tr"}, {}, "-r and -t"},
      {{"-rw"}, {}, "-r and -w"},
  };
  for (const auto& one : cases) {
    EXPECT_THAT(Parse(one.arguments, one.environment, 1),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(one.text)));
  }
  EXPECT_THAT(Parse({"-s", "-w", "-v"}), IsOk());
  EXPECT_THAT(Parse({"-t", "-d", "-D"}), IsOk());
}

// M6, M7, M9.
TEST(MasterCommandLineTest, KeepingStdoutTestingAndWaitingAreOptionsOfTheirOwn) {
  EXPECT_TRUE(Parse({"-s"})->keep_stdout);
  EXPECT_TRUE(Parse({"-t"})->test);
  EXPECT_TRUE(Parse({"-w"})->wait);
  EXPECT_TRUE(Parse({"-w"})->new_session());
}

// F100: a command about the master that runs; variables for masters do not matter to it.
TEST(MasterCommandLineTest, TheReloadCommandGoesWithAConfigurationDirectory) {
  EXPECT_FALSE(Parse({})->reload);
  EXPECT_FALSE(Parse({})->is_command());
  EXPECT_TRUE(Parse({"-t"})->is_command());
  const absl::StatusOr<MasterOptions> options =
      Parse({"-v", "-r", "-c", "/a"}, {"MAIL_DEBUG=1", "MAIL_VERBOSE=1"});
  ASSERT_THAT(options, IsOk());
  EXPECT_TRUE(options->reload);
  EXPECT_TRUE(options->is_command());
  EXPECT_EQ(options->config_directory, "/a");
}

// M8: "repeatable. MAIL_VERBOSE present in the environment: verbosity starts at 1."
TEST(MasterCommandLineTest, VerbosityAddsUp) {
  EXPECT_EQ(Parse({"-v"})->verbosity, 1);
  EXPECT_EQ(Parse({"-vv", "-v"})->verbosity, 3);
  EXPECT_EQ(Parse({}, {"MAIL_VERBOSE="})->verbosity, 1);
  EXPECT_EQ(Parse({"-v"}, {"MAIL_VERBOSE=0"})->verbosity, 2);
}

TEST(MasterCommandLineTest, HelpAndVersionAreAskedForWithLongOptions) {
  EXPECT_TRUE(Parse({"--help"})->help);
  EXPECT_TRUE(Parse({"-v", "--version"})->version);
}

// M10.
TEST(MasterCommandLineTest, TheProcessNameIsTheLastComponentOfArgumentZero) {
  const auto name = [](const std::string& argument) {
    return ParseMasterCommandLine({argument}, {}, kSomePid)->process_name;
  };
  EXPECT_EQ(name("master"), "master");
  EXPECT_EQ(name("./posthouse-master"), "posthouse-master");
  EXPECT_EQ(name(""), "");
  EXPECT_EQ(ParseMasterCommandLine({}, {}, kSomePid)->process_name, "");
}

}  // namespace
}  // namespace posthouse

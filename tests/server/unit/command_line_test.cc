#include "posthouse/server/command_line.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = CommandLineOverride::Kind;

absl::StatusOr<WorkerCommandLine> Parse(std::vector<std::string> arguments,
                                        CommandLineRules rules = {}) {
  arguments.insert(arguments.begin(), "/usr/lib/posthouse/echo");
  return ParseCommandLine(arguments, rules);
}

WorkerCommandLine Parsed(std::vector<std::string> arguments) {
  absl::StatusOr<WorkerCommandLine> line = Parse(std::move(arguments));
  EXPECT_THAT(line.status(), IsOk());
  return line.ok() ? *std::move(line) : WorkerCommandLine();
}

std::string ErrorOf(std::vector<std::string> arguments) {
  const absl::StatusOr<WorkerCommandLine> line = Parse(std::move(arguments));
  EXPECT_EQ(line.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(line.status().message());
}

TEST(CommandLineTest, S6_ProgramAndServiceAreTheLastComponentOfArgvZero) {
  const WorkerCommandLine line = Parsed({});
  EXPECT_EQ(line.program, "echo");
  EXPECT_EQ(line.service_name, "echo");
  EXPECT_TRUE(line.detached);
  EXPECT_EQ(line.listen_sockets, 1);
  EXPECT_FALSE(line.transport.has_value());
}

TEST(CommandLineTest, AnEmptyArgumentVectorIsAnEmptyProgramName) {
  const absl::StatusOr<WorkerCommandLine> line = ParseCommandLine({}, {});
  ASSERT_THAT(line.status(), IsOk());
  EXPECT_EQ(line->program, "");
}

TEST(CommandLineTest, S27_EveryLetterHasItsMeaning) {
  const WorkerCommandLine line = Parsed(
      {"-c", "-d", "-D", "-l", "-n", "svc", "-s", "3", "-S", "-u", "-t", "unix", "-v", "-V", "-z"});
  EXPECT_TRUE(line.chroot);
  EXPECT_FALSE(line.detached);
  EXPECT_TRUE(line.debug);
  EXPECT_TRUE(line.limit_is_one);
  EXPECT_EQ(line.service_name, "svc");
  EXPECT_EQ(line.listen_sockets, 3);
  EXPECT_TRUE(line.one_shot);
  EXPECT_TRUE(line.unprivileged);
  EXPECT_EQ(line.transport, "unix");
  EXPECT_EQ(line.verbosity, 1);
  EXPECT_TRUE(line.log_to_stderr);
  EXPECT_TRUE(line.limit_is_none);
}

TEST(CommandLineTest, S28_TheLastOfRepeatedLettersWinsAndVerbosityAddsUp) {
  const WorkerCommandLine line = Parsed({"-n", "a", "-nb", "-vv", "-v", "-t", "inet", "-tunix"});
  EXPECT_EQ(line.service_name, "b");
  EXPECT_EQ(line.verbosity, 3);
  EXPECT_EQ(line.transport, "unix");
}

TEST(CommandLineTest, C2_OverridesKeepTheirOrder) {
  const WorkerCommandLine line = Parsed({"-o", "a=1", "-i", "5s", "-m10", "-oa = 2", "-o", ""});
  ASSERT_EQ(line.overrides.size(), 5u);
  EXPECT_EQ(line.overrides[0].kind, Kind::kNameValue);
  EXPECT_EQ(line.overrides[0].text, "a=1");
  EXPECT_EQ(line.overrides[1].kind, Kind::kMaxIdle);
  EXPECT_EQ(line.overrides[1].text, "5s");
  EXPECT_EQ(line.overrides[2].kind, Kind::kMaxUse);
  EXPECT_EQ(line.overrides[2].text, "10");
  EXPECT_EQ(line.overrides[3].text, "a = 2");
  EXPECT_EQ(line.overrides[4].text, "");
}

TEST(CommandLineTest, S25_ParsingStopsAtTheFirstNonOption) {
  EXPECT_THAT(Parsed({"-v", "table", "-v"}).arguments, ElementsAre("table", "-v"));
  EXPECT_THAT(Parsed({"-v", "-", "-v"}).arguments, ElementsAre("-", "-v"));
  EXPECT_THAT(Parsed({"-v", "--", "-v"}).arguments, ElementsAre("-v"));
  EXPECT_THAT(Parsed({"-v"}).arguments, IsEmpty());
}

TEST(CommandLineTest, S25_LettersMayBeJoinedAndTheLastMayTakeItsArgument) {
  const WorkerCommandLine line = Parsed({"-lvncat", "-uo", "x=y"});
  EXPECT_TRUE(line.limit_is_one);
  EXPECT_EQ(line.service_name, "cat");
  EXPECT_TRUE(line.unprivileged);
  EXPECT_EQ(line.overrides.at(0).text, "x=y");
}

TEST(CommandLineTest, S94_AnUnknownLetterIsNamed) {
  EXPECT_THAT(ErrorOf({"-x"}), HasSubstr("invalid option: x"));
  EXPECT_THAT(ErrorOf({"-vq"}), HasSubstr("invalid option: q"));
  EXPECT_THAT(ErrorOf({"--lisen", "inet:1"}), HasSubstr("--lisen"));
}

TEST(CommandLineTest, S25_AMissingArgumentIsNamed) {
  EXPECT_THAT(ErrorOf({"-n"}), HasSubstr("-n"));
  EXPECT_THAT(ErrorOf({"-vo"}), HasSubstr("-o"));
  EXPECT_THAT(ErrorOf({"--listen"}), HasSubstr("--listen"));
}

TEST(CommandLineTest, SO16_TheWholeArgumentOfSMustBeAPositiveNumber) {
  EXPECT_EQ(Parsed({"-s", "512"}).listen_sockets, 512);
  for (const char* text : {"0", "-1", "1x", "", "x", " 1", "+1", "99999999999999999999"}) {
    EXPECT_THAT(ErrorOf({"-s", text}), HasSubstr("invalid socket_count")) << text;
    EXPECT_THAT(ErrorOf({"-s", text}), HasSubstr(text)) << text;
  }
}

TEST(CommandLineTest, K2_ASkeletonWithoutOneShotRefusesS) {
  const absl::StatusOr<WorkerCommandLine> line = Parse({"-S"}, {.one_shot = false});
  EXPECT_FALSE(line.ok());
  EXPECT_THAT(std::string(line.status().message()), HasSubstr("S"));
}

TEST(CommandLineTest, ListenMayBeGivenManyTimes) {
  const WorkerCommandLine line = Parsed(
      {"--listen", "inet:127.0.0.1:7777", "--listen=unix:/run/a=b.sock", "--listen-mode", "0660"});
  EXPECT_THAT(line.listen, ElementsAre("inet:127.0.0.1:7777", "unix:/run/a=b.sock"));
  ASSERT_TRUE(line.listen_mode.has_value());
  EXPECT_EQ(*line.listen_mode, 0660u);
}

TEST(CommandLineTest, AListenModeIsOctalAndInRange) {
  EXPECT_EQ(*Parsed({"--listen-mode=0"}).listen_mode, 0u);
  EXPECT_EQ(*Parsed({"--listen-mode=07777"}).listen_mode, 07777u);
  for (const char* text : {"", "8", "10000", "0x1", "-1", "rw", "000000000000000000001"}) {
    EXPECT_THAT(ErrorOf({"--listen-mode", text}), HasSubstr("--listen-mode")) << text;
  }
}

TEST(CommandLineTest, HelpAndVersionTakeNoArgument) {
  EXPECT_TRUE(Parsed({"--help"}).help);
  EXPECT_TRUE(Parsed({"--version"}).version);
  EXPECT_THAT(ErrorOf({"--help=me"}), HasSubstr("--help"));
}

TEST(CommandLineTest, BaseNameIsTheLastComponent) {
  EXPECT_EQ(BaseName("/a/b"), "b");
  EXPECT_EQ(BaseName("b"), "b");
  EXPECT_EQ(BaseName("/a/"), "");
  EXPECT_EQ(BaseName(""), "");
}

}  // namespace
}  // namespace posthouse

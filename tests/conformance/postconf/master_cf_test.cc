// Does posthouse read master.cf as stock Postfix does?
//
// Tables are read by both sides: by "postconf -M" and "-Mf", whose output must mean the same to us
// as what went in; by the stock master, which must accept and refuse the same entries; and by stock
// workers, which are handed the arguments. Where we differ on purpose there is a test at the end.

#include "posthouse/config/master_cf.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "posthouse/master/configuration.h"
#include "posthouse/master/protocol.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/conformance/postconf/stock_tools.h"
#include "tests/conformance/stock_instance.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {
namespace {

constexpr char kStockMaster[] = "/usr/lib/postfix/sbin/master";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

// One line per entry, without its place.
std::string Described(const MasterCf& table) {
  std::string text;
  for (const MasterCfEntry& entry : table.entries) {
    absl::StrAppend(&text, entry.Title(), " ", entry.is_private, entry.unprivileged, entry.chroot,
                    " ", entry.wake_up_seconds, entry.wake_up_conditional ? "? " : " ",
                    entry.process_limit, " ", entry.command, " <",
                    absl::StrJoin(entry.arguments, "> <"), ">\n");
  }
  return text;
}

std::string Described(absl::string_view text) {
  MasterCfOptions options;
  options.allow_empty = true;
  const absl::StatusOr<MasterCf> table = ParseMasterCf("master.cf", text, options);
  return table.ok() ? Described(*table) : std::string(table.status().message());
}

class MasterCfConformance : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "stock daemons are started as root";
    struct stat status;
    if (stat(kStockMaster, &status) != 0) GTEST_SKIP() << "stock Postfix is not installed";
    ASSERT_EQ(chmod(scratch_.path().c_str(), 0755), 0);
    stock_.emplace(scratch_.path());
  }

  // A configuration directory with this table, and a queue directory of its own.
  std::string Make(absl::string_view table) {
    const std::string home = scratch_.Path(absl::StrCat("m", ++made_));
    for (const char* directory : {"", "/q", "/q/pid", "/q/private", "/q/public", "/d"}) {
      mkdir(absl::StrCat(home, directory).c_str(), 0755);
    }
    EXPECT_EQ(chown(absl::StrCat(home, "/d").c_str(), PostfixUid(), 0), 0);
    for (const char* directory : {"/q/private", "/q/public"}) {
      EXPECT_EQ(chown(absl::StrCat(home, directory).c_str(), PostfixUid(), 0), 0);
    }
    const std::string directory = stock_->MakeConfiguration(absl::StrCat(
        "compatibility_level = 3.6\nqueue_directory = ", home, "/q\ndata_directory = ", home,
        "/d\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n"
        "mynetworks = 127.0.0.0/8\n"));
    std::ofstream(directory + "/master.cf", std::ios::binary) << table;
    return directory;
  }

  static uid_t PostfixUid() {
    struct stat status = {};
    stat("/var/lib/postfix", &status);
    return status.st_uid;
  }

  // Which of the tables a stock master starts with; it ends itself after a second.
  std::vector<bool> StockAccepts(const std::vector<std::string>& tables) {
    std::vector<Job> jobs;
    for (const std::string& table : tables) {
      jobs.push_back({{kStockMaster, "-c", Make(table), "-d", "-e", "1"}, {}});
    }
    std::vector<bool> accepted;
    for (const Outcome& outcome : RunAll(jobs, scratch_.path() + "/runs")) {
      EXPECT_TRUE(outcome.status == 0 || outcome.status == 1) << outcome.status << outcome.errors;
      accepted.push_back(outcome.status == 0);
    }
    return accepted;
  }

  absl::Status Ours(absl::string_view table) {
    ConfigurationOptions options;
    options.config_directory = Make(table);
    options.quiet = absl::ZeroDuration();
    return LoadMasterConfiguration(options).status();
  }

  TempDir scratch_;
  absl::optional<StockTools> stock_;
  int made_ = 0;
};

TEST_F(MasterCfConformance, WhatPostconfPrintsMeansWhatWasRead) {
  const std::string tables[] = {
      ReadFile("/etc/postfix/master.cf"),
      ReadFile("/etc/postfix/master.cf.proto"),
      "a unix - - n 60? 0 smtp\n\n# c\n  -o x=y\n\t-o { p=q r }\n# d\n  -v\n",
      "a unix y n y 060 007 smtp -o a=b   -o {c=d  e} h={i j}\nb fifo n - n - - pipe x{ 1 }",
      "25\tinet\tn\t-\tn\t-\t-\tsmtpd\r\n[::1]:26 inet n - n - - smtpd # no comment\n",
      "  dropped unix - - n - - smtp\n  -o x=y\nkept unix - - n - - smtp\n",
      "a/b unix - - n - - smtp\n- pass n - n - 1 smtp\nz unix-dgram n - n - 1 postlogd",
      "u unix - n n - - pipe\n  flags=R user=nobody argv=/bin/x -f ${sender} -- $recipient\n",
      "",
  };
  for (const std::string& table : tables) {
    const std::string directory = Make(table);
    const std::string ours = Described(table);
    const std::vector<Outcome> outcomes = RunAll({{{kStockPostconf, "-c", directory, "-M"}, {}},
                                                  {{kStockPostconf, "-c", directory, "-Mf"}, {}}},
                                                 scratch_.path() + "/runs");
    for (const Outcome& outcome : outcomes) {
      EXPECT_EQ(outcome.status, 0) << outcome.errors;
      EXPECT_EQ(Described(outcome.output), ours) << table;
    }
  }
}

// The ports are below those that the kernel gives to others.
TEST_F(MasterCfConformance, TheStockMasterAcceptsAndRefusesTheSameTables) {
  const std::vector<std::string> tables = {
      "a unix - - n - - smtp\n",
      "- unix - - n - - smtp\n",
      "a - - - n - - smtp\n",
      "a UNIX - - n - - smtp\n",
      "a unix - - n - - -\n",
      "a unix - - n - -\n",
      "a unix\n",
      "a\n",
      "a unix Y - n - - smtp\n",
      "a unix yes - n - - smtp\n",
      "a unix - x n - - smtp\n",
      "a unix - - 1 - - smtp\n",
      "a unix - - n 1x 2y smtp\n",
      "a unix - - n 0? 0 smtp\n",
      "a unix - - n ? - smtp\n",
      "a unix - - n -1 - smtp\n",
      "a unix - - n - +1 smtp\n",
      "a unix - - n - x smtp\n",
      "a unix - - n 0 0 smtp {\n",
      "a unix - - n 0 0 smtp { a } b\n",
      "a unix - - n 0 0 smtp { a }b\n",
      "a unix - - n 0 0 smtp x{ a }b }\n",
      "a unix - - n 0 0 smtp -o { a = b\n",
      "  a bad line is dropped\n  all of it\nb unix - - n - - smtp\n",
      "a unix - - n - - smtp\n# comment\n   \n\t-o x=y\nb tcp - - n - - smtp\n",
      "a fifo n - n - - smtp\nb pass n - n - - smtp\nc unix-dgram n - n - - smtp\n",
      "a unix - - n - - smtp\na unix - - n - 2 smtp\n",
      "a unix - - n - - smtp\na unix-dgram - - n - - smtp\n",
      std::string(99, 'n') + " unix - - n - - smtp\n",
      std::string(100, 'n') + " unix - - n - - smtp\n",
      "18925 inet n - n - - smtpd\n",
      "18925 inet - - n - - smtpd\n",
      "18925 inet y - n - - smtpd\n",
      ":18925 inet n - n - - smtpd\n",
      "127.0.0.77:18925 inet n - n - - smtpd\n",
      "[127.0.0.77]:18925 inet n - n - - smtpd\n",
      "[127.0.0.77] inet n - n - - smtpd\n",
      "[127.0.0.77]18925 inet n - n - - smtpd\n",
      "[127.0.0.77:18925 inet n - n - - smtpd\n",
      "[ipv6:127.0.0.77]:18925 inet n - n - - smtpd\n",
      "[::1]:18925 inet n - n - - smtpd\n",
      "127.0.0.77: inet n - n - - smtpd\n",
      "127.0.0.77:18925x inet n - n - - smtpd\n",
      "18925x inet n - n - - smtpd\n",
      "no-such-port inet n - n - - smtpd\n",
      "-bad-:18925 inet n - n - - smtpd\n",
      "1.2.3:18925 inet n - n - - smtpd\n",
      "127.0.0.77:18925 inet n - n - - smtpd\n127.0.0.77:18926 inet n - n - - smtpd\n",
      "18925 inet n - n - - smtpd\n:18925 inet n - n - 2 smtpd\n",
      "0 inet n - n - - smtpd\n",
  };
  const std::vector<bool> stock = StockAccepts(tables);
  // Else main.cf is what it refuses.
  EXPECT_GT(std::count(stock.begin(), stock.end(), true), 15);
  for (size_t i = 0; i < tables.size(); ++i) {
    const absl::Status ours = Ours(tables[i]);
    EXPECT_EQ(ours.ok(), stock[i]) << tables[i] << ours;
  }
}

// A shell script stands for the workers; it says what it was given. The wake-up at the start of the
// service makes the master run it.
TEST_F(MasterCfConformance, WorkersOfTheStockMasterGetTheArgumentsThatWeWouldGive) {
  auto instance = StockInstance::Create();
  ASSERT_TRUE(instance.ok()) << instance.status();
  const std::string script = scratch_.WriteFile(
      "dump",
      "#!/bin/sh\n{ for a; do printf '%s\\n' \"$a\"; done; echo END; } >\"argv.$2\"\n"
      "exec /bin/sleep 1000\n");
  ASSERT_TRUE((*instance)->AddProgram("dump", script).ok());
  const char* const kFields[] = {
      "unix - - n 1000 - dump",
      "unix - n n 1000 7 dump -o a=b",
      "unix n - y 1000 2 dump -o { a = b c } last",
      "unix - - n 1000 - dump {}  { }  {x}",
      "unix - - n 1000 - dump {{a} {b c}} d{e  f}g",
      "unix - - n 1000 - dump a} b{ c d",
      "unix - - n 1000 - dump \"a b\" \\ $x ${y z} 'q q'",
      "fifo n - n 1000 - dump # not a comment",
      "unix - - n 1000 - dump\n  -o continued=1\n# comment\n\n\t{ two  words }",
      "pass n - n 1000 1000 dump -v -v",
  };
  std::vector<std::string> lines;
  for (size_t i = 0; i < std::size(kFields); ++i) {
    lines.push_back(absl::StrCat("e", i, " ", kFields[i]));
    (*instance)->SetService(lines.back());
  }
  ASSERT_TRUE((*instance)->Start().ok());
  for (size_t i = 0; i < lines.size(); ++i) {
    const absl::StatusOr<MasterCf> table = ParseMasterCf("master.cf", lines[i], MasterCfOptions());
    ASSERT_TRUE(table.ok()) << table.status();
    const MasterCfEntry& entry = table->entries.at(0);
    WorkerArguments arguments;
    arguments.command = entry.command;
    arguments.service_name = entry.name;
    arguments.process_limit = entry.process_limit;
    arguments.transport = std::string(ServiceTypeName(entry.type));
    arguments.unprivileged = entry.unprivileged;
    arguments.chroot = entry.chroot;
    if (entry.type == ServiceType::kPass) arguments.stress = false;
    arguments.configured = entry.arguments;
    std::vector<std::string> expected = BuildWorkerArguments(arguments);
    expected.erase(expected.begin());
    expected.push_back("END\n");
    const std::string dump = absl::StrCat((*instance)->queue_directory(), "/argv.e", i);
    ASSERT_TRUE(
        Eventually(absl::Seconds(60), [&] { return absl::EndsWith(ReadFile(dump), "END\n"); }))
        << lines[i] << (*instance)->Log();
    EXPECT_EQ(ReadFile(dump), absl::StrJoin(expected, "\n")) << lines[i];
  }
}

// --- Where posthouse differs on purpose ---

TEST_F(MasterCfConformance, Difference_F105_F113_F115_F91_WeRefuseWhatTheStockMasterTakes) {
  const std::vector<std::string> tables = {
      "",                                                                    // F105
      "a unix - - n - 4294967297 smtp\n",                                    // F113
      "../public/a unix - - n - - smtp\n",                                   // F115
      "a unix - - n - - ../sbin/smtp\n",                                     // F115
      "a unix - - n - - /bin/true\n",                                        // F115
      "18925 inet n - n - - smtpd\n127.0.0.1:18925 inet n - n - - smtpd\n",  // F91
  };
  const std::vector<bool> stock = StockAccepts(tables);
  for (size_t i = 0; i < tables.size(); ++i) {
    EXPECT_TRUE(stock[i]) << tables[i];
    EXPECT_FALSE(Ours(tables[i]).ok()) << tables[i];
  }
}

}  // namespace
}  // namespace posthouse::conformance

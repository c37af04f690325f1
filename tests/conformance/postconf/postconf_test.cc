// Does posthouse read main.cf as stock Postfix does?
//
// Every file of corpus/ and Debian's own is read by both sides. Raw values are compared with those
// of "postconf -h", expanded ones of names that are not built in with "postconf -xh", and all that
// a daemon sees with the greeting of a stock smtpd. Where postconf and the daemons differ, the
// daemons decide; those differences have tests of their own at the end.

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
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
#include "absl/types/optional.h"
#include "gtest/gtest.h"
#include "posthouse/config/expand.h"
#include "posthouse/config/generic_parameters.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/config/misspelling.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/conformance/postconf/stock_tools.h"

namespace posthouse::conformance {
namespace {

constexpr char kFolder[] = "tests/conformance/postconf/";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

std::vector<std::string> FilesIn(const std::string& folder) {
  std::vector<std::string> files;
  DIR* directory = opendir(folder.c_str());
  EXPECT_NE(directory, nullptr) << folder;
  if (directory == nullptr) return files;
  while (const dirent* entry = readdir(directory)) {
    if (absl::EndsWith(entry->d_name, ".cf")) files.push_back(folder + "/" + entry->d_name);
  }
  closedir(directory);
  std::sort(files.begin(), files.end());
  return files;
}

bool CanBeReferenced(absl::string_view name) {
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

// postconf prints every run of blanks, tabs and carriage returns as one blank, and none at the
// ends.
std::string AsPostconfPrints(absl::string_view value) {
  return absl::StrJoin(absl::StrSplit(value, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty()), " ");
}

// What posthouse makes of a main.cf, as a worker named smtpd with these checks.
struct Ours {
  ParameterStore store;
  GenericParameters generic;
  std::vector<std::string> warnings;
  absl::Status status;
};

Ours LoadOurs(absl::string_view main_cf) {
  Ours ours;
  // The directory is the one thing that differs between runs, so nothing compares it here.
  SetProcessParameters({.process_name = "smtpd", .service_name = "smtpd", .config_directory = ""},
                       &ours.store);
  ours.status = ParseMainCf("main.cf", main_cf, &ours.store, &ours.warnings);
  if (ours.status.ok()) {
    ours.status =
        LoadGenericParameters({.check_accounts = true}, &ours.store, &ours.generic, &ours.warnings);
  }
  return ours;
}

class Conformance : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "stock daemons are started as root";
    struct stat status;
    if (stat(kStockSmtpd, &status) != 0) GTEST_SKIP() << "stock Postfix is not installed";
    ASSERT_EQ(chmod(scratch_.path().c_str(), 0755), 0);
    stock_.emplace(scratch_.path());
  }

  // The names that a file sets and a reference can reach.
  std::vector<std::string> NamesOf(absl::string_view main_cf) {
    ParameterStore store;
    std::vector<std::string> warnings;
    const absl::Status parsed = ParseMainCf("main.cf", main_cf, &store, &warnings);
    EXPECT_TRUE(parsed.ok()) << parsed;
    std::vector<std::string> names;
    for (const std::string& name : store.Names()) {
      if (CanBeReferenced(name)) names.push_back(name);
    }
    return names;
  }

  // postconf knows a name that is not built in only if a built-in parameter refers to it.
  std::string WithNamesUsed(absl::string_view main_cf, const std::vector<std::string>& names) {
    std::string text = absl::StrCat(main_cf, "\nbounce_notice_recipient =");
    for (const std::string& name : names) {
      if (BuiltIn().count(name) == 0) absl::StrAppend(&text, " $", name);
    }
    return text + "\n";
  }

  void CompareRaw(const std::string& title, const std::string& main_cf) {
    SCOPED_TRACE(title);
    ParameterStore store;
    std::vector<std::string> warnings;
    ASSERT_TRUE(ParseMainCf("main.cf", main_cf, &store, &warnings).ok());
    // As postconf sees them, referred to by another parameter.
    std::vector<std::string> good;
    std::vector<std::string> bad;
    for (const std::string& name : NamesOf(main_cf)) {
      if (name == "process_id") continue;
      (Expand("$" + name, store).ok() ? good : bad).push_back(name);
    }
    CompareRawOfBadOnes(bad, store, main_cf);
    if (good.empty()) return;
    const std::string directory = stock_->MakeConfiguration(WithNamesUsed(main_cf, good));
    const auto theirs = stock_->Postconf(directory, "-h", good);
    ASSERT_TRUE(theirs.has_value());
    for (size_t i = 0; i < good.size(); ++i) {
      EXPECT_EQ(AsPostconfPrints(store.Find(good[i])->value), (*theirs)[i]) << good[i];
    }
    values_compared_ += good.size();
  }

  // Some values that no daemon can expand are too much for postconf, too, although it was asked for
  // the raw text only; then it says nothing.
  void CompareRawOfBadOnes(const std::vector<std::string>& names, const ParameterStore& store,
                           const std::string& main_cf) {
    std::vector<Job> jobs;
    for (const std::string& name : names) {
      const std::string directory = stock_->MakeConfiguration(WithNamesUsed(main_cf, {name}));
      jobs.push_back({{kStockPostconf, "-c", directory, "-h", name}, {}});
    }
    const std::vector<Outcome> outcomes = RunAll(jobs, scratch_.path());
    for (size_t i = 0; i < names.size(); ++i) {
      if (outcomes[i].status != 0) continue;
      EXPECT_EQ(AsPostconfPrints(store.Find(names[i])->value) + "\n", outcomes[i].output)
          << names[i];
      ++values_compared_;
    }
  }

  void CompareExpanded(const std::string& title, const std::string& main_cf) {
    SCOPED_TRACE(title);
    ParameterStore store;
    std::vector<std::string> warnings;
    ASSERT_TRUE(ParseMainCf("main.cf", main_cf, &store, &warnings).ok());
    // postconf resolves the names of built-in parameters always, a daemon once they are loaded
    // (C41, CO6).
    for (const auto& [name, value] : Defaults()) store.DefineBuiltIn(name, value);
    std::vector<std::string> names;
    std::vector<std::string> ours;
    for (const std::string& name : NamesOf(main_cf)) {
      if (BuiltIn().count(name) != 0) continue;
      const absl::StatusOr<std::string> value = ExpandedValue(name, store);
      if (!value.ok() || !Expand("$" + name, store).ok()) continue;
      names.push_back(name);
      ours.push_back(*value);
    }
    if (names.empty()) return;
    const auto theirs =
        stock_->Postconf(stock_->MakeConfiguration(WithNamesUsed(main_cf, names)), "-xh", names);
    ASSERT_TRUE(theirs.has_value());
    for (size_t i = 0; i < names.size(); ++i) {
      EXPECT_EQ(AsPostconfPrints(ours[i]), (*theirs)[i]) << names[i];
    }
    values_compared_ += names.size();
  }

  // All names at once that posthouse can expand, and one smtpd for each that it cannot.
  void CompareWithSmtpd(const std::string& title, const std::string& main_cf) {
    SCOPED_TRACE(title);
    // A name whose value refers to the greeting is in a circle as soon as the greeting shows it.
    Ours ours = LoadOurs(stock_->WithSmtpdSettings(main_cf, "$smtpd_banner"));
    ASSERT_TRUE(ours.status.ok()) << ours.status;
    std::string good_banner = "$process_id|";
    std::vector<std::string> bad;
    for (const std::string& name : NamesOf(main_cf)) {
      if (name == "smtpd_banner" || name == "config_directory") continue;
      if (Expand(absl::StrCat("$", name), ours.store).ok()) {
        absl::StrAppend(&good_banner, "${", name, "}|");
        ++values_compared_;
      } else {
        bad.push_back(name);
      }
    }
    std::vector<std::string> runs = {stock_->WithSmtpdSettings(main_cf, good_banner)};
    for (const std::string& name : bad) {
      runs.push_back(stock_->WithSmtpdSettings(main_cf, absl::StrCat("$", name)));
    }
    const std::vector<absl::optional<std::string>> banners = stock_->Banners(runs);
    ASSERT_TRUE(banners[0].has_value()) << "smtpd refuses what posthouse reads";
    ours.store.SetReadOnly("process_id", banners[0]->substr(0, banners[0]->find('|')));
    const std::string our_banner = Expand(good_banner, ours.store).value();
    const size_t differs =
        std::mismatch(our_banner.begin(), our_banner.end(), banners[0]->begin(), banners[0]->end())
            .first -
        our_banner.begin();
    EXPECT_EQ(our_banner.substr(differs, 100), banners[0]->substr(differs, 100))
        << our_banner.substr(0, differs).substr(differs - std::min<size_t>(differs, 200));
    for (size_t i = 0; i < bad.size(); ++i) {
      EXPECT_FALSE(banners[i + 1].has_value())
          << bad[i] << " is " << *banners[i + 1]
          << " and not: " << ExpandedValue(bad[i], ours.store).status();
    }
    values_compared_ += bad.size();
  }

  // The names that postconf knows by itself.
  const std::set<std::string>& BuiltIn() {
    if (!built_in_.empty()) return built_in_;
    for (const auto& [name, value] : Defaults()) built_in_.insert(name);
    EXPECT_GT(built_in_.size(), 500u);
    return built_in_;
  }

  std::vector<std::pair<std::string, std::string>> Defaults() {
    const Job job = {{kStockPostconf, "-c", stock_->MakeConfiguration(""), "-d"}, {}};
    const Outcome outcome = RunAll({job}, scratch_.path()).front();
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    std::vector<std::pair<std::string, std::string>> defaults;
    for (absl::string_view line : absl::StrSplit(outcome.output, '\n', absl::SkipEmpty())) {
      Definition definition;
      EXPECT_TRUE(SplitDefinition(line, &definition).ok()) << line;
      defaults.emplace_back(definition.name, definition.value);
    }
    return defaults;
  }

  TempDir scratch_;
  absl::optional<StockTools> stock_;
  std::set<std::string> built_in_;
  size_t values_compared_ = 0;
};

TEST_F(Conformance, RawValuesAreThoseOfPostconf) {
  for (const std::string& file : FilesIn(absl::StrCat(kFolder, "corpus"))) {
    CompareRaw(file, ReadFile(file));
  }
  EXPECT_GT(values_compared_, 600u);
}

TEST_F(Conformance, ExpandedValuesAreThoseOfPostconf) {
  for (const std::string& file : FilesIn(absl::StrCat(kFolder, "corpus"))) {
    CompareExpanded(file, ReadFile(file));
  }
  EXPECT_GT(values_compared_, 500u);
}

TEST_F(Conformance, WhatADaemonSeesIsWhatSmtpdSees) {
  for (const std::string& file : FilesIn(absl::StrCat(kFolder, "corpus"))) {
    CompareWithSmtpd(file, ReadFile(file));
  }
  EXPECT_GT(values_compared_, 600u);
}

TEST_F(Conformance, DebiansOwnFilesAreReadAlike) {
  for (const char* file : {"/usr/share/postfix/main.cf.debian", "/usr/share/postfix/main.cf.dist",
                           "/etc/postfix/main.cf.proto"}) {
    const std::string main_cf = ReadFile(file);
    CompareRaw(file, main_cf);
  }
  const std::string main_cf = ReadFile("/usr/share/postfix/main.cf.debian");
  CompareWithSmtpd("main.cf.debian", main_cf);
  EXPECT_GT(values_compared_, 5u);
}

TEST_F(Conformance, AMainCfWithEveryDefaultSpelledOutIsReadAlike) {
  std::string main_cf;
  for (const auto& [name, value] : Defaults()) {
    // What the program sets itself (CO1), and the parameter that refers to all others here.
    if (name != "config_directory" && name != "process_name" && name != "bounce_notice_recipient" &&
        CanBeReferenced(name)) {
      absl::StrAppend(&main_cf, name, " = ", value, "\n");
    }
  }
  CompareRaw("postconf -d", main_cf);
  EXPECT_GT(values_compared_, 700u);
  CompareWithSmtpd("postconf -d", main_cf);
}

TEST_F(Conformance, FilesThatDaemonsRefuseAreRefused) {
  std::vector<std::string> runs;
  for (const std::string& file : FilesIn(absl::StrCat(kFolder, "refused"))) {
    const std::string main_cf = ReadFile(file);
    ParameterStore store;
    std::vector<std::string> warnings;
    EXPECT_FALSE(ParseMainCf("main.cf", main_cf, &store, &warnings).ok()) << file;
    runs.push_back(stock_->WithSmtpdSettings(main_cf, "x"));
  }
  ASSERT_GT(runs.size(), 5u);
  for (const auto& banner : stock_->Banners(runs)) EXPECT_FALSE(banner.has_value());
}

// The parameters that every daemon loads have the same defaults on both sides (C70).
TEST_F(Conformance, DefaultsAreThoseOfSmtpd) {
  const Ours ours = LoadOurs(stock_->WithSmtpdSettings("", "x"));
  ASSERT_TRUE(ours.status.ok()) << ours.status;
  Ours names = LoadOurs("");
  std::string banner;
  for (const Parameter* parameter : names.generic.All()) {
    // Loaded by the programs that use it, and smtpd is none of them.
    static const std::set<std::string>* const others =
        new std::set<std::string>{"application_event_drain_time", "default_process_limit",
                                  "process_id_directory", "command_time_limit"};
    if (others->count(parameter->name()) != 0) continue;
    absl::StrAppend(&banner, parameter->name(), "=$", parameter->name(), "|");
  }
  const auto banners = stock_->Banners({stock_->WithSmtpdSettings("", banner)});
  ASSERT_TRUE(banners[0].has_value());
  EXPECT_EQ(Expand(banner, ours.store).value(), *banners[0]);
}

TEST_F(Conformance, DefaultsAreThoseOfPostconf) {
  GenericParameters generic;
  const auto defaults = Defaults();
  for (const Parameter* parameter : generic.All()) {
    if (parameter->name() == "myhostname" || parameter->name() == "mydomain") continue;
    const auto found = std::find_if(defaults.begin(), defaults.end(), [&](const auto& entry) {
      return entry.first == parameter->name();
    });
    ASSERT_NE(found, defaults.end()) << parameter->name();
    EXPECT_EQ(parameter->DefaultText(), found->second) << parameter->name();
  }
}

// misspelling.h relies on it.
TEST_F(Conformance, F117_NoStockParameterIsOneEditFromOneThatEveryDaemonLoads) {
  GenericParameters generic;
  for (const Parameter* parameter : generic.All()) {
    for (const std::string& name : BuiltIn()) {
      EXPECT_FALSE(OneEditApart(name, parameter->name())) << name << " " << parameter->name();
    }
  }
}

// One setting, and whether a stock smtpd starts with it. The table says nothing about that: the two
// sides have to agree.
struct Setting {
  const char* name;
  std::vector<std::string> values;
};

std::vector<Setting> Settings() {
  const std::string label(63, 'x');
  std::string long_host;
  for (int i = 0; i < 5; ++i) absl::StrAppend(&long_host, std::string(49, 'x'), ".");
  return {
      {"ipc_timeout", {"2147483647", "2147483648", "2147483647s",
                       "35791393m",  "35791394m",  "596522h",
                       "596523h",    "24854d",     "24855d",
                       "3549w",      "3550w",      "4000w",
                       "10x",        "-5",         "10 s",
                       "",           "0",          "s",
                       "10sx",       "10hello",    "10ss",
                       "+5",         "+5s",        "0x10",
                       "010",        "1S",         "-0",
                       "- 5",        "${sp}5",     "5$sp",
                       "5s$sp",      "1.5h",       "99999999999999999999",
                       "${aa}",      "$five",      "${five}m"}},
      {"max_use",
       {"0",   "x",          "",           "10x",        "0x10",  "99999999999", "+5",     "-1",
        "010", "2147483647", "2147483648", "4294967297", "1?",    "?",           "${sp}5", "5$sp",
        "+",   "-",          "$sp",        "++5",        "$five", "$",           "${five"}},
      {"tcp_windowsize", {"-5", "-2147483648", "-2147483649"}},
      {"helpful_warnings",
       {"YES", "Yes", "yEs", "1", "maybe", "", "no", "NO", "true", "${sp}yes", "yes$sp", "y"}},
      {"in_flow_delay", {"11", "10", "0", "10s", "11s", "-1", "1m"}},
      {"max_idle", {"10", "10m", "1w", "10x", "-5", "10 s", "", "4000w", "0", "s"}},
      {"line_length_limit", {"100", "511", "512"}},
      {"myhostname",
       {"",
        "a",
        "a.b",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "1.2.3.4",
        "123",
        "a_b",
        "a b",
        "\xc3\xa4",
        label,
        label + "x",
        label + "." + label,
        long_host + "yyyyy",
        long_host + "yyyyyy",
        "a/b",
        "[1.2.3.4]",
        "A.B",
        "a.1",
        "1a",
        "xn--a",
        "a.-b",
        "a.b-",
        "_a",
        "1-2.3-4",
        "$five"}},
      {"mydomain", {"", "a", "-a", "a.", "1.2.3.4", "1", "b.c"}},
      {"syslog_facility", {"mail", "MAIL", "local7", "local8", "kern",     "authpriv", "x",
                           "",     "$sp",  "mark",   "uucp",   "security", "cron",     "ftp",
                           "news", "lpr",  "auth",   "daemon", "user",     "syslog"}},
      {"inet_protocols",
       {"all", "ALL", "ipv4", "IPv4", "ipv4, ipv6", "ipv4 ipv6", "all,ipv4", "", "x", "ipv4,,ipv6",
        ",", "ipv4;ipv6", "all\n\tipv4"}},
      {"compatibility_level",
       {"", "x", "3", "3.6", "3.6.0", "3.1024", "3.1023", "9999", "-1", "3.+6", "3. 6", "3.-1",
        "$sp", "3.6x", "${sp}3", "8796093022207", "8796093022208"}},
      {"myorigin", {"a b", "a", "", "a,b", "$sp"}},
      {"relayhost", {"h.example.com", "H.EXAMPLE.COM", "[h.example.com]", "x", ""}},
      {"default_verp_delimiters", {"+=", "+", "+=-", "ab", "++", "", "-="}},
      {"syslog_name", {"", "x"}},
      {"data_directory", {"", "/nonexistent"}},
      {"daemon_directory", {"", "/nonexistent"}},
      {"command_directory", {""}},
      {"process_id_directory", {"", "x"}},
      {"queue_directory", {""}},
      {"maillog_file_prefixes", {"", "/x"}},
      {"postlog_service_name", {"", "x"}},
      {"maillog_file", {"/tmp/x", "x", "/dev/stdout", "/var/nonexistent/x"}},
      {"mail_owner", {"", "root", "no-such-user", "nobody", "daemon", "mail"}},
      {"default_privs", {"", "root", "postfix", "no-such-user", "daemon"}},
      {"setgid_group", {"", "root", "postfix", "no-such-group", "nogroup", "mail"}},
      {"known_tcp_ports", {"x", "a=1", "a=b=c", "=", "a=", "a=1,a=2", ""}},
      {"import_environment", {"", "x", "{ a = b }", "{a"}},
      {"export_environment", {"", "{a"}},
      {"multi_instance_name", {"", "x"}},
      {"inet_interfaces", {"", "all", "loopback-only", "127.0.0.1"}},
      {"mydestination", {"", "$"}},
      {"daemon_timeout", {"0", "3", "3s"}},
      {"stress", {"yes", "$"}},
      {"fork_attempts", {"0", "1"}},
      {"fork_delay", {"0", "1"}},
      {"ipc_idle", {"0", "1"}},
      {"ipc_ttl", {"0", "1"}},
      {"mail_name", {"", "x"}},
      {"mail_version", {"", "x"}},
      {"config_directory", {"", "/nonexistent"}},
      {"no_such_parameter", {"$", ""}},
  };
}

constexpr char kSettingsBefore[] =
    "myhostname = h.example.com\nempty =\nsp = ${empty: }\nfive = 5\naa = A\n";

TEST_F(Conformance, C81_WhatDaemonsRefuseIsRefusedAndNothingElse) {
  std::vector<std::string> runs;
  std::vector<std::string> titles;
  for (const Setting& setting : Settings()) {
    for (const std::string& value : setting.values) {
      titles.push_back(absl::StrCat(setting.name, " = ", value));
      runs.push_back(
          absl::StrCat(stock_->WithSmtpdSettings(kSettingsBefore, "x"), titles.back(), "\n"));
    }
  }
  const std::vector<absl::optional<std::string>> banners = stock_->Banners(runs);
  for (size_t i = 0; i < runs.size(); ++i) {
    const absl::Status ours = LoadOurs(runs[i]).status;
    EXPECT_EQ(ours.ok(), banners[i].has_value()) << titles[i] << ": " << ours;
  }
}

// Random texts over the alphabet of references. Those that posthouse can expand are shown by few
// daemons; each of the others needs a daemon of its own.
std::string RandomText(std::mt19937* random, int depth) {
  static const char* const kPieces[] = {
      "$",  "$$", "${", "}",     "$(",    ")",     "{",  "}", "?",   ":",
      " ",  "aa", "bb", "empty", "undef", "==",    "!=", "<", "<=",  ">",
      ">=", "=",  "9",  "10",    "3.6",   "level", "x",  "-", "$aa", "${aa}"};
  const auto pick = [&](int count) { return static_cast<int>((*random)() % count); };
  const auto inner = [&] { return depth == 0 ? std::string("k") : RandomText(random, depth - 1); };
  static const char* const kNames[] = {"aa", "bb", "empty", "undef", "raw", ""};
  static const char* const kBlanks[] = {"", "", " ", "\t"};
  static const char* const kOperators[] = {"==", "!=", "<", "<=", ">", ">=", "<=level", "==level"};
  const auto name = [&] { return kNames[pick(pick(8) == 0 ? 6 : 5)]; };
  const auto blank = [&] { return kBlanks[pick(4)]; };
  std::string text;
  for (int part = pick(3); part >= 0; --part) {
    switch (pick(10)) {
      case 0:
        absl::StrAppend(&text, kPieces[pick(std::size(kPieces))]);
        break;
      case 1:
      case 2:
        absl::StrAppend(&text, "$", name());
        break;
      case 3:
        absl::StrAppend(&text, "$(", blank(), name(), blank(), ")");
        break;
      case 4:
        absl::StrAppend(&text, "${", blank(), name(), blank(), pick(2) ? "?" : ":", inner(), "}");
        break;
      case 5:
        absl::StrAppend(&text, "${", name(), blank(), pick(2) ? "?" : ":", blank(), "{", inner(),
                        "}", blank(), "}");
        break;
      case 6:
        absl::StrAppend(&text, "${", name(), "?", blank(), "{", inner(), "}", blank(), ":");
        absl::StrAppend(&text, blank(), pick(3) ? "{" + inner() + "}" : inner(), blank(), "}");
        break;
      case 7:
        absl::StrAppend(&text, "${", blank(), "{", inner(), "}", blank(), kOperators[pick(8)],
                        blank(), "{", inner(), "}");
        absl::StrAppend(&text, blank(), pick(2) ? "" : "?{" + inner() + "}:{" + inner() + "}", "}");
        break;
      default:
        absl::StrAppend(&text, pick(2) ? "k" : "7");
    }
  }
  return text;
}

TEST_F(Conformance, RandomReferencesMeanTheSameToSmtpd) {
  const bool full = std::getenv("POSTHOUSE_FULL") != nullptr;
  const size_t good_wanted = full ? 20000 : 2000;
  const size_t bad_wanted = full ? 2000 : 96;
  constexpr size_t kPerDaemon = 200;
  const std::string before = "aa = A\nbb = $aa-9\nempty =\nraw = $empty\n";
  ParameterStore store;
  std::vector<std::string> warnings;
  ASSERT_TRUE(ParseMainCf("main.cf", before, &store, &warnings).ok());
  std::mt19937 random(20);
  std::vector<std::string> good;
  std::vector<std::string> bad;
  while (good.size() < good_wanted || bad.size() < bad_wanted) {
    const std::string text = RandomText(&random, 3);
    const bool fine = Expand(text, store).ok();
    if (fine && good.size() < good_wanted) good.push_back(text);
    if (!fine && bad.size() < bad_wanted) bad.push_back(text);
  }
  std::vector<std::string> runs;
  std::vector<std::string> expected;
  for (size_t start = 0; start < good.size(); start += kPerDaemon) {
    std::string banner = "[";
    for (size_t i = start; i < std::min(good.size(), start + kPerDaemon); ++i) {
      absl::StrAppend(&banner, good[i], "|");
    }
    banner += "]";
    runs.push_back(stock_->WithSmtpdSettings(before, banner));
    expected.push_back(Expand(banner, store).value());
  }
  for (const std::string& text : bad) {
    runs.push_back(stock_->WithSmtpdSettings(before, absl::StrCat("[", text, "]")));
  }
  const std::vector<absl::optional<std::string>> banners = stock_->Banners(runs);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(banners[i].has_value()) << "smtpd refuses some of " << runs[i];
    EXPECT_EQ(expected[i], *banners[i]);
  }
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_FALSE(banners[expected.size() + i].has_value())
        << bad[i] << " means " << *banners[expected.size() + i]
        << " to smtpd, and here: " << Expand(bad[i], store).status();
  }
}

// --- Where posthouse differs from stock daemons on purpose ---

TEST_F(Conformance, Difference_CO1_OnlyInStockDoesMainCfChangeTheProcessName) {
  const std::string main_cf = stock_->WithSmtpdSettings(
      "process_name = other\nservice_name = other\n", "$process_name $service_name");
  EXPECT_EQ(stock_->Banners({main_cf})[0], "other smtpd");
  EXPECT_EQ(Expand("$process_name $service_name", LoadOurs(main_cf).store).value(), "smtpd smtpd");
}

TEST_F(Conformance, Difference_CO3_StockExpandsADefaultWithADollarSignTwice) {
  // syslog_name's default takes multi_instance_name, whose value is "$five" after one expansion.
  const std::string main_cf =
      stock_->WithSmtpdSettings("five = 5\nmulti_instance_name = $$five\n", "${syslog_name}");
  EXPECT_EQ(stock_->Banners({main_cf})[0], "5");
  EXPECT_EQ(Expand("$syslog_name", LoadOurs(main_cf).store).value(), "$five");
}

TEST_F(Conformance, Difference_S1_ADaemonTimeoutBelow3IsRefusedAtOnceAndNotAtTheFirstWait) {
  const std::string main_cf = stock_->WithSmtpdSettings("daemon_timeout = 2\n", "x");
  EXPECT_TRUE(stock_->Banners({main_cf})[0].has_value());
  EXPECT_FALSE(LoadOurs(main_cf).status.ok());
}

TEST_F(Conformance, Difference_C67_AddressesOfOthersAreNotEvaluated) {
  const std::string main_cf =
      absl::StrCat(stock_->WithSmtpdSettings("", "x"), "inet_interfaces = 192.0.2.1\n");
  EXPECT_FALSE(stock_->Banners({main_cf})[0].has_value());
  EXPECT_TRUE(LoadOurs(main_cf).status.ok());
}

TEST_F(Conformance, Difference_F110_ComparisonsCountAsDepthAndACircleThroughOneIsNoCrash) {
  std::string text = "x";
  for (int i = 0; i < 110; ++i) text = absl::StrCat("${{", text, "} == {true} ? {x}}");
  const std::string deep = stock_->WithSmtpdSettings("", "[" + text + "]");
  const std::string circle = stock_->WithSmtpdSettings("circle = ${{$circle} == {x}}\n", "$circle");
  const auto banners = stock_->Banners({deep, circle});
  EXPECT_EQ(banners[0], "[]");
  EXPECT_FALSE(banners[1].has_value());
  EXPECT_FALSE(Expand("$smtpd_banner", LoadOurs(deep).store).ok());
  EXPECT_TRUE(
      absl::StrContains(Expand("$circle", LoadOurs(circle).store).status().message(), "circle"));
}

}  // namespace
}  // namespace posthouse::conformance

// The configuration of a master: configuration.h, service_table.h, inet_name.h, inet_resolver.h,
// interfaces.h, known_ports.h, programs.h; M15, M16, M34, M38 to M52, M54, M79, M95, M112, C63,
// C66, C67, C73, C75, C76, F63, F67, F91, F92, F100, F104 to F106, F115 to F117. Names are what the
// test says they are, and so is the time.

#include "posthouse/master/configuration.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <random>
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
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/master/inet_name.h"
#include "posthouse/master/inet_resolver.h"
#include "posthouse/master/known_ports.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

// Plays the resolver: hosts have the addresses of a table, ports are those of /etc/services or
// numbers.
class Names {
 public:
  void Set(const std::string& host, std::vector<std::string> addresses) {
    hosts_[host] = std::move(addresses);
  }

  int Answer(const char* host, const char* port, const addrinfo* hints, addrinfo** out) {
    if (host == nullptr) return AnswerPort(port, hints, out);
    ++look_ups_;
    const auto found = hosts_.find(host);
    if (found == hosts_.end()) return EAI_NONAME;
    addrinfo** tail = out;
    *out = nullptr;
    for (const std::string& address : found->second) {
      addrinfo numeric = *hints;
      numeric.ai_flags = AI_NUMERICHOST;
      if (getaddrinfo(address.c_str(), nullptr, &numeric, tail) == 0) tail = &(*tail)->ai_next;
    }
    return *out == nullptr ? EAI_NONAME : 0;
  }

  int look_ups() const { return look_ups_; }

 private:
  static int AnswerPort(const std::string& port, const addrinfo* hints, addrinfo** out) {
    const std::map<std::string, std::string> ports = {{"smtp", "25"}, {"http", "80"}};
    const auto found = ports.find(port);
    if (found == ports.end()) return EAI_SERVICE;
    return getaddrinfo(nullptr, found->second.c_str(), hints, out);
  }

  std::map<std::string, std::vector<std::string>> hosts_;
  int look_ups_ = 0;
};

class Configuration : public testing::Test {
 protected:
  Configuration() {
    system_->SetResolver([this](const char* host, const char* port, const addrinfo* hints,
                                addrinfo** out) { return names_.Answer(host, port, hints, out); });
    chmod(dir_.path().c_str(), 0755);
    mkdir(Daemons().c_str(), 0755);
    for (const char* program : {"smtpd", "pickup", "c"}) AddProgram(program);
    options_.config_directory = dir_.path();
    options_.quiet = absl::ZeroDuration();
    options_.current_environment = {"TZ=UTC", "PATH=/bin", "MAIL_CONFIG=/c", "LD_PRELOAD=x"};
  }

  std::string Daemons() const { return dir_.Path("libexec"); }
  std::string MainCf() const { return dir_.Path("main.cf"); }
  std::string MasterCf() const { return dir_.Path("master.cf"); }

  void AddProgram(const std::string& name) {
    const std::string path = dir_.WriteFile(absl::StrCat("libexec/", name), "#!/bin/false\n");
    ASSERT_EQ(chmod(path.c_str(), 0755), 0);
  }

  void Write(const std::string& name, absl::string_view text) {
    const std::string path = dir_.WriteFile(name, text);
    ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  }

  std::string MainCfText() const {
    return absl::StrCat("queue_directory = ", dir_.Path("q"), "\ndata_directory = ", dir_.Path("d"),
                        "\ndaemon_directory = ", Daemons(),
                        "\ncompatibility_level = 3.6\nmail_owner = daemon\nsetgid_group = mail\n",
                        "myhostname = host.example.com\n", more_);
  }

  // With `more_` behind what every configuration here has.
  absl::StatusOr<MasterConfiguration> Load(absl::string_view master_cf) {
    Write("main.cf", MainCfText());
    Write("master.cf", master_cf);
    return LoadMasterConfiguration(options_);
  }

  MasterConfiguration Good(absl::string_view master_cf) {
    absl::StatusOr<MasterConfiguration> loaded = Load(master_cf);
    EXPECT_THAT(loaded.status(), IsOk()) << master_cf;
    return loaded.ok() ? *std::move(loaded) : MasterConfiguration();
  }

  std::vector<std::string> Problems(absl::string_view master_cf) {
    const absl::StatusOr<MasterConfiguration> loaded = Load(master_cf);
    EXPECT_THAT(loaded.status(), StatusIs(StatusCode::kInvalidArgument)) << master_cf;
    return absl::StrSplit(loaded.status().message(), '\n');
  }

  // The only service of a good table.
  ServiceConfiguration One(absl::string_view master_cf) {
    const MasterConfiguration loaded = Good(master_cf);
    EXPECT_THAT(loaded.services, SizeIs(1)) << master_cf;
    return loaded.services.empty() ? ServiceConfiguration() : loaded.services.front();
  }

  ServiceConfiguration Inet(absl::string_view name) {
    return One(absl::StrCat(name, " inet n - n - - smtpd\n"));
  }

  std::string InetProblem(absl::string_view name) {
    const std::vector<std::string> problems =
        Problems(absl::StrCat(name, " inet n - n - - smtpd\n"));
    EXPECT_THAT(problems, SizeIs(1)) << name;
    return problems.front();
  }

  // A reload after `first`.
  absl::StatusOr<MasterConfiguration> Reload(const MasterConfiguration& first,
                                             absl::string_view master_cf) {
    options_.running = &first;
    absl::StatusOr<MasterConfiguration> next = Load(master_cf);
    options_.running = nullptr;
    return next;
  }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  Names names_;
  ConfigurationOptions options_;
  std::string more_;
};

std::vector<std::string> Texts(const ServiceConfiguration& service) {
  std::vector<std::string> texts;
  for (const InetEndpoint& endpoint : service.endpoints) texts.push_back(endpoint.text);
  return texts;
}

constexpr char kOne[] = "a unix - - n - - c\n";

// --- The whole ---

TEST_F(Configuration, ThreeLinesAndATableAreEnoughForAMasterThatIsNotRoot) {
  options_.root = false;
  Write("main.cf", absl::StrCat("queue_directory = ", dir_.Path("q"), "\ndata_directory = ",
                                dir_.Path("d"), "\ndaemon_directory = ", Daemons(), "\n"));
  Write("master.cf", kOne);
  const absl::StatusOr<MasterConfiguration> loaded = LoadMasterConfiguration(options_);
  ASSERT_THAT(loaded.status(), IsOk());
  EXPECT_EQ(loaded->owner_uid, geteuid());
  EXPECT_EQ(loaded->owner_gid, getegid());
  EXPECT_EQ(loaded->queue_directory, dir_.Path("q"));
  ASSERT_THAT(loaded->services, SizeIs(1));
  EXPECT_EQ(loaded->services[0].program, absl::StrCat(Daemons(), "/c"));
  EXPECT_EQ(loaded->services[0].place, absl::StrCat(MasterCf(), ", line 1"));
}

TEST_F(Configuration, M15_TheParametersOfTheMasterAreLoaded) {
  EXPECT_EQ(Good(kOne).service_throttle_seconds, 60);
  more_ = "service_throttle_time = 2m\nmaster_service_disable = a/unix\ndebugger_command = x\n";
  const MasterConfiguration loaded = Good(kOne);
  EXPECT_EQ(loaded.service_throttle_seconds, 120);
  EXPECT_THAT(loaded.services, IsEmpty());
  EXPECT_EQ(loaded.debugger_command, "x");
  more_ = "service_throttle_time = 0\n";
  EXPECT_THAT(Problems(kOne), ElementsAre(HasSubstr("service_throttle_time")));
}

TEST_F(Configuration, F100_ProblemsOfBothFilesComeTogetherWithFileAndLine) {
  more_ = "max_use = x\nnot a definition\n";
  const std::vector<std::string> problems = Problems("a unix - - n - x c\nb tcp\n");
  EXPECT_THAT(problems, Contains(HasSubstr(absl::StrCat(MainCf(), ", line 9: "))));
  EXPECT_THAT(problems, Contains(HasSubstr("max_use")));
  EXPECT_THAT(problems, Contains(HasSubstr(absl::StrCat(MasterCf(), ", line 1: "))));
  EXPECT_THAT(problems, Contains(HasSubstr(absl::StrCat(MasterCf(), ", line 2: "))));
}

TEST_F(Configuration, MO2_LoadingOpensNothingButTheTwoFilesAndChangesNothing) {
  system_->Record();
  Good("smtp inet n - n - - smtpd\na unix - - n - - c\nb fifo n - n - - c\n");
  int opens = 0;
  for (const CallRecord& record : system_->Records()) {
    opens += record.call == SystemCall::kOpen ? 1 : 0;
    for (SystemCall changing : {SystemCall::kBind, SystemCall::kListen, SystemCall::kUnlink,
                                SystemCall::kChdir, SystemCall::kUmask, SystemCall::kWrite}) {
      EXPECT_NE(record.call, changing) << SystemCallName(changing);
    }
  }
  EXPECT_EQ(opens, 2);
  struct stat status;
  EXPECT_NE(stat(dir_.Path("q").c_str(), &status), 0);
}

TEST_F(Configuration, M27_TheParametersAloneNeedNoTable) {
  Write("main.cf", MainCfText());
  const absl::StatusOr<MasterConfiguration> loaded = LoadMasterParameters(options_);
  ASSERT_THAT(loaded.status(), IsOk());
  EXPECT_EQ(loaded->queue_directory, dir_.Path("q"));
  EXPECT_THAT(LoadMasterConfiguration(options_).status(),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr(MasterCf())));
}

// --- Files ---

TEST_F(Configuration, F104_WhatIsNoReadableFileOfModestSizeIsRefusedByName) {
  for (const std::string& name : {MainCf(), MasterCf()}) {
    Load(kOne).status().IgnoreError();
    ASSERT_EQ(unlink(name.c_str()), 0);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr(name)));
    ASSERT_EQ(mkfifo(name.c_str(), 0644), 0);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(),
                StatusIs(StatusCode::kInvalidArgument,
                         HasSubstr(absl::StrCat(name, ": not a regular file"))));
    ASSERT_EQ(unlink(name.c_str()), 0);
    ASSERT_EQ(mkdir(name.c_str(), 0755), 0);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
    ASSERT_EQ(rmdir(name.c_str()), 0);
    ASSERT_EQ(symlink("/dev/zero", name.c_str()), 0);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
    ASSERT_EQ(unlink(name.c_str()), 0);
    Load(kOne).status().IgnoreError();
    ASSERT_EQ(truncate(name.c_str(), int64_t{10} << 30), 0);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("10737418240 bytes")));
  }
}

TEST_F(Configuration, F105_AFileThatWasChangedAMomentAgoIsUnavailableToWhoMustNotSleep) {
  system_->UseFakeClock(ClockMode::kManual);
  const auto touch = [](const std::string& path, int64_t ns_after_start) {
    const timespec when = {Interposer::kFakeWallStart + ns_after_start / 1000000000,
                           ns_after_start % 1000000000};
    const timespec times[2] = {when, when};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  };
  Load(kOne).status().IgnoreError();
  options_.quiet = absl::Milliseconds(250);
  options_.wait = false;
  system_->Advance(absl::Seconds(10));
  for (const std::string& name : {MainCf(), MasterCf()}) {
    touch(MainCf(), 0);
    touch(MasterCf(), 0);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(), IsOk());
    touch(name, 9'760'000'000);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(),
                StatusIs(StatusCode::kUnavailable, HasSubstr(name)));
    touch(name, 9'750'000'000);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(), IsOk());
    touch(name, 11'000'000'000);  // Nobody could wait for a date in the future.
    EXPECT_THAT(LoadMasterConfiguration(options_).status(), IsOk());
  }
  touch(MainCf(), 9'999'000'000);
  touch(MasterCf(), 0);
  options_.wait = true;
  EXPECT_THAT(LoadMasterConfiguration(options_).status(), IsOk());
  EXPECT_EQ(system_->Count(SystemCall::kNanosleep), 1);
}

TEST_F(Configuration, F105_ATruncatedTableIsAnErrorUnlessItIsMeant) {
  EXPECT_THAT(Problems(""), ElementsAre(HasSubstr(absl::StrCat(MasterCf(), ", line 1: no entry"))));
  EXPECT_THAT(Problems("# nothing\n"), SizeIs(1));
  more_ = "master_allow_empty_table = yes\n";
  EXPECT_THAT(Good("").services, IsEmpty());
}

TEST_F(Configuration, F116_RootRefusesWhatOthersCanWrite) {
  Load(kOne).status().IgnoreError();
  for (const std::string& path : {MainCf(), MasterCf(), dir_.path()}) {
    struct stat old;
    ASSERT_EQ(stat(path.c_str(), &old), 0);
    for (mode_t mode : {0775, 0757, 0777}) {
      ASSERT_EQ(chmod(path.c_str(), mode), 0);
      EXPECT_THAT(
          LoadMasterConfiguration(options_).status(),
          StatusIs(StatusCode::kInvalidArgument, HasSubstr(absl::StrCat(path, ": writable"))));
    }
    options_.allow_unsafe_owner = true;
    absl::StatusOr<MasterConfiguration> loaded = LoadMasterConfiguration(options_);
    ASSERT_THAT(loaded.status(), IsOk());
    EXPECT_THAT(loaded->warnings, Contains(HasSubstr(absl::StrCat(path, ": writable"))));
    options_.allow_unsafe_owner = false;
    options_.root = false;
    loaded = LoadMasterConfiguration(options_);
    ASSERT_THAT(loaded.status(), IsOk());
    EXPECT_THAT(loaded->warnings, Contains(HasSubstr(absl::StrCat(path, ": writable"))));
    options_.root = true;
    ASSERT_EQ(chmod(path.c_str(), old.st_mode & 07777), 0);
  }
  EXPECT_THAT(LoadMasterConfiguration(options_).status(), IsOk());
}

TEST_F(Configuration, F116_RootRefusesTheFilesOfAnotherAccount) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  Load(kOne).status().IgnoreError();
  for (const std::string& path : {MainCf(), MasterCf()}) {
    ASSERT_EQ(chown(path.c_str(), 65534, 0), 0);
    EXPECT_THAT(LoadMasterConfiguration(options_).status(),
                StatusIs(StatusCode::kInvalidArgument,
                         HasSubstr(absl::StrCat(path, ": owned by user 65534"))));
    ASSERT_EQ(chown(path.c_str(), 0, 0), 0);
  }
}

// --- Programs ---

TEST_F(Configuration, M38_AProgramThatIsNotThereIsAWarning) {
  const MasterConfiguration loaded = Good("a unix - - n - - later\nb unix - - n - - later\n");
  EXPECT_THAT(loaded.services, SizeIs(2));
  EXPECT_THAT(loaded.warnings, ElementsAre(AllOf(HasSubstr("line 1"), HasSubstr("libexec/later"))));
  more_ = "daemon_directory = /nowhere\n";
  EXPECT_THAT(Good(kOne).warnings, Contains(HasSubstr("/nowhere")));
}

TEST_F(Configuration, F115_ProgramsThatOthersCanChangeAreRefused) {
  ASSERT_EQ(chmod(absl::StrCat(Daemons(), "/c").c_str(), 0775), 0);
  EXPECT_THAT(Problems(kOne),
              ElementsAre(AllOf(HasSubstr("line 1"), HasSubstr("libexec/c: writable"))));
  ASSERT_EQ(chmod(absl::StrCat(Daemons(), "/c").c_str(), 0755), 0);
  ASSERT_EQ(chmod(Daemons().c_str(), 0777), 0);
  EXPECT_THAT(Problems(kOne), ElementsAre(HasSubstr("parameter daemon_directory")));
  options_.root = false;
  EXPECT_THAT(Good(kOne).warnings, Contains(HasSubstr("daemon_directory")));
  options_.root = true;
  ASSERT_EQ(chmod(Daemons().c_str(), 0755), 0);
  if (geteuid() == 0) {
    ASSERT_EQ(chown(absl::StrCat(Daemons(), "/c").c_str(), 65534, 0), 0);
    EXPECT_THAT(Problems(kOne), ElementsAre(HasSubstr("libexec/c: owned by user 65534")));
  }
  ASSERT_EQ(mkdir(absl::StrCat(Daemons(), "/x").c_str(), 0755), 0);
  EXPECT_THAT(Problems("a unix - - n - - x\n"), ElementsAre(HasSubstr("not a regular file")));
}

TEST_F(Configuration, F115_ALinkMayLeadToAProgramOfTheSameDirectoryOnly) {
  ASSERT_EQ(symlink("c", absl::StrCat(Daemons(), "/inside").c_str()), 0);
  ASSERT_EQ(symlink("inside", absl::StrCat(Daemons(), "/twice").c_str()), 0);
  ASSERT_EQ(symlink("/bin/sh", absl::StrCat(Daemons(), "/outside").c_str()), 0);
  ASSERT_EQ(symlink("outside", absl::StrCat(Daemons(), "/detour").c_str()), 0);
  EXPECT_THAT(Good("a unix - - n - - inside\nb unix - - n - - twice\n").warnings, IsEmpty());
  for (const char* link : {"outside", "detour"}) {
    EXPECT_THAT(Problems(absl::StrCat("a unix - - n - - ", link, "\n")),
                ElementsAre(AllOf(HasSubstr("line 1"), HasSubstr("symbolic link"))));
  }
  more_ = "master_allow_program_links = yes\n";
  EXPECT_THAT(Good("a unix - - n - - outside\n").warnings, IsEmpty());
}

// --- Accounts ---

TEST_F(Configuration, M56_TheOwnerIsMailOwner) {
  const MasterConfiguration loaded = Good(kOne);
  EXPECT_EQ(loaded.owner_name, "daemon");
  EXPECT_EQ(loaded.owner_uid, 1u);
  EXPECT_EQ(loaded.owner_gid, 1u);
}

TEST_F(Configuration, F63_UnknownAndPrivilegedAccountsAreRefusedForRoot) {
  more_ = "mail_owner = nosuchuser\n";
  EXPECT_THAT(Problems(kOne), Each(HasSubstr("mail_owner")));
  more_ = "mail_owner = root\n";
  EXPECT_THAT(Problems(kOne), Contains(HasSubstr("mail_owner")));
  more_ = "default_privs = root\n";
  EXPECT_THAT(Problems(kOne), Contains(HasSubstr("default_privs")));
  options_.root = false;
  EXPECT_THAT(Good(kOne).services, SizeIs(1));
}

// --- Names and identity ---

TEST_F(Configuration, M44_TheInternalNameOfALocalServiceIsItsPath) {
  const MasterConfiguration loaded = Good(
      "a unix - - n - - c\na fifo n - n - - c\nb pass n - n - - c\nd/e unix-dgram - - n - - c\n");
  ASSERT_THAT(loaded.services, SizeIs(4));
  EXPECT_EQ(ServiceKey(loaded.services[0]), "private/a unix");
  EXPECT_EQ(ServiceKey(loaded.services[1]), "public/a fifo");
  EXPECT_EQ(ServiceKey(loaded.services[2]), "public/b pass");
  EXPECT_EQ(ServiceKey(loaded.services[3]), "private/d/e unix-dgram");
  EXPECT_EQ(loaded.services[3].path, "private/d/e");
  EXPECT_THAT(loaded.services[3].endpoints, IsEmpty());
}

TEST_F(Configuration, M45_TheInternalNameOfAnInetServiceHasNumbers) {
  names_.Set("Mail.example", {"192.0.2.1"});
  const std::vector<std::pair<std::string, std::string>> rows = {
      {"smtp", "25"},
      {"25", "25"},
      {"0025", "25"},
      {":25", "25"},
      {"127.0.0.1:smtp", "[127.0.0.1]:25"},
      {"[127.0.0.1]:25", "[127.0.0.1]:25"},
      {"::1:25", "[::1]:25"},
      {"[ipv6:0:0::0:1]:25", "[::1]:25"},
      {"[IPv6:::1]:25", "[::1]:25"},
      {"Mail.example:http", "[Mail.example]:80"}};
  for (const auto& [name, internal] : rows) EXPECT_EQ(Inet(name).internal_name, internal) << name;
}

TEST_F(Configuration, M46_M47_OneServiceInTwoSpellingsCountsOnceAndTheLastOneWins) {
  const MasterConfiguration loaded =
      Good("smtp inet n - n - 1 smtpd\na unix - - n - - c\n\n25 inet n - n - 2 pickup\n");
  ASSERT_THAT(loaded.services, SizeIs(2));
  EXPECT_EQ(loaded.services[0].entry.name, "25");
  EXPECT_EQ(loaded.services[0].entry.process_limit, 2);
  EXPECT_EQ(loaded.services[0].entry.command, "pickup");
  EXPECT_THAT(loaded.warnings,
              ElementsAre(AllOf(HasSubstr("line 4"), HasSubstr("\"smtp inet\" in line 1"))));
}

TEST_F(Configuration, F117_StrictTheSameServiceTwiceIsAnErrorWithBothLines) {
  options_.strict = true;
  EXPECT_THAT(Problems("a unix - - n - - c\na unix - - n - - c\n"),
              ElementsAre(AllOf(HasSubstr("line 2"), HasSubstr("line 1"))));
}

TEST_F(Configuration, M46_TwoTypesOnOnePathAreTwoServicesWithAWarning) {
  const MasterConfiguration loaded = Good("a unix - - n - - c\na unix-dgram - - n - - c\n");
  EXPECT_THAT(loaded.services, SizeIs(2));
  EXPECT_THAT(loaded.warnings,
              ElementsAre(AllOf(HasSubstr("line 2"), HasSubstr("private/a"), HasSubstr("line 1"))));
}

TEST_F(Configuration, F91_OneAddressOfTwoServicesIsAnErrorWithBothLines) {
  names_.Set("here", {"127.0.0.1"});
  EXPECT_THAT(
      Problems("127.0.0.1:25 inet n - n - - smtpd\n\nhere:smtp inet n - n - - smtpd\n"),
      ElementsAre(AllOf(HasSubstr("line 3"), HasSubstr("127.0.0.1:25"), HasSubstr("line 1"))));
  EXPECT_THAT(Problems("25 inet n - n - - smtpd\n0.0.0.0:25 inet n - n - - smtpd\n"),
              ElementsAre(HasSubstr("0.0.0.0:25")));
  EXPECT_THAT(Good("25 inet n - n - - smtpd\n127.0.0.1:25 inet n - n - - smtpd\n").services,
              SizeIs(2));
}

TEST_F(Configuration, M48_MalformedNamesAreRefusedWithTheirLine) {
  for (const char* name : {"[127.0.0.1]",
                           "[127.0.0.1]x:25",
                           "[127.0.0.1:25",
                           "[]:25",
                           "[ipv6:127.0.0.1]:25",
                           "[ipv6:x]:25",
                           "host:",
                           ":",
                           "[::1]:",
                           "25x",
                           "127.0.0.1:25x",
                           "-bad-:25",
                           "a..b:25",
                           "1.2.3:25",
                           "127.0.0.1%lo:25",
                           "::1]:25",
                           "noSuchPort",
                           "65536",
                           "99999999999",
                           "nosuchhost:25",
                           "127.0.0.1:noport"}) {
    EXPECT_THAT(InetProblem(name), AllOf(HasSubstr(absl::StrCat(MasterCf(), ", line 1: ")),
                                         HasSubstr(absl::StrCat(name, " inet"))));
  }
}

TEST_F(Configuration, M49_KnownTcpPortsComeBeforeTheServicesDatabase) {
  more_ = "known_tcp_ports = http = 8080, mine = 99\n";
  EXPECT_EQ(Inet("http").internal_name, "8080");
  EXPECT_EQ(Inet("mine").internal_name, "99");
  EXPECT_EQ(Inet("smtp").internal_name, "25");
}

TEST_F(Configuration, M50_AHostMeansAllItsAddressesSortedAndOnce) {
  names_.Set("many", {"::2", "192.0.2.9", "10.0.0.1", "::1", "192.0.2.9", "::2"});
  const ServiceConfiguration service = Inet("many:25");
  EXPECT_THAT(Texts(service), ElementsAre("10.0.0.1:25", "192.0.2.9:25", "[::1]:25", "[::2]:25"));
  for (const InetEndpoint& endpoint : service.endpoints) {
    EXPECT_TRUE(endpoint.optional);
    EXPECT_EQ(EndpointPort(endpoint), 25);
  }
}

TEST_F(Configuration, M50_AHostIsLimitedToInetProtocols) {
  names_.Set("both", {"::1", "127.0.0.1"});
  names_.Set("six", {"::1"});
  more_ = "inet_protocols = ipv4\n";
  EXPECT_THAT(Texts(Inet("both:25")), ElementsAre("127.0.0.1:25"));
  EXPECT_THAT(InetProblem("six:25"), HasSubstr("six"));
  EXPECT_THAT(InetProblem("[::1]:25"), HasSubstr("::1"));
  more_ = "inet_protocols = ipv6\n";
  EXPECT_THAT(Texts(Inet("both:25")), ElementsAre("[::1]:25"));
}

TEST_F(Configuration, M50_WithoutAHostAllMeansTheWildcardOfEachProtocol) {
  more_ = "inet_interfaces = ALL\n";
  EXPECT_THAT(Texts(Inet("25")), ElementsAre("0.0.0.0:25", "[::]:25"));
  more_ = "inet_protocols = ipv4\n";
  EXPECT_THAT(Texts(Inet("25")), ElementsAre("0.0.0.0:25"));
}

TEST_F(Configuration, M51_LoopbackOnlyMeansTheLoopbackAddressesOfTheInterfaces) {
  more_ = "inet_interfaces = loopback-only\ninet_protocols = ipv4\n";
  EXPECT_THAT(Texts(Inet("25")), Contains("127.0.0.1:25"));
  EXPECT_THAT(Texts(Inet("25")), Each(HasSubstr("127.")));
}

TEST_F(Configuration, M51_AListMustConsistOfLocalAddresses) {
  names_.Set("here", {"127.0.0.1"});
  names_.Set("elsewhere", {"192.0.2.1"});
  more_ = "inet_interfaces = here, [127.0.0.1]\n";
  EXPECT_THAT(Texts(Inet("25")), ElementsAre("127.0.0.1:25"));
  for (const char* bad : {"here 192.0.2.1", "elsewhere", "nosuchhost"}) {
    more_ = absl::StrCat("inet_interfaces = ", bad, "\n");
    EXPECT_THAT(Problems(kOne), ElementsAre(HasSubstr("inet_interfaces"))) << bad;
  }
}

TEST_F(Configuration, M51_AnEmptyListMeansNoAddressForAServiceWithoutAHost) {
  more_ = "inet_interfaces =\n";
  EXPECT_THAT(InetProblem("25"), HasSubstr("inet_interfaces"));
  EXPECT_THAT(Texts(Inet("127.0.0.1:25")), ElementsAre("127.0.0.1:25"));
}

TEST_F(Configuration, M40_WithoutAProtocolInetServicesAreDisabledWithTwoWarnings) {
  more_ = "inet_protocols =\n";
  const MasterConfiguration loaded = Good("25 inet n - n - - smtpd\na unix - - n - - c\n");
  EXPECT_THAT(loaded.services, SizeIs(1));
  EXPECT_THAT(loaded.warnings, ElementsAre(HasSubstr("inet_protocols"), HasSubstr("disabled")));
}

// socket(2) fails for the second family that is asked for.
TEST_F(Configuration, C66_F92_WhatTheKernelLacksIsLeftOutWithOneWarning) {
  names_.Set("both", {"::1", "127.0.0.1"});
  system_->FailOnce(SystemCall::kSocket, EAFNOSUPPORT, 2);
  const MasterConfiguration loaded =
      Good("25 inet n - n - - smtpd\nboth:26 inet n - n - - smtpd\n");
  ASSERT_THAT(loaded.services, SizeIs(2));
  EXPECT_THAT(Texts(loaded.services[0]), ElementsAre("0.0.0.0:25"));
  EXPECT_THAT(Texts(loaded.services[1]), ElementsAre("127.0.0.1:26"));
  EXPECT_THAT(loaded.warnings, ElementsAre(HasSubstr("IPv6")));
}

TEST_F(Configuration, F92_AnAddressThatIsWrittenOutStaysAlthoughTheKernelLacksItsFamily) {
  system_->FailOnce(SystemCall::kSocket, EAFNOSUPPORT, 2);
  const ServiceConfiguration service = Inet("[::1]:25");
  ASSERT_THAT(Texts(service), ElementsAre("[::1]:25"));
  EXPECT_FALSE(service.endpoints[0].optional);
}

TEST_F(Configuration, AHostIsLookedUpOnceForTheWholeTable) {
  names_.Set("here", {"127.0.0.1"});
  Good("here:1 inet n - n - - smtpd\nhere:2 inet n - n - - smtpd\nhere:3 inet n - n - - smtpd\n");
  EXPECT_EQ(names_.look_ups(), 1);
}

// --- What follows from the fields ---

TEST_F(Configuration, M54_TheBacklogIsTheLargerOfBothLimits) {
  EXPECT_EQ(One("a unix - - n - 7 c\n").backlog, 100);
  EXPECT_EQ(One("a unix - - n - 0 c\n").backlog, 100);
  EXPECT_EQ(One("a unix - - n - 200 c\n").backlog, 200);
  more_ = "default_process_limit = 50\n";
  EXPECT_EQ(One("a unix - - n - - c\n").backlog, 50);
  EXPECT_EQ(One("a unix - - n - - c\n").entry.process_limit, 50);
}

TEST_F(Configuration, M79_EligibleForStressAreServicesWithRemoteClientsAndALimitAbove1) {
  struct {
    const char* line;
    bool eligible;
  } const rows[] = {{"25 inet n - n - 2 c", true},
                    {"25 inet n - n - 1 c", false},
                    {"25 inet n - n - 0 c", false},
                    {"127.0.0.1:25 inet n - n - 2 c", false},
                    {"127.9.9.9:25 inet n - n - 2 c", false},
                    {"[::1]:25 inet n - n - 2 c", false},
                    {"192.0.2.1:25 inet n - n - 2 c", true},
                    {"a pass n - n - 2 c", true},
                    {"a pass n - n - 1 c", false},
                    {"a unix n - n - 2 c", false},
                    {"a fifo n - n - 2 c", false},
                    {"a unix-dgram n - n - 2 c", false}};
  for (const auto& row : rows) {
    EXPECT_EQ(One(absl::StrCat(row.line, "\n")).stress_eligible, row.eligible) << row.line;
  }
}

TEST_F(Configuration, M34_ChrootIsOnByDefaultBelowCompatibilityLevel1) {
  EXPECT_FALSE(One("a unix - - - - - c\n").entry.chroot);
  more_ = "compatibility_level = 0\n";
  const MasterConfiguration loaded = Good("a unix - - - - - c\n");
  EXPECT_TRUE(loaded.services.at(0).entry.chroot);
  EXPECT_THAT(loaded.notes, ElementsAre(HasSubstr("chroot=y")));
}

// --- C75 ---

TEST(KnownPortsTest, C75_AssociationsMayHaveSeveralNames) {
  std::vector<std::string> warnings;
  const KnownPorts ports("lmtp=24, smtp = 25 ,smtps=submissions = 465", &warnings);
  EXPECT_THAT(warnings, IsEmpty());
  EXPECT_EQ(ports.Filter("lmtp"), "24");
  EXPECT_EQ(ports.Filter("smtp"), "25");
  EXPECT_EQ(ports.Filter("smtps"), "465");
  EXPECT_EQ(ports.Filter("submissions"), "465");
  EXPECT_EQ(ports.Filter("SMTP"), "SMTP");
  EXPECT_EQ(ports.Filter("other"), "other");
}

TEST(KnownPortsTest, C75_BadAssociationsAreWarnedAboutAndSkipped) {
  for (const char* bad :
       {"a", "a=", "=1", "a b=1", "a=1 2", "a=x", "a=65536", "a=100000", "1=2", "ok=7", "=", " "}) {
    std::vector<std::string> warnings;
    const KnownPorts ports(absl::StrCat("ok=6,", bad, ",b=65535"), &warnings);
    EXPECT_THAT(warnings, SizeIs(1)) << bad;
    EXPECT_EQ(ports.Filter("ok"), "6");
    EXPECT_EQ(ports.Filter("a"), "a");
    EXPECT_EQ(ports.Filter("b"), "65535");
  }
  std::vector<std::string> warnings;
  EXPECT_EQ(KnownPorts("", &warnings).Filter("smtp"), "smtp");
  EXPECT_THAT(warnings, IsEmpty());
}

// --- Environment ---

TEST_F(Configuration, C76_F67_OnlyTheImportListIsLeftOfTheEnvironment) {
  more_ = "import_environment = TZ A=b,{ C = d e } MAIL_CONFIG NOT_THERE A=c\n";
  const MasterConfiguration loaded = Good(kOne);
  EXPECT_THAT(loaded.environment,
              testing::UnorderedElementsAre("TZ=UTC", "A=c", "C=d e", "MAIL_CONFIG=/c"));
}

TEST_F(Configuration, C76_AListWithABraceThatIsNotClosedIsAnError) {
  more_ = "import_environment = TZ {A\n";
  EXPECT_THAT(Problems(kOne), ElementsAre(HasSubstr("import_environment")));
}

TEST_F(Configuration, M65_C73_WorkersAreToldWhereToLog) {
  options_.current_environment = {"MAIL_LOGTAG=old", "POSTLOG_SERVICE=old", "TZ=UTC"};
  EXPECT_THAT(WorkerEnvironment(Good(kOne)),
              testing::UnorderedElementsAre("TZ=UTC", "LANG=C", "MAIL_LOGTAG=postfix"));
  more_ = "maillog_file = /var/log/mail.log\nsyslog_name = px\n";
  EXPECT_THAT(WorkerEnvironment(Good(kOne)),
              testing::UnorderedElementsAre(
                  "TZ=UTC", "LANG=C", "MAIL_LOGTAG=px", "POSTLOG_HOSTNAME=host.example.com",
                  absl::StrCat("POSTLOG_SERVICE=", dir_.Path("q"), "/public/postlog")));
}

// --- Reload ---

TEST_F(Configuration, M95_M52_M112_WhatIsFixedAtStartStaysWithAWarning) {
  more_ = "inet_interfaces = 127.0.0.1\n";
  const MasterConfiguration first = Good("25 inet n - n - - smtpd\n");
  more_ = absl::StrCat("inet_interfaces = all\ninet_protocols = ipv4\nqueue_directory = /other\n",
                       "import_environment = X=y\ndata_directory = /data2\n");
  const absl::StatusOr<MasterConfiguration> next =
      Reload(first, "25 inet n - n - - smtpd\n26 inet n - n - - smtpd\n");
  ASSERT_THAT(next.status(), IsOk());
  EXPECT_EQ(next->queue_directory, dir_.Path("q"));
  EXPECT_EQ(next->generic.queue_directory.value(), dir_.Path("q"));
  EXPECT_EQ(next->data_directory, dir_.Path("d"));
  EXPECT_EQ(next->environment, first.environment);
  EXPECT_TRUE(next->protocols.ipv6());
  EXPECT_THAT(Texts(next->services.at(1)), ElementsAre("127.0.0.1:26"));
  for (const char* name : {"queue_directory", "data_directory", "inet_interfaces", "inet_protocols",
                           "import_environment"}) {
    EXPECT_THAT(next->warnings, Contains(AllOf(HasSubstr("ignoring"), HasSubstr(name))));
    EXPECT_THAT(next->warnings, Contains(AllOf(HasSubstr("stop and start"), HasSubstr(name))));
  }
  EXPECT_THAT(next->warnings, Contains(AllOf(HasSubstr("\"127.0.0.1\""), HasSubstr("\"all\""))));
  // It is the running one that the reload after that is compared with.
  const absl::StatusOr<MasterConfiguration> third = Reload(*next, "25 inet n - n - - smtpd\n");
  ASSERT_THAT(third.status(), IsOk());
  EXPECT_EQ(std::count_if(third->warnings.begin(), third->warnings.end(),
                          [](const std::string& s) { return absl::StartsWith(s, "ignoring"); }),
            5);
}

TEST_F(Configuration, F106_ASettingThatIsRemovedIsBackAtItsDefault) {
  more_ = "max_use = 7\nservice_throttle_time = 7\ndefault_process_limit = 7\n";
  const MasterConfiguration first = Good(kOne);
  more_ = "";
  const absl::StatusOr<MasterConfiguration> next = Reload(first, kOne);
  ASSERT_THAT(next.status(), IsOk());
  EXPECT_EQ(next->generic.max_use.value(), 100);
  EXPECT_EQ(next->service_throttle_seconds, 60);
  EXPECT_EQ(next->services.at(0).entry.process_limit, 100);
  EXPECT_THAT(next->warnings, IsEmpty());
}

// Everything that a configuration says, apart from what it warns about.
std::string Dump(MasterConfiguration* loaded) {
  std::string text;
  for (const Parameter* parameter : loaded->generic.All()) {
    absl::StrAppend(&text, parameter->name(), " = ", parameter->ValueText(), "\n");
  }
  absl::StrAppend(&text, loaded->service_throttle_seconds, " ", loaded->owner_name, "\n");
  for (const ServiceConfiguration& service : loaded->services) {
    absl::StrAppend(&text, ServiceKey(service), " ", service.program, " ", service.backlog, " ",
                    service.stress_eligible, service.entry.process_limit, " ",
                    service.entry.wake_up_seconds, " ", absl::StrJoin(service.entry.arguments, " "),
                    " ", absl::StrJoin(Texts(service), " "), "\n");
  }
  return text;
}

TEST_F(Configuration, F106_AfterAnyEditsAReloadIsWhatAFreshStartWouldBe) {
  const std::vector<std::string> settings = {
      "max_use = 7\n",         "service_throttle_time = 9\n",     "default_process_limit = 3\n",
      "syslog_name = other\n", "maillog_file = /var/x\n",         "master_service_disable = fifo\n",
      "max_idle = 5\n",        "known_tcp_ports = smtp = 2525\n", "compatibility_level = 0\n"};
  const std::vector<std::string> entries = {
      "smtp inet n - n - - smtpd\n",  "127.0.0.1:26 inet n - n - 2 smtpd\n",
      "a unix - - - - - c\n",         "b fifo n - n 60 1 c -o x=y\n",
      "d pass n - n - 5 pickup -v\n", "e unix-dgram - - n - 1 c\n"};
  std::mt19937 random(106);
  const auto some_of = [&random](const std::vector<std::string>& choices) {
    std::string text;
    for (const std::string& choice : choices) {
      if (random() % 2 == 0) text += choice;
    }
    return text;
  };
  MasterConfiguration running = Good(kOne);
  for (int i = 0; i < 60; ++i) {
    more_ = some_of(settings);
    const std::string table = absl::StrCat("z unix - - n - - c\n", some_of(entries));
    absl::StatusOr<MasterConfiguration> next = Reload(running, table);
    ASSERT_THAT(next.status(), IsOk());
    MasterConfiguration fresh = Good(table);
    ASSERT_EQ(Dump(&*next), Dump(&fresh)) << more_ << table;
    running = *std::move(next);
  }
}

TEST_F(Configuration, M112_WhatIsNotFixedAppliesAtAReload) {
  const MasterConfiguration first = Good(kOne);
  more_ = absl::StrCat("daemon_directory = ", dir_.path(),
                       "\nservice_throttle_time = 7\nmaster_service_disable = x/unix\n"
                       "syslog_name = new\nmaillog_file = /var/log/x\n");
  dir_.WriteFile("c", "");
  const absl::StatusOr<MasterConfiguration> next =
      Reload(first, "a unix - - n - - c\nx unix - - n - - c\n");
  ASSERT_THAT(next.status(), IsOk());
  ASSERT_THAT(next->services, SizeIs(1));
  EXPECT_EQ(next->services[0].program, dir_.Path("c"));
  EXPECT_EQ(next->service_throttle_seconds, 7);
  EXPECT_EQ(next->generic.syslog_name.value(), "new");
  EXPECT_EQ(next->generic.maillog_file.value(), "/var/log/x");
}

TEST_F(Configuration, M102_NamesOfHostsAreLookedUpAgainAtAReload) {
  names_.Set("host", {"127.0.0.1"});
  const MasterConfiguration first = Good("host:25 inet n - n - - smtpd\n");
  names_.Set("host", {"127.0.0.1", "127.0.0.2"});
  const absl::StatusOr<MasterConfiguration> next = Reload(first, "host:25 inet n - n - - smtpd\n");
  ASSERT_THAT(next.status(), IsOk());
  EXPECT_THAT(Texts(next->services.at(0)), ElementsAre("127.0.0.1:25", "127.0.0.2:25"));
}

// --- F100 ---

std::string Mutated(std::string text, std::mt19937* random) {
  const char* const kPieces[] = {
      "\n", "\n ",     " ",   "-", "{", "}",  "[",   "]:", "\t",    "#",     "=",    "?",
      "x",  "9999999", "../", "/", "$", "${", ":25", "y ", "inet ", "unix ", "\x01", "\xff"};
  const auto below = [random](size_t limit) { return (*random)() % limit; };
  for (size_t left = 1 + below(4); left > 0 && !text.empty(); --left) {
    const size_t at = below(text.size());
    switch (below(4)) {
      case 0:
        text[at] = static_cast<char>((*random)());
        break;
      case 1:
        text.erase(at, 1 + below(10));
        break;
      case 2:
        text.insert(at, kPieces[below(std::size(kPieces))]);
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

// A thousand broken files: each is accepted, or refused with the file and mostly a line. Nothing is
// left open, the running configuration stays what it was, and the good files are good afterwards.
TEST_F(Configuration, F100_AThousandMutatedConfigurations) {
  names_.Set("localhost", {"127.0.0.1", "::1"});
  const std::string table =
      "smtp inet n - y - - smtpd\n  -o { a = b c }\n127.0.0.1:10025 inet n - n - 0 smtpd\n"
      "# comment\npickup unix n - y 60? 1 pickup\nlocalhost:587 inet n - - - 10 smtpd\n"
      "a/b unix - n n - - c argv=x y\nz fifo n - n 300 1 c\nd pass n - n - - c\n";
  more_ = "inet_interfaces = loopback-only\nmax_use = 10\nx = 1\nsyslog_name = ${x?y}\n";
  const MasterConfiguration running = Good(table);
  ASSERT_THAT(running.services, SizeIs(7));
  const std::string parameters = MainCfText();
  std::mt19937 random(100);
  options_.running = &running;
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    const bool first_file = i % 3 == 0;
    Write("main.cf", first_file ? Mutated(parameters, &random) : parameters);
    Write("master.cf", first_file ? table : Mutated(table, &random));
    const absl::StatusOr<MasterConfiguration> next = LoadMasterConfiguration(options_);
    if (next.ok()) continue;
    ++refused;
    ASSERT_EQ(next.status().code(), StatusCode::kInvalidArgument);
    ASSERT_LT(next.status().message().size(), 64u << 10);
    for (const absl::string_view problem : absl::StrSplit(next.status().message(), '\n')) {
      const bool placed =
          absl::StrContains(problem, ", line ") || absl::StrContains(problem, "parameter ");
      ASSERT_TRUE(placed) << problem;
    }
    if (!first_file) {
      ASSERT_THAT(next.status().message(), HasSubstr(absl::StrCat(MasterCf(), ", line ")));
    }
  }
  EXPECT_GT(refused, 300);
  EXPECT_LT(refused, 1000);
  const absl::StatusOr<MasterConfiguration> good = Reload(running, table);
  ASSERT_THAT(good.status(), IsOk());
  EXPECT_THAT(good->services, SizeIs(7));
}

}  // namespace
}  // namespace posthouse

// The parameters that every daemon loads: generic_parameters.h, C2, C6, C41, C59 to C73, CO1, CO4,
// CO6.

#include "posthouse/config/generic_parameters.h"

#include <errno.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/config/expand.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using absl::StatusCode;
using testing::HasSubstr;
using testing::IsEmpty;

class Generic : public testing::Test {
 protected:
  absl::Status Load(absl::string_view main_cf) {
    const absl::Status parsed = ParseMainCf("main.cf", main_cf, &store_, &warnings_);
    if (!parsed.ok()) return parsed;
    return LoadGenericParameters(options_, &store_, &generic_, &warnings_);
  }
  // The complaint about one bad line.
  std::string Complaint(absl::string_view main_cf) {
    store_ = ParameterStore();
    generic_ = GenericParameters();
    return std::string(Load(main_cf).message());
  }

  ScopedInterposer system_;
  GenericOptions options_{.check_accounts = false};
  ParameterStore store_;
  GenericParameters generic_;
  std::vector<std::string> warnings_;
};

TEST_F(Generic, C70_AnEmptyFileMeansTheDefaults) {
  ASSERT_THAT(Load(""), IsOk());
  EXPECT_THAT(warnings_, IsEmpty());
  EXPECT_EQ(generic_.max_use.value(), 100);
  EXPECT_EQ(generic_.max_idle.seconds(), 100);
  EXPECT_EQ(generic_.daemon_timeout.seconds(), 18000);
  EXPECT_EQ(generic_.ipc_timeout.seconds(), 3600);
  EXPECT_EQ(generic_.in_flow_delay.seconds(), 1);
  EXPECT_EQ(generic_.queue_directory.value(), "/var/spool/postfix");
  EXPECT_EQ(generic_.data_directory.value(), "/var/lib/postfix");
  EXPECT_EQ(generic_.daemon_directory.value(), "/usr/lib/postfix/sbin");
  EXPECT_EQ(generic_.syslog_name.value(), "postfix");
  EXPECT_EQ(generic_.syslog_facility_code, LOG_MAIL);
  EXPECT_EQ(generic_.compatibility_level_number, 0);
  EXPECT_EQ(generic_.maillog_file.value(), "");
  EXPECT_TRUE(generic_.use_ipv4);
  EXPECT_TRUE(generic_.use_ipv6);
  EXPECT_EQ(generic_.PostlogSocketPath(), "/var/spool/postfix/public/postlog");
}

TEST_F(Generic, C62_LoadedParametersAreKnownByName) {
  ASSERT_THAT(Load("multi_instance_name = postfix-two\n"), IsOk());
  EXPECT_THAT(Expand("$max_use $max_idle $syslog_name $helpful_warnings", store_),
              IsOkAndHolds("100 100s postfix-two yes"));
}

TEST_F(Generic, C41_C60_ANameIsEmptyUntilItIsLoadedAndTheOrderIsThatOfStockDaemons) {
  ASSERT_THAT(Load("syslog_name = a${max_use}b\nmail_name = $mydomain\nmydomain = x.y\n"), IsOk());
  EXPECT_EQ(generic_.syslog_name.value(), "ab");
  EXPECT_EQ(generic_.mail_name.value(), "x.y");
}

TEST_F(Generic, CO6_NamesResolveBeforeTheyAreLoadedWhenAskedFor) {
  options_.resolve_before_loading = true;
  ASSERT_THAT(Load("syslog_name = a${max_use}b\n"), IsOk());
  EXPECT_EQ(generic_.syslog_name.value(), "a100b");
}

TEST_F(Generic, EveryMemberIsLoadedOnceAndHasItsOwnName) {
  std::vector<std::string> names;
  for (const Parameter* parameter : generic_.All()) names.push_back(parameter->name());
  const size_t count = names.size();
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  EXPECT_EQ(names.size(), count);
  EXPECT_THAT(HelpText(generic_.All()), HasSubstr("max_idle"));
  EXPECT_THAT(HelpText(generic_.All()), HasSubstr("(computed)"));
}

TEST_F(Generic, C2_CommandLineOverridesTheFile) {
  ASSERT_THAT(ParseMainCf("main.cf", "max_idle = 20\n", &store_, &warnings_), IsOk());
  ASSERT_THAT(ApplyOverride("max_idle=30", &store_, &warnings_), IsOk());
  ASSERT_THAT(LoadGenericParameters(options_, &store_, &generic_, &warnings_), IsOk());
  EXPECT_EQ(generic_.max_idle.seconds(), 30);
}

TEST_F(Generic, C6_CO1_ProcessParametersAreReadOnlyForEverySource) {
  SetProcessParameters(
      {.process_name = "policyd", .service_name = "policy", .config_directory = "/etc/postfix"},
      &store_);
  ASSERT_THAT(Load("process_name = a\nservice_name = b\nconfig_directory = c\nprocess_id = d\n"),
              IsOk());
  EXPECT_EQ(warnings_.size(), 4u);
  ASSERT_THAT(ApplyOverride("service_name=x", &store_, &warnings_), IsOk());
  EXPECT_EQ(warnings_.size(), 5u);
  EXPECT_THAT(Expand("$process_name $service_name $config_directory $process_id", store_),
              IsOkAndHolds(absl::StrCat("policyd policy /etc/postfix ", getpid())));
}

TEST_F(Generic, C64_HostNameAndDomainHaveDefaultsThatDependOnEachOther) {
  std::string host = SystemHostName().value();
  ASSERT_THAT(Load(""), IsOk());
  if (!absl::StrContains(host, '.')) {
    EXPECT_EQ(generic_.myhostname.value(), absl::StrCat(host, ".localdomain"));
    EXPECT_EQ(generic_.mydomain.value(), "localdomain");
    store_ = ParameterStore();
    ASSERT_THAT(Load("base = example\nmydomain = ${base}.org\n"), IsOk());
    EXPECT_EQ(generic_.myhostname.value(), absl::StrCat(host, ".example.org"));
  } else {
    EXPECT_EQ(generic_.myhostname.value(), host);
  }
  store_ = ParameterStore();
  ASSERT_THAT(Load("myhostname = mx.example.com\n"), IsOk());
  EXPECT_EQ(generic_.mydomain.value(), "example.com");
  EXPECT_EQ(generic_.myorigin.value(), "mx.example.com");
  EXPECT_EQ(generic_.mydestination.value(), "mx.example.com, localhost.example.com, localhost");
  store_ = ParameterStore();
  ASSERT_THAT(Load("myhostname = mx\n"), IsOk());
  EXPECT_EQ(generic_.mydomain.value(), "localdomain");
}

TEST_F(Generic, C64_ASystemThatDoesNotTellItsNameIsAnErrorOnlyWhenItIsAsked) {
  system_->FailFrom(SystemCall::kGethostname, EFAULT);
  ASSERT_THAT(Load("myhostname = a.b\n"), IsOk());
  EXPECT_THAT(Complaint(""), HasSubstr("myhostname: gethostname"));
}

// Every row is refused by a stock smtpd, too, unless it says otherwise.
struct BadRow {
  const char* line;
  const char* complaint;
};

class BadGeneric : public Generic, public testing::WithParamInterface<BadRow> {};

TEST_P(BadGeneric, IsRefusedWithItsPlace) {
  const std::string complaint =
      Complaint(absl::StrCat("myhostname = mx.example.com\n", GetParam().line, "\n"));
  EXPECT_THAT(complaint, HasSubstr(GetParam().complaint));
  EXPECT_THAT(complaint, HasSubstr("main.cf, line 2: parameter "));
  EXPECT_EQ(complaint.find('\n'), std::string::npos) << complaint;
}

const BadRow kBad[] = {
    {"compatibility_level = 3.x", "malformed compatibility level"},
    {"compatibility_level =", "malformed compatibility level"},
    {"syslog_facility = MAIL", "unknown syslog facility"},
    {"syslog_facility = local8", "unknown syslog facility"},
    {"syslog_facility =", "too short"},
    {"inet_protocols = ALL", "unknown protocol \"ALL\""},
    {"inet_protocols = ipv4;ipv6", "unknown protocol"},
    {"mydomain = -a", "misplaced hyphen"},
    {"mydomain = 1.2.3.4", "numeric host name"},
    {"mydomain =", "too short"},
    {"myorigin = a b", "one word"},
    {"myorigin = a,b", "one word"},
    {"relayhost = MX.example.com", "same as myhostname"},
    {"default_verp_delimiters = ab", "verp_delimiter_filter"},
    {"default_verp_delimiters = +", "too short"},
    {"default_verp_delimiters = +=-", "too long"},
    {"maillog_file = /tmp/log", "starts with none of maillog_file_prefixes"},
    {"maillog_file_prefixes =", "too short"},
    {"postlog_service_name =", "too short"},
    {"syslog_name =", "too short"},
    {"queue_directory =", "too short"},
    {"data_directory =", "too short"},
    {"daemon_directory =", "too short"},
    {"max_use = 0", "below the minimum 1"},    // C71
    {"max_idle = 0", "below the minimum 1s"},  // C71
    {"ipc_timeout = 0", "below the minimum 1s"},
    {"in_flow_delay = 11", "above the maximum 10s"},
    {"line_length_limit = 511", "below the minimum 512"},
    {"daemon_timeout = 2", "below the minimum 3s"},  // S1: stock panics when it starts to serve
    {"in_flow_delay = -1", "negative"},
};
INSTANTIATE_TEST_SUITE_P(C63toC72, BadGeneric, testing::ValuesIn(kBad));

class GoodGeneric : public Generic, public testing::WithParamInterface<const char*> {};

TEST_P(GoodGeneric, IsAccepted) {
  EXPECT_EQ(Complaint(absl::StrCat("myhostname = mx.example.com\n", GetParam(), "\n")), "");
}

INSTANTIATE_TEST_SUITE_P(
    C63toC72, GoodGeneric,
    testing::Values("compatibility_level = 3.6", "syslog_facility = local7",
                    "syslog_facility = authpriv", "inet_protocols = ipv4,,ipv6", "inet_protocols =",
                    "inet_protocols = ,", "inet_protocols = all\n\tipv4", "mydomain = a",
                    "relayhost = [mx.example.com]", "relayhost =", "default_verp_delimiters = ++",
                    "maillog_file = /var/x", "maillog_file = /variant",
                    "maillog_file = /dev/stdout", "known_tcp_ports = =", "import_environment = {a",
                    "tcp_windowsize = -5", "daemon_timeout = 3", "inet_interfaces ="));

TEST_F(Generic, C66_ProtocolsAreChosenByTheirWords) {
  ASSERT_THAT(Load("inet_protocols = ipv4\n"), IsOk());
  EXPECT_TRUE(generic_.use_ipv4);
  EXPECT_FALSE(generic_.use_ipv6);
  EXPECT_EQ(Complaint("inet_protocols = ipv6\n"), "");
  EXPECT_FALSE(generic_.use_ipv4);
  EXPECT_TRUE(generic_.use_ipv6);
  EXPECT_EQ(Complaint("inet_protocols =\n"), "");
  EXPECT_FALSE(generic_.use_ipv4);
  EXPECT_FALSE(generic_.use_ipv6);
}

TEST_F(Generic, CO4_AllBadParametersAreReported) {
  const std::string complaint =
      Complaint("max_use = x\nmyhostname = -\nsyslog_facility = y\nipc_ttl = $\n");
  EXPECT_EQ(std::count(complaint.begin(), complaint.end(), '\n'), 3) << complaint;
  for (const char* part : {"line 1: parameter max_use", "line 2: parameter myhostname",
                           "line 3: parameter syslog_facility", "line 4: parameter ipc_ttl"}) {
    EXPECT_THAT(complaint, HasSubstr(part));
  }
}

TEST_F(Generic, C63_AccountsAreNotLookedUpWhenNobodyNeedsThem) {
  ASSERT_THAT(Load("mail_owner = no-such-user\n"), IsOk());
  EXPECT_EQ(system_->Count(SystemCall::kGetpwnamR), 0);
}

TEST_F(Generic, F63_AccountsThatAreMissingOrPrivilegedAreRefusedWithFileAndParameters) {
  options_.check_accounts = true;
  const std::string complaint =
      Complaint("mail_owner = no-such-user\ndefault_privs = root\nsetgid_group = root\n");
  EXPECT_THAT(complaint, HasSubstr("parameter mail_owner: value \"no-such-user\": user "
                                   "\"no-such-user\" does not exist"));
  EXPECT_THAT(complaint, HasSubstr("parameter default_privs: value \"root\": the user has "
                                   "privileged user id 0"));
  EXPECT_THAT(complaint, HasSubstr("privileged group id 0"));
  EXPECT_THAT(complaint, HasSubstr("parameter setgid_group: value \"root\": the group has"));
  EXPECT_THAT(complaint, HasSubstr("mail_owner: main.cf, line 1"));
}

TEST_F(Generic, F63_ALookUpServiceThatFailsIsReportedAsThat) {
  options_.check_accounts = true;
  system_->FailFrom(SystemCall::kGetpwnamR, EIO);
  EXPECT_THAT(Complaint(""), HasSubstr("look-up of user \"postfix\": Input/output error"));
}

TEST_F(Generic, C72_TheMaillogFileStartsWithOneOfItsPrefixes) {
  ASSERT_THAT(Load("maillog_file_prefixes = /scratch\nmaillog_file = /scratch/log\n"
                   "queue_directory = /q\npostlog_service_name = p\n"),
              IsOk());
  EXPECT_EQ(generic_.PostlogSocketPath(), "/q/public/p");  // C73
}

TEST_F(Generic, TheDebuggerCommandIsExpandedWhenItIsAskedFor) {
  EXPECT_THAT(DebuggerCommand(store_), IsOkAndHolds(testing::Eq(absl::nullopt)));
  ASSERT_THAT(Load("debugger_command = gdb $daemon_directory $ & sleep 5\n"), IsOk());
  EXPECT_FALSE(DebuggerCommand(store_).ok());
  store_.Set("debugger_command", "gdb $daemon_directory", "t");
  EXPECT_EQ(**DebuggerCommand(store_), "gdb /usr/lib/postfix/sbin");
}

TEST(CheckHostName, C64_AcceptsWhatStockDaemonsAccept) {
  const std::string label(63, 'x');
  for (const std::string& name :
       {std::string("a"), std::string("a.b"), std::string("a_b"), std::string("A.B"),
        std::string("1a"), std::string("a.1"), std::string("1-2.3-4"), std::string("_a"),
        std::string("xn--a"), label, absl::StrCat(label, ".", label)}) {
    EXPECT_THAT(CheckHostName(name), IsOk()) << name;
  }
  std::string longest;
  for (int i = 0; i < 5; ++i) absl::StrAppend(&longest, std::string(49, 'x'), ".");
  EXPECT_THAT(CheckHostName(longest + "yyyyy"), IsOk());
  EXPECT_FALSE(CheckHostName(longest + "yyyyyy").ok());
  for (const std::string& name :
       {std::string(""), std::string("-a"), std::string("a-"), std::string("a..b"),
        std::string(".a"), std::string("a."), std::string("1.2.3.4"), std::string("123"),
        std::string("a b"), std::string("\xc3\xa4"), std::string("a/b"), std::string("[1.2.3.4]"),
        std::string("a.-b"), std::string("a.b-"), absl::StrCat(label, "x")}) {
    EXPECT_FALSE(CheckHostName(name).ok()) << name;
  }
}

TEST(ParseSyslogFacility, C65_KnowsTheNamesOfStockDaemonsInLowerCase) {
  EXPECT_THAT(ParseSyslogFacility("mail"), IsOkAndHolds(LOG_MAIL));
  EXPECT_THAT(ParseSyslogFacility("local0"), IsOkAndHolds(LOG_LOCAL0));
  EXPECT_THAT(ParseSyslogFacility("uucp"), IsOkAndHolds(LOG_UUCP));
  for (const char* name : {"auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "news",
                           "syslog", "user", "local7"}) {
    EXPECT_THAT(ParseSyslogFacility(name), IsOk()) << name;
  }
  EXPECT_FALSE(ParseSyslogFacility("Mail").ok());
  EXPECT_FALSE(ParseSyslogFacility("mark").ok());
}

}  // namespace
}  // namespace posthouse

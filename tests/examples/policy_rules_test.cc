#include "examples/policy/policy_rules.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "examples/policy/policy_request.h"
#include "examples/policy/policy_store.h"
#include "gtest/gtest.h"
#include "tests/examples/memory_policy_store.h"

namespace examples {
namespace {

// The rules do not care what the unit is; small numbers are easier to read.
constexpr int64_t kNow = 1767225600;
constexpr int64_t kDay = 86400;

PolicyRequest Rcpt(absl::string_view client = "192.0.2.7",
                   absl::string_view sender = "alice@example.net",
                   absl::string_view recipient = "bob@example.com",
                   absl::string_view sasl_username = "") {
  return {.protocol_state = "RCPT",
          .client_address = client,
          .sender = sender,
          .recipient = recipient,
          .sasl_username = sasl_username};
}

class PolicyRulesTest : public testing::Test {
 protected:
  PolicyVerdict Ask(const PolicyRequest& request, int64_t now) {
    absl::StatusOr<absl::optional<PolicyVerdict>> early = DecideWithoutStore(request, settings_);
    EXPECT_TRUE(early.ok()) << early.status();
    if (early.ok() && early->has_value()) return **early;
    PolicyVerdict verdict = PolicyVerdict::kNoOpinion;
    const absl::Status status = store_.Run([&](PolicyTransaction& transaction) -> absl::Status {
      absl::StatusOr<PolicyVerdict> decided = Decide(request, settings_, now, transaction);
      if (decided.ok()) verdict = *decided;
      return decided.status();
    });
    EXPECT_TRUE(status.ok()) << status;
    return verdict;
  }

  PolicySettings settings_ = {.greylist_delay = 300,
                              .retry_window = 2 * kDay,
                              .triplet_ttl = 35 * kDay,
                              .auto_whitelist_passes = 5,
                              .auto_whitelist_ttl = 35 * kDay,
                              .rate_period = 3600};
  MemoryPolicyStore store_;
};

using enum PolicyVerdict;

TEST_F(PolicyRulesTest, ANewCombinationIsPutOffUntilTheDelayHasPassed) {
  EXPECT_EQ(Ask(Rcpt(), kNow), kGreylisted);
  EXPECT_EQ(Ask(Rcpt(), kNow), kGreylisted);
  EXPECT_EQ(Ask(Rcpt(), kNow + 299), kGreylisted);
  EXPECT_EQ(Ask(Rcpt(), kNow + 300), kAllowed);
  EXPECT_EQ(Ask(Rcpt(), kNow + 301), kAllowed);
}

TEST_F(PolicyRulesTest, EachPartOfTheCombinationCountsAndCaseDoesNot) {
  Ask(Rcpt(), kNow);
  const int64_t later = kNow + 300;
  EXPECT_EQ(Ask(Rcpt("192.0.3.7"), later), kGreylisted) << "another network";
  EXPECT_EQ(Ask(Rcpt("192.0.2.7", "carol@example.net"), later), kGreylisted) << "another sender";
  EXPECT_EQ(Ask(Rcpt("192.0.2.7", ""), later), kGreylisted) << "the empty sender";
  EXPECT_EQ(Ask(Rcpt("192.0.2.7", "alice@example.net", "dan@example.com"), later), kGreylisted);
  EXPECT_EQ(Ask(Rcpt("192.0.2.99", "Alice@EXAMPLE.net", "BOB@example.com"), later), kAllowed)
      << "another host of the network, other case";
}

TEST_F(PolicyRulesTest, ARetryAfterTheWindowStartsAgain) {
  Ask(Rcpt(), kNow);
  EXPECT_EQ(Ask(Rcpt(), kNow + settings_.retry_window), kGreylisted);
  EXPECT_EQ(Ask(Rcpt(), kNow + settings_.retry_window + 300), kAllowed);
}

TEST_F(PolicyRulesTest, ARetryJustInsideTheWindowPasses) {
  Ask(Rcpt(), kNow);
  EXPECT_EQ(Ask(Rcpt(), kNow + settings_.retry_window - 1), kAllowed);
}

TEST_F(PolicyRulesTest, APassedCombinationIsForgottenWhenUnusedForItsTimeToLive) {
  Ask(Rcpt(), kNow);
  ASSERT_EQ(Ask(Rcpt(), kNow + 300), kAllowed);
  const int64_t used = kNow + 300 + 20 * kDay;
  EXPECT_EQ(Ask(Rcpt(), used), kAllowed) << "and is used, so it lives on";
  EXPECT_EQ(Ask(Rcpt(), used + settings_.triplet_ttl - 1), kAllowed);
  EXPECT_EQ(Ask(Rcpt(), used + 3 * settings_.triplet_ttl), kGreylisted);
}

TEST_F(PolicyRulesTest, ANetworkIsOnTheWhiteListAfterEnoughCombinationsPassed) {
  settings_.auto_whitelist_passes = 3;
  const std::vector<std::string> senders = {"a@x", "b@x", "c@x"};
  for (const std::string& sender : senders) {
    EXPECT_EQ(Ask(Rcpt("192.0.2.7", sender), kNow), kGreylisted);
    // The same combination again and again is one pass.
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(Ask(Rcpt("192.0.2.7", sender), kNow + 300),
                i > 0 && sender == "c@x" ? kWhitelisted : kAllowed);
    }
  }
  EXPECT_EQ(Ask(Rcpt("192.0.2.200", "new@x"), kNow + 301), kWhitelisted);
  EXPECT_EQ(Ask(Rcpt("192.0.3.200", "new@x"), kNow + 301), kGreylisted);
}

TEST_F(PolicyRulesTest, AWhiteListedNetworkStaysWhileItIsUsed) {
  settings_.auto_whitelist_passes = 1;
  Ask(Rcpt(), kNow);
  ASSERT_EQ(Ask(Rcpt(), kNow + 300), kAllowed);
  int64_t now = kNow + 300;
  for (int i = 0; i < 10; ++i) {
    now += 30 * kDay;
    EXPECT_EQ(Ask(Rcpt("192.0.2.7", "other@x"), now), kWhitelisted);
  }
  EXPECT_EQ(Ask(Rcpt("192.0.2.7", "other@x"), now + settings_.auto_whitelist_ttl), kGreylisted);
}

TEST_F(PolicyRulesTest, WithoutAutomaticWhiteListNoNetworkIsRemembered) {
  settings_.auto_whitelist_passes = 0;
  Ask(Rcpt(), kNow);
  ASSERT_EQ(Ask(Rcpt(), kNow + 300), kAllowed);
  EXPECT_TRUE(store_.tables.networks.empty());
}

TEST_F(PolicyRulesTest, ABusySenderIsReadAndSeldomWritten) {
  settings_.auto_whitelist_passes = 1;
  Ask(Rcpt(), kNow);
  Ask(Rcpt(), kNow + 300);
  const int writes = store_.writes;
  for (int i = 0; i < 1000; ++i) Ask(Rcpt(), kNow + 301 + i);
  EXPECT_EQ(store_.writes, writes);
}

TEST_F(PolicyRulesTest, RecipientsAreCountedPerClientAndPeriod) {
  settings_.greylist_delay = 0;
  settings_.rate_limit = 3;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Ask(Rcpt(), kNow + i), kAllowed);
  EXPECT_EQ(Ask(Rcpt(), kNow + 3), kRateLimited);
  EXPECT_EQ(Ask(Rcpt(), kNow + 3599), kRateLimited);
  EXPECT_EQ(Ask(Rcpt("192.0.2.8"), kNow + 3), kAllowed) << "a neighbour is another client";
  EXPECT_EQ(Ask(Rcpt(), kNow + 3600), kAllowed) << "the next period";
  EXPECT_EQ(store_.tables.rates.at("client:192.0.2.7/32").recipients, 1);
}

TEST_F(PolicyRulesTest, SaslUsersHaveTheirOwnLimitFromWhereverTheyCome) {
  settings_.rate_limit = 1;
  settings_.sasl_rate_limit = 2;
  EXPECT_EQ(Ask(Rcpt("192.0.2.1", "a@x", "b@y", "ann"), kNow), kAllowed) << "and no greylisting";
  EXPECT_EQ(Ask(Rcpt("2001:db8::1", "a@x", "b@y", "ann"), kNow), kAllowed);
  EXPECT_EQ(Ask(Rcpt("203.0.113.1", "a@x", "b@y", "ann"), kNow), kRateLimited);
  EXPECT_EQ(Ask(Rcpt("192.0.2.1", "a@x", "b@y", "bea"), kNow), kAllowed);
}

TEST_F(PolicyRulesTest, GreylistedRecipientsDoNotCountAndLimitedClientsLeaveNoTrace) {
  settings_.rate_limit = 1;
  EXPECT_EQ(Ask(Rcpt(), kNow), kGreylisted);
  EXPECT_TRUE(store_.tables.rates.empty());
  EXPECT_EQ(Ask(Rcpt(), kNow + 300), kAllowed);
  EXPECT_EQ(Ask(Rcpt("192.0.2.7", "new@x"), kNow + 301), kRateLimited);
  EXPECT_EQ(store_.tables.triplets.size(), 1u);
}

TEST_F(PolicyRulesTest, RecipientsWhoOptedOutAreLeftAlone) {
  settings_.rate_limit = 1;
  settings_.opt_out = {"postmaster@", "example.org", ".example.info"};
  store_.tables.opt_out = {"table@example.com", "example.edu"};
  for (int i = 0; i < 3; ++i) {
    for (const char* recipient : {"postmaster@example.com", "Any@Example.ORG", "a@b.example.info",
                                  "Table@example.com", "a@example.edu"}) {
      EXPECT_EQ(Ask(Rcpt("192.0.2.7", "a@x", recipient), kNow), kOptedOut) << recipient;
    }
  }
  for (const char* recipient : {"a@sub.example.org", "a@example.info", "post@example.com"}) {
    EXPECT_EQ(Ask(Rcpt("192.0.2.7", "a@x", recipient), kNow), kGreylisted) << recipient;
  }
  EXPECT_TRUE(store_.tables.rates.empty());
}

TEST_F(PolicyRulesTest, OutsideRcptThereIsNoOpinion) {
  for (const char* state :
       {"CONNECT", "EHLO", "HELO", "MAIL", "DATA", "END-OF-MESSAGE", "VRFY", "ETRN", "NEW"}) {
    PolicyRequest request = Rcpt();
    request.protocol_state = state;
    EXPECT_EQ(Ask(request, kNow), kNoOpinion) << state;
  }
  EXPECT_EQ(store_.writes, 0);
}

TEST_F(PolicyRulesTest, WithEverythingOffTheStoreIsNotAsked) {
  settings_.greylist_delay = 0;
  store_.failure = absl::InternalError("asked");
  EXPECT_EQ(Ask(Rcpt(), kNow), kNoOpinion);
}

TEST_F(PolicyRulesTest, AClientAddressThatIsNoneIsAnError) {
  for (const char* address : {"", "unknown", "192.0.2", "192.0.2.7.8", "::g", "192.0.2.7 "}) {
    EXPECT_EQ(DecideWithoutStore(Rcpt(address), settings_).status().code(),
              absl::StatusCode::kInvalidArgument)
        << address;
  }
}

TEST_F(PolicyRulesTest, AClockThatIsSetBackMakesNobodyWaitForTheFuture) {
  settings_.rate_limit = 1;
  settings_.auto_whitelist_passes = 0;
  EXPECT_EQ(Ask(Rcpt(), kNow + 100 * kDay), kGreylisted);
  EXPECT_EQ(Ask(Rcpt(), kNow), kGreylisted);
  EXPECT_EQ(Ask(Rcpt(), kNow + 300), kAllowed);
  EXPECT_EQ(Ask(Rcpt(), kNow + 301), kRateLimited);
  // And back once more: what has passed stays passed, and the rate starts a new period.
  EXPECT_EQ(Ask(Rcpt(), kNow - 10 * kDay), kAllowed);
}

TEST_F(PolicyRulesTest, AClockThatIsALittleBehindChangesNothing) {
  settings_.rate_limit = 2;
  EXPECT_EQ(Ask(Rcpt(), kNow), kGreylisted);
  EXPECT_EQ(Ask(Rcpt(), kNow - 5), kGreylisted);
  EXPECT_EQ(Ask(Rcpt(), kNow + 300), kAllowed);
  EXPECT_EQ(Ask(Rcpt(), kNow + 295), kAllowed);
  EXPECT_EQ(Ask(Rcpt(), kNow + 290), kRateLimited);
}

TEST_F(PolicyRulesTest, StoreErrorsComeOutAndUndoWhatWasWritten) {
  settings_.rate_limit = 1;
  store_.failure = absl::UnavailableError("busy");
  const auto decide = [&](PolicyTransaction& transaction) -> absl::Status {
    return Decide(Rcpt(), settings_, kNow, transaction).status();
  };
  EXPECT_EQ(store_.Run(decide).code(), absl::StatusCode::kUnavailable);
  store_.failure = absl::OkStatus();
  store_.write_failure = absl::DataLossError("disk");
  EXPECT_EQ(store_.Run(decide).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(store_.tables.triplets.empty());
}

TEST(ClientNetwork, IsTheAddressWithoutItsHostBits) {
  struct Row {
    const char* address;
    int ipv4;
    int ipv6;
    const char* network;
  };
  const Row rows[] = {
      {"192.0.2.255", 24, 64, "192.0.2.0/24"},
      {"192.0.2.255", 32, 64, "192.0.2.255/32"},
      {"192.0.2.255", 0, 64, "0.0.0.0/0"},
      {"192.0.2.255", 31, 64, "192.0.2.254/31"},
      {"192.0.2.255", 17, 64, "192.0.0.0/17"},
      {"2001:db8:1:2:3:4:5:6", 24, 64, "2001:db8:1:2::/64"},
      {"2001:DB8:1:2:3:4:5:6", 24, 48, "2001:db8:1::/48"},
      {"2001:db8:1:2:3:4:5:6", 24, 128, "2001:db8:1:2:3:4:5:6/128"},
      {"2001:db8::1", 24, 0, "::/0"},
      {"::ffff:192.0.2.7", 24, 64, "192.0.2.0/24"},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(ClientNetwork(row.address, row.ipv4, row.ipv6), std::string(row.network))
        << row.address;
  }
  EXPECT_EQ(ClientNetwork(std::string(1000, '1'), 24, 64), absl::nullopt);
  EXPECT_EQ(ClientNetwork(absl::string_view("192.0.2.7\0x", 11), 24, 64), absl::nullopt);
}

TEST(OptOut, PatternsGoFromTheAddressToItsParents) {
  EXPECT_EQ(OptOutPatterns("User@MX.example.com"),
            (std::vector<std::string>{"user@mx.example.com", "user@", "mx.example.com",
                                      ".example.com", ".com"}));
  EXPECT_EQ(OptOutPatterns("postmaster"), (std::vector<std::string>{"postmaster", "postmaster@"}));
  EXPECT_EQ(OptOutPatterns("\"a@b\"@c"), (std::vector<std::string>{"\"a@b\"@c", "\"a@b\"@", "c"}));
  std::string deep = "a@x";
  for (int i = 0; i < 1000; ++i) deep += ".x";
  EXPECT_EQ(OptOutPatterns(deep).size(), 3u + kMaxOptOutParents);
}

TEST(OptOut, EntriesAreNormalised) {
  EXPECT_EQ(NormalizeOptOut(" @Example.ORG"), "example.org");
  EXPECT_EQ(NormalizeOptOut("Abuse@"), "abuse@");
  EXPECT_EQ(NormalizeOptOut(".Example.org"), ".example.org");
}

}  // namespace
}  // namespace examples

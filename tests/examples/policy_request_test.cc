#include "examples/policy/policy_request.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "examples/lib/plain_attributes.h"
#include "gtest/gtest.h"

namespace examples {
namespace {

// D73, as Postfix 3.7 sends it, with two attributes of newer versions.
std::vector<std::string> Lines() {
  return {"request=smtpd_access_policy",
          "protocol_state=RCPT",
          "protocol_name=ESMTP",
          "client_address=192.0.2.7",
          "client_name=mx.example.net",
          "client_port=40000",
          "reverse_client_name=mx.example.net",
          "server_address=198.51.100.1",
          "server_port=25",
          "helo_name=mx.example.net",
          "sender=alice@example.net",
          "recipient=bob@example.com",
          "recipient_count=0",
          "queue_id=",
          "instance=123.456.789.0",
          "size=1234",
          "etrn_domain=",
          "stress=",
          "sasl_method=",
          "sasl_username=",
          "sasl_sender=",
          "ccert_subject=CN+3Dx",
          "ccert_issuer=",
          "ccert_fingerprint=",
          "ccert_pubkey_fingerprint=",
          "encryption_protocol=TLSv1.3",
          "encryption_cipher=x",
          "encryption_keysize=256",
          "policy_context=",
          "tls_sni=",
          "mail_version=3.12"};
}

std::string List(const std::vector<std::string>& lines) {
  return absl::StrCat(absl::StrJoin(lines, "\n"), "\n\n");
}

TEST(PolicyRequest, D73_AStockRequestIsRead) {
  const std::string list = List(Lines());
  absl::StatusOr<PolicyRequest> request = ParsePolicyRequest(list);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->protocol_state, "RCPT");
  EXPECT_EQ(request->client_address, "192.0.2.7");
  EXPECT_EQ(request->sender, "alice@example.net");
  EXPECT_EQ(request->recipient, "bob@example.com");
  EXPECT_EQ(request->sasl_username, "");
}

TEST(PolicyRequest, D73_TheOrderOfAttributesDoesNotMatter) {
  std::mt19937 random(1);
  std::vector<std::string> lines = Lines();
  for (int round = 0; round < 100; ++round) {
    std::shuffle(lines.begin(), lines.end(), random);
    const std::string list = List(lines);
    absl::StatusOr<PolicyRequest> request = ParsePolicyRequest(list);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_EQ(request->recipient, "bob@example.com");
  }
}

TEST(PolicyRequest, D74_OfRepeatedAttributesTheFirstCountsEvenIfEmpty) {
  const std::string list =
      "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=\nsender=a@b\n\n";
  absl::StatusOr<PolicyRequest> request = ParsePolicyRequest(list);
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->sender, "");
}

TEST(PolicyRequest, MalformedListsAreRefusedWithAReason) {
  struct Row {
    std::string list;
    absl::string_view reason;
  };
  std::string many = "request=smtpd_access_policy\nprotocol_state=RCPT\n";
  for (int i = 0; i < kMaxPolicyAttributes; ++i) absl::StrAppend(&many, "x", i, "=\n");
  const Row rows[] = {
      {"\n", "no attribute \"request\""},
      {"protocol_state=RCPT\n\n", "no attribute \"request\""},
      {"request=\nprotocol_state=RCPT\n\n", "no attribute \"request\""},
      {"request=other\nprotocol_state=RCPT\n\n", "request=other instead of smtpd_access_policy"},
      {"request=smtpd_access_policy\n\n", "no attribute \"protocol_state\""},
      {"request=smtpd_access_policy\nprotocol_state=RCPT\nGET / HTTP/1.0\n\n", "no \"=\""},
      {std::string("request=smtpd_access_policy\nprotocol_state=RC\0T\n\n", 50), "NUL"},
      {many + "\n", "more than 200 attributes"},
  };
  for (const Row& row : rows) {
    absl::StatusOr<PolicyRequest> request = ParsePolicyRequest(row.list);
    ASSERT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << row.reason;
    EXPECT_TRUE(absl::StrContains(request.status().message(), row.reason)) << request.status();
  }
}

TEST(PolicyAnswer, D75_AnAnswerIsOneActionAndAnEmptyLine) {
  EXPECT_EQ(FormatPolicyAnswer("DUNNO"), "action=DUNNO\n\n");
  EXPECT_EQ(FormatPolicyAnswer("450 4.7.1 a=b"), "action=450 4.7.1 a=b\n\n");
  EXPECT_EQ(FormatPolicyAnswer("REJECT a\n\naction=OK"), "action=REJECT a\n\n");
}

TEST(PolicyAnswer, D76_ActionsThatSmtpdUnderstandsAreValid) {
  for (const char* action : {"DUNNO",
                             "dunno",
                             "OK",
                             "RELAY",
                             "REJECT",
                             "REJECT go away",
                             "DEFER later",
                             "HOLD",
                             "450 4.7.1 later",
                             "550 no",
                             "DEFER_IF_PERMIT",
                             "defer_if_permit 4.2.0 Greylisted",
                             "DEFER_IF_REJECT",
                             "DISCARD",
                             "PREPEND X-Header: text",
                             "FILTER smtp:[127.0.0.1]",
                             "REDIRECT a@b",
                             "BCC a@b",
                             "INFO",
                             "WARN this"}) {
    EXPECT_TRUE(ValidatePolicyAction(action).ok()) << action;
  }
  for (const char* action :
       {"", " DUNNO", "DUNO", "450", "450 ", "45 x", "350 x", "4x0 y", "PREPEND", "FILTER ",
        "reject_unauth_destination", "OK\nx", "DEFER_IF_PERMIT: x"}) {
    EXPECT_FALSE(ValidatePolicyAction(action).ok()) << action;
  }
}

// F41: any bytes end in a request or a reason; a request's fields come from the list.
TEST(PolicyRequest, F41_RandomDamageIsReadWithoutHarm) {
  std::mt19937 random(20260102);
  const std::string original = List(Lines());
  int parsed = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = original;
    for (unsigned edits = random() % 6; edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, random() % 30);
          break;
        case 2:
          text.insert(at, random() % 30, "=\n\0a"[random() % 4]);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 60));
      }
      if (text.empty()) text = "\n";
    }
    ListFinder finder;
    const size_t size = finder.Find(text);
    if (size == 0) continue;
    absl::StatusOr<PolicyRequest> request =
        ParsePolicyRequest(absl::string_view(text).substr(0, size));
    if (!request.ok()) {
      ASSERT_FALSE(request.status().message().empty());
      continue;
    }
    ++parsed;
    for (const absl::string_view field :
         {request->protocol_state, request->client_address, request->sender, request->recipient,
          request->sasl_username}) {
      if (field.data() == nullptr) continue;  // absent
      ASSERT_GE(field.data(), text.data());
      ASSERT_LE(field.data() + field.size(), text.data() + size);
      ASSERT_EQ(field.find('\n'), absl::string_view::npos);
    }
  }
  EXPECT_GT(parsed, 1000) << "the damage leaves too little to test";
}

}  // namespace
}  // namespace examples

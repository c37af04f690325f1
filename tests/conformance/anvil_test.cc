// anvil behind stock smtpd: the same expectations hold for the stock program and for ours in its
// place, so that smtpd cannot tell them apart (D31 to D37, D98).

#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "tests/conformance/conformance_test.h"

namespace posthouse::conformance {
namespace {

struct Program {
  const char* name;
  const char* runfile;  // null: the stock one
};

void PrintTo(const Program& program, std::ostream* out) { *out << program.name; }

class Anvil : public ConformanceTest, public testing::WithParamInterface<Program> {
 protected:
  void SetUp() override {
    ConformanceTest::SetUp();
    if (instance_ == nullptr) return;
    if (GetParam().runfile != nullptr) Install("anvil", GetParam().runfile);
    // The own network is exempt by default.
    instance_->SetParameter("smtpd_client_event_limit_exceptions", "");
  }

  int Port() const { return instance_->smtp_port(); }

  // One request of the anvil protocol, the lines of the reply joined by blanks.
  std::string Request(Connection& client, absl::string_view request, absl::string_view ident) {
    const absl::Status written =
        client.Write(absl::StrCat("request=", request, "\nident=", ident, "\n\n"));
    if (!written.ok()) return written.ToString();
    const absl::StatusOr<std::string> reply = client.ReadUntil("\n\n");
    return reply.ok() ? absl::StrReplaceAll(*reply, {{"\n", " "}}) : reply.status().ToString();
  }
  Connection Greeted() {
    Connection client = Connect("anvil");
    EXPECT_EQ(*client.ReadUntil("\n\n"), "protocol=anvil_protocol");  // D11, D12
    return client;
  }
};

TEST_P(Anvil, D32_SmtpdEnforcesTheConnectionRate) {
  instance_->SetParameter("smtpd_client_connection_rate_limit", "3");
  Expect("warning: Connection rate limit exceeded: 4 from ");
  Start();
  for (int i = 0; i < 3; ++i) {
    absl::StatusOr<SmtpClient> client = SmtpClient::Connect(Port());
    ASSERT_TRUE(client.ok()) << client.status();
    EXPECT_EQ(client->Quit(), absl::OkStatus());
  }
  const absl::Status refused = SmtpClient::Connect(Port()).status();
  EXPECT_TRUE(absl::StrContains(refused.message(), "banner 421 4.7.0")) << refused;
  // Another address has its own count.
  EXPECT_EQ(SmtpClient::Connect(Port(), "127.0.0.2").status(), absl::OkStatus());
}

TEST_P(Anvil, D34_D35_SmtpdEnforcesTheNumberOfConnectionsAtOnce) {
  instance_->SetParameter("smtpd_client_connection_count_limit", "2");
  Expect("warning: Connection concurrency limit exceeded: 3 from ");
  Start();
  absl::StatusOr<SmtpClient> first = SmtpClient::Connect(Port());
  absl::StatusOr<SmtpClient> second = SmtpClient::Connect(Port());
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_FALSE(SmtpClient::Connect(Port()).ok());
  EXPECT_EQ(first->Quit(), absl::OkStatus());
  // A place is free as soon as smtpd has told.
  EXPECT_TRUE(Eventually(kBound, [&] { return SmtpClient::Connect(Port()).ok(); }));
}

TEST_P(Anvil, D32_SmtpdEnforcesTheMessageRate) {
  instance_->SetParameter("smtpd_client_message_rate_limit", "2");
  Expect("warning: Message delivery request rate limit exceeded: 3 from ");
  Start();
  EXPECT_EQ(SendMailCode(Port(), "a@example.test", "b@box.example.test"), 250);
  EXPECT_EQ(SendMailCode(Port(), "a@example.test", "b@box.example.test"), 250);
  absl::StatusOr<SmtpReply> third = SendMail(Port(), "a@example.test", "b@box.example.test");
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ(third->code, 450);
  EXPECT_TRUE(absl::StrContains(third->text, "too much mail")) << *third;
  EXPECT_EQ(SendMailCode(Port(), "a@example.test", "b@box.example.test", "127.0.0.2"), 250);
}

TEST_P(Anvil, D32_SmtpdEnforcesTheRecipientRate) {
  instance_->SetParameter("smtpd_client_recipient_rate_limit", "2");
  Expect("warning: Recipient address rate limit exceeded: 3 from ");
  Start();
  absl::StatusOr<SmtpClient> client = SmtpClient::Connect(Port());
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(client->Envelope("a@example.test", "b1@box.example.test")->code, 250);
  EXPECT_EQ(client->Command("RCPT TO:<b2@box.example.test>")->code, 250);
  EXPECT_EQ(client->Command("RCPT TO:<b3@box.example.test>")->code, 450);
}

TEST_P(Anvil, D31_D36_RepliesAreThoseOfTheProtocol) {
  Expect("anvil\\[[0-9]+\\]: warning: .*no-such-request");
  Start();
  Connection client = Greeted();
  EXPECT_EQ(Request(client, "lookup", "smtp:192.0.2.1"),
            "status=0 count=0 rate=0 mail=0 rcpt=0 newtls=0 auth=0");
  EXPECT_EQ(Request(client, "connect", "smtp:192.0.2.1"), "status=0 count=1 rate=1");
  EXPECT_EQ(Request(client, "connect", "smtp:192.0.2.1"), "status=0 count=1 rate=2");
  EXPECT_EQ(Request(client, "message", "smtp:192.0.2.1"), "status=0 rate=1");
  EXPECT_EQ(Request(client, "recipient", "smtp:192.0.2.1"), "status=0 rate=1");
  EXPECT_EQ(Request(client, "recipient", "smtp:192.0.2.1"), "status=0 rate=2");
  EXPECT_EQ(Request(client, "newtls", "smtp:192.0.2.1"), "status=0 rate=1");
  EXPECT_EQ(Request(client, "newtls_status", "smtp:192.0.2.1"), "status=0 rate=1");
  EXPECT_EQ(Request(client, "newtls_status", "smtp:192.0.2.9"), "status=0 rate=0");
  EXPECT_EQ(Request(client, "auth", "smtp:192.0.2.1"), "status=0 rate=1");
  Connection other = Greeted();
  EXPECT_EQ(Request(other, "connect", "smtp:192.0.2.1"), "status=0 count=2 rate=3");
  EXPECT_EQ(Request(client, "disconnect", "smtp:192.0.2.9"), "status=0");
  EXPECT_EQ(Request(client, "lookup", "smtp:192.0.2.1"),
            "status=0 count=2 rate=3 mail=1 rcpt=2 newtls=1 auth=1");
  other.Close();
  EXPECT_TRUE(Eventually(kBound, [&] {
    return Request(client, "lookup", "smtp:192.0.2.1") ==
           "status=0 count=1 rate=3 mail=1 rcpt=2 newtls=1 auth=1";
  }));
  EXPECT_EQ(Request(client, "disconnect", "smtp:192.0.2.1"), "status=0");
  EXPECT_EQ(Request(client, "lookup", "smtp:192.0.2.1"),
            "status=0 count=0 rate=3 mail=1 rcpt=2 newtls=1 auth=1");
  EXPECT_EQ(Request(client, "no-such-request", "smtp:192.0.2.1"), "status=4294967295");
}

TEST_P(Anvil, D31_AMalformedListEndsTheConnectionWithoutReply) {
  Start();
  Expect("anvil\\[[0-9]+\\]: warning: ");
  Connection client = Greeted();
  ASSERT_EQ(client.Write("ident=smtp:192.0.2.1\nrequest=lookup\n\n"), absl::OkStatus());
  EXPECT_EQ(*client.ReadToEnd(), "");
  Connection next = Greeted();
  EXPECT_EQ(Request(next, "connect", "smtp:192.0.2.1"), "status=0 count=1 rate=1");
}

TEST_P(Anvil, D37_ThePeaksAreLoggedAtTheEnd) {
  Start();
  EXPECT_EQ(SendMailCode(Port(), "a@example.test", "b@box.example.test", "127.0.0.4"), 250);
  const std::vector<pid_t> workers = instance_->Processes("anvil");
  ASSERT_EQ(workers.size(), 1u);
  Reload();
  EXPECT_TRUE(Gone(workers[0]));
  for (const char* peak :
       {"max connection rate 1/60s for \\(127\\.0\\.0\\.1:[0-9]+:127\\.0\\.0\\.4\\)",
        "max connection count 1 for \\(127\\.0\\.0\\.1:[0-9]+:127\\.0\\.0\\.4\\)"}) {
    EXPECT_EQ(instance_->WaitForLog(absl::StrCat("statistics: ", peak, " at "), kBound).status(),
              absl::OkStatus());
  }
}

TEST_P(Anvil, D97_ReloadsWhileSmtpdUsesItDisturbNobody) {
  Start();
  absl::StatusOr<SmtpClient> client = SmtpClient::Connect(Port());
  ASSERT_TRUE(client.ok()) << client.status();
  for (int i = 0; i < 3; ++i) {
    Reload();
    absl::StatusOr<SmtpReply> reply = client->Envelope("a@example.test", "b@box.example.test");
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->code, 250);
    EXPECT_EQ(client->Data("through a reload")->code, 250);
  }
  EXPECT_EQ(client->Quit(), absl::OkStatus());
  EXPECT_TRUE(Eventually(kBound, [&] { return instance_->MailCount() == 3; }));
}

INSTANTIATE_TEST_SUITE_P(Programs, Anvil,
                         testing::Values(Program{"stock", nullptr},
                                         Program{"ours", "examples/anvil/anvil"}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace posthouse::conformance

#include "tests/conformance/smtp_client.h"

#include <ostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace posthouse::conformance {

std::ostream& operator<<(std::ostream& out, const SmtpReply& reply) {
  return out << reply.code << " " << reply.text;
}

absl::StatusOr<SmtpClient> SmtpClient::Connect(int port, absl::string_view source) {
  absl::StatusOr<Connection> connection = Connection::Tcp(port, source);
  if (!connection.ok()) return connection.status();
  SmtpClient client(*std::move(connection));
  const absl::StatusOr<SmtpReply> banner = client.ReadReply();
  if (!banner.ok()) return banner.status();
  if (banner->code != 220) {
    return absl::UnavailableError(absl::StrCat("banner ", banner->code, " ", banner->text));
  }
  return client;
}

absl::StatusOr<SmtpReply> SmtpClient::ReadReply() {
  SmtpReply reply;
  while (true) {
    const absl::StatusOr<std::string> line = connection_.ReadLine();
    if (!line.ok()) return line.status();
    if (line->size() < 3 || !absl::SimpleAtoi(line->substr(0, 3), &reply.code)) {
      return absl::InvalidArgumentError(absl::StrCat("not an SMTP reply: ", *line));
    }
    if (!reply.text.empty()) reply.text += "\n";
    if (line->size() > 4) reply.text += line->substr(4);
    if (line->size() < 4 || (*line)[3] != '-') return reply;
  }
}

absl::StatusOr<SmtpReply> SmtpClient::Command(absl::string_view line) {
  if (absl::Status status = connection_.Write(absl::StrCat(line, "\r\n")); !status.ok()) {
    return status;
  }
  return ReadReply();
}

absl::StatusOr<SmtpReply> SmtpClient::Envelope(absl::string_view sender,
                                               absl::string_view recipient) {
  if (!greeted_) {
    absl::StatusOr<SmtpReply> hello = Command("EHLO client.example.test");
    if (!hello.ok() || hello->code != 250) return hello;
    greeted_ = true;
  }
  absl::StatusOr<SmtpReply> mail = Command(absl::StrCat("MAIL FROM:<", sender, ">"));
  if (!mail.ok() || mail->code != 250) return mail;
  return Command(absl::StrCat("RCPT TO:<", recipient, ">"));
}

absl::StatusOr<SmtpReply> SmtpClient::Data(absl::string_view subject) {
  absl::StatusOr<SmtpReply> go_on = Command("DATA");
  if (!go_on.ok() || go_on->code != 354) return go_on;
  return Command(absl::StrCat("Subject: ", subject, "\r\n\r\nA message.\r\n."));
}

absl::Status SmtpClient::Quit() {
  const absl::StatusOr<SmtpReply> reply = Command("QUIT");
  connection_.Close();
  return reply.status();
}

absl::StatusOr<SmtpReply> SendMail(int port, absl::string_view sender, absl::string_view recipient,
                                   absl::string_view source) {
  absl::StatusOr<SmtpClient> client = SmtpClient::Connect(port, source);
  if (!client.ok()) return client.status();
  absl::StatusOr<SmtpReply> reply = client->Envelope(sender, recipient);
  if (reply.ok() && reply->code == 250) reply = client->Data("conformance");
  client->Quit().IgnoreError();  // The decision is known; some servers close first.
  return reply;
}

int SendMailCode(int port, absl::string_view sender, absl::string_view recipient,
                 absl::string_view source) {
  const absl::StatusOr<SmtpReply> reply = SendMail(port, sender, recipient, source);
  return reply.ok() ? reply->code : 0;
}

}  // namespace posthouse::conformance

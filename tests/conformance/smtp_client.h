// SmtpClient speaks SMTP to a server on a loopback port, one blocking session per object.
//
//   absl::StatusOr<SmtpClient> client = SmtpClient::Connect(port, "127.0.0.5");
//   absl::StatusOr<SmtpReply> reply = client->Command("EHLO client.example.test");
//
// Many sessions at once: one thread each.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_SMTP_CLIENT_H_
#define POSTHOUSE_TESTS_CONFORMANCE_SMTP_CLIENT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tests/conformance/connection.h"

namespace posthouse::conformance {

struct SmtpReply {
  int code = 0;
  std::string text;  // the lines of the reply without codes, joined by LF
};

std::ostream& operator<<(std::ostream& out, const SmtpReply& reply);

class SmtpClient {
 public:
  // Connects and reads the banner, which must be 220.
  static absl::StatusOr<SmtpClient> Connect(int port, absl::string_view source = "127.0.0.1");

  // One command line and its reply.
  absl::StatusOr<SmtpReply> Command(absl::string_view line);
  // EHLO, MAIL and RCPT; the first reply that is not 2xx, or that to RCPT.
  absl::StatusOr<SmtpReply> Envelope(absl::string_view sender, absl::string_view recipient);
  // DATA and a small message; the reply to the final dot.
  absl::StatusOr<SmtpReply> Data(absl::string_view subject);
  absl::Status Quit();
  Connection& connection() { return connection_; }

 private:
  explicit SmtpClient(Connection connection) : connection_(std::move(connection)) {}
  absl::StatusOr<SmtpReply> ReadReply();

  Connection connection_;
  bool greeted_ = false;
};

// A whole session: the reply that decided, which is the first one that is not positive, or the one
// to the final dot.
absl::StatusOr<SmtpReply> SendMail(int port, absl::string_view sender, absl::string_view recipient,
                                   absl::string_view source = "127.0.0.1");
// Its code alone, 0 for a session that broke off.
int SendMailCode(int port, absl::string_view sender, absl::string_view recipient,
                 absl::string_view source = "127.0.0.1");

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_SMTP_CLIENT_H_

#include "tests/conformance/suite/candidate.h"

#include "absl/strings/str_cat.h"

namespace posthouse::conformance {
namespace {

// A string with NUL bytes in it.
template <size_t N>
std::string Bytes(const char (&text)[N]) {
  return std::string(text, N - 1);
}

}  // namespace

Candidate& TheCandidate() {
  static Candidate* const candidate = new Candidate;
  return *candidate;
}

absl::Status ApplyPreset(absl::string_view preset, Candidate* candidate) {
  if (preset == "echo") {
    candidate->request = "hello, worker\n";
    candidate->reply_pattern = "^hello, worker\n$";
  } else if (preset == "anvil") {
    // D11, D31, D32. It keeps its data in memory, so it asks to be alone and has no use limit.
    candidate->name = "anvil";
    candidate->process_limit = 1;
    candidate->has_use_limit = false;
    candidate->one_shot = false;  // S78: the end of its one client ends the stock one badly
    candidate->main_cf = "anvil_rate_time_unit = 1s\n";
    candidate->greeting_pattern = "^protocol=anvil_protocol\n\n$";
    candidate->request = "request=lookup\nident=smtp:192.0.2.1\n\n";
    candidate->reply_pattern = "^status=0\ncount=0\nrate=0\n(.+\n)*\n$";
  } else if (preset == "rewrite") {
    // D2, D11, D58.
    candidate->name = "rewrite";
    candidate->greeting_pattern = "^protocol[^a-z]trivial_rewrite_protocol[^a-z][^a-z]$";
    candidate->request = Bytes("request\0rewrite\0rule\0local\0address\0someone@example.test\0\0");
    candidate->reply_pattern =
        "^flags[^a-z]0[^a-z]address[^a-z]someone@example\\.test[^a-z][^a-z]$";
  } else if (preset == "policy") {
    // D72 to D75.
    candidate->request =
        "request=smtpd_access_policy\nprotocol_state=CONNECT\nprotocol_name=ESMTP\n"
        "client_address=192.0.2.1\nclient_name=mx.example.test\n\n";
    candidate->reply_pattern = "^(.+\n)*action=.*\n(.+\n)*\n$";
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown preset '", preset, "' (known: echo, anvil, policy, rewrite)"));
  }
  return absl::OkStatus();
}

}  // namespace posthouse::conformance

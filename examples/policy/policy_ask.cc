// policy-ask asks a policy service one question and prints its answer.
//
//   policy-ask --connect inet:127.0.0.1:10031 client_address=192.0.2.7 recipient=bob@example.com
//
// Attributes that are not given have the values that Postfix's smtpd would send at RCPT.

#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "examples/lib/plain_attributes.h"

namespace examples {
namespace {

constexpr size_t kMaxAnswerBytes = 64 << 10;

constexpr char kUsage[] =
    R"(usage: policy-ask --connect inet:HOST:PORT|unix:PATH [--timeout SECONDS] [name=value ...]

Asks a policy service what to do and prints its answer, "action=...". Attributes that are not
given have the values of an ordinary RCPT request; a name without "=" leaves it out.

Exit status: 0 with an answer, 1 without one, 2 for a wrong command line.
)";

using Attributes = std::vector<std::pair<std::string, std::string>>;

Attributes OrdinaryRequest() {
  return {{"request", "smtpd_access_policy"},
          {"protocol_state", "RCPT"},
          {"protocol_name", "ESMTP"},
          {"client_address", "192.0.2.1"},
          {"client_name", "unknown"},
          {"client_port", "0"},
          {"reverse_client_name", "unknown"},
          {"helo_name", "mail.example.net"},
          {"sender", "sender@example.net"},
          {"recipient", "recipient@example.com"},
          {"recipient_count", "0"},
          {"queue_id", ""},
          {"instance", "1.1.1.0"},
          {"size", "0"},
          {"sasl_method", ""},
          {"sasl_username", ""},
          {"sasl_sender", ""}};
}

void Change(absl::string_view argument, Attributes* attributes) {
  const size_t equals = argument.find('=');
  const absl::string_view name = argument.substr(0, equals);
  for (auto it = attributes->begin(); it != attributes->end(); ++it) {
    if (it->first != name) continue;
    if (equals == absl::string_view::npos) {
      attributes->erase(it);
    } else {
      it->second = std::string(argument.substr(equals + 1));
    }
    return;
  }
  if (equals == absl::string_view::npos) return;
  attributes->emplace_back(name, argument.substr(equals + 1));
}

absl::StatusOr<int> ConnectUnix(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is too long for a socket"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "socket");
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    absl::Status status = absl::ErrnoToStatus(errno, absl::StrCat("connect to unix:", path));
    close(fd);
    return status;
  }
  return fd;
}

absl::StatusOr<int> ConnectInet(absl::string_view endpoint) {
  const size_t colon = endpoint.rfind(':');
  std::string host(endpoint.substr(0, colon == absl::string_view::npos ? 0 : colon));
  const std::string port(endpoint.substr(host.empty() && colon != 0 ? 0 : colon + 1));
  if (host.empty()) host = "localhost";
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::NotFoundError(absl::StrCat("inet:", endpoint, ": ", gai_strerror(error)));
  }
  absl::Status status = absl::NotFoundError("no address");
  int fd = -1;
  for (const addrinfo* address = found; address != nullptr && fd < 0; address = address->ai_next) {
    fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
      status = absl::ErrnoToStatus(errno, absl::StrCat("connect to inet:", endpoint));
      if (fd >= 0) close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(found);
  if (fd < 0) return status;
  return fd;
}

absl::StatusOr<int> Connect(absl::string_view endpoint) {
  if (absl::ConsumePrefix(&endpoint, "unix:")) return ConnectUnix(std::string(endpoint));
  if (absl::ConsumePrefix(&endpoint, "inet:")) return ConnectInet(endpoint);
  return absl::InvalidArgumentError(
      absl::StrCat("\"", endpoint, "\" is neither inet:HOST:PORT nor unix:PATH"));
}

// The answer without its empty line.
absl::StatusOr<std::string> Ask(int fd, const std::string& request, int timeout_ms) {
  for (size_t sent = 0; sent < request.size();) {
    const ssize_t n = send(fd, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n < 0) return absl::ErrnoToStatus(errno, "send");
    sent += static_cast<size_t>(n);
  }
  std::string answer;
  ListFinder finder;
  char buffer[4096];
  while (answer.size() < kMaxAnswerBytes) {
    pollfd ready = {.fd = fd, .events = POLLIN, .revents = 0};
    const int polled = poll(&ready, 1, timeout_ms);
    if (polled < 0) return absl::ErrnoToStatus(errno, "poll");
    if (polled == 0) return absl::DeadlineExceededError("no answer in time");
    const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    if (n < 0) return absl::ErrnoToStatus(errno, "recv");
    if (n == 0) return absl::UnavailableError("the service closed the connection");
    answer.append(buffer, static_cast<size_t>(n));
    if (const size_t size = finder.Find(answer); size != 0) return answer.substr(0, size - 1);
  }
  return absl::ResourceExhaustedError("the answer does not end");
}

int Main(int argc, char** argv) {
  std::string endpoint;
  int timeout_seconds = 30;
  static const option kOptions[] = {{"connect", required_argument, nullptr, 'c'},
                                    {"timeout", required_argument, nullptr, 't'},
                                    {"help", no_argument, nullptr, 'h'},
                                    {}};
  for (int letter; (letter = getopt_long(argc, argv, "c:t:h", kOptions, nullptr)) != -1;) {
    switch (letter) {
      case 'c':
        endpoint = optarg;
        break;
      case 't':
        if (absl::SimpleAtoi(optarg, &timeout_seconds) && timeout_seconds > 0 &&
            timeout_seconds < 1000000) {
          break;
        }
        fprintf(stderr, "policy-ask: \"%s\" is no number of seconds\n", optarg);
        return 2;
      case 'h':
        fputs(kUsage, stdout);
        return 0;
      default:
        fputs(kUsage, stderr);
        return 2;
    }
  }
  if (endpoint.empty()) {
    fputs(kUsage, stderr);
    return 2;
  }
  Attributes attributes = OrdinaryRequest();
  for (int i = optind; i < argc; ++i) Change(argv[i], &attributes);
  std::string request;
  for (const auto& [name, value] : attributes) AppendAttribute(name, value, &request);
  request.push_back('\n');

  absl::StatusOr<int> fd = Connect(endpoint);
  if (!fd.ok()) {
    fprintf(stderr, "policy-ask: %s\n", std::string(fd.status().message()).c_str());
    return absl::IsInvalidArgument(fd.status()) ? 2 : 1;
  }
  absl::StatusOr<std::string> answer = Ask(*fd, request, timeout_seconds * 1000);
  close(*fd);
  if (!answer.ok()) {
    fprintf(stderr, "policy-ask: %s\n", std::string(answer.status().message()).c_str());
    return 1;
  }
  fputs(answer->c_str(), stdout);
  return 0;
}

}  // namespace
}  // namespace examples

int main(int argc, char** argv) { return examples::Main(argc, argv); }

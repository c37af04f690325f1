#include "posthouse/io/listen.h"

#include <fcntl.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "posthouse/io/inet_listener.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr size_t kMaxHostSize = 255;
constexpr size_t kMaxShown = 100;  // how much of a bad text an error shows

// --- The specification ---

absl::Status BadSpec(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("--listen ",
                                                 absl::CEscape(text.substr(0, kMaxShown)),
                                                 text.size() > kMaxShown ? "...: " : ": ", why));
}

bool IsPort(absl::string_view port) {
  if (port.empty() || port.size() > 32) return false;
  if (std::all_of(port.begin(), port.end(), absl::ascii_isdigit)) {
    int number = 0;
    return absl::SimpleAtoi(port, &number) && number <= 65535;
  }
  return absl::ascii_isalpha(static_cast<unsigned char>(port[0])) &&
         std::all_of(port.begin(), port.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_';
         });
}

bool IsHost(absl::string_view host) {
  return host.size() <= kMaxHostSize && std::all_of(host.begin(), host.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':' ||
                  c == '%';
         });
}

absl::StatusOr<ListenSpec> ParseInet(absl::string_view text, absl::string_view rest) {
  ListenSpec spec;
  spec.transport = Transport::kInet;
  spec.text = std::string(text);
  const size_t colon = rest.rfind(':');
  if (colon == absl::string_view::npos) return BadSpec(text, "expected inet:HOST:PORT");
  absl::string_view host = rest.substr(0, colon);
  const absl::string_view port = rest.substr(colon + 1);
  const bool bracketed = absl::ConsumePrefix(&host, "[");
  if (bracketed && !absl::ConsumeSuffix(&host, "]")) return BadSpec(text, "\"[\" without \"]\"");
  if (bracketed && host.empty()) return BadSpec(text, "there is no address between [ and ]");
  if (!bracketed && host.find(':') != absl::string_view::npos) {
    return BadSpec(text, "an IPv6 address is written in brackets: inet:[ADDRESS]:PORT");
  }
  if (!bracketed && host == "*") host = "";
  if (!IsHost(host)) return BadSpec(text, "this is no host name or address");
  if (!IsPort(port)) return BadSpec(text, "the port is no number from 0 to 65535 and no name");
  spec.host = std::string(host);
  spec.port = std::string(port);
  return spec;
}

absl::StatusOr<ListenSpec> ParseUnix(absl::string_view text, absl::string_view path) {
  if (path.empty()) return BadSpec(text, "expected unix:PATH");
  if (absl::Status status = CheckSocketPath(path); !status.ok()) {
    return BadSpec(text, status.message());
  }
  ListenSpec spec;
  spec.transport = Transport::kUnix;
  spec.path = std::string(path);
  spec.text = std::string(text);
  return spec;
}

// --- Sockets ---

absl::Status ErrnoError(const ListenSpec& spec, int error, absl::string_view what) {
  return absl::ErrnoToStatus(error,
                             absl::StrCat("--listen ", absl::CEscape(spec.text), ": ", what));
}

absl::Status PrefixError(const ListenSpec& spec, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat("--listen ", absl::CEscape(spec.text), ": ", status.message()));
}

std::string LocalText(int fd, const addrinfo& wanted) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (os::Getsockname(fd, generic, &length) != 0) {
    return PeerText(wanted.ai_addr, wanted.ai_addrlen);
  }
  return PeerText(generic, length);
}

absl::Status ResolveError(const ListenSpec& spec, int code) {
  if (code == EAI_SYSTEM) return ErrnoError(spec, errno, "look-up");
  return absl::NotFoundError(absl::StrCat("--listen ", spec.text, ": ", gai_strerror(code)));
}

absl::StatusOr<ListenResult> OpenAddresses(const ListenSpec& spec, const ListenOptions& options,
                                           const addrinfo* list) {
  ListenResult result;
  absl::Status last_error;
  std::set<std::string> seen;
  const bool is_alternative = list->ai_next != nullptr;
  for (const addrinfo* address = list; address != nullptr; address = address->ai_next) {
    if (address->ai_family != AF_INET && address->ai_family != AF_INET6) continue;
    const std::string text = PeerText(address->ai_addr, address->ai_addrlen);
    if (!seen.insert(text).second) continue;
    InetListener listener =
        OpenInetListener(address->ai_addr, address->ai_addrlen, {.backlog = options.backlog});
    if (listener.error == 0) {
      std::string local = LocalText(listener.fd.get(), *address);
      result.sockets.emplace_back(std::move(listener.fd), Transport::kInet, std::move(local));
      continue;
    }
    last_error = ErrnoError(spec, listener.error, absl::StrCat(listener.call, " ", text));
    if (!is_alternative || !IsFamilyMissing(listener.error)) return last_error;
    result.warnings.emplace_back(last_error.message());
  }
  if (result.sockets.empty()) {
    if (!last_error.ok()) return last_error;
    return absl::NotFoundError(absl::StrCat("--listen ", spec.text, ": no usable address"));
  }
  return result;
}

absl::StatusOr<ListenResult> OpenInetSockets(const ListenSpec& spec, const ListenOptions& options) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* list = nullptr;
  const char* host = spec.host.empty() ? nullptr : spec.host.c_str();
  const int code = os::Getaddrinfo(host, spec.port.c_str(), &hints, &list);
  if (code != 0) return ResolveError(spec, code);
  absl::StatusOr<ListenResult> result = OpenAddresses(spec, options, list);
  freeaddrinfo(list);
  return result;
}

// --- Unix sockets ---

absl::Status Occupied(const ListenSpec& spec, absl::string_view why) {
  return absl::AlreadyExistsError(
      absl::StrCat("--listen ", absl::CEscape(spec.text), ": ", why, "; it is left alone"));
}

// Whether a connect to the name is refused because nobody holds the socket any more. A full queue,
// a missing permission or another socket type mean that somebody does.
absl::StatusOr<bool> IsDeadSocket(const ListenSpec& spec) {
  UniqueFd probe(os::Socket(AF_UNIX, SOCK_STREAM | os::kSockNonblock | os::kSockCloexec, 0));
  if (!probe) return ErrnoError(spec, errno, "socket");
  const UnixAddress address(spec.path);
  int result;
  do {
    result = os::Connect(probe.get(), address.get(), address.length());
  } while (result != 0 && errno == EINTR);
  return result != 0 && errno == ECONNREFUSED;
}

// Makes room for the socket's name: nothing there, or a dead socket of ours, which goes (F95).
absl::Status ClearName(const ListenSpec& spec) {
  struct stat found = {};
  if (os::Lstat(spec.path.c_str(), &found) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoError(spec, errno, "lstat");
  }
  if (!S_ISSOCK(found.st_mode)) return Occupied(spec, "the path exists and is no socket");
  if (found.st_uid != os::Geteuid()) return Occupied(spec, "the socket belongs to somebody else");
  absl::StatusOr<bool> dead = IsDeadSocket(spec);
  if (!dead.ok()) return dead.status();
  if (!*dead) return Occupied(spec, "another process listens on this socket");
  if (os::Unlink(spec.path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoError(spec, errno, "unlink");
  }
  return absl::OkStatus();
}

absl::StatusOr<ListenResult> OpenUnixSocket(const ListenSpec& spec, const ListenOptions& options) {
  if (absl::Status status = ClearName(spec); !status.ok()) return status;
  UniqueFd fd(os::Socket(AF_UNIX, SOCK_STREAM | os::kSockNonblock | os::kSockCloexec, 0));
  if (!fd) return ErrnoError(spec, errno, "socket");
  if (BindWithMode(fd.get(), spec.path, options.unix_mode) != 0) {
    return ErrnoError(spec, errno, "bind");
  }
  absl::StatusOr<MadeName> name = MadeName::Settle(spec.path, options.unix_mode);
  if (!name.ok()) return PrefixError(spec, name.status());
  if (os::Listen(fd.get(), options.backlog) != 0) {
    absl::Status status = ErrnoError(spec, errno, "listen");
    os::Unlink(spec.path.c_str());
    return status;
  }
  ListenResult result;
  result.sockets.emplace_back(std::move(fd), *std::move(name));
  return result;
}

}  // namespace

absl::StatusOr<ListenSpec> ParseListenSpec(absl::string_view text) {
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "inet:")) return ParseInet(text, rest);
  if (absl::ConsumePrefix(&rest, "unix:")) return ParseUnix(text, rest);
  return BadSpec(text, "expected inet:HOST:PORT or unix:PATH");
}

ListenSocket::ListenSocket(UniqueFd fd, MadeName name)
    : fd_(std::move(fd)),
      transport_(Transport::kUnix),
      address_(absl::StrCat("unix:", absl::CEscape(name.path()))),
      name_(std::move(name)) {}

absl::StatusOr<ListenResult> OpenListenSockets(const ListenSpec& spec,
                                               const ListenOptions& options) {
  return spec.transport == Transport::kUnix ? OpenUnixSocket(spec, options)
                                            : OpenInetSockets(spec, options);
}

}  // namespace posthouse

#include "posthouse/master/endpoint.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/io/inet_listener.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr mode_t kSocketMode = 0666;  // M55
constexpr mode_t kFifoMode = 0622;

// A fifo holds 64 KiB, or what somebody has made of it, 1 MiB at most without privileges. Whoever
// writes faster than we read is not waited for.
constexpr int kMaxDrainReads = 1024;

#if defined(POLLRDHUP)
constexpr short kShutDown = POLLHUP | POLLRDHUP;
#else
constexpr short kShutDown = POLLHUP;
#endif

absl::Status PathError(absl::string_view call, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(call, " ", absl::CEscape(path)));
}

// The bytes of the address that a socket is bound to.
std::string LocalAddress(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  auto* const bytes = reinterpret_cast<sockaddr*>(&address);
  if (os::Getsockname(fd, bytes, &length) != 0) return "";
  return std::string(reinterpret_cast<const char*>(bytes), length);
}

// A datagram socket that was connected takes nothing from anybody else.
bool HasPeer(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  return os::Getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0;
}

// --- Names that are taken ---

absl::string_view FileKind(mode_t mode) {
  if (S_ISREG(mode)) return "a regular file";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISLNK(mode)) return "a symbolic link";
  if (S_ISFIFO(mode)) return "a fifo";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

absl::Status Occupied(const std::string& path, absl::string_view by) {
  return absl::AlreadyExistsError(
      absl::StrCat(absl::CEscape(path), " is taken by ", by, "; it is left alone"));
}

// F95, with the identity of the owner in force.
absl::Status ClearName(const std::string& path) {
  struct stat found = {};
  if (os::Lstat(path.c_str(), &found) != 0) {
    return errno == ENOENT ? absl::OkStatus() : PathError("lstat", path);
  }
  const absl::string_view kind = FileKind(found.st_mode);
  if (!S_ISSOCK(found.st_mode) && !S_ISFIFO(found.st_mode)) return Occupied(path, kind);
  if (found.st_uid != os::Geteuid() && found.st_uid != os::Getuid()) {
    return Occupied(path, absl::StrCat(kind, " of user ", found.st_uid));
  }
  if (os::Unlink(path.c_str()) != 0 && errno != ENOENT) return PathError("unlink", path);
  return absl::OkStatus();
}

// --- Fifos ---

bool HasEvents(int fd, short events) {
  pollfd entry = {fd, events, 0};
  return os::Poll(&entry, 1, 0) > 0 && (entry.revents & events) != 0;
}

void Drain(int fd) {
  char buffer[4096];
  for (int i = 0; i < kMaxDrainReads; ++i) {
    const ssize_t size = os::Read(fd, buffer, sizeof(buffer));
    if (size == 0 || (size < 0 && errno != EINTR)) return;
  }
}

// The descriptor of the very fifo that was made.
absl::StatusOr<UniqueFd> OpenMadeFifo(const MadeName& name, int access) {
  const std::string& path = name.path();
  UniqueFd fd(os::Open(path.c_str(), access | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0));
  if (!fd) return PathError("open", path);
  struct stat found = {};
  if (os::Fstat(fd.get(), &found) != 0) return PathError("fstat", path);
  if (!name.IsSameFile(found)) return Occupied(path, "another file since the fifo was made");
  return fd;
}

// Reader and writer in one, so that the end of the last writer is not an end of file; where such a
// descriptor shows as readable with nothing to read, a reader only (M55).
absl::StatusOr<UniqueFd> ListenOnFifo(const MadeName& name) {
  absl::StatusOr<UniqueFd> fd = OpenMadeFifo(name, O_RDWR);
  if (!fd.ok()) return fd;
  // The world may write to it since it was made.
  if (HasEvents(fd->get(), POLLIN)) Drain(fd->get());
  if (!HasEvents(fd->get(), POLLIN)) return fd;
  return OpenMadeFifo(name, O_RDONLY);
}

}  // namespace

absl::StatusOr<Endpoint> Endpoint::OpenInet(const EndpointAddress& address,
                                            const EndpointOptions& options, int* error) {
  InetListenerOptions listener_options;
  listener_options.backlog = options.backlog;
  listener_options.reuse_port = true;
  listener_options.buffer_size = options.buffer_size;
  InetListener listener = OpenInetListener(reinterpret_cast<const sockaddr*>(&address.address),
                                           address.length, listener_options);
  if (error != nullptr) *error = listener.error;
  if (listener.error != 0) {
    return absl::ErrnoToStatus(listener.error, absl::StrCat(listener.call, " ", address.text));
  }
  Endpoint endpoint(EndpointKind::kInet, std::move(listener.fd), MadeName());
  endpoint.local_ = LocalAddress(endpoint.fd());
  return endpoint;
}

absl::StatusOr<Endpoint> Endpoint::OpenPath(EndpointKind kind, const std::string& path,
                                            const EndpointOptions& options) {
  POSTHOUSE_CHECK(kind != EndpointKind::kInet, "an inet endpoint has an address, not a path");
  if (absl::Status status = CheckSocketPath(path); !status.ok() && kind != EndpointKind::kFifo) {
    return absl::Status(status.code(), absl::StrCat(absl::CEscape(path), ": ", status.message()));
  }
  EffectiveOwner owner;
  if (absl::Status status = owner.Become(options.owner); !status.ok()) return status;
  if (absl::Status status = ClearName(path); !status.ok()) return status;
  return kind == EndpointKind::kFifo ? OpenFifo(path) : OpenSocket(kind, path, options);
}

absl::StatusOr<Endpoint> Endpoint::OpenSocket(EndpointKind kind, const std::string& path,
                                              const EndpointOptions& options) {
  const int type = kind == EndpointKind::kDatagram ? SOCK_DGRAM : SOCK_STREAM;
  UniqueFd fd(os::Socket(AF_UNIX, type | os::kSockNonblock | os::kSockCloexec, 0));
  if (!fd) return PathError("socket for", path);
  if (BindWithMode(fd.get(), path, kSocketMode) != 0) return PathError("bind to", path);
  absl::StatusOr<MadeName> name = MadeName::Settle(path, kSocketMode);
  if (!name.ok()) return name.status();
  if (type == SOCK_STREAM && os::Listen(fd.get(), options.backlog) != 0) {
    absl::Status status = PathError("listen on", path);
    os::Unlink(path.c_str());
    return status;
  }
  return Endpoint(kind, std::move(fd), *std::move(name));
}

absl::StatusOr<Endpoint> Endpoint::OpenFifo(const std::string& path) {
  if (MakeFifoWithMode(path, kFifoMode) != 0) return PathError("mkfifo", path);
  absl::StatusOr<MadeName> name = MadeName::Settle(path, kFifoMode);
  if (!name.ok()) return name.status();
  absl::StatusOr<UniqueFd> fd = ListenOnFifo(*name);
  if (!fd.ok()) {
    name->Remove().IgnoreError();  // the reason to give up is told
    return fd.status();
  }
  return Endpoint(EndpointKind::kFifo, *std::move(fd), *std::move(name));
}

bool Endpoint::IsDeaf() const {
  POSTHOUSE_CHECK(is_open(), "only an open endpoint can be deaf");
  if (kind_ == EndpointKind::kFifo) return false;  // there is nothing that could be shut down
  if (HasEvents(fd_.get(), kShutDown)) return true;
  if (kind_ == EndpointKind::kDatagram) return HasPeer(fd_.get());
  // A socket that was connected after it had been shut down reports no hang-up.
  int listens = 0;
  socklen_t length = sizeof(listens);
  return os::Getsockopt(fd_.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0 &&
         listens == 0;
}

bool Endpoint::Revive(int backlog) {
  // Linux keeps the address of a TCP socket that was shut down, so that it can listen again; but a
  // port that the kernel had chosen is lost, and a new one is no use.
  return kind_ == EndpointKind::kInet && os::Listen(fd_.get(), backlog) == 0 && !IsDeaf() &&
         LocalAddress(fd_.get()) == local_;
}

absl::Status Endpoint::RemoveName(const FileOwner& owner) {
  if (kind_ == EndpointKind::kInet) return absl::OkStatus();
  EffectiveOwner identity;
  if (absl::Status status = identity.Become(owner); !status.ok()) return status;
  return name_.Remove();
}

}  // namespace posthouse

#include "posthouse/os/twins.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#if defined(__APPLE__)
#include <sys/random.h>
#endif

namespace posthouse::os::twin {
namespace {

constexpr size_t kMostEntropy = 256;  // of one getentropy(3)
// GRND_NONBLOCK, GRND_RANDOM and GRND_INSECURE, of which some systems have no names.
constexpr unsigned kRandomFlags = 7;

// close(2) with the errno of what failed before.
int CloseAndFail(int fd) {
  const int error = errno;
  ::close(fd);
  errno = error;
  return -1;
}

bool SetCloseOnExec(int fd, bool wanted) {
  return !wanted || ::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

bool SetNonBlocking(int fd, bool wanted) {
  const int flags = ::fcntl(fd, F_GETFL, 0);
  if (flags < 0) return false;
  const int changed = wanted ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  return changed == flags || ::fcntl(fd, F_SETFL, changed) == 0;
}

// A new descriptor as it was asked for, or closed and -1.
int Finish(int fd, bool close_on_exec, bool non_blocking) {
  if (fd < 0) return -1;
  if (SetCloseOnExec(fd, close_on_exec) && SetNonBlocking(fd, non_blocking)) return fd;
  return CloseAndFail(fd);
}

int FinishPair(const int* made, bool close_on_exec, bool non_blocking, int* fds) {
  if (Finish(made[0], close_on_exec, non_blocking) < 0) return CloseAndFail(made[1]);
  if (Finish(made[1], close_on_exec, non_blocking) < 0) return CloseAndFail(made[0]);
  fds[0] = made[0];
  fds[1] = made[1];
  return 0;
}

// Runs `send` so that it raises no SIGPIPE. One that was pending before stays pending.
template <typename SendFunction>
ssize_t WithoutSigpipe(int fd, SendFunction send) {
#if defined(SO_NOSIGPIPE)
  const int on = 1;
  if (::setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on)) == 0) return send();
    // A socket whose peer is gone may refuse options, and that is when the signal would come.
#endif
  sigset_t sigpipe, old_mask, pending;
  sigemptyset(&sigpipe);
  sigaddset(&sigpipe, SIGPIPE);
  sigemptyset(&pending);
  ::sigpending(&pending);
  const bool was_pending = sigismember(&pending, SIGPIPE) == 1;
  ::pthread_sigmask(SIG_BLOCK, &sigpipe, &old_mask);
  const ssize_t sent = send();
  const int error = errno;
  if (sent < 0 && error == EPIPE && !was_pending) {
    ::sigpending(&pending);
    int signal = 0;
    if (sigismember(&pending, SIGPIPE) == 1) ::sigwait(&sigpipe, &signal);
  }
  ::pthread_sigmask(SIG_SETMASK, &old_mask, nullptr);
  errno = error;
  return sent;
}

}  // namespace

int Dup3(int from, int to, int flags) {
  if ((flags & ~O_CLOEXEC) != 0 || from == to) {
    errno = EINVAL;
    return -1;
  }
  const int fd = ::dup2(from, to);
  if (fd < 0) return -1;
  return SetCloseOnExec(fd, (flags & O_CLOEXEC) != 0) ? fd : CloseAndFail(fd);
}

int Pipe2(int* fds, int flags) {
  if ((flags & ~(O_CLOEXEC | O_NONBLOCK)) != 0) {
    errno = EINVAL;
    return -1;
  }
  int made[2];
  if (::pipe(made) != 0) return -1;
  return FinishPair(made, (flags & O_CLOEXEC) != 0, (flags & O_NONBLOCK) != 0, fds);
}

int Socket(int domain, int type, int protocol) {
  const int fd = ::socket(domain, type & ~(kSockCloexec | kSockNonblock), protocol);
  return Finish(fd, (type & kSockCloexec) != 0, (type & kSockNonblock) != 0);
}

int Socketpair(int domain, int type, int protocol, int* fds) {
  int made[2];
  if (::socketpair(domain, type & ~(kSockCloexec | kSockNonblock), protocol, made) != 0) return -1;
  return FinishPair(made, (type & kSockCloexec) != 0, (type & kSockNonblock) != 0, fds);
}

int Accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  if ((flags & ~(kSockCloexec | kSockNonblock)) != 0) {
    errno = EINVAL;
    return -1;
  }
  return Finish(::accept(fd, address, length), (flags & kSockCloexec) != 0,
                (flags & kSockNonblock) != 0);
}

ssize_t Recvmsg(int fd, msghdr* message, int flags) {
  const ssize_t count = ::recvmsg(fd, message, flags & ~kMsgCmsgCloexec);
  if (count < 0 || (flags & kMsgCmsgCloexec) == 0) return count;
  for (cmsghdr* block = CMSG_FIRSTHDR(message); block != nullptr;
       block = CMSG_NXTHDR(message, block)) {
    if (block->cmsg_level != SOL_SOCKET || block->cmsg_type != SCM_RIGHTS) continue;
    // A message that was cut may claim more than there is room for.
    const char* const data = reinterpret_cast<const char*>(CMSG_DATA(block));
    const char* const limit =
        static_cast<const char*>(message->msg_control) + message->msg_controllen;
    const size_t bytes =
        std::min<size_t>(block->cmsg_len - CMSG_LEN(0), limit > data ? limit - data : 0);
    for (size_t offset = 0; offset + sizeof(int) <= bytes; offset += sizeof(int)) {
      int received = -1;
      std::memcpy(&received, data + offset, sizeof(received));
      SetCloseOnExec(received, true);
    }
  }
  return count;
}

ssize_t Send(int fd, const void* data, size_t size, int flags) {
  const int rest = flags & ~kMsgNosignal;
  if (rest == flags) return ::send(fd, data, size, flags);
  return WithoutSigpipe(fd, [&] { return ::send(fd, data, size, rest); });
}

ssize_t Sendmsg(int fd, const msghdr* message, int flags) {
  const int rest = flags & ~kMsgNosignal;
  if (rest == flags) return ::sendmsg(fd, message, flags);
  return WithoutSigpipe(fd, [&] { return ::sendmsg(fd, message, rest); });
}

int Clone(int (*entry)(void*), void* /*stack_top*/, int flags, void* argument) {
  if (flags != kCloneBorrow) {
    errno = EINVAL;
    return -1;
  }
  // macOS calls it deprecated; no other call there tells that a program was executed.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const pid_t pid = ::vfork();
#pragma GCC diagnostic pop
  // This frame, to which the parent returns, is left alone: the child goes down and never back up.
  if (pid == 0) ::_exit(entry(argument));
  return pid;
}

ssize_t Getrandom(void* buffer, size_t size, unsigned flags) {
  if ((flags & ~kRandomFlags) != 0) {
    errno = EINVAL;
    return -1;
  }
  char* const bytes = static_cast<char*>(buffer);
  for (size_t done = 0; done < size; done += std::min(size - done, kMostEntropy)) {
    if (::getentropy(bytes + done, std::min(size - done, kMostEntropy)) != 0) return -1;
  }
  return static_cast<ssize_t>(size);
}

}  // namespace posthouse::os::twin

// Twins of system calls: what a call does, made of older ones, for systems that lack it or one of
// its flags. macOS has no accept4(2), pipe2(2), dup3(2) and no way to ask for close-on-exec when a
// descriptor is made; OpenBSD has no getrandom(2); clone(2) is Linux alone.
//
//   const int fd = twin::Accept4(listen_fd, nullptr, nullptr, kSockCloexec);
//
// They stand below the seam: an answerer calls POSTHOUSE_OS_CALLEE(Accept4, accept4), which is the
// call of the C library where that is complete and the twin where not; nothing above knows which.
// They compile on every system, and a test on Linux holds each against the real call.
//
// What a twin cannot do: between the call and the fcntl(2) behind it another thread may fork, and
// its child inherits the descriptor. posthouse has one thread per process and forks nowhere in
// between; a service with threads that fork has the window on such a system.
//
// Thread, fork, errors: as the call. Signals: all are async-signal-safe (sigwait(3) of Send() and
// Sendmsg() by its nature, although POSIX does not list it).

#ifndef POSTHOUSE_OS_TWINS_H_
#define POSTHOUSE_OS_TWINS_H_

#include "posthouse/os/os.h"

namespace posthouse::os::twin {

// dup2(2). Flags: O_CLOEXEC.
int Dup3(int from, int to, int flags);

// pipe(2). Flags: O_CLOEXEC, O_NONBLOCK. A failure leaves `fds` as they were, here and below.
int Pipe2(int* fds, int flags);

// socket(2) and socketpair(2) without kSockCloexec and kSockNonblock in the type, which follow.
int Socket(int domain, int type, int protocol);
int Socketpair(int domain, int type, int protocol, int* fds);

// accept(2). Flags: kSockCloexec, kSockNonblock. Where a connection inherits O_NONBLOCK from the
// listen socket (the BSDs and macOS) it is taken away, as accept4(2) does.
int Accept4(int fd, sockaddr* address, socklen_t* length, int flags);

// recvmsg(2) without kMsgCmsgCloexec; each descriptor that came gets the flag.
ssize_t Recvmsg(int fd, msghdr* message, int flags);

// send(2) and sendmsg(2) without kMsgNosignal. A socket that can be told to raise no SIGPIPE is
// told so and stays so; otherwise the signal is held back for this thread and taken away again.
ssize_t Send(int fd, const void* data, size_t size, int flags);
ssize_t Sendmsg(int fd, const msghdr* message, int flags);

// vfork(2): the child calls `entry` further down our stack and exits with what that returns; this
// returns when the child has executed a program or ended. Whether memory is borrowed or copied
// depends on the system: what `entry` writes is seen here for certain only in memory that was
// mapped with MAP_SHARED. EINVAL for flags other than kCloneBorrow.
int Clone(int (*entry)(void*), void* stack_top, int flags, void* argument);

// getentropy(3), in pieces. The flags say how to wait for the kernel's first randomness, for which
// getentropy(3) always waits; unknown ones are EINVAL. Never gives less than was asked for.
ssize_t Getrandom(void* buffer, size_t size, unsigned flags);

}  // namespace posthouse::os::twin

// The one place that says which systems need which twin.
#define POSTHOUSE_OS_CALLEE(Name, native) POSTHOUSE_OS_CALLEE_##Name(native)

#if defined(SOCK_CLOEXEC)  // the other calls that make descriptors came with it, on every system
#define POSTHOUSE_OS_CALLEE_Dup3(native) ::native
#define POSTHOUSE_OS_CALLEE_Pipe2(native) ::native
#define POSTHOUSE_OS_CALLEE_Socket(native) ::native
#define POSTHOUSE_OS_CALLEE_Socketpair(native) ::native
#define POSTHOUSE_OS_CALLEE_Accept4(native) ::native
#else
#define POSTHOUSE_OS_CALLEE_Dup3(native) ::posthouse::os::twin::Dup3
#define POSTHOUSE_OS_CALLEE_Pipe2(native) ::posthouse::os::twin::Pipe2
#define POSTHOUSE_OS_CALLEE_Socket(native) ::posthouse::os::twin::Socket
#define POSTHOUSE_OS_CALLEE_Socketpair(native) ::posthouse::os::twin::Socketpair
#define POSTHOUSE_OS_CALLEE_Accept4(native) ::posthouse::os::twin::Accept4
#endif

#if defined(MSG_CMSG_CLOEXEC)
#define POSTHOUSE_OS_CALLEE_Recvmsg(native) ::native
#else
#define POSTHOUSE_OS_CALLEE_Recvmsg(native) ::posthouse::os::twin::Recvmsg
#endif

// Headers of macOS have come to define MSG_NOSIGNAL, whose meaning its older kernels do not know.
#if defined(MSG_NOSIGNAL) && !defined(__APPLE__)
#define POSTHOUSE_OS_CALLEE_Send(native) ::native
#define POSTHOUSE_OS_CALLEE_Sendmsg(native) ::native
#else
#define POSTHOUSE_OS_CALLEE_Send(native) ::posthouse::os::twin::Send
#define POSTHOUSE_OS_CALLEE_Sendmsg(native) ::posthouse::os::twin::Sendmsg
#endif

#if defined(__linux__)
#define POSTHOUSE_OS_CALLEE_Clone(native) ::native
#else
#define POSTHOUSE_OS_CALLEE_Clone(native) ::posthouse::os::twin::Clone
#endif

#if defined(__APPLE__) || defined(__OpenBSD__)
#define POSTHOUSE_OS_CALLEE_Getrandom(native) ::posthouse::os::twin::Getrandom
#else
#define POSTHOUSE_OS_CALLEE_Getrandom(native) ::native
#endif

#endif  // POSTHOUSE_OS_TWINS_H_

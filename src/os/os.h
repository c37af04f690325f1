// The seam to the system: every system call of the library and every reading of a clock, as plain
// functions that behave as the manual page of the call they are named after says, errno included.
//
//   if (os::Pipe2(fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
//
// This header only declares. The link decides who answers: //src/os:kernel hands every call to the
// C library; the answerers of //src/testing count, record, fail on request, and keep a clock of
// their own. No module of the library calls the system past this header (a test compares the list
// with the undefined symbols of our object files), and none is compiled differently for a test.
//
// To add a call: one line here, one in calls.inc. A call that only some systems have stands here
// under the condition that says which; one that can be made of others has a twin (twins.h) and
// stands for all.
//
// Thread: as the call. Fork, signals: a function is async-signal-safe with the kernel answerer
// exactly if its call is. Errors: -1 and errno, or what the manual page says.

#ifndef POSTHOUSE_OS_OS_H_
#define POSTHOUSE_OS_OS_H_

#include <grp.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#if defined(__linux__)
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#endif
#if defined(__FreeBSD__)
#include <sys/procctl.h>
#endif

struct kevent;  // posthouse/os/kqueue.h, whose macros not everybody wants

namespace posthouse::os {

// glibc types these parameters as enumerations in C++, other systems as int.
#if defined(__GLIBC__)
using RlimitResource = __rlimit_resource_t;
using ItimerWhich = __itimer_which_t;
#else
using RlimitResource = int;
using ItimerWhich = int;
#endif

// Flags of Socket(), Socketpair(), Accept4(), Recvmsg(), Send() and Sendmsg() that not every system
// has a name for; where the kernel does not know them, twins act upon them.
#if defined(SOCK_CLOEXEC)
inline constexpr int kSockCloexec = SOCK_CLOEXEC;
inline constexpr int kSockNonblock = SOCK_NONBLOCK;
#else
inline constexpr int kSockCloexec = 1 << 28;
inline constexpr int kSockNonblock = 1 << 29;
#endif
#if defined(MSG_CMSG_CLOEXEC)
inline constexpr int kMsgCmsgCloexec = MSG_CMSG_CLOEXEC;
#else
inline constexpr int kMsgCmsgCloexec = 1 << 28;
#endif
#if defined(MSG_NOSIGNAL)
inline constexpr int kMsgNosignal = MSG_NOSIGNAL;
#else
inline constexpr int kMsgNosignal = 1 << 29;
#endif

// Flags of Clone(): the child borrows the memory of its parent, which stands still until the child
// executes a program or ends, as with vfork(2); and SIGCHLD tells its end. Systems without clone(2)
// ignore them, see twins.h.
#if defined(__linux__)
inline constexpr int kCloneBorrow = CLONE_VM | CLONE_VFORK | SIGCHLD;
#else
inline constexpr int kCloneBorrow = SIGCHLD;
#endif

// Descriptors and files.
int Close(int fd);
int Dup2(int from, int to);
int Dup3(int from, int to, int flags);
#if defined(__linux__) || defined(__FreeBSD__)
int CloseRange(unsigned first, unsigned last, int flags);
#endif
#if defined(__NetBSD__) || defined(__OpenBSD__)
int Closefrom(int first);
#endif
int Fcntl(int fd, int command, int argument);
int Ioctl(int fd, unsigned long request, void* argument);
ssize_t Read(int fd, void* buffer, size_t size);
ssize_t Write(int fd, const void* data, size_t size);
ssize_t Writev(int fd, const iovec* parts, int count);
ssize_t Pread(int fd, void* buffer, size_t size, off_t offset);
ssize_t Pwrite(int fd, const void* data, size_t size, off_t offset);
int Pipe2(int* fds, int flags);
int Open(const char* path, int flags, mode_t mode);
int Mkfifo(const char* path, mode_t mode);
int Flock(int fd, int operation);
int Fstat(int fd, struct stat* out);
int Stat(const char* path, struct stat* out);
int Lstat(const char* path, struct stat* out);
ssize_t Readlink(const char* path, char* target, size_t size);
int Unlink(const char* path);
int Rename(const char* from, const char* to);
int Mkdir(const char* path, mode_t mode);
int Chown(const char* path, uid_t uid, gid_t gid);
int Chmod(const char* path, mode_t mode);
int Chdir(const char* path);
int Chroot(const char* path);
mode_t Umask(mode_t mask);
int Isatty(int fd);

// Sockets.
int Socket(int domain, int type, int protocol);
int Socketpair(int domain, int type, int protocol, int* fds);
int Bind(int fd, const sockaddr* address, socklen_t length);
int Listen(int fd, int backlog);
int Accept4(int fd, sockaddr* address, socklen_t* length, int flags);
int Connect(int fd, const sockaddr* address, socklen_t length);
int Getsockname(int fd, sockaddr* address, socklen_t* length);
int Getpeername(int fd, sockaddr* address, socklen_t* length);
int Getsockopt(int fd, int level, int option, void* value, socklen_t* length);
int Setsockopt(int fd, int level, int option, const void* value, socklen_t length);
ssize_t Recv(int fd, void* buffer, size_t size, int flags);
ssize_t Send(int fd, const void* data, size_t size, int flags);
ssize_t Recvmsg(int fd, msghdr* message, int flags);
ssize_t Sendmsg(int fd, const msghdr* message, int flags);
int Shutdown(int fd, int how);

// Waiting.
int Poll(pollfd* fds, nfds_t count, int timeout_ms);
int Select(int count, fd_set* readable, fd_set* writable, fd_set* exceptional, timeval* timeout);
#if defined(__linux__)
int EpollCreate1(int flags);
int EpollCtl(int epoll, int operation, int fd, epoll_event* event);
int EpollWait(int epoll, epoll_event* events, int capacity, int timeout_ms);
int Signalfd(int fd, const sigset_t* mask, int flags);
// Structures and flags: posthouse/os/io_uring.h.
int IoUringSetup(unsigned entries, void* parameters);
int IoUringEnter(int ring, unsigned submit, unsigned wait_for, unsigned flags, const void* argument,
                 size_t size);
int IoUringRegister(int ring, unsigned operation, void* argument, unsigned count);
#endif
// Everywhere; a kernel without them answers ENOSYS.
int Kqueue();
int Kevent(int queue, const struct kevent* changes, int change_count, struct kevent* events,
           int capacity, const timespec* timeout);

// Signals and processes.
int Sigaction(int signal, const struct sigaction* action, struct sigaction* old);
int Sigmask(int how, const sigset_t* set, sigset_t* old);
int Sigpending(sigset_t* out);
int Sigwait(const sigset_t* set, int* signal);
int Kill(pid_t pid, int signal);
int Setitimer(ItimerWhich which, const itimerval* value, itimerval* old);
pid_t Fork();
// clone(2) as the C library has it: the child calls `entry` on its own stack, which ends below
// `stack_top`, and exits with what that returns. Flags: kCloneBorrow.
int Clone(int (*entry)(void*), void* stack_top, int flags, void* argument);
pid_t Waitpid(pid_t pid, int* status, int options);
int Execve(const char* path, char* const* arguments, char* const* environment);
pid_t Getpid();
pid_t Getppid();
pid_t Setsid();
pid_t Getsid(pid_t pid);
pid_t Getpgid(pid_t pid);
int Getrlimit(RlimitResource resource, rlimit* out);
int Setrlimit(RlimitResource resource, const rlimit* limit);

// Accounts and privileges.
uid_t Getuid();
uid_t Geteuid();
gid_t Getgid();
gid_t Getegid();
int Setuid(uid_t uid);
int Setgid(gid_t gid);
int Seteuid(uid_t uid);
int Setegid(gid_t gid);
int Setgroups(int count, const gid_t* groups);
int Initgroups(const char* user, gid_t group);
int GetpwnamR(const char* name, passwd* out, char* buffer, size_t size, passwd** result);
int GetpwuidR(uid_t uid, passwd* out, char* buffer, size_t size, passwd** result);
int GetgrnamR(const char* name, group* out, char* buffer, size_t size, group** result);
int GetgrgidR(gid_t gid, group* out, char* buffer, size_t size, group** result);
#if defined(__linux__)
int Prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
#endif
#if defined(__FreeBSD__)
int Procctl(idtype_t kind, id_t id, int command, void* data);
#endif
int Gethostname(char* name, size_t size);
int Getifaddrs(ifaddrs** out);
int Getaddrinfo(const char* host, const char* port, const addrinfo* hints, addrinfo** out);

// Time, randomness, memory.
int ClockGettime(clockid_t clock, timespec* out);
// Reads the file of the time zone; localtime_r(3) works on what it has read.
void Tzset();
int Nanosleep(const timespec* duration, timespec* left);
ssize_t Getrandom(void* buffer, size_t size, unsigned flags);
void* Mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset);
int Munmap(void* address, size_t size);
int Madvise(void* address, size_t size, int advice);
#if defined(INHERIT_ZERO) || defined(MAP_INHERIT_ZERO)
int Minherit(void* address, size_t size, int inheritance);
#endif

}  // namespace posthouse::os

#endif  // POSTHOUSE_OS_OS_H_

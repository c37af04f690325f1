// A worker for any type of service that writes down what it has inherited, everything the kernel
// tells, and what its clients send: in the directory dump/ of its working directory
//
//   SERVICE-PID           the facts, one per line, complete as soon as the file is there
//   SERVICE-PID.request   the first bytes that a client sent, in hexadecimal
//
// It leaves when the master goes away or closes the status channel, and says nothing on it.

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tests/master/worker_report.h"

namespace posthouse::conformance {
namespace {

constexpr int kStatusFd = 5;
constexpr int kFirstListenFd = 6;
constexpr int kHighestFd = 1024;

std::string ReadFile(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string Link(const std::string& path) {
  char target[1000] = {};
  return readlink(path.c_str(), target, sizeof target - 1) < 0 ? "?" : target;
}

struct Option {
  const char* name;
  int level, number;
};

constexpr Option kOptions[] = {
    {"domain", SOL_SOCKET, SO_DOMAIN},
    {"protocol", SOL_SOCKET, SO_PROTOCOL},
    {"error", SOL_SOCKET, SO_ERROR},
    {"keepalive", SOL_SOCKET, SO_KEEPALIVE},
    {"oobinline", SOL_SOCKET, SO_OOBINLINE},
    {"broadcast", SOL_SOCKET, SO_BROADCAST},
    {"dontroute", SOL_SOCKET, SO_DONTROUTE},
    {"passcred", SOL_SOCKET, SO_PASSCRED},
    {"passsec", SOL_SOCKET, SO_PASSSEC},
    {"linger", SOL_SOCKET, SO_LINGER},  // whether it is on
    {"rcvbuf", SOL_SOCKET, SO_RCVBUF},
    {"sndbuf", SOL_SOCKET, SO_SNDBUF},
    {"rcvlowat", SOL_SOCKET, SO_RCVLOWAT},
    {"priority", SOL_SOCKET, SO_PRIORITY},
    {"mark", SOL_SOCKET, SO_MARK},
    {"timestamp", SOL_SOCKET, SO_TIMESTAMP},
    {"busy_poll", SOL_SOCKET, SO_BUSY_POLL},
    {"nodelay", IPPROTO_TCP, TCP_NODELAY},
    {"defer_accept", IPPROTO_TCP, TCP_DEFER_ACCEPT},
    {"fastopen", IPPROTO_TCP, TCP_FASTOPEN},
    {"keepidle", IPPROTO_TCP, TCP_KEEPIDLE},
    {"maxseg", IPPROTO_TCP, TCP_MAXSEG},
    {"tos", IPPROTO_IP, IP_TOS},
    {"freebind", IPPROTO_IP, IP_FREEBIND},
    {"transparent", IPPROTO_IP, IP_TRANSPARENT},
};

// The kernel tells the backlog of a local listener through this socket alone.
int LocalBacklog(ino_t inode) {
  const int diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  struct {
    nlmsghdr header;
    unix_diag_req request;
  } message = {};
  message.header = {
      .nlmsg_len = sizeof message, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST};
  message.request.sdiag_family = AF_UNIX;
  message.request.udiag_states = static_cast<uint32_t>(-1);
  message.request.udiag_ino = static_cast<uint32_t>(inode);
  message.request.udiag_show = UDIAG_SHOW_RQLEN;
  memset(message.request.udiag_cookie, 0xff, sizeof message.request.udiag_cookie);
  int backlog = -1;
  alignas(nlmsghdr) char answer[4096];
  if (send(diag, &message, sizeof message, 0) == static_cast<ssize_t>(sizeof message)) {
    const ssize_t length = recv(diag, answer, sizeof answer, 0);
    const auto* header = reinterpret_cast<const nlmsghdr*>(answer);
    if (length > 0 && header->nlmsg_type == SOCK_DIAG_BY_FAMILY) {
      const size_t start = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(unix_diag_msg));
      const auto* attribute = reinterpret_cast<const nlattr*>(answer + start);
      const auto* queue = reinterpret_cast<const unix_diag_rqlen*>(answer + start + NLA_HDRLEN);
      if (attribute->nla_type == UNIX_DIAG_RQLEN) backlog = static_cast<int>(queue->udiag_wqueue);
    }
  }
  close(diag);
  return backlog;
}

void AppendSocket(int fd, ino_t inode, std::string* text) {
  absl::StrAppend(text, "options ", fd);
  for (const Option& option : kOptions) {
    int value[2] = {};
    socklen_t length = sizeof value;
    if (getsockopt(fd, option.level, option.number, value, &length) == 0) {
      absl::StrAppend(text, " ", option.name, "=", value[0]);
    }
  }
  timeval timeout = {};
  socklen_t length = sizeof timeout;
  for (const int name : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    getsockopt(fd, SOL_SOCKET, name, &timeout, &length);
    absl::StrAppend(text, " timeout=", timeout.tv_sec);
  }
  ucred peer = {};
  length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0) {
    absl::StrAppend(text, " peer=", peer.uid, ":", peer.gid);
  }
  absl::StrAppend(text, " local_backlog=", LocalBacklog(inode), "\n");
}

void AppendDescriptors(std::string* text) {
  std::vector<std::pair<dev_t, ino_t>> files(kHighestFd);
  for (int fd = 0; fd < kHighestFd; ++fd) {
    struct stat file;
    if (fstat(fd, &file) != 0) continue;
    files[fd] = {file.st_dev, file.st_ino};
    absl::StrAppend(
        text, absl::StrFormat("stat %d mode=%o uid=%d gid=%d links=%d flags=%o", fd, file.st_mode,
                              file.st_uid, file.st_gid, file.st_nlink, fcntl(fd, F_GETFL)));
    for (int same = 0; same < fd; ++same) {
      if (files[same] == files[fd]) absl::StrAppend(text, " same=", same);
    }
    absl::StrAppend(text, " owner=", fcntl(fd, F_GETOWN), "\n");
    if (S_ISSOCK(file.st_mode)) AppendSocket(fd, file.st_ino, text);
  }
}

void AppendSignals(std::string* text) {
  for (int signal = 32; signal <= SIGRTMAX; ++signal) {
    struct sigaction action;
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) {
      absl::StrAppend(text, "ignored ", signal, "\n");
    }
  }
  for (const int which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    itimerval timer = {};
    getitimer(which, &timer);
    absl::StrAppend(text, "timer ", which, " ", timer.it_value.tv_sec, ".", timer.it_value.tv_usec,
                    "\n");
  }
}

void AppendProcess(std::string* text) {
  constexpr const char* kFields[] = {"CapInh",  "CapPrm",     "CapEff",  "CapBnd",       "CapAmb",
                                     "SigPnd",  "ShdPnd",     "SigBlk",  "SigIgn",       "SigCgt",
                                     "Threads", "NoNewPrivs", "Seccomp", "Cpus_allowed", "Umask"};
  for (absl::string_view line : absl::StrSplit(ReadFile("/proc/self/status"), '\n')) {
    for (const char* field : kFields) {
      if (absl::StartsWith(line, absl::StrCat(field, ":"))) {
        absl::StrAppend(text, "status ", line, "\n");
      }
    }
  }
  for (absl::string_view line : absl::StrSplit(ReadFile("/proc/self/limits"), '\n')) {
    absl::StrAppend(text, "limit ", line, "\n");
  }
  for (const char* file : {"oom_score_adj", "coredump_filter", "timerslack_ns", "cgroup"}) {
    absl::StrAppend(text, file, " ", ReadFile(absl::StrCat("/proc/self/", file)), "\n");
  }
  absl::StrAppend(text, "executable ", Link("/proc/self/exe"), "\nroot ", Link("/proc/self/root"),
                  "\nexecuted as ", reinterpret_cast<const char*>(getauxval(AT_EXECFN)),
                  "\nsecure ", getauxval(AT_SECURE), "\nnice ", getpriority(PRIO_PROCESS, 0),
                  "\nscheduler ", sched_getscheduler(0), "\npersonality ", personality(0xffffffff));
  int death_signal = 0, subreaper = 0;
  prctl(PR_GET_PDEATHSIG, &death_signal);
  prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
  absl::StrAppend(text, "\ndeath signal ", death_signal, "\nsubreaper ", subreaper, "\ndumpable ",
                  prctl(PR_GET_DUMPABLE), "\nkeepcaps ", prctl(PR_GET_KEEPCAPS), "\nsecurebits ",
                  prctl(PR_GET_SECUREBITS));
  const int terminal = open("/dev/tty", O_RDWR | O_CLOEXEC);
  absl::StrAppend(text, "\nterminal ", terminal < 0 ? strerror(errno) : "yes", "\n");
  if (terminal >= 0) close(terminal);
}

std::string ServiceName(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (absl::string_view(argv[i]) == "-n") return argv[i + 1];
  }
  return argv[0];
}

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path + ".new", std::ios::trunc) << text;
  rename((path + ".new").c_str(), path.c_str());
}

// The descriptor that the master or postscreen passes; -1 when none came.
int ReceiveDescriptor(int connection) {
  char byte;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (recvmsg(connection, &message, 0) <= 0) return -1;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return -1;
  int passed;
  memcpy(&passed, CMSG_DATA(header), sizeof passed);
  return passed;
}

// What the client sends up to a NUL or its end: a wake-up is W and NUL in one piece or two.
std::string ReadRequest(int fd) {
  std::string request;
  char byte;
  while (request.size() < 100 && read(fd, &byte, 1) == 1) {
    request += byte;
    if (byte == '\0') break;
  }
  return request;
}

std::string TakeRequest(int listener, bool passed) {
  int type = 0;
  socklen_t length = sizeof type;
  if (getsockopt(listener, SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type == SOCK_DGRAM) {
    char data[100];
    const ssize_t got = read(listener, data, sizeof data);
    return got > 0 ? std::string(data, got) : "";
  }
  const int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (connection < 0) return "";
  const int source = passed ? ReceiveDescriptor(connection) : connection;
  const std::string request = source < 0 ? "" : ReadRequest(source);
  if (source != connection && source >= 0) close(source);
  close(connection);
  return request;
}

int Main(int argc, char** argv) {
  std::string facts = WorkerReport(argc, argv);
  AppendDescriptors(&facts);
  AppendSignals(&facts);
  AppendProcess(&facts);
  const std::string path = absl::StrCat("dump/", ServiceName(argc, argv), "-", getpid());
  WriteFile(path, facts);

  bool passed = false;
  for (int i = 1; i + 1 < argc; ++i) {
    passed |= absl::string_view(argv[i]) == "-t" && absl::string_view(argv[i + 1]) == "pass";
  }
  std::vector<pollfd> watched = {{kStatusFd, POLLIN, 0}};
  for (int fd = kFirstListenFd; fcntl(fd, F_GETFD) >= 0; ++fd) watched.push_back({fd, POLLIN, 0});
  while (poll(watched.data(), watched.size(), -1) >= 0 || errno == EINTR) {
    if (watched[0].revents != 0) return 0;
    for (size_t i = 1; i < watched.size(); ++i) {
      if (watched[i].revents == 0) continue;
      const std::string request = TakeRequest(watched[i].fd, passed);
      if (!request.empty()) WriteFile(path + ".request", absl::BytesToHexString(request));
    }
  }
  return 1;
}

}  // namespace
}  // namespace posthouse::conformance

int main(int argc, char** argv) { return posthouse::conformance::Main(argc, argv); }

#include "tests/master/worker_report.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

extern char** environ;

namespace posthouse {
namespace {

int Option(int fd, int level, int name) {
  int value = 0;
  socklen_t length = sizeof(value);
  return getsockopt(fd, level, name, &value, &length) == 0 ? value : -1;
}

// The kernel tells the backlog of a TCP listener in this field; of others it tells nothing.
int Backlog(int fd) {
  tcp_info info = {};
  socklen_t length = sizeof(info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return -1;
  return static_cast<int>(info.tcpi_sacked);
}

std::string Address(int fd) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "?";
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto* inet = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &inet->sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(inet->sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto* inet = reinterpret_cast<const sockaddr_in6*>(&address);
    inet_ntop(AF_INET6, &inet->sin6_addr, text, sizeof(text));
    return absl::StrCat("[", text, "]:", ntohs(inet->sin6_port));
  }
  if (address.ss_family == AF_UNIX && length > offsetof(sockaddr_un, sun_path)) {
    return reinterpret_cast<const sockaddr_un*>(&address)->sun_path;
  }
  return "";
}

void AppendDescriptors(std::string* text) {
  for (int fd = 0; fd < 1024; ++fd) {
    const int flags = fcntl(fd, F_GETFD);
    if (flags < 0) continue;
    char target[1000] = {};
    const std::string link = absl::StrCat("/proc/self/fd/", fd);
    if (readlink(link.c_str(), target, sizeof(target) - 1) < 0) target[0] = '\0';
    absl::StrAppend(text, "fd ", fd, " ", (flags & FD_CLOEXEC) ? "cloexec " : "",
                    (fcntl(fd, F_GETFL) & O_NONBLOCK) ? "nonblocking" : "blocking", " ", target,
                    "\n");
    const int type = Option(fd, SOL_SOCKET, SO_TYPE);
    if (type < 0) continue;
    absl::StrAppend(text, "socket ", fd, " type=", type,
                    " listening=", Option(fd, SOL_SOCKET, SO_ACCEPTCONN),
                    " reuseaddr=", Option(fd, SOL_SOCKET, SO_REUSEADDR),
                    " reuseport=", Option(fd, SOL_SOCKET, SO_REUSEPORT),
                    " v6only=", Option(fd, IPPROTO_IPV6, IPV6_V6ONLY), " backlog=", Backlog(fd),
                    " address=", Address(fd), "\n");
  }
}

void AppendSignals(std::string* text) {
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  for (int signal = 1; signal < 32; ++signal) {
    struct sigaction action;
    sigaction(signal, nullptr, &action);
    if (action.sa_handler == SIG_IGN) absl::StrAppend(text, "ignored ", signal, "\n");
    if (sigismember(&blocked, signal)) absl::StrAppend(text, "blocked ", signal, "\n");
  }
  itimerval alarm = {};
  getitimer(ITIMER_REAL, &alarm);
  absl::StrAppend(text, "alarm ", alarm.it_value.tv_sec, "\n");
}

void AppendIdentity(std::string* text) {
  absl::StrAppend(text, "pid ", getpid(), "\nparent ", getppid(), "\nsession ", getsid(0),
                  "\ngroup ", getpgrp(), "\n");
  uid_t user[3] = {};
  gid_t group[3] = {};
  if (getresuid(&user[0], &user[1], &user[2]) == 0) {
    absl::StrAppend(text, "uid ", absl::StrJoin(user, " "), "\n");
  }
  if (getresgid(&group[0], &group[1], &group[2]) == 0) {
    absl::StrAppend(text, "gid ", absl::StrJoin(group, " "), "\n");
  }
  std::vector<gid_t> groups(1000);
  const int count = getgroups(static_cast<int>(groups.size()), groups.data());
  groups.resize(count > 0 ? static_cast<size_t>(count) : 0);
  absl::StrAppend(text, "groups ", absl::StrJoin(groups, " "), "\n");
}

}  // namespace

std::string WorkerReport(int argc, char** argv) {
  const std::vector<std::string> arguments(argv, argv + argc);
  std::string text = absl::StrCat("arguments ", absl::StrJoin(arguments, " "), "\n");
  for (const std::string& argument : arguments) absl::StrAppend(&text, "argument ", argument, "\n");
  for (char** variable = environ; *variable != nullptr; ++variable) {
    absl::StrAppend(&text, "environment ", *variable, "\n");
  }
  char directory[4096];
  absl::StrAppend(&text, "directory ",
                  getcwd(directory, sizeof(directory)) == nullptr ? "?" : directory, "\n");
  const mode_t mask = umask(0);
  umask(mask);
  absl::StrAppend(&text, absl::StrFormat("umask %03o\n", mask));
  AppendDescriptors(&text);
  AppendSignals(&text);
  AppendIdentity(&text);
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  absl::StrAppend(&text, "time ", int64_t{now.tv_sec} * 1000000000 + now.tv_nsec, "\n");
  return text;
}

}  // namespace posthouse

// Writes what it was started with into the file that its first argument names, and exits 0.

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdio>
#include <string>

extern char** environ;

namespace {

constexpr int kHighestFd = 4096;

std::string Descriptors() {
  std::string text;
  char name[64];
  char target[1000];
  for (int fd = 0; fd < kHighestFd; ++fd) {
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0) continue;
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(name, target, sizeof(target));
    text += "fd " + std::to_string(fd) + ((flags & O_NONBLOCK) ? " nonblocking " : " blocking ") +
            std::string(target, length > 0 ? static_cast<size_t>(length) : 0) + "\n";
  }
  return text;
}

std::string Signals() {
  std::string text;
  sigset_t blocked, pending;
  sigprocmask(SIG_SETMASK, nullptr, &blocked);
  sigpending(&pending);
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action;
    if (sigaction(signal, nullptr, &action) != 0) continue;
    // A handler is none that was inherited; sanitizers have some.
    if (action.sa_handler == SIG_IGN) text += "ignored " + std::to_string(signal) + "\n";
    if (sigismember(&blocked, signal) == 1) text += "blocked " + std::to_string(signal) + "\n";
    if (sigismember(&pending, signal) == 1) text += "pending " + std::to_string(signal) + "\n";
  }
  itimerval timer;
  getitimer(ITIMER_REAL, &timer);
  if (timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0) text += "alarm\n";
  return text;
}

std::string State() {
  std::string text;
  char buffer[4096];
  text += std::string("directory ") + getcwd(buffer, sizeof(buffer)) + "\n";
  snprintf(buffer, sizeof(buffer), "umask %03o\n", static_cast<unsigned>(umask(0)));
  text += buffer;
  text += "parent " + std::to_string(getppid()) + "\n";
  text += "session " + std::to_string(getsid(0)) + "\n";
  text += "group " + std::to_string(getpgrp()) + "\n";
  rlimit core;
  getrlimit(RLIMIT_CORE, &core);
  text += "core " + std::to_string(core.rlim_cur) + " " + std::to_string(core.rlim_max) + "\n";
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  std::string text = Descriptors() + Signals() + State();
  for (int i = 0; i < argc; ++i) text += std::string("argument ") + argv[i] + "\n";
  for (char** variable = environ; *variable != nullptr; ++variable) {
    text += std::string("environment ") + *variable + "\n";
  }
  if (argc < 2) return 0;
  const int file = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (file < 0) return 2;
  return write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 3;
}

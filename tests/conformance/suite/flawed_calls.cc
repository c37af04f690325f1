// Preloaded into a master, it makes one kind of system call fail to do its work, as the variable
// POSTHOUSE_FLAW says: the suite has to see it.

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

bool Flawed(const char* name) {
  const char* flaw = getenv("POSTHOUSE_FLAW");
  // The master cleans its environment up: what it was started with is kept.
  static char kept[32] = "";
  if (flaw != nullptr) strncpy(kept, flaw, sizeof(kept) - 1);
  return strcmp(kept, name) == 0;
}

// While the environment is still that of the start.
__attribute__((constructor)) void Remember() { Flawed(""); }

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int flock(int fd, int operation) noexcept {
  return Flawed("flock") ? 0 : Next<int(int, int)>("flock")(fd, operation);
}

int listen(int fd, int backlog) noexcept {
  return Next<int(int, int)>("listen")(fd, Flawed("listen") ? 5 : backlog);
}

int chmod(const char* path, mode_t mode) noexcept {
  return Next<int(const char*, mode_t)>("chmod")(path, Flawed("chmod") ? mode & 0700 : mode);
}

int fchmod(int fd, mode_t mode) noexcept {
  return Next<int(int, mode_t)>("fchmod")(fd, Flawed("chmod") ? mode & 0700 : mode);
}

mode_t umask(mode_t mask) noexcept {
  return Next<mode_t(mode_t)>("umask")(Flawed("umask") ? 022 : mask);
}

int putenv(char* setting) noexcept {
  static char wrong[] = "GENERATION=7";
  const bool flawed = Flawed("generation") && strncmp(setting, "GENERATION=", 11) == 0;
  return Next<int(char*)>("putenv")(flawed ? wrong : setting);
}
}

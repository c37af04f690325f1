// Calls the system past the seam in each of the ways that seam_test looks for. Never linked.

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <chrono>

namespace posthouse {

long Offend(int fd) {
  char buffer[16];
  const ssize_t count = read(fd, buffer, sizeof(buffer));
  if (FILE* file = fopen("/dev/null", "r")) fclose(file);
  return count + time(nullptr) + std::chrono::steady_clock::now().time_since_epoch().count();
}

}  // namespace posthouse

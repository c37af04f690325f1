// posthouse-master, but that a test decides which of its allocations fail or hang, and how long its
// times are: master_control.h.

#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "posthouse/master/master.h"
#include "tests/master/master_control.h"

namespace {

posthouse::MasterControlPage* g_control = nullptr;

void* Allocate(std::size_t size) {
  if (g_control != nullptr) {
    while (g_control->hang) {
    }
    if (g_control->allocations_left > 0 && --g_control->allocations_left == 0) {
      ++g_control->failures;
      throw std::bad_alloc();
    }
  }
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void* TryAllocate(std::size_t size) noexcept {
  try {
    return Allocate(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

posthouse::MasterControlPage* MapControl() {
  const char* path = getenv(posthouse::kMasterControlVariable);
  const int fd = path == nullptr ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) std::abort();
  void* memory = mmap(nullptr, sizeof(posthouse::MasterControlPage), PROT_READ | PROT_WRITE,
                      MAP_SHARED, fd, 0);
  close(fd);
  if (memory == MAP_FAILED) std::abort();
  return static_cast<posthouse::MasterControlPage*>(memory);
}

}  // namespace

void* operator new(std::size_t size) { return Allocate(size); }
void* operator new[](std::size_t size) { return Allocate(size); }
// These too, lest a sanitizer's own are used for them.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return TryAllocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return TryAllocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
  posthouse::MasterControlPage* control = MapControl();
  posthouse::MasterTimes times;
  if (control->reload_command_ms > 0) {
    times.reload_command = absl::Milliseconds(control->reload_command_ms.load());
  }
  if (control->reload_interval_ms > 0) {
    times.reload_interval = absl::Milliseconds(control->reload_interval_ms.load());
  }
  if (control->watchdog_ms > 0) times.watchdog = absl::Milliseconds(control->watchdog_ms.load());
  std::vector<std::string> arguments(argv, argv + argc);
  posthouse::Master master(times);
  g_control = control;
  const int status = master.Run(std::move(arguments));
  g_control = nullptr;
  return status;
}

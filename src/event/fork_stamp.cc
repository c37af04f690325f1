#include "posthouse/event/fork_stamp.h"

#include <cstddef>

#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// The kernel rounds a mapping up to its pages, whatever their size.
constexpr size_t kStampSize = 1;

// Has the kernel give zeros to a forked child instead of this page; macOS cannot, nor can Linux
// before 4.14.
bool WipeOnFork(void* page) {
#if defined(MADV_WIPEONFORK)
  return os::Madvise(page, kStampSize, MADV_WIPEONFORK) == 0;
#elif defined(INHERIT_ZERO)      // FreeBSD
  return os::Minherit(page, kStampSize, INHERIT_ZERO) == 0;
#elif defined(MAP_INHERIT_ZERO)  // NetBSD, OpenBSD
  return os::Minherit(page, kStampSize, MAP_INHERIT_ZERO) == 0;
#else
  return false;
#endif
}

}  // namespace

ForkStamp::ForkStamp() {
  void* page =
      os::Mmap(nullptr, kStampSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page != MAP_FAILED) {
    if (WipeOnFork(page)) {
      page_ = static_cast<char*>(page);
    } else {
      os::Munmap(page, kStampSize);
    }
  }
  Renew();
}

ForkStamp::~ForkStamp() {
  if (page_ != nullptr) os::Munmap(const_cast<char*>(page_), kStampSize);
}

void ForkStamp::Renew() {
  if (page_ != nullptr) *const_cast<volatile char*>(page_) = 1;
  pid_ = os::Getpid();
}

}  // namespace posthouse

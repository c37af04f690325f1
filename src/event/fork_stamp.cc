#include "posthouse/event/fork_stamp.h"

#include <cstddef>

#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// The kernel rounds a mapping up to its pages, whatever their size.
constexpr size_t kStampSize = 1;

}  // namespace

ForkStamp::ForkStamp() {
#if defined(MADV_WIPEONFORK)
  void* page =
      os::Mmap(nullptr, kStampSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page != MAP_FAILED) {
    if (os::Madvise(page, kStampSize, MADV_WIPEONFORK) == 0) {
      page_ = static_cast<char*>(page);
    } else {
      os::Munmap(page, kStampSize);
    }
  }
#endif
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

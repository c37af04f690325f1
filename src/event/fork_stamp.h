// ForkStamp tells whether this process is a forked copy of the one that made it (EO16).
//
// Asking is one load where the kernel can wipe a page in children (Linux 4.14, the BSDs), and a
// getpid(2) elsewhere.
//
// Thread: one. Fork: that is what it is about.

#ifndef POSTHOUSE_EVENT_FORK_STAMP_H_
#define POSTHOUSE_EVENT_FORK_STAMP_H_

#include "absl/base/optimization.h"
#include "posthouse/os/os.h"

namespace posthouse {

class ForkStamp {
 public:
  ForkStamp();
  ~ForkStamp();
  ForkStamp(const ForkStamp&) = delete;
  ForkStamp& operator=(const ForkStamp&) = delete;

  bool forked() const {
    if (ABSL_PREDICT_TRUE(page_ != nullptr)) return *page_ == 0;
    return os::Getpid() != pid_;
  }

  // From now on this process is the original.
  void Renew();

 private:
  volatile const char* page_ = nullptr;  // one byte, not zero, that a fork sets to zero
  pid_t pid_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_FORK_STAMP_H_

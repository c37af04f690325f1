// How a test reaches into a running master: controlled_master is posthouse-master with an operator
// new that fails or hangs when the test says so, and with times that are shortened.
//
//   MasterControl control(dir.Path("control"));
//   control->reload_interval_ms = 1;
//   master.UseProgram("controlled_master", control.Variable());
//   ...
//   control.FailAllocation(7);      // the seventh from now on
//   ... something happens ...
//   if (control.Disarm() == 0) ...  // it allocates less often
//
// Both sides map the same file.

#ifndef POSTHOUSE_TESTS_MASTER_MASTER_CONTROL_H_
#define POSTHOUSE_TESTS_MASTER_MASTER_CONTROL_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>

namespace posthouse {

inline constexpr char kMasterControlVariable[] = "POSTHOUSE_TEST_CONTROL";

struct MasterControlPage {
  // Allocations until one fails; zero: none does.
  std::atomic<int64_t> allocations_left{0};
  std::atomic<int64_t> failures{0};
  // The next allocation never returns.
  std::atomic<bool> hang{false};
  // Instead of those of MasterTimes when not zero.
  std::atomic<int64_t> reload_command_ms{0};
  std::atomic<int64_t> reload_interval_ms{0};
  std::atomic<int64_t> watchdog_ms{0};
};

class MasterControl {
 public:
  explicit MasterControl(std::string path) : path_(std::move(path)) {
    const int fd = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(MasterControlPage)) != 0) std::abort();
    void* memory =
        mmap(nullptr, sizeof(MasterControlPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) std::abort();
    page_ = new (memory) MasterControlPage;
  }
  ~MasterControl() { munmap(page_, sizeof(MasterControlPage)); }
  MasterControl(const MasterControl&) = delete;
  MasterControl& operator=(const MasterControl&) = delete;

  MasterControlPage* operator->() const { return page_; }
  std::string Variable() const { return std::string(kMasterControlVariable) + "=" + path_; }

  void FailAllocation(int64_t n) {
    page_->failures = 0;
    page_->allocations_left = n;
  }
  bool has_failed() const { return page_->failures > 0; }
  // How many have failed.
  int64_t Disarm() {
    page_->allocations_left = 0;
    return page_->failures;
  }

 private:
  std::string path_;
  MasterControlPage* page_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_MASTER_MASTER_CONTROL_H_

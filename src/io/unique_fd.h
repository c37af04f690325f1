// UniqueFd owns one file descriptor and closes it exactly once.
//
//   UniqueFd a(fds[0]);          // takes ownership
//   UniqueFd b = std::move(a);   // a is empty
//   int fd = b.Release();        // the only way out: the caller closes it
//
// In an interface a UniqueFd by value takes ownership and an `int fd` only looks at it.
// close(2) is called once and never again, whatever it answers: on Linux the number is free even
// after EINTR, and a second close would hit whatever took it (F36).
//
// Thread: one at a time. Fork: both processes own their copy.

#ifndef POSTHOUSE_IO_UNIQUE_FD_H_
#define POSTHOUSE_IO_UNIQUE_FD_H_

#include "posthouse/os/os.h"

namespace posthouse {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(other.Release());
    return *this;
  }
  ~UniqueFd() { Reset(); }

  // The number, or -1 when empty.
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  explicit operator bool() const { return valid(); }

  // Gives the descriptor up without closing it.
  int Release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

  // Closes what is owned and owns `fd` instead. errno is left as it was, so that an error path
  // may clean up before it reports.
  void Reset(int fd = -1);

 private:
  int fd_ = -1;
};

}  // namespace posthouse

#endif  // POSTHOUSE_IO_UNIQUE_FD_H_

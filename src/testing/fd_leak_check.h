// FdSnapshot is the set of descriptors that this process has open, with what they refer to.
//
//   const FdSnapshot before = FdSnapshot::Take();
//   ...
//   EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
//
// or, for a whole scope, a FdLeakCheck as the first local variable of a test: it adds a failure
// when the descriptors at its end are not those from its beginning.
//
// Thread: any, but others may open and close meanwhile. Fork: looks at the process that calls.

#ifndef POSTHOUSE_TESTING_FD_LEAK_CHECK_H_
#define POSTHOUSE_TESTING_FD_LEAK_CHECK_H_

#include <map>
#include <string>

namespace posthouse {

class FdSnapshot {
 public:
  static FdSnapshot Take();
  // Of another process, as far as it may be looked at; empty if not.
  static FdSnapshot TakeOf(int pid);

  // Descriptor number to its target: "socket:[4711]", "/dev/null".
  const std::map<int, std::string>& fds() const { return fds_; }
  size_t size() const { return fds_.size(); }

  // One line per descriptor that was opened, closed or changed since; "" when nothing was.
  std::string DifferenceFrom(const FdSnapshot& earlier) const;
  std::string ToString() const;

 private:
  std::map<int, std::string> fds_;
};

class FdLeakCheck {
 public:
  FdLeakCheck() : before_(FdSnapshot::Take()) {}
  // A non-fatal GoogleTest failure if the descriptors differ.
  ~FdLeakCheck();
  FdLeakCheck(const FdLeakCheck&) = delete;
  FdLeakCheck& operator=(const FdLeakCheck&) = delete;

 private:
  FdSnapshot before_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTING_FD_LEAK_CHECK_H_

// ChildCheck finds children that a test has left behind: running ones and zombies.
//
//   ChildCheck children;   // the first local variable of a test
//
// At the end of its scope it adds a GoogleTest failure for every child of this process that was
// not there at its beginning, kills it and reaps it, so that the next test starts clean.

#ifndef POSTHOUSE_TESTING_CHILD_CHECK_H_
#define POSTHOUSE_TESTING_CHILD_CHECK_H_

#include <sys/types.h>

#include <set>

namespace posthouse {

// The process ids of this process's children, zombies included.
std::set<pid_t> Children();

class ChildCheck {
 public:
  ChildCheck() : before_(Children()) {}
  ~ChildCheck();
  ChildCheck(const ChildCheck&) = delete;
  ChildCheck& operator=(const ChildCheck&) = delete;

 private:
  std::set<pid_t> before_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTING_CHILD_CHECK_H_

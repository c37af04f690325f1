// A test program that links this library fails if it leaves descriptors, child processes or scratch
// directories behind that were not there before its first test.
#ifndef POSTHOUSE_TESTS_CONFORMANCE_LEFTOVERS_H_
#define POSTHOUSE_TESTS_CONFORMANCE_LEFTOVERS_H_

#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace posthouse::conformance {

class Leftovers : public testing::Environment {
 public:
  void SetUp() override;
  void TearDown() override;

 private:
  std::map<int, std::string> descriptors_;
};

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_LEFTOVERS_H_

// The master programs that a test compares: what is claimed of ours is first shown to be true of
// the stock one, so the test itself is known to be right.
//
//   INSTANTIATE_TEST_SUITE_P(Masters, Suite, testing::ValuesIn(MasterPrograms()), MasterName());
//
// POSTHOUSE_MASTER in the environment names another program than the one that Bazel built.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_MASTER_PROGRAM_H_
#define POSTHOUSE_TESTS_CONFORMANCE_MASTER_PROGRAM_H_

#include <stdlib.h>
#include <unistd.h>

#include <ostream>
#include <string>
#include <vector>

#include "tests/conformance/stock_instance.h"

namespace posthouse::conformance {

struct MasterProgram {
  std::string name;
  std::string path;  // for StockInstanceOptions::master_program

  bool stock() const { return path.empty(); }
};

inline std::ostream& operator<<(std::ostream& out, const MasterProgram& master) {
  return out << master.name;
}

inline std::vector<MasterProgram> MasterPrograms() {
  const char* other = getenv("POSTHOUSE_MASTER");
  const std::string ours = other != nullptr ? other : Runfile("src/master/posthouse-master");
  return {{"Stock", ""}, {"Posthouse", ours}};
}

struct MasterName {
  template <typename Info>
  std::string operator()(const Info& info) const {
    return info.param.name;
  }
};

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_MASTER_PROGRAM_H_

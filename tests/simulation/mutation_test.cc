// Linked with a supervisor that was broken on purpose: the simulation must find it.

#include <cstdio>
#include <string>

#include "gtest/gtest.h"
#include "tests/simulation/world.h"

namespace posthouse::simulation {
namespace {

TEST(Mutation, IsFoundByTheSimulation) {
  constexpr uint64_t kMostRuns = 300;
  for (uint64_t seed = 1; seed <= kMostRuns; ++seed) {
    const std::string failure = RunHistory(MakeHistory(seed, 5000), nullptr).failure;
    if (failure.empty()) continue;
    std::printf("found by history %llu: %s\n", static_cast<unsigned long long>(seed),
                failure.c_str());
    return;
  }
  FAIL() << "nobody noticed in " << kMostRuns << " histories";
}

}  // namespace
}  // namespace posthouse::simulation

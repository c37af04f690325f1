// The supervisor through ten million random steps: see world.h.
//
// POSTHOUSE_SIMULATION_SEED=N runs that history alone, with what it did;
// POSTHOUSE_SIMULATION_RUNS=N runs more or fewer of them per test.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "tests/simulation/world.h"

namespace posthouse::simulation {
namespace {

constexpr size_t kSteps = 5000;
constexpr uint64_t kRuns = 250;  // per test; eight tests make ten million steps

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

std::string Story(std::vector<Step> history) {
  history = Shrink(std::move(history));
  std::string trace;
  const Outcome outcome = RunHistory(history, &trace);
  constexpr size_t kMost = 10000;  // of the begin and of the end; the quiet phase between is long
  if (trace.size() > 2 * kMost) trace.replace(kMost, trace.size() - 2 * kMost, "\n...\n");
  return outcome.failure + "\nshrunk to " + std::to_string(history.size()) + " steps:\n" + trace;
}

// Runs the history of `seed`; false after a failure, which is told with its shortest history.
bool RunSeed(uint64_t seed, uint64_t* events) {
  const std::vector<Step> history = MakeHistory(seed, kSteps);
  const Outcome outcome = RunHistory(history, nullptr);
  *events += outcome.events;
  if (outcome.failure.empty()) return true;
  ADD_FAILURE() << "POSTHOUSE_SIMULATION_SEED=" << seed << ": " << outcome.failure << "\n"
                << Story(history);
  return false;
}

class Simulation : public ::testing::TestWithParam<uint64_t> {};

TEST_P(Simulation, EverythingBecomesServedAfterRandomFaults) {  // F70, F73 to F86, F102, F103, F108
  const uint64_t runs = FromEnvironment("POSTHOUSE_SIMULATION_RUNS", kRuns);
  const uint64_t one = FromEnvironment("POSTHOUSE_SIMULATION_SEED", 0);
  if (one != 0 && GetParam() != 0) return;
  uint64_t events = 0;
  for (uint64_t run = 0; run < runs; ++run) {
    const uint64_t seed = one != 0 ? one : 1 + GetParam() * 1'000'000 + run;
    if (!RunSeed(seed, &events) || one != 0) break;
  }
  RecordProperty("events", std::to_string(events));
  std::printf("%llu events, seeds from %llu on\n", static_cast<unsigned long long>(events),
              static_cast<unsigned long long>(1 + GetParam() * 1'000'000));
}

INSTANTIATE_TEST_SUITE_P(Shard, Simulation, ::testing::Range<uint64_t>(0, 8));

}  // namespace
}  // namespace posthouse::simulation

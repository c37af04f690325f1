// Every schedule of a small world up to a depth (F76): two services, at most three workers,
// clients, lost and forged messages, crashes, stops, failed forks, reloads, time. From each state
// that is reached, faults end, and everything must become served.
//
// States that behave alike (World::Fingerprint) are followed once.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ostream>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/simulation/world.h"

namespace posthouse::simulation {
namespace {

// Everything that can happen next; numbers are indices, as World::Do() reads them.
std::vector<Step> Choices(size_t processes) {
  std::vector<Step> choices = {
      {Op::kDeadline, 0, 0},
      {Op::kReload, 0, 1},    // the same services again
      {Op::kForkMode, 0, 0},  // forks fail
  };
  for (uint32_t service = 0; service < 2; ++service) {
    for (const Op op :
         {Op::kClient, Op::kReadiness, Op::kDeliver, Op::kLoseMessage, Op::kAnswerLook}) {
      choices.push_back({op, service, 0});
    }
  }
  for (uint32_t process = 0; process < processes; ++process) {
    const uint32_t other = (process + 1) % static_cast<uint32_t>(processes);
    choices.push_back({Op::kAct, process, 1});
    choices.push_back({Op::kReap, process, 0});
    choices.push_back({Op::kExit, process, 0});  // status 0
    choices.push_back({Op::kExit, process, 2});  // status 1
    choices.push_back({Op::kKill, process, 0});
    choices.push_back({Op::kPause, process, 0});
    choices.push_back({Op::kLie, process, other << 8});  // in the name of another
    choices.push_back({Op::kLie, process, 7});           // TAKEN, though it is idle
    choices.push_back({Op::kNameFlooder, process, 1});
  }
  return choices;
}

struct Start {
  const char* name;
  int first_limit;
  int second_limit;
  int depth;  // beyond these steps; each more takes ten times as long
  std::vector<Step> steps;
};

void PrintTo(const Start& start, std::ostream* out) { *out << start.name; }

// The first service has a worker that is in a request; or that, an idle one, and one of the other.
const std::vector<Step> kOneBusy = {
    {Op::kClient, 0, 0}, {Op::kReadiness, 0, 0}, {Op::kAct, 0, 1}, {Op::kDeliver, 0, 0}};
const std::vector<Step> kBusyAndIdle = {
    {Op::kClient, 0, 0}, {Op::kReadiness, 0, 0}, {Op::kAct, 0, 1},    {Op::kDeliver, 0, 0},
    {Op::kClient, 0, 0}, {Op::kReadiness, 0, 0}, {Op::kClient, 1, 0}, {Op::kReadiness, 1, 0}};
const Start kStarts[] = {
    {"Fresh", 2, 1, 7, {}},
    {"OneBusy", 1, 2, 5, kOneBusy},
    {"BusyAndIdle", 2, 1, 4, kBusyAndIdle},
};

class Exhaustive : public ::testing::TestWithParam<Start> {
 protected:
  // The fingerprint of the state after `history`; "" after a failure.
  std::string Follow(const std::vector<Step>& history, size_t* processes) {
    World world(nullptr);
    world.StartSmall(GetParam().first_limit, GetParam().second_limit);
    for (const Step& step : history) world.Do(step);
    if (Report(world, history)) return "";
    *processes = world.processes();
    return world.Fingerprint();
  }
  bool EndsWell(const std::vector<Step>& history) {
    World world(nullptr);
    world.StartSmall(GetParam().first_limit, GetParam().second_limit);
    for (const Step& step : history) world.Do(step);
    world.EndWell(kShortQuietNs);
    return !Report(world, history);
  }
  bool Report(const World& world, const std::vector<Step>& history) {
    if (world.failure().empty()) return false;
    std::string trace;
    World again(&trace);
    again.StartSmall(GetParam().first_limit, GetParam().second_limit);
    for (const Step& step : history) again.Do(step);
    again.EndWell(kShortQuietNs);
    ADD_FAILURE() << world.failure() << "\n" << trace.substr(0, 10000);
    return true;
  }
};

TEST_P(Exhaustive, EveryScheduleEndsWell) {  // F76
  const int depths = GetParam().depth + (std::getenv("POSTHOUSE_FULL") != nullptr ? 1 : 0);
  std::unordered_set<std::string> seen;
  std::vector<std::pair<std::vector<Step>, size_t>>
      states;  // histories, and how many processes there are
  size_t processes = 0;
  ASSERT_NE(Follow(GetParam().steps, &processes), "");
  states.emplace_back(GetParam().steps, processes);
  for (int depth = 0; depth < depths; ++depth) {
    std::vector<std::pair<std::vector<Step>, size_t>> next;
    for (const auto& [history, count] : states) {
      for (const Step& choice : Choices(count)) {
        std::vector<Step> longer = history;
        longer.push_back(choice);
        const std::string fingerprint = Follow(longer, &processes);
        ASSERT_NE(fingerprint, "");
        if (!seen.insert(fingerprint).second) continue;
        ASSERT_TRUE(EndsWell(longer));
        next.emplace_back(std::move(longer), processes);
      }
    }
    states = std::move(next);
    std::printf("depth %d: %zu states\n", depth + 1, seen.size());
  }
}

INSTANTIATE_TEST_SUITE_P(From, Exhaustive, ::testing::ValuesIn(kStarts),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace posthouse::simulation

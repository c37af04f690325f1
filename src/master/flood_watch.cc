#include "posthouse/master/flood_watch.h"

#include <iterator>
#include <utility>

namespace posthouse {
namespace {

constexpr int64_t kPeriodNs = 1'000'000'000;
// Of the time: whoever costs less harms nobody.
constexpr double kLeastShare = 0.01;
// Processor time is told in hundredths of a second: with less than this it would be a guess.
constexpr int64_t kTellingCostNs = 50'000'000;

}  // namespace

void FloodWatch::Add(ServiceId service, absl::Span<const StatusWriter> writers, int64_t cost_ns) {
  int64_t charge = 0;
  for (const StatusWriter& writer : writers) charge += writer.charge;
  if (charge == 0) return;
  for (const StatusWriter& part : writers) {
    if (part.pid <= 0) continue;
    // Thousands of processes do not all flood.
    if (writers_.size() >= kMaxWriters && writers_.count(part.pid) == 0) continue;
    Writer& writer = writers_[part.pid];
    writer.service = service;
    writer.new_cost_ns += cost_ns * part.charge / charge;
  }
}

bool FloodWatch::IsDue(int64_t now_ns) const { return now_ns - judged_ns_ >= kPeriodNs; }

std::vector<FloodWatch::Flooder> FloodWatch::Judge(int64_t now_ns, CpuTimeOf cpu_time_of) {
  const double least_ns = static_cast<double>(now_ns - judged_ns_) * kLeastShare;
  judged_ns_ = now_ns;
  std::vector<Flooder> flooders;
  for (auto entry = writers_.begin(); entry != writers_.end();) {
    auto& [pid, writer] = *entry;
    bool watch = static_cast<double>(writer.new_cost_ns) >= least_ns;
    writer.cost_ns += std::exchange(writer.new_cost_ns, 0);
    if (watch && (writer.cpu_ns < 0 || writer.cost_ns >= kTellingCostNs)) {
      const absl::optional<int64_t> cpu_ns = cpu_time_of(pid);
      watch = cpu_ns.has_value();
      if (watch && JudgeOne(&writer, *cpu_ns)) flooders.push_back({pid, writer.service});
    }
    entry = watch ? std::next(entry) : writers_.erase(entry);
  }
  return flooders;
}

// Whether it is to be named.
bool FloodWatch::JudgeOne(Writer* writer, int64_t cpu_ns) {
  const int64_t used_ns = cpu_ns - writer->cpu_ns;
  const bool floods = writer->cpu_ns >= 0 && static_cast<double>(writer->cost_ns) >
                                                 static_cast<double>(used_ns) * kFloodShare;
  writer->judgements = floods ? writer->judgements + 1 : 0;
  writer->cpu_ns = cpu_ns;
  writer->cost_ns = 0;
  if (writer->judgements < kFloodJudgements) return false;
  writer->judgements = 0;
  return true;
}

}  // namespace posthouse

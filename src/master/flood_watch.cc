#include "posthouse/master/flood_watch.h"

#include <algorithm>

namespace posthouse {
namespace {

constexpr int64_t kPeriodNs = 1'000'000'000;
// Of the time between two judgements: whoever costs less harms nobody, and what it has used is too
// little to be told exactly.
constexpr double kLeastShare = 0.05;

}  // namespace

void FloodWatch::Add(ServiceId service, absl::Span<const StatusWriter> writers, int64_t cost_ns) {
  int64_t pieces = 0;
  for (const StatusWriter& writer : writers) pieces += writer.charge;
  if (pieces == 0) return;
  for (const StatusWriter& part : writers) {
    if (part.pid <= 0) continue;
    // Thousands of processes do not all flood.
    if (writers_.size() >= kMaxWriters && writers_.count(part.pid) == 0) continue;
    Writer& writer = writers_[part.pid];
    writer.service = service;
    writer.cost_ns += cost_ns * part.charge / pieces;
  }
}

bool FloodWatch::IsDue(int64_t now_ns) const { return now_ns - judged_ns_ >= kPeriodNs; }

std::vector<FloodWatch::Flooder> FloodWatch::Judge(int64_t now_ns, CpuTimeOf cpu_time_of) {
  const double least_ns = static_cast<double>(now_ns - judged_ns_) * kLeastShare;
  judged_ns_ = now_ns;
  std::vector<Flooder> flooders;
  for (auto entry = writers_.begin(); entry != writers_.end();) {
    auto& [pid, writer] = *entry;
    const absl::optional<int64_t> cpu_ns =
        static_cast<double>(writer.cost_ns) < least_ns ? absl::nullopt : cpu_time_of(pid);
    if (!cpu_ns.has_value()) {
      entry = writers_.erase(entry);
      continue;
    }
    JudgeOne(&writer, *cpu_ns);
    if (writer.flooded_seconds >= kFloodSeconds) {
      writer.flooded_seconds = 0;
      flooders.push_back({pid, writer.service});
    }
    ++entry;
  }
  return flooders;
}

void FloodWatch::JudgeOne(Writer* writer, int64_t cpu_ns) {
  const int64_t used_ns = cpu_ns - writer->cpu_ns;
  const bool floods = writer->cpu_ns >= 0 && static_cast<double>(writer->cost_ns) >
                                                 static_cast<double>(used_ns) * kFloodShare;
  writer->flooded_seconds = floods ? writer->flooded_seconds + 1 : 0;
  writer->cpu_ns = cpu_ns;
  writer->cost_ns = 0;
}

}  // namespace posthouse

#include "examples/anvil/anvil_table.h"

#include <time.h>

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace examples {
namespace {

// Counters stop at the top rather than wrap: a client must not get below a limit by overflow.
void AddOne(int& counter) {
  if (counter < std::numeric_limits<int>::max()) ++counter;
}

std::string LocalTime(int64_t wall_ns) {
  const time_t seconds = static_cast<time_t>(wall_ns / 1000000000);
  struct tm parts = {};
  localtime_r(&seconds, &parts);
  char text[32];
  strftime(text, sizeof(text), "%b %e %H:%M:%S", &parts);
  return text;
}

}  // namespace

AnvilCounts AnvilTable::Connect(Holder& holder, absl::string_view ident, int64_t now_ns) {
  Remote& remote = Hold(holder, ident, now_ns);
  Raise(peaks_.rate[static_cast<size_t>(Rate::kConnection)],
        remote.counts.rate[static_cast<size_t>(Rate::kConnection)], *remote.ident, now_ns);
  Raise(peaks_.connections, remote.counts.connections, *remote.ident, now_ns);
  return remote.counts;
}

void AnvilTable::Disconnect(Holder& holder, absl::string_view ident, int64_t now_ns) {
  if (holder.held != nullptr && *holder.held->ident == ident) Release(holder, now_ns);
}

void AnvilTable::Release(Holder& holder, int64_t now_ns) {
  if (holder.held == nullptr) return;
  Drop(*holder.held, now_ns);
  holder.held = nullptr;
}

int AnvilTable::Count(Rate rate, Holder& holder, absl::string_view ident, int64_t now_ns) {
  const auto found = remotes_.find(ident);
  Remote& remote = found == remotes_.end() ? Hold(holder, ident, now_ns) : found->second;
  const int value = Increment(remote, rate, now_ns);
  Raise(peaks_.rate[static_cast<size_t>(rate)], value, *remote.ident, now_ns);
  return value;
}

AnvilCounts AnvilTable::Lookup(absl::string_view ident, int64_t now_ns) const {
  const auto found = remotes_.find(ident);
  if (found == remotes_.end()) return {};
  AnvilCounts counts = found->second.counts;
  if (stale(found->second, now_ns)) counts.rate.fill(0);
  return counts;
}

void AnvilTable::Expire(int64_t now_ns, int limit) {
  for (; limit > 0 && oldest_ != nullptr && oldest_->expires_ns <= now_ns; --limit) {
    Remote& remote = *oldest_;
    Unlink(remote);
    remotes_.erase(*remote.ident);
  }
}

int64_t AnvilTable::NextExpiryNs() const {
  return oldest_ == nullptr ? std::numeric_limits<int64_t>::max() : oldest_->expires_ns;
}

AnvilTable::Peaks AnvilTable::TakePeaks() { return std::exchange(peaks_, Peaks()); }

AnvilTable::Remote& AnvilTable::Hold(Holder& holder, absl::string_view ident, int64_t now_ns) {
  auto found = remotes_.find(ident);
  if (found == remotes_.end()) {
    found = remotes_.try_emplace(std::string(ident)).first;
    found->second.ident = &found->first;
    found->second.rates_since_ns = now_ns;
    if (remotes_.size() > peaks_.cache_size) {
      peaks_.cache_size = remotes_.size();
      peaks_.cache_size_at_ns = now_ns;
    }
  }
  Remote& remote = found->second;
  Increment(remote, Rate::kConnection, now_ns);
  if (remote.waiting) Unlink(remote);
  AddOne(remote.counts.connections);
  // The new one is counted before the old one is let go: when they are the same its count does not
  // pass through zero.
  if (holder.held != nullptr) Drop(*holder.held, now_ns);
  holder.held = &remote;
  return remote;
}

void AnvilTable::Drop(Remote& remote, int64_t now_ns) {
  if (--remote.counts.connections > 0) return;
  remote.waiting = true;
  remote.expires_ns = now_ns + unit_ns_;
  remote.older = newest_;
  remote.newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = &remote;
  newest_ = &remote;
}

void AnvilTable::Unlink(Remote& remote) {
  (remote.older != nullptr ? remote.older->newer : oldest_) = remote.newer;
  (remote.newer != nullptr ? remote.newer->older : newest_) = remote.older;
  remote.waiting = false;
}

int AnvilTable::Increment(Remote& remote, Rate rate, int64_t now_ns) {
  if (stale(remote, now_ns)) {
    remote.counts.rate.fill(0);
    remote.rates_since_ns = now_ns;
  }
  int& counter = remote.counts.rate[static_cast<size_t>(rate)];
  AddOne(counter);
  return counter;
}

void AnvilTable::Raise(Peak& peak, int value, const std::string& ident, int64_t now_ns) {
  if (value <= peak.value) return;
  peak.value = value;
  peak.at_ns = now_ns;
  if (peak.ident != ident) peak.ident = ident;
}

std::vector<std::string> StatisticsLines(const AnvilTable::Peaks& peaks, int unit_seconds,
                                         int64_t now_ns, int64_t wall_ns) {
  std::vector<std::string> lines;
  const auto at = [&](int64_t at_ns) { return LocalTime(wall_ns - (now_ns - at_ns)); };
  const auto rate_line = [&](Rate rate, absl::string_view kind) {
    const AnvilTable::Peak& peak = peaks.rate[static_cast<size_t>(rate)];
    if (peak.value == 0) return;
    lines.push_back(absl::StrCat("statistics: max ", kind, " rate ", peak.value, "/", unit_seconds,
                                 "s for (", peak.ident, ") at ", at(peak.at_ns)));
  };
  rate_line(Rate::kConnection, "connection");
  if (peaks.connections.value > 0) {
    lines.push_back(absl::StrCat("statistics: max connection count ", peaks.connections.value,
                                 " for (", peaks.connections.ident, ") at ",
                                 at(peaks.connections.at_ns)));
  }
  rate_line(Rate::kMessage, "message");
  rate_line(Rate::kRecipient, "recipient");
  rate_line(Rate::kNewTls, "newtls");
  rate_line(Rate::kAuth, "auth");
  rate_line(Rate::kTlsTransaction, "tlstr");
  if (peaks.cache_size > 0) {
    lines.push_back(absl::StrCat("statistics: max cache size ", peaks.cache_size, " at ",
                                 at(peaks.cache_size_at_ns)));
  }
  return lines;
}

}  // namespace examples

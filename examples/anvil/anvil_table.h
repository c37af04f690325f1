// AnvilTable counts what remote clients do: connections at one time, and connections, messages,
// recipients, TLS sessions and authentications per unit of time, under a name ("ident") that only
// its users understand.
//
// A connection of the anvil protocol is a Holder: it holds at most one ident (D34), and letting it
// go takes one from that ident's connection count (D35). An ident that nobody holds is kept for one
// more unit of time (D36); its rates start again when they are older than that (D33).
//
// The table knows no clock: every call is given the steady time, which must not decrease.
//
// Cost: a hash look-up per call; an ident that becomes free or held again moves in a list in
// constant time, because all of them are kept equally long, so the list is in the order of expiry.
// Thread: one. Fork: a plain value; both processes go on with their own counts.

#ifndef EXAMPLES_ANVIL_ANVIL_TABLE_H_
#define EXAMPLES_ANVIL_ANVIL_TABLE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "absl/strings/string_view.h"

namespace examples {

// What is counted per unit of time.
enum class Rate { kConnection, kMessage, kRecipient, kNewTls, kAuth, kTlsTransaction };
inline constexpr size_t kRates = 6;

struct AnvilCounts {
  int connections = 0;             // at this moment
  std::array<int, kRates> rate{};  // indexed by Rate
};

class AnvilTable {
 public:
  struct Remote;

  // The side of one protocol connection. Release() it before it is destroyed.
  struct Holder {
    Remote* held = nullptr;
  };

  explicit AnvilTable(int64_t rate_time_unit_ns) : unit_ns_(rate_time_unit_ns) {}
  AnvilTable(const AnvilTable&) = delete;
  AnvilTable& operator=(const AnvilTable&) = delete;

  // One more connection of `ident`, held by `holder` instead of what it held (D34).
  AnvilCounts Connect(Holder& holder, absl::string_view ident, int64_t now_ns);
  // Lets `ident` go if `holder` holds it, else does nothing (D35).
  void Disconnect(Holder& holder, absl::string_view ident, int64_t now_ns);
  // Lets whatever `holder` holds go: its connection is closing.
  void Release(Holder& holder, int64_t now_ns);
  // Adds one to a rate and returns it. An unknown ident is connected first (D32).
  int Count(Rate rate, Holder& holder, absl::string_view ident, int64_t now_ns);
  // What is known, zero for unknown idents; changes nothing.
  AnvilCounts Lookup(absl::string_view ident, int64_t now_ns) const;

  // Forgets at most `limit` idents whose time is over.
  void Expire(int64_t now_ns, int limit);
  // When the next one is due; INT64_MAX when none is waiting.
  int64_t NextExpiryNs() const;
  size_t size() const { return remotes_.size(); }

  // The highest values since the last TakePeaks(), for the statistics in the log (D37).
  struct Peak {
    int value = 0;
    std::string ident;
    int64_t at_ns = 0;
  };
  struct Peaks {
    Peak connections;
    std::array<Peak, kRates> rate;
    size_t cache_size = 0;
    int64_t cache_size_at_ns = 0;
  };
  Peaks TakePeaks();

  // Public for the container only.
  struct Remote {
    AnvilCounts counts;
    int64_t rates_since_ns = 0;
    int64_t expires_ns = 0;  // meaningful while in the list
    const std::string* ident = nullptr;
    Remote* older = nullptr;  // the list of idents that nobody holds
    Remote* newer = nullptr;
    bool waiting = false;
  };

 private:
  Remote& Hold(Holder& holder, absl::string_view ident, int64_t now_ns);
  void Drop(Remote& remote, int64_t now_ns);
  void Unlink(Remote& remote);
  bool stale(const Remote& remote, int64_t now_ns) const {
    return now_ns - remote.rates_since_ns > unit_ns_;
  }
  int Increment(Remote& remote, Rate rate, int64_t now_ns);
  static void Raise(Peak& peak, int value, const std::string& ident, int64_t now_ns);

  const int64_t unit_ns_;
  absl::node_hash_map<std::string, Remote> remotes_;
  Remote* oldest_ = nullptr;
  Remote* newest_ = nullptr;
  Peaks peaks_;
};

// The lines of the statistics, without severity or tag, as the stock program words them (D37):
// "statistics: max connection rate 3/60s for (smtp:192.0.2.1) at Nov  5 12:00:00". `wall_ns` is the
// time of day at the steady moment `now_ns`. What was never counted has no line.
std::vector<std::string> StatisticsLines(const AnvilTable::Peaks& peaks, int unit_seconds,
                                         int64_t now_ns, int64_t wall_ns);

}  // namespace examples

#endif  // EXAMPLES_ANVIL_ANVIL_TABLE_H_

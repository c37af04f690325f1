#include "examples/anvil/anvil_table.h"

#include <deque>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace examples {
namespace {

constexpr int64_t kSecond = 1000000000;
constexpr int64_t kUnit = 60 * kSecond;
using Holder = AnvilTable::Holder;

int Get(const AnvilCounts& counts, Rate rate) { return counts.rate[static_cast<size_t>(rate)]; }

TEST(AnvilTable, D34_ConnectCountsConnectionsAndTheirRate) {
  AnvilTable table(kUnit);
  Holder a, b;
  EXPECT_EQ(table.Connect(a, "x", 0).connections, 1);
  const AnvilCounts second = table.Connect(b, "x", 1);
  EXPECT_EQ(second.connections, 2);
  EXPECT_EQ(Get(second, Rate::kConnection), 2);
}

TEST(AnvilTable, D34_TwoConnectsOfOneHolderLeaveOneConnection) {
  AnvilTable table(kUnit);
  Holder a;
  table.Connect(a, "x", 0);
  const AnvilCounts again = table.Connect(a, "x", 1);
  EXPECT_EQ(again.connections, 1);
  EXPECT_EQ(Get(again, Rate::kConnection), 2);
}

TEST(AnvilTable, D34_ConnectReleasesTheIdentHeldBefore) {
  AnvilTable table(kUnit);
  Holder a;
  table.Connect(a, "x", 0);
  table.Connect(a, "y", 1);
  EXPECT_EQ(table.Lookup("x", 1).connections, 0);
  EXPECT_EQ(table.Lookup("y", 1).connections, 1);
}

TEST(AnvilTable, D35_OnlyTheHeldIdentIsDisconnected) {
  AnvilTable table(kUnit);
  Holder a, b;
  table.Connect(a, "x", 0);
  table.Connect(b, "y", 0);
  table.Disconnect(a, "y", 1);
  EXPECT_EQ(table.Lookup("y", 1).connections, 1);
  EXPECT_EQ(table.Lookup("x", 1).connections, 1);
  table.Disconnect(a, "x", 1);
  table.Disconnect(a, "x", 1);
  table.Release(a, 1);
  EXPECT_EQ(table.Lookup("x", 1).connections, 0);
}

TEST(AnvilTable, D32_CountingAnUnknownIdentConnectsIt) {
  AnvilTable table(kUnit);
  Holder a;
  EXPECT_EQ(table.Count(Rate::kMessage, a, "x", 0), 1);
  const AnvilCounts counts = table.Lookup("x", 0);
  EXPECT_EQ(counts.connections, 1);
  EXPECT_EQ(Get(counts, Rate::kConnection), 1);
  EXPECT_EQ(Get(counts, Rate::kMessage), 1);
  EXPECT_EQ(table.Count(Rate::kMessage, a, "x", 0), 2);
  EXPECT_EQ(table.Lookup("x", 0).connections, 1);
}

TEST(AnvilTable, D33_AllRatesStartAgainWhenOneIsCountedAfterTheUnit) {
  AnvilTable table(kUnit);
  Holder a;
  table.Connect(a, "x", 0);
  table.Count(Rate::kAuth, a, "x", kUnit);  // exactly the unit is not more than the unit
  EXPECT_EQ(Get(table.Lookup("x", kUnit), Rate::kConnection), 1);
  EXPECT_EQ(table.Count(Rate::kAuth, a, "x", kUnit + 1), 1);
  EXPECT_EQ(Get(table.Lookup("x", kUnit + 1), Rate::kConnection), 0);
  EXPECT_EQ(table.Lookup("x", kUnit + 1).connections, 1);
  // The next unit is counted from the reset.
  EXPECT_EQ(table.Count(Rate::kAuth, a, "x", 2 * kUnit + 1), 2);
}

TEST(AnvilTable, D33_StaleRatesAreLookedUpAsZero) {
  AnvilTable table(kUnit);
  Holder a;
  table.Connect(a, "x", 0);
  table.Count(Rate::kNewTls, a, "x", 1);
  EXPECT_EQ(Get(table.Lookup("x", kUnit), Rate::kNewTls), 1);
  EXPECT_EQ(Get(table.Lookup("x", kUnit + 1), Rate::kNewTls), 0);
  EXPECT_EQ(table.Lookup("x", kUnit + 1).connections, 1);
}

TEST(AnvilTable, D36_FreeIdentsAreKeptForOneMoreUnit) {
  AnvilTable table(kUnit);
  Holder a;
  table.Connect(a, "x", 0);
  EXPECT_EQ(table.NextExpiryNs(), std::numeric_limits<int64_t>::max());
  table.Release(a, 10);
  EXPECT_EQ(table.NextExpiryNs(), 10 + kUnit);
  table.Expire(9 + kUnit, 100);
  EXPECT_EQ(table.size(), 1u);
  table.Expire(10 + kUnit, 100);
  EXPECT_EQ(table.size(), 0u);
}

TEST(AnvilTable, D36_AnIdentThatIsHeldAgainDoesNotExpire) {
  AnvilTable table(kUnit);
  Holder a, b;
  table.Connect(a, "x", 0);
  table.Release(a, 0);
  table.Connect(b, "x", 5);
  table.Expire(10 * kUnit, 100);
  EXPECT_EQ(table.Lookup("x", 10).connections, 1);
}

TEST(AnvilTable, ExpiryIsBoundedAndOldestFirst) {
  AnvilTable table(kUnit);
  for (int i = 0; i < 10; ++i) {
    Holder holder;
    table.Connect(holder, std::to_string(i), i);
    table.Release(holder, i);
  }
  table.Expire(kUnit + 100, 4);
  EXPECT_EQ(table.size(), 6u);
  EXPECT_EQ(table.NextExpiryNs(), 4 + kUnit);
}

TEST(AnvilTable, D37_PeaksKeepTheFirstHighestValueAndStartAgain) {
  AnvilTable table(kUnit);
  Holder a, b;
  table.Connect(a, "x", 1);
  table.Connect(b, "y", 2);  // the same values: not a new peak
  table.Count(Rate::kRecipient, a, "x", 3);
  AnvilTable::Peaks peaks = table.TakePeaks();
  EXPECT_EQ(peaks.connections.ident, "x");
  EXPECT_EQ(peaks.connections.at_ns, 1);
  EXPECT_EQ(peaks.cache_size, 2u);
  EXPECT_EQ(peaks.rate[static_cast<size_t>(Rate::kRecipient)].value, 1);
  EXPECT_EQ(table.TakePeaks().connections.value, 0);
}

TEST(Statistics, D37_LinesReadAsThoseOfTheStockProgram) {
  setenv("TZ", "UTC", 1);
  AnvilTable table(kUnit);
  Holder a, b;
  table.Connect(a, "smtp:192.0.2.1", 0);
  table.Connect(b, "smtp:192.0.2.1", 3 * kSecond);
  table.Count(Rate::kMessage, b, "smtp:192.0.2.1", 4 * kSecond);
  // 1767225600 is 1 January 2026, 00:00:00 UTC; the steady clock then shows 10 s.
  const std::vector<std::string> lines =
      StatisticsLines(table.TakePeaks(), 60, 10 * kSecond, 1767225600 * kSecond);
  EXPECT_EQ(lines,
            (std::vector<std::string>{
                "statistics: max connection rate 2/60s for (smtp:192.0.2.1) at Dec 31 23:59:53",
                "statistics: max connection count 2 for (smtp:192.0.2.1) at Dec 31 23:59:53",
                "statistics: max message rate 1/60s for (smtp:192.0.2.1) at Dec 31 23:59:54",
                "statistics: max cache size 1 at Dec 31 23:59:50",
            }));
  EXPECT_TRUE(StatisticsLines(table.TakePeaks(), 60, 0, 0).empty());
}

// A plain model: no list, no reuse, everything searched.
class Model {
 public:
  struct Entry {
    int connections = 0;
    std::map<Rate, int> rate;
    int64_t since = 0;
    int64_t expires = std::numeric_limits<int64_t>::max();
  };
  std::map<std::string, Entry> entries;
  std::map<int, std::string> held;

  void Expire(int64_t now) {
    for (auto it = entries.begin(); it != entries.end();) {
      it = it->second.expires <= now ? entries.erase(it) : std::next(it);
    }
  }
  void Add(Entry& entry, Rate rate, int64_t now) {
    if (now - entry.since > kUnit) {
      entry.rate.clear();
      entry.since = now;
    }
    ++entry.rate[rate];
  }
  void Connect(int holder, const std::string& ident, int64_t now) {
    if (entries.count(ident) == 0) entries[ident].since = now;
    Entry& entry = entries[ident];
    Add(entry, Rate::kConnection, now);
    entry.expires = std::numeric_limits<int64_t>::max();
    ++entry.connections;
    Release(holder, now);
    held[holder] = ident;
  }
  void Release(int holder, int64_t now) {
    if (held.count(holder) == 0) return;
    Entry& entry = entries[held[holder]];
    if (--entry.connections == 0) entry.expires = now + kUnit;
    held.erase(holder);
  }
  int Count(Rate rate, int holder, const std::string& ident, int64_t now) {
    if (entries.count(ident) == 0) Connect(holder, ident, now);
    Add(entries[ident], rate, now);
    return entries[ident].rate[rate];
  }
};

TEST(AnvilTable, AgreesWithAPlainModelOnRandomSequences) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    AnvilTable table(kUnit);
    Model model;
    std::deque<Holder> holders(8);
    int64_t now = 0;
    for (int step = 0; step < 5000; ++step) {
      now += static_cast<int64_t>(random() % 3) * kSecond * (random() % 20 == 0 ? 40 : 1);
      table.Expire(now, 1000);
      model.Expire(now);
      const int h = static_cast<int>(random() % holders.size());
      const std::string ident = std::to_string(random() % 6);
      switch (random() % 5) {
        case 0:
          table.Connect(holders[h], ident, now);
          model.Connect(h, ident, now);
          break;
        case 1:
          table.Disconnect(holders[h], ident, now);
          if (model.held.count(h) != 0 && model.held[h] == ident) model.Release(h, now);
          break;
        case 2:
          table.Release(holders[h], now);
          model.Release(h, now);
          break;
        default: {
          const Rate rate = static_cast<Rate>(1 + random() % 4);
          ASSERT_EQ(table.Count(rate, holders[h], ident, now), model.Count(rate, h, ident, now));
        }
      }
      ASSERT_EQ(table.size(), model.entries.size()) << "seed " << seed << " step " << step;
      const AnvilCounts counts = table.Lookup(ident, now);
      const auto found = model.entries.find(ident);
      ASSERT_EQ(counts.connections, found == model.entries.end() ? 0 : found->second.connections);
      for (size_t r = 0; r < kRates; ++r) {
        const int expected = found == model.entries.end() || now - found->second.since > kUnit
                                 ? 0
                                 : found->second.rate[static_cast<Rate>(r)];
        ASSERT_EQ(counts.rate[r], expected) << "seed " << seed << " step " << step;
      }
    }
    for (Holder& holder : holders) table.Release(holder, now);
  }
}

}  // namespace
}  // namespace examples

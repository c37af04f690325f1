// A PolicyStore in memory: the model that the rules and the database are tested against.

#ifndef TESTS_EXAMPLES_MEMORY_POLICY_STORE_H_
#define TESTS_EXAMPLES_MEMORY_POLICY_STORE_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "examples/policy/policy_store.h"

namespace examples {

class MemoryPolicyStore : public PolicyStore, public PolicyTransaction {
 public:
  absl::Status Run(absl::FunctionRef<absl::Status(PolicyTransaction&)> body) override {
    const Tables before = tables;
    absl::Status status = body(*this);
    if (!status.ok()) tables = before;
    return status;
  }
  absl::StatusOr<int> DeleteExpired(int64_t now, int limit) override {
    return std::max({Delete(tables.triplets, now, limit), Delete(tables.networks, now, limit),
                     Delete(tables.rates, now, limit)});
  }

  absl::StatusOr<bool> OptedOut(absl::Span<const std::string> patterns) override {
    if (!failure.ok()) return failure;
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const std::string& p) { return tables.opt_out.count(p) != 0; });
  }
  absl::StatusOr<absl::optional<TripletRow>> FindTriplet(const TripletKey& key) override {
    return Find(tables.triplets, Key(key));
  }
  absl::Status PutTriplet(const TripletKey& key, const TripletRow& row) override {
    ++writes;
    tables.triplets[Key(key)] = row;
    return write_failure;
  }
  absl::StatusOr<absl::optional<NetworkRow>> FindNetwork(const std::string& network) override {
    return Find(tables.networks, network);
  }
  absl::Status PutNetwork(const std::string& network, const NetworkRow& row) override {
    ++writes;
    tables.networks[network] = row;
    return write_failure;
  }
  absl::StatusOr<absl::optional<RateRow>> FindRate(const std::string& key) override {
    return Find(tables.rates, key);
  }
  absl::Status PutRate(const std::string& key, const RateRow& row) override {
    ++writes;
    tables.rates[key] = row;
    return write_failure;
  }

  using TripletId = std::tuple<std::string, std::string, std::string>;
  struct Tables {
    std::map<TripletId, TripletRow> triplets;
    std::map<std::string, NetworkRow> networks;
    std::map<std::string, RateRow> rates;
    std::set<std::string> opt_out;
  };
  Tables tables;
  int writes = 0;
  absl::Status failure;        // of the first look
  absl::Status write_failure;  // of every write

 private:
  static TripletId Key(const TripletKey& key) { return {key.network, key.sender, key.recipient}; }
  template <typename Map>
  static absl::optional<typename Map::mapped_type> Find(const Map& map,
                                                        const typename Map::key_type& key) {
    const auto found = map.find(key);
    if (found == map.end()) return absl::nullopt;
    return found->second;
  }
  template <typename Map>
  static int Delete(Map& map, int64_t now, int limit) {
    int deleted = 0;
    for (auto it = map.begin(); it != map.end() && deleted < limit;) {
      if (it->second.expires <= now) {
        it = map.erase(it);
        ++deleted;
      } else {
        ++it;
      }
    }
    return deleted;
  }
};

}  // namespace examples

#endif  // TESTS_EXAMPLES_MEMORY_POLICY_STORE_H_

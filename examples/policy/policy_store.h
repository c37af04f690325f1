// What policyd remembers, as an interface: the rules see rows and know nothing of the database.
//
// Times are milliseconds since the Unix epoch, because they outlive the process. Every row says
// until when it is of use; from then on it counts as absent and may be deleted at any time.

#ifndef EXAMPLES_POLICY_POLICY_STORE_H_
#define EXAMPLES_POLICY_POLICY_STORE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace examples {

// A combination that is greylisted.
struct TripletKey {
  std::string network;
  std::string sender;
  std::string recipient;
};

struct TripletRow {
  int64_t first_seen = 0;
  bool passed = false;  // it came again after the delay
  int64_t expires = 0;
};

// A client network on its way to the automatic white list, or on it.
struct NetworkRow {
  int64_t passes = 0;
  int64_t expires = 0;
};

// The recipients that a client or user was allowed in the current period.
struct RateRow {
  int64_t period_start = 0;
  int64_t recipients = 0;
  int64_t expires = 0;
};

// One transaction. Find…() answers what is in the store, expired or not. Any error ends the
// transaction: the function that got it returns it.
class PolicyTransaction {
 public:
  virtual ~PolicyTransaction() = default;
  // Whether one of the patterns is in the table of recipients that want no policy.
  virtual absl::StatusOr<bool> OptedOut(absl::Span<const std::string> patterns) = 0;
  virtual absl::StatusOr<absl::optional<TripletRow>> FindTriplet(const TripletKey& key) = 0;
  virtual absl::Status PutTriplet(const TripletKey& key, const TripletRow& row) = 0;
  virtual absl::StatusOr<absl::optional<NetworkRow>> FindNetwork(const std::string& network) = 0;
  virtual absl::Status PutNetwork(const std::string& network, const NetworkRow& row) = 0;
  virtual absl::StatusOr<absl::optional<RateRow>> FindRate(const std::string& key) = 0;
  virtual absl::Status PutRate(const std::string& key, const RateRow& row) = 0;
};

class PolicyStore {
 public:
  virtual ~PolicyStore() = default;
  // Calls `body` with a transaction that no other process can interleave with; what it changed is
  // kept if it returns OK and undone otherwise. The status is that of `body`, or says why the
  // transaction could not be begun or kept.
  virtual absl::Status Run(absl::FunctionRef<absl::Status(PolicyTransaction&)> body) = 0;
  // Deletes at most `limit` rows of each kind that expired at `now` or before. Returns how many;
  // `limit` or more means that there may be others.
  virtual absl::StatusOr<int> DeleteExpired(int64_t now, int limit) = 0;
};

}  // namespace examples

#endif  // EXAMPLES_POLICY_POLICY_STORE_H_

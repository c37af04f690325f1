// StatusFramer makes status messages of the bytes that the workers of one service write to their
// shared channel (P13 to P15, P32 to P35).
//
//   StatusFramer framer;
//   StatusBatch batch;
//   framer.Feed(sender, bytes, &batch);   // sender as the kernel says, 0 when it cannot tell
//   for (const ReceivedStatus& received : batch.messages) ...
//
// Each sender has a framing of its own: a message that one has begun never shifts those of another
// (F71). Who states its own process number is in step again with its second whole message at the
// latest, whatever it wrote before: bytes in front of its number are dropped. A message that states
// another process than the one that wrote it is gossip (F70, MO3), and never reaches whoever keeps
// the accounts. Generation and availability are handed on as they came (P34, P35).
//
// A pure class: no descriptor, no clock; any bytes may be fed in any pieces. Memory is bounded: a
// sender has at most 11 bytes kept, and at most kMaxSenders senders have any; a sender more, and
// all that was kept is dropped, which harms nobody who writes whole messages.
//
// Thread: one. Errors: none; what is wrong with the bytes is part of the answer.

#ifndef POSTHOUSE_MASTER_STATUS_FRAMER_H_
#define POSTHOUSE_MASTER_STATUS_FRAMER_H_

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "posthouse/master/protocol.h"

namespace posthouse {

struct ReceivedStatus {
  pid_t sender = 0;  // as the kernel says; 0: it does not say
  StatusMessage message;
};

// Whose writing a reading brought, and how much of its work that was.
struct StatusWriter {
  pid_t pid = 0;  // as the kernel says; 0: it does not say
  int charge = 0;
};

// What is wrong with something that `sender` wrote.
struct StatusGossip {
  enum class Kind {
    kForged,  // a message in the name of another process, or of none
    kStray,   // bytes that belong to no message
  };
  Kind kind = Kind::kStray;
  pid_t sender = 0;
  StatusMessage message;  // kForged
  size_t bytes = 0;       // kStray: how many were dropped
};
// "process 4711 sent a status message in the name of process 1", for a log line.
std::string DescribeStatusGossip(const StatusGossip& gossip);

// The yield of one reading, in the order in which it was written.
struct StatusBatch {
  // All are of this service's channel; that the process is a worker of the service, its generation
  // and the availability are the receiver's to check.
  std::vector<ReceivedStatus> messages;
  // The first few of a reading; `gossip_count` counts all.
  std::vector<StatusGossip> gossip;
  size_t gossip_count = 0;
  // Who wrote all that, one entry for each process and run of writings.
  std::vector<StatusWriter> writers;
  // Processor time of the reading in nanoseconds; 0: it was not measured.
  int64_t cost_ns = 0;

  static constexpr size_t kMaxGossip = 8;

  bool empty() const { return messages.empty() && gossip_count == 0; }
  void Clear();
};

class StatusFramer {
 public:
  static constexpr size_t kMaxSenders = 256;

  // Takes what one sender wrote, in order, and appends what it completes.
  void Feed(pid_t sender, absl::string_view bytes, StatusBatch* batch);

  // Drops what is kept of a sender that has died: its number may come again.
  void Forget(pid_t sender) { kept_.erase(sender); }
  void ForgetAll() { kept_.clear(); }
  // How many senders have begun a message.
  size_t senders() const { return kept_.size(); }

 private:
  struct Kept {
    std::array<char, kStatusMessageSize> bytes;
    size_t size = 0;
  };

  static size_t Take(pid_t sender, absl::string_view bytes, StatusBatch* batch);
  void Keep(pid_t sender, absl::string_view rest, StatusBatch* batch);

  std::map<pid_t, Kept> kept_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_STATUS_FRAMER_H_

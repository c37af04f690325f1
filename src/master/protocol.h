// What a master and its workers agree on: descriptor numbers, the status message, the generation,
// flow tokens, and how a worker finds them at start. docs/protocol.md tells the same in prose.
//
// The same bytes as Postfix 2.x to 3.x (statements P1 to P53). This library stands alone: it knows
// no event loop, no configuration and no process manager.
//
// Thread: any, one per object. Fork: plain values; a WorkerStatus must be told (see there).

#ifndef POSTHOUSE_MASTER_PROTOCOL_H_
#define POSTHOUSE_MASTER_PROTOCOL_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace posthouse {

// The numbers under which a worker finds what it inherits (P1). Tests and other masters may hand
// over others (PO5), which is why nothing but the defaults here knows them.
struct MasterDescriptors {
  int flow_read = 3;
  int flow_write = 4;
  int status = 5;
  int first_listen = 6;
};

// The environment variable of the generation, an octal number (P22).
inline constexpr char kGenerationVariable[] = "GENERATION";

// Octal digits only, at most 32 bits; anything else is kInvalidArgument naming the variable and
// the value (PO6, S15, SO16). Absence is the caller's business: it means 0 (P24).
absl::StatusOr<uint32_t> ParseGeneration(absl::string_view text);
// "1", "17", "20": what a master puts into the environment.
std::string FormatGeneration(uint32_t generation);

// TAKEN and AVAIL (P13).
enum class Availability : int32_t { kTaken = 0, kAvailable = 1 };

// One status message (P14).
struct StatusMessage {
  int32_t pid = 0;
  uint32_t generation = 0;
  int32_t availability = 0;  // as received; only the values of Availability have a meaning (P35)
};

inline constexpr size_t kStatusMessageSize = 12;
using StatusMessageBytes = std::array<char, kStatusMessageSize>;

// Host byte order, no padding.
StatusMessageBytes EncodeStatusMessage(const StatusMessage& message);
// kInvalidArgument unless `bytes` is exactly one message with a positive pid and a known
// availability; the text says which field is wrong.
absl::StatusOr<StatusMessage> DecodeStatusMessage(absl::string_view bytes);

// The worker's side of the status channel.
//
// Writes never block for longer than `patience` (SO11, PO3): while the channel is full, TAKEN is
// dropped, and the last state is sent as soon as there is room, so that the master ends up with
// the truth. EINTR is retried, a message that was cut is finished before anything else (PO2).
// The channel's open file is shared with all siblings and the master: its flags are never changed.
class WorkerStatus {
 public:
  enum class Result {
    kSent,
    kDeferred,      // the channel is full; Flush() will bring the latest state
    kDisconnected,  // the master is gone or has closed the channel (P43, P44)
  };

  // `fd` is borrowed.
  WorkerStatus(int fd, int32_t pid, uint32_t generation,
               absl::Duration patience = absl::ZeroDuration());

  // Reports a state. kDisconnected after kTaken is to be ignored by the caller, after kAvailable it
  // means that the master wants us gone (P44).
  Result Report(Availability availability);
  // Sends what is still owed.
  Result Flush();
  bool owes() const { return owed_.has_value() || cut_bytes_ > 0; }
  int fd() const { return fd_; }

  // In a drained child: nothing is ever sent again, every call answers kSent (PO8).
  void Silence() { fd_ = -1; }

 private:
  Result SendOwed();
  Result Send(absl::string_view bytes, size_t* sent);

  int fd_;
  int32_t pid_;
  uint32_t generation_;
  absl::Duration patience_;
  absl::optional<Availability> owed_;
  StatusMessageBytes cut_{};  // a message of which only a part went out
  size_t cut_bytes_ = 0;      // how much of it is still to be sent, 0: none
};

// Flow control tokens: bytes in a pipe that the master shares among all workers (P46 to P50).
class FlowTokens {
 public:
  FlowTokens(int read_fd, int write_fd) : read_fd_(read_fd), write_fd_(write_fd) {}

  // Takes up to `count` tokens without blocking and returns how many it got (PO10).
  // kFailedPrecondition: the pipe is not there (P47). REQUIRES: count > 0.
  absl::StatusOr<int> Take(int count);
  // Puts tokens back; returns how many the pipe had room for (P49). REQUIRES: count > 0.
  absl::StatusOr<int> Put(int count);
  // How many there are now (P50).
  absl::StatusOr<int> Count();

 private:
  int read_fd_;
  int write_fd_;
};

// How a worker is told what it is: the arguments of P9 in the order a master gives them. Used by
// masters and by tests that stand in for one; a worker parses its command line itself.
struct WorkerArguments {
  std::string command;          // argv[0], without a directory (P8)
  std::string service_name;     // -n, given when it differs from the command's last component
  int process_limit = 1;        // 1: -l, 0: -z
  std::string transport;        // -t: inet, unix, pass
  bool detached = true;         // false: -d
  bool verbose = false;         // -v
  bool unprivileged = false;    // -u
  bool chroot = false;          // -c
  absl::optional<bool> stress;  // -o stress=yes or -o stress=
  int listen_sockets = 1;       // -s, given when more than one
  std::vector<std::string> configured;  // the operator's own, last, so that they override
};
std::vector<std::string> BuildWorkerArguments(const WorkerArguments& arguments);

// The environment of a worker: nothing but the list (P10, C76). An item "name=value" sets, a bare
// name is passed on from `current` ("name=value" strings) if it is there; a later item wins.
std::vector<std::string> BuildWorkerEnvironment(absl::Span<const std::string> list,
                                                absl::Span<const std::string> current);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_PROTOCOL_H_

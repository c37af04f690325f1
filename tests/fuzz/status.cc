// Fuzz target: any bytes on a status channel (F70, F71, P13 to P15, P32 to P35).
//
// The input is a list of pieces: a byte for the sender, a byte for the length, the bytes. The
// framer must keep its books (every byte is part of a message, stray, or kept), hand on nothing in
// another process's name, stay within its memory, and be in step with everybody afterwards. Each
// piece also goes through the decoder of one message.

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "posthouse/base/check.h"
#include "posthouse/master/protocol.h"
#include "posthouse/master/status_framer.h"

namespace posthouse {
namespace {

// Sender 0: the kernel does not tell. The numbers of the others do not occur inside a good message
// of theirs.
constexpr pid_t kFirstSender = 1000;
constexpr uint8_t kForget = 255;

void TryDecoder(absl::string_view bytes) {
  const absl::StatusOr<StatusMessage> message = DecodeStatusMessage(bytes);
  if (!message.ok()) return;
  const StatusMessageBytes again = EncodeStatusMessage(*message);
  POSTHOUSE_CHECK(absl::string_view(again.data(), again.size()) == bytes,
                  "a message that was understood is encoded to the same bytes");
  POSTHOUSE_CHECK(message->pid > 0, "a process number is positive");
}

void CheckBatch(const StatusBatch& batch) {
  POSTHOUSE_CHECK(batch.gossip.size() <= StatusBatch::kMaxGossip, "gossip is bounded");
  POSTHOUSE_CHECK(batch.gossip_count >= batch.gossip.size(), "all gossip is counted");
  for (const ReceivedStatus& received : batch.messages) {
    POSTHOUSE_CHECK(received.message.pid > 0, "a message is of a process");
    POSTHOUSE_CHECK(received.sender == 0 || received.sender == received.message.pid,
                    "nobody speaks for another");
  }
  for (const StatusGossip& gossip : batch.gossip) {
    POSTHOUSE_CHECK(!DescribeStatusGossip(gossip).empty(), "gossip can be told");
  }
}

// Whatever a sender wrote, the second whole message at the latest comes through.
void CheckInStep(pid_t sender, StatusFramer* framer) {
  StatusBatch batch;
  for (int i = 0; i < 2; ++i) {
    const StatusMessageBytes bytes =
        EncodeStatusMessage({sender, 1, static_cast<int32_t>(Availability::kAvailable)});
    framer->Feed(sender, absl::string_view(bytes.data(), bytes.size()), &batch);
  }
  CheckBatch(batch);
  POSTHOUSE_CHECK(!batch.messages.empty(), "a whole message comes through");
  const StatusMessage& last = batch.messages.back().message;
  POSTHOUSE_CHECK(last.generation == 1 && last.availability == 1, "the last message is the last");
}

void Try(absl::string_view input) {
  StatusFramer framer;
  std::set<pid_t> senders;
  while (input.size() >= 2) {
    const uint8_t who = static_cast<uint8_t>(input[0]);
    const size_t length = static_cast<uint8_t>(input[1]);
    input.remove_prefix(2);
    if (who == kForget) {
      framer.Forget(kFirstSender + static_cast<pid_t>(length));
      continue;
    }
    const pid_t sender = who == 0 ? 0 : kFirstSender + who;
    const absl::string_view piece = input.substr(0, length);
    input.remove_prefix(piece.size());
    TryDecoder(piece);
    StatusBatch batch;
    framer.Feed(sender, piece, &batch);
    CheckBatch(batch);
    POSTHOUSE_CHECK(
        batch.messages.size() * kStatusMessageSize <= piece.size() + kStatusMessageSize - 1,
        "no more messages than bytes");
    POSTHOUSE_CHECK(framer.senders() <= StatusFramer::kMaxSenders, "memory is bounded");
    if (sender > 0) senders.insert(sender);
  }
  for (const pid_t sender : senders) CheckInStep(sender, &framer);
}

}  // namespace
}  // namespace posthouse

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  posthouse::Try(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}

#include "posthouse/master/status_framer.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace posthouse {
namespace {

constexpr size_t kPidSize = sizeof(StatusMessage::pid);

StatusMessage Unpack(absl::string_view bytes) {
  StatusMessage message;
  std::memcpy(&message.pid, bytes.data(), 4);
  std::memcpy(&message.generation, bytes.data() + 4, 4);
  std::memcpy(&message.availability, bytes.data() + 8, 4);
  return message;
}

void AddGossip(const StatusGossip& gossip, StatusBatch* batch) {
  batch->gossip_count++;
  if (batch->gossip.size() < StatusBatch::kMaxGossip) batch->gossip.push_back(gossip);
}

void AddStray(pid_t sender, size_t bytes, StatusBatch* batch) {
  StatusGossip gossip;
  gossip.kind = StatusGossip::Kind::kStray;
  gossip.sender = sender;
  gossip.bytes = bytes;
  AddGossip(gossip, batch);
}

// Where within the next message's length the sender's own number begins, as far as it can be seen;
// the whole length if nowhere.
size_t FindOwnNumber(pid_t sender, absl::string_view bytes) {
  const int32_t number = sender;
  char wanted[kPidSize];
  std::memcpy(wanted, &number, kPidSize);
  for (size_t begin = 1; begin < kStatusMessageSize; ++begin) {
    const size_t visible = std::min(kPidSize, bytes.size() - begin);
    if (std::memcmp(bytes.data() + begin, wanted, visible) == 0) return begin;
  }
  return kStatusMessageSize;
}

}  // namespace

std::string DescribeStatusGossip(const StatusGossip& gossip) {
  const std::string who =
      gossip.sender > 0 ? absl::StrCat("process ", gossip.sender) : std::string("some process");
  if (gossip.kind == StatusGossip::Kind::kForged) {
    return absl::StrCat(who, " sent a status message in the name of process ", gossip.message.pid);
  }
  return absl::StrCat(who, " sent ", gossip.bytes, " bytes that belong to no status message");
}

void StatusBatch::Clear() {
  messages.clear();
  gossip.clear();
  gossip_count = 0;
  writers.clear();
  cost_ns = 0;
}

void StatusFramer::Feed(pid_t sender, absl::string_view bytes, StatusBatch* batch) {
  std::string joined;
  // Whole messages are the rule, so that mostly nothing is kept of anybody.
  if (!kept_.empty()) {
    const auto kept = kept_.find(sender);
    if (kept != kept_.end()) {
      joined.assign(kept->second.bytes.data(), kept->second.size);
      joined.append(bytes.data(), bytes.size());
      bytes = joined;
      kept_.erase(kept);
    }
  }
  while (bytes.size() >= kStatusMessageSize) bytes.remove_prefix(Take(sender, bytes, batch));
  if (!bytes.empty()) Keep(sender, bytes, batch);
}

// Judges the message at the beginning of `bytes`; returns how many bytes are done with.
size_t StatusFramer::Take(pid_t sender, absl::string_view bytes, StatusBatch* batch) {
  const StatusMessage message = Unpack(bytes);
  if (message.pid > 0 && (message.pid == sender || sender == 0)) {
    batch->messages.push_back({sender, message});
    return kStatusMessageSize;
  }
  const size_t begin = sender > 0 ? FindOwnNumber(sender, bytes) : kStatusMessageSize;
  if (begin < kStatusMessageSize) {
    AddStray(sender, begin, batch);
    return begin;
  }
  StatusGossip gossip;
  gossip.kind = StatusGossip::Kind::kForged;
  gossip.sender = sender;
  gossip.message = message;
  AddGossip(gossip, batch);
  return kStatusMessageSize;
}

void StatusFramer::Keep(pid_t sender, absl::string_view rest, StatusBatch* batch) {
  if (kept_.size() >= kMaxSenders) {
    for (const auto& [other, kept] : kept_) AddStray(other, kept.size, batch);
    kept_.clear();
  }
  Kept& kept = kept_[sender];
  std::memcpy(kept.bytes.data(), rest.data(), rest.size());
  kept.size = rest.size();
}

}  // namespace posthouse

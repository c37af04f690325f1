// WatchTable is the state of every watch, indexed by descriptor number: a lookup is two loads.
//
// Internal to the event layer. The table grows by chunks that never move, so a reference stays
// valid while handlers make it grow (F3), and a number costs kBytesPerWatch whether numbers are
// dense or one is 15000.
//
// The handlers that are called seldom are kept once per pair and not once per watch: thousands of
// connections share them, and a program has as many pairs as its code spells out.
//
// Thread: one. Errors: Ensure() returns null when there is no memory.

#ifndef POSTHOUSE_EVENT_WATCH_TABLE_H_
#define POSTHOUSE_EVENT_WATCH_TABLE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "posthouse/event/event.h"

namespace posthouse {

// What the delivery of a readable event touches, in half a cache line.
struct WatchSlot {
  // Odd while the number is watched; every beginning and every end of a watch moves it on. Zero:
  // never watched.
  uint32_t generation = 0;
  // Interests (kPoll... of poller.h): what the owner wants, what it wanted when the wait was
  // entered, what the kernel's set holds. Zero in `kernel`: not in the set.
  uint8_t wanted = 0;
  uint8_t armed = 0;
  uint8_t kernel = 0;
  uint8_t flags = 0;
  uint16_t rare = 0;           // the number of its RareHandlers
  uint16_t ended_in_turn = 0;  // low bits of the turn in which the latest watch ended
  // Links the slots whose interest is to be looked at before the wait.
  int32_t next_changed = kNotInList;
  void* context = nullptr;
  EventHandler on_readable = nullptr;

  static constexpr int32_t kNotInList = -2;
  static constexpr int32_t kEndOfList = -1;

  bool watched() const { return (generation & 1) != 0; }
};

struct RareHandlers {
  EventHandler on_writable = nullptr;
  EventHandler on_error = nullptr;

  bool operator==(const RareHandlers&) const = default;
};

class WatchTable {
 public:
  static constexpr size_t kBytesPerWatch = sizeof(WatchSlot);

  // Null: a number for which Ensure() has not been called.
  WatchSlot* Find(int fd) const {
    const size_t chunk = static_cast<unsigned>(fd) / kPerChunk;
    if (chunk >= chunk_count_ || chunks_[chunk] == nullptr) return nullptr;
    return &chunks_[chunk]->slots[static_cast<unsigned>(fd) % kPerChunk];
  }

  // REQUIRES: Ensure(fd) has succeeded.
  WatchSlot& Get(int fd) const {
    return chunks_[static_cast<unsigned>(fd) / kPerChunk]
        ->slots[static_cast<unsigned>(fd) % kPerChunk];
  }
  const RareHandlers& Rare(const WatchSlot& slot) const { return rare_[slot.rare]; }

  // Gives the slot these handlers; false when there is no memory.
  bool SetRare(WatchSlot* slot, const RareHandlers& handlers) {
    // Mostly those of the watch before.
    if (latest_rare_ < rare_count_ && rare_[latest_rare_] == handlers) {
      slot->rare = latest_rare_;
      return true;
    }
    const RareHandlers* const first = rare_.get();
    const size_t number = std::find(first, first + rare_count_, handlers) - first;
    if (number == rare_count_ && !AppendRare(handlers)) return false;
    slot->rare = latest_rare_ = static_cast<uint16_t>(number);
    return true;
  }

  // Makes room. REQUIRES: fd >= 0.
  WatchSlot* Ensure(int fd) {
    const size_t chunk = static_cast<unsigned>(fd) / kPerChunk;
    if (chunk >= chunk_count_ && !GrowDirectory(chunk + 1)) return nullptr;
    if (chunks_[chunk] == nullptr) chunks_[chunk].reset(new (std::nothrow) Chunk);
    return chunks_[chunk] == nullptr ? nullptr : &Get(fd);
  }

  // Calls visit(fd, slot) for every number that is watched, in ascending order. `visit` returns
  // whether to go on.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (size_t chunk = 0; chunk < chunk_count_; ++chunk) {
      for (size_t i = 0; chunks_[chunk] != nullptr && i < kPerChunk; ++i) {
        WatchSlot& slot = chunks_[chunk]->slots[i];
        if (slot.watched() && !visit(static_cast<int>(chunk * kPerChunk + i), slot)) return;
      }
    }
  }

 private:
  // 8 KiB, of which the heap's own bytes are a small part.
  static constexpr size_t kPerChunk = 256;

  // Numbers of pairs fit WatchSlot::rare.
  static constexpr size_t kMostPairs = 65536;

  struct alignas(64) Chunk {
    WatchSlot slots[kPerChunk];
  };

  bool AppendRare(const RareHandlers& handlers) {
    if (rare_count_ == rare_capacity_) {
      const size_t capacity = std::max<size_t>(rare_capacity_ * 2, 8);
      if (capacity > kMostPairs) return false;
      std::unique_ptr<RareHandlers[]> grown(new (std::nothrow) RareHandlers[capacity]);
      if (grown == nullptr) return false;
      std::copy_n(rare_.get(), rare_count_, grown.get());
      rare_ = std::move(grown);
      rare_capacity_ = capacity;
    }
    rare_[rare_count_++] = handlers;
    return true;
  }

  bool GrowDirectory(size_t wanted) {
    const size_t count = std::max(wanted, chunk_count_ * 2);
    std::unique_ptr<std::unique_ptr<Chunk>[]> grown(new (std::nothrow)
                                                        std::unique_ptr<Chunk>[count]);
    if (grown == nullptr) return false;
    for (size_t i = 0; i < chunk_count_; ++i) grown[i] = std::move(chunks_[i]);
    chunks_ = std::move(grown);
    chunk_count_ = count;
    return true;
  }

  std::unique_ptr<std::unique_ptr<Chunk>[]> chunks_;
  size_t chunk_count_ = 0;
  std::unique_ptr<RareHandlers[]> rare_;
  size_t rare_count_ = 0;
  size_t rare_capacity_ = 0;
  uint16_t latest_rare_ = 0;
};

static_assert(sizeof(WatchSlot) == 32, "half a cache line");
static_assert(WatchTable::kBytesPerWatch <= 32, "with the FdWatch itself it is 48 bytes");

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_WATCH_TABLE_H_

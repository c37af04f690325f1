// ConnectionTable owns the connections of a skeleton and finds them by id.
//
// An id is a slot and a serial number: the slot makes the look-up an index, the serial number tells
// a connection from earlier ones in its slot. Iteration is by slot, so connections may come and go
// while somebody walks over the table.
//
// Thread: one. Ownership: owns.

#ifndef POSTHOUSE_SERVER_CONNECTION_TABLE_H_
#define POSTHOUSE_SERVER_CONNECTION_TABLE_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "posthouse/server/connection.h"

namespace posthouse {

class ConnectionTable {
 public:
  // The id for the connection that will be handed to Put() next.
  uint64_t NextId() {
    if (free_.empty()) {
      slots_.emplace_back();
      // Giving a slot back must not need memory: it is what happens when there is none.
      free_.reserve(slots_.capacity());
      free_.push_back(static_cast<uint32_t>(slots_.size() - 1));
    }
    // Serial number 0 is left out, so that no id is 0.
    if (++serial_ == 0) ++serial_;
    return static_cast<uint64_t>(serial_) << 32 | free_.back();
  }

  Connection* Put(std::unique_ptr<Connection> connection) {
    const uint32_t slot = Slot(connection->id());
    free_.pop_back();
    slots_[slot] = std::move(connection);
    return slots_[slot].get();
  }

  // Null when it is gone.
  Connection* Find(uint64_t id) const {
    const uint32_t slot = Slot(id);
    if (slot >= slots_.size() || slots_[slot] == nullptr || slots_[slot]->id() != id) {
      return nullptr;
    }
    return slots_[slot].get();
  }

  std::unique_ptr<Connection> Take(uint64_t id) {
    const uint32_t slot = Slot(id);
    free_.push_back(slot);
    return std::move(slots_[slot]);
  }

  size_t slots() const { return slots_.size(); }
  // The connection in a slot, or null.
  Connection* At(size_t slot) const { return slots_[slot].get(); }

 private:
  static uint32_t Slot(uint64_t id) { return static_cast<uint32_t>(id); }

  std::vector<std::unique_ptr<Connection>> slots_;
  std::vector<uint32_t> free_;
  uint32_t serial_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_CONNECTION_TABLE_H_

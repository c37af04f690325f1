// Slab<T> hands out objects of one type from blocks of a thousand: no heap header each, and what is
// deleted is used again. An object never moves.
//
// Thread: one. It is never destroyed before its objects: servers are ended by a signal.

#ifndef BENCH_ECHO_SLAB_H_
#define BENCH_ECHO_SLAB_H_

#include <memory>
#include <new>
#include <utility>
#include <vector>

template <typename T>
class Slab {
 public:
  template <typename... Arguments>
  T* New(Arguments&&... arguments) {
    if (free_ == nullptr) Grow();
    Cell* cell = free_;
    free_ = cell->next_free;
    return new (cell->bytes) T(std::forward<Arguments>(arguments)...);
  }

  void Delete(T* object) {
    object->~T();
    Put(reinterpret_cast<Cell*>(object));
  }

 private:
  static constexpr int kPerBlock = 1000;

  union Cell {
    Cell* next_free;
    alignas(T) unsigned char bytes[sizeof(T)];
  };

  void Put(Cell* cell) {
    cell->next_free = free_;
    free_ = cell;
  }
  void Grow() {
    blocks_.push_back(std::make_unique<Cell[]>(kPerBlock));
    for (int i = kPerBlock; i-- > 0;) Put(&blocks_.back()[i]);
  }

  Cell* free_ = nullptr;
  std::vector<std::unique_ptr<Cell[]>> blocks_;
};

#endif  // BENCH_ECHO_SLAB_H_

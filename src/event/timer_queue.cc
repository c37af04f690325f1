#include "posthouse/event/timer_queue.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/base/optimization.h"
#include "absl/cleanup/cleanup.h"
#include "absl/numeric/bits.h"
#include "posthouse/base/check.h"

namespace posthouse {
namespace {

// Number and mark share a word; only the number orders.
bool Before(const TimerNode* a, const TimerNode* b) {
  if (a->deadline != b->deadline) return a->deadline < b->deadline;
  return a->request << 1 < b->request << 1;
}

// Merges two chains that end in null, using `next` alone.
TimerNode* MergeChains(TimerNode* a, TimerNode* b) {
  TimerNode* merged = nullptr;
  TimerNode** tail = &merged;
  while (a != nullptr && b != nullptr) {
    TimerNode*& first = Before(b, a) ? b : a;
    *tail = first;
    tail = &first->next;
    first = *tail;
  }
  *tail = a != nullptr ? a : b;
  return merged;
}

}  // namespace

class TimerQueue::Walk {
 public:
  explicit Walk(TimerNode* const* lists) {
    for (int i = 0; i < kLists; ++i) {
      if (lists[i] != nullptr) at_[left_++] = lists[i];
    }
  }

  // Null at the end. The node's links may be changed at once.
  TimerNode* Next() {
    if (left_ == 0) return nullptr;
    if (turn_ >= left_) turn_ = 0;
    TimerNode* const node = at_[turn_];
    if (node->next != nullptr) {
      __builtin_prefetch(node->next);
      at_[turn_++] = node->next;
    } else {
      at_[turn_] = at_[--left_];
    }
    return node;
  }

 private:
  TimerNode* at_[kLists];  // of those lists that have not ended
  int left_ = 0;
  int turn_ = 0;
};

// A bottom-up merge sort: chains of doubling length hold any number of nodes.
class TimerQueue::Sorter {
 public:
  void Add(TimerNode* node) {
    node->next = nullptr;
    int i = 0;
    for (; i < used_ && chains_[i] != nullptr; ++i) {
      node = MergeChains(chains_[i], node);
      chains_[i] = nullptr;
    }
    if (i == used_) ++used_;
    chains_[i] = node;
  }

  TimerNode* Sorted() const {
    TimerNode* all = nullptr;
    for (int i = 0; i < used_; ++i) {
      if (chains_[i] != nullptr) all = MergeChains(chains_[i], all);
    }
    return all;
  }

 private:
  TimerNode* chains_[64];  // those from used_ on are not there
  int used_ = 0;
};

TimerQueue::TimerQueue(int64_t now) : tick_(TickOf(std::max<int64_t>(now, 0))) {}

TimerQueue::~TimerQueue() {
  POSTHOUSE_CHECK(pending_ == 0, "an event loop was destroyed before its timers");
}

void TimerQueue::Place(TimerNode* node, int64_t deadline) {
  if (node->pending()) {
    Unlink(node);
  } else {
    ++pending_;
  }
  node->deadline = deadline;
  node->request = next_request_++;
  if (ABSL_PREDICT_TRUE(deadline >> kTickBits > static_cast<int64_t>(tick_))) {
    Insert(node, TickOf(deadline));
  } else {
    PlaceAtOnce(node);
  }
}

void TimerQueue::PlaceAtOnce(TimerNode* node) {
  node->deadline = std::max<int64_t>(node->deadline, 0);
  if (running_) {
    Link(&postponed_, node);
  } else {
    Insert(node, tick_);
  }
}

// REQUIRES: tick >= tick_.
inline void TimerQueue::Insert(TimerNode* node, uint64_t tick) {
  const int level = (absl::bit_width((tick ^ tick_) | 1) - 1) / kDigitBits;
  const int digit = static_cast<int>(tick >> (level * kDigitBits)) & (kBuckets - 1);
  const int bucket = level * kBuckets + digit;
  occupied_[bucket / kWordBits] |= uint64_t{1} << (bucket % kWordBits);
  words_ |= uint32_t{1} << (bucket / kWordBits);
  Link(&wheel_[bucket][node->request % kLists], node);
  if (node->deadline < next_deadline_) next_deadline_ = node->deadline;  // unless it is unknown
}

// The bits of a level are at or after the current digit, and every bucket of a level comes before
// those of the next: they share more digits with the current tick.
inline bool TimerQueue::FirstBucket(Bucket* bucket) const {
  if (words_ == 0) return false;
  const int word = absl::countr_zero(words_);
  bucket->number = word * kWordBits + absl::countr_zero(occupied_[word]);
  bucket->level = word / kWordsPerLevel;
  const int shift = bucket->level * kDigitBits;
  const uint64_t above = (tick_ >> shift) & ~uint64_t{kBuckets - 1};
  bucket->first_tick = (above | (bucket->number % kBuckets)) << shift;
  bucket->last_tick = bucket->first_tick + (uint64_t{1} << shift) - 1;
  return true;
}

inline void TimerQueue::ClearBit(int bucket) {
  uint64_t& word = occupied_[bucket / kWordBits];
  word &= ~(uint64_t{1} << (bucket % kWordBits));
  if (word == 0) words_ &= ~(uint32_t{1} << (bucket / kWordBits));
}

int64_t TimerQueue::FindNextDeadline() {
  if (due_ != nullptr) return next_deadline_ = 0;  // a run was cut short: look at once
  next_deadline_ = kNever;
  Bucket bucket;
  while (FirstBucket(&bucket)) {
    Walk walk(wheel_[bucket.number]);
    TimerNode* node = walk.Next();
    if (node == nullptr) {
      ClearBit(bucket.number);
      continue;
    }
    // A timer that was pushed out of the bucket counts as due at its end, when it will be moved.
    const uint64_t end = (bucket.last_tick + 1) << kTickBits;
    next_deadline_ = static_cast<int64_t>(std::min<uint64_t>(end, kNever));
    for (int looked_at = 0; node != nullptr; node = walk.Next()) {
      next_deadline_ = std::min(next_deadline_, node->deadline);
      if (++looked_at > kNodesLookedAt) {
        return next_deadline_ = static_cast<int64_t>(bucket.first_tick << kTickBits);
      }
    }
    return next_deadline_;
  }
  return next_deadline_;
}

bool TimerQueue::HasDue(int64_t now) {
  if (due_ != nullptr) return true;
  next_deadline_ = kUnknown;
  return CollectDue(now, next_request_);
}

void TimerQueue::RunDue(int64_t now, int max, HandlerMeter* meter) {
  const uint64_t limit = next_request_;
  running_ = true;
  next_deadline_ = kUnknown;
  const auto end = absl::MakeCleanup([this] { EndRun(); });
  if (due_ != nullptr) CollectDue(now, limit);  // what was requested since the run was cut short
  for (int ran = 0; ran < max && (due_ != nullptr || CollectDue(now, limit)); ++ran) {
    TimerNode* const node = due_;
    Unlink(node);
    node->request = 0;
    --pending_;
    ++runs_;
    meter->Call(node->handler, kEventTime, node->context);  // may destroy the node
  }
}

// Also when a handler leaves by an exception.
void TimerQueue::EndRun() {
  running_ = false;
  while (TimerNode* const node = postponed_) {
    Unlink(node);
    Insert(node, std::max(TickOf(node->deadline), tick_));
  }
  next_deadline_ = kUnknown;
}

// Brings the wheel forward to the next bucket with something due at `now`; false if there is none.
bool TimerQueue::CollectDue(int64_t now, uint64_t limit) {
  const uint64_t now_tick = TickOf(std::max<int64_t>(now, 0));
  const bool current_alone = due_ != nullptr;
  Bucket bucket;
  while (FirstBucket(&bucket) && bucket.first_tick <= now_tick) {
    if (current_alone && bucket.first_tick > tick_) return false;
    if (CollectBucket(bucket, now, limit)) return true;
    if (bucket.level == 0 && bucket.first_tick == now_tick) return false;  // the rest of this tick
  }
  if (!current_alone) tick_ = std::max(tick_, now_tick);
  return false;
}

// Takes the bucket and puts what is due into due_, the rest to where it belongs now. What lies in a
// bucket comes before everything in later ones, so one with few nodes is taken for all ticks up to
// now at once; one with many is spread over finer ones.
bool TimerQueue::CollectBucket(const Bucket& bucket, int64_t now, uint64_t limit) {
  Walk walk(wheel_[bucket.number]);
  std::fill_n(wheel_[bucket.number], kLists, nullptr);
  ClearBit(bucket.number);
  TimerNode* few[kNodesSortedAtOnce];
  int count = 0;
  TimerNode* node = nullptr;
  while (count < kNodesSortedAtOnce && (node = walk.Next()) != nullptr) few[count++] = node;
  if (bucket.level > 0 && node != nullptr) {
    tick_ = std::max(tick_, bucket.first_tick);
    for (int i = 0; i < count; ++i) Insert(few[i], TickOf(few[i]->deadline));
    while ((node = walk.Next()) != nullptr) Insert(node, TickOf(node->deadline));
    return false;
  }
  tick_ = std::max(tick_, std::min(bucket.last_tick, TickOf(std::max<int64_t>(now, 0))));
  if (node != nullptr) return AddManyToDue(few, count, &walk, now, limit);
  // Few: inserted one after the other into what will be due_.
  TimerNode* sorted = nullptr;
  for (int i = 0; i < count; ++i) {
    if (!Sift(few[i], now, limit)) continue;
    TimerNode** place = &sorted;
    while (*place != nullptr && Before(*place, few[i])) place = &(*place)->next;
    few[i]->next = *place;
    *place = few[i];
  }
  return AddToDue(sorted);
}

bool TimerQueue::AddManyToDue(TimerNode* const* few, int count, Walk* walk, int64_t now,
                              uint64_t limit) {
  Sorter sorter;
  for (int i = 0; i < count; ++i) {
    if (Sift(few[i], now, limit)) sorter.Add(few[i]);
  }
  while (TimerNode* const node = walk->Next()) {
    if (Sift(node, now, limit)) sorter.Add(node);
  }
  return AddToDue(sorter.Sorted());
}

// Whether the node is due; if not, it is put where it belongs.
inline bool TimerQueue::Sift(TimerNode* node, int64_t now, uint64_t limit) {
  if (TickOf(node->deadline) > tick_ || node->deadline > now) {
    Insert(node, TickOf(node->deadline));
    return false;
  }
  if (node->request >= limit) {
    Link(&postponed_, node);
    return false;
  }
  return true;
}

// False: the chain is empty.
inline bool TimerQueue::AddToDue(TimerNode* sorted) {
  if (sorted == nullptr) return false;
  due_ = due_ == nullptr ? sorted : MergeChains(due_, sorted);
  for (TimerNode** place = &due_; *place != nullptr; place = &(*place)->next) {
    (*place)->link = place;
    (*place)->request |= kSorted;
  }
  return true;
}

}  // namespace posthouse

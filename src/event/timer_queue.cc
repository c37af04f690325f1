#include "posthouse/event/timer_queue.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/numeric/bits.h"
#include "posthouse/base/check.h"

namespace posthouse {
namespace {

void MakeEmpty(TimerLink* list) { list->next = list->prev = list; }

bool Empty(const TimerLink& list) { return list.next == &list; }

void InsertBehind(TimerLink* place, TimerLink* link) {
  link->next = place->next;
  link->prev = place;
  place->next->prev = link;
  place->next = link;
}

void Append(TimerLink* list, TimerLink* link) { InsertBehind(list->prev, link); }

// Moves all of `from` behind `list`.
void Splice(TimerLink* list, TimerLink* from) {
  if (Empty(*from)) return;
  from->next->prev = list->prev;
  list->prev->next = from->next;
  from->prev->next = list;
  list->prev = from->prev;
  MakeEmpty(from);
}

void RemoveFirst(TimerLink* list) {
  list->next = list->next->next;
  list->next->prev = list;
}

TimerNode* Node(TimerLink* link) { return static_cast<TimerNode*>(link); }

bool Before(const TimerLink* a, const TimerLink* b) {
  const auto* left = static_cast<const TimerNode*>(a);
  const auto* right = static_cast<const TimerNode*>(b);
  if (left->deadline != right->deadline) return left->deadline < right->deadline;
  return left->request < right->request;
}

// Merges two chains that end in null, using `next` alone.
TimerLink* MergeChains(TimerLink* a, TimerLink* b) {
  TimerLink head;
  TimerLink* tail = &head;
  while (a != nullptr && b != nullptr) {
    TimerLink*& first = Before(b, a) ? b : a;
    tail->next = first;
    tail = first;
    first = first->next;
  }
  tail->next = a != nullptr ? a : b;
  return head.next;
}

bool LongerThan(const TimerLink& list, int count) {
  const TimerLink* link = list.next;
  while (link != &list && count-- > 0) link = link->next;
  return link != &list;
}

bool Sorted(const TimerLink& list) {
  for (const TimerLink* link = list.next; link != &list && link->next != &list; link = link->next) {
    if (Before(link->next, link)) return false;
  }
  return true;
}

// A bottom-up merge sort: 64 chains of doubling length hold any number of nodes.
void Sort(TimerLink* list) {
  if (Sorted(*list)) return;
  TimerLink* chains[64] = {};
  list->prev->next = nullptr;
  for (TimerLink* link = list->next; link != nullptr;) {
    TimerLink* chain = link;
    link = link->next;
    chain->next = nullptr;
    int i = 0;
    for (; chains[i] != nullptr; ++i) {
      chain = MergeChains(chains[i], chain);
      chains[i] = nullptr;
    }
    chains[i] = chain;
  }
  TimerLink* all = nullptr;
  for (TimerLink* chain : chains) {
    if (chain != nullptr) all = MergeChains(chain, all);
  }
  TimerLink* prev = list;
  for (TimerLink* link = all; link != nullptr; link = link->next) {
    prev->next = link;
    link->prev = prev;
    prev = link;
  }
  prev->next = list;
  list->prev = prev;
}

}  // namespace

TimerQueue::TimerQueue(int64_t now)
    : tick_(static_cast<uint64_t>(std::max<int64_t>(now, 0)) >> kTickBits) {
  for (TimerLink& bucket : wheel_) MakeEmpty(&bucket);
  MakeEmpty(&due_);
  MakeEmpty(&postponed_);
}

TimerQueue::~TimerQueue() {
  POSTHOUSE_CHECK(pending_ == 0, "an event loop was destroyed before its timers");
}

void TimerQueue::Place(TimerNode* node, int64_t deadline) {
  if (node->pending()) {
    Unlink(node);
  } else {
    ++pending_;
  }
  node->deadline = std::max<int64_t>(deadline, 0);
  node->request = next_request_++;
  Insert(node);
}

void TimerQueue::Cancel(TimerNode* node) {
  Unlink(node);
  node->request = 0;
  --pending_;
}

int64_t TimerQueue::NextDeadline() {
  if (pending_ == 0) return kNever;
  if (next_deadline_known_) return next_deadline_;
  next_deadline_known_ = true;
  next_deadline_ = kNever;
  if (!Empty(due_)) return next_deadline_ = 0;  // a run was cut short: look at once
  Bucket bucket;
  if (!FirstBucket(&bucket)) return next_deadline_;
  // A timer that was pushed out of the bucket counts as due at its end, when it will be moved.
  const uint64_t ticks = uint64_t{1} << (kDigitBits * bucket.level);
  const uint64_t end = (bucket.start + ticks) << kTickBits;
  next_deadline_ = static_cast<int64_t>(std::min<uint64_t>(end, kNever));
  const TimerLink& list = wheel_[bucket.level * kBuckets + bucket.index];
  int looked_at = 0;
  for (TimerLink* link = list.next; link != &list; link = link->next) {
    next_deadline_ = std::min(next_deadline_, Node(link)->deadline);
    if (++looked_at == kNodesLookedAt && link->next != &list) {
      return next_deadline_ = static_cast<int64_t>(bucket.start << kTickBits);
    }
  }
  return next_deadline_;
}

bool TimerQueue::HasDue(int64_t now) {
  if (!Empty(due_)) return true;
  next_deadline_known_ = false;
  return CollectDue(now, next_request_);
}

void TimerQueue::RunDue(int64_t now, int max, HandlerMeter* meter) {
  const uint64_t limit = next_request_;
  running_ = true;
  next_deadline_known_ = false;
  const auto end = absl::MakeCleanup([this] { EndRun(); });
  if (!Empty(due_)) CollectDue(now, limit);  // what was requested since the last run was cut short
  for (int ran = 0; ran < max && (!Empty(due_) || CollectDue(now, limit)); ++ran) {
    TimerNode* node = Node(due_.next);
    RemoveFirst(&due_);
    node->request = 0;
    --pending_;
    ++runs_;
    meter->Call(node->handler, kEventTime, node->context);  // may destroy the node
  }
}

// Also when a handler leaves by an exception.
void TimerQueue::EndRun() {
  running_ = false;
  while (!Empty(postponed_)) {
    TimerNode* node = Node(postponed_.next);
    RemoveFirst(&postponed_);
    Insert(node);
  }
  next_deadline_known_ = false;
}

// The bits of a level are at or after the current digit, and every bucket of a level comes before
// those of the next: they share more digits with the current tick.
bool TimerQueue::FirstBucket(Bucket* bucket) const {
  for (int level = 0; level < kLevels; ++level) {
    if (occupied_[level] == 0) continue;
    const int shift = level * kDigitBits;
    bucket->level = level;
    bucket->index = absl::countr_zero(occupied_[level]);
    bucket->start = (((tick_ >> shift) & ~uint64_t{kBuckets - 1}) | bucket->index) << shift;
    return true;
  }
  return false;
}

void TimerQueue::Insert(TimerNode* node) {
  if (running_ && static_cast<uint64_t>(node->deadline) >> kTickBits <= tick_) {
    Append(&postponed_, node);
    return;
  }
  if (next_deadline_known_) next_deadline_ = std::min(next_deadline_, node->deadline);
  const uint64_t tick = std::max(static_cast<uint64_t>(node->deadline) >> kTickBits, tick_);
  const uint64_t differs = tick ^ tick_;
  const int level = differs == 0 ? 0 : (absl::bit_width(differs) - 1) / kDigitBits;
  const int index = static_cast<int>(tick >> (level * kDigitBits)) & (kBuckets - 1);
  occupied_[level] |= uint64_t{1} << index;
  Append(&wheel_[level * kBuckets + index], node);
}

// The only link left is a bucket's own, or that of one of the two lists, which have no bit.
void TimerQueue::Unlink(TimerNode* node) {
  TimerLink* const prev = node->prev;
  TimerLink* const next = node->next;
  prev->next = next;
  next->prev = prev;
  if (prev == next && prev >= &wheel_[0] && prev < &wheel_[kLevels * kBuckets]) {
    const ptrdiff_t bucket = prev - &wheel_[0];
    occupied_[bucket >> kDigitBits] &= ~(uint64_t{1} << (bucket & (kBuckets - 1)));
  }
}

void TimerQueue::TakeBucket(const Bucket& bucket, TimerLink* list) {
  MakeEmpty(list);
  Splice(list, &wheel_[bucket.level * kBuckets + bucket.index]);
  occupied_[bucket.level] &= ~(uint64_t{1} << bucket.index);
}

// Brings the wheel forward to the next bucket with something due at `now`; false if there is none.
// What lies in a bucket comes before everything in later ones, so a short one may be taken whole:
// what it holds for ticks up to now is due together.
bool TimerQueue::CollectDue(int64_t now, uint64_t limit) {
  const uint64_t now_tick = static_cast<uint64_t>(std::max<int64_t>(now, 0)) >> kTickBits;
  const bool current_alone = !Empty(due_);
  Bucket bucket;
  while (FirstBucket(&bucket) && bucket.start <= now_tick) {
    if (current_alone && bucket.start > tick_) return false;
    TimerLink list;
    TakeBucket(bucket, &list);
    const uint64_t end = bucket.start + (uint64_t{1} << (kDigitBits * bucket.level)) - 1;
    const bool at_once = bucket.level > 0 && !LongerThan(list, kNodesSortedAtOnce);
    tick_ = std::max(tick_, at_once ? std::min(end, now_tick) : bucket.start);
    SortDue(&list, now, limit);
    if (!Empty(list)) {
      MergeIntoDue(&list);
      return true;
    }
    if (bucket.level == 0 && bucket.start == now_tick) return false;  // the rest of this tick
  }
  if (!current_alone) tick_ = std::max(tick_, now_tick);
  return false;
}

// Puts a node behind `place` if it is due, else to where it belongs now.
inline void TimerQueue::Sift(TimerNode* node, int64_t now, uint64_t limit, TimerLink* place) {
  if (static_cast<uint64_t>(node->deadline) >> kTickBits > tick_ || node->deadline > now) {
    Insert(node);
  } else if (node->request >= limit) {
    Append(&postponed_, node);
  } else {
    InsertBehind(place, node);
  }
}

// Keeps in `list`, sorted, what is due; the rest goes to where it belongs now. The nodes lie
// scattered over memory and each is mostly a miss of the cache, so the list is walked from both
// ends: two chains of loads overlap.
void TimerQueue::SortDue(TimerLink* list, int64_t now, uint64_t limit) {
  TimerLink head, tail;  // due, in the order of the list
  MakeEmpty(&head);
  MakeEmpty(&tail);
  const bool running = std::exchange(running_, false);  // these are not new, only brought forward
  TimerLink* front = list->next;
  TimerLink* back = list->prev;
  for (bool more = front != list; more;) {
    TimerNode* const first = Node(front);
    TimerNode* const last = Node(back);
    front = first->next;
    back = last->prev;
    __builtin_prefetch(front);
    __builtin_prefetch(back);
    more = first != last && front != last;
    Sift(first, now, limit, head.prev);
    if (first != last) Sift(last, now, limit, &tail);
  }
  running_ = running;
  Splice(&head, &tail);
  Sort(&head);
  MakeEmpty(list);
  Splice(list, &head);
}

void TimerQueue::MergeIntoDue(TimerLink* sorted) {
  const bool behind = Empty(due_) || Before(due_.prev, sorted->next);
  Splice(&due_, sorted);
  if (!behind) Sort(&due_);
}

}  // namespace posthouse

// TimerQueue holds the pending timers of one EventLoop: a lazy hierarchical timing wheel.
//
// Internal to the event layer; Timer is the public face.
//
// Six levels of 256 buckets cover all of int64 nanoseconds in ticks of about a millisecond. A timer
// lies in the bucket of its deadline's tick, at the level of the highest digit (base 256) in which
// that tick differs from the current one, and comes down when its bucket's turn has come. One bit
// per bucket finds the next; nothing is searched, hashed or allocated.
//
// Lazy: pushing a deadline back only stores it. The timer stays in its bucket, which is not later
// than the deadline, and is put where it belongs when that bucket's turn has come. A bit stays when
// its bucket becomes empty, until somebody looks.
//
// Order: within one RunDue() the handlers run by (deadline, number of the request) exactly (E38):
// buckets follow each other in time and each is sorted when its turn has come. What is requested
// while handlers run gets a number beyond the limit of that RunDue() and waits for the next one
// (E39).
//
// Memory: the nodes of a bucket lie scattered over the heap, and walking a list of them is one miss
// of the cache after the other. So a bucket is four lists, which are walked side by side.
//
// Thread: one. Errors: none. Ownership: nodes belong to their owners, who take them out before
// they are destroyed.

#ifndef POSTHOUSE_EVENT_TIMER_QUEUE_H_
#define POSTHOUSE_EVENT_TIMER_QUEUE_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "posthouse/event/event.h"
#include "posthouse/event/handler_meter.h"

namespace posthouse {

// The first three are what pushing a deadline back touches, in one cache line mostly.
struct TimerNode {
  int64_t deadline = 0;  // steady nanoseconds
  // Counts requests over the whole queue; 0: not pending. See TimerQueue::kSorted.
  uint64_t request = 0;
  TimerNode* next = nullptr;
  TimerNode** link = nullptr;  // what points at this one
  EventHandler handler = nullptr;
  void* context = nullptr;

  bool pending() const { return request != 0; }
};

class TimerQueue {
 public:
  // The wheel starts at `now`: what is requested for an earlier moment is due at once.
  explicit TimerQueue(int64_t now);
  ~TimerQueue();
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  // Requests a call at `deadline`, instead of an earlier request of this node if there is one. A
  // deadline in the past is legal.
  void Request(TimerNode* node, int64_t deadline) {
    // The bucket that it lies in is not later than the old deadline. Neither a node that is not
    // pending nor one in the sorted list passes the second test.
    if (deadline >= node->deadline && node->request - 1 < kSorted - 1) {
      node->deadline = deadline;
      node->request = next_request_++;
    } else {
      Place(node, deadline);
    }
  }

  // REQUIRES: node->pending().
  void Cancel(TimerNode* node) {
    Unlink(node);
    node->request = 0;
    --pending_;
  }

  int64_t pending() const { return pending_; }

  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  // A moment that is not later than the first deadline, and equal to it unless thousands of timers
  // lie close together or timers were cancelled or pushed back: when to look again. kNever when
  // nothing is pending.
  int64_t NextDeadline() {
    if (pending_ == 0) return kNever;
    return next_deadline_ >= 0 ? next_deadline_ : FindNextDeadline();
  }

  // Whether RunDue() would run something; puts what was pushed back where it belongs.
  bool HasDue(int64_t now);

  // Runs what is due at `now`, at most `max` handlers. What is left over keeps its order.
  void RunDue(int64_t now, int max, HandlerMeter* meter);

  // How many handlers have been run.
  int64_t runs() const { return runs_; }

 private:
  static constexpr int kTickBits = 20;
  static constexpr int kDigitBits = 8;
  static constexpr int kBuckets = 1 << kDigitBits;
  static constexpr int kLevels = 6;  // 20 + 6 * 8 bits hold every int64
  static constexpr int kLists = 4;   // of a bucket
  static constexpr int kWordBits = 64;
  static constexpr int kWordsPerLevel = kBuckets / kWordBits;
  // In TimerNode::request: the node lies in due_, whose order a change of it would break.
  static constexpr uint64_t kSorted = uint64_t{1} << 63;
  // How much of a bucket is searched for the first deadline in it.
  static constexpr int kNodesLookedAt = 256;
  // A bucket with no more than this is sorted as it is, without being spread over finer ones first.
  static constexpr int kNodesSortedAtOnce = 32;
  static constexpr int64_t kUnknown = -1;

  struct Bucket {
    int number;  // over all levels
    int level;
    uint64_t first_tick;
    uint64_t last_tick;
  };

  // The nodes of a bucket, its four lists in turn.
  class Walk;
  class Sorter;

  static uint64_t TickOf(int64_t deadline) { return static_cast<uint64_t>(deadline) >> kTickBits; }

  static void Unlink(TimerNode* node) {
    *node->link = node->next;
    if (node->next != nullptr) node->next->link = node->link;
  }
  static void Link(TimerNode** place, TimerNode* node) {
    node->next = *place;
    node->link = place;
    if (node->next != nullptr) node->next->link = &node->next;
    *place = node;
  }

  void Place(TimerNode* node, int64_t deadline);
  void PlaceAtOnce(TimerNode* node);
  void Insert(TimerNode* node, uint64_t tick);
  bool FirstBucket(Bucket* bucket) const;
  void ClearBit(int bucket);
  int64_t FindNextDeadline();
  bool CollectDue(int64_t now, uint64_t limit);
  bool CollectBucket(const Bucket& bucket, int64_t now, uint64_t limit);
  bool AddManyToDue(TimerNode* const* few, int count, Walk* walk, int64_t now, uint64_t limit);
  bool Sift(TimerNode* node, int64_t now, uint64_t limit);
  bool AddToDue(TimerNode* sorted);
  void EndRun();

  uint64_t tick_;  // everything before it has been collected
  uint64_t next_request_ = 1;
  int64_t pending_ = 0;
  int64_t next_deadline_ = kUnknown;  // or not later than the first one
  int64_t runs_ = 0;
  bool running_ = false;
  TimerNode* due_ = nullptr;        // sorted; what RunDue() takes from
  TimerNode* postponed_ = nullptr;  // due, but requested while handlers ran
  uint32_t words_ = 0;              // which words of occupied_ are not zero
  uint64_t occupied_[kLevels * kWordsPerLevel] = {};
  TimerNode* wheel_[kLevels * kBuckets][kLists] = {};
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_TIMER_QUEUE_H_

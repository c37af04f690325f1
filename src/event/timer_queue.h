// TimerQueue holds the pending timers of one EventLoop: a lazy hierarchical timing wheel.
//
// Internal to the event layer; Timer is the public face.
//
// Eight levels of 64 buckets cover all of int64 nanoseconds in ticks of about a millisecond. A
// timer lies in the bucket of its deadline's tick, at the level of the highest digit (base 64) in
// which that tick differs from the current one, and comes down a level when its bucket's turn has
// come. One bitmap word per level finds the next bucket; nothing is searched, hashed or allocated.
//
// Lazy: pushing a deadline back only stores it. The timer stays in its bucket, which is not later
// than the deadline, and is put where it belongs when that bucket's turn has come.
//
// Order: within one RunDue() the handlers run by (deadline, number of the request) exactly (E38):
// buckets follow each other in time and each is sorted when its turn has come. What is requested
// while handlers run gets a number beyond the limit of that RunDue() and waits for the next one
// (E39).
//
// Thread: one. Errors: none. Ownership: nodes belong to their owners, who take them out before
// they are destroyed.

#ifndef POSTHOUSE_EVENT_TIMER_QUEUE_H_
#define POSTHOUSE_EVENT_TIMER_QUEUE_H_

#include <cstdint>
#include <limits>

#include "posthouse/event/event.h"
#include "posthouse/event/handler_meter.h"

namespace posthouse {

struct TimerNode;

// A ring of nodes with one of its own.
struct TimerLink {
  TimerLink* next;
  TimerLink* prev;
};

// What pushing a deadline back touches comes first, so that it is one cache line mostly.
struct TimerKey {
  int64_t deadline = 0;  // steady nanoseconds
  uint64_t request = 0;  // counts requests over the whole queue; 0: not pending
};

struct TimerNode : TimerKey, TimerLink {
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
    // The bucket that it lies in is not later than the old deadline. Only the sorted list must not
    // hold a node whose place has changed.
    if (deadline >= node->deadline && node->pending() && due_.next == &due_) {
      node->deadline = deadline;
      node->request = next_request_++;
    } else {
      Place(node, deadline);
    }
  }

  // REQUIRES: node->pending().
  void Cancel(TimerNode* node);

  int64_t pending() const { return pending_; }

  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  // A moment that is not later than the first deadline, and equal to it unless thousands of timers
  // lie close together or timers were cancelled or pushed back: when to look again. kNever when
  // nothing is pending.
  int64_t NextDeadline();

  // Whether RunDue() would run something; puts what was pushed back where it belongs.
  bool HasDue(int64_t now);

  // Runs what is due at `now`, at most `max` handlers. What is left over keeps its order.
  void RunDue(int64_t now, int max, HandlerMeter* meter);

  // How many handlers have been run.
  int64_t runs() const { return runs_; }

 private:
  static constexpr int kTickBits = 20;
  static constexpr int kDigitBits = 6;
  static constexpr int kBuckets = 1 << kDigitBits;
  static constexpr int kLevels = 8;  // 20 + 8 * 6 bits hold every int64
  // How much of a bucket is searched for the first deadline in it.
  static constexpr int kNodesLookedAt = 256;
  // A bucket with no more than this is sorted as it is, without being spread over finer ones first.
  static constexpr int kNodesSortedAtOnce = 64;

  struct Bucket {
    int level;
    int index;
    uint64_t start;  // its first tick
  };

  void Place(TimerNode* node, int64_t deadline);
  bool FirstBucket(Bucket* bucket) const;
  void Insert(TimerNode* node);
  void Unlink(TimerNode* node);
  void TakeBucket(const Bucket& bucket, TimerLink* list);
  bool CollectDue(int64_t now, uint64_t limit);
  void Sift(TimerNode* node, int64_t now, uint64_t limit, TimerLink* place);
  void SortDue(TimerLink* list, int64_t now, uint64_t limit);
  void MergeIntoDue(TimerLink* sorted);
  void EndRun();

  uint64_t tick_;  // everything before it has been collected
  uint64_t next_request_ = 1;
  int64_t pending_ = 0;
  int64_t runs_ = 0;
  int64_t next_deadline_ = kNever;  // a lower bound while next_deadline_known_
  bool next_deadline_known_ = false;
  bool running_ = false;
  uint64_t occupied_[kLevels] = {};
  TimerLink wheel_[kLevels * kBuckets];
  TimerLink due_;        // sorted; what RunDue() takes from
  TimerLink postponed_;  // due, but requested while handlers ran
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_TIMER_QUEUE_H_

// World is one of the two sides of the differential test: an event loop over one backend, and
// channels of every kind on real descriptors. The same calls on two worlds must be told the same.
//
// Everything that is random is decided outside and given in, so that both sides do the same. A call
// that returns a number returns what the kernel said; if that differs, the test itself is wrong.
//
// Thread: one.

#ifndef POSTHOUSE_TESTS_EVENT_DIFFERENTIAL_WORLD_H_
#define POSTHOUSE_TESTS_EVENT_DIFFERENTIAL_WORLD_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

// What a watched descriptor is an end of.
enum class Channel { kNone, kPipeReader, kPipeWriter, kUnix, kTcp, kListener, kFile };

enum class End { kOurs, kPeers };

struct WatchChoice {
  bool read_handler = false;
  bool write_handler = false;
  bool error_handler = false;
  bool read = false;
  bool write = false;
  bool urgent = false;
  bool exclusive = false;
  bool sole_owner = false;
};

// What a handler does to its own watch when it is called first in a turn.
enum class Deed {
  kNothing,
  kReadSome,
  kReadAll,
  kWriteSome,
  kDisableRead,
  kDisableWrite,
  kEnableRead,
  kEnableWrite,
  kTurnAround,  // to the other direction
  kReset,
  kWatchAnew,
  kSetHandlers,
  kClose,
  kReplace,  // closes the number, gives it to another file and watches that
  kStartTimer,
  kCount,
};

// What the first handler of a turn does to the victims of its plan.
enum class Attack { kNone, kDisable, kReset, kSetHandlers, kReplace, kCount };

enum class TimerDeed {
  kNothing,
  kRestart,
  kRestartNow,
  kStartOther,
  kCancelOther,
  kMakeOtherAnew,
  kAttack,
  kThrow,
  kCount,
};

inline constexpr int kSlots = 12;
inline constexpr int kTimers = 6;

// What the handlers of one turn do. Handlers of descriptors come in any order (E51), so what one
// does to others is the same for all, whoever comes first, and the others do nothing themselves.
struct Plan {
  struct OfSlot {
    Deed deed = Deed::kNothing;
    bool victim = false;
    bool bystander = false;  // may or may not be called, and does nothing then
    int amount = 0;
    Channel channel = Channel::kNone;  // of a replacement
    WatchChoice choice;                // of a new watch
    int64_t deadline_ns = 0;           // of the timer, unlike all others
  };
  struct OfTimer {
    TimerDeed deed = TimerDeed::kNothing;
    int other = 0;
    int64_t delay_ns = 0;
  };
  OfSlot slots[kSlots];
  OfTimer timers[kTimers];
  Attack attack = Attack::kNone;
  bool errors_do_nothing = false;  // their handlers, since they may come in another turn
  int label = 0;                   // of new watches and handlers
};

// One call of a handler. The label says which watch and which handlers it was for.
struct Call {
  int label;
  int event;
  bool operator==(const Call& other) const { return label == other.label && event == other.event; }
};

class World {
 public:
  explicit World(Backend backend);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  EventLoop& loop() { return *loop_; }

  // Descriptors.
  void Open(int slot, Channel channel);
  void Close(int slot);
  void Duplicate(int slot);                            // holds the file open beyond Close()
  void PutOver(int slot, Channel channel, int label);  // dup2(2) onto the watched number (E20)
  int64_t Read(int slot, End end, int most);
  int64_t Write(int slot, End end, int size);
  int64_t Fill(int slot, End end);
  int64_t Drain(int slot, End end);
  int64_t Shutdown(int slot, End end, int how);
  int64_t SendUrgent(int slot);
  void ClosePeer(int slot);

  // Watches. Those that do not fit the state do nothing.
  void Watch(int slot, const WatchChoice& choice, int label);
  void Unwatch(int slot);
  void Enable(int slot, bool read);
  void Disable(int slot, bool read);
  void SetHandlers(int slot, const WatchChoice& choice, int label);

  // Timers.
  void StartTimer(int timer, int64_t deadline_ns, bool from_now);
  int64_t CancelTimer(int timer);
  void MakeTimerAnew(int timer);
  int64_t TimeLeft(int timer);

  // In a child; and in its parent, when the child has ended.
  void AfterFork();
  void AfterChild();

  // One turn without waiting. Afterwards the plan has been carried out, whatever was called.
  // Returns whether a handler threw.
  bool Turn(const Plan& plan);

  // Of the latest turn.
  const std::vector<Call>& calls(int slot) const { return slots_[slot].calls; }
  const std::vector<int>& timer_calls() const { return timer_calls_; }
  // The first broken promise that one world alone can see; empty: none.
  const std::string& broken() const { return broken_; }

  Channel channel(int slot) const { return slots_[slot].channel; }
  bool watched(int slot) const { return slots_[slot].watch.active(); }
  bool has_peer(int slot) const { return slots_[slot].peer.valid(); }
  bool duplicated(int slot) const { return slots_[slot].duplicate.valid(); }
  bool sole_owner(int slot) const { return slots_[slot].choice.sole_owner; }
  bool urgent(int slot) const { return slots_[slot].choice.urgent; }
  // No direction is enabled, although the watch lives.
  bool paused(int slot) const;
  // "unix read+write", for people.
  std::string Describe(int slot) const;

 private:
  struct Context {
    World* world;
    int slot;  // or the timer
    int label;
    bool ended = false;
  };
  struct Slot {
    Channel channel = Channel::kNone;
    UniqueFd fd;
    UniqueFd peer;
    UniqueFd duplicate;
    std::vector<UniqueFd> clients;  // of a listener
    // Over TCP, to know when all has come.
    int64_t sent_by_us = 0;
    int64_t sent_by_peer = 0;
    bool we_ended = false;
    bool peer_ended = false;
    bool peer_closed = false;
    bool sent_into_void = false;
    void ForgetTraffic() {
      sent_by_us = sent_by_peer = 0;
      we_ended = peer_ended = peer_closed = sent_into_void = false;
    }
    FdWatch watch;
    WatchChoice choice;
    Context* context = nullptr;
    std::vector<Call> calls;
    bool acted = false;
  };
  struct TimerSlot {
    std::unique_ptr<Timer> timer;
    std::unique_ptr<Context> context;
  };

  static void OnEvent(int event, void* context);
  static void OnTimer(int event, void* context);
  void Handle(int event, Context* context);
  void HandleTimer(int timer);
  void Act(int slot);
  void PerformAttack();
  void Break(const std::string& sentence);

  void MakeEnds(Slot* slot, Channel channel);
  void MakeTcp(Slot* slot);
  void MakeListener(Slot* slot);
  int64_t Connect(Slot* slot);
  Context* NewContext(int slot, int label);
  void EndContext(Slot* slot);
  void AwaitTcp(const Slot& slot);
  bool IsSettled(const Slot& slot) const;
  void Replace(int slot, Channel channel, const WatchChoice& choice, int label);

  std::unique_ptr<EventLoop> loop_;
  Slot slots_[kSlots];
  TimerSlot timers_[kTimers];
  std::vector<std::unique_ptr<Context>> contexts_;  // all there were, so that a late call is seen
  std::vector<int> timer_calls_;
  const Plan* plan_ = nullptr;
  bool attacked_ = false;
  bool forked_ = false;
  std::string broken_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_EVENT_DIFFERENTIAL_WORLD_H_

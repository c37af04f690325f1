// The supervisor decides what a process manager does: when it listens for a service, starts, ends,
// throttles, retires. It makes no system call and knows no clock: every event carries the time,
// and what is to be done comes back as data.
//
//   Supervisor supervisor;
//   supervisor.AddService(7, rules, now);
//   supervisor.ClientWaiting(7, now);
//   supervisor.TakeActions(&actions);  // kWatchListeners, kIgnoreListeners, kSpawn with its
//   generation supervisor.Spawned(7, pid, generation, now);
//
// The shell executes actions in their order; events that it feeds meanwhile append to the next
// ones. What an event does depends on the phase of its service: supervisor_table.h has the table,
// and no pair of phase and event is outside it. No content and no order of events is refused; what
// makes no sense is reported (kUnexpected) or is gossip (F70, F73, F74) and changes nothing.
//
// Counts follow from the children: available is the number of those that are believed to take the
// next client (P26 to P29, F73). CheckInvariants() recounts.
//
// Status() costs a look-up in a tree of the children and allocates nothing. An event that runs out
// of memory throws std::bad_alloc before it has changed anything (F125; TimeIs() before the timer
// in question), and can be fed again; a child that Spawned() reports has had its place since the
// kSpawn.
//
// Thread: one. Fork: plain values; the child of a fork has no use for them. Times: steady, in
// nanoseconds; one that lies before an earlier one counts as that earlier one.

#ifndef POSTHOUSE_MASTER_SUPERVISOR_H_
#define POSTHOUSE_MASTER_SUPERVISOR_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "posthouse/master/protocol.h"
#include "posthouse/master/supervisor_table.h"

namespace posthouse {

using ServiceId = int64_t;  // chosen by the shell, never used twice

inline constexpr int64_t kNeverNs = INT64_MAX;

// What of a service's configuration the supervisor decides by.
struct ServiceRules {
  int process_limit = 100;       // 0: none
  bool stress_eligible = false;  // by its type and addresses; a limit above 1 is checked here (M79)
  int64_t throttle_ns = 60'000'000'000;
  int64_t wake_up_ns = 0;  // 0: none
  bool wake_up_conditional = false;
};

// The fixed times in one place (MO9); tests shorten them.
struct SupervisorTimes {
  int64_t stress_ns = 1000'000'000'000;        // M81
  int64_t busy_warning_ns = 1000'000'000'000;  // M62
  int64_t removal_ns = 10'000'000'000;         // from TERM to KILL (MO6, F84)
  int64_t stop_ns = 10'000'000'000;            // the same when everything stops (F108)
  int64_t look_ns = 2'000'000'000;             // between two looks (F75)
  int64_t patience_ns = 60'000'000'000;  // for a silent worker that computes or waits for a disk
  int64_t start_up_ns = 4'000'000'000;   // for one that sleeps and has never said anything
  int64_t retirement_ns = 1000'000'000'000;  // for an idle worker whose channel was closed
  // Short lives: no request completed, and the end no fault of the program (MO4, F80).
  int64_t short_life_ns = 1'000'000'000;  // a life as short as that
  int tolerated_short_lives = 2;          // in a row; the next one backs off
  int64_t first_back_off_ns = 100'000'000;
  int64_t longest_back_off_ns = 5'000'000'000;         // after an exit with status 0
  int64_t longest_killed_back_off_ns = 1'000'000'000;  // after TERM or KILL from outside (F80)
};

// How a child ended.
struct ChildEnd {
  bool signalled = false;
  int code = 0;  // exit status, or the signal
};

// What a look saw of one worker.
struct ChildActivity {
  enum class State { kUnknown, kRunning, kAsleep, kStopped, kDiskWait };
  pid_t pid = 0;
  // Anything that grows when the worker runs; the finer the better: the nanoseconds of
  // /proc/PID/schedstat tell every wake-up, the ticks of /proc/PID/stat only long ones.
  uint64_t cpu = 0;
  State state = State::kUnknown;
};

struct SupervisorAction {
  enum class Kind {
    kWatchListeners,   // tell of waiting clients: ClientWaiting()
    kIgnoreListeners,  // no more
    kSpawn,            // generation, stress; answer with Spawned() or SpawnFailed()
    kSignal,           // pid, signal; never one that was reported dead
    kRenewChannel,     // read what is there, close both ends, make a new pair (M104)
    kCloseChannel,     // of a removed service
    kWakeUp,           // trigger the service once (M86)
    kCancelWakeUps,    // give up triggers under way (M104, M105)
    kCloseListeners,   // of a removed service, at once: new clients are refused (F103)
    kCloseService,     // the last action of a removed service: forget the id
    kLook,             // poll the listeners, read the activity of its workers: Looked()
    kReport,           // log it; see Report
    kAllGone,          // stopping: no child and no spawn is left; once
  };
  enum class Report {
    kNone,
    kChildExit,     // pid, end: M74
    kBadStart,      // pid, end: M75; the service is throttled now
    kSpawnFailed,   // M63; throttled now
    kThrottleOver,  // M76
    kBackOff,       // MO4, F80: several short lives in a row; end, delay_ns
    kLimitReached,  // M62; limit
    kUnserved,      // F75: a client waits and no worker takes it; available ones are doubted now
    kSilent,        // pid: F75, a KILL goes with it
    kStubborn,  // pid: it ignored TERM, or the end of its channel (kSignal tells which signal it
                // gets now)
    kFlood,     // pid: F72; with `signal` it is a child that gets it, and a throttle begins
    kUnknownChild,  // pid, end: reaped, nobody's (F82, M93)
    kUnexpected,    // event, pid: the shell reports what was not asked for
    // Gossip: ignored status messages. pid is the sender as the kernel says (else what the message
    // says), `message` the content.
    kGossipForged,           // the message names another process than the sender (F70)
    kGossipUnknownPid,       // P33, F74: reaped already; the original says nothing
    kGossipOtherService,     // MO3, P36
    kGossipWrongGeneration,  // P34
    kGossipUnknownValue,     // P35
  };

  Kind kind = Kind::kReport;
  Report report = Report::kNone;
  ServiceId service = 0;
  pid_t pid = 0;
  int signal = 0;
  uint32_t generation = 0;  // of kSpawn; of the child that a report is about
  bool stress = false;      // kSpawn: stress=yes (M82)
  int limit = 0;
  int64_t delay_ns = 0;
  ChildEnd end;
  StatusMessage message;
  SupervisorEvent event = SupervisorEvent::kUpdate;
};

// "7: spawn generation 8", for verbose logs and tests.
std::string DescribeAction(const SupervisorAction& action);

class Supervisor {
 public:
  explicit Supervisor(const SupervisorTimes& times = SupervisorTimes()) : times_(times) {}
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // A service that has its listeners and its channel (M100).
  void AddService(ServiceId id, const ServiceRules& rules, int64_t now_ns);
  // Every known service on every reload, changed or not (M101, M103, MO11).
  void UpdateService(ServiceId id, const ServiceRules& rules, int64_t now_ns);
  // After all additions and updates of the reload (M97). The id lives until kCloseService.
  void RemoveService(ServiceId id, int64_t now_ns);
  // A listener that is watched is ready. One that comes when the watch is gone does nothing (M61).
  void ClientWaiting(ServiceId id, int64_t now_ns);
  void Spawned(ServiceId id, pid_t pid, uint32_t generation, int64_t now_ns);
  void SpawnFailed(ServiceId id, int64_t now_ns);
  // `id`: whose channel it came by. `sender`: who wrote it as the kernel says, 0 when it cannot
  // tell.
  void Status(ServiceId id, pid_t sender, const StatusMessage& message, int64_t now_ns);
  // `sender` has been writing status messages as fast as it can, for seconds (F72).
  void Flooded(ServiceId id, pid_t sender, int64_t now_ns);
  // Reaped: from now on the number means nothing (F83).
  void ChildDied(pid_t pid, ChildEnd end, int64_t now_ns);
  // The answer to a kLook. `client_waits`: a listener of the service is ready.
  void Looked(ServiceId id, bool client_waits, absl::Span<const ChildActivity> activity,
              int64_t now_ns);
  // Whatever is due by now.
  void TimeIs(int64_t now_ns);
  // When TimeIs() has something to do; kNeverNs: nothing is awaited.
  int64_t next_deadline_ns() const;
  // No start any more, TERM to every child, KILL after SupervisorTimes::stop_ns, then kAllGone
  // (F108).
  void Stop(int64_t now_ns);

  bool has_actions() const { return !actions_.empty(); }
  // Swaps the actions into `*actions`, whose content is dropped and whose memory is used for the
  // next ones.
  void TakeActions(std::vector<SupervisorAction>* actions);

  // For status pages and tests.
  struct ServiceView {
    ServiceId id = 0;
    ServicePhase phase = ServicePhase::kWatched;
    bool watching = false;
    int total = 0;
    int available = 0;  // M59 goes by this
    int doubted = 0;    // said to be available, but took nobody (F75)
    int limit = 0;
    bool spawning = false;
    int64_t throttled_until_ns = 0;  // 0: not throttled
    int64_t stress_until_ns = 0;
    int64_t next_wake_up_ns = kNeverNs;
  };
  struct ChildView {
    pid_t pid = 0;
    ServiceId service = 0;
    uint32_t generation = 0;
    bool available = false;
    bool doubted = false;
    bool retiring = false;  // its channel is closed (M107)
    int signalled = 0;      // the last signal it was sent
    uint64_t uses = 0;
  };
  std::vector<ServiceView> Services() const;
  std::vector<ChildView> Children() const;
  bool IsChild(pid_t pid) const { return children_.find(pid) != children_.end(); }

  // Everything that decides what comes next, in one line: times are relative, generations count
  // from the last one, what is over counts as never. Two supervisors with the same text behave
  // alike.
  std::string DescribeState() const;

  // Counts against a recount, phases and watches against M59, the limit, the links (F76).
  absl::Status CheckInvariants() const;

 private:
  struct Service;
  struct Child {
    pid_t pid = 0;
    uint32_t generation = 0;
    Service* service = nullptr;
    bool available = true;  // as it said, or as it was born (P28)
    bool doubted = false;   // takes nobody (F75): not counted as available until it says something
    bool retiring = false;
    bool heard = false;  // a believed message came
    int signalled = 0;
    uint64_t uses = 0;
    int64_t started_ns = 0;
    int64_t retirement_ns = kNeverNs;  // when it is ended if it is idle
    // As the last look saw it.
    uint64_t cpu = 0;
    bool progress = false;
    ChildActivity::State state = ChildActivity::State::kUnknown;
  };
  using ChildTable = std::map<pid_t, Child>;
  // A spawn that was asked for. The answer finds memory in place, and what was heard before it.
  struct Spawning {
    bool asked = false;
    bool retired = false;  // the channel that the child gets has been closed meanwhile
    uint32_t generation = 0;
    ChildTable::node_type node;
    pid_t early_pid = 0;
    bool early_available = true;
    uint64_t early_uses = 0;
  };
  struct Service {
    ServiceId id = 0;
    ServiceRules rules;
    ServicePhase phase = ServicePhase::kWatched;
    bool removing = false;
    bool stopping = false;
    bool watching = false;
    int available = 0;  // both kept by SetState() alone
    int doubted = 0;
    std::vector<Child*> children;
    Spawning spawning;
    // Times of timers; kNeverNs: off.
    int64_t throttled_until_ns = kNeverNs;
    int64_t back_off_until_ns = kNeverNs;
    int64_t retirement_ns = kNeverNs;
    int64_t kill_ns = kNeverNs;
    int64_t next_wake_up_ns = kNeverNs;

    int64_t stress_until_ns = 0;
    int64_t busy_warning_ns = 0;       // no warning before this time
    bool conditional_wake_up = false;  // awaits the first spawn (M88)
    int short_lives_in_a_row = 0;      // MO4, F80
    // Looks (F75).
    bool look_asked = false;
    bool sign = false;      // of life since the last look
    int waiting_looks = 0;  // in a row that saw a client wait and no sign
    int64_t waiting_since_ns = 0;

    int total() const { return static_cast<int>(children.size()); }
    bool throttled() const { return throttled_until_ns != kNeverNs; }
  };
  // A death that nobody is known for while a spawn is under way.
  struct EarlyDeath {
    pid_t pid = 0;
    ChildEnd end;
    uint32_t generation = 0;  // of the last spawn at that time: a later one's child it is not
  };

  // What an event brings along.
  struct Occurrence {
    SupervisorEvent event;
    const ServiceRules* rules = nullptr;
    Child* child = nullptr;
    pid_t pid = 0;
    uint32_t generation = 0;
    bool available = false;
    ChildEnd end;
    bool reaped = false;  // kSpawned: it has ended already
    bool client_waits = false;
    absl::Span<const ChildActivity> activity;
  };

  static bool LimitAllowsAnother(const Service& service);
  static bool StressEligible(const Service& service);
  static bool WantsLooks(const Service& service);
  static ServicePhase PhaseOf(const Service& service);
  absl::Status CheckService(const Service& service) const;
  std::string DescribeService(const Service& service) const;

  Service* Find(ServiceId id);
  Child* FindChild(pid_t pid);
  void Tick(int64_t now_ns);
  void React(Service* service, const Occurrence& occurrence);
  void Settle(Service* service);
  void Watch(const Service& service, bool watch);
  void CloseIfFinished(Service* service);

  // The reactions of supervisor_table.h and their parts.
  void Unexpected(const Service& service, const Occurrence& occurrence);
  void Restart(Service* service, const ServiceRules& rules);
  void RenewChannel(Service* service);
  void StartWakeUps(Service* service);
  void WakeUp(Service* service, bool send);
  void Remove(Service* service);
  void BeginStop(Service* service);
  void EndEveryChild(Service* service, int64_t patience_ns);
  void Start(Service* service);
  Child* Record(Service* service, const Occurrence& occurrence);
  void RecordAndEnd(Service* service, const Occurrence& occurrence);
  void GiveUpStart(Service* service);
  void Throttle(Service* service);
  void FailStart(Service* service);
  void Believe(Child* child, bool available);
  void EndFlooder(Service* service, Child* child);
  Child Forget(Child* child);
  void Judge(Service* service, Child* child, ChildEnd end);
  void JudgeShortLife(Service* service, const Child& dead, ChildEnd end);
  void ReportDeath(const Service& service, const Child& dead, ChildEnd end);
  void Bury(Service* service, Child* child, ChildEnd end);
  void Weigh(Service* service, const Occurrence& occurrence);
  bool NoteActivity(Service* service, absl::Span<const ChildActivity> activity);
  bool IsSilent(const Service& service, const Child& child, bool others_progress) const;
  void EndRetired(Service* service);
  void Kill(Service* service);

  void SetState(Child* child, bool available, bool doubted);
  void ReactToDueTimers(Service* service);
  void AskForLooks();
  bool TakeEarlyDeath(pid_t pid, uint32_t generation, ChildEnd* end);
  void ReportEarlyDeaths();
  void ReportUnknownDeath(pid_t pid, ChildEnd end);
  bool RememberEarlyStatus(ServiceId id, const StatusMessage& message);
  void Gossip(SupervisorAction::Report report, ServiceId id, pid_t sender,
              const StatusMessage& message);
  void NoteIfAllGone();

  void Reserve(size_t more);
  SupervisorAction* Append(SupervisorAction::Kind kind, const Service& service);
  SupervisorAction* AppendReport(SupervisorAction::Report report, const Service& service);
  void Signal(Child* child, int signal);

  SupervisorTimes times_;
  int64_t now_ns_ = 0;
  uint32_t generation_ = 0;  // of the last spawn; one counter for all services (P23, M108)
  bool stopping_ = false;
  bool all_gone_ = false;
  int spawns_asked_ = 0;
  int64_t look_ns_ = kNeverNs;
  mutable bool deadline_is_known_ = false;
  mutable int64_t deadline_ns_ = kNeverNs;
  std::map<ServiceId, Service> services_;
  ChildTable children_;
  std::vector<EarlyDeath> early_deaths_;
  std::vector<SupervisorAction> actions_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_SUPERVISOR_H_

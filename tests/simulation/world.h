// A made-up world around the real supervisor: a clock, children that accept, work, stop, die, lie,
// flood and ignore signals, clients, reloads, forks that fail, looks and messages that get lost.
//
//   std::vector<Step> history = MakeHistory(seed, 5000);
//   Outcome outcome = RunHistory(history, nullptr);
//   if (!outcome.failure.empty()) history = Shrink(history);
//
// A step carries numbers that are read modulo what there is at that moment. So any part of a
// history is a history, which is all that shrinking needs. After the steps, faults end: everything
// must become served, every old generation must end, and a stop must leave nothing.
//
// The world keeps its own books (who was reaped, who said what, who waits since when) and holds the
// supervisor against them. What is checked is in world.cc, one function each:
//   counts equal a recount, beliefs equal what was delivered     CheckBooks()
//   never more children than the limit, no start in a throttle   OnSpawn()
//   no child is signalled after it was reaped                    OnSignal()
//   no listener of a kept service is closed                      OnCloseListeners()
//   no client waits longer than its bound                        CheckWaits()
//   every generation ends, removed services go                   CheckEnd()

#ifndef POSTHOUSE_TESTS_SIMULATION_WORLD_H_
#define POSTHOUSE_TESTS_SIMULATION_WORLD_H_

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "posthouse/master/supervisor.h"

namespace posthouse::simulation {

enum class Op : uint8_t {
  kPass,            // time
  kClient,          // connects
  kReadiness,       // of a watched listener with a client
  kStaleReadiness,  // whatever the state (P31)
  kAct,             // a child does what is next for it
  kDeliver,         // messages of one channel
  kReap,
  kAnswerSpawn,
  kAnswerLook,
  kLoseLook,
  kExit,  // a child ends by itself
  kKill,  // a child is killed from outside
  kPause,
  kContinue,
  kLie,
  kFlood,
  kNameFlooder,  // the receiver has had enough
  kLoseMessage,
  kReload,
  kForkMode,    // forks fail, or not
  kAnswerMode,  // spawns are answered at once, or later
  kTraits,      // of the children that start from now on
  kStranger,    // an unknown process is reaped
  kDeadline,    // time, as far as the supervisor waits for
};
inline constexpr int kOps = 24;

struct Step {
  Op op = Op::kPass;
  uint32_t a = 0;
  uint32_t b = 0;
};

class World {
 public:
  // `trace` gets one line per step and action, unless null.
  explicit World(std::string* trace);

  void Do(const Step& step);
  // Faults end; see above. For `quiet_ns`; the end of every generation is checked when there was
  // the time for it.
  void EndWell(int64_t quiet_ns);
  // What is wrong, empty: nothing. Nothing is done after a failure.
  const std::string& failure() const { return failure_; }
  uint64_t events() const { return events_; }
  // For the exhaustive search: two services with these limits, and the state in a form in which
  // states that behave alike are equal.
  void StartSmall(int first_limit, int second_limit);
  std::string Fingerprint() const;
  size_t processes() const { return processes_.size(); }

 private:
  struct Message {
    pid_t sender = 0;
    StatusMessage content;
  };
  struct Traits {
    bool ignores_term = false;
    bool ignores_end = false;  // of its channel
    bool silent = false;       // takes nobody
    bool spins = false;        // and computes meanwhile
    bool dies_at_start = false;
  };
  struct Process {
    pid_t pid = 0;
    ServiceId service = 0;
    uint32_t generation = 0;
    uint32_t channel = 0;
    Traits traits;
    bool known = false;  // the supervisor was told
    bool dead = false;   // and not reaped
    ChildEnd end;
    bool busy = false;
    bool paused = false;
    bool term_pending = false;
    bool believed_available = true;
    bool spoke = true;  // since the last look at its service was answered: no reason for doubt
    int64_t busy_until_ns = 0;
    int64_t idle_since_ns = 0;
    uint64_t cpu = 1;
  };
  struct Service {
    ServiceId id = 0;
    ServiceRules rules;
    bool kept = true;
    bool listening = true;
    bool watched = false;
    bool channel_open = true;
    uint32_t channel = 0;
    std::deque<int64_t> clients;  // since when each waits
    std::deque<Message> messages;
    bool spawn_asked = false;
    uint32_t spawn_generation = 0;
    pid_t spawn_pid = 0;   // 0: it failed
    bool renewed = false;  // since the last spawn was taken from the actions
    bool throttled = false;
    bool look_asked = false;
    int64_t stress_until_ns = 0;
    int64_t last_wake_up_ns = -1;
  };

  void Fail(const std::string& what);
  void Note(const std::string& line);
  Service* Find(ServiceId id);
  Service* PickService(uint32_t number);
  Process* FindProcess(pid_t pid);
  Process* PickProcess(uint32_t number);
  int Counted(const Service& service) const;
  bool HasChannel(const Process& process);

  void AddService(uint32_t number);
  ServiceRules MakeRules(uint32_t number) const;
  void Reload(uint32_t a, uint32_t b);
  void Pass(uint32_t a, uint32_t b);
  void Act(Process* process, uint32_t number);
  void Take(Process* process, Service* service, bool without_a_word);
  void Finish(Process* process);
  void Send(Process* process, Availability availability);
  void NameFlooder(const Process& process, uint32_t number);
  void Deliver(Service* service);
  void Reap(Process* process);
  void Lie(Process* process, uint32_t number);
  void AnswerSpawn(Service* service);
  void AnswerLook(Service* service);
  void End(Process* process, ChildEnd end);

  void ExecuteActions();
  void Execute(const SupervisorAction& action);
  void OnSpawn(Service* service, const SupervisorAction& action);
  void CheckStress(Service* service, const SupervisorAction& action);
  void OnSignal(const SupervisorAction& action);
  void OnWakeUp(Service* service);
  void OnCloseListeners(Service* service);
  void OnCloseService(ServiceId id);
  void OnReport(const SupervisorAction& action);
  pid_t FreePid();

  void CheckInvariants();
  void CheckBooks();
  void CheckWaits();
  void CheckEnd();
  bool Pump();
  bool PumpProcesses();
  int64_t NextTime(int64_t next_client_ns);
  void EndFaults();
  void StopAll();

  std::string* trace_;
  std::string failure_;
  Supervisor supervisor_;
  std::vector<SupervisorAction> actions_;
  int64_t now_ns_ = 1'000'000'000;
  std::vector<Service> services_;
  std::vector<Process> processes_;
  ServiceId next_id_ = 1;
  pid_t last_pid_ = 0;
  bool forks_fail_ = false;
  bool answers_late_ = false;
  Traits traits_;
  bool quiet_ = false;
  int64_t quiet_since_ns_ = 0;
  bool stopping_ = false;
  bool all_gone_ = false;
  uint64_t events_ = 0;
};

struct Outcome {
  std::string failure;
  uint64_t events = 0;  // steps and those of the quiet phase
};

// Every generation has an end within it.
inline constexpr int64_t kLongQuietNs = 1500'000'000'000;
// Long enough to see that a client starves.
inline constexpr int64_t kShortQuietNs = 210'000'000'000;

std::vector<Step> MakeHistory(uint64_t seed, size_t steps);
Outcome RunHistory(const std::vector<Step>& history, std::string* trace);
// The shortest history that still fails, as far as leaving out goes.
std::vector<Step> Shrink(std::vector<Step> history);

}  // namespace posthouse::simulation

#endif  // POSTHOUSE_TESTS_SIMULATION_WORLD_H_

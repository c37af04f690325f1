// What the supervisor does with an event, by the phase of the service: the table a reader checks.
//
// A phase is never set: it follows from the facts of a service (PhaseOf in supervisor.cc, M59, M60)
// and is computed anew after every event. The table says which reaction an event has in a phase;
// the reactions are the functions of supervisor.cc, one per name. docs/design.md shows the same
// table, and a test compares the two.
//
// Thread: any; constant data.

#ifndef POSTHOUSE_MASTER_SUPERVISOR_TABLE_H_
#define POSTHOUSE_MASTER_SUPERVISOR_TABLE_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace posthouse {

// In the order of precedence: the first whose condition holds is the phase.
enum class ServicePhase {
  kRemoving,   // removed by a reload; its children are being ended
  kStopping,   // the whole supervisor stops
  kStarting,   // a spawn was asked for and is not answered yet
  kThrottled,  // no start until the throttle is over (M76)
  kServed,     // available > 0: a child takes the next client
  kFull,  // available = 0 and total = limit (or above a lowered one): clients wait in the backlog
  kBackingOff,  // children ended with 0 at once, several in a row (MO4)
  kWatched,     // available = 0, total below the limit: the next client starts a child
};
inline constexpr size_t kServicePhases = 8;

enum class SupervisorEvent {
  kUpdate,          // a reload knows the service (M101)
  kRemove,          // a reload does not (M105)
  kClientWaiting,   // a watched listener is ready (M61)
  kSpawned,         // the answer to a spawn
  kSpawnFailed,     // the other one (M63)
  kState,           // a believed status message: TAKEN or AVAIL of one of its children
  kFlooded,         // one of its children writes status messages as fast as it can (F72)
  kChildDied,       // reaped
  kLooked,          // the answer to a look (F75)
  kWakeUpDue,       // M84
  kThrottleOver,    // M76
  kBackOffOver,     // MO4
  kRetirementOver,  // idle children of a closed channel had their time
  kKillDue,         // the children that were sent TERM had theirs (MO6, F84, F108)
  kStop,            // F108
};
inline constexpr size_t kSupervisorEvents = 15;

enum class Reaction {
  kIgnore,        // nothing changes
  kUnexpected,    // nothing changes; reported, for the shell broke its contract
  kRestart,       // take the rules over, renew the channel, wake up (M101 to M104)
  kRemove,        // close, TERM every child (M105)
  kStart,         // ask for a child; stress (M61, M63, M81)
  kRecord,        // count the new child (M67)
  kRecordAndEnd,  // count it, and TERM it: nobody wants it any more
  kThrottle,      // M63, M76
  kGiveUpStart,   // the answer is in, nothing was started and nobody wants it
  kBelieve,       // the child's state and use count (P29)
  kEndFlooder,    // KILL the child, throttle (F72)
  kJudge,         // forget the child, report, throttle or back off (M73 to M77, MO4)
  kReportDeath,   // forget the child, report (M74)
  kBury,   // forget the child, report what TERM and KILL do not explain; close when it was the last
  kWeigh,  // a client that nobody takes: doubt, then end the silent ones (F75)
  kTrigger,      // wake up, next period (M84)
  kSkipTrigger,  // next period (M85)
  kUnthrottle,   // M76
  kEndBackOff,   // MO4
  kEndRetired,   // TERM, later KILL to the idle children of a closed channel
  kKill,         // KILL to every child that is left
  kBeginStop,    // no start any more, TERM every child
};
inline constexpr size_t kReactions = 22;

Reaction ReactionTo(ServicePhase phase, SupervisorEvent event);

// The names without the k, as docs/design.md writes them.
absl::string_view ServicePhaseName(ServicePhase phase);
absl::string_view SupervisorEventName(SupervisorEvent event);
absl::string_view ReactionName(Reaction reaction);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_SUPERVISOR_TABLE_H_

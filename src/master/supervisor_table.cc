#include "posthouse/master/supervisor_table.h"

#include <array>

namespace posthouse {
namespace {

using R = Reaction;
using Row = std::array<Reaction, kServicePhases>;

// One row per event, one column per phase, both in the order of their enumerations.
constexpr std::array<Row, kSupervisorEvents> kTable = {{
    // clang-format off
    // kRemoving        kStopping         kStarting        kThrottled       kServed          kFull            kBackingOff      kWatched
    {R::kIgnore,        R::kIgnore,       R::kRestart,     R::kRestart,     R::kRestart,     R::kRestart,     R::kRestart,     R::kRestart},      // kUpdate
    {R::kIgnore,        R::kIgnore,       R::kRemove,      R::kRemove,      R::kRemove,      R::kRemove,      R::kRemove,      R::kRemove},       // kRemove
    {R::kIgnore,        R::kIgnore,       R::kIgnore,      R::kIgnore,      R::kIgnore,      R::kIgnore,      R::kIgnore,      R::kStart},        // kClientWaiting
    {R::kRecordAndEnd,  R::kRecordAndEnd, R::kRecord,      R::kUnexpected,  R::kUnexpected,  R::kUnexpected,  R::kUnexpected,  R::kUnexpected},   // kSpawned
    {R::kGiveUpStart,   R::kGiveUpStart,  R::kThrottle,    R::kUnexpected,  R::kUnexpected,  R::kUnexpected,  R::kUnexpected,  R::kUnexpected},   // kSpawnFailed
    {R::kIgnore,        R::kBelieve,      R::kBelieve,     R::kBelieve,     R::kBelieve,     R::kBelieve,     R::kBelieve,     R::kBelieve},      // kState
    {R::kIgnore,        R::kIgnore,       R::kEndFlooder,  R::kEndFlooder,  R::kEndFlooder,  R::kEndFlooder,  R::kEndFlooder,  R::kEndFlooder},   // kFlooded
    {R::kBury,          R::kBury,         R::kJudge,       R::kReportDeath, R::kJudge,       R::kJudge,       R::kJudge,       R::kJudge},        // kChildDied
    {R::kIgnore,        R::kIgnore,       R::kIgnore,      R::kIgnore,      R::kWeigh,       R::kWeigh,       R::kWeigh,       R::kWeigh},        // kLooked
    {R::kIgnore,        R::kIgnore,       R::kTrigger,     R::kSkipTrigger, R::kTrigger,     R::kTrigger,     R::kTrigger,     R::kTrigger},      // kWakeUpDue
    {R::kIgnore,        R::kIgnore,       R::kUnthrottle,  R::kUnthrottle,  R::kUnthrottle,  R::kUnthrottle,  R::kUnthrottle,  R::kUnthrottle},   // kThrottleOver
    {R::kIgnore,        R::kIgnore,       R::kEndBackOff,  R::kEndBackOff,  R::kEndBackOff,  R::kEndBackOff,  R::kEndBackOff,  R::kEndBackOff},   // kBackOffOver
    {R::kIgnore,        R::kIgnore,       R::kEndRetired,  R::kEndRetired,  R::kEndRetired,  R::kEndRetired,  R::kEndRetired,  R::kEndRetired},   // kRetirementOver
    {R::kKill,          R::kKill,         R::kIgnore,      R::kIgnore,      R::kIgnore,      R::kIgnore,      R::kIgnore,      R::kIgnore},       // kKillDue
    {R::kIgnore,        R::kIgnore,       R::kBeginStop,   R::kBeginStop,   R::kBeginStop,   R::kBeginStop,   R::kBeginStop,   R::kBeginStop},    // kStop
    // clang-format on
}};

}  // namespace

Reaction ReactionTo(ServicePhase phase, SupervisorEvent event) {
  return kTable[static_cast<size_t>(event)][static_cast<size_t>(phase)];
}

absl::string_view ServicePhaseName(ServicePhase phase) {
  switch (phase) {
    case ServicePhase::kRemoving:
      return "Removing";
    case ServicePhase::kStopping:
      return "Stopping";
    case ServicePhase::kStarting:
      return "Starting";
    case ServicePhase::kThrottled:
      return "Throttled";
    case ServicePhase::kServed:
      return "Served";
    case ServicePhase::kFull:
      return "Full";
    case ServicePhase::kBackingOff:
      return "BackingOff";
    case ServicePhase::kWatched:
      return "Watched";
  }
  return "?";
}

absl::string_view SupervisorEventName(SupervisorEvent event) {
  switch (event) {
    case SupervisorEvent::kUpdate:
      return "Update";
    case SupervisorEvent::kRemove:
      return "Remove";
    case SupervisorEvent::kClientWaiting:
      return "ClientWaiting";
    case SupervisorEvent::kSpawned:
      return "Spawned";
    case SupervisorEvent::kSpawnFailed:
      return "SpawnFailed";
    case SupervisorEvent::kState:
      return "State";
    case SupervisorEvent::kFlooded:
      return "Flooded";
    case SupervisorEvent::kChildDied:
      return "ChildDied";
    case SupervisorEvent::kLooked:
      return "Looked";
    case SupervisorEvent::kWakeUpDue:
      return "WakeUpDue";
    case SupervisorEvent::kThrottleOver:
      return "ThrottleOver";
    case SupervisorEvent::kBackOffOver:
      return "BackOffOver";
    case SupervisorEvent::kRetirementOver:
      return "RetirementOver";
    case SupervisorEvent::kKillDue:
      return "KillDue";
    case SupervisorEvent::kStop:
      return "Stop";
  }
  return "?";
}

absl::string_view ReactionName(Reaction reaction) {
  switch (reaction) {
    case Reaction::kIgnore:
      return "-";
    case Reaction::kUnexpected:
      return "Unexpected";
    case Reaction::kRestart:
      return "Restart";
    case Reaction::kRemove:
      return "Remove";
    case Reaction::kStart:
      return "Start";
    case Reaction::kRecord:
      return "Record";
    case Reaction::kRecordAndEnd:
      return "RecordAndEnd";
    case Reaction::kThrottle:
      return "Throttle";
    case Reaction::kGiveUpStart:
      return "GiveUpStart";
    case Reaction::kBelieve:
      return "Believe";
    case Reaction::kEndFlooder:
      return "EndFlooder";
    case Reaction::kJudge:
      return "Judge";
    case Reaction::kReportDeath:
      return "ReportDeath";
    case Reaction::kBury:
      return "Bury";
    case Reaction::kWeigh:
      return "Weigh";
    case Reaction::kTrigger:
      return "Trigger";
    case Reaction::kSkipTrigger:
      return "SkipTrigger";
    case Reaction::kUnthrottle:
      return "Unthrottle";
    case Reaction::kEndBackOff:
      return "EndBackOff";
    case Reaction::kEndRetired:
      return "EndRetired";
    case Reaction::kKill:
      return "Kill";
    case Reaction::kBeginStop:
      return "BeginStop";
  }
  return "?";
}

}  // namespace posthouse

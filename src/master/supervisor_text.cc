// Supervisor actions in words, for verbose logs and tests.

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/master/supervisor.h"

namespace posthouse {
namespace {

using Kind = SupervisorAction::Kind;
using Report = SupervisorAction::Report;

absl::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kWatchListeners:
      return "watch";
    case Kind::kIgnoreListeners:
      return "ignore";
    case Kind::kSpawn:
      return "spawn";
    case Kind::kSignal:
      return "signal";
    case Kind::kRenewChannel:
      return "renew-channel";
    case Kind::kCloseChannel:
      return "close-channel";
    case Kind::kWakeUp:
      return "wake-up";
    case Kind::kCancelWakeUps:
      return "cancel-wake-ups";
    case Kind::kCloseListeners:
      return "close-listeners";
    case Kind::kCloseService:
      return "close-service";
    case Kind::kLook:
      return "look";
    case Kind::kReport:
      return "report";
    case Kind::kAllGone:
      return "all-gone";
  }
  return "?";
}

absl::string_view ReportName(Report report) {
  switch (report) {
    case Report::kNone:
      return "none";
    case Report::kChildExit:
      return "child-exit";
    case Report::kBadStart:
      return "bad-start";
    case Report::kSpawnFailed:
      return "spawn-failed";
    case Report::kThrottleOver:
      return "throttle-over";
    case Report::kBackOff:
      return "back-off";
    case Report::kLimitReached:
      return "limit-reached";
    case Report::kUnserved:
      return "unserved";
    case Report::kSilent:
      return "silent";
    case Report::kStubborn:
      return "stubborn";
    case Report::kFlood:
      return "flood";
    case Report::kUnknownChild:
      return "unknown-child";
    case Report::kUnexpected:
      return "unexpected";
    case Report::kGossipForged:
      return "gossip-forged";
    case Report::kGossipUnknownPid:
      return "gossip-unknown-pid";
    case Report::kGossipOtherService:
      return "gossip-other-service";
    case Report::kGossipWrongGeneration:
      return "gossip-wrong-generation";
    case Report::kGossipUnknownValue:
      return "gossip-unknown-value";
  }
  return "?";
}

std::string ReportText(const SupervisorAction& action) {
  std::string text(ReportName(action.report));
  if (action.pid != 0) absl::StrAppend(&text, " pid ", action.pid);
  switch (action.report) {
    case Report::kChildExit:
    case Report::kBadStart:
    case Report::kUnknownChild:
      absl::StrAppend(&text, action.end.signalled ? " signal " : " status ", action.end.code);
      break;
    case Report::kBackOff:
      absl::StrAppend(&text, " ", action.delay_ns / 1'000'000, " ms");
      break;
    case Report::kLimitReached:
      absl::StrAppend(&text, " ", action.limit);
      break;
    case Report::kUnexpected:
      absl::StrAppend(&text, " ", SupervisorEventName(action.event));
      break;
    default:
      break;  // their names say it all
  }
  return text;
}

}  // namespace

std::string DescribeAction(const SupervisorAction& action) {
  if (action.kind == Kind::kAllGone) return "all-gone";
  std::string text = absl::StrCat(action.service, ": ");
  switch (action.kind) {
    case Kind::kSpawn:
      absl::StrAppend(&text, "spawn generation ", action.generation,
                      action.stress ? " stress" : "");
      break;
    case Kind::kSignal:
      absl::StrAppend(&text, "signal ", action.signal, " pid ", action.pid);
      break;
    case Kind::kReport:
      absl::StrAppend(&text, ReportText(action));
      break;
    default:
      absl::StrAppend(&text, KindName(action.kind));
      break;
  }
  return text;
}

}  // namespace posthouse

#include "posthouse/master/reports.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/base/check.h"

namespace posthouse {
namespace {

using Report = SupervisorAction::Report;

std::string ProcessText(const SupervisorAction& action, const ServiceConfiguration& service) {
  return absl::StrCat("process ", service.program, " pid ", action.pid);
}

// M74, word for word.
std::string EndText(const SupervisorAction& action, const ServiceConfiguration& service) {
  return absl::StrCat(ProcessText(action, service),
                      action.end.signalled ? " killed by signal " : " exit status ",
                      action.end.code);
}

// M62, word for word; once per 1000 s, which the supervisor sees to.
void LogLimitReached(const SupervisorAction& action, const ServiceConfiguration& service,
                     Log* log) {
  log->Warning(absl::StrCat("service \"", service.entry.name, "\" (", service.internal_name,
                            ") has reached its process limit \"", action.limit,
                            "\": new clients may experience noticeable delays"));
  log->Warning(
      "to avoid this condition, increase the process count in master.cf or reduce the service time "
      "per client");
  log->Warning(
      "see https://www.postfix.org/STRESS_README.html for examples of stress-adapting "
      "configuration settings");
}

// What is wrong with a status message, for whoever follows "...: ignored status message: ".
absl::string_view GossipText(Report report) {
  switch (report) {
    case Report::kGossipForged:
      return "it names another process than the one that wrote it";
    case Report::kGossipUnknownPid:
      return "it is of no worker of this master";
    case Report::kGossipOtherService:
      return "it is of a worker of another service";
    case Report::kGossipWrongGeneration:
      return "its generation is not that of the worker";
    case Report::kGossipUnknownValue:
      return "its availability is neither of the two that there are";
    default:
      return "";
  }
}

// P33 is silent and P34 information in the original: messages of workers that were reaped are
// ordinary.
LogSeverity GossipSeverity(Report report) {
  return report == Report::kGossipWrongGeneration ? LogSeverity::kInfo : LogSeverity::kWarning;
}

void LogIgnoredMessage(const SupervisorAction& action, const ServiceConfiguration& service,
                       Log* log) {
  const std::string text = absl::StrCat(
      "service ", service.entry.Title(), ": ignored status message of process ", action.pid,
      " (pid ", action.message.pid, ", generation ", action.message.generation, ", availability ",
      action.message.availability, "): ", GossipText(action.report));
  if (action.report == Report::kGossipUnknownPid) {
    log->Verbose(text);
    return;
  }
  log->Limited(GossipSeverity(action.report),
               absl::StrCat("status ", static_cast<int>(action.report), " ", service.entry.Title()),
               kReportInterval, text);
}

// A process that is no worker of the service, perhaps a child of one, cannot be ended.
void LogFlood(const SupervisorAction& action, const ServiceConfiguration& service, Log* log) {
  constexpr absl::string_view kWhat = " floods the status channel";
  if (action.signal != 0) {
    return log->Warning(absl::StrCat(ProcessText(action, service), kWhat,
                                     ": it is killed, and its service throttled"));
  }
  log->Limited(LogSeverity::kWarning, absl::StrCat("flood ", service.entry.Title()),
               kReportInterval,
               absl::StrCat("service ", service.entry.Title(), ": process ", action.pid, kWhat));
}

void LogUnexpected(const SupervisorAction& action, Log* log) {
  log->Limited(LogSeverity::kWarning, "unexpected event", kReportInterval,
               absl::StrCat("the supervisor did not expect ", SupervisorEventName(action.event),
                            ", service ", action.service, ", process ", action.pid));
}

void LogServiceReport(const SupervisorAction& action, const ServiceConfiguration& service,
                      Log* log) {
  switch (action.report) {
    case Report::kChildExit:
      return log->Warning(EndText(action, service));
    case Report::kBadStart:
      return log->Warning(absl::StrCat(service.program, ": bad command startup -- throttling"));
    case Report::kThrottleOver:
      return log->Verbose("service ", service.entry.Title(), ": throttle is over");
    case Report::kBackOff:
      log->Limited(LogSeverity::kWarning, absl::StrCat("back-off ", service.entry.Title()),
                   kReportInterval,
                   absl::StrCat("service ", service.entry.Title(), ": ", service.program,
                                action.end.signalled ? " is killed again and again"
                                                     : " ends at once with exit status 0",
                                "; the next start is in ",
                                absl::FormatDuration(absl::Nanoseconds(action.delay_ns))));
      return;
    case Report::kLimitReached:
      return LogLimitReached(action, service, log);
    case Report::kUnserved:
      log->Limited(LogSeverity::kWarning, absl::StrCat("unserved ", service.entry.Title()),
                   kReportInterval,
                   absl::StrCat("service ", service.entry.Title(),
                                ": a client waits and no available worker takes it"));
      return;
    case Report::kSilent:
      return log->Warning(absl::StrCat(ProcessText(action, service),
                                       " does nothing while a client waits: it is killed"));
    case Report::kFlood:
      return LogFlood(action, service, log);
    case Report::kStubborn:
      return log->Warning(
          absl::StrCat(ProcessText(action, service), " does not end although it should"));
    default:
      return LogIgnoredMessage(action, service, log);
  }
}

}  // namespace

void LogReport(const SupervisorAction& action, const ServiceConfiguration* service, Log* log) {
  POSTHOUSE_CHECK(action.kind == SupervisorAction::Kind::kReport, "an action that is no report");
  switch (action.report) {
    case Report::kNone:
    case Report::kSpawnFailed:  // told with its reason by whoever tried
      return;
    case Report::kUnknownChild:
      return log->Verbose("process ", action.pid, ", which is no worker, has ended");
    case Report::kUnexpected:
      return LogUnexpected(action, log);
    default:
      if (service != nullptr) LogServiceReport(action, *service, log);
  }
}

void LogGossip(const StatusBatch& batch, const ServiceConfiguration& service, Log* log) {
  for (const StatusGossip& gossip : batch.gossip) {
    log->Limited(
        LogSeverity::kWarning, absl::StrCat("gossip ", service.entry.Title()), kReportInterval,
        absl::StrCat("service ", service.entry.Title(), ": ", DescribeStatusGossip(gossip)));
  }
}

}  // namespace posthouse

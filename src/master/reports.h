// The log lines for what a supervisor reports. The wording that operators' tools look for is that
// of the original (M62, M74, M75).
//
//   LogReport(action, service == nullptr ? nullptr : &service->configuration(), &log);
//
// Whatever workers can cause at will is bounded: one line per condition, service and
// kReportInterval, with the number of what was left out (F72, F124).
//
// Thread: one.

#ifndef POSTHOUSE_MASTER_REPORTS_H_
#define POSTHOUSE_MASTER_REPORTS_H_

#include "absl/time/time.h"
#include "posthouse/log/log.h"
#include "posthouse/master/configuration.h"
#include "posthouse/master/status_framer.h"
#include "posthouse/master/supervisor.h"

namespace posthouse {

inline constexpr absl::Duration kReportInterval = absl::Seconds(10);

// `service` is null when the action belongs to none. REQUIRES: action.kind is kReport.
void LogReport(const SupervisorAction& action, const ServiceConfiguration* service, Log* log);

// What is wrong with the bytes that came by a status channel.
void LogGossip(const StatusBatch& batch, const ServiceConfiguration& service, Log* log);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_REPORTS_H_

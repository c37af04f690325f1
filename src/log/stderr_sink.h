// The sink of a process in the foreground: `tag[pid]: warning: text` and a newline on standard
// error. There is no time in the line unless it is asked for: service managers and containers add
// their own.
//
// It never blocks, whatever standard error is: a socket is sent to with MSG_DONTWAIT, anything else
// is asked with poll(2) first and gets no more than a writable pipe takes at once.

#ifndef POSTHOUSE_LOG_STDERR_SINK_H_
#define POSTHOUSE_LOG_STDERR_SINK_H_

#include <memory>
#include <string>

#include "posthouse/log/log.h"

namespace posthouse {

struct StderrOptions {
  int fd = 2;  // borrowed
  bool with_time = false;
  // Written between time and tag when it is not empty: then lines are those of a log file.
  std::string hostname;
};

std::unique_ptr<LogSink> NewStderrSink(const StderrOptions& options);

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_STDERR_SINK_H_

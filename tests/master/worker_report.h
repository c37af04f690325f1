// What a worker has inherited, as text: one line per fact, the kind of fact first.
//
//   argument TEXT                     one per argument, argument zero included
//   arguments TEXT TEXT ...           all of them
//   environment NAME=VALUE
//   directory PATH, umask 077
//   fd N [cloexec ]blocking|nonblocking TARGET
//   socket N type=1 listening=1 reuseaddr=1 reuseport=1 v6only=0 backlog=100 address=127.0.0.1:25
//   ignored SIGNAL, blocked SIGNAL, alarm SECONDS
//   pid N, parent N, session N, group N
//   uid REAL EFFECTIVE SAVED, gid REAL EFFECTIVE SAVED, groups N N ...
//   time NANOSECONDS                  of the monotonic clock
//
// For the worker programs of tests, which call it before they do anything else.

#ifndef POSTHOUSE_TESTS_MASTER_WORKER_REPORT_H_
#define POSTHOUSE_TESTS_MASTER_WORKER_REPORT_H_

#include <string>

namespace posthouse {

std::string WorkerReport(int argc, char** argv);

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_MASTER_WORKER_REPORT_H_

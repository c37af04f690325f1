// LogCollector takes what programs send to postlogd: one datagram per record.
//
//   auto log = LogCollector::Create(scratch.Path("spool/public/postlog"));
//   ...
//   EXPECT_THAT((*log)->Text(), HasSubstr("daemon started"));
//
// A thread of its own reads, because the kernel queues only a few datagrams and what a program says
// last must not be lost.
//
// Thread: any. Fork: the child has the socket and not the thread; it must not use the object.

#ifndef POSTHOUSE_TESTING_LOG_COLLECTOR_H_
#define POSTHOUSE_TESTING_LOG_COLLECTOR_H_

#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

class LogCollector {
 public:
  // Makes the socket at `path`, for anybody to write to.
  static absl::StatusOr<std::unique_ptr<LogCollector>> Create(const std::string& path);
  ~LogCollector();
  LogCollector(const LogCollector&) = delete;
  LogCollector& operator=(const LogCollector&) = delete;

  // All records, one per line. What was sent before the call is in the answer.
  std::string Text();

 private:
  LogCollector(UniqueFd socket, UniqueFd stop_read, UniqueFd stop_write);
  void Run();
  void TakeAll();

  UniqueFd socket_;
  UniqueFd stop_read_;
  UniqueFd stop_write_;
  std::mutex mutex_;
  std::string text_;
  std::thread thread_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTING_LOG_COLLECTOR_H_

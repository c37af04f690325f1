// StatusChannel is what a skeleton tells its master in the course of a turn of the event loop, and
// how it learns that the master is gone.
//
// TAKEN goes out before the first piece of work of a turn and AVAIL after the last, before the next
// wait (PO11): the master never sees "available" while a request runs, and many requests of one
// turn cost two messages. A failed TAKEN is ignored, so that a request that was accepted is
// answered; a failed AVAIL, or anything readable on the channel, means that the master wants us
// gone (P43, P44). While the channel is full, the latest state waits for room (SO11, PO3).
//
// Thread: that of the loop. Fork: a drained child calls Silence(); its master has not started it
// and its process id is unknown there (PO8).
// Ownership: borrows the descriptor; the channel's open file is shared with all siblings.

#ifndef POSTHOUSE_SERVER_STATUS_CHANNEL_H_
#define POSTHOUSE_SERVER_STATUS_CHANNEL_H_

#include <cstdint>

#include "absl/status/status.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/log/log.h"
#include "posthouse/master/protocol.h"

namespace posthouse {

class StatusChannel {
 public:
  StatusChannel(int fd, int32_t pid, uint32_t generation, Log* log);

  // Starts to watch for the master's end.
  absl::Status Watch(EventLoop* loop);

  // Before each piece of work that a master counts as a request.
  void WorkBegins();
  // At the end of each turn.
  void TurnEnds();

  // The master has gone or wants us gone. Stays true.
  bool disconnected() const { return disconnected_; }
  // Neither watches nor sends any more.
  void Silence();

 private:
  static void OnReadable(int event, void* context);
  static void OnWritable(int event, void* context);
  void Disconnected();
  void Handle(WorkerStatus::Result result);

  WorkerStatus status_;
  Log* log_;
  FdWatch watch_;
  bool taken_ = false;
  bool silent_ = false;
  bool disconnected_ = false;
};

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_STATUS_CHANNEL_H_

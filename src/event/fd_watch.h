// FdWatch is the registration of one descriptor with an EventLoop; destroying it ends it (EO14).
//
// It only borrows the descriptor: destroy the watch before the descriptor is closed. A watch moves
// but does not copy; a moved-from or default one is empty. Interest changes make no system call
// before the next wait.
//
// Thread, fork: as its loop.

#ifndef POSTHOUSE_EVENT_FD_WATCH_H_
#define POSTHOUSE_EVENT_FD_WATCH_H_

#include <cstdint>

#include "posthouse/event/event.h"

namespace posthouse {

class EventLoop;

struct FdWatchOptions {
  // Handlers share one context. A direction whose handler is null cannot be enabled.
  EventHandler on_readable = nullptr;
  EventHandler on_writable = nullptr;
  // Called with kEventException for hang-up and errors; see event_loop.h for when.
  EventHandler on_error = nullptr;
  void* context = nullptr;

  // The initial interest, of the directions that have a handler. A watch without any is entered
  // into the kernel's set as soon as it gets some; until then nothing is reported.
  bool read = true;
  bool write = false;

  // A helper (wake-up pipe, status channel, listener) that EventLoop::Drain() does not wait for.
  bool background = false;
  // Asks the kernel to wake one of the processes that wait on the same open file, not all (EO28).
  // A hint: only for a listener, read interest alone, on systems that have it.
  bool exclusive = false;
  // Urgent data is reported to on_error (kEventException); by default it is invisible (E65).
  bool urgent = false;
  // The caller promises that nobody else holds the open file: it was accepted or opened here,
  // never duplicated, passed or inherited. Then ending the watch just before close(2) needs no
  // system call of its own. AfterFork() ends the promise.
  bool sole_owner = false;
};

class FdWatch {
 public:
  FdWatch() = default;
  FdWatch(FdWatch&& other) noexcept : loop_(other.loop_), fd_(other.fd_) { other.loop_ = nullptr; }
  FdWatch& operator=(FdWatch&& other) noexcept;
  ~FdWatch() { Reset(); }

  // Ends the registration; the watch is empty afterwards. Calling it on an empty one is harmless.
  void Reset();

  bool active() const { return loop_ != nullptr; }
  int fd() const { return fd_; }

  // REQUIRES: active(), and a handler for that direction.
  void EnableRead();
  void EnableWrite();
  void DisableRead();
  void DisableWrite();
  bool read_enabled() const;
  bool write_enabled() const;

  // Says that the number may have been closed and given to another file meanwhile, which breaks the
  // rule above: before the next wait the kernel is asked, at one system call, and what it holds is
  // put right (E20, EO14).
  void VerifyBeforeWait();

  // Replaces handlers and context; holds for the very next delivery, also later in the same turn
  // (E14). Interest of a direction that loses its handler is dropped.
  void SetHandlers(EventHandler on_readable, EventHandler on_writable, EventHandler on_error,
                   void* context);

 private:
  friend class EventLoop;
  FdWatch(EventLoop* loop, int fd) : loop_(loop), fd_(fd) {}

  EventLoop* loop_ = nullptr;
  int fd_ = -1;
};

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_FD_WATCH_H_

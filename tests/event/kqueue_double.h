// KqueueDouble plays kqueue(2) for the event layer's tests on systems that have none: the seam's
// Kqueue() and Kevent() are answered by it (Interposer::SetKqueue), everything else is the real
// kernel's, descriptors and waiting included.
//
//   KqueueDouble kernel({.add_write_error = EBADF});
//   system->SetKqueue(&kernel);
//
// It is strict where the manuals and the kernels that were measured are: errors go to the event
// list when there is room and end the call, close(2) removes by number, a forked child has no queue
// and its number is free, time limits are validated. What kernels of the family do differently is a
// switch of KqueueQuirks. It has the filters READ, WRITE and EXCEPT, and no queue within a queue.
// States are Linux's as poll(2) tells them, so it says nothing about a BSD; it tests our logic.
//
// A wait that finds nothing sleeps in poll(2) on the descriptors themselves.
//
// Thread: one. Fork: the child's copy has no queues. At most one at a time.

#ifndef POSTHOUSE_TESTS_EVENT_KQUEUE_DOUBLE_H_
#define POSTHOUSE_TESTS_EVENT_KQUEUE_DOUBLE_H_

#include <errno.h>
#include <poll.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <utility>
#include <vector>

#include "posthouse/os/kqueue.h"
#include "posthouse/testing/interposer.h"

namespace posthouse {

// Whether the header has the filter for urgent data at all.
#if defined(EVFILT_EXCEPT) && defined(NOTE_OOB)
inline constexpr bool kHasExceptFilter = true;
#else
inline constexpr bool kHasExceptFilter = false;
#endif

// The defaults are what the manuals say.
struct KqueueQuirks {
  // EV_ADD of WRITE on a pipe that has lost its reader: EPIPE, or EBADF (NetBSD).
  int add_write_error = EPIPE;
  // EV_ADD on a device that cannot be polled: EINVAL, ENODEV, ...
  int device_error = EINVAL;
  // EV_DELETE of a number that is closed.
  int delete_closed_error = EBADF;
  // EV_DELETE finds that the kernel has dropped the knote by itself: ENOENT, and it is gone.
  bool delete_says_enoent = false;
  // EV_ADD of a disabled knote leaves it disabled unless EV_ENABLE is given (NetBSD, and the code
  // of FreeBSD and OpenBSD).
  bool add_stays_disabled = false;
  // An EV_CLEAR event is reported a second time without news.
  bool clear_repeats = false;
  // A full pipe that loses its reader has no WRITE event (NetBSD).
  bool full_pipe_hides_loss_of_reader = false;
  // NOTE_LOWAT is not looked at (pipes ignore it everywhere).
  bool ignores_low_water_mark = false;
  // There is no EVFILT_EXCEPT.
  bool lacks_except_filter = false;
  // Events come last first.
  bool reversed = false;
  // Each n-th wait that has to sleep is interrupted by a signal; 0: none.
  int interrupted_every = 0;
  // At most so many events per call, whatever the list has room for; 0: no limit.
  int longest_list = 0;
};

class KqueueDouble : public KqueueAnswerer {
 public:
  explicit KqueueDouble(const KqueueQuirks& quirks = {});
  ~KqueueDouble() override;
  KqueueDouble(const KqueueDouble&) = delete;
  KqueueDouble& operator=(const KqueueDouble&) = delete;

  int Kqueue() override;
  int Kevent(int queue, const struct kevent* changes, int change_count, struct kevent* events,
             int capacity, const timespec* timeout) override;
  void OnClosed(int first, int last) override;

  void set_quirks(const KqueueQuirks& quirks) { quirks_ = quirks; }

  // How many knotes there are of a number, in all queues.
  int CountKnotes(int fd) const;
  // The queues that there are, ascending.
  std::vector<int> Queues() const;
  // Is told of each call before it is answered; null: nobody is.
  using Observer = std::function<void(const struct kevent* changes, int change_count, int capacity,
                                      const timespec* timeout)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }
  // What one costs, for tests that count memory.
  static constexpr int kBytesPerKnote = 96;

 private:
  struct Knote {
    struct kevent registered = {};
    mode_t type = 0;  // S_IFMT of the file
    bool disabled = false;
    // EV_CLEAR: what was told last.
    bool told = false;
    bool told_eof = false;
    bool told_twice = false;
    int64_t told_data = 0;
  };
  using Knotes = std::list<Knote>;
  static_assert(sizeof(Knote) + 2 * sizeof(void*) <= kBytesPerKnote);
  struct Queue {
    Knotes notes;
  };

  static void ForgetQueuesInChild();

  int Apply(Queue* queue, const struct kevent& change);
  int Attach(Queue* queue, const struct kevent& change);
  int CheckNewWrite(int fd, mode_t type) const;
  int ApplyAll(Queue* queue, const struct kevent* changes, int change_count, struct kevent* events,
               int capacity);

  pollfd Question(const Knote& note) const;
  bool IsReady(const Knote& note, short revents, struct kevent* event);
  bool IsReadable(const Knote& note, short revents, struct kevent* event);
  bool IsWritable(const Knote& note, short revents, struct kevent* event);
  static void SetError(const Knote& note, short revents, struct kevent* event);
  bool IsNews(Knote* note, const struct kevent& event) const;
  int Collect(Queue* queue, struct kevent* events, int capacity);
  int WaitFor(Queue* queue, struct kevent* events, int capacity, const timespec* timeout);
  bool Sleep(int64_t left_ns);

  KqueueQuirks quirks_;
  Observer observer_;
  std::map<int, Queue> queues_;
  std::vector<pollfd>
      questions_;  // of the knotes in order; kept, so that waiting allocates nothing
  int64_t sleeps_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTS_EVENT_KQUEUE_DOUBLE_H_

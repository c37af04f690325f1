#include "tests/event/kqueue_double.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace posthouse {
namespace {

// The handler of pthread_atfork(3) has no argument.
KqueueDouble* current = nullptr;

// A peer that sends no more; without it a closed half is only seen when everything is read.
#if defined(POLLRDHUP)
constexpr short kPeerEnds = POLLRDHUP;
#else
constexpr short kPeerEnds = 0;
#endif

#if defined(EVFILT_EXCEPT) && defined(NOTE_OOB)
bool IsExcept(const struct kevent& event) { return event.filter == EVFILT_EXCEPT; }
constexpr uint32_t kUrgentNote = NOTE_OOB;
#else
bool IsExcept(const struct kevent&) { return false; }
constexpr uint32_t kUrgentNote = 0;
#endif

constexpr int64_t kNanosPerMilli = 1000000;

int64_t Now() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

bool IsListening(int fd) {
  int listening = 0;
  socklen_t length = sizeof listening;
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0 && listening != 0;
}

bool IsKnote(const struct kevent& registered, const struct kevent& change) {
  return registered.ident == change.ident && registered.filter == change.filter;
}

bool Has(const struct kevent& event, unsigned flag) { return (event.flags & flag) != 0; }

template <typename Field>
void Set(Field* field, unsigned bits) {
  *field = static_cast<Field>(*field | bits);
}

}  // namespace

KqueueDouble::KqueueDouble(const KqueueQuirks& quirks) : quirks_(quirks) {
  static const int registered = ::pthread_atfork(nullptr, nullptr, &ForgetQueuesInChild);
  (void)registered;
  current = this;
}

KqueueDouble::~KqueueDouble() { current = nullptr; }

// A queue is not inherited: in the child its number is free.
void KqueueDouble::ForgetQueuesInChild() {
  if (current == nullptr) return;
  for (const auto& [fd, queue] : current->queues_) ::close(fd);
  current->queues_.clear();
}

int KqueueDouble::Kqueue() {
  const int fd = ::open("/dev/null", O_RDWR);  // holds the number
  if (fd >= 0) queues_[fd] = Queue();
  return fd;
}

void KqueueDouble::OnClosed(int first, int last) {
  queues_.erase(queues_.lower_bound(first), queues_.upper_bound(last));
  for (auto& [number, queue] : queues_) {
    queue.notes.remove_if([&](const Knote& note) {
      const int fd = static_cast<int>(note.registered.ident);
      return fd >= first && fd <= last;
    });
  }
}

int KqueueDouble::CountKnotes(int fd) const {
  int count = 0;
  for (const auto& [number, queue] : queues_) {
    count += std::count_if(queue.notes.begin(), queue.notes.end(), [fd](const Knote& note) {
      return note.registered.ident == static_cast<uintptr_t>(fd);
    });
  }
  return count;
}

std::vector<int> KqueueDouble::Queues() const {
  std::vector<int> numbers;
  for (const auto& [number, queue] : queues_) numbers.push_back(number);
  return numbers;
}

int KqueueDouble::Kevent(int queue, const struct kevent* changes, int change_count,
                         struct kevent* events, int capacity, const timespec* timeout) {
  if (observer_) observer_(changes, change_count, capacity, timeout);
  const auto found = queues_.find(queue);
  if (found == queues_.end()) {
    errno = EBADF;
    return -1;
  }
  const bool limit_is_valid =
      timeout == nullptr ||
      (timeout->tv_sec >= 0 && timeout->tv_nsec >= 0 && timeout->tv_nsec < 1000000000);
  if (!limit_is_valid || change_count < 0 || capacity < 0) {
    errno = EINVAL;
    return -1;
  }
  const int told = ApplyAll(&found->second, changes, change_count, events, capacity);
  if (told != 0 || capacity == 0) return told;
  if (quirks_.longest_list > 0) capacity = std::min(capacity, quirks_.longest_list);
  return WaitFor(&found->second, events, capacity, timeout);
}

// --- Changes ---

// Errors and receipts go to the list as long as it has room; the first error without room ends it.
int KqueueDouble::ApplyAll(Queue* queue, const struct kevent* changes, int change_count,
                           struct kevent* events, int capacity) {
  int told = 0;
  for (int i = 0; i < change_count; ++i) {
    const int error = Apply(queue, changes[i]);
    if (error == 0 && !Has(changes[i], EV_RECEIPT)) continue;
    if (told < capacity) {
      events[told] = changes[i];
      events[told].flags = EV_ERROR;
      events[told].data = error;
      ++told;
    } else if (error != 0) {
      errno = error;
      return -1;
    }
  }
  return told;
}

// Returns 0 or the error.
int KqueueDouble::Apply(Queue* queue, const struct kevent& change) {
  const bool known = change.filter == EVFILT_READ || change.filter == EVFILT_WRITE ||
                     (IsExcept(change) && !quirks_.lacks_except_filter);
  if (!known) return EINVAL;
  if (!IsOpen(static_cast<int>(change.ident))) {
    return Has(change, EV_DELETE) ? quirks_.delete_closed_error : EBADF;
  }
  const auto note = std::find_if(queue->notes.begin(), queue->notes.end(),
                                 [&](const Knote& one) { return IsKnote(one.registered, change); });
  if (note == queue->notes.end()) {
    return Has(change, EV_ADD) ? Attach(queue, change) : ENOENT;
  }
  if (Has(change, EV_DELETE)) {
    queue->notes.erase(note);
    return quirks_.delete_says_enoent ? ENOENT : 0;
  }
  if (Has(change, EV_ADD)) {
    // EV_CLEAR and its kind stay as they were first given.
    note->registered.fflags = change.fflags;
    note->registered.data = change.data;
    note->registered.udata = change.udata;
    note->told = false;
    if (!quirks_.add_stays_disabled) note->disabled = false;
  }
  if (Has(change, EV_ENABLE)) note->disabled = false;
  if (Has(change, EV_DISABLE)) note->disabled = true;
  return 0;
}

int KqueueDouble::Attach(Queue* queue, const struct kevent& change) {
  const int fd = static_cast<int>(change.ident);
  if (queues_.count(fd) > 0) return EINVAL;
  struct stat status = {};
  if (::fstat(fd, &status) != 0) return errno;
  const mode_t type = status.st_mode & S_IFMT;
  if (type == S_IFCHR) {
    pollfd question = {fd, POLLIN | POLLOUT, 0};
    const bool always = ::poll(&question, 1, 0) == 1 && (question.revents & POLLIN) != 0 &&
                        (question.revents & POLLOUT) != 0 && ::isatty(fd) == 0;
    if (always) return quirks_.device_error;
  }
  if (IsExcept(change) && (type != S_IFSOCK || (change.fflags & kUrgentNote) == 0)) {
    return EINVAL;
  }
  if (change.filter == EVFILT_WRITE) {
    if (const int error = CheckNewWrite(fd, type); error != 0) return error;
  }
  Knote note;
  note.registered = change;
  note.registered.flags &= EV_ONESHOT | EV_CLEAR | EV_DISPATCH;
  note.type = type;
  note.disabled = Has(change, EV_DISABLE);
  queue->notes.push_back(note);
  return 0;
}

int KqueueDouble::CheckNewWrite(int fd, mode_t type) const {
  if (type == S_IFREG || type == S_IFDIR || type == S_IFBLK) return EINVAL;
  if (type != S_IFIFO) return 0;
  pollfd question = {fd, POLLOUT, 0};
  ::poll(&question, 1, 0);
  return (question.revents & POLLERR) != 0 ? quirks_.add_write_error : 0;
}

// --- States ---

// What poll(2) is to wait for; its fd is negative where only looking again can tell.
pollfd KqueueDouble::Question(const Knote& note) const {
  pollfd question = {static_cast<int>(note.registered.ident), 0, 0};
  const bool file = note.type == S_IFREG || note.type == S_IFDIR || note.type == S_IFBLK;
  if (note.disabled) {
    question.fd = -1;
  } else if (file) {
    question.fd = -1;
    question.events = POLLIN;
  } else if (note.registered.filter == EVFILT_READ) {
    question.events = POLLIN | kPeerEnds;
  } else if (note.registered.filter == EVFILT_WRITE) {
    question.events = POLLOUT;
  } else {
    question.events = POLLPRI;
  }
  return question;
}

bool KqueueDouble::IsReady(const Knote& note, short revents, struct kevent* event) {
  if (note.disabled) return false;
  *event = note.registered;
  event->fflags = 0;
  event->data = 0;
  if (note.registered.filter == EVFILT_READ) return IsReadable(note, revents, event);
  if (note.registered.filter == EVFILT_WRITE) return IsWritable(note, revents, event);
  event->fflags = kUrgentNote;
  return (revents & POLLPRI) != 0;
}

bool KqueueDouble::IsReadable(const Knote& note, short revents, struct kevent* event) {
  const int fd = static_cast<int>(note.registered.ident);
  if (note.type == S_IFREG || note.type == S_IFDIR || note.type == S_IFBLK) {
    struct stat status = {};
    ::fstat(fd, &status);
    event->data = status.st_size - ::lseek(fd, 0, SEEK_CUR);
    return event->data > 0;  // and no more: at the end it is not readable
  }
  if (revents == 0) return false;
  if (note.type == S_IFSOCK && IsListening(fd)) {
    event->data = (revents & POLLIN) != 0 ? 1 : 0;
    return event->data > 0;
  }
  int bytes = 0;
  ::ioctl(fd, FIONREAD, &bytes);
  event->data = bytes;
  if ((revents & (POLLHUP | POLLERR | kPeerEnds)) != 0) {
    Set(&event->flags, EV_EOF);
    SetError(note, revents, event);
    return true;
  }
  const bool marked = note.type == S_IFSOCK && !quirks_.ignores_low_water_mark &&
                      (note.registered.fflags & NOTE_LOWAT) != 0;
  return (revents & POLLIN) != 0 && (!marked || event->data >= note.registered.data);
}

bool KqueueDouble::IsWritable(const Knote& note, short revents, struct kevent* event) {
  const bool gone = (revents & (POLLERR | POLLHUP)) != 0;
  const bool room = (revents & POLLOUT) != 0;
  if (note.type == S_IFIFO && gone && !room && quirks_.full_pipe_hides_loss_of_reader) return false;
  if (gone) {
    Set(&event->flags, EV_EOF);
    SetError(note, revents, event);
  }
  event->data = room && !gone ? 4096 : 0;
  return gone || room;
}

// A kernel of the family looks at the socket's error without taking it away; from outside one
// cannot look, so any error stands for it.
void KqueueDouble::SetError(const Knote& note, short revents, struct kevent* event) {
  if (note.type == S_IFSOCK && (revents & POLLERR) != 0) event->fflags = ECONNRESET;
}

// Whether an EV_CLEAR event is to be told.
bool KqueueDouble::IsNews(Knote* note, const struct kevent& event) const {
  const bool eof = Has(event, EV_EOF);
  bool news = !note->told || eof != note->told_eof || event.data > note->told_data;
  if (news) {
    note->told_twice = false;
  } else if (quirks_.clear_repeats && !note->told_twice) {
    note->told_twice = true;
    news = true;
  }
  note->told = true;
  note->told_eof = eof;
  note->told_data = event.data;
  return news;
}

// --- Waiting ---

// Those that were told go to the back, so that a short list serves all in turn.
int KqueueDouble::Collect(Queue* queue, struct kevent* events, int capacity) {
  questions_.clear();
  for (const Knote& note : queue->notes) questions_.push_back(Question(note));
  ::poll(questions_.data(), questions_.size(), 0);
  Knotes told;
  int count = 0;
  size_t index = 0;
  for (auto next = queue->notes.begin(); next != queue->notes.end() && count < capacity;) {
    const auto note = next++;
    struct kevent event;
    if (!IsReady(*note, questions_[index++].revents, &event)) {
      note->told = false;
      continue;
    }
    if (Has(note->registered, EV_CLEAR) && !IsNews(&*note, event)) continue;
    events[count++] = event;
    if (Has(note->registered, EV_ONESHOT)) {
      queue->notes.erase(note);
      continue;
    }
    if (Has(note->registered, EV_DISPATCH)) note->disabled = true;
    told.splice(told.end(), queue->notes, note);
  }
  queue->notes.splice(queue->notes.end(), told);
  if (quirks_.reversed) std::reverse(events, events + count);
  return count;
}

int KqueueDouble::WaitFor(Queue* queue, struct kevent* events, int capacity,
                          const timespec* timeout) {
  const int64_t limit = timeout == nullptr
                            ? 0
                            : static_cast<int64_t>(timeout->tv_sec) * 1000000000 + timeout->tv_nsec;
  const int64_t start = Now();
  for (;;) {
    if (const int count = Collect(queue, events, capacity); count > 0) return count;
    int64_t left = -1;
    if (timeout != nullptr) {
      left = start + limit - Now();
      if (left <= 0) return 0;
    }
    const bool interrupted =
        quirks_.interrupted_every > 0 && ++sleeps_ % quirks_.interrupted_every == 0;
    if (interrupted || !Sleep(left)) {
      errno = EINTR;
      return -1;
    }
  }
}

// Sleeps until poll(2) has something new about the questions of Collect(). What it has told already
// and was no event is not asked again, but looked at now and then. False: a signal came.
bool KqueueDouble::Sleep(int64_t left_ns) {
  constexpr int64_t kLookAgainNs = 5 * kNanosPerMilli;
  bool look_again = false;
  for (pollfd& question : questions_) {
    look_again |= question.revents != 0 || (question.fd < 0 && question.events != 0);
    const bool only_data = question.revents == POLLIN;
    if (question.revents == 0) continue;
    question.events = kPeerEnds;
    if (!only_data || kPeerEnds == 0) question.fd = -1;
  }
  if (look_again) left_ns = left_ns < 0 ? kLookAgainNs : std::min(left_ns, kLookAgainNs);
  constexpr int64_t kLongest = int64_t{1000} * 3600 * kNanosPerMilli;
  const int milliseconds =
      left_ns < 0
          ? -1
          : static_cast<int>((std::min(left_ns, kLongest) + kNanosPerMilli - 1) / kNanosPerMilli);
  return ::poll(questions_.data(), questions_.size(), milliseconds) >= 0 || errno != EINTR;
}

}  // namespace posthouse

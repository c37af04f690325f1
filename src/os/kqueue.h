// struct kevent and the constants of kqueue(2), for whoever calls os::Kqueue() and os::Kevent().
//
// They are the system's, from <sys/event.h>. A system without that header gets a stand-in with
// which the same code compiles, and whose calls answer as a kernel that does not know them: -1,
// ENOSYS. The stand-in has the strictest types of the family, those of NetBSD up to 9: filters and
// flags are unsigned, filters are not negative, and udata is an integer. It adds EVFILT_EXCEPT,
// which macOS and OpenBSD have. Portable code therefore casts to the type of each field and asks
// for optional filters with #if defined.
//
// Thread, fork, errors: kqueue(2) and kevent(2). A queue is not inherited by fork(2).

#ifndef POSTHOUSE_OS_KQUEUE_H_
#define POSTHOUSE_OS_KQUEUE_H_

#include <sys/types.h>  // <sys/event.h> wants it first

#if __has_include(<sys/event.h>)

#include <sys/event.h>

#else

#include <errno.h>
#include <stdint.h>
#include <time.h>

struct kevent {
  uintptr_t ident;  // the descriptor
  uint32_t filter;
  uint32_t flags;
  uint32_t fflags;
  int64_t data;
  intptr_t udata;
};

#define EVFILT_READ 0U
#define EVFILT_WRITE 1U
#define EVFILT_EXCEPT 9U

// What a change does, and what it wishes.
#define EV_ADD 0x0001U
#define EV_DELETE 0x0002U
#define EV_ENABLE 0x0004U
#define EV_DISABLE 0x0008U
#define EV_ONESHOT 0x0010U
#define EV_CLEAR 0x0020U
#define EV_RECEIPT 0x0040U
#define EV_DISPATCH 0x0080U
// What an event tells.
#define EV_ERROR 0x4000U
#define EV_EOF 0x8000U

#define NOTE_LOWAT 0x0001U
#define NOTE_OOB 0x0004U

inline int kqueue() {
  errno = ENOSYS;
  return -1;
}

inline int kevent(int queue, const struct kevent* changes, int change_count, struct kevent* events,
                  int capacity, const struct timespec* timeout) {
  errno = ENOSYS;
  return -1;
}

#endif

#endif  // POSTHOUSE_OS_KQUEUE_H_

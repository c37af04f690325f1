// The answerer of production: every call of the seam is the C library's, or its twin's.

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/signalfd.h>
#endif
#if __has_include(<sys/random.h>)
#include <sys/random.h>
#endif

#include "posthouse/os/io_uring.h"
#include "posthouse/os/kqueue.h"
#include "posthouse/os/os.h"
#include "posthouse/os/twins.h"

namespace posthouse::os {

#define POSTHOUSE_OS_CALL(result, Name, native, parameters, arguments) \
  result Name parameters { return ::native arguments; }
#define POSTHOUSE_OS_TWIN_CALL(result, Name, native, parameters, arguments) \
  result Name parameters { return POSTHOUSE_OS_CALLEE(Name, native) arguments; }
#include "posthouse/os/calls.inc"
#undef POSTHOUSE_OS_CALL

}  // namespace posthouse::os

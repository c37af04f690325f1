// POSTHOUSE_CHECK ends the process when the caller broke a contract.
//
//   POSTHOUSE_CHECK(delay >= absl::ZeroDuration(), "a timer's delay is negative");
//
// It is for programming errors alone (the original's "panic"): what fails outside the program is
// an absl::Status. The sentence is written to standard error and to the panic reporter, if a
// program installed one (the worker runtime does: it logs at panic level and waits a second, so
// that a process that panics at once does not spin its master); then abort() raises SIGABRT.
//
// Thread: any. Fork: the reporter is inherited. Not async-signal-safe.

#ifndef POSTHOUSE_BASE_CHECK_H_
#define POSTHOUSE_BASE_CHECK_H_

#include "absl/base/optimization.h"

namespace posthouse {

// Called once with the sentence before abort(). It may log; it must not return to the caller by
// an exception. Installing null restores the silence.
using PanicReporter = void (*)(const char* file, int line, const char* sentence);

// Returns the reporter that was installed before. The one piece of state at file scope here: a
// panic has no object to ask.
PanicReporter SetPanicReporter(PanicReporter reporter);

// Reports and aborts.
[[noreturn]] void Panic(const char* file, int line, const char* sentence);

}  // namespace posthouse

// `sentence` is a const char* that says which rule was broken, in words a user of the interface
// understands; it is evaluated only on failure.
#define POSTHOUSE_CHECK(condition, sentence)            \
  do {                                                  \
    if (ABSL_PREDICT_FALSE(!(condition))) {             \
      ::posthouse::Panic(__FILE__, __LINE__, sentence); \
    }                                                   \
  } while (false)

#endif  // POSTHOUSE_BASE_CHECK_H_

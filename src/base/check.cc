#include "posthouse/base/check.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace posthouse {
namespace {

std::atomic<PanicReporter> g_reporter{nullptr};

}  // namespace

PanicReporter SetPanicReporter(PanicReporter reporter) { return g_reporter.exchange(reporter); }

void Panic(const char* file, int line, const char* sentence) {
  std::fprintf(stderr, "panic: %s:%d: %s\n", file, line, sentence);
  // A reporter that panics itself must not be called again.
  if (PanicReporter reporter = g_reporter.exchange(nullptr)) reporter(file, line, sentence);
  std::abort();
}

}  // namespace posthouse

// What the in-process benchmarks share: the command line, the clocks, medians and exits.
//
//   micro_raw w1 kind=pipe n=100 active=1 seconds=0.25
//
// Exit status: 0 and one line of name=value pairs on standard output; 1 when something failed or a
// library did what it must not do; 2 for a wrong command line; 3 after the line "unsupported" when
// the contender cannot do the workload. Reasons go to standard error.
//
// Thread: one.

#ifndef POSTHOUSE_BENCH_MICRO_HARNESS_H_
#define POSTHOUSE_BENCH_MICRO_HARNESS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace bench {

inline constexpr int64_t kNsPerSecond = 1000 * 1000 * 1000;
inline constexpr int64_t kNsPerMs = 1000 * 1000;

[[noreturn]] void Fail(const std::string& what);        // exit 1
[[noreturn]] void FailErrno(const std::string& call);   // the same with errno's text
[[noreturn]] void Misuse(const std::string& what);      // exit 2
[[noreturn]] void Unsupported(const std::string& why);  // exit 3

// WORKLOAD key=value ... Whoever reads a key makes it a legal one.
class Options {
 public:
  Options(int argc, char** argv);

  const std::string& workload() const { return workload_; }
  std::string Text(const std::string& key, const std::string& fallback);
  int64_t Integer(const std::string& key, int64_t fallback);
  double Real(const std::string& key, double fallback);
  // Call when all have read theirs: a key that nobody asked for is a mistake.
  void RefuseUnread() const;

 private:
  std::string workload_;
  std::map<std::string, std::string> values_;
  std::map<std::string, bool> read_;
};

// CPU time of this thread and the real steady time, which no shift moves (shifted_clock.h).
struct Reading {
  int64_t cpu_ns;
  int64_t wall_ns;
};

// Measures between Start() and Stop(), less what the reading of the clocks itself takes.
class Stopwatch {
 public:
  Stopwatch();
  void Start();
  Reading Stop();

 private:
  Reading start_ = {};
  Reading overhead_ = {};
};

// How long to measure, common to all workloads.
struct Length {
  explicit Length(Options* options);

  double seconds;  // of wall time
  int64_t ops;     // if positive: so many operations at once, without a warm-up, whatever it takes
  bool check;      // look closely at what was delivered
  int64_t limit_seconds;  // a library that loses an event waits for ever: SIGALRM ends it
};

// Times per operation of one kind of work: the median of the chunks, which a disturbance of the
// machine does not move, and the best.
class Samples {
 public:
  void Add(int64_t ops, Reading taken);

  int64_t ops() const { return ops_; }
  int64_t chunks() const { return static_cast<int64_t>(cpu_ns_.size()); }
  double cpu_ns() const;
  double wall_ns() const;
  double best_cpu_ns() const;

 private:
  int64_t ops_ = 0;
  std::vector<double> cpu_ns_;
  std::vector<double> wall_ns_;
};

// Calls chunk(ops), which does at least so many operations and returns how many it did: to warm up,
// at least `warm_up_ops` of them, then in chunks of some milliseconds until the time is over.
template <typename Chunk>
Samples Measure(const Length& length, int64_t warm_up_ops, Chunk chunk);

// The line for standard output.
class Report {
 public:
  void Add(const std::string& name, const std::string& value);
  void Add(const std::string& name, int64_t value);
  void AddNs(const std::string& name, double value);
  void AddSamples(const Samples& samples);
  void Print() const;

 private:
  std::string line_;
};

// Raises the limit of descriptors to the hard one and returns it.
int64_t RaiseDescriptorLimit();

// The same sequence on every machine and in every contender.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // 0 <= result < bound.
  int64_t Below(int64_t bound) {
    return static_cast<int64_t>(Next() % static_cast<uint64_t>(bound));
  }
  // 0 .. count-1, shuffled.
  std::vector<uint32_t> Permutation(int64_t count);

 private:
  uint64_t state_;
};

// --- The rest is implementation ---

template <typename Chunk>
Samples Measure(const Length& length, int64_t warm_up_ops, Chunk chunk) {
  constexpr int64_t kChunkNs = 5 * kNsPerMs;
  constexpr int64_t kFewestChunks = 3;
  Samples samples;
  Stopwatch watch;
  if (length.ops > 0) {
    watch.Start();
    const int64_t done = chunk(length.ops);
    samples.Add(done, watch.Stop());
    return samples;
  }
  const auto budget_ns = static_cast<int64_t>(length.seconds * kNsPerSecond);
  int64_t size = 64;
  for (int64_t done = 0, spent = 0, took = 0;
       took < kChunkNs || done < warm_up_ops || spent < budget_ns / 5;) {
    watch.Start();
    done += chunk(size);
    took = watch.Stop().wall_ns;
    spent += took;
    if (took < kChunkNs) size *= 2;
  }
  for (int64_t spent = 0; spent < budget_ns || samples.chunks() < kFewestChunks;) {
    watch.Start();
    const int64_t done = chunk(size);
    const Reading taken = watch.Stop();
    samples.Add(done, taken);
    spent += taken.wall_ns;
  }
  return samples;
}

}  // namespace bench

#endif  // POSTHOUSE_BENCH_MICRO_HARNESS_H_

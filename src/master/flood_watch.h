// FloodWatch finds processes that do nothing but write status messages (F72).
//
//   flood_watch.Add(service, batch.writers, batch.cost_ns);   // each reading
//   if (flood_watch.IsDue(now_ns))
//     for (const FloodWatch::Flooder& flooder : flood_watch.Judge(now_ns, &CpuTimeOf)) ...
//
// How many messages are too many differs from one machine to the next, and a worker of a busy
// machine is not to be taken for a broken one. What does not differ: a worker that serves spends
// several system calls on a request and two of them on its status messages, and one that floods
// spends its whole time on them. So what a process costs the reader is compared with the processor
// time that the process itself has used: about a seventh for a stock anvil that serves fifty
// clients as fast as it can, half to two thirds for the floods that were measured. Whoever is above
// kFloodShare in kFloodJudgements in a row is a flooder; they are at least a second apart, and more
// on a machine so busy that a flood hardly gets the processor. A process whose time cannot be told
// is none.
//
// Thread: one. A pure class: no clock, no call. Memory: at most kMaxWriters entries.

#ifndef POSTHOUSE_MASTER_FLOOD_WATCH_H_
#define POSTHOUSE_MASTER_FLOOD_WATCH_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "posthouse/master/status_framer.h"
#include "posthouse/master/supervisor.h"

namespace posthouse {

inline constexpr double kFloodShare = 1.0 / 3;
inline constexpr int kFloodJudgements = 5;

class FloodWatch {
 public:
  static constexpr size_t kMaxWriters = 1024;

  struct Flooder {
    pid_t pid = 0;
    ServiceId service = 0;  // whose channel it writes to
  };
  // Nanoseconds of processor time that a process has used so far; nothing when nobody knows.
  using CpuTimeOf = absl::FunctionRef<absl::optional<int64_t>(pid_t)>;

  // A reading of the channel of `service` took `cost_ns` of processor time.
  void Add(ServiceId service, absl::Span<const StatusWriter> writers, int64_t cost_ns);

  // A second is over since the last judgement.
  bool IsDue(int64_t now_ns) const;
  // The flooders. Whoever is named has as many judgements again before it is named again. Asks for
  // the time of those alone who have cost something worth it.
  std::vector<Flooder> Judge(int64_t now_ns, CpuTimeOf cpu_time_of);
  // It has died: its number may come again.
  void Forget(pid_t pid) { writers_.erase(pid); }

 private:
  struct Writer {
    ServiceId service = 0;
    int64_t new_cost_ns = 0;  // since Judge()
    int64_t cost_ns = 0;      // since it was judged itself
    int64_t cpu_ns = -1;      // what it had used by then; -1: not known
    int judgements = 0;       // against it, in a row
  };

  static bool JudgeOne(Writer* writer, int64_t cpu_ns);

  int64_t judged_ns_ = 0;
  std::map<pid_t, Writer> writers_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_FLOOD_WATCH_H_

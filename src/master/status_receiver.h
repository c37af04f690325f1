// StatusReceiver is the master's side of the status channel of one service: it makes the pair,
// reads it in bulk and hands on what the workers said (P4, P5, M69, M70).
//
//   StatusReceiver receiver(loop, [&](const StatusBatch& batch) { ... });
//   absl::Status status = receiver.Open();       // and again for a new pair (M104)
//   request.status = receiver.worker_fd();       // each worker inherits this end
//
// When it reads. A worker blocks while its channel is full, and each waking of the master takes the
// processor from it. So the channel is read at once when something comes after a silence, and while
// it is busy once per kStatusReadInterval, when hundreds of messages may be there; all busy
// channels of a loop are read in the same turn. Both ends have room for kStatusBufferSize, so
// that no worker waits for a reading.
// What is read late would be judged late: call ReadNow() before whatever a message already written
// could change. That is when a client waits (a worker may have become available), when a worker has
// died (it may have completed a request, P38), and before Open() makes a new pair, which drops what
// is unread. ReadNow() reads everything that was written before it was called.
//
// Who wrote it. With SO_PASSCRED on our end the kernel tells for each piece of bytes, and never
// merges those of two processes; a worker goes on using plain write(2). On systems without it the
// sender is 0, and whoever keeps the accounts has only the message to go by.
//
// Floods (F72). Reading a channel takes at most a quarter of a processor, as measured: there is an
// allowance for each kStatusReadInterval since the last reading, and whoever writes more than that
// waits for the full channel. A stock worker that serves as fast as it can takes a seventh. A
// reading that is late may take more, so that a busy master does not hold up a busy worker. What
// a busy channel has cost is handed on, for a FloodWatch; a writer who cannot be ended is held back
// further by HoldBack().
//
// A channel that a worker has shut down (shutdown(2) works on all copies) delivers end-of-file for
// ever, here or to its siblings. In the first case it is no longer read and on_broken() is called;
// the second is found by WorkersSeeEnd(). Either way Open() makes it good (M104).
//
// Descriptors that a worker attaches to a message are closed by the kernel on the way (F43).
//
// Thread: that of the loop. Fork: a child inherits worker_fd() by hand-over alone; both ends are
// close-on-exec. Ownership: owns both ends; the loop must outlive it. The handler may call all of
// it but must not destroy it.

#ifndef POSTHOUSE_MASTER_STATUS_RECEIVER_H_
#define POSTHOUSE_MASTER_STATUS_RECEIVER_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/status_framer.h"

namespace posthouse {

inline constexpr int kStatusBufferSize = 1 << 20;
inline constexpr absl::Duration kStatusReadInterval = absl::Milliseconds(1);
inline constexpr absl::Duration kHeldBackReadInterval = absl::Milliseconds(8);
// The allowance of an interval. A message is charged 1, and each piece, which costs a system call,
// 1 more.
inline constexpr int kMinStatusCharge = 256;
inline constexpr int kMaxStatusCharge = 4096;
// What a charge of 1 costs until it has been measured.
inline constexpr int64_t kExpectedChargeCostNs = 600;

// The two ends of a channel. Both are in blocking mode (P4) and close-on-exec; each has room for
// kStatusBufferSize, or what the system allows.
struct StatusPair {
  UniqueFd master;
  UniqueFd worker;

  static absl::StatusOr<StatusPair> Create();
};

class StatusReceiver {
 public:
  struct Handlers {
    // Something came; never called with an empty batch.
    std::function<void(const StatusBatch&)> on_batch;
    // The channel delivers nothing any more; told once per Open(). May be null.
    std::function<void()> on_broken;
  };

  StatusReceiver(EventLoop* loop, Handlers handlers);
  ~StatusReceiver();
  StatusReceiver(const StatusReceiver&) = delete;
  StatusReceiver& operator=(const StatusReceiver&) = delete;

  // Makes a new pair and closes both ends of the one before, unread (P41, M104). After a failure
  // the one before is as it was.
  absl::Status Open();
  // For a service that is removed: workers see end-of-file.
  void Close();

  // The end that workers inherit; -1 when closed.
  int worker_fd() const { return pair_.worker.get(); }
  int master_fd() const { return pair_.master.get(); }

  // Reads all that was written before the call and hands it on.
  void ReadNow();
  // Reads less of the channel, once per kHeldBackReadInterval, until it is calm.
  void HoldBack();
  // After a worker was reaped, and after ReadNow().
  void Forget(pid_t sender) { framer_.Forget(sender); }

  // Whether workers would find end-of-file or data at their end although we wrote nothing: a new
  // one would end at once (P43). One poll(2); worth it before a spawn.
  bool WorkersSeeEnd() const;

 private:
  static void OnReadable(int event, void* context);
  static void OnTimer(int event, void* context);
  void ReadTurn(bool after_silence);
  int Allowance() const;
  bool ReadMeasured(int most);
  bool ReadEstimated(int most);
  bool Read(int most);
  void Charge(pid_t sender, int charge);
  void Schedule(bool after_silence, bool over);
  void Deliver(bool broken);
  void Break();

  EventLoop* loop_;
  Handlers handlers_;
  StatusPair pair_;
  StatusFramer framer_;
  StatusBatch batch_;
  FdWatch watch_;
  Timer timer_;
  int64_t last_turn_ns_ = 0;
  int charge_ = 0;                                  // of what was read since the last turn
  int64_t charge_cost_ns_ = kExpectedChargeCostNs;  // a mean that forgets
  absl::Duration interval_ = kStatusReadInterval;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_STATUS_RECEIVER_H_

// WakeUps contacts services as a client does, so that they do their periodic work, without ever
// waiting for one (M84 to M88, P66, MO5, F87).
//
//   WakeUps wake_ups(loop, log, [&](const std::string& path) -> absl::StatusOr<UniqueFd> {
//     EffectiveOwner owner;
//     if (absl::Status status = owner.Become(files); !status.ok()) return status;
//     return OpenFifoForWakeUp(path);
//   });
//   wake_ups.Trigger(service, target);   // when the supervisor says so
//   wake_ups.Cancel(service);            // reload, removal, throttle
//
// What is sent (M86): unix and inet, `W` and a NUL over a new connection; pass, the read end of a
// pipe over a new connection and the same two bytes into the pipe; fifo, `W`. unix-dgram cannot be
// woken and is warned about each time. A connection is kept until the service closes it or
// kKeptFor has passed, which is warned about. Periods and conditions are the caller's business.
//
// Nothing here blocks. A trigger begins in a turn of its own, at most kMaxStartsPerTurn in one; at
// most kMaxPerService connections of a service and kMaxInAll altogether are under way. A trigger
// that fails or finds no room (a full backlog, a full fifo, too many under way) is tried again each
// kRetryAfter until it succeeds, the next Trigger() of that service takes its place, or Cancel().
// It is warned about at most once a minute, naming both names of the service (M87, F124).
//
// Thread: that of the loop. Fork: nothing is inherited. Ownership: borrows loop and log, which must
// outlive it.

#ifndef POSTHOUSE_MASTER_WAKE_UP_H_
#define POSTHOUSE_MASTER_WAKE_UP_H_

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/log.h"

namespace posthouse {

// Where and how a service is contacted.
struct WakeUpTarget {
  enum class Kind { kInet, kUnix, kFifo, kPass, kUnixDgram };
  Kind kind = Kind::kUnix;
  std::string name;           // as in master.cf
  std::string internal_name;  // M44, M45
  std::string path;           // all but inet: from the working directory
  // inet: of a listener. The wildcard address means the loopback of its family.
  sockaddr_storage address = {};
  socklen_t address_size = 0;
};

// Opens an existing fifo for writing without blocking: a fifo, with one hard link, and reached
// through no symbolic link (M24). ENXIO: nobody reads. Whose rights are used is the caller's doing.
absl::StatusOr<UniqueFd> OpenFifoForWakeUp(const std::string& path);

class WakeUps {
 public:
  using ServiceId = int64_t;
  // OpenFifoForWakeUp() with the rights of `mail_owner` (M86).
  using FifoOpener = std::function<absl::StatusOr<UniqueFd>(const std::string& path)>;

  static constexpr size_t kMaxPerService = 16;
  static constexpr size_t kMaxInAll = 256;
  static constexpr int kMaxStartsPerTurn = 32;
  static constexpr absl::Duration kConnectLimit = absl::Seconds(1);
  static constexpr absl::Duration kKeptFor = absl::Seconds(101);
  static constexpr absl::Duration kRetryAfter = absl::Seconds(1);

  WakeUps(EventLoop* loop, Log* log, FifoOpener open_fifo);
  ~WakeUps();
  WakeUps(const WakeUps&) = delete;
  WakeUps& operator=(const WakeUps&) = delete;

  // Contacts the service once, soon. Does not fail.
  void Trigger(ServiceId service, const WakeUpTarget& target);
  // Forgets the service: what is waiting, being retried or under way.
  void Cancel(ServiceId service);

  // Connections that exist now.
  size_t under_way() const { return under_way_; }

 private:
  class Contact;
  struct Service {
    WakeUpTarget target;
    bool queued = false;  // in queue_
    bool missed = false;  // to be tried again
    std::list<std::unique_ptr<Contact>> contacts;
  };

  static void OnStart(int event, void* context);
  static void OnRetry(int event, void* context);
  void Queue(ServiceId id, Service* service);
  void Start(ServiceId id, Service* service);
  absl::Status StartContact(ServiceId id, Service* service);
  absl::Status WakeFifo(const WakeUpTarget& target);
  void Missed(Service* service, const absl::Status& why);
  // From a contact, which ends with it.
  void Closed(Contact* contact);
  void Failed(Contact* contact, const absl::Status& why);
  void KeptTooLong(Contact* contact);

  EventLoop* loop_;
  Log* log_;
  FifoOpener open_fifo_;
  std::map<ServiceId, Service> services_;
  std::deque<ServiceId> queue_;
  Timer start_timer_;
  Timer retry_timer_;
  size_t under_way_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_WAKE_UP_H_

// ServiceListeners is what a service is reached at: one endpoint with a name, or one TCP socket for
// each address.
//
//   ListenRequest request;
//   request.kind = EndpointKind::kInet;
//   request.addresses = {...};
//   ListenReport report;
//   absl::StatusOr<ServiceListeners> listeners = ServiceListeners::Open(request, options, &report);
//   ... workers get listeners->fds() from descriptor 6 on ...
//
// fds() changes in OpenMissing(), Adjust() and RestoreDeaf() alone, and they say so. The caller
// drops its watches before (a descriptor may be closed), sets them anew after, and, when fds() has
// changed, renews the service's workers, because those who run hold the old ones.
//
// Thread: one. Errors: absl::Status and the texts of a ListenReport, one per endpoint, each naming
// call and object. Ownership: owns the descriptors; closing leaves names where they are (M58).

#ifndef POSTHOUSE_MASTER_LISTENERS_H_
#define POSTHOUSE_MASTER_LISTENERS_H_

#include <poll.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "posthouse/master/endpoint.h"

namespace posthouse {

struct ListenRequest {
  EndpointKind kind = EndpointKind::kInet;
  std::string path;                        // all but kInet; "private/rewrite"
  std::vector<EndpointAddress> addresses;  // kInet: in the order in which workers get them (M50)
};

struct ListenReport {
  std::vector<std::string> failures;  // an endpoint that is off; OpenMissing() tries it again (F90)
  std::vector<std::string> warnings;  // left out, because the system lacks the family (F92); once
  std::vector<std::string> changes;   // "opened 127.0.0.1:25", "closed [::1]:25"
};

class ServiceListeners {
 public:
  // Opens all of it. The first failure is the error, and nothing stays behind (M53, F90).
  static absl::StatusOr<ServiceListeners> Open(const ListenRequest& request,
                                               const EndpointOptions& options,
                                               ListenReport* report);
  // Opens what can be opened.
  static ServiceListeners OpenPartly(const ListenRequest& request, const EndpointOptions& options,
                                     ListenReport* report);

  // What workers get, in order.
  absl::Span<const int> fds() const { return fds_; }
  // An endpoint failed and is off.
  bool is_missing_some() const;

  // Tries what is off again. True: fds() has changed.
  bool OpenMissing(const EndpointOptions& options, ListenReport* report);
  // MO7: opens what `request` has more and closes what it has less; keeps the rest, with its
  // waiting clients (M111) and its backlog (M54). Tries what was off again. True: fds() has
  // changed. REQUIRES: the same kind and path; another one is another service (M110).
  bool Adjust(const ListenRequest& request, const EndpointOptions& options, ListenReport* report);

  // F65. Some listener does not listen any more; asked when a watch reports a hang-up. Two system
  // calls per listener.
  bool IsDeaf() const;
  // Makes the deaf ones listen again, by the same open file where possible, so that the workers
  // have it back too, and else by a new one. True: fds() has changed.
  bool RestoreDeaf(const EndpointOptions& options, ListenReport* report);

  // For one poll(2) over all services: one entry for each of fds(), asking for POLLIN.
  void AppendTo(std::vector<pollfd>* entries) const;

  // MO8: only on request, only names that still are ours (F97). All are tried; the first failure.
  absl::Status RemoveNames(const FileOwner& owner);

 private:
  struct Slot {
    EndpointAddress address;  // text alone for what has a path
    Endpoint endpoint;
    bool absent = false;  // the system lacks its family; it was told
  };

  explicit ServiceListeners(const ListenRequest& request);
  static std::vector<Slot> MakeSlots(const ListenRequest& request);
  absl::Status OpenSlot(Slot* slot, const EndpointOptions& options, ListenReport* report);
  void OpenSlots(const EndpointOptions& options, ListenReport* report);
  void Close(Slot* slot, ListenReport* report);
  bool UpdateFds();

  EndpointKind kind_;
  std::string path_;
  std::vector<Slot> slots_;
  std::vector<int> fds_;
  bool changed_ = false;  // since UpdateFds(); a number may come back for another socket
};

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_LISTENERS_H_

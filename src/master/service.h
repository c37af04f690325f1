// Service is one service of a running master: what the configuration says of it, the listeners that
// its clients reach, the status channel of its workers, and the watches over both.
//
//   auto service = std::make_unique<Service>(id, configuration, loop, observer);
//   absl::Status status = service->OpenListeners(options, &report);
//   if (status.ok()) status = service->OpenChannel();
//   service->WatchListeners();   // observer->OnClientWaiting(service), once per readiness
//
// It decides nothing: what happens is told to the observer, and the supervisor says what to do
// (M59, M61). Whether it watches or not, a listener that was shut down is told (F65).
//
// Thread: that of the loop. Fork: nothing is inherited but by hand-over; all descriptors are
// close-on-exec. Ownership: owns listeners and channel; loop and observer outlive it. An observer
// must not destroy a service from inside a call.

#ifndef POSTHOUSE_MASTER_SERVICE_H_
#define POSTHOUSE_MASTER_SERVICE_H_

#include <poll.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/fd_watch.h"
#include "posthouse/master/configuration.h"
#include "posthouse/master/listeners.h"
#include "posthouse/master/status_receiver.h"
#include "posthouse/master/supervisor.h"
#include "posthouse/master/wake_up.h"

namespace posthouse {

class Service;

// What a service tells, from inside a turn of the loop.
class ServiceObserver {
 public:
  virtual ~ServiceObserver() = default;
  // A listener that is watched is ready.
  virtual void OnClientWaiting(Service* service) = 0;
  // A listener does not listen any more.
  virtual void OnDeafListener(Service* service) = 0;
  virtual void OnStatus(Service* service, const StatusBatch& batch) = 0;
  // The status channel delivers nothing any more.
  virtual void OnBrokenChannel(Service* service) = 0;
  // A listener could not be watched, for lack of memory: CompleteWatches() should be called soon.
  virtual void OnUnwatchedListener(Service* service) = 0;
};

class Service {
 public:
  // Nothing is open yet.
  Service(ServiceId id, ServiceConfiguration configuration, EventLoop* loop,
          ServiceObserver* observer);
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  ServiceId id() const { return id_; }
  const ServiceConfiguration& configuration() const { return configuration_; }
  void set_configuration(ServiceConfiguration configuration) {
    configuration_ = std::move(configuration);
  }
  // "smtp inet": for messages.
  std::string title() const { return configuration_.entry.Title(); }

  // --- Listeners ---

  absl::Span<const int> listen_fds() const;
  bool is_missing_endpoints() const {
    return listeners_.has_value() && listeners_->is_missing_some();
  }
  // All of them or none (M53); or those that can be had (F90).
  absl::Status OpenListeners(const EndpointOptions& options, ListenReport* report);
  void OpenListenersPartly(const EndpointOptions& options, ListenReport* report);
  void WatchListeners() { SetWatching(true); }
  void IgnoreListeners() { SetWatching(false); }
  // Watches those that are not watched and should be.
  void CompleteWatches();
  void CloseListeners();
  bool IsDeaf() const { return listeners_.has_value() && listeners_->IsDeaf(); }
  // Until RestoreListeners() nothing is told of them: a deaf one would be reported for ever.
  void SuspendListeners();
  // Has deaf listeners listen again (F65), opens what was off (F90), opens and closes what the
  // configuration says (MO7). True: workers that run do not have what new ones get.
  bool RestoreListeners(const EndpointOptions& options, ListenReport* report);
  bool OpenMissing(const EndpointOptions& options, ListenReport* report);
  bool AdjustListeners(const EndpointOptions& options, ListenReport* report);
  // For one poll(2) over all services.
  void AppendTo(std::vector<pollfd>* entries) const;

  // --- Status channel ---

  // Makes the channel, or a new one in place of the old (M104), whose content is read before.
  absl::Status OpenChannel();
  void CloseChannel() { channel_.Close(); }
  StatusReceiver& channel() { return channel_; }

  // Takes no part in reloads any more: its last workers are ending.
  bool removing() const { return removing_; }
  void set_removing() { removing_ = true; }

 private:
  static void OnReadable(int event, void* context);
  static void OnError(int event, void* context);
  void SetWatching(bool watching);
  bool ChangeListeners(absl::FunctionRef<bool()> change);

  ServiceId id_;
  ServiceConfiguration configuration_;
  EventLoop* loop_;
  ServiceObserver* observer_;
  absl::optional<ServiceListeners> listeners_;  // none before they are opened and when closed
  StatusReceiver channel_;
  std::vector<FdWatch> watches_;
  bool watching_ = false;
  bool suspended_ = false;
  bool removing_ = false;
};

// What the parts want to know of a service, made of its configuration.
ListenRequest ListenRequestOf(const ServiceConfiguration& service);
EndpointOptions EndpointOptionsOf(const ServiceConfiguration& service,
                                  const MasterConfiguration& master, bool is_root);
// REQUIRES: an inet service has an endpoint.
WakeUpTarget WakeUpTargetOf(const ServiceConfiguration& service);
ServiceRules ServiceRulesOf(const ServiceConfiguration& service, const MasterConfiguration& master);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_SERVICE_H_

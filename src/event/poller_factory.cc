// The one place that chooses a poller.

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "posthouse/event/backend.h"
#include "posthouse/event/poller.h"

namespace posthouse {
namespace {

struct NamedMaker {
  Backend backend;
  const char* name;
  absl::StatusOr<std::unique_ptr<Poller>> (*make)();
  bool on_request_only = false;
};

// Best first.
constexpr NamedMaker kMakers[] = {
    {Backend::kEpoll, "epoll", &MakeEpollPoller},
    {Backend::kKqueue, "kqueue", &MakeKqueuePoller},
    {Backend::kPoll, "poll", &MakePollPoller},
    {Backend::kSelect, "select", &MakeSelectPoller},
    {Backend::kIoUring, "io_uring", &MakeIoUringPoller, /*on_request_only=*/true},
};

}  // namespace

absl::string_view BackendName(Backend backend) {
  for (const NamedMaker& maker : kMakers) {
    if (maker.backend == backend) return maker.name;
  }
  return "best";
}

absl::StatusOr<Backend> ParseBackend(absl::string_view name) {
  if (name == "best") return Backend::kBest;
  for (const NamedMaker& maker : kMakers) {
    if (name == maker.name) return maker.backend;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown event backend \"", name, "\": use best, epoll, kqueue, poll, select or io_uring"));
}

std::vector<Backend> AvailableBackends() {
  std::vector<Backend> available;
  for (const NamedMaker& maker : kMakers) {
    if (maker.make().ok()) available.push_back(maker.backend);
  }
  return available;
}

absl::StatusOr<std::unique_ptr<Poller>> MakePoller(Backend backend) {
  absl::Status missing = absl::UnimplementedError("this system has no event backend");
  for (const NamedMaker& maker : kMakers) {
    const bool candidate =
        backend == Backend::kBest ? !maker.on_request_only : backend == maker.backend;
    if (!candidate) continue;
    absl::StatusOr<std::unique_ptr<Poller>> poller = maker.make();
    // A kernel without the call is a reason to take the next; a lack of descriptors is not.
    if (poller.ok() || !absl::IsUnimplemented(poller.status())) return poller;
    missing = poller.status();
  }
  return missing;
}

}  // namespace posthouse

// The poller on poll(2) is not written yet; asking for it says so on every system.

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "posthouse/event/poller.h"

namespace posthouse {

absl::StatusOr<std::unique_ptr<Poller>> MakePollPoller() {
  return absl::UnimplementedError("poll: posthouse has no poller for it yet");
}

}  // namespace posthouse

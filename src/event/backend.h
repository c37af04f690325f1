// The names of the pollers and what this system has of them.
//
// Thread: any. No state.

#ifndef POSTHOUSE_EVENT_BACKEND_H_
#define POSTHOUSE_EVENT_BACKEND_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace posthouse {

// Which poller asks the kernel. kBest is the best of epoll, kqueue, poll and select that this
// system has; io_uring is only taken when it is asked for.
enum class Backend { kBest, kEpoll, kKqueue, kPoll, kSelect, kIoUring };

// "epoll", "kqueue", "poll", "select", "io_uring"; "best" for kBest.
absl::string_view BackendName(Backend backend);
// The reverse, for options and environment variables; an unknown name is kInvalidArgument.
absl::StatusOr<Backend> ParseBackend(absl::string_view name);
// Those that work on this system, best first; never empty.
std::vector<Backend> AvailableBackends();

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_BACKEND_H_

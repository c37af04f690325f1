#include "posthouse/server/multi_server.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <unistd.h>

#include <exception>
#include <memory>
#include <utility>

#include "posthouse/base/check.h"
#include "posthouse/os/os.h"
#include "posthouse/server/multi_server_core.h"
#include "posthouse/server/worker.h"

namespace posthouse {
namespace {

// What the runtime needs; the rest stays with the skeleton.
WorkerOptions TakeWorkerOptions(MultiServerOptions& options) {
  WorkerOptions worker;
  worker.parameters = std::move(options.parameters);
  worker.bounce_init = std::move(options.bounce_init);
  worker.pre_init = std::move(options.pre_init);
  worker.post_init = std::move(options.post_init);
  worker.loop = std::move(options.loop);
  worker.on_exit = std::move(options.on_exit);
  worker.last_resort = std::move(options.last_resort);
  worker.solitary = options.solitary;
  worker.unlimited = options.unlimited;
  worker.privileged = options.privileged;
  worker.use_limit_grace = options.use_limit_grace;
  worker.slow_exit_limit = options.slow_exit_limit;
  worker.description = options.description;
  worker.version = options.version;
  return worker;
}

void CheckOptions(const MultiServerOptions& options) {
  POSTHOUSE_CHECK(static_cast<bool>(options.serve), "MultiServerOptions.serve is not set");
  POSTHOUSE_CHECK(options.request_deadline > absl::ZeroDuration(),
                  "MultiServerOptions.request_deadline is not positive");
  POSTHOUSE_CHECK(options.client_idle_limit > absl::ZeroDuration(),
                  "MultiServerOptions.client_idle_limit is not positive");
  POSTHOUSE_CHECK(options.use_limit_grace >= absl::ZeroDuration(),
                  "MultiServerOptions.use_limit_grace is negative");
  POSTHOUSE_CHECK(options.max_request_bytes > 0 && options.max_output_bytes > 0,
                  "MultiServerOptions: a bound of a client's bytes is zero");
  POSTHOUSE_CHECK(options.accepts_per_turn > 0 && options.requests_per_client_and_turn > 0,
                  "MultiServerOptions: a bound per turn is not positive");
}

// Large buffers of many clients go back to the system as soon as they are empty (F39). Left to
// itself, glibc takes the first large block that is freed as a reason to keep the next ones.
void GiveLargeBlocksBack() {
#if defined(__GLIBC__)
  constexpr int kLargeBlock = 128 << 10;  // glibc's own initial value; setting it makes it stay
  mallopt(M_MMAP_THRESHOLD, kLargeBlock);
#endif
}

void DieWithALine(absl::string_view why) {
  for (const absl::string_view part :
       {absl::string_view("fatal: "), why, absl::string_view("\n")}) {
    if (os::Write(STDERR_FILENO, part.data(), part.size()) < 0) return;
  }
}

}  // namespace

int MultiServerMain(int argc, char** argv, MultiServerOptions options) {
  CheckOptions(options);
  GiveLargeBlocksBack();
  try {
    WorkerOptions worker_options = TakeWorkerOptions(options);
    // Shared, because replies that were set aside may outlive it.
    const auto server = std::make_shared<MultiServer>(std::move(options));
    Worker worker(std::move(worker_options), server.get());
    server->Attach(&worker);
    return worker.Run(std::vector<std::string>(argv, argv + argc));
  } catch (const std::exception& exception) {
    // Before there is a log, or when even the end of the process found no memory (F125).
    DieWithALine(exception.what());
    return 1;
  }
}

}  // namespace posthouse

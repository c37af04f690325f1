#include "tests/conformance/status_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <ostream>
#include <regex>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {
namespace {

constexpr char kStrace[] = "/usr/bin/strace";
constexpr size_t kMessageSize = 12;

// The bytes of every read of the size of a message that returned data.
std::vector<std::string> TracedReads(const std::string& path) {
  const std::regex read_call("read\\([0-9]+, \"([^\"]*)\", 12\\) += ([0-9]+)");
  std::vector<std::string> reads;
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::smatch match;
    if (std::regex_search(line, match, read_call)) {
      reads.push_back(absl::HexStringToBytes(absl::StrReplaceAll(match[1].str(), {{"\\x", ""}})));
    }
  }
  return reads;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const TracedStatus& status) {
  return out << status.pid << "/" << status.generation << "/"
             << (status.availability == 0 ? "TAKEN" : "AVAIL");
}

absl::StatusOr<std::unique_ptr<StatusTrace>> StatusTrace::Start(pid_t master) {
  if (access(kStrace, X_OK) != 0) return absl::UnavailableError("strace is not installed");
  std::unique_ptr<StatusTrace> trace(new StatusTrace);
  char path[] = "/tmp/posthouse-trace.XXXXXX";
  const int file = mkstemp(path);
  if (file < 0) return absl::ErrnoToStatus(errno, "mkstemp");
  close(file);
  trace->output_ = path;

  std::vector<std::string> words = {
      kStrace, "-q", "-xx", "-s", "12", "-e", "trace=read", "-o", path, "-p", absl::StrCat(master)};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  char* environment[] = {nullptr};
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  for (int fd : {0, 1, 2}) {
    posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
  }
  const int failed =
      posix_spawn(&trace->tracer_, kStrace, &files, nullptr, arguments.data(), environment);
  posix_spawn_file_actions_destroy(&files);
  if (failed != 0) return absl::ErrnoToStatus(failed, "posix_spawn of strace");

  const bool attached = Eventually(absl::Seconds(10), [&] {
    const absl::optional<ProcessInfo> info = InspectProcess(master);
    return info && info->status.at("TracerPid") != "0";
  });
  if (!attached) return absl::UnavailableError("strace may not attach to the master");
  return trace;
}

StatusTrace::~StatusTrace() {
  if (tracer_ > 0) {
    kill(tracer_, SIGTERM);  // Lets go of the master first.
    waitpid(tracer_, nullptr, 0);
  }
  if (!output_.empty()) unlink(output_.c_str());
}

std::vector<TracedStatus> StatusTrace::Messages() const {
  std::vector<TracedStatus> messages;
  for (const std::string& bytes : TracedReads(output_)) {
    if (bytes.size() != kMessageSize) continue;
    TracedStatus status;
    memcpy(&status.pid, bytes.data(), 4);
    memcpy(&status.generation, bytes.data() + 4, 4);
    memcpy(&status.availability, bytes.data() + 8, 4);
    messages.push_back(status);
  }
  return messages;
}

std::vector<TracedStatus> StatusTrace::MessagesOf(pid_t worker) const {
  std::vector<TracedStatus> messages;
  for (const TracedStatus& status : Messages()) {
    if (status.pid == worker) messages.push_back(status);
  }
  return messages;
}

int StatusTrace::PartialReads() const {
  int partial = 0;
  for (const std::string& bytes : TracedReads(output_)) partial += bytes.size() != kMessageSize;
  return partial;
}

}  // namespace posthouse::conformance

// FakeMaster stands in for a Postfix master in tests of a worker program: it starts the program as
// a master would and keeps the other side of everything a worker inherits (PO14, P1 to P45).
//
//   FakeMasterOptions options;
//   options.program = "/path/to/echod";
//   options.main_cf = "max_use = 2\n";
//   absl::StatusOr<std::unique_ptr<FakeMaster>> master = FakeMaster::Create(std::move(options));
//   absl::StatusOr<pid_t> worker = (*master)->Spawn();
//   UniqueFd client = (*master)->Connect().value();
//   ... talk to it ...
//   EXPECT_TRUE((*master)->WaitUntil([&] { return (*master)->worker(*worker).use_count == 1; }));
//
// A worker finds: 3 and 4, the flow pipe, non-blocking; 5, one end of a status channel in blocking
// mode, of which the fake master keeps both ends (P5); its listen sockets from 6 on, listening and
// non-blocking; standard input and output on /dev/null, standard error in a file of the fake
// master; an environment made from a list; arguments of BuildWorkerArguments(); the queue
// directory as working directory; umask 077; SIGPIPE ignored, all other signals at default and
// unblocked. Nothing else is open.
//
// Its scratch directory holds the configuration, the queue directory with private/ and public/, and
// a log service that takes what the worker sends to postlogd; see Log().
//
// Nothing happens behind the caller's back except that log records are collected by a thread:
// messages are read and children reaped in Pump() and in the waiting functions.
//
// The process becomes the reaper of its orphans, so that a drained worker's background process is
// noticed and does not stay behind. The destructor kills and reaps what is left of the workers,
// with the processes of their process groups.
//
// Thread: one. Fork: do not use a FakeMaster in a child. Errors: absl::Status of the call that
// failed; what a worker does wrong is not an error but visible in problems().

#ifndef POSTHOUSE_TESTING_FAKE_MASTER_H_
#define POSTHOUSE_TESTING_FAKE_MASTER_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/protocol.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/log_collector.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {

// --- Starting any program with exactly the descriptors one wants ---

struct ChildPlan {
  std::string program;                   // path
  std::vector<std::string> arguments;    // with argument zero
  std::vector<std::string> environment;  // all of it, "name=value"
  // What the child has open: its number, and ours of which it becomes a copy. Whatever is not
  // named here is closed, 0 to 2 included.
  std::map<int, int> descriptors;
  std::string directory;  // working directory; empty: ours
  mode_t umask = 077;
  // Whether it is the leader of a process group of its own; it must be none to begin a session.
  bool own_group = true;
  // Runs in the child just before the program starts; async-signal-safe calls only.
  std::function<void()> in_child;
};

// A program that cannot be run makes the child exit with status 1 (P56).
absl::StatusOr<pid_t> StartChild(const ChildPlan& plan);

// --- The master ---

struct FakeMasterOptions {
  std::string program;  // path of the worker program

  // Given to BuildWorkerArguments(). Where empty, `command` is the program's last component,
  // `service_name` the same, and `transport` "unix". `listen_sockets` is how many there are: inet
  // sockets on the loopback, or local ones in private/.
  WorkerArguments arguments;

  // Appended to a main.cf that names the scratch directories and existing accounts; later
  // definitions win.
  std::string main_cf;
  // Items for BuildWorkerEnvironment(), after those of a stock master's list.
  std::vector<std::string> environment;
  // Names of variables that a stock master would set and the worker shall not find.
  std::vector<std::string> without_environment;

  // The generation of the first worker (P23). The default looks different in octal.
  uint32_t first_generation = 8;
  // Descriptors that the worker shall not find (3, 4, 5, 6...).
  std::vector<int> without_descriptors;
  // Others, by their number in the worker: borrowed.
  std::map<int, int> more_descriptors;
  // See ChildPlan.
  std::function<void()> in_child;
  // Workers log to a stand-in for postlogd. Without it main.cf says nothing about logs.
  bool collect_log = true;
};

class FakeMaster {
 public:
  struct Worker {
    pid_t pid = 0;
    uint32_t generation = 0;
    int channel = 0;  // which status channel it was given: 0 before the first reload
    // As a master believes (P28, P29).
    Availability availability = Availability::kAvailable;
    int use_count = 0;
    // Changes of state that came by message, TAKEN and AVAIL alike.
    int messages = 0;
    bool running = true;
    // Whether its process group has members: itself, or the background process of its drain.
    bool group_exists = true;
    int wait_status = 0;  // of waitpid(2), when it is not running any more
  };

  static absl::StatusOr<std::unique_ptr<FakeMaster>> Create(FakeMasterOptions options);
  ~FakeMaster();
  FakeMaster(const FakeMaster&) = delete;
  FakeMaster& operator=(const FakeMaster&) = delete;

  FakeMasterOptions& options() { return options_; }

  // Starts one more worker with the next generation.
  absl::StatusOr<pid_t> Spawn();
  // REQUIRES: `pid` was spawned here.
  const Worker& worker(pid_t pid) const;
  std::vector<pid_t> running() const;

  // Takes the messages that are there and reaps children that have ended, waiting at most `wait`
  // for something to happen.
  void Pump(absl::Duration wait = absl::ZeroDuration());
  // Pumps until the condition holds; false when the bound has passed.
  bool WaitUntil(absl::FunctionRef<bool()> condition, absl::Duration bound = kGenerousBound);
  // The wait status of a worker when it has ended within the bound.
  absl::optional<int> WaitForExit(pid_t pid, absl::Duration bound = kGenerousBound);

  // All messages that were decoded, in their order, whoever sent them.
  const std::vector<StatusMessage>& messages() const { return messages_; }
  // "TAKEN AVAIL TAKEN ..." of one worker, by process number and generation.
  std::string History(pid_t pid) const;
  // Messages that were cut, malformed, or from nobody that was spawned here with that generation.
  const std::vector<std::string>& problems() const { return problems_; }
  // Processes that ended here without having been spawned here, such as a drained worker's
  // background process, with their wait status.
  const std::map<pid_t, int>& strangers() const { return strangers_; }
  // Processes alive in the process groups of our workers, drained ones included.
  std::vector<pid_t> Survivors() const;

  // A stalled master does not read its status channels.
  void set_read_status(bool on) { read_status_ = on; }
  // What a master does on reload: closes both ends of the channel; later workers get a new one
  // (P41).
  absl::Status Reload();
  // What a dead master leaves: the channel and our copies of the listen sockets are closed.
  void Vanish();
  // Our own end of the current channel, and the workers' end, of which we keep a copy.
  int status_fd() const { return channels_.back().ours.get(); }
  int worker_status_fd() const { return channels_.back().theirs.get(); }

  FlowTokens flow_tokens() { return FlowTokens(flow_read_.get(), flow_write_.get()); }

  // A client: a connected socket in blocking mode. For `pass` the worker is handed the other end of
  // a socket pair, followed by an attribute list.
  absl::StatusOr<UniqueFd> Connect(
      int listen_socket = 0,
      const std::vector<std::pair<std::string, std::string>>& attributes = {});
  // A bare connection to the listen socket, also for `pass`.
  absl::StatusOr<UniqueFd> ConnectRaw(int listen_socket = 0);
  // "127.0.0.1:4711" or a path.
  const std::string& address(int listen_socket = 0) const { return addresses_[listen_socket]; }
  int listen_fd(int listen_socket = 0) const { return listeners_[listen_socket].get(); }

  const TempDir& scratch() const { return scratch_; }
  const std::string& queue_directory() const { return queue_directory_; }

  // Log records of all workers, one per line: "Mmm dd hh:mm:ss host tag[pid]: text"; then what they
  // wrote to standard error.
  std::string Log() const;
  bool LogContains(absl::string_view text) const;

 private:
  struct Channel {
    UniqueFd ours;
    UniqueFd theirs;
  };

  explicit FakeMaster(FakeMasterOptions options);
  absl::Status Prepare();
  absl::Status PrepareDirectories();
  absl::Status PrepareListeners();
  absl::Status AddChannel();
  absl::StatusOr<UniqueFd> ListenUnix(const std::string& path);
  absl::StatusOr<UniqueFd> ListenInet(std::string* address);
  bool ReadMessages();
  void Account(const StatusMessage& message);
  void Reap();
  void DropFinishedPasses();

  FakeMasterOptions options_;
  TempDir scratch_;
  std::string queue_directory_;
  std::string stderr_path_;
  UniqueFd flow_read_;
  UniqueFd flow_write_;
  std::vector<Channel> channels_;
  std::vector<UniqueFd> listeners_;
  std::vector<std::string> addresses_;
  std::vector<UniqueFd> passing_;  // kept until the worker has closed its side (P62)
  std::map<pid_t, Worker> workers_;
  std::map<pid_t, int> strangers_;
  std::vector<StatusMessage> messages_;
  std::vector<std::string> problems_;
  uint32_t next_generation_;
  bool read_status_ = true;
  std::unique_ptr<LogCollector> log_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTING_FAKE_MASTER_H_

// ServiceProcess runs a service's program for a test: by hand, or as a master would, with the
// descriptors and the environment of the worker protocol. Its clients are ServiceClients.
//
// Everything is in a scratch directory: main.cf, the socket, the log of standard error. The process
// is killed and reaped when the object goes.

#ifndef TESTS_EXAMPLES_SERVICE_PROCESS_H_
#define TESTS_EXAMPLES_SERVICE_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/temp_dir.h"

namespace examples {

// One connection; every wait is bounded by 30 s.
class ServiceClient {
 public:
  // Empty when nobody listens there.
  static absl::optional<ServiceClient> Connect(const std::string& socket_path);

  bool Send(absl::string_view data);
  // Without waiting; false when not all of it was taken.
  bool SendNow(absl::string_view data);
  // Up to and including the next empty line; less when the peer closed.
  std::string ReadList();
  // Whether the peer closes without another byte.
  bool AtEnd();
  std::string Ask(absl::string_view list) { return Send(list) ? ReadList() : "cannot send"; }
  void FinishSending();

 private:
  explicit ServiceClient(posthouse::UniqueFd fd) : fd_(std::move(fd)) {}
  bool Fill();
  posthouse::UniqueFd fd_;
  std::string input_;
};

class ServiceProcess {
 public:
  ServiceProcess();
  ~ServiceProcess();
  ServiceProcess(const ServiceProcess&) = delete;
  ServiceProcess& operator=(const ServiceProcess&) = delete;

  // PROGRAM --listen unix:SOCKET -o SETTING ...; true when it answers.
  bool StartByHand(const std::string& program, const std::vector<std::string>& settings);
  // PROGRAM -n NAME -t unix ..., with descriptors 3 to 6 and a generation. The test plays the
  // master: it drops the status messages when told to.
  bool StartUnderMaster(const std::string& program, const std::vector<std::string>& settings);
  void DropStatusMessages();

  ServiceClient Connect();
  // Sends the signal and waits; the wait status.
  int Stop(int signal);
  pid_t pid() const { return pid_; }

  const std::string& socket_path() const { return socket_path_; }
  // What it wrote to standard error.
  std::string Log() const;
  const posthouse::TempDir& directory() const { return directory_; }

 private:
  bool Spawn(std::vector<std::string> arguments, const std::vector<int>& inherited);
  bool WaitUntilItAnswers();

  posthouse::TempDir directory_;
  std::string socket_path_;
  pid_t pid_ = 0;
  posthouse::UniqueFd status_;
  std::vector<posthouse::UniqueFd> kept_;  // the master's ends of the flow pipe
};

}  // namespace examples

#endif  // TESTS_EXAMPLES_SERVICE_PROCESS_H_

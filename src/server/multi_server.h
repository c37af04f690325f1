// multi_server: a daemon that serves many clients in one process, one request at a time.
//
//   #include "posthouse/server/multi_server.h"
//
//   int main(int argc, char** argv) {
//     return posthouse::MultiServerMain(argc, argv, {
//         .serve = [](posthouse::Client& client, posthouse::ServiceContext& context) {
//           std::string line;
//           if (client.TakeLine(&line)) client.Write(line + "\n");
//         },
//     });
//   }
//
// The program runs as a worker of Postfix's stock master (or of ours) exactly as a stock
// multi_server does, command line and environment included, and by itself:
//
//   echo --listen inet:127.0.0.1:7777 --listen unix:/run/echo.sock
//
// The life of the process is a line: options, parameters, pre_init, privileges, post_init, loop,
// exit. docs/porting.md pairs every key of the original with a field here.
//
// Exit status: 0 for every normal end (use limit, idle limit, the master's wish, SIGTERM, drain),
// 1 for a fatal error, SIGABRT for a broken contract (P54, P55).
//
// Thread: one. Fork: see ServiceContext::Drain().

#ifndef POSTHOUSE_SERVER_MULTI_SERVER_H_
#define POSTHOUSE_SERVER_MULTI_SERVER_H_

#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/config/parameter.h"
#include "posthouse/server/client.h"
#include "posthouse/server/service_context.h"

namespace posthouse {

// The answer of pre_accept: go on, or leave the connection in the queue for now (SO20); the hook is
// asked again in a later turn, at most every 100 ms.
enum class PreAccept { kAccept, kNotNow };

struct MultiServerOptions {
  // Called when a client has sent something (S55, S56). Required.
  absl::AnyInvocable<void(Client&, ServiceContext&)> serve;

  // --- The keys of the original (S31, S90 to S96), each with its name in lower case ---

  // INT_TABLE, LONG_TABLE, STR_TABLE, BOOL_TABLE, TIME_TABLE, RAW_TABLE, NINT_TABLE, NBOOL_TABLE:
  // loaded in this order; borrowed, must outlive the call.
  std::vector<Parameter*> parameters;
  // Once, after configuration and options, in the queue directory, before privileges are dropped.
  absl::AnyInvocable<void(ServiceContext&)> pre_init;
  // Once, after privileges are dropped, before any client.
  absl::AnyInvocable<void(ServiceContext&)> post_init;
  // Before every wait; says how long to wait at most, absl::InfiniteDuration() for no limit.
  absl::AnyInvocable<absl::Duration(ServiceContext&)> loop;
  // Just before a normal exit.
  absl::AnyInvocable<void(ServiceContext&)> on_exit;
  // Before each attempt to accept.
  absl::AnyInvocable<PreAccept(ServiceContext&)> pre_accept;
  // A client is connected; the place to send a greeting (S90).
  absl::AnyInvocable<void(Client&, ServiceContext&)> post_accept;
  // At the start of each disconnect, the connection still open (S63).
  absl::AnyInvocable<void(Client&, ServiceContext&)> pre_disconnect;
  // A client is served only after a flow token was taken or in_flow_delay has passed (S51).
  bool in_flow_delay = false;
  // The service must be configured with a process limit of 1, or of 0 (none); without a master
  // neither is enforced.
  bool solitary = false;
  bool unlimited = false;
  // The service must not be configured as unprivileged.
  bool privileged = false;
  // BOUNCE_INIT: called in its place among the keys, between parameters and pre_init (S92).
  absl::AnyInvocable<void(ServiceContext&)> bounce_init;

  // --- What posthouse adds ---

  // The client's open file is not read ahead: serve is called with an empty input() when data is
  // there (FIONREAD), and uses stream() or fd() itself. For services that receive descriptors from
  // their clients or pass the connection on.
  bool leave_input_unread = false;
  // From the first byte of a request until its reply is sent; then the client is ended (SO1, F38).
  absl::Duration request_deadline = absl::InfiniteDuration();
  // A client that is connected and silent for this long, with no request under way, is ended (SO6).
  absl::Duration client_idle_limit = absl::InfiniteDuration();
  // Input of one client that the service does not consume, and output it does not take (F39, F41).
  size_t max_request_bytes = 64 << 10;
  size_t max_output_bytes = 1 << 20;
  // Accepts per listener and turn (SO13), service calls per client and turn (SO3).
  int accepts_per_turn = 16;
  int requests_per_client_and_turn = 8;
  // The lowest number of a client's descriptor; 0 moves none (S43). Not with the select backend.
  int client_fd_threshold = 128;
  // Past the use limit a process with long-lived clients goes on accepting (S66). This long after
  // the limit was reached it drains instead (SO2); infinite: never.
  absl::Duration use_limit_grace = absl::InfiniteDuration();
  // How long present clients may go on when the master went away or reloaded, in a background
  // process as after ServiceContext::Drain(). The default keeps a reload from cutting established
  // clients (F55, F56). Zero: as the original, which ends at once (S87). After SIGTERM it is how
  // long requests that are under way may take; other clients are ended at once (SO15). Requests
  // that are readable are served first in any case (SO7).
  absl::Duration slow_exit_limit = absl::Seconds(10);
  // Called on fatal errors, where on_exit is not (SO19). It must not rely on anything: when the
  // watchdog ends a process that hangs it runs in the signal handler, so it should make
  // async-signal-safe calls alone, and the kernel kills the process 5 s later (S72).
  absl::AnyInvocable<void(absl::string_view reason)> last_resort;

  // For --help and --version.
  std::string description;
  std::string version;
};

// Runs the process; returns its exit status when it has come to a normal end or could not start.
int MultiServerMain(int argc, char** argv, MultiServerOptions options);

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_MULTI_SERVER_H_

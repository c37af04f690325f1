// main() of every echo server of the benchmark:
//
//   echo_CONTENDER [NAME=VALUE ...]
//
// Listens on a free port of 127.0.0.1, prints "port=N pid=N", sends back what clients send, and
// ends at SIGTERM. At SIGUSR1 it prints requests, connections opened and closed, the bytes that
// malloc() has given out, and the CPU time used; to be sent only while the server is idle. Exit
// status 3 and "unsupported": it cannot do what was asked for.

#include <signal.h>
#include <sys/prctl.h>

#include "bench/echo/echo_io.h"

int main(int argc, char** argv) {
  // Whoever started it is gone: so is the measurement.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  EchoIo::Get().Start(argc, argv);
  Serve();
}

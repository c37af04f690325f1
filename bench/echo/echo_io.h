// EchoIo is what the echo servers of the benchmark have in common, so that they differ in their
// event library and in nothing else: the listen socket, accepting, and, for those that do their own
// reading and writing, one step of echo.
//
//   EchoIo& io = EchoIo::Get();
//   switch (io.OnReadable(fd)) { case EchoStep::kWaitForWrite: ... }
//
// A server is a file that defines Serve(); main() is in echo_main.cc. Serve() watches
// io.listen_fd() and does not return: SIGTERM ends the process.
//
// An idle connection has no buffer: everything is read into one that is shared. What the kernel
// does not take is kept by descriptor number until it does, which happens only when a client does
// not read; meanwhile nothing is read from that client.
//
// State: one object per process, because the signal handler that reports has no argument.
// Thread: one. Errors: the environment's end the process with a message; a connection's end the
// connection.

#ifndef BENCH_ECHO_ECHO_IO_H_
#define BENCH_ECHO_ECHO_IO_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>

// What a connection waits for next. After kEnd its owner ends the watch and calls Close().
enum class EchoStep { kWaitForRead, kWaitForWrite, kEnd };

class EchoIo {
 public:
  static EchoIo& Get();

  // For main(): takes the arguments, listens, and sets the answers to signals.
  void Start(int argc, char** argv);

  // The arguments of the command line, "name=value"; `otherwise` if there is none. A name that
  // nobody has asked for by the time of Ready() is an error.
  std::string Setting(const std::string& name, const std::string& otherwise);

  // Says on standard output that the server is up: "port=N pid=N". To be called when everything but
  // the loop itself is done.
  void Ready();

  int listen_fd() const { return listen_fd_; }

  // Accepts one connection, non-blocking and close-on-exec. -1: nobody is waiting.
  int Accept();
  // How many to accept in one event, so that accepting does not starve the connections.
  static constexpr int kAcceptsPerEvent = 64;

  // One step of a non-blocking descriptor that is readable, or writable after kWaitForWrite.
  EchoStep OnReadable(int fd);
  EchoStep OnWritable(int fd);
  void Close(int fd);
  // Close() for servers whose library closes the descriptor, just after this.
  void Forget(int fd);

  // For servers whose library reads and writes: the counting that the steps above do themselves.
  void CountRequest() { ++requests_; }
  void CountOpened() { ++opened_; }
  void CountClosed() { ++closed_; }

  // Where those may read to, when their library lets them choose.
  static constexpr size_t kBufferSize = 16 * 1024;
  char* buffer() { return buffer_; }

 private:
  EchoIo() = default;
  void ParseSettings(int argc, char** argv);
  void Listen();
  void CatchSignals();
  static void OnSignal(int signal);
  void Report();

  int listen_fd_ = -1;
  int port_ = 0;
  uint64_t requests_ = 0;
  uint64_t opened_ = 0;
  uint64_t closed_ = 0;
  std::map<std::string, std::string> settings_;
  std::unordered_map<int, std::string> unsent_;
  char buffer_[kBufferSize];
};

// Ends the process with a message: the environment failed.
[[noreturn]] void EchoFail(const std::string& message);
// Ends the process with status 3: this server cannot do what it was asked for.
[[noreturn]] void EchoUnsupported(const std::string& reason);

// What each server defines.
[[noreturn]] void Serve();

#endif  // BENCH_ECHO_ECHO_IO_H_

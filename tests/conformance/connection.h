// Connection is the client side of a socket as the tests use it: blocking, with a deadline for
// every operation, independent of the library under test.
//
// Thread: one at a time; different connections may be used by different threads.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_CONNECTION_H_
#define POSTHOUSE_TESTS_CONFORMANCE_CONNECTION_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse::conformance {

class Connection {
 public:
  // Within the loopback network.
  static absl::StatusOr<Connection> Tcp(int port, absl::string_view source = "127.0.0.1",
                                        absl::string_view destination = "127.0.0.1");
  // To ::1.
  static absl::StatusOr<Connection> Tcp6(int port);
  static absl::StatusOr<Connection> Unix(const std::string& path);
  explicit Connection(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  void set_limit(absl::Duration limit) { limit_ = limit; }

  absl::Status Write(absl::string_view data);
  // A line without LF or CR LF. kOutOfRange at the end of input, kDeadlineExceeded after the limit.
  absl::StatusOr<std::string> ReadLine();
  // Up to and without `terminator`, which is consumed.
  absl::StatusOr<std::string> ReadUntil(absl::string_view terminator);
  // Everything until the peer closes or resets.
  absl::StatusOr<std::string> ReadToEnd();
  // Writes the line with an LF and reads one line.
  absl::StatusOr<std::string> Ask(absl::string_view line);
  // Whether the peer has closed, within `bound`; data that arrives meanwhile is kept.
  bool ClosedWithin(absl::Duration bound);
  // No more output; input still arrives.
  void ShutdownWrite();
  void Close() { fd_.Reset(); }

  // One byte with `passed` attached, and then `attributes` (P60, P64).
  absl::Status PassDescriptor(int passed, absl::string_view attributes);

 private:
  // Adds what arrives before `end` to buffer_; false at the end of input.
  absl::StatusOr<bool> Fill(absl::Time end);

  UniqueFd fd_;
  std::string buffer_;
  absl::Duration limit_ = absl::Seconds(30);
};

// An attribute list in the NUL format (D2): name, NUL, value, NUL, and a final NUL.
std::string NulAttributes(
    std::initializer_list<std::pair<absl::string_view, absl::string_view>> attributes);

// A connected TCP pair over the loopback network: first the end that connected, then the accepted.
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> TcpPair();

// A loopback port that nobody listens on now.
int FreePort();

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_CONNECTION_H_

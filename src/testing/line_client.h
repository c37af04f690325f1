// LineClient is one connection of a test to a service that speaks lines; every wait has a bound.
//
//   LineClient client(std::move(fd));
//   EXPECT_EQ(client.Ask("ECHO hi"), "hi");
//
// It is for stream sockets, and never blocks for longer than it is told.

#ifndef POSTHOUSE_TESTING_LINE_CLIENT_H_
#define POSTHOUSE_TESTING_LINE_CLIENT_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/event_wait.h"

namespace posthouse {

class LineClient {
 public:
  LineClient() = default;
  explicit LineClient(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }
  // Whether all of it went out within the generous bound.
  bool Send(absl::string_view data);
  // What the kernel takes now; the number of bytes.
  size_t SendSome(absl::string_view data);
  // The next line without its end; "<closed>" at the end of the stream, "<timeout>" after `bound`.
  std::string ReadLine(absl::Duration bound = kGenerousBound);
  // Send() a line and ReadLine(); "<closed>" also when it could not be sent.
  std::string Ask(absl::string_view line, absl::Duration bound = kGenerousBound);
  // Whether the service has closed within the bound; unread data is dropped.
  bool WaitClosed(absl::Duration bound = kGenerousBound);
  // Whether nothing comes for `time`.
  bool IsQuiet(absl::Duration time);
  void CloseWrite();
  void Close() { fd_.Reset(); }
  // Ends the connection with a reset where the transport has one.
  void Abort();

 private:
  UniqueFd fd_;
  std::string buffer_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_TESTING_LINE_CLIENT_H_

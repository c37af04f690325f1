// LocalLogSocket is a connection to a log daemon on a UNIX socket: made before a chroot, kept over
// it, made again when the daemon was restarted, and never waited for.
//
// Thread, fork: one; a child goes on with the parent's connection, which for datagrams is as good
// as its own.

#ifndef POSTHOUSE_LOG_LOCAL_LOG_SOCKET_H_
#define POSTHOUSE_LOG_LOCAL_LOG_SOCKET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

class LocalLogSocket {
 public:
  enum class Outcome { kSent, kLater, kRefused };

  // `paths` are tried in their order. With `stream_too` a socket that takes no datagrams is used
  // as a stream, where each message ends with a NUL byte. Connects at once.
  LocalLogSocket(std::vector<std::string> paths, bool stream_too);

  // One message. `*sent` counts what a stream took of it; it is set to zero when the connection
  // had to be made anew and the message starts again.
  Outcome Send(absl::string_view message, size_t* sent);

  // -1 while there is no connection.
  int fd() const { return fd_.get(); }
  bool is_stream() const { return is_stream_; }

 private:
  bool Connect();
  Outcome SendOnce(absl::string_view message, size_t* sent);

  std::vector<std::string> paths_;
  bool stream_too_;
  UniqueFd fd_;
  bool is_stream_ = false;
  int64_t next_connect_ns_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_LOCAL_LOG_SOCKET_H_

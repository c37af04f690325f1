// LocalLogSocket is a connection to a log daemon on a UNIX socket: made before a chroot, kept over
// it, made again when the daemon was restarted, and never waited for.
//
// Thread, fork: one; a child goes on with the parent's connection, which for datagrams is as good
// as its own.

#ifndef POSTHOUSE_LOG_LOCAL_LOG_SOCKET_H_
#define POSTHOUSE_LOG_LOCAL_LOG_SOCKET_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

class LocalLogSocket {
 public:
  enum class Outcome { kSent, kLater, kRefused };

  // What ends a message of a stream.
  static constexpr char kSeparator = '\0';

  // `paths` are tried in their order. With `stream_too` a socket that takes no datagrams is used
  // as a stream, where each message ends with a NUL byte. Connects at once.
  LocalLogSocket(std::vector<std::string> paths, bool stream_too);

  // One message. `*sent` counts what a stream took of it; it is set to zero when the connection
  // had to be made anew and the message starts again.
  Outcome Send(absl::string_view message, size_t* sent);

  // Async-signal-safe: one send(2) that does not block, on the connection that there is; nothing
  // happens when there is none. `message` ends with kSeparator, which a datagram leaves out.
  void SendEmergency(absl::string_view message);

  // Async-signal-safe: whether a stream has taken a part of a message and not its end.
  bool torn() const { return torn_.load(); }

  // -1 while there is no connection.
  int fd() const { return fd_.get(); }
  bool is_stream() const { return is_stream_; }

 private:
  bool Connect();
  void Disconnect();
  Outcome SendOnce(absl::string_view message, size_t* sent);

  std::vector<std::string> paths_;
  bool stream_too_;
  UniqueFd fd_;
  bool is_stream_ = false;
  int64_t next_connect_ns_ = 0;
  // The connection as handlers see it: set when it stands, taken back before it is closed.
  std::atomic<int> emergency_fd_{-1};
  std::atomic<bool> torn_{false};
  static_assert(std::atomic<int>::is_always_lock_free, "a handler must not wait for a lock");
};

}  // namespace posthouse

#endif  // POSTHOUSE_LOG_LOCAL_LOG_SOCKET_H_

// Stream is a buffered byte stream over one descriptor, or over two for standard input and output.
//
// Input and output have separate buffers: writing never loses what was read ahead (SO3). Nothing
// here ever blocks in read(2) or write(2), whatever the descriptor's mode is (F14): sockets are
// used with MSG_DONTWAIT, everything else is polled first. The operations come in two kinds:
//
//  - for event-driven code: Fill() and TryFlush() do one bounded step and return at once;
//  - for code that may wait: ReadLine(), ReadExactly(), Write() and Flush() wait with poll(2), at
//    most `operation_timeout` for each underlying transfer (S49) and never beyond the deadline of
//    set_deadline(), if there is one.
//
// Errors: kDeadlineExceeded for a time limit, kOutOfRange for the end of input, kResourceExhausted
// for a line or a buffer over its bound, otherwise the errno of the call, with the stream's name.
// The first error of a direction that comes from the kernel or from a time limit stays: later
// operations in it answer the same.
//
// An idle stream holds no buffers: they are given back when they become empty.
//
// Thread: one. Fork: both processes hold the same open file and their own copy of the buffers.
// Ownership: owns the descriptors it is given by UniqueFd.

#ifndef POSTHOUSE_IO_STREAM_H_
#define POSTHOUSE_IO_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

class Stream {
 public:
  // The size of one read and the amount of output that Write() collects before it starts to send.
  static constexpr size_t kBufferSize = 4096;

  // `name` appears in errors: "policy socket" (S48).
  Stream(UniqueFd fd, std::string name);
  // Reads one descriptor and writes the other, for a session on standard input and output (S77).
  Stream(UniqueFd input, UniqueFd output, std::string name);
  ~Stream();
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;

  int fd() const { return input_fd_.get(); }
  int output_fd() const { return output_fd_.valid() ? output_fd_.get() : input_fd_.get(); }
  const std::string& name() const { return name_; }

  // Limit of each wait; absl::InfiniteDuration() for none. REQUIRES: timeout > 0 (S49).
  void set_operation_timeout(absl::Duration timeout);
  // A steady moment (os::SteadyNanos()) that no wait goes beyond; 0 for none.
  void set_deadline_ns(int64_t deadline_ns) { deadline_ns_ = deadline_ns; }
  // The most that input() and unsent output may hold; Fill() stops there, Write() fails there when
  // the peer takes nothing. Default 1 MiB each.
  void set_max_input(size_t bytes) { max_input_ = bytes; }
  void set_max_output(size_t bytes) { max_output_ = bytes; }

  // --- Event-driven use ---

  enum class FillResult {
    kData,        // something was added to input()
    kWouldBlock,  // nothing there now
    kEnd,         // the peer has closed its side; input() may still hold data
    kFull,        // input() is at its bound; consume some first
  };
  // One read of at most `limit` bytes, and never more than kBufferSize.
  absl::StatusOr<FillResult> Fill(size_t limit = kBufferSize);

  // What has been read and not consumed; valid until the next call that reads or consumes.
  absl::string_view input() const;
  // Drops the first `bytes` of input(). REQUIRES: bytes <= input().size().
  void Consume(size_t bytes);
  bool at_end() const { return at_end_; }
  // How many bytes were ever consumed, by whatever operation: tells whether a service that was
  // called has made progress.
  uint64_t consumed_total() const { return consumed_total_; }

  // Moves the next line of input() into `*line`, without its terminator (LF or CR LF); false while
  // none is complete. Never reads.
  bool TakeLine(std::string* line);

  // Appends to the output without sending. kResourceExhausted over the bound, nothing appended.
  absl::Status Append(absl::string_view data);
  // Sends what the kernel takes now; true when nothing is left.
  absl::StatusOr<bool> TryFlush();
  size_t unsent() const;
  // The memory that both buffers hold; 0 for an idle stream.
  size_t buffer_bytes() const;

  // --- Use that may wait ---

  // A line without its terminator. kResourceExhausted when it is longer than `max_length`; what
  // has arrived of it so far is not lost, unless it is complete: then it is dropped, and the next
  // line can be read. kOutOfRange at the end of input; an unfinished last line stays in input().
  absl::StatusOr<std::string> ReadLine(size_t max_length);
  absl::StatusOr<std::string> ReadExactly(size_t bytes);
  // Waits until at least one byte is in input().
  absl::Status WaitForInput();
  // Appends, and sends when more than a buffer has collected.
  absl::Status Write(absl::string_view data);
  // Sends everything.
  absl::Status Flush();

  // Closes; unsent output is dropped, so Flush() first.
  void Close();

 private:
  absl::Status WaitFor(int fd, short events, absl::string_view operation);
  // Waits until something was added to input(); kOutOfRange at its end.
  absl::Status FillOrWait();

  UniqueFd input_fd_;
  UniqueFd output_fd_;  // empty: the same as input_fd_
  std::string name_;
  std::string input_;
  size_t consumed_ = 0;  // how much of input_ is used up
  uint64_t consumed_total_ = 0;
  size_t scanned_ = 0;  // how much of input() is known to hold no end of line
  std::string output_;
  size_t sent_ = 0;  // how much of output_ is sent
  size_t max_input_ = 1 << 20;
  size_t max_output_ = 1 << 20;
  absl::Duration operation_timeout_ = absl::InfiniteDuration();
  int64_t deadline_ns_ = 0;
  bool at_end_ = false;
  bool input_is_socket_ = true;
  bool output_is_socket_ = true;
  absl::Status input_error_;
  absl::Status output_error_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_IO_STREAM_H_

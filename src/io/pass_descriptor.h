// Handing an open descriptor to another process over a local stream socket, as Postfix does for
// services of type `pass` (P60 to P64).
//
// On the wire: one data byte of value 0 that carries one descriptor; newer versions follow it with
// an attribute list, name NUL value NUL ... NUL (client_address, client_port, server_address,
// server_port).
//
//   PassReceiver receiver(std::move(connection), /*expect_attributes=*/true);
//   // whenever the connection is readable, and once at the start:
//   absl::StatusOr<bool> done = receiver.Step();
//   if (!done.ok()) drop it; else if (*done) Serve(receiver.TakeDescriptor(), ...);
//
// Nothing here blocks or waits (SO5); deadlines are the caller's.
// Thread: one. Ownership: as the types say.

#ifndef POSTHOUSE_IO_PASS_DESCRIPTOR_H_
#define POSTHOUSE_IO_PASS_DESCRIPTOR_H_

#include <cstddef>
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {

// Sends a copy of `fd` over `connection`; both are borrowed. The sender should keep the connection
// open until the other side closes it (P62). kUnavailable: the connection is full for now.
absl::Status SendDescriptor(int connection, int fd);

// Takes one descriptor from `connection`; nothing while no message is there. The descriptor is
// close-on-exec from the start; its mode is the sender's, whose open file it is (S45).
// kOutOfRange: the peer closed. kInvalidArgument: the message did not carry exactly one
// descriptor, was cut, or carried something else (P61, PO9); whatever it carried is closed (F43).
// Others: recvmsg(2) failed.
absl::StatusOr<absl::optional<UniqueFd>> ReceiveDescriptor(int connection);

// Reads an attribute list from pieces of bytes, wherever they come from.
class AttributeListParser {
 public:
  // The list is bounded so that a sender cannot make us grow (F41).
  static constexpr size_t kMaxAttributes = 64;
  static constexpr size_t kMaxNameSize = 128;
  static constexpr size_t kMaxValueSize = 2048;

  // Uses `bytes` up to the end of the list; returns how many were used. kInvalidArgument: a bound
  // is exceeded or a name comes twice; the parser is then of no further use.
  absl::StatusOr<size_t> Feed(absl::string_view bytes);
  // Something was fed.
  bool begun() const { return begun_; }
  // The closing NUL was seen.
  bool complete() const { return complete_; }
  // REQUIRES: complete(). Empty for an empty list.
  const std::map<std::string, std::string>& attributes() const { return attributes_; }

 private:
  absl::Status EndOfString();

  bool begun_ = false;
  bool in_value_ = false;
  bool complete_ = false;
  bool failed_ = false;
  std::string name_;
  std::string value_;
  std::map<std::string, std::string> attributes_;
};

// One `pass` connection from accept to the descriptor and its attributes.
class PassReceiver {
 public:
  PassReceiver(UniqueFd connection, bool expect_attributes);

  int fd() const { return connection_.get(); }
  // Takes what is there now. True: all has come. False: watch fd() for reading and call again.
  // An error ends it; see ReceiveDescriptor() and AttributeListParser.
  absl::StatusOr<bool> Step();

  // How far it has come, for callers that do not wait for a list that does not begin (P67).
  bool has_descriptor() const { return has_descriptor_; }
  bool attributes_begun() const { return parser_.begun(); }

  // REQUIRES: has_descriptor(). The descriptor is in the sender's mode.
  UniqueFd TakeDescriptor() { return std::move(descriptor_); }
  const std::map<std::string, std::string>& attributes() const { return parser_.attributes(); }

 private:
  absl::StatusOr<bool> StepAttributes();

  UniqueFd connection_;
  UniqueFd descriptor_;
  bool has_descriptor_ = false;
  bool expect_attributes_;
  AttributeListParser parser_;
};

}  // namespace posthouse

#endif  // POSTHOUSE_IO_PASS_DESCRIPTOR_H_

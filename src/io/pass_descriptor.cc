#include "posthouse/io/pass_descriptor.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// Linux puts at most 253 descriptors into one message. Room for all of them and some more makes
// sure that what a sender attaches is ours to close and not lost in a cut control buffer.
constexpr size_t kMaxDescriptorsPerMessage = 253;
constexpr size_t kControlSize = CMSG_SPACE(kMaxDescriptorsPerMessage * sizeof(int)) + 256;

// How much of an attribute list is read at once and how often per step.
constexpr size_t kAttributeReadSize = 1024;
constexpr int kAttributeReadsPerStep = 16;

// What one message carried.
struct Received {
  UniqueFd first;
  int descriptors = 0;
  bool foreign = false;  // a control block of another kind
};

// Takes every descriptor of the message into ownership, whatever will be thought of it; all but
// the first are closed.
Received CollectDescriptors(msghdr* message) {
  Received received;
  for (cmsghdr* block = CMSG_FIRSTHDR(message); block != nullptr;
       block = CMSG_NXTHDR(message, block)) {
    if (block->cmsg_level != SOL_SOCKET || block->cmsg_type != SCM_RIGHTS) {
      received.foreign = true;
      continue;
    }
    const size_t bytes = block->cmsg_len - CMSG_LEN(0);
    for (size_t offset = 0; offset + sizeof(int) <= bytes; offset += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(block) + offset, sizeof(fd));
      UniqueFd owned(fd);
      if (received.descriptors++ == 0) received.first = std::move(owned);
    }
  }
  return received;
}

absl::Status Refused(int connection, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("descriptor message on connection ", connection, " ", why));
}

}  // namespace

absl::Status SendDescriptor(int connection, int fd) {
  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* block = CMSG_FIRSTHDR(&message);
  block->cmsg_level = SOL_SOCKET;
  block->cmsg_type = SCM_RIGHTS;
  block->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(block), &fd, sizeof(fd));

  ssize_t sent;
  do {
    sent = os::Sendmsg(connection, &message, MSG_DONTWAIT | os::kMsgNosignal);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("sendmsg of descriptor ", fd, " on connection ", connection));
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::optional<UniqueFd>> ReceiveDescriptor(int connection) {
  char byte = 0;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[kControlSize];
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t count;
  do {
    message.msg_controllen = sizeof(control);
    count = os::Recvmsg(connection, &message, MSG_DONTWAIT | os::kMsgCmsgCloexec);
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return absl::optional<UniqueFd>();
    return absl::ErrnoToStatus(errno, absl::StrCat("recvmsg on connection ", connection));
  }

  Received received = CollectDescriptors(&message);
  if (count == 0) {
    return absl::OutOfRangeError(
        absl::StrCat("connection ", connection, " was closed before a descriptor came"));
  }
  if (message.msg_flags & MSG_CTRUNC) return Refused(connection, "was cut");
  if (received.foreign) return Refused(connection, "carries an unknown control block");
  if (received.descriptors != 1) {
    return Refused(connection,
                   absl::StrCat("carries ", received.descriptors, " descriptors and not one"));
  }
  return absl::optional<UniqueFd>(std::move(received.first));
}

absl::Status AttributeListParser::EndOfString() {
  if (!in_value_) {
    if (name_.empty()) {
      complete_ = true;
      return absl::OkStatus();
    }
    if (attributes_.size() == kMaxAttributes) {
      return absl::InvalidArgumentError(
          absl::StrCat("attribute list has more than ", kMaxAttributes, " attributes"));
    }
    if (attributes_.count(name_) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("attribute \"", absl::CEscape(name_), "\" comes twice"));
    }
    in_value_ = true;
    return absl::OkStatus();
  }
  attributes_.emplace(std::move(name_), std::move(value_));
  name_.clear();
  value_.clear();
  in_value_ = false;
  return absl::OkStatus();
}

absl::StatusOr<size_t> AttributeListParser::Feed(absl::string_view bytes) {
  if (failed_) return absl::InvalidArgumentError("attribute list is broken");
  begun_ = begun_ || !bytes.empty();
  size_t used = 0;
  while (!complete_ && used < bytes.size()) {
    const absl::string_view rest = bytes.substr(used);
    const size_t end = rest.find('\0');
    const absl::string_view piece = rest.substr(0, end);
    std::string& target = in_value_ ? value_ : name_;
    if (piece.size() > (in_value_ ? kMaxValueSize : kMaxNameSize) - target.size()) {
      failed_ = true;
      return absl::InvalidArgumentError(absl::StrCat(
          "attribute ", in_value_ ? "value" : "name", " is too long: \"",
          absl::CEscape(name_.empty() ? piece.substr(0, 40) : name_.substr(0, 40)), "...\""));
    }
    target.append(piece.data(), piece.size());
    used += piece.size();
    if (end == absl::string_view::npos) break;
    ++used;
    absl::Status status = EndOfString();
    if (!status.ok()) {
      failed_ = true;
      return status;
    }
  }
  return used;
}

PassReceiver::PassReceiver(UniqueFd connection, bool expect_attributes)
    : connection_(std::move(connection)), expect_attributes_(expect_attributes) {}

absl::StatusOr<bool> PassReceiver::Step() {
  if (!has_descriptor_) {
    absl::StatusOr<absl::optional<UniqueFd>> received = ReceiveDescriptor(connection_.get());
    if (!received.ok()) return received.status();
    if (!received->has_value()) return false;
    descriptor_ = std::move(**received);
    has_descriptor_ = true;
  }
  return expect_attributes_ ? StepAttributes() : true;
}

absl::StatusOr<bool> PassReceiver::StepAttributes() {
  for (int reads = 0; reads < kAttributeReadsPerStep && !parser_.complete(); ++reads) {
    char buffer[kAttributeReadSize];
    // Descriptors that a peer attaches here have no control buffer to land in; the kernel drops
    // them.
    const ssize_t count = os::Recv(connection_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (count < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("recv on connection ", connection_.get()));
    }
    if (count == 0) {
      return absl::OutOfRangeError(
          absl::StrCat("connection ", connection_.get(), " was closed within the attribute list"));
    }
    absl::StatusOr<size_t> used = parser_.Feed(absl::string_view(buffer, count));
    if (!used.ok()) return used.status();
  }
  return parser_.complete();
}

}  // namespace posthouse

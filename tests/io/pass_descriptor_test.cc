#include "posthouse/io/pass_descriptor.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

constexpr absl::StatusCode kRefused = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kClosed = absl::StatusCode::kOutOfRange;

ino_t InodeOf(int fd) {
  struct stat found = {};
  return fstat(fd, &found) == 0 ? found.st_ino : 0;
}

// Sends `data` with one control block per list of descriptors.
void SendBlocks(int connection, absl::string_view data, const std::vector<std::vector<int>>& blocks,
                int type = SCM_RIGHTS) {
  std::string control;
  for (const std::vector<int>& fds : blocks) {
    const size_t begin = control.size();
    const size_t size = fds.size() * sizeof(int);
    control.resize(begin + CMSG_SPACE(size));
    cmsghdr header = {};
    header.cmsg_level = SOL_SOCKET;
    header.cmsg_type = type;
    header.cmsg_len = CMSG_LEN(size);
    std::memcpy(&control[begin], &header, sizeof(header));
    std::memcpy(&control[begin + CMSG_LEN(0)], fds.data(), size);
  }
  iovec part = {const_cast<char*>(data.data()), data.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.empty() ? nullptr : control.data();
  message.msg_controllen = control.size();
  ASSERT_EQ(sendmsg(connection, &message, 0), static_cast<ssize_t>(data.size())) << strerror(errno);
}

class PassDescriptorTest : public testing::Test {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    sender_.Reset(pair[0]);
    receiver_.Reset(pair[1]);
    file_.Reset(open("/dev/null", O_RDWR | O_CLOEXEC));
    before_ = FdSnapshot::Take();
  }
  void ExpectNothingLeft() { EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before_), ""); }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  UniqueFd sender_;
  UniqueFd receiver_;
  UniqueFd file_;
  FdSnapshot before_;
};

TEST_F(PassDescriptorTest, P60_P61_ADescriptorArrivesAndIsCloseOnExec) {
  ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
  absl::StatusOr<absl::optional<UniqueFd>> received = ReceiveDescriptor(receiver_.get());
  ASSERT_THAT(received, IsOk());
  ASSERT_TRUE(received->has_value());
  const int fd = (*received)->get();
  EXPECT_NE(fd, file_.get());
  EXPECT_EQ(InodeOf(fd), InodeOf(file_.get()));
  EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << "SO12";
}

TEST_F(PassDescriptorTest, P60_TheMessageIsOneZeroByteWithOneBlock) {
  ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
  char data[8] = "xxxxxxx";
  iovec part = {data, sizeof(data)};
  alignas(cmsghdr) char control[256];
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ASSERT_EQ(recvmsg(receiver_.get(), &message, 0), 1);
  EXPECT_EQ(data[0], '\0');
  cmsghdr* block = CMSG_FIRSTHDR(&message);
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(block->cmsg_level, SOL_SOCKET);
  EXPECT_EQ(block->cmsg_type, SCM_RIGHTS);
  EXPECT_EQ(block->cmsg_len, CMSG_LEN(sizeof(int)));
  EXPECT_EQ(CMSG_NXTHDR(&message, block), nullptr);
  int fd;
  std::memcpy(&fd, CMSG_DATA(block), sizeof(fd));
  close(fd);
}

TEST_F(PassDescriptorTest, SO5_ASilentSenderIsNotWaitedFor) {
  absl::StatusOr<absl::optional<UniqueFd>> received = ReceiveDescriptor(receiver_.get());
  ASSERT_THAT(received, IsOk());
  EXPECT_FALSE(received->has_value());
}

TEST_F(PassDescriptorTest, P61_AClosedSenderIsADefinedError) {
  sender_.Reset();
  EXPECT_THAT(ReceiveDescriptor(receiver_.get()), StatusIs(kClosed));
}

TEST_F(PassDescriptorTest, F43_AMessageWithoutADescriptorIsRefused) {
  SendBlocks(sender_.get(), "x", {});
  EXPECT_THAT(ReceiveDescriptor(receiver_.get()), StatusIs(kRefused, HasSubstr("0 descriptors")));
  ExpectNothingLeft();
}

TEST_F(PassDescriptorTest, P63_F43_PO9_SurplusDescriptorsAreAllClosed) {
  for (size_t count : {2, 3, 100, 253}) {
    SendBlocks(sender_.get(), "x", {std::vector<int>(count, file_.get())});
    EXPECT_THAT(ReceiveDescriptor(receiver_.get()), StatusIs(kRefused));
    ExpectNothingLeft();
  }
}

TEST_F(PassDescriptorTest, F43_TwoControlBlocksAreRefusedAndClosed) {
  SendBlocks(sender_.get(), "x", {{file_.get()}, {file_.get()}});
  EXPECT_THAT(ReceiveDescriptor(receiver_.get()), StatusIs(kRefused));
  ExpectNothingLeft();
}

TEST_F(PassDescriptorTest, F43_ForeignControlBlocksAreRefusedAndTheDescriptorClosed) {
  // Credentials come first if the receiving socket asks for them, whoever made it so.
  const int on = 1;
  ASSERT_EQ(setsockopt(receiver_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
  ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
  EXPECT_THAT(ReceiveDescriptor(receiver_.get()), StatusIs(kRefused, HasSubstr("unknown control")));
  ExpectNothingLeft();
}

TEST_F(PassDescriptorTest, F43_AnInjectedMessageIsJudgedByLevelTypeAndTruncation) {
  // A message that our table of descriptors has no room for arrives cut.
  rlimit limit, lower;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  lower = limit;
  lower.rlim_cur = 3 + before_.size();
  SendBlocks(sender_.get(), "x", {std::vector<int>(50, file_.get())});
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lower), 0);
  EXPECT_THAT(ReceiveDescriptor(receiver_.get()), StatusIs(kRefused, HasSubstr("was cut")));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  ExpectNothingLeft();
}

TEST_F(PassDescriptorTest, F43_AHundredThousandOddMessagesLeaveTheCountConstant) {
  const int rounds = getenv("POSTHOUSE_FULL") != nullptr ? 20000 : 500;
  for (int i = 0; i < rounds; ++i) {
    SendBlocks(sender_.get(), "x", {});
    SendBlocks(sender_.get(), "x", {{file_.get(), sender_.get()}});
    SendBlocks(sender_.get(), "x", {std::vector<int>(253, file_.get())});
    SendBlocks(sender_.get(), "x", {{file_.get()}, {file_.get()}});
    ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
    for (int k = 0; k < 4; ++k) ASSERT_THAT(ReceiveDescriptor(receiver_.get()), StatusIs(kRefused));
    absl::StatusOr<absl::optional<UniqueFd>> good = ReceiveDescriptor(receiver_.get());
    ASSERT_THAT(good, IsOk());
    ASSERT_TRUE(good->has_value()) << "framing is not lost";
  }
  ExpectNothingLeft();
}

TEST_F(PassDescriptorTest, F8_InterruptedCallsAreRepeated) {
  system_->FailOnce(SystemCall::kSendmsg, EINTR);
  system_->FailOnce(SystemCall::kRecvmsg, EINTR);
  ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
  absl::StatusOr<absl::optional<UniqueFd>> received = ReceiveDescriptor(receiver_.get());
  ASSERT_THAT(received, IsOk());
  EXPECT_TRUE(received->has_value());
}

TEST_F(PassDescriptorTest, ErrorsOfTheCallsHaveTheirErrno) {
  system_->FailOnce(SystemCall::kRecvmsg, ECONNRESET);
  EXPECT_THAT(ReceiveDescriptor(receiver_.get()), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(SendDescriptor(sender_.get(), 9999), StatusIs(absl::StatusCode::kFailedPrecondition));
  receiver_.Reset();
  EXPECT_THAT(SendDescriptor(sender_.get(), file_.get()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("Broken pipe")))
      << "and no SIGPIPE (F28)";
}

// --- The attribute list ---

constexpr char kListBytes[] =
    "client_address\0"
    "127.0.0.1\0"
    "client_port\0"
    "4711\0"
    "empty\0"
    "\0";  // and the closing NUL of the literal
constexpr absl::string_view kList(kListBytes, sizeof(kListBytes));

TEST(AttributeListParserTest, P64_AListIsRead) {
  AttributeListParser parser;
  EXPECT_THAT(parser.Feed(kList), IsOkAndHolds(kList.size()));
  EXPECT_TRUE(parser.complete());
  EXPECT_THAT(parser.attributes(), ElementsAre(Pair("client_address", "127.0.0.1"),
                                               Pair("client_port", "4711"), Pair("empty", "")));
}

TEST(AttributeListParserTest, P64_AnEmptyListIsOneByte) {
  AttributeListParser parser;
  EXPECT_THAT(parser.Feed(absl::string_view("\0rest", 5)), IsOkAndHolds(1u));
  EXPECT_TRUE(parser.complete());
  EXPECT_THAT(parser.attributes(), IsEmpty());
  EXPECT_THAT(parser.Feed("more"), IsOkAndHolds(0u)) << "what follows is not the list's";
}

TEST(AttributeListParserTest, F40_EverySplitIsTheSame) {
  for (size_t first = 0; first <= kList.size(); ++first) {
    for (size_t second = first; second <= kList.size(); ++second) {
      AttributeListParser parser;
      EXPECT_THAT(parser.Feed(kList.substr(0, first)), IsOkAndHolds(first));
      EXPECT_EQ(parser.complete(), first == kList.size());
      EXPECT_THAT(parser.Feed(kList.substr(first, second - first)), IsOk());
      EXPECT_THAT(parser.Feed(kList.substr(second)), IsOk());
      EXPECT_TRUE(parser.complete());
      EXPECT_EQ(parser.attributes().size(), 3u);
    }
  }
}

TEST(AttributeListParserTest, F41_EveryBoundIsExact) {
  const std::string name(AttributeListParser::kMaxNameSize, 'n');
  const std::string value(AttributeListParser::kMaxValueSize, 'v');
  const std::string nul(1, '\0');
  AttributeListParser good, long_name, long_value;
  EXPECT_THAT(good.Feed(name + nul + value + nul + nul), IsOk());
  EXPECT_TRUE(good.complete());
  EXPECT_THAT(long_name.Feed(name), IsOk());
  EXPECT_THAT(long_name.Feed("n"), StatusIs(kRefused, HasSubstr("name is too long")));
  EXPECT_THAT(long_name.Feed(nul), StatusIs(kRefused));
  EXPECT_THAT(long_value.Feed("a" + nul + value + "v"), StatusIs(kRefused, HasSubstr("\"a...\"")));

  std::string list;
  for (size_t i = 0; i < AttributeListParser::kMaxAttributes; ++i) {
    list += std::to_string(i) + nul + "x" + nul;
  }
  AttributeListParser full, over;
  EXPECT_THAT(full.Feed(list + nul), IsOk());
  EXPECT_EQ(full.attributes().size(), AttributeListParser::kMaxAttributes);
  EXPECT_THAT(over.Feed(list + "one more" + nul), StatusIs(kRefused, HasSubstr("more than 64")));
}

TEST(AttributeListParserTest, ANameThatComesTwiceIsRefused) {
  AttributeListParser parser;
  EXPECT_THAT(parser.Feed(absl::string_view("a\0x\0a\0y\0\0", 9)),
              StatusIs(kRefused, HasSubstr("twice")));
}

TEST(AttributeListParserTest, F118_AnyBytesAreAcceptedOrRefused) {
  uint32_t state = 1;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    state = state * 1664525 + 1013904223;
    for (size_t i = state >> 26; i > 0; --i) {
      state = state * 1664525 + 1013904223;
      bytes.push_back("\0\0ab\xff"[(state >> 24) % 5]);
    }
    AttributeListParser parser;
    absl::StatusOr<size_t> used = parser.Feed(bytes);
    if (used.ok()) {
      EXPECT_TRUE(parser.complete() || *used == bytes.size());
    }
  }
}

// --- Both together ---

TEST_F(PassDescriptorTest, S91_TheReceiverTakesDescriptorAndAttributesPieceByPiece) {
  PassReceiver receiver(std::move(receiver_), true);
  EXPECT_THAT(receiver.Step(), IsOkAndHolds(false));
  EXPECT_FALSE(receiver.has_descriptor());
  ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
  EXPECT_THAT(receiver.Step(), IsOkAndHolds(false));
  EXPECT_TRUE(receiver.has_descriptor());
  EXPECT_FALSE(receiver.attributes_begun());
  for (size_t i = 0; i + 1 < kList.size(); ++i) {
    ASSERT_EQ(write(sender_.get(), &kList[i], 1), 1);
    ASSERT_THAT(receiver.Step(), IsOkAndHolds(false));
    ASSERT_TRUE(receiver.attributes_begun());
  }
  ASSERT_EQ(write(sender_.get(), "", 1), 1);
  EXPECT_THAT(receiver.Step(), IsOkAndHolds(true));
  EXPECT_EQ(InodeOf(receiver.TakeDescriptor().get()), InodeOf(file_.get()));
  EXPECT_EQ(receiver.attributes().at("client_port"), "4711");
}

TEST_F(PassDescriptorTest, P67_WithoutAttributesTheDescriptorIsEnough) {
  PassReceiver receiver(std::move(receiver_), false);
  ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
  EXPECT_THAT(receiver.Step(), IsOkAndHolds(true));
  EXPECT_TRUE(receiver.TakeDescriptor().valid());
}

TEST_F(PassDescriptorTest, S91_ABrokenListClosesTheDescriptor) {
  {
    PassReceiver receiver(std::move(receiver_), true);
    ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
    ASSERT_EQ(write(sender_.get(), "name", 4), 4);
    EXPECT_THAT(receiver.Step(), IsOkAndHolds(false));
    sender_.Reset();
    EXPECT_THAT(receiver.Step(), StatusIs(kClosed, HasSubstr("within the attribute list")));
  }
  file_.Reset();
}

TEST_F(PassDescriptorTest, F43_DescriptorsWithinTheAttributesAreDropped) {
  {
    PassReceiver receiver(std::move(receiver_), true);
    ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
    SendBlocks(sender_.get(), kList, {{file_.get(), file_.get()}});
    EXPECT_THAT(receiver.Step(), IsOkAndHolds(true));
    EXPECT_EQ(FdSnapshot::Take().size(), before_.size() + 1);
  }
  SetUp();
}

TEST_F(PassDescriptorTest, F37_NoFailureLeavesADescriptor) {
  for (int64_t k = 1;; ++k) {
    ASSERT_THAT(SendDescriptor(sender_.get(), file_.get()), IsOk());
    ASSERT_EQ(write(sender_.get(), kList.data(), kList.size()), static_cast<ssize_t>(kList.size()));
    const int id = system_->FailOnce(SystemCall::kAny, ENOBUFS, k);
    {
      PassReceiver receiver(std::move(receiver_), true);
      const bool ok = receiver.Step().ok();
      EXPECT_EQ(ok, system_->Hits(id) == 0);
    }
    const bool hit = system_->Hits(id) != 0;
    system_->RemoveAllFaults();
    EXPECT_EQ(FdSnapshot::Take().size(), before_.size() - 1) << "the connection is gone, no more";
    sender_.Reset();
    file_.Reset();
    SetUp();
    if (!hit) break;
    ASSERT_LT(k, 20);
  }
}

}  // namespace
}  // namespace posthouse

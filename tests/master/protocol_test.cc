// The contract of protocol.h, on real socket pairs and pipes.

#include "posthouse/master/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <climits>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"

namespace posthouse {
namespace {

using Result = WorkerStatus::Result;

std::string Bytes(const StatusMessageBytes& bytes) {
  return std::string(bytes.data(), bytes.size());
}

// A status channel as a master makes it: a stream socket pair in blocking mode (P4).
struct Channel {
  Channel() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
    master.Reset(fds[0]);
    worker.Reset(fds[1]);
  }
  // Everything that is there, without waiting.
  std::string ReadAll() {
    std::string result;
    char buffer[65536];
    ssize_t got;
    while ((got = recv(master.get(), buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
      result.append(buffer, got);
    }
    return result;
  }
  std::vector<StatusMessage> ReadMessages() {
    const std::string all = ReadAll();
    EXPECT_EQ(all.size() % kStatusMessageSize, 0u);
    std::vector<StatusMessage> result;
    for (size_t at = 0; at + kStatusMessageSize <= all.size(); at += kStatusMessageSize) {
      auto message = DecodeStatusMessage(absl::string_view(all).substr(at, kStatusMessageSize));
      EXPECT_TRUE(message.ok()) << message.status();
      if (message.ok()) result.push_back(*message);
    }
    return result;
  }
  // Fills the channel with TAKEN and AVAIL in turn until a report does not go out.
  int Fill(WorkerStatus* status) {
    int sent = 0;
    while (status->Report(sent % 2 == 0 ? Availability::kTaken : Availability::kAvailable) ==
           Result::kSent) {
      ++sent;
      if (sent > 1000000) std::abort();
    }
    return sent;
  }
  UniqueFd master;
  UniqueFd worker;
};

struct Pipe {
  explicit Pipe(int flags = O_NONBLOCK) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | flags) != 0) std::abort();
    read.Reset(fds[0]);
    write.Reset(fds[1]);
  }
  UniqueFd read;
  UniqueFd write;
};

// --- Numbers and messages ---

TEST(Protocol, P1_DescriptorsAreThoseOfTheOriginal) {
  const MasterDescriptors descriptors;
  EXPECT_EQ(descriptors.flow_read, 3);
  EXPECT_EQ(descriptors.flow_write, 4);
  EXPECT_EQ(descriptors.status, 5);
  EXPECT_EQ(descriptors.first_listen, 6);
}

TEST(Protocol, P13_TakenIsZeroAndAvailableIsOne) {
  EXPECT_EQ(static_cast<int>(Availability::kTaken), 0);
  EXPECT_EQ(static_cast<int>(Availability::kAvailable), 1);
}

TEST(Protocol, P14_PO1_TheExampleHasTheseBytes) {
  const uint16_t probe = 1;
  if (*reinterpret_cast<const char*>(&probe) != 1) GTEST_SKIP() << "the example is little endian";
  EXPECT_EQ(absl::BytesToHexString(Bytes(EncodeStatusMessage({4711, 010, 0}))),
            "671200000800000000000000");
}

TEST(Protocol, P14_TheBytesAreThoseOfThreeInts) {
  const struct {
    int pid;
    unsigned generation;
    int availability;
  } raw = {INT_MAX, UINT_MAX, 1};
  static_assert(sizeof(raw) == kStatusMessageSize);
  const StatusMessageBytes bytes = EncodeStatusMessage({INT_MAX, UINT_MAX, 1});
  EXPECT_EQ(std::memcmp(bytes.data(), &raw, sizeof(raw)), 0);
}

TEST(Protocol, P14_WhatWasEncodedIsDecoded) {
  const int32_t pids[] = {1, 8, 4711, INT_MAX};
  const uint32_t generations[] = {0, 7, 8, 0x80000000u, UINT_MAX};
  for (const int32_t pid : pids) {
    for (const uint32_t generation : generations) {
      for (const int32_t availability : {0, 1}) {
        auto message =
            DecodeStatusMessage(Bytes(EncodeStatusMessage({pid, generation, availability})));
        ASSERT_TRUE(message.ok()) << message.status();
        EXPECT_EQ(message->pid, pid);
        EXPECT_EQ(message->generation, generation);
        EXPECT_EQ(message->availability, availability);
      }
    }
  }
}

TEST(Protocol, P21_WrongMessagesAreRefusedAndTheFieldIsNamed) {
  const struct {
    std::string bytes;
    const char* says;
  } cases[] = {
      {"", "0 bytes"},
      {std::string(11, '\1'), "11 bytes"},
      {std::string(13, '\1'), "13 bytes"},
      {std::string(24, '\1'), "24 bytes"},
      {Bytes(EncodeStatusMessage({0, 1, 0})), "process number 0"},
      {Bytes(EncodeStatusMessage({-1, 1, 0})), "process number -1"},
      {Bytes(EncodeStatusMessage({INT_MIN, 1, 0})), "process number -2147483648"},
      {Bytes(EncodeStatusMessage({7, 1, 2})), "availability 2"},
      {Bytes(EncodeStatusMessage({7, 1, -1})), "availability -1"},
  };
  for (const auto& c : cases) {
    auto message = DecodeStatusMessage(c.bytes);
    EXPECT_EQ(message.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(message.status().message().find(c.says), absl::string_view::npos) << message.status();
  }
}

TEST(Protocol, P21_AnyBytesAreDecodedOrRefused) {
  std::mt19937 random(20260807);
  int accepted = 0;
  for (int round = 0; round < 200000; ++round) {
    std::string bytes(random() % 26, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    // Half of the rounds look almost right, so that acceptance is exercised too.
    if (round % 2 == 0) {
      bytes.resize(kStatusMessageSize);
      const int32_t availability = static_cast<int32_t>(random() % 4) - 1;
      std::memcpy(&bytes[8], &availability, 4);
    }
    auto message = DecodeStatusMessage(bytes);
    if (!message.ok()) continue;
    ++accepted;
    ASSERT_EQ(Bytes(EncodeStatusMessage(*message)), bytes);
    ASSERT_GT(message->pid, 0);
  }
  EXPECT_GT(accepted, 10000);
}

// --- Generation ---

TEST(Protocol, PO6_GenerationIsOctalDigitsWithin32Bits) {
  const struct {
    const char* text;
    uint32_t value;
  } good[] = {{"0", 0},
              {"1", 1},
              {"7", 7},
              {"10", 8},
              {"17", 15},
              {"20", 16},
              {"0017", 15},
              {"37777777777", UINT32_MAX},
              {"00000000000000000000000000000001", 1}};
  for (const auto& c : good) {
    auto value = ParseGeneration(c.text);
    ASSERT_TRUE(value.ok()) << c.text << ": " << value.status();
    EXPECT_EQ(*value, c.value) << c.text;
  }
  const char* const bad[] = {
      "",   " ",  "8",  "19",  "9",           "1x",  "x1",  "-1",
      "+1", " 1", "1 ", "0x1", "40000000000", "1\n", "1.0", "777777777777777777777777777777777777"};
  for (const char* const text : bad) {
    auto value = ParseGeneration(text);
    ASSERT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(value.status().message().find("GENERATION"), absl::string_view::npos);
  }
  EXPECT_FALSE(ParseGeneration(absl::string_view("1\0", 2)).ok());
}

TEST(Protocol, PO6_ARefusedGenerationIsQuotedWithinBounds) {
  auto value = ParseGeneration(std::string(100000, 'x') + "\n");
  EXPECT_LT(value.status().message().size(), 200u);
  value = ParseGeneration("1\x1b[2J");
  EXPECT_EQ(value.status().message().find('\x1b'), absl::string_view::npos);
  EXPECT_NE(value.status().message().find("1\\x1b[2J"), absl::string_view::npos) << value.status();
}

TEST(Protocol, P22_GenerationIsWrittenInOctalWithoutPrefix) {
  EXPECT_EQ(FormatGeneration(0), "0");
  EXPECT_EQ(FormatGeneration(1), "1");
  EXPECT_EQ(FormatGeneration(15), "17");
  EXPECT_EQ(FormatGeneration(16), "20");
  EXPECT_EQ(FormatGeneration(UINT32_MAX), "37777777777");
  for (uint32_t value = 1; value < 0x40000000u; value = value * 3 + 1) {
    EXPECT_EQ(ParseGeneration(FormatGeneration(value)).value(), value);
  }
}

// --- The worker's side of the status channel ---

TEST(WorkerStatusTest, P15_AReportIsOneMessageOfTwelveBytes) {
  Channel channel;
  WorkerStatus status(channel.worker.get(), 4711, 8);
  EXPECT_EQ(status.Report(Availability::kTaken), Result::kSent);
  EXPECT_EQ(channel.ReadAll(), Bytes(EncodeStatusMessage({4711, 8, 0})));
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kSent);
  EXPECT_EQ(channel.ReadAll(), Bytes(EncodeStatusMessage({4711, 8, 1})));
  EXPECT_FALSE(status.owes());
}

TEST(WorkerStatusTest, P15_OneMessageIsOneWrite) {
  // On a sequenced-packet pair every write is a packet of its own (PO4).
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
  UniqueFd master(fds[0]), worker(fds[1]);
  WorkerStatus status(worker.get(), 5, 1);
  ASSERT_EQ(status.Report(Availability::kTaken), Result::kSent);
  ASSERT_EQ(status.Report(Availability::kAvailable), Result::kSent);
  char buffer[100];
  EXPECT_EQ(recv(master.get(), buffer, sizeof(buffer), 0), 12);
  EXPECT_EQ(recv(master.get(), buffer, sizeof(buffer), 0), 12);
}

TEST(WorkerStatusTest, P4_FlagsOfTheSharedOpenFileAreNeverChanged) {
  Channel channel;
  const int before = fcntl(channel.worker.get(), F_GETFL);
  ASSERT_EQ(before & O_NONBLOCK, 0);
  WorkerStatus status(channel.worker.get(), 5, 1);
  channel.Fill(&status);
  EXPECT_EQ(fcntl(channel.worker.get(), F_GETFL), before);
}

TEST(WorkerStatusTest, P17_AClosedChannelIsADisconnectAndNoSignal) {
  Channel channel;
  channel.master.Reset();
  WorkerStatus status(channel.worker.get(), 5, 1);
  EXPECT_EQ(status.Report(Availability::kTaken), Result::kDisconnected);
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDisconnected);
}

TEST(WorkerStatusTest, P17_AClosedPipeIsADisconnectAndNoSignal) {
  Pipe pipe(0);
  pipe.read.Reset();
  WorkerStatus status(pipe.write.get(), 5, 1);
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDisconnected);
}

TEST(WorkerStatusTest, P17_AChannelClosedWithUnreadMessagesIsADisconnect) {
  Channel channel;
  WorkerStatus status(channel.worker.get(), 5, 1);
  ASSERT_EQ(status.Report(Availability::kTaken), Result::kSent);
  channel.master.Reset();  // what was not read makes the first error ECONNRESET on some systems
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDisconnected);
}

TEST(WorkerStatusTest, P16_ADescriptorThatIsNoChannelIsADisconnect) {
  Channel channel;
  const int number = channel.worker.get();
  WorkerStatus status(number, 5, 1);
  channel.worker.Reset();
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDisconnected);
  UniqueFd read_only(open("/dev/null", O_RDONLY | O_CLOEXEC));
  WorkerStatus unwritable(read_only.get(), 5, 1);
  EXPECT_EQ(unwritable.Report(Availability::kAvailable), Result::kDisconnected);
}

// PO3, SO11: "never treat EAGAIN as P43", "the last state sent is eventually right".
TEST(WorkerStatusTest, P19_PO3_AFullChannelDefersAndTheLastStateArrives) {
  Channel channel;
  WorkerStatus status(channel.worker.get(), 5, 1);
  const int sent = channel.Fill(&status);
  EXPECT_GT(sent, 100);
  EXPECT_TRUE(status.owes());
  EXPECT_EQ(status.Flush(), Result::kDeferred);
  EXPECT_EQ(status.Report(Availability::kTaken), Result::kDeferred);
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDeferred);
  EXPECT_EQ(static_cast<int>(channel.ReadMessages().size()), sent);
  // The TAKEN in between is dropped, the AVAIL comes once.
  EXPECT_EQ(status.Flush(), Result::kSent);
  EXPECT_FALSE(status.owes());
  const std::vector<StatusMessage> rest = channel.ReadMessages();
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].availability, 1);
  EXPECT_EQ(status.Flush(), Result::kSent);
  EXPECT_EQ(channel.ReadAll(), "");
}

TEST(WorkerStatusTest, P19_PO3_AFullPipeInBlockingModeDoesNotBlock) {
  Pipe pipe(0);
  fcntl(pipe.write.get(), F_SETPIPE_SZ, 4096);
  WorkerStatus status(pipe.write.get(), 5, 1);
  int sent = 0;
  while (status.Report(Availability::kAvailable) == Result::kSent) ++sent;
  EXPECT_GT(sent, 0);
  std::string all(sent * kStatusMessageSize, '\0');
  ASSERT_EQ(read(pipe.read.get(), &all[0], all.size()), static_cast<ssize_t>(all.size()));
  EXPECT_EQ(status.Flush(), Result::kSent);
  ASSERT_EQ(read(pipe.read.get(), &all[0], all.size()), 12);
  EXPECT_EQ(fcntl(pipe.write.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(WorkerStatusTest, PO3_DisconnectIsSeenWhileTheChannelIsFull) {
  Channel channel;
  WorkerStatus status(channel.worker.get(), 5, 1);
  channel.Fill(&status);
  channel.master.Reset();
  EXPECT_EQ(status.Flush(), Result::kDisconnected);
}

TEST(WorkerStatusTest, SO11_PatienceBoundsTheWait) {
  Channel channel;
  WorkerStatus impatient(channel.worker.get(), 5, 1);
  channel.Fill(&impatient);
  WorkerStatus status(channel.worker.get(), 5, 1, absl::Milliseconds(60));
  const absl::Time start = absl::Now();
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDeferred);
  const absl::Duration took = absl::Now() - start;
  EXPECT_GE(took, absl::Milliseconds(59));
  EXPECT_LT(took, absl::Seconds(5));
  channel.ReadAll();
  EXPECT_EQ(status.Flush(), Result::kSent);
}

TEST(WorkerStatusTest, SO11_PatienceUsesRoomAsSoonAsThereIsSome) {
  Channel channel;
  WorkerStatus impatient(channel.worker.get(), 5, 1);
  channel.Fill(&impatient);
  const pid_t reader = fork();
  ASSERT_GE(reader, 0);
  if (reader == 0) {
    channel.worker.Reset();
    char buffer[65536];
    while (recv(channel.master.get(), buffer, sizeof(buffer), 0) > 0) {
    }
    _exit(0);
  }
  WorkerStatus status(channel.worker.get(), 5, 1, absl::Minutes(1));
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kSent);
  channel.worker.Reset();
}

TEST(WorkerStatusTest, PO8_ASilencedWorkerSendsNothing) {
  Channel channel;
  WorkerStatus status(channel.worker.get(), 5, 1);
  status.Silence();
  EXPECT_EQ(status.Report(Availability::kTaken), Result::kSent);
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kSent);
  EXPECT_EQ(status.Flush(), Result::kSent);
  EXPECT_EQ(channel.ReadAll(), "");
  channel.master.Reset();
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kSent);
}

// P16, P18: on a real interval timer at 1 kHz, as F8 asks.
TEST(WorkerStatusTest, PO2_AnInterruptionIsNoFailure) {
  struct sigaction action = {}, old = {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGALRM, &action, &old), 0);
  itimerval fast = {{0, 1000}, {0, 1000}}, off = {};
  setitimer(ITIMER_REAL, &fast, nullptr);
  Channel channel;
  WorkerStatus full(channel.worker.get(), 5, 1);
  channel.Fill(&full);
  WorkerStatus status(channel.worker.get(), 5, 1, absl::Milliseconds(50));
  const absl::Time start = absl::Now();
  EXPECT_EQ(status.Report(Availability::kAvailable), Result::kDeferred);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(49));
  setitimer(ITIMER_REAL, &off, nullptr);
  sigaction(SIGALRM, &old, nullptr);
}

// --- Flow tokens ---

TEST(FlowTokensTest, P46_APipeStartsWithoutTokens) {
  Pipe pipe;
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  EXPECT_EQ(tokens.Count().value(), 0);
  EXPECT_EQ(tokens.Take(1).value(), 0);
}

TEST(FlowTokensTest, P46_ATokenIsOneZeroByte) {
  Pipe pipe;
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  EXPECT_EQ(tokens.Put(3).value(), 3);
  char bytes[10];
  EXPECT_EQ(read(pipe.read.get(), bytes, sizeof(bytes)), 3);
  EXPECT_EQ(std::string(bytes, 3), std::string(3, '\0'));
}

TEST(FlowTokensTest, P47_TakenTokensAreConsumedAndCounted) {
  Pipe pipe;
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  ASSERT_EQ(tokens.Put(5000).value(), 5000);
  EXPECT_EQ(tokens.Count().value(), 5000);
  EXPECT_EQ(tokens.Take(1).value(), 1);
  EXPECT_EQ(tokens.Take(3000).value(), 3000);
  EXPECT_EQ(tokens.Count().value(), 1999);
}

TEST(FlowTokensTest, P50_TheCountIsWhatCanBeReadAndAnErrorIsTold) {
  Pipe pipe;
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  for (int count = 1; count <= 3; ++count) {
    // Whoever wrote them, and whatever their value.
    ASSERT_EQ(write(pipe.write.get(), "x", 1), 1);
    EXPECT_EQ(tokens.Count().value(), count);
    EXPECT_EQ(tokens.Count().value(), count);  // counting takes none
  }
  char bytes[2];
  ASSERT_EQ(read(pipe.read.get(), bytes, sizeof(bytes)), 2);
  EXPECT_EQ(tokens.Count().value(), 1);
  const int number = pipe.read.get();
  pipe.read.Reset();
  const absl::StatusOr<int> failed = tokens.Count();
  ASSERT_FALSE(failed.ok());
  EXPECT_TRUE(absl::StrContains(failed.status().message(), absl::StrCat(number)))
      << failed.status();
}

// P48 lost what it had consumed; PO10: "return the number obtained".
TEST(FlowTokensTest, PO10_APartialTakeSaysHowManyItGot) {
  Pipe pipe;
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  ASSERT_EQ(tokens.Put(7).value(), 7);
  EXPECT_EQ(tokens.Take(10).value(), 7);
  EXPECT_EQ(tokens.Take(10).value(), 0);
}

TEST(FlowTokensTest, P47_TakingNeverBlocksWhateverTheModeOfThePipe) {
  Pipe pipe(0);
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  EXPECT_EQ(tokens.Take(1).value(), 0);
  ASSERT_EQ(tokens.Put(2).value(), 2);
  EXPECT_EQ(tokens.Take(5).value(), 2);
}

TEST(FlowTokensTest, P49_PuttingStopsWhereThePipeIsFull) {
  for (const int flags : {O_NONBLOCK, 0}) {
    Pipe pipe(flags);
    const int size = fcntl(pipe.write.get(), F_SETPIPE_SZ, 4096);
    FlowTokens tokens(pipe.read.get(), pipe.write.get());
    const int put = tokens.Put(1000000).value();
    EXPECT_GT(put, 0);
    EXPECT_LE(put, size);
    EXPECT_EQ(tokens.Count().value(), put);
    EXPECT_EQ(tokens.Put(1).value(), 0);
  }
}

TEST(FlowTokensTest, P49_WhatIsLeftOfThePipeIsFilled) {
  Pipe pipe;
  const int size = fcntl(pipe.write.get(), F_SETPIPE_SZ, 4096);
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  ASSERT_EQ(tokens.Put(size - 100).value(), size - 100);
  EXPECT_EQ(tokens.Put(1000).value(), 100);
}

TEST(FlowTokensTest, P47_WithoutAPipeTakingFails) {
  Pipe pipe;
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  pipe.write.Reset();
  EXPECT_EQ(tokens.Take(1).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(tokens.Put(1).status().code(), absl::StatusCode::kFailedPrecondition);
  Pipe other;
  FlowTokens no_read(1000000, other.write.get());
  EXPECT_EQ(no_read.Take(1).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(no_read.Count().ok());
}

TEST(FlowTokensDeathTest, P47_NoneOrFewerIsABrokenContract) {
  Pipe pipe;
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  EXPECT_DEATH(tokens.Take(0).IgnoreError(), "not positive");
  EXPECT_DEATH(tokens.Take(-1).IgnoreError(), "not positive");
  EXPECT_DEATH(tokens.Put(0).IgnoreError(), "not positive");
}

TEST(FlowTokensTest, P51_TwoConsumersTakeEachTokenOnce) {
  Pipe pipe;
  FlowTokens tokens(pipe.read.get(), pipe.write.get());
  ASSERT_EQ(tokens.Put(1000).value(), 1000);
  Pipe result(0);
  for (int consumer = 0; consumer < 2; ++consumer) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      FlowTokens mine(pipe.read.get(), pipe.write.get());
      int taken = 0;
      for (;;) {
        const int got = mine.Take(1).value();
        if (got == 0) break;
        taken += got;
      }
      if (write(result.write.get(), &taken, sizeof(taken)) != sizeof(taken)) _exit(1);
      _exit(0);
    }
  }
  int total = 0;
  for (int consumer = 0; consumer < 2; ++consumer) {
    int taken = 0;
    ssize_t got;
    // The fault tests interrupt this wait a thousand times a second.
    while ((got = read(result.read.get(), &taken, sizeof(taken))) < 0 && errno == EINTR) {
    }
    ASSERT_EQ(got, static_cast<ssize_t>(sizeof(taken)));
    total += taken;
  }
  EXPECT_EQ(total, 1000);
}

// --- Command line and environment ---

std::string Joined(const WorkerArguments& arguments) {
  return absl::StrJoin(BuildWorkerArguments(arguments), " ");
}

TEST(WorkerArgumentsTest, P9_EachArgumentAppearsUnderItsConditionAlone) {
  WorkerArguments plain;
  plain.command = "echod";
  plain.service_name = "echod";
  plain.process_limit = 100;
  plain.transport = "unix";
  EXPECT_EQ(Joined(plain), "echod -t unix");
  WorkerArguments one;
  one = plain;
  one.process_limit = 1;
  EXPECT_EQ(Joined(one), "echod -l -t unix");
  one = plain;
  one.process_limit = 0;
  EXPECT_EQ(Joined(one), "echod -z -t unix");
  one = plain;
  one.service_name = "echo";
  EXPECT_EQ(Joined(one), "echod -n echo -t unix");
  one = plain;
  one.transport = "inet";
  EXPECT_EQ(Joined(one), "echod -t inet");
  one = plain;
  one.detached = false;
  EXPECT_EQ(Joined(one), "echod -t unix -d");
  one = plain;
  one.verbose = true;
  EXPECT_EQ(Joined(one), "echod -t unix -v");
  one = plain;
  one.unprivileged = true;
  EXPECT_EQ(Joined(one), "echod -t unix -u");
  one = plain;
  one.chroot = true;
  EXPECT_EQ(Joined(one), "echod -t unix -c");
  one = plain;
  one.stress = false;
  EXPECT_EQ(Joined(one), "echod -t unix -o stress=");
  one = plain;
  one.stress = true;
  EXPECT_EQ(Joined(one), "echod -t unix -o stress=yes");
  one = plain;
  one.listen_sockets = 2;
  EXPECT_EQ(Joined(one), "echod -t unix -s 2");
  one = plain;
  one.configured = {"-m", "5", "arg"};
  EXPECT_EQ(Joined(one), "echod -t unix -m 5 arg");
}

TEST(WorkerArgumentsTest, P9_TheOrderIsThatOfTheOriginal) {
  WorkerArguments all;
  all.command = "dir/echod";
  all.service_name = "127.0.0.1:7777";
  all.process_limit = 1;
  all.transport = "inet";
  all.detached = false;
  all.verbose = true;
  all.unprivileged = true;
  all.chroot = true;
  all.stress = true;
  all.listen_sockets = 3;
  all.configured = {"-o", "x=y"};
  EXPECT_EQ(Joined(all),
            "dir/echod -l -n 127.0.0.1:7777 -t inet -d -v -u -c -o stress=yes -s 3 -o x=y");
}

TEST(WorkerArgumentsTest, P8_ArgumentZeroIsTheCommandAndItsLastComponentNamesTheService) {
  WorkerArguments arguments;
  arguments.command = "dir/echod";
  arguments.service_name = "echod";
  arguments.process_limit = 2;
  arguments.transport = "pass";
  EXPECT_EQ(Joined(arguments), "dir/echod -t pass");
}

TEST(WorkerEnvironmentTest, P10_OnlyTheListIsPassedOn) {
  const std::vector<std::string> current = {"PATH=/bin", "TZ=UTC", "MAIL_CONFIG=/etc/x",
                                            "LD_PRELOAD=evil.so", "EMPTY="};
  EXPECT_EQ(absl::StrJoin(BuildWorkerEnvironment({"MAIL_CONFIG", "MAIL_DEBUG", "TZ", "LANG=C",
                                                  "GENERATION=17", "EMPTY"},
                                                 current),
                          " "),
            "MAIL_CONFIG=/etc/x TZ=UTC LANG=C GENERATION=17 EMPTY=");
}

TEST(WorkerEnvironmentTest, C76_ALaterItemForTheSameNameWins) {
  const std::vector<std::string> current = {"TZ=UTC", "TZ=other", "notavariable"};
  EXPECT_EQ(absl::StrJoin(BuildWorkerEnvironment({"TZ=CET", "A=1", "TZ"}, current), " "),
            "TZ=UTC A=1");
  EXPECT_EQ(absl::StrJoin(BuildWorkerEnvironment({"TZ", "TZ=CET"}, current), " "), "TZ=CET");
  // A bare name that is not there changes nothing.
  EXPECT_EQ(absl::StrJoin(BuildWorkerEnvironment({"B=1", "B"}, current), " "), "B=1");
  EXPECT_EQ(BuildWorkerEnvironment({"=x", "", "notavariable"}, current).size(), 0u);
  EXPECT_EQ(absl::StrJoin(BuildWorkerEnvironment({"A=b=c"}, {}), " "), "A=b=c");
}

}  // namespace
}  // namespace posthouse

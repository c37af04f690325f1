#include "posthouse/io/accept.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class AcceptTest : public testing::Test {
 protected:
  UniqueFd ListenInet() {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(fd.get(), Generic(), sizeof(address_)), 0);
    EXPECT_EQ(listen(fd.get(), 100), 0);
    socklen_t length = sizeof(address_);
    EXPECT_EQ(getsockname(fd.get(), Generic(), &length), 0);
    return fd;
  }
  UniqueFd ConnectInet() {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), Generic(), sizeof(address_)), 0);
    return fd;
  }
  sockaddr* Generic() { return reinterpret_cast<sockaddr*>(&address_); }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  sockaddr_in address_ = {};
};

int OptionOf(int fd, int option) {
  int value = -1;
  socklen_t length = sizeof(value);
  getsockopt(fd, SOL_SOCKET, option, &value, &length);
  return value;
}

TEST_F(AcceptTest, S35_S45_S46_AnInetClientComesBlockingCloseOnExecAndKeptAlive) {
  UniqueFd listener = ListenInet();
  UniqueFd client = ConnectInet();
  AcceptResult accepted = AcceptConnection(listener.get(), Transport::kInet);
  ASSERT_EQ(accepted.outcome, AcceptOutcome::kClient);
  EXPECT_EQ(fcntl(accepted.fd.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(fcntl(accepted.fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(OptionOf(accepted.fd.get(), SO_KEEPALIVE), 1);
  sockaddr_in local = {};
  socklen_t length = sizeof(local);
  getsockname(client.get(), reinterpret_cast<sockaddr*>(&local), &length);
  EXPECT_EQ(accepted.peer, absl::StrCat("127.0.0.1:", ntohs(local.sin_port)));
  EXPECT_THAT(accepted.status, IsOk());
}

TEST_F(AcceptTest, S35_AFailureToKeepAliveIsIgnored) {
  UniqueFd listener = ListenInet();
  UniqueFd client = ConnectInet();
  system_->FailOnce(SystemCall::kSetsockopt, EINVAL);
  EXPECT_EQ(AcceptConnection(listener.get(), Transport::kInet).outcome, AcceptOutcome::kClient);
}

TEST_F(AcceptTest, S34_ALocalClientGetsNoSocketOption) {
  TempDir dir;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, dir.Path("s").c_str());
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener.get(), 10), 0);
  for (Transport transport : {Transport::kUnix, Transport::kPass}) {
    UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    AcceptResult accepted = AcceptConnection(listener.get(), transport);
    ASSERT_EQ(accepted.outcome, AcceptOutcome::kClient);
    EXPECT_EQ(accepted.peer, "unix");
    EXPECT_EQ(system_->Count(SystemCall::kSetsockopt), 0);
  }
}

TEST_F(AcceptTest, S42_NobodyWaitingIsAnOrdinaryResult) {
  UniqueFd listener = ListenInet();
  AcceptResult accepted = AcceptConnection(listener.get(), Transport::kInet);
  EXPECT_EQ(accepted.outcome, AcceptOutcome::kNone);
  EXPECT_FALSE(accepted.fd.valid());
  EXPECT_THAT(accepted.status, IsOk());
}

TEST_F(AcceptTest, F47_LosingTheRaceIsAnOrdinaryResult) {
  UniqueFd listener = ListenInet();
  UniqueFd client = ConnectInet();
  UniqueFd stolen;
  system_->SetHook(SystemCall::kAccept4,
                   [&](int fd) { stolen.Reset(accept(fd, nullptr, nullptr)); });
  EXPECT_EQ(AcceptConnection(listener.get(), Transport::kInet).outcome, AcceptOutcome::kNone);
  EXPECT_TRUE(stolen.valid());
}

TEST_F(AcceptTest, F47_F14_AListenerMadeBlockingByAnotherHolderIsNotBlockedOn) {
  UniqueFd listener = ListenInet();
  ASSERT_EQ(fcntl(listener.get(), F_SETFL, 0), 0);
  EXPECT_EQ(AcceptConnection(listener.get(), Transport::kInet).outcome, AcceptOutcome::kNone);
  // The same between our look at the flag and the wait for the connection.
  system_->SetHook(SystemCall::kPoll, [&](int) { fcntl(listener.get(), F_SETFL, 0); });
  EXPECT_EQ(AcceptConnection(listener.get(), Transport::kInet).outcome, AcceptOutcome::kNone);
  // And the flag cleared before, and the connection stolen just before the call.
  system_->SetHook(SystemCall::kPoll, nullptr);
  UniqueFd client = ConnectInet();
  ASSERT_EQ(fcntl(listener.get(), F_SETFL, 0), 0);
  UniqueFd stolen;
  system_->SetHook(SystemCall::kAccept4,
                   [&](int fd) { stolen.Reset(accept(fd, nullptr, nullptr)); });
  EXPECT_EQ(AcceptConnection(listener.get(), Transport::kInet).outcome, AcceptOutcome::kNone);
}

TEST_F(AcceptTest, F47_ManyAcceptorsShareOneListenerAndNoneBlocks) {
  UniqueFd listener = ListenInet();
  ASSERT_EQ(fcntl(listener.get(), F_SETFL, 0), 0);
  std::atomic<bool> done{false};
  std::atomic<int> taken{0};
  std::vector<std::thread> workers;
  for (int i = 0; i < 4; ++i) {
    workers.emplace_back([&] {
      while (!done) {
        AcceptResult accepted = AcceptConnection(listener.get(), Transport::kInet);
        if (accepted.outcome == AcceptOutcome::kClient) ++taken;
      }
    });
  }
  constexpr int kConnections = 300;
  for (int i = 0; i < kConnections; ++i) {
    UniqueFd client = ConnectInet();
    ASSERT_TRUE(WaitUntil([&] { return taken == i + 1; }));
  }
  done = true;
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(taken, kConnections);
}

TEST_F(AcceptTest, F65_AListenerThatWasShutDownIsBroken) {
  UniqueFd listener = ListenInet();
  shutdown(listener.get(), SHUT_RDWR);
  AcceptResult accepted = AcceptConnection(listener.get(), Transport::kInet);
  EXPECT_EQ(accepted.outcome, AcceptOutcome::kBroken);
  EXPECT_EQ(accepted.error, EINVAL);
}

TEST_F(AcceptTest, ADescriptorThatIsNoListenerIsBroken) {
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  AcceptResult accepted = AcceptConnection(file.get(), Transport::kUnix);
  EXPECT_EQ(accepted.outcome, AcceptOutcome::kBroken);
  EXPECT_EQ(accepted.error, ENOTSOCK);
  const int closed = file.get();
  file.Reset();
  accepted = AcceptConnection(closed, Transport::kUnix);
  EXPECT_EQ(accepted.outcome, AcceptOutcome::kBroken);
  EXPECT_THAT(accepted.status.message(), HasSubstr(absl::StrCat("listen socket ", closed)));
}

struct ErrnoRow {
  int error;
  AcceptOutcome outcome;
};

class AcceptErrnoTest : public AcceptTest, public testing::WithParamInterface<ErrnoRow> {};

TEST_P(AcceptErrnoTest, S37_SO14_F46_EachErrnoHasItsMeaningAndLosesNothing) {
  const auto [error, outcome] = GetParam();
  EXPECT_EQ(ClassifyAcceptError(error), outcome);
  UniqueFd listener = ListenInet();
  UniqueFd client = ConnectInet();
  system_->Add({.call = SystemCall::kAccept4, .error = error, .times = 10});
  for (int i = 0; i < 10; ++i) {
    AcceptResult accepted = AcceptConnection(listener.get(), Transport::kInet);
    EXPECT_EQ(accepted.outcome, outcome);
    EXPECT_EQ(accepted.error, outcome == AcceptOutcome::kNone ? 0 : error);
    EXPECT_EQ(accepted.status.ok(), outcome == AcceptOutcome::kNone);
    EXPECT_FALSE(accepted.fd.valid());
  }
  EXPECT_EQ(AcceptConnection(listener.get(), Transport::kInet).outcome, AcceptOutcome::kClient);
}

constexpr AcceptOutcome kIgnore = AcceptOutcome::kIgnore;
constexpr AcceptOutcome kBackOff = AcceptOutcome::kBackOff;
constexpr AcceptOutcome kBroken = AcceptOutcome::kBroken;

INSTANTIATE_TEST_SUITE_P(
    Table, AcceptErrnoTest,
    testing::Values(
        ErrnoRow{EAGAIN, AcceptOutcome::kNone}, ErrnoRow{EINTR, kIgnore},
        ErrnoRow{ECONNABORTED, kIgnore}, ErrnoRow{ECONNRESET, kIgnore},
        ErrnoRow{ECONNREFUSED, kIgnore}, ErrnoRow{ENOTCONN, kIgnore}, ErrnoRow{EPROTO, kIgnore},
        ErrnoRow{ENETDOWN, kIgnore}, ErrnoRow{EHOSTDOWN, kIgnore}, ErrnoRow{ENETUNREACH, kIgnore},
        ErrnoRow{EHOSTUNREACH, kIgnore}, ErrnoRow{ENOPROTOOPT, kIgnore}, ErrnoRow{ENONET, kIgnore},
        ErrnoRow{ETIMEDOUT, kIgnore}, ErrnoRow{EPERM, kIgnore}, ErrnoRow{EPIPE, kIgnore},
        ErrnoRow{EMFILE, kBackOff}, ErrnoRow{ENFILE, kBackOff}, ErrnoRow{ENOMEM, kBackOff},
        ErrnoRow{ENOBUFS, kBackOff}, ErrnoRow{EOPNOTSUPP, kBackOff}, ErrnoRow{ENOSPC, kBackOff},
        ErrnoRow{EACCES, kBackOff}, ErrnoRow{EIO, kBackOff}, ErrnoRow{EFAULT, kBackOff},
        ErrnoRow{ENOSYS, kBackOff}, ErrnoRow{4095, kBackOff}, ErrnoRow{EBADF, kBroken},
        ErrnoRow{ENOTSOCK, kBroken}, ErrnoRow{EINVAL, kBroken}),
    [](const testing::TestParamInfo<ErrnoRow>& info) {
      const char* name = strerrorname_np(info.param.error);
      return std::string(name != nullptr ? name : "Unknown");
    });

TEST_F(AcceptTest, F45_ARealLackOfDescriptorsBacksOffAndEndsWithIt) {
  UniqueFd listener = ListenInet();
  UniqueFd client = ConnectInet();
  rlimit limit, lower;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  lower = limit;
  lower.rlim_cur = static_cast<rlim_t>(client.get()) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lower), 0);
  const AcceptOutcome outcome = AcceptConnection(listener.get(), Transport::kInet).outcome;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(outcome, AcceptOutcome::kBackOff);
  EXPECT_EQ(AcceptConnection(listener.get(), Transport::kInet).outcome, AcceptOutcome::kClient);
}

TEST_F(AcceptTest, F37_NoFailureLeavesADescriptor) {
  UniqueFd listener = ListenInet();
  UniqueFd client = ConnectInet();
  for (int64_t k = 1; k < 20; ++k) {
    const FdSnapshot before = FdSnapshot::Take();
    const int id = system_->FailOnce(SystemCall::kAny, ENOMEM, k);
    { AcceptResult accepted = AcceptConnection(listener.get(), Transport::kInet); }
    EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
    if (system_->Hits(id) == 0) return;
    system_->Remove(id);
    client = UniqueFd();
    client = ConnectInet();
  }
  FAIL() << "an accept makes that many calls?";
}

// --- Pacing ---

TEST(AcceptPacerTest, F46_SomeFailedConnectionsCostNothingManyInARowPause) {
  AcceptPacer pacer;
  for (int i = 0; i < AcceptPacer::kIgnoredInARow; ++i) {
    EXPECT_EQ(pacer.Next(AcceptOutcome::kIgnore), absl::ZeroDuration());
  }
  EXPECT_EQ(pacer.Next(AcceptOutcome::kIgnore), AcceptPacer::kFirstPause);
  EXPECT_EQ(pacer.Next(AcceptOutcome::kClient), absl::ZeroDuration());
  EXPECT_EQ(pacer.Next(AcceptOutcome::kIgnore), absl::ZeroDuration());
}

TEST(AcceptPacerTest, F45_BackingOffFailsAtMostTwentyTimesASecondAndResumesWithinOne) {
  AcceptPacer pacer;
  absl::Duration total;
  int attempts = 0;
  while (total < absl::Seconds(1)) {
    const absl::Duration pause = pacer.Next(AcceptOutcome::kBackOff);
    EXPECT_GE(pause, absl::Milliseconds(10));
    EXPECT_LE(pause, absl::Seconds(1));
    total += pause;
    ++attempts;
  }
  EXPECT_LE(attempts, 20);
  EXPECT_EQ(pacer.Next(AcceptOutcome::kNone), absl::ZeroDuration());
  EXPECT_EQ(pacer.Next(AcceptOutcome::kBackOff), AcceptPacer::kLongestPause) << "no client yet";
  EXPECT_EQ(pacer.Next(AcceptOutcome::kClient), absl::ZeroDuration());
  EXPECT_EQ(pacer.Next(AcceptOutcome::kBackOff), AcceptPacer::kFirstPause);
}

// --- Names ---

TEST(TransportTest, S38_KnownNamesAreReadAndOthersNamed) {
  for (Transport transport : {Transport::kInet, Transport::kUnix, Transport::kPass}) {
    EXPECT_THAT(ParseTransport(TransportName(transport)), IsOkAndHolds(transport));
    EXPECT_THAT(ParseTransport(absl::AsciiStrToUpper(TransportName(transport))),
                IsOkAndHolds(transport));
  }
  for (const char* name : {"", "fifo", "unix-dgram", "inet ", "x\n"}) {
    EXPECT_THAT(ParseTransport(name), StatusIs(absl::StatusCode::kInvalidArgument,
                                               HasSubstr("unsupported transport type")));
  }
  EXPECT_THAT(ParseTransport("fifo"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"fifo\"")));
}

// --- Peers. Each address lies at the end of memory of its own, so that reading past it shows. ---

std::string TextOf(const void* address, size_t length, size_t claimed) {
  std::vector<char> exact(static_cast<const char*>(address),
                          static_cast<const char*>(address) + length);
  return PeerText(reinterpret_cast<const sockaddr*>(exact.data()), static_cast<socklen_t>(claimed));
}

std::string TextOfUnix(absl::string_view path, size_t claimed = SIZE_MAX) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const size_t length = offsetof(sockaddr_un, sun_path) + path.size();
  return TextOf(&address, length, claimed == SIZE_MAX ? length : claimed);
}

TEST(PeerTextTest, F44_UnixPeersOfEveryKind) {
  EXPECT_EQ(TextOfUnix(""), "unix");
  EXPECT_EQ(TextOfUnix(absl::string_view("/run/a\0", 7)), "unix:/run/a");
  EXPECT_EQ(TextOfUnix("/run/a"), "unix:/run/a");
  EXPECT_EQ(TextOfUnix(absl::string_view("/run/a\0junk", 11)), "unix:/run/a");
  const std::string full(sizeof(sockaddr_un{}.sun_path), 'p');
  EXPECT_EQ(TextOfUnix(full), "unix:" + full);
  EXPECT_EQ(TextOfUnix(full, sizeof(sockaddr_un) + 1), "unix:" + full)
      << "one byte more is claimed";
  EXPECT_EQ(TextOfUnix(absl::string_view("\0abs\0\x1b[31m\n", 11)), "unix:@abs\\000\\033[31m\\n");
  EXPECT_EQ(TextOfUnix("/a\nb\xff"), "unix:/a\\nb\\377");
  EXPECT_LE(TextOfUnix(std::string(108, '\0')).size(), 4 * 108u + 8);
}

TEST(PeerTextTest, F44_ShortAndUnknownAddresses) {
  sockaddr_in inet = {};
  inet.sin_family = AF_INET;
  EXPECT_EQ(TextOf(&inet, 0, 0), "unix");
  EXPECT_EQ(TextOf(&inet, 1, 1), "unknown");
  EXPECT_EQ(TextOf(&inet, 2, 2), "unknown");
  EXPECT_EQ(TextOf(&inet, 8, 8), "unknown");
  sockaddr_in6 inet6 = {};
  inet6.sin6_family = AF_INET6;
  EXPECT_EQ(TextOf(&inet6, 16, 16), "unknown");
  sockaddr_storage other = {};
  other.ss_family = 99;
  EXPECT_EQ(TextOf(&other, sizeof(other), sizeof(other)), "unknown");
}

std::string TextOfInet6(const char* text, uint32_t scope) {
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(25);
  address.sin6_scope_id = scope;
  EXPECT_EQ(inet_pton(AF_INET6, text, &address.sin6_addr), 1);
  return TextOf(&address, sizeof(address), sizeof(address));
}

TEST(PeerTextTest, F44_InetPeersOfEveryKind) {
  EXPECT_EQ(TextOfInet6("::1", 0), "[::1]:25");
  EXPECT_EQ(TextOfInet6("fe80::1", 2), "[fe80::1%2]:25");
  EXPECT_EQ(TextOfInet6("::ffff:192.0.2.7", 0), "192.0.2.7:25");
  sockaddr_in inet = {};
  inet.sin_family = AF_INET;
  inet.sin_port = htons(65535);
  inet.sin_addr.s_addr = 0xffffffff;
  EXPECT_EQ(TextOf(&inet, sizeof(inet), sizeof(inet)), "255.255.255.255:65535");
}

TEST_F(AcceptTest, F44_RealUnixPeersWithOddNames) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string name = absl::StrCat("posthouse-accept-", getpid());
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const socklen_t length = offsetof(sockaddr_un, sun_path) + 1 + name.size();
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listener.get(), 10), 0);
  TempDir dir;
  const std::string full = dir.path() + "/" + std::string(107 - dir.path().size(), 'f');
  ASSERT_EQ(full.size(), 108u);
  for (const auto& [bound, expected] : std::vector<std::pair<std::string, std::string>>{
           {full, "unix:" + full}, {std::string("\0a\0b", 4), "unix:@a\\000b"}, {"", "unix"}}) {
    UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un own = {};
    own.sun_family = AF_UNIX;
    std::memcpy(own.sun_path, bound.data(), bound.size());
    if (!bound.empty()) {
      ASSERT_EQ(::bind(client.get(), reinterpret_cast<sockaddr*>(&own),
                       offsetof(sockaddr_un, sun_path) + bound.size()),
                0);
    }
    ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_EQ(AcceptConnection(listener.get(), Transport::kUnix).peer, expected);
  }
}

}  // namespace
}  // namespace posthouse

#include "posthouse/master/endpoint.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/endpoint_helpers.h"

namespace posthouse {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

constexpr EndpointKind kKindsWithName[] = {EndpointKind::kStream, EndpointKind::kDatagram,
                                           EndpointKind::kFifo};

class EndpointTest : public testing::Test {
 protected:
  absl::StatusOr<Endpoint> Open(EndpointKind kind = EndpointKind::kStream,
                                const EndpointOptions& options = {}) {
    return Endpoint::OpenPath(kind, path_, options);
  }
  // Opens, expects success and lets go; the name stays.
  void LeaveBehind(EndpointKind kind) { EXPECT_THAT(Open(kind), IsOk()); }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  const std::string path_ = dir_.Path("s");
};

// --- What is made ---

// M55, M57, F96.
TEST_F(EndpointTest, M55_KindModeAndFlagsAreRightUnderAnyUmask) {
  for (const EndpointKind kind : kKindsWithName) {
    const mode_t wanted = kind == EndpointKind::kFifo ? S_IFIFO | 0622 : S_IFSOCK | 0666;
    for (const mode_t mask : {0u, 077u, 0777u}) {
      const mode_t old_mask = umask(mask);
      mode_t mode_before_listen = wanted;
      system_->SetHook(SystemCall::kListen, [&](int) { mode_before_listen = ModeOf(path_); });
      absl::StatusOr<Endpoint> endpoint = Open(kind);
      EXPECT_EQ(umask(old_mask), mask) << "the umask is as it was";
      ASSERT_THAT(endpoint, IsOk());
      EXPECT_EQ(ModeOf(path_), wanted);
      EXPECT_EQ(mode_before_listen, wanted);
      EXPECT_NE(fcntl(endpoint->fd(), F_GETFL) & O_NONBLOCK, 0);
      EXPECT_NE(fcntl(endpoint->fd(), F_GETFD) & FD_CLOEXEC, 0);
      EXPECT_FALSE(endpoint->IsDeaf());
    }
  }
  EXPECT_EQ(system_->Count(SystemCall::kChmod), 0) << "no moment with another mode";
}

TEST_F(EndpointTest, M55_AStreamEndpointListensAndADatagramOneReceives) {
  absl::StatusOr<Endpoint> stream = Open(EndpointKind::kStream);
  ASSERT_THAT(stream, IsOk());
  EXPECT_EQ(IntOption(stream->fd(), SOL_SOCKET, SO_TYPE), SOCK_STREAM);
  EXPECT_EQ(ConnectUnix(path_).error, 0);

  absl::StatusOr<Endpoint> datagram = Open(EndpointKind::kDatagram);
  ASSERT_THAT(datagram, IsOk());
  EXPECT_EQ(IntOption(datagram->fd(), SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
  UniqueFd sender(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const UnixAddress address(path_);
  ASSERT_EQ(sendto(sender.get(), "hello", 5, 0, address.get(), address.length()), 5);
  char buffer[10];
  EXPECT_EQ(recv(datagram->fd(), buffer, sizeof(buffer), 0), 5);
}

TEST_F(EndpointTest, M54_TheBacklogIsWhatWasAskedFor) {
  EndpointOptions options;
  options.backlog = 3;
  absl::StatusOr<Endpoint> endpoint = Open(EndpointKind::kStream, options);
  ASSERT_THAT(endpoint, IsOk());
  std::vector<Client> waiting;
  do {
    waiting.push_back(ConnectUnix(path_));
  } while (waiting.back().error == 0 && waiting.size() < 10);
  EXPECT_EQ(waiting.back().error, EAGAIN);
  EXPECT_EQ(waiting.size(), 5u) << "Linux lets one more wait than the backlog says";
}

TEST_F(EndpointTest, M55_AFifoNeverShowsEndOfFile) {
  absl::StatusOr<Endpoint> endpoint = Open(EndpointKind::kFifo);
  ASSERT_THAT(endpoint, IsOk());
  EXPECT_EQ(fcntl(endpoint->fd(), F_GETFL) & O_ACCMODE, O_RDWR);
  for (int i = 0; i < 2; ++i) {
    {
      UniqueFd writer(open(path_.c_str(), O_WRONLY | O_CLOEXEC));
      ASSERT_EQ(write(writer.get(), "W", 1), 1);
    }
    char buffer[10];
    EXPECT_EQ(read(endpoint->fd(), buffer, sizeof(buffer)), 1);
    EXPECT_EQ(read(endpoint->fd(), buffer, sizeof(buffer)), -1) << "the writer is gone";
    EXPECT_EQ(errno, EAGAIN);
  }
}

// Opens the fifo before the endpoint does, and writes.
class EarlyWriter {
 public:
  EarlyWriter(Interposer* system, const std::string& path) {
    system->SetHook(SystemCall::kOpen, [this, path](int) {
      if (fd_) return;
      fd_.Reset(open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
      wrote_ = write(fd_.get(), "stale", 5) == 5;
    });
  }
  bool wrote() const { return wrote_; }

 private:
  UniqueFd fd_;
  bool wrote_ = false;
};

TEST_F(EndpointTest, M55_WhatWasWrittenBeforeTheFifoWasOpenIsDrained) {
  EarlyWriter writer(&*system_, path_);
  absl::StatusOr<Endpoint> endpoint = Open(EndpointKind::kFifo);
  ASSERT_THAT(endpoint, IsOk());
  EXPECT_TRUE(writer.wrote());
  char buffer[10];
  EXPECT_EQ(read(endpoint->fd(), buffer, sizeof(buffer)), -1);
  EXPECT_EQ(fcntl(endpoint->fd(), F_GETFL) & O_ACCMODE, O_RDWR);
}

// On some systems a descriptor for both shows as readable with nothing to read.
TEST_F(EndpointTest, M55_AFifoThatOnlySeemsReadableIsOpenedForReading) {
  EarlyWriter writer(&*system_, path_);
  system_->FailOnce(SystemCall::kRead, EAGAIN);
  absl::StatusOr<Endpoint> endpoint = Open(EndpointKind::kFifo);
  ASSERT_THAT(endpoint, IsOk());
  EXPECT_TRUE(writer.wrote());
  EXPECT_EQ(fcntl(endpoint->fd(), F_GETFL) & O_ACCMODE, O_RDONLY);
}

TEST_F(EndpointTest, AFifoThatIsExchangedBeforeItIsOpenIsNotUsedAndNotRemoved) {
  ASSERT_EQ(mkfifo(dir_.Path("evil").c_str(), 0666), 0);
  system_->SetHook(SystemCall::kOpen,
                   [&](int) { rename(dir_.Path("evil").c_str(), path_.c_str()); });
  EXPECT_THAT(Open(EndpointKind::kFifo),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("another file")));
  EXPECT_EQ(ModeOf(path_), S_IFIFO | (0666u & ~CurrentUmask()));
}

TEST_F(EndpointTest, M53_AnInetEndpointHasItsOptions) {
  EndpointOptions options;
  options.buffer_size = 65536;
  for (const EndpointAddress& address : LoopbackAddresses()) {
    absl::StatusOr<Endpoint> endpoint = Endpoint::OpenInet(address, options);
    ASSERT_THAT(endpoint, IsOk());
    const int fd = endpoint->fd();
    EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_REUSEADDR), 1);
    EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_REUSEPORT), 1);
    EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
    EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_SNDBUF), 2 * 65536) << "Linux counts twice";
    EXPECT_EQ(IntOption(fd, SOL_SOCKET, SO_RCVBUF), 2 * 65536);
    EXPECT_NE(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(ConnectTo(fd).error, 0);
  }
}

TEST_F(EndpointTest, F93_BothWildcardsListenAtOnePortInEitherOrder) {
  if (LoopbackAddresses().size() < 2) GTEST_SKIP() << "this system has no IPv6";
  for (const int first_family : {AF_INET, AF_INET6}) {
    const int second_family = first_family == AF_INET ? AF_INET6 : AF_INET;
    absl::StatusOr<Endpoint> first = Endpoint::OpenInet(Wildcard(first_family, 0), {});
    ASSERT_THAT(first, IsOk());
    const int port = PortOf(first->fd());
    absl::StatusOr<Endpoint> second = Endpoint::OpenInet(Wildcard(second_family, port), {});
    ASSERT_THAT(second, IsOk());
    const Endpoint& six = first_family == AF_INET6 ? *first : *second;
    // With SO_REUSEPORT the two would not be in each other's way if one took the clients of both.
    EXPECT_EQ(IntOption(six.fd(), IPPROTO_IPV6, IPV6_V6ONLY), 1);
  }
}

TEST_F(EndpointTest, F90_AnAddressInUseIsNamed) {
  const Occupant occupant(0);
  const EndpointAddress address = Loopback4(occupant.port());
  int error = 0;
  EXPECT_THAT(Endpoint::OpenInet(address, EndpointOptions(), &error),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("bind to " + address.text + ": Address already in use")));
  EXPECT_EQ(error, EADDRINUSE);
}

// --- Names that are taken ---

TEST_F(EndpointTest, F95_SocketsAndFifosOfOursAreReplacedByAnyKind) {
  for (const EndpointKind before : kKindsWithName) {
    for (const EndpointKind after : kKindsWithName) {
      LeaveBehind(before);
      EXPECT_THAT(Open(after), IsOk());
    }
  }
}

// A worker of a dead master may still hold the socket; the lock file says that it is dead.
TEST_F(EndpointTest, F95_ALiveSocketOfOursIsReplaced) {
  absl::StatusOr<Endpoint> old = Open();
  ASSERT_THAT(old, IsOk());
  absl::StatusOr<Endpoint> endpoint = Open();
  ASSERT_THAT(endpoint, IsOk());
  EXPECT_EQ(ConnectUnix(path_).error, 0);
  EXPECT_TRUE(WaitForEvents(endpoint->fd(), POLLIN));
  EXPECT_FALSE(WaitForEvents(old->fd(), POLLIN, absl::ZeroDuration()));
}

TEST_F(EndpointTest, F95_WhatIsNeitherSocketNorFifoIsLeftAndReported) {
  const std::string victim = dir_.WriteFile("victim", "precious");
  struct Row {
    const char* what;
    int made;
  };
  for (const EndpointKind kind : kKindsWithName) {
    dir_.WriteFile("s", "precious");
    EXPECT_THAT(Open(kind), StatusIs(absl::StatusCode::kAlreadyExists,
                                     path_ + " is taken by a regular file; it is left alone"));
    EXPECT_EQ(ReadFileOrEmpty(path_), "precious");
    unlink(path_.c_str());

    ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
    EXPECT_THAT(Open(kind), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("a directory")));
    ASSERT_EQ(rmdir(path_.c_str()), 0);

    for (const std::string& target : {victim, dir_.Path("nowhere"), std::string("/dev/null")}) {
      ASSERT_EQ(symlink(target.c_str(), path_.c_str()), 0);
      EXPECT_THAT(Open(kind),
                  StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("a symbolic link")));
      EXPECT_EQ(ModeOf(path_) & S_IFMT, static_cast<mode_t>(S_IFLNK));
      unlink(path_.c_str());
    }
    EXPECT_EQ(ReadFileOrEmpty(victim), "precious");
    EXPECT_EQ(ModeOf(dir_.Path("nowhere")), 0u);
  }
}

TEST_F(EndpointTest, F94_APathThatIsTooLongForASocketIsRefusedNamingTheLimit) {
  const std::string longest =
      dir_.Path(std::string(kMaxSocketPathSize - dir_.path().size() - 1, 'p'));
  ASSERT_EQ(longest.size(), kMaxSocketPathSize);
  EXPECT_THAT(Endpoint::OpenPath(EndpointKind::kStream, longest, {}), IsOk());
  for (const EndpointKind kind : {EndpointKind::kStream, EndpointKind::kDatagram}) {
    EXPECT_THAT(
        Endpoint::OpenPath(kind, longest + "p", {}),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("108 bytes, the limit is 107")));
  }
  EXPECT_THAT(Endpoint::OpenPath(EndpointKind::kFifo, longest + "p", {}), IsOk())
      << "no address, no limit";
}

TEST_F(EndpointTest, F97_ANameIsRemovedOnRequestOnlyAndOnlyIfItIsOurs) {
  for (const EndpointKind kind : kKindsWithName) {
    absl::StatusOr<Endpoint> endpoint = Open(kind);
    ASSERT_THAT(endpoint, IsOk());
    absl::StatusOr<Endpoint> successor = Open(kind);
    ASSERT_THAT(successor, IsOk());
    EXPECT_THAT(endpoint->RemoveName(FileOwner()), IsOk());
    EXPECT_NE(ModeOf(path_), 0u) << "the name is the successor's";
    EXPECT_THAT(successor->RemoveName(FileOwner()), IsOk());
    EXPECT_EQ(ModeOf(path_), 0u);
    LeaveBehind(kind);
    EXPECT_NE(ModeOf(path_), 0u) << "M58: the end of an endpoint removes nothing";
  }
  EXPECT_THAT(Endpoint::OpenInet(Loopback4(0), {})->RemoveName(FileOwner()), IsOk());
}

// --- Failures ---

TEST_F(EndpointTest, AMissingDirectoryIsNamed) {
  const std::string path = dir_.Path("none/s");
  for (const EndpointKind kind : kKindsWithName) {
    EXPECT_THAT(Endpoint::OpenPath(kind, path, {}),
                StatusIs(absl::StatusCode::kNotFound,
                         AnyOf("bind to " + path + ": No such file or directory",
                               "mkfifo " + path + ": No such file or directory")));
  }
}

// Each call in turn fails with each errno: the message names call and object, and nothing is left.
TEST_F(EndpointTest, F37_F122_NoFailureLeavesADescriptorOrAName) {
  const FdSnapshot before = FdSnapshot::Take();
  const EndpointAddress address = LoopbackAddresses().back();
  for (const EndpointKind kind :
       {EndpointKind::kInet, EndpointKind::kStream, EndpointKind::kDatagram, EndpointKind::kFifo}) {
    const std::string object = kind == EndpointKind::kInet ? address.text : path_;
    for (const int error : {EMFILE, ENOSPC, EROFS, EDQUOT, EIO, EACCES}) {
      int failures = 0;
      for (int64_t k = 1;; ++k) {
        ASSERT_LT(k, 50);
        const int id = system_->FailOnce(SystemCall::kAny, error, k);
        absl::StatusOr<Endpoint> endpoint =
            kind == EndpointKind::kInet ? Endpoint::OpenInet(address, {}) : Open(kind);
        const bool hit = system_->Hits(id) != 0;
        system_->RemoveAllFaults();
        if (!endpoint.ok()) {
          ++failures;
          EXPECT_THAT(endpoint.status().message(), HasSubstr(absl::StrCat(" ", object, ": ")));
          EXPECT_EQ(ModeOf(path_), 0u) << "after failure of call " << k;
        }
        endpoint = absl::CancelledError();
        EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
        unlink(path_.c_str());
        if (!hit) break;
      }
      EXPECT_GE(failures, 4);
    }
  }
}

TEST_F(EndpointTest, ANameThatCannotBeRemovedIsReported) {
  LeaveBehind(EndpointKind::kStream);
  system_->FailOnce(SystemCall::kUnlink, EROFS);
  EXPECT_THAT(Open().status().message(), HasSubstr("unlink " + path_ + ": Read-only"));
  system_->FailOnce(SystemCall::kLstat, EIO);
  EXPECT_THAT(Open().status().message(), HasSubstr("lstat " + path_));
}

// --- F65: what a worker can do to a listener that it shares ---

class DeafTest : public EndpointTest {
 protected:
  // The same open file under another number, as a worker has it.
  static UniqueFd WorkersCopy(const Endpoint& endpoint) {
    return UniqueFd(fcntl(endpoint.fd(), F_DUPFD_CLOEXEC, 0));
  }
  // The port is written out, as in every master.cf; one that the kernel chose is lost with the
  // state of listening.
  static absl::StatusOr<Endpoint> OpenTcp() {
    return Endpoint::OpenInet(Loopback4(FreePorts(1)[0]), {});
  }
};

TEST_F(DeafTest, F65_ATcpListenerThatWasShutDownListensAgainForAllWhoHoldIt) {
  for (const int how : {SHUT_RD, SHUT_RDWR}) {
    absl::StatusOr<Endpoint> endpoint = OpenTcp();
    ASSERT_THAT(endpoint, IsOk());
    UniqueFd worker = WorkersCopy(*endpoint);
    ASSERT_EQ(shutdown(worker.get(), how), 0);
    EXPECT_EQ(ConnectTo(worker.get()).error, ECONNREFUSED);
    EXPECT_TRUE(endpoint->IsDeaf());
    EXPECT_TRUE(endpoint->Revive(100));
    EXPECT_FALSE(endpoint->IsDeaf());
    const Client client = ConnectTo(endpoint->fd());
    EXPECT_EQ(client.error, 0);
    EXPECT_TRUE(UniqueFd(accept4(worker.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid());
  }
}

// F65: "hang-up is reported even with empty interest".
TEST_F(DeafTest, F65_APollerThatWatchesForNothingIsToldAtOnce) {
  absl::StatusOr<Endpoint> endpoint = OpenTcp();
  ASSERT_THAT(endpoint, IsOk());
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event = {};
  ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, endpoint->fd(), &event), 0);
  EXPECT_EQ(epoll_wait(epoll.get(), &event, 1, 0), 0);
  UniqueFd worker = WorkersCopy(*endpoint);
  ASSERT_EQ(shutdown(worker.get(), SHUT_RD), 0);
  EXPECT_EQ(epoll_wait(epoll.get(), &event, 1, 0), 1);
}

TEST_F(DeafTest, F65_ATcpListenerThatBecameAConnectionIsDeafAndCannotBeHadBack) {
  absl::StatusOr<Endpoint> endpoint = OpenTcp();
  absl::StatusOr<Endpoint> elsewhere = OpenTcp();
  ASSERT_THAT(endpoint, IsOk());
  ASSERT_THAT(elsewhere, IsOk());
  UniqueFd worker = WorkersCopy(*endpoint);
  ASSERT_EQ(shutdown(worker.get(), SHUT_RD), 0);
  EndpointAddress address = Loopback4(PortOf(elsewhere->fd()));
  connect(worker.get(), Bytes(address), address.length);
  ASSERT_TRUE(WaitForEvents(worker.get(), POLLOUT));
  EXPECT_TRUE(endpoint->IsDeaf());
  EXPECT_FALSE(endpoint->Revive(100));
}

// Linux keeps only a port that was asked for.
TEST_F(DeafTest, F65_AListenerThatCameBackAtAnotherPortIsNotTakenForTheOld) {
  absl::StatusOr<Endpoint> endpoint = Endpoint::OpenInet(Loopback4(0), {});
  ASSERT_THAT(endpoint, IsOk());
  UniqueFd worker = WorkersCopy(*endpoint);
  const int port = PortOf(worker.get());
  ASSERT_EQ(shutdown(worker.get(), SHUT_RD), 0);
  const Occupant occupant(port);
  EXPECT_FALSE(endpoint->Revive(100));
  EXPECT_NE(PortOf(worker.get()), port) << "what the test is about";
}

TEST_F(DeafTest, F65_ALocalSocketThatWasShutDownIsDeafForGood) {
  for (const EndpointKind kind : {EndpointKind::kStream, EndpointKind::kDatagram}) {
    for (const int how : {SHUT_RD, SHUT_RDWR}) {
      absl::StatusOr<Endpoint> endpoint = Open(kind);
      ASSERT_THAT(endpoint, IsOk());
      UniqueFd worker = WorkersCopy(*endpoint);
      ASSERT_EQ(shutdown(worker.get(), how), 0);
      EXPECT_TRUE(endpoint->IsDeaf());
      EXPECT_FALSE(endpoint->Revive(100));
    }
  }
}

TEST_F(DeafTest, F65_ADatagramSocketThatWasConnectedIsDeaf) {
  absl::StatusOr<Endpoint> endpoint = Open(EndpointKind::kDatagram);
  ASSERT_THAT(endpoint, IsOk());
  absl::StatusOr<Endpoint> other =
      Endpoint::OpenPath(EndpointKind::kDatagram, dir_.Path("other"), {});
  ASSERT_THAT(other, IsOk());
  UniqueFd worker = WorkersCopy(*endpoint);
  const UnixAddress address(dir_.Path("other"));
  ASSERT_EQ(connect(worker.get(), address.get(), address.length()), 0);
  EXPECT_TRUE(endpoint->IsDeaf());
}

TEST_F(DeafTest, WhatDoesNoHarmIsNotDeaf) {
  absl::StatusOr<Endpoint> tcp = OpenTcp();
  absl::StatusOr<Endpoint> local = Open();
  ASSERT_THAT(tcp, IsOk());
  ASSERT_THAT(local, IsOk());
  shutdown(tcp->fd(), SHUT_WR);
  shutdown(local->fd(), SHUT_WR);
  EXPECT_EQ(ConnectTo(tcp->fd()).error, 0);
  EXPECT_EQ(ConnectUnix(path_).error, 0);
  EXPECT_FALSE(tcp->IsDeaf());
  EXPECT_FALSE(local->IsDeaf());
  absl::StatusOr<Endpoint> fifo = Endpoint::OpenPath(EndpointKind::kFifo, dir_.Path("fifo"), {});
  ASSERT_THAT(fifo, IsOk());
  EXPECT_FALSE(fifo->IsDeaf());
}

}  // namespace
}  // namespace posthouse

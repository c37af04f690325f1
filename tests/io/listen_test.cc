#include "posthouse/io/listen.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StartsWith;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

TEST(ParseListenSpecTest, EveryGoodFormIsRead) {
  struct Row {
    const char* text;
    const char* host;
    const char* port;
  };
  for (const Row& row :
       {Row{"inet:127.0.0.1:10030", "127.0.0.1", "10030"}, Row{"inet:[::1]:25", "::1", "25"},
        Row{"inet:[fe80::1%eth0]:25", "fe80::1%eth0", "25"},
        Row{"inet:localhost:smtp", "localhost", "smtp"}, Row{"inet:*:0", "", "0"},
        Row{"inet::65535", "", "65535"}}) {
    absl::StatusOr<ListenSpec> spec = ParseListenSpec(row.text);
    ASSERT_THAT(spec, IsOk()) << row.text;
    EXPECT_EQ(spec->transport, Transport::kInet);
    EXPECT_EQ(spec->host, row.host);
    EXPECT_EQ(spec->port, row.port);
    EXPECT_EQ(spec->text, row.text);
  }
  absl::StatusOr<ListenSpec> spec = ParseListenSpec("unix:/run/with:colon and space");
  ASSERT_THAT(spec, IsOk());
  EXPECT_EQ(spec->transport, Transport::kUnix);
  EXPECT_EQ(spec->path, "/run/with:colon and space");
}

TEST(ParseListenSpecTest, EveryBadFormIsRefusedByNameOfTheOption) {
  for (const char* text :
       {"", "inet", "inet:", "inet:1", "inet:a:", "inet:a:65536", "inet:a:-1", "inet:a: 1",
        "inet:a:99999999999", "inet:::1:25", "inet:[::1:25", "inet:[]:25", "inet:a b:25",
        "inet:a\n:25", "inet:[::1]x:25", "unix:", "tcp:a:1", "/run/a.sock", "Unix:/a"}) {
    EXPECT_THAT(ParseListenSpec(text), StatusIs(kInvalid, StartsWith("--listen "))) << text;
  }
  EXPECT_THAT(ParseListenSpec(absl::string_view("unix:/a\0b", 9)), StatusIs(kInvalid));
  EXPECT_THAT(ParseListenSpec("inet:::1:25"), StatusIs(kInvalid, HasSubstr("in brackets")));
}

TEST(ParseListenSpecTest, F94_APathThatIsTooLongIsRefusedNamingTheLimit) {
  for (size_t size : {90u, 107u}) {
    EXPECT_THAT(ParseListenSpec("unix:" + std::string(size, 'p')), IsOk());
  }
  for (size_t size : {108u, 109u, 4096u}) {
    EXPECT_THAT(ParseListenSpec("unix:" + std::string(size, 'p')),
                StatusIs(kInvalid, HasSubstr(absl::StrCat(size, " bytes, the limit is 107"))));
  }
}

class ListenTest : public testing::Test {
 protected:
  absl::StatusOr<ListenResult> Open(absl::string_view text, const ListenOptions& options = {}) {
    absl::StatusOr<ListenSpec> spec = ParseListenSpec(text);
    if (!spec.ok()) return spec.status();
    return OpenListenSockets(*spec, options);
  }
  std::string SocketPath() { return dir_.Path("s"); }
  absl::StatusOr<ListenResult> OpenUnix(const ListenOptions& options = {}) {
    return Open("unix:" + SocketPath(), options);
  }
  // A connect that may fail; its errno, or 0.
  int ConnectUnix() {
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, SocketPath().c_str());
    return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ? 0
                                                                                          : errno;
  }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
};

mode_t ModeOf(const std::string& path) {
  struct stat found = {};
  return lstat(path.c_str(), &found) == 0 ? found.st_mode : 0;
}

// Whether the system that runs the tests has IPv6 on its loopback.
bool HasInet6() {
  UniqueFd fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  return fd && bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
}

std::string PortOf(const ListenSocket& socket) {
  return std::vector<std::string>(absl::StrSplit(socket.address(), ':')).back();
}

TEST_F(ListenTest, AnInetListenerAcceptsIsNonBlockingAndCloseOnExec) {
  absl::StatusOr<ListenResult> result = Open("inet:127.0.0.1:0");
  ASSERT_THAT(result, IsOk());
  ASSERT_THAT(result->sockets, SizeIs(1));
  const ListenSocket& listener = result->sockets[0];
  EXPECT_NE(fcntl(listener.fd(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(fcntl(listener.fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_THAT(listener.address(), StartsWith("127.0.0.1:"));
  EXPECT_NE(PortOf(listener), "0") << "the port that the kernel chose";
  sockaddr_in address = {};
  socklen_t length = sizeof(address);
  ASSERT_EQ(getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  UniqueFd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(AcceptConnection(listener.fd(), Transport::kInet).outcome, AcceptOutcome::kClient);
}

TEST_F(ListenTest, F90_AnAddressInUseIsNamed) {
  absl::StatusOr<ListenResult> first = Open("inet:127.0.0.1:0");
  ASSERT_THAT(first, IsOk());
  const std::string text = "inet:127.0.0.1:" + PortOf(first->sockets[0]);
  EXPECT_THAT(Open(text).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("--listen " + text + ": bind to 127.0.0.1:")));
}

TEST_F(ListenTest, F93_BothFamiliesAreBoundSeparately) {
  if (!HasInet6()) GTEST_SKIP() << "this system has no IPv6";
  absl::StatusOr<ListenResult> four = Open("inet:0.0.0.0:0");
  ASSERT_THAT(four, IsOk());
  const std::string port = PortOf(four->sockets[0]);
  absl::StatusOr<ListenResult> six = Open("inet:[::]:" + port);
  ASSERT_THAT(six, IsOk()) << "the other order";
  four->sockets.clear();
  ASSERT_THAT(Open("inet:0.0.0.0:" + port), IsOk());
  six->sockets.clear();
  EXPECT_THAT(Open("inet:*:" + port)->sockets, SizeIs(2));
}

TEST_F(ListenTest, F91_ANameThatMeansOneAddressTwiceIsBoundOnce) {
  system_->SetResolver([](const char*, const char* port, const addrinfo* hints, addrinfo** out) {
    addrinfo* list = nullptr;
    for (const char* host : {"127.0.0.1", "127.0.0.1", "127.0.0.2"}) {
      addrinfo* one = nullptr;
      if (const int code = getaddrinfo(host, port, hints, &one); code != 0) return code;
      one->ai_next = list;
      list = one;
    }
    *out = list;
    return 0;
  });
  absl::StatusOr<ListenResult> result = Open("inet:twice.example:0");
  ASSERT_THAT(result, IsOk());
  ASSERT_THAT(result->sockets, SizeIs(2));
  EXPECT_THAT(result->sockets[0].address(), StartsWith("127.0.0.2:"));
  EXPECT_THAT(result->sockets[1].address(), StartsWith("127.0.0.1:"));
  EXPECT_THAT(result->warnings, IsEmpty());
}

TEST_F(ListenTest, F92_AMissingFamilyIsAWarningForWildcardsAndAnErrorForAnAddress) {
  if (!HasInet6()) GTEST_SKIP() << "this system has no IPv6";
  system_->SetHook(SystemCall::kSocket, [&](int domain) {
    system_->RemoveAllFaults();
    if (domain == AF_INET6) system_->FailOnce(SystemCall::kSocket, EAFNOSUPPORT);
  });
  absl::StatusOr<ListenResult> result = Open("inet:*:0");
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->sockets, SizeIs(1));
  ASSERT_THAT(result->warnings, SizeIs(1));
  EXPECT_THAT(result->warnings[0], HasSubstr("[::]:0"));
  EXPECT_THAT(Open("inet:[::1]:0").status().message(), HasSubstr("socket for [::1]:0"));
}

TEST_F(ListenTest, F92_AnotherErrorIsNotTakenForAMissingFamily) {
  system_->FailOnce(SystemCall::kSocket, EMFILE);
  EXPECT_THAT(Open("inet:*:0"), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(ListenTest, AnUnknownHostOrServiceIsNamed) {
  EXPECT_THAT(Open("inet:127.0.0.1:no-such-service"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no-such-service")));
  system_->FailOnce(SystemCall::kGetaddrinfo, EAI_NONAME);
  EXPECT_THAT(Open("inet:nowhere.invalid:25"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("nowhere.invalid")));
}

TEST_F(ListenTest, F96_TheModeIsRightFromTheStartUnderAnyUmask) {
  for (mode_t mask : {0u, 077u, 0777u}) {
    for (mode_t mode : {0600u, 0666u, 0660u}) {
      const mode_t old_mask = umask(mask);
      mode_t mode_before_listen = 0;
      system_->SetHook(SystemCall::kListen,
                       [&](int) { mode_before_listen = ModeOf(SocketPath()); });
      absl::StatusOr<ListenResult> result = OpenUnix({.unix_mode = mode});
      EXPECT_EQ(umask(old_mask), mask) << "the umask is as it was";
      ASSERT_THAT(result, IsOk());
      EXPECT_EQ(mode_before_listen, S_IFSOCK | mode);
      EXPECT_EQ(ModeOf(SocketPath()), S_IFSOCK | mode);
      EXPECT_EQ(system_->Count(SystemCall::kChmod), 0) << "no moment with another mode";
      EXPECT_THAT(result->sockets[0].RemoveName(), IsOk());
    }
  }
}

TEST_F(ListenTest, F95_ADeadSocketOfOursIsReplaced) {
  ASSERT_THAT(OpenUnix(), IsOk());
  EXPECT_EQ(ConnectUnix(), ECONNREFUSED);
  absl::StatusOr<ListenResult> result = OpenUnix();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(ConnectUnix(), 0);
  EXPECT_EQ(result->sockets[0].address(), "unix:" + SocketPath());
}

TEST_F(ListenTest, F95_ALiveSocketIsLeft) {
  absl::StatusOr<ListenResult> first = OpenUnix({.backlog = 0});
  ASSERT_THAT(first, IsOk());
  for (int i = 0; i < 3; ++i) {  // the second finds the queue full
    EXPECT_THAT(OpenUnix(),
                StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("another process listens")));
  }
  EXPECT_EQ(ModeOf(SocketPath()), S_IFSOCK | 0600u);
}

TEST_F(ListenTest, F95_ADatagramSocketIsLeft) {
  UniqueFd other(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, SocketPath().c_str());
  ASSERT_EQ(bind(other.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_THAT(OpenUnix(), StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(ListenTest, F95_WhatIsNoSocketIsLeftAndReported) {
  dir_.WriteFile("s", "precious");
  EXPECT_THAT(OpenUnix(), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("is no socket")));
  EXPECT_EQ(ReadFileOrEmpty(SocketPath()), "precious");
  unlink(SocketPath().c_str());
  ASSERT_EQ(mkdir(SocketPath().c_str(), 0700), 0);
  EXPECT_THAT(OpenUnix(), StatusIs(absl::StatusCode::kAlreadyExists));
  ASSERT_EQ(rmdir(SocketPath().c_str()), 0);
  ASSERT_EQ(mkfifo(SocketPath().c_str(), 0600), 0);
  EXPECT_THAT(OpenUnix(), StatusIs(absl::StatusCode::kAlreadyExists));
  unlink(SocketPath().c_str());
  ASSERT_EQ(symlink("/dev/null", SocketPath().c_str()), 0);
  EXPECT_THAT(OpenUnix(), StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(ListenTest, F95_ADeadSocketOfSomebodyElseIsLeft) {
  ASSERT_THAT(OpenUnix(), IsOk());
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a socket to another account";
  ASSERT_EQ(lchown(SocketPath().c_str(), 12345, 12345), 0);
  EXPECT_THAT(OpenUnix(),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("belongs to somebody else")));
}

TEST_F(ListenTest, F97_AStopRemovesTheNameItMadeAndNoOther) {
  absl::StatusOr<ListenResult> result = OpenUnix();
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->sockets[0].RemoveName(), IsOk());
  EXPECT_EQ(ModeOf(SocketPath()), 0u);
  EXPECT_THAT(result->sockets[0].RemoveName(), IsOk()) << "again is harmless";

  result = OpenUnix();
  ASSERT_THAT(result, IsOk());
  dir_.WriteFile("other", "somebody else's");
  ASSERT_EQ(rename(dir_.Path("other").c_str(), SocketPath().c_str()), 0);
  EXPECT_THAT(result->sockets[0].RemoveName(), IsOk());
  EXPECT_EQ(ReadFileOrEmpty(SocketPath()), "somebody else's");
}

TEST_F(ListenTest, AMissingDirectoryIsNamed) {
  EXPECT_THAT(Open(absl::StrCat("unix:", dir_.path(), "/none/s")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none/s: bind: No such file")));
}

TEST_F(ListenTest, F37_NoFailureLeavesADescriptorOrAName) {
  const FdSnapshot before = FdSnapshot::Take();
  for (const std::string& text : {std::string("inet:*:0"), "unix:" + SocketPath()}) {
    for (int64_t k = 1;; ++k) {
      const int id = system_->FailOnce(SystemCall::kAny, ENOBUFS, k);
      bool hit = false;
      {
        absl::StatusOr<ListenResult> result = Open(text);
        hit = system_->Hits(id) != 0;
        system_->RemoveAllFaults();
        if (result.ok()) {
          for (ListenSocket& listener : result->sockets) EXPECT_THAT(listener.RemoveName(), IsOk());
        }
      }
      EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
      EXPECT_TRUE(ModeOf(SocketPath()) == 0u) << "after failure of call " << k;
      unlink(SocketPath().c_str());
      if (!hit) break;
      ASSERT_LT(k, 50);
    }
  }
}

}  // namespace
}  // namespace posthouse

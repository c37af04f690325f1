// What only root can try: names of another owner, devices, systems without IPv6.

#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/master/endpoint.h"
#include "posthouse/master/listeners.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"
#include "tests/master/endpoint_helpers.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr uid_t kOwner = 12345;
constexpr gid_t kOwnersGroup = 23456;
constexpr uid_t kStranger = 23457;
constexpr gid_t kDirectorysGroup = 34567;

constexpr EndpointKind kKindsWithName[] = {EndpointKind::kStream, EndpointKind::kDatagram,
                                           EndpointKind::kFifo};

class EndpointRootTest : public testing::Test {
 protected:
  EndpointRootTest() {
    options_.owner = {.change = true, .uid = kOwner, .gid = kOwnersGroup};
    EXPECT_EQ(geteuid(), 0u) << "this test needs root";
    EXPECT_EQ(chmod(dir_.path().c_str(), 0755), 0);
    EXPECT_EQ(mkdir(queue_.c_str(), 0700), 0);
    EXPECT_EQ(chown(queue_.c_str(), kOwner, 0), 0);
  }
  absl::StatusOr<Endpoint> Open(EndpointKind kind) {
    return Endpoint::OpenPath(kind, path_, options_);
  }
  struct stat Found() const {
    struct stat found = {};
    lstat(path_.c_str(), &found);
    return found;
  }

  ChildCheck children_;
  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  const std::string queue_ = dir_.Path("private");
  const std::string path_ = queue_ + "/s";
  EndpointOptions options_;
};

TEST_F(EndpointRootTest, M56_F96_TheOwnerIsThereBeforeTheSocketListens) {
  for (const EndpointKind kind : kKindsWithName) {
    struct stat before_listen = {};
    before_listen.st_uid = kOwner;
    system_->SetHook(SystemCall::kListen, [&](int) { before_listen = Found(); });
    ASSERT_THAT(Open(kind), IsOk());
    EXPECT_EQ(before_listen.st_uid, kOwner);
    EXPECT_EQ(Found().st_uid, kOwner);
    EXPECT_EQ(Found().st_gid, kOwnersGroup);
    EXPECT_EQ(geteuid(), 0u) << "root again";
  }
}

// M56: "A set-group-id directory (`public`) gives its group to the file".
TEST_F(EndpointRootTest, M56_ASetGroupIdDirectoryGivesItsGroup) {
  ASSERT_EQ(chown(queue_.c_str(), kOwner, kDirectorysGroup), 0);
  ASSERT_EQ(chmod(queue_.c_str(), 02710), 0);
  for (const EndpointKind kind : kKindsWithName) {
    ASSERT_THAT(Open(kind), IsOk());
    EXPECT_EQ(Found().st_uid, kOwner);
    EXPECT_EQ(Found().st_gid, kDirectorysGroup);
    EXPECT_EQ(Found().st_mode & 0777, kind == EndpointKind::kFifo ? 0622u : 0666u);
  }
}

// The rights of the owner, and no more: root's directory is closed to it.
TEST_F(EndpointRootTest, M56_NothingIsMadeWhereTheOwnerMayNot) {
  for (const EndpointKind kind : kKindsWithName) {
    EXPECT_THAT(Endpoint::OpenPath(kind, dir_.Path("s"), options_),
                StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(dir_.Path("s"))));
    EXPECT_EQ(geteuid(), 0u);
  }
}

TEST_F(EndpointRootTest, F95_WhatRootOrTheOwnerLeftBehindIsReplaced) {
  for (const uid_t uid : {uid_t{0}, kOwner}) {
    for (const EndpointKind before : kKindsWithName) {
      ASSERT_THAT(Open(before), IsOk());
      ASSERT_EQ(lchown(path_.c_str(), uid, 0), 0);
      ASSERT_THAT(Open(EndpointKind::kStream), IsOk());
      EXPECT_EQ(Found().st_uid, kOwner);
    }
  }
}

TEST_F(EndpointRootTest, F95_WhatBelongsToSomebodyElseIsLeft) {
  for (const EndpointKind kind : kKindsWithName) {
    ASSERT_THAT(Open(kind), IsOk());
    ASSERT_EQ(lchown(path_.c_str(), kStranger, 0), 0);
    const ino_t inode = Found().st_ino;
    EXPECT_THAT(Open(kind), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("of user 23457")));
    EXPECT_EQ(Found().st_ino, inode);
    unlink(path_.c_str());
  }
}

TEST_F(EndpointRootTest, F95_ADeviceIsLeft) {
  ASSERT_EQ(mknod(path_.c_str(), S_IFCHR | 0600, makedev(1, 3)), 0);
  EXPECT_THAT(Open(EndpointKind::kFifo),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("taken by a device")));
  EXPECT_TRUE(S_ISCHR(Found().st_mode));
}

TEST_F(EndpointRootTest, F97_TheOwnersNameIsRemovedByItsOwner) {
  for (const EndpointKind kind : kKindsWithName) {
    absl::StatusOr<Endpoint> endpoint = Open(kind);
    ASSERT_THAT(endpoint, IsOk());
    EXPECT_THAT(endpoint->RemoveName(options_.owner), IsOk());
    EXPECT_EQ(Found().st_mode, 0u);
    EXPECT_EQ(geteuid(), 0u);
  }
}

TEST_F(EndpointRootTest, F37_NoFailureLeavesTheIdentityChangedOrADescriptorOpen) {
  const FdSnapshot before = FdSnapshot::Take();
  for (const EndpointKind kind : kKindsWithName) {
    for (const SystemCall call :
         {SystemCall::kSetegid, SystemCall::kSetgroups, SystemCall::kSeteuid, SystemCall::kLstat,
          SystemCall::kSocket, SystemCall::kBind, SystemCall::kListen, SystemCall::kMkfifo,
          SystemCall::kOpen, SystemCall::kFstat}) {
      system_->FailOnce(call, EPERM);
      Open(kind).IgnoreError();
      system_->RemoveAllFaults();
      EXPECT_EQ(geteuid(), 0u) << SystemCallName(call);
      EXPECT_EQ(getegid(), 0u) << SystemCallName(call);
      EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "") << SystemCallName(call);
    }
  }
}

// F96: "an unprivileged process that tries to connect in a tight loop ... never succeeds on a
// private endpoint".
TEST_F(EndpointRootTest, F96_AStrangerNeverReachesAPrivateEndpoint) {
  int stop[2];
  ASSERT_EQ(pipe2(stop, O_CLOEXEC | O_NONBLOCK), 0);
  UniqueFd stop_read(stop[0]);
  UniqueFd stop_write(stop[1]);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    stop_write.Reset();
    if (setgroups(0, nullptr) != 0 || setgid(kStranger) != 0 || setuid(kStranger) != 0) _exit(2);
    char byte;
    while (read(stop_read.get(), &byte, 1) != 0) {
      if (ConnectUnix(path_).error == 0) _exit(1);
    }
    _exit(0);
  }
  for (const mode_t mask : {0u, 077u}) {
    const mode_t old_mask = umask(mask);
    for (int i = 0; i < 5000; ++i) ASSERT_THAT(Open(EndpointKind::kStream), IsOk());
    umask(old_mask);
  }
  stop_write.Reset();
  EXPECT_EQ(WaitForExit(child), 0);
}

// --- F92, in a network of our own ---

void WriteTo(const char* path, const char* text) {
  UniqueFd fd(open(path, O_WRONLY | O_CLOEXEC));
  if (!fd) return;  // a kernel without IPv6, which is just as well
  EXPECT_EQ(write(fd.get(), text, strlen(text)), static_cast<ssize_t>(strlen(text)));
}

// The network of the calling thread becomes one that has a loopback without IPv6.
void LoseInet6() {
  ASSERT_EQ(unshare(CLONE_NEWNET), 0);
  WriteTo("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = {};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP;
  ASSERT_EQ(ioctl(fd.get(), SIOCSIFFLAGS, &request), 0);
}

TEST_F(EndpointRootTest, F92_WithoutInet6NamesWorkWithWhatIsThereAndAWrittenAddressIsAnError) {
  std::thread([&] {
    LoseInet6();
    ListenRequest request;
    request.addresses = {Loopback4(10025), Loopback6(10025)};
    request.addresses[1].optional = true;
    ListenReport report;
    absl::StatusOr<ServiceListeners> listeners = ServiceListeners::Open(request, options_, &report);
    ASSERT_THAT(listeners, IsOk());
    EXPECT_THAT(listeners->fds(), SizeIs(1));
    EXPECT_THAT(report.warnings, ElementsAre(HasSubstr("[::1]:10025")));
    EXPECT_EQ(ConnectTo(listeners->fds()[0]).error, 0);

    request.addresses[1].optional = false;
    EXPECT_THAT(ServiceListeners::Open(request, options_, &report).status().message(),
                HasSubstr("[::1]:10025: "));
    report = {};
    EXPECT_FALSE(listeners->Adjust(request, options_, &report));
    EXPECT_THAT(listeners->fds(), SizeIs(1)) << "the other one serves on";
    EXPECT_THAT(report.failures, SizeIs(1));
  }).join();
}

}  // namespace
}  // namespace posthouse

#include "posthouse/master/listeners.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
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

ListenRequest Inet(std::vector<EndpointAddress> addresses) {
  ListenRequest request;
  request.addresses = std::move(addresses);
  return request;
}

ListenRequest InetPorts(const std::vector<int>& ports) {
  ListenRequest request;
  for (int port : ports) request.addresses.push_back(Loopback4(port));
  return request;
}

class ListenersTest : public testing::Test {
 protected:
  absl::StatusOr<ServiceListeners> Open(const ListenRequest& request) {
    return ServiceListeners::Open(request, options_, &report_);
  }
  ListenRequest Named(EndpointKind kind = EndpointKind::kStream) {
    ListenRequest request;
    request.kind = kind;
    request.path = path_;
    return request;
  }
  std::vector<int> Ports(const ServiceListeners& listeners) {
    std::vector<int> ports;
    for (int fd : listeners.fds()) ports.push_back(PortOf(fd));
    return ports;
  }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  TempDir dir_;
  const std::string path_ = dir_.Path("s");
  EndpointOptions options_;
  ListenReport report_;
};

// M50: the list "fixes the number and order of the listeners".
TEST_F(ListenersTest, M50_DescriptorsComeInTheOrderOfTheAddresses) {
  const std::vector<int> ports = FreePorts(3);
  absl::StatusOr<ServiceListeners> listeners = Open(InetPorts(ports));
  ASSERT_THAT(listeners, IsOk());
  EXPECT_EQ(Ports(*listeners), ports);
  EXPECT_FALSE(listeners->is_missing_some());
  EXPECT_THAT(report_.changes, SizeIs(3));
}

TEST_F(ListenersTest, AServiceWithANameHasOneDescriptor) {
  for (EndpointKind kind : {EndpointKind::kStream, EndpointKind::kDatagram, EndpointKind::kFifo}) {
    absl::StatusOr<ServiceListeners> listeners = Open(Named(kind));
    ASSERT_THAT(listeners, IsOk());
    EXPECT_THAT(listeners->fds(), SizeIs(1));
    EXPECT_THAT(report_.changes, ElementsAre("opened " + path_));
    report_ = {};
  }
}

TEST_F(ListenersTest, F91_AnAddressThatIsThereTwiceIsOpenedOnce) {
  const int port = FreePorts(1)[0];
  absl::StatusOr<ServiceListeners> listeners = Open(InetPorts({port, port}));
  ASSERT_THAT(listeners, IsOk());
  EXPECT_EQ(Ports(*listeners), std::vector<int>{port});
}

TEST_F(ListenersTest, F90_AtStartTheFirstFailureIsTheErrorAndNothingStays) {
  const Occupant occupant(0);
  std::vector<int> ports = FreePorts(4);
  ports.insert(ports.begin() + 2, occupant.port());
  const FdSnapshot before = FdSnapshot::Take();
  EXPECT_THAT(Open(InetPorts(ports)), StatusIs(absl::StatusCode::kFailedPrecondition,
                                               absl::StrCat("bind to 127.0.0.1:", occupant.port(),
                                                            ": Address already in use")));
  EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "");
}

TEST_F(ListenersTest, F90_AtReloadOneBusyPortIsOffAndComesUpWhenItIsFree) {
  std::vector<int> ports = FreePorts(5);
  auto occupant = std::make_unique<Occupant>(ports[2]);
  ServiceListeners listeners = ServiceListeners::OpenPartly(InetPorts(ports), options_, &report_);
  EXPECT_EQ(Ports(listeners), (std::vector<int>{ports[0], ports[1], ports[3], ports[4]}));
  EXPECT_TRUE(listeners.is_missing_some());
  EXPECT_THAT(report_.failures,
              ElementsAre(HasSubstr(absl::StrCat("bind to 127.0.0.1:", ports[2], ": "))));

  report_ = {};
  EXPECT_FALSE(listeners.OpenMissing(options_, &report_)) << "it is still busy";
  EXPECT_THAT(report_.failures, SizeIs(1));
  EXPECT_THAT(report_.changes, IsEmpty());

  occupant.reset();
  report_ = {};
  EXPECT_TRUE(listeners.OpenMissing(options_, &report_));
  EXPECT_EQ(Ports(listeners), ports) << "in its place";
  EXPECT_FALSE(listeners.is_missing_some());
  EXPECT_THAT(report_.changes, ElementsAre(absl::StrCat("opened 127.0.0.1:", ports[2])));
  EXPECT_FALSE(listeners.OpenMissing(options_, &report_)) << "nothing is missing";
}

// --- F92 ---

class FamilyTest : public ListenersTest {
 protected:
  FamilyTest() {
    four_ = Loopback4(FreePorts(1)[0]);
    six_ = Wildcard(AF_INET6, PortOfAddress());
    // The system loses IPv6.
    system_->SetHook(SystemCall::kSocket, [this](int domain) {
      system_->RemoveAllFaults();
      if (domain == AF_INET6) system_->FailOnce(SystemCall::kSocket, error_);
    });
  }
  int PortOfAddress() const {
    return ntohs(reinterpret_cast<const sockaddr_in*>(Bytes(four_))->sin_port);
  }

  EndpointAddress four_;
  EndpointAddress six_;
  int error_ = EAFNOSUPPORT;
};

TEST_F(FamilyTest, F92_AnOptionalAddressOfAMissingFamilyIsAWarningOnce) {
  six_.optional = true;
  absl::StatusOr<ServiceListeners> listeners = Open(Inet({four_, six_}));
  ASSERT_THAT(listeners, IsOk());
  EXPECT_THAT(listeners->fds(), SizeIs(1));
  EXPECT_THAT(report_.warnings, ElementsAre(HasSubstr("socket for [::]:")));
  EXPECT_FALSE(listeners->is_missing_some()) << "there is nothing to try again";
  EXPECT_FALSE(listeners->Adjust(Inet({four_, six_}), options_, &report_));
  EXPECT_FALSE(listeners->OpenMissing(options_, &report_));
  EXPECT_THAT(report_.warnings, SizeIs(1)) << "it was told";
}

TEST_F(FamilyTest, F92_AtReloadAFamilyThatCameBackIsUsed) {
  six_.optional = true;
  ServiceListeners listeners =
      ServiceListeners::OpenPartly(Inet({four_, six_}), options_, &report_);
  EXPECT_THAT(report_.failures, IsEmpty());
  system_->Reset();
  if (LoopbackAddresses().size() < 2) GTEST_SKIP() << "this system has no IPv6";
  EXPECT_TRUE(listeners.Adjust(Inet({four_, six_}), options_, &report_));
  EXPECT_THAT(listeners.fds(), SizeIs(2));
}

TEST_F(FamilyTest, F92_AnExplicitAddressOfAMissingFamilyIsItsOwnError) {
  EXPECT_THAT(Open(Inet({four_, six_})).status().message(), HasSubstr("socket for [::]:"));
  ServiceListeners listeners =
      ServiceListeners::OpenPartly(Inet({four_, six_}), options_, &report_);
  EXPECT_THAT(listeners.fds(), SizeIs(1));
  EXPECT_TRUE(listeners.is_missing_some());
  EXPECT_THAT(report_.failures, ElementsAre(HasSubstr("socket for [::]:")));
}

TEST_F(FamilyTest, F92_AnotherErrorIsNotTakenForAMissingFamily) {
  six_.optional = true;
  error_ = EMFILE;
  EXPECT_THAT(Open(Inet({four_, six_})), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(FamilyTest, AServiceWithoutAnyAddressDoesNotStart) {
  six_.optional = true;
  EXPECT_THAT(Open(Inet({six_})),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("none of the addresses")));
}

// --- MO7: reload ---

TEST_F(ListenersTest, MO7_ReloadOpensWhatIsNewClosesWhatIsGoneAndKeepsTheRest) {
  const std::vector<int> ports = FreePorts(3);
  absl::StatusOr<ServiceListeners> listeners = Open(InetPorts({ports[0], ports[1]}));
  ASSERT_THAT(listeners, IsOk());
  const int kept = listeners->fds()[1];
  const Client waiting = ConnectTo(kept);
  ASSERT_EQ(waiting.error, 0);
  report_ = {};
  EXPECT_TRUE(listeners->Adjust(InetPorts({ports[1], ports[2]}), options_, &report_));
  EXPECT_EQ(Ports(*listeners), (std::vector<int>{ports[1], ports[2]}));
  EXPECT_EQ(listeners->fds()[0], kept);
  EXPECT_THAT(report_.changes, ElementsAre(absl::StrCat("opened 127.0.0.1:", ports[2]),
                                           absl::StrCat("closed 127.0.0.1:", ports[0])));
  // M111: "In-flight connections in the backlog of a kept service survive".
  EXPECT_TRUE(UniqueFd(accept4(kept, nullptr, nullptr, SOCK_CLOEXEC)).valid());
  EXPECT_FALSE(listeners->Adjust(InetPorts({ports[1], ports[2]}), options_, &report_))
      << "nothing new";
  EXPECT_TRUE(listeners->Adjust(InetPorts({ports[2], ports[1]}), options_, &report_))
      << "another order";
  EXPECT_EQ(Ports(*listeners), (std::vector<int>{ports[2], ports[1]}));
}

TEST_F(ListenersTest, MO7_ReloadLeavesANamedServiceAsItIsAndTriesWhatIsMissing) {
  dir_.WriteFile("s", "in the way");
  ServiceListeners listeners = ServiceListeners::OpenPartly(Named(), options_, &report_);
  EXPECT_TRUE(listeners.is_missing_some());
  EXPECT_THAT(listeners.fds(), IsEmpty());
  EXPECT_THAT(report_.failures, ElementsAre(HasSubstr("taken by a regular file")));
  unlink(path_.c_str());
  EXPECT_TRUE(listeners.Adjust(Named(), options_, &report_));
  EXPECT_EQ(ConnectUnix(path_).error, 0);
  const CallCounts before = system_->Counts();
  EXPECT_FALSE(listeners.Adjust(Named(), options_, &report_));
  EXPECT_EQ((system_->Counts() - before).Total(), 0);
}

// M109: "`port` changed to `host:port` binds while the old wildcard listener is still open".
TEST_F(ListenersTest, M109_AnAddressTakesOverFromItsWildcardWithoutAGap) {
  const int port = FreePorts(1)[0];
  absl::StatusOr<ServiceListeners> old = Open(Inet({Wildcard(AF_INET, port)}));
  ASSERT_THAT(old, IsOk());
  absl::StatusOr<ServiceListeners> successor = Open(InetPorts({port}));
  ASSERT_THAT(successor, IsOk());
  EXPECT_TRUE(successor->Adjust(Inet({Wildcard(AF_INET, port)}), options_, &report_))
      << "and within a service";
}

using ListenersDeathTest = ListenersTest;

TEST_F(ListenersDeathTest, M110_AnotherPathIsAnotherService) {
  absl::StatusOr<ServiceListeners> listeners = Open(Named());
  ASSERT_THAT(listeners, IsOk());
  ListenRequest other = Named();
  other.path += "x";
  EXPECT_DEATH(listeners->Adjust(other, options_, &report_), "another service");
  EXPECT_DEATH(listeners->Adjust(Named(EndpointKind::kFifo), options_, &report_),
               "another service");
}

// --- F65 ---

TEST_F(ListenersTest, F65_ADeafTcpListenerIsRestoredInPlaceAndTheOthersAreLeftAlone) {
  absl::StatusOr<ServiceListeners> listeners = Open(InetPorts(FreePorts(3)));
  ASSERT_THAT(listeners, IsOk());
  EXPECT_FALSE(listeners->IsDeaf());
  const std::vector<int> before(listeners->fds().begin(), listeners->fds().end());
  ASSERT_EQ(shutdown(before[1], SHUT_RD), 0);
  EXPECT_TRUE(listeners->IsDeaf());
  report_ = {};
  EXPECT_FALSE(listeners->RestoreDeaf(options_, &report_)) << "workers have it back by themselves";
  EXPECT_THAT(report_.changes, ElementsAre(HasSubstr("listening again: 127.0.0.1:")));
  EXPECT_FALSE(listeners->IsDeaf());
  for (int fd : before) EXPECT_EQ(ConnectTo(fd).error, 0);
}

// listeners.h: "True: fds() has changed", whatever number the new one gets.
TEST_F(ListenersTest, F65_ADeafLocalSocketIsReplaced) {
  for (EndpointKind kind : {EndpointKind::kStream, EndpointKind::kDatagram}) {
    absl::StatusOr<ServiceListeners> listeners = Open(Named(kind));
    ASSERT_THAT(listeners, IsOk());
    ASSERT_EQ(shutdown(listeners->fds()[0], SHUT_RDWR), 0);
    report_ = {};
    EXPECT_TRUE(listeners->RestoreDeaf(options_, &report_));
    EXPECT_THAT(report_.changes, ElementsAre("closed " + path_, "opened " + path_));
    EXPECT_FALSE(listeners->IsDeaf());
    EXPECT_FALSE(listeners->RestoreDeaf(options_, &report_));
    if (kind == EndpointKind::kStream) {
      EXPECT_EQ(ConnectUnix(path_).error, 0);
    }
  }
}

TEST_F(ListenersTest, F65_WhatCannotBeRestoredIsOffAndIsTriedAgain) {
  const int port = FreePorts(1)[0];
  absl::StatusOr<ServiceListeners> listeners = Open(InetPorts({port}));
  ASSERT_THAT(listeners, IsOk());
  ASSERT_EQ(shutdown(listeners->fds()[0], SHUT_RD), 0);
  system_->FailOnce(SystemCall::kListen, EADDRINUSE);
  system_->FailOnce(SystemCall::kBind, EADDRINUSE);
  report_ = {};
  EXPECT_TRUE(listeners->RestoreDeaf(options_, &report_));
  EXPECT_THAT(report_.failures, ElementsAre(HasSubstr("bind to 127.0.0.1:")));
  EXPECT_THAT(listeners->fds(), IsEmpty());
  EXPECT_TRUE(listeners->is_missing_some());
  EXPECT_FALSE(listeners->IsDeaf());
  EXPECT_TRUE(listeners->OpenMissing(options_, &report_));
  EXPECT_EQ(ConnectTo(listeners->fds()[0]).error, 0);
}

// --- The rest ---

TEST_F(ListenersTest, OnePollSeesTheClientsOfAllServices) {
  absl::StatusOr<ServiceListeners> inet = Open(InetPorts(FreePorts(2)));
  absl::StatusOr<ServiceListeners> local = Open(Named());
  ASSERT_THAT(inet, IsOk());
  ASSERT_THAT(local, IsOk());
  std::vector<pollfd> entries;
  inet->AppendTo(&entries);
  local->AppendTo(&entries);
  ASSERT_THAT(entries, SizeIs(3));
  EXPECT_EQ(poll(entries.data(), entries.size(), 0), 0);
  const Client client = ConnectTo(inet->fds()[1]);
  const Client other = ConnectUnix(path_);
  EXPECT_TRUE(WaitForEvents(inet->fds()[1], POLLIN));
  EXPECT_EQ(poll(entries.data(), entries.size(), 0), 2);
  EXPECT_EQ(entries[0].revents, 0);
  EXPECT_EQ(entries[1].revents, POLLIN);
  EXPECT_EQ(entries[2].revents, POLLIN);
}

TEST_F(ListenersTest, MO8_NamesAreRemovedOnRequestAndAddressesHaveNone) {
  absl::StatusOr<ServiceListeners> local = Open(Named());
  ASSERT_THAT(local, IsOk());
  EXPECT_THAT(local->RemoveNames(FileOwner()), IsOk());
  EXPECT_EQ(ModeOf(path_), 0u);
  absl::StatusOr<ServiceListeners> inet = Open(InetPorts(FreePorts(2)));
  ASSERT_THAT(inet, IsOk());
  EXPECT_THAT(inet->RemoveNames(FileOwner()), IsOk());
  EXPECT_EQ(ConnectTo(inet->fds()[0]).error, 0);
}

}  // namespace
}  // namespace posthouse

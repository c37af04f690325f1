// wake_up.h: contacting services without waiting for them (M84 to M88, P66, F87).

#include "posthouse/master/wake_up.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/pass_descriptor.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/log.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const std::string kBoth("W\0", 2);

class Lines : public LogSink {
 public:
  explicit Lines(std::vector<std::string>* lines) : lines_(lines) {}
  void Write(const LogRecord& record) override {
    lines_->push_back(absl::StrCat(LogSeverityWord(record.severity), ": ", record.text));
  }

 private:
  std::vector<std::string>* lines_;
};

// What can be read now: the bytes, "<nothing>" or "<end>".
std::string ReadNow(int fd) {
  char buffer[100];
  pollfd entry = {fd, POLLIN, 0};
  if (poll(&entry, 1, 0) == 0) return "<nothing>";
  const ssize_t count = read(fd, buffer, sizeof(buffer));
  return count > 0 ? std::string(buffer, static_cast<size_t>(count)) : "<end>";
}

class WakeUpTest : public testing::Test {
 protected:
  WakeUpTest() : log_("posthouse/master") {
    system_->UseFakeClock(ClockMode::kManual);
    log_.AddSink(std::make_unique<Lines>(&lines_));
    absl::StatusOr<std::unique_ptr<EventLoop>> loop = EventLoop::Create({});
    EXPECT_THAT(loop, IsOk());
    loop_ = *std::move(loop);
    wake_ups_ = std::make_unique<WakeUps>(loop_.get(), &log_, &OpenFifoForWakeUp);
  }

  // Enough for what is under way to come to a halt: no time passes.
  void Turns() {
    for (int i = 0; i < 5; ++i) EXPECT_THAT(loop_->RunOnce(absl::ZeroDuration()), IsOk());
  }
  void Pass(absl::Duration time) {
    system_->Advance(time);
    Turns();
  }

  WakeUpTarget Local(WakeUpTarget::Kind kind, const std::string& name) {
    WakeUpTarget target;
    target.kind = kind;
    target.name = name;
    target.internal_name = "private/" + name;
    target.path = dir_.Path(name);
    return target;
  }

  UniqueFd ListenLocal(const std::string& path, int backlog = 100) {
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(fd.get(), backlog), 0);
    return fd;
  }

  // On the wildcard address.
  UniqueFd ListenInet(int backlog, WakeUpTarget* target) {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&any), sizeof(any)), 0);
    EXPECT_EQ(listen(fd.get(), backlog), 0);
    target->kind = WakeUpTarget::Kind::kInet;
    target->name = "smtp";
    target->internal_name = "25";
    target->address_size = sizeof(target->address);
    EXPECT_EQ(
        getsockname(fd.get(), reinterpret_cast<sockaddr*>(&target->address), &target->address_size),
        0);
    return fd;
  }

  UniqueFd Accept(const UniqueFd& listener) {
    return UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }

  FdLeakCheck fds_;
  ScopedInterposer system_;
  TempDir dir_;
  std::vector<std::string> lines_;
  Log log_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<WakeUps> wake_ups_;
};

// M86: "connect, write W, write NUL, keep the connection until the peer closes".
TEST_F(WakeUpTest, AUnixServiceGetsBothBytesAndAConnectionThatItCloses) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kUnix, "pickup");
  const UniqueFd listener = ListenLocal(target.path);
  wake_ups_->Trigger(1, target);
  Turns();
  UniqueFd connection = Accept(listener);
  ASSERT_TRUE(connection.valid());
  EXPECT_EQ(ReadNow(connection.get()), kBoth);
  Pass(absl::Seconds(100));
  EXPECT_EQ(ReadNow(connection.get()), "<nothing>");
  EXPECT_EQ(wake_ups_->under_way(), 1u);
  connection.Reset();
  Turns();
  EXPECT_EQ(wake_ups_->under_way(), 0u);
  EXPECT_FALSE(Accept(listener).valid()) << "one connection for one trigger";
  EXPECT_THAT(lines_, IsEmpty());
}

// M86: "inet without host: connect to localhost".
TEST_F(WakeUpTest, AnInetServiceOnAllAddressesIsReachedOverTheLoopback) {
  WakeUpTarget target;
  const UniqueFd listener = ListenInet(10, &target);
  wake_ups_->Trigger(1, target);
  Turns();
  UniqueFd connection = Accept(listener);
  ASSERT_TRUE(connection.valid());
  sockaddr_in peer = {};
  socklen_t size = sizeof(peer);
  EXPECT_EQ(getpeername(connection.get(), reinterpret_cast<sockaddr*>(&peer), &size), 0);
  EXPECT_EQ(peer.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
  EXPECT_EQ(ReadNow(connection.get()), kBoth);
  connection.Reset();
  Turns();
  EXPECT_EQ(wake_ups_->under_way(), 0u);
}

// M86: "fifo: ... write W only".
TEST_F(WakeUpTest, AFifoGetsOneByte) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kFifo, "qmgr");
  ASSERT_EQ(mkfifo(target.path.c_str(), 0622), 0);
  const UniqueFd reader(open(target.path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  wake_ups_->Trigger(1, target);
  Turns();
  EXPECT_EQ(ReadNow(reader.get()), "W");
  EXPECT_EQ(wake_ups_->under_way(), 0u);
  EXPECT_THAT(lines_, IsEmpty());
}

// P66: "send the read end of a pipe as in P60 and write the two bytes into the pipe".
TEST_F(WakeUpTest, APassServiceGetsAPipeThatSaysBothBytesAndEndsWithTheConnection) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kPass, "smtpd");
  const UniqueFd listener = ListenLocal(target.path);
  wake_ups_->Trigger(1, target);
  Turns();
  UniqueFd connection = Accept(listener);
  ASSERT_TRUE(connection.valid());
  absl::StatusOr<absl::optional<UniqueFd>> received = ReceiveDescriptor(connection.get());
  ASSERT_THAT(received, IsOk());
  ASSERT_TRUE(received->has_value());
  EXPECT_EQ(ReadNow((*received)->get()), kBoth);
  EXPECT_EQ(ReadNow((*received)->get()), "<nothing>");
  EXPECT_EQ(ReadNow(connection.get()), "<nothing>") << "no attribute list (P67)";
  connection.Reset();
  Turns();
  EXPECT_EQ(ReadNow((*received)->get()), "<end>");
  EXPECT_EQ(wake_ups_->under_way(), 0u);
}

// M86: "unix-dgram: not supported, warning each time".
TEST_F(WakeUpTest, ADatagramServiceIsWarnedAboutEachTimeAndNotTriedAgain) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kUnixDgram, "postlog");
  for (size_t i = 1; i <= 3; ++i) {
    wake_ups_->Trigger(1, target);
    Pass(absl::Seconds(10));
    EXPECT_THAT(lines_, SizeIs(i));
  }
  EXPECT_THAT(lines_[0], AllOf(HasSubstr("warning: "), HasSubstr("postlog (private/postlog)"),
                               HasSubstr("unix-dgram")));
}

// M86: "or 101 s pass (then a warning)".
TEST_F(WakeUpTest, AConnectionThatTheServiceDoesNotCloseIsClosedAfterItsTimeWithAWarning) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kUnix, "pickup");
  const UniqueFd listener = ListenLocal(target.path);
  wake_ups_->Trigger(1, target);
  Turns();
  const UniqueFd connection = Accept(listener);
  EXPECT_EQ(ReadNow(connection.get()), kBoth);
  Pass(absl::Seconds(100));
  EXPECT_THAT(lines_, IsEmpty());
  Pass(absl::Seconds(2));
  EXPECT_EQ(ReadNow(connection.get()), "<end>");
  EXPECT_EQ(wake_ups_->under_way(), 0u);
  EXPECT_THAT(lines_, ElementsAre(AllOf(HasSubstr("pickup (private/pickup)"),
                                        HasSubstr("was not closed within"))));
  EXPECT_FALSE(Accept(listener).valid()) << "it was no miss";
}

// M87, F87: a full backlog is a miss; "a missed one is retried".
TEST_F(WakeUpTest, AServiceWithAFullBacklogIsTriedAgainEachSecondAndWarnedAboutNotEachTime) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kUnix, "pickup");
  const UniqueFd listener = ListenLocal(target.path, /*backlog=*/0);
  wake_ups_->Trigger(1, target);
  Turns();
  wake_ups_->Trigger(1, target);
  Turns();
  EXPECT_THAT(lines_, ElementsAre(AllOf(HasSubstr("warning: "), HasSubstr("pickup"),
                                        HasSubstr("private/pickup"), HasSubstr("connect"))));
  for (int i = 0; i < 5; ++i) Pass(absl::Seconds(1));
  EXPECT_EQ(system_->Count(SystemCall::kConnect), 2 + 5);
  const UniqueFd first = Accept(listener);
  Pass(absl::Seconds(1));
  const UniqueFd second = Accept(listener);
  ASSERT_TRUE(second.valid());
  EXPECT_EQ(ReadNow(second.get()), kBoth);
  Pass(absl::Seconds(10));
  EXPECT_EQ(system_->Count(SystemCall::kConnect), 2 + 6) << "it is done";
  EXPECT_THAT(lines_, SizeIs(1));
}

// F87: the same for TCP, where a full backlog is silence.
TEST_F(WakeUpTest, AnInetServiceThatDoesNotAnswerIsGivenUpAfterItsLimitAndTriedAgain) {
  WakeUpTarget target;
  const UniqueFd listener = ListenInet(/*backlog=*/0, &target);
  std::vector<UniqueFd> fillers;
  for (int i = 0; i < 3; ++i) {
    fillers.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in address;
    std::memcpy(&address, &target.address, sizeof(address));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connect(fillers.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  }
  wake_ups_->Trigger(1, target);
  Turns();
  EXPECT_EQ(wake_ups_->under_way(), 1u);
  EXPECT_THAT(lines_, IsEmpty());
  Pass(WakeUps::kConnectLimit);
  EXPECT_EQ(wake_ups_->under_way(), 0u);
  EXPECT_THAT(lines_, ElementsAre(AllOf(HasSubstr("smtp (25)"), HasSubstr("no answer"))));
  Pass(WakeUps::kRetryAfter);
  EXPECT_EQ(wake_ups_->under_way(), 1u);
  EXPECT_THAT(lines_, SizeIs(1));
}

// M87: "warning naming both names of the service; never fatal".
TEST_F(WakeUpTest, AServiceThatIsNotThereIsWarnedAboutAndFoundWhenItComes) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kUnix, "late");
  wake_ups_->Trigger(1, target);
  Turns();
  EXPECT_THAT(lines_,
              ElementsAre(AllOf(HasSubstr("late (private/late)"), HasSubstr("No such file"))));
  const UniqueFd listener = ListenLocal(target.path);
  Pass(WakeUps::kRetryAfter);
  EXPECT_EQ(ReadNow(Accept(listener).get()), kBoth);
}

// M86: "with M24's checks".
TEST_F(WakeUpTest, WhatIsNoPlainFifoIsNotOpened) {
  const std::string victim = dir_.WriteFile("victim", "content");
  const std::string fifo = dir_.Path("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(OpenFifoForWakeUp(fifo), StatusIs(absl::ErrnoToStatusCode(ENXIO)));
  const UniqueFd reader(open(fifo.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  EXPECT_THAT(OpenFifoForWakeUp(fifo), IsOk());
  const std::string link = dir_.Path("link");
  ASSERT_EQ(symlink(fifo.c_str(), link.c_str()), 0);
  EXPECT_THAT(OpenFifoForWakeUp(link),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a fifo")));
  EXPECT_THAT(OpenFifoForWakeUp(victim),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a fifo")));
  EXPECT_THAT(OpenFifoForWakeUp("/dev/null"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not a fifo")));
  EXPECT_THAT(OpenFifoForWakeUp(dir_.Path("none")), StatusIs(absl::StatusCode::kNotFound));
  // Somebody puts a link in its place at the last moment.
  system_->SetHook(SystemCall::kOpen, [&](int) {
    unlink(fifo.c_str());
    EXPECT_EQ(symlink(victim.c_str(), fifo.c_str()), 0);
  });
  EXPECT_FALSE(OpenFifoForWakeUp(fifo).ok());
  system_->SetHook(SystemCall::kOpen, nullptr);
  unlink(fifo.c_str());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const UniqueFd second_reader(open(fifo.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  ::link(fifo.c_str(), dir_.Path("other").c_str());
  EXPECT_THAT(OpenFifoForWakeUp(fifo),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("hard link")));
  EXPECT_EQ(ReadFileOrEmpty(victim), "content");
}

// F87: "a fifo without reader", and one that is full.
TEST_F(WakeUpTest, AFifoThatIsFullIsAMiss) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kFifo, "qmgr");
  ASSERT_EQ(mkfifo(target.path.c_str(), 0622), 0);
  wake_ups_->Trigger(1, target);
  Turns();
  EXPECT_THAT(lines_, ElementsAre(HasSubstr("qmgr (private/qmgr)")));
  const UniqueFd reader(open(target.path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  const std::string page(4096, 'x');
  while (write(reader.get(), page.data(), page.size()) > 0) {
  }
  Pass(WakeUps::kRetryAfter);
  char buffer[4096];
  while (read(reader.get(), buffer, sizeof(buffer)) > 0) {
  }
  Pass(WakeUps::kRetryAfter);
  EXPECT_EQ(ReadNow(reader.get()), "W");
  EXPECT_THAT(lines_, SizeIs(1));
}

// "until it succeeds, the next Trigger() of that service takes its place, or Cancel()".
TEST_F(WakeUpTest, CancelEndsWaitingRetryingAndConnections) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kUnix, "pickup");
  UniqueFd listener = ListenLocal(target.path);
  wake_ups_->Trigger(1, target);
  wake_ups_->Cancel(1);
  Turns();
  EXPECT_FALSE(Accept(listener).valid());
  wake_ups_->Trigger(1, target);
  Turns();
  const UniqueFd connection = Accept(listener);
  EXPECT_EQ(ReadNow(connection.get()), kBoth);
  wake_ups_->Cancel(1);
  EXPECT_EQ(ReadNow(connection.get()), "<end>");
  EXPECT_EQ(wake_ups_->under_way(), 0u);
  unlink(target.path.c_str());
  wake_ups_->Trigger(1, target);
  Turns();
  EXPECT_THAT(lines_, SizeIs(1));
  wake_ups_->Cancel(1);
  listener = ListenLocal(target.path);
  Pass(absl::Seconds(5));
  EXPECT_FALSE(Accept(listener).valid());
  wake_ups_->Cancel(99);
}

TEST_F(WakeUpTest, ATriggerThatIsCancelledAndGivenAnewIsCarriedOutOnce) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kUnix, "pickup");
  const UniqueFd listener = ListenLocal(target.path);
  wake_ups_->Trigger(1, target);
  wake_ups_->Trigger(1, target);
  wake_ups_->Cancel(1);
  wake_ups_->Trigger(1, target);
  Turns();
  const UniqueFd connection = Accept(listener);
  EXPECT_TRUE(connection.valid());
  EXPECT_FALSE(Accept(listener).valid());
}

// F87 and the header: bounds on what is under way, per service and in all, and on what a turn
// starts.
TEST_F(WakeUpTest, WhatIsUnderWayAndWhatATurnStartsIsBounded) {
  std::vector<UniqueFd> listeners;
  std::vector<WakeUpTarget> targets;
  for (int i = 0; i < 40; ++i) {
    targets.push_back(Local(WakeUpTarget::Kind::kUnix, absl::StrCat("s", i)));
    listeners.push_back(ListenLocal(targets.back().path));
  }
  for (int i = 0; i < 40; ++i) wake_ups_->Trigger(i, targets[static_cast<size_t>(i)]);
  EXPECT_EQ(wake_ups_->under_way(), 0u) << "in a turn of its own";
  EXPECT_THAT(loop_->RunOnce(absl::ZeroDuration()), IsOk());
  EXPECT_EQ(wake_ups_->under_way(), static_cast<size_t>(WakeUps::kMaxStartsPerTurn));
  Turns();
  EXPECT_EQ(wake_ups_->under_way(), 40u);
  for (int round = 1; round < 20; ++round) {
    wake_ups_->Trigger(0, targets[0]);
    Turns();
  }
  EXPECT_EQ(wake_ups_->under_way(), 39 + WakeUps::kMaxPerService);
  EXPECT_THAT(lines_, ElementsAre(AllOf(HasSubstr("s0"), HasSubstr("under way"))));
  for (int round = 0; round < 10; ++round) {
    for (int i = 1; i < 40; ++i) wake_ups_->Trigger(i, targets[static_cast<size_t>(i)]);
    Turns();
  }
  EXPECT_EQ(wake_ups_->under_way(), WakeUps::kMaxInAll);
}

TEST_F(WakeUpTest, AServiceThatTalksBackIsReadAway) {
  const WakeUpTarget target = Local(WakeUpTarget::Kind::kUnix, "talker");
  const UniqueFd listener = ListenLocal(target.path);
  wake_ups_->Trigger(1, target);
  Turns();
  UniqueFd connection = Accept(listener);
  EXPECT_EQ(write(connection.get(), "220 hello\r\n", 11), 11);
  Turns();
  EXPECT_EQ(wake_ups_->under_way(), 1u);
  connection.Reset();
  Turns();
  EXPECT_EQ(wake_ups_->under_way(), 0u);
}

// Whatever call fails, it is a miss, nothing is left of it, and the next try is the right one.
TEST_F(WakeUpTest, AnyCallThatFailsIsAMissThatLeavesNothing) {
  const struct {
    SystemCall call;
    WakeUpTarget::Kind kind;
  } cases[] = {
      {SystemCall::kSocket, WakeUpTarget::Kind::kUnix},
      {SystemCall::kConnect, WakeUpTarget::Kind::kUnix},
      {SystemCall::kSend, WakeUpTarget::Kind::kUnix},
      {SystemCall::kEpollCtl, WakeUpTarget::Kind::kUnix},
      {SystemCall::kPipe2, WakeUpTarget::Kind::kPass},
      {SystemCall::kWrite, WakeUpTarget::Kind::kPass},
      {SystemCall::kSendmsg, WakeUpTarget::Kind::kPass},
  };
  int64_t id = 0;
  for (const auto& one : cases) {
    const WakeUpTarget target = Local(one.kind, absl::StrCat("service", ++id));
    const UniqueFd listener = ListenLocal(target.path);
    const FdSnapshot before = FdSnapshot::Take();
    lines_.clear();
    system_->FailOnce(one.call, ENOMEM);
    wake_ups_->Trigger(id, target);
    Turns();
    EXPECT_EQ(wake_ups_->under_way(), 0u) << SystemCallName(one.call);
    EXPECT_EQ(FdSnapshot::Take().DifferenceFrom(before), "") << SystemCallName(one.call);
    EXPECT_THAT(lines_, ElementsAre(HasSubstr(target.name))) << SystemCallName(one.call);
    while (Accept(listener).valid()) {
    }
    Pass(WakeUps::kRetryAfter);
    EXPECT_EQ(wake_ups_->under_way(), 1u) << SystemCallName(one.call);
    wake_ups_->Cancel(id);
  }
}

// F124: many services that are out of reach for long.
TEST_F(WakeUpTest, FiftyServicesThatAreOutOfReachAreWarnedAboutOncePerMinute) {
  for (int second = 0; second < 30; ++second) {
    for (int i = 0; i < 50; ++i) {
      wake_ups_->Trigger(i, Local(WakeUpTarget::Kind::kUnix, absl::StrCat("gone", i)));
    }
    Pass(absl::Seconds(1));
  }
  EXPECT_THAT(lines_, SizeIs(50));
}

}  // namespace
}  // namespace posthouse

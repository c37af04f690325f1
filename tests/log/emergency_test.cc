// Lines that are prepared for signal handlers: what they say, where they go, and that they wait for
// nothing. That nothing unsafe is behind them is the matter of the watchdog's handler test.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/emergency_line.h"
#include "posthouse/log/log.h"
#include "posthouse/log/postlog_sink.h"
#include "posthouse/log/stderr_sink.h"
#include "posthouse/log/syslog_sink.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/temp_dir.h"

namespace posthouse {
namespace {

// A listening or bound socket of the test's own.
UniqueFd BoundSocket(const std::string& path, int type) {
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  unlink(path.c_str());
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      (type == SOCK_STREAM && listen(fd.get(), 5) != 0)) {
    std::abort();
  }
  return fd;
}

// One read; "" when nothing is there.
std::string ReadOnce(int fd) {
  pollfd entry = {fd, POLLIN, 0};
  if (poll(&entry, 1, 0) != 1) return "";
  static char buffer[200000];
  const ssize_t size = read(fd, buffer, sizeof(buffer));
  return size > 0 ? std::string(buffer, static_cast<size_t>(size)) : "";
}

std::unique_ptr<LogSink> Syslog(const std::string& path) {
  SyslogOptions options;
  options.path = path;
  return NewSyslogSink(options);
}

class EmergencyTest : public testing::Test {
 protected:
  EmergencyTest() {
    // No file of a time zone is needed for this one.
    setenv("TZ", "XXX-5:45", 1);
    log_ = std::make_unique<Log>("postfix/echo");
  }
  ~EmergencyTest() override {
    unsetenv("TZ");
    tzset();
  }
  std::string Head() const { return absl::StrCat("postfix/echo[", getpid(), "]: "); }

  ScopedInterposer interposer_;
  TempDir dir_;
  const std::string path_ = dir_.Path("log");
  std::unique_ptr<Log> log_;
};

TEST(LogStampTest, F24_TheStampIsTheCLibrarys) {
  const auto expect_same = [](int64_t seconds) {
    const time_t moment = static_cast<time_t>(seconds);
    struct tm fields;
    ASSERT_NE(gmtime_r(&moment, &fields), nullptr);
    char text[40];
    strftime(text, sizeof(text), "%b %e %H:%M:%S", &fields);
    char stamp[kLogStampSize];
    WriteLogStamp(seconds, stamp);
    ASSERT_EQ(absl::string_view(stamp, kLogStampSize), text) << seconds;
  };
  // Every day of the four centuries of the calendar, at another time of the day each, and the
  // seconds around each midnight of some leap years.
  for (int64_t day = -80000; day < 80000 && !HasFatalFailure(); ++day) {
    expect_same(day * 86400 + (day * 7919) % 86400);
  }
  for (int64_t day = 19700; day < 20900 && !HasFatalFailure(); ++day) {
    for (const int64_t second : {-1, 0, 1}) expect_same(day * 86400 + second);
  }
}

TEST_F(EmergencyTest, F24_ItSaysWhatAnOrdinaryRecordSays) {
  UniqueFd datagrams = BoundSocket(path_, SOCK_DGRAM);
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  interposer_->UseFakeClock();
  const struct {
    std::unique_ptr<LogSink> sink;
    int fd;
    std::string line;
  } cases[] = {
      {Syslog(path_), datagrams.get(), absl::StrCat("<18>Jan  1 05:45:07 ", Head(), "fatal: a?b")},
      {NewPostlogSink({path_, "mail.example.test"}), datagrams.get(),
       absl::StrCat("Jan  1 05:45:07 mail ", Head(), "fatal: a?b")},
      {NewStderrSink({write_end.get()}), read_end.get(), absl::StrCat(Head(), "fatal: a?b\n")},
      {NewStderrSink({write_end.get(), /*with_time=*/true}), read_end.get(),
       absl::StrCat("Jan  1 05:45:07 ", Head(), "fatal: a?b\n")},
  };
  for (const auto& c : cases) {
    Log log("postfix/echo");
    log.AddSink(std::move(const_cast<std::unique_ptr<LogSink>&>(c.sink)));
    log.PrepareEmergency(LogSeverity::kFatal, "a\nb");
    interposer_->StepWall(absl::Seconds(7));
    log.WriteEmergency();
    EXPECT_EQ(ReadOnce(c.fd), c.line);
    log.Write(LogSeverity::kFatal, "a\nb");
    EXPECT_EQ(ReadOnce(c.fd), c.line);
    interposer_->StepWall(-absl::Seconds(7));
  }
}

TEST_F(EmergencyTest, F24_OnAStreamItEndsLikeEveryMessage) {
  UniqueFd listener = BoundSocket(path_, SOCK_STREAM);
  interposer_->UseFakeClock();
  log_->AddSink(Syslog(path_));
  UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  log_->PrepareEmergency(LogSeverity::kFatal, "x");
  log_->WriteEmergency();
  EXPECT_EQ(ReadOnce(connection.get()),
            absl::StrCat("<18>Jan  1 05:45:00 ", Head(), "fatal: x", std::string(1, '\0')));
}

// The end of the torn record is lost with the process; the line must be one all the same.
TEST_F(EmergencyTest, F24_ARecordThatWasCutInTheMiddleDoesNotSwallowIt) {
  UniqueFd listener = BoundSocket(path_, SOCK_STREAM);
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  UniqueFd near(fds[0]), far(fds[1]);
  for (const bool to_syslog : {true, false}) {
    interposer_->Reset();
    interposer_->UseFakeClock();
    Log log("postfix/echo");
    log.AddSink(to_syslog ? Syslog(path_) : NewStderrSink({near.get()}));
    UniqueFd connection(to_syslog ? accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)
                                  : dup(far.get()));
    log.PrepareEmergency(LogSeverity::kFatal, "x");
    interposer_->FailFrom(SystemCall::kSend, EAGAIN, 2);
    interposer_->LimitTransfers(SystemCall::kSend, 3);
    log.Info("torn");
    interposer_->RemoveAllFaults();
    log.WriteEmergency();
    const std::string end(1, to_syslog ? '\0' : '\n');
    EXPECT_EQ(ReadOnce(connection.get()),
              absl::StrCat(to_syslog ? "<22" : "pos", end, to_syslog ? "<18>Jan  1 05:45:00 " : "",
                           Head(), "fatal: x", end));
  }
}

TEST_F(EmergencyTest, F24_ItFollowsADaemonThatWasRestarted) {
  for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
    UniqueFd daemon = BoundSocket(path_, type);
    Log log("x");
    log.AddSink(Syslog(path_));
    log.PrepareEmergency(LogSeverity::kFatal, "the end");
    daemon.Reset();
    unlink(path_.c_str());
    // Nobody is there: it is lost, without a signal or a wait.
    log.WriteEmergency();
    daemon = BoundSocket(path_, type);
    log.Info("reconnected");
    log.WriteEmergency();
    UniqueFd connection;
    std::string read;
    if (type == SOCK_DGRAM) {
      read = ReadOnce(daemon.get());
      read += ReadOnce(daemon.get());
    } else {
      connection.Reset(accept4(daemon.get(), nullptr, nullptr, SOCK_CLOEXEC));
      read = ReadOnce(connection.get());
      ASSERT_EQ(read.back(), '\0');
      read.pop_back();
    }
    EXPECT_NE(read.find("reconnected"), std::string::npos) << read;
    EXPECT_TRUE(absl::EndsWith(read, "fatal: the end")) << read;
  }
}

TEST_F(EmergencyTest, F24_ItFollowsTheTagTheSinksAndTheProcess) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  log_->WriteEmergency();  // neither a record nor a sink
  log_->AddSink(NewStderrSink({write_end.get()}));
  log_->WriteEmergency();  // no record
  EXPECT_EQ(ReadOnce(read_end.get()), "");
  log_->RemoveSinks();
  log_->PrepareEmergency(LogSeverity::kFatal, "one", 0);
  log_->PrepareEmergency(LogSeverity::kError, "two", 1);
  log_->WriteEmergency(0);  // no sink
  EXPECT_EQ(ReadOnce(read_end.get()), "");
  log_->AddSink(NewStderrSink({write_end.get()}));
  log_->set_tag("other");
  log_->WriteEmergency(1);
  EXPECT_EQ(ReadOnce(read_end.get()), absl::StrCat("other[", getpid(), "]: error: two\n"));
  log_->AddSink(NewStderrSink({write_end.get()}));
  log_->WriteEmergency(0);
  const std::string line = absl::StrCat("other[", getpid(), "]: fatal: one\n");
  EXPECT_EQ(ReadOnce(read_end.get()), line + line);
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    log_->AfterFork();
    log_->WriteEmergency(0);
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  const std::string of_child = absl::StrCat("other[", pid, "]: fatal: one\n");
  EXPECT_EQ(ReadOnce(read_end.get()), of_child + of_child);
}

TEST_F(EmergencyTest, F24_WhatIsTooLongIsCutAndStillALine) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  Log log(std::string(5000, 't'));
  log.AddSink(NewStderrSink({write_end.get(), /*with_time=*/true}));
  log.PrepareEmergency(LogSeverity::kFatal, std::string(5000, 'x'));
  log.WriteEmergency();
  const std::string line = ReadOnce(read_end.get());
  EXPECT_GT(line.size(), 2 * Log::kMaxRecord);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EmergencyLine tight;
  tight.Prepare('\n', std::string(10000, 'b'), /*with_time=*/true, "after");
  const absl::string_view bytes = tight.Stamped(/*follows_torn=*/true, 0);
  EXPECT_EQ(bytes.size(), EmergencyLine::kCapacity);
  EXPECT_EQ(bytes.front(), '\n');
  EXPECT_EQ(bytes.back(), '\n');
}

// A test that fails here hangs until its time limit.
TEST_F(EmergencyTest, F121_AFullSinkIsNotWaitedFor) {
  UniqueFd datagrams = BoundSocket(path_, SOCK_DGRAM);
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);  // in blocking mode
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  for (const bool to_syslog : {true, false}) {
    Log log("x");
    log.AddSink(to_syslog ? Syslog(path_) : NewStderrSink({write_end.get()}));
    log.PrepareEmergency(LogSeverity::kFatal, "the end");
    for (int i = 0; i < 10000 && !log.pending(); ++i) log.Info(std::string(1000, '.'));
    ASSERT_TRUE(log.pending());
    log.WriteEmergency();
    const int fd = to_syslog ? datagrams.get() : read_end.get();
    // Kept records are left alone: what comes out next is the line.
    std::string last;
    for (std::string next; !(next = ReadOnce(fd)).empty();) last = next;
    EXPECT_EQ(last.find("the end"), std::string::npos);
    log.WriteEmergency();
    EXPECT_NE(ReadOnce(fd).find("fatal: the end"), std::string::npos);
    EXPECT_TRUE(log.pending());
  }
}

TEST_F(EmergencyTest, F28_APipeWithoutAReaderRaisesNoSignal) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd write_end(fds[1]);
  log_->AddSink(NewStderrSink({write_end.get()}));
  log_->PrepareEmergency(LogSeverity::kFatal, "x");
  close(fds[0]);
  signal(SIGPIPE, SIG_DFL);
  log_->WriteEmergency();
}

}  // namespace
}  // namespace posthouse

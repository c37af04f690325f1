// The sinks against real sockets and pipes; the log daemon is a socket of the test's own.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <regex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/log/log.h"
#include "posthouse/log/postlog_sink.h"
#include "posthouse/log/stderr_sink.h"
#include "posthouse/log/syslog_sink.h"

namespace posthouse {
namespace {

std::string ScratchDirectory() {
  // Not the test's own temporary directory: its path may be too long for a socket.
  char name[] = "/tmp/posthouse-log-XXXXXX";
  if (mkdtemp(name) == nullptr) std::abort();
  return name;
}

class LogDaemon {
 public:
  LogDaemon(std::string path, int type) : path_(std::move(path)), type_(type) { Start(); }
  ~LogDaemon() { unlink(path_.c_str()); }
  void Start() {
    socket_.Reset(socket(AF_UNIX, type_ | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
    unlink(path_.c_str());
    if (bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        (type_ == SOCK_STREAM && listen(socket_.get(), 5) != 0)) {
      std::abort();
    }
  }
  void Stop() {
    socket_.Reset();
    connection_.Reset();
    unlink(path_.c_str());
  }
  // In a child, which would keep the old socket alive.
  void Forget() { socket_.Reset(); }
  // The next datagram; "" when none comes within 10 s.
  std::string Next() {
    pollfd entry = {socket_.get(), POLLIN, 0};
    if (poll(&entry, 1, 10000) != 1) return "";
    char buffer[10000];
    const ssize_t got = recv(socket_.get(), buffer, sizeof(buffer), 0);
    return got > 0 ? std::string(buffer, got) : "";
  }
  bool Empty() {
    pollfd entry = {socket_.get(), POLLIN, 0};
    return poll(&entry, 1, 0) == 0;
  }
  // The next NUL-terminated message of a stream.
  std::string NextOfStream() {
    if (!connection_.valid()) connection_.Reset(accept4(socket_.get(), nullptr, nullptr, 0));
    for (;;) {
      const size_t end = stream_.find('\0');
      if (end != std::string::npos) {
        const std::string message = stream_.substr(0, end);
        stream_.erase(0, end + 1);
        return message;
      }
      pollfd entry = {connection_.get(), POLLIN, 0};
      if (poll(&entry, 1, 10000) != 1) return "";
      char buffer[10000];
      const ssize_t got = recv(connection_.get(), buffer, sizeof(buffer), 0);
      if (got <= 0) return "";
      stream_.append(buffer, got);
    }
  }

 private:
  std::string path_;
  int type_;
  UniqueFd socket_;
  UniqueFd connection_;
  std::string stream_;
};

class SinksTest : public testing::Test {
 protected:
  SinksTest() : directory_(ScratchDirectory()), path_(directory_ + "/log") {}
  ~SinksTest() override {
    unlink(path_.c_str());
    rmdir(directory_.c_str());
  }
  // The local time as the C library writes it, now and a second ago: one of them is in the line.
  static bool HasTimeOfNow(const std::string& line, size_t at) {
    for (int ago = 0; ago < 20; ++ago) {
      const time_t moment = time(nullptr) - ago;
      struct tm local;
      localtime_r(&moment, &local);
      char text[40];
      strftime(text, sizeof(text), "%b %e %H:%M:%S ", &local);
      if (line.substr(at, strlen(text)) == text) return true;
    }
    return false;
  }
  std::unique_ptr<LogSink> Syslog() {
    SyslogOptions options;
    options.path = path_;
    return NewSyslogSink(options);
  }
  std::string directory_;
  std::string path_;
  Log log_{"postfix/echo"};
};

// --- syslog ---

TEST_F(SinksTest, SyslogWritesWhatTheCLibraryWould) {
  LogDaemon daemon(path_, SOCK_DGRAM);
  log_.AddSink(Syslog());
  log_.Warning("accept on listen socket 6: Too many open files");
  const std::string line = daemon.Next();
  EXPECT_EQ(line.substr(0, 4), "<20>");  // mail is 2 << 3, warning is 4
  EXPECT_TRUE(HasTimeOfNow(line, 4)) << line;
  EXPECT_EQ(line.substr(4 + 16),
            absl::StrCat("postfix/echo[", getpid(),
                         "]: warning: accept on listen socket 6: Too many open files"));
}

TEST_F(SinksTest, SyslogPrioritiesAreFacilityAndLevel) {
  LogDaemon daemon(path_, SOCK_DGRAM);
  SyslogOptions options;
  options.path = path_;
  options.facility = ParseSyslogFacility("local7").value();
  log_.AddSink(NewSyslogSink(options));
  const struct {
    LogSeverity severity;
    const char* head;
    const char* text;
  } cases[] = {
      {LogSeverity::kInfo, "<190>", "]: x"},
      {LogSeverity::kWarning, "<188>", ": warning: x"},
      {LogSeverity::kError, "<187>", ": error: x"},
      {LogSeverity::kFatal, "<186>", ": fatal: x"},
      {LogSeverity::kPanic, "<186>", ": panic: x"},
  };
  for (const auto& c : cases) {
    log_.Write(c.severity, "x");
    const std::string line = daemon.Next();
    EXPECT_TRUE(absl::StartsWith(line, c.head)) << line;
    EXPECT_TRUE(absl::EndsWith(line, c.text)) << line;
  }
}

TEST(SyslogFacilityTest, C65_KnownNamesAndNoOthers) {
  EXPECT_EQ(ParseSyslogFacility("mail").value(), 16);
  EXPECT_EQ(ParseSyslogFacility("kern").value(), 0);
  EXPECT_EQ(ParseSyslogFacility("local0").value(), 128);
  for (const char* name : {"auth",   "authpriv", "cron",   "daemon", "ftp",    "kern",   "lpr",
                           "mail",   "news",     "syslog", "user",   "uucp",   "local0", "local1",
                           "local2", "local3",   "local4", "local5", "local6", "local7"}) {
    EXPECT_TRUE(ParseSyslogFacility(name).ok()) << name;
  }
  for (const char* name : {"", "Mail", "local8", "mark", "mail ", "local"}) {
    const absl::Status status = ParseSyslogFacility(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(absl::StrCat("\"", name, "\"")), absl::string_view::npos);
  }
}

TEST_F(SinksTest, SyslogFallsBackToAStream) {
  LogDaemon daemon(path_, SOCK_STREAM);
  log_.AddSink(Syslog());
  log_.Info("one");
  log_.Info("two");
  EXPECT_TRUE(absl::EndsWith(daemon.NextOfStream(), "]: one"));
  EXPECT_TRUE(absl::EndsWith(daemon.NextOfStream(), "]: two"));
}

TEST_F(SinksTest, SyslogFindsARestartedDaemon) {
  for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
    LogDaemon daemon(path_, type);
    Log log("x");
    log.AddSink(Syslog());
    log.Info("before");
    const auto next = [&] { return type == SOCK_DGRAM ? daemon.Next() : daemon.NextOfStream(); };
    EXPECT_TRUE(absl::EndsWith(next(), "before"));
    daemon.Stop();
    daemon.Start();
    log.Info("after");
    EXPECT_TRUE(absl::EndsWith(next(), "after"));
  }
}

TEST_F(SinksTest, SyslogKeepsRecordsUntilTheDaemonIsThere) {
  log_.AddSink(Syslog());
  log_.Info("early");
  LogDaemon daemon(path_, SOCK_DGRAM);
  const absl::Time limit = absl::Now() + absl::Seconds(10);
  while (daemon.Empty() && absl::Now() < limit) log_.Flush();
  EXPECT_TRUE(absl::EndsWith(daemon.Next(), "early"));
}

// F123, F121: "bounded buffer, then drop and count, with a later note of how many".
TEST_F(SinksTest, F123_AStoppedDaemonNeverBlocksAndTheLossIsTold) {
  for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
    LogDaemon daemon(path_, type);
    Log log("x");
    auto owned = Syslog();
    LogSink* sink = owned.get();
    log.AddSink(std::move(owned));
    const int written = type == SOCK_DGRAM ? 2000 : 10000;
    const absl::Time start = absl::Now();
    for (int i = 0; i < written; ++i) log.Info(absl::StrCat("record ", i, std::string(100, '.')));
    EXPECT_LT(absl::Now() - start, absl::Seconds(20));
    EXPECT_GT(sink->dropped(), 0);
    const int64_t lost = sink->dropped();
    // Everything that was not dropped comes in its order, then the note, then what is new.
    int expected = 0;
    std::string line;
    for (;;) {
      log.Flush();
      line = type == SOCK_DGRAM ? daemon.Next() : daemon.NextOfStream();
      if (line.find("]: record ") == std::string::npos) break;
      ASSERT_NE(line.find(absl::StrCat("]: record ", expected, ".")), std::string::npos)
          << line << " instead of " << expected;
      ++expected;
    }
    EXPECT_EQ(expected + lost, written);
    EXPECT_TRUE(absl::EndsWith(line, absl::StrCat("warning: ", lost, " log records were dropped")))
        << line;
    log.Info("now");
    line = type == SOCK_DGRAM ? daemon.Next() : daemon.NextOfStream();
    EXPECT_TRUE(absl::EndsWith(line, "]: now")) << line;
    EXPECT_EQ(sink->dropped(), lost);
  }
}

TEST_F(SinksTest, F28_ADaemonThatIsGoneRaisesNoSignal) {
  signal(SIGPIPE, SIG_DFL);
  LogDaemon daemon(path_, SOCK_STREAM);
  log_.AddSink(Syslog());
  log_.Info("x");
  daemon.Stop();
  for (int i = 0; i < 10; ++i) log_.Info("y");
}

TEST_F(SinksTest, APathThatIsTooLongOnlyLosesTheRecords) {
  SyslogOptions options;
  options.path = "/tmp/" + std::string(300, 'x');
  auto owned = NewSyslogSink(options);
  LogSink* sink = owned.get();
  log_.AddSink(std::move(owned));
  for (int i = 0; i < 300; ++i) log_.Info("x");
  EXPECT_EQ(sink->dropped(), 300 - 256);
}

// In a child with a jail, so that this process keeps its root.
TEST_F(SinksTest, F62_LoggingWorksInsideAnEmptyJailInTheLocalZone) {
  if (geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  LogDaemon daemon(path_, SOCK_DGRAM);
  const std::string jail = ScratchDirectory();
  time_t before = time(nullptr);
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    setenv("TZ", "Asia/Kathmandu", 1);
    Log log("jailed");
    log.AddSink(Syslog());
    if (chroot(jail.c_str()) != 0 || chdir("/") != 0) _exit(1);
    log.Info("inside");
    _exit(0);
  }
  const std::string line = daemon.Next();
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  rmdir(jail.c_str());
  EXPECT_TRUE(absl::EndsWith(line, absl::StrCat("jailed[", pid, "]: inside"))) << line;
  // 5:45 ahead of UTC all year round.
  bool found = false;
  if (access("/usr/share/zoneinfo/Asia/Kathmandu", R_OK) != 0) before -= 5 * 3600 + 45 * 60;
  for (int later = 0; later < 20; ++later) {
    const time_t moment = before + later + 5 * 3600 + 45 * 60;
    struct tm there;
    gmtime_r(&moment, &there);
    char text[40];
    strftime(text, sizeof(text), "%b %e %H:%M:%S ", &there);
    found = found || line.find(text) != std::string::npos;
  }
  EXPECT_TRUE(found) << line;
}

TEST_F(SinksTest, TheSocketIsCloseOnExec) {
  LogDaemon daemon(path_, SOCK_DGRAM);
  const int next = dup(0);
  close(next);
  auto sink = Syslog();
  EXPECT_EQ(fcntl(next, F_GETFD), FD_CLOEXEC);
}

TEST_F(SinksTest, F123_AtTheEndAProcessWaitsALittleForItsLog) {
  LogDaemon daemon(path_, SOCK_DGRAM);
  log_.AddSink(Syslog());
  EXPECT_TRUE(log_.FlushFor(absl::Seconds(10)));
  for (int i = 0; i < 200; ++i) log_.Info(absl::StrCat("record ", i));
  if (!log_.pending()) GTEST_SKIP() << "the kernel queues 200 datagrams";
  const absl::Time start = absl::Now();
  EXPECT_FALSE(log_.FlushFor(absl::Milliseconds(50)));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(50));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) _exit(log_.FlushFor(absl::Seconds(20)) ? 0 : 1);
  for (int i = 0; i < 200; ++i) {
    EXPECT_TRUE(absl::EndsWith(daemon.Next(), absl::StrCat("record ", i)));
  }
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  // This process, which has kept them too, gives them up.
  log_.AfterFork();
  EXPECT_FALSE(log_.pending());
}

// --- postlog ---

TEST_F(SinksTest, D91_PostlogWritesHostAndTag) {
  LogDaemon daemon(path_, SOCK_DGRAM);
  log_.AddSink(NewPostlogSink({path_, "mail.example.test"}));
  log_.Error("x");
  const std::string line = daemon.Next();
  EXPECT_TRUE(HasTimeOfNow(line, 0)) << line;
  EXPECT_EQ(line.substr(16), absl::StrCat("mail postfix/echo[", getpid(), "]: error: x"));
  log_.Info("y");
  EXPECT_TRUE(absl::EndsWith(daemon.Next(), "]: y"));
}

TEST_F(SinksTest, D91_TheHostIsAlwaysOneField) {
  LogDaemon daemon(path_, SOCK_DGRAM);
  const struct {
    const char* host;
    const char* field;
  } cases[] = {{"", "localhost "}, {".x", "localhost "}, {"a b\nc", "a?b?c "}, {"h", "h "}};
  for (const auto& c : cases) {
    Log log("t");
    log.AddSink(NewPostlogSink({path_, c.host}));
    log.Info("x");
    EXPECT_EQ(daemon.Next().substr(16), absl::StrCat(c.field, "t[", getpid(), "]: x"));
  }
}

TEST_F(SinksTest, C73_PostlogIsFoundAgainInsideTheJail) {
  if (geteuid() != 0) GTEST_SKIP() << "chroot needs root";
  mkdir((directory_ + "/public").c_str(), 0755);
  LogDaemon daemon(PostlogPath(directory_, "postlog"), SOCK_DGRAM);
  int go[2], told[2];
  ASSERT_EQ(pipe2(go, O_CLOEXEC), 0);
  ASSERT_EQ(pipe2(told, O_CLOEXEC), 0);
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    daemon.Forget();
    Log log("jailed");
    log.AddSink(NewPostlogSink({PostlogPath(directory_, "postlog"), "h"}));
    if (chroot(directory_.c_str()) != 0 || chdir("/") != 0) _exit(1);
    log.Info("first");
    char byte = 0;
    if (write(told[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1) _exit(2);
    log.Info("second");
    _exit(0);
  }
  EXPECT_TRUE(absl::EndsWith(daemon.Next(), "]: first"));
  char byte = 0;
  ASSERT_EQ(read(told[0], &byte, 1), 1);
  daemon.Stop();
  daemon.Start();
  ASSERT_EQ(write(go[1], &byte, 1), 1);
  EXPECT_TRUE(absl::EndsWith(daemon.Next(), "]: second"));
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  for (const int fd : {go[0], go[1], told[0], told[1]}) close(fd);
  daemon.Stop();
  rmdir((directory_ + "/public").c_str());
}

TEST(MaillogFileTest, C72_TheFileMustHaveAnAllowedPrefix) {
  EXPECT_TRUE(CheckMaillogFile("/var/log/maillog", "/var, /dev/stdout").ok());
  EXPECT_TRUE(CheckMaillogFile("/dev/stdout", "/var, /dev/stdout").ok());
  EXPECT_TRUE(CheckMaillogFile("/tmp/x/y", "/tmp/x").ok());
  const absl::Status status = CheckMaillogFile("/etc/passwd", "/var, /dev/stdout");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("/etc/passwd"), absl::string_view::npos);
  EXPECT_FALSE(CheckMaillogFile("/var/log/x", "").ok());
}

// --- standard error ---

TEST_F(SinksTest, StderrLinesAreTagSeverityAndText) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  log_.AddSink(NewStderrSink({write_end.get()}));
  log_.Info("one");
  log_.Write(LogSeverity::kFatal, "two");
  char buffer[1000];
  const ssize_t got = read(read_end.get(), buffer, sizeof(buffer));
  ASSERT_GT(got, 0);
  const std::string head = absl::StrCat("postfix/echo[", getpid(), "]: ");
  EXPECT_EQ(std::string(buffer, got), head + "one\n" + head + "fatal: two\n");
}

TEST_F(SinksTest, StderrLinesMayCarryTheTime) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  StderrOptions options;
  options.fd = write_end.get();
  options.with_time = true;
  log_.AddSink(NewStderrSink(options));
  log_.Info("one");
  char buffer[1000];
  const ssize_t got = read(read_end.get(), buffer, sizeof(buffer));
  ASSERT_GT(got, 0);
  const std::string line(buffer, got);
  EXPECT_TRUE(HasTimeOfNow(line, 0)) << line;
  EXPECT_EQ(line.substr(16), absl::StrCat("postfix/echo[", getpid(), "]: one\n"));
}

// On a pipe and on a socket, both in blocking mode: whole lines, in order, and the loss is told.
TEST_F(SinksTest, F123_AFullStandardErrorNeverBlocks) {
  for (const bool is_socket : {false, true}) {
    int fds[2];
    if (is_socket) {
      ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    } else {
      ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    }
    UniqueFd read_end(fds[0]), write_end(fds[1]);
    Log log("x");
    auto owned = NewStderrSink({write_end.get()});
    LogSink* sink = owned.get();
    log.AddSink(std::move(owned));
    const int written = 3000;
    for (int i = 0; i < written; ++i) log.Info(absl::StrCat(i, std::string(i % 200, '.')));
    const int64_t lost = sink->dropped();
    ASSERT_GT(lost, 0);
    std::string all;
    fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
    for (;;) {
      char buffer[100000];
      const ssize_t got = read(read_end.get(), buffer, sizeof(buffer));
      if (got > 0) {
        all.append(buffer, got);
      } else {
        log.Flush();
        pollfd entry = {read_end.get(), POLLIN, 0};
        if (poll(&entry, 1, 0) == 0) break;
      }
    }
    const std::string head = absl::StrCat("x[", getpid(), "]: ");
    std::string expected;
    for (int i = 0; i < written - lost; ++i) {
      absl::StrAppend(&expected, head, i, std::string(i % 200, '.'), "\n");
    }
    absl::StrAppend(&expected, head, "warning: ", lost, " log records were dropped\n");
    EXPECT_EQ(all, expected);
  }
}

TEST_F(SinksTest, F28_AStandardErrorWithoutReaderRaisesNoSignal) {
  signal(SIGPIPE, SIG_DFL);
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  close(fds[0]);
  UniqueFd write_end(fds[1]);
  log_.AddSink(NewStderrSink({write_end.get()}));
  log_.Info("x");
  log_.Info("y");
}

TEST_F(SinksTest, F33_AClosedStandardErrorIsHarmless) {
  log_.AddSink(NewStderrSink({987654}));
  for (int i = 0; i < 10; ++i) log_.Info("x");
}

TEST_F(SinksTest, ARegularFileTakesEverything) {
  const std::string name = directory_ + "/file";
  UniqueFd file(open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  log_.AddSink(NewStderrSink({file.get()}));
  for (int i = 0; i < 2000; ++i) log_.Info("x");
  struct stat status;
  ASSERT_EQ(fstat(file.get(), &status), 0);
  EXPECT_EQ(static_cast<size_t>(status.st_size),
            2000 * absl::StrCat("postfix/echo[", getpid(), "]: x\n").size());
  unlink(name.c_str());
}

TEST_F(SinksTest, WhatWasKeptStaysWithTheParentOfAFork) {
  log_.AddSink(Syslog());
  log_.Info("kept");
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    log_.AfterFork();
    LogDaemon daemon(path_, SOCK_DGRAM);
    const absl::Time limit = absl::Now() + absl::Seconds(10);
    log_.Info("new");
    while (daemon.Empty() && absl::Now() < limit) log_.Flush();
    _exit(absl::EndsWith(daemon.Next(), "new") && daemon.Empty() ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace posthouse

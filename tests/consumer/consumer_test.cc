// What a dependent relies on: the public targets build in a workspace of their own, under a
// language level of its own choice, and do their work there.

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "posthouse/event/closures.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/io/stream.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/master/protocol.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/temp_dir.h"

namespace {

std::string Greeter() { return std::string(getenv("TEST_SRCDIR")) + "/posthouse_consumer/greeter"; }

// Connects to a UNIX socket; an empty descriptor while nobody listens.
posthouse::UniqueFd Connect(const std::string& path) {
  posthouse::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) fd.Reset();
  return fd;
}

TEST(Consumer, AnEventLoopOfTheirOwnDeliversBytesAndTimers) {
  auto loop = posthouse::EventLoop::Create({});
  ASSERT_TRUE(loop.ok()) << loop.status();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  posthouse::UniqueFd ours(pair[0]), theirs(pair[1]);

  struct Seen {
    int fd;
    std::string bytes;
  } seen{ours.get(), ""};
  auto on_readable = [](int, void* context) {
    auto* seen = static_cast<Seen*>(context);
    char buffer[16];
    const ssize_t size = read(seen->fd, buffer, sizeof(buffer));
    if (size > 0) seen->bytes.append(buffer, size);
  };
  auto watch = (*loop)->Watch(ours.get(), {.on_readable = on_readable, .context = &seen});
  ASSERT_TRUE(watch.ok()) << watch.status();

  bool rang = false;
  posthouse::CallbackTimer timer(loop->get(), [&rang] { rang = true; });
  timer.Start(absl::Milliseconds(1));
  ASSERT_EQ(write(theirs.get(), "hi", 2), 2);
  while (!rang || seen.bytes.empty()) {
    ASSERT_TRUE((*loop)->RunOnce(absl::Seconds(10)).ok());
  }
  EXPECT_EQ(seen.bytes, "hi");
}

TEST(Consumer, TheProtocolStandsAlone) {
  const posthouse::StatusMessageBytes bytes =
      posthouse::EncodeStatusMessage({.pid = 4711, .generation = 8, .availability = 0});
  EXPECT_EQ(bytes.size(), posthouse::kStatusMessageSize);
}

TEST(Consumer, AServiceOfTheirOwnServesItsClientsAndEndsOnSigterm) {
  posthouse::TempDir directory;
  const std::string path = directory.path() + "/greeter";
  const std::string listen = "unix:" + path;
  const std::string program = Greeter();
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    execl(program.c_str(), program.c_str(), "--listen", listen.c_str(), "-o",
          "greeter_greeting=Good day", nullptr);
    _exit(127);
  }

  posthouse::UniqueFd fd;
  ASSERT_TRUE(posthouse::WaitUntil([&] { return (fd = Connect(path)).valid(); }));
  posthouse::Stream stream(std::move(fd), "greeter");
  stream.set_operation_timeout(absl::Seconds(20));
  ASSERT_TRUE(stream.Write("Ada\nBob\n").ok());
  ASSERT_TRUE(stream.Flush().ok());
  for (const char* expected : {"Good day, Ada!", "Good day, Bob!"}) {
    absl::StatusOr<std::string> line = stream.ReadLine(100);
    ASSERT_TRUE(line.ok()) << line.status();
    EXPECT_EQ(*line, expected);
  }
  stream.Close();

  kill(pid, SIGTERM);
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace

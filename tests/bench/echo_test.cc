// The benchmark's echo servers and their load, in small.
//
//   echo_test ECHO_LOAD SERVER ...

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "posthouse/event/backend.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/testing/child_check.h"
#include "posthouse/testing/event_wait.h"

namespace {

using posthouse::UniqueFd;

constexpr int kPatienceMs = 60000;

// A server's command line.
using Command = std::vector<std::string>;

// From the command line of the test, before the first test.
const std::string* load_program = nullptr;
const std::vector<Command>* servers = nullptr;

// A program with its standard output, and its input if wanted, at the other end of a pipe.
class Program {
 public:
  explicit Program(const std::vector<std::string>& command) {
    int input[2], output[2];
    if (pipe2(input, O_CLOEXEC) != 0 || pipe2(output, O_CLOEXEC) != 0) abort();
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(input[0], STDIN_FILENO);
      dup2(output[1], STDOUT_FILENO);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(input[0]);
    close(output[1]);
    input_ = UniqueFd(input[1]);
    output_ = UniqueFd(output[0]);
  }
  ~Program() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  void Say(absl::string_view text) {
    EXPECT_EQ(write(input_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // The next line; what there is when the program ends or says nothing for a long time.
  std::string Line() {
    std::string line;
    for (char c; !absl::EndsWith(line, "\n");) {
      pollfd ready = {output_.get(), POLLIN, 0};
      if (poll(&ready, 1, kPatienceMs) != 1 || read(output_.get(), &c, 1) != 1) break;
      line += c;
    }
    return line;
  }
  // Waits; the exit status.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int End(int signal) {
    kill(pid_, signal);
    return Wait();
  }

 private:
  pid_t pid_;
  UniqueFd input_;
  UniqueFd output_;
};

// The value of a name in "a=1 b=2".
double Value(absl::string_view line, absl::string_view name) {
  for (const absl::string_view pair : absl::StrSplit(line, absl::ByAnyChar(" \n"))) {
    const std::vector<std::string> parts = absl::StrSplit(pair, '=');
    if (parts.size() == 2 && parts[0] == name) return atof(parts[1].c_str());
  }
  ADD_FAILURE() << "no " << name << " in " << line;
  return -1;
}

// The letter of /proc/PID/stat.
char StateOf(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(in, line);
  const size_t name_end = line.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= line.size() ? '?' : line[name_end + 2];
}

class EchoServerTest : public testing::TestWithParam<Command> {
 protected:
  EchoServerTest() : server_(GetParam()) {
    const std::string ready = server_.Line();
    port_ = static_cast<int>(Value(ready, "port"));
    EXPECT_EQ(Value(ready, "pid"), server_.pid());
  }
  ~EchoServerTest() override { EXPECT_EQ(server_.End(SIGTERM), 0); }

  std::vector<std::string> Load(const std::vector<std::string>& settings) const {
    std::vector<std::string> command = {*load_program, absl::StrCat("port=", port_)};
    command.insert(command.end(), settings.begin(), settings.end());
    return command;
  }

  // What the server says about itself. Only while it sleeps in its wait, see echo_io.cc.
  std::string Report() {
    EXPECT_TRUE(posthouse::WaitUntil([this] { return StateOf(server_.pid()) == 'S'; }));
    kill(server_.pid(), SIGUSR1);
    return server_.Line();
  }

  UniqueFd Connect() const {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port_));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }

  posthouse::ChildCheck children_;
  Program server_;
  int port_ = 0;
};

TEST_P(EchoServerTest, AnswersExactlySoManyRequests) {
  Program load(
      Load({"mode=echo", "clients=7", "operations=500", absl::StrCat("pid=", server_.pid())}));
  const std::string line = load.Line();
  EXPECT_EQ(load.Wait(), 0);
  EXPECT_EQ(Value(line, "operations"), 500);
  EXPECT_EQ(Value(line, "errors"), 0);
  EXPECT_GT(Value(line, "per_s"), 0);
  EXPECT_GT(Value(line, "cpu_us"), 0);
  EXPECT_GT(Value(line, "p50_us"), 0);
  EXPECT_GE(Value(line, "p99_us"), Value(line, "p50_us"));
  EXPECT_GE(Value(line, "p999_us"), Value(line, "p99_us"));
  const std::string report = Report();
  // Each client asks once before the measurement.
  EXPECT_EQ(Value(report, "requests"), 507);
  EXPECT_EQ(Value(report, "opened"), 7);
}

TEST_P(EchoServerTest, AnswersForATime) {
  Program load(Load({"mode=echo", "clients=3", "warmup=0.01", "seconds=0.05"}));
  const std::string line = load.Line();
  EXPECT_EQ(load.Wait(), 0);
  EXPECT_GE(Value(line, "seconds"), 0.05);
  EXPECT_NEAR(Value(line, "per_s"), Value(line, "operations") / Value(line, "seconds"),
              Value(line, "per_s") / 100);
}

TEST_P(EchoServerTest, SurvivesAStormOfConnections) {
  Program load(Load({"mode=storm", "in_flight=16", "operations=300"}));
  EXPECT_EQ(Value(load.Line(), "operations"), 300);
  EXPECT_EQ(load.Wait(), 0);
  const std::string report = Report();
  EXPECT_EQ(Value(report, "requests"), 300);
  EXPECT_EQ(Value(report, "opened"), 300);
}

TEST_P(EchoServerTest, HoldsIdleConnections) {
  Program load(Load({"mode=hold", "clients=5,60"}));
  EXPECT_EQ(load.Line(), "held=5\n");
  EXPECT_EQ(Value(Report(), "opened"), 5);
  load.Say("\n");
  EXPECT_EQ(load.Line(), "held=60\n");
  const std::string report = Report();
  EXPECT_EQ(Value(report, "opened"), 60);
  EXPECT_EQ(Value(report, "closed"), 0);
  EXPECT_GE(Value(report, "heap_bytes"), 0);  // a sanitizer's malloc() says 0
  load.Say("\n");
  EXPECT_EQ(load.Wait(), 0);
}

// A client that sends without reading until nothing more is taken, and then reads all of it.
TEST_P(EchoServerTest, KeepsWhatTheKernelDoesNotTake) {
  const UniqueFd client = Connect();
  fcntl(client.get(), F_SETFL, O_NONBLOCK);
  std::string sent, received;
  constexpr size_t kMost = 64 << 20;
  for (int quiet = 0; quiet < 20 && sent.size() < kMost;) {
    std::string part(64 * 1024, '\0');
    for (size_t i = 0; i < part.size(); ++i) part[i] = static_cast<char>((sent.size() + i) % 251);
    const ssize_t n = send(client.get(), part.data(), part.size(), MSG_NOSIGNAL);
    if (n > 0) sent.append(part, 0, static_cast<size_t>(n));
    quiet = n > 0 ? 0 : quiet + 1;
    pollfd writable = {client.get(), POLLOUT, 0};
    if (n <= 0) poll(&writable, 1, 10);  // the server has time to read, and gets stuck in turn
  }
  shutdown(client.get(), SHUT_WR);
  std::vector<char> buffer(1 << 20);
  while (received.size() < sent.size()) {
    pollfd readable = {client.get(), POLLIN, 0};
    ASSERT_EQ(poll(&readable, 1, kPatienceMs), 1) << received.size() << " of " << sent.size();
    const ssize_t n = recv(client.get(), buffer.data(), buffer.size(), 0);
    ASSERT_GT(n, 0) << received.size() << " of " << sent.size();
    received.append(buffer.data(), static_cast<size_t>(n));
  }
  EXPECT_EQ(received.size(), sent.size());
  EXPECT_TRUE(received == sent) << "the bytes differ";
  // Somebody else was served all the while, and is now.
  Program load(Load({"mode=echo", "clients=2", "operations=10"}));
  EXPECT_EQ(Value(load.Line(), "operations"), 10);
  EXPECT_EQ(load.Wait(), 0);
}

TEST_P(EchoServerTest, RefusesUnknownSettings) {
  Command command = GetParam();
  command.push_back("colour=blue");
  Program program(command);
  EXPECT_EQ(program.Line(), "");
  EXPECT_EQ(program.Wait(), 1);
}

// A server that answers something else.
TEST(EchoLoadTest, AWrongAnswerIsAnError) {
  const posthouse::ChildCheck children;
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  Program load({*load_program, absl::StrCat("port=", ntohs(address.sin_port)), "operations=1"});
  const UniqueFd client(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  char request[64];
  ASSERT_EQ(recv(client.get(), request, sizeof(request), MSG_WAITALL), 64);
  request[10] = static_cast<char>(request[10] ^ 1);
  ASSERT_EQ(send(client.get(), request, sizeof(request), MSG_NOSIGNAL), 64);
  EXPECT_EQ(load.Line(), "");
  EXPECT_EQ(load.Wait(), 1);
}

// Each server, and posthouse's on each backend and with an idle timer.
std::vector<Command> Commands(const std::vector<std::string>& programs) {
  std::vector<Command> commands;
  for (const std::string& server : programs) {
    const bool is_stream = absl::EndsWith(server, "echo_posthouse_stream");
    if (!is_stream) commands.push_back({server});  // whose default this system may lack
    if (!is_stream && !absl::EndsWith(server, "echo_posthouse")) continue;
    if (!is_stream) commands.push_back({server, "idle=1"});
    for (const posthouse::Backend backend : posthouse::AvailableBackends()) {
      commands.push_back({server, absl::StrCat("backend=", posthouse::BackendName(backend))});
    }
  }
  return commands;
}

std::string Name(const testing::TestParamInfo<Command>& info) {
  std::string name;
  for (const std::string& word : info.param) {
    absl::StrAppend(&name, name.empty() ? "" : "_", word.substr(word.rfind('/') + 1));
  }
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return isalnum(c) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Servers, EchoServerTest, testing::ValuesIn(*servers), Name);

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> programs;
  for (int i = 1; i < argc; ++i) {
    if (argv[i][0] != '-') programs.push_back(argv[i]);
  }
  if (programs.size() < 2) {
    fprintf(stderr, "usage: echo_test ECHO_LOAD SERVER ...\n");
    return 2;
  }
  const std::string load = programs[0];
  programs.erase(programs.begin());
  const std::vector<Command> commands = Commands(programs);
  load_program = &load;
  servers = &commands;  // asked for by InitGoogleTest
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

// The twins of twins.h against the calls that they stand in for: each test runs over both, so that
// descriptors, flags and errors are the same wherever the library is built.

#include "posthouse/os/twins.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/fd_leak_check.h"

namespace posthouse {
namespace {

struct Calls {
  const char* name;
  decltype(&os::Dup3) dup3;
  decltype(&os::Pipe2) pipe2;
  decltype(&os::Socket) socket;
  decltype(&os::Socketpair) socketpair;
  decltype(&os::Accept4) accept4;
  decltype(&os::Recvmsg) recvmsg;
  decltype(&os::Send) send;
  decltype(&os::Sendmsg) sendmsg;
  decltype(&os::Getrandom) getrandom;
  decltype(&os::Clone) clone;
};

constexpr Calls kBoth[] = {
    {"Answerer", &os::Dup3, &os::Pipe2, &os::Socket, &os::Socketpair, &os::Accept4, &os::Recvmsg,
     &os::Send, &os::Sendmsg, &os::Getrandom, &os::Clone},
    {"Twin", &os::twin::Dup3, &os::twin::Pipe2, &os::twin::Socket, &os::twin::Socketpair,
     &os::twin::Accept4, &os::twin::Recvmsg, &os::twin::Send, &os::twin::Sendmsg,
     &os::twin::Getrandom, &os::twin::Clone},
};

bool CloseOnExec(int fd) { return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }
bool NonBlocking(int fd) { return (::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0; }
bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

// As many new descriptors as `count` can be made, and no more.
class ScopedRoom {
 public:
  explicit ScopedRoom(int count) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    std::vector<int> held;
    for (int i = 0; i <= count; ++i) held.push_back(::dup(STDERR_FILENO));
    rlimit limit = before_;
    limit.rlim_cur = static_cast<rlim_t>(held.back());
    for (const int fd : held) ::close(fd);
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  ~ScopedRoom() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_ = {};
};

// Counts SIGPIPE while it lives.
class ScopedSigpipeCount {
 public:
  ScopedSigpipeCount() {
    count_ = 0;
    struct sigaction action = {};
    action.sa_handler = [](int) { count_ = count_ + 1; };
    ::sigaction(SIGPIPE, &action, &before_);
  }
  ~ScopedSigpipeCount() { ::sigaction(SIGPIPE, &before_, nullptr); }
  int count() const { return count_; }

 private:
  static volatile sig_atomic_t count_;
  struct sigaction before_ = {};
};
volatile sig_atomic_t ScopedSigpipeCount::count_ = 0;

sigset_t Sigpipe() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  return set;
}

bool SigpipeIsPending() {
  sigset_t pending;
  sigemptyset(&pending);
  ::sigpending(&pending);
  return sigismember(&pending, SIGPIPE) == 1;
}

bool SigpipeIsBlocked() {
  sigset_t mask;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  return sigismember(&mask, SIGPIPE) == 1;
}

class TwinsTest : public testing::TestWithParam<Calls> {
 protected:
  struct Pair {
    UniqueFd a;
    UniqueFd b;
  };
  Pair Sockets() {
    int fds[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
  }
  // One end of a pair whose other end is closed.
  UniqueFd Widow() { return std::move(Sockets().a); }

  FdLeakCheck descriptors_;
  const Calls& call_ = GetParam();
};

// --- dup3 ---

TEST_P(TwinsTest, Dup3PutsTheFileUnderTheNumberWithTheFlagThatWasAskedFor) {
  for (const int flags : {0, O_CLOEXEC}) {
    Pair from = Sockets();
    Pair target = Sockets();
    ASSERT_EQ(::fcntl(target.a.get(), F_SETFD, FD_CLOEXEC), 0);
    EXPECT_EQ(call_.dup3(from.a.get(), target.a.get(), flags), target.a.get());
    EXPECT_EQ(CloseOnExec(target.a.get()), flags != 0);
    EXPECT_FALSE(CloseOnExec(from.a.get()));
    ASSERT_EQ(::write(from.b.get(), "x", 1), 1);
    char byte = 0;
    EXPECT_EQ(::read(target.a.get(), &byte, 1), 1);  // what it was before is closed
    EXPECT_EQ(::read(target.b.get(), &byte, 1), 0);
  }
}

TEST_P(TwinsTest, Dup3RefusesWhatDup3Refuses) {
  Pair pair = Sockets();
  errno = 0;
  EXPECT_EQ(call_.dup3(pair.a.get(), pair.a.get(), 0), -1);
  EXPECT_EQ(errno, EINVAL);
  errno = 0;
  EXPECT_EQ(call_.dup3(pair.a.get(), pair.b.get(), O_NONBLOCK), -1);
  EXPECT_EQ(errno, EINVAL);
  errno = 0;
  EXPECT_EQ(call_.dup3(-1, pair.b.get(), O_CLOEXEC), -1);
  EXPECT_EQ(errno, EBADF);
  errno = 0;
  EXPECT_EQ(call_.dup3(pair.a.get(), -1, O_CLOEXEC), -1);
  EXPECT_EQ(errno, EBADF);
  EXPECT_TRUE(IsOpen(pair.b.get()));
}

// --- pipe2 ---

TEST_P(TwinsTest, Pipe2MakesBothEndsWithTheFlagsThatWereAskedFor) {
  for (const int flags : {0, O_CLOEXEC, O_NONBLOCK, O_CLOEXEC | O_NONBLOCK}) {
    int fds[2] = {-1, -1};
    ASSERT_EQ(call_.pipe2(fds, flags), 0);
    UniqueFd reader(fds[0]);
    UniqueFd writer(fds[1]);
    for (const int fd : fds) {
      EXPECT_EQ(CloseOnExec(fd), (flags & O_CLOEXEC) != 0);
      EXPECT_EQ(NonBlocking(fd), (flags & O_NONBLOCK) != 0);
    }
    ASSERT_EQ(::write(writer.get(), "x", 1), 1);
    char byte = 0;
    EXPECT_EQ(::read(reader.get(), &byte, 1), 1);
  }
}

TEST_P(TwinsTest, Pipe2LeavesTheNumbersAloneWhenItFails) {
  int fds[2] = {-7, -8};
  errno = 0;
  EXPECT_EQ(call_.pipe2(fds, O_APPEND), -1);
  EXPECT_EQ(errno, EINVAL);
  {
    ScopedRoom room(1);
    errno = 0;
    EXPECT_EQ(call_.pipe2(fds, O_CLOEXEC), -1);
    EXPECT_EQ(errno, EMFILE);
  }
  EXPECT_EQ(fds[0], -7);
  EXPECT_EQ(fds[1], -8);
}

// --- socket, socketpair ---

TEST_P(TwinsTest, SocketTakesItsFlagsFromTheType) {
  for (const int flags :
       {0, os::kSockCloexec, os::kSockNonblock, os::kSockCloexec | os::kSockNonblock}) {
    for (const int type : {SOCK_STREAM, SOCK_DGRAM}) {
      UniqueFd fd(call_.socket(AF_UNIX, type | flags, 0));
      ASSERT_TRUE(fd.valid());
      EXPECT_EQ(CloseOnExec(fd.get()), (flags & os::kSockCloexec) != 0);
      EXPECT_EQ(NonBlocking(fd.get()), (flags & os::kSockNonblock) != 0);
      int is = 0;
      socklen_t length = sizeof(is);
      ASSERT_EQ(::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &is, &length), 0);
      EXPECT_EQ(is, type);
    }
  }
}

TEST_P(TwinsTest, SocketFailsAsSocketDoes) {
  errno = 0;
  EXPECT_EQ(call_.socket(12345, SOCK_STREAM | os::kSockCloexec, 0), -1);
  EXPECT_EQ(errno, EAFNOSUPPORT);
  ScopedRoom room(0);
  errno = 0;
  EXPECT_EQ(call_.socket(AF_UNIX, SOCK_STREAM | os::kSockCloexec, 0), -1);
  EXPECT_EQ(errno, EMFILE);
}

TEST_P(TwinsTest, SocketpairTakesItsFlagsFromTheType) {
  for (const int flags :
       {0, os::kSockCloexec, os::kSockNonblock, os::kSockCloexec | os::kSockNonblock}) {
    int fds[2] = {-1, -1};
    ASSERT_EQ(call_.socketpair(AF_UNIX, SOCK_STREAM | flags, 0, fds), 0);
    UniqueFd a(fds[0]);
    UniqueFd b(fds[1]);
    for (const int fd : fds) {
      EXPECT_EQ(CloseOnExec(fd), (flags & os::kSockCloexec) != 0);
      EXPECT_EQ(NonBlocking(fd), (flags & os::kSockNonblock) != 0);
    }
    ASSERT_EQ(::write(a.get(), "x", 1), 1);
    char byte = 0;
    EXPECT_EQ(::read(b.get(), &byte, 1), 1);
  }
}

// Linux may leave numbers in the array, which nobody looks at; nothing stays open.
TEST_P(TwinsTest, SocketpairFailsAsSocketpairDoes) {
  int fds[2] = {-7, -8};
  errno = 0;
  EXPECT_EQ(call_.socketpair(12345, SOCK_STREAM, 0, fds), -1);
  EXPECT_EQ(errno, EAFNOSUPPORT);
  ScopedRoom room(1);
  errno = 0;
  EXPECT_EQ(call_.socketpair(AF_UNIX, SOCK_STREAM | os::kSockCloexec, 0, fds), -1);
  EXPECT_EQ(errno, EMFILE);
}

// --- accept4 ---

// A non-blocking listener of the loopback interface.
struct Listener {
  Listener() : fd(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&any), sizeof(any)), 0);
    EXPECT_EQ(::listen(fd.get(), 8), 0);
    socklen_t length = sizeof(address);
    EXPECT_EQ(::getsockname(fd.get(), generic, &length), 0);
    EXPECT_EQ(::fcntl(fd.get(), F_SETFL, O_NONBLOCK), 0);
  }
  UniqueFd Connect() const {
    UniqueFd client(::socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              0);
    return client;
  }
  UniqueFd fd;
  sockaddr_in address = {};
};

// The listener's own O_NONBLOCK is not the connection's: some systems hand it down.
TEST_P(TwinsTest, Accept4GivesTheConnectionTheFlagsThatWereAskedForAndNoOthers) {
  Listener listener;
  for (const int flags :
       {0, os::kSockCloexec, os::kSockNonblock, os::kSockCloexec | os::kSockNonblock}) {
    UniqueFd client = listener.Connect();
    sockaddr_in peer = {};
    socklen_t length = sizeof(peer);
    UniqueFd fd(
        call_.accept4(listener.fd.get(), reinterpret_cast<sockaddr*>(&peer), &length, flags));
    ASSERT_TRUE(fd.valid()) << std::strerror(errno);
    EXPECT_EQ(CloseOnExec(fd.get()), (flags & os::kSockCloexec) != 0);
    EXPECT_EQ(NonBlocking(fd.get()), (flags & os::kSockNonblock) != 0);
    sockaddr_in own = {};
    socklen_t own_length = sizeof(own);
    ASSERT_EQ(::getsockname(client.get(), reinterpret_cast<sockaddr*>(&own), &own_length), 0);
    EXPECT_EQ(length, sizeof(peer));
    EXPECT_EQ(peer.sin_port, own.sin_port);
  }
}

TEST_P(TwinsTest, Accept4FailsAsAccept4Does) {
  Listener listener;
  const auto error_of = [&](int fd, int flags) {
    errno = 0;
    EXPECT_EQ(call_.accept4(fd, nullptr, nullptr, flags), -1);
    return errno;
  };
  EXPECT_EQ(error_of(listener.fd.get(), os::kSockCloexec), EAGAIN);
  EXPECT_EQ(error_of(-1, 0), EBADF);
  UniqueFd deaf(::socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(error_of(deaf.get(), 0), EINVAL);
  UniqueFd client = listener.Connect();
  EXPECT_EQ(error_of(listener.fd.get(), SOCK_STREAM), EINVAL);
  {
    ScopedRoom room(0);
    EXPECT_EQ(error_of(listener.fd.get(), os::kSockCloexec), EMFILE);
  }
  UniqueFd fd(call_.accept4(listener.fd.get(), nullptr, nullptr, 0));
  EXPECT_TRUE(fd.valid()) << "the connection waits until somebody takes it";
}

// --- recvmsg ---

// Sends `fds` with one byte.
void SendDescriptors(int socket, const std::vector<int>& fds) {
  char byte = 'x';
  iovec data = {&byte, 1};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = static_cast<decltype(message.msg_controllen)>(control.size());
  cmsghdr* block = CMSG_FIRSTHDR(&message);
  block->cmsg_level = SOL_SOCKET;
  block->cmsg_type = SCM_RIGHTS;
  block->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  std::memcpy(CMSG_DATA(block), fds.data(), fds.size() * sizeof(int));
  ASSERT_EQ(::sendmsg(socket, &message, 0), 1);
}

struct Arrived {
  ssize_t count;
  int flags;
  std::vector<UniqueFd> fds;
};

// Receives with room for `room` descriptors.
Arrived Receive(decltype(&os::Recvmsg) recvmsg, int socket, int flags, size_t room) {
  char byte = 0;
  iovec data = {&byte, 1};
  std::vector<char> control(CMSG_SPACE(room * sizeof(int)));
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = static_cast<decltype(message.msg_controllen)>(control.size());
  Arrived arrived = {recvmsg(socket, &message, flags), message.msg_flags, {}};
  if (arrived.count < 0) return arrived;
  for (cmsghdr* block = CMSG_FIRSTHDR(&message); block != nullptr;
       block = CMSG_NXTHDR(&message, block)) {
    const size_t count = (block->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(block) + i * sizeof(int), sizeof(fd));
      arrived.fds.emplace_back(fd);
    }
  }
  return arrived;
}

TEST_P(TwinsTest, RecvmsgMarksEveryDescriptorOfTheMessageIfAsked) {
  for (const int flags : {0, os::kMsgCmsgCloexec}) {
    Pair way = Sockets();
    Pair sent = Sockets();
    SendDescriptors(way.a.get(), {sent.a.get(), sent.b.get(), sent.a.get()});
    const Arrived arrived = Receive(call_.recvmsg, way.b.get(), flags, 3);
    EXPECT_EQ(arrived.count, 1);
    EXPECT_EQ(arrived.fds.size(), 3u);
    for (const UniqueFd& fd : arrived.fds) EXPECT_EQ(CloseOnExec(fd.get()), flags != 0);
  }
}

TEST_P(TwinsTest, RecvmsgMarksWhatIsLeftOfAMessageThatWasCut) {
  Pair way = Sockets();
  Pair sent = Sockets();
  SendDescriptors(way.a.get(), std::vector<int>(20, sent.a.get()));
  const Arrived arrived = Receive(call_.recvmsg, way.b.get(), os::kMsgCmsgCloexec, 4);
  EXPECT_EQ(arrived.count, 1);
  EXPECT_NE(arrived.flags & MSG_CTRUNC, 0);
  EXPECT_FALSE(arrived.fds.empty());
  for (const UniqueFd& fd : arrived.fds) EXPECT_TRUE(CloseOnExec(fd.get()));
}

TEST_P(TwinsTest, RecvmsgHandsOtherFlagsOn) {
  Pair way = Sockets();
  errno = 0;
  EXPECT_EQ(Receive(call_.recvmsg, way.b.get(), MSG_DONTWAIT | os::kMsgCmsgCloexec, 1).count, -1);
  EXPECT_EQ(errno, EAGAIN);
  ASSERT_EQ(::write(way.a.get(), "x", 1), 1);
  EXPECT_EQ(Receive(call_.recvmsg, way.b.get(), MSG_PEEK | os::kMsgCmsgCloexec, 1).count, 1);
  EXPECT_EQ(Receive(call_.recvmsg, way.b.get(), os::kMsgCmsgCloexec, 1).count, 1);
}

// --- send, sendmsg ---

ssize_t SendByte(const Calls& call, bool as_message, int fd, int flags) {
  char byte = 'x';
  if (!as_message) return call.send(fd, &byte, 1, flags);
  iovec data = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  return call.sendmsg(fd, &message, flags);
}

TEST_P(TwinsTest, F28_ASendWithoutSignalsRaisesNoneAndLeavesTheMaskAsItWas) {
  for (const bool as_message : {false, true}) {
    ScopedSigpipeCount sigpipe;
    UniqueFd widow = Widow();
    errno = 0;
    EXPECT_EQ(SendByte(call_, as_message, widow.get(), os::kMsgNosignal), -1);
    EXPECT_EQ(errno, EPIPE);
    EXPECT_EQ(sigpipe.count(), 0);
    EXPECT_FALSE(SigpipeIsPending());
    EXPECT_FALSE(SigpipeIsBlocked());
    // It is the flag that does it.
    EXPECT_EQ(SendByte(call_, as_message, widow.get(), 0), -1);
    EXPECT_EQ(sigpipe.count(), 1);
  }
}

TEST_P(TwinsTest, F28_ASignalThatWasPendingBeforeTheSendStaysPending) {
  for (const bool as_message : {false, true}) {
    ScopedSigpipeCount sigpipe;
    const sigset_t set = Sigpipe();
    ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
    UniqueFd widow = Widow();
    EXPECT_EQ(SendByte(call_, as_message, widow.get(), os::kMsgNosignal), -1);
    EXPECT_FALSE(SigpipeIsPending()) << "the send left one behind";
    ::raise(SIGPIPE);
    EXPECT_EQ(SendByte(call_, as_message, widow.get(), os::kMsgNosignal), -1);
    EXPECT_TRUE(SigpipeIsPending()) << "the send took somebody else's";
    EXPECT_TRUE(SigpipeIsBlocked());
    EXPECT_EQ(sigpipe.count(), 0);
    ASSERT_EQ(::pthread_sigmask(SIG_UNBLOCK, &set, nullptr), 0);
    EXPECT_EQ(sigpipe.count(), 1);
  }
}

TEST_P(TwinsTest, SendsHandOtherFlagsAndErrorsOn) {
  for (const bool as_message : {false, true}) {
    Pair pair = Sockets();
    EXPECT_EQ(SendByte(call_, as_message, pair.a.get(), os::kMsgNosignal), 1);
    char byte = 0;
    EXPECT_EQ(::read(pair.b.get(), &byte, 1), 1);
    EXPECT_EQ(byte, 'x');
    ssize_t sent = 1;
    while (sent == 1) {
      errno = 0;
      sent = SendByte(call_, as_message, pair.a.get(), MSG_DONTWAIT | os::kMsgNosignal);
    }
    EXPECT_EQ(errno, EAGAIN);
    int fds[2];
    ASSERT_EQ(::pipe(fds), 0);
    UniqueFd reader(fds[0]);
    UniqueFd writer(fds[1]);
    errno = 0;
    EXPECT_EQ(SendByte(call_, as_message, writer.get(), os::kMsgNosignal), -1);
    EXPECT_EQ(errno, ENOTSOCK);
  }
}

// --- getrandom ---

TEST_P(TwinsTest, GetrandomFillsAllOfTheBufferAndNotMore) {
  for (const size_t size : {0u, 1u, 255u, 256u, 257u, 1000u}) {
    constexpr unsigned char kUntouched = 0xa5;
    // A byte that was never written keeps its value in all eight rounds; chance does it once in
    // 2^64.
    std::vector<bool> written(size, false);
    for (int round = 0; round < 8; ++round) {
      std::vector<unsigned char> bytes(size + 1, kUntouched);
      ASSERT_EQ(call_.getrandom(bytes.data(), size, 0), static_cast<ssize_t>(size));
      EXPECT_EQ(bytes[size], kUntouched);
      for (size_t i = 0; i < size; ++i) {
        if (bytes[i] != kUntouched) written[i] = true;
      }
    }
    EXPECT_EQ(std::count(written.begin(), written.end(), false), 0) << size;
  }
}

TEST_P(TwinsTest, GetrandomKnowsItsFlags) {
  char bytes[16];
  EXPECT_EQ(call_.getrandom(bytes, sizeof(bytes), 1), 16);  // GRND_NONBLOCK
  errno = 0;
  EXPECT_EQ(call_.getrandom(bytes, sizeof(bytes), 0x100), -1);
  EXPECT_EQ(errno, EINVAL);
}

// --- clone ---

// What a child is told and answers, and the stack that it runs on: shared, as twins.h asks for.
struct ChildMemory {
  volatile int answer = 0;
  const char* program = nullptr;
  alignas(16) char stack[64 * 1024];
};

class SharedChildMemory {
 public:
  SharedChildMemory() {
    void* const memory = ::mmap(nullptr, sizeof(ChildMemory), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) memory_ = new (memory) ChildMemory;
  }
  ~SharedChildMemory() { ::munmap(memory_, sizeof(ChildMemory)); }
  ChildMemory* operator->() const { return memory_; }
  void* stack_top() const { return memory_->stack + sizeof(memory_->stack); }
  void* get() const { return memory_; }

 private:
  ChildMemory* memory_ = nullptr;
};

__attribute__((no_sanitize_address)) int AnswerAndEnd(void* argument) {
  static_cast<ChildMemory*>(argument)->answer = 42;
  return 7;
}

__attribute__((no_sanitize_address)) int RunProgram(void* argument) {
  ChildMemory* const memory = static_cast<ChildMemory*>(argument);
  char* const arguments[] = {const_cast<char*>(memory->program), nullptr};
  ::execv(memory->program, arguments);
  memory->answer = errno;
  return 1;
}

TEST_P(TwinsTest, AClonesAnswerIsThereWhenItReturnsAndItsResultIsTheExitStatus) {
  SharedChildMemory memory;
  const pid_t pid = call_.clone(&AnswerAndEnd, memory.stack_top(), os::kCloneBorrow, memory.get());
  ASSERT_GT(pid, 0);
  EXPECT_EQ(memory->answer, 42);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
}

TEST_P(TwinsTest, CloneReturnsWhenTheChildHasExecutedAProgramThatGoesOn) {
  int input[2];
  ASSERT_EQ(::pipe(input), 0);
  UniqueFd read_end(input[0]);
  UniqueFd write_end(input[1]);
  const UniqueFd standard_input(::dup(STDIN_FILENO));
  ::dup2(read_end.get(), STDIN_FILENO);
  SharedChildMemory memory;
  memory->program = "/bin/cat";
  const pid_t pid = call_.clone(&RunProgram, memory.stack_top(), os::kCloneBorrow, memory.get());
  if (standard_input.valid()) {
    ::dup2(standard_input.get(), STDIN_FILENO);
  } else {
    ::close(STDIN_FILENO);
  }
  ASSERT_GT(pid, 0);
  EXPECT_EQ(memory->answer, 0);
  // It waits for the end of its input, which it holds open itself.
  EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), 0);
  ::kill(pid, SIGKILL);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
}

TEST_P(TwinsTest, AProgramThatCannotBeExecutedIsKnownWhenCloneReturns) {
  SharedChildMemory memory;
  memory->program = "/nonexistent";
  const pid_t pid = call_.clone(&RunProgram, memory.stack_top(), os::kCloneBorrow, memory.get());
  ASSERT_GT(pid, 0);
  EXPECT_EQ(memory->answer, ENOENT);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
}

TEST(Twins, CloneKnowsNoOtherFlags) {
  errno = 0;
  EXPECT_EQ(os::twin::Clone(&AnswerAndEnd, nullptr, SIGCHLD + 1, nullptr), -1);
  EXPECT_EQ(errno, EINVAL);
}

INSTANTIATE_TEST_SUITE_P(Both, TwinsTest, testing::ValuesIn(kBoth),
                         [](const auto& info) { return info.param.name; });

// --- Who answers ---

#define TEXT_OF(tokens) TEXT_OF_(tokens)
#define TEXT_OF_(tokens) #tokens

#if defined(__linux__)
TEST(Twins, LinuxHasEveryCallItself) {
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Dup3, dup3)), "::dup3");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Pipe2, pipe2)), "::pipe2");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Socket, socket)), "::socket");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Socketpair, socketpair)), "::socketpair");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Accept4, accept4)), "::accept4");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Recvmsg, recvmsg)), "::recvmsg");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Send, send)), "::send");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Sendmsg, sendmsg)), "::sendmsg");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Getrandom, getrandom)), "::getrandom");
  EXPECT_STREQ(TEXT_OF(POSTHOUSE_OS_CALLEE(Clone, clone)), "::clone");
}
#endif

}  // namespace
}  // namespace posthouse

// The contract of completion_stream.h and completion_listener.h over every backend: by completions
// on io_uring, by readiness on the others.

#include "posthouse/event/completion_stream.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/event/completion_listener.h"
#include "posthouse/testing/event_wait.h"
#include "tests/event/event_fixture.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

// What a stream has told, and what is to be done then.
struct Told {
  std::string data;
  int calls = 0;
  int sent = 0;
  std::vector<absl::Status> ends;
  std::function<void(absl::string_view)> on_data;
  std::function<void()> on_end;
  std::function<void()> on_sent;

  CompletionStreamOptions Options() {
    CompletionStreamOptions options;
    options.on_data = [](absl::string_view data, void* context) {
      auto* self = static_cast<Told*>(context);
      self->data.append(data.data(), data.size());
      ++self->calls;
      if (self->on_data) self->on_data(data);
    };
    options.on_end = [](const absl::Status& status, void* context) {
      auto* self = static_cast<Told*>(context);
      self->ends.push_back(status);
      if (self->on_end) self->on_end();
    };
    options.on_sent = [](void* context) {
      auto* self = static_cast<Told*>(context);
      ++self->sent;
      if (self->on_sent) self->on_sent();
    };
    options.context = this;
    return options;
  }
};

class CompletionTest : public LoopTest {
 protected:
  std::unique_ptr<CompletionStream> MakeStream(UniqueFd socket, Told* told,
                                               size_t max_output = 1 << 20) {
    CompletionStreamOptions options = told->Options();
    options.max_output = max_output;
    auto stream = CompletionStream::Create(loop_.get(), std::move(socket), options);
    EXPECT_THAT(stream, IsOk());
    return stream.ok() ? *std::move(stream) : nullptr;
  }

  // Turns until it is so; each waits for an event, and three in which nothing comes are a failure.
  void TurnUntil(const std::function<bool()>& done) {
    int idle = 0;
    while (!done()) {
      const int64_t before = loop_->counters().deliveries;
      Turn(absl::Seconds(10));
      idle = loop_->counters().deliveries == before ? idle + 1 : 0;
      ASSERT_LT(idle, 3);
    }
  }

  // Takes what the peer has got until there are so many bytes.
  std::string ReadAll(int fd, size_t bytes) {
    std::string got;
    for (int i = 0; i < 1000000 && got.size() < bytes; ++i) {
      Turn();
      got += ReadSome(fd);
    }
    return got;
  }
};

class CompletionStreamTest : public CompletionTest {};

TEST_P(CompletionStreamTest, ReceivedBytesComeInTheirOrder) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  Turn();
  EXPECT_EQ(told.calls, 0);
  std::string all;
  for (int i = 0; i < 200; ++i) {
    const std::string piece = "piece " + std::to_string(i) + std::string(i * 7 % 100, '.') + "\n";
    sockets.Write(piece);
    all += piece;
    if (i % 3 == 0) Turn();
  }
  TurnUntil([&] { return told.data.size() == all.size(); });
  EXPECT_EQ(told.data, all);
  EXPECT_THAT(told.ends, IsEmpty());
}

TEST_P(CompletionStreamTest, ACallHasAtMostOneBuffer) {
  Pair sockets = MakeSockets();
  Told told;
  told.on_data = [](absl::string_view data) {
    EXPECT_LE(data.size(), CompletionStream::kMostReceived);
  };
  auto stream = MakeStream(std::move(sockets.a), &told);
  sockets.Write(std::string(50000, 'x'));
  TurnUntil([&] { return told.data.size() == 50000; });
}

// More than all buffers of the loop hold.
TEST_P(CompletionStreamTest, MuchDataFromManyPeersComesWhole) {
  constexpr int kStreams = 40;
  constexpr size_t kBytes = 100000;
  std::vector<Pair> sockets(kStreams);
  std::vector<Told> told(kStreams);
  std::vector<std::unique_ptr<CompletionStream>> streams;
  for (int i = 0; i < kStreams; ++i) {
    sockets[i] = MakeSockets();
    streams.push_back(MakeStream(std::move(sockets[i].a), &told[i]));
    sockets[i].Write(std::string(kBytes, static_cast<char>('A' + i % 26)));
  }
  for (int i = 0; i < kStreams; ++i) {
    TurnUntil([&] { return told[i].data.size() == kBytes; });
    EXPECT_EQ(told[i].data, std::string(kBytes, static_cast<char>('A' + i % 26)));
  }
}

TEST_P(CompletionStreamTest, OutputGoesOutInItsOrderAndIsToldInALaterTurn) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  std::string all;
  for (int i = 0; i < 100; ++i) {
    const std::string piece = std::to_string(i) + ",";
    EXPECT_THAT(stream->Send(piece), IsOk());
    all += piece;
    if (i % 50 == 0) Turn();
  }
  TurnUntil([&] { return told.sent > 0 && stream->unsent() == 0; });
  EXPECT_EQ(ReadSome(sockets.b.get()), all);
  const int sent = told.sent;
  EXPECT_THAT(stream->Send("x"), IsOk());
  EXPECT_EQ(told.sent, sent);
  TurnUntil([&] { return told.sent == sent + 1; });
}

TEST_P(CompletionStreamTest, APeerThatReadsLateGetsEverything) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told, 8 << 20);
  std::string all;
  for (int i = 0; i < 20; ++i) {
    const std::string piece(100000 + i, static_cast<char>('a' + i));
    EXPECT_THAT(stream->Send(piece), IsOk());
    all += piece;
    Turn();
  }
  EXPECT_GT(stream->unsent(), 0u);
  const int sent = told.sent;
  EXPECT_TRUE(ReadAll(sockets.b.get(), all.size()) == all);
  TurnUntil([&] { return told.sent == sent + 1; });
  EXPECT_EQ(stream->unsent(), 0u);
}

TEST_P(CompletionStreamTest, OutputOverItsLimitIsRefusedWhole) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told, 1000000);
  const std::string piece(300000, 'x');
  size_t taken = 0;
  absl::Status status;
  while ((status = stream->Send(piece)).ok()) {
    taken += piece.size();
    Turns(3);
  }
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_LE(stream->unsent(), 1000000u);
  EXPECT_THAT(told.ends, IsEmpty());
  EXPECT_EQ(ReadAll(sockets.b.get(), taken).size(), taken);
}

TEST_P(CompletionStreamTest, S58_TheEndComesAfterAllDataAndSendingGoesOn) {
  Pair sockets = MakeSockets();
  Told told;
  told.on_end = [&] { EXPECT_EQ(told.data, std::string(10000, 'x')); };
  auto stream = MakeStream(std::move(sockets.a), &told);
  sockets.Write(std::string(10000, 'x'));
  ASSERT_EQ(os::Shutdown(sockets.b.get(), SHUT_WR), 0);
  TurnUntil([&] { return !told.ends.empty(); });
  EXPECT_THAT(stream->Send("goodbye"), IsOk());
  TurnUntil([&] { return told.sent == 1; });
  EXPECT_EQ(ReadSome(sockets.b.get()), "goodbye");
  Turns(5);
  EXPECT_THAT(told.ends, ElementsAre(IsOk()));
}

TEST_P(CompletionStreamTest, APeerThatIsGoneIsTold) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  Turn();
  sockets.b.Reset();
  TurnUntil([&] { return !told.ends.empty(); });
  EXPECT_THAT(told.ends, ElementsAre(IsOk()));
  // Nobody takes output any more: no signal, one error, and then nothing.
  EXPECT_THAT(stream->Send("x"), IsOk());
  TurnUntil([&] { return told.ends.size() == 2; });
  EXPECT_FALSE(told.ends[1].ok());
  EXPECT_THAT(stream->Send("x"), StatusIs(absl::StatusCode::kFailedPrecondition));
  Turns(5);
  EXPECT_THAT(told.ends, SizeIs(2));
  EXPECT_EQ(told.sent, 0);
}

TEST_P(CompletionStreamTest, APausedStreamKeepsWhatComes) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  sockets.Write("first");
  TurnUntil([&] { return told.data == "first"; });
  sockets.Write("second");
  stream->PauseReceiving();
  stream->PauseReceiving();
  Turns(5);
  sockets.Write("third");
  Turns(5);
  EXPECT_EQ(told.data, "first");
  stream->ResumeReceiving();
  EXPECT_EQ(told.data, "first");  // never inside the call
  TurnUntil([&] { return told.data.size() == 16; });
  EXPECT_EQ(told.data, "firstsecondthird");
}

TEST_P(CompletionStreamTest, AnEndThatCameWhilePausedIsToldAfterTheDataThatCameBefore) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  Turn();
  sockets.Write(std::string(20000, 'x'));
  sockets.b.Reset();
  stream->PauseReceiving();
  Turns(5);
  EXPECT_EQ(told.calls, 0);
  EXPECT_THAT(told.ends, IsEmpty());
  stream->ResumeReceiving();
  TurnUntil([&] { return !told.ends.empty(); });
  EXPECT_EQ(told.data.size(), 20000u);
  EXPECT_THAT(told.ends, ElementsAre(IsOk()));
}

TEST_P(CompletionStreamTest, PausingAndResumingInAnyOrderLosesNothing) {
  Pair sockets = MakeSockets();
  Told told;
  std::unique_ptr<CompletionStream> stream;
  uint32_t random = 7;
  const auto toss = [&] { return (random = random * 1664525 + 1013904223) >> 28; };
  told.on_data = [&](absl::string_view) {
    if (toss() < 4) stream->PauseReceiving();
    if (toss() < 2) stream->ResumeReceiving();
  };
  stream = MakeStream(std::move(sockets.a), &told);
  std::string all;
  for (int i = 0; i < 3000; ++i) {
    const std::string piece(1 + toss() * 400, static_cast<char>('a' + i % 26));
    if (all.size() - told.data.size() < 50000) {
      sockets.Write(piece);
      all += piece;
    }
    if (toss() < 4) stream->PauseReceiving();
    if (toss() < 8) stream->ResumeReceiving();
    if (toss() < 8) Turn();
  }
  for (int i = 0; i < 100000 && told.data.size() < all.size(); ++i) {
    stream->ResumeReceiving();
    Turn(absl::Seconds(10));
  }
  EXPECT_EQ(told.data, all);
}

// What came while it was paused is handed out a piece a turn, and the peer waits meanwhile: nothing
// piles up here.
TEST_P(CompletionStreamTest, APeerIsNotReadFasterThanItsDataIsTaken) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  told.on_data = [&](absl::string_view) {
    if (told.calls % 100 == 1) stream->PauseReceiving();
  };
  const std::string piece(64 * 1024, 'x');
  constexpr size_t kMost = 8 << 20;
  size_t sent = 0;
  for (int turn = 0; turn < 4000 && sent < kMost; ++turn) {
    ssize_t count = 0;
    while ((count = send(sockets.b.get(), piece.data(), piece.size(), MSG_DONTWAIT)) > 0) {
      sent += static_cast<size_t>(count);
      if (sent >= kMost) break;
    }
    stream->ResumeReceiving();
    Turn();
  }
  EXPECT_LT(sent - told.data.size(), kMost / 2);
  told.on_data = nullptr;
  stream->ResumeReceiving();
  TurnUntil([&] { return told.data.size() == sent; });
}

TEST_P(CompletionStreamTest, E47_AStreamDestroyedByAHandlerIsNotCalledAgain) {
  for (const bool by_end : {false, true}) {
    Pair one = MakeSockets();
    Pair two = MakeSockets();
    Told first, second;
    auto a = MakeStream(std::move(one.a), &first);
    auto b = MakeStream(std::move(two.a), &second);
    const auto destroy_both = [&] {
      a.reset();
      b.reset();
    };
    if (by_end) {
      first.on_end = second.on_end = destroy_both;
      one.b.Reset();
      two.b.Reset();
    } else {
      first.on_data = second.on_data = [&](absl::string_view) { destroy_both(); };
      one.Write("one");
      two.Write("two");
    }
    TurnUntil([&] { return a == nullptr; });
    Turns(5);
    EXPECT_EQ(first.calls + second.calls + first.ends.size() + second.ends.size(), 1u);
  }
}

// The view outlives the stream, and so does the buffer.
TEST_P(CompletionStreamTest, DataIsValidForTheWholeCall) {
  Pair sockets = MakeSockets();
  Told told;
  std::unique_ptr<CompletionStream> stream;
  std::string seen;
  told.on_data = [&](absl::string_view data) {
    if (data.size() > 100) stream.reset();
    seen = std::string(data);
  };
  stream = MakeStream(std::move(sockets.a), &told);
  stream->PauseReceiving();  // this piece goes the other way
  sockets.Write(std::string(1000, 'k'));
  Turns(3);
  stream->ResumeReceiving();
  TurnUntil([&] { return stream == nullptr; });
  EXPECT_EQ(seen, std::string(1000, 'k'));
}

TEST_P(CompletionStreamTest, DestroyingAStreamSendsWhatTheKernelTakesAndCloses) {
  Pair sockets = MakeSockets();
  Told told;
  told.on_data = [&](absl::string_view) { told.calls = 100; };
  {
    auto stream = MakeStream(std::move(sockets.a), &told);
    Turn();
    EXPECT_THAT(stream->Send("reply "), IsOk());
    EXPECT_THAT(stream->Send("and more"), IsOk());
  }
  Turn();
  EXPECT_EQ(ReadSome(sockets.b.get()), "reply and more");
  pollfd gone = {sockets.b.get(), POLLIN, 0};
  ASSERT_EQ(os::Poll(&gone, 1, 10000), 1);
  EXPECT_NE(gone.revents & POLLHUP, 0);
  EXPECT_THAT(told.ends, IsEmpty());
  EXPECT_EQ(told.sent, 0);
}

// A peer that takes nothing does not keep the socket of a destroyed stream open.
TEST_P(CompletionStreamTest, AStreamWithOutputThatNobodyTakesCloses) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told, 8 << 20);
  EXPECT_THAT(stream->Send(std::string(4 << 20, 'x')), IsOk());
  Turns(3);
  EXPECT_GT(stream->unsent(), 0u);
  stream.reset();
  Turns(3);
  std::string got;
  for (;;) {
    const std::string piece = ReadSome(sockets.b.get());
    if (piece.empty()) break;
    got += piece;
  }
  EXPECT_LT(got.size(), size_t{4} << 20);
  pollfd gone = {sockets.b.get(), POLLIN, 0};
  ASSERT_EQ(os::Poll(&gone, 1, 10000), 1);
  EXPECT_NE(gone.revents & POLLHUP, 0);
}

TEST_P(CompletionStreamTest, E25_TimersRunBeforeStreams) {
  Pair sockets = MakeSockets();
  Told told;
  Recorder timed;
  told.on_data = [&](absl::string_view) { EXPECT_EQ(timed.timers, 1); };
  auto stream = MakeStream(std::move(sockets.a), &told);
  Turn();
  sockets.Write("x");
  Timer timer(loop_.get(), &Recorder::On, &timed);
  timer.StartAt(0);
  TurnUntil([&] { return told.calls == 1; });
}

TEST_P(CompletionStreamTest, EO13_AnExceptionLeavesTheOthersServed) {
  Pair one = MakeSockets();
  Pair two = MakeSockets();
  Told first, second;
  auto a = MakeStream(std::move(one.a), &first);
  auto b = MakeStream(std::move(two.a), &second);
  Turn();
  first.on_data =
      second.on_data = [](absl::string_view) { throw std::runtime_error("from a handler"); };
  one.Write("1");
  two.Write("2");
  int thrown = 0;
  for (int i = 0; i < 10 && thrown < 2; ++i) {
    try {
      loop_->RunOnce(absl::Seconds(10)).IgnoreError();
    } catch (const std::runtime_error&) {
      ++thrown;
    }
  }
  EXPECT_EQ(thrown, 2);
  EXPECT_EQ(first.data + second.data, "12");
  first.on_data = second.on_data = nullptr;
  one.Write("3");
  two.Write("4");
  TurnUntil([&] { return first.data == "13" && second.data == "24"; });
}

TEST_P(CompletionStreamTest, EO22_DrainDoesNotWaitForStreams) {
  UseFakeClock();
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  const int64_t start = system_->fake_steady_ns();
  EXPECT_THAT(loop_->Drain(absl::Hours(1)), IsOk());
  EXPECT_EQ(system_->fake_steady_ns(), start);
}

TEST_P(CompletionStreamTest, TimersAndStreamsShareAWaitOnTheFakeClock) {
  UseFakeClock();
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  Recorder timed;
  Timer timer(loop_.get(), &Recorder::On, &timed);
  timer.Start(absl::Seconds(100));
  const int64_t start = system_->fake_steady_ns();
  while (timed.timers == 0) Turn(absl::InfiniteDuration());
  EXPECT_EQ(system_->fake_steady_ns() - start, int64_t{100} * 1000000000);
  sockets.Write("x");
  TurnUntil([&] { return told.data == "x"; });
}

TEST_P(CompletionStreamTest, AChildThatDestroysItsCopyLeavesTheParentsStreamAlone) {
  for (const bool renewed : {false, true}) {
    Pair sockets = MakeSockets();
    Told told;
    auto stream = MakeStream(std::move(sockets.a), &told);
    Turn();
    const pid_t child = os::Fork();
    if (child == 0) {
      if (renewed) {
        EXPECT_THAT(loop_->AfterFork(), IsOk());
      }
      stream.reset();
      if (renewed) {
        // The child's own streams work.
        Pair own = MakeSockets();
        Told own_told;
        auto own_stream = MakeStream(std::move(own.a), &own_told);
        own.Write("child");
        TurnUntil([&] { return own_told.data == "child"; });
        own_stream.reset();
      }
      loop_.reset();
      ::_exit(HasFailure() ? 1 : 0);
    }
    const absl::optional<int> status = WaitForExit(child);
    ASSERT_TRUE(status.has_value());
    EXPECT_EQ(*status, 0);
    sockets.Write("parent");
    TurnUntil([&] { return told.data == "parent"; });
    EXPECT_THAT(stream->Send("back"), IsOk());
    TurnUntil([&] { return told.sent == 1; });
    EXPECT_EQ(ReadSome(sockets.b.get()), "back");
  }
}

TEST_P(CompletionStreamTest, AnEchoedMegabyteIsWhole) {
  Pair sockets = MakeSockets();
  Told told;
  std::unique_ptr<CompletionStream> stream;
  told.on_data = [&](absl::string_view data) { EXPECT_THAT(stream->Send(data), IsOk()); };
  stream = MakeStream(std::move(sockets.a), &told);
  std::string sent, got;
  uint32_t random = 1;
  for (int i = 0; i < 1000000 && got.size() < (1 << 20); ++i) {
    if (sent.size() < (1 << 20)) {
      std::string piece(1 << 10, '\0');
      for (char& c : piece) c = static_cast<char>((random = random * 1664525 + 1013904223) >> 24);
      const ssize_t count = os::Write(sockets.b.get(), piece.data(), piece.size());
      if (count > 0) sent.append(piece, 0, count);
    }
    Turn();
    got += ReadSome(sockets.b.get());
  }
  EXPECT_EQ(got.size(), size_t{1} << 20);
  EXPECT_TRUE(got == sent);
}

// --- CompletionListener ---

struct Accepted {
  std::vector<UniqueFd> connections;
  std::vector<AcceptOutcome> failures;
  std::function<void()> then;

  CompletionListenerOptions Options() {
    CompletionListenerOptions options;
    options.on_connection = [](UniqueFd connection, void* context) {
      auto* self = static_cast<Accepted*>(context);
      self->connections.push_back(std::move(connection));
      if (self->then) self->then();
    };
    options.on_failure = [](AcceptOutcome outcome, const absl::Status& status, void* context) {
      EXPECT_FALSE(status.ok());
      auto* self = static_cast<Accepted*>(context);
      self->failures.push_back(outcome);
      if (self->then) self->then();
    };
    options.context = this;
    return options;
  }
};

class CompletionListenerTest : public CompletionTest {
 protected:
  void SetUp() override {
    CompletionTest::SetUp();
    socket_ = UniqueFd(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec | os::kSockNonblock, 0));
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address_;
    auto* generic = reinterpret_cast<sockaddr*>(&address_);
    ASSERT_EQ(os::Bind(socket_.get(), generic, length), 0);
    ASSERT_EQ(os::Listen(socket_.get(), 100), 0);
    ASSERT_EQ(os::Getsockname(socket_.get(), generic, &length), 0);
  }

  std::unique_ptr<CompletionListener> MakeListener(Accepted* accepted) {
    auto listener = CompletionListener::Create(loop_.get(), socket_.get(), accepted->Options());
    EXPECT_THAT(listener, IsOk());
    return listener.ok() ? *std::move(listener) : nullptr;
  }

  UniqueFd Connect() {
    UniqueFd client(os::Socket(AF_INET, SOCK_STREAM | os::kSockCloexec, 0));
    EXPECT_EQ(os::Connect(client.get(), reinterpret_cast<sockaddr*>(&address_), sizeof address_),
              0);
    return client;
  }

  UniqueFd socket_;
  sockaddr_in address_ = {};
};

TEST_P(CompletionListenerTest, S45_ConnectionsAreHandedOutBlockingAndCloseOnExec) {
  Accepted accepted;
  auto listener = MakeListener(&accepted);
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 50; ++i) clients.push_back(Connect());
  TurnUntil([&] { return accepted.connections.size() == 50; });
  for (const UniqueFd& connection : accepted.connections) {
    EXPECT_EQ(os::Fcntl(connection.get(), F_GETFD, 0) & FD_CLOEXEC, FD_CLOEXEC);
    EXPECT_EQ(os::Fcntl(connection.get(), F_GETFL, 0) & O_NONBLOCK, 0);
  }
  EXPECT_THAT(accepted.failures, IsEmpty());
}

TEST_P(CompletionListenerTest, AConnectionIsServedByAStream) {
  Accepted accepted;
  Told told;
  auto listener = MakeListener(&accepted);
  UniqueFd client = Connect();
  TurnUntil([&] { return accepted.connections.size() == 1; });
  auto stream = MakeStream(std::move(accepted.connections[0]), &told);
  ASSERT_EQ(os::Send(client.get(), "hello", 5, 0), 5);
  TurnUntil([&] { return told.data == "hello"; });
  EXPECT_THAT(stream->Send("world"), IsOk());
  TurnUntil([&] { return told.sent == 1; });
  stream.reset();
  Turn();
  char buffer[16];
  EXPECT_EQ(os::Recv(client.get(), buffer, sizeof buffer, 0), 5);
  EXPECT_EQ(os::Recv(client.get(), buffer, sizeof buffer, 0), 0);
}

TEST_P(CompletionListenerTest, APausedListenerLeavesConnectionsInTheQueue) {
  Accepted accepted;
  auto listener = MakeListener(&accepted);
  UniqueFd one = Connect();
  TurnUntil([&] { return accepted.connections.size() == 1; });
  listener->Pause();
  Turns(3);
  UniqueFd two = Connect();
  Turns(3);
  EXPECT_THAT(accepted.connections, SizeIs(1));
  pollfd waiting = {socket_.get(), POLLIN, 0};
  EXPECT_EQ(os::Poll(&waiting, 1, 0), 1);
  listener->Resume();
  TurnUntil([&] { return accepted.connections.size() == 2; });
  listener->Pause();
  listener->Resume();
  UniqueFd three = Connect();
  TurnUntil([&] { return accepted.connections.size() == 3; });
}

TEST_P(CompletionListenerTest, E47_AHandlerMayDestroyTheListener) {
  Accepted accepted;
  auto listener = MakeListener(&accepted);
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 10; ++i) clients.push_back(Connect());
  accepted.then = [&] { listener.reset(); };
  TurnUntil([&] { return listener == nullptr; });
  Turns(5);
  EXPECT_THAT(accepted.connections, SizeIs(1));  // what the kernel had accepted beside is closed
}

TEST_P(CompletionListenerTest, S37_ALackOfDescriptorsPausesAndResumingHelps) {
  Accepted accepted;
  UniqueFd client = Connect();
  rlimit before = {};
  ASSERT_EQ(os::Getrlimit(RLIMIT_NOFILE, &before), 0);
  // No number is left. The kernel looks at the limit when accepting is asked for.
  const int next = os::Fcntl(client.get(), F_DUPFD_CLOEXEC, 0);
  os::Close(next);
  const rlimit none = {static_cast<rlim_t>(next), before.rlim_max};
  ASSERT_EQ(os::Setrlimit(RLIMIT_NOFILE, &none), 0);
  auto listener = MakeListener(&accepted);
  for (int i = 0; i < 5 && accepted.failures.empty(); ++i) Turn(absl::Seconds(10));
  ASSERT_EQ(os::Setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_THAT(accepted.failures, ElementsAre(AcceptOutcome::kBackOff));
  EXPECT_THAT(accepted.connections, IsEmpty());
  listener->Resume();
  TurnUntil([&] { return accepted.connections.size() == 1; });
}

TEST_P(CompletionListenerTest, F65_AListenerThatIsShutDownIsToldOnce) {
  Accepted accepted;
  auto listener = MakeListener(&accepted);
  Turn();
  ASSERT_EQ(os::Shutdown(socket_.get(), SHUT_RDWR), 0);
  TurnUntil([&] { return !accepted.failures.empty(); });
  Turns(5);
  EXPECT_THAT(accepted.failures, ElementsAre(AcceptOutcome::kBroken));
}

// --- By completions alone ---

#if defined(__linux__)

class RingTest : public CompletionListenerTest {};

TEST_P(RingTest, AConnectionItsEchoAndItsEndCostNoCallsOfTheirOwn) {
  constexpr int kClients = 15;
  struct Echo {
    Told told;
    std::unique_ptr<CompletionStream> stream;
  };
  std::vector<Echo> echoes(kClients);
  int ended = 0;
  Accepted accepted;
  accepted.then = [&] {
    Echo& echo = echoes[accepted.connections.size() - 1];
    echo.told.on_data = [&echo](absl::string_view data) { echo.stream->Send(data).IgnoreError(); };
    echo.told.on_end = [&echo, &ended] {
      echo.stream.reset();
      ++ended;
    };
    echo.stream = MakeStream(std::move(accepted.connections.back()), &echo.told);
  };
  auto listener = MakeListener(&accepted);
  Turn();
  std::vector<UniqueFd> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(Connect());
    ASSERT_EQ(os::Send(clients.back().get(), "hello", 5, 0), 5);
  }
  const auto cost_of = [this](const std::function<bool()>& done) {
    const CallCounts before = system_->Counts();
    TurnUntil(done);
    CallCounts calls = system_->Counts() - before;
    calls.of[static_cast<size_t>(SystemCall::kClockGettime)] = 0;
    return calls;
  };
  const CallCounts echo = cost_of([&] {
    int sent = 0;
    for (const Echo& one : echoes) sent += one.told.sent;
    return sent == kClients;
  });
  for (const UniqueFd& client : clients) {
    char buffer[16];
    EXPECT_EQ(os::Recv(client.get(), buffer, sizeof buffer, 0), 5);
  }
  clients.clear();
  const CallCounts end = cost_of([&] { return ended == kClients; });
  Turn();
  EXPECT_EQ(echo.Total(), echo[SystemCall::kIoUringWait] + echo[SystemCall::kMmap] +
                              echo[SystemCall::kIoUringRegister])
      << echo.ToString();
  EXPECT_LE(echo[SystemCall::kIoUringWait], 10);
  EXPECT_EQ(end.Total(), end[SystemCall::kIoUringWait]) << end.ToString();
}

TEST_P(RingTest, F9_ALostRingIsAFailureOfEveryStream) {
  Pair sockets = MakeSockets();
  Told told, fresh;
  auto stream = MakeStream(std::move(sockets.a), &told);
  Turn();
  system_->FailOnce(SystemCall::kIoUringWait, EBADF);
  Turn();
  TurnUntil([&] { return !told.ends.empty(); });
  EXPECT_FALSE(told.ends[0].ok());
  EXPECT_THAT(stream->Send("x"), StatusIs(absl::StatusCode::kFailedPrecondition));
  Pair more = MakeSockets();
  auto next = MakeStream(std::move(more.a), &fresh);
  more.Write("fresh");
  TurnUntil([&] { return fresh.data == "fresh"; });
}

TEST_P(RingTest, F9_ABadNumberOfAWatchCostsNoStream) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  Turn();
  Pair bad = MakePipe();
  bad.Write();
  Recorder recorder;
  FdWatch watch = WatchAll(bad.a.get(), &recorder, true, false);
  Turn();
  bad.a.Reset();
  Turn();
  EXPECT_EQ(recorder.errors, 1);
  EXPECT_EQ(loop_->counters().rebuilds, 1);
  sockets.Write("x");
  TurnUntil([&] { return told.data == "x"; });
  EXPECT_THAT(told.ends, IsEmpty());
}

TEST_P(RingTest, WithoutMemoryForBuffersAStreamFails) {
  MakeLoop({});
  Pair sockets = MakeSockets();
  Told told;
  system_->FailOnce(SystemCall::kIoUringRegister, ENOMEM);
  auto stream = MakeStream(std::move(sockets.a), &told);
  TurnUntil([&] { return !told.ends.empty(); });
  EXPECT_FALSE(told.ends[0].ok());
}

TEST_P(RingTest, ALoopIsDestroyedAfterItsStreams) {
  Pair sockets = MakeSockets();
  Told told;
  auto stream = MakeStream(std::move(sockets.a), &told);
  EXPECT_DEATH(loop_.reset(), "destroyed before its streams");
}

INSTANTIATE_TEST_SUITE_P(Backends, CompletionStreamTest, testing::ValuesIn(TestedBackends()),
                         BackendTestName);
INSTANTIATE_TEST_SUITE_P(Backends, CompletionListenerTest, testing::ValuesIn(TestedBackends()),
                         BackendTestName);

INSTANTIATE_TEST_SUITE_P(Backends, RingTest, testing::ValuesIn(TestedBackends(Backend::kIoUring)),
                         BackendTestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(RingTest);

#endif

}  // namespace
}  // namespace posthouse

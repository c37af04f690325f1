#include "posthouse/io/stream.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/os/clock.h"
#include "posthouse/testing/event_wait.h"
#include "posthouse/testing/fd_leak_check.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

using testing::HasSubstr;

constexpr absl::StatusCode kDeadline = absl::StatusCode::kDeadlineExceeded;
constexpr absl::StatusCode kEnd = absl::StatusCode::kOutOfRange;
constexpr absl::StatusCode kTooMuch = absl::StatusCode::kResourceExhausted;

bool FullForm() { return getenv("POSTHOUSE_FULL") != nullptr; }

// A stream on one end of a local socket pair, in blocking mode as clients are (S45), and the peer's
// descriptor.
class StreamTest : public testing::Test {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    peer_.Reset(pair[1]);
    stream_.emplace(UniqueFd(pair[0]), "policy socket");
  }

  void PeerWrites(absl::string_view data) {
    ASSERT_EQ(write(peer_.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
  }
  std::string PeerReads() {
    char buffer[65536];
    const ssize_t count = recv(peer_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    return count > 0 ? std::string(buffer, count) : "";
  }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  UniqueFd peer_;
  std::optional<Stream> stream_;
};

TEST_F(StreamTest, FillAddsWhatIsThereAndSaysWhenThereIsNothing) {
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kWouldBlock));
  PeerWrites("hello");
  EXPECT_THAT(stream_->Fill(3), IsOkAndHolds(Stream::FillResult::kData));
  EXPECT_EQ(stream_->input(), "hel");
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kData));
  EXPECT_EQ(stream_->input(), "hello");
  stream_->Consume(4);
  EXPECT_EQ(stream_->input(), "o");
  EXPECT_EQ(stream_->consumed_total(), 4u);
  EXPECT_THAT(stream_->ReadExactly(1), IsOkAndHolds("o"));
  EXPECT_EQ(stream_->consumed_total(), 5u);
}

TEST_F(StreamTest, WhatThePeerSentBeforeItClosedIsThereBeforeTheEnd) {
  PeerWrites("tail");
  peer_.Reset();
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kData));
  EXPECT_FALSE(stream_->at_end());
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kEnd));
  EXPECT_TRUE(stream_->at_end());
  EXPECT_EQ(stream_->input(), "tail");
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kEnd));
}

TEST_F(StreamTest, F41_InputStopsAtItsBound) {
  stream_->set_max_input(6);
  PeerWrites("0123456789");
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kData));
  EXPECT_EQ(stream_->input(), "012345");
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kFull));
  stream_->Consume(1);
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kData));
  EXPECT_EQ(stream_->input(), "123456");
}

TEST_F(StreamTest, F41_AnEndlessLineIsRefusedAndHoldsNoMoreThanItsBound) {
  stream_->set_max_input(64 << 10);
  std::thread sender([fd = peer_.get()] {
    const std::string piece(4096, 'x');
    for (int i = 0; i < 1000; ++i) {
      if (send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) < 0) return;
    }
  });
  EXPECT_THAT(stream_->ReadLine(1 << 30), StatusIs(kTooMuch, HasSubstr("65536 bytes")));
  EXPECT_EQ(stream_->input().size(), 64u << 10);
  EXPECT_LE(stream_->buffer_bytes(), 256u << 10);
  stream_->Close();
  sender.join();
}

TEST_F(StreamTest, SO3_WritingKeepsWhatWasReadAhead) {
  PeerWrites("first\nsecond\nthi");
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds("first"));
  EXPECT_THAT(stream_->Write("answer\n"), IsOk());
  EXPECT_THAT(stream_->Flush(), IsOk());
  EXPECT_EQ(PeerReads(), "answer\n");
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds("second"));
  PeerWrites("rd\n");
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds("third"));
}

TEST_F(StreamTest, LinesEndInLfOrCrLf) {
  PeerWrites("one\r\ntwo\n\n\r\n\rthree\r\r\n");
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds("one"));
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds("two"));
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds(""));
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds(""));
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds("\rthree\r"));
}

TEST_F(StreamTest, TakeLineWaitsForTheTerminatorAndNeverReads) {
  std::string line = "untouched";
  PeerWrites("abc");
  ASSERT_THAT(stream_->Fill(), IsOk());
  EXPECT_FALSE(stream_->TakeLine(&line));
  EXPECT_EQ(line, "untouched");
  PeerWrites("def\nrest");
  EXPECT_FALSE(stream_->TakeLine(&line));
  ASSERT_THAT(stream_->Fill(), IsOk());
  EXPECT_TRUE(stream_->TakeLine(&line));
  EXPECT_EQ(line, "abcdef");
  EXPECT_EQ(stream_->input(), "rest");
  EXPECT_FALSE(stream_->TakeLine(&line));
  stream_->Consume(2);
  PeerWrites("\n");
  ASSERT_THAT(stream_->Fill(), IsOk());
  EXPECT_TRUE(stream_->TakeLine(&line));
  EXPECT_EQ(line, "st");
}

TEST_F(StreamTest, F41_TheBoundOfALineIsExact) {
  PeerWrites("12345\n12345\r\n123456\nnext\n");
  EXPECT_THAT(stream_->ReadLine(5), IsOkAndHolds("12345"));
  EXPECT_THAT(stream_->ReadLine(5), IsOkAndHolds("12345"));
  EXPECT_THAT(stream_->ReadLine(5), StatusIs(kTooMuch, HasSubstr("policy socket")));
  EXPECT_THAT(stream_->ReadLine(5), IsOkAndHolds("next")) << "a complete long line is dropped";
}

TEST_F(StreamTest, F41_AnUnfinishedLongLineIsRefusedAtOnce) {
  PeerWrites("1234567");
  EXPECT_THAT(stream_->ReadLine(5), StatusIs(kTooMuch, testing::_));
  EXPECT_EQ(stream_->input(), "1234567");
}

TEST_F(StreamTest, TheEndOfInputIsAnOrdinaryAnswer) {
  PeerWrites("line\npart");
  shutdown(peer_.get(), SHUT_WR);
  EXPECT_THAT(stream_->ReadLine(80), IsOkAndHolds("line"));
  EXPECT_THAT(stream_->ReadLine(80), StatusIs(kEnd, HasSubstr("policy socket")));
  EXPECT_EQ(stream_->input(), "part");
  EXPECT_THAT(stream_->ReadExactly(5), StatusIs(kEnd, testing::_));
  EXPECT_THAT(stream_->ReadExactly(4), IsOkAndHolds("part"));
  EXPECT_THAT(stream_->Write("still works"), IsOk());
  EXPECT_THAT(stream_->Flush(), IsOk());
}

TEST_F(StreamTest, ReadExactlyAndWaitForInputWait) {
  std::thread sender([this] {
    PeerWrites("ab");
    PeerWrites("cd");
  });
  EXPECT_THAT(stream_->WaitForInput(), IsOk());
  EXPECT_FALSE(stream_->input().empty());
  EXPECT_THAT(stream_->ReadExactly(4), IsOkAndHolds("abcd"));
  sender.join();
}

TEST_F(StreamTest, S49_TheTimeLimitIsForEachTransfer) {
  system_->UseFakeClock();
  stream_->set_operation_timeout(absl::Seconds(100));
  // Three times something comes after 60 s: longer than the limit all together, and fine.
  int pieces = 0;
  system_->SetHook(SystemCall::kPoll, [&](int) {
    system_->Advance(absl::Seconds(60));
    if (pieces++ < 3) PeerWrites("x");
  });
  const int64_t start = os::SteadyNanos();
  EXPECT_THAT(stream_->ReadExactly(3), IsOkAndHolds("xxx"));
  EXPECT_EQ(os::SteadyNanos() - start, 180 * int64_t{1000000000});
  system_->SetHook(SystemCall::kPoll, nullptr);
  EXPECT_THAT(stream_->ReadExactly(1), StatusIs(kDeadline, HasSubstr("read from policy socket")));
  EXPECT_EQ(os::SteadyNanos() - start, 280 * int64_t{1000000000});
  EXPECT_THAT(stream_->Fill(), StatusIs(kDeadline, testing::_)) << "the first error stays";
}

TEST_F(StreamTest, S49_ATimeLimitOfNothingIsABrokenContract) {
  EXPECT_DEATH(stream_->set_operation_timeout(absl::ZeroDuration()), "not positive");
}

TEST_F(StreamTest, NoWaitGoesBeyondTheDeadline) {
  system_->UseFakeClock();
  stream_->set_operation_timeout(absl::Seconds(100));
  const int64_t start = os::SteadyNanos();
  stream_->set_deadline_ns(start + 7 * int64_t{1000000000});
  EXPECT_THAT(stream_->ReadLine(10), StatusIs(kDeadline, testing::_));
  EXPECT_EQ(os::SteadyNanos() - start, 7 * int64_t{1000000000});
}

TEST_F(StreamTest, F18_AVeryLongTimeLimitIsNone) {
  stream_->set_operation_timeout(absl::Hours(24 * 365 * 292));
  stream_->set_deadline_ns(INT64_MAX - 1);
  PeerWrites("x\n");
  EXPECT_THAT(stream_->ReadLine(10), IsOkAndHolds("x"));
  PeerWrites("y");
  EXPECT_THAT(stream_->WaitForInput(), IsOk());
}

TEST_F(StreamTest, S49_APeerThatDoesNotReadRunsIntoTheTimeLimit) {
  system_->UseFakeClock();
  stream_->set_operation_timeout(absl::Seconds(100));
  EXPECT_THAT(stream_->Write(std::string(8 << 20, 'x')),
              StatusIs(kDeadline, HasSubstr("write to policy socket")));
  EXPECT_THAT(stream_->Append("y"), StatusIs(kDeadline, testing::_));
}

TEST_F(StreamTest, F39_OutputIsBounded) {
  stream_->set_max_output(10);
  EXPECT_THAT(stream_->Append("0123456"), IsOk());
  EXPECT_THAT(stream_->Append("0123"), StatusIs(kTooMuch, HasSubstr("10 bytes")));
  EXPECT_EQ(stream_->unsent(), 7u) << "nothing is appended";
  EXPECT_THAT(stream_->TryFlush(), IsOkAndHolds(true));
  EXPECT_EQ(stream_->unsent(), 0u);
  EXPECT_EQ(PeerReads(), "0123456");
  EXPECT_THAT(stream_->Append("0123"), IsOk());
}

TEST_F(StreamTest, F39_TryFlushSendsWhatThePeerTakesAndNoMore) {
  stream_->set_max_output(8 << 20);
  ASSERT_THAT(stream_->Append(std::string(8 << 20, 'x')), IsOk());
  EXPECT_THAT(stream_->TryFlush(), IsOkAndHolds(false));
  const size_t before = stream_->unsent();
  EXPECT_GT(before, 0u);
  size_t received = PeerReads().size();
  EXPECT_THAT(stream_->TryFlush(), IsOk());
  EXPECT_LT(stream_->unsent(), before);
  absl::StatusOr<bool> done = false;
  while (done.ok() && !*done) {
    received += PeerReads().size();
    done = stream_->TryFlush();
  }
  ASSERT_THAT(done, IsOk());
  for (std::string more = PeerReads(); !more.empty(); more = PeerReads()) received += more.size();
  EXPECT_EQ(received, 8u << 20);
}

TEST_F(StreamTest, WriteSendsByItselfWhenABufferHasCollected) {
  EXPECT_THAT(stream_->Write(std::string(4000, 'a')), IsOk());
  EXPECT_EQ(PeerReads(), "");
  EXPECT_THAT(stream_->Write(std::string(4000, 'b')), IsOk());
  EXPECT_EQ(PeerReads().size(), 4000u);
  EXPECT_THAT(stream_->Flush(), IsOk());
  EXPECT_EQ(PeerReads().size(), 4000u);
}

TEST_F(StreamTest, AnIdleStreamHoldsNoBuffers) {
  EXPECT_EQ(stream_->buffer_bytes(), 0u);
  PeerWrites(std::string(3000, 'x') + "\n");
  ASSERT_THAT(stream_->ReadLine(4000), IsOk());
  ASSERT_THAT(stream_->Write(std::string(3000, 'y')), IsOk());
  EXPECT_GT(stream_->buffer_bytes(), 0u);
  ASSERT_THAT(stream_->Flush(), IsOk());
  EXPECT_EQ(stream_->buffer_bytes(), 0u);
}

TEST_F(StreamTest, F14_ABlockingDescriptorIsNeverBlockedOnAndKeepsItsMode) {
  ASSERT_EQ(fcntl(stream_->fd(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kWouldBlock));
  ASSERT_THAT(stream_->Append(std::string(1 << 20, 'x')), IsOk());
  EXPECT_THAT(stream_->TryFlush(), IsOkAndHolds(false));
  EXPECT_EQ(fcntl(stream_->fd(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(StreamTest, F14_AFalseReadinessCostsOneCall) {
  PeerWrites("x");
  for (int i = 0; i < 3; ++i) {
    system_->FailOnce(SystemCall::kRecv, EAGAIN);
    EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kWouldBlock));
    system_->RemoveAllFaults();
  }
  EXPECT_EQ(system_->Count(SystemCall::kRecv), 3);
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kData));
}

TEST_F(StreamTest, F28_AClosedPeerIsAnErrorAndNoSignal) {
  peer_.Reset();
  EXPECT_THAT(stream_->Write("x"), IsOk());
  EXPECT_THAT(stream_->Flush(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                         HasSubstr("write to policy socket: Broken pipe")));
  EXPECT_FALSE(stream_->Append("more").ok());
}

TEST_F(StreamTest, S48_ErrorsNameTheStream) {
  system_->FailOnce(SystemCall::kRecv, ECONNRESET);
  EXPECT_THAT(stream_->Fill(), StatusIs(absl::StatusCode::kUnavailable,
                                        HasSubstr("read from policy socket: Connection reset")));
  PeerWrites("x");
  EXPECT_FALSE(stream_->Fill().ok()) << "the first error stays";
  EXPECT_THAT(stream_->Append("x"), IsOk()) << "of its own direction";
}

TEST_F(StreamTest, AMovedStreamGoesOn) {
  PeerWrites("one\ntwo\n");
  ASSERT_THAT(stream_->ReadLine(10), IsOk());
  Stream other = std::move(*stream_);
  EXPECT_THAT(other.ReadLine(10), IsOkAndHolds("two"));
  EXPECT_EQ(other.name(), "policy socket");
}

// --- Not sockets ---

class PipeStreamTest : public testing::Test {
 protected:
  void SetUp() override {
    int in[2], out[2];
    ASSERT_EQ(pipe2(in, O_CLOEXEC), 0);
    ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
    to_stream_.Reset(in[1]);
    from_stream_.Reset(out[0]);
    stream_.emplace(UniqueFd(in[0]), UniqueFd(out[1]), "standard input and output");
  }

  FdLeakCheck leaks_;
  ScopedInterposer system_;
  UniqueFd to_stream_;
  UniqueFd from_stream_;
  std::optional<Stream> stream_;
};

TEST_F(PipeStreamTest, S77_OneDescriptorIsReadAndAnotherWritten) {
  EXPECT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kWouldBlock));
  ASSERT_EQ(write(to_stream_.get(), "W\0", 2), 2);  // a wake-up of the manager (P66)
  EXPECT_THAT(stream_->ReadExactly(2), IsOkAndHolds(std::string("W\0", 2)));
  EXPECT_THAT(stream_->Write("answer"), IsOk());
  EXPECT_THAT(stream_->Flush(), IsOk());
  char buffer[16];
  EXPECT_EQ(read(from_stream_.get(), buffer, sizeof(buffer)), 6);
  to_stream_.Reset();
  EXPECT_THAT(stream_->WaitForInput(), StatusIs(kEnd, testing::_));
}

TEST_F(PipeStreamTest, F14_AFullBlockingPipeIsNotBlockedOn) {
  stream_->set_max_output(1 << 20);
  ASSERT_THAT(stream_->Append(std::string(1 << 20, 'x')), IsOk());
  EXPECT_THAT(stream_->TryFlush(), IsOkAndHolds(false));
  size_t received = 0;
  std::vector<char> buffer(1 << 20);
  std::thread reader([&] {
    while (received < buffer.size()) {
      const ssize_t count = read(from_stream_.get(), buffer.data(), buffer.size());
      if (count <= 0) return;
      received += static_cast<size_t>(count);
    }
  });
  EXPECT_THAT(stream_->Flush(), IsOk());
  reader.join();
  EXPECT_EQ(received, buffer.size());
  EXPECT_EQ(fcntl(stream_->output_fd(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(PipeStreamTest, F28_APipeWithoutReaderIsAnErrorAndNoSignal) {
  from_stream_.Reset();
  ASSERT_THAT(stream_->Append("x"), IsOk());
  EXPECT_THAT(stream_->TryFlush(), StatusIs(absl::StatusCode::kFailedPrecondition, testing::_));
  sigset_t pending, mask;
  sigpending(&pending);
  EXPECT_FALSE(sigismember(&pending, SIGPIPE)) << "the signal does not stay behind";
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  EXPECT_FALSE(sigismember(&mask, SIGPIPE)) << "the mask is as it was";
}

TEST_F(PipeStreamTest, F8_InterruptedCallsAreRepeated) {
  for (SystemCall call : {SystemCall::kRead, SystemCall::kWrite, SystemCall::kPoll}) {
    system_->FailEvery(call, EINTR, 2);
  }
  ASSERT_EQ(write(to_stream_.get(), "a\nb\nc\n", 6), 6);
  for (const char* line : {"a", "b", "c"}) {
    EXPECT_THAT(stream_->ReadLine(9), IsOkAndHolds(line));
    EXPECT_THAT(stream_->Write(line), IsOk());
    EXPECT_THAT(stream_->Flush(), IsOk());
  }
  char buffer[16];
  EXPECT_EQ(read(from_stream_.get(), buffer, sizeof(buffer)), 3);
}

// --- Every split point ---

struct Faults {
  size_t read_limit;
  size_t write_limit;
  int64_t again_each;  // EAGAIN on each n-th transfer; 0 for never
  int64_t interrupt_each;
};

// A dialogue of 10,000 bytes in each direction, with lines of growing length.
std::string Line(int i) {
  return std::string(static_cast<size_t>(i), static_cast<char>('a' + i % 26));
}
constexpr int kLines = 140;

class StreamFaultTest : public StreamTest, public testing::WithParamInterface<Faults> {};

TEST_P(StreamFaultTest, F40_F8_ADialogueIsTheSameHoweverItIsCut) {
  const Faults& faults = GetParam();
  system_->LimitTransfers(SystemCall::kRecv, faults.read_limit);
  system_->LimitTransfers(SystemCall::kSend, faults.write_limit);
  std::thread peer([fd = peer_.get()] {
    std::string received;
    for (int i = 0; i < kLines; ++i) {
      const std::string line = Line(i) + "\r\n";
      if (write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) return;
      std::string expected = absl::StrCat("echo ", Line(i), "\n");
      while (received.size() < expected.size()) {
        char buffer[256];
        const ssize_t count = read(fd, buffer, sizeof(buffer));
        if (count <= 0) return;
        received.append(buffer, static_cast<size_t>(count));
      }
      ASSERT_EQ(received, expected);
      received.clear();
    }
    shutdown(fd, SHUT_WR);
  });
  for (int i = 0; i < kLines; ++i) {
    // Limits first: the fault that was added first decides, so the errors go in and out around.
    if (faults.again_each != 0 && i % faults.again_each == 0) {
      system_->RemoveAllFaults();
      system_->FailEvery(SystemCall::kRecv, EAGAIN, faults.again_each);
      system_->FailEvery(SystemCall::kSend, EAGAIN, faults.again_each + 1);
      if (faults.interrupt_each != 0) {
        system_->FailEvery(SystemCall::kRecv, EINTR, faults.interrupt_each);
        system_->FailEvery(SystemCall::kSend, EINTR, faults.interrupt_each);
        system_->FailEvery(SystemCall::kPoll, EINTR, faults.interrupt_each);
      }
      system_->LimitTransfers(SystemCall::kRecv, faults.read_limit);
      system_->LimitTransfers(SystemCall::kSend, faults.write_limit);
    }
    ASSERT_THAT(stream_->ReadLine(200), IsOkAndHolds(Line(i)));
    ASSERT_THAT(stream_->Write(absl::StrCat("echo ", Line(i), "\n")), IsOk());
    ASSERT_THAT(stream_->Flush(), IsOk());
  }
  EXPECT_THAT(stream_->ReadLine(200), StatusIs(kEnd, testing::_));
  peer.join();
}

INSTANTIATE_TEST_SUITE_P(Cuts, StreamFaultTest,
                         testing::Values(Faults{1, 1, 0, 0}, Faults{2, 3, 0, 0}, Faults{3, 2, 2, 0},
                                         Faults{1, 1, 3, 7}, Faults{3, 3, 5, 3}),
                         [](const testing::TestParamInfo<Faults>& info) {
                           return absl::StrCat("Read", info.param.read_limit, "Write",
                                               info.param.write_limit, "Again",
                                               info.param.again_each, "Interrupt",
                                               info.param.interrupt_each);
                         });

TEST_F(StreamTest, F40_EverySplitPointOfOneRequestIsTheSame) {
  const std::string request = "request=smtpd_access_policy\nsender=a@b\r\n\n";
  const size_t step = FullForm() ? 1 : 3;
  for (size_t first = 1; first < request.size(); ++first) {
    for (size_t second = first; second <= request.size(); second += step) {
      for (auto [begin, end] :
           {std::pair<size_t, size_t>(0, first), {first, second}, {second, request.size()}}) {
        if (begin == end) continue;
        PeerWrites(request.substr(begin, end - begin));
        ASSERT_THAT(stream_->Fill(), IsOkAndHolds(Stream::FillResult::kData));
      }
      std::string line;
      ASSERT_TRUE(stream_->TakeLine(&line));
      ASSERT_EQ(line, "request=smtpd_access_policy");
      ASSERT_TRUE(stream_->TakeLine(&line));
      ASSERT_EQ(line, "sender=a@b");
      ASSERT_TRUE(stream_->TakeLine(&line));
      ASSERT_EQ(line, "");
      ASSERT_FALSE(stream_->TakeLine(&line));
      ASSERT_EQ(stream_->buffer_bytes(), 0u);
    }
  }
}

TEST_F(StreamTest, F37_NoFailureLeavesADescriptor) {
  PeerWrites("a\nb\nc\n");
  for (int64_t k = 1;; ++k) {
    const int id = system_->FailOnce(SystemCall::kAny, ENOMEM, k);
    std::string line;
    (void)stream_->ReadLine(10).status();
    (void)stream_->Write("x").ok();
    (void)stream_->Flush().ok();
    stream_.reset();
    const int64_t hits = system_->Hits(id);
    system_->RemoveAllFaults();
    SetUp();
    PeerWrites("a\n");
    if (hits == 0) break;
    ASSERT_LT(k, 100);
  }
  stream_.reset();
  peer_.Reset();
  EXPECT_EQ(system_->closes_of_unowned(), 0);
}

}  // namespace
}  // namespace posthouse

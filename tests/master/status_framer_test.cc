// status_framer.h: messages out of the bytes of many writers (P13 to P15, P32 to P35, F70, F71).

#include "posthouse/master/status_framer.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/master/protocol.h"

namespace posthouse {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::string Bytes(int32_t pid, uint32_t generation, int32_t availability) {
  const StatusMessageBytes bytes = EncodeStatusMessage({pid, generation, availability});
  return std::string(bytes.data(), bytes.size());
}

// "sender/pid.generation.availability" of all messages.
std::vector<std::string> Texts(const StatusBatch& batch) {
  std::vector<std::string> texts;
  for (const ReceivedStatus& received : batch.messages) {
    texts.push_back(std::to_string(received.sender) + "/" + std::to_string(received.message.pid) +
                    "." + std::to_string(received.message.generation) + "." +
                    std::to_string(received.message.availability));
  }
  return texts;
}

// P14, the example of the statement.
TEST(StatusFramerTest, TheExampleOfTheProtocolIsUnderstood) {
  StatusFramer framer;
  StatusBatch batch;
  framer.Feed(4711, absl::string_view("\x67\x12\0\0\x08\0\0\0\0\0\0\0", 12), &batch);
  EXPECT_THAT(Texts(batch), ElementsAre("4711/4711.8.0"));
  EXPECT_EQ(batch.gossip_count, 0u);
  EXPECT_EQ(framer.senders(), 0u);
}

// "Generation and availability are handed on as they came" (P34, P35).
TEST(StatusFramerTest, ManyMessagesInOnePieceComeInTheirOrderWhateverTheySay) {
  StatusFramer framer;
  StatusBatch batch;
  framer.Feed(7, Bytes(7, 1, 0) + Bytes(7, 1, 1) + Bytes(7, 99, 0) + Bytes(7, 1, 7), &batch);
  EXPECT_THAT(Texts(batch), ElementsAre("7/7.1.0", "7/7.1.1", "7/7.99.0", "7/7.1.7"));
  EXPECT_EQ(batch.gossip_count, 0u);
}

TEST(StatusFramerTest, AMessageMayComeInAnyPieces) {
  const std::string bytes = Bytes(7, 1, 0) + Bytes(7, 1, 1);
  for (size_t piece = 1; piece < bytes.size(); ++piece) {
    StatusFramer framer;
    StatusBatch batch;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      framer.Feed(7, absl::string_view(bytes).substr(at, piece), &batch);
    }
    EXPECT_THAT(Texts(batch), ElementsAre("7/7.1.0", "7/7.1.1")) << piece;
    EXPECT_EQ(batch.gossip_count, 0u) << piece;
    EXPECT_EQ(framer.senders(), 0u) << piece;
  }
}

// F71: "framing of others can not be lost".
TEST(StatusFramerTest, AMessageThatOneSenderHasBegunShiftsNoOther) {
  for (size_t stray = 1; stray < kStatusMessageSize; ++stray) {
    StatusFramer framer;
    StatusBatch batch;
    framer.Feed(7, Bytes(7, 1, 0).substr(0, stray), &batch);
    framer.Feed(8, Bytes(8, 2, 0), &batch);
    framer.Feed(7, Bytes(7, 1, 0).substr(stray), &batch);
    framer.Feed(8, Bytes(8, 2, 1), &batch);
    EXPECT_THAT(Texts(batch), ElementsAre("8/8.2.0", "7/7.1.0", "8/8.2.1")) << stray;
    EXPECT_EQ(batch.gossip_count, 0u) << stray;
  }
}

// "in step again with its very next message".
TEST(StatusFramerTest, ASenderIsInStepAgainWithTheNextMessageInItsOwnName) {
  for (size_t stray = 1; stray < 3 * kStatusMessageSize; ++stray) {
    StatusFramer framer;
    StatusBatch batch;
    framer.Feed(1000, std::string(stray, '\xee'), &batch);
    framer.Feed(1000, Bytes(1000, 1, 0), &batch);
    framer.Feed(1000, Bytes(1000, 1, 1), &batch);
    EXPECT_THAT(Texts(batch), ElementsAre("1000/1000.1.0", "1000/1000.1.1")) << stray;
    EXPECT_GT(batch.gossip_count, 0u) << stray;
    EXPECT_EQ(framer.senders(), 0u) << stray;
  }
}

// The part of its own number that ends the piece is not thrown away.
TEST(StatusFramerTest, TheNumberThatBringsItBackIntoStepMayBeCutItself) {
  const std::string good = Bytes(0x01020304, 1, 0);
  for (size_t stray = 1; stray < kStatusMessageSize; ++stray) {
    for (size_t cut = 1; cut < good.size(); ++cut) {
      StatusFramer framer;
      StatusBatch batch;
      framer.Feed(0x01020304, std::string(stray, '\xee') + good.substr(0, cut), &batch);
      framer.Feed(0x01020304, good.substr(cut), &batch);
      EXPECT_THAT(Texts(batch), ElementsAre("16909060/16909060.1.0")) << stray << " " << cut;
    }
  }
}

// F70, MO3: "The identity of a sender is established by the kernel, never by the message."
TEST(StatusFramerTest, AMessageInTheNameOfAnotherProcessIsGossip) {
  StatusFramer framer;
  StatusBatch batch;
  framer.Feed(1000, Bytes(2000, 1, 0) + Bytes(1000, 1, 0) + Bytes(-1, 1, 1) + Bytes(0, 1, 1),
              &batch);
  EXPECT_THAT(Texts(batch), ElementsAre("1000/1000.1.0"));
  EXPECT_EQ(batch.gossip_count, 3u);
  ASSERT_THAT(batch.gossip, SizeIs(3));
  EXPECT_EQ(batch.gossip[0].kind, StatusGossip::Kind::kForged);
  EXPECT_EQ(DescribeStatusGossip(batch.gossip[0]),
            "process 1000 sent a status message in the name of process 2000");
}

TEST(StatusFramerTest, StrayBytesAreGossipWithTheirNumber) {
  StatusFramer framer;
  StatusBatch batch;
  framer.Feed(1000, "abc" + Bytes(1000, 1, 0), &batch);
  ASSERT_THAT(batch.gossip, SizeIs(1));
  EXPECT_EQ(batch.gossip[0].bytes, 3u);
  EXPECT_EQ(DescribeStatusGossip(batch.gossip[0]),
            "process 1000 sent 3 bytes that belong to no status message");
}

// F124: what is reported is bounded, what is counted is not.
TEST(StatusFramerTest, OnlyTheFirstGossipOfAReadingIsKept) {
  StatusFramer framer;
  StatusBatch batch;
  for (int i = 0; i < 1000; ++i) framer.Feed(1000, Bytes(2000, 1, 0), &batch);
  EXPECT_THAT(batch.gossip, SizeIs(StatusBatch::kMaxGossip));
  EXPECT_EQ(batch.gossip_count, 1000u);
  batch.Clear();
  EXPECT_TRUE(batch.empty());
}

// A system that does not say who wrote it: one framing, and the message's word.
TEST(StatusFramerTest, WithoutASenderMessagesAreTakenAtTheirWord) {
  StatusFramer framer;
  StatusBatch batch;
  const std::string bytes = Bytes(7, 1, 0) + Bytes(8, 2, 1) + Bytes(-4, 1, 1);
  framer.Feed(0, bytes.substr(0, 17), &batch);
  framer.Feed(0, bytes.substr(17), &batch);
  EXPECT_THAT(Texts(batch), ElementsAre("0/7.1.0", "0/8.2.1"));
  ASSERT_THAT(batch.gossip, SizeIs(1));
  EXPECT_THAT(DescribeStatusGossip(batch.gossip[0]), HasSubstr("some process"));
}

// F74: "a new process with the same number" does not continue what the old one has begun.
TEST(StatusFramerTest, WhatADeadSenderHasBegunIsForgotten) {
  StatusFramer framer;
  StatusBatch batch;
  framer.Feed(7, Bytes(7, 1, 0).substr(0, 5), &batch);
  framer.Feed(8, Bytes(8, 1, 0).substr(0, 5), &batch);
  EXPECT_EQ(framer.senders(), 2u);
  framer.Forget(7);
  framer.Forget(9);
  EXPECT_EQ(framer.senders(), 1u);
  framer.Feed(7, Bytes(7, 2, 0), &batch);
  EXPECT_THAT(Texts(batch), ElementsAre("7/7.2.0"));
  EXPECT_EQ(batch.gossip_count, 0u);
  framer.ForgetAll();
  EXPECT_EQ(framer.senders(), 0u);
}

// "Memory is bounded."
TEST(StatusFramerTest, ManySendersThatBeginAMessageAreNotAllRemembered) {
  StatusFramer framer;
  StatusBatch batch;
  size_t most = 0;
  for (pid_t sender = 1; sender < 100000; ++sender) {
    framer.Feed(sender, "x", &batch);
    most = std::max(most, framer.senders());
  }
  EXPECT_EQ(most, StatusFramer::kMaxSenders);
  // Who writes whole messages has not noticed.
  framer.Feed(200000, Bytes(200000, 1, 0), &batch);
  EXPECT_THAT(Texts(batch), ElementsAre("200000/200000.1.0"));
}

// F71, F73: ten senders toggle, in pieces of any size, beside one that writes anything; what the
// ten say arrives complete and in order.
TEST(StatusFramerTest, TenSendersAreHeardRightlyBesideOneThatWritesAnything) {
  std::mt19937 random(20261130);
  const auto up_to = [&random](uint32_t limit) { return random() % limit; };
  constexpr int kSenders = 10;
  constexpr pid_t kVandal = 5000;
  StatusFramer framer;
  StatusBatch batch;
  std::map<pid_t, std::string> unsent;
  std::map<pid_t, uint32_t> said, heard;
  for (int step = 0; step < 200000; ++step) {
    if (up_to(4) == 0) {
      std::string anything(1 + up_to(30), '\0');
      for (char& c : anything) c = static_cast<char>(up_to(256));
      if (up_to(2) == 0) {
        anything = Bytes(static_cast<int32_t>(100 + up_to(kSenders)), up_to(100), 0);
      }
      framer.Feed(kVandal, anything, &batch);
    } else {
      const pid_t sender = 100 + static_cast<pid_t>(up_to(kSenders));
      // The generation counts what this sender has said.
      if (unsent[sender].empty()) unsent[sender] = Bytes(sender, said[sender]++, 0);
      const size_t piece = 1 + up_to(kStatusMessageSize);
      framer.Feed(sender, absl::string_view(unsent[sender]).substr(0, piece), &batch);
      unsent[sender].erase(0, piece);
    }
    for (const ReceivedStatus& received : batch.messages) {
      if (received.sender == kVandal) continue;
      ASSERT_EQ(received.message.pid, received.sender);
      ASSERT_EQ(received.message.generation, heard[received.sender]++);
    }
    for (const StatusGossip& gossip : batch.gossip) ASSERT_EQ(gossip.sender, kVandal);
    batch.Clear();
  }
  for (pid_t sender = 100; sender < 100 + kSenders; ++sender) {
    EXPECT_EQ(heard[sender] + (unsent[sender].empty() ? 0 : 1), said[sender]);
    EXPECT_GT(heard[sender], 1000u);
  }
}

}  // namespace
}  // namespace posthouse

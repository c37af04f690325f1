#include "examples/anvil/anvil_protocol.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace examples {
namespace {

class AnvilProtocolTest : public testing::Test {
 protected:
  // The reply, or "WRONG: reason".
  std::string Ask(absl::string_view list) {
    std::string text;
    switch (AnswerAnvilRequest(list, table_, holder_, 0, &text)) {
      case AnvilAnswer::kReply:
        return text;
      case AnvilAnswer::kUnknownRequest:
        return absl::StrCat("UNKNOWN: ", text);
      case AnvilAnswer::kWrongList:
        break;
    }
    return absl::StrCat("WRONG: ", text);
  }
  std::string Request(absl::string_view request, absl::string_view ident = "smtp:192.0.2.1") {
    return Ask(absl::StrCat("request=", request, "\nident=", ident, "\n\n"));
  }

  AnvilTable table_{60000000000};
  AnvilTable::Holder holder_;
};

TEST_F(AnvilProtocolTest, D32_EveryRequestHasItsReply) {
  EXPECT_EQ(Request("lookup"), "status=0\ncount=0\nrate=0\nmail=0\nrcpt=0\nnewtls=0\nauth=0\n\n");
  EXPECT_EQ(Request("newtls_status"), "status=0\nrate=0\n\n");
  EXPECT_EQ(Request("connect"), "status=0\ncount=1\nrate=1\n\n");
  EXPECT_EQ(Request("connect"), "status=0\ncount=1\nrate=2\n\n");
  EXPECT_EQ(Request("message"), "status=0\nrate=1\n\n");
  EXPECT_EQ(Request("recipient"), "status=0\nrate=1\n\n");
  EXPECT_EQ(Request("recipient"), "status=0\nrate=2\n\n");
  EXPECT_EQ(Request("newtls"), "status=0\nrate=1\n\n");
  EXPECT_EQ(Request("newtls_status"), "status=0\nrate=1\n\n");
  EXPECT_EQ(Request("auth"), "status=0\nrate=1\n\n");
  EXPECT_EQ(Request("tlstr"), "status=0\nrate=1\n\n");
  EXPECT_EQ(Request("lookup"), "status=0\ncount=1\nrate=2\nmail=1\nrcpt=2\nnewtls=1\nauth=1\n\n");
  EXPECT_EQ(Request("disconnect"), "status=0\n\n");
  EXPECT_EQ(Request("lookup"), "status=0\ncount=0\nrate=2\nmail=1\nrcpt=2\nnewtls=1\nauth=1\n\n");
}

TEST_F(AnvilProtocolTest, D31_AnUnknownRequestIsAnsweredWithStatusMinusOne) {
  EXPECT_EQ(Request("nonsense"), "UNKNOWN: status=4294967295\n\n");
  EXPECT_EQ(Request(""), "UNKNOWN: status=4294967295\n\n");
}

TEST_F(AnvilProtocolTest, D31_AWrongListIsNotAnswered) {
  const absl::string_view lists[] = {
      "\n",
      "request=connect\n\n",
      "ident=x\n\n",
      "ident=x\nrequest=connect\n\n",
      "request=connect\nrequest=connect\nident=x\n\n",
      "request\nident=x\n\n",
      "Request=connect\nident=x\n\n",
      " request=connect\nident=x\n\n",
      absl::string_view("request=connect\nident=x\0y\n\n", 27),
  };
  for (const absl::string_view list : lists) {
    EXPECT_EQ(Ask(list).substr(0, 6), "WRONG:") << list;
  }
  EXPECT_EQ(table_.size(), 0u) << "a wrong list has no effect";
}

TEST_F(AnvilProtocolTest, WhatFollowsTheTwoAttributesIsIgnored) {
  EXPECT_EQ(Ask("request=connect\nident=x\nmore=1\n\n"), "status=0\ncount=1\nrate=1\n\n");
  EXPECT_EQ(Ask("request=connect\nident=x\nmore\n\n"), "status=0\ncount=1\nrate=2\n\n");
}

TEST_F(AnvilProtocolTest, D31_AnyTextIsAnIdent) {
  EXPECT_EQ(Request("connect", "a=b c\xff"), "status=0\ncount=1\nrate=1\n\n");
  EXPECT_EQ(Request("connect", ""), "status=0\ncount=1\nrate=1\n\n");
  EXPECT_EQ(table_.size(), 2u);
}

}  // namespace
}  // namespace examples

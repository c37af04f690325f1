#include "examples/lib/plain_attributes.h"

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace examples {
namespace {

// "name|value" for each attribute, then "!error" if the list is malformed.
std::vector<std::string> ReadAll(absl::string_view list) {
  std::vector<std::string> result;
  AttributeReader reader(list);
  Attribute attribute;
  while (reader.Next(&attribute)) {
    result.push_back(absl::StrCat(attribute.name, "|", attribute.value));
  }
  if (reader.malformed()) result.push_back(absl::StrCat("!", reader.error()));
  EXPECT_FALSE(reader.Next(&attribute)) << "the end stays the end";
  return result;
}

using Lines = std::vector<std::string>;

TEST(PlainAttributes, D3_NameEndsAtTheFirstEqualsSign) {
  EXPECT_EQ(ReadAll("a=b=c\n\n"), Lines{"a|b=c"});
}

TEST(PlainAttributes, D3_ListsAreReadAsWritten) {
  struct Row {
    const char* sentence;
    absl::string_view list;
    Lines expected;
  };
  const Row rows[] = {
      {"an empty list has no attributes", "\n", {}},
      {"values may be empty", "a=\n\n", {"a|"}},
      {"order and repetition are kept", "b=1\na=2\nb=3\n\n", {"b|1", "a|2", "b|3"}},
      {"blanks belong to names and values", " a = b \n\n", {" a | b "}},
      {"a carriage return belongs to the value", "a=b\r\n\n", {"a|b\r"}},
      {"a line without = is an error", "a=b\nc\nd=e\n\n", {"a|b", "!a line has no \"=\""}},
      {"a name must not be empty", "=b\n\n", {"!a line has no name before its \"=\""}},
      {"NUL is no text", absl::string_view("a=b\0c\n\n", 7), {"!a line has a NUL byte"}},
      {"a list without its end is an error",
       "a=b\n",
       {"a|b", "!the list does not end with an empty line"}},
      {"nothing at all is an error", "", {"!the list does not end with an empty line"}},
  };
  for (const Row& row : rows) EXPECT_EQ(ReadAll(row.list), row.expected) << row.sentence;
}

TEST(ListFinder, FindsTheEndOfTheFirstList) {
  EXPECT_EQ(ListFinder().Find(""), 0u);
  EXPECT_EQ(ListFinder().Find("\n"), 1u);
  EXPECT_EQ(ListFinder().Find("\na=b\n\n"), 1u);
  EXPECT_EQ(ListFinder().Find("a=b"), 0u);
  EXPECT_EQ(ListFinder().Find("a=b\n"), 0u);
  EXPECT_EQ(ListFinder().Find("a=b\n\n"), 5u);
  EXPECT_EQ(ListFinder().Find("a=b\n\nc=d\n\n"), 5u);
}

TEST(ListFinder, F40_EverySplitPointGivesTheSameLists) {
  const std::string text = "a=b\nc=d\n\n\nx=\n\ny=z\n\n";
  const Lines expected = {"a=b\nc=d\n\n", "\n", "x=\n\n", "y=z\n\n"};
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    std::string input;
    Lines lists;
    ListFinder finder;
    for (size_t at = 0; at < text.size(); at += piece) {
      input += text.substr(at, piece);
      while (const size_t size = finder.Find(input)) {
        lists.push_back(input.substr(0, size));
        input.erase(0, size);
        finder.Reset();
      }
    }
    EXPECT_EQ(lists, expected) << "in pieces of " << piece;
    EXPECT_EQ(input, "");
  }
}

TEST(PlainAttributes, WrittenAttributesAreReadBack) {
  std::string list;
  AppendAttribute("action", "REJECT a=b", &list);
  AppendAttribute("empty", "", &list);
  list += "\n";
  EXPECT_EQ(ReadAll(list), (Lines{"action|REJECT a=b", "empty|"}));
}

TEST(PlainAttributes, D3_WhatTheEncodingCannotCarryIsCutOff) {
  std::string list;
  AppendAttribute("a", "one\ntwo=2", &list);
  AppendAttribute("b", absl::string_view("one\0two", 7), &list);
  EXPECT_EQ(list, "a=one\nb=one\n");
}

// Any bytes: the reader ends, stays inside the list, and what it hands out has the promised form.
TEST(PlainAttributes, F41_AnyBytesAreReadWithoutHarm) {
  std::mt19937 random(20260101);
  const std::string alphabet("a=\n\0b \xff", 7);
  for (int round = 0; round < 100000; ++round) {
    std::string text(random() % 40, 'x');
    for (char& c : text) c = alphabet[random() % alphabet.size()];
    ListFinder finder;
    const size_t size = finder.Find(text);
    ASSERT_LE(size, text.size());
    AttributeReader reader(absl::string_view(text).substr(0, size == 0 ? text.size() : size));
    Attribute attribute;
    size_t bytes = 0;
    while (reader.Next(&attribute)) {
      bytes += attribute.name.size() + attribute.value.size() + 2;
      ASSERT_FALSE(attribute.name.empty());
      ASSERT_EQ(attribute.name.find('='), absl::string_view::npos);
      ASSERT_EQ(attribute.value.find('\n'), absl::string_view::npos);
    }
    ASSERT_LE(bytes, text.size());
    // A complete, well-formed list is read to its last byte.
    if (size != 0 && !reader.malformed()) {
      ASSERT_EQ(bytes + 1, size);
    }
  }
}

}  // namespace
}  // namespace examples

// Any bytes (F118): every parser of this folder is fed random and mutated input from a fixed seed.
// What it costs is counted, in bytes of memory and in the expander's own measure, and not timed.
// POSTHOUSE_FULL=1 makes the run longer.

#include <errno.h>
#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "posthouse/config/expand.h"
#include "posthouse/config/generic_parameters.h"
#include "posthouse/config/main_cf.h"
#include "posthouse/config/master_cf.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"

namespace {

// Every allocation of this program is counted: how many bytes there were at most.
size_t live_bytes = 0;
size_t peak_bytes = 0;

void* CountedNew(size_t size) {
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  live_bytes += malloc_usable_size(memory);
  peak_bytes = std::max(peak_bytes, live_bytes);
  return memory;
}

void CountedDelete(void* memory) {
  if (memory == nullptr) return;
  live_bytes -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) { return CountedNew(size); }
void* operator new[](size_t size) { return CountedNew(size); }
void operator delete(void* memory) noexcept { CountedDelete(memory); }
void operator delete[](void* memory) noexcept { CountedDelete(memory); }
void operator delete(void* memory, size_t) noexcept { CountedDelete(memory); }
void operator delete[](void* memory, size_t) noexcept { CountedDelete(memory); }

namespace posthouse {
namespace {

constexpr size_t kInput = 64 << 10;
constexpr size_t kMaxMemory = 10 << 20;
constexpr size_t kMaxMessage = 64 << 10;

int Times(int count) { return std::getenv("POSTHOUSE_FULL") != nullptr ? count * 30 : count; }

// The memory that it takes beyond what there was before.
template <typename Work>
size_t PeakOf(Work work) {
  const size_t before = live_bytes;
  peak_bytes = before;
  work();
  return peak_bytes - before;
}

constexpr const char* kTokens[] = {
    "a",    "b",   "name",    " = ",  "=",       "\n",     "\n ",
    "\n\t", "#",   "# c\n",   "\r\n", " ",       "\v",     "$",
    "$$",   "${",  "$(",      "}",    ")",       "{",      "?",
    ":",    "==",  "<=level", "1",    "9999",    "3.6",    "$a",
    "$b",   "${a", "(",       "x",    "${name}", "a=$b\n", "b=${a?{$a}:{$b}}\n"};

class Generator {
 public:
  explicit Generator(uint32_t seed) : random_(seed) {}

  size_t Below(size_t limit) { return random_() % limit; }

  std::string Bytes(size_t size) {
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random_());
    return text;
  }

  std::string Tokens(size_t size) {
    std::string text;
    while (text.size() < size) text += kTokens[Below(std::size(kTokens))];
    text.resize(size);
    return text;
  }

  std::string Mutated(std::string text, int mutations) {
    for (int i = 0; i < mutations && !text.empty(); ++i) {
      const size_t at = Below(text.size());
      switch (Below(4)) {
        case 0:
          text[at] = static_cast<char>(random_());
          break;
        case 1:
          text.erase(at, 1 + Below(8));
          break;
        case 2:
          text.insert(at, kTokens[Below(std::size(kTokens))]);
          break;
        default:
          text.insert(at, text.substr(Below(text.size()), Below(30)));
      }
    }
    return text;
  }

 private:
  std::mt19937 random_;
};

constexpr char kSeed[] =
    "# a file\n"
    "aa = A\nbb = $aa-B\nempty =\n"
    "cc = ${aa?{y}:{n}} ${{$aa} == {A} ? {t} : {f}}\n"
    "dd = ${bb:no}\n  continued ${cc}\n\n# comment\n\tmore $(dd)\n"
    "ee = ${{3.6} <=level {3.10}?{y}:{n}}${ee}\n"
    "max_use = ${aa?1}0\nmax_idle = 10${empty:m}\n"
    "myhostname = host.example.com\nsyslog_facility = local0\n";

// The whole way of a file: lines, definitions, all expansions, all generic parameters.
void ReadEverything(const std::string& text) {
  ParameterStore store;
  GenericParameters generic;
  std::vector<std::string> warnings;
  const size_t memory = PeakOf([&] {
    const absl::Status parsed = ParseMainCf("f", text, &store, &warnings);
    ASSERT_LE(parsed.message().size(), kMaxMessage);
    if (!parsed.ok()) {
      ASSERT_NE(parsed.message().find("f, line "), absl::string_view::npos);
    }
    const absl::Status loaded =
        LoadGenericParameters({.check_accounts = false}, &store, &generic, &warnings);
    ASSERT_LE(loaded.message().size(), kMaxMessage);
  });
  // A value that doubles itself may become as large as the cost limit allows, input or none.
  ASSERT_LE(memory, kMaxMemory * (1 + text.size() / kInput) + 3 * kMaxExpansionCost);
  size_t warned = 0;
  for (const std::string& warning : warnings) warned += warning.size();
  ASSERT_LE(warned, kMaxMessage);
  int left = 50;
  for (const std::string& name : store.Names()) {
    if (left-- == 0) break;
    size_t cost = 0;
    const absl::StatusOr<std::string> value = ExpandCounting(store.Find(name)->value, store, &cost);
    ASSERT_LE(cost, kMaxExpansionCost + kExpansionPieceCost + text.size());
    if (value.ok()) {
      ASSERT_LE(value->size(), kMaxExpansionCost);
    } else {
      ASSERT_LE(value.status().message().size(), 2000u);
    }
  }
}

TEST(Fuzz, F118_AFileOfAnyBytes) {
  Generator generator(1);
  for (int i = 0; i < Times(300); ++i) ReadEverything(generator.Bytes(generator.Below(300)));
  for (int i = 0; i < Times(5); ++i) ReadEverything(generator.Bytes(kInput));
}

TEST(Fuzz, F118_AFileOfTheTokensThatMeanSomething) {
  Generator generator(2);
  for (int i = 0; i < Times(300); ++i) ReadEverything(generator.Tokens(generator.Below(300)));
  for (int i = 0; i < Times(10); ++i) ReadEverything(generator.Tokens(kInput));
}

TEST(Fuzz, F118_AMutatedFile) {
  Generator generator(3);
  for (int i = 0; i < Times(300); ++i) {
    ReadEverything(generator.Mutated(kSeed, 1 + static_cast<int>(generator.Below(12))));
  }
}

TEST(Fuzz, F111_GeneratedReferences) {
  Generator generator(4);
  ParameterStore store;
  std::vector<std::string> warnings;
  ASSERT_TRUE(ParseMainCf("f", kSeed, &store, &warnings).ok());
  int fine = 0;
  const int count = Times(20000);
  for (int i = 0; i < count; ++i) {
    const std::string text =
        generator.Mutated("${aa?{$bb}:{n}}${{$aa} == {A} ? {${cc}} : {$(dd)}}$ee$$",
                          1 + static_cast<int>(generator.Below(6)));
    const absl::StatusOr<std::string> value = Expand(text, store);
    if (value.ok()) {
      ++fine;
    } else {
      ASSERT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
      ASSERT_FALSE(value.status().message().empty());
    }
  }
  // Neither all nor none, or the generator tries nothing.
  EXPECT_LT(fine, count);
}

TEST(Fuzz, F118_WideAndDeepTextsStayWithinMemory) {
  const std::string texts[] = {
      std::string(kInput, '\n'),         std::string(kInput, ' '),
      std::string(kInput, '='),          std::string(kInput, '\0'),
      std::string(kInput, '$'),          std::string(kInput, '#'),
      "a = " + std::string(kInput, '{'), "a = ${" + std::string(kInput, '{')};
  for (const std::string& text : texts) ReadEverything(text);
  const std::string units[] = {"a=\n", "\n a",  "a\n", "= \n",   "${",
                               "$(",   "${a?{", "${{", "a=$a\n", std::string("\0\n", 2)};
  for (const std::string& unit : units) {
    std::string text = "a = ";
    while (text.size() < kInput) text += unit;
    ReadEverything(text);
  }
}

TEST(Fuzz, F114_MemoryGrowsWithTheFileAndNotFaster) {
  const auto memory_for = [](int definitions) {
    std::string text;
    for (int i = 0; i < definitions; ++i) absl::StrAppend(&text, "name", i, " = value\n  more\n");
    return PeakOf([&] {
      ParameterStore store;
      std::vector<std::string> warnings;
      ASSERT_TRUE(ParseMainCf("f", text, &store, &warnings).ok());
    });
  };
  const size_t small = memory_for(4096);
  const size_t large = memory_for(8 * 4096);
  EXPECT_LE(large, small * 9);
}

// strtol() is the reference of C47.
TEST(Fuzz, F113_NumbersAreThoseOfStrtol) {
  Generator generator(5);
  for (int i = 0; i < Times(100000); ++i) {
    std::string text;
    for (size_t n = generator.Below(6); n > 0; --n) {
      constexpr const char* kParts[] = {"0",  "1", "9",  "2147483647", "922337203685477580",
                                        "7",  "8", "-",  "+",          " ",
                                        "\t", "x", "0x", "99",         "\v1",
                                        ".",  "e"};
      text += kParts[generator.Below(std::size(kParts))];
    }
    errno = 0;
    char* end = nullptr;
    const long expected = std::strtol(text.c_str(), &end, 10);
    const bool good = !text.empty() && *end == '\0' && end != text.c_str() && errno == 0;
    const absl::StatusOr<int64_t> value = ParseLongValue(text);
    ASSERT_EQ(value.ok(), good) << text;
    if (good) {
      ASSERT_EQ(*value, expected) << text;
    }
    const absl::StatusOr<int> narrow = ParseIntValue(text);
    ASSERT_EQ(narrow.ok(), good && expected == static_cast<int>(expected)) << text;
  }
}

// F112: the reference computes in 128 bits.
TEST(Fuzz, F112_TimesAreThoseOfExactArithmetic) {
  Generator generator(6);
  constexpr char kUnits[] = "smhdw";
  constexpr int64_t kSeconds[] = {1, 60, 3600, 86400, 604800};
  for (int i = 0; i < Times(100000); ++i) {
    const size_t unit = generator.Below(5);
    const int64_t around = INT32_MAX / kSeconds[generator.Below(5)];
    const int64_t number = around - 1000 + static_cast<int64_t>(generator.Below(2000));
    const bool suffix = generator.Below(2) == 0;
    const std::string text = absl::StrCat(number, suffix ? std::string(1, kUnits[unit]) : "");
    const __int128 exact = static_cast<__int128>(number) * kSeconds[unit];
    const bool fits = unit == 0 ? exact <= INT32_MAX : number < INT32_MAX / kSeconds[unit];
    std::string warning;
    const absl::StatusOr<int> value = ParseTimeValue(text, kUnits[unit], true, &warning);
    ASSERT_EQ(value.ok(), number >= 0 && fits) << text << kUnits[unit];
    if (value.ok()) {
      ASSERT_EQ(*value, exact) << text;
    }
  }
}

// --- master.cf ---

constexpr const char* kTableTokens[] = {"a",
                                        " ",
                                        "\n",
                                        "\n ",
                                        "\t",
                                        "#",
                                        "{",
                                        "}",
                                        "-",
                                        "y",
                                        "n",
                                        "0",
                                        "1x",
                                        "?",
                                        "[",
                                        "]:",
                                        "::",
                                        " inet ",
                                        " unix ",
                                        "/",
                                        "..",
                                        "\r",
                                        "\v",
                                        "-o",
                                        "=",
                                        "25",
                                        "c\n",
                                        "x",
                                        " - - n - - c",
                                        " n - n 1? 0 c"};

constexpr char kTableSeed[] =
    "smtp inet n - y - - smtpd\n  -o { a = b c }\n# comment\n127.0.0.1:25 inet n - n 1? 0 smtpd\n"
    "a/b unix - - n 60 1 c x={y z}\n\tlast\nz unix-dgram n - n - 1 postlogd\n";

// A text as master.cf: what it costs, and what a refusal says.
void ReadTable(const std::string& text) {
  const size_t memory = PeakOf([&] {
    const absl::StatusOr<MasterCf> table = ParseMasterCf("f", text, MasterCfOptions());
    if (table.ok()) return;
    ASSERT_EQ(table.status().code(), absl::StatusCode::kInvalidArgument);
    ASSERT_NE(table.status().message().find("f, line "), absl::string_view::npos);
    ASSERT_LE(table.status().message().size(), kMaxMessage);
  });
  ASSERT_LE(memory, kMaxMemory * (1 + text.size() / kInput));
}

TEST(Fuzz, F118_ATableOfAnyBytesAndOfTheTokensThatMeanSomething) {
  Generator generator(8);
  const auto tokens = [&](size_t size) {
    std::string text;
    while (text.size() < size) text += kTableTokens[generator.Below(std::size(kTableTokens))];
    return text;
  };
  for (int i = 0; i < Times(300); ++i) {
    ReadTable(generator.Bytes(generator.Below(300)));
    ReadTable(tokens(generator.Below(300)));
    ReadTable(generator.Mutated(kTableSeed, 1 + static_cast<int>(generator.Below(12))));
  }
  for (int i = 0; i < Times(5); ++i) {
    ReadTable(generator.Bytes(kInput));
    ReadTable(tokens(kInput));
  }
}

TEST(Fuzz, F118_WideAndDeepTablesStayWithinMemory) {
  for (const char* unit :
       {"\n", " ", "a\n", "\n a", "{", "}", "{ ", "a unix\n", "a unix - - - - - c\n", "x ",
        "a unix - - - - - c {\n", "#", "-", "a/"}) {
    std::string text = "a unix - - - - - c ";
    while (text.size() < kInput) text += unit;
    ReadTable(text);
    ReadTable(text.substr(19));
  }
}

TEST(Fuzz, F114_TheMemoryOfATableGrowsWithItAndNotFaster) {
  const auto memory_for = [](int entries) {
    std::string text;
    for (int i = 0; i < entries; ++i)
      absl::StrAppend(&text, "e", i, " unix - - - - - c\n -o a=b\n");
    return PeakOf([&] { ASSERT_TRUE(ParseMasterCf("f", text, MasterCfOptions()).ok()); });
  };
  const size_t small = memory_for(2048);
  EXPECT_LE(memory_for(8 * 2048), small * 9);
}

TEST(Fuzz, TheSmallParsersTakeAnyBytes) {
  Generator generator(7);
  for (int i = 0; i < Times(50000); ++i) {
    const std::string text = generator.Below(2) == 0 ? generator.Bytes(generator.Below(20))
                                                     : generator.Tokens(generator.Below(20));
    Definition definition;
    if (SplitDefinition(text, &definition).ok()) {
      ASSERT_FALSE(definition.name.empty());
    }
    std::string warning;
    ParseBoolValue(text).status().IgnoreError();
    ParseTimeValue(text, 's', false, &warning).status().IgnoreError();
    ParseCompatibilityLevel(text).status().IgnoreError();
    ParseSyslogFacility(text).status().IgnoreError();
    CheckHostName(text).IgnoreError();
  }
}

}  // namespace
}  // namespace posthouse

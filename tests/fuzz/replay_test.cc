// Gives every file of a kept corpus to the fuzz target that it is linked with, so that what a
// fuzzer has found once is tried by every run of the suite. The argument is the folder of the
// corpus.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::string corpus_folder;

TEST(Replay, F118_TheTargetTakesEveryInputOfItsCorpus) {
  int tried = 0;
  for (const auto& file : std::filesystem::directory_iterator(corpus_folder)) {
    std::ifstream stream(file.path(), std::ios::binary);
    const std::string input{std::istreambuf_iterator<char>(stream), {}};
    // Told before, because a target that finds something aborts.
    SCOPED_TRACE(file.path().string());
    std::cerr << file.path().filename().string() << "\n";
    ASSERT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size()),
              0);
    ++tried;
  }
  EXPECT_GT(tried, 10);
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 2) {
    std::cerr << "usage: " << argv[0] << " CORPUS\n";
    return 2;
  }
  corpus_folder = argv[1];
  return RUN_ALL_TESTS();
}

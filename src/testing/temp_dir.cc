#include "posthouse/testing/temp_dir.h"

#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace posthouse {

TempDir::TempDir() : owner_(getpid()) {
  char name[] = "/tmp/posthouse.XXXXXX";
  if (mkdtemp(name) == nullptr) {
    std::perror("mkdtemp /tmp/posthouse.XXXXXX");
    std::abort();
  }
  path_ = name;
}

TempDir::~TempDir() {
  if (getpid() != owner_) return;
  std::error_code ignored;  // what cannot be removed stays for people to look at
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::Path(absl::string_view name) const { return absl::StrCat(path_, "/", name); }

std::string TempDir::WriteFile(absl::string_view name, absl::string_view content) const {
  const std::string path = Path(name);
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string ReadFileOrEmpty(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  // A file of /proc may end in an error: its process is gone. The iterators of a stream buffer
  // throw then; this leaves what was read.
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace posthouse

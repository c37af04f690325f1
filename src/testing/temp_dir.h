// TempDir is a scratch directory that disappears with everything in it.
//
//   TempDir dir;
//   const std::string path = dir.Path("policy.sock");
//
// Its name is short, because it has to leave room in the 108 bytes of a socket's address; it is
// therefore made in /tmp and not where the test runner keeps its long directories.
// Fork: the process that made it removes it; a child that ends by exit() does not.

#ifndef POSTHOUSE_TESTING_TEMP_DIR_H_
#define POSTHOUSE_TESTING_TEMP_DIR_H_

#include <sys/types.h>

#include <string>

#include "absl/strings/string_view.h"

namespace posthouse {

class TempDir {
 public:
  // Aborts the test when /tmp takes no directory.
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(absl::string_view name) const;
  // Makes or replaces a file; returns its path.
  std::string WriteFile(absl::string_view name, absl::string_view content) const;

 private:
  std::string path_;
  pid_t owner_;
};

// The bytes of a file; "" when it cannot be read.
std::string ReadFileOrEmpty(const std::string& path);

}  // namespace posthouse

#endif  // POSTHOUSE_TESTING_TEMP_DIR_H_

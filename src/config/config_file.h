// Reading a configuration file whole, once, into memory, as it was at one moment (C8, F104, F105),
// and whether somebody else can write it (F116).
//
// Errors name the path: kNotFound, kPermissionDenied and so on from the call that failed;
// kInvalidArgument for what is no regular file or too large; kUnavailable for a file that is being
// changed. Nothing is opened that could block or have effects. Thread: any.

#ifndef POSTHOUSE_CONFIG_CONFIG_FILE_H_
#define POSTHOUSE_CONFIG_CONFIG_FILE_H_

#include <sys/stat.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace posthouse {

struct ConfigFileOptions {
  // F104: larger files are refused.
  size_t max_bytes = 16 << 20;
  // A file that is being edited may be half written, so it is read again until it has been quiet
  // for a moment. C8 compares whole seconds, so that a change costs up to 2.4 s; this is for
  // programs that are to wait exactly as long as stock daemons do.
  bool quiet_whole_seconds = false;
  // Else: how long ago the last change must be. Zero: no matter. A change that is dated in the
  // future does not count, because nobody could wait for it.
  absl::Duration quiet = absl::ZeroDuration();
  // False: kUnavailable at once instead of sleeping and reading again.
  bool wait = true;
};

struct ConfigFile {
  std::string text;
  struct stat status = {};
};

// A change during the reading is noticed and the reading repeated (F105). A file that never rests
// is given up after 30 s.
absl::StatusOr<ConfigFile> ReadConfigFile(const std::string& path,
                                          const ConfigFileOptions& options);

// F116: what others can write, they can use to run programs as whoever reads it. Files of root and
// of the account that runs the program are fine as long as neither group nor others can write them.
// One sentence per problem of `path`.
std::vector<std::string> OwnershipProblems(const std::string& path, const struct stat& status);

// The problems of a file that was read and of the directory that holds it. An error when the
// directory cannot be looked at.
absl::StatusOr<std::vector<std::string>> ConfigFileOwnershipProblems(const std::string& path,
                                                                     const ConfigFile& file);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_CONFIG_FILE_H_

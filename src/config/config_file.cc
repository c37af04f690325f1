#include "posthouse/config/config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/clock.h"
#include "posthouse/os/file_times.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// A file that never stops changing is given up after this many readings, 0.3 s apart.
constexpr int kMaxReadings = 100;
constexpr long kRereadDelayNanos = 300 * 1000 * 1000;
constexpr size_t kReadSize = 64 << 10;

struct Snapshot {
  ConfigFile file;
  bool changed_meanwhile = false;
};

absl::Status CheckKindAndSize(const std::string& path, const struct stat& status,
                              size_t max_bytes) {
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  if (status.st_size < 0 || static_cast<uint64_t>(status.st_size) > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", status.st_size, " bytes; the limit is ", max_bytes));
  }
  return absl::OkStatus();
}

bool SameTime(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

bool SameState(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && SameTime(os::ModifiedTime(a), os::ModifiedTime(b)) &&
         SameTime(os::ChangedTime(a), os::ChangedTime(b));
}

// Reads until end-of-file or one byte more than the limit.
absl::Status ReadAll(const std::string& path, int fd, size_t max_bytes, std::string* text) {
  while (text->size() <= max_bytes) {
    const size_t have = text->size();
    text->resize(have + kReadSize);
    const ssize_t got = os::Read(fd, &(*text)[have], kReadSize);
    const int error = errno;
    text->resize(have + (got > 0 ? static_cast<size_t>(got) : 0));
    if (got == 0) return absl::OkStatus();
    if (got < 0 && error != EINTR) return absl::ErrnoToStatus(error, absl::StrCat("read ", path));
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": more than ", max_bytes, " bytes"));
}

// The kind is looked at before the file is opened, because opening a device can have effects and
// opening a fifo can block; and again afterwards, because the name may mean another file by then.
absl::StatusOr<Snapshot> ReadOnce(const std::string& path, size_t max_bytes) {
  Snapshot snapshot;
  struct stat before = {};
  if (os::Stat(path.c_str(), &before) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("stat ", path));
  }
  absl::Status usable = CheckKindAndSize(path, before, max_bytes);
  if (!usable.ok()) return usable;
  UniqueFd fd(os::Open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", path));
  if (os::Fstat(fd.get(), &before) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("fstat ", path));
  }
  usable = CheckKindAndSize(path, before, max_bytes);
  if (!usable.ok()) return usable;
  absl::Status read = ReadAll(path, fd.get(), max_bytes, &snapshot.file.text);
  if (!read.ok()) return read;
  if (os::Fstat(fd.get(), &snapshot.file.status) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("fstat ", path));
  }
  snapshot.changed_meanwhile =
      !SameState(before, snapshot.file.status) ||
      static_cast<size_t>(snapshot.file.status.st_size) != snapshot.file.text.size();
  return snapshot;
}

int64_t Nanos(const timespec& time) {
  return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
}

// `began`: when the reading before this one ended, or this one began (C8).
bool IsQuiet(const struct stat& status, int64_t began_seconds, const ConfigFileOptions& options) {
  const timespec modified = os::ModifiedTime(status);
  if (options.quiet_whole_seconds) {
    return modified.tv_sec < began_seconds - 1 || modified.tv_sec > os::WallSeconds();
  }
  const int64_t age = os::WallNanos() - Nanos(modified);
  return age < 0 || age >= absl::ToInt64Nanoseconds(options.quiet);
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

absl::StatusOr<ConfigFile> ReadConfigFile(const std::string& path,
                                          const ConfigFileOptions& options) {
  int64_t began = os::WallSeconds();
  for (int reading = 0; reading < kMaxReadings; ++reading) {
    absl::StatusOr<Snapshot> snapshot = ReadOnce(path, options.max_bytes);
    if (!snapshot.ok()) return snapshot.status();
    if (!snapshot->changed_meanwhile && IsQuiet(snapshot->file.status, began, options)) {
      return std::move(snapshot->file);
    }
    if (!options.wait) {
      return absl::UnavailableError(absl::StrCat(path, ": it was changed a moment ago"));
    }
    began = os::WallSeconds();
    const timespec delay = {0, kRereadDelayNanos};
    os::Nanosleep(&delay, nullptr);  // A signal that ends it early costs one more reading.
  }
  return absl::UnavailableError(
      absl::StrCat(path, ": it changes all the time; gave up after ", kMaxReadings, " readings"));
}

std::vector<std::string> OwnershipProblems(const std::string& path, const struct stat& status) {
  std::vector<std::string> problems;
  if (status.st_uid != 0 && status.st_uid != os::Geteuid()) {
    problems.push_back(absl::StrCat(path, ": owned by user ", status.st_uid, " instead of root"));
  }
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    problems.push_back(absl::StrFormat("%s: writable by group or others (mode %04o)", path,
                                       static_cast<unsigned>(status.st_mode & 07777)));
  }
  return problems;
}

absl::StatusOr<std::vector<std::string>> ConfigFileOwnershipProblems(const std::string& path,
                                                                     const ConfigFile& file) {
  std::vector<std::string> problems = OwnershipProblems(path, file.status);
  const std::string directory = DirectoryOf(path);
  struct stat status = {};
  if (os::Stat(directory.c_str(), &status) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("stat ", directory));
  }
  for (std::string& problem : OwnershipProblems(directory, status)) {
    problems.push_back(std::move(problem));
  }
  return problems;
}

}  // namespace posthouse

#include "posthouse/master/lock_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr size_t kNumberWidth = 4 * sizeof(long);  // M26
constexpr mode_t kFileMode = 0600;                 // M22
constexpr mode_t kForeignWrite = S_IWGRP | S_IWOTH;

// More than a program that only looks, or a holder that has yet to write its number, needs.
constexpr int kMaxTries = 50;
constexpr timespec kPause = {0, 10'000'000};

absl::Status CallError(absl::string_view call, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(call, " ", absl::CEscape(path)));
}

absl::Status Refused(const std::string& path, absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("lock file ", absl::CEscape(path), " is refused: ", why));
}

bool IsSameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// The first bytes of a file, more than any lock file has.
absl::StatusOr<std::string> ReadContent(int fd, const std::string& path) {
  char buffer[2 * kNumberWidth];
  ssize_t size;
  do {
    size = os::Pread(fd, buffer, sizeof(buffer), 0);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return CallError("read", path);
  return std::string(buffer, static_cast<size_t>(size));
}

// --- Opening with care (M24, F119, F120) ---

absl::StatusOr<struct stat> DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  struct stat found = {};
  if (os::Stat(directory.c_str(), &found) != 0) return CallError("stat", directory);
  return found;
}

bool IsRootsAlone(const struct stat& directory) {
  return directory.st_uid == 0 && (directory.st_mode & kForeignWrite) == 0;
}

// Root makes and trusts no file where others could put one.
absl::Status CheckDirectory(const std::string& path) {
  if (os::Geteuid() != 0) return absl::OkStatus();
  absl::StatusOr<struct stat> directory = DirectoryOf(path);
  if (!directory.ok()) return directory.status();
  if (IsRootsAlone(*directory)) return absl::OkStatus();
  return Refused(path, "others than root can write to its directory");
}

absl::Status CheckLink(const std::string& path, const struct stat& link) {
  absl::StatusOr<struct stat> directory = DirectoryOf(path);
  if (!directory.ok()) return directory.status();
  if (link.st_uid == 0 && IsRootsAlone(*directory)) return absl::OkStatus();
  return Refused(path, "it is a symbolic link");
}

absl::Status CheckFile(const std::string& path, const struct stat& file) {
  const std::string reason = WhyNotOwn(file);
  return reason.empty() ? absl::OkStatus() : Refused(path, reason);
}

// What a trusted link leads to is written over only if it is a lock file already; the link may be
// an error of root's.
absl::Status CheckTarget(const std::string& path, int fd) {
  absl::StatusOr<std::string> content = ReadContent(fd, path);
  if (!content.ok()) return content.status();
  if (content->empty() || ParseLockFile(*content) != 0) return absl::OkStatus();
  return Refused(path, "it is a symbolic link to a file of another kind");
}

// An empty descriptor: the name has changed between look and opening.
absl::StatusOr<UniqueFd> Create(const std::string& path) {
  UniqueFd fd(
      os::Open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, kFileMode));
  if (!fd && errno != EEXIST) return CallError("create", path);
  return fd;
}

absl::StatusOr<UniqueFd> OpenExisting(const std::string& path, const struct stat& seen) {
  const bool is_link = S_ISLNK(seen.st_mode);
  absl::Status status = is_link ? CheckLink(path, seen) : CheckFile(path, seen);
  if (!status.ok()) return status;
  // Without blocking and without effect, should a link lead to a device.
  const int flags = O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (is_link ? 0 : O_NOFOLLOW);
  UniqueFd fd(os::Open(path.c_str(), flags, 0));
  if (!fd) {
    if (errno == ENOENT && !is_link) return fd;
    return CallError("open", path);
  }
  struct stat opened = {};
  if (os::Fstat(fd.get(), &opened) != 0) return CallError("fstat", path);
  if (status = CheckFile(path, opened); !status.ok()) return status;
  if (is_link) status = CheckTarget(path, fd.get());
  if (!status.ok()) return status;
  return fd;
}

// kNotFound: there is no file, and none was to be made.
absl::StatusOr<UniqueFd> OpenCarefully(const std::string& path, bool create) {
  if (absl::Status status = CheckDirectory(path); !status.ok()) return status;
  for (int i = 0; i < 2; ++i) {
    struct stat seen = {};
    const bool exists = os::Lstat(path.c_str(), &seen) == 0;
    if (!exists && (errno != ENOENT || !create)) return CallError("lstat", path);
    absl::StatusOr<UniqueFd> fd = exists ? OpenExisting(path, seen) : Create(path);
    if (!fd.ok() || *fd) return fd;
  }
  return Refused(path, "it comes and goes while it is opened");
}

// --- The lock ---

// False: somebody else has it.
absl::StatusOr<bool> TryLock(int fd, int kind, const std::string& path) {
  int result;
  do {
    result = os::Flock(fd, kind | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return true;
  if (errno == EWOULDBLOCK) return false;
  return CallError("flock", path);
}

// Whether the name still leads to the file that was locked; whoever removes it lets others lock
// another one of that name.
absl::StatusOr<bool> IsInPlace(int fd, const std::string& path) {
  struct stat opened = {};
  struct stat named = {};
  if (os::Fstat(fd, &opened) != 0) return CallError("fstat", path);
  if (os::Stat(path.c_str(), &named) == 0) return IsSameFile(opened, named);
  if (errno == ENOENT) return false;
  return CallError("stat", path);
}

// The number in the file if a process has it that may be the holder, else 0. A number of our own
// is of an earlier life, as in containers where every master is process 1.
pid_t LivingHolder(int fd, const std::string& path) {
  absl::StatusOr<std::string> content = ReadContent(fd, path);
  if (!content.ok()) return 0;
  const pid_t pid = ParseLockFile(*content);
  if (pid <= 0 || pid == os::Getpid()) return 0;
  return os::Kill(pid, 0) == 0 || errno == EPERM ? pid : 0;
}

// The file if a process holds its lock; an empty descriptor if nobody does, or there is no file.
absl::StatusOr<UniqueFd> OpenHeld(const std::string& path) {
  absl::StatusOr<UniqueFd> fd = OpenCarefully(path, /*create=*/false);
  if (absl::IsNotFound(fd.status())) return UniqueFd();
  if (!fd.ok()) return fd.status();
  // Shared, so that two that look do not see each other.
  const absl::StatusOr<bool> locked = TryLock(fd->get(), LOCK_SH, path);
  if (!locked.ok()) return locked.status();
  if (*locked) return UniqueFd();
  return fd;
}

absl::Status Held(const std::string& path, pid_t holder) {
  const std::string who = holder > 0 ? absl::StrCat("process ", holder) : "another process";
  return absl::UnavailableError(absl::StrCat("lock file ", absl::CEscape(path), ": ", who,
                                             " holds the lock: another master runs"));
}

}  // namespace

std::string FormatLockFile(pid_t pid) {
  const std::string number = absl::StrCat(pid);
  return std::string(kNumberWidth - number.size(), ' ') + number + '\n';
}

pid_t ParseLockFile(absl::string_view content) {
  pid_t pid = 0;
  const absl::string_view number = absl::StripAsciiWhitespace(content);
  return absl::SimpleAtoi(number, &pid) && pid > 0 ? pid : 0;
}

absl::StatusOr<LockFile> LockFile::Acquire(const std::string& path, const FileOwner& owner) {
  EffectiveOwner identity;
  if (absl::Status status = identity.Become(owner); !status.ok()) return status;
  for (int i = 1;; ++i) {
    absl::StatusOr<UniqueFd> fd = OpenCarefully(path, /*create=*/true);
    if (!fd.ok()) return fd.status();
    absl::StatusOr<bool> locked = TryLock(fd->get(), LOCK_EX, path);
    if (!locked.ok()) return locked.status();
    if (*locked) {
      absl::StatusOr<bool> in_place = IsInPlace(fd->get(), path);
      if (!in_place.ok()) return in_place.status();
      if (*in_place) return LockFile(*std::move(fd), path);
    }
    const pid_t holder = *locked ? 0 : LivingHolder(fd->get(), path);
    if (holder > 0 || i == kMaxTries) return Held(path, holder);
    os::Nanosleep(&kPause, nullptr);
  }
}

absl::StatusOr<bool> LockFile::IsHeld(const std::string& path, const FileOwner& owner) {
  EffectiveOwner identity;
  if (absl::Status status = identity.Become(owner); !status.ok()) return status;
  const absl::StatusOr<UniqueFd> fd = OpenHeld(path);
  if (!fd.ok()) return fd.status();
  return fd->valid();
}

absl::StatusOr<pid_t> LockFile::Holder(const std::string& path, const FileOwner& owner) {
  EffectiveOwner identity;
  if (absl::Status status = identity.Become(owner); !status.ok()) return status;
  for (int i = 1;; ++i) {
    const absl::StatusOr<UniqueFd> fd = OpenHeld(path);
    if (!fd.ok()) return fd.status();
    if (!fd->valid()) return 0;
    if (const pid_t holder = LivingHolder(fd->get(), path); holder > 0) return holder;
    if (i == kMaxTries) return Held(path, 0);
    os::Nanosleep(&kPause, nullptr);
  }
}

absl::Status LockFile::WritePid(pid_t pid) {
  const std::string text = FormatLockFile(pid);
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t size =
        os::Pwrite(fd_.get(), text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (size < 0 && errno == EINTR) continue;
    if (size == 0) errno = EIO;
    if (size <= 0) return CallError("write", path_);
    done += static_cast<size_t>(size);
  }
  return absl::OkStatus();
}

}  // namespace posthouse

#include "posthouse/io/made_name.h"

#include <cerrno>

#include "absl/functional/function_ref.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "posthouse/io/unix_address.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr mode_t kPermissions = 0777;

absl::Status NameError(absl::string_view call, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(call, " ", absl::CEscape(path)));
}

int WithMode(mode_t mode, absl::FunctionRef<int()> make) {
  const mode_t old_mask = os::Umask(~mode & kPermissions);
  const int result = make();
  const int error = errno;
  os::Umask(old_mask);
  errno = error;
  return result;
}

absl::Status Examine(const std::string& path, mode_t mode, struct stat* found) {
  if (os::Lstat(path.c_str(), found) != 0) return NameError("lstat", path);
  if ((found->st_mode & kPermissions) == mode) return absl::OkStatus();
  if (os::Chmod(path.c_str(), mode) != 0) return NameError("chmod", path);
  return absl::OkStatus();
}

}  // namespace

int BindWithMode(int fd, const std::string& path, mode_t mode) {
  const UnixAddress address(path);
  return WithMode(mode, [&] { return os::Bind(fd, address.get(), address.length()); });
}

int MakeFifoWithMode(const std::string& path, mode_t mode) {
  return WithMode(mode, [&] { return os::Mkfifo(path.c_str(), mode); });
}

absl::StatusOr<MadeName> MadeName::Settle(const std::string& path, mode_t mode) {
  struct stat found = {};
  if (absl::Status status = Examine(path, mode, &found); !status.ok()) {
    os::Unlink(path.c_str());
    return status;
  }
  return MadeName(path, found.st_dev, found.st_ino);
}

absl::Status MadeName::Remove() {
  if (path_.empty()) return absl::OkStatus();
  struct stat found = {};
  if (os::Lstat(path_.c_str(), &found) != 0) {
    if (errno != ENOENT) return NameError("lstat", path_);
  } else if (IsSameFile(found) && os::Unlink(path_.c_str()) != 0 && errno != ENOENT) {
    return NameError("unlink", path_);
  }
  path_.clear();
  return absl::OkStatus();
}

}  // namespace posthouse

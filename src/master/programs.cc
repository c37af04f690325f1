#include "posthouse/master/programs.h"

#include <errno.h>
#include <sys/stat.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "posthouse/config/config_file.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// Links from name to name inside the directory; Debian's lmtp is such a link to smtp on some
// systems.
constexpr int kMaxLinks = 8;
constexpr size_t kMaxTarget = 4096;

absl::Status Absent(absl::string_view call, const std::string& path) {
  return absl::NotFoundError(absl::ErrnoToStatus(errno, absl::StrCat(call, " ", path)).message());
}

absl::Status OwnedSafely(const std::string& path, const struct stat& status) {
  const std::vector<std::string> problems = OwnershipProblems(path, status);
  if (problems.empty()) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrJoin(problems, "\n"));
}

absl::StatusOr<std::string> LinkTarget(const std::string& path) {
  std::string target(kMaxTarget, '\0');
  const ssize_t size = os::Readlink(path.c_str(), &target[0], target.size());
  if (size < 0) return Absent("readlink", path);
  target.resize(static_cast<size_t>(size));
  return target;
}

// OK when the name leads to something that is no link without leaving the directory.
absl::Status StaysInside(const std::string& directory, const std::string& command) {
  std::string name = command;
  for (int links = 0; links < kMaxLinks; ++links) {
    const std::string path = absl::StrCat(directory, "/", name);
    struct stat status = {};
    if (os::Lstat(path.c_str(), &status) != 0) return Absent("lstat", path);
    if (!S_ISLNK(status.st_mode)) return absl::OkStatus();
    const absl::StatusOr<std::string> target = LinkTarget(path);
    if (!target.ok()) return target.status();
    if (absl::StrContains(*target, '/')) {
      return absl::PermissionDeniedError(absl::StrCat(
          path, ": a symbolic link that leads out of the program directory, to ", *target));
    }
    name = *target;
  }
  return absl::PermissionDeniedError(
      absl::StrCat(directory, "/", command, ": more than ", kMaxLinks, " symbolic links"));
}

}  // namespace

absl::Status CheckProgramDirectory(const std::string& directory) {
  struct stat status = {};
  if (os::Stat(directory.c_str(), &status) != 0) return Absent("stat", directory);
  return OwnedSafely(directory, status);
}

absl::Status CheckProgram(const std::string& directory, const std::string& command,
                          bool allow_links) {
  const std::string path = absl::StrCat(directory, "/", command);
  struct stat status = {};
  if (os::Stat(path.c_str(), &status) != 0) return Absent("stat", path);
  if (!S_ISREG(status.st_mode)) {
    return absl::PermissionDeniedError(absl::StrCat(path, ": not a regular file"));
  }
  const absl::Status inside = allow_links ? absl::OkStatus() : StaysInside(directory, command);
  if (!inside.ok()) return inside;
  return OwnedSafely(path, status);
}

}  // namespace posthouse

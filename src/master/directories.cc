#include "posthouse/master/directories.h"

#include <errno.h>
#include <sys/stat.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "posthouse/config/accounts.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

struct Directory {
  std::string path;
  mode_t mode = 0700;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Mode and owner are complete before anybody else can use it: until chmod it is for root alone.
absl::Status MakeIfMissing(const Directory& directory, bool is_root) {
  const char* path = directory.path.c_str();
  if (os::Mkdir(path, 0700) != 0) {
    if (errno == EEXIST) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("mkdir ", directory.path));
  }
  if (is_root && os::Chown(path, directory.uid, directory.gid) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("chown ", directory.path));
  }
  if (os::Chmod(path, directory.mode) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("chmod ", directory.path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MakeMissingDirectories(const MasterConfiguration& configuration, bool is_root) {
  const uid_t owner = configuration.owner_uid;
  const gid_t group = configuration.owner_gid;
  gid_t public_group = group;
  if (is_root) {
    absl::StatusOr<GroupAccount> setgid_group =
        FindGroup(configuration.generic.setgid_group.value());
    if (!setgid_group.ok()) return setgid_group.status();
    public_group = setgid_group->gid;
  }
  for (const Directory& directory :
       {Directory{"pid", 0755, 0, 0}, Directory{"private", 0700, owner, group},
        Directory{"public", 0710, owner, public_group},
        Directory{configuration.generic.data_directory.value(), 0700, owner, group}}) {
    if (absl::Status status = MakeIfMissing(directory, is_root); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace posthouse

// EffectiveOwner makes files in the name of somebody else for the length of a scope: effective
// user, effective group and the list of supplementary groups (M56).
//
//   EffectiveOwner owner;
//   if (absl::Status status = owner.Become(options.owner); !status.ok()) return status;
//   ... bind, mkfifo, open, unlink: with the rights of mail_owner, and no more ...
//
// At the end of the scope the process is its real user and group again, and its list of groups is
// that group alone, which workers inherit; the list from before does not come back (M56).
//
// Thread: one; the identity belongs to the process. Fork: not inside the scope. Errors: Become()
// that fails undoes what it did. A way back that fails is a broken contract: nothing that root does
// afterwards would be right.

#ifndef POSTHOUSE_MASTER_EFFECTIVE_OWNER_H_
#define POSTHOUSE_MASTER_EFFECTIVE_OWNER_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <string>

#include "absl/status/status.h"

namespace posthouse {

// Whose the files are that a master makes. A master that is not root makes all in its own name.
struct FileOwner {
  bool change = false;  // false: as the process is
  uid_t uid = 0;
  gid_t gid = 0;
};

class EffectiveOwner {
 public:
  EffectiveOwner() = default;
  EffectiveOwner(const EffectiveOwner&) = delete;
  EffectiveOwner& operator=(const EffectiveOwner&) = delete;
  ~EffectiveOwner();

  // REQUIRES: at most once per object, and no other one has changed the identity.
  absl::Status Become(const FileOwner& owner);

 private:
  bool changed_ = false;
};

// Why a file that was opened by its name is not the present identity's alone: no regular file, more
// than one name, another owner, writable for others. Empty: it is. A file that has lost its name
// since, because another one took its place, still is.
std::string WhyNotOwn(const struct stat& file);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_EFFECTIVE_OWNER_H_

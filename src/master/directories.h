// The directories that a master works in, made when they are missing, so that a configuration of
// ten lines is enough: below the queue directory pid, private and public, and the data directory.
//
//   absl::Status status = MakeMissingDirectories(configuration, is_root);
//
// As root they get the owners and modes of the original's installation (M57): pid root 0755;
// private mail_owner 0700; public mail_owner, group setgid_group, 0710; the data directory
// mail_owner 0700. Otherwise all are of this user. What exists is left as it is.
//
// Thread: one. Errors: the call that failed and the directory. REQUIRES: the working directory is
// the queue directory.

#ifndef POSTHOUSE_MASTER_DIRECTORIES_H_
#define POSTHOUSE_MASTER_DIRECTORIES_H_

#include "absl/status/status.h"
#include "posthouse/master/configuration.h"

namespace posthouse {

absl::Status MakeMissingDirectories(const MasterConfiguration& configuration, bool is_root);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_DIRECTORIES_H_

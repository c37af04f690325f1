// Giving up what a worker does not need: the root directory, the groups, the superuser (S20).
//
//   absl::Status status = DropPrivileges({.root_directory = "/var/spool/postfix",
//                                         .account = "postfix"});
//
// Every step is checked, and at the end it is tried whether root can be regained (F58 to F61). With
// an account the process also gives up the kernel's ways back: on Linux the capability bounding set
// and the ambient set are emptied, and on Linux and FreeBSD no_new_privs is set, so a program run
// from here gains nothing from set-user-id bits. The other systems have neither.
//
// Errors: the call, the account or directory, and errno's text. After an error the process is half
// changed and must end. Thread, fork: before there are any.

#ifndef POSTHOUSE_SERVER_PRIVILEGES_H_
#define POSTHOUSE_SERVER_PRIVILEGES_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace posthouse {

struct Account {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
};

// kNotFound for an unknown name; kFailedPrecondition for one with user or group 0, which is no
// account to drop privileges to (F63); otherwise the error of the look-up.
absl::StatusOr<Account> FindUnprivilegedAccount(const std::string& name);

struct PrivilegePlan {
  std::string root_directory;  // -c; empty: no chroot
  std::string account;         // -u; empty: the ids stay as they are
};

// In the order of S20: look up, setgid, initgroups, chroot, chdir to "/", setuid, verification.
absl::Status DropPrivileges(const PrivilegePlan& plan);

}  // namespace posthouse

#endif  // POSTHOUSE_SERVER_PRIVILEGES_H_

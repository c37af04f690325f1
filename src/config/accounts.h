// The accounts that main.cf names (C63, F63): do they exist, are they unprivileged, are they
// different from each other?

#ifndef POSTHOUSE_CONFIG_ACCOUNTS_H_
#define POSTHOUSE_CONFIG_ACCOUNTS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace posthouse {

struct UserAccount {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
};
struct GroupAccount {
  std::string name;
  gid_t gid = 0;
};

// kNotFound when there is no such account; other errors are those of the look-up service.
absl::StatusOr<UserAccount> FindUser(const std::string& name);
absl::StatusOr<UserAccount> FindUserById(uid_t uid);
absl::StatusOr<GroupAccount> FindGroup(const std::string& name);
absl::StatusOr<GroupAccount> FindGroupById(gid_t gid);

// One sentence per violation, naming parameters and accounts; empty when all is well.
std::vector<std::string> AccountProblems(const std::string& mail_owner,
                                         const std::string& default_privs,
                                         const std::string& setgid_group);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_ACCOUNTS_H_

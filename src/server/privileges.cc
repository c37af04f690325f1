#include "posthouse/server/privileges.h"

#include <errno.h>
#include <unistd.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

// A password entry that is larger is refused: no account needs it.
constexpr size_t kMaxPasswordEntry = 1 << 20;

#if defined(__linux__)
// Capabilities are numbered from 0; the kernel answers EINVAL beyond its last one.
constexpr int kCapabilityNumbers = 64;

// While still root: afterwards the process may not change the set any more.
absl::Status EmptyCapabilitySets() {
  for (int capability = 0; capability < kCapabilityNumbers; capability++) {
    if (os::Prctl(PR_CAPBSET_READ, capability, 0, 0, 0) <= 0) continue;
    if (os::Prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("prctl(PR_CAPBSET_DROP, ", capability, ")"));
    }
  }
  // Kernels before 4.3 have no ambient set.
  if (os::Prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL) {
    return absl::ErrnoToStatus(errno, "prctl(PR_CAP_AMBIENT_CLEAR_ALL)");
  }
  return absl::OkStatus();
}

absl::Status ForbidNewPrivileges() {
  if (os::Prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return absl::ErrnoToStatus(errno, "prctl(PR_SET_NO_NEW_PRIVS)");
  }
  return absl::OkStatus();
}
#else
// There are no capabilities that a change of the account would leave.
absl::Status EmptyCapabilitySets() { return absl::OkStatus(); }

absl::Status ForbidNewPrivileges() {
#if defined(PROC_NO_NEW_PRIVS_CTL)
  int enable = PROC_NO_NEW_PRIVS_ENABLE;
  if (os::Procctl(P_PID, os::Getpid(), PROC_NO_NEW_PRIVS_CTL, &enable) != 0) {
    return absl::ErrnoToStatus(errno, "procctl(PROC_NO_NEW_PRIVS_CTL)");
  }
#endif
  return absl::OkStatus();
}
#endif

absl::Status SetGroups(const Account& account) {
  if (os::Setgid(account.gid) != 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("setgid(", account.gid, ") for account ", account.name));
  }
  if (os::Initgroups(account.name.c_str(), account.gid) != 0) {
    return absl::ErrnoToStatus(errno,
                               absl::StrCat("initgroups(", account.name, ", ", account.gid, ")"));
  }
  return absl::OkStatus();
}

absl::Status EnterJail(const std::string& directory) {
  if (os::Chroot(directory.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("chroot(", directory, ")"));
  }
  // Without this the working directory would still lie outside (F61).
  if (os::Chdir("/") != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("chdir(/) in the new root ", directory));
  }
  return absl::OkStatus();
}

absl::Status SetUser(const Account& account) {
  if (os::Setuid(account.uid) != 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("setuid(", account.uid, ") for account ", account.name));
  }
  return absl::OkStatus();
}

// A call that answered "done" is not proof (F59, F60).
absl::Status VerifyAccount(const Account& account) {
  if (os::Getuid() != account.uid || os::Geteuid() != account.uid || os::Getgid() != account.gid ||
      os::Getegid() != account.gid) {
    return absl::InternalError(absl::StrCat("the process did not become account ", account.name));
  }
  if (os::Setuid(0) == 0 || os::Geteuid() == 0) {
    return absl::InternalError(
        absl::StrCat("account ", account.name, " could regain root: setuid(0) succeeded"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Account> FindUnprivilegedAccount(const std::string& name) {
  std::vector<char> buffer(4096);
  passwd entry = {};
  passwd* result = nullptr;
  int error = 0;
  while ((error = os::GetpwnamR(name.c_str(), &entry, buffer.data(), buffer.size(), &result)) ==
             ERANGE &&
         buffer.size() < kMaxPasswordEntry) {
    buffer.resize(buffer.size() * 2);
  }
  if (error != 0) {
    return absl::ErrnoToStatus(error, absl::StrCat("looking up account ", name));
  }
  if (result == nullptr) return absl::NotFoundError(absl::StrCat("unknown account: ", name));
  Account account{name, entry.pw_uid, entry.pw_gid};
  if (account.uid == 0 || account.gid == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "account ", name, " is privileged: it has ", account.uid == 0 ? "user" : "group", " id 0"));
  }
  return account;
}

absl::Status DropPrivileges(const PrivilegePlan& plan) {
  Account account;
  const bool change_account = !plan.account.empty();
  absl::Status status;
  if (change_account) {
    absl::StatusOr<Account> found = FindUnprivilegedAccount(plan.account);
    if (!found.ok()) return found.status();
    account = *std::move(found);
    if (status = SetGroups(account); !status.ok()) return status;
  }
  if (!plan.root_directory.empty()) {
    if (status = EnterJail(plan.root_directory); !status.ok()) return status;
  }
  if (!change_account) return absl::OkStatus();
  if (status = EmptyCapabilitySets(); !status.ok()) return status;
  if (status = SetUser(account); !status.ok()) return status;
  if (status = ForbidNewPrivileges(); !status.ok()) return status;
  return VerifyAccount(account);
}

}  // namespace posthouse

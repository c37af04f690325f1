// Reading of master.cf: lines, fields and arguments (M30 to M45).
//
//   MasterCfOptions options;
//   options.default_process_limit = generic.default_process_limit.value();
//   absl::StatusOr<MasterCf> table = ParseMasterCf("/etc/postfix/master.cf", text, options);
//   for (const MasterCfEntry& entry : table->entries) ...
//
// A pure function of a text (F118). What a name means (ports, addresses, two names of one service)
// is for those who may ask the system. Every problem names the file and the first physical line of
// its entry (M32); all of them are reported, a bounded number one by one (CO4). Thread: any.

#ifndef POSTHOUSE_CONFIG_MASTER_CF_H_
#define POSTHOUSE_CONFIG_MASTER_CF_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace posthouse {

enum class ServiceType { kInet, kUnix, kFifo, kPass, kUnixDgram };

// As master.cf spells it: "inet", "unix", "fifo", "pass", "unix-dgram".
absl::string_view ServiceTypeName(ServiceType type);

struct MasterCfEntry {
  int line = 0;  // the first physical line
  std::string name;
  ServiceType type = ServiceType::kUnix;
  bool is_private = true;
  bool unprivileged = true;
  bool chroot = false;
  int wake_up_seconds = 0;           // 0: none (M36)
  bool wake_up_conditional = false;  // "?" (M88)
  int process_limit = 0;             // 0: none (M37)
  std::string command;               // a plain name (F115)
  std::vector<std::string> arguments;

  // "smtp inet": how messages call it.
  std::string Title() const;
};

struct MasterCfOptions {
  int default_process_limit = 100;  // default_process_limit, for "-"
  bool chroot_by_default = false;   // compatibility_level < 1 (M34)
  std::string disabled;             // master_service_disable (M39)
  // F105: a table without a single entry is what an editor leaves for a moment; it must be asked
  // for.
  bool allow_empty = false;
  // Oversights that the original accepts (MO1) are errors.
  bool strict = false;
};

struct MasterCf {
  std::vector<MasterCfEntry> entries;  // in file order, without disabled ones
  int disabled = 0;                    // how many were left out
  std::vector<std::string> warnings;
  std::vector<std::string> notes;  // information: defaults of old compatibility levels (M34)
};

// kInvalidArgument: one problem per line, "FILE, line 12: ...".
absl::StatusOr<MasterCf> ParseMasterCf(absl::string_view file, absl::string_view text,
                                       const MasterCfOptions& options);

// Where the endpoint of such an entry lies below the queue directory: "private/NAME" or
// "public/NAME" (M44). Not for inet.
std::string ServicePath(const MasterCfEntry& entry);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_MASTER_CF_H_

#include "posthouse/master/reload_outcome.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "posthouse/io/unique_fd.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

constexpr mode_t kFileMode = 0644;
constexpr mode_t kPermissions = 0777;
constexpr absl::string_view kMore = "... and more, see the log\n";

struct KindName {
  ReloadOutcome::Kind kind;
  absl::string_view name;
};
constexpr KindName kKindNames[] = {
    {ReloadOutcome::Kind::kStarted, "started"},
    {ReloadOutcome::Kind::kDone, "done"},
    {ReloadOutcome::Kind::kRefused, "refused"},
};

absl::Status CallError(absl::string_view call, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(call, " ", absl::CEscape(path)));
}

absl::Status Invalid(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("outcome of a reload: ", why));
}

absl::Status ParseFirstLine(absl::string_view line, ReloadOutcome* outcome) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  if (words.size() != 3) return Invalid("the first line has not three words");
  if (!absl::SimpleAtoi(words[0], &outcome->pid) || outcome->pid <= 0) {
    return Invalid("no process number");
  }
  if (!absl::SimpleAtoi(words[1], &outcome->begin_ns) || outcome->begin_ns < 0) {
    return Invalid("no time");
  }
  for (const KindName& known : kKindNames) {
    if (words[2] != known.name) continue;
    outcome->kind = known.kind;
    return absl::OkStatus();
  }
  return Invalid("an unknown word");
}

// Under any umask, and never one that is there already.
UniqueFd Create(const std::string& path) {
  const mode_t old_mask = os::Umask(~kFileMode & kPermissions);
  UniqueFd fd(
      os::Open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  const int error = errno;
  os::Umask(old_mask);
  errno = error;
  return fd;
}

absl::Status WriteAll(int fd, absl::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t size = os::Write(fd, text.data(), text.size());
    if (size < 0 && errno == EINTR) continue;
    if (size == 0) errno = EIO;
    if (size <= 0) return CallError("write", path);
    text.remove_prefix(static_cast<size_t>(size));
  }
  return absl::OkStatus();
}

absl::Status CheckFile(int fd, const std::string& path) {
  struct stat file = {};
  if (os::Fstat(fd, &file) != 0) return CallError("fstat", path);
  const std::string reason = WhyNotOwn(file);
  if (reason.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("file ", absl::CEscape(path), " is refused: ", reason));
}

// One byte more than a file can have, at most.
absl::StatusOr<std::string> ReadAll(int fd, const std::string& path) {
  std::string content(kMaxReloadOutcomeBytes + 1, '\0');
  size_t have = 0;
  while (have < content.size()) {
    const ssize_t size = os::Read(fd, &content[have], content.size() - have);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return CallError("read", path);
    if (size == 0) break;
    have += static_cast<size_t>(size);
  }
  content.resize(have);
  return content;
}

}  // namespace

std::string FormatReloadOutcome(const ReloadOutcome& outcome) {
  std::string content = absl::StrCat(outcome.pid, " ", outcome.begin_ns);
  for (const KindName& known : kKindNames) {
    if (known.kind == outcome.kind) absl::StrAppend(&content, " ", known.name, "\n");
  }
  for (const absl::string_view line : absl::StrSplit(outcome.text, '\n', absl::SkipEmpty())) {
    if (content.size() + line.size() + 1 + kMore.size() > kMaxReloadOutcomeBytes) {
      absl::StrAppend(&content, kMore);
      break;
    }
    absl::StrAppend(&content, line, "\n");
  }
  return content;
}

absl::StatusOr<ReloadOutcome> ParseReloadOutcome(absl::string_view content) {
  if (content.size() > kMaxReloadOutcomeBytes) return Invalid("it is too large");
  if (content.empty() || content.back() != '\n') return Invalid("it is not complete");
  const size_t end = content.find('\n');
  ReloadOutcome outcome;
  absl::Status status = ParseFirstLine(content.substr(0, end), &outcome);
  if (!status.ok()) return status;
  outcome.text = std::string(content.substr(end + 1));
  for (char& c : outcome.text) {
    if (c != '\n' && (c < ' ' || c > '~')) c = '?';
  }
  return outcome;
}

bool IsOutcomeFor(const ReloadOutcome& outcome, pid_t master, int64_t sent_ns, int64_t now_ns) {
  return outcome.kind != ReloadOutcome::Kind::kStarted && outcome.pid == master &&
         outcome.begin_ns >= sent_ns && outcome.begin_ns <= now_ns;
}

absl::Status WriteReloadOutcome(const std::string& path, const FileOwner& owner,
                                const ReloadOutcome& outcome) {
  const std::string content = FormatReloadOutcome(outcome);
  const std::string temporary = absl::StrCat(path, ".new");
  EffectiveOwner identity;
  if (absl::Status status = identity.Become(owner); !status.ok()) return status;
  // Of a master that was killed while it wrote; whoever has the lock is the only writer.
  if (os::Unlink(temporary.c_str()) != 0 && errno != ENOENT) return CallError("unlink", temporary);
  UniqueFd fd = Create(temporary);
  if (!fd.valid()) return CallError("create", temporary);
  absl::Status status = WriteAll(fd.get(), content, temporary);
  if (status.ok() && os::Rename(temporary.c_str(), path.c_str()) != 0) {
    status = CallError("rename to", path);
  }
  if (!status.ok()) os::Unlink(temporary.c_str());
  return status;
}

absl::StatusOr<ReloadOutcome> ReadReloadOutcome(const std::string& path, const FileOwner& owner) {
  EffectiveOwner identity;
  if (absl::Status status = identity.Become(owner); !status.ok()) return status;
  // Without blocking and without effect, should it be anything else than a file.
  UniqueFd fd(os::Open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0));
  if (!fd.valid()) return CallError("open", path);
  if (absl::Status status = CheckFile(fd.get(), path); !status.ok()) return status;
  absl::StatusOr<std::string> content = ReadAll(fd.get(), path);
  if (!content.ok()) return content.status();
  return ParseReloadOutcome(*content);
}

}  // namespace posthouse

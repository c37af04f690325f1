#include "tests/conformance/stock_instance.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tests/conformance/connection.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {
namespace {

namespace fs = std::filesystem;

constexpr char kStockDaemons[] = "/usr/lib/postfix/sbin";
constexpr char kCommands[] = "/usr/sbin/";
constexpr char kPostfixCommand[] = "/usr/sbin/postfix";
constexpr char kDebianMainCf[] = "/usr/share/postfix/main.cf.debian";
constexpr char kDebianMasterCf[] = "/usr/share/postfix/master.cf.dist";
constexpr absl::Duration kCommandBound = absl::Seconds(60);

// What the guard does once its standard input ends: the instance's processes are found as the test
// finds them, by their MAIL_CONFIG.
constexpr char kGuardScript[] =
    "trap '' INT TERM HUP\n"
    "read -r line\n"
    "for attempt in 1 2 3; do\n"
    "  for file in /proc/[0-9]*/environ; do\n"
    "    if grep -qzxF \"MAIL_CONFIG=$1/etc\" \"$file\" 2>/dev/null; then\n"
    "      pid=${file#/proc/}; kill -9 \"${pid%/environ}\"\n"
    "    fi\n"
    "  done\n"
    "done 2>/dev/null\n"
    "rm -rf \"$1\"\n";

// name type private unpriv chroot wakeup maxproc command: a mail system that delivers locally.
constexpr const char* kServices[] = {
    "pickup unix n - n 60 1 pickup",
    "cleanup unix n - n - 0 cleanup",
    // A reload can end the queue manager just after it took the news of a message; the next wake-up
    // tells its successor, by default after 300 s.
    "qmgr unix n - n 2 1 qmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "verify unix - - n - 1 verify",
    "flush unix n - n 1000? 0 flush",
    "proxymap unix - - n - - proxymap",
    "proxywrite unix - - n - 1 proxymap",
    "showq unix n - n - - showq",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    "discard unix - - n - - discard",
    "virtual unix - n n - - virtual",
    "anvil unix - - n - 1 anvil",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
};

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::trunc) << text;
}

// A file that changed within the last two seconds delays every reader (C8).
void MakeOld(const std::string& path) {
  timespec times[2] = {};
  clock_gettime(CLOCK_REALTIME, &times[0]);
  times[0].tv_sec -= 3600;
  times[1] = times[0];
  utimensat(AT_FDCWD, path.c_str(), times, 0);
}

// As the kernel's table has it: a connection made to find out would count with smtpd and anvil.
bool IsListening(int port) {
  std::ifstream table("/proc/self/net/tcp");
  std::string line;
  while (std::getline(table, line)) {
    for (const char* address : {"0100007F", "00000000"}) {
      const std::string wanted = absl::StrFormat("%s:%04X 00000000:0000 0A", address, port);
      if (line.find(wanted) != std::string::npos) return true;
    }
  }
  return false;
}

std::string ReadFile(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

int CountFiles(const std::string& directory) {
  int count = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_regular_file(ignored)) ++count;
  }
  return count;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StockInstance>> StockInstance::Create(
    const StockInstanceOptions& options) {
  if (geteuid() != 0) return absl::UnavailableError("a private Postfix needs root");
  if (access(kPostfixCommand, X_OK) != 0 || access(kStockDaemons, X_OK) != 0) {
    return absl::UnavailableError("Postfix is not installed");
  }
  BecomeSubreaper();
  std::unique_ptr<StockInstance> instance(new StockInstance);
  if (absl::Status status = instance->Prepare(options); !status.ok()) return status;
  return instance;
}

absl::Status StockInstance::Prepare(const StockInstanceOptions& options) {
  char scratch[] = "/tmp/posthouse.XXXXXX";  // Short: socket paths end at 107 bytes.
  if (mkdtemp(scratch) == nullptr) return absl::ErrnoToStatus(errno, "mkdtemp");
  directory_ = scratch;
  if (absl::Status status = StartGuard(); !status.ok()) return status;
  chmod(scratch, 0755);
  box_ = options.debian_configuration ? "nobody" : "box";
  if (absl::Status status = PrepareDirectories(); !status.ok()) return status;
  for (const fs::directory_entry& entry : fs::directory_iterator(kStockDaemons)) {
    absl::Status status = AddProgram(entry.path().filename(), entry.path());
    if (!status.ok()) return status;
  }
  if (!options.master_program.empty()) {
    absl::Status status = AddProgram("master", options.master_program);
    if (!status.ok()) return status;
  }

  // While postlogd does not run, programs without root's rights write to the file themselves.
  WriteFile(log_file(), "");
  chmod(log_file().c_str(), 0666);

  parameters_ = {
      {"queue_directory", queue_directory()},     {"data_directory", data_directory()},
      {"daemon_directory", directory_ + "/sbin"}, {"mail_owner", kMailOwner},
      {"maillog_file_prefixes", directory_},      {"maillog_file", log_file()},
      {"myhostname", "instance.example.test"},
  };
  if (getenv("ASAN_OPTIONS") != nullptr) {
    // The look for leaks at exit needs rights that an unprivileged process in a jail lacks.
    parameters_["import_environment"] =
        "MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C POSTLOG_SERVICE POSTLOG_HOSTNAME "
        "ASAN_OPTIONS=detect_leaks=0";
  }
  if (options.debian_configuration) return UseDebianConfiguration();
  UseOwnConfiguration();
  return absl::OkStatus();
}

absl::Status StockInstance::PrepareDirectories() {
  const passwd* owner = getpwnam(kMailOwner);
  if (owner == nullptr) return absl::UnavailableError("no account postfix");
  const uid_t owner_id = owner->pw_uid;
  const passwd* box = getpwnam("nobody");
  if (box == nullptr) return absl::UnavailableError("no account nobody");
  for (const std::string& name :
       {std::string("etc"), std::string("sbin"), std::string("spool"), std::string("data"),
        std::string("log"), std::string("mail"), "mail/" + box_}) {
    mkdir(absl::StrCat(directory_, "/", name).c_str(), 0755);
  }
  if (chown(data_directory().c_str(), owner_id, static_cast<gid_t>(-1)) != 0 ||
      chown(maildir().c_str(), box->pw_uid, box->pw_gid) != 0) {
    return absl::ErrnoToStatus(errno, "chown");
  }
  chmod(data_directory().c_str(), 0700);
  return absl::OkStatus();
}

void StockInstance::UseOwnConfiguration() {
  const passwd* box = getpwnam("nobody");
  smtp_port_ = FreePort();
  parameters_.insert({
      {"compatibility_level", "3.6"},
      {"mydestination", ""},
      {"inet_interfaces", "loopback-only"},
      {"inet_protocols", "ipv4"},
      {"mynetworks", "127.0.0.0/8"},
      {"smtpd_peername_lookup", "no"},
      {"smtp_dns_support_level", "disabled"},
      {"smtputf8_enable", "no"},
      {"alias_maps", ""},
      {"alias_database", ""},
      {"local_recipient_maps", ""},
      {"notify_classes", ""},
      // Nothing leaves the machine.
      {"default_transport", "error:this instance delivers to its own box only"},
      {"relay_transport", "error:this instance delivers to its own box only"},
      {"virtual_mailbox_domains", "box.example.test"},
      {"virtual_mailbox_base", directory_ + "/mail"},
      {"virtual_mailbox_maps", "static:box/"},
      {"virtual_uid_maps", absl::StrCat("static:", box->pw_uid)},
      {"virtual_gid_maps", absl::StrCat("static:", box->pw_gid)},
      {"smtpd_relay_restrictions", "permit_mynetworks, reject"},
  });
  for (const char* service : kServices) SetService(service);
  SetService(absl::StrCat("127.0.0.1:", smtp_port_, " inet n - n - - smtpd"));
  WriteMainCf();
}

absl::Status StockInstance::UseDebianConfiguration() {
  smtp_port_ = 25;
  for (const std::string& file : {std::string(kDebianMainCf), std::string(kDebianMasterCf)}) {
    if (access(file.c_str(), R_OK) != 0) return absl::UnavailableError("Debian has no " + file);
  }
  master_cf_ = ReadFile(kDebianMasterCf);
  for (absl::string_view line : absl::StrSplit(ReadFile(kDebianMainCf), '\n')) {
    const std::pair<std::string, std::string> setting =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    if (line.empty() || line[0] == '#' || setting.second.empty()) continue;
    parameters_[std::string(absl::StripAsciiWhitespace(setting.first))] =
        std::string(absl::StripAsciiWhitespace(setting.second));
  }
  const std::string aliases = config_directory() + "/aliases";
  parameters_.insert({
      // What Debian's installation asks for and adds.
      {"smtpd_relay_restrictions",
       "permit_mynetworks permit_sasl_authenticated defer_unauth_destination"},
      {"alias_maps", "hash:" + aliases},
      {"alias_database", "hash:" + aliases},
      {"mydestination", "$myhostname, localhost.localdomain, localhost"},
      {"relayhost", ""},
      {"mynetworks", "127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128"},
      {"mailbox_size_limit", "0"},
      {"recipient_delimiter", "+"},
      {"inet_interfaces", "all"},
      {"inet_protocols", "all"},
      // The boxes of the instance instead of those of the machine.
      {"mail_spool_directory", directory_ + "/mail/"},
  });
  WriteMainCf();
  WriteMasterCf();
  WriteFile(aliases, "postmaster: nobody\n");
  std::string said;
  if (Run({"postalias", "hash:" + aliases}, &said) != 0) return absl::InternalError(said);
  // As Debian's start script fills the jail.
  for (const char* name : {"services", "hosts", "nsswitch.conf", "localtime", "resolv.conf"}) {
    fs::create_directories(queue_directory() + "/etc");
    std::error_code absent;
    fs::copy_file(absl::StrCat("/etc/", name), absl::StrCat(queue_directory(), "/etc/", name),
                  absent);
  }
  return absl::OkStatus();
}

absl::Status StockInstance::StartGuard() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  UniqueFd input(ends[0]);
  guard_input_.Reset(ends[1]);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, input.get(), 0);
  posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  // A session of its own: what ends the test program by its process group spares the guard.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  char shell[] = "/bin/sh", command[] = "-c", name[] = "instance-guard";
  std::string script = kGuardScript;
  char* arguments[] = {shell, command, script.data(), name, directory_.data(), nullptr};
  char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
  char* environment[] = {path, nullptr};
  const int failed = posix_spawn(&guard_, shell, &files, &attributes, arguments, environment);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (failed != 0) return absl::ErrnoToStatus(failed, "posix_spawn of the guard");
  return absl::OkStatus();
}

StockInstance::~StockInstance() {
  if (MasterPid() > 0) Stop().IgnoreError();  // What is left is killed below.
  for (pid_t pid : Processes()) kill(pid, SIGKILL);
  AllGone(absl::Seconds(20));
  if (guard_ > 0) {
    kill(guard_, SIGKILL);
    waitpid(guard_, nullptr, 0);
  }
  std::error_code ignored;
  if (!directory_.empty()) fs::remove_all(directory_, ignored);
}

std::string StockInstance::private_socket(absl::string_view service) const {
  return absl::StrCat(queue_directory(), "/private/", service);
}

absl::Status StockInstance::AddProgram(const std::string& name, const std::string& path) {
  const std::string target = absl::StrCat(directory_, "/sbin/", name);
  std::error_code error;
  fs::remove(target, error);  // A running program cannot be overwritten.
  if (!fs::copy_file(path, target, error)) {
    return absl::InternalError(absl::StrCat("copy of ", path, ": ", error.message()));
  }
  if (chmod(target.c_str(), 0755) != 0) return absl::ErrnoToStatus(errno, "chmod " + target);
  return absl::OkStatus();
}

void StockInstance::SetParameter(const std::string& name, const std::string& value) {
  parameters_[name] = value;
  WriteMainCf();
}

void StockInstance::UnsetParameter(const std::string& name) {
  parameters_.erase(name);
  WriteMainCf();
}

void StockInstance::SetService(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
  services_[{words.at(0), words.at(1)}] = line;
  WriteMasterCf();
}

void StockInstance::RemoveService(absl::string_view name, absl::string_view type) {
  services_.erase({std::string(name), std::string(type)});
  WriteMasterCf();
}

void StockInstance::LeaveOnlyPostlog() {
  for (auto service = services_.begin(); service != services_.end();) {
    service = service->first.first == "postlog" ? std::next(service) : services_.erase(service);
  }
  smtp_port_ = 0;
  WriteMasterCf();
}

void StockInstance::WriteMainCf() const {
  std::string text;
  for (const auto& [name, value] : parameters_) absl::StrAppend(&text, name, " = ", value, "\n");
  const std::string path = config_directory() + "/main.cf";
  WriteFile(path, text);
  MakeOld(path);
}

void StockInstance::WriteMasterCf() const {
  std::string text = master_cf_;
  for (const auto& [key, line] : services_) absl::StrAppend(&text, line, "\n");
  WriteFile(config_directory() + "/master.cf", text);
}

int StockInstance::Run(const std::vector<std::string>& command, std::string* said,
                       const std::string& input) {
  // env(1) gives the one variable to commands that take no -c.
  std::vector<std::string> words = {"/usr/bin/env", "MAIL_CONFIG=" + config_directory()};
  const bool has_path = absl::StrContains(command.at(0), '/');
  words.push_back(has_path ? command[0] : kCommands + command[0]);
  words.insert(words.end(), command.begin() + 1, command.end());
  const std::string output = directory_ + "/log/command";
  fs::remove(output);
  const int status = RunCommand(words, output, kCommandBound, input);
  if (said != nullptr) absl::StrAppend(said, ReadFile(output));
  return status;
}

int StockInstance::Postfix(const std::string& command) {
  return Run({"postfix", "-c", config_directory(), command});
}

absl::Status StockInstance::MustPostfix(const std::string& command) {
  std::string said;
  const int status = Run({"postfix", "-c", config_directory(), command}, &said);
  if (status == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("postfix ", command, ": status ", status, "\n", said, Log()));
}

absl::Status StockInstance::Start() {
  if (absl::Status status = MustPostfix("start"); !status.ok()) return status;
  if (smtp_port_ == 0) return absl::OkStatus();
  if (!Eventually(kCommandBound, [&] { return IsListening(smtp_port_); })) {
    return absl::DeadlineExceededError("smtpd does not listen\n" + Log());
  }
  return absl::OkStatus();
}

absl::Status StockInstance::Reload() {
  const size_t mark = LogMark();
  if (absl::Status status = MustPostfix("reload"); !status.ok()) return status;
  return WaitForLog("master\\[[0-9]+\\]: reload -- version", kCommandBound, mark).status();
}

absl::Status StockInstance::Stop() {
  if (absl::Status status = MustPostfix("stop"); !status.ok()) return status;
  if (!AllGone(kCommandBound)) return absl::DeadlineExceededError("processes are left after stop");
  return absl::OkStatus();
}

bool StockInstance::AllGone(absl::Duration bound) const {
  const bool gone = Eventually(bound, [&] { return Processes().empty(); });
  // Orphans came to us when the master ended; their environment does not tell any more.
  for (pid_t pid : Children()) {
    if (pid != guard_) Reap(pid);
  }
  return gone;
}

pid_t StockInstance::MasterPid() const {
  std::ifstream file(queue_directory() + "/pid/master.pid");
  pid_t pid = 0;
  if (!(file >> pid)) return 0;
  return EnvironmentVariable(pid, "MAIL_CONFIG") == config_directory() ? pid : 0;
}

std::string StockInstance::Log() const { return ReadFile(log_file()); }

size_t StockInstance::LogMark() const { return Log().size(); }

std::vector<std::string> StockInstance::LogLines(const std::string& pattern, size_t mark) const {
  const std::regex expression(pattern);
  const std::string log = Log();
  const absl::string_view rest = absl::string_view(log).substr(std::min(mark, log.size()));
  std::vector<std::string> lines;
  for (absl::string_view line : absl::StrSplit(rest, '\n')) {
    if (std::regex_search(line.begin(), line.end(), expression)) lines.emplace_back(line);
  }
  return lines;
}

absl::StatusOr<std::string> StockInstance::WaitForLog(const std::string& pattern,
                                                      absl::Duration bound, size_t mark) const {
  std::vector<std::string> lines;
  if (Eventually(bound, [&] { return !(lines = LogLines(pattern, mark)).empty(); })) {
    return lines.front();
  }
  return absl::DeadlineExceededError(
      absl::StrCat("no log line matches '", pattern, "' in:\n", Log().substr(mark)));
}

std::vector<std::string> StockInstance::Complaints(const std::vector<std::string>& expected,
                                                   size_t mark) const {
  std::vector<std::string> complaints;
  for (const std::string& line : LogLines("\\]: (warning|error|fatal|panic): ", mark)) {
    bool known = false;
    for (const std::string& pattern : expected) {
      known |= std::regex_search(line, std::regex(pattern));
    }
    if (!known) complaints.push_back(line);
  }
  return complaints;
}

std::vector<pid_t> StockInstance::Processes() const {
  std::vector<pid_t> found;
  for (pid_t pid : AllProcesses()) {
    if (EnvironmentVariable(pid, "MAIL_CONFIG") == config_directory()) found.push_back(pid);
  }
  return found;
}

std::vector<pid_t> StockInstance::Processes(absl::string_view program) const {
  std::vector<pid_t> found;
  for (pid_t pid : Processes()) {
    std::error_code ignored;
    const fs::path executable = fs::read_symlink(absl::StrCat("/proc/", pid, "/exe"), ignored);
    if (executable == absl::StrCat(directory_, "/sbin/", program)) found.push_back(pid);
  }
  return found;
}

int StockInstance::MailCount() const { return CountFiles(maildir() + "/new"); }

int StockInstance::QueueCount() const {
  int count = 0;
  for (const char* queue : {"maildrop", "incoming", "active", "deferred", "hold", "corrupt"}) {
    count += CountFiles(absl::StrCat(queue_directory(), "/", queue));
  }
  return count;
}

std::string Runfile(absl::string_view path) {
  // Bazel starts a test in its runfiles directory; the absolute path survives a change of it.
  return fs::absolute(std::string(path)).string();
}

}  // namespace posthouse::conformance

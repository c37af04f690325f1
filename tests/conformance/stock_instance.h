// StockInstance is a private Postfix made of the stock programs of this machine, in a scratch
// directory of its own: configuration, queue, data, mailboxes, log and a daemon directory with
// copies of the stock programs, so that our programs can stand beside or instead of them. An smtpd
// listens on a free loopback port; mail to any user at box.example.test ends in one maildir;
// nothing leaves the machine; the system's own Postfix is never touched.
//
//   absl::StatusOr<std::unique_ptr<StockInstance>> instance = StockInstance::Create();
//   (*instance)->AddProgram("policyd", path);
//   (*instance)->SetService("policy unix - n n - 0 policyd");
//   (*instance)->Start();
//   (*instance)->WaitForLog("policyd\\[[0-9]+\\]: ready", absl::Seconds(10));
//
// Destroying it stops the instance, kills what is left of it and removes the directory. A guard
// process does the same if the test program dies before.
//
// Errors: kUnavailable when the machine has no Postfix or the caller is not root (tests skip then);
// otherwise what the commands said. Thread: one; log, mail and process look-ups may be used from
// several.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_STOCK_INSTANCE_H_
#define POSTHOUSE_TESTS_CONFORMANCE_STOCK_INSTANCE_H_

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "posthouse/io/unique_fd.h"
#include "tests/conformance/processes.h"

namespace posthouse::conformance {

struct StockInstanceOptions {
  // Stands in the place of the stock master; empty: the stock one.
  std::string master_program;
  // Debian's own main.cf and master.cf as they are, with its chroot columns and what its start
  // script copies into the jail. smtpd then listens on port 25 of every address, so enter a private
  // network first; mail to a system account at instance.example.test ends in a maildir of it.
  bool debian_configuration = false;
};

class StockInstance {
 public:
  static absl::StatusOr<std::unique_ptr<StockInstance>> Create(
      const StockInstanceOptions& options = {});
  ~StockInstance();
  StockInstance(const StockInstance&) = delete;
  StockInstance& operator=(const StockInstance&) = delete;

  const std::string& directory() const { return directory_; }
  std::string config_directory() const { return directory_ + "/etc"; }
  std::string queue_directory() const { return directory_ + "/spool"; }
  std::string data_directory() const { return directory_ + "/data"; }
  std::string log_file() const { return directory_ + "/log/maillog"; }
  // Where the smtpd of master.cf listens on 127.0.0.1.
  int smtp_port() const { return smtp_port_; }
  // The socket of a private service.
  std::string private_socket(absl::string_view service) const;

  // --- Configuration; written to disk at once, read by Postfix at Start() and Reload() ---

  // Copies a program into the daemon directory under `name`; one of that name is replaced.
  absl::Status AddProgram(const std::string& name, const std::string& path);
  void SetParameter(const std::string& name, const std::string& value);
  void UnsetParameter(const std::string& name);
  // A line of master.cf; it replaces the one with the same name and type.
  void SetService(const std::string& line);
  void RemoveService(absl::string_view name, absl::string_view type);
  // Without the mail system: what is left does nothing but write the log.
  void LeaveOnlyPostlog();

  // --- Life ---

  // Returns when the master has initialised and listens on smtpd's port, if that is a service.
  absl::Status Start();
  // Returns when the master has noticed; it may still be making the sockets of new services, and
  // old workers may still be ending.
  absl::Status Reload();
  // Returns when the last process of the instance is gone.
  absl::Status Stop();
  // 0 when it does not run.
  pid_t MasterPid() const;
  // postfix COMMAND: its exit status, -1 when it took too long. Waits for nothing else.
  int Postfix(const std::string& command);
  // Any command of Postfix, such as {"postqueue", "-p"}, or a program by its path; it finds this
  // instance by its environment. What it says is added to `said`.
  int Run(const std::vector<std::string>& command, std::string* said = nullptr,
          const std::string& input = "/dev/null");

  // --- Watching ---

  std::string Log() const;
  // A place in the log, for the functions below.
  size_t LogMark() const;
  // The first line after `mark` in which the regular expression (ECMAScript) occurs.
  absl::StatusOr<std::string> WaitForLog(const std::string& pattern, absl::Duration bound,
                                         size_t mark = 0) const;
  std::vector<std::string> LogLines(const std::string& pattern, size_t mark = 0) const;
  // Lines that a healthy run does not have (D97): every "warning", "error", "fatal" and "panic",
  // but for those that one of the expressions in `expected` matches.
  std::vector<std::string> Complaints(const std::vector<std::string>& expected = {},
                                      size_t mark = 0) const;

  // The processes of this instance: those that carry its configuration in their environment.
  std::vector<pid_t> Processes() const;
  // Those of them that run `program` of the daemon directory.
  std::vector<pid_t> Processes(absl::string_view program) const;

  // Messages that were delivered into the maildir, and their files.
  int MailCount() const;
  std::string maildir() const { return directory_ + "/mail/" + box_; }
  // Messages in the queue.
  int QueueCount() const;

  // Who gets the box's mail and who policyd and the like run as.
  static constexpr char kMailOwner[] = "postfix";

 private:
  StockInstance() = default;
  absl::Status Prepare(const StockInstanceOptions& options);
  absl::Status PrepareDirectories();
  void UseOwnConfiguration();
  absl::Status UseDebianConfiguration();
  absl::Status StartGuard();
  void WriteMainCf() const;
  void WriteMasterCf() const;
  absl::Status MustPostfix(const std::string& command);
  bool AllGone(absl::Duration bound) const;

  std::string directory_;
  std::string box_;  // the maildir's name
  int smtp_port_ = 0;
  std::map<std::string, std::string> parameters_;
  std::string master_cf_;  // as it is, before services_
  std::map<std::pair<std::string, std::string>, std::string> services_;  // (name, type) to line
  pid_t guard_ = 0;
  UniqueFd guard_input_;
};

// Where Bazel put a program of this repository, given as "examples/echo/echo".
std::string Runfile(absl::string_view path);

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_STOCK_INSTANCE_H_

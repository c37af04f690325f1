#include "tests/conformance/postconf/stock_tools.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"

namespace posthouse::conformance {
namespace {

// A refused configuration costs a stock daemon a second of waiting, so many wait together.
constexpr size_t kAtATime = 24;
constexpr char kTimeBound[] = "50";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

pid_t Start(const Job& job, const std::string& output, const std::string& errors) {
  std::vector<std::string> command = {"/usr/bin/timeout", "-s", "KILL", kTimeBound};
  command.insert(command.end(), job.command.begin(), job.command.end());
  std::vector<std::string> environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"};
  environment.insert(environment.end(), job.environment.begin(), job.environment.end());
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  constexpr int kMake = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&files, 1, output.c_str(), kMake, 0644);
  posix_spawn_file_actions_addopen(&files, 2, errors.c_str(), kMake, 0644);
  pid_t pid = -1;
  if (posix_spawn(&pid, command[0].c_str(), &files, nullptr, Pointers(command).data(),
                  Pointers(environment).data()) != 0) {
    pid = -1;
  }
  posix_spawn_file_actions_destroy(&files);
  return pid;
}

}  // namespace

std::vector<Outcome> RunAll(const std::vector<Job>& jobs, const std::string& scratch) {
  std::vector<Outcome> outcomes(jobs.size());
  std::vector<pid_t> pids(jobs.size(), -1);
  const auto path = [&](size_t index, const char* what) {
    return absl::StrCat(scratch, "/", what, index % kAtATime);
  };
  for (size_t next = 0; next < jobs.size() + kAtATime; ++next) {
    if (next >= kAtATime && next - kAtATime < jobs.size()) {
      const size_t done = next - kAtATime;
      int status = 0;
      if (pids[done] > 0 && waitpid(pids[done], &status, 0) == pids[done]) {
        // timeout(1) tells of a signal as the shell does, or dies of it itself.
        const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        outcomes[done].status = code > 128 ? 128 - code : code;
        outcomes[done].output = ReadFile(path(done, "out"));
        outcomes[done].errors = ReadFile(path(done, "err"));
      }
    }
    if (next < jobs.size()) pids[next] = Start(jobs[next], path(next, "out"), path(next, "err"));
  }
  return outcomes;
}

StockTools::StockTools(std::string scratch) : scratch_(std::move(scratch)) {
  for (const char* directory : {"/spool", "/spool/pid", "/data", "/runs"}) {
    mkdir(absl::StrCat(scratch_, directory).c_str(), 0755);
  }
}

std::string StockTools::MakeConfiguration(absl::string_view main_cf) {
  const std::string directory = absl::StrCat(scratch_, "/config", ++directories_);
  mkdir(directory.c_str(), 0755);
  std::ofstream(directory + "/master.cf").flush();
  const std::string path = directory + "/main.cf";
  std::ofstream(path, std::ios::binary) << main_cf;
  const timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  utimensat(AT_FDCWD, path.c_str(), long_ago, 0);
  return directory;
}

absl::optional<std::vector<std::string>> StockTools::Postconf(
    const std::string& directory, const std::string& options,
    const std::vector<std::string>& names) {
  Job job = {{kStockPostconf, "-c", directory, options}, {}};
  job.command.insert(job.command.end(), names.begin(), names.end());
  const Outcome outcome = RunAll({job}, scratch_ + "/runs").front();
  std::vector<std::string> lines = absl::StrSplit(outcome.output, '\n');
  lines.pop_back();  // What stands behind the last newline: nothing.
  if (outcome.status != 0 || lines.size() != names.size()) return absl::nullopt;
  return lines;
}

std::string StockTools::WithSmtpdSettings(absl::string_view main_cf,
                                          absl::string_view banner) const {
  return absl::StrCat(main_cf,
                      "\n"
                      "compatibility_level = 3.6\n"
                      "smtputf8_enable = no\n"
                      "inet_interfaces = loopback-only\n"
                      "mynetworks = 127.0.0.0/8\n"
                      "local_recipient_maps =\n"
                      "alias_maps =\n"
                      "smtpd_client_connection_count_limit = 0\n"
                      "smtpd_client_connection_rate_limit = 0\n"
                      "data_directory = ",
                      scratch_, "/data\nqueue_directory = ", scratch_,
                      "/spool\nsmtpd_banner = ", banner, "\n");
}

std::vector<absl::optional<std::string>> StockTools::Banners(
    const std::vector<std::string>& main_cfs) {
  std::vector<Job> jobs;
  for (const std::string& main_cf : main_cfs) {
    jobs.push_back(
        {{kStockSmtpd, "-S"}, {absl::StrCat("MAIL_CONFIG=", MakeConfiguration(main_cf))}});
  }
  std::vector<absl::optional<std::string>> banners;
  for (const Outcome& outcome : RunAll(jobs, scratch_ + "/runs")) {
    absl::string_view line = absl::string_view(outcome.output);
    line = line.substr(0, line.find("\r\n"));
    if (absl::ConsumePrefix(&line, "220 ")) {
      banners.push_back(std::string(line));
    } else {
      banners.push_back(absl::nullopt);
    }
  }
  return banners;
}

}  // namespace posthouse::conformance

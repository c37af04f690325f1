// One configuration under the stock master and under ours: what every kind of worker inherits, what
// lies in the directories, and what a wake-up sends, compared as text. Whatever differs and is not
// in the list of intended differences fails. (M44-M58, M63-M66, M84-M88, P1-P12, P66.)

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/conformance/conformance_test.h"
#include "tests/conformance/master_program.h"
#include "tests/conformance/private_network.h"

namespace posthouse::conformance {
namespace {

namespace fs = std::filesystem;

// --- Intended differences: what matches is replaced before lines are compared ---

struct Intended {
  const char* pattern;
  const char* replacement;
  const char* why;
};
constexpr Intended kIntended[] = {
    {"^time [0-9]+$", "", "a reading of the clock"},
    {"^(options 5 .* sndbuf)=[0-9]+", "$1", "our status channel holds more unread messages (P19)"},
    {"^(stat 6 mode=10622 .* flags)=5(04002)", "$1=1$2",
     "we open a fifo without following a symbolic link (M24); nothing else depends on the flag"},
};

// How often the master has written into a fifo before its worker reads is a matter of time.
std::string OneWakeUp(const std::string& request) {
  return std::regex_replace(request, std::regex("^(57)+$"), "57 at least once");
}

// --- The configuration ---

struct Row {
  std::string line;
  // How a client reaches it: a path under the queue directory, or an address and a port.
  std::string path;
  std::string address;
  int port = 0;

  std::vector<std::string> words() const {
    return absl::StrSplit(line, ' ', absl::SkipWhitespace());
  }
  std::string type() const { return words().at(1); }
  // As the worker learns it, without what a file name cannot hold.
  std::string name() const { return absl::StrReplaceAll(words().at(0), {{"/", "_"}}); }
};

std::vector<Row> Rows() {
  return {
      {"probe unix - - n - - probe", "private/probe"},
      {"public unix n - n - 1 probe", "public/public"},
      {"no-limit unix - - n - 0 probe", "private/no-limit"},
      {"jail unix - - y - 5 probe one two", "private/jail"},
      {"root unix - n n - 2 probe", "private/root"},
      {"root-jail unix - n y - 2 probe -o first=1 -o second=2", "private/root-jail"},
      {"braces unix - - n - 2 probe -o { name = a b  c } -o x={y z} { } {two  words} $name 'q q'",
       "private/braces"},
      {"verbose unix - - n - 3 probe -v -v", "private/verbose"},
      {"large unix - - n - 3000 probe", "private/large"},
      {"fifo fifo n - n - 1 probe", "public/fifo"},
      {"private-fifo fifo - - y - - probe", "private/private-fifo"},
      {"dgram unix-dgram n - n - 1 probe", "public/dgram"},
      {"private-dgram unix-dgram - n n - 0 probe", "private/private-dgram"},
      {"pass pass - - n - 3 probe", "private/pass"},
      {"public-pass pass n - n - 1 probe", "public/public-pass"},
      {"unlimited-pass pass n - n - 0 probe", "public/unlimited-pass"},
      // All addresses of inet_interfaces, by number and by name of the port.
      {"2001 inet n - n - - probe", "", "127.0.0.1", 2001},
      {"smtp inet n - y - 1 probe", "", "127.0.0.1", 25},
      {"[127.0.0.1]:2002 inet n - n - 4 probe", "", "127.0.0.1", 2002},
      {"127.0.0.1:2003 inet n n n - 4 probe", "", "127.0.0.1", 2003},
      {"localhost:2004 inet n - n - 4 probe", "", "127.0.0.1", 2004},
      {"[::1]:2005 inet n - n - 0 probe", "", "::1", 2005},
      // Clients may be remote: the stress parameter.
      {"192.0.2.1:2006 inet n - n - 4 probe", "", kPrivateNetworkAddress, 2006},
      {"192.0.2.1:2007 inet n - n - 1 probe", "", kPrivateNetworkAddress, 2007},
      {":2008 inet n - n - 7 probe three", "", "127.0.0.1", 2008},
  };
}

// Woken by the master itself.
std::vector<Row> WakeUpRows() {
  return {
      {"wake unix n - n 1 1 probe", "public/wake"},
      {"wake-private unix - - n 1 - probe", "private/wake-private"},
      {"wake-fifo fifo n - n 1 1 probe", "public/wake-fifo"},
      {"wake-pass pass n - n 1 1 probe", "public/wake-pass"},
      {"2101 inet n - n 1 1 probe", "", "127.0.0.1", 2101},
      {"127.0.0.1:2102 inet n - n 1 1 probe", "", "127.0.0.1", 2102},
  };
}

std::string ReadFile(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::vector<std::string> Lines(const std::string& text) { return absl::StrSplit(text, '\n'); }

class Inheritance : public ConformanceTest {
 protected:
  void SetUp() override {
    if (const absl::Status status = EnterPrivateNetwork(); !status.ok()) {
      ASSERT_NE(geteuid(), 0u) << status;
      GTEST_SKIP() << status;
    }
  }

  // Everything that is compared, of one master.
  void Dump(const MasterProgram& master, std::string* dump) {
    ASSERT_NO_FATAL_FAILURE(StartMaster(master, {}, true));
    ASSERT_NO_FATAL_FAILURE(DumpStart(dump));
    ASSERT_NO_FATAL_FAILURE(DumpReload(dump));
    DumpFiles("stopped", dump);
    Finish(dump);
  }

  // Without a log: the stock master that says much stands still while postlogd does not run.
  void DumpVerbose(const MasterProgram& master, std::string* dump) {
    ASSERT_NO_FATAL_FAILURE(StartMaster(master, {"-v"}, false));
    ASSERT_NO_FATAL_FAILURE(DumpStart(dump));
    Finish(dump);
  }

  void StartMaster(const MasterProgram& master, const std::vector<std::string>& options,
                   bool with_log) {
    master_ = master;
    ConformanceTest::SetUp();
    ASSERT_NE(instance_, nullptr);
    Install("probe", "tests/conformance/inheritance_probe");
    instance_->SetParameter("inet_interfaces", "all");
    instance_->SetParameter("inet_protocols", "all");
    instance_->SetParameter("import_environment",
                            "MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ=UTC LANG=C POSTLOG_SERVICE "
                            "POSTLOG_HOSTNAME PROBE_SET=a=b PROBE_EMPTY= PROBE_UNSET");
    instance_->LeaveOnlyPostlog();
    with_log_ = with_log;
    if (!with_log) {
      instance_->UnsetParameter("maillog_file");
      instance_->RemoveService("postlog", "unix-dgram");
    }
    for (const Row& row : Rows()) instance_->SetService(row.line);
    mkdir((instance_->queue_directory() + "/dump").c_str(), 0755);
    // What the commands of Postfix make and our bare start does not.
    ASSERT_EQ(instance_->Postfix("check"), 0) << instance_->Log();
    std::vector<std::string> words = {instance_->directory() + "/sbin/master", "-w"};
    words.insert(words.end(), options.begin(), options.end());
    std::string said;
    ASSERT_EQ(instance_->Run(words, &said), 0) << said << instance_->Log();
  }

  void DumpStart(std::string* dump) {
    DumpWorkers(Rows(), "started", dump);
    DumpFiles("running", dump);
  }

  void DumpReload(std::string* dump) {
    // An entry that is changed, one that is gone, one that is new.
    const Row changed = {"root unix - - y - 1 probe changed", "private/root"};
    const Row added = {"added unix n - n - 1 probe", "public/added"};
    instance_->SetService(changed.line);
    instance_->SetService(added.line);
    instance_->RemoveService("public", "unix");
    const std::vector<pid_t> old = instance_->Processes("probe");
    Reload();
    for (const pid_t pid : old) ASSERT_TRUE(Gone(pid));
    std::vector<Row> rows = Rows();
    rows.erase(rows.begin() + 1);
    ASSERT_EQ(rows[3].name(), "root");
    rows[3] = changed;
    rows.push_back(added);
    DumpWorkers(rows, "reloaded", dump);
    DumpFiles("reloaded", dump);

    // The master's own wake-ups.
    for (const Row& row : WakeUpRows()) instance_->SetService(row.line);
    Reload();
    DumpWakeUps(dump);
    ASSERT_EQ(instance_->Stop(), absl::OkStatus());
  }

  void Finish(std::string* dump) {
    TearDown();
    // For a reader of the test's outputs.
    const char* outputs = getenv("TEST_UNDECLARED_OUTPUTS_DIR");
    if (outputs != nullptr) std::ofstream(absl::StrCat(outputs, "/", master_.name)) << *dump;
  }

  StockInstanceOptions Options() const override { return {.master_program = master_.path}; }

  void Reach(const Row& row) {
    const std::string path = instance_->queue_directory() + "/" + row.path;
    const std::string request("hello\0", 6);
    if (row.type() == "fifo") {
      const UniqueFd fifo(open(path.c_str(), O_WRONLY | O_CLOEXEC));
      EXPECT_EQ(write(fifo.get(), request.data(), request.size()), 6);
    } else if (row.type() == "unix-dgram") {
      SendDatagram(path, request);
    } else {
      absl::StatusOr<Connection> client =
          row.path.empty()
              ? (row.address == "::1" ? Connection::Tcp6(row.port)
                                      : Connection::Tcp(row.port, row.address, row.address))
              : Connection::Unix(path);
      ASSERT_EQ(client.status(), absl::OkStatus()) << row.line;
      if (row.type() == "pass") {
        Pass(*client, request);
      } else {
        ASSERT_EQ(client->Write(request), absl::OkStatus());
      }
      EXPECT_TRUE(client->ClosedWithin(kBound)) << row.line << instance_->Log();
    }
  }
  static void SendDatagram(const std::string& path, const std::string& request) {
    const UniqueFd sender(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un to = {};
    to.sun_family = AF_UNIX;
    ASSERT_LT(path.size(), sizeof to.sun_path);
    memcpy(to.sun_path, path.c_str(), path.size());
    EXPECT_EQ(sendto(sender.get(), request.data(), request.size(), 0,
                     reinterpret_cast<const sockaddr*>(&to), sizeof to),
              6);
  }
  static void Pass(Connection& client, const std::string& request) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd read_end(ends[0]), write_end(ends[1]);
    ASSERT_EQ(write(write_end.get(), request.data(), request.size()), 6);
    ASSERT_EQ(client.PassDescriptor(read_end.get(), ""), absl::OkStatus());
    client.ClosedWithin(kBound);
  }

  // The one file of the service's worker that has not been taken yet.
  std::string Await(const Row& row, const std::string& suffix) {
    std::string found;
    const std::regex wanted("[^/]*-[0-9]+" + suffix);
    EXPECT_TRUE(Eventually(
        kBound,
        [&] {
          for (const fs::directory_entry& entry :
               fs::directory_iterator(instance_->queue_directory() + "/dump")) {
            const std::string name = entry.path().filename();
            if (!absl::StartsWith(name, row.name() + "-") || !std::regex_match(name, wanted))
              continue;
            // "wake-fifo-17" is not of "wake".
            if (name.substr(row.name().size() + 1).find_first_not_of("0123456789") <
                name.size() - row.name().size() - 1 - suffix.size()) {
              continue;
            }
            found = entry.path();
            return true;
          }
          return false;
        }))
        << row.line << "\n"
        << instance_->Log();
    const std::string text = found.empty() ? "" : ReadFile(found);
    if (!found.empty()) fs::remove(found);
    return text;
  }

  // Afterwards postlogd runs, and takes no generation in the middle of the others.
  void StartPostlogd(const std::string& line) {
    ASSERT_EQ(instance_->Run({"postlog", "-t", "test", "-p", "info", line}), 0);
    ASSERT_EQ(instance_->WaitForLog(": " + line + "$", kBound).status(), absl::OkStatus());
    ASSERT_TRUE(Runs("postlogd", 1));
  }

  void DumpWorkers(const std::vector<Row>& rows, const std::string& phase, std::string* dump) {
    if (with_log_) StartPostlogd("to be " + phase);
    int64_t first_generation = 0;
    for (const Row& row : rows) {
      Reach(row);
      const std::string facts = Await(row, "");
      ASSERT_NE(facts, "") << row.line;
      for (std::string line : Normalised(facts)) {
        absl::string_view generation = line;
        if (absl::ConsumePrefix(&generation, "environment GENERATION=")) {
          // How many postlogd has taken before is a matter of time.
          const int64_t number = strtol(std::string(generation).c_str(), nullptr, 8);
          if (first_generation == 0) first_generation = number;
          line = absl::StrCat("generation ", number - first_generation, " after the first one");
        }
        absl::StrAppend(dump, phase, " ", row.name(), ": ", line, "\n");
      }
      absl::StrAppend(dump, phase, " ", row.name(), ": request ", Await(row, "\\.request"), "\n");
    }
  }

  void DumpWakeUps(std::string* dump) {
    for (const Row& row : WakeUpRows()) {
      for (std::string line : Normalised(Await(row, ""))) {
        // They come in the order of the master's events.
        if (absl::StartsWith(line, "environment GENERATION=")) continue;
        absl::StrAppend(dump, "woken ", row.name(), ": ", line, "\n");
      }
      absl::StrAppend(dump, "woken ", row.name(), ": request ", OneWakeUp(Await(row, "\\.request")),
                      "\n");
    }
  }

  // Names, types, modes and owners of what is in the directories that the master fills.
  void DumpFiles(const std::string& phase, std::string* dump) {
    std::vector<std::string> lines;
    for (const std::string& directory :
         {instance_->queue_directory() + "/private", instance_->queue_directory() + "/public",
          instance_->queue_directory() + "/pid", instance_->data_directory()}) {
      for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
        // An intended difference: ours tells there how a reload went (F100).
        if (entry.path().filename() == "master.reload") continue;
        struct stat file;
        if (lstat(entry.path().c_str(), &file) != 0) continue;
        lines.push_back(absl::StrFormat("%s files: %s mode=%o uid=%d gid=%d links=%d size=%d",
                                        phase, entry.path().string(), file.st_mode, file.st_uid,
                                        file.st_gid, file.st_nlink, file.st_size));
        if (S_ISREG(file.st_mode)) {
          lines.push_back(absl::StrCat(phase, " content: ", entry.path().string(), " '",
                                       Pids(ReadFile(entry.path())), "'"));
        }
      }
    }
    std::sort(lines.begin(), lines.end());
    for (const std::string& line : lines) {
      absl::StrAppend(dump, absl::StrReplaceAll(line, {{instance_->directory(), "DIR"}}), "\n");
    }
  }
  // Process numbers of one width, kept in their columns.
  static std::string Pids(const std::string& text) {
    const std::regex number("( *)([0-9]+)\n");
    std::smatch match;
    if (!std::regex_match(text, match, number)) return text;
    return absl::StrCat("a number of columns ", match[1].length() + match[2].length());
  }

  std::vector<std::string> Normalised(const std::string& facts) const {
    const std::string master = absl::StrCat(instance_->MasterPid());
    std::vector<std::string> lines;
    for (std::string line : Lines(facts)) {
      line = absl::StrReplaceAll(line, {{instance_->directory(), "DIR"}});
      line = std::regex_replace(line, std::regex("(socket|pipe):\\[[0-9]+\\]"), "$1");
      line = std::regex_replace(line, std::regex("^pid [0-9]+$"), "pid");
      line = std::regex_replace(line, std::regex("^(parent|session|group) " + master + "$"),
                                "$1 is the master");
      for (const Intended& intended : kIntended) {
        line = std::regex_replace(line, std::regex(intended.pattern), intended.replacement);
      }
      if (!line.empty()) lines.push_back(line);
    }
    // The order of the environment means nothing; that of the arguments is one line.
    std::sort(lines.begin(), lines.end());
    return lines;
  }
  static void ExpectSame(const std::string& stock, const std::string& other) {
    const std::vector<std::string> first = Lines(stock), second = Lines(other);
    const std::set<std::string> in_first(first.begin(), first.end()),
        in_second(second.begin(), second.end());
    std::string difference;
    for (const std::string& line : first) {
      if (in_second.count(line) == 0) absl::StrAppend(&difference, "- ", line, "\n");
    }
    for (const std::string& line : second) {
      if (in_first.count(line) == 0) absl::StrAppend(&difference, "+ ", line, "\n");
    }
    EXPECT_EQ(difference, "") << "(-: the stock master, +: the other)";
    EXPECT_EQ(first.size(), second.size());
    EXPECT_GT(first.size(), 1000u);
  }

  MasterProgram master_;
  bool with_log_ = true;
};

TEST_F(Inheritance, TheDumpOfTheStockMasterIsTheSameTwice) {
  std::string first, second;
  ASSERT_NO_FATAL_FAILURE(Dump(MasterPrograms()[0], &first));
  ASSERT_NO_FATAL_FAILURE(Dump(MasterPrograms()[0], &second));
  ExpectSame(first, second);
}

TEST_F(Inheritance, OurMasterGivesWorkersWhatTheStockOneGives) {
  std::string stock, ours;
  ASSERT_NO_FATAL_FAILURE(Dump(MasterPrograms()[0], &stock));
  ASSERT_NO_FATAL_FAILURE(Dump(MasterPrograms()[1], &ours));
  ExpectSame(stock, ours);
}

TEST_F(Inheritance, M8_SoDoesAVerboseOne) {
  std::string stock, ours;
  ASSERT_NO_FATAL_FAILURE(DumpVerbose(MasterPrograms()[0], &stock));
  ASSERT_NO_FATAL_FAILURE(DumpVerbose(MasterPrograms()[1], &ours));
  ExpectSame(stock, ours);
}

}  // namespace
}  // namespace posthouse::conformance

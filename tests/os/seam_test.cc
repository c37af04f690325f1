// The one seam to the system (design: "no module calls the kernel past src/os, the clock
// included"): no object file of our libraries needs a function of the C or C++ library that enters
// the kernel or reads a clock; and the three places that list the calls agree.

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "posthouse/os/os.h"

namespace posthouse {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::IsSupersetOf;
using testing::SizeIs;

// --- The lists ---

struct Call {
  const char* name;
  const char* native;
};

constexpr Call kCalls[] = {
#define POSTHOUSE_OS_CALL(result, Name, native, parameters, arguments) {#Name, #native},
#include "posthouse/os/calls.inc"
#undef POSTHOUSE_OS_CALL
};

// What else in the C library enters the kernel or depends on a clock. Not here: what only ends the
// process (abort, exit, _exit), memory, and getenv.
constexpr char kOtherCFunctions[] =
    "accept access acct adjtime alarm arc4random brk canonicalize_file_name capget "
    "capset chown clock clock_getres clock_nanosleep clock_settime clone closedir closefrom "
    "closelog confstr copy_file_range creat daemon dlclose dlopen dlsym dup "
    "epoll_create epoll_pwait epoll_pwait2 eventfd eventfd_read eventfd_write execl execle execlp "
    "execv execveat execvp execvpe faccessat fallocate fanotify_init fchdir fchmod fchmodat fchown "
    "fchownat fclose fcloseall fdatasync fdopen fdopendir fflush fgetc fgetpos fgets fgetwc "
    "fgetxattr fileno flock fopen fopencookie fpathconf fprintf fputc fputs fputwc fread freopen "
    "fscanf fseek fseeko fsetpos fsetxattr fstatat fstatfs fstatvfs fsync ftell ftello ftime "
    "ftok ftruncate fts_open ftw futimens futimes fwrite getc getchar getcwd getdelim getdents "
    "getdomainname getegid getentropy getgroups getgrouplist getgrent getgrgid getgrnam "
    "gethostbyaddr gethostbyname gethostbyname_r gethostid getitimer getline getloadavg getlogin "
    "getlogin_r getnameinfo getpass getpgid getpgrp getpid getpriority "
    "getprotobyname getpwent getpwnam getpwuid getrandom getresgid getresuid getrusage gets "
    "getservbyname getservbyport getsid getspnam gettid gettimeofday getxattr glob "
    "if_indextoname if_nametoindex inotify_add_watch inotify_init inotify_init1 io_setup "
    "io_submit ioperm iopl kcmp killpg lchown lgetxattr link linkat lio_listio listxattr "
    "localtime lockf lseek lutimes memfd_create mincore minherit mkdir mkdirat mkdtemp mkfifo "
    "mkfifoat mknod mknodat mkostemp mkstemp mktime mlock mlock2 mlockall mount mprotect mq_open "
    "mremap msgget msync munlock name_to_handle_at nftw nice open_by_handle_at openat opendir "
    "openlog openpty pathconf pause pclose perror personality pidfd_open pidfd_send_signal pipe "
    "pivot_root pkey_alloc popen posix_fadvise posix_fallocate posix_openpt posix_spawn "
    "posix_spawnp ppoll prctl pread preadv preadv2 printf prlimit process_vm_readv pselect "
    "psignal pthread_create pthread_kill ptrace putc putchar puts pwrite pwritev pwritev2 raise "
    "readdir readdir_r readlink readlinkat readv realpath reboot recvfrom recvmmsg remove "
    "removexattr renameat renameat2 rewinddir rmdir scandir scanf sched_getaffinity "
    "sched_setaffinity sched_setscheduler sched_yield seccomp sem_open sem_post sem_timedwait "
    "sem_wait semget semop sendfile sendmmsg sendto setdomainname setegid seteuid setfsgid "
    "setfsuid setgrent setgroups sethostname setitimer setns setpgid setpgrp setpriority "
    "setpwent setregid setresgid setresuid setreuid setsid settimeofday setxattr shm_open "
    "shm_unlink shmat shmget sigaltstack siginterrupt signal sigpause sigprocmask sigqueue "
    "sigsuspend sigtimedwait sigwaitinfo sleep sockatmark splice statfs statvfs statx stime "
    "symlink symlinkat sync sync_file_range syncfs syscall sysconf sysinfo syslog system "
    "tcgetattr tcsetattr tee tempnam time timer_create timer_delete timer_settime timerfd_create "
    "timerfd_gettime timerfd_settime times timespec_get tmpfile tmpnam truncate ttyname ttyname_r "
    "tzset ualarm umount umount2 uname ungetc unlinkat unshare uselib usleep utime utimensat "
    "utimes vdprintf dprintf vfork vfprintf vfscanf vhangup vmsplice vprintf vsyslog wait wait3 "
    "wait4 waitid";

// Parts of mangled names of the C++ library and of Abseil.
constexpr const char* kCppParts[] = {
    "6chrono3_V212system_clock3now",
    "6chrono3_V212steady_clock3now",
    "13random_device",
    "13basic_filebuf",
    "14basic_ifstream",
    "14basic_ofstream",
    "13basic_fstream",
    "10filesystem",
    "St6thread",
    "_ZSt4cout",
    "_ZSt4cerr",
    "_ZSt4clog",
    "_ZSt3cin",
    "3NowEv",
    "GetCurrentTimeNanos",
    "AbslInternalSleepFor",
    "12LoadTimeZone",
    "13LocalTimeZone",
};

// What may pass, and why.
struct Exception {
  const char* library;
  const char* symbol;
  const char* reason;
};
constexpr Exception kExceptions[] = {
    {"//src/base:check", "fprintf", "lies below the seam, and a panic must not depend on it"},
};

std::set<std::string> DeniedCFunctions() {
  std::set<std::string> denied;
  for (const Call& call : kCalls) denied.insert(call.native);
  for (absl::string_view name : absl::StrSplit(kOtherCFunctions, ' ')) {
    denied.insert(std::string(name));
  }
  return denied;
}

// "__read_chk" and "open64" are other spellings of "read" and "open"; "read@GLIBC_2.2.5" carries a
// version.
std::string Plain(absl::string_view symbol) {
  symbol = symbol.substr(0, symbol.find('@'));
  if (absl::ConsumeSuffix(&symbol, "_chk")) absl::ConsumePrefix(&symbol, "__");
  absl::ConsumeSuffix(&symbol, "64");
  absl::ConsumePrefix(&symbol, "__libc_");
  return std::string(symbol);
}

bool IsDenied(const std::set<std::string>& denied, const std::string& symbol) {
  if (denied.count(Plain(symbol)) != 0) return true;
  for (const char* part : kCppParts) {
    if (absl::StrContains(symbol, part)) return true;
  }
  return false;
}

bool IsExcepted(const std::string& library, const std::string& symbol) {
  for (const Exception& exception : kExceptions) {
    if (library == exception.library && Plain(symbol) == exception.symbol) return true;
  }
  return false;
}

// --- nm ---

struct Archive {
  std::string path;
  std::string label;
};

std::vector<Archive> ArchivesOf(const std::string& list) {
  std::vector<Archive> archives;
  std::ifstream manifest("tests/os/" + list + ".txt");
  EXPECT_TRUE(manifest.good()) << list;
  Archive archive;
  while (manifest >> archive.path >> archive.label) archives.push_back(archive);
  return archives;
}

std::vector<std::string> Nm(const std::string& options, const std::string& archive) {
  std::string output;
  FILE* pipe = popen(absl::StrCat("nm -A ", options, " '", archive, "'").c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  if (pipe == nullptr) return {};
  char buffer[4096];
  while (const size_t count = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, count);
  EXPECT_EQ(pclose(pipe), 0) << "nm failed on " << archive;
  return absl::StrSplit(output, '\n', absl::SkipEmpty());
}

// "//src/io:stream needs read (in bazel-out/.../libstream.a:stream.pic.o)"
std::vector<std::string> Offences(const std::vector<Archive>& archives) {
  const std::set<std::string> denied = DeniedCFunctions();
  std::vector<std::string> offences;
  for (const Archive& archive : archives) {
    for (const std::string& line : Nm("--undefined-only", archive.path)) {
      // archive:member:                 U symbol
      const std::string object = line.substr(0, line.find(": "));
      const std::string symbol = line.substr(line.rfind(' ') + 1);
      if (!IsDenied(denied, symbol) || IsExcepted(archive.label, symbol)) continue;
      offences.push_back(absl::StrCat(archive.label, " needs ", symbol, " (in ", object, ")"));
    }
  }
  return offences;
}

std::set<std::string> CallsDefinedBy(const std::string& list) {
  std::set<std::string> defined;
  for (const Archive& archive : ArchivesOf(list)) {
    for (const std::string& line : Nm("-C --defined-only", archive.path)) {
      constexpr absl::string_view kMark = " T posthouse::os::";
      const size_t begin = line.find(kMark);
      if (begin == std::string::npos) continue;
      const std::string rest = line.substr(begin + kMark.size());
      defined.insert(rest.substr(0, rest.find('(')));
    }
  }
  return defined;
}

std::set<std::string> CallsListed() {
  std::set<std::string> names;
  for (const Call& call : kCalls) names.insert(call.name);
  return names;
}

// The name of the function that a line of os.h declares: one that begins with a type and names a
// capitalised function. Empty for other lines.
std::string CallOfHeaderLine(const std::string& line) {
  const size_t parenthesis = line.find('(');
  if (line.empty() || !std::isalpha(line[0]) || parenthesis == std::string::npos) return "";
  const size_t begin = line.rfind(' ', parenthesis);
  if (begin == std::string::npos || !std::isupper(line[begin + 1])) return "";
  return line.substr(begin + 1, parenthesis - begin - 1);
}

// Of a line of calls.inc.
std::string CallOfListLine(const std::string& line) {
  absl::string_view rest = line;
  if (!absl::ConsumePrefix(&rest, "POSTHOUSE_OS_CALL(") &&
      !absl::ConsumePrefix(&rest, "POSTHOUSE_OS_TWIN_CALL(")) {
    return "";
  }
  const std::vector<std::string> arguments = absl::StrSplit(rest, ", ");
  return arguments.size() > 1 ? arguments[1] : "";
}

// Name and condition of every call in the text of a file: some stand for some systems only.
std::multimap<std::string, std::string> CallsInText(const std::string& path,
                                                    std::string (*call_of)(const std::string&)) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::multimap<std::string, std::string> calls;
  std::string condition;
  std::string line;
  while (std::getline(file, line)) {
    if (absl::StartsWith(line, "#if")) condition = line;
    if (absl::StartsWith(line, "#endif")) condition.clear();
    const std::string name = call_of(line);
    if (!name.empty()) calls.emplace(name, condition);
  }
  return calls;
}

// --- The tests ---

TEST(SeamTest, NoLibraryCallsTheSystemPastTheSeam) {
  const std::vector<Archive> archives = ArchivesOf("libraries");
  std::set<std::string> layers;
  for (const Archive& archive : archives) {
    layers.insert(archive.label.substr(0, archive.label.find(':')));
  }
  for (const char* layer : {"//src/base", "//src/config", "//src/event", "//src/io", "//src/log",
                            "//src/master", "//src/server"}) {
    EXPECT_THAT(layers, Contains(layer));
  }
  EXPECT_THAT(Offences(archives), IsEmpty());
}

TEST(SeamTest, ALibraryThatCallsTheSystemPastTheSeamIsFoundWithObjectAndSymbol) {
  const std::vector<std::string> offences = Offences(ArchivesOf("offender_archive"));
  for (const char* symbol : {" read", " time", " fopen", "steady_clock"}) {
    EXPECT_THAT(offences, Contains(HasSubstr(symbol)));
  }
  EXPECT_THAT(offences, Contains(HasSubstr("//tests/os:offender needs")));
  EXPECT_THAT(offences, Contains(HasSubstr("liboffender.a:offender.")));
}

TEST(SeamTest, OtherSpellingsOfACallAreRecognised) {
  const std::set<std::string> denied = DeniedCFunctions();
  for (const char* symbol :
       {"read", "__read_chk", "open64", "read@GLIBC_2.2.5", "pread64", "fopen64", "pthread_sigmask",
        "epoll_wait", "_ZN4absl12lts_202206233NowEv"}) {
    EXPECT_TRUE(IsDenied(denied, symbol)) << symbol;
  }
  for (const char* symbol : {"memcpy", "strlen", "getenv", "abort", "freeaddrinfo", "inet_ntop",
                             "_ZN9posthouse2os4ReadEiPvm", "readable"}) {
    EXPECT_FALSE(IsDenied(denied, symbol)) << symbol;
  }
}

TEST(SeamTest, TheHeaderAndTheListOfCallsAgree) {
  const std::multimap<std::string, std::string> declared =
      CallsInText("src/os/os.h", &CallOfHeaderLine);
  EXPECT_EQ(declared, CallsInText("src/os/calls.inc", &CallOfListLine));
  // This system has those without a condition and some of the others.
  std::set<std::string> everywhere;
  for (const auto& [name, condition] : declared) {
    if (condition.empty()) everywhere.insert(name);
  }
  EXPECT_THAT(CallsListed(), IsSupersetOf(everywhere));
  for (const std::string& name : CallsListed()) EXPECT_EQ(declared.count(name), 1u) << name;
  EXPECT_THAT(CallsListed(), SizeIs(std::size(kCalls))) << "each call is listed once";
  // And in their types: a difference does not compile.
#define POSTHOUSE_OS_CALL(result, Name, native, parameters, arguments)           \
  {                                                                              \
    using os::ItimerWhich;                                                       \
    using os::RlimitResource;                                                    \
    static_assert(std::is_same_v<decltype(os::Name), result parameters>, #Name); \
  }
#include "posthouse/os/calls.inc"
#undef POSTHOUSE_OS_CALL
}

TEST(SeamTest, EachAnswererDefinesAllCallsAndNoOther) {
  EXPECT_EQ(CallsDefinedBy("kernel_answerer"), CallsListed());
  EXPECT_EQ(CallsDefinedBy("interposer_answerer"), CallsListed());
}

}  // namespace
}  // namespace posthouse

// What a child finds: descriptors, sockets, arguments, environment, process state.

#include <pwd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "posthouse/io/unique_fd.h"
#include "tests/conformance/processes.h"
#include "tests/conformance/suite/master_fixture.h"

namespace posthouse::conformance {
namespace {

class MasterChild : public MasterFixture {
 protected:
  // The arguments of the worker that answers a client of this service, of which `a` is the name.
  std::string ArgumentsOf(const std::string& entry, const std::vector<std::string>& options = {}) {
    const Report report = StartOne(entry + "\n", "", options);
    return absl::StrJoin(report.arguments, "|");
  }
};

class MasterSockets : public MasterFixture {
 protected:
  std::string Describe(const std::string& name) {
    struct stat status = {};
    if (lstat(master_.Queue(name).c_str(), &status) != 0) return "not there";
    const passwd* owner = getpwuid(status.st_uid);
    return absl::StrFormat("%s %04o %s",
                           S_ISSOCK(status.st_mode)   ? "socket"
                           : S_ISFIFO(status.st_mode) ? "fifo"
                                                      : "other",
                           status.st_mode & 07777, owner ? owner->pw_name : "?");
  }
  // A socket of the mail owner's under that name.
  UniqueFd BindLocal(int type, const std::string& name) {
    UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    const sockaddr_un address = Address(name);
    EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    const passwd* owner = getpwnam(MasterInstance::MailOwner().c_str());
    EXPECT_EQ(chown(master_.Queue(name).c_str(), owner->pw_uid, owner->pw_gid), 0);
    return fd;
  }
  sockaddr_un Address(const std::string& name) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, master_.Queue(name).c_str(), sizeof(address.sun_path) - 1);
    return address;
  }
  // How many clients can wait for a service whose worker does not accept.
  int CountWaiting(const std::string& name) {
    const sockaddr_un address = Address(name);
    std::vector<UniqueFd> waiting;
    for (;;) {
      UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        return static_cast<int>(waiting.size());
      }
      waiting.push_back(std::move(fd));
    }
  }
};

TEST_F(MasterChild, P1_P2_FindsTheDocumentedDescriptorsAndNoOthers) {
  const Report report = StartOne("a unix - n n - 2 probe\n");
  std::vector<int> numbers;
  for (const auto& [fd, what] : report.descriptors) numbers.push_back(fd);
  EXPECT_EQ(numbers, (std::vector<int>{0, 1, 2, 3, 4, 5, 6}));
  for (const auto& [fd, what] : report.descriptors) {
    EXPECT_FALSE(absl::StrContains(what, "cloexec")) << fd << " " << what;
    if (fd <= 2) {
      EXPECT_TRUE(absl::StrContains(what, "/dev/null")) << fd << " " << what;
    }
  }
}

TEST_F(MasterChild, P3_M21_TheFlowPipeIsOneNonBlockingPipe) {
  const Report report = StartOne("a unix - n n - 2 probe\n");
  ASSERT_TRUE(report.descriptors.count(3) && report.descriptors.count(4));
  EXPECT_TRUE(absl::StartsWith(report.descriptor(3), "nonblocking pipe:")) << report.descriptor(3);
  EXPECT_EQ(report.descriptor(3), report.descriptor(4));
}

TEST_F(MasterChild, P3_P46_AllServicesShareOneFlowPipeThatStartsEmpty) {
  Start("a unix - n n - 2 probe\nb unix - n n - 2 probe\n");
  Connection first = master_.Connect("private/a");
  Connection second = master_.Connect("private/b");
  EXPECT_EQ(Ask(first, "tokens"), "0");
  EXPECT_EQ(Ask(first, "put 3"), "3");
  EXPECT_EQ(Ask(second, "take 2"), "2");
  EXPECT_EQ(Ask(first, "tokens"), "1");
}

TEST_F(MasterChild, P4_TheStatusChannelIsABlockingStreamSocket) {
  const Report report = StartOne("a unix - n n - 2 probe\n");
  ASSERT_TRUE(report.descriptors.count(5) && report.sockets.count(5));
  EXPECT_TRUE(absl::StartsWith(report.descriptor(5), "blocking socket:")) << report.descriptor(5);
  EXPECT_TRUE(absl::StartsWith(report.socket(5), "type=1 ")) << report.socket(5);
}

TEST_F(MasterChild, P5_P41_WorkersOfAServiceShareOneChannelAndThoseOfAnotherDoNot) {
  Start("a unix - n n - 2 probe\nb unix - n n - 2 probe\n");
  Connection first = Hold("private/a");
  Connection second = Hold("private/a");
  Connection other = Hold("private/b");
  ASSERT_TRUE(master_.WaitForStarts("", 3));
  const std::vector<Report> of_a = master_.Reports("a");
  ASSERT_EQ(of_a.size(), 2u);
  EXPECT_EQ(of_a[0].descriptor(5), of_a[1].descriptor(5));
  EXPECT_NE(of_a[0].descriptor(5), OnlyReport("b").descriptor(5));
}

TEST_F(MasterChild, P6_TheListenerIsListeningAndNonBlocking) {
  const Report report = StartOne("a unix - n n - 2 probe\n");
  ASSERT_TRUE(report.sockets.count(6));
  EXPECT_TRUE(absl::StartsWith(report.descriptor(6), "nonblocking ")) << report.descriptor(6);
  EXPECT_TRUE(absl::StrContains(report.socket(6), "listening=1")) << report.socket(6);
  EXPECT_TRUE(absl::StrContains(report.socket(6), "address=private/a")) << report.socket(6);
}

TEST_F(MasterChild, P8_P9_ArgumentsOfAServiceWithALimit) {
  EXPECT_EQ(ArgumentsOf("a unix - n n - 5 probe"), "probe|-n|a|-t|unix");
}

TEST_F(MasterChild, P9_ProcessLimitOneIsOptionL) {
  EXPECT_EQ(ArgumentsOf("a unix - n n - 1 probe"), "probe|-l|-n|a|-t|unix");
}

TEST_F(MasterChild, P9_NoProcessLimitIsOptionZ) {
  EXPECT_EQ(ArgumentsOf("a unix - n n - 0 probe"), "probe|-z|-n|a|-t|unix");
}

TEST_F(MasterChild, P9_UnprivilegedAndChrootedAreOptionsUAndC) {
  EXPECT_EQ(ArgumentsOf("a unix - y y - 5 probe"), "probe|-n|a|-t|unix|-u|-c");
}

TEST_F(MasterChild, M34_ADashMeansUnprivilegedAndNotChrooted) {
  EXPECT_EQ(ArgumentsOf("a unix - - - - - probe"), "probe|-n|a|-t|unix|-u");
}

TEST_F(MasterChild, M8_P9_AVerboseMasterGivesOneV) {
  EXPECT_EQ(ArgumentsOf("a unix - n n - 5 probe", {"-v", "-v"}), "probe|-n|a|-t|unix|-v");
}

TEST_F(MasterChild, P9_TheNameIsLeftOutWhenItIsThatOfTheCommand) {
  Start("probe unix - n n - 5 probe\n");
  Connection client = master_.Connect("private/probe");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_EQ(absl::StrJoin(OnlyReport("probe").arguments, "|"), "probe|-t|unix");
}

TEST_F(MasterChild, P9_M41_M42_ConfiguredArgumentsComeLastAndBracesHoldThemTogether) {
  EXPECT_EQ(
      ArgumentsOf("a unix - n n - 5 probe -o { x = y  z } -o e={1 2} {  } {a {b} c} \"q\" $v"),
      "probe|-n|a|-t|unix|-o|x = y  z|-o|e={1 2}||a {b} c|\"q\"|$v");
}

TEST_F(MasterChild, P9_AnInetServiceOnTheLoopbackGetsNoStressParameter) {
  const int port = FreePort();
  Start(absl::StrCat("127.0.0.1:", port, " inet n n n - 5 probe\n"));
  Connection client = master_.ConnectPort(port);
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_EQ(absl::StrJoin(OnlyReport("").arguments, "|"),
            absl::StrCat("probe|-n|127.0.0.1:", port, "|-t|inet"));
}

TEST_F(MasterChild, P9_M79_M80_AnInetServiceForEverybodyGetsTheStressParameterWithoutValue) {
  const int port = FreePort();
  Start(absl::StrCat(port, " inet n n n - 5 probe\n"), "inet_interfaces = all\n");
  Connection client = master_.ConnectPort(port);
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_EQ(absl::StrJoin(OnlyReport("").arguments, "|"),
            absl::StrCat("probe|-n|", port, "|-t|inet|-o|stress="));
}

TEST_F(MasterChild, P9_M79_NoStressParameterUnderLimitOneOrNone) {
  Start("a pass - n n - 1 probe\nb pass - n n - 0 probe\nc pass - n n - 2 probe\n");
  for (const char* name : {"a", "b", "c"}) {
    Connection client = master_.ConnectPass(absl::StrCat("private/", name));
    EXPECT_EQ(Ask(client, "echo x"), "x");
  }
  EXPECT_EQ(absl::StrJoin(OnlyReport("a").arguments, "|"), "probe|-l|-n|a|-t|pass");
  EXPECT_EQ(absl::StrJoin(OnlyReport("b").arguments, "|"), "probe|-z|-n|b|-t|pass");
  // Its first process does not reach the limit.
  EXPECT_EQ(absl::StrJoin(OnlyReport("c").arguments, "|"), "probe|-n|c|-t|pass|-o|stress=");
}

TEST_F(MasterChild, P10_M16_M65_TheEnvironmentIsTheImportListAndWhatTheMasterAdds) {
  const Report report = StartOne("a unix - n n - 2 probe\n");
  EXPECT_EQ(report.variable("MAIL_CONFIG"), master_.config_directory());
  EXPECT_EQ(report.variable("LANG"), "C");
  EXPECT_EQ(report.variable("TZ"), "UTC");
  EXPECT_EQ(report.variable("MAIL_LOGTAG"), "postfix");
  EXPECT_EQ(report.variable("GENERATION"), "1");
  for (const auto& [name, value] : report.environment) {
    const bool known = absl::StartsWith(name, "MAIL_") || absl::StartsWith(name, "POSTLOG_") ||
                       name == "LANG" || name == "TZ" || name == "GENERATION";
    EXPECT_TRUE(known) << name << "=" << value;
  }
}

TEST_F(MasterChild, C76_TheImportListMaySetVariables) {
  const Report report =
      StartOne("a unix - n n - 2 probe\n",
               "import_environment = MAIL_CONFIG COLOUR=green { TASTE = sweet and sour } PATH\n");
  EXPECT_EQ(report.variable("COLOUR"), "green");
  EXPECT_EQ(report.variable("TASTE"), "sweet and sour");
  EXPECT_TRUE(report.environment.count("PATH"));
  EXPECT_FALSE(report.environment.count("LANG"));
}

TEST_F(MasterChild, P12_M66_TheProcessStateIsThatOfAChildOfAMaster) {
  const Report report = StartOne("a unix - y y - 2 probe\n");
  EXPECT_EQ(report.line("directory"), master_.queue_directory());
  EXPECT_EQ(report.line("umask"), "077");
  EXPECT_EQ(report.line("parent"), absl::StrCat(master_.pid()));
  EXPECT_EQ(report.line("session"), absl::StrCat(master_.pid()));
  EXPECT_EQ(report.line("group"), absl::StrCat(master_.pid()));
  EXPECT_EQ(report.line("alarm"), "0");
  EXPECT_EQ(report.line("ignored"), absl::StrCat(SIGPIPE));
  EXPECT_EQ(report.lines.count("ignored"), 1u);
  EXPECT_EQ(report.lines.count("blocked"), 0u);
}

TEST_F(MasterChild, P12_M56_M66_ItIsRootWithTheGroupOfRootAlone) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  const Report report = StartOne("a unix - y y - 2 probe\n");
  EXPECT_EQ(report.line("uid"), "0 0 0");
  EXPECT_EQ(report.line("gid"), "0 0 0");
  EXPECT_EQ(report.line("groups"), "0");
}

TEST_F(MasterChild, P22_P23_TheGenerationIsOctalAndCountsTheStartsOfAllServices) {
  std::string services;
  for (int i = 1; i <= 9; ++i) absl::StrAppend(&services, "s", i, " unix - n n - 1 probe\n");
  Start(services);
  for (int i = 1; i <= 9; ++i) {
    const std::string name = absl::StrCat("s", i);
    Connection client = master_.Connect("private/" + name);
    ASSERT_EQ(Ask(client, "echo x"), "x");
    EXPECT_EQ(OnlyReport(name).variable("GENERATION"), absl::StrFormat("%o", i));
  }
}

// --- Sockets ---

TEST_F(MasterSockets, M53_AnInetListenerHasTheDocumentedOptions) {
  const int port = FreePort();
  Start(absl::StrCat("127.0.0.1:", port, " inet n n n - 2 probe\n"));
  Connection client = master_.ConnectPort(port);
  EXPECT_EQ(Ask(client, "echo x"), "x");
  const Report report = OnlyReport("");
  EXPECT_EQ(report.socket(6),
            absl::StrCat("type=1 listening=1 reuseaddr=1 reuseport=1 v6only=-1 backlog=100 "
                         "address=127.0.0.1:",
                         port));
  EXPECT_TRUE(absl::StartsWith(report.descriptor(6), "nonblocking "));
}

TEST_F(MasterSockets, M53_AnInet6ListenerDoesNotTakeInetClients) {
  const int port = FreePort();
  if (!Connection::Tcp6(port).ok() && access("/proc/net/if_inet6", R_OK) != 0) {
    GTEST_SKIP() << "no IPv6 here";
  }
  Start(absl::StrCat("[::1]:", port, " inet n n n - 2 probe\n"),
        "inet_protocols = all\ninet_interfaces = 127.0.0.1, ::1\n");
  absl::StatusOr<Connection> client = Connection::Tcp6(port);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(Ask(*client, "echo x"), "x");
  EXPECT_TRUE(absl::StrContains(OnlyReport("").socket(6), "v6only=1")) << OnlyReport("").socket(6);
}

TEST_F(MasterSockets, M50_SeveralAddressesAreSeveralListenersInetBeforeInet6) {
  if (access("/proc/net/if_inet6", R_OK) != 0) GTEST_SKIP() << "no IPv6 here";
  const int port = FreePort();
  Start(absl::StrCat(port, " inet n n n - 2 probe\n"),
        "inet_protocols = all\ninet_interfaces = ::1, 127.0.0.1\n");
  Connection client = master_.ConnectPort(port);
  EXPECT_EQ(Ask(client, "echo x"), "x");
  const Report report = OnlyReport("");
  EXPECT_EQ(absl::StrJoin(report.arguments, "|"), absl::StrCat("probe|-n|", port, "|-t|inet|-s|2"));
  EXPECT_TRUE(absl::EndsWith(report.socket(6), absl::StrCat("address=127.0.0.1:", port)));
  EXPECT_TRUE(absl::EndsWith(report.socket(7), absl::StrCat("address=[::1]:", port)));
  absl::StatusOr<Connection> other = Connection::Tcp6(port);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(Ask(*other, "echo y"), "y");
}

TEST_F(MasterSockets, M48_HostAndPortMayBeWrittenInEveryForm) {
  const int first = FreePort(), second = FreePort(), third = FreePort();
  Start(absl::StrCat("[127.0.0.1]:", first, " inet n n n - 2 probe\n127.0.0.1:", second,
                     " inet n n n - 2 probe\n:", third, " inet n n n - 2 probe\n"));
  for (int port : {first, second, third}) {
    Connection client = master_.ConnectPort(port);
    EXPECT_EQ(Ask(client, "echo x"), "x");
  }
}

TEST_F(MasterSockets, M44_M55_ALocalSocketIsForAllAndBelongsToTheMailOwner) {
  Start(
      "a unix - n n - 2 probe\nb pass - n n - 2 probe\nc unix n n n - 2 probe\n"
      "d unix-dgram n n n - 1 probe\n");
  const std::string expected = "socket 0666 " + MasterInstance::MailOwner();
  EXPECT_EQ(Describe("private/a"), expected);
  EXPECT_EQ(Describe("private/b"), expected);
  EXPECT_EQ(Describe("public/c"), expected);
  EXPECT_EQ(Describe("public/d"), expected);
}

TEST_F(MasterSockets, M56_AFileInASetgidDirectoryHasItsGroup) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  Start("c unix n n n - 2 probe\n");
  struct stat directory = {}, file = {};
  ASSERT_EQ(stat(master_.Queue("public").c_str(), &directory), 0);
  ASSERT_EQ(stat(master_.Queue("public/c").c_str(), &file), 0);
  EXPECT_EQ(file.st_gid, directory.st_gid);
}

TEST_F(MasterSockets, M55_AFifoIsForWritersAndBelongsToTheMailOwner) {
  Start("f fifo n n n - 1 probe\n");
  EXPECT_EQ(Describe("public/f"), "fifo 0622 " + MasterInstance::MailOwner());
}

TEST_F(MasterSockets, M55_ASocketThatIsLeftFromBeforeIsReplaced) {
  { UniqueFd dead = BindLocal(SOCK_STREAM, "private/a"); }
  Start("a unix - n n - 2 probe\n");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
}

TEST_F(MasterSockets, M54_TheBacklogIsTheDefaultProcessLimitOrMore) {
  Start("a unix - n n - 1 probe\n", "default_process_limit = 30\n");
  Connection client = master_.Connect("private/a");
  EXPECT_EQ(Ask(client, "echo x"), "x");
  ASSERT_EQ(kill(OnlyReport("a").pid, SIGSTOP), 0);
  // One more than the number given to listen(2) is let in.
  EXPECT_EQ(CountWaiting("private/a"), 31);
}

TEST_F(MasterSockets, M54_TheBacklogIsTheProcessLimitWhereThatIsMore) {
  const int port = FreePort();
  Start(absl::StrCat("127.0.0.1:", port, " inet n n n - 70 probe\n"),
        "default_process_limit = 30\n");
  Connection client = master_.ConnectPort(port);
  EXPECT_EQ(Ask(client, "echo x"), "x");
  EXPECT_TRUE(absl::StrContains(OnlyReport("").socket(6), " backlog=70 "))
      << OnlyReport("").socket(6);
}

TEST_F(MasterSockets, P60_APassServiceTakesDescriptors) {
  Start("b pass - n n - 2 probe\n");
  Connection client = master_.ConnectPass("private/b");
  EXPECT_EQ(Ask(client, "echo x"), "x");
}

TEST_F(MasterSockets, M55_ADatagramServiceIsStartedByADatagram) {
  Start("d unix-dgram n n n - 1 probe\n");
  UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address("public/d");
  ASSERT_EQ(
      sendto(fd.get(), "hi", 2, 0, reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
      2);
  ASSERT_TRUE(master_.WaitForStarts("d", 1));
  const pid_t worker = OnlyReport("d").pid;
  EXPECT_TRUE(Eventually(kBound, [&] { return master_.HasEvent(worker, "datagram 6869"); }));
}

}  // namespace
}  // namespace posthouse::conformance

// The service of the black-box tests: it does what its clients say, a command per line.
//
// Hooks write "hook NAME ..." into the log. What has to be known before the configuration is read
// comes in the environment variable POSTHOUSE_TEST, "word=number word=number ...": the fields of
// MultiServerOptions by their names (durations in milliseconds), and switches of this program.

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(__linux__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#endif

#include <any>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "posthouse/base/check.h"
#include "posthouse/config/parameter.h"
#include "posthouse/event/timer.h"
#include "posthouse/server/multi_server.h"
#include "posthouse/testing/fd_leak_check.h"

namespace posthouse {
namespace {

class Switches {
 public:
  Switches() {
    const char* text = getenv("POSTHOUSE_TEST");
    for (absl::string_view item : absl::StrSplit(text == nullptr ? "" : text, ' ')) {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(item, absl::MaxSplits('=', 1));
      int number = 1;
      if (!parts.second.empty() && !absl::SimpleAtoi(parts.second, &number)) std::abort();
      values_[parts.first] = number;
    }
  }
  bool has(const std::string& name) const { return values_.count(name) > 0; }
  int operator()(const std::string& name, int otherwise = 0) const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
  }
  absl::Duration Time(const std::string& name, absl::Duration otherwise) const {
    return has(name) ? absl::Milliseconds((*this)(name)) : otherwise;
  }

 private:
  std::map<std::string, int> values_;
};

// A reply that a timer brings later.
class Later {
 public:
  Later(EventLoop* loop, DeferredReply reply, std::string text)
      : reply_(std::move(reply)), text_(std::move(text)), timer_(loop, &Later::Run, this) {}
  void Start(absl::Duration delay) { timer_.Start(delay); }

 private:
  static void Run(int event, void* context) {
    Later* const self = static_cast<Later*>(context);
    self->reply_.Write(self->text_);
    self->reply_.Finish();
    // The object stays: its list is emptied at the end of the process.
  }
  DeferredReply reply_;
  std::string text_;
  Timer timer_;
};

std::string Identity() {
  gid_t groups[64];
  const int count = getgroups(64, groups);
  char directory[4096] = "?";
  if (getcwd(directory, sizeof(directory)) == nullptr) directory[0] = '?';
  std::vector<std::string> numbers;
  for (int i = 0; i < count; ++i) numbers.push_back(absl::StrCat(groups[i]));
  uid_t real, effective, saved;
  getresuid(&real, &effective, &saved);
  return absl::StrCat("uid=", real, ",", effective, ",", saved, " gid=", getgid(),
                      " groups=", absl::StrJoin(numbers, ","), " cwd=", directory,
                      " passwd=", access("/etc/passwd", R_OK) == 0 ? "yes" : "no");
}

std::string Descriptors() {
  std::vector<std::string> parts;
  const FdSnapshot snapshot = FdSnapshot::Take();
  for (const auto& [fd, target] : snapshot.fds()) {
    const int flags = fcntl(fd, F_GETFD);
    parts.push_back(absl::StrCat(fd, "=", target, flags & FD_CLOEXEC ? "" : "!"));
  }
  return absl::StrJoin(parts, " ");
}

class TestService {
 public:
  explicit TestService(const Switches& switches) : switches_(switches) {}

  // What SAME compares with.
  void Remember(ServiceContext& context) {
    name_ = &context.name();
    arguments_ = &context.arguments();
  }

  void Serve(Client& client, ServiceContext& context) {
    if (switches_.has("leave_input_unread")) {
      absl::StatusOr<std::string> line = client.stream().ReadLine(1000);
      if (line.ok()) client.Write(absl::StrCat("unread ", *line, "\n"));
      return;
    }
    if (switches_.has("log_serve")) context.log().Info("serve");
    std::string line;
    if (!client.TakeLine(&line)) return;
    const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    if (parts.first == "ECHO") {
      client.Write(parts.second + "\n");
    } else {
      Command(parts.first, parts.second, client, context);
    }
  }

 private:
  void Command(const std::string& command, const std::string& rest, Client& client,
               ServiceContext& context) {
    int number = 0;
    if (!absl::SimpleAtoi(rest.substr(0, rest.find(' ')), &number)) number = 0;
    if (command == "SLEEP") {
      absl::SleepFor(absl::Milliseconds(number));
      client.Write("slept\n");
    } else if (command == "DEFER") {
      later_.push_back(std::make_unique<Later>(&context.loop(), client.Defer(), rest + "\n"));
      later_.back()->Start(absl::Milliseconds(number));
    } else if (command == "DEFERDROP") {
      DeferredReply reply = client.Defer();
      reply.Write("dropped\n");
    } else if (command == "CLOSE") {
      client.Write("bye\n");
      client.Disconnect();
    } else if (command == "CLOSE2") {
      client.Disconnect();
      client.Disconnect();
      client.Write(client.disconnecting() ? "twice\n" : "not disconnecting\n");
    } else if (command == "THROW") {
      throw std::runtime_error("thrown on request");
    } else if (command == "THROWINT") {
      throw 42;
    } else if (command == "THROWALLOC") {
      throw std::bad_alloc();
    } else if (command == "DRAIN") {
      const absl::Status status = context.Drain();
      client.Write(absl::StrCat(status.ok() ? "drained" : status.ToString(), " ", getpid(), " ",
                                context.draining(), "\n"));
    } else if (command == "FDS") {
      client.Write(Descriptors() + "\n");
    } else if (command == "FD") {
      client.Write(absl::StrCat(
          client.fd(), (fcntl(client.fd(), F_GETFL) & O_NONBLOCK) ? " nonblocking" : " blocking",
          (fcntl(client.fd(), F_GETFD) & FD_CLOEXEC) ? " cloexec" : " inherited", "\n"));
    } else if (command == "KEEPALIVE") {
      int on = -1;
      socklen_t length = sizeof(on);
      getsockopt(client.fd(), SOL_SOCKET, SO_KEEPALIVE, &on, &length);
      client.Write(absl::StrCat(on != 0, "\n"));
    } else if (command == "LIMITS") {
      client.Write(absl::StrCat("use_limit=", context.use_limit(),
                                " idle_limit=", absl::FormatDuration(context.idle_limit()),
                                " clients=", context.client_count(), " uses=", context.use_count(),
                                "\n"));
    } else if (command == "SETUSE") {
      context.set_use_limit(number);
      client.Write("ok\n");
    } else if (command == "SETIDLE") {
      context.set_idle_limit(absl::Milliseconds(number));
      client.Write("ok\n");
    } else if (command == "HANG") {
      for (;;) pause();
    } else if (command == "SPIN") {
      volatile bool forever = true;
      while (forever) {
      }
    } else if (command == "PAT") {
      for (int i = 0; i < number; ++i) {
        absl::SleepFor(absl::Milliseconds(500));
        context.PatWatchdog();
      }
      client.Write("patted\n");
    } else if (command == "PARAM") {
      const absl::optional<std::string> value = Lookup(context, rest);
      client.Write(value.has_value() ? absl::StrCat("[", *value, "]\n") : "unset\n");
    } else if (command == "WHO") {
      client.Write(Identity() + "\n");
    } else if (command == "PID") {
      client.Write(absl::StrCat(getpid(), "\n"));
    } else if (command == "NAME") {
      client.Write(context.name() + "\n");
    } else if (command == "ARGS") {
      client.Write(absl::StrJoin(context.arguments(), "|") + "\n");
    } else if (command == "PEER") {
      client.Write(client.peer() + "\n");
    } else if (command == "ATTR") {
      client.Write(absl::StrJoin(client.attributes(), " ", absl::PairFormatter("=")) + "\n");
    } else if (command == "COUNT") {
      int* const count = std::any_cast<int>(&client.state());
      client.state() = count == nullptr ? 1 : *count + 1;
      client.Write(absl::StrCat(std::any_cast<int>(client.state()), "\n"));
    } else if (command == "BIG") {
      client.Write(std::string(static_cast<size_t>(number), 'x') + "\n");
    } else if (command == "EXIT") {
      client.Write("exiting\n");
      context.RequestExit();
    } else if (command == "PANIC") {
      POSTHOUSE_CHECK(false, "a client asked for it");
    } else if (command == "ERRORS") {
      for (int i = 0; i < number; ++i) context.log().Error("an error on request");
      client.Write("counted\n");
    } else if (command == "SAME") {
      client.Write(name_ == &context.name() && arguments_ == &context.arguments() ? "same\n"
                                                                                  : "moved\n");
    } else if (command == "EXITCODE") {
      exit(number);
    } else if (command == "LOG") {
      context.log().Info(rest);
      client.Write("logged\n");
    } else if (command == "BLOCKLINE") {
      client.Write("go on\n");
      const absl::Status flushed = client.stream().Flush();
      absl::StatusOr<std::string> line = client.stream().ReadLine(1000);
      client.Write(!flushed.ok() ? flushed.ToString() + "\n"
                   : line.ok()   ? absl::StrCat("then ", *line, "\n")
                                 : absl::StrCat("error ", line.status().message(), "\n"));
    } else {
      client.Write(absl::StrCat("unknown ", command, "\n"));
    }
  }

  static absl::optional<std::string> Lookup(ServiceContext& context, const std::string& name);

  const Switches& switches_;
  const std::string* name_ = nullptr;
  const std::vector<std::string>* arguments_ = nullptr;
  std::vector<std::unique_ptr<Later>> later_;
};

absl::optional<std::string> TestService::Lookup(ServiceContext& context, const std::string& name) {
  const ParameterEntry* const found = context.parameters().Find(name);
  if (found == nullptr) return absl::nullopt;
  return found->value;
}

// One life of a server from its options to its exit status.
int Serve(int argc, char** argv, const Switches& on) {
  TestService service(on);
  IntParameter test_int{"test_int", 7, {1, 100}};
  StringParameter test_str{"test_str", "$myhostname!"};
  BoolParameter test_bool{"test_bool", true};
  TimeParameter test_time{"test_time", "5s", {1, 3600}};

  MultiServerOptions options;
  options.description = "the service of posthouse's black-box tests";
  options.version = "4.7.11";
  options.serve = [&](Client& client, ServiceContext& context) { service.Serve(client, context); };
  options.parameters = {&test_int, &test_str, &test_bool, &test_time};
  const auto hook = [&on](const std::string& name, ServiceContext& context) {
    if (on.has("throw_" + name)) throw std::runtime_error("thrown in " + name);
  };
  options.pre_init = [&](ServiceContext& context) {
    service.Remember(context);
    context.log().Info(absl::StrCat("hook pre_init ", Identity(), " test_int=", test_int.value(),
                                    " test_str=", test_str.value(), " test_bool=",
                                    test_bool.value(), " test_time=", test_time.seconds()));
    hook("pre_init", context);
  };
  options.post_init = [&](ServiceContext& context) {
    if (on.has("use_limit")) context.set_use_limit(on("use_limit"));
    if (on.has("idle_limit")) context.set_idle_limit(absl::Milliseconds(on("idle_limit")));
    if (on.has("drain_in_post_init")) context.Drain().IgnoreError();
    context.log().Info(absl::StrCat("hook post_init ", Identity()));
    hook("post_init", context);
  };
  int turns = 0;
  if (on.has("loop")) {
    options.loop = [&](ServiceContext& context) {
      ++turns;
      if (turns == 1) context.log().Info("hook loop first");
      if (on.has("hang_in_loop")) {
        for (;;) pause();
      }
      if (turns == 5) context.log().Info("hook loop fifth");
      hook("loop", context);
      return on("loop") < 0 ? absl::InfiniteDuration() : absl::Milliseconds(on("loop"));
    };
  }
  options.on_exit = [&](ServiceContext& context) {
    context.log().Info(absl::StrCat("hook on_exit ", getpid()));
    hook("on_exit", context);
    if (on.has("hang_on_exit")) {
      for (;;) pause();
    }
  };
  int not_now = on("not_now");
  int disconnects = on("disconnect_in_post_accept");
  options.pre_accept = [&](ServiceContext& context) {
    context.log().Info("hook pre_accept");
    hook("pre_accept", context);
    if (on.has("drain_in_pre_accept")) context.Drain().IgnoreError();
    if (on.has("exit_in_pre_accept")) exit(0);
    return not_now-- > 0 ? PreAccept::kNotNow : PreAccept::kAccept;
  };
  options.post_accept = [&](Client& client, ServiceContext& context) {
    context.log().Info(absl::StrCat("hook post_accept", on.has("loop") ? " in turn " : "",
                                    on.has("loop") ? absl::StrCat(turns) : ""));
    if (disconnects-- > 0) client.Disconnect();
    if (on.has("greet")) client.Write("hello\n");
    hook("post_accept", context);
  };
  options.pre_disconnect = [&](Client& client, ServiceContext& context) {
    context.log().Info("hook pre_disconnect");
    hook("pre_disconnect", context);
  };
  if (on.has("bounce_init")) {
    options.bounce_init = [&](ServiceContext& context) {
      context.log().Info(absl::StrCat("hook bounce_init test_int=", test_int.value()));
    };
  }
  options.last_resort = [&](absl::string_view reason) {
    std::fprintf(stderr, "hook last_resort %s\n", std::string(reason).c_str());
  };
  options.in_flow_delay = on.has("in_flow_delay");
  options.solitary = on.has("solitary");
  options.unlimited = on.has("unlimited");
  options.privileged = on.has("privileged");
  options.leave_input_unread = on.has("leave_input_unread");
  options.request_deadline = on.Time("request_deadline", options.request_deadline);
  options.client_idle_limit = on.Time("client_idle_limit", options.client_idle_limit);
  options.use_limit_grace = on.Time("use_limit_grace", options.use_limit_grace);
  options.slow_exit_limit = on.Time("slow_exit_limit", options.slow_exit_limit);
  options.max_request_bytes = static_cast<size_t>(on("max_request_bytes", 64 << 10));
  options.max_output_bytes = static_cast<size_t>(on("max_output_bytes", 1 << 20));
  options.accepts_per_turn = on("accepts_per_turn", options.accepts_per_turn);
  options.requests_per_client_and_turn =
      on("requests_per_client_and_turn", options.requests_per_client_and_turn);
  options.client_fd_threshold = on("client_fd_threshold", options.client_fd_threshold);
  return MultiServerMain(argc, argv, std::move(options));
}

// As a sandbox does.
void RefuseIoUring() {
#if defined(__linux__)
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter = {static_cast<unsigned short>(std::size(program)), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    _exit(99);
  }
#endif
}

}  // namespace
}  // namespace posthouse

int main(int argc, char** argv) {
  const posthouse::Switches on;
  if (on.has("refuse_io_uring")) posthouse::RefuseIoUring();
  int status = 0;
  for (int i = 0; i < on("runs", 1); ++i) status = posthouse::Serve(argc, argv, on);
  return status;
}

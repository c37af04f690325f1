// A worker that shows and does what a test asks for, one command per line, one line per answer:
//
//   pid                 its process number
//   counts              "clients=N uses=N"
//   name                service name and arguments
//   parameter NAME      the value of a parameter as the process knows it
//   peer                who the client is
//   attributes          what came with a passed descriptor, "name=value" sorted
//   log TEXT            logs TEXT
//   sleep MS            logs "sleeping", then holds up the whole process inside the service call
//   defer MS            answers from a timer, without holding up anybody
//   drain               drains, answers from the process that goes on
//   exit                ends in an orderly way
//   status N            ends at once with that exit status
//   crash               dies by SIGSEGV
//   disconnect          closes the connection after the answer
//
// Under the names probe-flow, probe-solitary, probe-unlimited and probe-privileged it asks the
// skeleton for that property. It logs when its hooks run. Parameters: probe_number (1 to 100) and
// probe_greeting, which is sent to every client when it is not empty.

#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/types/optional.h"
#include "posthouse/server/multi_server.h"

namespace posthouse::conformance {
namespace {

// What the master sends to a service with a wake-up time (P66).
constexpr absl::string_view kWakeUp("W\0", 2);

absl::Duration Milliseconds(absl::string_view text) {
  int value = 0;
  if (!absl::SimpleAtoi(text, &value)) value = 0;
  return absl::Milliseconds(value);
}

// One reply that a timer completes; it deletes itself.
class LateAnswer {
 public:
  LateAnswer(EventLoop* loop, DeferredReply reply, absl::Duration delay)
      : reply_(std::move(reply)), timer_(loop, &LateAnswer::OnTime, this) {
    timer_.Start(delay);
  }

 private:
  static void OnTime(int, void* context) {
    auto* self = static_cast<LateAnswer*>(context);
    self->reply_.Write("deferred\n");
    self->reply_.Finish();
    delete self;
  }

  DeferredReply reply_;
  Timer timer_;
};

std::string Attributes(const Client& client) {
  std::string text;
  for (const auto& [name, value] : client.attributes()) {
    absl::StrAppend(&text, text.empty() ? "" : " ", name, "=", value);
  }
  return text;
}

std::string Parameter(absl::string_view name, const ServiceContext& context) {
  const ParameterEntry* entry = context.parameters().Find(name);
  return entry == nullptr ? "(unset)" : entry->value;
}

// Answers one command; nothing when the answer comes later.
absl::optional<std::string> Answer(absl::string_view command, absl::string_view rest,
                                   Client& client, ServiceContext& context) {
  if (command == "pid") return absl::StrCat(getpid());
  if (command == "counts") {
    return absl::StrCat("clients=", context.client_count(), " uses=", context.use_count());
  }
  if (command == "name") {
    std::string text = context.name();
    for (const std::string& argument : context.arguments()) absl::StrAppend(&text, " ", argument);
    return text;
  }
  if (command == "parameter") return Parameter(rest, context);
  if (command == "peer") return client.peer();
  if (command == "attributes") return Attributes(client);
  if (command == "log") {
    context.log().Info(rest);
    return "logged";
  }
  if (command == "sleep") {
    context.log().Info("sleeping");
    absl::SleepFor(Milliseconds(rest));
    return "slept";
  }
  if (command == "defer") {
    new LateAnswer(&context.loop(), client.Defer(), Milliseconds(rest));
    return absl::nullopt;
  }
  if (command == "drain") {
    const absl::Status status = context.Drain();
    return status.ok() ? absl::StrCat("drained ", getpid()) : status.ToString();
  }
  if (command == "exit") {
    context.RequestExit();
    return "bye";
  }
  if (command == "status") {
    int status = 0;
    if (absl::SimpleAtoi(rest, &status)) _exit(status);
  }
  if (command == "crash") {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
  }
  if (command == "disconnect") {
    client.Disconnect();
    return "gone";
  }
  return absl::StrCat("unknown command '", command, "'");
}

void Serve(Client& client, ServiceContext& context) {
  if (client.input() == kWakeUp) return client.Disconnect();
  std::string line;
  if (!client.TakeLine(&line)) return;
  const std::pair<absl::string_view, absl::string_view> words =
      absl::StrSplit(line, absl::MaxSplits(' ', 1));
  const absl::optional<std::string> answer = Answer(words.first, words.second, client, context);
  if (answer.has_value()) client.Write(*answer + "\n");
}

int Main(int argc, char** argv) {
  const absl::string_view program(argv[0]);
  IntParameter number{"probe_number", 5, {.min = 1, .max = 100}};
  StringParameter greeting{"probe_greeting", ""};
  MultiServerOptions options;
  options.serve = Serve;
  options.parameters = {&number, &greeting};
  options.pre_init = [](ServiceContext& context) { context.log().Info("hook pre_init"); };
  options.post_init = [](ServiceContext& context) { context.log().Info("hook post_init"); };
  options.on_exit = [](ServiceContext& context) { context.log().Info("hook on_exit"); };
  options.post_accept = [&](Client& client, ServiceContext&) {
    if (!greeting.value().empty()) client.Write(greeting.value() + "\n");
  };
  options.in_flow_delay = absl::EndsWith(program, "probe-flow");
  options.solitary = absl::EndsWith(program, "probe-solitary");
  options.unlimited = absl::EndsWith(program, "probe-unlimited");
  options.privileged = absl::EndsWith(program, "probe-privileged");
  return MultiServerMain(argc, argv, std::move(options));
}

}  // namespace
}  // namespace posthouse::conformance

int main(int argc, char** argv) { return posthouse::conformance::Main(argc, argv); }

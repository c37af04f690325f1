// policyd is an access policy service for Postfix's smtpd: greylisting with an automatic white
// list, a rate limit per client or SASL user, and recipients who want neither. README.md beside
// this file explains it to its operators; the rules are in policy_rules.h, the database in
// policy_store_sqlite.h.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <any>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "examples/lib/plain_attributes.h"
#include "examples/policy/policy_request.h"
#include "examples/policy/policy_rules.h"
#include "examples/policy/policy_store_sqlite.h"
#include "posthouse/config/parameter.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/timer.h"
#include "posthouse/log/log.h"
#include "posthouse/os/clock.h"
#include "posthouse/server/client.h"
#include "posthouse/server/multi_server.h"
#include "posthouse/server/service_context.h"

namespace examples {
namespace {

using posthouse::Client;
using posthouse::LogSeverity;
using posthouse::ServiceContext;

// After database trouble nobody waits for the database for this long: with many clients, each of
// them waiting for the busy timeout in turn would take minutes.
constexpr absl::Duration kTroublePause = absl::Seconds(2);
// A process in a chroot cannot open the database again; it ends when trouble lasts, and the next
// one opens it before its chroot.
constexpr absl::Duration kTroubleLimit = absl::Seconds(10);
// Expired rows are deleted this many at a time, with this pause while there are more.
constexpr int kRowsPerCleanup = 200;
constexpr absl::Duration kCleanupPause = absl::Milliseconds(50);
constexpr absl::Duration kFirstCleanup = absl::Seconds(1);
// The same kind of complaint is logged at most this often.
constexpr absl::Duration kComplaintInterval = absl::Minutes(1);
// smtpd closes a connection that was silent for 300 s; one that is silent for longer is nobody's.
constexpr absl::Duration kClientIdleLimit = absl::Minutes(15);
constexpr absl::Duration kRequestDeadline = absl::Seconds(60);

constexpr char kDescription[] =
    R"(A Postfix SMTP access policy service: greylisting with an automatic white list,
a limit of recipients per client or SASL user, and recipients who want neither.

In main.cf:  check_policy_service unix:private/policyd   (after reject_unauth_destination)

What the parameters mean (README.md says more):
  policy_greylist_delay          a new (client network, sender, recipient) has to come again after
                                 this; 0 switches greylisting off
  policy_retry_window            and before this
  policy_triplet_ttl             one that came again is remembered this long after its last use
  policy_auto_whitelist_passes   a network with this many of them is not greylisted any more; 0: never
  policy_auto_whitelist_ttl      for this long after its last use
  policy_ipv4_prefix, policy_ipv6_prefix
                                 bits of an address that make its network
  policy_rate_limit              recipients per client address and period; 0: no limit
  policy_sasl_rate_limit         the same per SASL user
  policy_rate_period             the period
  policy_opt_out                 recipients left alone: user@domain, user@, domain, .domain
  policy_database                the SQLite file
  policy_busy_timeout            how long to wait for another process's lock
  policy_cleanup_interval        how often to delete what has expired
  policy_greylist_action, policy_rate_action
                                 what smtpd is told to do
  policy_on_error                the same, when the database fails or a request makes no sense)";

int64_t WallMilliseconds() { return posthouse::os::WallNanos() / 1000000; }

// A parameter whose value is an answer to smtpd.
class ActionParameter : public posthouse::StringParameter {
 public:
  using StringParameter::StringParameter;
  absl::Status Load(posthouse::ParameterStore* store, std::vector<std::string>* warnings) override {
    if (absl::Status status = StringParameter::Load(store, warnings); !status.ok()) return status;
    const absl::Status status = ValidatePolicyAction(value());
    if (status.ok()) return status;
    const posthouse::ParameterEntry* entry = store->Find(name());
    return absl::InvalidArgumentError(absl::StrCat(entry == nullptr ? "default" : entry->origin,
                                                   ": parameter ", name(), ": value \"", value(),
                                                   "\": ", status.message()));
  }
};

// While it lives, a process of root acts with the rights of the owner of a directory. The owner can
// put anything into it, links to other people's files included; root's rights must not follow them.
class RightsOfDirectoryOwner {
 public:
  explicit RightsOfDirectoryOwner(const std::string& path) {
    const size_t slash = path.rfind('/');
    const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    struct stat info;
    if (geteuid() != 0 || stat(directory.c_str(), &info) != 0 || info.st_uid == 0) return;
    group_ = getegid();
    changed_ = setegid(info.st_gid) == 0 && seteuid(info.st_uid) == 0;
    if (!changed_) Restore();
  }
  ~RightsOfDirectoryOwner() {
    if (changed_) Restore();
  }
  RightsOfDirectoryOwner(const RightsOfDirectoryOwner&) = delete;
  RightsOfDirectoryOwner& operator=(const RightsOfDirectoryOwner&) = delete;

 private:
  void Restore() {
    // Root gets its rights back or stops here; going on half-way would be worse.
    if (seteuid(0) != 0 || setegid(group_) != 0) abort();
  }
  bool changed_ = false;
  gid_t group_ = 0;
};

class Policyd {
 public:
  posthouse::MultiServerOptions Options() {
    posthouse::MultiServerOptions options;
    options.serve = [this](Client& client, ServiceContext& context) { Serve(client, context); };
    options.parameters = {&greylist_delay_,
                          &retry_window_,
                          &triplet_ttl_,
                          &auto_whitelist_passes_,
                          &auto_whitelist_ttl_,
                          &ipv4_prefix_,
                          &ipv6_prefix_,
                          &rate_limit_,
                          &sasl_rate_limit_,
                          &rate_period_,
                          &opt_out_,
                          &database_,
                          &busy_timeout_,
                          &cleanup_interval_,
                          &greylist_action_,
                          &rate_action_,
                          &on_error_};
    options.pre_init = [this](ServiceContext& context) { OpenDatabase(context); };
    options.post_init = [this](ServiceContext& context) { Start(context); };
    options.request_deadline = kRequestDeadline;
    options.client_idle_limit = kClientIdleLimit;
    // smtpd reconnects when its connection was closed between two requests (D78), so nothing is won
    // by staying for established clients after a reload; and the process that would stay is a
    // child, which cannot open the database again once a chroot hides it.
    options.slow_exit_limit = absl::ZeroDuration();
    options.max_request_bytes = 2 * kMaxPolicyRequestBytes;
    options.description = kDescription;
    return options;
  }

 private:
  // Before privileges are dropped and the root directory changes, as stock daemons open their
  // tables: the database may be out of reach afterwards.
  void OpenDatabase(ServiceContext& context) {
    CopySettings();
    store_ = std::make_unique<SqlitePolicyStore>(SqlitePolicyStore::Options{
        .path = database_.value(), .busy_timeout = busy_timeout_.value()});
    const RightsOfDirectoryOwner rights(database_.value());
    const absl::Status status = store_->Open();
    // Not fatal: smtpd gets the answer for errors, and the database is tried again.
    if (!status.ok()) Trouble(context, status);
  }

  void Start(ServiceContext& context) {
    context_ = &context;
    out_of_reach_ = store_->is_open() && !store_->PathIsCurrent();
    cleanup_ = std::make_unique<posthouse::Timer>(&context.loop(), &OnCleanup, this);
    cleanup_->Start(kFirstCleanup);
  }

  void CopySettings() {
    settings_.greylist_delay = absl::ToInt64Milliseconds(greylist_delay_.value());
    settings_.retry_window = absl::ToInt64Milliseconds(retry_window_.value());
    settings_.triplet_ttl = absl::ToInt64Milliseconds(triplet_ttl_.value());
    settings_.auto_whitelist_passes = auto_whitelist_passes_.value();
    settings_.auto_whitelist_ttl = absl::ToInt64Milliseconds(auto_whitelist_ttl_.value());
    settings_.ipv4_prefix = ipv4_prefix_.value();
    settings_.ipv6_prefix = ipv6_prefix_.value();
    settings_.rate_limit = rate_limit_.value();
    settings_.sasl_rate_limit = sasl_rate_limit_.value();
    settings_.rate_period = absl::ToInt64Milliseconds(rate_period_.value());
    for (const absl::string_view entry :
         absl::StrSplit(opt_out_.value(), absl::ByAnyChar(", \t\r\n"), absl::SkipEmpty())) {
      settings_.opt_out.insert(NormalizeOptOut(entry));
    }
  }

  void Serve(Client& client, ServiceContext& context) {
    if (!client.state().has_value()) client.state() = ListFinder();
    ListFinder& finder = *std::any_cast<ListFinder>(&client.state());
    const absl::string_view input = client.input();
    const size_t size = finder.Find(input);
    if (size > kMaxPolicyRequestBytes || (size == 0 && input.size() > kMaxPolicyRequestBytes)) {
      return Refuse(client, context, "the request is too long");
    }
    if (size == 0) {
      // Somebody who speaks another protocol may wait for an answer before an empty line comes.
      const absl::string_view line = input.substr(0, input.find('\n'));
      if (line.size() < input.size() && line.find('=') == absl::string_view::npos) {
        return Refuse(client, context, "the first line has no \"=\"");
      }
      if (client.at_end() && !input.empty()) {
        return Refuse(client, context, "the connection ends inside a request");
      }
      return;
    }
    const std::string answer =
        FormatPolicyAnswer(ActionFor(input.substr(0, size), client, context));
    finder.Reset();
    client.Consume(size);
    client.Write(answer);
  }

  // Ends a connection whose requests cannot be told apart any more. smtpd tries once more and then
  // takes its smtpd_policy_service_default_action.
  void Refuse(Client& client, ServiceContext& context, absl::string_view reason) {
    Complain(context, client, reason, "; closing the connection");
    client.Disconnect();
  }

  void Complain(ServiceContext& context, const Client& client, absl::string_view reason,
                absl::string_view consequence) {
    context.log().Limited(
        LogSeverity::kWarning, "bad request", kComplaintInterval,
        absl::StrCat("bad policy request from client ", client.peer(), ": ", reason, consequence));
  }

  // The action to answer with. A list that is complete but wrong is answered like database trouble:
  // smtpd would only send it again.
  absl::string_view ActionFor(absl::string_view list, const Client& client,
                              ServiceContext& context) {
    absl::StatusOr<PolicyRequest> request = ParsePolicyRequest(list);
    if (!request.ok()) {
      Complain(context, client, request.status().message(), "");
      return on_error_.value();
    }
    absl::StatusOr<absl::optional<PolicyVerdict>> early = DecideWithoutStore(*request, settings_);
    if (!early.ok()) {
      Complain(context, client, early.status().message(), "");
      return on_error_.value();
    }
    if (early->has_value()) return ActionOf(**early);
    absl::StatusOr<PolicyVerdict> verdict = AskStore(*request, context);
    if (!verdict.ok()) return on_error_.value();
    context.log().Verbose(PolicyVerdictName(*verdict), ": client=", request->client_address,
                          " sasl_username=", request->sasl_username, " sender=", request->sender,
                          " recipient=", request->recipient);
    return ActionOf(*verdict);
  }

  absl::StatusOr<PolicyVerdict> AskStore(const PolicyRequest& request, ServiceContext& context) {
    if (posthouse::os::SteadyNanos() < next_try_ns_) {
      return absl::UnavailableError("the database had trouble a moment ago");
    }
    PolicyVerdict verdict = PolicyVerdict::kNoOpinion;
    const absl::Status status = store_->Run([&](PolicyTransaction& transaction) -> absl::Status {
      // Read under the lock, so that the order of times is that of the decisions.
      const int64_t now = WallMilliseconds();
      absl::StatusOr<PolicyVerdict> decided = Decide(request, settings_, now, transaction);
      if (decided.ok()) verdict = *decided;
      return decided.status();
    });
    if (!status.ok()) {
      Trouble(context, status);
      return status;
    }
    trouble_since_ns_ = 0;
    return verdict;
  }

  void Trouble(ServiceContext& context, const absl::Status& status) {
    const int64_t now_ns = posthouse::os::SteadyNanos();
    if (trouble_since_ns_ == 0) trouble_since_ns_ = now_ns;
    next_try_ns_ = now_ns + absl::ToInt64Nanoseconds(kTroublePause);
    context.log().Limited(
        LogSeverity::kWarning, "database", kComplaintInterval,
        absl::StrCat(status.message(), "; answering \"", on_error_.value(), "\" until it works"));
    if (out_of_reach_ && !store_->is_open() &&
        now_ns - trouble_since_ns_ > absl::ToInt64Nanoseconds(kTroubleLimit)) {
      context.log().Info("ending, so that the next process opens the database anew");
      context.RequestExit();
    }
  }

  absl::string_view ActionOf(PolicyVerdict verdict) const {
    switch (verdict) {
      case PolicyVerdict::kGreylisted:
        return greylist_action_.value();
      case PolicyVerdict::kRateLimited:
        return rate_action_.value();
      case PolicyVerdict::kNoOpinion:
      case PolicyVerdict::kOptedOut:
      case PolicyVerdict::kAllowed:
      case PolicyVerdict::kWhitelisted:
        break;
    }
    return "DUNNO";
  }

  static void OnCleanup(int, void* self) {
    auto* policyd = static_cast<Policyd*>(self);
    policyd->cleanup_->Start(policyd->CleanUp());
  }

  // One step; the time until the next one.
  absl::Duration CleanUp() {
    if (!out_of_reach_ && store_->is_open() && !store_->PathIsCurrent()) {
      context_->log().Warning(absl::StrCat("database ", database_.value(),
                                           " was removed or replaced; opening it anew"));
      store_->Close();
    }
    absl::StatusOr<int> deleted = store_->DeleteExpired(WallMilliseconds(), kRowsPerCleanup);
    // Others may have more urgent work; what has expired can wait.
    if (deleted.status().code() == absl::StatusCode::kUnavailable) return cleanup_interval_.value();
    if (!deleted.ok()) {
      Trouble(*context_, deleted.status());
      return cleanup_interval_.value();
    }
    return *deleted >= kRowsPerCleanup ? kCleanupPause : cleanup_interval_.value();
  }

  using Int = posthouse::IntParameter;
  using Time = posthouse::TimeParameter;
  Time greylist_delay_{"policy_greylist_delay", "300s", {.min_seconds = 0}};
  Time retry_window_{"policy_retry_window", "2d", {.min_seconds = 1}};
  Time triplet_ttl_{"policy_triplet_ttl", "35d", {.min_seconds = 1}};
  Int auto_whitelist_passes_{"policy_auto_whitelist_passes", 5, {.min = 0}};
  Time auto_whitelist_ttl_{"policy_auto_whitelist_ttl", "35d", {.min_seconds = 1}};
  Int ipv4_prefix_{"policy_ipv4_prefix", 24, {.min = 0, .max = 32}};
  Int ipv6_prefix_{"policy_ipv6_prefix", 64, {.min = 0, .max = 128}};
  Int rate_limit_{"policy_rate_limit", 0, {.min = 0}};
  posthouse::NintParameter sasl_rate_limit_{
      "policy_sasl_rate_limit", "$policy_rate_limit", {.min = 0}};
  Time rate_period_{"policy_rate_period", "1h", {.min_seconds = 1}};
  posthouse::StringParameter opt_out_{"policy_opt_out", ""};
  posthouse::StringParameter database_{
      "policy_database", "$data_directory/policyd.sqlite", {.min = 1}};
  Time busy_timeout_{"policy_busy_timeout", "1s", {.min_seconds = 0, .max_seconds = 60}};
  Time cleanup_interval_{"policy_cleanup_interval", "5m", {.min_seconds = 1}};
  ActionParameter greylist_action_{"policy_greylist_action",
                                   "DEFER_IF_PERMIT 4.2.0 Greylisted, please try again later"};
  ActionParameter rate_action_{"policy_rate_action",
                               "450 4.7.1 Too many recipients, please try again later"};
  ActionParameter on_error_{"policy_on_error", "DUNNO"};

  PolicySettings settings_;
  std::unique_ptr<SqlitePolicyStore> store_;
  ServiceContext* context_ = nullptr;
  std::unique_ptr<posthouse::Timer> cleanup_;
  bool out_of_reach_ = false;  // the path leads elsewhere since the chroot
  int64_t trouble_since_ns_ = 0;
  int64_t next_try_ns_ = 0;
};

}  // namespace
}  // namespace examples

int main(int argc, char** argv) {
  examples::Policyd policyd;
  return posthouse::MultiServerMain(argc, argv, policyd.Options());
}

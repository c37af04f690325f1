// anvil counts connections and requests of remote clients for smtpd and others: a program that
// takes the place of Postfix's anvil(8), with the same protocol, parameters and statistics.
//
// Differences: requests that arrive together are all answered, a client that sends half a request
// delays nobody, and the request "tlstr" of newer Postfix versions is known. The rates are kept by
// the steady clock, so that setting the time of day neither loses nor prolongs them.

#include <time.h>

#include <algorithm>
#include <any>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "examples/anvil/anvil_protocol.h"
#include "examples/anvil/anvil_table.h"
#include "examples/lib/plain_attributes.h"
#include "posthouse/config/parameter.h"
#include "posthouse/event/event_loop.h"
#include "posthouse/event/timer.h"
#include "posthouse/os/clock.h"
#include "posthouse/server/client.h"
#include "posthouse/server/multi_server.h"
#include "posthouse/server/service_context.h"

namespace examples {
namespace {

using posthouse::Client;
using posthouse::ServiceContext;

// Idents forgotten per turn; the rest follows in the next turns.
constexpr int kExpiredPerTurn = 1000;

// The value of the first line, for the log.
absl::string_view RequestName(absl::string_view list) {
  const absl::string_view line = list.substr(0, list.find('\n'));
  return line.substr(line.find('=') + 1).substr(0, 100);
}

// One connection of the protocol.
struct Session {
  AnvilTable::Holder holder;
  ListFinder finder;
};

class Anvil {
 public:
  posthouse::MultiServerOptions Options() {
    posthouse::MultiServerOptions options;
    options.serve = [this](Client& client, ServiceContext& context) { Serve(client, context); };
    options.parameters = {&rate_time_unit_, &status_update_time_};
    // The time zone's file may be out of reach after the chroot.
    options.pre_init = [](ServiceContext&) { tzset(); };
    options.post_init = [this](ServiceContext& context) { Start(context); };
    options.on_exit = [this](ServiceContext& context) { LogStatistics(context); };
    options.post_accept = [](Client& client, ServiceContext&) {
      client.state() = Session();
      client.Write(kAnvilGreeting);
    };
    options.pre_disconnect = [this](Client& client, ServiceContext& context) {
      Disconnected(client, context);
    };
    options.solitary = true;
    options.description =
        "Counts connections and requests of remote clients, as Postfix's anvil(8).";
    return options;
  }

 private:
  void Start(ServiceContext& context) {
    context_ = &context;
    table_ = std::make_unique<AnvilTable>(absl::ToInt64Nanoseconds(rate_time_unit_.value()));
    // The counts would be lost with the process.
    context.set_use_limit(0);
    if (context.idle_limit() > absl::ZeroDuration()) {
      context.set_idle_limit(std::max(context.idle_limit(), rate_time_unit_.value()));
    }
    expiry_ = std::make_unique<posthouse::Timer>(&context.loop(), &OnExpiry, this);
    status_ = std::make_unique<posthouse::Timer>(&context.loop(), &OnStatus, this);
    status_->Start(status_update_time_.value());
  }

  void Serve(Client& client, ServiceContext& context) {
    Session& session = *std::any_cast<Session>(&client.state());
    const size_t size = session.finder.Find(client.input());
    if (size == 0) return;
    const AnvilAnswer answer = AnswerAnvilRequest(client.input().substr(0, size), *table_,
                                                  session.holder, context.loop().now_ns(), &text_);
    session.finder.Reset();
    if (answer == AnvilAnswer::kWrongList) {
      context.log().Limited(posthouse::LogSeverity::kWarning, "wrong list", absl::Minutes(1),
                            absl::StrCat("client ", client.peer(), ": ", text_, "; disconnecting"));
      client.Disconnect();
      return;
    }
    if (answer == AnvilAnswer::kUnknownRequest) {
      context.log().Limited(posthouse::LogSeverity::kWarning, "unknown request", absl::Minutes(1),
                            absl::StrCat("client ", client.peer(), ": unrecognized request: \"",
                                         RequestName(client.input()), "\", ignored"));
    }
    client.Consume(size);
    client.Write(text_);
    WatchExpiry();
  }

  void Disconnected(Client& client, ServiceContext& context) {
    Session* session = std::any_cast<Session>(&client.state());
    if (session == nullptr) return;
    table_->Release(session->holder, context.loop().now_ns());
    WatchExpiry();
  }

  // Sees to it that the timer runs while something is going to expire. It is never set back: an
  // ident that came back in time costs one call in vain.
  void WatchExpiry() {
    if (table_->NextExpiryNs() == std::numeric_limits<int64_t>::max() || expiry_->pending()) return;
    const int64_t left = table_->NextExpiryNs() - context_->loop().now_ns();
    expiry_->Start(absl::Nanoseconds(std::max<int64_t>(left, 0)));
  }

  void LogStatistics(ServiceContext& context) {
    const int64_t now_ns = posthouse::os::SteadyNanos();
    const int64_t wall_ns = posthouse::os::WallNanos();
    for (const std::string& line :
         StatisticsLines(table_->TakePeaks(), rate_time_unit_.seconds(), now_ns, wall_ns)) {
      context.log().Info(line);
    }
  }

  static void OnExpiry(int, void* self) {
    auto* anvil = static_cast<Anvil*>(self);
    anvil->table_->Expire(anvil->context_->loop().now_ns(), kExpiredPerTurn);
    anvil->WatchExpiry();
  }

  static void OnStatus(int, void* self) {
    auto* anvil = static_cast<Anvil*>(self);
    anvil->LogStatistics(*anvil->context_);
    anvil->status_->Start(anvil->status_update_time_.value());
  }

  posthouse::TimeParameter rate_time_unit_{"anvil_rate_time_unit", "60s", {.min_seconds = 1}};
  posthouse::TimeParameter status_update_time_{
      "anvil_status_update_time", "600s", {.min_seconds = 1}};
  ServiceContext* context_ = nullptr;
  std::unique_ptr<AnvilTable> table_;
  std::unique_ptr<posthouse::Timer> expiry_;
  std::unique_ptr<posthouse::Timer> status_;
  std::string text_;  // kept, so that a reply needs no allocation
};

}  // namespace
}  // namespace examples

int main(int argc, char** argv) {
  examples::Anvil anvil;
  return posthouse::MultiServerMain(argc, argv, anvil.Options());
}

#include "posthouse/server/service_context.h"

#include "posthouse/server/worker.h"

namespace posthouse {

const std::string& ServiceContext::name() const { return worker_->name(); }
const std::vector<std::string>& ServiceContext::arguments() const {
  return worker_->command_line().arguments;
}
const ParameterStore& ServiceContext::parameters() const { return worker_->store(); }
EventLoop& ServiceContext::loop() { return worker_->loop(); }
Log& ServiceContext::log() { return worker_->log(); }
int ServiceContext::use_limit() const { return worker_->use_limit(); }
void ServiceContext::set_use_limit(int connections) { worker_->set_use_limit(connections); }
absl::Duration ServiceContext::idle_limit() const { return worker_->idle_limit(); }
void ServiceContext::set_idle_limit(absl::Duration limit) { worker_->set_idle_limit(limit); }
int ServiceContext::client_count() const { return worker_->client_count(); }
int ServiceContext::use_count() const { return worker_->use_count(); }
absl::Status ServiceContext::Drain() { return worker_->Drain(); }
bool ServiceContext::draining() const { return worker_->draining(); }
void ServiceContext::PatWatchdog() { worker_->PatWatchdog(); }
void ServiceContext::RequestExit() { worker_->RequestExit(); }

}  // namespace posthouse

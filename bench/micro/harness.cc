#include "bench/micro/harness.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bench/micro/shifted_clock.h"

namespace bench {
namespace {

[[noreturn]] void Exit(int status, const std::string& what) {
  fprintf(stderr, "%s: %s\n", program_invocation_short_name, what.c_str());
  exit(status);
}

int64_t ThreadCpuNs() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<int64_t>(now.tv_sec) * kNsPerSecond + now.tv_nsec;
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

void Fail(const std::string& what) { Exit(1, what); }

void FailErrno(const std::string& call) { Fail(call + ": " + strerror(errno)); }

void Misuse(const std::string& what) { Exit(2, what); }

void Unsupported(const std::string& why) {
  puts("unsupported");
  Exit(3, why);
}

Options::Options(int argc, char** argv) {
  if (argc < 2) Misuse("WORKLOAD key=value ... expected");
  workload_ = argv[1];
  for (int i = 2; i < argc; ++i) {
    const char* equals = strchr(argv[i], '=');
    if (equals == nullptr) Misuse(std::string("not key=value: ") + argv[i]);
    values_[std::string(argv[i], equals - argv[i])] = equals + 1;
  }
}

std::string Options::Text(const std::string& key, const std::string& fallback) {
  read_[key] = true;
  const auto found = values_.find(key);
  return found == values_.end() ? fallback : found->second;
}

int64_t Options::Integer(const std::string& key, int64_t fallback) {
  const std::string text = Text(key, std::to_string(fallback));
  char* end = nullptr;
  const int64_t value = strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < 0) Misuse("not a count: " + key + "=" + text);
  return value;
}

double Options::Real(const std::string& key, double fallback) {
  const std::string text = Text(key, std::to_string(fallback));
  char* end = nullptr;
  const double value = strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= 0)) Misuse("not a number: " + key + "=" + text);
  return value;
}

void Options::RefuseUnread() const {
  for (const auto& [key, value] : values_) {
    if (read_.find(key) == read_.end()) Misuse("unknown here: " + key + "=" + value);
  }
}

Stopwatch::Stopwatch() {
  overhead_ = {kNsPerSecond, kNsPerSecond};
  Reading least = overhead_;
  overhead_ = {0, 0};
  for (int i = 0; i < 1000; ++i) {
    Start();
    const Reading taken = Stop();
    least.cpu_ns = std::min(least.cpu_ns, taken.cpu_ns);
    least.wall_ns = std::min(least.wall_ns, taken.wall_ns);
  }
  overhead_ = least;
}

void Stopwatch::Start() {
  start_.wall_ns = RealSteadyNs();
  start_.cpu_ns = ThreadCpuNs();
}

Reading Stopwatch::Stop() {
  const int64_t cpu = ThreadCpuNs();
  const int64_t wall = RealSteadyNs();
  return {std::max<int64_t>(cpu - start_.cpu_ns - overhead_.cpu_ns, 0),
          std::max<int64_t>(wall - start_.wall_ns - overhead_.wall_ns, 0)};
}

Length::Length(Options* options)
    : seconds(options->Real("seconds", 0.25)),
      ops(options->Integer("ops", 0)),
      check(options->Integer("check", 0) != 0),
      limit_seconds(options->Integer("limit", 600)) {}

void Samples::Add(int64_t ops, Reading taken) {
  if (ops <= 0) return;
  ops_ += ops;
  cpu_ns_.push_back(static_cast<double>(taken.cpu_ns) / static_cast<double>(ops));
  wall_ns_.push_back(static_cast<double>(taken.wall_ns) / static_cast<double>(ops));
}

double Samples::cpu_ns() const { return Median(cpu_ns_); }

double Samples::wall_ns() const { return Median(wall_ns_); }

double Samples::best_cpu_ns() const {
  return cpu_ns_.empty() ? 0 : *std::min_element(cpu_ns_.begin(), cpu_ns_.end());
}

void Report::Add(const std::string& name, const std::string& value) {
  if (!line_.empty()) line_ += ' ';
  line_ += name + '=' + value;
}

void Report::Add(const std::string& name, int64_t value) { Add(name, std::to_string(value)); }

void Report::AddNs(const std::string& name, double value) {
  char text[64];
  snprintf(text, sizeof(text), "%.3f", value);
  Add(name, std::string(text));
}

void Report::AddSamples(const Samples& samples) {
  AddNs("cpu_ns", samples.cpu_ns());
  AddNs("wall_ns", samples.wall_ns());
  Add("ops", samples.ops());
  AddNs("best_cpu_ns", samples.best_cpu_ns());
  Add("chunks", samples.chunks());
}

void Report::Print() const { puts(line_.c_str()); }

int64_t RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) FailErrno("getrlimit");
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) FailErrno("setrlimit");
  constexpr rlim_t kPlenty = 1000 * 1000;
  return static_cast<int64_t>(std::min(limit.rlim_max, kPlenty));
}

// SplitMix64 of Steele, Lea and Flood.
uint64_t Random::Next() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::vector<uint32_t> Random::Permutation(int64_t count) {
  std::vector<uint32_t> order(static_cast<size_t>(count));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  for (int64_t i = count - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(Below(i + 1))]);
  }
  return order;
}

}  // namespace bench

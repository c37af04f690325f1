#include "posthouse/master/spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"
#include "posthouse/master/protocol.h"

// AddressSanitizer knows the stacks of threads only, and must not follow the child to its own.
#if defined(__SANITIZE_ADDRESS__)
#define POSTHOUSE_ON_FOREIGN_STACK __attribute__((no_sanitize_address))
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POSTHOUSE_ON_FOREIGN_STACK __attribute__((no_sanitize("address")))
#endif
#endif
#if !defined(POSTHOUSE_ON_FOREIGN_STACK)
#define POSTHOUSE_ON_FOREIGN_STACK
#endif

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

namespace posthouse {
namespace {

constexpr mode_t kWorkerUmask = 077;

// What the child calls needs some hundred bytes; sanitizers and the dynamic linker, which may have
// to resolve a function on the way, need more.
constexpr size_t kStackSize = 64 * 1024;
// Below the stack lies as much that may not be touched; larger than any page.
constexpr size_t kGuardSize = 64 * 1024;

// At the upper end of the stack; a multiple of what any system wants a stack to be aligned to.
constexpr size_t kPlanSpace = 256;

// The calls of the child that can fail.
enum class Step : int { kNone, kDuplicate, kMove, kInherit, kLimit, kExecute };

// What the child works on, made before it exists.
struct Plan {
  const char* program;
  char* const* arguments;
  char* const* environment;
  int* sources;  // by number in the worker, from kFirstTarget on; changed by the child
  int count;
  const WorkerLimit* limits;
  size_t limit_count;
  // The child's answer. It reaches the parent because this lies in shared memory, whether the child
  // has borrowed ours or has a copy.
  int error;
  Step step;
  int number;  // the descriptor that the failed step was about
};

constexpr int kFirstTarget = MasterDescriptors().flow_read;

// Memory for one child: guard, stack, and above it the plan.
class ChildMemory {
 public:
  static absl::StatusOr<ChildMemory> Map() {
    void* const start =
        os::Mmap(nullptr, kGuardSize + kStackSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of a worker's first stack");
    ChildMemory memory(start);
    void* const stack =
        os::Mmap(static_cast<char*>(start) + kGuardSize, kStackSize, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (stack == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of a worker's first stack");
    return memory;
  }
  ~ChildMemory() {
    if (start_ != nullptr) os::Munmap(start_, kGuardSize + kStackSize);
  }
  ChildMemory(ChildMemory&& other) noexcept : start_(other.start_) { other.start_ = nullptr; }
  ChildMemory& operator=(ChildMemory&&) = delete;

  Plan* plan() const {
    static_assert(sizeof(Plan) <= kPlanSpace, "the plan fits");
    return reinterpret_cast<Plan*>(static_cast<char*>(start_) + kGuardSize + kStackSize -
                                   kPlanSpace);
  }
  // Stacks grow down from here, on every system that we know.
  void* stack_top() const { return plan(); }

 private:
  explicit ChildMemory(void* start) : start_(start) {}
  void* start_;
};

// The functions from here to RunChild() run in the child. Async-signal-safe.

POSTHOUSE_ON_FOREIGN_STACK bool Fail(Plan* plan, Step step, int number) {
  plan->error = errno;
  plan->step = step;
  plan->number = number;
  return false;
}

// Nothing can be in the way of a move whose source lies outside the numbers to be filled: those
// inside that are not where they belong are duplicated out of there first. Thus any numbers work,
// in any order, the same one several times included (F34, unlike P7).
POSTHOUSE_ON_FOREIGN_STACK bool MoveDescriptors(Plan* plan) {
  const int end = kFirstTarget + plan->count;
  for (int i = 0; i < plan->count; ++i) {
    const int source = plan->sources[i];
    if (source < kFirstTarget || source >= end || source == kFirstTarget + i) continue;
    plan->sources[i] = os::Fcntl(source, F_DUPFD_CLOEXEC, end);
    if (plan->sources[i] < 0) return Fail(plan, Step::kDuplicate, source);
  }
  for (int i = 0; i < plan->count; ++i) {
    const int source = plan->sources[i];
    const int target = kFirstTarget + i;
    if (source == target) {
      if (os::Fcntl(target, F_SETFD, 0) < 0) return Fail(plan, Step::kInherit, target);
    } else if (os::Dup2(source, target) < 0) {
      return Fail(plan, Step::kMove, source);
    }
  }
#if defined(CLOSE_RANGE_CLOEXEC)
  // Everything is close-on-exec from its creation on (F31); this is for what is not ours, such as
  // what a library has opened. Kernels before 5.11 refuse, and nothing is lost.
  static_cast<void>(os::CloseRange(static_cast<unsigned>(end), ~0u, CLOSE_RANGE_CLOEXEC));
#endif
  return true;
}

// Handlers first: until then a signal would run one of the parent's on the parent's memory.
POSTHOUSE_ON_FOREIGN_STACK void ResetSignals() {
  struct sigaction action;
  std::memset(&action, 0, sizeof(action));
  for (int signal = 1; signal < NSIG; ++signal) {
    action.sa_handler = signal == SIGPIPE ? SIG_IGN : SIG_DFL;
    // SIGKILL, SIGSTOP and those that the C library keeps for itself refuse.
    static_cast<void>(os::Sigaction(signal, &action, nullptr));
  }
  sigset_t none;
  sigemptyset(&none);
  os::Sigmask(SIG_SETMASK, &none, nullptr);
}

// Alarms need nothing: a new process has none.
POSTHOUSE_ON_FOREIGN_STACK int RunChild(void* argument) {
  Plan* const plan = static_cast<Plan*>(argument);
  if (!MoveDescriptors(plan)) return 1;
  os::Umask(kWorkerUmask);
  for (size_t i = 0; i < plan->limit_count; ++i) {
    if (os::Setrlimit(plan->limits[i].resource, &plan->limits[i].limit) != 0) {
      Fail(plan, Step::kLimit, static_cast<int>(plan->limits[i].resource));
      return 1;
    }
  }
  ResetSignals();
  os::Execve(plan->program, plan->arguments, plan->environment);
  Fail(plan, Step::kExecute, -1);
  return 1;  // P56
}

// From here on the parent again.

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

std::vector<int> Sources(const SpawnRequest& request) {
  std::vector<int> sources = {request.flow_read, request.flow_write, request.status};
  sources.insert(sources.end(), request.listeners.begin(), request.listeners.end());
  for (const int fd : sources) POSTHOUSE_CHECK(fd >= 0, "a descriptor for a worker is missing");
  return sources;
}

absl::Status Answer(const Plan& plan) {
  switch (plan.step) {
    case Step::kNone:
      return absl::OkStatus();
    case Step::kDuplicate:
    case Step::kMove:
      return absl::ErrnoToStatus(
          plan.error, absl::StrCat("duplicating descriptor ", plan.number, " for ", plan.program));
    case Step::kInherit:
      return absl::ErrnoToStatus(
          plan.error, absl::StrCat("handing descriptor ", plan.number, " to ", plan.program));
    case Step::kLimit:
      return absl::ErrnoToStatus(
          plan.error, absl::StrCat("setrlimit of resource ", plan.number, " for ", plan.program));
    case Step::kExecute:
      break;
  }
  return absl::ErrnoToStatus(plan.error, absl::StrCat("execve of ", plan.program));
}

}  // namespace

absl::StatusOr<Spawned> SpawnWorker(const SpawnRequest& request) {
  static_assert(MasterDescriptors().flow_write == kFirstTarget + 1 &&
                    MasterDescriptors().status == kFirstTarget + 2 &&
                    MasterDescriptors().first_listen == kFirstTarget + 3,
                "Sources() lists them in their order");
  const std::vector<char*> arguments = Pointers(request.arguments);
  const std::vector<char*> environment = Pointers(request.environment);
  std::vector<int> sources = Sources(request);
  absl::StatusOr<ChildMemory> memory = ChildMemory::Map();
  if (!memory.ok()) return memory.status();
  Plan* const plan = new (memory->plan()) Plan{request.program.c_str(),
                                               arguments.data(),
                                               environment.data(),
                                               sources.data(),
                                               static_cast<int>(sources.size()),
                                               request.limits.data(),
                                               request.limits.size(),
                                               0,
                                               Step::kNone,
                                               -1};
  sigset_t all, old;
  sigfillset(&all);
  os::Sigmask(SIG_SETMASK, &all, &old);
  const int pid = os::Clone(&RunChild, memory->stack_top(), os::kCloneBorrow, plan);
  const int error = errno;
  os::Sigmask(SIG_SETMASK, &old, nullptr);
  if (pid < 0) return absl::ErrnoToStatus(error, absl::StrCat("clone for ", request.program));
  return Spawned{pid, Answer(*plan)};
}

}  // namespace posthouse

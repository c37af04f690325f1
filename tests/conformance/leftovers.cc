#include "tests/conformance/leftovers.h"

#include "tests/conformance/processes.h"
#include "tests/conformance/wait.h"

namespace posthouse::conformance {

void Leftovers::SetUp() {
  // From here on whoever is orphaned below us becomes our child, so that children are all there is
  // to look at.
  BecomeSubreaper();
  descriptors_ = OwnDescriptors();
}

void Leftovers::TearDown() {
  EXPECT_EQ(OwnDescriptors(), descriptors_);
  const bool none = Eventually(absl::Seconds(10), [] {
    for (pid_t pid : Children()) Reap(pid);
    return Children().empty();
  });
  EXPECT_TRUE(none);
  for (pid_t pid : Children()) {
    const absl::optional<ProcessInfo> info = InspectProcess(pid);
    ADD_FAILURE() << "left behind: process " << pid << " " << (info ? info->executable : "");
  }
}

namespace {
const testing::Environment* const registered = testing::AddGlobalTestEnvironment(new Leftovers);
}  // namespace

}  // namespace posthouse::conformance

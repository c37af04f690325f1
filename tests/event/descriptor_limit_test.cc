#include "posthouse/event/descriptor_limit.h"

#include <errno.h>

#include "gtest/gtest.h"
#include "posthouse/os/os.h"
#include "posthouse/testing/interposer.h"
#include "posthouse/testing/status_matchers.h"

namespace posthouse {
namespace {

class DescriptorLimitTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(os::Getrlimit(RLIMIT_NOFILE, &original_), 0); }
  void TearDown() override { os::Setrlimit(RLIMIT_NOFILE, &original_); }

  rlim_t Soft() {
    rlimit limit = {};
    os::Getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
  }
  void SetSoft(rlim_t soft) {
    rlimit limit = original_;
    limit.rlim_cur = soft;
    ASSERT_EQ(os::Setrlimit(RLIMIT_NOFILE, &limit), 0);
  }

  ScopedInterposer system_;
  rlimit original_ = {};
};

TEST_F(DescriptorLimitTest, EO15_ItIsRaisedOnRequestAndNeverLowered) {
  SetSoft(200);
  EXPECT_THAT(DescriptorLimit(), IsOkAndHolds(200));
  EXPECT_THAT(RaiseDescriptorLimit(300), IsOkAndHolds(300));
  EXPECT_EQ(Soft(), 300u);
  EXPECT_THAT(RaiseDescriptorLimit(100), IsOkAndHolds(300));
  EXPECT_EQ(Soft(), 300u);
  EXPECT_THAT(RaiseDescriptorLimit(), IsOkAndHolds(static_cast<int>(original_.rlim_max)));
  EXPECT_EQ(Soft(), original_.rlim_max);
}

TEST_F(DescriptorLimitTest, FailuresAreStatuses) {
  SetSoft(200);
  system_->FailOnce(SystemCall::kGetrlimit, EPERM);
  EXPECT_THAT(DescriptorLimit(), StatusIs(absl::StatusCode::kPermissionDenied));
  system_->FailOnce(SystemCall::kSetrlimit, EPERM);
  EXPECT_THAT(RaiseDescriptorLimit(300), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_EQ(Soft(), 200u);
}

}  // namespace
}  // namespace posthouse

#include "tests/conformance/suite/master_fixture.h"

#include <signal.h>

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace posthouse::conformance {

bool MasterFixture::Gone(pid_t pid) {
  return Eventually(kBound, [&] { return kill(pid, 0) != 0; });
}

bool MasterFixture::StartsAnother(absl::string_view service, const std::vector<pid_t>& stopped) {
  const size_t before = Starts(service);
  for (pid_t pid : stopped) EXPECT_EQ(kill(pid, SIGSTOP), 0);
  Connection client = master_.Connect(absl::StrCat("private/", service));
  // Long enough for a master that is going to; one that is not costs this time.
  const bool started = Eventually(kAWhile, [&] { return Starts(service) > before; });
  for (pid_t pid : stopped) EXPECT_EQ(kill(pid, SIGCONT), 0);
  return started;
}

void MasterFixture::ReloadWith(const std::string& services, const std::string& parameters) {
  // Services are started in the order of the file, and this is the last one: a fifo, which is there
  // or not without anybody being started by the look. Its name is new each time, since those of
  // earlier ones stay.
  static int number = 0;
  const std::string name = absl::StrCat("mark", ++number);
  ASSERT_TRUE(master_.Running()) << "the master does not run";
  master_.SetParameters(parameters);
  master_.SetServices(absl::StrCat(services, name, " fifo n n n - 1 probe\n"));
  master_.Reload();
  ASSERT_TRUE(
      Eventually(kBound, [&] { return std::filesystem::exists(master_.Queue("public/" + name)); }))
      << "no effect of the reload; log: " << master_.Log();
}

}  // namespace posthouse::conformance

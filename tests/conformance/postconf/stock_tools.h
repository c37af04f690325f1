// Runs the stock programs of this machine that read main.cf, many at a time: postconf, and smtpd in
// its one-shot form, whose greeting shows an expanded parameter. Each run has a configuration
// directory and a queue directory of its own; those of the system are not touched.

#ifndef POSTHOUSE_TESTS_CONFORMANCE_POSTCONF_STOCK_TOOLS_H_
#define POSTHOUSE_TESTS_CONFORMANCE_POSTCONF_STOCK_TOOLS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace posthouse::conformance {

inline constexpr char kStockPostconf[] = "/usr/sbin/postconf";
inline constexpr char kStockSmtpd[] = "/usr/lib/postfix/sbin/smtpd";

// What a program said, and how it ended: its exit status, or minus the signal that killed it.
struct Outcome {
  int status = -1;
  std::string output;
  std::string errors;
};

struct Job {
  std::vector<std::string> command;
  std::vector<std::string> environment;
};

// Runs all of them, several at a time; the outcomes are in the order of the jobs. A program that
// takes longer than a generous bound is killed.
std::vector<Outcome> RunAll(const std::vector<Job>& jobs, const std::string& scratch);

// Scratch directories with a main.cf each.
class StockTools {
 public:
  // `scratch` exists and is empty.
  explicit StockTools(std::string scratch);

  // A new configuration directory with this main.cf, dated long ago so that nobody waits for it to
  // become quiet (C8). Returns the directory.
  std::string MakeConfiguration(absl::string_view main_cf);

  // The values that "postconf OPTIONS NAME..." prints, one per name; nothing if their number is not
  // that of the names.
  absl::optional<std::vector<std::string>> Postconf(const std::string& directory,
                                                    const std::string& options,
                                                    const std::vector<std::string>& names);

  // main.cf with what a private smtpd needs behind it, and with `banner` as its greeting.
  std::string WithSmtpdSettings(absl::string_view main_cf, absl::string_view banner) const;
  // Starts smtpd once for each main.cf. What it greets with, without "220 "; nothing where it ends
  // without a greeting.
  std::vector<absl::optional<std::string>> Banners(const std::vector<std::string>& main_cfs);

 private:
  std::string scratch_;
  int directories_ = 0;
};

}  // namespace posthouse::conformance

#endif  // POSTHOUSE_TESTS_CONFORMANCE_POSTCONF_STOCK_TOOLS_H_

// Reading of main.cf: definitions and the file itself (C3 to C22).
//
// Parsing works on a text without files or globals, so that any byte string can be tried (F118).
// Every problem names file, line and text; all of them are reported, not only the first (CO4).

#ifndef POSTHOUSE_CONFIG_MAIN_CF_H_
#define POSTHOUSE_CONFIG_MAIN_CF_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/logical_lines.h"
#include "posthouse/config/parameter_store.h"

namespace posthouse {

// "name = value" split as C17 to C19 say. kInvalidArgument says whether the name or the "=" is
// missing.
struct Definition {
  std::string name;
  std::string value;
};
absl::Status SplitDefinition(absl::string_view text, Definition* definition);

// Puts all definitions of `text` into `store`. Warnings (C15, C20, CO1) are appended. The status
// lists every bad line (C19); good ones are stored all the same.
absl::Status ParseMainCf(absl::string_view file, absl::string_view text, ParameterStore* store,
                         std::vector<std::string>* warnings);

struct MainCfOptions {
  // C8: a file that is being edited is read again until it has been quiet for a moment. Off for
  // tests that have just written it.
  bool wait_until_quiet = true;
  // F104: larger files are refused.
  size_t max_bytes = 16 << 20;
};

// The directory of main.cf: the environment's MAIL_CONFIG if it is there, else `built_in` (C3).
std::string ConfigDirectory(const char* mail_config_variable, absl::string_view built_in);

// Reads the file into memory once and parses it. kNotFound when it does not exist, so that a
// program without a master can go on with defaults; kPermissionDenied, kInvalidArgument (not a
// regular file, too large, bad lines) name the path.
absl::Status ReadMainCf(const std::string& path, const MainCfOptions& options,
                        ParameterStore* store, std::vector<std::string>* warnings);

// One "-o" argument (C42): the error quotes it.
absl::Status ApplyOverride(absl::string_view argument, ParameterStore* store,
                           std::vector<std::string>* warnings);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_MAIN_CF_H_

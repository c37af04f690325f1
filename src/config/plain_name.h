// Names of master.cf that become paths (F115, F94): services below "private" and "public", programs
// below daemon_directory. A name that could leave its directory, or that a log line or a shell
// could misread, is refused when the configuration is read.
//
// Letters, digits and -_.+:@=,%~ make a plain name; it is not ".", "..", empty, or longer than 255
// bytes. Errors: kInvalidArgument saying what is wrong, without the name. Thread: any.

#ifndef POSTHOUSE_CONFIG_PLAIN_NAME_H_
#define POSTHOUSE_CONFIG_PLAIN_NAME_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace posthouse {

// One directory or file name.
absl::Status CheckPlainName(absl::string_view name);

// Plain names with "/" between them (M44).
absl::Status CheckServiceName(absl::string_view name);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_PLAIN_NAME_H_

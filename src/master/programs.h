// Are the programs that a master would run as root out of the reach of others (F115)?
//
// The existence of a program is not required (M38): it may be installed later, and its absence is
// the matter of the worker that cannot start. Thread: any.

#ifndef POSTHOUSE_MASTER_PROGRAMS_H_
#define POSTHOUSE_MASTER_PROGRAMS_H_

#include <string>

#include "absl/status/status.h"

namespace posthouse {

// The program directory itself. kNotFound when it cannot be looked at; kPermissionDenied, with one
// problem per line, when another account than root and our own could put programs there.
absl::Status CheckProgramDirectory(const std::string& directory);

// directory/command, `command` being a plain name. kNotFound when there is no such file;
// kPermissionDenied when others can change what would run: the file is no regular file of root or
// of our own, it can be written by group or others, or a symbolic link leads out of the directory
// (which `allow_links` permits).
absl::Status CheckProgram(const std::string& directory, const std::string& command,
                          bool allow_links);

}  // namespace posthouse

#endif  // POSTHOUSE_MASTER_PROGRAMS_H_

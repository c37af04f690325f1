#include "posthouse/io/unix_address.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "posthouse/base/check.h"

namespace posthouse {

absl::Status CheckSocketPath(absl::string_view path) {
  if (path.empty()) return absl::InvalidArgumentError("the path is empty");
  if (path.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("the path has a NUL byte");
  }
  if (path.size() > kMaxSocketPathSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("the path has ", path.size(), " bytes, the limit is ", kMaxSocketPathSize));
  }
  return absl::OkStatus();
}

UnixAddress::UnixAddress(absl::string_view path)
    : length_(static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1)) {
  POSTHOUSE_CHECK(path.size() <= kMaxSocketPathSize, "a socket's path fits into its address");
  address_.sun_family = AF_UNIX;
  std::memcpy(address_.sun_path, path.data(), path.size());
}

}  // namespace posthouse

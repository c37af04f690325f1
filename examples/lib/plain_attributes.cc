#include "examples/lib/plain_attributes.h"

#include "absl/strings/str_cat.h"

namespace examples {

size_t ListFinder::Find(absl::string_view input) {
  if (!input.empty() && input.front() == '\n') return 1;  // a list without attributes
  const size_t end = input.find("\n\n", searched_);
  if (end != absl::string_view::npos) return end + 2;
  // The last byte may be the first half of what is looked for.
  searched_ = input.empty() ? 0 : input.size() - 1;
  return 0;
}

bool AttributeReader::Next(Attribute* attribute) {
  if (error_ != nullptr) return false;
  const size_t end = rest_.find('\n');
  if (end == absl::string_view::npos) {
    error_ = "the list does not end with an empty line";
    return false;
  }
  const absl::string_view line = rest_.substr(0, end);
  if (line.empty()) return false;  // stays here: the list has ended
  const size_t equals = line.find('=');
  if (equals == absl::string_view::npos) {
    error_ = "a line has no \"=\"";
  } else if (equals == 0) {
    error_ = "a line has no name before its \"=\"";
  } else if (line.find('\0') != absl::string_view::npos) {
    error_ = "a line has a NUL byte";
  }
  if (error_ != nullptr) return false;
  attribute->name = line.substr(0, equals);
  attribute->value = line.substr(equals + 1);
  rest_.remove_prefix(end + 1);
  return true;
}

void AppendAttribute(absl::string_view name, absl::string_view value, std::string* out) {
  absl::StrAppend(out, name, "=",
                  value.substr(0, value.find_first_of(absl::string_view("\n\0", 2))), "\n");
}

}  // namespace examples

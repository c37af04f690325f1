// The plain encoding of Postfix attribute lists (D3), read from a growing buffer and written.
//
//   request=connect        <- name, "=", value, LF
//   ident=smtp:192.0.2.1
//                          <- an empty line ends the list
//
// Reading has two steps, so that a list may arrive in any number of pieces: a ListFinder says
// where the first complete list of the buffer ends, an AttributeReader walks through it.
//
//   const size_t size = finder.Find(client.input());
//   if (size == 0) return;  // not complete yet
//   AttributeReader reader(client.input().substr(0, size));
//   Attribute attribute;
//   while (reader.Next(&attribute)) ...
//   if (reader.malformed()) ... reader.error() ...
//
// Thread: a value. Errors: a malformed list has a sentence that says why. Nothing here allocates.

#ifndef EXAMPLES_LIB_PLAIN_ATTRIBUTES_H_
#define EXAMPLES_LIB_PLAIN_ATTRIBUTES_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace examples {

struct Attribute {
  absl::string_view name;
  absl::string_view value;
};

// Finds the end of the first list in a buffer that grows at its end. What was searched once is not
// searched again, so a list that arrives byte by byte costs no more than its length.
class ListFinder {
 public:
  // The size of the first list of `input` with its empty line; 0 while it is not complete. Between
  // two calls `input` only grows, unless Reset() says that its front was consumed.
  size_t Find(absl::string_view input);
  void Reset() { searched_ = 0; }

 private:
  size_t searched_ = 0;
};

// Walks through one complete list, as ListFinder delimits it.
class AttributeReader {
 public:
  // `list` must outlive the reader and the attributes it hands out.
  explicit AttributeReader(absl::string_view list) : rest_(list) {}

  // The next attribute; false at the end of the list and for ever after a malformed line.
  bool Next(Attribute* attribute);

  // Whether the list broke the encoding, and how. A line without "=", with an empty name, or with
  // a NUL does; so does a list without its empty line.
  bool malformed() const { return error_ != nullptr; }
  absl::string_view error() const { return error_ == nullptr ? "" : error_; }

 private:
  absl::string_view rest_;
  const char* error_ = nullptr;
};

// Appends one attribute. `value` is written up to its first LF or NUL, which the encoding cannot
// carry.
void AppendAttribute(absl::string_view name, absl::string_view value, std::string* out);

}  // namespace examples

#endif  // EXAMPLES_LIB_PLAIN_ATTRIBUTES_H_

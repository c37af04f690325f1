// Names in main.cf that look like misspelt parameters (F117).
//
// main.cf is shared by all of Postfix, and anybody may define names of his own (C7), so a worker
// cannot call a name unknown because it does not know it. What it can see: a name that differs by
// one edit (a character more, less, another, or two neighbours exchanged) from a parameter that it
// loads, and that no value refers to. No parameter of stock Postfix is that close to one that every
// daemon loads.

#ifndef POSTHOUSE_CONFIG_MISSPELLING_H_
#define POSTHOUSE_CONFIG_MISSPELLING_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "posthouse/config/parameter.h"
#include "posthouse/config/parameter_store.h"

namespace posthouse {

// True if one edit makes `b` of `a`; false for equal names.
bool OneEditApart(absl::string_view a, absl::string_view b);

// To be called once all parameters are loaded, `loaded` being all of them. Each suspicious name is
// one warning with its place and the name that was probably meant, a bounded number of them. In a
// strict store they are an error instead.
absl::Status ReportMisspellings(absl::Span<Parameter* const> loaded, const ParameterStore& store,
                                std::vector<std::string>* warnings);

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_MISSPELLING_H_

#include "posthouse/master/known_ports.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "posthouse/config/text.h"

namespace posthouse {
namespace {

using config_internal::BoundedReports;
using config_internal::Quoted;

bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

bool HasBlank(absl::string_view text) {
  return std::any_of(text.begin(), text.end(), absl::ascii_isspace);
}

}  // namespace

KnownPorts::KnownPorts(absl::string_view list, std::vector<std::string>* warnings) {
  BoundedReports reports("associations of known_tcp_ports that are skipped");
  for (const absl::string_view association : absl::StrSplit(list, ',', absl::SkipEmpty())) {
    const std::string problem = AddAssociation(association);
    if (problem.empty()) continue;
    reports.Add(absl::StrCat("known_tcp_ports: in ", Quoted(association), ": ", problem));
  }
  for (std::string& report : reports.Take()) warnings->push_back(std::move(report));
}

std::string KnownPorts::AddAssociation(absl::string_view association) {
  const size_t last = association.rfind('=');
  if (last == absl::string_view::npos) return "it is not of the form \"name = port\"";
  const absl::string_view port = absl::StripAsciiWhitespace(association.substr(last + 1));
  if (port.empty()) return "no port behind the \"=\"";
  if (HasBlank(port)) return "white space in the port number";
  std::string problem;
  for (absl::string_view name : absl::StrSplit(association.substr(0, last), '=')) {
    const std::string found = AddName(absl::StripAsciiWhitespace(name), port);
    if (problem.empty()) problem = found;
  }
  return problem;
}

std::string KnownPorts::AddName(absl::string_view name, absl::string_view port) {
  if (name.empty()) return "no name before the \"=\"";
  if (HasBlank(name)) return "white space in the name";
  if (IsNumber(name)) return "the name is a number";
  if (!IsNumber(port)) return "the port is no number";
  if (port.size() > 5 || (port.size() == 5 && port > "65535")) return "port number out of range";
  if (!ports_.try_emplace(std::string(name), port).second) return "the name is known already";
  return "";
}

absl::string_view KnownPorts::Filter(absl::string_view port) const {
  const auto found = ports_.find(port);
  return found == ports_.end() ? port : absl::string_view(found->second);
}

}  // namespace posthouse

#include "posthouse/config/parameter.h"

#include <algorithm>
#include <climits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "posthouse/base/check.h"
#include "posthouse/config/expand.h"
#include "posthouse/config/text.h"

namespace posthouse {
namespace {

using config_internal::NumberPrefix;
using config_internal::ParseNumberPrefix;
using config_internal::Quoted;

constexpr absl::string_view kTimeUnits = "smhdw";

int SecondsOfUnit(char unit) {
  switch (unit) {
    case 'm':
      return 60;
    case 'h':
      return 60 * 60;
    case 'd':
      return 24 * 60 * 60;
    case 'w':
      return 7 * 24 * 60 * 60;
    default:
      return 1;
  }
}

// What a parameter is made of: its text after expansion, and for messages where that came from.
struct Source {
  std::string text;
  std::string raw;
  std::string origin;
};

absl::Status Failure(const Parameter& parameter, absl::string_view origin, absl::StatusCode code,
                     absl::string_view sentence) {
  return absl::Status(code, absl::StrCat(origin, ": parameter ", parameter.name(), ": ", sentence));
}

// `sentence` is about the value: "is below the minimum 1".
absl::Status BadValue(const Parameter& parameter, const Source& source, absl::StatusCode code,
                      absl::string_view sentence) {
  std::string text = absl::StrCat("value ", Quoted(source.text));
  if (source.raw != source.text) absl::StrAppend(&text, " (from ", Quoted(source.raw), ")");
  return Failure(parameter, source.origin, code, absl::StrCat(text, " ", sentence));
}

absl::StatusOr<Source> ExpandedDefault(const Parameter& parameter, const std::string& raw,
                                       const ParameterStore& store) {
  absl::StatusOr<std::string> text = Expand(raw, store);
  if (!text.ok())
    return Failure(parameter, "default", text.status().code(), text.status().message());
  return Source{*std::move(text), raw, "default"};
}

// The value that some source has set, expanded; empty when there is none.
absl::StatusOr<absl::optional<Source>> SetValue(const Parameter& parameter,
                                                const ParameterStore& store) {
  const ParameterEntry* entry = store.Find(parameter.name());
  if (entry == nullptr) return absl::optional<Source>();
  absl::StatusOr<std::string> text = ExpandedValue(parameter.name(), store);
  if (!text.ok()) {
    return Failure(parameter, entry->origin, text.status().code(), text.status().message());
  }
  return absl::optional<Source>({*std::move(text), entry->value, entry->origin});
}

// The set value, or the default, which is then in the store as C62 and CO3 have it.
absl::StatusOr<Source> ValueOrDefault(const Parameter& parameter, const std::string& raw_default,
                                      ParameterStore* store) {
  absl::StatusOr<absl::optional<Source>> set = SetValue(parameter, *store);
  if (!set.ok()) return set.status();
  if (set->has_value()) return **std::move(set);
  absl::StatusOr<Source> source = ExpandedDefault(parameter, raw_default, *store);
  if (source.ok()) store->SetFinal(parameter.name(), source->text, "default");
  return source;
}

// The lower and upper limit of a parameter, the same for all kinds of numbers.
template <typename Number>
absl::Status CheckLimits(const Parameter& parameter, const Source& source, Number value,
                         absl::optional<Number> min, absl::optional<Number> max,
                         absl::string_view unit) {
  if (min.has_value() && value < *min) {
    return BadValue(parameter, source, absl::StatusCode::kOutOfRange,
                    absl::StrCat("is below the minimum ", *min, unit));
  }
  if (max.has_value() && value > *max) {
    return BadValue(parameter, source, absl::StatusCode::kOutOfRange,
                    absl::StrCat("is above the maximum ", *max, unit));
  }
  return absl::OkStatus();
}

template <typename Number>
std::string LimitsText(absl::optional<Number> min, absl::optional<Number> max,
                       absl::string_view unit) {
  if (min.has_value() && max.has_value()) return absl::StrCat(*min, unit, " to ", *max, unit);
  if (min.has_value()) return absl::StrCat("at least ", *min, unit);
  if (max.has_value()) return absl::StrCat("at most ", *max, unit);
  return "";
}

absl::Status CheckLength(const Parameter& parameter, const Source& source,
                         const LengthRange& range) {
  if (source.text.size() < range.min) {
    return BadValue(
        parameter, source, absl::StatusCode::kOutOfRange,
        absl::StrCat("is too short: ", source.text.size(), " bytes, the minimum is ", range.min));
  }
  if (range.max != 0 && source.text.size() > range.max) {
    return BadValue(
        parameter, source, absl::StatusCode::kOutOfRange,
        absl::StrCat("is too long: ", source.text.size(), " bytes, the maximum is ", range.max));
  }
  return absl::OkStatus();
}

std::string LengthText(const LengthRange& range) {
  absl::optional<size_t> min;
  absl::optional<size_t> max;
  if (range.min != 0) min = range.min;
  if (range.max != 0) max = range.max;
  return LimitsText(min, max, " bytes");
}

absl::StatusOr<bool> LoadBool(const Parameter& parameter, const std::string& raw_default,
                              ParameterStore* store) {
  const absl::StatusOr<Source> source = ValueOrDefault(parameter, raw_default, store);
  if (!source.ok()) return source.status();
  const absl::StatusOr<bool> value = ParseBoolValue(source->text);
  if (value.ok()) return value;
  return BadValue(parameter, *source, value.status().code(), value.status().message());
}

template <typename Number>
absl::Status LoadNumber(const Parameter& parameter, const std::string& raw_default,
                        absl::StatusOr<Number> (*parse)(absl::string_view),
                        absl::optional<Number> min, absl::optional<Number> max,
                        ParameterStore* store, Number* target) {
  const absl::StatusOr<Source> source = ValueOrDefault(parameter, raw_default, store);
  if (!source.ok()) return source.status();
  const absl::StatusOr<Number> value = parse(source->text);
  if (!value.ok()) {
    return BadValue(parameter, *source, value.status().code(), value.status().message());
  }
  const absl::Status in_range = CheckLimits(parameter, *source, *value, min, max, "");
  if (in_range.ok()) *target = *value;
  return in_range;
}

// C51: the unit of values that have none. '\0' when the default has none either.
char FirstLetter(absl::string_view text) {
  for (char c : text) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return c;
  }
  return '\0';
}

}  // namespace

absl::StatusOr<int64_t> ParseLongValue(absl::string_view text) {
  const NumberPrefix number = ParseNumberPrefix(text);
  if (number.length == 0 || number.length != text.size()) {
    return absl::InvalidArgumentError("is not a whole number");
  }
  if (number.overflow) return absl::OutOfRangeError("does not fit into 64 bits");
  return number.value;
}

absl::StatusOr<int> ParseIntValue(absl::string_view text) {
  const absl::StatusOr<int64_t> number = ParseLongValue(text);
  if (!number.ok() && number.status().code() != absl::StatusCode::kOutOfRange) {
    return number.status();
  }
  if (!number.ok() || *number < INT_MIN || *number > INT_MAX) {
    return absl::OutOfRangeError("does not fit into 32 bits");
  }
  return static_cast<int>(*number);
}

absl::StatusOr<bool> ParseBoolValue(absl::string_view text) {
  if (absl::EqualsIgnoreCase(text, "yes")) return true;
  if (absl::EqualsIgnoreCase(text, "no")) return false;
  return absl::InvalidArgumentError("is neither \"yes\" nor \"no\"");
}

absl::StatusOr<int> ParseTimeValue(absl::string_view text, char default_unit, bool strict,
                                   std::string* warning) {
  POSTHOUSE_CHECK(kTimeUnits.find(default_unit) != absl::string_view::npos,
                  "the default unit of a time is one of s, m, h, d, w");
  if (text.empty()) return absl::InvalidArgumentError("is not a time");
  const NumberPrefix number = ParseNumberPrefix(text);
  const absl::string_view rest = text.substr(number.length);
  const char unit = rest.empty() ? default_unit : rest.front();
  if (kTimeUnits.find(unit) == absl::string_view::npos) {
    return absl::InvalidArgumentError("is not a number followed by one of s, m, h, d, w");
  }
  absl::string_view oversight;
  if (number.length == 0) oversight = "has no digits before its unit; taken as 0";
  if (rest.size() > 1) oversight = "has text behind its unit, which is ignored";
  if (strict && !oversight.empty()) {
    return absl::InvalidArgumentError("is not a number followed by one of s, m, h, d, w");
  }
  if (number.value < 0) return absl::OutOfRangeError("is negative");
  // The original refuses some values that would just fit, so that its test needs no wider type; the
  // same values are refused here.
  const int seconds = SecondsOfUnit(unit);
  if (number.overflow || number.value > INT_MAX ||
      (unit != 's' && number.value >= INT_MAX / seconds)) {
    return absl::OutOfRangeError("is too large for a time");
  }
  if (!oversight.empty()) *warning = std::string(oversight);
  return static_cast<int>(number.value) * seconds;
}

absl::Status LoadParameters(absl::Span<Parameter* const> parameters, ParameterStore* store,
                            std::vector<std::string>* warnings) {
  std::vector<std::string> failures;
  absl::StatusCode code = absl::StatusCode::kOk;
  for (Parameter* parameter : parameters) {
    const absl::Status loaded = parameter->Load(store, warnings);
    if (loaded.ok()) continue;
    if (failures.empty()) code = loaded.code();
    failures.push_back(std::string(loaded.message()));
  }
  return absl::Status(code, absl::StrJoin(failures, "\n"));
}

std::string HelpText(absl::Span<Parameter* const> parameters) {
  const auto shown_default = [](const Parameter& parameter) {
    return parameter.DefaultText().empty() ? "(empty)" : parameter.DefaultText();
  };
  // A longer default pushes the rest of its own line to the right, and no other line.
  constexpr size_t kWidestDefault = 24;
  size_t name_width = 0;
  size_t default_width = 0;
  for (const Parameter* parameter : parameters) {
    name_width = std::max(name_width, parameter->name().size());
    default_width = std::max(default_width, shown_default(*parameter).size());
  }
  default_width = std::min(default_width, kWidestDefault);
  std::string help;
  for (const Parameter* parameter : parameters) {
    std::string line =
        absl::StrFormat("  %-*s  %-5s  %-*s  %s", static_cast<int>(name_width), parameter->name(),
                        parameter->kind(), static_cast<int>(default_width),
                        shown_default(*parameter), parameter->RangeText());
    absl::StrAppend(&help, config_internal::TrimRight(line), "\n");
  }
  return help;
}

IntParameter::IntParameter(std::string name, int default_value, IntRange range)
    : Parameter(std::move(name), "INT"),
      default_(default_value),
      range_(range),
      value_(default_value) {}

absl::Status IntParameter::Load(ParameterStore* store, std::vector<std::string>* warnings) {
  return LoadNumber<int>(*this, DefaultText(), &ParseIntValue, range_.min, range_.max, store,
                         &value_);
}

std::string IntParameter::ValueText() const { return absl::StrCat(value_); }
std::string IntParameter::DefaultText() const { return absl::StrCat(default_); }
std::string IntParameter::RangeText() const { return LimitsText(range_.min, range_.max, ""); }

LongParameter::LongParameter(std::string name, int64_t default_value, LongRange range)
    : Parameter(std::move(name), "LONG"),
      default_(default_value),
      range_(range),
      value_(default_value) {}

absl::Status LongParameter::Load(ParameterStore* store, std::vector<std::string>* warnings) {
  return LoadNumber<int64_t>(*this, DefaultText(), &ParseLongValue, range_.min, range_.max, store,
                             &value_);
}

std::string LongParameter::ValueText() const { return absl::StrCat(value_); }
std::string LongParameter::DefaultText() const { return absl::StrCat(default_); }
std::string LongParameter::RangeText() const { return LimitsText(range_.min, range_.max, ""); }

NintParameter::NintParameter(std::string name, std::string default_text, IntRange range)
    : Parameter(std::move(name), "NINT"), default_(std::move(default_text)), range_(range) {}

absl::Status NintParameter::Load(ParameterStore* store, std::vector<std::string>* warnings) {
  return LoadNumber<int>(*this, default_, &ParseIntValue, range_.min, range_.max, store, &value_);
}

std::string NintParameter::ValueText() const { return absl::StrCat(value_); }
std::string NintParameter::RangeText() const { return LimitsText(range_.min, range_.max, ""); }

StringParameter::StringParameter(std::string name, std::string default_text, LengthRange length)
    : Parameter(std::move(name), "STR"), default_(std::move(default_text)), length_(length) {}

StringParameter::StringParameter(std::string name,
                                 std::function<absl::StatusOr<std::string>()> default_function,
                                 LengthRange length)
    : Parameter(std::move(name), "STR"),
      default_function_(std::move(default_function)),
      length_(length) {}

absl::Status StringParameter::Load(ParameterStore* store, std::vector<std::string>* warnings) {
  if (default_function_ && store->Find(name()) == nullptr) {  // C54
    absl::StatusOr<std::string> computed = default_function_();
    if (!computed.ok()) {
      return Failure(*this, "default", computed.status().code(), computed.status().message());
    }
    default_ = *std::move(computed);
  }
  absl::StatusOr<Source> source = ValueOrDefault(*this, default_, store);
  if (!source.ok()) return source.status();
  const absl::Status in_range = CheckLength(*this, *source, length_);
  if (in_range.ok()) value_ = std::move(source->text);
  return in_range;
}

std::string StringParameter::DefaultText() const {
  return default_function_ && default_.empty() ? "(computed)" : default_;
}
std::string StringParameter::RangeText() const { return LengthText(length_); }

RawParameter::RawParameter(std::string name, std::string default_text, LengthRange length)
    : Parameter(std::move(name), "RAW"), default_(std::move(default_text)), length_(length) {}

absl::Status RawParameter::Load(ParameterStore* store, std::vector<std::string>* warnings) {
  // The text stays raw in the store, too: a reference to it is expanded like any other.
  if (store->Find(name()) == nullptr) store->Set(name(), default_, "default");
  const ParameterEntry* entry = store->Find(name());
  const Source source = {entry->value, entry->value, entry->origin};
  const absl::Status in_range = CheckLength(*this, source, length_);
  if (in_range.ok()) value_ = source.text;
  return in_range;
}

std::string RawParameter::RangeText() const { return LengthText(length_); }

BoolParameter::BoolParameter(std::string name, bool default_value)
    : Parameter(std::move(name), "BOOL"), default_(default_value), value_(default_value) {}

absl::Status BoolParameter::Load(ParameterStore* store, std::vector<std::string>* warnings) {
  const absl::StatusOr<bool> value = LoadBool(*this, DefaultText(), store);
  if (value.ok()) value_ = *value;
  return value.status();
}

NboolParameter::NboolParameter(std::string name, std::string default_text)
    : Parameter(std::move(name), "NBOOL"), default_(std::move(default_text)) {}

absl::Status NboolParameter::Load(ParameterStore* store, std::vector<std::string>* warnings) {
  const absl::StatusOr<bool> value = LoadBool(*this, default_, store);
  if (value.ok()) value_ = *value;
  return value.status();
}

TimeParameter::TimeParameter(std::string name, std::string default_text, TimeRange range)
    : Parameter(std::move(name), "TIME"), default_(std::move(default_text)), range_(range) {
  POSTHOUSE_CHECK(absl::StrContains(default_, "$") ||
                      kTimeUnits.find(FirstLetter(default_)) != absl::string_view::npos,
                  "the default of a TIME parameter has a unit (s, m, h, d or w)");
}

absl::Status TimeParameter::Load(ParameterStore* store, std::vector<std::string>* warnings) {
  // The default is needed for its unit also when a value is set.
  const absl::StatusOr<Source> default_source = ExpandedDefault(*this, default_, *store);
  if (!default_source.ok()) return default_source.status();
  const char unit = FirstLetter(default_source->text);
  if (kTimeUnits.find(unit) == absl::string_view::npos) {
    return BadValue(*this, *default_source, absl::StatusCode::kInvalidArgument, "has no unit");
  }
  const absl::StatusOr<Source> source = ValueOrDefault(*this, default_, store);
  if (!source.ok()) return source.status();
  std::string warning;
  const absl::StatusOr<int> seconds = ParseTimeValue(source->text, unit, store->strict(), &warning);
  if (!seconds.ok()) {
    return BadValue(*this, *source, seconds.status().code(), seconds.status().message());
  }
  if (!warning.empty()) {
    warnings->push_back(std::string(
        BadValue(*this, *source, absl::StatusCode::kInvalidArgument, warning).message()));
  }
  const absl::Status in_range =
      CheckLimits(*this, *source, *seconds, range_.min_seconds, range_.max_seconds, "s");
  if (in_range.ok()) seconds_ = *seconds;
  return in_range;
}

std::string TimeParameter::ValueText() const { return absl::StrCat(seconds_, "s"); }
std::string TimeParameter::RangeText() const {
  return LimitsText(range_.min_seconds, range_.max_seconds, "s");
}

}  // namespace posthouse

// Typed parameters: what a program wants to know from main.cf, with defaults and ranges.
//
//   posthouse::IntParameter limit{"policy_rate_limit", 30, {.min = 1}};
//   posthouse::TimeParameter delay{"policy_greylist_delay", "300s", {.min_seconds = 1}};
//   absl::Status status = LoadParameters({&limit, &delay}, &store, &warnings);
//   ... limit.value(), delay.value()
//
// Loading looks the name up; if it is set, the value is expanded (not for RAW) and converted,
// otherwise the default is taken and stored under the name, so that $name yields it from then on
// (C62): as a final value, which references do not expand a second time (CO3), but for RAW. Every
// failure names parameter, value, origin (file and line) and limit; all bad
// parameters are reported before giving up (CO4). After loading a value is a plain mutable copy
// (C56, S3).
//
// The types are those of the original: INT, LONG, STR, RAW, BOOL, TIME, NINT, NBOOL (C47 to C53).
// Thread: one. Ownership: a parameter outlives its loading; it does not refer to the store.

#ifndef POSTHOUSE_CONFIG_PARAMETER_H_
#define POSTHOUSE_CONFIG_PARAMETER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "posthouse/config/parameter_store.h"

namespace posthouse {

// Conversions alone, usable without a store; errors are kInvalidArgument or kOutOfRange and say
// what is wrong, without the parameter's name.
absl::StatusOr<int> ParseIntValue(absl::string_view text);
absl::StatusOr<int64_t> ParseLongValue(absl::string_view text);
absl::StatusOr<bool> ParseBoolValue(absl::string_view text);
// Seconds; `default_unit` is one of "smhdw" (C50, C52). `strict` refuses what the original accepts
// by oversight ("10sx", "s"); otherwise that is a warning (CO2), which is left in `*warning`.
absl::StatusOr<int> ParseTimeValue(absl::string_view text, char default_unit, bool strict,
                                   std::string* warning);

class Parameter {
 public:
  Parameter(std::string name, std::string kind) : name_(std::move(name)), kind_(std::move(kind)) {}
  virtual ~Parameter() = default;
  const std::string& name() const { return name_; }
  const std::string& kind() const { return kind_; }  // "INT", "TIME", ...
  // Loads this one; LoadParameters() below does it for a table.
  virtual absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) = 0;
  // The value as main.cf would spell it, for --help and status pages.
  virtual std::string ValueText() const = 0;
  virtual std::string DefaultText() const = 0;
  // The limits in words: "1 to 10", "at least 1s"; empty when there are none.
  virtual std::string RangeText() const { return ""; }

 private:
  std::string name_;
  std::string kind_;
};

// Loads in the order given (C55) and reports every failure, one per line.
absl::Status LoadParameters(absl::Span<Parameter* const> parameters, ParameterStore* store,
                            std::vector<std::string>* warnings);

// A table of the parameters with type, default and range, one line each, for --help.
std::string HelpText(absl::Span<Parameter* const> parameters);

struct IntRange {
  absl::optional<int> min;  // a minimum of zero can be said here, unlike in the original (C48)
  absl::optional<int> max;
};

class IntParameter : public Parameter {  // INT
 public:
  IntParameter(std::string name, int default_value, IntRange range = {});
  int value() const { return value_; }
  void set_value(int value) { value_ = value; }
  absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) override;
  std::string ValueText() const override;
  std::string DefaultText() const override;
  std::string RangeText() const override;

 private:
  int default_;
  IntRange range_;
  int value_;
};

struct LongRange {
  absl::optional<int64_t> min;
  absl::optional<int64_t> max;
};

class LongParameter : public Parameter {  // LONG
 public:
  LongParameter(std::string name, int64_t default_value, LongRange range = {});
  int64_t value() const { return value_; }
  void set_value(int64_t value) { value_ = value; }
  absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) override;
  std::string ValueText() const override;
  std::string DefaultText() const override;
  std::string RangeText() const override;

 private:
  int64_t default_;
  LongRange range_;
  int64_t value_;
};

class NintParameter : public Parameter {  // NINT: the default is a text that is expanded
 public:
  NintParameter(std::string name, std::string default_text, IntRange range = {});
  int value() const { return value_; }
  void set_value(int value) { value_ = value; }
  absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) override;
  std::string ValueText() const override;
  std::string DefaultText() const override { return default_; }
  std::string RangeText() const override;

 private:
  std::string default_;
  IntRange range_;
  int value_ = 0;
};

struct LengthRange {
  size_t min = 0;
  size_t max = 0;  // 0: no limit
};

class StringParameter : public Parameter {  // STR
 public:
  StringParameter(std::string name, std::string default_text, LengthRange length = {});
  // The default is computed only when it is needed (C54).
  StringParameter(std::string name, std::function<absl::StatusOr<std::string>()> default_function,
                  LengthRange length = {});
  const std::string& value() const { return value_; }
  void set_value(std::string value) { value_ = std::move(value); }
  absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) override;
  std::string ValueText() const override { return value_; }
  std::string DefaultText() const override;
  std::string RangeText() const override;

 private:
  std::string default_;
  std::function<absl::StatusOr<std::string>()> default_function_;
  LengthRange length_;
  std::string value_;
};

class RawParameter : public Parameter {  // RAW: neither default nor value is expanded
 public:
  RawParameter(std::string name, std::string default_text, LengthRange length = {});
  const std::string& value() const { return value_; }
  void set_value(std::string value) { value_ = std::move(value); }
  absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) override;
  std::string ValueText() const override { return value_; }
  std::string DefaultText() const override { return default_; }
  std::string RangeText() const override;

 private:
  std::string default_;
  LengthRange length_;
  std::string value_;
};

class BoolParameter : public Parameter {  // BOOL
 public:
  BoolParameter(std::string name, bool default_value);
  bool value() const { return value_; }
  void set_value(bool value) { value_ = value; }
  absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) override;
  std::string ValueText() const override { return value_ ? "yes" : "no"; }
  std::string DefaultText() const override { return default_ ? "yes" : "no"; }

 private:
  bool default_;
  bool value_;
};

class NboolParameter : public Parameter {  // NBOOL: the default is a text that is expanded
 public:
  NboolParameter(std::string name, std::string default_text);
  bool value() const { return value_; }
  void set_value(bool value) { value_ = value; }
  absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) override;
  std::string ValueText() const override { return value_ ? "yes" : "no"; }
  std::string DefaultText() const override { return default_; }

 private:
  std::string default_;
  bool value_ = false;
};

struct TimeRange {
  absl::optional<int> min_seconds;
  absl::optional<int> max_seconds;
};

class TimeParameter : public Parameter {  // TIME
 public:
  // `default_text` must have a unit: "100s", "${stress?{10}:{300}}s" (C51). The unit of the
  // expanded default is that of values without one.
  TimeParameter(std::string name, std::string default_text, TimeRange range = {});
  absl::Duration value() const { return absl::Seconds(seconds_); }
  int seconds() const { return seconds_; }
  void set_seconds(int seconds) { seconds_ = seconds; }
  absl::Status Load(ParameterStore* store, std::vector<std::string>* warnings) override;
  std::string ValueText() const override;
  std::string DefaultText() const override { return default_; }
  std::string RangeText() const override;

 private:
  std::string default_;
  TimeRange range_;
  int seconds_ = 0;
};

}  // namespace posthouse

#endif  // POSTHOUSE_CONFIG_PARAMETER_H_

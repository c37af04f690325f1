#include "posthouse/log/emergency_line.h"

#include <algorithm>
#include <cstring>

#include "posthouse/os/clock.h"

namespace posthouse {
namespace {

constexpr int64_t kSecondsPerDay = 24 * 60 * 60;
// The calendar repeats after this many years and days.
constexpr int kYearsPerCycle = 400;
constexpr int64_t kDaysPerCycle = 146097;

struct MonthAndDay {
  int month;  // 0 to 11
  int day;    // 1 to 31
};

bool IsLeap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

// Async-signal-safe: arithmetic alone. `days` count from 1970-01-01.
MonthAndDay CivilFromDays(int64_t days) {
  static constexpr int kDaysOfMonth[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  days %= kDaysPerCycle;
  if (days < 0) days += kDaysPerCycle;
  int year = 1970;
  for (; year < 1970 + kYearsPerCycle; ++year) {
    const int length = IsLeap(year) ? 366 : 365;
    if (days < length) break;
    days -= length;
  }
  int month = 0;
  for (; month < 11; ++month) {
    const int length = kDaysOfMonth[month] + (month == 1 && IsLeap(year) ? 1 : 0);
    if (days < length) break;
    days -= length;
  }
  return {month, static_cast<int>(days) + 1};
}

// Async-signal-safe: arithmetic alone.
void WriteTwoDigits(int64_t value, char fill, char* out) {
  out[0] = value < 10 ? fill : static_cast<char>('0' + value / 10);
  out[1] = static_cast<char>('0' + value % 10);
}

}  // namespace

void WriteLogStamp(int64_t seconds, char* out) {
  static constexpr char kMonths[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
  int64_t days = seconds / kSecondsPerDay;
  int64_t second = seconds % kSecondsPerDay;
  if (second < 0) {
    second += kSecondsPerDay;
    --days;
  }
  const MonthAndDay date = CivilFromDays(days);
  std::memcpy(out, kMonths + 3 * date.month, 3);
  out[3] = ' ';
  WriteTwoDigits(date.day, ' ', out + 4);
  out[6] = ' ';
  WriteTwoDigits(second / 3600, '0', out + 7);
  out[9] = ':';
  WriteTwoDigits(second / 60 % 60, '0', out + 10);
  out[12] = ':';
  WriteTwoDigits(second % 60, '0', out + 13);
}

void EmergencyLine::Prepare(char separator, absl::string_view before, bool with_time,
                            absl::string_view after) {
  // No handler may see the line while it changes, whatever order the compiler prefers.
  size_.store(0);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  used_ = 0;
  const absl::string_view end(&separator, 1);
  Append(end);
  Append(before);
  stamp_at_ = used_;
  with_time_ = with_time && kCapacity - used_ > kLogStampSize;
  if (with_time_) used_ += kLogStampSize;
  if (!after.empty() && after.back() == separator) after.remove_suffix(1);
  Append(after);
  bytes_[used_++] = separator;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  size_.store(used_);
}

// Leaves room for the separator at the end.
void EmergencyLine::Append(absl::string_view bytes) {
  const size_t size = std::min(bytes.size(), kCapacity - 1 - used_);
  std::memcpy(bytes_ + used_, bytes.data(), size);
  used_ += size;
}

absl::string_view EmergencyLine::Stamped(bool follows_torn, int64_t utc_offset) {
  const size_t size = size_.load();
  if (size == 0) return absl::string_view();
  if (with_time_) WriteLogStamp(os::WallSeconds() + utc_offset, bytes_ + stamp_at_);
  const size_t begin = follows_torn ? 0 : 1;
  return absl::string_view(bytes_ + begin, size - begin);
}

}  // namespace posthouse

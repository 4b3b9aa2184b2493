// Waking at absolute times, and how long things took.  Nothing here allocates.  For the programs.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <ctime>

namespace vintix_fast {

// Counts durations in bins of 10 us; allocates nothing.
class Histogram {
 public:
  void add(double us) {
    ++bins_[static_cast<std::size_t>(std::clamp(us / 10.0, 0.0, static_cast<double>(bins_.size() - 1)))];
    ++count_;
    most_us_ = std::max(most_us_, us);
  }
  double at(double share) const {
    long below = 0;
    for (std::size_t i = 0; i < bins_.size(); ++i) {
      below += bins_[i];
      if (static_cast<double>(below) >= share * static_cast<double>(count_)) return 10.0 * static_cast<double>(i + 1);
    }
    return 0.0;
  }
  double most() const { return most_us_; }

 private:
  std::array<long, 10000> bins_{};
  long count_ = 0;
  double most_us_ = 0.0;
};

inline double now(clockid_t clock = CLOCK_MONOTONIC) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Or until a signal has set `stopped`.
inline void sleep_until(double at_s, const volatile std::sig_atomic_t& stopped) {
  timespec time{};
  time.tv_sec = static_cast<time_t>(at_s);
  time.tv_nsec = static_cast<long>((at_s - std::floor(at_s)) * 1e9);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) == EINTR && stopped == 0) {
  }
}

}  // namespace vintix_fast

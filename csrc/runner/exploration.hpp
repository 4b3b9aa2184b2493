// Exploration on a robot: noise that is added to the policy's actions, so that a log has something to learn from.
//
// The law is vintix_fast/rollout/noise.py's: x' = c x + sqrt(1 - c^2) sigma e, with e standard normal, of each joint.
// One robot has no environments to spread a ladder over, so its rungs follow one another.  Allocates only when made.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace vintix_fast {

class Exploration {
 public:
  explicit Exploration(std::size_t joints) : noise_(joints) {}

  // sigma: standard deviation in action units; 0 for none.
  void begin(float sigma, std::uint64_t seed) {
    sigma_ = sigma;
    generator_.seed(seed);
    normal_.reset();
    fresh_ = true;
  }

  void add_to(float* action) {
    if (sigma_ == 0.0f) return;
    const float kept = fresh_ ? 0.0f : kCorrelation;
    const float drawn = std::sqrt(1.0f - kept * kept) * sigma_;
    fresh_ = false;
    for (float& noise : noise_) *action++ += noise = kept * noise + drawn * normal_(generator_);
  }

 private:
  static constexpr float kCorrelation = 0.7f;

  std::vector<float> noise_;
  std::mt19937_64 generator_;
  std::normal_distribution<float> normal_;
  float sigma_ = 0.0f;
  bool fresh_ = true;
};

// Strengths that follow one another: none, then from 0.03 up to the largest, evenly on a logarithmic scale.
class Ladder {
 public:
  static constexpr int kRungs = 5;
  static constexpr int kLongest = 500;  // steps on a rung; an episode that ends sooner ends it

  explicit Ladder(float largest) : largest_(largest) {}

  // Before every step: whether a rung begins with it.
  bool step(bool episode_begins) {
    if (!episode_begins && rung_ >= 0 && ++steps_ < kLongest) return false;
    ++rung_;
    steps_ = 0;
    return true;
  }

  long rung() const { return rung_; }
  float sigma() const {
    const float smallest = std::min(0.03f, largest_);
    const float share = static_cast<float>(rung_ % kRungs - 1) / static_cast<float>(kRungs - 2);
    return rung_ % kRungs == 0 || largest_ == 0.0f ? 0.0f : smallest * std::pow(largest_ / smallest, share);
  }

 private:
  float largest_;
  long rung_ = -1;
  int steps_ = 0;
};

}  // namespace vintix_fast

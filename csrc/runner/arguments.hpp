// The words of vintix_walk's command line.  For walk.cpp.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

namespace vintix_fast {

constexpr const char* kUsage =
    "policy.bin [--port 9870] [--log trajectories.h5] [--stand SECONDS] [--periods COUNT] "
    "[--explore SIGMA, at most 1] [--seed N]";

struct Arguments {
  const char* policy = nullptr;
  const char* log = nullptr;
  int port = 9870;
  double stand_s = 2.0;
  long periods = -1;
  double explore = 0.0;  // the ladder's largest standard deviation, in action units
  std::uint64_t seed = 1;
};

// False for what is no option, or no value of it.
inline bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) != 0 && arguments.policy == nullptr) {
      arguments.policy = argv[i];
      continue;
    }
    if (++i >= argc) return false;
    char* end = nullptr;
    if (word == "--log") arguments.log = end = argv[i], end += std::strlen(end);
    else if (word == "--port") arguments.port = static_cast<int>(std::strtol(argv[i], &end, 10));
    else if (word == "--stand") arguments.stand_s = std::strtod(argv[i], &end);
    else if (word == "--periods") arguments.periods = std::strtol(argv[i], &end, 10);
    else if (word == "--explore") arguments.explore = std::strtod(argv[i], &end);
    else if (word == "--seed") arguments.seed = std::strtoull(argv[i], &end, 10);
    if (end == nullptr || *end != '\0') return false;
  }
  return arguments.policy != nullptr && arguments.port > 0 && arguments.port < 65536 && arguments.stand_s >= 0.0 &&
         arguments.stand_s < 1e6 && arguments.explore >= 0.0 && arguments.explore <= 1.0;
}

}  // namespace vintix_fast

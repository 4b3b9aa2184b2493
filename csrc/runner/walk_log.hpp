// The log of vintix_walk: a trajectories.h5 as the simulator's collections are, so that the same readers open it.
//
// append() copies a step into a queue; a thread of its own writes.  The file is FILE.partial until close().
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace vintix_fast {

struct LoggedStep {
  std::vector<float> observation, action, mean_action;  // executed, and as the policy meant it
  float reward = 0.0f;
  std::int32_t step_num = 0;
  std::uint8_t terminated = 0, truncated = 0;
};

class WalkLog {
 public:
  // Throws std::exception where the file cannot be made.
  // attributes: of the file.
  WalkLog(const std::string& path, std::size_t observations, std::size_t joints,
          const std::map<std::string, std::string>& attributes);
  ~WalkLog();

  bool append(const LoggedStep& step);  // false: the disk is too slow, and the step is lost
  void close();                         // throws where the file could not be finished

 private:
  struct Writer;
  std::unique_ptr<Writer> writer_;
};

}  // namespace vintix_fast

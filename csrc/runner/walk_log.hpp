// The log of vintix_walk: a trajectories.h5 as the simulator's collections are, so that the same readers open it.  For
// walk.cpp; built without HDF5 it is never made.
//
// append() copies a step into a queue; a thread of its own writes.  The file is FILE.partial until close().
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#ifdef VINTIX_LOG
#include "../trajectory_writer.hpp"
#endif

namespace vintix_fast {

struct LoggedStep {
  std::vector<float> observation, action, mean_action;  // executed, and as the policy meant it
  float reward = 0.0f;
  std::int32_t step_num = 0;
  std::uint8_t terminated = 0, truncated = 0;
};

class WalkLog {
 public:
  using Attributes = std::map<std::string, std::string>;  // of the file

#ifdef VINTIX_LOG
  // Throws std::exception where the file cannot be made.  Names and types are those of vintix_fast/data/schema.py.
  WalkLog(const std::string& path, std::size_t observations, std::size_t joints, const Attributes& attributes)
      : file_({path, 1,
               {{"proprio_observation", {observations}, ElementType::float32},
                {"action", {joints}, ElementType::float32},
                {"reward", {}, ElementType::float32},
                {"step_num", {}, ElementType::int32},
                {"mean_action", {joints}, ElementType::float32},
                {"terminated", {}, ElementType::uint8},
                {"truncated", {}, ElementType::uint8},
                {"failed", {}, ElementType::uint8}},
               attributes, /*queue_capacity=*/1000, /*flush_every=*/100, /*block_len=*/1000}) {}

  // False: the disk is too slow, and the step is lost.
  bool append(const LoggedStep& step) {
    const std::uint8_t failed = 0, active = 1;
    const void* const arrays[] = {step.observation.data(), step.action.data(), &step.reward,    &step.step_num,
                                  step.mean_action.data(), &step.terminated,   &step.truncated, &failed};
    return file_.append(arrays, &active, /*wait=*/false);
  }

  void close() { file_.close(); }  // throws where the file could not be finished

 private:
  TrajectoryWriter file_;
#else
  WalkLog(const std::string&, std::size_t, std::size_t, const Attributes&) {}
  bool append(const LoggedStep&) { return true; }
  void close() {}
#endif
};

}  // namespace vintix_fast

#include "walk_log.hpp"

#include "../trajectory_writer.hpp"

namespace vintix_fast {

struct WalkLog::Writer {
  TrajectoryWriter file;
  ~Writer() { file.abort(); }  // does nothing after close()
};

WalkLog::WalkLog(const std::string& path, std::size_t observations, std::size_t joints,
                 const std::map<std::string, std::string>& attributes) {
  WriterConfig config{};
  config.path = path;
  config.num_envs = 1;
  // Names and types of vintix_fast/data/schema.py.
  config.fields = {{"proprio_observation", {observations}, ElementType::float32},
                   {"action", {joints}, ElementType::float32},
                   {"reward", {}, ElementType::float32},
                   {"step_num", {}, ElementType::int32},
                   {"mean_action", {joints}, ElementType::float32},
                   {"terminated", {}, ElementType::uint8},
                   {"truncated", {}, ElementType::uint8},
                   {"failed", {}, ElementType::uint8}};
  config.attributes = attributes;
  config.queue_capacity = 1000;
  config.flush_every = 100;
  config.block_len = 1000;
  writer_.reset(new Writer{TrajectoryWriter(config)});
}

WalkLog::~WalkLog() = default;

bool WalkLog::append(const LoggedStep& step) {
  const std::uint8_t failed = 0, active = 1;
  const void* const arrays[] = {step.observation.data(), step.action.data(), &step.reward,     &step.step_num,
                                step.mean_action.data(), &step.terminated,   &step.truncated, &failed};
  return writer_->file.try_append(arrays, &active);
}

void WalkLog::close() { writer_->file.close(); }

}  // namespace vintix_fast

// vintix_walk: a policy in a control loop over UDP on this machine, as an example and for simulators.
//
//   vintix_walk policy.bin [--port 9870] [--log trajectories.h5] [--stand SECONDS] [--periods COUNT]
//               [--explore SIGMA] [--seed N]
//
//   every period: newest state that has arrived -> passive | stand | walk | hold -> targets, back to whoever sent it
//
// passive  no state yet, or the robot fell: no stiffness, damping alone
// stand    from the pose that it is in to the default pose
// walk     the policy
// hold     the default pose: a state is not finite, late or missing; walks on after a second of sound states
//
// The log is written by a thread of its own.  Messages are described in docs/deployment.md.

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "clock.hpp"
#include "exploration.hpp"
#include "vintix_policy.h"
#include "walk_log.hpp"

namespace {

using vintix_fast::Arguments, vintix_fast::Histogram, vintix_fast::Ladder, vintix_fast::now, vintix_fast::sleep_until,
    vintix_fast::WalkLog;

constexpr std::uint32_t kStateMagic = 0x54534656, kTargetMagic = 0x4D434656;  // "VFST", "VFCM"
constexpr std::uint32_t kBegins = 1, kTerminated = 2, kTruncated = 4;
constexpr std::size_t kMostJoints = 64;

// What the robot sends: this, then joint positions [J] and speeds [J], float32.
struct StateHead {
  std::uint32_t magic, sequence;
  std::uint32_t flags;  // kBegins: a new episode; the others: how the episode before it ended
  float reward, gyro_rad_s[3], quaternion[4];
};

// What it gets: this, then joint targets [J], float32 rad.
struct TargetHead {
  std::uint32_t magic, sequence;  // of the state that was answered, 0 before there was one
  std::uint32_t mode, status;     // Mode, vintix_status
  float kp, kd;
};

enum class Mode : std::uint32_t { passive, stand, walk, hold };
constexpr const char* kModes[] = {"passive", "stand", "walk", "hold"};

volatile std::sig_atomic_t stopped = 0;
void stop(int) { stopped = 1; }

class Walk {
 public:
  Walk(vintix_policy* policy, const Arguments& arguments, int socket)
      : policy_(policy), socket_(socket), joints_(static_cast<std::size_t>(vintix_joints(policy))),
        period_s_(vintix_period_s(policy)), stand_periods_(std::lround(arguments.stand_s / period_s_)),
        patience_(std::lround(1.0 / period_s_)), explores_(arguments.explore > 0.0),
        ladder_(static_cast<float>(arguments.explore)), seed_(arguments.seed), state_(sizeof(StateHead) + 2 * joints_ * sizeof(float)),
        from_(joints_), target_(joints_), message_(sizeof(TargetHead) + joints_ * sizeof(float)) {
    step_.observation.resize(static_cast<std::size_t>(vintix_observation_size(policy)));
    step_.action.resize(joints_);
    step_.mean_action.resize(joints_);
    if (arguments.log != nullptr) {
      WalkLog::Attributes attributes{{"collected_by", "vintix_walk"}, {"contract", vintix_contract(policy)}};
      if (explores_) {
        attributes["explore"] = std::to_string(arguments.explore);
        attributes["seed"] = std::to_string(arguments.seed);
      }
      log_.emplace(arguments.log, step_.observation.size(), joints_, attributes);
    }
  }

  void run(long periods) {
    double due_s = now();
    for (long t = 0; (periods < 0 || t < periods) && stopped == 0; ++t, due_s += period_s_) {
      sleep_until(due_s, stopped);
      const double started_s = now();
      lateness_.add(1e6 * (started_s - due_s));
      ++periods_;
      if (started_s - due_s > period_s_) {  // what cannot be caught up is left out
        ++missed_;
        due_s = started_s;
      }
      decide(receive());
      send();
      took_.add(1e6 * (now() - started_s));
    }
  }

  // One JSON line; the log is closed before.
  void finish() {
    if (log_) log_->close();
    std::printf("{\"periods\": %ld, \"steps\": %ld, \"held\": %ld, \"missed_periods\": %ld, \"lost_log_rows\": %ld, "
                "\"wake_up_p99_9_us\": %.0f, \"wake_up_max_us\": %.0f, \"work_median_us\": %.0f, "
                "\"work_p99_9_us\": %.0f, \"work_max_us\": %.0f}\n",
                periods_, steps_, held_, missed_, lost_rows_, lateness_.at(0.999), lateness_.most(), took_.at(0.5),
                took_.at(0.999), took_.most());
  }

 private:
  // The newest state that has arrived since the last call; older ones are passed over, others' messages too.
  bool receive() {
    bool found = false;
    std::array<std::uint8_t, sizeof(StateHead) + 2 * kMostJoints * sizeof(float) + 1> buffer;
    sockaddr_in sender{};
    socklen_t size = sizeof sender;
    ssize_t count;
    while ((count = recvfrom(socket_, buffer.data(), buffer.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&sender),
                             &size)) >= 0) {
      std::uint32_t magic = 0;
      std::memcpy(&magic, buffer.data(), std::min(sizeof magic, static_cast<std::size_t>(count)));
      if (static_cast<std::size_t>(count) != state_.size() || magic != kStateMagic) {
        if (strangers_++ == 0) {
          std::fprintf(stderr, "vintix_walk: a message of %zd bytes is no state of this robot\n", count);
        }
        continue;
      }
      std::memcpy(state_.data(), buffer.data(), state_.size());
      std::memcpy(&head_, state_.data(), sizeof head_);
      robot_ = sender;
      found = true;
    }
    return found;
  }

  const float* joint_pos() const { return reinterpret_cast<const float*>(state_.data() + sizeof(StateHead)); }

  void decide(bool arrived) {
    switch (mode_) {
      case Mode::passive:
        if (arrived && status_ != VINTIX_FALLEN) {
          std::copy_n(joint_pos(), joints_, from_.data());
          enter(stand_periods_ > 0 ? Mode::stand : Mode::walk);
          return decide(true);
        }
        break;
      case Mode::stand:
        stand(arrived);
        break;
      case Mode::hold:
        sound_ = arrived && finite() ? sound_ + 1 : 0;
        if (sound_ <= patience_) {
          if (!arrived || !finite()) ++held_;
          break;
        }
        enter(Mode::walk);
        [[fallthrough]];
      case Mode::walk:
        walk(arrived);
    }
  }

  bool finite() const {
    const float* numbers = reinterpret_cast<const float*>(state_.data() + offsetof(StateHead, gyro_rad_s));
    return std::all_of(numbers, numbers + 7 + 2 * joints_, [](float number) { return std::isfinite(number); });
  }

  void stand(bool arrived) {
    const float* pose = vintix_default_pose(policy_);
    const bool sound = std::all_of(from_.begin(), from_.end(), [](float angle) { return std::isfinite(angle); });
    const float share = std::min(1.0f, static_cast<float>(++stood_) / static_cast<float>(stand_periods_));
    for (std::size_t j = 0; j < joints_; ++j) {
      target_[j] = sound ? from_[j] + share * (pose[j] - from_[j]) : pose[j];
    }
    if (stood_ >= stand_periods_ && arrived) enter(Mode::walk);
  }

  void walk(bool arrived) {
    const bool begins = arrived && (head_.flags & kBegins) != 0;
    if (!arrived) {
      status_ = vintix_hold(policy_, target_.data());
    } else {
      if (begins) vintix_begin_episode(policy_);
      if (explores_ && ladder_.step(begins || step_num_ == 0)) {
        vintix_explore(policy_, ladder_.sigma(), seed_ + static_cast<std::uint64_t>(ladder_.rung()));
      }
      const vintix_state state{head_.gyro_rad_s, head_.quaternion, joint_pos(), joint_pos() + joints_, head_.reward};
      status_ = vintix_step(policy_, &state, target_.data());
    }
    // The reward of a step comes with the next state; a step without one is left out of the log.
    float told = 0.0f;
    vintix_last(policy_, nullptr, nullptr, &told);
    const bool fell = arrived && !begins && status_ == VINTIX_FALLEN;
    if (arrived && pending_ && (begins || fell || status_ == VINTIX_OK)) {
      step_.reward = std::isfinite(head_.reward) ? head_.reward : told;
      step_.terminated = fell || (begins && (head_.flags & kTerminated) != 0);
      step_.truncated = begins && step_.terminated == 0;
      append();
    }
    pending_ = false;
    if (status_ != VINTIX_OK) {
      ++held_;
      step_num_ = sound_ = 0;
      enter(status_ == VINTIX_FALLEN ? Mode::passive : Mode::hold);
      return;
    }
    ++steps_;
    vintix_last(policy_, step_.observation.data(), step_.action.data(), nullptr);
    vintix_meant(policy_, step_.mean_action.data());
    step_.step_num = step_num_ = begins ? 0 : step_num_;
    ++step_num_;
    pending_ = true;
  }

  void append() {
    if (!log_ || log_->append(step_)) return;
    if (lost_rows_++ == 0) std::fprintf(stderr, "vintix_walk: the disk is too slow, steps are missing in the log\n");
  }

  void enter(Mode mode) {
    mode_ = mode;
    if (mode == Mode::stand) stood_ = 0;
    const bool trouble = mode == Mode::hold || (mode == Mode::passive && status_ != VINTIX_OK);
    std::fprintf(stderr, "vintix_walk: period %ld: %s%s%s\n", periods_, kModes[static_cast<int>(mode)],
                 trouble ? ": " : "", trouble ? vintix_says(status_) : "");
  }

  void send() {
    if (robot_.sin_family == 0) return;  // nobody has sent anything yet
    const bool limp = mode_ == Mode::passive;
    const TargetHead head{kTargetMagic, head_.sequence, static_cast<std::uint32_t>(mode_),
                          static_cast<std::uint32_t>(status_), limp ? 0.0f : vintix_kp(policy_), vintix_kd(policy_)};
    std::memcpy(message_.data(), &head, sizeof head);
    std::memcpy(message_.data() + sizeof head, target_.data(), joints_ * sizeof(float));
    sendto(socket_, message_.data(), message_.size(), MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&robot_),
           sizeof robot_);
  }

  vintix_policy* policy_;
  int socket_;
  std::size_t joints_;
  double period_s_;
  long stand_periods_, patience_;
  bool explores_;
  Ladder ladder_;
  std::uint64_t seed_;
  std::vector<std::uint8_t> state_;
  std::vector<float> from_, target_;
  std::vector<std::uint8_t> message_;
  StateHead head_{};
  sockaddr_in robot_{};
  Mode mode_ = Mode::passive;
  vintix_status status_ = VINTIX_OK;
  vintix_fast::LoggedStep step_;
  bool pending_ = false;
  std::int32_t step_num_ = 0;
  long stood_ = 0, sound_ = 0, periods_ = 0, steps_ = 0, held_ = 0, missed_ = 0, strangers_ = 0, lost_rows_ = 0;
  Histogram lateness_, took_;
  std::optional<WalkLog> log_;
};

int fail(const std::string& what) {
  std::fprintf(stderr, "vintix_walk: %s\n", what.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) return fail(vintix_fast::kUsage);
#ifndef VINTIX_LOG
  if (arguments.log != nullptr) return fail("--log: built without HDF5; install libhdf5-dev and build again");
#endif
  char message[512];
  vintix_policy* policy = vintix_open(arguments.policy, "", message, sizeof message);
  if (policy == nullptr) return fail(message);
  const int udp = socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in here{};
  here.sin_family = AF_INET;
  here.sin_port = htons(static_cast<std::uint16_t>(arguments.port));
  here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (udp < 0 || bind(udp, reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0) {
    return fail("port " + std::to_string(arguments.port) + ": " + std::strerror(errno));
  }
  std::signal(SIGINT, stop);
  std::signal(SIGTERM, stop);
  int code = 0;
  try {
    Walk walk(policy, arguments, udp);
    std::fprintf(stderr, "vintix_walk: %s, %s, listening on 127.0.0.1:%d\n", arguments.policy,
                 vintix_implementation(policy), arguments.port);
    walk.run(arguments.periods);
    walk.finish();
  } catch (const std::exception& error) {
    code = fail(error.what());
  }
  close(udp);
  vintix_close(policy);
  return code;
}

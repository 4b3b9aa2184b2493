// vintix_replay: steps a policy through recorded inputs, or measures how long its steps take.  For tests and benchmarks.
//
//   vintix_replay FILE replay INPUTS OUTPUTS [IMPLEMENTATION]
//     INPUTS: for each step float32 [O observation | J previous action | reward | step_num | forget before it];
//     OUTPUTS: for each step float32 [J]
//   vintix_replay FILE time STEPS [IMPLEMENTATION]
//     fills the context, then prints the steps' times in microseconds as one JSON line: by the clock, and of this
//     thread alone, which other programs do not lengthen by taking the processor
//
// Counts the allocations of all steps and fails if there was one.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "clock.hpp"
#include "vintix_policy.h"

static long allocations = 0;
void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using vintix_fast::now;

// Shares of 0.5, 0.99, 0.999 and 1.
void print_shares(const char* name, std::vector<double>& times_us) {
  std::sort(times_us.begin(), times_us.end());
  const auto at = [&](double share) {
    return times_us[static_cast<std::size_t>(share * static_cast<double>(times_us.size() - 1))];
  };
  std::printf(", \"%s_us\": {\"median\": %.1f, \"p99\": %.1f, \"p99_9\": %.1f, \"max\": %.1f}", name, at(0.5), at(0.99),
              at(0.999), at(1.0));
}

int fail(const char* what) {
  std::fprintf(stderr, "vintix_replay: %s\n", what);
  return 1;
}

int replay(vintix_policy* policy, const char* inputs, const char* outputs) {
  const std::size_t o = static_cast<std::size_t>(vintix_observation_size(policy));
  const std::size_t j = static_cast<std::size_t>(vintix_joints(policy));
  std::vector<float> row(o + j + 3), action(j);
  std::FILE* in = std::fopen(inputs, "rb");
  std::FILE* out = std::fopen(outputs, "wb");
  if (in == nullptr || out == nullptr) return fail("cannot open INPUTS or OUTPUTS");
  long during_steps = 0;
  while (std::fread(row.data(), sizeof(float), row.size(), in) == row.size()) {
    const long before = allocations;
    if (row[o + j + 2] != 0.0f) vintix_forget(policy);
    vintix_act(policy, row.data(), row.data() + o, row[o + j], static_cast<std::int32_t>(row[o + j + 1]), action.data());
    during_steps += allocations - before;
    std::fwrite(action.data(), sizeof(float), j, out);
  }
  std::fclose(in);
  return std::fclose(out) != 0 ? fail("cannot write OUTPUTS") : during_steps != 0 ? fail("a step allocated") : 0;
}

int time_steps(vintix_policy* policy, long steps) {
  const std::size_t j = static_cast<std::size_t>(vintix_joints(policy));
  constexpr long kFill = 4096;  // more than any bundled model's context
  std::vector<float> position(j), speed(j), target(j);
  std::vector<double> by_clock, of_thread;
  by_clock.reserve(static_cast<std::size_t>(steps));
  of_thread.reserve(static_cast<std::size_t>(steps));
  long during_steps = 0;
  unsigned random = 1;
  const auto around = [&random](float middle, float spread) {  // evenly
    random = random * 1664525u + 1013904223u;
    return middle + spread * (static_cast<float>(random >> 8) * 0x1p-23f - 1.0f);
  };
  vintix_explore(policy, 0.1f, 1);
  for (long t = 0; t < kFill + steps; ++t) {
    if (t == kFill) vintix_explore(policy, 0.0f, 1);
    // About what a walking robot senses.
    for (std::size_t i = 0; i < j; ++i) {
      position[i] = around(vintix_default_pose(policy)[i], 0.3f);
      speed[i] = around(0.0f, 3.0f);
    }
    const float gyro[3] = {around(0.0f, 0.5f), around(0.0f, 0.5f), around(0.0f, 0.3f)};
    const float quaternion[4] = {1.0f, around(0.0f, 0.03f), around(0.0f, 0.03f), 0.0f};
    const vintix_state state{gyro, quaternion, position.data(), speed.data(), 0.02f};
    const long before = allocations;
    const double start = now(), thread_start = now(CLOCK_THREAD_CPUTIME_ID);
    if (vintix_step(policy, &state, target.data()) != VINTIX_OK) return fail("a step was refused");
    const double thread_took = 1e6 * (now(CLOCK_THREAD_CPUTIME_ID) - thread_start), took = 1e6 * (now() - start);
    during_steps += allocations - before;
    if (t >= kFill) by_clock.push_back(took), of_thread.push_back(thread_took);
  }
  if (during_steps != 0) return fail("a step allocated");
  if (by_clock.empty()) return 0;
  std::printf("{\"implementation\": \"%s\", \"steps\": %ld", vintix_implementation(policy), steps);
  print_shares("clock", by_clock);
  print_shares("thread", of_thread);
  std::printf("}\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const bool replays = argc >= 5 && std::strcmp(argv[2], "replay") == 0;
  const bool times = argc >= 4 && std::strcmp(argv[2], "time") == 0;
  if (!replays && !times) return fail("FILE replay INPUTS OUTPUTS [IMPLEMENTATION] | FILE time STEPS [IMPLEMENTATION]");
  const int last = replays ? 5 : 4;
  char message[512];
  vintix_policy* policy = vintix_open(argv[1], argc > last ? argv[last] : "", message, sizeof message);
  if (policy == nullptr) return fail(message);
  const int code = replays ? replay(policy, argv[3], argv[4]) : time_steps(policy, std::atol(argv[3]));
  vintix_close(policy);
  return code;
}

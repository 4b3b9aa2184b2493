#include "policy_decoder.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <stdexcept>

#include "cpu_features.hpp"

namespace vintix_fast {

namespace portable { std::size_t decode_rows(const Model&, const Step&, int, int, float*); }
namespace avx2 { std::size_t decode_rows(const Model&, const Step&, int, int, float*); }
namespace avx512 { std::size_t decode_rows(const Model&, const Step&, int, int, float*); }
namespace neon { std::size_t decode_rows(const Model&, const Step&, int, int, float*); }
namespace neon_dotprod { std::size_t decode_rows(const Model&, const Step&, int, int, float*); }

namespace {

constexpr int kMostRows = 16;  // environments in one item of work: enough for weights to be read seldom

std::size_t scratch_floats(const Model& m, int rows) {
  const std::size_t stride = padded(m.hidden, kPanel), wide = padded(3 * m.hidden, kPanel);
  const std::size_t encoders = 3 * (padded(m.observation_emb, kPanel) + padded(m.action_emb, kPanel)) +
                               padded(m.reward_emb, kPanel) + m.observation_dim + m.action_dim + 1;
  std::size_t slots = 0;
  for (int i = 0; i < m.layers * m.heads; ++i) slots = std::max<std::size_t>(slots, m.layer[0].rings[i].slots);
  const std::size_t attention = 5 * padded(m.head_dim, kLanes) + slots;
  return rows * (3 * stride + wide + 2 * m.layer[0].fc.outputs + encoders) + attention + 32 * kPanel;
}

Implementation implementation_of(const std::string& name) {
  if (name.empty()) return implementations().front();
  for (const Implementation& implementation : implementations()) {
    if (implementation.name == name) return implementation;
  }
  throw std::invalid_argument("implementation: '" + name + "' is unknown, or not for this processor");
}

}  // namespace

const std::vector<Implementation>& implementations() {
  static const std::vector<Implementation> available = [] {
    std::vector<Implementation> found;
#ifdef VINTIX_FAST_avx512
    if (cpu_features().avx512_vnni) found.push_back({"avx512", avx512::decode_rows});
#endif
#ifdef VINTIX_FAST_avx2
    if (cpu_features().avx2) found.push_back({"avx2", avx2::decode_rows});
#endif
#ifdef VINTIX_FAST_neon_dotprod
    if (cpu_features().neon_dotprod) found.push_back({"neon_dotprod", neon_dotprod::decode_rows});
#endif
#ifdef VINTIX_FAST_neon
    found.push_back({"neon", neon::decode_rows});  // every 64-bit Arm processor has it
#endif
    found.push_back({"portable", portable::decode_rows});
    return found;
  }();
  return available;
}

PolicyDecoder::PolicyDecoder(const DecoderConfig& config, const Weights& weights)
    : config_(config), implementation_(implementation_of(config.implementation)), pool_(config.threads) {
  const std::size_t n = config.num_envs;
  read_sizes(weights);
  lay_out_cache();
  pack_weights(weights);
  observation_.resize(n * model_.observation_dim);
  action_.resize(n * model_.action_dim);
  reward_.resize(n);
  step_num_.resize(n);
  position_.resize(n);
  result_.resize(n * model_.action_dim);
  step_.observation = observation_.data();
  step_.action = action_.data();
  step_.reward = reward_.data();
  step_.step_num = step_num_.data();
  step_.position = position_.data();
  step_.result = result_.data();
  // Two items for each thread, so that whoever is done first has something left to take.
  rows_ = std::clamp(static_cast<int>((n + 2 * pool_.threads() - 1) / (2 * pool_.threads())), 1, kMostRows);
  for (int thread = 0; thread < pool_.threads(); ++thread) {
    scratch_.push_back(allocate(sizeof(float) * scratch_floats(model_, rows_)));
  }
  thread_bytes_read_.resize(pool_.threads());
}

void PolicyDecoder::read_sizes(const Weights& weights) {
  Model& m = model_;
  m.observation_dim = size_of(weights, "observation_encoder.0.weight", 1);
  m.action_dim = size_of(weights, "action_encoder.0.weight", 1);
  m.observation_emb = size_of(weights, "observation_encoder.0.weight", 0);
  m.action_emb = size_of(weights, "action_encoder.0.weight", 0);
  m.reward_emb = size_of(weights, "reward_encoder.0.weight", 0);
  m.hidden = m.observation_emb + m.action_emb + m.reward_emb;
  m.intermediate = size_of(weights, first_mlp_layer(weights, "blocks.0.") + ".weight", 0);
  m.layers = static_cast<int>(config_.score_bounds.size());
  m.heads = static_cast<int>(config_.slopes.size());
  if (m.layers < 1 || m.heads < 1 || m.heads > m.hidden) {
    throw std::invalid_argument("score_bounds, slopes: expected one for each layer, and for each of at most " +
                                std::to_string(m.hidden) + " heads, got " + std::to_string(m.layers) + " and " +
                                std::to_string(m.heads));
  }
  m.head_dim = m.hidden / m.heads;
  m.attention = m.heads * m.head_dim;
}

void PolicyDecoder::lay_out_cache() {
  const DecoderConfig& c = config_;
  const std::size_t width = padded(model_.head_dim, kLanes);
  const std::size_t element = c.cache_type == CacheType::float32 ? 4 : 1;
  std::size_t at = 0;
  const auto place = [&at](std::size_t bytes) {
    const std::size_t here = at;
    at += (bytes + 63) / 64 * 64;
    return here;
  };
  for (int layer = 0; layer < model_.layers; ++layer) {
    for (int head = 0; head < model_.heads; ++head) {
      Ring ring;
      ring.span = c.spans[layer][head];
      ring.slots = padded(ring.span, kLanes);
      ring.slope = c.slopes[head];
      ring.tail_bound = c.score_bounds[layer] - std::log(-std::expm1(-ring.slope)) - std::log(c.dropped_mass);
      ring.keys = place(ring.slots * width * element);
      ring.values = place(ring.slots * width * element);
      ring.scales = c.cache_type == CacheType::int8 ? place(2 * ring.slots * sizeof(float)) : 0;
      rings_.push_back(ring);
    }
  }
  step_.env_bytes = at;
  cache_ = allocate(at * c.num_envs);
  step_.cache = cache_.get();
}

void PolicyDecoder::pack_weights(const Weights& weights) {
  Packer pack(weights, packed_, config_.narrow_weights);
  const auto encoder = [&](const std::string& name, int size, int emb) {
    return VectorEncoder{pack.linear(name + ".0", size, emb), pack.linear(name + ".3", emb, emb),
                         pack.norm(name + ".2", emb), pack.norm(name + ".5", emb)};
  };
  Model& m = model_;
  m.parallel_residual = config_.parallel_residual, m.action_first = config_.action_first;
  m.reward_scale = config_.reward_scale;
  m.observation_mean = pack.vector_if_present("observation_mean", m.observation_dim);
  m.observation_std = pack.vector_if_present("observation_std", m.observation_dim);
  m.action_mean = pack.vector_if_present("action_mean", m.action_dim);
  m.action_std = pack.vector_if_present("action_std", m.action_dim);
  m.observation = encoder("observation_encoder", m.observation_dim, m.observation_emb);
  m.action = encoder("action_encoder", m.action_dim, m.action_emb);
  m.reward = pack.linear("reward_encoder.0", 1, m.reward_emb);
  m.first_action = pack.vector("first_action", m.action_emb);
  m.first_reward = pack.vector("first_reward", m.reward_emb);
  if (pack.has("step_embedding")) {
    m.step_rows = size_of(weights, "step_embedding", 0);
    m.step_embedding = pack.matrix("step_embedding", m.step_rows, m.hidden);
  }
  for (int l = 0; l < m.layers; ++l) {
    const std::string name = "blocks." + std::to_string(l) + ".";
    Layer layer;
    layer.norm1 = pack.norm(name + "norm1", m.hidden);
    layer.norm2 = pack.norm_if_present(name + "norm2", m.hidden);
    layer.in_proj = pack.linear(name + "attention.in_proj", m.hidden, 3 * m.attention);
    layer.out_proj = pack.linear(name + "attention.out_proj", m.attention, m.hidden);
    layer.fc = pack.linear(first_mlp_layer(weights, name), m.hidden, m.intermediate);
    if (pack.has(name + "mlp.fc_2.weight")) layer.gate = pack.linear(name + "mlp.fc_2", m.hidden, m.intermediate);
    layer.proj = pack.linear(name + "mlp.proj", m.intermediate, m.hidden);
    layer.q_norm = pack.norm_if_present(name + "attention.q_norm", m.head_dim);
    layer.k_norm = pack.norm_if_present(name + "attention.k_norm", m.head_dim);
    layer.rings = rings_.data() + l * m.heads;
    layers_.push_back(layer);
  }
  m.layer = layers_.data();
  m.last_norm = pack.norm("ln_f", m.hidden);
  for (int l = 0; l < 4; ++l) {
    m.decoder[l] = pack.linear("action_decoder." + std::to_string(2 * l), m.hidden, l < 3 ? m.hidden : m.action_dim);
  }
  m.cache_type = config_.cache_type;
  m.dropped_mass = config_.dropped_mass;
}

void PolicyDecoder::reset(const std::uint8_t* flags) {
  if (begun_) pool_.finish();  // a step that was given up
  begun_ = false;
  for (std::size_t env = 0; env < position_.size(); ++env) {
    if (flags == nullptr || flags[env] != 0) position_[env] = 0;
  }
}

void PolicyDecoder::begin(const float* observation, const float* action, const float* reward,
                          const std::int32_t* step_num) {
  if (begun_) throw std::logic_error("begin: the step before was not finished");
  std::copy_n(observation, observation_.size(), observation_.data());
  std::copy_n(action, action_.size(), action_.data());
  std::copy_n(reward, reward_.size(), reward_.data());
  std::copy_n(step_num, step_num_.size(), step_num_.data());
  std::fill(thread_bytes_read_.begin(), thread_bytes_read_.end(), 0);
  begun_ = true;
  pool_.start((config_.num_envs + rows_ - 1) / rows_, [this](int item, int thread) {
    const int first = item * rows_;
    thread_bytes_read_[thread] +=
        implementation_.decode_rows(model_, step_, first, std::min(rows_, config_.num_envs - first),
                                    reinterpret_cast<float*>(scratch_[thread].get()));
  });
}

void PolicyDecoder::finish(float* result) {
  if (!begun_) throw std::logic_error("finish: no step was begun");
  pool_.finish();
  begun_ = false;
  std::copy(result_.begin(), result_.end(), result);
  for (std::int64_t& position : position_) ++position;
  for (const std::uint64_t bytes : thread_bytes_read_) bytes_read_ += bytes;
}

PolicyDecoder::Memory PolicyDecoder::allocate(std::size_t bytes) {
  // Fresh pages are zeros and cost nothing until they are touched.
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE);  // fewer page faults and TLB misses; where refused, small pages do
#endif
  return Memory(static_cast<std::uint8_t*>(memory), Unmap{bytes});
}

void PolicyDecoder::Unmap::operator()(std::uint8_t* memory) const { munmap(memory, bytes); }

}  // namespace vintix_fast

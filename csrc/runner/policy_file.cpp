#include "policy_file.hpp"

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>

namespace vintix_fast {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "policy.bin is little-endian");

constexpr char kMagic[8] = {'V', 'F', 'P', 'O', 'L', 'I', 'C', 'Y'};
constexpr std::size_t kHead = 24, kMostBytes = std::size_t{256} << 20;
constexpr std::uint32_t kMostArrays = 4096, kMostSize = 1 << 16;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

std::vector<std::uint8_t> contents(const char* path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "rb"), std::fclose);
  if (file == nullptr) fail(std::string("cannot be opened: ") + std::strerror(errno));
  std::vector<std::uint8_t> bytes;
  std::vector<std::uint8_t> part(std::size_t{1} << 20);
  while (const std::size_t count = std::fread(part.data(), 1, part.size(), file.get())) {
    if (bytes.size() + count > kMostBytes) fail("is larger than 256 MiB, and so no policy");
    bytes.insert(bytes.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(count));
  }
  if (std::ferror(file.get()) != 0) fail(std::string("cannot be read: ") + std::strerror(errno));
  return bytes;
}

// That of zlib and PNG.
std::uint32_t crc32(const std::uint8_t* bytes, std::size_t count) {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value & 1) != 0 ? 0xEDB88320u ^ (value >> 1) : value >> 1;
    table[i] = value;
  }
  std::uint32_t sum = ~0u;
  for (std::size_t i = 0; i < count; ++i) sum = table[(sum ^ bytes[i]) & 255u] ^ (sum >> 8);
  return ~sum;
}

// Takes values from the front of what is left.
class Reader {
 public:
  Reader(const std::uint8_t* bytes, std::size_t count) : bytes_(bytes), left_(count) {}

  template <typename Value>
  Value value() {
    Value value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  const std::uint8_t* take(std::size_t count) {
    if (count > left_) fail("is damaged: it ends within a value");
    const std::uint8_t* taken = bytes_;
    bytes_ += count;
    left_ -= count;
    return taken;
  }

  std::string text(std::size_t count) { return std::string(reinterpret_cast<const char*>(take(count)), count); }

  std::size_t left() const { return left_; }

 private:
  const std::uint8_t* bytes_;
  std::size_t left_;
};

}  // namespace

PolicyFile::PolicyFile(const char* path) {
  const std::vector<std::uint8_t> bytes = contents(path);
  if (bytes.size() < kHead || std::memcmp(bytes.data(), kMagic, sizeof kMagic) != 0) {
    fail("is no policy; give the policy.bin that `vintix-fast export` wrote");
  }
  Reader head(bytes.data() + sizeof kMagic, kHead - sizeof kMagic);
  const auto version = head.value<std::uint32_t>(), checksum = head.value<std::uint32_t>();
  const auto size = head.value<std::uint64_t>();
  if (version != kPolicyFileVersion) {
    fail("has version " + std::to_string(version) + ", and this library reads " + std::to_string(kPolicyFileVersion) +
         "; export the model again, with the vintix-fast that the library is from");
  }
  if (size != bytes.size() - kHead) {
    fail("is cut short or has something after its end: " + std::to_string(bytes.size() - kHead) + " bytes of " +
         std::to_string(size) + "; copy it again");
  }
  if (crc32(bytes.data() + kHead, size) != checksum) fail("is damaged: its checksum is another; copy it again");

  Reader reader(bytes.data() + kHead, size);
  contract_ = reader.text(reader.value<std::uint32_t>());
  const auto count = reader.value<std::uint32_t>();
  if (count > kMostArrays) fail("is damaged: it has " + std::to_string(count) + " arrays");
  memory_.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::string name = reader.text(reader.value<std::uint16_t>());
    std::vector<std::size_t> shape(reader.value<std::uint8_t>());
    std::size_t numbers = 1;
    for (std::size_t& axis : shape) {
      axis = reader.value<std::uint32_t>();
      if (axis < 1 || axis > kMostSize) fail("is damaged: a size of '" + name + "' is " + std::to_string(axis));
      numbers *= axis;
      if (numbers > kMostBytes) fail("is damaged: '" + name + "' is larger than the file");
    }
    const std::uint8_t* data = reader.take(numbers * sizeof(float));
    std::vector<float>& memory = memory_.emplace_back(numbers);
    std::memcpy(memory.data(), data, numbers * sizeof(float));
    for (const float number : memory) {
      // Scores without a bound are said to have an infinite one.
      if (std::isnan(number) || (std::isinf(number) && name != "score_bounds")) {
        fail("is damaged: '" + name + "' holds NaN or infinity");
      }
    }
    if (!arrays_.insert({name, Tensor{memory.data(), shape}}).second) fail("is damaged: '" + name + "' is there twice");
  }
  if (reader.left() != 0) fail("is damaged: something follows its last array");
}

std::size_t PolicyFile::length(const std::string& name) const {
  const Tensor& tensor = tensor_named(arrays_, name);
  if (tensor.shape.empty()) fail("does not fit together: '" + name + "' is one number, expected a list");
  return tensor.shape[0];
}

const float* PolicyFile::numbers(const std::string& name, std::size_t count) const {
  const Tensor& tensor = tensor_named(arrays_, name);
  std::size_t held = 1;
  for (const std::size_t axis : tensor.shape) held *= axis;
  if (held != count) {
    fail("does not fit together: '" + name + "' has " + std::to_string(held) + " numbers, expected " +
         std::to_string(count));
  }
  return tensor.data;
}

float PolicyFile::number(const std::string& name, double least, double most) const {
  const float value = *numbers(name, 1);
  if (!(value >= least && value <= most)) fail("does not fit together: '" + name + "' is " + std::to_string(value));
  return value;
}

int PolicyFile::integer(const std::string& name, int least, int most) const {
  const float value = number(name, least, most);
  if (value != std::floor(value)) fail("does not fit together: '" + name + "' is " + std::to_string(value));
  return static_cast<int>(value);
}

}  // namespace vintix_fast

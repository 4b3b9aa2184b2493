// A policy.bin, read into memory and checked.  Knows its form, not what its numbers are for.
//
//   "VFPOLICY", u32 version, u32 CRC-32 of what follows the head, u64 bytes that follow the head
//   u32 bytes, the contract as JSON
//   u32 count, then each array: u16 bytes, its name; u8 axes; u32 sizes[axes]; float32 numbers
//
// All little-endian.  vintix_fast/export/policy_file.py writes it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../packed_weights.hpp"

namespace vintix_fast {

constexpr std::uint32_t kPolicyFileVersion = 1;

class PolicyFile {
 public:
  // Throws std::runtime_error that says what is wrong, without the path.
  explicit PolicyFile(const char* path);

  const std::string& contract() const { return contract_; }
  const Weights& arrays() const { return arrays_; }

  // The first size of an array.
  std::size_t length(const std::string& name) const;
  // Of an array that must have `count` numbers, whatever its shape.
  const float* numbers(const std::string& name, std::size_t count) const;
  // Of an array of one number, from least to most.
  float number(const std::string& name, double least, double most) const;
  int integer(const std::string& name, int least, int most) const;

 private:
  std::string contract_;
  std::vector<std::vector<float>> memory_;
  Weights arrays_;
};

}  // namespace vintix_fast

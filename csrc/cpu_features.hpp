// What this processor can do.  Asked once and here alone, for everything that is compiled for several instruction sets.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

// Whether this compiler knows what bfloat16_kernels.cpp is written in.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define VINTIX_FAST_BFLOAT16_KERNELS 1
#else
#define VINTIX_FAST_BFLOAT16_KERNELS 0
#endif

namespace vintix_fast {

struct CpuFeatures {
  bool avx2 = false;         // with fused multiply-add
  bool avx512_vnni = false;  // F, BW, DQ and VL, and products of bytes
  bool avx512_bf16 = false;  // the same four, and products of bfloat16
  bool neon_dotprod = false; // Arm's products of bytes, optional from Armv8.2 on
};

// Any thread.
inline const CpuFeatures& cpu_features() {
  static const CpuFeatures features = [] {
    CpuFeatures found;
#if defined(__x86_64__)
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    found.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    found.avx512_vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    // Not every compiler knows this one by name: leaf 7, subleaf 1, EAX, bit 5.
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    found.avx512_bf16 = avx512 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 5 & 1) != 0;
#elif defined(__aarch64__) && defined(__linux__)
    found.neon_dotprod = (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // HWCAP_ASIMDDP, which older headers lack
#elif defined(__aarch64__) && defined(__APPLE__)
    found.neon_dotprod = true;  // since the first of them
#endif
    return found;
  }();
  return features;
}

// Whether causal attention and the decoder's loss run here.
inline bool has_bfloat16_kernels() { return VINTIX_FAST_BFLOAT16_KERNELS != 0 && cpu_features().avx512_bf16; }

}  // namespace vintix_fast

// What this processor can do.  Asked once and here alone, for everything that is compiled for several instruction sets.
#pragma once

// Whether this compiler knows what causal_attention_avx512.cpp and decoder_loss_avx512.cpp are written in.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#define VINTIX_FAST_BFLOAT16_KERNELS 1
#else
#define VINTIX_FAST_BFLOAT16_KERNELS 0
#endif

namespace vintix_fast {

struct CpuFeatures {
  bool avx2 = false;         // with fused multiply-add
  bool avx512 = false;       // F, BW, DQ and VL
  bool avx512_vnni = false;  // and products of bytes
  bool avx512_bf16 = false;  // and products of bfloat16
};

// Any thread.
const CpuFeatures& cpu_features();

// Whether causal attention and the decoder's loss run here.
inline bool has_bfloat16_kernels() { return VINTIX_FAST_BFLOAT16_KERNELS != 0 && cpu_features().avx512_bf16; }

}  // namespace vintix_fast

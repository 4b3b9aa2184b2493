// Sixteen floats at a time, in the compiler's vector types: one source becomes AVX-512, AVX2 or whatever the target has.
// Included by decode_rows.cpp alone, inside the namespace of an instruction set.

using Vec = float __attribute__((vector_size(64), may_alias, aligned(4)));
using Int = std::int32_t __attribute__((vector_size(64), may_alias, aligned(4)));
using Bits = std::uint32_t __attribute__((vector_size(64), may_alias, aligned(4)));

#define VF_INLINE static inline __attribute__((always_inline))

VF_INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
VF_INLINE void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
VF_INLINE Vec fill(float x) { return x - Vec{}; }
VF_INLINE Vec to_float(Int v) { return __builtin_convertvector(v, Vec); }
VF_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
VF_INLINE float max(float a, float b) { return a > b ? a : b; }
VF_INLINE Vec magnitude(Vec v) { return max(v, -v); }
// To the nearest integer, ties to even, below 2^22: 1.5 * 2^23 leaves no bits for what comes after the point.
VF_INLINE Vec round_float(Vec v) { return v + 12582912.0f - 12582912.0f; }
VF_INLINE Int round(Vec v) { return __builtin_convertvector(v == v ? round_float(v) : Vec{}, Int); }  // NaN: 0
VF_INLINE Int lane_numbers() { return Int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// Every lane gets the result: halves, quarters, ... are combined with one another.
#if defined(__clang__)
#define VF_TURNED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define VF_TURNED(v, ...) __builtin_shuffle(v, Int{__VA_ARGS__})
#endif
#define VF_REDUCE(v, combine)                                                                \
  v = combine(v, VF_TURNED(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));        \
  v = combine(v, VF_TURNED(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));        \
  v = combine(v, VF_TURNED(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));        \
  v = combine(v, VF_TURNED(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));

VF_INLINE Vec plus(Vec a, Vec b) { return a + b; }

#if defined(VF_NEON)
// What the compiler would take apart into single numbers is spelt in quarters; results and rounding are the same.
struct Quarters {
  float32x4_t q[4];
};
VF_INLINE Quarters quarters(Vec v) {
  Quarters parts;
  __builtin_memcpy(&parts, &v, sizeof v);
  return parts;
}

VF_INLINE float sum(Vec v) {
  const Quarters p = quarters(v);
  const float32x4_t four = vaddq_f32(vaddq_f32(p.q[0], p.q[2]), vaddq_f32(p.q[1], p.q[3]));
  return vaddv_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}

VF_INLINE float largest(Vec v) {
  const Quarters p = quarters(v);
  float32x4_t most = p.q[0];
  for (int i = 1; i < 4; ++i) most = vbslq_f32(vcgtq_f32(p.q[i], most), p.q[i], most);
  float result = most[0];
  for (int i = 1; i < 4; ++i) result = most[i] > result ? most[i] : result;
  return result;
}
#else
VF_INLINE float sum(Vec v) {
  VF_REDUCE(v, plus)
  return v[0];
}

VF_INLINE float largest(Vec v) {
  VF_REDUCE(v, max)
  return v[0];
}
#endif

VF_INLINE Bits load_bits(const void* p) { return *static_cast<const Bits*>(p); }

// total, plus for every lane the sum of four unsigned bytes times four signed ones; exact.
VF_INLINE Int dot_bytes(Int total, Bits unsigned_bytes, Bits signed_bytes) {
#if defined(__AVX512VNNI__)
  return (Int)_mm512_dpbusd_epi32((__m512i)total, (__m512i)unsigned_bytes, (__m512i)signed_bytes);
#elif defined(VF_NEON)
  Int result;
  for (int i = 0; i < 4; ++i) {
    int32x4_t four;
    uint8x16_t left;
    int8x16_t right;
    __builtin_memcpy(&four, reinterpret_cast<const char*>(&total) + 16 * i, 16);
    __builtin_memcpy(&left, reinterpret_cast<const char*>(&unsigned_bytes) + 16 * i, 16);
    __builtin_memcpy(&right, reinterpret_cast<const char*>(&signed_bytes) + 16 * i, 16);
#if defined(__ARM_FEATURE_DOTPROD)
    // Both signed: u = (u - 128) + 128.
    const int8x16_t shifted = vreinterpretq_s8_u8(veorq_u8(left, vdupq_n_u8(128)));
    four = vdotq_s32(four, shifted, right);
    four = vsubq_s32(four, vdotq_s32(vdupq_n_s32(0), right, vdupq_n_s8(-128)));
#else
    // A product fits into 16 bits, a sum of two may not.
    const int16x8_t low = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(left))), vmovl_s8(vget_low_s8(right)));
    const int16x8_t high = vmulq_s16(vreinterpretq_s16_u16(vmovl_high_u8(left)), vmovl_high_s8(right));
    four = vaddq_s32(four, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
    __builtin_memcpy(reinterpret_cast<char*>(&result) + 16 * i, &four, 16);
  }
  return result;
#else
  for (int shift = 0; shift < 32; shift += 8) {
    const Bits top = signed_bytes << (24 - shift);
    total += (Int)((unsigned_bytes >> shift) & 255u) * ((Int)top >> 24);
  }
  return total;
#endif
}

// The lowest byte of every lane.
VF_INLINE void store_bytes(void* p, Int v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(VF_NEON)
  int32x4_t q[4];
  __builtin_memcpy(q, &v, sizeof v);
  const int16x8_t low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1])), high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
  vst1q_s8(static_cast<std::int8_t*>(p), vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
#else
  for (int i = 0; i < 16; ++i) static_cast<std::uint8_t*>(p)[i] = static_cast<std::uint8_t>(v[i]);
#endif
}

// Four bytes in every lane.
VF_INLINE Bits fill_bytes(const void* p) {
  std::uint32_t four;
  __builtin_memcpy(&four, p, 4);
  return four - Bits{};
}

// e^x with a relative error of 2e-7; 0 below -87, e^88 above 88, NaN of NaN.  Cephes' expf: 2^n times a polynomial on
// [-ln 2 / 2, ln 2 / 2].
VF_INLINE Vec exponential(Vec x) {
  const Vec clamped = x < -87.0f ? fill(-87.0f) : (x > 88.0f ? fill(88.0f) : x);
  const Vec n = round_float(clamped * 1.44269504f);
  const Vec r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Int exponent = (round(n) + 127) << 23;
  const Vec scaled = p * reinterpret_cast<const Vec&>(exponent);
  return x < -87.0f ? Vec{} : scaled;
}

// Abramowitz and Stegun 7.1.26: an absolute error of 1.5e-7.
VF_INLINE Vec error_function(Vec x) {
  const Vec size = magnitude(x);
  const Vec t = 1.0f / (1.0f + 0.3275911f * size);
  Vec p = 1.061405429f * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec positive = 1.0f - p * t * exponential(-size * size);
  return x < 0.0f ? -positive : positive;
}

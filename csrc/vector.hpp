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

VF_INLINE float sum(Vec v) {
  VF_REDUCE(v, plus)
  return v[0];
}

VF_INLINE float largest(Vec v) {
  VF_REDUCE(v, max)
  return v[0];
}

VF_INLINE Bits load_bits(const void* p) { return *static_cast<const Bits*>(p); }

// total, plus for every lane the sum of four unsigned bytes times four signed ones; exact.
VF_INLINE Int dot_bytes(Int total, Bits unsigned_bytes, Bits signed_bytes) {
#if defined(__AVX512VNNI__)
  return (Int)_mm512_dpbusd_epi32((__m512i)total, (__m512i)unsigned_bytes, (__m512i)signed_bytes);
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

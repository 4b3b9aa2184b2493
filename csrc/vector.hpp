// Sixteen floats at a time: Vec, and Int and Bits of the same width.  Where registers hold that many, the compiler's vector
// types are enough.  Of wider ones than registers it keeps its vectors in memory, ten times as slow: for AVX2 and Arm they are
// structs of registers.
// Included by decode_rows.cpp alone, inside the namespace of an instruction set.

#define VF_INLINE static inline __attribute__((always_inline))

#if defined(VF_NEON)
#include "neon_vector.hpp"
#elif defined(__AVX2__) && !defined(__AVX512F__)
#include "avx2_vector.hpp"
#else
#include "wide_vector.hpp"
#define VF_WIDE
#endif

#if !defined(VF_WIDE)  // what the compiler's own types have already
VF_OPERATOR(Vec, +)
VF_OPERATOR(Vec, -)
VF_OPERATOR(Vec, *)
VF_OPERATOR(Vec, /)
VF_OPERATOR(Int, +)
VF_OPERATOR(Int, -)
#undef VF_OPERATOR
#define VF_OPERATOR(sign)                                                \
  VF_INLINE Vec operator sign(Vec x, float y) { return x sign fill(y); } \
  VF_INLINE Vec operator sign(float x, Vec y) { return fill(x) sign y; }
VF_OPERATOR(+)
VF_OPERATOR(-)
VF_OPERATOR(*)
VF_OPERATOR(/)
#undef VF_OPERATOR
VF_INLINE Vec& operator+=(Vec& x, Vec y) { return x = x + y; }
VF_INLINE Int operator+(Int x, std::int32_t y) { return x + fill(y); }
VF_INLINE Int operator-(Int x, std::int32_t y) { return x - fill(y); }
VF_INLINE Int& operator+=(Int& x, Int y) { return x = x + y; }
#endif

VF_INLINE float max(float a, float b) { return a > b ? a : b; }
VF_INLINE Vec magnitude(Vec v) { return max(v, -v); }
// To the nearest integer, ties to even, below 2^22: 1.5 * 2^23 leaves no bits for what comes after the point.
VF_INLINE Vec round_float(Vec v) { return v + 12582912.0f - 12582912.0f; }
VF_INLINE Int round(Vec v) { return to_int(select(v == v, round_float(v), Vec{})); }  // NaN: 0

// e^x with a relative error of 2e-7; 0 below -87, e^88 above 88, NaN of NaN.  Cephes' expf: 2^n times a polynomial on
// [-ln 2 / 2, ln 2 / 2].
VF_INLINE Vec exponential(Vec x) {
  const Vec clamped = select(x < -87.0f, fill(-87.0f), select(x > 88.0f, fill(88.0f), x));
  const Vec n = round_float(clamped * 1.44269504f);
  const Vec r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Int exponent = (round(n) + 127) << 23;
  const Vec scaled = p * as_float(exponent);
  return select(x < -87.0f, Vec{}, scaled);
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
  return select(x < 0.0f, -positive, positive);
}

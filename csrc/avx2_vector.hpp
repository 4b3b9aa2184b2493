// Sixteen floats at a time in two of AVX2's registers.  Included by vector.hpp alone; wide_vector.hpp has the same for
// AVX-512, and a test holds the two together.
//
// Sums and products are written with operators, which the compiler may join to one rounding, as it does elsewhere.

using Floats = __m256;
using Ints = std::int32_t __attribute__((vector_size(32)));

struct Vec {
  Floats a, b;
};
struct Int {
  Ints a, b;
};
struct Bits {
  __m256i a, b;
};

VF_INLINE Vec fill(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
VF_INLINE Int fill(std::int32_t x) { return {(Ints)_mm256_set1_epi32(x), (Ints)_mm256_set1_epi32(x)}; }
VF_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
VF_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }

// What vector.hpp makes the operators of.
#define VF_OPERATOR(Type, sign) \
  VF_INLINE Type operator sign(Type x, Type y) { return {x.a sign y.a, x.b sign y.b}; }
VF_INLINE Vec operator-(Vec x) { return {-x.a, -x.b}; }
VF_INLINE Int operator<<(Int x, int count) { return {x.a << count, x.b << count}; }

// Of every lane: all bits where it is so.
#define VF_COMPARISON(Type, Number, sign)                                                                 \
  VF_INLINE Int operator sign(Type x, Type y) { return {(Ints)(x.a sign y.a), (Ints)(x.b sign y.b)}; }    \
  VF_INLINE Int operator sign(Type x, Number y) { return x sign fill(y); }
VF_COMPARISON(Vec, float, <)
VF_COMPARISON(Vec, float, >)
VF_COMPARISON(Vec, float, ==)
VF_COMPARISON(Int, std::int32_t, <)
#undef VF_COMPARISON

VF_INLINE Vec select(Int m, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.a, x.a, (Floats)m.a), _mm256_blendv_ps(y.b, x.b, (Floats)m.b)};
}
VF_INLINE Int select(Int m, Int x, Int y) {
  const auto pick = [](Ints m, Ints x, Ints y) { return (Ints)_mm256_blendv_epi8((__m256i)y, (__m256i)x, (__m256i)m); };
  return {pick(m.a, x.a, y.a), pick(m.b, x.b, y.b)};
}
VF_INLINE Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }  // y where one is NaN

VF_INLINE Bits load_bits(const void* p) {
  const auto* halves = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
VF_INLINE Int load_ints(const std::uint32_t* p) {
  const Bits bits = load_bits(p);
  return {(Ints)bits.a, (Ints)bits.b};
}
VF_INLINE Int upper_half(Int x) { return {x.a & -65536, x.b & -65536}; }  // the other sixteen bits become 0
VF_INLINE Vec as_float(Int v) { return {(Floats)v.a, (Floats)v.b}; }
VF_INLINE Vec to_float(Int v) { return {_mm256_cvtepi32_ps((__m256i)v.a), _mm256_cvtepi32_ps((__m256i)v.b)}; }
VF_INLINE Int to_int(Vec v) { return {(Ints)_mm256_cvttps_epi32(v.a), (Ints)_mm256_cvttps_epi32(v.b)}; }
VF_INLINE Int lane_numbers() { return {Ints{0, 1, 2, 3, 4, 5, 6, 7}, Ints{8, 9, 10, 11, 12, 13, 14, 15}}; }

// In the order of wide_vector.hpp: halves, quarters, ... are combined with one another.
template <typename Combine>
VF_INLINE float reduce(Floats eight, const Combine& combine) {
  const __m128 four = combine(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = combine(four, _mm_movehl_ps(four, four));
  return combine(two, _mm_movehdup_ps(two))[0];
}
VF_INLINE float sum(Vec v) {
  return reduce(v.a + v.b, [](__m128 x, __m128 y) { return x + y; });
}
VF_INLINE float largest(Vec v) {
  return reduce(_mm256_max_ps(v.a, v.b), [](__m128 x, __m128 y) { return _mm_max_ps(x, y); });
}

VF_INLINE Ints dot_eight(Ints total, __m256i unsigned_bytes, __m256i signed_bytes) {
  // Bytes 0 and 2 of every four, then 1 and 3, as numbers of sixteen bits: of bytes a sum of two products would overflow.
  const __m256i low = _mm256_set1_epi16(255);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(unsigned_bytes, low),
                                         _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(unsigned_bytes, 8), _mm256_srai_epi16(signed_bytes, 8));
  return total + (Ints)even + (Ints)odd;
}

// total, plus for every lane the sum of four unsigned bytes times four signed ones; exact.
VF_INLINE Int dot_bytes(Int total, Bits unsigned_bytes, Bits signed_bytes) {
  return {dot_eight(total.a, unsigned_bytes.a, signed_bytes.a), dot_eight(total.b, unsigned_bytes.b, signed_bytes.b)};
}

// The lowest byte of every lane.
VF_INLINE void store_bytes(void* p, Int v) {
  const __m256i mixed = _mm256_packus_epi32((__m256i)(v.a & 255), (__m256i)(v.b & 255));
  const __m256i words = _mm256_permute4x64_epi64(mixed, 0b11011000);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(static_cast<__m128i*>(p), bytes);
}

// Four bytes in every lane.
VF_INLINE Bits fill_bytes(const void* p) {
  std::int32_t four;
  __builtin_memcpy(&four, p, 4);
  return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
}

// Sixteen floats at a time, in the compiler's vector types: for AVX-512, and for whatever processor there is, slowly.
// Included by vector.hpp alone.

using Vec = float __attribute__((vector_size(64), may_alias, aligned(4)));
using Int = std::int32_t __attribute__((vector_size(64), may_alias, aligned(4)));
using Bits = std::uint32_t __attribute__((vector_size(64), may_alias, aligned(4)));

VF_INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
VF_INLINE void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
VF_INLINE Vec fill(float x) { return x - Vec{}; }
VF_INLINE Vec select(Int mask, Vec a, Vec b) { return mask ? a : b; }
VF_INLINE Int select(Int mask, Int a, Int b) { return mask ? a : b; }
VF_INLINE Int load_ints(const std::uint32_t* p) { return *reinterpret_cast<const Int*>(p); }
VF_INLINE Int upper_half(Int v) { return v & -65536; }  // the other sixteen bits become 0
VF_INLINE Vec as_float(const Int& bits) { return reinterpret_cast<const Vec&>(bits); }
VF_INLINE Vec to_float(Int v) { return __builtin_convertvector(v, Vec); }
VF_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
VF_INLINE Int to_int(Vec v) { return __builtin_convertvector(v, Int); }
VF_INLINE Int lane_numbers() { return Int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// Every lane gets the result: halves, quarters, ... are combined with one another.
#if defined(__clang__)
#define VF_TURNED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define VF_TURNED(v, ...) __builtin_shuffle(v, Int{__VA_ARGS__})
#endif
template <typename Combine>
VF_INLINE float reduce(Vec v, const Combine& combine) {
  v = combine(v, VF_TURNED(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = combine(v, VF_TURNED(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = combine(v, VF_TURNED(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = combine(v, VF_TURNED(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return v[0];
}

VF_INLINE float sum(Vec v) { return reduce(v, [](const Vec& a, const Vec& b) { return a + b; }); }
VF_INLINE float largest(Vec v) { return reduce(v, [](const Vec& a, const Vec& b) { return max(a, b); }); }

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

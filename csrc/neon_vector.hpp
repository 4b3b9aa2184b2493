// Sixteen floats at a time in four of Arm's registers.  Included by vector.hpp alone; wide_vector.hpp has the same for x86,
// and a test holds the two together.
//
// Sums and products are written with operators, which the compiler may join to one rounding, as it does elsewhere.

struct Vec {
  float32x4_t a, b, c, d;
};
struct Int {
  int32x4_t a, b, c, d;
};
struct Mask {
  uint32x4_t a, b, c, d;
};
struct Bits {
  uint8x16_t a, b, c, d;
};

VF_INLINE Vec fill(float x) {
  const float32x4_t four = vdupq_n_f32(x);
  return {four, four, four, four};
}
VF_INLINE Int fill(std::int32_t x) {
  const int32x4_t four = vdupq_n_s32(x);
  return {four, four, four, four};
}
VF_INLINE Vec load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
VF_INLINE void store(float* p, Vec v) { vst1q_f32(p, v.a), vst1q_f32(p + 4, v.b), vst1q_f32(p + 8, v.c), vst1q_f32(p + 12, v.d); }

// What vector.hpp makes the operators of.
#define VF_OPERATOR(Type, sign)                                                                                    \
  VF_INLINE Type operator sign(Type x, Type y) { return {x.a sign y.a, x.b sign y.b, x.c sign y.c, x.d sign y.d}; }
VF_INLINE Vec operator-(Vec x) { return {-x.a, -x.b, -x.c, -x.d}; }
VF_INLINE Int operator<<(Int x, int count) { return {x.a << count, x.b << count, x.c << count, x.d << count}; }

#define VF_COMPARISON(Type, Number, sign, compare)                                                         \
  VF_INLINE Mask operator sign(Type x, Type y) {                                                           \
    return {compare(x.a, y.a), compare(x.b, y.b), compare(x.c, y.c), compare(x.d, y.d)};                   \
  }                                                                                                        \
  VF_INLINE Mask operator sign(Type x, Number y) { return x sign fill(y); }
VF_COMPARISON(Vec, float, <, vcltq_f32)
VF_COMPARISON(Vec, float, >, vcgtq_f32)
VF_COMPARISON(Vec, float, ==, vceqq_f32)
VF_COMPARISON(Int, std::int32_t, <, vcltq_s32)
#undef VF_COMPARISON

VF_INLINE Vec select(Mask m, Vec x, Vec y) {
  return {vbslq_f32(m.a, x.a, y.a), vbslq_f32(m.b, x.b, y.b), vbslq_f32(m.c, x.c, y.c), vbslq_f32(m.d, x.d, y.d)};
}
VF_INLINE Int select(Mask m, Int x, Int y) {
  return {vbslq_s32(m.a, x.a, y.a), vbslq_s32(m.b, x.b, y.b), vbslq_s32(m.c, x.c, y.c), vbslq_s32(m.d, x.d, y.d)};
}
VF_INLINE Vec max(Vec x, Vec y) { return select(x > y, x, y); }

VF_INLINE Int load_ints(const std::uint32_t* p) {
  const auto* ints = reinterpret_cast<const std::int32_t*>(p);
  return {vld1q_s32(ints), vld1q_s32(ints + 4), vld1q_s32(ints + 8), vld1q_s32(ints + 12)};
}
// The other sixteen bits become 0.
VF_INLINE Int upper_half(Int x) { return {x.a & -65536, x.b & -65536, x.c & -65536, x.d & -65536}; }
VF_INLINE Vec as_float(Int v) {
  return {vreinterpretq_f32_s32(v.a), vreinterpretq_f32_s32(v.b), vreinterpretq_f32_s32(v.c), vreinterpretq_f32_s32(v.d)};
}
VF_INLINE Vec to_float(Int v) { return {vcvtq_f32_s32(v.a), vcvtq_f32_s32(v.b), vcvtq_f32_s32(v.c), vcvtq_f32_s32(v.d)}; }
VF_INLINE Int to_int(Vec v) { return {vcvtq_s32_f32(v.a), vcvtq_s32_f32(v.b), vcvtq_s32_f32(v.c), vcvtq_s32_f32(v.d)}; }
VF_INLINE Int lane_numbers() {
  const int32x4_t first = {0, 1, 2, 3};
  return {first, first + 4, first + 8, first + 12};
}

// In the order of wide_vector.hpp: halves, quarters, ... are added to one another.
VF_INLINE float sum(Vec v) {
  const float32x4_t four = (v.a + v.c) + (v.b + v.d);
  return vaddv_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}

VF_INLINE float largest(Vec v) {
  const auto more = [](float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); };
  const float32x4_t four = more(more(v.a, v.c), more(v.b, v.d));
  const float32x4_t two = more(four, vextq_f32(four, four, 2));
  return more(two, vextq_f32(two, two, 1))[0];
}

VF_INLINE Bits load_bits(const void* p) {
  const auto* bytes = static_cast<const std::uint8_t*>(p);
  return {vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)};
}

// Four bytes in every lane.
VF_INLINE Bits fill_bytes(const void* p) {
  std::uint32_t four;
  __builtin_memcpy(&four, p, 4);
  const uint8x16_t lanes = vreinterpretq_u8_u32(vdupq_n_u32(four));
  return {lanes, lanes, lanes, lanes};
}

VF_INLINE int32x4_t dot_four(int32x4_t total, uint8x16_t left, uint8x16_t right_bits) {
  const int8x16_t right = vreinterpretq_s8_u8(right_bits);
#if defined(__ARM_FEATURE_DOTPROD)
  // The instruction multiplies signed bytes: u * s = (u - 128) * s + 64 * s + 64 * s.
  const int8x16_t half = vdupq_n_s8(64);
  total = vdotq_s32(total, vreinterpretq_s8_u8(veorq_u8(left, vdupq_n_u8(128))), right);
  return vdotq_s32(vdotq_s32(total, right, half), right, half);
#else
  // A product fits into 16 bits, a sum of two may not.
  const int16x8_t low = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(left))), vmovl_s8(vget_low_s8(right)));
  const int16x8_t high = vmulq_s16(vreinterpretq_s16_u16(vmovl_high_u8(left)), vmovl_high_s8(right));
  return total + vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
#endif
}

// total, plus for every lane the sum of four unsigned bytes times four signed ones; exact.
VF_INLINE Int dot_bytes(Int total, Bits left, Bits right) {
  return {dot_four(total.a, left.a, right.a), dot_four(total.b, left.b, right.b), dot_four(total.c, left.c, right.c),
          dot_four(total.d, left.d, right.d)};
}

// The lowest byte of every lane.
VF_INLINE void store_bytes(void* p, Int v) {
  const int16x8_t low = vcombine_s16(vmovn_s32(v.a), vmovn_s32(v.b)), high = vcombine_s16(vmovn_s32(v.c), vmovn_s32(v.d));
  vst1q_s8(static_cast<std::int8_t*>(p), vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
